"""A node's figures as metric families: read from its parts at scrape time, so that keeping them costs
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

import sadik
from sadik.api.cluster_metrics import export_cluster
from sadik.metrics.instruments import SECONDS, CounterChild, HistogramChild
from sadik.metrics.registry import Registry
from sadik.node.node import Node
from sadik.storage.service import SyncService


def export_node(registry: Registry, node: Node) -> None:
    """Declare the metrics of storage, durability, clock, buckets, background work and the cluster."""
    seconds = registry.histogram(
        "sadik_storage_sync_seconds", "Duration of syncs to disk, of data and of hints.", SECONDS, ("store",)
    )
    failures = registry.counter(
        "sadik_storage_sync_failures_total", "Failed syncs; writes are refused after the first.", ("store",)
    )
    for store, sync in (("data", node.sync), ("hints", node.hint_sync)):
        _observe(sync, seconds.labels(store), failures.labels(store))
    registry.collector(lambda: _storage(node))
    registry.collector(lambda: _jobs(node))
    registry.gauge_function(
        "sadik_clock_ahead_milliseconds",
        "How far the hybrid logical clock is ahead of the wall clock.",
        node.hybrid.ahead_ms,
    )
    registry.gauge_function("sadik_buckets", "Buckets written to so far.", lambda: len(node.buckets.names()))
    registry.gauge_function(
        "sadik_ready", "1 while requests are accepted.", lambda: int(node.coordinator.ready())
    )
    export_cluster(registry, node)


def _observe(sync: SyncService, seconds: HistogramChild, failures: CounterChild) -> None:
    def on_sync(took_s: float, error: OSError | None) -> None:
        seconds.observe(took_s)
        if error is not None:
            failures.add()

    sync.on_sync = on_sync


def _storage(node: Node) -> Iterator[Metric]:
    statistics = node.engine.statistics()
    yield InfoMetricFamily(
        "sadik_node",
        "Who this node is.",
        value={
            "version": sadik.__version__,
            "node": node.birth.node_id,
            "cluster": node.birth.cluster,
            "cluster_id": node.birth.cluster_id,
            "engine": statistics.engine,
        },
    )
    for name, help_text, value in (
        ("keys", "Keys in the index, deletes that are still remembered included.", statistics.keys),
        ("stored_bytes", "Bytes of files.", statistics.stored_bytes),
        ("live_bytes", "Bytes of records that are the newest of their key.", statistics.live_bytes),
        ("index_bytes", "Memory of the index.", statistics.index_bytes),
        ("segments", "Segment files.", statistics.segments),
        (
            "quarantined_segments",
            "Segments kept because something in them is unreadable.",
            statistics.quarantined_segments,
        ),
        ("corrupt_bytes", "Bytes that could not be read as records.", statistics.corrupt_bytes),
        ("writable", "0 when the engine refuses writes until it is opened again.", int(statistics.writable)),
        (
            "unsynced_tickets",
            "Writes handed over and not yet durable.",
            node.vnodes.ticket_last - node.engine.durable_ticket,
        ),
    ):
        yield GaugeMetricFamily(f"sadik_storage_{name}", help_text, value=max(0, value))
    yield CounterMetricFamily(
        "sadik_storage_corrupt_records_total",
        "Records found unreadable; none of them was served.",
        value=statistics.corrupt_records,
    )
    details = GaugeMetricFamily("sadik_storage_detail", "Figures particular to the engine.", labels=("name",))
    for name, number in statistics.details.items():
        if isinstance(number, int):
            details.add_metric((name,), number)
    yield details


def _jobs(node: Node) -> Iterator[Metric]:
    steps = CounterMetricFamily("sadik_job_steps_total", "Steps of background jobs.", labels=("job",))
    seconds = CounterMetricFamily(
        "sadik_job_seconds_total", "Time spent in background jobs.", labels=("job",)
    )
    errors = CounterMetricFamily(
        "sadik_job_errors_total", "Failed steps of background jobs.", labels=("job",)
    )
    for status in node.background.statistics():
        steps.add_metric((status.name,), status.steps)
        seconds.add_metric((status.name,), status.seconds)
        errors.add_metric((status.name,), status.errors)
    yield from (steps, seconds, errors)
