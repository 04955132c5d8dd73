"""The log engine where rare things meet; each test tells the cause and the wrong outcome it had."""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from pathlib import Path

import pytest

from sadik.env.clock import SystemClock
from sadik.env.entropy import SystemEntropy
from sadik.env.files import SystemFiles
from sadik.errors import CorruptRecord, InternalError, StorageError, StorageFailed
from sadik.kernels import keydir
from sadik.sim.files import CrashPoint, Fault, SimFiles
from sadik.storage.log_files import Log, SegmentWriter
from sadik.storage.segment_file import LOG
from tests.storage.log_story import SEGMENT_BYTES, Story, contents, digest, open_log


def segments(files: SimFiles) -> dict[str, int]:
    """Bytes of each segment file."""
    return {path: len(files.content(path)) for path in files.paths() if path.endswith(".segment")}


def test_copies_of_many_unproven_segments_are_no_larger_than_other_segments() -> None:
    """Without syncs a crash leaves any number of unproven segments. One copy for all of them could reach
    4 GiB, where no record can be written any more: the directory never opened again.
    """
    files = SimFiles()
    engine = open_log(files)
    for number in range(200):
        engine.put(digest(number), b"n", bytes(300))
    expected = contents(engine)
    before = set(segments(files))
    assert len(before) > 10
    files.kill()
    engine = open_log(files)
    assert contents(engine) == expected
    made = [size for path, size in segments(files).items() if path not in before]
    assert len(made) > 10
    assert max(made) <= SEGMENT_BYTES + 400


def test_tails_that_cannot_be_copied_do_not_keep_compaction_from_making_room() -> None:
    """A crash on a full disk leaves a tail to copy when there is room. That was tried first, in a
    loop without a wait: one step of maintenance took a million tries, and garbage was never freed.
    """
    files = SimFiles()
    engine = open_log(files)
    for turn in range(100):
        engine.put(digest(turn % 5), b"n", b"%03d" % turn * 100)
    engine.sync()
    engine.sync()
    engine.put(digest(7), b"n", bytes(300))
    expected = contents(engine)
    files.kill()
    files.capacity_bytes = sum(len(files.content(path)) for path in files.paths())
    engine = open_log(files)
    segments_before = engine.statistics().segments
    steps = len(files.trace)
    for _ in range(30):
        engine.maintain(1 << 20)
        engine.sync()
    assert len(files.trace) - steps < 2000
    assert engine.statistics().segments < segments_before
    engine.put(digest(8), b"n", b"room again")
    expected[digest(8)] = b"room again"
    assert contents(engine) == expected
    files.kill()
    assert contents(open_log(files)) == expected


def test_damaged_segment_that_cannot_be_moved_does_not_keep_compaction_from_making_room() -> None:
    """It was chosen first, again and again, although the disk had no room for its copy."""
    files = SimFiles()
    engine = open_log(files)
    for number in range(12):
        engine.put(digest(number), b"n", bytes(300))
    for turn in range(40):
        engine.put(digest(20 + turn % 3), b"n", b"%03d" % turn * 100)
    engine.close()
    first = min(segments(files))
    files.flip(first, files.content(first).index(bytes(300)) + 8)
    files.capacity_bytes = sum(len(files.content(path)) for path in files.paths()) + 500
    engine = open_log(files)
    with pytest.raises(CorruptRecord):
        engine.get(digest(0))
    before = engine.statistics().segments
    for _ in range(20):
        engine.maintain(1 << 20)
        engine.sync()
    assert engine.statistics().segments < before


@pytest.mark.parametrize("left", [0, 64, 128])
def test_synced_segment_cut_to_nothing_is_rot(left: int) -> None:
    """The next segment names it and says how long it was. Taken for a file that never got a record, it was
    removed in silence, and older values answered.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"old")
    engine.close()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"new")
    engine.put(digest(2), b"n", bytes(4000))
    engine.sync()
    engine.put(digest(3), b"n", bytes(4000))
    engine.sync()
    engine.put(digest(4), b"n", b"v")
    files.kill()
    cut = sorted(segments(files))[1]
    with suppress(FileNotFoundError):
        files.remove(cut.replace(".segment", ".keydir"))
    files.damage(cut, 0, bytes(128))
    files.open(cut, write=True).truncate(left)
    engine = open_log(files)
    assert engine.losses
    assert engine.get(digest(2)) == bytes(4000), "its number is behind those of the lost segment"
    for number in (1, 1000):
        with pytest.raises(CorruptRecord):
            engine.get(digest(number))


def test_accepted_loss_of_a_whole_segment_stays_accepted() -> None:
    """Its numbers are below those of the next log segment. "Everything so far" as the limit rose with each
    open, and so put all keys in doubt again.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    engine.put(digest(2), b"n", bytes(4000))
    engine.sync()
    engine.put(digest(3), b"n", bytes(4000))
    engine.sync()
    engine.put(digest(4), b"n", b"v")
    engine.close()
    lost = sorted(segments(files))[0]
    with suppress(FileNotFoundError):
        files.remove(lost.replace(".segment", ".keydir"))
    files.damage(lost, 0, bytes(len(files.content(lost))))
    engine = open_log(files)
    with pytest.raises(CorruptRecord):
        engine.get(digest(1000))
    engine.accept_loss()
    for turn in range(3):
        engine.put(digest(5), b"n", b"%d" % turn)
        assert engine.get(digest(1000)) is None
        engine.close()
        engine = open_log(files)
        assert engine.get(digest(5)) == b"%d" % turn
        assert engine.get(digest(4)) == b"v"
        assert engine.get(digest(1000)) is None


