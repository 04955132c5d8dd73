"""The log engine when its process or its machine dies, at every kind of step, on the simulated disk."""

from __future__ import annotations

import errno
import random

import pytest

from sadik.errors import StorageError, StorageFailed
from sadik.sim.files import CrashPoint, Fault, SimFiles
from sadik.storage.log_engine import LogEngine
from tests.storage.log_story import KEYS, Story, contents, digest, open_log

TAKEN = (0, 1, 47, 48, 64, 100)
FAULTY = (
    "create",
    "write",
    "truncate",
    "sync",
    "rename",
    "remove",
    "sync_directory",
    "map",
    "free_bytes",
    "open",
    "size",
)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_nothing_handed_over_is_lost_by_a_kill_and_nothing_durable_by_a_power_cut(first: int) -> None:
    """Several lives in a row, each ended at a random step: opening and recovering are among the steps."""
    for seed in range(first, first + 20):
        files = SimFiles()
        story = Story(files, seed)
        rng = random.Random(seed)
        for _ in range(4):
            files.crash_before(len(files.trace) + rng.randrange(1, 150), taken=rng.choice(TAKEN))
            try:
                story.open()
                story.run(200)
            except CrashPoint:
                pass
            cut = rng.random() < 0.7
            if cut:
                files.power_cut(rng)
            else:
                files.kill()
            story.check(story.open(), power_cut=cut)
            files.kill()


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_disk_errors_are_refusals_and_lose_nothing(first: int) -> None:
    """Any operation may fail in any way, some die on top of it; failed syncs lose what they were to make
    durable.
    """
    refusals = 0
    for seed in range(first, first + 20):
        files = SimFiles()
        story = Story(files, seed)
        rng = random.Random(seed)
        for _ in range(3):
            for _ in range(rng.randrange(1, 5)):
                kind = rng.choice(FAULTY)
                code = rng.choice(
                    (errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EMFILE, 0 if kind == "write" else errno.EIO)
                )
                times = rng.choice((1, 1, 2, 5))
                taken = rng.choice((0, 1, 50))
                files.inject(Fault(kind, code, "*", rng.randrange(30), times, taken, loses=kind == "sync"))
            if rng.random() < 0.3:
                files.crash_before(len(files.trace) + rng.randrange(1, 150), taken=rng.choice(TAKEN))
            refusals += _struggle(story)
            files.clear_faults()
            cut = rng.random() < 0.7
            if cut:
                files.power_cut(rng)
            else:
                files.kill()
            story.check(story.open(), power_cut=cut)
            files.kill()
    assert refusals > 20


def _struggle(story: Story) -> int:
    """Go on through refusals until the engine gives up or the process dies; returns how many there were."""
    refusals = 0
    try:
        while True:
            try:
                story.open()
                break
            except StorageError:
                refusals += 1
        for _ in range(150):
            try:
                story.run(1)
            except StorageFailed:
                return refusals + 1
            except StorageError:
                refusals += 1
    except CrashPoint:
        pass
    return refusals


