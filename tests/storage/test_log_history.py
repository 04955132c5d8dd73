"""Bugs of other logs of this design, each as a test: what happened there must not happen here.

The numbers are those of the list of lessons from Bitcask's history (deletes that came back, merges that lost
data, locks that stuck).
"""

from __future__ import annotations

import errno
import random

import pytest

from sadik.errors import CorruptRecord, DirectoryLocked, InvalidRequest, StorageError, StorageFull
from sadik.sim.files import Fault, SimFiles
from sadik.storage.log_engine import LogEngine
from sadik.storage.segment_file import CHUNK_BYTES
from tests.storage.log_story import DIRECTORY, StillClock, contents, digest, open_log

KEY = digest(1)


def settle(engine: LogEngine, rounds: int = 25) -> None:
    """Maintenance until there is nothing left to do."""
    for _ in range(rounds):
        while engine.maintain(1 << 20):
            pass
        engine.sync()


def fill(engine: LogEngine, files: SimFiles, count: int = 60, *, first: int = 100) -> None:
    """Other keys, enough to begin the next segment."""
    for number in range(count):
        engine.put(digest(first + number), b"n", bytes(100))


def segments(files: SimFiles) -> list[str]:
    return [path for path in files.paths() if path.endswith(".segment")]


def test_1_removal_is_kept_while_an_older_file_may_hold_the_value() -> None:
    """Partial merges dropped tombstones whose value lay in a file that was not merged; restart brought the
    key back.

    Here the removal's own segment becomes garbage and is compacted, the value's segment is not touched.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(KEY, b"n", b"old value")
    fill(engine, files)
    engine.remove(KEY)
    for _ in range(4):
        fill(engine, files, 40, first=300)
    settle(engine)
    assert engine.get(KEY) is None
    engine.close()
    engine = open_log(files)
    assert engine.get(KEY) is None
    settle(engine)
    files.kill()
    assert open_log(files).get(KEY) is None


def test_2_copy_made_by_compaction_never_wins_over_a_later_delete() -> None:
    """A merged copy lay in a file of higher number than the delete; on reopening the higher number won."""
    files = SimFiles()
    engine = open_log(files)
    engine.put(KEY, b"n", b"value")
    fill(engine, files, 30)
    fill(engine, files, 30)
    engine.sync()
    while not engine.statistics().details["compacted_bytes"]:
        engine.maintain(1)
        engine.sync()
    engine.remove(KEY)
    settle(engine)
    assert engine.get(KEY) is None
    engine.close()
    assert open_log(files).get(KEY) is None


def test_3_removals_do_not_pile_up() -> None:
    """Tombstones that could never be dropped kept the disk from shrinking, here with keys that stay in front
    of them.
    """
    files = SimFiles()
    engine = open_log(files)
    for number in range(30):
        engine.put(digest(number), b"n", bytes(60))
    for turn in range(40):
        for number in range(1000, 1030):
            engine.put(digest(number), b"n", b"%d" % turn)
        for number in range(1000, 1030):
            engine.remove(digest(number))
        settle(engine, 4)
    settle(engine)
    assert engine.statistics().keys == 30
    assert engine.statistics().stored_bytes < 16_000
    engine.close()
    assert len(contents(open_log(files))) == 30


def test_4_reading_never_writes() -> None:
    """Expiry found by a read deleted the key, and with it a newer write. Reads here leave the disk alone."""
    files = SimFiles()
    engine = open_log(files)
    engine.put(KEY, b"n", b"v")
    before = len(files.trace)
    engine.get(KEY)
    engine.get_many([KEY, digest(2)])
    engine.read_batch(1, KEY)
    engine.scan(b"", b"\xff" * 16, 10)
    engine.statistics()
    assert len(files.trace) == before


def test_5_records_that_fail_their_check_never_stop_the_start() -> None:
    """Keys loaded from entries with a bad check crashed the start."""
    files = SimFiles()
    engine = open_log(files)
    for number in range(20):
        engine.put(digest(number), b"n", b"value")
    engine.close()
    path = segments(files)[0]
    rng = random.Random(5)
    for _ in range(60):
        copy = files.fork()
        for place in rng.sample(range(len(copy.content(path))), 20):
            copy.damage(path, place, rng.randbytes(1))
        if rng.random() < 0.7:
            copy.remove(path.replace(".segment", ".keydir"))
        engine = open_log(copy)
        assert set(contents(engine).values()) <= {b"value", None}
        engine.put(KEY, b"n", b"v")


def test_6_zero_filled_tail_ends_the_log() -> None:
    """Zeros decoded as a record with an empty key, again and again, and the start never ended."""
    files = SimFiles()
    engine = open_log(files)
    engine.put(KEY, b"n", b"v")
    files.kill()
    path = segments(files)[0]
    files.open(path, write=True).write_at(bytes(3 * CHUNK_BYTES), len(files.content(path)))
    engine = open_log(files)
    assert contents(engine) == {KEY: b"v"}


@pytest.mark.parametrize("around", [-1, 0, 1, 47, 48, 49])
def test_7_file_that_ends_with_a_read_piece_is_read_to_its_end(around: int) -> None:
    """A file of exactly one piece was cut short: a full read was taken for "more", the next one for the
    end.
    """
    files = SimFiles()
    engine = open_log(files, segment_bytes=4 * CHUNK_BYTES)
    engine.put(KEY, b"", bytes(CHUNK_BYTES - 48 + around))
    engine.put(digest(2), b"", b"after")
    engine.put(digest(3), b"", bytes(2 * CHUNK_BYTES + around))
    engine.put(digest(4), b"", b"last")
    files.kill()
    engine = open_log(files, segment_bytes=4 * CHUNK_BYTES)
    found = contents(engine)
    assert [len(found[digest(n)] or b"") for n in (1, 2, 3, 4)] == [
        *(CHUNK_BYTES - 48 + around, 5, 2 * CHUNK_BYTES + around, 4)
    ]


def test_8_clock_that_goes_back_loses_no_write() -> None:
    """Files and entries were ordered by wall time; after a step back newer writes lost."""

    class Falling(StillClock):
        now = 1_700_000_000_000

        def wall_ms(self) -> int:
            Falling.now -= 3_600_000
            return Falling.now

    files = SimFiles()
    for turn in range(5):
        engine = LogEngine.open(DIRECTORY, files=files, clock=Falling(), partitions=1, segment_bytes_max=4096)
        for number in range(50):
            engine.put(digest(number), b"n", b"turn %d" % turn)
        files.kill()
    engine = open_log(files)
    assert set(contents(engine).values()) == {b"turn 4"}


def test_9_lock_of_a_dead_process_is_no_lock() -> None:
    """Lock files with process numbers locked directories out for ever; here the system gives the lock
    back.
    """
    files = SimFiles()
    engine = open_log(files)
    with pytest.raises(DirectoryLocked):
        open_log(files)
    engine.put(KEY, b"n", b"v")
    files.kill()
    assert open_log(files).get(KEY) == b"v"
    files.kill()
    files.damage(f"{DIRECTORY}/LOCK", 0, b"")
    engine = open_log(files)
    engine.close()
    assert open_log(files).get(KEY) == b"v"


@pytest.mark.parametrize("kind", ["create", "write", "read", "remove", "rename"])
def test_10_failed_compaction_deletes_nothing_and_is_tried_again(kind: str) -> None:
    """The inputs of a merge that had failed were deleted; files and locks leaked; one file was merged again
    and again.
    """
    files = SimFiles()
    engine = open_log(files)
    for turn in range(120):
        engine.put(digest(turn % 20), b"n", b"%d" % turn * 30)
    engine.sync()
    expected = contents(engine)
    before = len(segments(files))
    files.inject(Fault(kind, errno.ENOSPC if kind == "write" else errno.EIO, "*0*.*", times=6))
    for _ in range(4):
        engine.maintain(1 << 20)
        assert contents(engine) == expected
        assert contents(open_log(files.fork())) == expected
        engine.sync()
    files.clear_faults()
    settle(engine)
    assert contents(engine) == expected
    # What was not readable once is kept until the next open has looked at it again.
    assert bool(engine.statistics().quarantined_segments) == (kind == "read")
    assert kind == "read" or len(segments(files)) < before
    settled = len(files.trace)
    settle(engine, 5)
    assert len(files.trace) == settled
    engine.close()
    assert contents(open_log(files)) == expected


def test_11_scan_that_is_left_off_holds_nothing() -> None:
    """A fold that was killed left the index frozen: later folds hung and memory doubled. A scan here is one
    call.
    """
    files = SimFiles()
    engine = open_log(files)
    fill(engine, files, 50)
    page = engine.scan(b"", b"\xff" * 16, 10)
    engine.remove(page[-1].digest)
    engine.put(KEY, b"n", b"v")
    rest = engine.scan(page[-1].digest, b"\xff" * 16, 100)
    assert len({entry.digest for entry in (*page, *rest)} - {KEY}) == 50


@pytest.mark.parametrize(
    "kind", ["create", "write", "sync", "names", "map", "read", "sync_directory", "lock"]
)
def test_12_open_that_failed_can_be_tried_again(kind: str) -> None:
    """A failed open left the index "not ready", and every later one waited for ever."""
    files = SimFiles()
    engine = open_log(files)
    fill(engine, files, 20)
    files.kill()
    for skip in range(8):
        files.inject(Fault(kind, skip=skip))
        try:
            open_log(files)
        except StorageError:
            pass
        else:
            files.kill()
        files.clear_faults()
        assert len(contents(open_log(files))) == 20
        files.kill()


def test_r1_deleted_key_stays_deleted_when_the_old_file_was_active_in_a_crash() -> None:
    """A file without a proper end could not be opened for a look, which merge read as "gone": it dropped the
    tombstone.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(KEY, b"n", b"old")
    fill(engine, files, 10)
    files.kill()
    engine = open_log(files)
    engine.remove(KEY)
    for _ in range(6):
        fill(engine, files, 20, first=500)
    engine.sync()
    files.inject(Fault("open", path="*0000000001.segment", times=3))
    settle(engine)
    assert engine.get(KEY) is None
    files.clear_faults()
    settle(engine)
    files.kill()
    assert open_log(files).get(KEY) is None


