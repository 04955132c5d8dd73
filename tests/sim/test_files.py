"""The simulated disk: what it promises, what a power cut may take, and every fault it can play.

It judges the log engine, so each rule here is one the engine is measured by.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.env.files import File, Files, SystemFiles
from sadik.sim.disk import KEEPS, SECTOR_BYTES
from sadik.sim.files import CrashPoint, Fault, Operation, SimFiles

SEEDS = range(200)


def disk(**options: int) -> SimFiles:
    return SimFiles(directories=["/data"], **options)


def written(files: SimFiles, path: str, data: bytes, *, sync: bool = True) -> File:
    """A file with its name durable, and its bytes too when ``sync``."""
    file = files.open(path, create=True)
    file.write_at(data, 0)
    files.sync_directory(os.path.dirname(path))
    if sync:
        file.sync()
    return file


def ends(files: SimFiles, look: Callable[[SimFiles], object]) -> set[object]:
    """Every outcome that ``look`` sees over many power cuts of the same moment."""
    seen = set()
    for seed in SEEDS:
        copy = files.fork()
        copy.power_cut(random.Random(seed))
        seen.add(look(copy))
    return seen


def code_of(call: Callable[[], object]) -> int | None:
    """The errno a call fails with, or None."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


# The interface: the same answers as the operating system's.


@pytest.fixture(params=["simulated", "system"])
def any_files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    if request.param == "simulated":
        return SimFiles(directories=["/data"]), "/data"
    return SystemFiles(), str(tmp_path)


def test_names_behave_as_on_a_real_disk(any_files: tuple[Files, str]) -> None:
    """The same story on both; every answer and every errno has to agree with what is written here."""
    files, root = any_files
    files.make_directory(f"{root}/a/b")
    files.make_directory(f"{root}/a/b")
    files.open(f"{root}/a/one", create=True).close()
    assert code_of(lambda: files.open(f"{root}/a/one", create=True)) == errno.EEXIST
    assert code_of(lambda: files.open(f"{root}/a/two")) == errno.ENOENT
    assert code_of(lambda: files.open(f"{root}/z/two", create=True)) == errno.ENOENT
    assert code_of(lambda: files.open(f"{root}/a/one/two")) == errno.ENOTDIR
    assert code_of(lambda: files.names(f"{root}/z")) == errno.ENOENT
    assert code_of(lambda: files.names(f"{root}/a/one")) == errno.ENOTDIR
    assert code_of(lambda: files.remove(f"{root}/a/two")) == errno.ENOENT
    assert code_of(lambda: files.rename(f"{root}/a/two", f"{root}/a/one")) == errno.ENOENT
    assert code_of(lambda: files.sync_directory(f"{root}/z")) == errno.ENOENT
    assert code_of(lambda: files.make_directory(f"{root}/a/one")) == errno.EEXIST
    assert code_of(lambda: files.rename(f"{root}/a/one", f"{root}/a/b")) == errno.EISDIR
    assert code_of(lambda: files.remove(f"{root}/a/b")) == errno.EISDIR
    assert (files.exists(f"{root}/a/one"), files.exists(f"{root}/a/b"), files.exists(f"{root}/x")) == (
        True,
        True,
        False,
    )
    files.rename(f"{root}/a/one", f"{root}/a/one")
    files.rename(f"{root}/a/one", f"{root}/a/two")
    assert files.names(f"{root}/a") == ["b", "two"]
    files.remove(f"{root}/a/two")
    assert files.names(f"{root}/a") == ["b"]
    assert files.free_bytes(root) > 0


def test_a_file_behaves_as_on_a_real_disk(any_files: tuple[Files, str]) -> None:
    files, root = any_files
    file = files.open(f"{root}/f", create=True)
    assert file.write_at(b"hello", 3) == 5
    assert file.write_at(b"", 100) == 0
    assert (file.size(), file.read_at(100, 0), file.read_at(2, 4)) == (8, b"\0\0\0hello", b"el")
    assert file.read_at(5, 8) == b""
    file.truncate(4)
    file.truncate(6)
    assert file.read_at(10, 0) == b"\0\0\0h\0\0"
    file.sync()
    reader = files.open(f"{root}/f")
    assert code_of(lambda: reader.write_at(b"x", 0)) == errno.EBADF
    assert reader.read_at(1, 3) == b"h"
    writer = files.open(f"{root}/f", write=True)
    writer.write_at(b"H", 3)
    assert reader.read_at(1, 3) == b"H"
    files.remove(f"{root}/f")
    assert reader.read_at(1, 3) == b"H", "a removed file lives on in its handles"
    for each in (file, reader, writer):
        each.close()
        each.close()
    assert code_of(lambda: file.read_at(1, 0)) == errno.EBADF


