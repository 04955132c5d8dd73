"""Counters, gauges and histograms that cost an integer addition, not a lock or a dictionary look-up.

An instrument is declared once, with its label names. Its children (one per combination of label values) are
made at start and kept by whoever counts, so that the data path only adds to plain numbers: once per batch,
with a count. Exporting happens at scrape time, in ``registry.py``. Not thread-safe: all counting is done on
the event loop's thread.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final, Generic, TypeVar

CHILDREN_MAX: Final = 1024
"""Combinations of label values per instrument: a label that follows user input is a bug that must show before
memory is gone.
"""

SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds for latencies: from a memory hit to a request that was given up."""

BYTES: Final = tuple(float(1 << power) for power in range(6, 26, 2))
"""Upper bounds for sizes: 64 B to 16 MiB, each four times the last."""

COUNTS: Final = tuple(float(1 << power) for power in range(13))
"""Upper bounds for numbers of things in a batch: 1 to 4096, each twice the last."""


class CounterChild:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, count: int = 1) -> None:
        """Count ``count`` >= 0 events."""
        self.value += count


class GaugeChild:
    """One number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def add(self, difference: float) -> None:
        self.value += difference


class HistogramChild:
    """Counts of values by range, and their sum.

    Attributes:
        counts: One per upper bound, and a last one for everything above; not cumulative.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count ``count`` observations of the same ``value``: one call for a batch whose operations took
        equally long.

        Cost: one bisection of the bounds.
        """
        # Upper bounds are inclusive, as "le" says: a value equal to a bound belongs to it.
        self.counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count


Child = TypeVar("Child", bound=CounterChild | GaugeChild | HistogramChild)


class Instrument(Generic[Child]):
    """A name, its help text, its label names, and one child per combination of label values."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str], make: Callable[[], Child]) -> None:
        self.name = name
        self.help_text = help_text
        self.label_names = tuple(labels)
        self._make = make
        self._children: dict[tuple[str, ...], Child] = {}
        if not self.label_names:
            self._children[()] = make()

    def labels(self, *values: str) -> Child:
        """The child of these label values, made at the first call; keep it instead of asking again.

        Raises:
            ValueError: A wrong number of values, or more combinations than ``CHILDREN_MAX``.
        """
        child = self._children.get(values)
        if child is not None:
            return child
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has labels {self.label_names}, not {len(values)} of them")
        if len(self._children) >= CHILDREN_MAX:
            raise ValueError(f"{self.name} has {CHILDREN_MAX} sets of label values, no room for {values}")
        child = self._children[values] = self._make()
        return child

    @property
    def child(self) -> Child:
        """The only child of an instrument without labels."""
        return self.labels()

    def children(self) -> Iterator[tuple[tuple[str, ...], Child]]:
        """Label values and child, in the order they were made."""
        yield from self._children.items()


class Counter(Instrument[CounterChild]):
    """Events, or bytes, since the start of the process."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help_text, labels, CounterChild)


class Gauge(Instrument[GaugeChild]):
    """A state that is set when it changes. For one that can be asked for, ``Registry.gauge_function`` is
    cheaper.
    """

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help_text, labels, GaugeChild)


class Histogram(Instrument[HistogramChild]):
    """A distribution over fixed ranges.

    Args:
        buckets: Upper bounds, inclusive, finite and strictly increasing; the last range, without a bound, is
            added.
    """

    def __init__(
        self, name: str, help_text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        bounds = tuple(float(bound) for bound in buckets)
        if not bounds or not all(map(math.isfinite, bounds)):
            raise ValueError(f"{name} needs at least one upper bound, and finite ones")
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"upper bounds of {name} must increase")
        self.bounds = bounds
        super().__init__(name, help_text, labels, lambda: HistogramChild(bounds))