def test_r2_damaged_length_field_does_not_end_the_reading_of_a_file() -> None:
    """4 bytes of record 10's size were flipped: 99 of 100 were readable, merge kept 9."""
    files = SimFiles()
    engine = open_log(files, segment_bytes=1 << 16)
    for number in range(100):
        engine.put(digest(number), b"n", b"value %d" % number)
    engine.close()
    path = segments(files)[0]
    files.damage(path, files.content(path).index(digest(10)) - 12, b"\xff" * 4)
    expected = {digest(n): b"value %d" % n for n in range(100) if n != 10}
    engine = open_log(files, segment_bytes=1 << 16)
    with pytest.raises(CorruptRecord):
        engine.get(digest(10))
    settle(engine)
    assert {key: value for key, value in contents(engine).items() if value is not None} == expected
    assert engine.statistics().quarantined_segments == 1
    engine.close()
    engine = open_log(files, segment_bytes=1 << 16)
    assert {key: value for key, value in contents(engine).items() if value is not None} == expected
    with pytest.raises(CorruptRecord):
        engine.get(digest(10))


def test_r3_many_damaged_records_do_not_end_the_reading_of_a_file() -> None:
    """After 20 bad checks the scan gave up in silence, merge took that for success and left no data file at
    all.
    """
    files = SimFiles()
    engine = open_log(files, segment_bytes=1 << 16)
    for number in range(100):
        engine.put(digest(number), b"n", b"value %d" % number)
    engine.close()
    path = segments(files)[0]
    for number in range(20):
        files.flip(path, files.content(path).index(b"value %d" % number))
    for name in (path, path.replace(".segment", ".keydir")):
        copy = files.fork()
        if name != path:
            copy.remove(name)
        engine = open_log(copy, segment_bytes=1 << 16)
        settle(engine)
        engine.close()
        engine = open_log(copy, segment_bytes=1 << 16)
        found = contents(engine)
        assert [found[digest(n)] for n in range(100)] == [None] * 20 + [
            b"value %d" % n for n in range(20, 100)
        ]


