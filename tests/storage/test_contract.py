"""The storage contract, asked of every engine: nothing here knows which one it talks to."""

from __future__ import annotations

import array
import errno
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy
import pytest

from sadik.errors import DirectoryLocked, StorageFailed
from sadik.kernels.native.segment import FLAG_DEAD
from sadik.storage.engine import ABSENT, NAME_BYTES_MAX, STORED, Engine, Entry
from tests.storage.calls import LAST, digest, in_order, read_batch, walk, write_batch
from tests.storage.conftest import Subject


def maintain_to_the_end(engine: Engine) -> None:
    for _ in range(1000):
        more = engine.maintain(1 << 20)
        engine.sync()
        if not more:
            return
    raise AssertionError("background work never ends")


# Reading and writing.


def test_what_was_never_put_is_absent(engine: Engine) -> None:
    assert engine.get(digest(1)) is None
    assert engine.get_many([digest(1), digest(2)]) == [None, None]
    assert read_batch(engine, [digest(1)]) == [(ABSENT, b"")]
    assert read_batch(engine, []) == []
    assert engine.scan(b"", LAST, 10) == []
    assert (engine.count(0), engine.losses) == (0, 0)


@pytest.mark.parametrize("size", [0, 1, 15, 100, 4096, 70_000, 3_000_000])
def test_value_of_any_size_comes_back(engine: Engine, size: int) -> None:
    """The empty value is a value: only ``write_batch`` takes it for "nothing to store"."""
    value = bytes(range(256)) * (size // 256) + bytes(size % 256)
    engine.put(digest(1), b"name", value)
    engine.put(digest(2), b"other", b"other")
    assert engine.get(digest(1)) == value
    assert read_batch(engine, [digest(1)]) == [(STORED, value)]
    assert Entry(digest(1), 0, 0, b"name", value) in walk(engine)


@pytest.mark.parametrize("size", [0, 1, NAME_BYTES_MAX])
def test_name_of_any_legal_size_comes_back(engine: Engine, size: int) -> None:
    engine.put(digest(1), b"n" * size, b"value")
    (entry,) = engine.scan(b"", LAST, 2)
    assert (entry.name, entry.value) == (b"n" * size, b"value")


def test_value_may_look_like_anything(engine: Engine) -> None:
    """Bytes the engine wrote itself, stored as a value, are a value."""
    engine.put(digest(1), b"a", b"first")
    (entry,) = engine.scan(b"", LAST, 1)
    lookalike = b"".join((entry.digest, entry.name, entry.value or b"")) * 3 + b"\0" * 64 + b"\xff" * 64
    engine.put(digest(2), b"b", lookalike)
    assert engine.get_many([digest(1), digest(2)]) == [b"first", lookalike]


def test_last_put_wins(engine: Engine) -> None:
    for value in (b"one", b"", b"three" * 1000, b"4"):
        engine.put(digest(1), b"n", value)
        assert engine.get(digest(1)) == value
    assert len(walk(engine)) == 1


def test_batch_takes_effect_in_order_and_skips_empty_values(engine: Engine) -> None:
    """Reads of the same batch stand in it as empty values."""
    engine.put(digest(3), b"c", b"kept")
    ticket = write_batch(
        engine,
        [
            (digest(1), b"a", b"first", 1, 0),
            (digest(2), b"b", b"other", 2, FLAG_DEAD),
            (digest(3), b"x", b"", 1, 0),
            (digest(1), b"A", b"second", 3, 0),
        ],
    )
    assert ticket > 0
    assert engine.get_many([digest(1), digest(2), digest(3)]) == [b"second", b"other", b"kept"]
    assert {(entry.name, entry.space, entry.flags) for entry in walk(engine)} == {
        (b"A", 3, 0),
        (b"b", 2, FLAG_DEAD),
        (b"c", 0, 0),
    }


def test_batch_without_values_changes_nothing(engine: Engine) -> None:
    write_batch(engine, [])
    write_batch(engine, [(digest(1), b"a", b"", 1, 0)])
    assert walk(engine) == []


def test_names_in_a_batch_may_be_any_slices(engine: Engine) -> None:
    """They are slices of a request's bytes: not packed, not in order, some of them the same."""
    engine.write_batch(
        2,
        digest(1) + digest(2),
        b"..bucketkey..",
        array.array("q", [2, 2]),
        array.array("q", [9, 6]),
        b"vw",
        array.array("q", [0, 1, 2]),
        array.array("I", [1, 1]),
        bytes(2),
    )
    assert sorted(entry.name for entry in walk(engine)) == [b"bucket", b"bucketkey"]


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda raw: numpy.frombuffer(raw, "u1")])
def test_any_buffer_will_do(engine: Engine, make: Callable[[bytes], Any]) -> None:
    engine.put(make(digest(1)), make(b"name"), make(b"value"))
    assert engine.get(make(digest(1))) == b"value"
    assert bytes(engine.read_batch(1, make(digest(1))).data) == b"value"
    slices = numpy.array([0], "i8"), numpy.array([1], "i8")
    offsets, spaces = numpy.array([0, 1], "i8"), numpy.array([7], "u4")
    engine.write_batch(1, make(digest(1)), make(b"n"), *slices, make(b"w"), offsets, spaces, make(b"\0"))
    assert engine.get(digest(1)) == b"w"
    engine.remove(make(digest(1)))
    assert engine.get(digest(1)) is None