def test_a_lock_is_exclusive_until_released(any_files: tuple[Files, str]) -> None:
    files, root = any_files
    lock = files.lock(f"{root}/LOCK")
    assert code_of(lambda: files.lock(f"{root}/LOCK")) == errno.EWOULDBLOCK
    lock.release()
    lock.release()
    again = files.lock(f"{root}/LOCK")
    lock.release()
    assert code_of(lambda: files.lock(f"{root}/LOCK")) == errno.EWOULDBLOCK
    again.release()


def test_mapping_shows_later_writes_and_outlives_the_handle(any_files: tuple[Files, str]) -> None:
    files, root = any_files
    file = files.open(f"{root}/f", create=True)
    file.write_at(b"abc", 0)
    view = memoryview(file.map(1 << 16))
    assert bytes(view[:3]) == b"abc"
    file.write_at(b"xyz" * 1000, 2)
    file.close()
    assert bytes(view[:8]) == b"abxyzxyz"
    assert view.readonly


def test_mapping_follows_truncation_and_is_freed_with_its_view() -> None:
    files = disk()
    file = written(files, "/data/f", b"abcdef")
    view = memoryview(file.map(8))
    file.truncate(2)
    assert bytes(view) == b"ab" + bytes(6)
    file.write_at(b"0123456789", 0)
    assert bytes(view) == b"01234567"
    with pytest.raises(ValueError, match="length"):
        file.map(0)
    inode = file._inode  # type: ignore[attr-defined]
    del view
    file.write_at(b"-", 0)
    assert inode.mappings == []


# What a power cut takes and leaves.


def test_synced_bytes_under_a_synced_name_always_survive() -> None:
    files = disk()
    file = written(files, "/data/f", b"safe")
    file.write_at(b"-and-more", 4)
    assert ends(files, lambda copy: copy.content("/data/f")[:4]) == {b"safe"}


def test_unsynced_bytes_may_be_lost_kept_or_torn() -> None:
    """All three must really come up, or runs on this disk prove nothing."""
    files = disk()
    file = written(files, "/data/f", b"", sync=True)
    file.write_at(b"x" * 2000, 0)
    seen = ends(files, lambda copy: copy.content("/data/f"))
    assert {b"", b"x" * 2000} <= seen
    assert any(0 < len(end) < 2000 for end in seen)  # type: ignore[arg-type]


def test_bytes_without_a_synced_name_are_lost_with_it() -> None:
    """The Z24 of other stores: a segment was synced, its directory was not, and the segment was gone."""
    files = disk()
    file = files.open("/data/f", create=True)
    file.write_at(b"x", 0)
    file.sync()
    assert ends(files, lambda copy: tuple(copy.paths())) == {(), ("/data/f",)}


def test_directory_made_without_syncing_its_parent_is_lost_with_all_in_it() -> None:
    files = disk()
    files.make_directory("/data/node")
    written(files, "/data/node/f", b"x")
    assert ends(files, lambda copy: tuple(copy.paths())) == {(), ("/data/node/f",)}
    files.sync_directory("/data")
    assert ends(files, lambda copy: tuple(copy.paths())) == {("/data/node/f",)}


def test_rename_is_atomic_and_leaves_one_name() -> None:
    """Old or new content under the target, never neither; a kept rename leaves no source."""
    files = disk()
    written(files, "/data/f", b"old")
    written(files, "/data/f.tmp", b"new")
    files.rename("/data/f.tmp", "/data/f")
    seen = ends(files, lambda copy: tuple((path, copy.content(path)) for path in copy.paths()))
    assert seen == {
        (("/data/f", b"old"), ("/data/f.tmp", b"new")),
        (("/data/f", b"new"),),
    }


