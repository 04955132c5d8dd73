"""Collection: what nobody can miss any more is taken out of version sets, a page of keys at a time.

* An expired value goes once it has expired: every replica hides it from that moment by the same rule, and its
  entry (``seen``) stays, so a replica that still holds it cannot bring it back.
* Either stays while it hides an older sibling: RESP shows the newest value, and what a newer one has hidden
  must not come into sight again.
* A value below its bucket's truncation stamp (FLUSHDB) goes.
* A tombstone goes after the horizon, an entry without values when no other copy can hold what it covers.
* A key with nothing left is removed from the engine.

Each step reads a page in digest order, decides by a pure function, and writes what changed as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from sadik.env.clock import Clock
from sadik.ids import stamp_at
from sadik.kernels import versions
from sadik.node.buckets import Bucket
from sadik.node.records import Record
from sadik.node.vnode import Vnodes
from sadik.storage.engine import Entry

_PAGE_KEYS = 128
_PAGE_BYTES = 16 * 1024 * 1024
_LAST = b"\xff" * 16


def collect(
    stored: bytes,
    entries: versions.Entries,
    values: Sequence[versions.Value],
    *,
    floor: int,
    now_ms: int,
    tombstone_horizon: int,
    entry_horizon: int,
) -> bytes:
    """``stored`` without what nobody can miss; the same object when nothing goes, ``b""`` when nothing is
    left.

    Args:
        entries, values: ``stored``, decoded.
        floor: Truncation stamp of the bucket.
        tombstone_horizon: Tombstones with a smaller stamp go.
        entry_horizon: Entries without values and with a smaller ``seen`` go.
    """
    visible = [value for value in values if value.stamp > floor]
    living = [
        value
        for value in visible
        if not 0 <= value.expires_at_ms <= now_ms
        and not (value.flags & versions.TOMBSTONE and value.stamp < tombstone_horizon)
    ]
    shown = max(((value.stamp, value.actor) for value in living), default=None)
    kept = [
        value
        for value in visible
        if shown is not None and (value in living or (value.stamp, value.actor) > shown)
    ]
    left = stored if len(kept) == len(values) else versions.encode(entries, kept)
    return versions.forget(left, entry_horizon)


class Collector:
    """Walks a node's keys in rounds.

    Attributes:
        collected: Keys removed from the engine since the start.
        reduced: Version sets made smaller.
        expiring: Keys with a time to live per bucket, as the last whole round found them.
        sibling_keys: Keys with more than one live value, as that round found them. siblings_max: The most
        live values of one of them, 0 where there are none.
    """

    def __init__(self, vnodes: Vnodes, clock: Clock, horizon_ms: int) -> None:
        self.collected = 0
        self.reduced = 0
        self._vnodes = vnodes
        self._clock = clock
        self._horizon_ms = horizon_ms
        self._after = b""
        self.expiring: dict[bytes, int] = {}
        self._counting: dict[bytes, int] = {}
        self.sibling_keys = self.siblings_max = 0
        self._sibling_keys = self._siblings_max = 0

    def step(self) -> bool:
        """Look at one page; False at the end of a round.

        Raises:
            StorageError: The engine refused; the page is looked at again in the next round.
        """
        page = self._vnodes.engine.scan(self._after, _LAST, _PAGE_KEYS, _PAGE_BYTES)
        if not page:
            self._after = b""
            self.expiring, self._counting = self._counting, {}
            self.sibling_keys, self._sibling_keys = self._sibling_keys, 0
            self.siblings_max, self._siblings_max = self._siblings_max, 0
            return False
        self._after = page[-1].digest
        now_ms = self._clock.wall_ms()
        changed: list[Record] = []
        for entry in page:
            left = self._left(entry, now_ms)
            if left == b"":
                bucket = self._vnodes.buckets.get(entry.name[1 : 1 + entry.name[0]])
                self._vnodes.remove(bucket, entry.digest, entry.value or b"")
                self.collected += 1
            elif left is not None:
                changed.append(self._record(entry, left, now_ms))
        self._vnodes.commit(changed)
        self.reduced += len(changed)
        return True

    def _left(self, entry: Entry, now_ms: int) -> bytes | None:
        """What is left of an entry, None when it stays as it is."""
        bucket = self._vnodes.buckets.get(entry.name[1 : 1 + entry.name[0]]) if entry.name else None
        if entry.value is None or bucket is None or bucket.space != entry.space:
            # Unreadable records are repair's, those of retired spaces compaction's.
            return None
        entries, values = versions.decode(entry.value)
        if any(value.expires_at_ms > now_ms for value in values):
            self._counting[bucket.name] = self._counting.get(bucket.name, 0) + 1
        if len(values) > 1:
            live = len(versions.siblings(entry.value, bucket.floor, now_ms))
            if live > 1:
                self._sibling_keys += 1
                self._siblings_max = max(self._siblings_max, live)
        left = self._collected(bucket, entry.value, entries, values, now_ms)
        return None if left == entry.value else left

    def settle(self, name: bytes, stored: bytes) -> bytes:
        """``stored`` as collection leaves it, for whoever compares replicas: what one has collected and the
        other not yet is no difference.
        """
        entries, values = versions.decode(stored)
        bucket = self._vnodes.buckets.get(name[1 : 1 + name[0]])
        return self._collected(bucket, stored, entries, values, self._clock.wall_ms())

    def _collected(
        self,
        bucket: Bucket,
        stored: bytes,
        entries: versions.Entries,
        values: Sequence[versions.Value],
        now_ms: int,
    ) -> bytes:
        return collect(
            stored,
            entries,
            values,
            floor=bucket.floor,
            now_ms=now_ms,
            tombstone_horizon=stamp_at(max(0, now_ms - self._horizon_ms)),
            entry_horizon=self._vnodes.horizon,
        )

    def _record(self, entry: Entry, left: bytes, now_ms: int) -> Record:
        """What is left as a change to store. Nothing is read again: what a page holds may exceed the limit of
        what a request may read.
        """
        cut = 1 + entry.name[0]
        bucket = self._vnodes.buckets.get(entry.name[1:cut])
        record = Record(
            bucket=bucket.name,
            key=entry.name[cut + 2 :],
            name=entry.name,
            digest=entry.digest,
            stored=left,
            base=entry.value or b"",
            readable=True,
            floor=bucket.floor,
            now_ms=now_ms,
            mint=self._vnodes,
        )
        record.changed = True
        return record
