"""Buckets: after a power cut that kept a record and lost the one that gave its bucket the space; and what all
nodes come to agree on of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.errors import InvalidRequest, LimitReached, ProtocolError, StorageFull
from sadik.kernels import digest, versions
from sadik.node import buckets
from sadik.node.buckets import BucketProperties, BucketRegistry
from sadik.sim.files import SimFiles
from sadik.storage.engine import Engine
from sadik.storage.log_engine import LogEngine
from sadik.storage.memory_engine import MemoryEngine


def log_engine() -> Engine:
    return LogEngine.open("/data/log", files=SimFiles(), partitions=4, segment_bytes_max=1 << 16)


ENGINES = pytest.mark.parametrize("open_engine", [MemoryEngine, log_engine], ids=["memory", "log"])


def put(engine: Engine, key: bytes, *, space: int, stamp: int, bucket: bytes = b"0") -> None:
    name = digest.address_name(bucket, key)
    stored = versions.event(b"", None, 7, stamp, payload=key)
    engine.put(digest.digest(name), name, stored, space)


@ENGINES
def test_lost_truncation_is_done_again(open_engine: Callable[[], Engine]) -> None:
    """What was written after FLUSHDB is in sight, counted and kept; what was before is hidden, and nothing
    that this node does not know to be older: the floor is shared."""
    engine = open_engine()
    first = BucketRegistry(engine)
    assert (first.for_write(b"0").space, first.for_write(b"1").space) == (1, 2)
    put(engine, b"before", space=1, stamp=10)
    put(engine, b"other", space=2, stamp=11, bucket=b"1")
    # FLUSHDB at stamp 20 took space 3, another one at 30 space 4; both records are lost.
    put(engine, b"between", space=3, stamp=21)
    put(engine, b"late", space=4, stamp=32)
    put(engine, b"after", space=4, stamp=31)
    assert engine.spaces() == [1, 2, 3, 4]
    again = BucketRegistry(engine)
    bucket = again.get(b"0")
    assert bucket.space == 4
    assert bucket.floor == 21
    assert again.get(b"1").floor == 0
    assert [engine.count(space) for space in (1, 2, 3, 4)] == [0, 1, 0, 2]
    # It is on record now, and numbers are not used twice.
    assert BucketRegistry(engine).get(b"0") == bucket
    assert again.for_write(b"2").space == 5


@ENGINES
def test_lost_first_write_of_a_bucket_gives_it_its_space_back(open_engine: Callable[[], Engine]) -> None:
    """A bucket whose record is gone and whose data is not would be in no listing."""
    engine = open_engine()
    put(engine, b"k", space=1, stamp=10)
    registry = BucketRegistry(engine)
    assert registry.names() == [b"0"]
    assert registry.get(b"0").space == 1
    assert registry.get(b"0").floor == 0
    assert engine.count(1) == 1


@ENGINES
def test_lost_writes_of_a_bucket_are_no_truncation_for_others(open_engine: Callable[[], Engine]) -> None:
    """Found by the simulator (default/1002238, D2): a power cut took a bucket's record and its first writes,
    which other nodes had acknowledged, and left a later one. The node took the latter for the first write
    after a FLUSHDB, and hid what was older, at all nodes by gossip."""
    engine = open_engine()
    put(engine, b"late", space=1, stamp=20)
    elsewhere = registry(("write", b"0", 0))
    elsewhere.merge(BucketRegistry(engine).export())
    assert elsewhere.get(b"0").floor == 0


@ENGINES
def test_spaces_retired_in_order_stay_garbage(open_engine: Callable[[], Engine]) -> None:
    """The ordinary restart: an older life of a bucket is not mistaken for a younger one."""
    engine = open_engine()
    first = BucketRegistry(engine)
    first.for_write(b"1")
    first.for_write(b"0")
    put(engine, b"k", space=2, stamp=10)
    first.truncate(b"0", 20)
    put(engine, b"n", space=3, stamp=21)
    again = BucketRegistry(engine)
    assert (again.get(b"0").space, again.get(b"0").floor) == (3, 20)
    assert engine.count(2) == 0


def test_without_room_nothing_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A start on a full disk waits with it, and compaction may not take the records meanwhile."""

    class Full(MemoryEngine):
        def system_put(self, name: bytes, value: bytes) -> int:
            raise StorageFull("no room")

    engine = Full()
    put(engine, b"k", space=1, stamp=10)
    with caplog.at_level(logging.WARNING):
        registry = BucketRegistry(engine)
    assert "no room" in caplog.text
    assert registry.names() == []
    while engine.maintain(1 << 20):
        pass
    assert engine.count(1) == 1


