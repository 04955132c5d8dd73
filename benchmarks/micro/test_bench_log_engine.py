"""What does the log engine cost from Python: reads and writes, one at a time and in hundreds, and an open?

16-byte digests, 100-byte values, one file in the system's cache, nothing synced. How that compares with other
stores is ``benchmarks/compare/engines.py``. Not measured: a cold disk, syncs, values larger than a page.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sadik.storage.log_engine import LogEngine

VALUE = bytes(range(100))


@pytest.fixture
def store(benchmark: Any, tmp_path: Path) -> Iterator[tuple[LogEngine, list[bytes]]]:
    """An engine with a million keys when benchmarks are measured, with a few when this file only has to
    run.
    """
    rng = random.Random(1)
    names = [rng.randbytes(16) for _ in range(1_000_000 if benchmark.enabled else 2000)]
    engine = LogEngine.open(str(tmp_path / "log"))
    for first in range(0, len(names), 1000):
        engine.put_many([(name, name, VALUE) for name in names[first : first + 1000]])
    yield engine, names
    engine.close()
    shutil.rmtree(tmp_path)


def shuffled(names: list[bytes], each: int) -> Iterator[list[bytes]]:
    """Random existing keys, ``each`` at a time, for ever."""
    rng = random.Random(2)
    asked = [rng.choices(names, k=each) for _ in range(200_000 // each)]
    while True:
        yield from asked


def test_get_hundred_one_by_one(benchmark: Any, store: tuple[LogEngine, list[bytes]]) -> None:
    engine, names = store
    asked = shuffled(names, 100)

    def get() -> None:
        for name in next(asked):
            engine.get(name)

    benchmark(get)


def test_get_many_hundred(benchmark: Any, store: tuple[LogEngine, list[bytes]]) -> None:
    engine, names = store
    asked = shuffled(names, 100)
    assert benchmark(lambda: engine.get_many(next(asked))) == [VALUE] * 100


def test_read_batch_hundred(benchmark: Any, store: tuple[LogEngine, list[bytes]]) -> None:
    engine, names = store
    packed = [b"".join(next(shuffled(names, 100))) for _ in range(50)]
    turns = iter(range(10**9))
    assert benchmark(lambda: engine.read_batch(100, packed[next(turns) % 50])).data == VALUE * 100


def test_put_hundred_one_by_one(benchmark: Any, store: tuple[LogEngine, list[bytes]]) -> None:
    engine, names = store
    asked = shuffled(names, 100)

    def put() -> None:
        for name in next(asked):
            engine.put(name, name, VALUE)

    benchmark.pedantic(put, rounds=200, warmup_rounds=5)


def test_put_many_hundred(benchmark: Any, store: tuple[LogEngine, list[bytes]]) -> None:
    engine, names = store
    items = ([(name, name, VALUE) for name in each] for each in shuffled(names, 100))
    benchmark.pedantic(lambda rows: engine.put_many(rows), setup=lambda: ((next(items),), {}), rounds=500)


def test_write_batch_hundred(benchmark: Any, store: tuple[LogEngine, list[bytes]]) -> None:
    engine, names = store
    starts = struct.pack("<100q", *range(0, 1600, 16))
    lengths = struct.pack("<100q", *[16] * 100)
    offsets = struct.pack("<101q", *range(0, 10_001, 100))
    packed = (b"".join(each) for each in shuffled(names, 100))

    def write(digests: bytes) -> int:
        return engine.write_batch(
            100,
            digests,
            digests,
            starts,
            lengths,
            VALUE * 100,
            offsets,
            struct.pack("<100I", *[1] * 100),
            bytes(100),
        )

    benchmark.pedantic(write, setup=lambda: ((next(packed),), {}), rounds=500)


@pytest.mark.parametrize("with_snapshot", [True, False])
def test_open(
    benchmark: Any, store: tuple[LogEngine, list[bytes]], tmp_path: Path, with_snapshot: bool
) -> None:
    engine, names = store
    engine.close()
    if not with_snapshot:
        for path in (tmp_path / "log").glob("*.keydir"):
            path.unlink()

    def reopen() -> int:
        opened = LogEngine.open(str(tmp_path / "log"))
        keys = opened.statistics().keys
        opened._lock.release()
        return keys

    assert benchmark.pedantic(reopen, rounds=3) == len(names)
