"""An engine in memory: a dict, and its keys in order. Nothing survives the process, so every write is as
durable as it gets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from sadik.storage.engine import DIGEST_BYTES, Entry, Statistics, SyncRequest
from sadik.storage.record_engine import Record, RecordEngine, footprint


class MemoryEngine(RecordEngine):
    """For tests, caches and simulations.

    Cost: as a dict; a scan after writes first merges the new keys into the order, O(keys).
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[bytes, Record] = {}
        self._table: dict[bytes, bytes] = {}
        self._order = _Order()

    @property
    def durable_ticket(self) -> int:
        return self._ticket

    def sync_begin(self) -> SyncRequest | None:
        self._check_open()
        return None

    def statistics(self) -> Statistics:
        self._check_open()
        stored, live = self._spaces.total(garbage=True), self._spaces.total(garbage=False)
        return Statistics(
            engine="memory",
            keys=live.keys,
            stored_bytes=stored.bytes,
            live_bytes=live.bytes,
            index_bytes=DIGEST_BYTES * stored.records,
            segments=0,
            corrupt_records=0,
            corrupt_bytes=0,
            quarantined_segments=0,
            writable=True,
            details={"system_values": len(self._table)},
        )

    def _fetch(self, digests: Iterable[bytes]) -> Iterator[Record | None]:
        return map(self._records.get, digests)

    def _apply(self, changes: Sequence[tuple[bytes, Record | None]]) -> None:
        for digest, record in changes:
            old = self._records.pop(digest, None)
            if old is not None:
                self._spaces.drop(footprint(old))
            if record is not None:
                self._spaces.add(footprint(record))
                self._records[digest] = record
            if old is None and record is not None:
                self._order.add(digest)
            elif old is not None and record is None:
                self._order.drop(digest)

    def _walk(self, after: bytes, stop: bytes, count: int, bytes_max: int) -> list[Entry]:
        entries = []
        taken = 0
        for digest in self._order.between(after, stop, count):
            record = self._records[digest]
            entries.append(Entry(digest, record.space, record.flags, record.name, record.value))
            taken += len(record.value)
            if taken >= bytes_max:
                break
        return entries

    def _apply_system(self, name: bytes, value: bytes) -> None:
        if value:
            self._table[name] = value
        else:
            self._table.pop(name, None)

    def _system(self) -> list[tuple[bytes, bytes]]:
        return sorted(self._table.items())

    def _release(self) -> None:
        self._records.clear()
        self._table.clear()
        self._order = _Order()


class _Order:
    """A set of digests that is put in order when it is read.

    Sorting a sorted list with new items at its end is a merge, so writes between two scans cost O(keys), not
    O(keys log keys).
    """

    def __init__(self) -> None:
        self._sorted: list[bytes] = []
        self._new: dict[bytes, None] = {}
        self._gone: set[bytes] = set()

    def add(self, digest: bytes) -> None:
        """``digest`` is not in the set."""
        if digest in self._gone:
            self._gone.remove(digest)
        else:
            self._new[digest] = None

    def drop(self, digest: bytes) -> None:
        """``digest`` is in the set."""
        if digest in self._new:
            del self._new[digest]
        else:
            self._gone.add(digest)

    def between(self, after: bytes, stop: bytes, count: int) -> list[bytes]:
        """The first ``count`` digests with ``after`` < digest <= ``stop``."""
        if self._gone:
            self._sorted = [digest for digest in self._sorted if digest not in self._gone]
            self._gone.clear()
        if self._new:
            self._sorted.extend(self._new)
            self._sorted.sort()
            self._new.clear()
        first = bisect_right(self._sorted, after)
        last = bisect_right(self._sorted, stop)
        return self._sorted[first : min(last, first + count)]
