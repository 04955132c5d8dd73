"""``versions.apply_batch``: the loop of the data path, against one operation after another."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import versions as native
from tests.kernels.version_cases import TWINS, UINT64_MAX, actors, same, sets

OPERATION = st.fixed_dictionaries(
    {
        "address": st.integers(0, 2),
        "kind": st.sampled_from([native.READ, native.REPLACE]),
        "payload": st.binary(max_size=6),
        "expires_at_ms": st.one_of(st.just(-1), st.integers(0, 4)),
        "floor": st.one_of(st.just(0), st.integers(0, 20), st.just(UINT64_MAX)),
    }
)


def batch(operations: list[dict[str, Any]], stored: list[tuple[int, bytes]]) -> list[Any]:
    """Arguments of ``apply_batch`` up to the floors; ``stored`` is (status, set) of each address."""
    count = len(operations)
    latest: dict[int, int] = {}
    previous = []
    for i, operation in enumerate(operations):
        previous.append(latest.get(operation["address"], -1))
        if operation["kind"] == native.REPLACE:
            latest[operation["address"]] = i
    held = [stored[operation["address"]] for operation in operations]
    offsets, starts = [0], [0]
    for i in range(count):
        offsets.append(offsets[-1] + len(held[i][1]))
        starts.append(starts[-1] + len(operations[i]["payload"]))
    return [
        count,
        bytes(operation["kind"] for operation in operations),
        struct.pack(f"<{count}i", *previous),
        bytes(status for status, _ in held),
        b"".join(data for _, data in held),
        struct.pack(f"<{count + 1}q", *offsets),
        b"".join(operation["payload"] for operation in operations),
        struct.pack(f"<{count}q", *starts[:count]),
        struct.pack(f"<{count}q", *(len(operation["payload"]) for operation in operations)),
        struct.pack(f"<{count}q", *(operation["expires_at_ms"] for operation in operations)),
        struct.pack(f"<{count}Q", *(operation["floor"] for operation in operations)),
    ]


def unpack(item: str, data: Any) -> list[int]:
    return [number for (number,) in struct.iter_unpack(f"<{item}", data)]


@given(
    st.lists(OPERATION, max_size=12),
    st.lists(
        st.one_of(
            st.tuples(st.just(native.STORED), sets),
            st.just((native.ABSENT, b"")),
            st.just((native.ERROR, b"")),
            st.just((native.STORED, b"\x01 not a set")),
        ),
        min_size=3,
        max_size=3,
    ),
    actors,
    st.one_of(st.integers(0, 20), st.just(UINT64_MAX - 2)),
    st.one_of(st.integers(0, 40), st.just(UINT64_MAX)),
    st.integers(-1, 4),
)
def test_batch_equals_one_operation_after_another(
    operations: list[dict[str, Any]],
    stored: list[tuple[int, bytes]],
    actor: int,
    stamp_first: int,
    stamp_limit: int,
    now_ms: int,
) -> None:
    """Within a batch, operations on one key take effect in arrival order, as if each had come alone."""
    arguments = [*batch(operations, stored), actor, stamp_first, stamp_limit, now_ms]
    result = same("apply_batch", *arguments)
    current: list[bytes | None] = []
    for status, data in stored:
        valid = status == native.ABSENT or (status == native.STORED and not data.startswith(b"\x01 not"))
        current.append(data if valid else None)
    offsets = unpack("q", result.set_offsets)
    starts, lengths = unpack("q", result.value_start), unpack("q", result.value_length)
    minted = 0
    for i, operation in enumerate(operations):
        known = current[operation["address"]]
        made = bytes(result.sets[offsets[i] : offsets[i + 1]])
        read = bytes(result.values[starts[i] : starts[i] + lengths[i]])
        expected = native.UNREADABLE
        if known is not None and operation["kind"] == native.READ:
            value = native.newest(known, operation["floor"], now_ms)
            expected = native.NOTHING if value is None else native.OK
            assert read == (b"" if value is None else value.payload)
        elif known is not None:
            stamp = max(stamp_first + i, native.stamp_max(known) + 1, operation["floor"] + 1)
            expected = native.CLOCK if stamp > stamp_limit else native.OK
            if expected == native.OK:
                known = native.event(
                    known,
                    None,
                    actor,
                    stamp,
                    expires_at_ms=operation["expires_at_ms"],
                    payload=operation["payload"],
                )
                current[operation["address"]] = known
                minted = max(minted, stamp)
                assert made == known
        assert result.status[i] == expected
        assert (made != b"") == (operation["kind"] == native.REPLACE and expected == native.OK)
    assert result.stamp_last == minted
    assert len(result.sets) == offsets[-1]


@TWINS
def test_full_set_refuses_the_write_and_keeps_what_it_has(twin: Any) -> None:
    """64 actors are the limit for a stranger, not for one of the 64, and not for readers."""
    crowd = native.event(native.encode([(actor, 1) for actor in range(63)], []), None, 63, 2, payload=b"held")
    write = {"address": 0, "kind": twin.REPLACE, "payload": b"new", "expires_at_ms": -1, "floor": 0}
    read = {**write, "kind": twin.READ, "payload": b""}
    arguments = batch([write, read], [(twin.STORED, crowd)])
    result = twin.apply_batch(*arguments, 99, 10, 100, 0)
    assert list(result.status) == [twin.LIMIT, twin.OK]
    assert result.values == b"held"
    result = twin.apply_batch(*arguments, 5, 10, 100, 0)
    assert list(result.status) == [twin.OK, twin.OK]
    assert result.values == b"new"
    assert len(twin.context(result.sets)) == 64


@TWINS
def test_thousand_reads_of_one_written_value_are_one_copy(twin: Any) -> None:
    """A client that sets a big value and reads it over and over in one pipeline must not multiply it in
    memory.
    """
    write = {"address": 0, "kind": twin.REPLACE, "payload": bytes(100_000), "expires_at_ms": -1, "floor": 0}
    read = {**write, "kind": twin.READ, "payload": b""}
    result = twin.apply_batch(*batch([write, *[read] * 50], [(twin.ABSENT, b"")]), 1, 1, 100, 0)
    assert result.status == bytes(51)
    assert len(result.values) == 100_000


@TWINS
def test_batch_checks_every_argument_before_it_begins(twin: Any) -> None:
    """The loop runs unchecked: each index and length it follows is proved here."""
    write = {"address": 0, "kind": twin.REPLACE, "payload": b"abc", "expires_at_ms": -1, "floor": 0}
    good = [*batch([write, {**write, "kind": twin.READ}], [(twin.ABSENT, b"")]), 1, 1, 100, 0]
    assert list(twin.apply_batch(*good).status) == [twin.OK, twin.OK]
    bad: list[tuple[int, Any]] = [
        (0, -1),
        (0, 3),
        (1, b"\x02\x00"),
        (1, b"\x01"),
        (2, struct.pack("<2i", 0, -1)),
        (2, struct.pack("<2i", -2, 0)),
        (2, struct.pack("<2i", -1, 1)),
        (3, b"\x03\x01"),
        (5, struct.pack("<3q", 0, 1, 0)),
        (5, struct.pack("<3q", -1, 0, 0)),
        (5, struct.pack("<3q", 0, 0, 1)),
        (5, struct.pack("<2q", 0, 0)),
        (7, struct.pack("<2q", -1, 0)),
        (7, struct.pack("<2q", 4, 0)),
        (7, struct.pack("<2q", 2**63 - 1, 0)),
        (8, struct.pack("<2q", -1, 0)),
        (8, struct.pack("<2q", 7, 0)),
        (8, struct.pack("<2q", 2**63 - 1, 0)),
        (9, struct.pack("<2q", -2, 0)),
        (10, b""),
        (11, -1),
        (12, 2**64),
        (13, 2**64),
        (14, -2),
    ]
    for place, argument in bad:
        arguments = list(good)
        arguments[place] = argument
        with pytest.raises(ValueError, match=r".+"):
            twin.apply_batch(*arguments)
    # A REPLACE after a READ may not name the READ as its predecessor.
    with pytest.raises(ValueError, match="previous"):
        twin.apply_batch(2, b"\x00\x01", struct.pack("<2i", -1, 0), *good[3:])


@TWINS
def test_no_operation_is_no_work(twin: Any) -> None:
    """An empty batch is legal."""
    result = twin.apply_batch(*batch([], [(twin.ABSENT, b"")]), 1, 1, 1, 0)
    assert (result.status, result.sets, result.stamp_last, len(result.set_offsets)) == (b"", b"", 0, 8)
