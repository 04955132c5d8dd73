"""The log engine's own promises beyond the contract: bytes on disk, full disks, marks, spaces, memory and
what an open costs.
"""

from __future__ import annotations

import errno
import random
import resource
from contextlib import suppress
from pathlib import Path

import pytest

from sadik.env.files import SystemFiles
from sadik.errors import CorruptRecord, InvalidRequest, StorageError, StorageFailed, StorageFull
from sadik.kernels import keydir, segment
from sadik.sim.files import Fault, SimFiles
from sadik.storage import snapshot
from sadik.storage.log_engine import LogEngine
from sadik.storage.segment_file import (
    COPY,
    DATA_START,
    LOG,
    Footer,
    SegmentHeader,
    decode_footer,
    encode_footer,
    encode_mark,
    segment_number,
)
from tests.storage.log_story import DIRECTORY, contents, digest, open_log

FIRST = f"{DIRECTORY}/0000000001.segment"
LAST = b"\xff" * 16


def settle(engine: LogEngine, rounds: int = 25) -> None:
    """Maintenance until there is nothing left to do."""
    for _ in range(rounds):
        while engine.maintain(1 << 20):
            pass
        engine.sync()


# Bytes that may never change for format version 1.


def test_bytes_of_header_mark_and_footer_never_change() -> None:
    header = SegmentHeader(7, bytes(range(16)), 1_700_000_000_000, 42, LOG, 0x01020304, 6, 4096)
    assert header.encode().hex() == (
        "534144494b5345470100000007000000000102030405060708090a0b0c0d0e0f"
        "0068e5cf8b0100002a0000000000000004030201060000000010000027d5d7d3"
    )
    assert SegmentHeader.decode(header.encode()) == header
    codec = segment.Codec(header.salt)
    assert encode_mark(codec, 128, 43, 128).hex() == (
        "0c0d0e0f8b671aa5ee2429b8080000002b00000000000000"
        "000000000000000000000000000000000000000000000040"
        "8000000000000000"
    )
    footer = Footer(header, 3, 42, 44)
    record = codec.decode(encode_footer(codec, 300, 45, footer), 300, 300)
    assert (record.seq, record.flags) == (45, segment.FLAG_FOOTER)
    assert record.value == header.encode() + bytes.fromhex("03000000000000002a000000000000002c00000000000000")
    assert decode_footer(record.value) == footer


def test_file_is_two_headers_then_records_then_a_footer() -> None:
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"name", b"value", 3, segment.FLAG_DEAD)
    engine.close()
    data = files.content(FIRST)
    header = SegmentHeader.decode(data[:64])
    assert data[64:128] == data[:64]
    codec = segment.Codec(header.salt)
    scan = codec.scan(data[DATA_START:], DATA_START, len(data))
    assert (scan.stop, scan.footer) == (len(data), len(data) - 136)
    assert codec.decode(data, 0, DATA_START)[1:] == (digest(1), 3, segment.FLAG_DEAD, b"name", b"value")
    assert files.content(f"{DIRECTORY}/FORMAT") == b"sadik log engine 1\n"
    assert files.content(f"{DIRECTORY}/0000000001.keydir")[snapshot.HEAD_BYTES :] == scan.entries


@pytest.mark.parametrize(
    "name",
    ["0000000001.keydir", "1.segment", "00000000x1.segment", "0000000001.segment.tmp", "٠٠٠٠٠٠٠٠٠١.segment"],
)
def test_other_names_are_not_segments(name: str) -> None:
    assert segment_number(name) is None


# Segments.


def test_opening_always_begins_a_new_segment_and_only_at_the_first_write() -> None:
    """What an earlier run may have half written is never added to."""
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    engine.close()
    before = {path: files.content(path) for path in files.paths()}
    open_log(files).close()
    assert {path: files.content(path) for path in files.paths()} == before
    engine = open_log(files)
    engine.put(digest(2), b"n", b"w")
    engine.close()
    assert files.content(FIRST) == before[FIRST]
    assert contents(open_log(files)) == {digest(1): b"v", digest(2): b"w"}


def test_batch_larger_than_a_segment_gets_a_file_of_its_own_size() -> None:
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    items = [(digest(number), b"n", bytes([number]) * 300) for number in range(2, 40)]
    engine.put_many(items)
    engine.put(digest(41), b"n", bytes(9000))
    expected = {digest(1): b"v", **{key: value for key, _, value in items}, digest(41): bytes(9000)}
    assert contents(engine) == expected
    files.kill()
    engine = open_log(files)
    assert contents(engine) == expected
    settle(engine)
    assert contents(engine) == expected


