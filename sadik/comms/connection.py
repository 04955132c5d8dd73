"""One TCP connection between nodes, as a link's wire."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, cast

from sadik.comms.link import Link

HIGH_WATER_BYTES: Final = 256 * 1024
"""Above so much unsent, every frame is measured against the queue's limit."""

_IPPROTO_TCP: Final = 6
_TCP_NODELAY: Final = 1
_TCP_USER_TIMEOUT: Final = 18
"""Linux: without it, bytes to a machine that is gone are sent again for a quarter of an hour before that is
an error.
"""


class Outbox:
    """The connections of a node that have something to send.

    What a step of the event loop writes to one of them takes one system call and one packet: they are flushed
    in the next step, or at the end of this one by whoever holds them.
    """

    __slots__ = ("_held", "_loop", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Connection] = []
        self._held = False

    def add(self, connection: Connection) -> None:
        """A connection has something to send."""
        if not self._waiting and not self._held:
            self._loop.call_soon(self.flush)
        self._waiting.append(connection)

    def hold(self) -> None:
        """The caller flushes when it is done."""
        self._held = True

    def flush(self) -> None:
        """Send everything."""
        self._held = False
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()


class Connection(asyncio.Protocol):
    """Args:
    attach: Gives the link that this connection is for, once it is there; None when nobody wants it any more.
    """

    __slots__ = ("_attach", "_link", "_out", "_out_bytes", "_outbox", "_timeout_ms", "_transport")

    def __init__(
        self, attach: Callable[[Connection], Link | None], outbox: Outbox, *, timeout_ms: int
    ) -> None:
        self._attach = attach
        self._timeout_ms = timeout_ms
        self._link: Link | None = None
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._outbox = outbox
        # What this turn of the event loop has written: one system call, and one packet, for all of it.
        self._out: list[bytes] = []
        self._out_bytes = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if (stream := transport.get_extra_info("socket")) is not None:
            stream.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
            if sys.platform == "linux":
                stream.setsockopt(_IPPROTO_TCP, _TCP_USER_TIMEOUT, self._timeout_ms)
        self._link = self._attach(self)

    def data_received(self, data: bytes) -> None:
        if self._link is not None:
            self._link.receive(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.congested = True

    def resume_writing(self) -> None:
        if self._link is not None:
            self._link.congested = False

    def connection_lost(self, error: Exception | None) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.lost("closed by the other side" if error is None else str(error))

    # What the link calls.

    def write(self, data: bytes) -> None:
        """Take bytes in order; they leave together with what else this turn writes."""
        out = self._out
        if not out:
            self._outbox.add(self)
        out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > HIGH_WATER_BYTES:
            self.flush()

    def write_at_once(self, data: bytes) -> None:
        """Send bytes now, or behind those that wait."""
        if self._out:
            self.write(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def flush(self) -> None:
        """Send what was written."""
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        if not self._transport.is_closing():
            self._transport.write(data)

    def queued_bytes(self) -> int:
        return self._out_bytes + self._transport.get_write_buffer_size()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def peer(self) -> str:
        address = self._transport.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if address else "a closed connection"
