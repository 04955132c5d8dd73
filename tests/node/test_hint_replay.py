"""Delivery of hints: at once when the owner is back, to nobody else while it is in the layout, until it has
them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from sadik.errors import Unavailable
from sadik.ids import NodeId
from sadik.kernels import versions
from sadik.node.items import Item
from sadik.node.repair.hints import HintStore
from sadik.node.repair.replay import service
from sadik.node.repair.replay.parcels import pack
from sadik.node.repair.replay.service import HintReplay
from sadik.storage.engine import Engine
from sadik.storage.log_engine import LogEngine
from sadik.storage.memory_engine import MemoryEngine
from tests.node.hint_cases import (
    B,
    C,
    Wall,
    add_keys,
    balance,
    item_of,
    key_of,
    name_of,
    set_of,
    store_on,
    take_all,
)

A, D = NodeId("a"), NodeId("d")
REFUSED = 5


class Sight(NamedTuple):
    """What a view says: who is in the layout, and which of them are up."""

    nodes: tuple[NodeId, ...]
    up: tuple[bool, ...]


def sight(*up: NodeId, down: Sequence[NodeId] = ()) -> Sight:
    return Sight((*up, *down), (True,) * len(up) + (False,) * len(down))


class Loop:
    """The event loop's own time, for pauses; the wall stands."""

    def wall_ms(self) -> int:
        return Wall().wall_ms()

    def monotonic_ns(self) -> int:
        return int(asyncio.get_running_loop().time() * 1e9)


class Cluster:
    """Other nodes as the delivery sees them.

    Attributes:
        taken: What each has merged, by name.
        refuse: Nodes and names they refuse.
        gate: Pushes wait for it.
        under_way, most, bytes_most: Pushes without an answer, and the most and biggest there were.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self.store: HintStore = store_on(engine if engine is not None else MemoryEngine(), Wall())
        self.local: dict[bytes, bytes | None] = {}
        self.taken: dict[NodeId, dict[bytes, bytes]] = {}
        self.away: list[NodeId] = []
        self.refuse: list[tuple[NodeId, bytes]] = []
        self.primaries = [A, C, D]
        self.pushes = 0
        self.under_way = self.most = self.bytes_most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_push: Callable[[NodeId], Awaitable[None]] | None = None
        self.replay = HintReplay(
            self.store,
            push=self.push,
            local_sets=self.local_sets,
            primaries_of=lambda digest, name: self.primaries,
            clock=Loop(),
        )

    def local_sets(self, digests: Sequence[bytes], bytes_max: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        size = 0
        for digest in digests:
            one = self.local.get(digest, b"")
            size += len(one or b"")
            if found and size > bytes_max:
                break
            found.append(one)
        return found

    async def push(self, node: NodeId, items: Sequence[Item]) -> bytes:
        self.pushes += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.bytes_most = max(self.bytes_most, sum(len(item[2]) for item in items))
        try:
            await self.gate.wait()
            if node in self.away:
                raise Unavailable(f"{node} is away")
            if self.on_push is not None:
                await self.on_push(node)
        finally:
            self.under_way -= 1
        status = bytearray()
        for _, name, one in items:
            if (node, name) in self.refuse:
                status.append(REFUSED)
            else:
                self.taken.setdefault(node, {})[name] = one
                status.append(0)
        return bytes(status)

    def keep(self, *numbers: int) -> None:
        """The own node stores these."""
        for number in numbers:
            self.local[key_of(number)] = set_of(number)


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    cluster.replay.start()
    try:
        yield cluster
    finally:
        await cluster.replay.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Look until it holds."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


# What is sent


def test_a_key_is_delivered_as_the_set_of_now():
    """Whatever the owner missed is in it, and whatever came after the hint too."""
    store = store_on(MemoryEngine(), Wall())
    add_keys(store, B, [1])
    later = versions.merge(set_of(1), set_of(1, actor=2, stamp=2))
    parcel = pack(take_all(store, B), lambda digests, bytes_max: [later], 1 << 20)
    assert parcel.items == [(key_of(1), name_of(1), later)]


def test_a_hint_that_is_both_is_sent_as_the_merge():
    """What is kept apart from the own data and what is in it belong to the owner alike."""
    store = store_on(MemoryEngine(), Wall())
    add_keys(store, B, [1])
    store.add_sets(B, [item_of(1)])
    mine = set_of(1, actor=2, stamp=2)
    parcel = pack(take_all(store, B), lambda digests, bytes_max: [mine], 1 << 20)
    assert [item[2] for item in parcel.items] == [versions.merge(set_of(1), mine)]


def test_an_unreadable_own_set_is_not_an_absent_one():
    """Nothing left to send settles a hint; a disk error does not."""
    store = store_on(MemoryEngine(), Wall())
    add_keys(store, B, [1, 2])
    hints = sorted(take_all(store, B), key=lambda hint: hint.name)
    parcel = pack(hints, lambda digests, bytes_max: [b"", None], 1 << 20)
    assert (parcel.settled, parcel.unreadable, parcel.items) == ([hints[0]], [hints[1]], [])


def test_what_cannot_be_merged_stays():
    """A set that is none, in the own data: a read of it would be refused, and so is its delivery."""
    store = store_on(MemoryEngine(), Wall())
    add_keys(store, B, [1])
    store.add_sets(B, [item_of(1)])
    hints = take_all(store, B)
    parcel = pack(hints, lambda digests, bytes_max: [b"rubbish"], 1 << 20)
    assert parcel.unreadable == hints


def test_a_parcel_is_bounded_in_bytes():
    """256 keys of a megabyte each must not be read, held and sent at once."""
    cluster = Cluster()
    cluster.keep(*range(10))
    add_keys(cluster.store, B, range(10))
    cluster.store.add_sets(B, [item_of(number) for number in range(10, 20)])
    left = take_all(cluster.store, B)
    size, sent = len(set_of(1)), []
    while left:
        parcel = pack(left, cluster.local_sets, 3 * size)
        assert 1 <= len(parcel.items) <= 4
        sent += parcel.items
        left = parcel.rest
    assert sorted(name for _, name, _ in sent) == sorted(map(name_of, range(20)))


# When, and to whom


def test_z10_delivery_begins_at_once_when_the_owner_is_back():
    """Riak's hand-off waited a quarter of an hour behind another timer."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.keep(*range(600))
            cluster.replay.on_view(sight(A, C, down=[B]))
            add_keys(cluster.store, B, range(600))
            await asyncio.sleep(0)
            assert cluster.pushes == 0
            began = asyncio.get_running_loop().time()
            cluster.replay.on_view(sight(A, B, C))
            await until(lambda: cluster.pushes > 0)
            assert asyncio.get_running_loop().time() - began < 1
            await until(lambda: not cluster.store.owners())
            assert cluster.taken == {B: {name_of(number): set_of(number) for number in range(600)}}

    asyncio.run(story())


