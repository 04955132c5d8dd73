"""Hints that name a key only: both twins on generated batches, each rule by itself, and bytes that may never
change."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import hints as native
from sadik.kernels.reference import hints as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
OWNER_HASH = bytes(range(0xA0, 0xB0))
KEY_VALUE = bytes((1, 1, 2, 0)) + (77).to_bytes(8, "little") + bytes(16) + b"n2"
STORED, ABSENT, ERROR = range(3)


def int64(numbers: list[int]) -> bytes:
    return struct.pack(f"={len(numbers)}q", *numbers)


def offsets_of(parts: list[bytes]) -> bytes:
    places = [0]
    for part in parts:
        places.append(places[-1] + len(part))
    return int64(places)


def key_of(number: int) -> bytes:
    """Digests that differ in one of three parts, so that halves of places collide too."""
    return bytes((number & 1,)) * 7 + bytes((number >> 1 & 1,)) * 8 + bytes((number >> 2,))


def hint_of(key: bytes, *, stored_ms: int = 5) -> bytes:
    return KEY_VALUE[:4] + stored_ms.to_bytes(8, "little") + key + KEY_VALUE[28:]


def arguments(keys: list[bytes], found: list[bytes | None]) -> tuple[Any, ...]:
    """A batch of keys, with what is stored at their places: a value, nothing, or None for unreadable."""
    status = bytes(ERROR if one is None else ABSENT if one == b"" else STORED for one in found)
    data = [one or b"" for one in found]
    digests = b"".join(keys)
    places = reference.places(len(keys), digests, OWNER_HASH)
    starts, lengths = int64([10 * i for i in range(len(keys))]), int64([3 + i for i in range(len(keys))])
    return (len(keys), digests, places, status, b"".join(data), offsets_of(data), KEY_VALUE, starts, lengths)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return tuple(call())
    except (ValueError, TypeError) as error:
        return type(error)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Any, ...]:
    numbers = draw(st.lists(st.integers(0, 11), max_size=12))
    keys = [key_of(number) for number in numbers]
    stored = [
        draw(
            st.one_of(
                st.just(b""),
                st.none(),
                st.just(hint_of(key)),
                st.just(hint_of(key) + b"s"),
                st.just(hint_of(key_of(3))),
                st.binary(min_size=1, max_size=40),
            )
        )
        for key in keys
    ]
    return arguments(keys, stored)


@given(batches())
def test_twins_sift_alike(batch):
    """Whatever is stored: the same hints are new, the same are left to the caller."""
    assert outcome(lambda: native.sift(*batch)) == outcome(lambda: reference.sift(*batch))


@given(st.integers(0, 8), st.integers(0, 140), st.integers(0, 12))
def test_twins_place_alike(count, length, hash_length):
    """The same places, or the same refusal of what is too short."""
    digests, owner = bytes(range(length)), bytes(range(7, 7 + hash_length))
    results = [outcome(lambda twin=twin: twin.places(count, digests, owner)) for twin in (native, reference)]
    assert results[0] == results[1]


@given(st.data())
def test_twins_refuse_alike(data):
    """Each buffer too short, offsets that go back or leave their buffer: ValueError, and nothing is read."""
    batch = list(arguments([key_of(1), key_of(2)], [hint_of(key_of(1)), b""]))
    index = data.draw(st.integers(0, 8))
    if index == 0:
        batch[0] = data.draw(st.sampled_from([-1, 3, (1 << 28) + 1]))
    elif index == 4:
        batch[4] = batch[4][:-1]
    elif index == 5 and data.draw(st.booleans()):
        batch[5] = int64(data.draw(st.sampled_from([[-1, 5, 5], [9, 4, 30], [0, 31, 30]])))
    else:
        batch[index] = batch[index][: data.draw(st.integers(0, len(batch[index]) - 1))]
    results = [outcome(lambda twin=twin: twin.sift(*batch)) for twin in (native, reference)]
    assert results[0] == results[1]


@TWINS
def test_bytes_of_a_place_are_for_ever(twin):
    """Hints on a disk are found by them after an upgrade."""
    digests = bytes(range(16)) + b"\xff" * 16
    assert bytes(twin.places(2, digests, OWNER_HASH)).hex() == (
        "a000010203040506a6aaaaaeaeaaaaa6" + "a0ffffffffffffff5e5d5c5b5a595857"
    )


@TWINS
def test_an_owner_has_one_range_and_a_key_another_place_for_each(twin):
    """A delivery walks the range of its owner; the same key may be owed to two nodes."""
    digests = b"".join(key_of(number) for number in range(4))
    places = bytes(twin.places(4, digests, OWNER_HASH))
    other = bytes(twin.places(4, digests, OWNER_HASH[:1] + bytes(15)))
    assert {places[0], places[16], places[32], places[48]} == {OWNER_HASH[0]}
    assert len({places[at : at + 16] for at in range(0, 64, 16)}) == 4
    assert all(places[at : at + 16] != other[at : at + 16] for at in range(0, 64, 16))


@TWINS
def test_only_keys_without_a_hint_get_one(twin):
    """What is there already is neither written again nor given a new age."""
    old, new, broken = key_of(1), key_of(2), key_of(3)
    sifted = twin.sift(*arguments([old, new, broken], [hint_of(old), b"", None]))
    assert sifted.added == 2
    assert bytes(sifted.values) == hint_of(new, stored_ms=77) + hint_of(broken, stored_ms=77)
    assert bytes(sifted.value_offsets) == int64([0, 30, 60])
    assert bytes(sifted.name_starts) == int64([10, 20])
    assert bytes(sifted.name_lengths) == int64([4, 5])
    assert sifted.name_bytes == 9
    assert sifted.unreadable == [2]
    assert sifted.others == []


@TWINS
def test_of_a_repeated_key_the_first_counts(twin):
    """A batch that writes one key a hundred times owes it once."""
    key = key_of(1)
    sifted = twin.sift(*arguments([key] * 100, [b""] * 100))
    assert sifted.added == 1
    assert bytes(sifted.name_starts) == int64([0])


@TWINS
@pytest.mark.parametrize(
    "found",
    [
        hint_of(key_of(1)) + b"set",
        hint_of(key_of(2)),
        bytes((1, 3)) + hint_of(key_of(1))[2:],
        bytes((2,)) + hint_of(key_of(1))[1:],
        hint_of(key_of(1))[:-1] + b"3",
        hint_of(key_of(1))[:-1],
        b"?",
    ],
    ids=["a set", "another key", "both kinds", "version", "another owner", "shorter", "rubbish"],
)
def test_what_is_not_just_a_hint_for_the_key_is_left_to_the_caller(twin, found):
    """The fast path decides nothing but the common case."""
    sifted = twin.sift(*arguments([key_of(1)], [found]))
    assert (sifted.added, sifted.others) == (0, [0])