def test_two_renames_never_give_a_file_two_names() -> None:
    """Only the second of them kept: the first name goes all the same."""
    files = disk()
    written(files, "/data/a", b"x")
    files.rename("/data/a", "/data/b")
    files.rename("/data/b", "/data/c")
    seen = ends(files, lambda copy: tuple(copy.paths()))
    assert seen == {("/data/a",), ("/data/b",), ("/data/c",)}


def test_changes_of_names_are_kept_independently() -> None:
    """A removal may reach the disk though an earlier rename did not: the order is the engine's to enforce."""
    files = disk()
    written(files, "/data/old", b"x")
    written(files, "/data/new.tmp", b"x")
    files.rename("/data/new.tmp", "/data/new")
    files.remove("/data/old")
    seen = ends(files, lambda copy: tuple(copy.paths()))
    assert seen == {
        ("/data/new.tmp", "/data/old"),
        ("/data/new", "/data/old"),
        ("/data/new",),
        ("/data/new.tmp",),
    }


def test_writes_may_reach_the_disk_out_of_order_and_in_pieces() -> None:
    """A later write without an earlier one; the hole reads as zeros or as garbage; sectors come singly."""
    files = disk()
    file = written(files, "/data/f", b"")
    file.write_at(b"a" * 1000, 0)
    file.write_at(b"b" * 1000, 1000)
    seen = {bytes(end) for end in ends(files, lambda copy: copy.content("/data/f"))}  # type: ignore[call-overload]
    holes = [end[:1000] for end in seen if end[1000:] == b"b" * 1000 and end[:1000] != b"a" * 1000]
    assert bytes(1000) in holes
    assert any(hole.strip(b"\0a") for hole in holes), "garbage"
    assert any(
        end[:SECTOR_BYTES] != b"a" * SECTOR_BYTES and end[SECTOR_BYTES:1000] == b"a" * (1000 - SECTOR_BYTES)
        for end in seen
    ), "one sector of a write without another"
    assert any(len(end) == 2000 and not end[1000:].strip(b"\0") for end in seen), "size without bytes"


def test_unsynced_overwrite_leaves_old_or_new_bytes_never_garbage() -> None:
    files = disk()
    file = written(files, "/data/f", b"o" * 3000)
    file.write_at(b"n" * 3000, 0)
    for end in ends(files, lambda copy: copy.content("/data/f")):
        assert set(end) <= set(b"on")  # type: ignore[call-overload]


def test_unsynced_truncation_may_come_undone() -> None:
    """A roll-back of a failed write is a change like any other."""
    files = disk()
    file = written(files, "/data/f", b"abc")
    file.truncate(1)
    assert ends(files, lambda copy: copy.content("/data/f")) == {b"abc", b"a"}
    file.sync()
    assert ends(files, lambda copy: copy.content("/data/f")) == {b"a"}


@pytest.mark.parametrize(("keep", "end"), [("none", b"one"), ("all", b"one-two-three")])
def test_both_extremes_can_be_asked_for(keep: str, end: bytes) -> None:
    files = disk()
    file = written(files, "/data/f", b"one")
    file.write_at(b"-two", 3)
    file.write_at(b"-three", 7)
    assert keep in KEEPS
    files.power_cut(random.Random(0), keep)  # type: ignore[arg-type]
    assert files.content("/data/f") == files.durable_content("/data/f") == end


def test_power_cut_kills_handles_and_frees_locks() -> None:
    files = disk()
    file, lock = written(files, "/data/f", b"x"), files.lock("/data/LOCK")
    view = memoryview(file.map(4))
    files.power_cut(random.Random(1))
    for call in (lambda: file.read_at(1, 0), lambda: file.write_at(b"y", 0), file.sync, file.size):
        assert code_of(call) == errno.ESTALE
    files.lock("/data/LOCK")
    lock.release()
    assert code_of(lambda: files.lock("/data/LOCK")) == errno.EWOULDBLOCK
    files.open("/data/f", write=True).write_at(b"z", 0)
    assert bytes(view[:1]) == b"x"
    file.close()


