"""Collection takes what nobody can miss, when nobody can miss it, and nothing else."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sadik.causality.clock import HybridClock
from sadik.ids import stamp_at
from sadik.kernels import versions
from sadik.node.buckets import BucketRegistry
from sadik.node.collection import Collector, collect
from sadik.node.vnode import Vnodes
from sadik.storage.memory_engine import MemoryEngine

NOON = 1_700_000_000_000
HORIZON_MS = 86_400_000
EVERYTHING = (1 << 64) - 1


class Wall:
    """A clock that shows what the test says."""

    def __init__(self) -> None:
        self.now_ms = NOON

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ms * 1_000_000


class Seeded:
    """Entropy of a test."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def vnodes_of(wall: Wall, horizon: int) -> Vnodes:
    engine = MemoryEngine()
    return Vnodes(
        engine,
        BucketRegistry(engine),
        clock=wall,
        hybrid=HybridClock(wall, node="a"),
        entropy=Seeded(),
        batch_capacity=16,
        read_bytes_max=1 << 20,
        horizon=horizon,
        clock_offset_max_ms=500,
    )


def put(vnodes: Vnodes, key: bytes, payload: bytes | None, expires_at_ms: int = -1) -> None:
    """A write, or a delete where there is no payload."""
    (record,) = vnodes.records([(vnodes.buckets.for_write(b"0"), key)]).values()
    if payload is None:
        record.delete()
    else:
        record.put(payload, expires_at_ms)
    vnodes.commit([record])


def round_of(collector: Collector) -> None:
    while collector.step():
        pass


def keys(vnodes: Vnodes) -> int:
    return len(vnodes.engine.scan(b"", b"\xff" * 16, 1000))


def test_an_expired_value_goes_and_a_living_one_stays() -> None:
    """Disk space of a cache comes back, on a node that is alone with everything."""
    wall = Wall()
    vnodes = vnodes_of(wall, EVERYTHING)
    for number in range(300):
        put(vnodes, b"short %d" % number, b"x", NOON + 1000)
    put(vnodes, b"long", b"x", NOON + 10_000)
    put(vnodes, b"for ever", b"x")
    collector = Collector(vnodes, wall, HORIZON_MS)
    round_of(collector)
    assert keys(vnodes) == 302
    assert collector.expiring == {b"0": 301}
    wall.now_ms = NOON + 1000
    round_of(collector)
    assert keys(vnodes) == 2
    assert collector.collected == 300
    assert collector.expiring == {b"0": 1}


def test_what_others_may_hold_is_still_known_as_seen() -> None:
    """In a cluster a replica that missed the collection must not bring the value back."""
    wall = Wall()
    vnodes = vnodes_of(wall, horizon=0)
    put(vnodes, b"a", b"x", NOON + 1000)
    (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"a")]).values()
    elsewhere = record.stored
    wall.now_ms = NOON + 1000
    collector = Collector(vnodes, wall, HORIZON_MS)
    round_of(collector)
    (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"a")]).values()
    assert collector.reduced == 1
    assert versions.decode(record.stored)[1] == []
    assert versions.merge(record.stored, elsewhere) == record.stored


def test_big_siblings_do_not_stop_collection() -> None:
    """Cause: what a page leaves was read again, as a request reads, and a page of big values is more than one
    request may read. The job ended with the error, and the node's stop with it. Cure: nothing is read again.
    """
    wall = Wall()
    vnodes = vnodes_of(wall, EVERYTHING)
    big = b"x" * (1 << 19)
    for number in range(4):
        put(vnodes, b"%d" % number, big)
        (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"%d" % number)]).values()
        record.put(b"short", NOON + 1000, covers=())
        vnodes.commit([record])
    wall.now_ms = NOON + 1000
    # The newest has expired, and what it hid comes into sight: it stays.
    collector = Collector(vnodes, wall, HORIZON_MS)
    round_of(collector)
    assert collector.reduced == 0
    for number in range(4):
        (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"%d" % number)]).values()
        record.put(big, covers=())
        vnodes.commit([record])
    round_of(collector)
    assert collector.reduced == 4
    for number in range(4):
        (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"%d" % number)]).values()
        assert [value.payload for value in record.siblings()] == [big, big]


