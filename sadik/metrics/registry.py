"""All instruments of one node, and their export to Prometheus at scrape time.

There is no global registry: a process may hold many nodes (the simulator does), and each has its own.
``prometheus_client`` gives the families, the text formats and the standard process figures; counting itself
stays with ``instruments.py``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sadik.metrics.instruments import Counter, Gauge, Histogram

_NAME: Final = re.compile(r"sadik(_[a-z0-9]+)+\Z")
_LABEL: Final = re.compile(r"[a-z][a-z0-9_]*\Z")

_log = logging.getLogger("sadik.metrics")

GaugeFunction = Callable[[], float]
CollectorFunction = Callable[[], Iterable[Metric]]


class Registry(Collector):
    """Declares instruments and gives their state as metric families.

    Names start with ``sadik_`` and are declared once; counters end in ``_total``. Declaring again, or badly,
    raises ``ValueError``.

    Args:
        process: Also export the standard ``process_*`` and ``python_*`` figures (memory, processor time, open
            files, collections).
    """

    def __init__(self, *, process: bool = True) -> None:
        self._names: set[str] = set()
        self._exports: list[CollectorFunction] = []
        self.prometheus = CollectorRegistry(auto_describe=False)
        self.prometheus.register(self)
        if process:
            ProcessCollector(registry=self.prometheus)
            PlatformCollector(registry=self.prometheus)
            GCCollector(registry=self.prometheus)
        self._scrape_errors = self.counter(
            "sadik_scrape_errors_total",
            "Callbacks that failed while metrics were read; their figures are missing from that answer.",
        ).child

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """Declare a counter; its name ends in ``_total``."""
        if not name.endswith("_total"):
            raise ValueError(f"the name of a counter ends in _total, unlike {name!r}")
        counter = Counter(self._declare(name, labels), help_text, labels)
        self._exports.append(lambda: [_counter_family(counter)])
        return counter

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare a gauge that is set."""
        gauge = Gauge(self._declare(name, labels), help_text, labels)
        self._exports.append(lambda: [_gauge_family(gauge)])
        return gauge

    def gauge_function(self, name: str, help_text: str, function: GaugeFunction) -> None:
        """Declare a gauge whose value is asked for at every scrape; costs nothing otherwise."""
        self._declare(name, ())
        self._exports.append(lambda: [GaugeMetricFamily(name, help_text, value=function())])

    def histogram(
        self, name: str, help_text: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """Declare a histogram; ``buckets`` are its upper bounds."""
        histogram = Histogram(self._declare(name, labels), help_text, buckets, labels)
        self._exports.append(lambda: [_histogram_family(histogram)])
        return histogram

    def collector(self, function: CollectorFunction) -> None:
        """Export what ``function`` yields at every scrape: statistics that a component keeps anyway.

        Its families' names must start with ``sadik_`` and must not be declared elsewhere; an answer that
        breaks this is left out and counted as a scrape error, because two families of one name make
        Prometheus refuse everything.
        """
        self._exports.append(function)

    def collect(self) -> Iterator[Metric]:
        """Every family's state now. A callback that fails is left out, logged and counted: the rest still
        matters most then.
        """
        seen: set[str] = set()
        for export in self._exports[1:]:
            try:
                families = list(export())
                for family in families:
                    if family.name in seen or not _NAME.match(family.name):
                        raise ValueError(f"family {family.name!r} is exported twice or not named sadik_...")
                    seen.add(family.name)
            except Exception:  # noqa: BLE001  A broken callback must not hide all other figures.
                self._scrape_errors.add()
                _log.exception("a metrics callback failed")
                continue
            yield from families
        # Last, so that it counts the failures of this very scrape.
        yield from self._exports[0]()

    def _declare(self, name: str, labels: Sequence[str]) -> str:
        if not _NAME.match(name):
            raise ValueError(f"a metric is named sadik_lower_case, not {name!r}")
        if name in self._names:
            raise ValueError(f"metric {name} is declared twice")
        for label in labels:
            if not _LABEL.match(label) or label == "le" or list(labels).count(label) > 1:
                raise ValueError(f"{label!r} cannot be a label of {name}")
        self._names.add(name)
        return name


def _counter_family(counter: Counter) -> Metric:
    family = CounterMetricFamily(counter.name, counter.help_text, labels=counter.label_names)
    for values, child in counter.children():
        family.add_metric(values, child.value)
    return family


def _gauge_family(gauge: Gauge) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.help_text, labels=gauge.label_names)
    for values, child in gauge.children():
        family.add_metric(values, child.value)
    return family


def _histogram_family(histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(histogram.name, histogram.help_text, labels=histogram.label_names)
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    for values, child in histogram.children():
        total = 0
        cumulative: list[tuple[str, float]] = []
        for bound, count in zip(bounds, child.counts, strict=True):
            total += count
            cumulative.append((bound, total))
        family.add_metric(values, cumulative, child.sum)
    return family
