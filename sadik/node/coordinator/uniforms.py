"""Which batches need the same for all of their operations: found once for each view, not for each batch.

Where every node holds every key that is all batches; else those of one key, or of keys whose partitions have
the same replicas. The rest, and whatever needs someone in the place of a primary, is routed operation by
operation (``Core.targets``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.members.view import NOBODY, View
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.quorum import Needs, Uniform, needs_of
from sadik.node.operations import DIGEST_BYTES, Span

OPERATIONS_MAX: Final = 16
"""Bigger batches seldom have one set of replicas, where there are several."""


class Uniforms:
    """Those of one view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._tables: dict[tuple[int, Needs], _Table] = {}
        self._last_properties: BucketProperties | None = None
        self._last: _Table | None = None

    def of(
        self, count: int, spans: Sequence[Span], digests: bytes | bytearray, options: Options | None
    ) -> Uniform | None:
        """What ``count`` operations need, with ``options``; None where that differs, or cannot be had.

        Args:
            digests: 16 bytes of each.
        """
        if options is None and len(spans) == 1:
            # Almost every batch. Properties are replaced, never changed.
            properties = spans[0].bucket.properties
            if properties is not self._last_properties:
                self._last = self._table(properties, None)
                self._last_properties = properties
            assert self._last is not None, "it is found with its properties"
            return self._last.of(0, count, digests)
        wanted = {
            self._table(span.bucket.properties, options).of(span.first, span.stop, digests) for span in spans
        }
        return wanted.pop() if len(wanted) == 1 else None

    def _table(self, properties: BucketProperties, options: Options | None) -> _Table:
        n = self._view.effective_n(properties.n)
        needs = needs_of(properties, options, n)
        table = self._tables.get((n, needs))
        if table is None:
            table = self._tables[n, needs] = _Table(self._view, n, needs)
        return table


class _Table:
    """By partition, of ``n`` replicas and what is needed of them."""

    def __init__(self, view: View, n: int, needs: Needs) -> None:
        self._view = view
        self._targets = view.targets(n)
        self._needs = needs
        self._found: dict[int, Uniform | None] = {}
        self._made: dict[Uniform, Uniform] = {}
        self._everywhere = self._make(0) if self._targets.everywhere else None

    def of(self, first: int, stop: int, digests: bytes | bytearray) -> Uniform | None:
        """For the operations from ``first`` to before ``stop``."""
        if self._targets.everywhere:
            return self._everywhere
        if not 0 < stop - first <= OPERATIONS_MAX:
            return None
        common = self._of_one(digests, first)
        for index in range(first + 1, stop):
            if common is None or self._of_one(digests, index) is not common:
                return None
        return common

    def _of_one(self, digests: bytes | bytearray, index: int) -> Uniform | None:
        at = DIGEST_BYTES * index
        partition = self._view.partition_of(digests[at : at + 2])
        if partition in self._found:
            return self._found[partition]
        made = self._make(partition)
        # One object for all partitions that have the same.
        found = self._found[partition] = None if made is None else self._made.setdefault(made, made)
        return found

    def _make(self, partition: int) -> Uniform | None:
        view, needs = self._view, self._needs
        primaries = self._targets.primaries[partition].tolist()
        if not primaries or NOBODY in primaries:
            return None
        down: list[int] = []
        others: list[int] = []
        # In ascending order: partitions that differ in it alone have the same.
        for number, asked in sorted(zip(primaries, self._targets.reachable[partition].tolist(), strict=True)):
            if asked == number:
                others.append(number)
            elif asked == NOBODY:
                down.append(number)
            else:
                return None
        live, here = len(others), view.me in others
        if live < needs.read:
            return None
        return Uniform(
            here,
            needs.read,
            needs.write,
            live >= needs.write,
            tuple([view.nodes[number] for number in others if number != view.me]),
            tuple([view.nodes[number] for number in down]),
        )