def test_a_tombstone_is_remembered_until_the_horizon() -> None:
    """Deletes are remembered as long as a node may be away."""
    wall = Wall()
    vnodes = vnodes_of(wall, EVERYTHING)
    put(vnodes, b"a", b"x")
    put(vnodes, b"a", None)
    collector = Collector(vnodes, wall, HORIZON_MS)
    wall.now_ms = NOON + HORIZON_MS
    round_of(collector)
    assert keys(vnodes) == 1
    wall.now_ms += 1
    round_of(collector)
    assert keys(vnodes) == 0


def test_a_flushed_bucket_is_left_to_compaction_and_new_data_stays() -> None:
    """Records of a retired space are garbage by their space alone."""
    wall = Wall()
    vnodes = vnodes_of(wall, EVERYTHING)
    put(vnodes, b"old", b"x")
    vnodes.buckets.truncate(b"0", vnodes.stamp_above(0))
    put(vnodes, b"new", b"y")
    round_of(Collector(vnodes, wall, HORIZON_MS))
    (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"new")]).values()
    assert record.payload == b"y"


values = st.builds(
    versions.Value,
    actor=st.integers(1, 4),
    stamp=st.integers(NOON - 5, NOON + 5).map(stamp_at),
    flags=st.sampled_from([0, versions.TOMBSTONE]),
    kind=st.just(0),
    expires_at_ms=st.sampled_from([-1, NOON - 1, NOON, NOON + 1]),
    metadata=st.just(b""),
    payload=st.just(b""),
)


@given(
    st.lists(values, max_size=6, unique_by=lambda value: (value.actor, value.stamp)),
    *[st.integers(-6, 6)] * 2,
)
def test_readers_see_no_difference(
    found: list[versions.Value], floor_offset: int, horizon_offset: int
) -> None:
    """Whatever is collected, what is shown now stays as it was, and a stale copy changes nothing."""
    ordered = sorted(found, key=lambda value: (value.actor, value.stamp))
    entries = sorted(
        {value.actor: max(v.stamp for v in found if v.actor == value.actor) for value in found}.items()
    )
    stored = versions.encode(entries, ordered)
    floor = stamp_at(NOON + floor_offset)
    left = collect(
        stored,
        entries,
        ordered,
        floor=floor,
        now_ms=NOON,
        tombstone_horizon=stamp_at(NOON + horizon_offset),
        entry_horizon=0,
    )
    assert versions.newest(left, floor, NOON) == versions.newest(stored, floor, NOON)
    assert versions.siblings(left, floor, NOON) == versions.siblings(stored, floor, NOON)
    assert versions.merge(left, stored) == left
    assert versions.context(left) == versions.context(stored)


def test_a_round_counts_the_keys_with_siblings() -> None:
    """Siblings are work for whoever reads: their number is a figure to watch. Values that nobody sees, of the
    past or expired, are none, and neither is a tombstone.
    """
    wall = Wall()
    vnodes = vnodes_of(wall, EVERYTHING)
    for key, values in ((b"one", 1), (b"two", 2), (b"five", 5)):
        for number in range(values):
            (record,) = vnodes.records([(vnodes.buckets.for_write(b"0"), key)]).values()
            record.put(b"%d" % number, NOON + 1000 if key == b"two" else -1, covers=())
            vnodes.commit([record])
    put(vnodes, b"gone", b"x")
    (record,) = vnodes.records([(vnodes.buckets.for_write(b"0"), b"gone")]).values()
    record.delete(covers=())
    vnodes.commit([record])
    collector = Collector(vnodes, wall, HORIZON_MS)
    assert (collector.sibling_keys, collector.siblings_max) == (0, 0)
    collector.step()
    assert (collector.sibling_keys, collector.siblings_max) == (0, 0), (
        "a round that is not whole says nothing"
    )
    round_of(collector)
    assert (collector.sibling_keys, collector.siblings_max) == (2, 5)
    wall.now_ms = NOON + 1000
    round_of(collector)
    assert (collector.sibling_keys, collector.siblings_max) == (1, 5)
    vnodes.buckets.truncate(b"0", vnodes.stamp_above(0))
    round_of(collector)
    round_of(collector)
    assert (collector.sibling_keys, collector.siblings_max) == (0, 0)
