"""MSET as plain SETs: those of one turn are one batch, of which each other node gets its share in one frame.

A command of its own per key, or per node, would cost each of them what a whole batch costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.refusals import refusal, refusal_of_parts
from sadik.api.resp.replies import OK
from sadik.errors import SadikError
from sadik.kernels import digest, resp, versions
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.operations import Span

_NAME_BYTES: Final = 3
"""Of a name, beside bucket and key: their lengths."""


class Pairs(NamedTuple):
    """One MSET: its arguments from the first key on are keys and values in turn."""

    bucket: bytes
    arguments: list[bytes]

    @property
    def keys(self) -> int:
        return len(self.arguments) // 2

    @property
    def size(self) -> int:
        """Bytes of names and values."""
        return sum(map(len, self.arguments[1:])) + self.keys * (len(self.bucket) + _NAME_BYTES)

    @property
    def longest(self) -> int:
        """Bytes of its longest value."""
        return max(map(len, self.arguments[2::2]))


class PairWrites:
    """Runs MSETs in batches.

    Args:
        operations_max, bytes_max: Of a batch: keys, and bytes of names and values.
    """

    def __init__(self, coordinator: Coordinator, *, operations_max: int, bytes_max: int) -> None:
        self._coordinator = coordinator
        self._operations_max = operations_max
        self._bytes_max = bytes_max

    def run(
        self, writes: Sequence[Pairs], value_bytes_max: int, done: Callable[[int, bytes | None], None]
    ) -> None:
        """Run MSETs that have no order among them.

        Args:
            done: Called once for each, with its number and its reply; or None for one that a batch cannot do,
                though parts of it may be done: it is to be run as a command.
        """
        chosen: list[int] = []
        operations = size = 0
        for number, write in enumerate(writes):
            own, own_size = write.keys, write.size
            if own > self._operations_max or own_size > self._bytes_max or write.longest > value_bytes_max:
                done(number, None)
                continue
            if operations + own > self._operations_max or size + own_size > self._bytes_max:
                self._submit(writes, chosen, operations, size, done)
                chosen, operations, size = [], 0, 0
            chosen.append(number)
            operations += own
            size += own_size
        if chosen:
            self._submit(writes, chosen, operations, size, done)

    def _submit(
        self,
        writes: Sequence[Pairs],
        chosen: list[int],
        operations: int,
        size: int,
        done: Callable[[int, bytes | None], None],
    ) -> None:
        batch = resp.Batch(operations, size)
        stops: list[int] = []
        spans: list[Span] = []
        try:
            for number in chosen:
                bucket, arguments = writes[number]
                first = batch.count
                for key, value in zip(arguments[1::2], arguments[2::2], strict=True):
                    added = batch.append(resp.SET, digest.address_name(bucket, key), value)
                    assert added, "its room was measured"
                if spans and spans[-1].bucket.name == bucket:
                    spans[-1] = spans[-1]._replace(stop=batch.count)
                else:
                    spans.append(Span(first, batch.count, self._coordinator.bucket_for_write(bucket)))
                stops.append(batch.count)
        except SadikError:
            # A bucket that cannot be recorded: as commands, each gets its own error.
            for number in chosen:
                done(number, None)
            return

        def answer(answers: Answers, runs: Sequence[int]) -> None:
            for run in runs:
                first = stops[run - 1] if run else 0
                done(chosen[run], _reply(answers, first, stops[run]))

        taken = self._coordinator.submit(batch, stops, spans, done=answer)
        for run, number in enumerate(chosen):
            if run and stops[run - 1] >= taken:
                done(number, None)


def _reply(answers: Answers, first: int, stop: int) -> bytes | None:
    """Of operations ``first`` <= i < ``stop``; None where some of them are to be tried as commands."""
    if not answers.refused and len(answers.status) >= stop:
        return OK
    status = answers.status[first:stop]
    failed = [refusal(answers.errors[first + at]) for at, one in enumerate(status) if one == FAILED]
    if failed:
        return refusal_of_parts(failed, whole=len(failed) == stop - first)
    return OK if len(status) == stop - first and max(status) <= versions.NOTHING else None
