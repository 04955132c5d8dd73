"""The segment kernel against its twin: records, their checks, scans, and copies into other segments."""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import CorruptRecord
from sadik.kernels.native import segment as native
from sadik.kernels.reference import segment as reference
from tests import strategies

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
SALT = bytes(range(16))
DIGEST = bytes(range(100, 116))


def outcome(call: Any, *arguments: Any) -> Any:
    """What a call gives, or the class of what it raises: twins must agree on both."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001
        return type(error)


@TWINS
@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc_is_castagnolis(twin: ModuleType, data: bytes, crc: int) -> None:
    """The check value of the catalogue, and the samples of RFC 3720."""
    assert twin.crc32c(data) == crc


@given(st.binary(max_size=100), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_every_path_gives_the_same_crc(data: bytes, seed: int, shift: int) -> None:
    """At every alignment and length, and on processors without the instruction."""
    try:
        for path in native.PATHS:
            native.use_path(path)
            assert native.crc32c(memoryview(data)[shift:], seed) == reference.crc32c(data[shift:], seed)
    finally:
        native.use_path(native.PATHS[0])


@TWINS
def test_path_that_is_not_there_raises(twin: ModuleType) -> None:
    with pytest.raises(ValueError, match="path"):
        twin.use_path("slide rule")


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 2**32 - 1))
def test_crc_continues_from_a_seed(left: bytes, right: bytes, seed: int) -> None:
    assert native.crc32c(left + right, seed) == native.crc32c(right, native.crc32c(left, seed))
    assert native.crc32c(left + right, seed) == reference.crc32c(left + right, seed)


@TWINS
def test_bytes_of_a_record_never_change(twin: ModuleType) -> None:
    """They lie on disks: salt 00..0f, offset 128, number 7, space 9, flags 2."""
    record = twin.Codec(SALT).encode(128, 7, DIGEST, b"name", b"value", 9, 2)
    assert record.hex() == (
        "0c0d0e0fba5f59070abba4e3050000000700000000000000"
        "6465666768696a6b6c6d6e6f707172730900000004000002"
        "6e616d6576616c7565"
    )


records = st.tuples(
    st.integers(1, 2**48 - 1),
    strategies.digests,
    st.binary(max_size=20),
    st.binary(max_size=60),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 4, 5, 64, 128]),
)


def laid(codec: Any, rows: list[tuple[int, bytes, bytes, bytes, int, int]], base: int) -> bytes:
    """Records one after another from ``base`` on."""
    out = b""
    for row in rows:
        out += codec.encode(base + len(out), *row)
    return out


@given(st.lists(records, max_size=6), st.integers(0, 5000))
def test_scan_gives_back_what_was_encoded(
    rows: list[tuple[int, bytes, bytes, bytes, int, int]], base: int
) -> None:
    data = laid(native.Codec(SALT), rows, base)
    assert data == laid(reference.Codec(SALT), rows, base)
    scan = native.Codec(SALT).scan(data, base, base + len(data))
    assert scan == reference.Codec(SALT).scan(data, base, base + len(data))
    assert (scan.stop, scan.reason) == (base + len(data), native.END)
    kept = [row for row in rows if not row[5] & (native.FLAG_MARK | native.FLAG_FOOTER)]
    assert len(scan.entries) == native.INDEX_ENTRY_BYTES * len(kept)
    at = base
    for row in rows:
        decoded = native.Codec(SALT).decode(data, base, at)
        assert decoded == reference.Codec(SALT).decode(data, base, at)
        assert (decoded.seq, decoded.digest, decoded.name, decoded.value) == row[:4]
        at += native.RECORD_HEADER_BYTES + len(row[2]) + len(row[3])


@settings(max_examples=150)
@given(
    st.lists(records, min_size=1, max_size=5),
    st.integers(0, 300),
    st.integers(0, 10_000),
    st.integers(1, 255),
)
def test_twins_scan_damaged_and_cut_bytes_alike(
    rows: list[tuple[int, bytes, bytes, bytes, int, int]], base: int, place: int, mask: int
) -> None:
    """Whatever is flipped and wherever the piece or the segment ends."""
    data = bytearray(laid(native.Codec(SALT), rows, base))
    end = base + len(data)
    data[place % len(data)] ^= mask
    cut = place * 7 % (len(data) + 1)
    for piece, stop in ((bytes(data), end), (bytes(data[:cut]), end), (bytes(data[:cut]), base + cut)):
        assert native.Codec(SALT).scan(piece, base, stop) == reference.Codec(SALT).scan(piece, base, stop)
        for start in range(base, base + len(piece) + 1, 7):
            found = native.Codec(SALT).find(piece, base, start)
            assert found == reference.Codec(SALT).find(piece, base, start)


@TWINS
def test_every_flipped_bit_of_a_record_is_noticed(twin: ModuleType) -> None:
    codec = twin.Codec(SALT)
    record = codec.encode(64, 3, DIGEST, b"name", b"some value", 1, 0)
    for bit in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord):
            codec.decode(damaged, 64, 64)


@TWINS
def test_record_elsewhere_is_not_a_record(twin: ModuleType) -> None:
    """Moved within its segment, or lying in another one: both have fooled logs that check content alone."""
    record = twin.Codec(SALT).encode(64, 3, DIGEST, b"n", b"v")
    assert twin.Codec(SALT).decode(record, 64, 64).value == b"v"
    for salt, offset in ((SALT, 65), (bytes(16), 64)):
        with pytest.raises(CorruptRecord):
            twin.Codec(salt).decode(record, offset, offset)


@TWINS
def test_damaged_body_is_an_entry_and_damaged_header_is_the_end(twin: ModuleType) -> None:
    """The header's own check tells whose value it was, and where the next record begins."""
    codec = twin.Codec(SALT)
    rows = [(n, bytes([n]) * 16, b"name", b"value", 1, 0) for n in (1, 2, 3)]
    data = bytearray(laid(codec, rows, 0))
    length = len(data) // 3
    data[length + 50] ^= 1
    scan = codec.scan(data, 0, len(data))
    flags = scan.entries[36::40]
    assert (scan.stop, list(flags)) == (len(data), [0, native.FLAG_UNREADABLE, 0])
    data[length + 20] ^= 1
    scan = codec.scan(data, 0, len(data))
    assert (scan.stop, scan.reason, scan.seq_next) == (length, native.BROKEN, 2)
    assert codec.find(data, 0, length + 1) == 2 * length


