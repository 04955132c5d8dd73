"""Bytes that changed behind the log engine's back: nothing wrong is served, nothing readable is lost, all of
it is told.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from sadik.errors import CorruptRecord, StorageError, WrongFormat
from sadik.kernels import segment
from sadik.sim.files import Fault, SimFiles
from sadik.storage import snapshot
from sadik.storage.engine import ABSENT, ERROR, STORED
from sadik.storage.log_engine import LogEngine
from tests.storage.log_story import DIRECTORY, contents, digest, open_log

FIRST = f"{DIRECTORY}/0000000001.segment"
SNAPSHOT = f"{DIRECTORY}/0000000001.keydir"
COUNT = 12
ABSENT_KEY = digest(1000)


def value(number: int) -> bytes:
    return b"value %d " % number * 3


def written(files: SimFiles, *, close: bool = True, synced: int = 0) -> None:
    """One segment with old and new records of several keys: keys 0 to 5 are written twice."""
    engine = open_log(files)
    for number in range(COUNT):
        engine.put(digest(number), b"name %d" % number, b"old" if number < 6 else value(number))
        if number < synced:
            engine.sync()
    for number in range(6):
        engine.put(digest(number), b"name %d" % number, value(number))
    if close:
        engine.close()
    else:
        files.kill()


def outcomes(engine: LogEngine) -> list[bytes | type[CorruptRecord] | None]:
    """What each key answers."""
    found: list[bytes | type[CorruptRecord] | None] = []
    for number in range(COUNT):
        try:
            found.append(engine.get(digest(number)))
        except CorruptRecord:
            found.append(CorruptRecord)
    return found


NEWEST = [value(number) for number in range(COUNT)]


def honest(engine: LogEngine) -> int:
    """Every key answers with its newest value or an error, the same by each way of reading; returns how many
    errors.
    """
    found = outcomes(engine)
    for number, answer in enumerate(found):
        assert answer in (value(number), CorruptRecord), f"key {number} answers {answer!r}"
    batch = engine.read_batch(COUNT, b"".join(map(digest, range(COUNT))))
    assert list(batch.status) == [ERROR if answer is CorruptRecord else STORED for answer in found]
    scanned = contents(engine)
    assert all(scanned.get(digest(n)) == (None if a is CorruptRecord else a) for n, a in enumerate(found))
    return found.count(CorruptRecord)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.torture)])
@pytest.mark.parametrize("with_snapshot", [True, False])
def test_any_flipped_bit_of_a_sealed_segment_costs_at_most_its_own_record(
    with_snapshot: bool, step: int
) -> None:
    """One at a time, in every byte. Without a snapshot a damaged header may cost more, but only errors, and
    never silently.
    """
    files = SimFiles()
    written(files)
    size = len(files.content(FIRST))
    if not with_snapshot:
        files.remove(SNAPSHOT)
    worst = told = 0
    for bit in range(0, size * 8, step):
        copy = files.fork()
        copy.flip(FIRST, bit // 8, 1 << bit % 8)
        engine = open_log(copy)
        errors = honest(engine)
        worst = max(worst, errors)
        if errors:
            assert engine.losses
            assert engine.statistics().corrupt_records
            told += 1
        engine.put(digest(3), b"n", b"repaired")
        assert engine.get(digest(3)) == b"repaired"
    assert told > size * 4 // step
    assert worst == 1 if with_snapshot else worst > 1


def test_damaged_header_without_a_snapshot_puts_older_and_absent_keys_in_doubt() -> None:
    """Nobody can know whose newest record it was; an older value, or "absent", might be a lie."""
    files = SimFiles()
    written(files)
    files.remove(SNAPSHOT)
    # The 15th record is the newest of key 2.
    record = files.content(FIRST).index(value(2)) - len(b"name 2") - 48
    files.flip(FIRST, record + 30)
    engine = open_log(files)
    found = outcomes(engine)
    assert found == [CorruptRecord] * 3 + NEWEST[3:6] + [CorruptRecord] * 6
    with pytest.raises(CorruptRecord, match="unreadable region"):
        engine.get(ABSENT_KEY)
    assert list(engine.read_batch(1, ABSENT_KEY).status) == [ERROR]
    engine.put(digest(0), b"n", b"new")
    assert engine.get(digest(0)) == b"new"
    engine.accept_loss()
    assert engine.get(digest(2)) == b"old"
    assert list(engine.read_batch(1, ABSENT_KEY).status) == [ABSENT]
    engine.close()
    assert open_log(files).get(digest(2)) == b"old"


def test_damaged_body_costs_exactly_its_key() -> None:
    """The header's own check says whose it is; the older value of the same key is not served in its place."""
    files = SimFiles()
    written(files)
    files.remove(SNAPSHOT)
    place = files.content(FIRST).index(value(4)) + 1
    files.flip(FIRST, place)
    engine = open_log(files)
    assert outcomes(engine) == [*NEWEST[:4], CorruptRecord, *NEWEST[5:]]
    assert engine.get(ABSENT_KEY) is None
    (damage,) = engine.damages
    assert (damage.segment, damage.offset) == (1, files.content(FIRST).index(b"name 4", place - 80) - 48)
    engine.remove(digest(4))
    assert engine.get(digest(4)) is None


