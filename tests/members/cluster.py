"""A few nodes' membership over a network in memory: links come up when the test says ``settle``, calls arrive
at once, and time moves when the test moves it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable

from sadik.comms.messages import DATA, Kind
from sadik.comms.transport import Identity, LinkStatistics
from sadik.config import ClusterConfig
from sadik.errors import StorageError, Unavailable
from sadik.ids import NodeId
from sadik.members.bootstrap import NodeFacts
from sadik.members.service import Members
from sadik.settings import Address

NOON = 1_700_000_000_000
CLUSTER_ID = "c" * 32
HOUR_MS = 3_600_000

Handler = Callable[[NodeId, bytes], bytes | Awaitable[bytes]]


class Hands:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_ms = NOON
        self.now_ns = 0

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ns

    def pass_ms(self, ms: int) -> None:
        self.now_ms += ms
        self.now_ns += ms * 1_000_000


class Dice:
    """Entropy of a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class End:
    """One node's end of the network: its transport and what calls go through."""

    def __init__(self, network: Network, identity: Identity, address: Address) -> None:
        self.identity = identity
        self.address = address
        self.admission: Callable[[Identity], str] = lambda identity: ""
        self.refusals: list[str] = []
        self.mute = False
        self.links: dict[NodeId, End] = {}
        self.wanted: dict[NodeId, Address] = {}
        self.introduced: list[Address] = []
        self.forgotten: list[NodeId] = []
        self.calls: list[tuple[NodeId, int, int]] = []
        self._network = network
        self._handlers: dict[int, Handler] = {}
        self._watchers: list[tuple[Callable[[Identity], None], Callable[[NodeId, str], None]]] = []

    # Transport.

    async def start(self) -> Address:
        return self.address

    async def stop(self) -> None:
        self._network.crash(self)

    def connect(self, node: NodeId, address: Address) -> None:
        self.wanted[node] = address

    def forget(self, node: NodeId) -> None:
        self.forgotten.append(node)
        self.wanted.pop(node, None)
        if node in self.links:
            self._network.part(self, self.links[node], "forgotten")

    def introduce(self, address: Address) -> None:
        self.introduced.append(address)

    def is_up(self, node: NodeId) -> bool:
        return node in self.links

    def send(self, node: NodeId, frame: bytes, lane: int = DATA) -> bool:
        return False

    def queued_bytes(self, node: NodeId, lane: int) -> int:
        return 0

    def statistics(self) -> list[LinkStatistics]:
        return [
            LinkStatistics(node, DATA, True, 0, 0, 0, 0, 0, 1_500_000, 0, 0) for node in sorted(self.links)
        ]

    # Calls.

    def serve(self, kind: Kind, handler: Handler) -> None:
        self._handlers[kind] = handler

    def watch(self, on_up: Callable[[Identity], None], on_down: Callable[[NodeId, str], None]) -> None:
        self._watchers.append((on_up, on_down))

    async def call(
        self, node: NodeId, kind: Kind, payload: bytes, *, timeout_ms: int, lane: int = DATA
    ) -> bytes:
        other = self.links.get(node)
        if other is None:
            raise Unavailable(f"no link to {node}")
        if other.mute:
            raise Unavailable(f"{node} does not answer", maybe_applied=True)
        self.calls.append((node, kind, len(payload)))
        reply = other._handlers[kind](self.identity.node, payload)
        return await reply if inspect.isawaitable(reply) else reply

    def rise(self, other: End) -> None:
        self.links[other.identity.node] = other
        for on_up, _ in self._watchers:
            on_up(other.identity)

    def fall(self, other: End, reason: str) -> None:
        if self.links.get(other.identity.node) is other:
            del self.links[other.identity.node]
            for _, on_down in self._watchers:
                on_down(other.identity.node, reason)


class Network:
    """All ends; links between those that want them and may have them."""

    def __init__(self) -> None:
        self.ends: dict[Address, End] = {}
        self._cuts: set[frozenset[Address]] = set()

    def attach(self, identity: Identity, port: int) -> End:
        end = End(self, identity, Address("127.0.0.1", port))
        self.ends[end.address] = end
        return end

    def settle(self) -> None:
        """Bring up every link that can be; those that news ask for, too."""
        while sum(self._dial(end) for end in list(self.ends.values())):
            pass

    def _dial(self, end: End) -> bool:
        risen = False
        for address in [*end.introduced, *end.wanted.values()]:
            other = self.ends.get(address)
            if other is None or other is end or frozenset((end.address, address)) in self._cuts:
                continue
            if end.links.get(other.identity.node) is other:
                continue
            reasons = [end.admission(other.identity), other.admission(end.identity)]
            end.refusals += [reason for reason in reasons if reason]
            if not any(reasons):
                end.rise(other)
                other.rise(end)
                risen = True
        return risen

    def part(self, one: End, other: End, reason: str) -> None:
        one.fall(other, reason)
        other.fall(one, reason)

    def cut(self, one: End, other: End) -> None:
        self._cuts.add(frozenset((one.address, other.address)))
        self.part(one, other, "cut")

    def heal(self) -> None:
        self._cuts.clear()

    def crash(self, end: End) -> None:
        """The process is gone; its address is free."""
        self.ends.pop(end.address, None)
        for other in list(end.links.values()):
            self.part(end, other, "closed")


class Disk(dict[str, bytes]):
    """What one directory keeps between two runs."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def store(self, name: str, data: bytes) -> None:
        if self.full:
            raise StorageError("no room")
        self[name] = data


class Runner:
    """One process of a node."""

    def __init__(
        self,
        network: Network,
        name: str,
        *,
        port: int,
        clock: Hands,
        disk: Disk | None = None,
        directory: int | None = None,
        actor: int | None = None,
        founder: bool = False,
        seeds: tuple[int, ...] = (),
        shared: tuple[object, ...] = (),
    ) -> None:
        node = NodeId(name)
        self.disk = Disk() if disk is None else disk
        dice = Dice(port)
        facts = NodeFacts(
            cluster="test",
            cluster_id=CLUSTER_ID,
            node=node,
            directory=port if directory is None else directory,
            actor=int.from_bytes(dice.random_bytes(8), "big") if actor is None else actor,
            founder=founder,
            partitions=16,
            hash="blake3-128",
            host=name,
            zone="z1",
            capacity=100,
        )
        identity = Identity("test", CLUSTER_ID, node, facts.actor, facts.directory)
        self.end = network.attach(identity, port)
        self.members = Members(
            facts,
            ClusterConfig(gossip_interval_ms=HOUR_MS),
            peers=self.end,
            transport=self.end,
            clock=clock,
            entropy=dice,
            stored=dict(self.disk),
            store=self.disk.store,
            shared=shared,  # type: ignore[arg-type]
            seeds=tuple(Address("127.0.0.1", seed) for seed in seeds),
        )
        self.members.set_addresses(peer=f"127.0.0.1:{port}", resp="127.0.0.1:1", http="127.0.0.1:2")
        self.members.start()

    @property
    def states(self) -> dict[str, str]:
        return {it["node"]: it["state"] for it in self.members.members()}
