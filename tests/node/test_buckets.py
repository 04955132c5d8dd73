"""Buckets after a power cut that kept a record and lost the one that gave its bucket the space."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from sadik.errors import StorageFull
from sadik.kernels import digest, versions
from sadik.node.buckets import BucketRegistry
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
    """What was written after FLUSHDB is in sight, counted and kept; what was before is hidden."""
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
    assert 30 <= bucket.floor < 31
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
    assert registry.get(b"0").floor < 10
    assert engine.count(1) == 1


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