def test_hints_that_come_while_the_owner_is_up_are_delivered_soon():
    """A frame that was lost, a queue that was full: nobody went down, so nobody comes up."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.replay.on_view(sight(A, B))
            await asyncio.sleep(0)
            cluster.store.add_sets(B, [item_of(1)])
            await until(lambda: not cluster.store.owners())
            assert cluster.taken[B] == {name_of(1): set_of(1)}

    asyncio.run(story())


def test_nothing_is_sent_without_a_view_or_to_a_node_that_is_down():
    """Where hints belong is the layout's word; before it is known everybody seems to have left."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.store.add_sets(B, [item_of(1)])
            cluster.store.add_sets(C, [item_of(1)])
            assert not await cluster.replay.wait(0.05)
            cluster.replay.on_view(sight(A, C, down=[B]))
            await until(lambda: list(cluster.store.owners()) == [B])
            assert list(cluster.taken) == [C]

    asyncio.run(story())


def test_z9_hints_of_the_run_before_are_delivered(tmp_path):
    """Riak's fallbacks forgot after a restart that they had something to hand over."""

    async def story() -> None:
        engine = LogEngine.open(f"{tmp_path}/hints")
        async with running(Cluster(engine)) as cluster:
            cluster.replay.on_view(sight(A, down=[B]))
            cluster.store.add_sets(B, [item_of(1)])
        engine.close()
        engine = LogEngine.open(f"{tmp_path}/hints")
        async with running(Cluster(engine)) as cluster:
            cluster.replay.on_view(sight(A, B))
            await until(lambda: not cluster.store.owners())
            assert cluster.taken == {B: {name_of(1): set_of(1)}}
        engine.close()

    asyncio.run(story())


# What fails


