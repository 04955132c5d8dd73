"""Two worlds for one suite: transports over TCP on the real loop, and in memory with a clock of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sadik.comms.handshake import Dialling, key_of
from sadik.comms.links import Links
from sadik.comms.memory import MemoryNetwork, MemoryTransport
from sadik.comms.messages import DATA, Kind
from sadik.comms.tcp import TcpTransport
from sadik.comms.transport import Frame, Identity, Receiver
from sadik.config import ClusterConfig
from sadik.env.clock import Clock, SystemClock
from sadik.env.entropy import SystemEntropy
from sadik.ids import NodeId
from sadik.kernels import frames
from sadik.settings import Address

CLUSTER_ID = "0123456789abcdef" * 2
SECRET = b"a secret of the cluster"
PAYLOAD_BYTES_MAX = 1 << 20
PATIENCE_S = 20
ANY_PORT = Address("127.0.0.1", 0)


class FakeClock:
    """Goes only when told to."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.now_ns // 1_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns


class Recorder:
    """A receiver that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.frames: list[tuple[NodeId, int, int, int, bytes]] = []
        self.admission: Callable[[Identity], str] = lambda identity: ""

    def on_frames(self, peer: NodeId, lane: int, arrived: Sequence[Frame]) -> None:
        self.frames += [(peer, lane, *frame) for frame in arrived]

    def on_link_up(self, peer: Identity) -> None:
        self.events.append(("up", peer.node))

    def on_link_down(self, peer: NodeId, reason: str) -> None:
        self.events.append(("down", peer, reason))

    def on_bulk_down(self, peer: NodeId, reason: str) -> None:
        self.events.append(("bulk down", peer, reason))

    def admit(self, peer: Identity) -> str:
        return self.admission(peer)

    def downs(self) -> list[str]:
        return [event[2] for event in self.events if event[0] == "down"]


class Node:
    """A transport and what it has told."""

    def __init__(self, transport: Links, recorder: Recorder) -> None:
        self.transport = transport
        self.recorder = recorder
        self.address = Address("127.0.0.1", 0)

    @property
    def name(self) -> NodeId:
        return self.transport.identity.node

    def knows(self, other: Node) -> None:
        self.transport.connect(other.name, other.address)

    def send(self, other: Node, text: bytes, lane: int = DATA, kind: int = 16) -> bool:
        return self.transport.send(other.name, frames.encode(kind, 1, (text,)), lane)

    def texts(self, lane: int = DATA) -> list[bytes]:
        return [item[4] for item in self.recorder.frames if item[1] == lane]


def identity(name: str, *, actor: int = 0, cluster: str = "c", cluster_id: str = CLUSTER_ID) -> Identity:
    actor = actor or int.from_bytes(name.encode(), "big")
    return Identity(cluster, cluster_id, NodeId(name), actor, actor + 1)


class World(Protocol):
    """Where nodes live."""

    clock: Clock

    async def node(self, who: Identity | str, **changes: Any) -> Node:
        """A started node; ``changes`` of secret, config or listen."""
        ...

    async def until(self, condition: Callable[[], object]) -> None: ...

    async def settle(self) -> None:
        """Let everything happen that is on its way."""
        ...

    async def close(self) -> None: ...


class TcpWorld:
    """Real sockets; heartbeats are quick and patience is long, as the machine may be busy."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.config = ClusterConfig(heartbeat_interval_ms=20, peer_timeout_ms=5000)
        self.nodes: list[Node] = []

    async def node(
        self,
        who: Identity | str,
        *,
        secret: bytes | None = SECRET,
        config: ClusterConfig | None = None,
        listen: Address = ANY_PORT,
        receiver: Receiver | None = None,
    ) -> Node:
        recorder = Recorder()
        transport = TcpTransport(
            listen,
            identity(who) if isinstance(who, str) else who,
            secret,
            config or self.config,
            receiver or recorder,
            clock=self.clock,
            entropy=SystemEntropy(),
            payload_bytes_max=PAYLOAD_BYTES_MAX,
        )
        node = Node(transport, recorder)
        node.address = await transport.start()
        self.nodes.append(node)
        return node

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def settle(self) -> None:
        deadline_ns = self.clock.monotonic_ns() + 300_000_000
        await self.until(lambda: self.clock.monotonic_ns() >= deadline_ns)

    async def close(self) -> None:
        for node in self.nodes:
            await node.transport.stop()


class MemoryWorld:
    """Steps run in the order they came, unless ``choose`` picks another one; time passes in ticks."""

    def __init__(self, choose: Callable[[int], int] | None = None) -> None:
        self.clock = FakeClock()
        self.config = ClusterConfig()
        self.steps: deque[Callable[[], None]] = deque()
        self.network = MemoryNetwork(self.steps.append)
        self.choose = choose

    async def node(
        self,
        who: Identity | str,
        *,
        secret: bytes | None = SECRET,
        config: ClusterConfig | None = None,
        listen: Address = ANY_PORT,
        receiver: Receiver | None = None,
    ) -> Node:
        recorder = Recorder()
        transport = MemoryTransport(
            self.network,
            listen,
            identity(who) if isinstance(who, str) else who,
            secret,
            config or self.config,
            receiver or recorder,
            clock=self.clock,
            entropy=SystemEntropy(),
            payload_bytes_max=PAYLOAD_BYTES_MAX,
        )
        node = Node(transport, recorder)
        node.address = await transport.start()
        return node

    def drain(self) -> None:
        while self.steps:
            if self.choose is not None:
                self.steps.rotate(-self.choose(len(self.steps)))
            self.steps.popleft()()

    def run(self, milliseconds: int) -> None:
        self.drain()
        for _ in range(-(-milliseconds // 50)):
            self.clock.now_ns += 50_000_000
            self.network.tick()
            self.drain()

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(20 * PATIENCE_S):
            self.drain()
            if condition():
                return
            self.run(50)
        raise TimeoutError

    async def settle(self) -> None:
        self.run(1000)

    async def close(self) -> None:
        self.run(0)


class Stranger:
    """A scripted peer over TCP: whoever connects, and says what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames: list[Frame] = []
        self._cut = frames.Reader(PAYLOAD_BYTES_MAX)

    @classmethod
    async def connect(cls, address: Address) -> Stranger:
        return cls(*await asyncio.open_connection(address.host, address.port))

    async def read(self) -> Frame:
        """The next frame; EOFError when the connection has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.frames:
                data = await self.reader.read(1 << 16)
                if not data:
                    raise EOFError
                self.frames += self._cut.feed(data)
        return self.frames.pop(0)

    async def ended(self) -> bool:
        """Wait for the end, whatever comes before it."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while await self.reader.read(1 << 16):
                    pass
        return True

    def send(self, kind: int, payload: bytes = b"", request: int = 0) -> None:
        self.writer.write(frames.encode(kind, request, (payload,)))

    async def greet(
        self, who: Identity, secret: bytes | None = SECRET, *, lane: int = DATA, wanted: str = ""
    ) -> Frame:
        """The handshake as a node does it; returns the answer."""
        dialling = Dialling(who, key_of(secret), SystemEntropy(), lane=lane, wanted=wanted)
        self.writer.write(dialling.on_challenge(await self.read()))
        return await self.read()

    @classmethod
    async def linked(cls, address: Address, who: Identity) -> Stranger:
        stranger = await cls.connect(address)
        answer = await stranger.greet(who)
        assert answer.kind == Kind.WELCOME
        return stranger

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