def test_unproven_tail_is_bounded_by_the_marks() -> None:
    """After a crash only what no sync covered is written again, not the whole segment."""
    files = SimFiles()
    engine = open_log(files, segment_bytes=1 << 20)
    for number in range(500):
        engine.put(digest(number), b"n", bytes(100))
    engine.sync()
    for number in range(500, 510):
        engine.put(digest(number), b"n", bytes(100))
    files.kill()
    engine = open_log(files, segment_bytes=1 << 20)
    copied = [path for path in files.paths() if path.endswith(".segment") and path != FIRST]
    assert [len(files.content(path)) < 2500 for path in copied] == [True]
    assert SegmentHeader.decode(files.content(copied[0])[:64]).kind == COPY
    assert len(contents(engine)) == 510


# Full disks.


def test_full_disk_refuses_writes_keeps_reading_and_recovers_by_compaction() -> None:
    """Room is kept back, so that the garbage can be compacted away; then writes go on by themselves."""
    files = SimFiles(capacity_bytes=60_000)
    engine = open_log(files, reserve=10_000)
    written = 0
    with suppress(StorageFull):
        while True:
            engine.put(digest(written % 20), b"n", b"%05d" % written * 20)
            written += 1
    expected = {digest(turn % 20): b"%05d" % turn * 20 for turn in range(written)}
    assert contents(engine) == expected
    assert engine.statistics().writable
    engine.remove(digest(0))
    del expected[digest(0)]
    settle(engine)
    assert contents(engine) == expected
    engine.put(digest(0), b"n", b"room again")
    assert engine.get(digest(0)) == b"room again"


def test_disk_without_any_room_still_opens_for_reading() -> None:
    files = SimFiles()
    engine = open_log(files)
    for number in range(30):
        engine.put(digest(number), b"n", bytes(100))
    files.kill()
    expected = {digest(number): bytes(100) for number in range(30)}
    files.capacity_bytes = sum(len(files.content(path)) for path in files.paths())
    engine = open_log(files)
    assert contents(engine) == expected
    with pytest.raises(StorageFull):
        engine.put(digest(1), b"n", b"v")
    files.capacity_bytes += 50_000
    engine.put(digest(1), b"n", b"v")
    settle(engine)
    expected[digest(1)] = b"v"
    assert contents(engine) == expected
    # The active one and two copies, for together they are larger than a segment may be.
    assert sum(path.endswith(".segment") for path in files.paths()) == 3
    files.power_cut(random.Random(0), "none")
    assert contents(open_log(files)) == expected


def test_disk_without_any_room_makes_durable_what_it_found() -> None:
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    files.kill()
    files.capacity_bytes = 0
    open_log(files)
    files.power_cut(random.Random(0), "none")
    files.capacity_bytes = 1 << 20
    assert contents(open_log(files)) == {digest(1): b"v"}


