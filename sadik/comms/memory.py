"""Links within one process, for tests and simulated clusters: the same bytes, handshakes and rules as over
TCP.

A connection is two queues of bytes. What is written leaves in a later step of ``schedule``, all that waits at
once, and arrives in another; so nothing is delivered from within a write, what is on its way cannot be called
back, and order within a connection does not depend on the scheduler.

Where a path is *cut*, bytes and the news of a connection's end stay where they are, as with a network that
drops packets: nobody is told, silence has to tell. Healed in time, a connection goes on where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from sadik.comms.link import Link
from sadik.comms.links import UNASKED_BYTES, Dial, Links
from sadik.comms.transport import Identity, Receiver
from sadik.config import ClusterConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.ids import NodeId
from sadik.settings import Address

FIRST_PORT: Final = 20_000
"""Given to those that listen on port 0, and counted up."""

Step = Callable[[], None]


class MemoryNetwork:
    """What connects the transports of one process.

    Args:
        schedule: Runs a step soon, never within the call: an event loop's ``call_soon``, or a simulator's.
    """

    def __init__(self, schedule: Callable[[Step], object]) -> None:
        self._schedule = schedule
        self._listeners: dict[Address, MemoryTransport] = {}
        self._transports: list[MemoryTransport] = []
        self._ends: dict[MemoryWire, None] = {}
        self._cut: set[tuple[NodeId, NodeId]] = set()
        self._port = FIRST_PORT

    def tick(self) -> None:
        """Tick every transport that was started, in that order."""
        for transport in list(self._transports):
            transport.tick()

    def cut(self, one: NodeId, other: NodeId) -> None:
        """Nothing passes between two nodes, either way."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def cut_one_way(self, sender: NodeId, receiver: NodeId) -> None:
        """Nothing that ``sender`` sends reaches ``receiver``; the other way is open."""
        self._cut.add((sender, receiver))

    def heal(self) -> None:
        """Every path is open, and what waited goes on."""
        self._cut.clear()
        for end in self._ends:
            self._schedule(end.land)
            self._schedule(end.pump)

    def is_open(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether what one node sends reaches the other one."""
        return (sender, receiver) not in self._cut

    def join(self, transport: MemoryTransport, listen: Address) -> Address:
        """A transport starts to listen; raises OSError when the address is taken."""
        if not listen.port:
            listen = Address(listen.host, self._port)
            self._port += 1
        if listen in self._listeners:
            raise OSError(f"{listen} is in use")
        self._listeners[listen] = transport
        if transport not in self._transports:
            self._transports.append(transport)
        return listen

    def leave(self, listen: Address) -> None:
        """Nobody listens there any more."""
        self._listeners.pop(listen, None)

    def dial(self, dialling: MemoryTransport, dial: Dial, attempt: int) -> None:
        """Connect in a later step."""
        self._schedule(partial(self._connect, dialling, dial, attempt))

    def _connect(self, dialling: MemoryTransport, dial: Dial, attempt: int) -> None:
        listening = self._listeners.get(dial.address)
        here = dialling.identity.node
        if listening is None:
            dialling.failed(dial, attempt, "Connection refused")
            return
        there = listening.identity.node
        if not (self.is_open(here, there) and self.is_open(there, here)):
            dialling.failed(dial, attempt, "no answer")
            return
        near, far = MemoryWire(self, here), MemoryWire(self, there)
        near.other, far.other = far, near
        self._ends[near] = self._ends[far] = None
        near.link = dialling.opened(dial, attempt, near)
        far.link = listening.accepted(far)

    def later(self, step: Step) -> None:
        """Run a step soon."""
        self._schedule(step)

    def drop(self, end: MemoryWire) -> None:
        """One end of a connection is gone, and nothing of it is on its way."""
        self._ends.pop(end, None)


class MemoryWire:
    """One end of a connection.

    Attributes:
        node: Whose end it is. other: The other end. link: Who uses it.
    """

    def __init__(self, network: MemoryNetwork, node: NodeId) -> None:
        self.node = node
        self.other = self
        self.link: Link | None = None
        self._network = network
        self._queue: list[bytes] = []
        self._queued = 0
        self._flight: deque[bytes | None] = deque()
        self._closing = False
        self._gone = False

    def write(self, data: bytes) -> None:
        if self._gone or self._closing:
            return
        self._queue.append(data)
        self._measure(self._queued + len(data))
        self._network.later(self.pump)

    def write_at_once(self, data: bytes) -> None:
        self.write(data)

    def queued_bytes(self) -> int:
        return self._queued

    def close(self) -> None:
        self._closing = True
        self._network.later(self.pump)

    def abort(self) -> None:
        self._queue.clear()
        self._measure(0)
        self._network.later(partial(self._end, "aborted"))

    def peer(self) -> str:
        return f"the wire to {self.other.node}"

    def pump(self) -> None:
        """Send what waits on its way, if the path is open."""
        if self._gone or not self._network.is_open(self.node, self.other.node):
            return
        if self._queue:
            self._flight.append(b"".join(self._queue))
            self._queue.clear()
            self._measure(0)
            self._network.later(self.land)
        if self._closing:
            self._end("closed")

    def land(self) -> None:
        """Deliver what is on its way, in order, if the path is still open."""
        while self._flight and self._network.is_open(self.node, self.other.node):
            data = self._flight.popleft()
            if data is None:
                self.other._end("closed by the other side")
            elif self.other._gone:
                if self._network.is_open(self.other.node, self.node):
                    self._end("Connection reset by peer")
            elif self.other.link is not None:
                self.other.link.receive(data)
        if self._gone and not self._flight:
            self._network.drop(self)

    def _end(self, reason: str) -> None:
        if self._gone:
            return
        self._gone = True
        self._flight.append(None)
        self._network.later(self.land)
        if self.link is not None:
            self.link.lost(reason)

    def _measure(self, queued: int) -> None:
        self._queued = queued
        if self.link is not None:
            self.link.congested = queued > UNASKED_BYTES


class MemoryTransport(Links):
    """A ``Transport`` on a ``MemoryNetwork``; arguments as of ``TcpTransport``. Whoever made the network
    ticks it.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        listen: Address,
        identity: Identity,
        secret: bytes | None,
        config: ClusterConfig,
        receiver: Receiver | None = None,
        *,
        clock: Clock,
        entropy: Entropy,
        payload_bytes_max: int,
    ) -> None:
        super().__init__(
            identity=identity,
            secret=secret,
            config=config,
            clock=clock,
            entropy=entropy,
            payload_bytes_max=payload_bytes_max,
            receiver=receiver,
        )
        self._network = network
        self._listen = listen

    async def start(self) -> Address:
        """Listen and dial; returns the address. Raises OSError."""
        self._listen = self._network.join(self, self._listen)
        self.begin()
        return self._listen

    async def stop(self) -> None:
        """Close everything; what ends does so in the next steps, or ticks where a path is cut."""
        self._network.leave(self._listen)
        self.finish()

    def hold(self) -> None:
        """What is written always leaves in a later step."""

    def flush(self) -> None:
        """See ``hold``."""

    def _open(self, dial: Dial, attempt: int) -> None:
        self._network.dial(self, dial, attempt)