def filled(files: SimFiles) -> tuple[LogEngine, dict[bytes, bytes | None]]:
    """An engine with several sealed segments that are mostly garbage, removals and system values among it."""
    engine = open_log(files)
    rng = random.Random(5)
    expected: dict[bytes, bytes | None] = {}
    for turn in range(180):
        key = digest(rng.randrange(KEYS))
        if turn % 9 == 4:
            engine.remove(key)
            expected.pop(key, None)
        else:
            expected[key] = rng.randbytes(90)
            engine.put(key, b"name", expected[key] or b"")
        if turn % 40 == 0:
            engine.system_put(b"name %d" % (turn // 80), b"value %d" % turn)
    engine.sync()
    engine.sync()
    return engine, expected


def compact(engine: LogEngine) -> None:
    """All there is to do, with the syncs it waits for."""
    for _ in range(60):
        while engine.maintain(600):
            pass
        engine.sync()


def test_compaction_frees_the_garbage_and_changes_nothing() -> None:
    files = SimFiles()
    engine, expected = filled(files)
    system = list(engine.system_items())
    before = engine.statistics().stored_bytes
    compact(engine)
    after = engine.statistics()
    assert contents(engine) == expected
    assert after.stored_bytes < before / 2
    assert after.stored_bytes < 3 * after.live_bytes + 4096
    engine.close()
    assert contents(open_log(files)) == expected
    files.kill()
    assert list(open_log(files).system_items()) == system


@pytest.mark.parametrize("cut", [False, True], ids=["kill", "power cut"])
def test_crash_at_any_step_of_compaction_changes_nothing(cut: bool) -> None:
    """Every write, sync, create, rename and removal of whole compactions, with every write torn in several
    ways.
    """
    files = SimFiles()
    engine, expected = filled(files)
    system = list(engine.system_items())
    files.kill()
    base = files.fork()
    probe = base.fork()
    compact(open_log(probe))
    steps = len(probe.trace)
    assert steps > 40
    assert {operation.kind for operation in probe.trace} >= {"create", "write", "sync", "rename", "remove"}
    for step in range(2, steps):
        dying = base.fork()
        dying.crash_before(step, taken=TAKEN[step % len(TAKEN)])
        with pytest.raises(CrashPoint):
            compact(open_log(dying, seed=1))
        if cut:
            dying.power_cut(random.Random(step))
        else:
            dying.kill()
        engine = open_log(dying, seed=2)
        assert contents(engine) == expected, f"died before step {step}"
        assert list(engine.system_items()) == system
        assert engine.losses == 0, engine.damages
        # What is left can go on from there.
        compact(engine)
        assert contents(engine) == expected, f"died before step {step}, compacted again"


def test_delete_racing_compaction_stays_deleted() -> None:
    """Between any two steps of a compaction a key is removed or written; the copy must not win over that."""
    for moment in range(0, 60, 3):
        files = SimFiles()
        engine, expected = filled(files)
        for step in range(90):
            engine.maintain(300)
            if step == moment:
                for number in range(0, KEYS, 2):
                    engine.remove(digest(number))
                    expected.pop(digest(number), None)
                engine.put(digest(1), b"name", b"written meanwhile")
                expected[digest(1)] = b"written meanwhile"
            engine.sync()
        assert contents(engine) == expected
        files.kill()
        assert contents(open_log(files)) == expected


def test_failed_sync_refuses_writes_and_the_next_open_writes_again_what_it_was_for() -> None:
    """After a failed sync the system shows pages that are not on the disk and never will be ("fsyncgate")."""
    files = SimFiles()
    engine = open_log(files)
    engine.put(digest(1), b"n", b"durable")
    engine.sync()
    engine.put(digest(1), b"n", b"only in memory")
    files.inject(Fault("sync", loses=True))
    with pytest.raises(StorageFailed):
        engine.sync()
    with pytest.raises(StorageFailed):
        engine.put(digest(2), b"n", b"refused")
    with pytest.raises(StorageFailed):
        engine.sync()
    assert engine.get(digest(1)) == b"only in memory"
    assert not engine.statistics().writable
    files.kill()
    engine = open_log(files)
    assert engine.get(digest(1)) == b"only in memory"
    files.power_cut(random.Random(0), "none")
    assert open_log(files).get(digest(1)) == b"only in memory"


def test_sync_on_another_thread_covers_what_was_written_before_it_began() -> None:
    files = SimFiles()
    engine = open_log(files)
    first = engine.put(digest(1), b"n", b"v")
    request = engine.sync_begin()
    assert request is not None
    second = engine.put(digest(2), b"n", b"v")
    request.run()
    engine.sync_done(request, None)
    assert first <= engine.durable_ticket < second
    engine.sync()
    assert engine.durable_ticket == second
    assert engine.sync_begin() is None
