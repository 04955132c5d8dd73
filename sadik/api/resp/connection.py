"""One Redis client's connection: bytes in, replies out in order, and nothing held without a limit.

The connection decides nothing about commands. It tells the server that it has input, and sends replies. What
it has in flight, a run of plain operations or one command, is answered before any more of its input is run:
so replies leave in the order of requests, and a client's later request sees what its earlier one did. Input
that comes meanwhile stays in the lane, and beyond a limit in the socket. A client that does not read its
replies is not read from; past the hard limit of output, or past the soft one for too long, it is cut off.

After a protocol error a connection *lingers*: its own side is closed after the error, and what the client
still sends is dropped. Closing at once, with input unread, would make the kernel reset the connection, and
the reset overtakes the error: the client of a value that is too long would see a broken pipe, take it for a
fault of the network and send it all again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from sadik.api.resp.call import Session

if TYPE_CHECKING:
    from sadik.api.resp.server import RespServer

_HIGH_WATER_BYTES = 256 * 1024
_LINGER_TICKS_MAX = 30
"""Longest lingering, in ticks of the server (seconds): 64 MiB at 20 Mbit/s."""
_BACKLOG_BYTES = 64 * 1024
"""Input that may wait for a later turn while more is read."""


class Connection(asyncio.BaseProtocol):
    """Attributes:
    fast: Plain GETs and SETs may go through the batch; false in MULTI, before AUTH, and with replies
        switched off.
    pending: Commands taken from the input that could not run yet; they run before anything newer.
    closing: No more input is run. lost: The transport is gone.
    lingering: Input is read only to be dropped; that ends with a tick without any, or after ``linger_ticks``.
    finishing: Nothing more will come that counts: once what came is run, the connection ends.
    backlogged: It has sent more than can run now, and is not read from until that is done.
    blocked: It does not read its replies, so nothing is pulled from it.
    lane: Its input, and its straight way to the socket. The event loop calls ``lane.receive`` itself, with
        nothing of ours in between; the lane is *plain* while no attribute here asks for a second look. It
        *waits* while something is in flight, and is *stirred* when meanwhile input came, or anything else
        that asks for a second look.
    received: Bytes of input at the last tick, to tell who is idle.
    """

    __slots__ = (
        "active_ns",
        "backlogged",
        "blocked",
        "closing",
        "data_received",
        "fast",
        "finishing",
        "lane",
        "linger_ticks",
        "lingering",
        "lost",
        "over_soft_since_ns",
        "pending",
        "received",
        "server",
        "session",
        "transport",
    )

    def __init__(self, server: RespServer) -> None:
        self.server = server
        self.lane = server.new_lane(self)
        self.data_received: Callable[[bytes], None] = self.lane.receive
        self.session: Session = cast("Session", None)
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.fast = False
        self.finishing = False
        self.blocked = False
        self.backlogged = False
        self.closing = False
        self.lingering = False
        self.linger_ticks = _LINGER_TICKS_MAX
        self.lost = False
        self.pending: deque[list[bytes]] = deque()
        self.over_soft_since_ns = 0
        self.active_ns = 0
        self.received = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.lane.transport = self.transport
        stream = self.transport.get_extra_info("socket")
        if stream is not None:
            self.lane.descriptor = stream.fileno()
        self.server.opened(self)

    def eof_received(self) -> bool:
        if self.lingering:
            return False
        # Everything pipelined before the end is still run and answered; then the server closes.
        self.finishing = True
        self.settle_lane()
        self.wake()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self.lost = True
        self.lane.descriptor = -1
        self.pending.clear()
        self.settle_lane()
        self.server.closed(self)

    def pause_writing(self) -> None:
        self._block(True)

    def resume_writing(self) -> None:
        self._block(False)
        self.wake()

    def _block(self, blocked: bool) -> None:
        self.over_soft_since_ns = 0
        self.blocked = blocked
        if not self.closing:
            self.settle_lane()
            self._steer_reading()

    # For the server.

    def refresh(self) -> None:
        """Take over what a command may have changed in the session."""
        session = self.session
        self.fast = session.authenticated and session.queue is None and session.reply_mode == "on"
        self.lane.authenticated = session.authenticated
        self.lane.resp3 = session.protocol == 3
        self.lane.prefix = bytes([len(session.bucket)]) + session.bucket
        self.settle_lane()

    def settle_lane(self) -> None:
        """Tell the lane whether a turn may take from it without asking here."""
        lane = self.lane
        lane.stirred = True
        lane.deaf = self.closing
        lane.plain = self.fast and not (
            lane.waiting or self.closing or self.blocked or self.backlogged or self.finishing or self.pending
        )

    def wake(self) -> None:
        """There is something to run in the next turn."""
        if not self.closing:
            self.lane.enlist()

    def resume(self) -> None:
        """What was in flight is answered: go on with what has come meanwhile."""
        self.lane.waiting = False
        if self.closing:
            self._finish()
            return
        self.settle_lane()
        if self.lane.buffered() or self.pending or self.backlogged or self.finishing:
            self.lane.enlist()

    def send(self, data: bytes) -> None:
        """Send a reply behind those before it."""
        if not self.lost:
            self.write(data)

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; cut the client off when too much piles up."""
        self.server.bytes_out.value += len(data)
        self.transport.write(data)
        self.lane.queued = True
        if self.blocked and self.transport.get_write_buffer_size() > self.server.output_bytes_max:
            self.server.cut_off(self, "its replies exceed the output limit")

    def close_after_replies(self) -> None:
        """Run nothing more; close once what is owed is sent."""
        self.closing = True
        self.lingering = False
        self.settle_lane()
        self._finish()

    def linger_after_replies(self) -> None:
        """Run nothing more; once what is owed is sent, close this side and drop what still comes."""
        self.closing = True
        self.lingering = True
        # The error may fall just before a tick; the client has at least one whole one to go on sending.
        self.lane.dropped = True
        self.backlogged = False
        self.settle_lane()
        self.transport.resume_reading()
        self._finish()

    def linger_tick(self) -> None:
        """A tick of the server has passed: close if nothing came meanwhile, or if it takes too long."""
        self.linger_ticks -= 1
        if not self.lane.dropped or self.linger_ticks <= 0:
            self.close_after_replies()
        self.lane.dropped = False

    def _finish(self) -> None:
        if self.lane.waiting or self.transport.is_closing():
            return
        if self.lingering:
            self.transport.write_eof()
        else:
            self.transport.close()

    def defer(self, commands: Iterable[list[bytes]]) -> None:
        """Commands to run before anything newer, in the next rounds."""
        self.pending.extend(commands)
        self.settle_lane()
        if not self.lane.waiting:
            self.wake()

    def limit_backlog(self) -> None:
        """Some of the input has to wait: read no more of it than fits into the limit."""
        if not self.backlogged and self.lane.buffered() > _BACKLOG_BYTES:
            self.backlogged = True
            self.settle_lane()
            self._steer_reading()

    def end_backlog(self) -> None:
        """All input has been run but for a part of a command."""
        self.backlogged = False
        self.settle_lane()
        self._steer_reading()

    def _steer_reading(self) -> None:
        if self.blocked or self.backlogged:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
