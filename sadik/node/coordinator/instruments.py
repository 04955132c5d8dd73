"""What the coordinator and its replica count: added up per batch, exported at scrape time."""

from __future__ import annotations

from sadik.metrics.instruments import SECONDS
from sadik.metrics.registry import Registry


class CoordinatorInstruments:
    """Instruments of one node's coordinator."""

    def __init__(self, registry: Registry) -> None:
        outcomes = registry.counter(
            "sadik_quorum_operations_total",
            "Operations coordinated here, by outcome: done, missed (its quorum, or its deadline), or refused "
            "before anything was done, because too few replicas can be reached or too much is under way.",
            labels=("outcome",),
        )
        self.done = outcomes.labels("done")
        self.missed = outcomes.labels("missed")
        self.refused = outcomes.labels("refused")
        seconds = registry.histogram(
            "sadik_quorum_seconds",
            "From an operation's first step to its quorum: R replies for a read, W for a write. One batch is "
            "answered as a whole.",
            SECONDS,
            labels=("operation",),
        )
        self.read_seconds = seconds.labels("read")
        self.write_seconds = seconds.labels("write")
        self.sloppy = registry.counter(
            "sadik_sloppy_writes_total", "Writes sent to a fallback in the place of a primary that is down."
        ).child
        self.hints_lost = registry.counter(
            "sadik_hints_not_kept_total",
            "Hints that the store did not take; exchange repairs what they were for.",
        ).child
        repaired = registry.counter(
            "sadik_read_repairs_total",
            "Replicas of keys that a read found wrong and repaired, by what was wrong: stale, missing, "
            "unreadable, or own (the coordinator's).",
            labels=("reason",),
        )
        self.repaired = {name: repaired.labels(name) for name in ("stale", "missing", "unreadable", "own")}
        forwarded = registry.counter(
            "sadik_forwarded_operations_total",
            "Operations passed to a primary, by direction.",
            labels=("direction",),
        )
        self.forwarded_out = forwarded.labels("out")
        self.forwarded_in = forwarded.labels("in")
        merged = registry.counter(
            "sadik_replica_sets_total",
            "Version sets from other nodes, by why they were sent.",
            labels=("reason",),
        )
        self.received = [merged.labels(name) for name in ("write", "read_repair", "hint", "exchange")]
        self.reads_served = registry.counter(
            "sadik_replica_reads_total", "Keys read here for another coordinator."
        ).child

    def decided(self, seconds: float, reads: int, writes: int, missed: int) -> None:
        """A batch has been answered: ``missed`` of its operations have no quorum."""
        self.done.value += reads + writes - missed
        self.missed.value += missed
        if reads:
            self.read_seconds.observe(seconds, reads)
        if writes:
            self.write_seconds.observe(seconds, writes)