def test_every_truncation_of_a_crashed_segment_is_a_prefix_of_the_history() -> None:
    """The last segment after a kill, cut at any byte: what is there is what was written up to some moment."""
    files = SimFiles()
    written(files, close=False)
    data = files.content(FIRST)
    history = [{digest(k): (b"old" if k < 6 else value(k)) for k in range(n)} for n in range(COUNT + 1)]
    history += [{**history[-1], **{digest(k): value(k) for k in range(n)}} for n in range(1, 7)]
    lengths = set()
    for length in range(len(data)):
        copy = files.fork()
        copy.open(FIRST, write=True).truncate(length)
        engine = open_log(copy)
        found = contents(engine)
        assert found in history
        assert engine.losses == 0
        lengths.add(history.index(found))
        engine.put(digest(50), b"n", b"v")
        engine.close()
        assert contents(open_log(copy)) == {**found, digest(50): b"v"}
    assert lengths == set(range(len(history) - 1))


def test_zeros_or_garbage_behind_the_last_record_are_no_damage() -> None:
    """A file may have grown before its data arrived; it must end the log, not be read as records or for
    ever.
    """
    for tail in (bytes(1), bytes(47), bytes(5000), b"\xff" * 300, random.Random(3).randbytes(5000)):
        files = SimFiles()
        written(files, close=False)
        files.open(FIRST, write=True).write_at(tail, len(files.content(FIRST)))
        engine = open_log(files)
        assert outcomes(engine) == NEWEST
        assert (engine.losses, engine.statistics().details["torn_bytes"]) == (0, len(tail))


@pytest.mark.parametrize("with_snapshot", [True, False])
def test_lost_header_is_found_in_the_footer_or_the_snapshot(with_snapshot: bool) -> None:
    """Nothing of a segment can be read without its salt, so the salt is there four times."""
    files = SimFiles()
    written(files)
    files.damage(FIRST, 0, bytes(128))
    if with_snapshot:
        files.damage(FIRST, len(files.content(FIRST)) - 136, bytes(136))
    else:
        files.remove(SNAPSHOT)
    assert outcomes(open_log(files)) == NEWEST


def test_segment_without_any_header_puts_all_keys_in_doubt_if_it_was_synced() -> None:
    """Nobody can know what it held. If no sync had covered it, a crash may have left it like this."""
    for synced in (True, False):
        files = SimFiles()
        engine = open_log(files)
        engine.put(digest(1), b"n", b"v")
        engine.sync()
        engine.put(digest(2), b"n", bytes(4000))
        if synced:
            engine.sync()
            engine.sync()
            engine.put(digest(3), b"n", bytes(4000))
            engine.sync()
            engine.put(digest(3), b"n", b"v")
        files.kill()
        files.damage(f"{DIRECTORY}/0000000002.segment", 0, bytes(128))
        if synced:
            files.open(f"{DIRECTORY}/0000000002.segment", write=True).truncate(4200)
        engine = open_log(files)
        assert bool(engine.losses) == synced
        if synced:
            with pytest.raises(CorruptRecord):
                engine.get(digest(1))
        else:
            assert contents(engine) == {digest(1): b"v"}


def test_unreadable_middle_of_what_was_synced_is_rot_although_the_end_is_missing() -> None:
    """The footer is not there after a crash; the marks tell that a sync had covered the place."""
    files = SimFiles()
    written(files, close=False, synced=6)
    files.flip(FIRST, files.content(FIRST).index(b"name 3") + 7)
    engine = open_log(files)
    assert engine.losses == 1
    assert outcomes(engine) == NEWEST
    files = SimFiles()
    written(files, close=False, synced=COUNT)
    files.flip(FIRST, files.content(FIRST).index(value(8)) + 1)
    engine = open_log(files)
    assert outcomes(engine) == [*NEWEST[:8], CorruptRecord, *NEWEST[9:]]