def registry(*acts: tuple[str, bytes, int]) -> BucketRegistry:
    """A registry after some acts on it."""
    made = BucketRegistry(MemoryEngine())
    made.newest = lambda: 0
    for act, name, number in acts:
        if act == "write":
            made.for_write(name)
        elif act == "flush":
            made.truncate(name, number)
        else:
            made.set_properties(name, BucketProperties(n=1 + number % 16), stamp=number)
    return made


def joined(*registries: BucketRegistry) -> bytes:
    whole = registry()
    for item in registries:
        whole.merge(item.export())
    return whole.export()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["write", "flush", "set"]), st.sampled_from([b"0", b"1", b"x"]), st.integers(0, 40)
    ),
    max_size=8,
)


@given(ACTS, ACTS, ACTS)
def test_merge_is_a_join(one: list, other: list, third: list) -> None:
    """Whatever order gossip brings them in, all nodes come to the same properties and floors."""
    a, b, c = registry(*one), registry(*other), registry(*third)
    assert joined(a, b, c) == joined(c, b, a) == joined(b, a, a, c)
    before = a.digest()
    assert a.merge(b.export()) == (a.digest() != before)
    assert not a.merge(b.export())


def test_the_properties_set_last_win_everywhere() -> None:
    """Whoever sets them counts above all it has seen, whatever its own clock says."""
    one, other = registry(), registry()
    one.set_properties(b"x", BucketProperties(n=2), stamp=100)
    other.merge(one.export())
    assert other.get(b"x").properties.n == 2
    other.set_properties(b"x", BucketProperties(n=5), stamp=7)
    one.merge(other.export())
    assert one.get(b"x").properties.n == 5
    assert one.digest() == other.digest()


def test_a_merged_bucket_is_on_record() -> None:
    """A restart knows what gossip brought; a bucket that others made is listed here."""
    engine = MemoryEngine()
    here = BucketRegistry(engine)
    there = registry(("set", b"x", 9), ("flush", b"y", 30), ("write", b"z", 0))
    assert here.merge(there.export())
    assert here.names() == [b"x", b"y", b"z"]
    again = BucketRegistry(engine)
    assert again.digest() == here.digest() == there.digest()
    assert again.get(b"y").floor == 30


def test_a_greater_floor_from_elsewhere_truncates() -> None:
    """FLUSHDB at another node: nothing here can be newer, so everything goes, counted and all."""
    engine = MemoryEngine()
    here = BucketRegistry(engine)
    space = here.for_write(b"0").space
    put(engine, b"k", space=space, stamp=10)
    here.newest = lambda: 20
    assert here.merge(registry(("flush", b"0", 20)).export())
    assert here.get(b"0").floor == 20
    assert here.get(b"0").space > space
    assert engine.count(here.get(b"0").space) == engine.count(space) == 0
    assert not here.merge(registry(("flush", b"0", 19)).export())


@pytest.mark.parametrize("known", [True, False], ids=["newer", "not known"])
def test_a_floor_that_comes_late_takes_nothing_newer_with_it(known: bool) -> None:
    """A node that was down hears of the FLUSHDB after writes that followed it: those stay and are counted."""
    engine = MemoryEngine()
    here = BucketRegistry(engine)
    space = here.for_write(b"0").space
    put(engine, b"old", space=space, stamp=10)
    put(engine, b"new", space=space, stamp=30)
    if known:
        here.newest = lambda: 30
    assert here.merge(registry(("flush", b"0", 20)).export())
    assert (here.get(b"0").floor, here.get(b"0").space) == (20, space)
    while engine.maintain(1 << 20):
        pass
    assert engine.count(space) == 2


