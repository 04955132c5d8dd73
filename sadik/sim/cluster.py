"""The machines of one world and what they are to each other: formed, agreed, equal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

from sadik.ids import NodeId
from sadik.kernels import digest, versions
from sadik.node.node import Node
from sadik.sim.files import SimFiles
from sadik.sim.history import StoredSet
from sadik.sim.loop import SimulationError, VirtualLoop, run
from sadik.sim.network import Network, Weather
from sadik.sim.node import SimNode, host_of
from sadik.sim.outside import true_ms
from sadik.sim.shape import Shape
from sadik.sim.trace import Trace
from sadik.sim.witness import BUCKET, Witness, address_of

N = 3
_STEP_S = 0.01
_LAST = b"\xff" * 16


class NotInTime(SimulationError):
    """Something that must come to pass did not, in its time."""


class SimCluster:
    """Attributes:
    nodes: By name, in order.
    lost: Names of those that never come back.
    """

    def __init__(
        self,
        shape: Shape,
        loop: VirtualLoop,
        trace: Trace,
        seed: str,
        *,
        weather: Weather | None = None,
        disks: dict[str, SimFiles] | None = None,
        sync_s: float = 0.001,
        with_http: bool = False,
    ) -> None:
        self.shape = shape
        self.loop = loop
        self.trace = trace
        self.network = Network(loop, random.Random(f"{seed}/network"), trace, weather)
        self.witness = Witness(lambda: true_ms(loop))
        rng = random.Random(f"{seed}/sync")
        self.lost: list[str] = []
        self.nodes = {
            name: SimNode(
                name,
                host_of(number),
                shape.config(number, everybody=bool(disks)),
                loop=loop,
                network=self.network,
                trace=trace,
                witness=self.witness,
                seed=seed,
                disk=disks[name] if disks and name in disks else SimFiles(),
                sync_s=lambda: rng.expovariate(1 / sync_s) if sync_s else 0.0,
                with_http=with_http,
            )
            for number, name in enumerate(shape.names)
        }

    # Who is there.

    def up(self) -> list[SimNode]:
        """Those that serve, in order."""
        return [node for node in self.nodes.values() if node.up and not node.process.paused]

    def is_linked(self) -> bool:
        """Whether every node that serves has links to all others."""
        up = self.up()
        return all(
            one.node.transport.is_up(NodeId(other.name), lane)
            for one in up
            for other in up
            if other is not one
            for lane in (0, 1)
        )

    def layouts(self) -> list[str]:
        """Digests of the layouts that are known, without repeats."""
        return list(dict.fromkeys(str(one.node.members.state.layout.digest) for one in self.up()))

    def is_agreed(self) -> bool:
        """Whether nodes have links to each other and one layout, and know who is down."""
        up = self.up()
        names = {one.name for one in up}
        if len(self.layouts()) > 1 or not self.is_linked():
            return False
        for one in up:
            view = one.node.members.view
            if any((str(node) in names) != is_up for node, is_up in zip(view.nodes, view.up, strict=True)):
                return False
        return True

    def is_ready(self) -> bool:
        """Whether all that are in the layout serve and are agreed; the lost ones are not waited for."""
        return len(self.up()) >= self.shape.nodes - len(self.lost) and self.is_agreed()

    # What is where.

    def preference(self, key: bytes) -> list[str]:
        """All nodes of the layout in the order in which they hold a key: N primaries first."""
        view = self.up()[0].node.members.view
        partition = view.partition_of(digest.address_digest(BUCKET, key))
        return [str(node) for node in view.preference(partition, len(view.nodes))]

    def holdings(self, node: Node) -> dict[bytes, bytes | None]:
        """Version sets by key of bucket 0, as an engine has them; None where one cannot be read."""
        found: dict[bytes, bytes | None] = {}
        bucket = node.buckets.get(BUCKET)
        for entry in _entries(node.engine):
            name = bytes(entry.name)
            if not name:
                # Of what cannot be read only the place is known.
                name = digest.address_name(BUCKET, self._key_at(bytes(entry.digest)))
            owner, key = address_of(name)
            if entry.space != bucket.space or owner != BUCKET:
                continue
            if entry.value is None or versions.stamp_max(entry.value) > bucket.floor:
                found[key] = None if entry.value is None else bytes(entry.value)
        return found

    def _key_at(self, place: bytes) -> bytes:
        """The key whose digest this is, of those that were ever written; else the digest."""
        for key in dict.fromkeys(one.key for one in self.witness.minted):
            if digest.address_digest(BUCKET, key) == place:
                return key
        return place

    def hints(self) -> int:
        """Hints that wait at nodes that serve, for nodes that may come back."""
        return sum(
            share.hints
            for one in self.up()
            for owner, share in one.node.hints.owners().items()
            if str(owner) not in self.lost
        )

    def differences(self, *, rot: bool) -> list[bytes]:
        """Keys that a primary does not hold as the other ones do; nodes that do not serve are left out, and
        so is what has expired (``StoredSet.lasting``).

        Args:
            rot: Whether a record that cannot be read is different; nobody knows of it before it is read.
        """
        up = self.up()
        held = {one.name: self.holdings(one.node) for one in up}
        view = up[0].node.members.view
        now_ms = min(one.clock.wall_ms() for one in up)
        found = []
        for key in sorted({key for holding in held.values() for key in holding}):
            place = digest.address_digest(BUCKET, key)
            primaries = view.preference(view.partition_of(place), view.effective_n(N))
            sets = [held[name].get(key, b"") for name in map(str, primaries) if name in held]
            known = [one for one in sets if one is not None]
            if rot and len(known) < len(sets):
                found.append(key)
            elif any(one != known[0] for one in known):
                lasting = [StoredSet.decode(key, one).lasting(now_ms) if one else () for one in known]
                if any(one != lasting[0] for one in lasting):
                    found.append(key)
        return found

    # Time.

    async def wait_until(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        """Let time pass until a condition holds.

        Raises:
            NotInTime: It does not.
        """
        deadline_s = self.loop.now_s + within_s
        while not condition():
            if self.loop.now_s >= deadline_s:
                raise NotInTime(f"not within {within_s} s: {what}")
            await asyncio.sleep(_STEP_S)

    # Life.

    def start(self) -> None:
        """Start every machine that has been formed."""
        for node in list(self.nodes.values())[: self.shape.nodes]:
            node.start()

    async def form(self) -> None:
        """Found the cluster on empty disks, let the others join, and commit a layout of all."""
        names = self.shape.names[: self.shape.nodes]
        for name in names:
            self.nodes[name].start()
        await self.wait_until(lambda: len(self.up()) == len(names) and self.is_linked(), "the nodes meet", 60)
        first = self.nodes[names[0]]
        if len(names) > 1:
            await self.act(first, lambda node: _join_all(node, names[1:]))
        await self.wait_until(self.is_agreed, "all have the layout", 60)

    async def act(self, node: SimNode, work: Callable[[Node], Any], within_s: float = 30) -> Any:
        """Let an operator's coroutine run within a node."""
        task = self.loop.spawn(node.process, work(node.node), "operator")
        await self.wait_until(task.done, f"what {node.name} was told to do", within_s)
        return task.result()

    async def stop(self) -> None:
        """Stop all nodes in an orderly way."""
        for node in self.nodes.values():
            if node.alive:
                node.stop()
        await self.wait_until(lambda: not any(node.alive for node in self.nodes.values()), "the end", 60)


async def _join_all(node: Node, names: list[str]) -> None:
    for name in names:
        document = await node.administration.stage({"action": "join", "node": name})
    await node.administration.commit(document["version"], force=False)


def _entries(engine: Any) -> Iterator[Any]:
    after = b""
    while page := engine.scan(after, _LAST, 512):
        yield from page
        after = page[-1].digest


_formed: dict[Shape, dict[str, SimFiles]] = {}

FORMED_S = 60.0
"""A world on formed disks begins so long after they were formed."""


def formed_disks(shape: Shape) -> dict[str, SimFiles]:
    """Copies of the disks of a cluster of this shape, by name, as an orderly stop left them."""
    if shape not in _formed:
        _formed[shape] = _form(shape)
    return {name: disk.fork() for name, disk in _formed[shape].items()}


def _form(shape: Shape) -> dict[str, SimFiles]:
    loop = VirtualLoop(random.Random("formation"))

    async def story() -> dict[str, SimFiles]:
        trace = Trace(loop.time)
        cluster = SimCluster(shape, loop, trace, "formation")
        await cluster.form()
        await cluster.stop()
        return {name: node.disk for name, node in cluster.nodes.items()}

    return run(story(), lambda: loop)