def test_a_hint_stays_until_it_is_durably_taken():
    """An answer that is missing or says no leaves it; it is tried again, and sent twice at worst."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.store.add_sets(B, [item_of(1), item_of(2)])
            cluster.away = [B]
            cluster.refuse = [(B, name_of(2))]
            cluster.replay.on_view(sight(A, B))
            await until(lambda: cluster.pushes > 0)
            assert cluster.store.statistics().present == 2
            cluster.away = []
            await until(lambda: cluster.store.statistics().present == 1)
            assert list(cluster.taken[B]) == [name_of(1)]
            cluster.refuse = []
            await until(lambda: not cluster.store.owners())
            statistics = cluster.replay.statistics()
            assert (statistics.failures >= 1, statistics.refused >= 1) == (True, True)
            assert (cluster.store.statistics().delivered, balance(cluster.store)) == (2, 0)

    asyncio.run(story())


def test_pauses_grow_while_it_fails_and_end_when_the_owner_is_back(monkeypatch):
    """A node that refuses is not asked hundreds of times a second; one that was restarted is asked at
    once."""
    monkeypatch.setattr(service, "_PAUSE_S_FIRST", 0.01)

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.store.add_sets(B, [item_of(1)])
            cluster.away = [B]
            cluster.replay.on_view(sight(A, B))
            progress = cluster.replay._progress
            await until(lambda: B in progress and progress[B].pause_s > 30 * 0.01)
            assert cluster.pushes < 10
            cluster.away = []
            cluster.replay.owner_up(B)
            await until(lambda: not cluster.store.owners())

    asyncio.run(story())


def test_a_push_without_an_end_is_given_up(monkeypatch):
    """It would hold its owner's deliveries for ever."""
    monkeypatch.setattr(service, "PUSH_TIMEOUT_S", 0.01)

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.gate.clear()
            cluster.store.add_sets(B, [item_of(1)])
            cluster.replay.on_view(sight(A, B))
            await until(lambda: cluster.replay.statistics().failures > 0)
            cluster.gate.set()
            await until(lambda: not cluster.store.owners())

    asyncio.run(story())


def test_a_bug_in_one_delivery_does_not_end_the_others(caplog):
    """It is told where it is, and the owner is tried again."""

    async def story() -> None:
        async def fail(node: NodeId) -> None:
            if node == B and cluster.pushes < 3:
                raise ZeroDivisionError("a bug")

        async with running(Cluster()) as cluster:
            cluster.on_push = fail
            cluster.store.add_sets(B, [item_of(1)])
            cluster.store.add_sets(C, [item_of(1)])
            cluster.replay.on_view(sight(A, B, C))
            await until(lambda: not cluster.store.owners())

    asyncio.run(story())
    assert "a bug ended the delivery of hints for b" in caplog.text


def test_a_hint_added_during_its_delivery_is_delivered_again():
    """The set under way does not have the newer write."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.gate.clear()
            cluster.store.add_sets(B, [item_of(1)])
            cluster.replay.on_view(sight(A, B))
            await until(lambda: cluster.under_way > 0)
            cluster.store.add_sets(B, [item_of(1, actor=2, stamp=2)])
            cluster.gate.set()
            await until(lambda: not cluster.store.owners())
            merged = versions.merge(set_of(1), set_of(1, actor=2, stamp=2))
            assert cluster.taken[B] == {name_of(1): merged}

    asyncio.run(story())


def test_hints_under_way_at_the_stop_stay():
    """Nobody knows whether they arrived; the next start sends them again."""

    async def story() -> None:
        cluster = Cluster()
        cluster.gate.clear()
        async with running(cluster):
            cluster.store.add_sets(B, [item_of(1)])
            cluster.replay.on_view(sight(A, B))
            await until(lambda: cluster.under_way > 0)
        assert cluster.under_way == 0
        assert [hint.name for hint in take_all(cluster.store, B)] == [name_of(1)]

    asyncio.run(story())


# Owners that leave


def test_hints_for_a_node_that_has_left_go_to_the_primaries_of_the_key():
    """They may be the last copies; they end only when all primaries have them."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.store.add_sets(B, [item_of(1), item_of(2)])
            cluster.refuse = [(D, name_of(2))]
            cluster.replay.on_view(sight(A, C, D))
            await until(lambda: cluster.store.statistics().present == 1)
            assert name_of(2) in cluster.taken[A]
            cluster.refuse = []
            await until(lambda: not cluster.store.owners())
            for node in (A, C, D):
                assert cluster.taken[node] == {name_of(1): set_of(1), name_of(2): set_of(2)}
            assert B not in cluster.taken

    asyncio.run(story())


