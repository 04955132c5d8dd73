"""One Redis client's connection: bytes in, replies out in order, and nothing held without a limit.

The connection decides nothing about commands. It feeds its parser, tells the server that it has input, and
keeps the replies that must wait for durability. A client that does not read stops being read from; past the
hard limit, or past the soft one for too long, it is cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

from sadik.api.resp.call import Session

if TYPE_CHECKING:
    from sadik.api.resp.server import RespServer

_HIGH_WATER_BYTES = 256 * 1024


class Held(NamedTuple):
    """Replies that wait until ``ticket`` is durable."""

    ticket: int
    replies: int
    data: bytes
    arrived_ns: int


class Connection(asyncio.Protocol):
    """Attributes:
    fast: Plain GETs and SETs may go through the batch; false in MULTI, before AUTH, and with replies
        switched off.
    pending: Commands taken from the input before the connection was blocked; they run before anything newer.
    closing: No more input is run. lost: The transport is gone.
    queued: The server has it on its list for the next turn.
    blocked: Nothing is pulled from it now: it does not read its replies, or too much of it is in flight.
    """

    __slots__ = (
        "active_ns",
        "blocked",
        "closing",
        "fast",
        "held",
        "in_flight",
        "lost",
        "over_soft_since_ns",
        "parser",
        "pending",
        "prefix",
        "queued",
        "server",
        "session",
        "transport",
        "write_paused",
    )

    def __init__(self, server: RespServer) -> None:
        self.server = server
        self.parser = server.new_parser()
        self.session: Session = cast("Session", None)
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.fast = False
        self.queued = False
        self.blocked = False
        self.closing = False
        self.lost = False
        self.write_paused = False
        self.held: deque[Held] = deque()
        self.pending: deque[list[bytes]] = deque()
        self.in_flight = 0
        self.over_soft_since_ns = 0
        self.active_ns = 0
        self.prefix = b""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.server.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.server.bytes_in.value += len(data)
        self.parser.feed(data)
        if not self.queued:
            self.server.wake(self)

    def eof_received(self) -> bool:
        # Everything pipelined before the end is still run and answered; then the server closes.
        self.server.wake_to_finish(self)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self.lost = True
        self.held.clear()
        self.pending.clear()
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
        self.parser.authenticated = session.authenticated
        self.prefix = bytes([len(session.bucket)]) + session.bucket

    def send(self, data: bytes, replies: int, ticket: int, arrived_ns: int) -> None:
        """Send now, or after ``ticket`` and everything before it is durable (0: nothing to wait for)."""
        if self.lost:
            return
        if ticket or self.held:
            self.held.append(Held(ticket, replies, data, arrived_ns))
            self.in_flight += replies
            if self.in_flight >= self.server.in_flight_max:
                self._settle()
            return
        self.write(data)

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; cut the client off when too much piles up."""
        self.server.bytes_out.value += len(data)
        self.transport.write(data)
        if self.write_paused and self.transport.get_write_buffer_size() > self.server.output_bytes_max:
            self.server.cut_off(self, "its replies exceed the output limit")

    def release(self, durable: int) -> None:
        """Send the held replies up to ``durable``."""
        held = self.held
        parts = []
        while held and held[0].ticket <= durable:
            item = held.popleft()
            parts.append(item.data)
            self.in_flight -= item.replies
            self.server.observe(item.arrived_ns, item.replies)
        if parts and not self.lost:
            self.write(b"".join(parts))
        self._settle()

    def fail_held(self, error: bytes) -> None:
        """Answer everything held with an error: whether it happened is unknown."""
        replies = sum(item.replies for item in self.held)
        self.held.clear()
        self.in_flight = 0
        if replies and not self.lost:
            self.write(error * replies)
        self._settle()

    def close_after_replies(self) -> None:
        """Run nothing more; close once what is owed is sent."""
        self.closing = True
        if not self.held:
            self.transport.close()

    def _settle(self) -> None:
        if self.closing:
            if not self.held:
                self.transport.close()
            return
        blocked = self.write_paused or self.in_flight >= self.server.in_flight_max
        if blocked == self.blocked:
            return
        self.blocked = blocked
        if blocked:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
            self.server.wake(self)
