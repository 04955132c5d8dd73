"""The RESP server's numbers: added up per batch, read by INFO and exported at scrape time."""

from __future__ import annotations

from sadik.metrics.instruments import COUNTS, SECONDS, CounterChild
from sadik.metrics.registry import Registry


class RespInstruments:
    """Instruments of one RESP server; the plain numbers are read by INFO too."""

    def __init__(self, registry: Registry) -> None:
        commands = registry.counter(
            "sadik_resp_commands_total", "Commands that were run, by name.", labels=("command",)
        )
        self._commands = commands
        self._by_name: dict[str, CounterChild] = {}
        self._get = commands.labels("get")
        self._set = commands.labels("set")
        outcomes = registry.counter(
            "sadik_resp_replies_total", "Replies to commands, by outcome: ok or error.", labels=("outcome",)
        )
        self._ok = outcomes.labels("ok")
        self._error = outcomes.labels("error")
        connections = registry.counter(
            "sadik_resp_connections_total",
            "Connections by what became of them: accepted, refused (too many), cut_off (did not read).",
            labels=("fate",),
        )
        self.accepted = connections.labels("accepted")
        self.refused = connections.labels("refused")
        self.cut_off = connections.labels("cut_off")
        self.protocol_errors = registry.counter(
            "sadik_resp_protocol_errors_total", "Connections ended because their bytes were not RESP."
        ).child
        volume = registry.counter(
            "sadik_resp_bytes_total", "Bytes read from and written to clients.", labels=("direction",)
        )
        self.bytes_in = volume.labels("in")
        self.bytes_out = volume.labels("out")
        self.latency = registry.histogram(
            "sadik_resp_request_seconds",
            "From the turn that read a request to the hand-over of its reply, its quorum included.",
            SECONDS,
        ).child
        self._batches = registry.histogram(
            "sadik_resp_batch_operations", "Plain GETs and SETs run as one batch.", COUNTS
        ).child
        self._offset = 0

    @property
    def commands_processed(self) -> int:
        """Commands since the start, or since CONFIG RESETSTAT."""
        return self._ok.value + self._error.value - self._offset

    @property
    def errors(self) -> int:
        return self._error.value

    def submitted(self, operations: int, writes: int) -> None:
        """A batch of plain operations runs, ``writes`` of them SETs."""
        self._set.value += writes
        self._get.value += operations - writes
        self._batches.observe(operations)

    def answered(self, operations: int, errors: int) -> None:
        """Plain operations were answered, ``errors`` of them with one."""
        self._ok.value += operations - errors
        self._error.value += errors

    def command(self, name: str) -> None:
        """A command of the table was run; names are the table's, so there are few."""
        child = self._by_name.get(name)
        if child is None:
            child = self._by_name[name] = self._commands.labels(name)
        child.value += 1

    def replied(self, *, ok: bool) -> None:
        """Count the outcome of one command."""
        if ok:
            self._ok.value += 1
        else:
            self._error.value += 1

    def reset(self) -> None:
        """INFO's counters start again; Prometheus' never do."""
        self._offset = self._ok.value + self._error.value