def good_batch() -> dict[str, Any]:
    return {
        "count": 2,
        "digests": digest(1) + digest(2),
        "names": b"nm",
        "name_starts": struct.pack("<2q", 0, 1),
        "name_lengths": struct.pack("<2q", 1, 1),
        "values": b"vw",
        "value_offsets": struct.pack("<3q", 0, 1, 2),
        "spaces": struct.pack("<2I", 1, 1),
        "flags": bytes(2),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"count": 3},
        {"digests": bytes(31)},
        {"name_starts": bytes(15)},
        {"name_lengths": bytes(15)},
        {"value_offsets": bytes(16)},
        {"spaces": bytes(7)},
        {"flags": bytes(1)},
        {"name_starts": struct.pack("<2q", 0, -1)},
        {"name_starts": struct.pack("<2q", 0, 2**62)},
        {"name_lengths": struct.pack("<2q", 1, 2)},
        {"name_lengths": struct.pack("<2q", 1, -1)},
        {"name_lengths": struct.pack("<2q", 1, 2**63 - 1)},
        {"value_offsets": struct.pack("<3q", 0, 1, 3)},
        {"value_offsets": struct.pack("<3q", 0, 2, 1)},
        {"value_offsets": struct.pack("<3q", -1, 1, 2)},
        {"value_offsets": struct.pack("<3q", 0, 1, 2**63 - 1)},
        {"names": b"n" * (NAME_BYTES_MAX + 2), "name_lengths": struct.pack("<2q", 1, NAME_BYTES_MAX + 1)},
    ],
)
def test_malformed_batch_is_refused_whole(engine: Engine, wrong: dict[str, Any]) -> None:
    """All or nothing, also when the last operation is the bad one."""
    with pytest.raises(ValueError, match=r"."):
        engine.write_batch(**(good_batch() | wrong))
    assert walk(engine) == []
    engine.write_batch(**good_batch())
    assert engine.get_many([digest(1), digest(2)]) == [b"v", b"w"]