def test_sync_while_another_is_out_is_refused() -> None:
    """It would not cover the names that the one that is out covers, and would report both as done."""
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    request = engine.sync_begin()
    assert request is not None
    with pytest.raises(InternalError):
        engine.sync()
    assert engine.durable_ticket == 0
    request.run()
    engine.sync_done(request, None)
    assert engine.durable_ticket == 1


def test_close_while_a_sync_is_out_vouches_for_nothing() -> None:
    """The thread may meet an error that nobody hears of, and a second sync would not see it again: so there
    is no footer, and the next open copies and syncs.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"v")
    assert engine.sync_begin() is not None
    with pytest.raises(StorageFailed, match="sync"):
        engine.close()
    engine = open_log(files)
    assert len(segments(files)) == 2, "the readable rest was not copied"
    assert engine.get(digest(1)) == b"v"


def test_marks_and_footers_that_would_pass_4_gib_are_left_out(tmp_path: Path) -> None:
    """Both are best effort. At the very end of the largest segment the sync's report ended in an
    OverflowError.
    """
    log = Log(
        str(tmp_path),
        files=SystemFiles(),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        index=keydir.Keydir(1),
    )
    writer = SegmentWriter.create(log, kind=LOG, room=(1 << 32) - 1)
    writer.tail = (1 << 32) - 50
    writer.write_mark()
    assert writer.tail == (1 << 32) - 50
    writer.write_footer()
    assert writer.tail == (1 << 32) - 50
    writer.file.close()


def test_full_disk_after_a_failed_sync_still_makes_durable_what_the_open_found() -> None:
    """The pages pass for clean, so that a sync of them does nothing. They are written over themselves, which
    takes no room.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"old")
    engine.sync()
    engine.put(digest(1), b"n", b"new")
    files.inject(Fault("sync", loses=True))
    with pytest.raises(StorageFailed):
        engine.sync()
    files.kill()
    files.capacity_bytes = sum(len(files.content(path)) for path in files.paths())
    engine = open_log(files)
    assert engine.get(digest(1)) == b"new"
    assert engine.durable_ticket == 2
    files.power_cut(random.Random(0), "none")
    files.capacity_bytes = 1 << 20
    assert contents(open_log(files)) == {digest(1): b"new"}


def test_tail_that_the_disk_will_not_give_is_not_written_over() -> None:
    """The bytes that cannot be read are zeros to the reader, and stay on the disk as they are."""
    files = SimFiles()
    engine = open_log(files, segment_bytes=1 << 16)
    for number in range(6):
        engine.put(digest(number), b"n", b"%d" % number * 5000)
    files.kill()
    (path,) = segments(files)
    content = files.content(path)
    files.spoil(path, 12_000, 12_100)
    files.capacity_bytes = 0
    engine = open_log(files)
    assert engine.losses
    assert files.content(path) == content
    for number in (0, 5):
        with suppress(CorruptRecord):
            assert engine.get(digest(number)) == b"%d" % number * 5000


def test_unreadable_system_value_does_not_keep_compaction_busy_for_ever() -> None:
    """Its segment has no keys and cannot go. It was chosen again and again, a sync each time, and nothing
    else was compacted.
    """
    files = SimFiles()
    engine = open_log(files)
    engine.system_put(b"name", b"system value")
    for turn in range(100):
        engine.put(digest(turn % 3), b"n", b"%03d" % turn * 100)
    engine.close()
    first = min(segments(files))
    files.flip(first, files.content(first).index(b"system value"))
    engine = open_log(files)
    for _ in range(40):
        engine.maintain(1 << 20)
        engine.sync()
    assert files.exists(first)
    assert engine.statistics().segments <= 4
    steps = len(files.trace)
    for _ in range(10):
        engine.maintain(1 << 20)
        engine.sync()
    assert len(files.trace) == steps


def test_lives_on_a_disk_without_room_lose_nothing_that_an_open_has_found() -> None:
    """Full disks, failed syncs, deaths and power cuts together; each open promises that all it found is
    durable.
    """
    refused = 0
    for seed in range(10):
        files = SimFiles()
        story = Story(files, seed)
        rng = random.Random(seed)
        for life in range(5):
            if life:
                used = sum(len(files.content(path)) for path in files.paths())
                files.capacity_bytes = used + rng.choice((0, 0, 60, 500, 5000, 20_000))
            if rng.random() < 0.4:
                files.inject(Fault("sync", errno.EIO, skip=rng.randrange(30), loses=True))
            if rng.random() < 0.5:
                files.crash_before(len(files.trace) + rng.randrange(1, 200), taken=rng.choice((0, 1, 48)))
            refused += _live(story)
            files.clear_faults()
            cut = rng.random() < 0.7
            if cut:
                files.power_cut(rng)
            else:
                files.kill()
            if rng.random() < 0.5:
                files.capacity_bytes = 1 << 40
            story.check(story.open(), power_cut=cut)
            files.kill()
    assert refused > 100


def _live(story: Story) -> int:
    """One life of the process, until it dies, gives up or is old; returns how many writes were refused."""
    refused = 0
    with suppress(CrashPoint, StorageFailed):
        story.open()
        story.note_durable()
        for _ in range(150):
            try:
                story.run(1)
            except StorageFailed:
                raise
            except StorageError:
                refused += 1
    return refused