def test_every_change_is_told_once_wherever_it_was_made() -> None:
    """Who caches floors and properties must hear of both kinds; creation changes neither."""
    told: list[bytes] = []
    here = registry()
    here.on_change = told.append
    here.for_write(b"a")
    assert told == []
    here.set_properties(b"a", BucketProperties(n=1))
    here.truncate(b"b", 5)
    assert told == [b"a", b"b"]
    there = registry(("set", b"c", 1), ("flush", b"b", 9), ("write", b"d", 0))
    here.merge(there.export())
    assert told == [b"a", b"b", b"b", b"c"]
    here.merge(there.export())
    assert len(told) == 4


def test_values_stored_before_there_were_stamps_are_read_and_beat_the_defaults() -> None:
    """An upgrade in place keeps what was set, also when it meets a node that has set nothing."""
    engine = MemoryEngine()
    engine.system_put(b"bucket:x", b'{"space":3,"truncate_before":7,"properties":{"n":2}}')
    here = BucketRegistry(engine)
    assert (here.get(b"x").floor, here.get(b"x").properties.n) == (7, 2)
    other = registry(("write", b"x", 0))
    other.merge(here.export())
    here.merge(other.export())
    assert here.get(b"x").properties.n == other.get(b"x").properties.n == 2


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that makes up names must not fill the memory of every node."""
    monkeypatch.setattr(buckets, "BUCKETS_MAX", 3)
    here = registry(*[("write", bytes([number]), 0) for number in range(3)])
    here.for_write(b"\x00")
    for act in (here.for_write, lambda name: here.set_properties(name, BucketProperties())):
        with pytest.raises(LimitReached, match="3 buckets"):
            act(b"x")
    # Another node let it in: its data is taken.
    assert here.for_merge(b"x").stored
    there = registry(("write", b"p", 0), ("write", b"q", 0), ("write", b"r", 0))
    with pytest.raises(ProtocolError, match="more than 6"):
        here.merge(there.export())
    assert len(here.names()) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        msgspec.msgpack.encode([(b"", 0, 0, BucketProperties())]),
        msgspec.msgpack.encode([(b"x" * 256, 0, 0, BucketProperties())]),
        msgspec.msgpack.encode([(b"x", -1, 0, BucketProperties())]),
        msgspec.msgpack.encode([(b"ok", 0, 0, BucketProperties()), (b"x", 0, 0, BucketProperties(n=99))]),
    ],
)
def test_what_is_no_list_of_buckets_changes_nothing(data: bytes) -> None:
    """Bytes of a peer are checked whole before any of them counts."""
    here = registry(("write", b"a", 0))
    with pytest.raises(ProtocolError):
        here.merge(data)
    assert here.names() == [b"a"]


def test_properties_out_of_range_are_refused() -> None:
    """Before anything is recorded, not after."""
    here = registry()
    with pytest.raises(InvalidRequest):
        here.set_properties(b"x", BucketProperties(n=2, r=3))
    assert here.names() == []


def test_without_room_a_merge_changes_nothing_in_memory() -> None:
    """What the disk does not have must not be in force until the next restart and then be gone."""

    class Full(MemoryEngine):
        full = False

        def system_put(self, name: bytes, value: bytes) -> int:
            if self.full:
                raise StorageFull("no room")
            return super().system_put(name, value)

    engine = Full()
    here = BucketRegistry(engine)
    here.for_write(b"x")
    before = here.digest()
    engine.full = True
    for act in (("set", b"x", 5), ("flush", b"x", 5), ("write", b"y", 0)):
        with pytest.raises(StorageFull):
            here.merge(registry(act).export())
    assert here.digest() == before
    assert (here.get(b"x").floor, here.get(b"x").properties) == (0, BucketProperties())
    engine.full = False
    assert here.merge(registry(("set", b"x", 5)).export())
