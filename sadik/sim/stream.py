"""One end of a simulated TCP connection, as asyncio's protocols see it.

What is written arrives at the other end in order, whole or in pieces, or not at all; then the connection
breaks for whoever waits, as TCP has it. Lost packets are sent again: that takes time, nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from sadik.sim.loop import Process

if TYPE_CHECKING:
    from sadik.sim.network import Network, Path

WINDOW_BYTES: Final = 128 * 1024
"""What a host takes from a process without hearing from the other side."""
_AGAIN_S: Final = 0.2
"""Mean time until lost packets are sent again, once the path is open."""

_FIN: Final = b""


class Stream(asyncio.Transport):
    """Attributes:
    process: Whose end it is. local, remote: Addresses.
    other: The other end.
    is_gone: This end knows nothing of the connection any more.
    """

    def __init__(
        self,
        network: Network,
        process: Process,
        number: int,
        local: tuple[str, int],
        remote: tuple[str, int],
    ) -> None:
        super().__init__()
        self.process = process
        self.local = local
        self.remote = remote
        self.other = self
        self.is_gone = False
        self._network = network
        self._loop = network.loop
        self._number = number
        names = network.names
        self._sender = names.get(local[0], local[0])
        self._receiver = names.get(remote[0], remote[0])
        self._peers = local[0] in names and remote[0] in names
        self._path: Path = network.path(local[0], remote[0])
        self._context = process.context
        # What the loop runs when something arrives.
        self._callback = self._arrive
        self._args = ()
        self._cancelled = False
        self._scheduled = False
        self._protocol: asyncio.Protocol = cast("asyncio.Protocol", None)
        self._flight: deque[tuple[float, bytes]] = deque()
        self._unheard_bytes = 0
        self._last_arrival_s = 0.0
        self._high = 64 * 1024
        self._paused_writing = False
        self._reading = True
        self._closing = False
        self._fin_sent = False
        self._fin_seen = False
        self._lost_posted = False

    # Its beginning.

    def open(self, factory: Callable[[], asyncio.BaseProtocol], when_s: float, context: Any) -> None:
        """The listening side: a protocol is made for it there."""
        self._context = context
        self._post(when_s, lambda: self.adopt(factory()))

    def adopt(self, protocol: asyncio.BaseProtocol) -> None:
        """A protocol takes it over."""
        self._protocol = cast("asyncio.Protocol", protocol)
        protocol.connection_made(self)
        if self.is_gone:
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
        elif self.other._flight:
            self._post(self._loop.now_s, self._arrive)

    # What a protocol may ask of it.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.remote, "sockname": self.local}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        unheard_bytes = self._unheard_bytes
        return unheard_bytes - WINDOW_BYTES if unheard_bytes > WINDOW_BYTES else 0

    def write(self, data: Any) -> None:
        if self._closing or self._fin_sent or not self.process.alive or not data:
            return
        raw = bytes(data)
        path = self._path
        self._network.trace.sent(self._sender, self._receiver, self._number, raw, peers=self._peers)
        self._unheard_bytes += len(raw)
        if len(raw) > 1 and path.tears():
            cut = 1 + int(self._network.rng.random() * (len(raw) - 1))
            self._send(raw[:cut])
            raw = raw[cut:]
        self._send(raw)
        if not self._paused_writing and self._unheard_bytes > WINDOW_BYTES + self._high:
            self._paused_writing = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if not self._fin_sent and not self.is_gone:
            self._fin_sent = True
            self._send(_FIN)

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self.other._flight:
                self._post(self._loop.now_s, self._arrive)

    def close(self) -> None:
        if self._closing or not self.process.alive:
            return
        self._closing = True
        self.write_eof()
        if not self.get_write_buffer_size():
            self._lose(None)

    def abort(self) -> None:
        if self.process.alive:
            self._closing = True
            self.vanish(silent=False)
            self._lose(None)

    # What happens to it.

    def vanish(self, *, silent: bool) -> None:
        """This end is gone at once, with all that it had not delivered; the other one is told, or not."""
        if self.is_gone:
            return
        self.is_gone = True
        self._flight.clear()
        self._unheard_bytes = 0
        self._network.drop(self)
        if not silent:
            self._tell_reset()

    def break_off(self, reason: str) -> None:
        """The connection is broken for this end, whose protocol hears of it."""
        if not self.is_gone:
            self.vanish(silent=True)
            self._closing = True
            self._lose(ConnectionResetError(104, reason))

    def send_again(self) -> None:
        """The path is open again, or the other host is back: packets that were lost are sent again."""
        if self.other.is_gone:
            if not self.is_gone and not self._lost_posted:
                self.other._tell_reset()
        elif self._flight:
            when_s = self._loop.now_s + self._network.rng.expovariate(1 / _AGAIN_S)
            self.other._post(when_s, self.other._arrive)

    def _tell_reset(self) -> None:
        """Answer the other end: there is no such connection."""
        back = self._path
        if not back.closed and self.local[0] not in self._network.unplugged:
            self._loop.call_at(
                back.arrival_s(self._loop.now_s, 0),
                self.other._on_reset,
                context=self.other._context,
            )

    def _on_reset(self) -> None:
        if self._path_back().closed:
            return
        self.break_off("Connection reset by peer")

    def _path_back(self) -> Path:
        return self.other._path

    def _send(self, data: bytes) -> None:
        if self.is_gone:
            return
        arrival_s = self._path.arrival_s(self._loop.now_s, len(data))
        if arrival_s < self._last_arrival_s:
            arrival_s = self._last_arrival_s
        self._last_arrival_s = arrival_s
        self._flight.append((arrival_s, data))
        self._loop.post_again(self.other.process, arrival_s, self.other)

    def _arrive(self) -> None:
        """Hand over what has come from the other end."""
        other = self.other
        if self.is_gone:
            # Bytes for a connection that is not known here.
            if other._flight and not other.is_gone:
                self._tell_reset()
            return
        if self._protocol is None or not self._reading or other._path.closed:
            return
        flight, now_s = other._flight, self._loop.now_s
        pieces: list[bytes] = []
        ended = False
        while flight and flight[0][0] <= now_s:
            data = flight.popleft()[1]
            if data is _FIN:
                ended = True
            else:
                pieces.append(data)
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            other._unheard_bytes -= len(data)
            if other._paused_writing or other._closing:
                other._on_heard()
            if self._closing:
                self._tell_reset()
                return
            self._protocol.data_received(data)
        if ended and not self._fin_seen:
            self._fin_seen = True
            if other._closing:
                self._network.drop(other)
            if not self._closing and not self._protocol.eof_received():
                self.close()

    def _on_heard(self) -> None:
        """The other side has taken something that was waited for."""
        if not self.process.alive or self.is_gone:
            return
        if self._paused_writing and self._unheard_bytes <= WINDOW_BYTES + self._high // 4:
            self._paused_writing = False
            self._loop.call_soon(self._protocol.resume_writing, context=self._context)
        if self._closing and not self.get_write_buffer_size():
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost_posted and self._protocol is not None:
            self._lost_posted = True
            self._loop.call_soon(self._protocol.connection_lost, error, context=self._context)

    def _post(self, when_s: float, step: Callable[[], None]) -> None:
        self._loop.call_at(when_s, step, context=self._context)


Context = contextvars.Context
