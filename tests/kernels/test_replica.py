"""A replica's loops: both twins on generated sets, and each rule against the functions on single sets."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.kernels.native import replica as native
from sadik.kernels.native import versions
from sadik.kernels.reference import replica as reference
from tests.kernels.version_cases import sets as stored_sets

TWINS = [pytest.param(native, id="native"), pytest.param(reference, id="reference")]
KEY = bytes(range(16))
LIMIT = (1 << 64) - 1

cases = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([0, 1, 2]),
        st.one_of(stored_sets, st.binary(max_size=30)),
        st.one_of(stored_sets, st.binary(max_size=30)),
        st.booleans(),
    ),
    max_size=8,
)


def int64(numbers: list[int]) -> bytes:
    return struct.pack(f"={len(numbers)}q", *numbers)


def offsets_of(parts: list[bytes]) -> bytes:
    places = [0]
    for part in parts:
        places.append(places[-1] + len(part))
    return int64(places)


def links_of(keys: list[int]) -> bytes:
    last: dict[int, int] = {}
    links = []
    for index, key in enumerate(keys):
        links.append(last.get(key, -1))
        last[key] = index
    return struct.pack(f"={len(links)}i", *links)


def merge_arguments(case: list[Any], limit: int = LIMIT) -> tuple[Any, ...]:
    keys = [item[0] for item in case]
    stored = [item[2] for item in case]
    incoming = [item[3] for item in case]
    starts = offsets_of(incoming)
    return (
        len(case),
        b"".join(bytes([key]) * 16 for key in keys),
        links_of(keys),
        bytes(item[1] for item in case),
        b"".join(stored),
        offsets_of(stored),
        b"".join(incoming),
        starts[:-8],
        int64([len(part) for part in incoming]),
        bytes(item[4] for item in case),
        limit,
    )


@settings(deadline=None)
@given(case=cases, limit=st.sampled_from([LIMIT, 50, 0]))
def test_merge_twins_agree(case, limit):
    """Whatever is stored and whatever comes, valid or not."""
    arguments = merge_arguments(case, limit)
    assert tuple(native.merge_batch(*arguments)) == tuple(reference.merge_batch(*arguments))


@settings(deadline=None)
@given(case=cases)
def test_compare_twins_agree(case):
    count = len(case)
    stored = [item[2] for item in case]
    prints = []
    for key, _, _, theirs, _ in case:
        try:
            prints.append(versions.fingerprint(bytes([key]) * 16, theirs))
        except Exception:  # noqa: BLE001  Any fingerprint will do for what is none.
            prints.append(7)
    arguments = (
        count,
        b"".join(bytes([item[0]]) * 16 for item in case),
        struct.pack(f"={count}Q", *prints),
        bytes(item[1] for item in case),
        b"".join(stored),
        offsets_of(stored),
    )
    assert tuple(native.compare_batch(*arguments)) == tuple(reference.compare_batch(*arguments))


@settings(deadline=None)
@given(case=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), stored_sets, stored_sets), max_size=8))
def test_fingerprint_twins_agree(case):
    stored = [item[2] for item in case]
    made = [item[3] for item in case]
    arguments = (
        len(case),
        b"".join(bytes([item[0]]) * 16 for item in case),
        links_of([item[0] for item in case]),
        bytes(item[1] for item in case),
        b"".join(stored),
        offsets_of(stored),
        b"".join(made),
        offsets_of(made),
    )
    assert tuple(native.fingerprints(*arguments)) == tuple(reference.fingerprints(*arguments))


@pytest.mark.parametrize("twin", TWINS)
@settings(deadline=None)
@given(base=stored_sets, incoming=stored_sets)
def test_merge_is_that_of_single_sets(twin, base, incoming):
    """The loop decides nothing of its own."""
    merged = twin.merge_batch(*merge_arguments([(0, 0 if base else 1, base, incoming, False)]))
    wanted = versions.merge(base, incoming)
    if not incoming:
        assert merged.status[0] == twin.INVALID
    elif wanted == base:
        assert (merged.status[0], merged.sets) == (twin.KNOWN, b"")
    else:
        assert (merged.status[0], bytes(merged.sets)) == (twin.MERGED, wanted)
        assert merged.dead[0] == versions.is_dead(wanted)
        assert merged.stamp_last == versions.stamp_max(incoming)


def written(actor: int, stamp: int, payload: bytes, current: bytes = b"") -> bytes:
    return versions.event(current, (), actor, stamp, payload=payload)


@pytest.mark.parametrize("twin", TWINS)
def test_second_set_of_a_key_meets_the_first(twin):
    """Within a batch operations on one key take effect in order."""
    one, other = written(1, 10, b"a"), written(2, 11, b"b")
    merged = twin.merge_batch(
        *merge_arguments([(0, 1, b"", one, False), (0, 1, b"", other, False), (0, 1, b"", one, False)])
    )
    assert list(merged.status) == [twin.MERGED, twin.MERGED, twin.KNOWN]
    assert bytes(merged.sets) == one + versions.merge(one, other)


@pytest.mark.parametrize("twin", TWINS)
def test_unreadable_record_is_healed_and_counted(twin):
    """What cannot be read counts as nothing, and the caller learns of it (FACTS 4, S5)."""
    one = written(1, 10, b"a")
    merged = twin.merge_batch(*merge_arguments([(0, 2, b"", one, False), (1, 0, b"garbage", one, False)]))
    assert list(merged.status) == [twin.MERGED, twin.MERGED]
    assert merged.unreadable == 2
    compared = twin.compare_batch(1, KEY, bytes(8), b"\2", b"", bytes(16))
    assert list(compared.status) == [twin.UNREADABLE]


@pytest.mark.parametrize("twin", TWINS)
def test_stamps_from_the_future_are_not_merged(twin):
    """A stamp beyond the limit would drive every clock that meets it."""
    one = written(1, 10, b"a")
    merged = twin.merge_batch(*merge_arguments([(0, 1, b"", one, False)], limit=9))
    assert (list(merged.status), merged.stamp_last) == ([twin.CLOCK], 0)


@pytest.mark.parametrize("twin", TWINS)
def test_newest_only_bucket_keeps_one_value(twin):
    """``lww``: an older value changes nothing but what was seen; a newer one replaces."""
    old, new = written(1, 10, b"old"), written(2, 11, b"new")
    merged = twin.merge_batch(*merge_arguments([(0, 0, old, new, True), (1, 0, new, old, True)]))
    wanted = versions.keep_newest(versions.merge(old, new))
    assert bytes(merged.sets) == wanted + wanted
    assert [value.payload for value in versions.siblings(wanted, 0, 0)] == [b"new"]


@pytest.mark.parametrize("twin", TWINS)
def test_limit_of_the_format_is_a_status(twin):
    """More entries than the format holds: refused for this set alone."""
    many = versions.encode([(actor, 1) for actor in range(1, 65536)], [])
    other = written(70000, 10, b"a")
    merged = twin.merge_batch(*merge_arguments([(0, 0, many, other, False), (1, 1, b"", other, False)]))
    assert list(merged.status) == [twin.LIMIT, twin.MERGED]


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("place", range(1, 10))
def test_short_buffers_are_refused(twin, place):
    """Every buffer is checked before the loop."""
    arguments = list(merge_arguments([(0, 0, written(1, 1, b"x"), written(2, 2, b"y"), False)]))
    arguments[place] = b""
    with pytest.raises(ValueError, match=r"."):
        twin.merge_batch(*arguments)
