"""Replies to a run of operations, and their order within a batch: the RESP kernel and its plain twin."""

from __future__ import annotations

import array
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import resp as native
from sadik.kernels.reference import resp as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return call()
    except (ValueError, TypeError, OverflowError) as error:
        return type(error)


def packed(format_: str, numbers: list[int]) -> bytearray:
    return bytearray(struct.pack(f"<{len(numbers)}{format_}", *numbers))


@TWINS
def test_run_is_encoded(twin: Any) -> None:
    kinds, status = bytearray([1, 0, 0, 0, 1]), bytearray([0, 0, 1, 0, 0])
    starts, lengths = packed("q", [99, 2, 0, 5, -1]), packed("q", [99, 3, 0, 0, -1])
    arguments = (kinds, status, b"..abc", starts, lengths)
    assert twin.encode_run(0, 5, *arguments, False) == b"+OK\r\n$3\r\nabc\r\n$-1\r\n$0\r\n\r\n+OK\r\n"
    assert twin.encode_run(0, 5, *arguments, True) == b"+OK\r\n$3\r\nabc\r\n_\r\n$0\r\n\r\n+OK\r\n"
    assert twin.encode_run(1, 2, *arguments, False) == b"$3\r\nabc\r\n"
    assert twin.encode_run(2, 2, *arguments, False) == b""
    as_numpy = [np.frombuffer(data, np.uint8) for data in arguments[:3]]
    as_numpy += [np.frombuffer(data, np.int64) for data in arguments[3:]]
    assert twin.encode_run(1, 3, *as_numpy, False) == b"$3\r\nabc\r\n$-1\r\n"


@TWINS
@pytest.mark.parametrize(
    ("kind", "status", "start", "length"),
    [
        (0, 0, 0, 6),
        (0, 0, 5, 1),
        (0, 0, 6, 0),
        (0, 0, -1, 1),
        (0, 0, 2, -1),
        (0, 0, 1, 2**63 - 1),
        (0, 0, 2**63 - 1, 2**63 - 1),
        (0, 2, 0, 0),
        (1, 1, 0, 0),
        (2, 0, 0, 0),
        (255, 255, 0, 0),
    ],
)
def test_run_refuses_what_it_cannot_answer(
    twin: Any, kind: int, status: int, start: int, length: int
) -> None:
    with pytest.raises(ValueError, match=r"."):
        twin.encode_run(
            0, 1, bytes([kind]), bytes([status]), b"12345", packed("q", [start]), packed("q", [length]), False
        )


@TWINS
def test_run_refuses_short_arrays(twin: Any) -> None:
    whole = [bytes(2), bytes(2), b"", bytes(16), bytes(16)]
    assert twin.encode_run(0, 2, *whole, False) == b"$0\r\n\r\n$0\r\n\r\n"
    for i in (0, 1, 3, 4):
        short = whole.copy()
        short[i] = short[i][:-1]
        with pytest.raises(ValueError, match="bytes"):
            twin.encode_run(0, 2, *short, False)
    for first, stop in ((-1, 1), (2, 1), (0, 2**31)):
        with pytest.raises(ValueError, match="run"):
            twin.encode_run(first, stop, *whole, False)
    for i in range(5):
        wrong: list[Any] = list(whole)
        wrong[i] = None
        with pytest.raises(TypeError):
            twin.encode_run(0, 2, *wrong, False)


run_items = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 1, 2]),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.integers(-2, 12),
        st.integers(-2, 12),
    ),
    max_size=12,
)


@given(run_items, st.binary(max_size=12), st.integers(0, 3), st.booleans())
def test_twins_encode_alike(
    items: list[tuple[int, int, int, int]], values: bytes, first: int, resp3: bool
) -> None:
    kinds, status = bytes(item[0] for item in items), bytes(item[1] for item in items)
    starts, lengths = packed("q", [item[2] for item in items]), packed("q", [item[3] for item in items])
    arguments = (first, len(items), kinds, status, values, starts, lengths, resp3)
    assert outcome(lambda: native.encode_run(*arguments)) == outcome(lambda: reference.encode_run(*arguments))