def test_the_same_seed_gives_the_same_end() -> None:
    def end(seed: int) -> dict[str, bytes]:
        files = disk()
        for name in "abcdef":
            file = files.open(f"/data/{name}", create=True)
            for i in range(5):
                file.write_at(name.encode() * 700, i * 650)
        files.power_cut(random.Random(seed))
        return {path: files.content(path) for path in files.paths()}

    assert all(end(seed) == end(seed) for seed in range(20))
    assert len({repr(end(seed)) for seed in range(20)}) > 10


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1500), st.binary(max_size=600)),
        st.tuples(st.just("truncate"), st.integers(0, 1500)),
        st.tuples(st.just("sync")),
    ),
    max_size=12,
)


@given(STEPS, st.integers(0, 2**32))
def test_content_is_what_a_plain_array_would_be_and_the_end_is_legal(
    steps: list[tuple[object, ...]], seed: int
) -> None:
    """Every byte of an end was at that place at the last sync or in a later write, or lies in a hole."""
    files = disk()
    file = written(files, "/data/f", b"")
    model = bytearray()
    durable, since, lengths = b"", [], {0}
    for step in steps:
        match step:
            case ("write", int(offset), bytes(data)):
                if data:
                    model.extend(bytes(max(0, offset - len(model))))
                    model[offset : offset + len(data)] = data
                    since.append((offset, data))
                file.write_at(data, offset)
            case ("truncate", int(length)):
                del model[length:]
                model.extend(bytes(length - len(model)))
                file.truncate(length)
            case _:
                file.sync()
                durable, since, lengths = bytes(model), [], set()
        lengths.add(len(model))
        assert file.read_at(5000, 0) == model
        assert files.durable_content("/data/f") == durable
    changed = bool(since) or len(lengths) > 1
    files.power_cut(random.Random(seed))
    end = files.content("/data/f")
    if not changed:
        assert end == durable
    for place, byte in enumerate(end[: len(durable)]):
        legal = {durable[place], 0} | {
            data[place - offset] for offset, data in since if offset <= place < offset + len(data)
        }
        if byte not in legal:
            # Garbage only where a truncation may have cut the durable bytes away first.
            assert any(length <= place for length in lengths)


# Death of the process.


def test_kill_keeps_what_was_handed_over_but_makes_nothing_durable() -> None:
    files = disk()
    file, _ = written(files, "/data/f", b"one", sync=False), files.lock("/data/LOCK")
    files.kill()
    assert code_of(lambda: file.read_at(1, 0)) == errno.ESTALE
    files.lock("/data/LOCK")
    assert files.content("/data/f") == b"one"
    files.power_cut(random.Random(0), "none")
    assert files.content("/data/f") == b""


def test_crash_stops_before_the_operation_and_nothing_later_counts() -> None:
    """Cleanup code runs in the dying process, and must find that it changes nothing."""
    files = disk()
    file = written(files, "/data/f", b"one")
    lock = files.lock("/data/LOCK")
    count = len(files.trace)
    files.crash_before(count + 1)
    file.write_at(b"1", 0)
    try:
        with pytest.raises(CrashPoint):
            file.write_at(b"2", 1)
    finally:
        for call in (lambda: files.remove("/data/f"), file.sync, file.size, lambda: files.exists("/data/f")):
            with pytest.raises(CrashPoint):
                call()
        file.close()
        lock.release()
    assert len(files.trace) == count + 1
    assert not issubclass(CrashPoint, Exception)
    files.kill()
    assert files.content("/data/f") == b"1ne"
    files.lock("/data/LOCK")
    files.open("/data/f", write=True).write_at(b"3", 0)


def test_crash_within_a_write_hands_over_its_first_bytes() -> None:
    files = disk()
    file = written(files, "/data/f", b"")
    files.crash_before(len(files.trace), taken=2)
    with pytest.raises(CrashPoint):
        file.write_at(b"abc", 0)
    files.kill()
    assert files.content("/data/f") == b"ab"
    with pytest.raises(ValueError, match="has run"):
        files.crash_before(0)


def test_trace_counts_what_changes_or_syncs_and_nothing_else() -> None:
    files = disk()
    file = written(files, "/data/f", b"x")
    file.read_at(1, 0)
    file.size()
    file.map(1)
    files.names("/data")
    files.open("/data/f")
    assert files.trace == [
        Operation("create", "/data/f"),
        Operation("write", "/data/f"),
        Operation("sync_directory", "/data"),
        Operation("sync", "/data/f"),
    ]