@TWINS
def test_zeros_are_never_a_record(twin: ModuleType) -> None:
    """A file grown by a crash reads as zeros; a salt of zeros gives the mark away, but no check."""
    for salt in (SALT, bytes(16)):
        scan = twin.Codec(salt).scan(bytes(200), 0, 200)
        assert (scan.stop, scan.reason) == (0, native.BROKEN)
        assert twin.Codec(salt).find(bytes(200), 0, 0) == -1


@TWINS
def test_record_inside_a_value_is_not_found(twin: ModuleType) -> None:
    """A value that looks like a log of the same segment, as read from a stolen file, lies at other
    offsets.
    """
    codec = twin.Codec(SALT)
    inner = codec.encode(0, 9, DIGEST, b"n", b"forged")
    data = bytearray(codec.encode(0, 1, DIGEST, b"n", inner * 3) + codec.encode(1000, 2, DIGEST, b"n", b"v"))
    data[0] ^= 1
    assert codec.find(data, 0, 1) == -1


def packed(rows: list[tuple[bytes, bytes, bytes, int, int]]) -> tuple[Any, ...]:
    """Arguments of ``encode_batch`` behind offset and number."""
    names = b"".join(row[1] for row in rows)
    values = b"".join(row[2] for row in rows)
    starts, offsets = [0], [0]
    for row in rows:
        starts.append(starts[-1] + len(row[1]))
        offsets.append(offsets[-1] + len(row[2]))
    count = len(rows)
    return (
        count,
        b"".join(row[0] for row in rows),
        names,
        struct.pack(f"<{count}q", *starts[:-1]),
        struct.pack(f"<{count}q", *(len(row[1]) for row in rows)),
        values,
        struct.pack(f"<{count + 1}q", *offsets),
        struct.pack(f"<{count}I", *(row[3] for row in rows)),
        bytes(row[4] for row in rows),
    )


batches = st.lists(
    st.tuples(
        strategies.digests,
        st.binary(max_size=9),
        st.binary(max_size=9),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 0, 0, 2]),
    ),
    max_size=6,
)


