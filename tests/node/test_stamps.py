"""A wall clock that goes back between two runs hides nothing and brings nothing back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sadik.causality.clock import HybridClock
from sadik.errors import ClockError
from sadik.node.buckets import BucketRegistry
from sadik.node.stamps import StampBound
from sadik.node.vnode import Vnodes
from sadik.storage import LogEngine, MemoryEngine

NOON = 1_700_000_000_000


class Wall:
    """A clock that shows what the test says."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return 0


class Seeded:
    """Entropy of a test."""

    def random_bytes(self, count: int) -> bytes:
        return random.Random(1).randbytes(count)


def run(directory: Path, now_ms: int) -> tuple[LogEngine, Vnodes]:
    """One run of a node on a directory, with the wall clock at ``now_ms``."""
    engine = LogEngine.open(str(directory))
    wall = Wall(now_ms)
    vnodes = Vnodes(
        engine,
        BucketRegistry(engine),
        clock=wall,
        hybrid=HybridClock(wall, node="a", clock_offset_max_ms=500),
        entropy=Seeded(),
        batch_capacity=16,
        read_bytes_max=1 << 20,
        horizon=(1 << 64) - 1,
        clock_offset_max_ms=500,
    )
    return engine, vnodes


def put(vnodes: Vnodes, payload: bytes) -> None:
    (record,) = vnodes.records([(vnodes.buckets.for_write(b"0"), b"k")]).values()
    record.put(payload)
    vnodes.commit([record])


def value(vnodes: Vnodes) -> bytes:
    (record,) = vnodes.records([(vnodes.buckets.get(b"0"), b"k")]).values()
    return record.payload


@pytest.mark.parametrize("back_ms", [0, 1, 90])
def test_a_flush_hides_what_an_earlier_run_wrote_though_the_clock_went_back(
    tmp_path: Path, back_ms: int
) -> None:
    """Within what stamps may be ahead, a flush right after a restart works, and so do writes after it."""
    engine, vnodes = run(tmp_path, NOON)
    put(vnodes, b"old")
    engine.close()
    engine, vnodes = run(tmp_path, NOON - back_ms)
    vnodes.buckets.truncate(b"0", vnodes.stamp_above(vnodes.stamp_greatest(vnodes.buckets.get(b"0"))))
    assert value(vnodes) == b""
    put(vnodes, b"new")
    assert value(vnodes) == b"new"
    engine.close()


def test_a_flush_that_could_hide_nothing_is_refused(tmp_path: Path) -> None:
    """An hour back: an OK would be a lie."""
    engine, vnodes = run(tmp_path, NOON)
    put(vnodes, b"old")
    engine.close()
    engine, vnodes = run(tmp_path, NOON - 3_600_000)
    with pytest.raises(ClockError, match="ahead of its wall clock"):
        vnodes.stamp_above(vnodes.stamp_greatest(vnodes.buckets.get(b"0")))
    assert vnodes.bound.at_start > vnodes.hybrid.limit()
    assert value(vnodes) == b"old"
    engine.close()


def test_the_bound_is_written_ahead_and_seldom() -> None:
    """One record each while, not one a write; above what was covered, below what may be minted."""
    engine = MemoryEngine()
    wall = Wall(NOON)
    hybrid = HybridClock(wall, node="a", clock_offset_max_ms=500)
    bound = StampBound(engine, hybrid, 500)
    assert bound.at_start == 0
    bounds = set()
    for _ in range(1000):
        wall.now_ms += 1
        stamp = hybrid.mint()
        bound.cover(stamp)
        found = StampBound(engine, hybrid, 500).at_start
        assert stamp < found < hybrid.limit()
        bounds.add(found)
    assert len(bounds) == 3


def test_restarts_with_a_flush_each_do_not_run_away_from_the_wall_clock(tmp_path: Path) -> None:
    """Killed again and again within milliseconds, a node must still be able to flush and write."""
    for number in range(30):
        engine, vnodes = run(tmp_path, NOON + number)
        put(vnodes, b"%d" % number)
        stamp = vnodes.stamp_above(vnodes.stamp_greatest(vnodes.buckets.get(b"0")))
        vnodes.buckets.truncate(b"0", stamp)
        assert value(vnodes) == b""
        engine.close()
