"""The keydir kernel against its twin, and against the faults of the files under its maps."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import CorruptRecord
from sadik.kernels.native import keydir as native
from sadik.kernels.native import mapping
from sadik.kernels.native import segment as records
from sadik.kernels.reference import keydir as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
LAST = b"\xff" * 16
ROOM = 1 << 16
ENTRY = struct.Struct("<16sQIIIB3x")


def digest(number: int) -> bytes:
    """Evenly spread digests, the same every time."""
    return random.Random(number).randbytes(16)


class Bench:
    """One keydir over segments in memory, driven like the engine drives it."""

    def __init__(self, twin: ModuleType, partitions: int = 4) -> None:
        self.keydir: Any = twin.Keydir(partitions)
        self.views: list[bytearray] = []
        self.codecs: list[records.Codec] = []
        self.ends: list[int] = []
        self.seq = 1

    def segment(self) -> int:
        """Attach one more segment."""
        salt = bytes([len(self.views)]) * 16
        self.views.append(bytearray(ROOM))
        self.codecs.append(records.Codec(salt))
        self.ends.append(0)
        return int(self.keydir.attach(self.views[-1], salt, 0))

    def lay(
        self, handle: int, key: bytes, value: bytes, space: int = 1, flags: int = 0, seq: int = 0
    ) -> bytes:
        """Write a record behind the last one; it is not taken in yet."""
        offset = self.ends[handle]
        record = self.codecs[handle].encode(offset, seq or self.seq, key, b"name", value, space, flags)
        self.views[handle][offset : offset + len(record)] = record
        self.ends[handle] += len(record)
        self.seq += not seq
        return record

    def put(self, handle: int, key: bytes, value: bytes, space: int = 1, flags: int = 0) -> None:
        offset = self.ends[handle]
        assert self.keydir.put(handle, offset, self.lay(handle, key, value, space, flags)) == 1

    def entries(self, handle: int) -> bytes:
        """An index of the whole segment."""
        return (
            self.codecs[handle]
            .scan(bytes(self.views[handle][: self.ends[handle]]), 0, self.ends[handle])
            .entries
        )

    def everything(self, spaces: range) -> Any:
        """All that can be asked, for comparison."""
        keydir = self.keydir
        return (
            len(keydir),
            keydir.scan(b"", LAST, 10_000),
            [keydir.live(handle) for handle in range(len(self.views))],
            [keydir.count(space) for space in spaces],
            keydir.spaces_known(),
            [keydir.entries_of(handle) for handle in range(len(self.views))],
        )


def outcome(call: Any, *arguments: Any) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001
        return type(error)


# Digests of three kinds: spread, all alike but for the last byte, and at the ends.
keys = st.one_of(
    st.integers(0, 40).map(digest),
    st.integers(0, 60).map(lambda number: bytes(15) + bytes([number])),
    st.sampled_from([bytes(16), LAST, b"\x80" + bytes(15), b"\x7f" + b"\xff" * 15]),
)
values = st.one_of(st.just(b""), st.binary(min_size=1, max_size=5), st.integers(100, 400).map(bytes))
steps = st.one_of(
    st.tuples(st.just("put"), keys, values, st.integers(1, 4), st.sampled_from([0, 0, 2])),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("flag"), keys),
    st.tuples(st.just("doubt"), st.integers(0, 30)),
    st.tuples(st.just("retire"), st.integers(1, 4)),
    st.tuples(st.just("sweep"), st.integers(0, 3)),
    st.tuples(st.just("compact"), st.integers(0, 2)),
    st.tuples(st.just("damage"), st.integers(0, 5000)),
)


def play(bench: Bench, step: tuple[Any, ...], active: int) -> Any:
    """One step of a generated history; returns what it answered."""
    keydir = bench.keydir
    match step:
        case ("put", key, value, space, flags):
            bench.put(active, key, value, space, flags)
        case ("remove", key):
            bench.put(active, key, b"", 0, records.FLAG_REMOVED)
        case ("flag", key):
            return keydir.flag_unreadable(key)
        case ("doubt", seq):
            keydir.doubt_below = seq
        case ("retire", space):
            keydir.retire(space)
        case ("sweep", tables):
            # How many tables a step takes is the native twin's affair: go on to the end.
            if tables:
                while keydir.sweep(tables):
                    pass
        case ("damage", place):
            if bench.ends[active]:
                bench.views[active][place % bench.ends[active]] ^= 0x10
        case ("compact", source):
            entries = bench.entries(source)
            mask = keydir.select(source, entries)
            data = bytes(bench.views[source][: bench.ends[source]])
            chosen = bytes(mark == 1 for mark in mask)
            moved, *_ = bench.codecs[3].recode(bench.codecs[source], data, 0, entries, chosen, bench.ends[3])
            base = bench.ends[3]
            if base + len(moved) <= ROOM:
                bench.views[3][base : base + len(moved)] = moved
                bench.ends[3] += len(moved)
                return bytes(mask), keydir.move(source, 3, base, moved)
    return None


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=60), st.sampled_from([1, 4, 1024]))
def test_twins_agree_on_any_history(history: list[tuple[Any, ...]], partitions: int) -> None:
    benches = [Bench(twin, partitions) for twin in (native, reference)]
    for bench in benches:
        for _ in range(4):
            bench.segment()
    for number, step in enumerate(history):
        answers = [outcome(play, bench, step, number * 3 // (len(history) + 1)) for bench in benches]
        assert answers[0] == answers[1]
    assert benches[0].everything(range(6)) == benches[1].everything(range(6))
    asked = [digest(number) for number in range(41)] + [bytes(16), LAST]
    packed = b"".join(asked)
    results = [
        (
            [outcome(bench.keydir.read, key) for key in asked],
            [bench.keydir.find(key) for key in asked],
            outcome(bench.keydir.read_many, asked),
            bench.keydir.read_batch(len(asked), packed, 500),
            bench.keydir.read_batch(len(asked), packed, 1 << 30),
            bench.keydir.scan(asked[0], LAST, 5),
            bench.keydir.scan(bytes(16), b"\x80" * 16, 50),
        )
        for bench in benches
    ]
    assert results[0] == results[1]


loads = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 8).map(digest),
        st.integers(1, 6),
        st.integers(0, 9000),
        st.integers(48, 5000),
        st.integers(0, 3),
        st.sampled_from([0, 0, 1, 2, 4, 16, 17]),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(loads, st.booleans())
def test_twins_load_the_same_index_in_any_order(
    rows: list[tuple[int, bytes, int, int, int, int, int]], settle: bool
) -> None:
    """Whatever is offered, and whichever record is offered first."""
    benches = [Bench(twin) for twin in (native, reference)]
    answers: list[Any] = []
    for bench in benches:
        for _ in range(4):
            bench.segment()
        answer: list[Any] = []
        for handle, key, seq, offset, length, space, flags in rows:
            answer.append(bench.keydir.load(handle, ENTRY.pack(key, seq, offset, length, space, flags)))
        packed = b"".join(ENTRY.pack(*row[1:]) for row in rows)
        answer.append(bench.keydir.select(1, packed))
        if settle:
            answer.append(bench.keydir.settle())
        answer.append(bench.keydir.relocate(2, packed))
        answers.append((answer, bench.everything(range(5)), [bench.keydir.find(digest(n)) for n in range(9)]))
    assert answers[0] == answers[1]


@TWINS
def test_removal_hides_older_records_that_are_loaded_later(twin: ModuleType) -> None:
    """Segments come in any order; forgetting a removal before the last one would bring the key back."""
    bench = Bench(twin)
    handle = bench.segment()
    bench.keydir.load(handle, ENTRY.pack(digest(1), 9, 0, 48, 0, records.FLAG_REMOVED))
    bench.keydir.load(handle, ENTRY.pack(digest(1), 8, 0, 60, 1, 0))
    assert bench.keydir.settle() == 1
    assert bench.keydir.find(digest(1)) is None


@pytest.mark.parametrize("spread", [True, False])
def test_hundred_thousand_keys_are_found_scanned_and_removed(spread: bool) -> None:
    """Tables grow many times over; with digests that are all alike in front, too."""
    rng = random.Random(1)
    count = 100_000 if spread else 5_000
    names = [rng.randbytes(16) if spread else bytes(8) + rng.randbytes(8) for _ in range(count)]
    keydir = native.Keydir(64)
    handle = keydir.attach(bytes(0), bytes(16), 0)
    keydir.load(handle, b"".join(ENTRY.pack(name, n + 1, n, 64, 1, 0) for n, name in enumerate(names)))
    assert len(keydir) == keydir.count(1) == keydir.live(handle)[0] == count
    assert [row[0] for row in keydir.scan(b"", LAST, count + 1)] == sorted(names)
    for number in range(0, count, 97):
        found = keydir.find(names[number])
        assert found is not None
        assert found.offset == number
    if spread:
        assert keydir.bytes_used() / count <= 42
    gone = ENTRY.size * (count // 2)
    keydir.load(
        handle, b"".join(ENTRY.pack(name, n + 1 + count, 0, 48, 0, 1) for n, name in enumerate(names))[:gone]
    )
    assert keydir.settle() == count // 2
    assert [row[0] for row in keydir.scan(b"", LAST, count)] == sorted(names[count // 2 :])


@TWINS
def test_live_bytes_are_lengths_rounded_up_a_little(twin: ModuleType) -> None:
    """What compaction plans with must never be less than what it copies."""
    for length in (48, 127, 128, 255, 256, 257, 511, 513, 4096, 65537, (1 << 30) + 70000):
        keydir = twin.Keydir(1)
        handle = keydir.attach(bytes(0), bytes(16), 0)
        keydir.load(handle, ENTRY.pack(digest(1), 1, 0, length, 1, 0))
        assert length <= keydir.live(handle)[1] <= length * 129 // 128 + 1


@TWINS
def test_segment_with_keys_cannot_be_detached(twin: ModuleType) -> None:
    bench = Bench(twin)
    handle = bench.segment()
    bench.put(handle, digest(1), b"v")
    with pytest.raises(ValueError, match="point"):
        bench.keydir.detach(handle)
    bench.put(handle, digest(1), b"", 0, records.FLAG_REMOVED)
    bench.keydir.detach(handle)
    with pytest.raises(ValueError, match="attached"):
        bench.keydir.live(handle)
    assert bench.keydir.attach(bytearray(8), bytes(16), 8) == handle


@TWINS
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda twin: twin.Keydir(0), ValueError),
        (lambda twin: twin.Keydir(3), ValueError),
        (lambda twin: twin.Keydir(1 << 21), ValueError),
        (lambda twin: twin.Keydir(1).read(b"short"), ValueError),
        (lambda twin: twin.Keydir(1).find(bytes(17)), ValueError),
        (lambda twin: twin.Keydir(1).put(0, 0, b""), ValueError),
        (lambda twin: twin.Keydir(1).load(5, b""), ValueError),
        (lambda twin: twin.Keydir(1).attach(b"", bytes(16), 1), ValueError),
        (lambda twin: twin.Keydir(1).attach(b"", bytes(15), 0), ValueError),
        (lambda twin: twin.Keydir(1).read_batch(2, bytes(31), 9), ValueError),
        (lambda twin: twin.Keydir(1).read_batch(-1, b"", 9), ValueError),
        (lambda twin: twin.Keydir(1).scan(b"x", LAST, 9), ValueError),
        (lambda twin: twin.Keydir(1).scan(b"", LAST, 0), ValueError),
    ],
)
def test_bad_arguments_raise(twin: ModuleType, call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(twin)


@TWINS
def test_records_that_are_cut_are_refused(twin: ModuleType) -> None:
    bench = Bench(twin)
    handle = bench.segment()
    record = bench.lay(handle, digest(1), b"value")
    for data in (record[:47], record[:-1], record + b"x", bytes(48)):
        with pytest.raises(ValueError, match=r"."):
            bench.keydir.put(handle, 0, data)
    with pytest.raises(ValueError, match="beyond"):
        bench.keydir.put(handle, ROOM - 10, record)


# Maps that fail.


def mapped(tmp_path: Path, count: int) -> tuple[Any, int]:
    """A keydir over a mapped file of one record a page, and the file."""
    fd = os.open(tmp_path / "segment", os.O_RDWR | os.O_CREAT)
    codec = records.Codec(bytes(16))
    keydir = native.Keydir(4)
    handle = keydir.attach(mapping.map_file(fd, 1 << 20), bytes(16), 0)
    for number in range(count):
        record = codec.encode(4096 * number, number + 1, digest(number), b"n", b"v%d" % number)
        os.pwrite(fd, record, 4096 * number)
        keydir.put(handle, 4096 * number, record)
    return keydir, fd


def test_file_cut_under_its_map_is_an_error_of_the_records_beyond(tmp_path: Path) -> None:
    """Touching such a page raises SIGBUS, which would end the process."""
    keydir, fd = mapped(tmp_path, 100)
    os.ftruncate(fd, 4096 * 50)
    asked = [digest(number) for number in range(101)]
    count, status, data, offsets = keydir.read_batch(101, b"".join(asked), 1 << 20)
    assert (count, list(status)) == (101, [0] * 50 + [2] * 50 + [1])
    assert data == b"".join(b"v%d" % number for number in range(50))
    assert struct.unpack("<102q", offsets)[50:] == (len(data),) * 52
    for number in (49, 50, 99):
        assert outcome(keydir.read, digest(number)) == (b"v49" if number == 49 else CorruptRecord)
    assert keydir.read_many(asked[:50]) == [b"v%d" % number for number in range(50)]
    with pytest.raises(CorruptRecord):
        keydir.read_many(asked)
    assert sum(row[4] is None for row in keydir.scan(b"", LAST, 200)) == 50
    os.close(fd)


CHAINED = """
import mmap, os, signal, sys, tempfile
from sadik.kernels.native import keydir
keydir.Keydir(1)
if sys.argv[1] == "sent":
    os.kill(os.getpid(), signal.SIGBUS)
with tempfile.TemporaryFile() as file:
    file.truncate(8192)
    view = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    view[5000]
"""


@pytest.mark.parametrize("case", ["plain", "sent"])
def test_fault_of_other_code_still_ends_the_process(case: str) -> None:
    """The guard takes only what happens inside its own reads."""
    ended = subprocess.run([sys.executable, "-c", CHAINED, case], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGBUS
