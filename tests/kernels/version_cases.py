"""What the tests of version sets share: the twins, generated sets, and one outcome of both twins."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import strategies as st

from sadik.errors import CorruptRecord, InvalidRequest, LimitReached
from sadik.kernels.native import versions as native
from sadik.kernels.reference import versions as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
UINT64_MAX = 2**64 - 1
ERRORS = (CorruptRecord, InvalidRequest, LimitReached, ValueError, TypeError)

Value = native.Value

# Few actors and small stamps, so that sets overlap, plus the ends of the range.
actors = st.one_of(st.integers(0, 4), st.sampled_from([2**63, UINT64_MAX]))
stamps = st.one_of(st.integers(1, 12), st.sampled_from([2**63, UINT64_MAX]))
floors = st.one_of(st.integers(0, 14), st.just(UINT64_MAX))
times = st.one_of(st.just(-1), st.integers(0, 5), st.just(2**63 - 1))


@cache
def content(actor: int, stamp: int) -> Any:
    """The value of a dot: the same wherever it turns up, as a dot stands for one event."""
    rng = random.Random(actor * 31 + stamp)
    tombstone = rng.random() < 0.25
    payload = b"" if tombstone else rng.randbytes(rng.choice([0, 1, 7, 100]))
    return Value(
        actor,
        stamp,
        int(tombstone),
        rng.choice([0, 0, 9]),
        rng.choice([-1, -1, 0, 3]),
        rng.randbytes(rng.choice([0, 0, 3])),
        payload,
    )


def near(seen: int) -> list[int]:
    """Up to four stamps that may be alive below ``seen``, ascending, itself among them."""
    return sorted({max(1, seen - 5), max(1, seen - 2), max(1, seen - 1), seen})


@st.composite
def parts(draw: st.DrawFn, entries_max: int = 5) -> tuple[list[tuple[int, int]], list[Any]]:
    """Entries and values of a set: any dots below what is seen may be alive."""
    entries = sorted(draw(st.dictionaries(actors, stamps, max_size=entries_max)).items())
    values = []
    for actor, seen in entries:
        alive = draw(st.integers(0, 15))
        chosen = [stamp for i, stamp in enumerate(near(seen)) if alive >> i & 1]
        values += [content(actor, stamp) for stamp in chosen]
    return entries, values


sets = parts().map(lambda pair: native.encode(*pair))
covers = st.dictionaries(actors, stamps, max_size=4).map(lambda seen: sorted(seen.items()))


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return call()
    except ERRORS as error:
        return type(error)


def same(name: str, *arguments: Any) -> Any:
    """Both twins give, or raise, the same; returns it."""
    results = [outcome(lambda twin=twin: getattr(twin, name)(*arguments)) for twin in (native, reference)]
    assert results[0] == results[1], (name, arguments)
    return results[0]