def test_fork_has_the_same_future_and_no_handles() -> None:
    """One story, many ends: the copy neither shares bytes with the original nor knows its locks."""
    files = disk()
    file = written(files, "/data/f", b"one", sync=False)
    files.rename("/data/f", "/data/g")
    files.lock("/data/LOCK")
    copy = files.fork()
    file.write_at(b"TWO", 0)
    file.sync()
    copy.lock("/data/LOCK")
    assert copy.content("/data/g") == b"one"
    assert copy.durable_content("/data/g") == b""
    for seed in range(30):
        first, second = copy.fork(), copy.fork()
        first.power_cut(random.Random(seed))
        second.power_cut(random.Random(seed))
        assert first.paths() == second.paths()
        assert [first.content(path) for path in first.paths()] == [
            second.content(path) for path in second.paths()
        ]


# Faults.


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("create", lambda files, file: files.open("/data/new", create=True)),
        ("open", lambda files, file: files.open("/data/f")),
        ("read", lambda files, file: file.read_at(1, 0)),
        ("write", lambda files, file: file.write_at(b"y", 0)),
        ("truncate", lambda files, file: file.truncate(0)),
        ("sync", lambda files, file: file.sync()),
        ("map", lambda files, file: file.map(1)),
        ("size", lambda files, file: file.size()),
        ("names", lambda files, file: files.names("/data")),
        ("make_directory", lambda files, file: files.make_directory("/data/d")),
        ("rename", lambda files, file: files.rename("/data/f", "/data/g")),
        ("remove", lambda files, file: files.remove("/data/f")),
        ("sync_directory", lambda files, file: files.sync_directory("/data")),
        ("lock", lambda files, file: files.lock("/data/LOCK")),
        ("free_bytes", lambda files, file: files.free_bytes("/data")),
    ],
)
def test_any_operation_fails_the_nth_time_and_changes_nothing(
    kind: str, call: Callable[[SimFiles, File], object]
) -> None:
    files = disk()
    file = written(files, "/data/f", b"x", sync=False)
    files.inject(Fault(kind, errno.EIO, path="/elsewhere/*"))

    def state() -> object:
        contents = files.content("/data/f"), files.durable_content("/data/f")
        return files.names("/data"), contents, set(files.locked)

    before = state()
    files.inject(Fault(kind, errno.ENOSPC, path="/data*", times=2))
    for _ in range(2):
        assert code_of(lambda: call(files, file)) == errno.ENOSPC
    assert state() == before
    call(files, file)


def test_fault_waits_for_its_turn_and_can_be_cleared() -> None:
    files = disk()
    file = written(files, "/data/f", b"")
    files.inject(Fault("write", errno.EIO, skip=2))
    assert [code_of(lambda: file.write_at(b"x", 0)) for _ in range(4)] == [None, None, errno.EIO, None]
    files.inject(Fault("write", times=1000))
    files.clear_faults()
    file.write_at(b"x", 0)
    with pytest.raises(ValueError, match="no operation"):
        files.inject(Fault("wriet"))


def test_write_can_be_short_or_fail_after_some_bytes() -> None:
    files = disk()
    file = written(files, "/data/f", b"")
    files.inject(Fault("write", 0, taken=3))
    assert file.write_at(b"abcdef", 0) == 3
    files.inject(Fault("write", errno.EIO, taken=2))
    assert code_of(lambda: file.write_at(b"ABCDEF", 0)) == errno.EIO
    assert files.content("/data/f") == b"ABc"


def test_failed_sync_that_loses_shows_new_bytes_and_forgets_them() -> None:
    """Linux after EIO: pages are clean, the next sync says OK, and the disk has the old bytes."""
    files = disk()
    file = written(files, "/data/f", b"old")
    file.write_at(b"new", 0)
    files.inject(Fault("sync", errno.EIO, loses=True))
    assert code_of(file.sync) == errno.EIO
    file.write_at(b"+later", 3)
    file.sync()
    assert file.read_at(9, 0) == b"new+later"
    files.power_cut(random.Random(0))
    assert files.content("/data/f") == b"old+later"