def test_r4_no_value_means_deleted() -> None:
    """A value that began with the tombstone's word read as "not found". Removal is a flag of the record
    here.
    """
    files = SimFiles()
    engine = open_log(files)
    values = [b"", b"bitcask_tombstone", b"bitcask_tombstone2", bytes(48), b"SADIKSEG", b"\0\1\2"]
    # The bytes of a whole removal record, too.
    engine.put(digest(90), b"n", b"v")
    engine.remove(digest(90))
    engine.sync()
    values.append(files.content(segments(files)[0])[-48:])
    for number, value in enumerate(values):
        engine.put(digest(number), b"n", value)
    for _ in range(2):
        assert [engine.get(digest(number)) for number in range(len(values))] == values
        files.kill()
        engine = open_log(files)


def test_r5_what_is_called_durable_was_synced() -> None:
    """A durability option was silently without effect. Here a durable ticket means that file and directory
    were synced.
    """
    files = SimFiles()
    engine = open_log(files)
    ticket = engine.put(KEY, b"n", b"v")
    assert engine.durable_ticket < ticket
    engine.sync()
    assert engine.durable_ticket == ticket
    assert files.durable_content(segments(files)[0]) == files.content(segments(files)[0])
    files.power_cut(random.Random(0), "none")
    assert open_log(files).get(KEY) == b"v"


def test_failed_write_does_not_shift_later_ones() -> None:
    """Appending by mode instead of by offset, a part of a failed write stayed, and all later offsets were
    wrong.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(KEY, b"n", b"first")
    for taken in (0, 1, 60):
        files.inject(Fault("write", errno.ENOSPC, taken=0, skip=1))
        files.inject(Fault("write", 0, taken=taken))
        with pytest.raises(StorageFull):
            engine.put_many([(digest(2), b"n", b"refused"), (digest(3), b"n", b"refused")])
        files.clear_faults()
        assert contents(engine) == {KEY: b"first"}
    engine.put(digest(4), b"n", b"after")
    files.kill()
    assert contents(open_log(files)) == {KEY: b"first", digest(4): b"after"}


def test_caller_cannot_set_the_engines_flags() -> None:
    engine = open_log(SimFiles())
    for flags in (1, 4, 16, 64, 128):
        with pytest.raises(InvalidRequest):
            engine.put(KEY, b"n", b"v", 0, flags)