def test_cut_end_of_a_sealed_segment_is_not_taken_for_a_crash() -> None:
    """With the footer gone it looks like one; the next segment knows how long it was."""
    files = SimFiles()
    engine = open_log(files)
    for number in range(COUNT):
        engine.put(digest(number), b"n", b"old")
    for number in range(COUNT):
        engine.put(digest(number), b"n", value(number))
    while not files.exists(f"{DIRECTORY}/0000000002.segment"):
        engine.put(digest(100), b"n", bytes(500))
    engine.put(digest(101), b"n", b"v")
    engine.close()
    for with_snapshot in (True, False):
        copy = files.fork()
        if not with_snapshot:
            copy.remove(SNAPSHOT)
        copy.open(FIRST, write=True).truncate(copy.content(FIRST).index(value(10)))
        engine = open_log(copy)
        found = outcomes(engine)
        assert found[10] is found[11] is CorruptRecord
        assert engine.losses
        assert engine.get(digest(101)) == b"v"
        assert (found[:10] == NEWEST[:10]) == with_snapshot


@pytest.mark.parametrize("kind", ["deleted", "flipped", "cut", "longer", "another's", "empty", "unreadable"])
def test_bad_snapshot_changes_no_answer(kind: str) -> None:
    """It is derived; the data decides."""
    files = SimFiles()
    written(files)
    other = SimFiles()
    engine = open_log(other, seed=9)
    engine.put(digest(0), b"n", b"another history")
    engine.close()
    size = len(files.content(SNAPSHOT))
    for place in range(size if kind in ("flipped", "cut") else 1):
        copy = files.fork()
        match kind:
            case "deleted":
                copy.remove(SNAPSHOT)
            case "flipped":
                copy.flip(SNAPSHOT, place)
            case "cut":
                copy.open(SNAPSHOT, write=True).truncate(place)
            case "longer":
                copy.open(SNAPSHOT, write=True).write_at(b"x", size)
            case "empty":
                copy.open(SNAPSHOT, write=True).truncate(0)
            case "unreadable":
                copy.spoil(SNAPSHOT, 0, size)
            case "another's":
                copy.remove(SNAPSHOT)
                copy.open(SNAPSHOT, create=True).write_at(other.content(SNAPSHOT), 0)
        engine = open_log(copy)
        assert (outcomes(engine), engine.losses) == (NEWEST, 0)
        assert contents(engine) == dict(zip(map(digest, range(COUNT)), NEWEST, strict=True))


def test_snapshot_that_points_to_wrong_places_is_corrected_by_the_data() -> None:
    """Sound by its own checks, and wrong: the record's digest and check show it, the segment is looked
    through.
    """
    files = SimFiles()
    written(files)
    data = bytearray(files.content(SNAPSHOT))
    first, second = data[snapshot.HEAD_BYTES + 24 :][:4], data[snapshot.HEAD_BYTES + 40 * 14 + 24 :][:4]
    for number in range(COUNT + 6):
        place = snapshot.HEAD_BYTES + 40 * number + 24
        data[place : place + 4] = first if number % 2 else second
    entries = bytes(data[snapshot.HEAD_BYTES :])
    head = bytes(data[: snapshot.HEAD_BYTES - 8]) + segment.crc32c(entries).to_bytes(4, "little")
    files.damage(SNAPSHOT, 0, head + segment.crc32c(head).to_bytes(4, "little") + entries)
    engine = open_log(files)
    assert outcomes(engine) == NEWEST
    assert engine.losses == 0


def test_files_under_each_others_names_and_copies_of_files_change_nothing() -> None:
    """Numbers in records decide, never names or the order of files."""
    files = SimFiles()
    engine = open_log(files)
    for turn in range(300):
        engine.put(digest(turn % 40), b"n", b"%d" % turn * 10)
    engine.close()
    expected = contents(open_log(files.fork()))
    segments = [path for path in files.paths() if path.endswith(".segment")]
    assert len(segments) > 3
    swapped = files.fork()
    first, last = segments[0], segments[-1]
    swapped.rename(first, f"{first}-")
    swapped.rename(last, first)
    swapped.rename(f"{first}-", last)
    engine = open_log(swapped)
    assert (contents(engine), engine.losses) == (expected, 0)
    doubled = files.fork()
    copy = doubled.open(f"{DIRECTORY}/0000000099.segment", create=True)
    copy.write_at(files.content(first), 0)
    engine = open_log(doubled)
    assert (contents(engine), engine.losses) == (expected, 0)
    for _ in range(20):
        engine.maintain(10_000)
        engine.sync()
    assert contents(engine) == expected