def test_a_key_without_primaries_keeps_its_hint():
    """Taken by all of nobody is not taken."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.primaries = []
            cluster.store.add_sets(B, [item_of(1)])
            cluster.replay.on_view(sight(A))
            await until(lambda: cluster.replay.statistics().rounds > 1)
            assert cluster.store.statistics().present == 1

    asyncio.run(story())


def test_z17_what_a_leaving_node_has_taken_is_offered_to_the_primaries():
    """Scylla delivered to a node that was on its way out, and the hints left with it."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.gate.clear()
            cluster.store.add_sets(B, [item_of(1)])
            cluster.replay.on_view(sight(A, B, C, D))
            await until(lambda: cluster.under_way > 0)
            cluster.replay.on_view(sight(A, C, D))
            cluster.gate.set()
            await until(lambda: not cluster.store.owners())
            assert all(cluster.taken[node] == {name_of(1): set_of(1)} for node in (A, C, D))
            assert cluster.store.statistics().delivered == 1

    asyncio.run(story())


# Bounds


def test_deliveries_are_bounded():
    """A node that is back is not buried, and the sender holds a few parcels and no more."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.gate.clear()
            value = versions.event(b"", (), 1, 1, payload=bytes(10_000))
            owners = [NodeId(f"n{number}") for number in range(7)]
            for owner in owners:
                cluster.store.add_sets(
                    owner, [(key_of(number), name_of(number), value) for number in range(700)]
                )
            cluster.replay.on_view(sight(A, *owners))
            most = service.OWNERS_MAX * service.PARCELS_MAX
            await until(lambda: cluster.under_way == most)
            assert len(cluster.replay.statistics().delivering) == service.OWNERS_MAX
            cluster.gate.set()
            await until(lambda: not cluster.store.owners())
            assert cluster.most == most
            assert cluster.bytes_most <= service.PARCEL_BYTES_MAX + len(value)
            assert cluster.replay.statistics().items == 7 * 700

    asyncio.run(story())


# Waiting


def test_waiting_ends_when_the_hints_of_then_are_delivered():
    """What is added meanwhile is not waited for, or a busy node could never be taken out of service."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            added = 0

            async def more(node: NodeId) -> None:
                nonlocal added
                added += 1
                cluster.store.add_sets(B, [item_of(1000 + added), item_of(1)])

            cluster.on_push = more
            assert await cluster.replay.wait(0)
            cluster.store.add_sets(B, [item_of(number) for number in range(50)])
            cluster.replay.on_view(sight(A, B))
            assert await cluster.replay.wait(10)
            assert set(map(name_of, range(50))) <= set(cluster.taken[B])
            assert cluster.store.statistics().present > 0
            cluster.on_push = None

    asyncio.run(story())


def test_waiting_does_not_sit_out_long_pauses():
    """Somebody watches: what failed is tried each second."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            cluster.store.add_sets(B, [item_of(1)])
            cluster.away = [B]
            cluster.replay.on_view(sight(A, B))
            await until(lambda: B in cluster.replay._progress and cluster.replay._progress[B].begun > 0)
            await until(lambda: not cluster.replay.statistics().delivering)
            cluster.replay._progress[B].due_ns = 1 << 62
            cluster.away = []
            assert await cluster.replay.wait(10)

    asyncio.run(story())


def test_waiting_for_what_cannot_be_delivered_ends_with_its_time():
    """Hints for a node that stays down, and an own set that cannot be read."""

    async def story() -> None:
        async with running(Cluster()) as cluster:
            add_keys(cluster.store, C, [1])
            cluster.local[key_of(1)] = None
            cluster.store.add_sets(B, [item_of(1)])
            cluster.replay.on_view(sight(A, C, down=[B]))
            assert not await cluster.replay.wait(0.2)
            assert cluster.store.statistics().present == 2
            assert cluster.replay.statistics().unreadable > 0

    asyncio.run(story())


@pytest.mark.slow
def test_a_hundred_thousand_keys_are_delivered_in_seconds(tmp_path: Path):
    """A node that was down for a minute is whole again before anybody asks."""

    async def story() -> None:
        engine = LogEngine.open(f"{tmp_path}/hints", partitions=65536)
        async with running(Cluster(engine)) as cluster:
            for first in range(0, 100_000, 500):
                add_keys(cluster.store, B, range(first, first + 500))
            cluster.keep(*range(100_000))
            began = asyncio.get_running_loop().time()
            cluster.replay.on_view(sight(A, B))
            await until(lambda: not cluster.store.owners())
            assert asyncio.get_running_loop().time() - began < 20
            assert len(cluster.taken[B]) == 100_000
        engine.close()

    asyncio.run(story())
