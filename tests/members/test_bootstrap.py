"""How a node comes to its cluster, and when it must not start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from sadik.comms.transport import Identity
from sadik.errors import CorruptRecord, ProtocolError
from sadik.ids import NodeId
from sadik.members.bootstrap import (
    ALIVE,
    BACKOFF_LAST_MS,
    LAYOUT,
    MEMBERS,
    JoinAnswer,
    away_ms,
    backoff_ms,
    decode_answer,
    encode_alive,
    join,
    open_members,
)
from sadik.members.state import Member, MemberTable
from sadik.settings import Address
from tests.members.cluster import CLUSTER_ID, NOON, Dice, Disk, Hands, Network, Runner

AMBER, BIRCH = NodeId("amber"), NodeId("birch")


def kept(*nodes: NodeId, alive_ms: int = NOON, state: str = "alive") -> dict[str, bytes]:
    """What a node of these members has on its disk."""
    table = MemberTable(
        Member(node, 1, 1, 1, state=state, host="h", zone="z")  # type: ignore[arg-type]
        for node in nodes
    )
    return {MEMBERS: table.export(), ALIVE: encode_alive(alive_ms)}


async def asked(
    network: Network, seeds: tuple[int, ...], on_wait: Callable[[int], None] = lambda attempt: None
) -> JoinAnswer:
    """JOIN by a node that is not born; the network settles whenever it waits, after ``on_wait``."""
    unborn = network.attach(Identity("test", "", NodeId("fern"), 9, 0), 900)
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        on_wait(len(waits))
        waits.append(seconds)
        assert len(waits) < 100
        network.settle()
        await asyncio.sleep(0)

    return await join(
        NodeId("fern"),
        peers=unborn,
        transport=unborn,
        seeds=[Address("127.0.0.1", port) for port in seeds],
        entropy=Dice(1),
        pause=pause,
    )


def test_a_new_node_learns_its_cluster_from_a_seed_and_starts_with_what_that_knows() -> None:
    """It is born with the cluster's id, and links to everybody without a round of gossip."""

    async def story() -> None:
        network, clock = Network(), Hands()
        seed = Runner(network, "amber", port=100, clock=clock, founder=True)
        answer = await asked(network, (77, 100))
        assert (answer.cluster, answer.cluster_id) == ("test", CLUSTER_ID)
        assert (answer.partitions, answer.hash, answer.replicas) == (16, "blake3-128", 3)
        network.crash(network.ends[Address("127.0.0.1", 900)])
        disk = Disk()
        disk.update(answer.stored())
        born = Runner(network, "fern", port=900, clock=clock, disk=disk)
        assert born.members.view.nodes == ("amber",)
        network.settle()
        assert sorted(born.end.links) == ["amber"]
        for runner in (seed, born):
            await runner.members.stop()

    asyncio.run(story())


def test_a_seed_that_is_not_there_yet_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """All nodes of a cluster may be started at once, in any order."""

    async def story() -> None:
        network, clock = Network(), Hands()
        seeds: list[Runner] = []

        def on_wait(attempt: int) -> None:
            if attempt == 15:
                seeds.append(Runner(network, "amber", port=100, clock=clock, founder=True))

        with caplog.at_level(logging.WARNING):
            answer = await asked(network, (100,), on_wait)
        assert answer.cluster_id == CLUSTER_ID
        # Whoever waits is told what for, but not each time.
        assert [record.getMessage() for record in caplog.records] == [
            "none of the seeds 127.0.0.1:100 can be reached yet"
        ]
        await seeds[0].members.stop()

    asyncio.run(story())


def test_a_seed_that_knows_no_layout_yet_is_asked_again() -> None:
    """A node that just joined itself cannot say what the cluster looks like."""

    async def story() -> None:
        network, clock = Network(), Hands()
        waiting = Runner(network, "birch", port=101, clock=clock, seeds=(100,))
        founders: list[Runner] = []

        def on_wait(attempt: int) -> None:
            if attempt == 3:
                founders.append(Runner(network, "amber", port=100, clock=clock, founder=True))

        answer = await asked(network, (101,), on_wait)
        assert answer.cluster_id == CLUSTER_ID
        assert len(open_members(answer.stored())) == 2
        for runner in (waiting, *founders):
            await runner.members.stop()

    asyncio.run(story())


def test_backoff_doubles_up_to_a_bound_with_jitter() -> None:
    """A hundred nodes that wait for one seed must not knock all at once for ever."""
    dice = Dice(3)
    waits = [backoff_ms(attempt, dice) for attempt in range(40)]
    assert all(50 << min(attempt, 5) <= wait for attempt, wait in enumerate(waits[:6]))
    assert max(waits) <= BACKOFF_LAST_MS
    assert len(set(waits[10:])) > 20


@pytest.mark.parametrize("data", [b"", b"\x90", b"garbage"])
def test_an_answer_that_is_none_is_refused(data: bytes) -> None:
    """Nothing of a cluster may be guessed."""
    with pytest.raises(ProtocolError):
        decode_answer(data)


def test_absence_counts_from_the_last_time_alive() -> None:
    """What a node must not have missed is what others deleted meanwhile."""
    assert away_ms(kept(AMBER, BIRCH), AMBER, NOON + 5000) == 5000
    assert away_ms({}, AMBER, NOON) == 0


def test_a_node_without_others_is_never_away() -> None:
    """A one-node cluster may rest for a year: nobody deleted anything meanwhile."""
    assert away_ms(kept(AMBER), AMBER, NOON + 5000) == 0
    assert away_ms(kept(BIRCH, state="left"), AMBER, NOON + 5000) == 0


def test_a_clock_that_went_back_is_no_absence() -> None:
    """It cannot be told then; a start refused for nothing would be worse."""
    assert away_ms(kept(AMBER, BIRCH, alive_ms=NOON + 9), AMBER, NOON) == 0


@pytest.mark.parametrize("name", [MEMBERS, ALIVE])
def test_what_cannot_be_read_is_said_so(name: str) -> None:
    """A start with half a memory would let a node back in that must stay out."""
    with pytest.raises(CorruptRecord):
        away_ms({**kept(AMBER, BIRCH), name: b"\xff"}, AMBER, NOON)


def test_members_and_layout_that_cannot_be_read_stop_the_start() -> None:
    """They say who may come in and who owns what."""

    async def story() -> None:
        with pytest.raises(CorruptRecord):
            open_members({MEMBERS: b"\xff"})
        disk = Disk()
        disk[LAYOUT] = b"\xff"
        with pytest.raises(CorruptRecord, match="layout"):
            Runner(Network(), "amber", port=100, clock=Hands(), disk=disk)

    asyncio.run(story())