BAD_CALLS: dict[str, Callable[[Engine], object]] = {
    "get": lambda engine: engine.get(bytes(15)),
    "get_many": lambda engine: engine.get_many([digest(1), bytes(17)]),
    "put": lambda engine: engine.put(b"", b"n", b"v"),
    "put with a long name": lambda engine: engine.put(digest(2), b"n" * (NAME_BYTES_MAX + 1), b"v"),
    "put_many": lambda engine: engine.put_many([(digest(2), b"n", b"v"), (bytes(3), b"n", b"v")]),
    "remove": lambda engine: engine.remove(bytes(32)),
    "read_batch": lambda engine: engine.read_batch(-1, b""),
    "read_batch of too few bytes": lambda engine: engine.read_batch(2, bytes(31)),
    "scan": lambda engine: engine.scan(b"", LAST, 0),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_arguments_are_the_callers_fault_and_change_nothing(engine: Engine, name: str) -> None:
    engine.put(digest(1), b"n", b"v")
    with pytest.raises(ValueError, match=r"."):
        BAD_CALLS[name](engine)
    assert [entry.value for entry in walk(engine)] == [b"v"]


def test_read_batch_answers_in_the_order_asked(engine: Engine) -> None:
    engine.put_many([(digest(i), b"n", b"v%d" % i) for i in range(5)])
    asked = [digest(i) for i in (3, 9, 0, 3)]
    assert read_batch(engine, asked) == [(STORED, b"v3"), (ABSENT, b""), (STORED, b"v0"), (STORED, b"v3")]
    assert engine.get_many(asked) == [b"v3", None, b"v0", b"v3"]


def test_read_batch_stops_before_too_many_bytes_but_not_before_the_first(engine: Engine) -> None:
    """The rest is asked for again; without the exception one big value could never be read."""
    engine.put_many([(digest(i), b"n", b"x" * 100) for i in range(4)])
    asked = [digest(i) for i in range(4)]
    assert [len(read_batch(engine, asked, bytes_max=limit)) for limit in (1, 100, 199, 200, 399, 400)] == [
        *(1, 1, 1, 2, 3, 4),
    ]
    assert len(read_batch(engine, [digest(8), digest(9)], bytes_max=0)) == 2


def test_batch_read_stays_as_it_was_read(engine: Engine) -> None:
    """A reply may leave long after the key was written again."""
    engine.put(digest(1), b"n", b"before")
    batch = engine.read_batch(1, digest(1))
    value = engine.get(digest(1))
    engine.put(digest(1), b"n", b"after!")
    engine.remove(digest(1))
    assert bytes(batch.data) == value == b"before"


def test_removed_key_is_absent_and_can_come_back(engine: Engine) -> None:
    engine.put_many([(digest(1), b"n", b"v"), (digest(2), b"m", b"w")], space=1)
    engine.remove(digest(1))
    engine.remove(digest(3))
    assert engine.get_many([digest(1), digest(2)]) == [None, b"w"]
    assert read_batch(engine, [digest(1)]) == [(ABSENT, b"")]
    assert (len(walk(engine)), engine.count(1)) == (1, 1)
    engine.put(digest(1), b"n", b"again", space=1)
    assert (engine.get(digest(1)), engine.count(1)) == (b"again", 2)


# Scans.


def test_scan_gives_keys_in_order_between_its_bounds(engine: Engine) -> None:
    keys = in_order(range(40))
    engine.put_many([(key, key[:3], key) for key in reversed(keys)])
    assert [entry.digest for entry in engine.scan(b"", LAST, 100)] == keys
    assert [entry.digest for entry in engine.scan(keys[9], keys[19], 100)] == keys[10:20]
    assert [entry.digest for entry in engine.scan(keys[9], keys[19], 3)] == keys[10:13]
    assert engine.scan(keys[9], keys[9], 100) == []
    assert engine.scan(keys[-1], LAST, 100) == []
    assert engine.scan(keys[20], keys[10], 100) == []


def test_scan_of_big_values_ends_early(engine: Engine) -> None:
    """A page of keys must not be a page of gigabytes; whoever walks goes on from its last key."""
    keys = in_order(range(12))
    engine.put_many([(key, key[:3], bytes(1000)) for key in keys])
    page = engine.scan(b"", LAST, 100, 2500)
    assert 1 <= len(page) <= 3
    met = [entry.digest for entry in page]
    while page := engine.scan(met[-1], LAST, 100, 1):
        assert len(page) == 1
        met.append(page[0].digest)
    assert met == keys


def test_scan_starts_at_the_very_first_and_ends_at_the_very_last(engine: Engine) -> None:
    """The all-zeros digest comes after ``b""``, and is skipped by ``after`` itself."""
    engine.put(bytes(16), b"zero", b"0")
    engine.put(LAST, b"last", b"1")
    assert [entry.name for entry in engine.scan(b"", LAST, 9)] == [b"zero", b"last"]
    assert [entry.name for entry in engine.scan(bytes(16), LAST, 9)] == [b"last"]
    assert [entry.name for entry in engine.scan(b"", bytes(16), 9)] == [b"zero"]


def test_scan_follows_what_changed_since_the_last_scan(engine: Engine) -> None:
    """An order that is kept between scans must take in removals, returns and new keys alike."""
    keys = in_order(range(6))
    engine.put_many([(key, b"n", b"v") for key in keys[:4]])
    assert [entry.digest for entry in walk(engine)] == keys[:4]
    engine.remove(keys[1])
    engine.put(keys[1], b"n", b"back")
    engine.remove(keys[2])
    engine.put(keys[4], b"n", b"v")
    engine.remove(keys[4])
    engine.put(keys[5], b"n", b"v")
    expected = [keys[0], keys[1], keys[3], keys[5]]
    assert [entry.digest for entry in walk(engine)] == expected
    engine.put(keys[2], b"n", b"back")
    assert [entry.digest for entry in walk(engine)] == sorted([*expected, keys[2]])


def test_walk_meets_each_lasting_key_once_while_others_come_and_go(engine: Engine) -> None:
    """SCAN's promise, with writes between any two pages, enough of them to make indexes grow and shrink."""
    lasting = in_order(range(300))
    engine.put_many([(key, b"n", b"v") for key in lasting])
    met: list[bytes] = []
    after, turn = b"", 0
    while page := engine.scan(after, LAST, 13):
        met += [entry.digest for entry in page]
        after = page[-1].digest
        turn += 1
        if turn <= 20:
            coming = range(1000 + turn * 40, 1040 + turn * 40)
            engine.put_many([(digest(i), b"m", b"w") for i in coming])
            engine.put(lasting[turn * 14], b"n", b"v%d" % turn)
            engine.remove(digest(coming[turn]))
            engine.remove(digest(coming[0] - 1))
    assert met == sorted(set(met))
    assert [key for key in met if key in set(lasting)] == lasting


# Counts and spaces.


def test_count_follows_spaces_and_the_dead_flag(engine: Engine) -> None:
    engine.put(digest(1), b"n", b"v", 1)
    engine.put(digest(2), b"n", b"v", 1, FLAG_DEAD)
    engine.put(digest(3), b"n", b"v", 2)
    assert [engine.count(space) for space in (0, 1, 2, 3, 2**32 - 1)] == [0, 1, 1, 0, 0]
    engine.put(digest(2), b"n", b"v", 1)
    engine.put(digest(1), b"n", b"v", 2, FLAG_DEAD)
    engine.put(digest(3), b"n", b"v", 2**32 - 1)
    assert [engine.count(space) for space in (1, 2, 2**32 - 1)] == [1, 0, 1]
    engine.put(digest(3), b"n", b"w", 2**32 - 1)
    engine.remove(digest(2))
    engine.remove(digest(1))
    assert [engine.count(space) for space in (1, 2, 2**32 - 1)] == [0, 0, 1]


def test_retired_space_counts_nothing_and_others_lose_nothing(engine: Engine) -> None:
    engine.put_many([(digest(i), b"n", b"old") for i in range(50)], space=1)
    engine.put_many([(digest(i), b"n", b"kept") for i in range(50, 60)], space=2)
    engine.retire(1)
    assert (engine.count(1), engine.count(2)) == (0, 10)
    assert set(engine.get_many([digest(i) for i in range(50)])) <= {b"old", None}
    engine.put_many([(digest(i), b"n", b"new") for i in range(5)], space=3)
    maintain_to_the_end(engine)
    assert set(engine.get_many([digest(i) for i in range(5, 50)])) <= {b"old", None}
    assert engine.get_many([digest(i) for i in range(5)]) == [b"new"] * 5
    assert engine.get_many([digest(i) for i in range(50, 60)]) == [b"kept"] * 10
    assert [engine.count(space) for space in (1, 2, 3)] == [0, 10, 5]


def test_declared_spaces_alone_count_after_a_reopen(persistent: Subject) -> None:
    """A retirement is not stored: the node says at every start which spaces still count."""
    engine = persistent.open()
    for space in (1, 2, 5):
        engine.put_many([(digest(100 * space + i), b"n", b"v") for i in range(space)], space=space)
    engine.put(digest(1), b"n", b"dead", 5, FLAG_DEAD)
    engine.close()
    engine = persistent.open()
    engine.declare_spaces([2, 5])
    assert [engine.count(space) for space in (1, 2, 5)] == [0, 2, 5]
    engine.put(digest(7), b"n", b"v", 6)
    maintain_to_the_end(engine)
    assert [engine.count(space) for space in (1, 2, 5, 6)] == [0, 2, 5, 1]
    assert engine.get_many([digest(200), digest(504), digest(1)]) == [b"v", b"v", b"dead"]
    engine.close()


# The system table.


def test_system_values_are_named_sorted_and_apart_from_keys(engine: Engine) -> None:
    engine.put(b"birth".ljust(16), b"birth", b"a key")
    engine.system_put(b"zones", b"z")
    engine.system_put(b"birth", b"first")
    engine.system_put(b"birth", b"second" * 100)
    engine.system_put(b"gone", b"x")
    engine.system_put(b"gone", b"")
    engine.system_put(b"never", b"")
    assert list(engine.system_items()) == [(b"birth", b"second" * 100), (b"zones", b"z")]
    assert [entry.value for entry in walk(engine)] == [b"a key"]
    assert engine.count(0) == 1


def test_everything_is_there_after_a_reopen(persistent: Subject) -> None:
    """Also what was overwritten, removed and forgotten stays so; counts need no recount."""
    engine = persistent.open()
    engine.put_many([(digest(i), b"n%d" % i, b"old") for i in range(100)], space=1)
    engine.put_many([(digest(i), b"N%d" % i, b"new" * i) for i in range(1, 50)], space=2)
    engine.put(digest(200), b"dead", b"d", 2, FLAG_DEAD)
    engine.put(digest(201), b"empty", b"", 2)
    for i in range(50, 60):
        engine.remove(digest(i))
    engine.system_put(b"a", b"1")
    engine.system_put(b"b", b"2")
    engine.system_put(b"a", b"")
    before = walk(engine)
    engine.close()
    for _ in range(2):
        engine = persistent.open()
        assert walk(engine) == before
        assert len(before) == 92
        assert [engine.count(space) for space in (1, 2)] == [41, 50]
        assert list(engine.system_items()) == [(b"b", b"2")]
        assert engine.losses == 0
        engine.close()


# Durability.


def test_tickets_rise_and_a_sync_makes_them_durable(engine: Engine) -> None:
    tickets = [
        engine.put(digest(1), b"n", b"v"),
        engine.put_many([(digest(2), b"n", b"v")]),
        write_batch(engine, [(digest(3), b"n", b"v", 0, 0)]),
        engine.system_put(b"s", b"v"),
        engine.remove(digest(1)),
    ]
    assert all(first < second for first, second in pairwise(tickets))
    assert engine.durable_ticket <= tickets[-1]
    engine.sync()
    assert engine.durable_ticket >= tickets[-1]
    assert engine.sync_begin() is None
    engine.sync()


def test_sync_covers_what_was_written_before_it_began_and_no_more(engine: Engine) -> None:
    first = engine.put(digest(1), b"n", b"v")
    request = engine.sync_begin()
    if request is None:
        assert engine.durable_ticket >= first
        return
    assert first <= request.ticket
    assert engine.durable_ticket < first
    second = engine.put(digest(2), b"n", b"v")
    request.run()
    assert engine.durable_ticket < first, "nothing is promised before the engine is told"
    engine.sync_done(request, None)
    assert first <= engine.durable_ticket < second
    request = engine.sync_begin()
    assert request is not None
    request.run()
    engine.sync_done(request, None)
    assert engine.durable_ticket >= second


def test_failed_sync_refuses_writes_until_a_reopen_and_reads_go_on(persistent: Subject) -> None:
    """What the disk has is unknown from then on: retrying the sync would tell a lie."""
    engine = persistent.open()
    ticket = engine.put(digest(1), b"n", b"v")
    request = engine.sync_begin()
    if request is None:
        assert engine.durable_ticket >= ticket
        engine.close()
        return
    engine.sync_done(request, OSError(errno.EIO, "simulated"))
    assert engine.durable_ticket < ticket
    for call in (
        lambda: engine.put(digest(2), b"n", b"v"),
        lambda: engine.put_many([(digest(2), b"n", b"v")]),
        lambda: write_batch(engine, [(digest(2), b"n", b"v", 0, 0)]),
        lambda: engine.remove(digest(1)),
        lambda: engine.system_put(b"s", b"v"),
        engine.sync,
    ):
        with pytest.raises(StorageFailed):
            call()
    assert engine.get(digest(1)) == b"v"
    assert not engine.statistics().writable
    engine.close()
    engine = persistent.open()
    assert engine.get_many([digest(1), digest(2)]) == [b"v", None]
    engine.put(digest(2), b"n", b"w")
    engine.close()


def test_death_of_the_process_loses_nothing_that_was_handed_over(persistent: Subject) -> None:
    """No close, no sync, no destructor: what returned is with the operating system."""
    script = (
        f"import os; directory = {persistent.directory!r}\n"
        f"{persistent.expression}\n"
        "for i in range(300): engine.put(i.to_bytes(16, 'big'), b'n', b'v%d' % i, 1)\n"
        "engine.remove((7).to_bytes(16, 'big'))\n"
        "engine.put_many([((5).to_bytes(16, 'big'), b'n', b'five')], 1)\n"
        "engine.system_put(b's', b't')\n"
        "os._exit(9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert ended.returncode == 9, ended.stderr.decode()
    engine = persistent.open()
    values = engine.get_many([i.to_bytes(16, "big") for i in range(300)])
    assert values == [{5: b"five", 7: None}.get(i, b"v%d" % i) for i in range(300)]
    assert (engine.count(1), list(engine.system_items())) == (299, [(b"s", b"t")])
    engine.close()


# Opening and closing.


def test_directory_is_locked_while_open(persistent: Subject) -> None:
    engine = persistent.open()
    with pytest.raises(DirectoryLocked):
        persistent.open()
    engine.put(digest(1), b"n", b"v")
    engine.close()
    persistent.open().close()


CALLS: dict[str, Callable[[Engine], object]] = {
    "get": lambda engine: engine.get(digest(1)),
    "get_many": lambda engine: engine.get_many([digest(1)]),
    "read_batch": lambda engine: engine.read_batch(1, digest(1)),
    "put": lambda engine: engine.put(digest(1), b"n", b"v"),
    "put_many": lambda engine: engine.put_many([(digest(1), b"n", b"v")]),
    "write_batch": lambda engine: write_batch(engine, [(digest(1), b"n", b"v", 0, 0)]),
    "remove": lambda engine: engine.remove(digest(1)),
    "scan": lambda engine: engine.scan(b"", LAST, 1),
    "count": lambda engine: engine.count(0),
    "system_put": lambda engine: engine.system_put(b"s", b"v"),
    "system_items": lambda engine: list(engine.system_items()),
    "declare_spaces": lambda engine: engine.declare_spaces([1]),
    "retire": lambda engine: engine.retire(1),
    "sync": lambda engine: engine.sync(),
    "sync_begin": lambda engine: engine.sync_begin(),
    "maintain": lambda engine: engine.maintain(1),
    "statistics": lambda engine: engine.statistics(),
}


@pytest.mark.parametrize("name", CALLS)
def test_closed_engine_refuses_everything(subject: Subject, name: str) -> None:
    engine = subject.open()
    engine.put(digest(1), b"n", b"v")
    engine.close()
    with pytest.raises(StorageFailed):
        CALLS[name](engine)


def test_statistics_count_what_is_there(engine: Engine, subject: Subject) -> None:
    engine.put_many([(digest(i), b"name", b"x" * 1000) for i in range(20)], space=1)
    engine.put(digest(0), b"name", b"x" * 1000, 1)
    snapshot = engine.statistics()
    assert subject.name.startswith(snapshot.engine)
    assert snapshot.keys == 20
    assert 20_000 < snapshot.live_bytes <= snapshot.stored_bytes < 10_000_000
    assert (snapshot.corrupt_records, snapshot.corrupt_bytes, snapshot.quarantined_segments) == (0, 0, 0)
    assert snapshot.writable
