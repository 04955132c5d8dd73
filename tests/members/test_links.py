"""Membership over the real rules of links: handshakes, frames, heartbeats; only the wires are in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sadik.comms.memory import MemoryNetwork, MemoryTransport
from sadik.comms.service import Peers
from sadik.comms.transport import Identity
from sadik.config import ClusterConfig
from sadik.ids import NodeId
from sadik.members.bootstrap import JoinAnswer, NodeFacts, join
from sadik.members.layout import Change
from sadik.members.service import Members
from sadik.settings import Address
from tests.members.cluster import CLUSTER_ID, HOUR_MS, Dice, Disk, Hands

CONFIG = ClusterConfig(gossip_interval_ms=HOUR_MS)
SEED = Address("127.0.0.1", 100)
TICK_MS = 20


class World:
    """A clock and wires; ``until`` lets both go on until something is so."""

    def __init__(self) -> None:
        self.clock = Hands()
        self.network = MemoryNetwork(asyncio.get_running_loop().call_soon)

    async def until(self, so: Callable[[], bool]) -> None:
        for _ in range(2000):
            if so():
                return
            await self.step()
        raise AssertionError("it does not come about")

    async def step(self, seconds: float = 0.0) -> None:
        self.clock.pass_ms(TICK_MS)
        self.network.tick()
        for _ in range(10):
            await asyncio.sleep(0)

    def transport(self, node: str, cluster_id: str, port: int, *, actor: int) -> MemoryTransport:
        return MemoryTransport(
            self.network,
            Address("127.0.0.1", port),
            Identity("test", cluster_id, NodeId(node), actor, port if cluster_id else 0),
            None,
            CONFIG,
            clock=self.clock,
            entropy=Dice(port),
            payload_bytes_max=1 << 20,
        )


class Process:
    """One node: transport, peers, members."""

    def __init__(
        self, world: World, node: str, port: int, *, disk: Disk, founder: bool = False, actor: int = 1
    ) -> None:
        self.transport = world.transport(node, CLUSTER_ID, port, actor=actor)
        self.peers = Peers(self.transport, clock=world.clock)
        facts = NodeFacts(
            cluster="test",
            cluster_id=CLUSTER_ID,
            node=NodeId(node),
            directory=port,
            actor=actor,
            founder=founder,
            partitions=16,
            hash="blake3-128",
            host=node,
            zone="z1",
            capacity=100,
        )
        self.members = Members(
            facts,
            CONFIG,
            peers=self.peers,
            transport=self.transport,
            clock=world.clock,
            entropy=Dice(port + 1),
            stored=dict(disk),
            store=disk.store,
        )

    async def start(self) -> None:
        address = await self.transport.start()
        self.members.set_addresses(peer=str(address), resp="", http="")
        self.members.start()

    async def stop(self) -> None:
        await self.members.stop()
        await self.peers.stop()
        await self.transport.stop()


async def born(world: World, node: str, port: int) -> Process:
    """A node on an empty directory: JOIN, then a start as who it is then."""
    transport = world.transport(node, "", port, actor=port)
    peers = Peers(transport, clock=world.clock)
    await transport.start()
    answer: JoinAnswer = await join(
        NodeId(node), peers=peers, transport=transport, seeds=[SEED], entropy=Dice(port), pause=world.step
    )
    await peers.stop()
    await transport.stop()
    assert answer.cluster_id == CLUSTER_ID
    disk = Disk()
    disk.update(answer.stored())
    process = Process(world, node, port, disk=disk)
    await process.start()
    return process


def test_three_nodes_join_commit_lose_one_and_find_it_again() -> None:
    """The whole life over handshakes and frames: what the fakes of the other tests stand for."""

    async def story() -> None:
        world = World()
        amber = Process(world, "amber", 100, disk=Disk(), founder=True)
        await amber.start()
        nodes = [amber, await born(world, "birch", 101), await born(world, "cedar", 102)]

        def all_know_all() -> bool:
            return all(
                [it["state"] for it in node.members.members()] == ["alive"] * 3
                and node.members.statistics().live == 3
                for node in nodes
            )

        await world.until(all_know_all)
        for name in ("birch", "cedar"):
            amber.members.stage(Change("join", NodeId(name)))
        layout = await amber.members.commit(amber.members.plan())
        assert layout.version == 2
        await world.until(lambda: all(node.members.view.layout == layout for node in nodes))
        await world.until(lambda: all(node.members.view.up == (True,) * 3 for node in nodes))

        for other in ("amber", "birch"):
            world.network.cut(NodeId("cedar"), NodeId(other))
        began_ns = world.clock.now_ns
        await world.until(lambda: amber.members.view.up == (True, True, False))
        silent_ms = (world.clock.now_ns - began_ns) // 1_000_000
        assert silent_ms <= CONFIG.peer_timeout_ms + CONFIG.heartbeat_interval_ms + TICK_MS
        world.network.heal()
        await world.until(lambda: all(node.members.view.up == (True,) * 3 for node in nodes))
        for node in nodes:
            await node.stop()
        await world.step()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_restarted_process_takes_its_place_again() -> None:
    """Its old link may still stand where its end was not noticed; then silence frees the place."""

    async def story() -> None:
        world = World()
        amber = Process(world, "amber", 100, disk=Disk(), founder=True)
        await amber.start()
        birch = await born(world, "birch", 101)
        await world.until(lambda: amber.members.statistics().live == 2)
        await birch.stop()
        await world.step()
        disk = Disk()
        disk.update({"members": birch.members._table.export(), "layout": birch.members.state.export()})
        again = Process(world, "birch", 101, disk=disk, actor=2)
        await again.start()
        await world.until(lambda: amber.members.statistics().live == 2)
        await world.until(lambda: amber.members._table.digest() == again.members._table.digest())
        for node in (amber, again):
            await node.stop()
        await world.step()

    asyncio.run(asyncio.wait_for(story(), 60))
