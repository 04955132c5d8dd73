"""Instruments count exactly, and their label sets stay bounded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.metrics import Counter, Gauge, Histogram
from sadik.metrics.instruments import BYTES, CHILDREN_MAX, COUNTS, SECONDS


def test_children_are_made_once_and_count_apart() -> None:
    """A kept child is the instrument's own state, whoever asks again."""
    counter = Counter("sadik_commands_total", "", ("command", "outcome"))
    get_ok = counter.labels("get", "ok")
    get_ok.add(3)
    counter.labels("get", "error").add()
    assert counter.labels("get", "ok") is get_ok
    assert [(values, child.value) for values, child in counter.children()] == [
        (("get", "ok"), 3),
        (("get", "error"), 1),
    ]


def test_instrument_without_labels_has_one_child_from_the_start() -> None:
    """It is exported as 0 before the first event, so that rates start right."""
    gauge = Gauge("sadik_connections", "")
    assert [child.value for _, child in gauge.children()] == [0.0]
    gauge.child.set(5)
    gauge.child.add(-2)
    assert gauge.child.value == 3


def test_wrong_number_of_label_values_is_refused() -> None:
    """A missing value would otherwise be exported under another label's name."""
    counter = Counter("sadik_commands_total", "", ("command", "outcome"))
    for values in ((), ("get",), ("get", "ok", "more")):
        with pytest.raises(ValueError, match="has labels"):
            counter.labels(*values)


def test_label_sets_are_bounded() -> None:
    """A label that follows user input shows as an error instead of eating memory."""
    counter = Counter("sadik_keys_total", "", ("key",))
    for number in range(CHILDREN_MAX):
        counter.labels(str(number))
    with pytest.raises(ValueError, match="no room"):
        counter.labels("one too many")
    assert counter.labels("0") is counter.labels("0")


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8, unique=True).map(sorted),
    st.lists(st.tuples(st.floats(-2e6, 2e6), st.integers(1, 9)), max_size=30),
)
def test_histogram_counts_as_le_says(bounds: list[float], observations: list[tuple[float, int]]) -> None:
    """Below and at each upper bound lie exactly the values that are not above it."""
    child = Histogram("sadik_seconds", "", bounds).child
    for value, count in observations:
        child.observe(value, count)
    for index, bound in enumerate([*bounds, math.inf]):
        assert sum(child.counts[: index + 1]) == sum(c for v, c in observations if v <= bound)
    assert child.sum == pytest.approx(sum(v * c for v, c in observations))


@pytest.mark.parametrize("bounds", [[], [1.0, 1.0], [2.0, 1.0], [1.0, math.inf], [math.nan]])
def test_bad_bounds_are_refused(bounds: list[float]) -> None:
    """Bisection over unsorted bounds would count into wrong ranges without an error."""
    with pytest.raises(ValueError, match="upper bound"):
        Histogram("sadik_seconds", "", bounds)


@pytest.mark.parametrize("bounds", [SECONDS, BYTES, COUNTS])
def test_standard_bounds_are_usable(bounds: tuple[float, ...]) -> None:
    """The bounds offered to other components pass the check above."""
    assert Histogram("sadik_seconds", "", bounds).bounds == bounds