def test_blocks_the_disk_will_not_give_are_errors_and_the_rest_is_kept() -> None:
    files = SimFiles()
    engine = open_log(files, segment_bytes=1 << 16)
    for number in range(300):
        engine.put(digest(number), b"n", b"%d" % number * 40)
    engine.close()
    files.remove(SNAPSHOT)
    files.spoil(FIRST, 9000, 9001)
    engine = open_log(files, segment_bytes=1 << 16)
    assert engine.losses
    found = contents(engine)
    assert all(
        found[key] in (None, b"%d" % n * 40) for n, key in enumerate(map(digest, range(300))) if key in found
    )
    # One block of 4096 bytes; what was written behind it is beyond doubt.
    assert sum(found.get(digest(number)) is not None for number in range(300)) > 200


def test_directory_that_cannot_be_read_is_not_opened_as_empty() -> None:
    """Taking any I/O error for "the file is gone" has brought deleted keys back elsewhere."""
    files = SimFiles()
    written(files)
    for kind in ("names", "open", "map", "size"):
        files.inject(Fault(kind, path="*log" if kind == "names" else "*.segment"))
        with pytest.raises(StorageError):
            open_log(files)
        assert outcomes(open_log(files)) == NEWEST
        files.kill()


def test_damaged_segment_is_kept_and_what_is_readable_of_it_is_moved() -> None:
    """Compaction meets the rot: the file stays, is counted, and the lost key stays an error through
    reopening.
    """
    files = SimFiles()
    written(files)
    files.flip(FIRST, files.content(FIRST).index(value(4)) + 1)
    engine = open_log(files)
    assert engine.get(digest(5)) == value(5)
    with pytest.raises(CorruptRecord):
        engine.get(digest(4))
    for _ in range(20):
        engine.maintain(10_000)
        engine.sync()
    assert files.exists(FIRST)
    assert engine.statistics().quarantined_segments == 1
    assert engine.statistics().segments == 2
    for _ in range(2):
        assert outcomes(engine) == [*NEWEST[:4], CorruptRecord, *NEWEST[5:]]
        engine.close()
        engine = open_log(files)
    engine.put(digest(4), b"n", b"again")
    for _ in range(20):
        engine.maintain(10_000)
        engine.sync()
    assert not files.exists(FIRST)
    assert engine.get(digest(4)) == b"again"


def test_rot_in_a_copy_is_never_taken_for_a_torn_tail() -> None:
    """Power fails right after compaction deleted its victims: the copy must have its durable footer by
    then.
    """
    files = SimFiles()
    engine = open_log(files)
    for number in range(10):
        engine.put(digest(number), b"n", b"live %d" % number * 9)
    for turn in range(100):
        engine.put(digest(10), b"n", b"%d" % turn * 40)
    while True:
        engine.maintain(1 << 20)
        if not files.exists(FIRST):
            break
        engine.sync()
    expected = contents(engine)
    # Names may become durable by themselves, as a file system commits its journal.
    files.sync_directory(DIRECTORY)
    files.power_cut(random.Random(0), "none")
    copies = [path for path in files.paths() if b"live 5" in files.content(path)]
    assert len(copies) == 1
    files.flip(copies[0], files.content(copies[0]).index(b"live 5"))
    engine = open_log(files)
    assert contents(engine) == {**expected, digest(5): None}
    with pytest.raises(CorruptRecord):
        engine.get(digest(5))


def test_newer_formats_are_refused_untouched() -> None:
    files = SimFiles()
    written(files)
    for path, place, data in ((f"{DIRECTORY}/FORMAT", 17, b"2"), (f"{DIRECTORY}/FORMAT", 0, b"x")):
        copy = files.fork()
        copy.damage(path, place, data)
        before = {path: copy.content(path) for path in copy.paths()}
        with pytest.raises(WrongFormat):
            open_log(copy)
        assert {path: copy.content(path) for path in copy.paths()} == before


def test_file_cut_under_a_live_engine_is_an_error_of_its_keys(tmp_path: Path) -> None:
    """Reads go through a memory map, where this would be the death of the process without the guard."""
    engine = LogEngine.open(str(tmp_path / "log"))
    for number in range(1000):
        engine.put(digest(number), b"n", b"%d" % number * 50)
    os.truncate(tmp_path / "log" / "0000000001.segment", 50_000)
    kept = lost = 0
    for number in range(1000):
        try:
            assert engine.get(digest(number)) == b"%d" % number * 50
            kept += 1
        except CorruptRecord:
            lost += 1
    assert kept > 100
    assert lost > 500
    assert engine.losses == lost
    batch = engine.read_batch(1000, b"".join(map(digest, range(1000))))
    assert list(batch.status).count(ERROR) == lost
    assert [entry.value for entry in engine.scan(b"", b"\xff" * 16, 2000)].count(None) == lost
