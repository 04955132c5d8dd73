"""One Redis client's connection: bytes in, replies out in order, and nothing held without a limit.

The connection decides nothing about commands. It feeds its parser, tells the server that it has input, and
keeps the replies that must wait for durability. A client that does not read stops being read from; past the
hard limit, or past the soft one for too long, it is cut off.

After a protocol error a connection *lingers*: its own side is closed after the error, and what the client
still sends is dropped. Closing at once, with input unread, would make the kernel reset the connection, and
the reset overtakes the error: the client of a value that is too long would see a broken pipe, take it for a
fault of the network and send it all again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from sadik.api.resp.call import Session

if TYPE_CHECKING:
    from sadik.api.resp.server import RespServer

_HIGH_WATER_BYTES = 256 * 1024
_LINGER_TICKS_MAX = 30
"""Longest lingering, in ticks of the server (seconds): 64 MiB at 20 Mbit/s."""
_BACKLOG_BYTES = 64 * 1024
"""Input that may wait for the next turn while more is read."""


class Held(NamedTuple):
    """Replies that wait until ``ticket`` is durable."""

    ticket: int
    replies: int
    data: bytes
    arrived_ns: int


class Connection(asyncio.BaseProtocol):
    """Attributes:
    fast: Plain GETs and SETs may go through the batch; false in MULTI, before AUTH, and with replies
        switched off.
    pending: Commands taken from the input before the connection was blocked; they run before anything newer.
    closing: No more input is run. lost: The transport is gone.
    lingering: Input is read only to be dropped; that ends with a tick without any, or after ``linger_ticks``.
    finishing: The client sends nothing more: once what it sent is run, the connection ends.
    backlogged: It has sent more than a turn runs, and is not read from until that is done.
    blocked: Nothing is pulled from it now: it does not read its replies, or too much of it is in flight.
    lane: Its input. The event loop calls ``lane.receive`` itself, with nothing of ours in between; the lane
        is *plain* while no attribute here asks for a second look.
    received: Bytes of input at the last tick, to tell who is idle.
    descriptor: Of the socket, -1 for a transport without one. queued_writes: The transport may hold bytes.
    """

    __slots__ = (
        "active_ns",
        "backlogged",
        "blocked",
        "closing",
        "data_received",
        "descriptor",
        "fast",
        "finishing",
        "held",
        "held_bytes",
        "in_flight",
        "lane",
        "linger_ticks",
        "lingering",
        "lost",
        "over_soft_since_ns",
        "pending",
        "queued_writes",
        "received",
        "server",
        "session",
        "transport",
        "write_paused",
    )

    def __init__(self, server: RespServer) -> None:
        self.server = server
        self.lane = server.new_lane(self)
        self.data_received: Callable[[bytes], None] = self.lane.receive
        self.session: Session = cast("Session", None)
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.descriptor = -1
        self.queued_writes = False
        self.fast = False
        self.finishing = False
        self.blocked = False
        self.backlogged = False
        self.closing = False
        self.lingering = False
        self.linger_ticks = _LINGER_TICKS_MAX
        self.lost = False
        self.write_paused = False
        self.held: deque[Held] = deque()
        self.pending: deque[list[bytes]] = deque()
        self.in_flight = 0
        self.held_bytes = 0
        self.over_soft_since_ns = 0
        self.active_ns = 0
        self.received = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        stream = self.transport.get_extra_info("socket")
        if stream is not None:
            self.descriptor = stream.fileno()
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
        self.held.clear()
        self.pending.clear()
        self.settle_lane()
        self.server.closed(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        self.over_soft_since_ns = 0
        self._settle()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.over_soft_since_ns = 0
        self._settle()

    # For the server.

    def refresh(self) -> None:
        """Take over what a command may have changed in the session."""
        session = self.session
        self.fast = session.authenticated and session.queue is None and session.reply_mode == "on"
        self.lane.authenticated = session.authenticated
        self.lane.prefix = bytes([len(session.bucket)]) + session.bucket
        self.settle_lane()

    def settle_lane(self) -> None:
        """Tell the lane whether a turn may take from it without asking here."""
        self.lane.deaf = self.closing
        self.lane.plain = self.fast and not (
            self.closing or self.blocked or self.backlogged or self.finishing or self.pending or self.held
        )

    def wake(self) -> None:
        """There is something to run in the next turn."""
        if not self.closing:
            self.lane.enlist()

    def send(self, data: bytes, replies: int, ticket: int, arrived_ns: int) -> None:
        """Send now, or after ``ticket`` and everything before it is durable (0: nothing to wait for)."""
        if self.lost:
            return
        if ticket or self.held:
            self.held.append(Held(ticket, replies, data, arrived_ns))
            self.in_flight += replies
            self.held_bytes += len(data)
            self._settle()
            return
        self.write(data)

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; cut the client off when too much piles up."""
        self.server.bytes_out.value += len(data)
        self.transport.write(data)
        self.queued_writes = True
        if self.write_paused and self.transport.get_write_buffer_size() > self.server.output_bytes_max:
            self.server.cut_off(self, "its replies exceed the output limit")

    def write_rest(self, data: bytes, taken: int) -> None:
        """The socket took ``taken`` bytes of a direct reply; the transport sends the rest when it can."""
        self.server.bytes_out.value -= len(data) - taken
        self.write(data[taken:])

    def is_direct(self) -> bool:
        """Whether a reply may go straight to the socket: nothing waits before it, here or in the transport.

        Asked for every reply: a transport that is closing may have given its descriptor back already, and the
        next client may have it.
        """
        if self.held or self.write_paused or self.lost or self.descriptor < 0 or self.transport.is_closing():
            return False
        if self.queued_writes:
            self.queued_writes = self.transport.get_write_buffer_size() > 0
        return not self.queued_writes

    def release(self, durable: int) -> None:
        """Send the held replies up to ``durable``."""
        held = self.held
        parts = []
        while held and held[0].ticket <= durable:
            item = held.popleft()
            parts.append(item.data)
            self.in_flight -= item.replies
            self.held_bytes -= len(item.data)
            self.server.observe(item.arrived_ns, item.replies)
        if parts and not self.lost:
            self.write(b"".join(parts))
        self._settle()

    def fail_held(self, error: bytes) -> None:
        """Answer every write that is held with an error, whether it happened is unknown; the reads between
        them as they are.
        """
        parts = [error * item.replies if item.ticket else item.data for item in self.held]
        self.held.clear()
        self.in_flight = self.held_bytes = 0
        if parts and not self.lost:
            self.write(b"".join(parts))
        self._settle()

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
        self.blocked = self.backlogged = False
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
        if self.held or self.transport.is_closing():
            return
        if self.lingering:
            self.transport.write_eof()
        else:
            self.transport.close()

    def _settle(self) -> None:
        if self.closing:
            self._finish()
            return
        blocked = (
            self.write_paused
            or self.in_flight >= self.server.in_flight_max
            or self.held_bytes >= _HIGH_WATER_BYTES
        )
        changed = blocked != self.blocked
        self.blocked = blocked
        self.settle_lane()
        if changed:
            self._steer_reading()
            if not blocked:
                self.wake()

    def defer(self, commands: Iterable[list[bytes]]) -> None:
        """Commands to run before anything newer, in the next rounds."""
        self.pending.extend(commands)
        self.settle_lane()
        self.wake()

    def limit_backlog(self) -> None:
        """A turn has left some of the input: read no more of it than fits into the limit."""
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
        elif not self.closing:
            self.transport.resume_reading()
