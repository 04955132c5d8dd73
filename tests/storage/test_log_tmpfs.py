"""The log engine on a real file system of one mebibyte, filled to the last byte: what the simulated disk
models must be what a real one does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sadik.errors import StorageFull
from sadik.storage.log_engine import LogEngine
from tests.storage.calls import digest, walk

SIZE = 1 << 20
VALUE = 900


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; skips where mounting is not permitted."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("there is no mount")
    made = tmp_path / "disk"
    made.mkdir()
    command = [mount, "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(made)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not permitted")
    try:
        yield made
    finally:
        # Lazily: a map that a failed test still holds must not keep it.
        subprocess.run([unmount, "-l", str(made)], check=True)


def open_engine(disk: Path, reserve_bytes: int = 0) -> LogEngine:
    return LogEngine.open(str(disk / "log"), segment_bytes_max=1 << 16, reserve_bytes=reserve_bytes)


def value(number: int) -> bytes:
    return b"%07d " % number * (VALUE // 8)


def fill(engine: LogEngine, first: int = 0) -> int:
    """Put until the disk is full, singly and in batches by turns; returns the first number not stored."""
    number = first
    with suppress(StorageFull):
        while True:
            engine.put(digest(number), b"name", value(number))
            number += 1
            engine.put_many([(digest(n), b"name", value(n)) for n in range(number, number + 7)])
            number += 7
    return number


def stored(engine: LogEngine) -> dict[bytes, bytes | None]:
    return {entry.digest: entry.value for entry in walk(engine)}


def expected(stop: int) -> dict[bytes, bytes | None]:
    return {digest(number): value(number) for number in range(stop)}


@pytest.mark.parametrize("reserve_bytes", [0, 1 << 17])
def test_full_disk_refuses_whole_writes_and_they_resume_when_there_is_room(
    disk: Path, reserve_bytes: int
) -> None:
    """A refused batch leaves nothing, reads go on, and room given back is used without an open."""
    filler = disk / "filler"
    filler.write_bytes(bytes(SIZE // 2))
    engine = open_engine(disk, reserve_bytes)
    count = fill(engine)
    assert 100 < count < SIZE // VALUE
    for _ in range(3):
        with pytest.raises(StorageFull):
            engine.put_many([(digest(n), b"name", value(n)) for n in range(count, count + 100)])
    assert stored(engine) == expected(count)
    assert engine.get(digest(count)) is None
    assert engine.statistics().writable
    engine.sync()
    durable = engine.durable_ticket
    assert durable == count
    filler.unlink()
    more = fill(engine, count)
    assert more > count + 200
    assert stored(engine) == expected(more)
    engine.close()
    engine = open_engine(disk, reserve_bytes)
    assert engine.losses == 0, engine.damages
    assert stored(engine) == expected(more)
    engine.close()


CHILD = """
import os, sys
from pathlib import Path
from tests.storage.test_log_tmpfs import fill, open_engine
print(fill(open_engine(Path(sys.argv[1]))), flush=True)
os._exit(0)
"""


def test_process_that_dies_on_a_full_disk_leaves_nothing_torn(disk: Path) -> None:
    """What it left is opened without a free byte: all of it is served, and taken up when there is room."""
    filler = disk / "filler"
    filler.write_bytes(bytes(SIZE // 4))
    child = subprocess.run([sys.executable, "-c", CHILD, str(disk)], capture_output=True, check=True)
    count = int(child.stdout)
    assert count > 100
    with (disk / "rest").open("wb", buffering=0) as rest, suppress(OSError):
        while rest.write(bytes(4096)):
            pass
    engine = open_engine(disk)
    assert engine.losses == 0, engine.damages
    for _ in range(20):
        engine.maintain(1 << 20)
        engine.sync()
    assert stored(engine) == expected(count)
    with pytest.raises(StorageFull):
        engine.put_many([(digest(n), b"name", value(n)) for n in range(count, count + 100)])
    assert stored(engine) == expected(count)
    filler.unlink()
    (disk / "rest").unlink()
    engine.put(digest(count), b"name", value(count))
    engine.close()
    engine = open_engine(disk)
    assert engine.losses == 0, engine.damages
    assert stored(engine) == expected(count + 1)
    engine.close()


def test_garbage_on_a_full_disk_is_compacted_into_the_reserve(disk: Path) -> None:
    """The room that writes leave is what lets compaction make more of it."""
    engine = open_engine(disk, reserve_bytes=1 << 17)
    turns = 0
    with suppress(StorageFull):
        while True:
            engine.put(digest(turns % 300), b"name", value(turns))
            turns += 1
    latest = {digest(turn % 300): value(turn) for turn in range(turns)}
    assert stored(engine) == latest
    for _ in range(60):
        engine.maintain(1 << 20)
        engine.sync()
    assert stored(engine) == latest
    for turn in range(turns, turns + 100):
        engine.put(digest(turn % 300), b"name", value(turn))
        latest[digest(turn % 300)] = value(turn)
    assert stored(engine) == latest
    engine.close()