def test_limit_on_file_size_refuses_and_is_over_when_it_is_lifted(tmp_path: Path) -> None:
    """A real file that hits a real limit: the system writes a part first and fails on the rest."""
    engine = LogEngine.open(str(tmp_path / "log"))
    engine.put(digest(1), b"n", b"first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(StorageFull):
            engine.put_many([(digest(number), b"n", bytes(400)) for number in range(2, 30)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.value for entry in engine.scan(b"", LAST, 100)] == [b"first"]
    engine.put(digest(2), b"n", b"second")
    engine.close()
    engine = LogEngine.open(str(tmp_path / "log"))
    assert engine.get_many([digest(1), digest(2), digest(3)]) == [b"first", b"second", None]
    engine.close()


def test_too_many_open_files_refuse_and_pass() -> None:
    files = SimFiles()
    engine = open_log(files)
    files.inject(Fault("create", errno.EMFILE, "*.segment", times=2))
    for _ in range(2):
        with pytest.raises(StorageError, match="segment"):
            engine.put(digest(1), b"n", b"v")
    engine.put(digest(1), b"n", b"v")
    assert contents(engine) == {digest(1): b"v"}


def test_failed_roll_back_refuses_writes_until_reopened() -> None:
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    files.inject(Fault("write", errno.EIO, taken=30))
    files.inject(Fault("truncate"))
    with pytest.raises(StorageFailed) as raised:
        engine.put(digest(2), b"n", b"w")
    assert raised.value.maybe_applied
    with pytest.raises(StorageFailed):
        engine.put(digest(2), b"n", b"w")
    assert engine.get(digest(1)) == b"v"
    files.kill()
    assert contents(open_log(files)) == {digest(1): b"v"}


def test_sync_that_ends_after_a_failed_roll_back_lets_no_write_in() -> None:
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    request = engine.sync_begin()
    assert request is not None
    files.inject(Fault("write", errno.EIO, taken=30))
    files.inject(Fault("truncate"))
    with pytest.raises(StorageFailed):
        engine.put(digest(2), b"n", b"w")
    request.run()
    engine.sync_done(request, None)
    before = len(files.trace)
    with pytest.raises(StorageFailed):
        engine.put(digest(2), b"n", b"w")
    assert len(files.trace) == before


def test_numbers_that_fit_no_field_are_the_callers_fault() -> None:
    engine = open_log(SimFiles())
    for space in (-1, 1 << 32):
        with pytest.raises(InvalidRequest):
            engine.put(digest(1), b"n", b"v", space)
        with pytest.raises(InvalidRequest):
            engine.put_many([(digest(1), b"n", b"v")], space)
    assert contents(engine) == {}


# Spaces.


def test_retired_space_goes_from_disk_and_memory() -> None:
    files = SimFiles()
    engine = open_log(files)
    for number in range(200):
        engine.put(digest(number), b"n", bytes(100), 1 + number % 2)
    engine.retire(1)
    assert (engine.count(1), engine.count(2)) == (0, 100)
    before = engine.statistics().stored_bytes
    settle(engine)
    assert engine.statistics().keys == 100
    assert engine.statistics().stored_bytes < 0.7 * before
    engine.close()
    engine = open_log(files)
    engine.declare_spaces([2])
    assert engine.count(2) == 100


def test_seventy_thousand_flushes_of_a_bucket_leave_nothing_behind() -> None:
    """Each gives the bucket a new space; their numbers must not fill the index up."""
    index = keydir.Keydir(1)
    handle = index.attach(bytearray(1 << 10), bytes(16), 0)
    codec = segment.Codec(bytes(16))
    for space in range(1, 70_001):
        record = codec.encode(0, space, digest(1), b"", b"", space)
        index.put(handle, 0, record)
        if space > 1:
            index.retire(space - 1)
        assert index.count(space) == 1
    assert index.spaces_known() == [70_000]


# System table and accepted loss.


def test_unreadable_system_value_is_an_error_not_an_older_one() -> None:
    files = SimFiles()
    engine = open_log(files)
    engine.system_put(b"bucket", b"older value")
    engine.system_put(b"bucket", b"newer value")
    engine.system_put(b"gone", b"soon")
    engine.system_put(b"gone", b"")
    engine.close()
    assert list(open_log(files).system_items()) == [(b"bucket", b"newer value")]
    files.kill()
    files.flip(FIRST, files.content(FIRST).index(b"newer value"))
    for with_snapshot in (True, False):
        if not with_snapshot:
            files.remove(f"{DIRECTORY}/0000000001.keydir")
        engine = open_log(files)
        assert engine.losses
        with pytest.raises(CorruptRecord):
            engine.system_items()
        files.kill()
    engine = open_log(files)
    engine.system_put(b"bucket", b"repaired")
    assert list(engine.system_items()) == [(b"bucket", b"repaired")]
    with pytest.raises(InvalidRequest):
        engine.system_put(b"bucket", bytes((1 << 20) + 1))


# What it costs.


def test_index_and_open_stay_within_their_memory(tmp_path: Path) -> None:
    """At most 48 bytes a key by the tables' own count (measured as resident memory by the benchmarks)."""
    engine = LogEngine.open(str(tmp_path / "log"))
    for first in range(0, 40_000, 1000):
        engine.put_many([(digest(number), b"", b"v") for number in range(first, first + 1000)])
    assert engine.statistics().index_bytes < 48 * 40_000 + 1024 * 64
    engine.close()


def test_real_files_behave_as_the_simulated_ones(tmp_path: Path) -> None:
    """Rotation, maintenance, kill (nothing closed) and reopening on the operating system's files."""
    path = str(tmp_path / "deep" / "log")
    engine = LogEngine.open(path, files=SystemFiles(), segment_bytes_max=1 << 14, partitions=2)
    for turn in range(2000):
        engine.put(digest(turn % 100), b"n", b"%d" % turn * 9)
        if turn % 100 == 0:
            engine.sync()
            engine.maintain(1 << 14)
    settle(engine)
    expected = [b"%d" % turn * 9 for turn in range(1900, 2000)]
    assert engine.get_many([digest(number) for number in range(100)]) == expected
    # As a kill leaves it: no footer, no close; only the lock is given back.
    engine._lock.release()
    second = LogEngine.open(path, partitions=64)
    assert second.get_many([digest(number) for number in range(100)]) == expected
    assert second.losses == 0
    second.close()