@given(batches)
def test_batch_is_the_records_of_its_values_that_are_not_empty(
    rows: list[tuple[bytes, bytes, bytes, int, int]],
) -> None:
    codec = native.Codec(SALT)
    expected = b""
    seq = 5
    for digest, name, value, space, flags in rows:
        if value:
            expected += codec.encode(128 + len(expected), seq, digest, name, value, space, flags)
            seq += 1
    assert codec.encode_batch(128, 5, *packed(rows)) == expected
    assert reference.Codec(SALT).encode_batch(128, 5, *packed(rows)) == expected
    many = [row[:3] for row in rows]
    assert codec.encode_many(128, 5, many, 3) == reference.Codec(SALT).encode_many(128, 5, many, 3)


@settings(max_examples=150)
@given(batches, st.integers(0, 8), st.integers(0, 60), st.binary(min_size=1, max_size=8))
def test_twins_refuse_the_same_bad_batches(
    rows: list[tuple[bytes, bytes, bytes, int, int]], which: int, place: int, data: bytes
) -> None:
    """Any array cut short or written over at any place: the same answer or the same exception, never a
    fault.
    """
    arguments = list(packed(rows))
    if which == 0:
        arguments[0] += place - 30
    elif len(arguments[which]):
        at = place % len(arguments[which])
        arguments[which] = (
            arguments[which][:at]
            if place % 2
            else (arguments[which][:at] + data + arguments[which][at + len(data) :])
        )
    results = [outcome(twin.Codec(SALT).encode_batch, 0, 1, *arguments) for twin in (native, reference)]
    assert results[0] == results[1]


BAD = [
    (0, 0, DIGEST, b"", b""),
    (0, 2**48, DIGEST, b"", b""),
    (0, 1, DIGEST[:15], b"", b""),
    (0, 1, DIGEST + b"x", b"", b""),
    (0, 1, DIGEST, b"n" * 65794, b""),
    (2**32, 1, DIGEST, b"", b""),
    (2**32 - 47, 1, DIGEST, b"", b""),
    (-1, 1, DIGEST, b"", b""),
    (0, 1, DIGEST, b"", b"", 2**32),
    (0, 1, DIGEST, b"", b"", 0, 256),
    (0, 1, "digest", b"", b""),
]


@pytest.mark.parametrize("arguments", BAD, ids=range(len(BAD)))
def test_twins_refuse_the_same_bad_records(arguments: tuple[Any, ...]) -> None:
    results = [outcome(twin.Codec(SALT).encode, *arguments) for twin in (native, reference)]
    assert results[0] is results[1]
    assert isinstance(results[0], type)


@TWINS
def test_largest_name_and_last_place_are_allowed(twin: ModuleType) -> None:
    codec = twin.Codec(SALT)
    record = codec.encode(2**32 - 48 - 65793, 2**48 - 1, DIGEST, b"n" * 65793, b"")
    assert codec.decode(record, 2**32 - len(record), 2**32 - len(record)).name == b"n" * 65793


@given(st.lists(records, min_size=1, max_size=5), st.data())
def test_recode_moves_the_chosen_records(
    rows: list[tuple[int, bytes, bytes, bytes, int, int]], data: st.DataObject
) -> None:
    rows = [row for row in rows if not row[5] & (native.FLAG_MARK | native.FLAG_FOOTER)]
    other = bytes(16)
    source = laid(native.Codec(SALT), rows, 128)
    entries = native.Codec(SALT).scan(source, 128, 128 + len(source)).entries
    mask = bytes(data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))))
    chosen = [row for row, wanted in zip(rows, mask, strict=True) if wanted]
    results = [
        twin.Codec(other).recode(twin.Codec(SALT), source, 128, entries, mask, 700)
        for twin in (native, reference)
    ]
    assert results[0] == results[1]
    moved, count, seq_min, seq_max = results[0]
    assert moved == laid(native.Codec(other), chosen, 700)
    assert (count, seq_min) == (len(chosen), min((row[0] for row in chosen), default=native.SEQ_MAX))
    assert seq_max == max((row[0] for row in chosen), default=0)


@TWINS
def test_recode_refuses_what_is_not_there(twin: ModuleType) -> None:
    codec = twin.Codec(SALT)
    data = codec.encode(0, 1, DIGEST, b"n", b"v")
    entries = bytearray(codec.scan(data, 0, len(data)).entries)
    with pytest.raises(CorruptRecord):
        codec.recode(twin.Codec(bytes(16)), data, 0, entries, b"\1", 0)
    entries[24] = 9
    with pytest.raises(ValueError, match="outside"):
        codec.recode(codec, data, 0, entries, b"\1", 0)