@TWINS
def test_bulk_and_array_are_encoded(twin: Any) -> None:
    assert twin.bulk(b"") == b"$0\r\n\r\n"
    assert twin.bulk(memoryview(b"a\r\nb")) == b"$4\r\na\r\nb\r\n"
    for size in (9, 10, 99, 100, 12345):
        assert twin.bulk(bytearray(size)) == b"$%d\r\n" % size + bytes(size) + b"\r\n"
    assert twin.array([]) == b"*0\r\n"
    assert (
        twin.array([twin.bulk(b"a"), bytearray(b":1\r\n"), twin.array(())])
        == b"*3\r\n$1\r\na\r\n:1\r\n*0\r\n"
    )
    for encode, wrong in ((twin.bulk, "text"), (twin.bulk, None), (twin.array, ["text"]), (twin.array, 3)):
        with pytest.raises(TypeError):
            encode(wrong)


def chained(twin: Any, kinds: bytes, digests: bytes) -> list[int]:
    previous = array.array("i", [7] * len(kinds))
    twin.chain(len(kinds), kinds, digests, previous)
    return previous.tolist()


@TWINS
def test_operations_are_linked_to_the_latest_set_before_them(twin: Any) -> None:
    a, b = b"a" * 16, b"b" * 16
    assert chained(twin, bytes([0, 1, 0, 1, 1, 0, 0]), a + a + b + b + a + a + b) == [-1, -1, -1, -1, 1, 4, 3]
    assert chained(twin, bytes(3), a * 3) == [-1, -1, -1]
    assert chained(twin, b"", b"") == []


@TWINS
def test_digests_that_share_a_half_are_different(twin: Any) -> None:
    """Tokens of one partition share their first bits; a table that trusted one half would link strangers."""
    digests = [bytes([high]) * 8 + bytes([low]) * 8 for high in range(4) for low in range(4)]
    assert chained(twin, bytes([1] * 16), b"".join(digests)) == [-1] * 16
    assert chained(twin, bytes([1] * 32), b"".join(digests * 2)) == [-1] * 16 + list(range(16))


@TWINS
def test_chain_refuses_short_arrays_and_strange_kinds(twin: Any) -> None:
    for kinds, digests, previous in ((1, 32, 8), (2, 31, 8), (2, 32, 7)):
        with pytest.raises(ValueError, match=r"."):
            twin.chain(2, bytes(kinds), bytes(digests), bytearray(previous))
    with pytest.raises(ValueError, match="kind"):
        twin.chain(2, bytes([1, 2]), bytes(32), bytearray(8))
    for count in (-1, 2**31):
        with pytest.raises(ValueError, match="count"):
            twin.chain(count, b"", b"", bytearray())
    with pytest.raises((BufferError, TypeError)):
        twin.chain(2, bytes(2), bytes(32), bytes(8))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=300), st.integers(0, 15))
def test_twins_chain_alike(items: list[tuple[bool, int]], place: int) -> None:
    """Digests that differ in one byte only, so that many fall into the same slot of the table."""
    kinds = bytes(kind for kind, _ in items)
    digests = b"".join(bytes(place) + bytes([number]) + bytes(15 - place) for _, number in items)
    assert chained(native, kinds, digests) == chained(reference, kinds, digests)


@pytest.mark.parametrize("count", [2047, 2048, 2049, 20000])
def test_twins_chain_alike_when_the_table_moves_to_the_heap(count: int) -> None:
    rng = random.Random(count)
    pool = [rng.randbytes(16) for _ in range(count // 2)]
    digests = b"".join(rng.choices(pool, k=count))
    for kinds in (bytes([1]) * count, bytes(rng.choices([0, 1], k=count))):
        assert chained(native, kinds, digests) == chained(reference, kinds, digests)