def test_failed_sync_may_also_keep_everything_dirty() -> None:
    files = disk()
    file = written(files, "/data/f", b"", sync=False)
    file.write_at(b"x", 0)
    files.inject(Fault("sync", errno.EIO))
    assert code_of(file.sync) == errno.EIO
    assert files.durable_content("/data/f") == b""
    file.sync()
    assert files.durable_content("/data/f") == b"x"


def test_lying_sync_reports_success() -> None:
    files = disk()
    file = written(files, "/data/f", b"x", sync=False)
    files.inject(Fault("sync", 0, loses=True))
    file.sync()
    assert files.durable_content("/data/f") == b""


def test_full_disk_takes_what_fits_then_refuses_and_recovers() -> None:
    """As tmpfs and ext4: a short count first, then ENOSPC; a removal gives room back."""
    files = disk(capacity_bytes=10)
    other = written(files, "/data/other", b"1234")
    file = written(files, "/data/f", b"")
    assert files.free_bytes("/data") == 6
    assert file.write_at(b"abcdefgh", 0) == 6
    assert code_of(lambda: file.write_at(b"gh", 6)) == errno.ENOSPC
    assert file.write_at(b"XYZ", 2) == 3, "overwriting needs no room"
    assert file.write_at(b"EFGH", 4) == 2
    assert code_of(lambda: file.write_at(b"x", 50)) == errno.ENOSPC
    files.remove("/data/other")
    assert code_of(lambda: file.write_at(b"gh", 6)) == errno.ENOSPC, "a handle still holds the removed file"
    other.close()
    assert file.write_at(b"gh", 6) == 2
    assert files.content("/data/f") == b"abXYEFgh"
    files.capacity_bytes = 100
    assert file.write_at(b"z" * 20, 50) == 20


def test_file_size_limit_is_short_first_then_efbig() -> None:
    files = disk(file_bytes_max=8)
    file = written(files, "/data/f", b"")
    assert file.write_at(b"0123456789", 0) == 8
    assert code_of(lambda: file.write_at(b"89", 8)) == errno.EFBIG
    assert code_of(lambda: file.truncate(9)) == errno.EFBIG
    files.file_bytes_max = 100
    assert file.write_at(b"89", 8) == 2


def test_flipped_bits_are_on_the_medium_and_in_every_view() -> None:
    files = disk()
    file = written(files, "/data/f", b"abc")
    view = memoryview(file.map(3))
    files.flip("/data/f", 1, 0x20)
    files.damage("/data/f", 2, b"!")
    assert file.read_at(3, 0) == bytes(view) == b"aB!"
    files.power_cut(random.Random(0))
    assert files.content("/data/f") == b"aB!"
    with pytest.raises(ValueError, match="damage up to"):
        files.damage("/data/f", 2, b"xy")


def test_damage_to_unsynced_bytes_survives_their_sync() -> None:
    files = disk()
    file = written(files, "/data/f", b"abc", sync=False)
    files.flip("/data/f", 0)
    file.sync()
    assert files.durable_content("/data/f") == b"`bc"


def test_spoiled_range_fails_every_read_that_touches_it() -> None:
    files = disk()
    file = written(files, "/data/f", b"x" * 100)
    files.spoil("/data/f", 40, 50)
    assert (len(file.read_at(40, 0)), len(file.read_at(50, 50))) == (40, 50)
    for offset, length in ((39, 2), (49, 1), (0, 100)):
        assert code_of(partial(file.read_at, length, offset)) == errno.EIO
    files.power_cut(random.Random(0))
    assert code_of(lambda: files.open("/data/f").read_at(1, 45)) == errno.EIO


def test_what_the_model_leaves_out_is_refused() -> None:
    """Better an error than a rename whose half is lost in a way no disk knows."""
    files = SimFiles(directories=["/a", "/b"])
    written(files, "/a/f", b"")
    assert code_of(lambda: files.rename("/a/f", "/b/f")) == errno.EXDEV
    assert code_of(lambda: files.rename("/a", "/c")) == errno.EISDIR
    assert code_of(lambda: files.lock("/a")) == errno.EISDIR
    assert code_of(lambda: files.open("/")) == errno.EISDIR
