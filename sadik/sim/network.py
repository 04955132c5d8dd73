"""The network between simulated hosts: paths with delays, and what may happen to them.

A *path* leads from one host to another; the way back is another path. It has a latency (exponential, and now
and then a hundred times as long), a bandwidth, and may be *closed*: then packets are lost, and sent again
until it is open. Connections over it (``stream.py``) deliver in order whatever happens, or break.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from sadik.kernels import wire
from sadik.sim.loop import PROCESS, Process, VirtualLoop
from sadik.sim.stream import Stream
from sadik.sim.trace import Trace

_FIRST_PORT: Final = 20_000
_SYN_AGAIN_S: Final = 1.0
_SYN_AGAIN_MAX_S: Final = 8.0

Factory = Callable[[], asyncio.BaseProtocol]


@dataclass(slots=True)
class Weather:
    """How a path is.

    Attributes:
        latency_s: Mean of the exponential distribution. slow: Share of packets that take a hundred times as
            long.
        bytes_per_s: Bandwidth.
        torn: Share of writes that arrive in two pieces.
    """

    latency_s: float = 0.0005
    slow: float = 0.0
    bytes_per_s: float = 1e8
    torn: float = 0.02


class Listener:
    """What ``create_server`` gives."""

    def __init__(self, network: Network, process: Process, factory: Factory, host: str, port: int) -> None:
        self.process = process
        self.factory = factory
        self.address = (host, port)
        self.context = contextvars.copy_context()
        self._network = network

    @property
    def sockets(self) -> tuple[Listener, ...]:
        return (self,)

    def getsockname(self) -> tuple[str, int]:
        return self.address

    def close(self) -> None:
        """Nobody is let in any more."""
        self._network.unlisten(self)

    async def wait_closed(self) -> None:
        """Those who were let in are not waited for."""


class Network:
    """Connects the processes of one loop.

    Args:
        weather: Of every path, until it gets another one.

    Attributes:
        unplugged: Hosts without power: they do not even refuse.
        names: Of nodes, by host.
    """

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, trace: Trace, weather: Weather | None = None
    ) -> None:
        self.loop = loop
        self.trace = trace
        self.rng = rng
        self.weather = weather or Weather()
        self.unplugged: set[str] = set()
        self.names: dict[str, str] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._paths: dict[tuple[str, str], wire.Path] = {}
        self._streams: dict[Stream, None] = {}
        self._connections = 0
        self._port = _FIRST_PORT
        loop.streams = self

    def path(self, sender: str, receiver: str) -> wire.Path:
        """From one host to another."""
        found = self._paths.get((sender, receiver))
        if found is None:
            found = self._paths[sender, receiver] = wire.Path(replace(self.weather), self.rng.random)
        return found

    # Faults.

    def close_path(self, sender: str, receiver: str) -> None:
        """Packets from one host to another are lost, until ``open_path`` as often."""
        self.path(sender, receiver).closed += 1

    def open_path(self, sender: str, receiver: str) -> None:
        """One fault less that closes a path; what was lost is sent again."""
        path = self.path(sender, receiver)
        path.closed -= 1
        if not path.closed:
            for stream in list(self._between(sender, receiver)):
                stream.send_again()

    def reset(self, one: str, other: str) -> int:
        """Break every connection between two hosts, as seen by both; returns how many."""
        found = [*self._between(one, other), *self._between(other, one)]
        for stream in found:
            stream.break_off("Connection reset by peer")
        return len(found)

    def clear_up(self) -> None:
        """From now on no packet takes a hundred times as long, whatever its path."""
        self.weather = replace(self.weather, slow=0.0)
        for path in self._paths.values():
            path.weather = self.weather

    def power_off(self, process: Process) -> None:
        """A process's machine is gone: nobody is told."""
        self.unplugged.add(process.host)
        self._leave(process, silent=True)

    def power_on(self, host: str) -> None:
        """The machine is there again, and knows nothing of its connections."""
        self.unplugged.discard(host)
        for stream in list(self._streams):
            if stream.other.local[0] == host and stream.other.is_gone:
                stream.send_again()

    def died(self, process: Process) -> None:
        """A process was killed: its machine ends its connections."""
        self._leave(process, silent=False)

    def _leave(self, process: Process, *, silent: bool) -> None:
        for listener in [one for one in self._listeners.values() if one.process is process]:
            self.unlisten(listener)
        for stream in [one for one in self._streams if one.process is process]:
            stream.vanish(silent=silent)

    def _between(self, sender: str, receiver: str) -> Iterator[Stream]:
        """Ends on the first host of connections with the second."""
        for stream in self._streams:
            if stream.local[0] == sender and stream.remote[0] == receiver:
                yield stream

    # What the loop offers.

    async def listen(self, factory: Factory, host: str, port: int) -> Listener:
        if not port:
            self._port += 1
            port = self._port
        if (host, port) in self._listeners:
            raise OSError(98, f"{host}:{port} is in use")
        listener = Listener(self, PROCESS.get(self.loop.harness), factory, host, port)
        self._listeners[host, port] = listener
        return listener

    def unlisten(self, listener: Listener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    async def connect(self, factory: Factory, host: str, port: int) -> tuple[Stream, Any]:
        process = PROCESS.get(self.loop.harness)
        there, back = self.path(process.host, host), self.path(host, process.host)
        again_s = _SYN_AGAIN_S
        while there.closed or back.closed or host in self.unplugged:
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, _SYN_AGAIN_MAX_S)
        await asyncio.sleep(there.arrival_s(self.loop.now_s, 0) - self.loop.now_s)
        listener = self._listeners.get((host, port))
        if listener is None:
            await asyncio.sleep(back.latency_s())
            raise ConnectionRefusedError(111, "Connection refused")
        near, far = self._pair(process, listener)
        far.open(listener.factory, self.loop.now_s, listener.context)
        try:
            await asyncio.sleep(back.arrival_s(self.loop.now_s, 0) - self.loop.now_s)
        except BaseException:
            near.vanish(silent=False)
            raise
        protocol = factory()
        near.adopt(protocol)
        return near, protocol

    def _pair(self, process: Process, listener: Listener) -> tuple[Stream, Stream]:
        self._connections += 1
        self._port += 1
        address = (process.host, self._port)
        self.trace.note("connect", self._connections, process.host, *listener.address)
        near = Stream(self, process, self._connections, address, listener.address)
        far = Stream(self, listener.process, -self._connections, listener.address, address)
        near.other, far.other = far, near
        self._streams[near] = self._streams[far] = None
        return near, far

    def drop(self, stream: Stream) -> None:
        """Nothing of one end is left."""
        self._streams.pop(stream, None)
