"""One end of a simulated TCP connection, as asyncio's protocols see it.

What is written arrives at the other end in order, whole or in pieces, or not at all; then the connection
breaks for whoever waits, as TCP has it. Lost packets are sent again: that takes time, nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from sadik.kernels import agenda, wire
from sadik.sim.loop import Process

if TYPE_CHECKING:
    from sadik.sim.network import Network

WINDOW_BYTES: Final = wire.WINDOW_BYTES
_AGAIN_S: Final = 0.2
"""Mean time until lost packets are sent again, once the path is open."""


class Stream(wire.End):
    """A transport, in all but its class: asyncio's cannot be a kernel's as well.

    Attributes:
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
        super().__init__(network, process, network.path(local[0], remote[0]))
        self.local = local
        self.remote = remote
        names = network.names
        self._number = number
        self._sender = names.get(local[0], local[0])
        self._receiver = names.get(remote[0], remote[0])
        self._peers = local[0] in names and remote[0] in names
        self._context = process.context
        self._arrival = agenda.Due(self.arrive, (), process.context)
        self._lost_posted = False

    # Its beginning.

    def open(self, factory: Callable[[], asyncio.BaseProtocol], when_s: float, context: Any) -> None:
        """The listening side: a protocol is made for it there."""
        self._context = self._arrival.context = context
        self._post(when_s, lambda: self.adopt(factory()))

    def adopt(self, protocol: asyncio.BaseProtocol) -> None:
        """A protocol takes it over."""
        self._protocol = cast("asyncio.Protocol", protocol)
        protocol.connection_made(cast("asyncio.Transport", self))
        if self.is_gone:
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
        elif self.other._flight:
            self._post(self._loop.now_s, self.arrive)

    # What a protocol may ask of it.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.remote, "sockname": self.local}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._protocol)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        unheard_bytes = self._unheard_bytes
        return unheard_bytes - WINDOW_BYTES if unheard_bytes > WINDOW_BYTES else 0

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self.other._flight:
                self._post(self._loop.now_s, self.arrive)

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
            self.other._post(when_s, self.other.arrive)

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
        if self.other._path.closed:
            return
        self.break_off("Connection reset by peer")

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
