"""Prometheus instruments, handed into the other components; nothing here is global."""

from __future__ import annotations

from sadik.metrics.exposition import expose
from sadik.metrics.instruments import (
    BYTES,
    COUNTS,
    SECONDS,
    Counter,
    CounterChild,
    Gauge,
    GaugeChild,
    Histogram,
    HistogramChild,
)
from sadik.metrics.registry import Registry

__all__ = [
    "BYTES",
    "COUNTS",
    "SECONDS",
    "Counter",
    "CounterChild",
    "Gauge",
    "GaugeChild",
    "Histogram",
    "HistogramChild",
    "Registry",
    "expose",
]
