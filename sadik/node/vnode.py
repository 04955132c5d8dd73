"""The replica's side: the one place where stored bytes become siblings.

``Vnodes`` is all vnodes of this node over one engine: an operation finds its partition by its digest alone.
It knows buckets, stamps and the actor; it knows nothing of clients, peers and quorums.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sadik.causality.clock import HybridClock
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import LimitReached, StorageError
from sadik.kernels import digest, resp, segment, versions
from sadik.kernels.buffers import Buffer
from sadik.node.buckets import Bucket, BucketRegistry
from sadik.node.records import Record
from sadik.storage.engine import DIGEST_BYTES, ERROR, STORED, Engine


class Span(NamedTuple):
    """Operations ``first`` <= i < ``stop`` of a batch that share a bucket."""

    first: int
    stop: int
    bucket: Bucket


class Applied(NamedTuple):
    """What became of a stretch of a batch.

    Attributes:
        taken: Operations done, counted from the stretch's first; fewer than asked when the read limit was
            reached.
        result: Statuses and values, indexed from the stretch's first.
        writes: How many of them stored a new set.
        ticket: The engine's ticket of those, 0 for none.
        error: Why none of the writes was stored, None when all were.
    """

    taken: int
    result: versions.Applied
    writes: int
    ticket: int
    error: StorageError | None


class Vnodes:
    """Version sets over an engine.

    Attributes:
        actor: This run's actor id, drawn anew whenever stored sets were given up or lost.
        ticket_last: Ticket of the latest write.
    """

    def __init__(
        self,
        engine: Engine,
        buckets: BucketRegistry,
        *,
        clock: Clock,
        hybrid: HybridClock,
        entropy: Entropy,
        batch_capacity: int,
        read_bytes_max: int,
    ) -> None:
        self.engine = engine
        self.buckets = buckets
        self.clock = clock
        self.hybrid = hybrid
        self.ticket_last = 0
        self._entropy = entropy
        self._read_bytes_max = read_bytes_max
        self._losses_known = engine.losses
        self.actor = random_uint64(entropy)
        self._digests = bytearray(DIGEST_BYTES * batch_capacity)
        self._previous = bytearray(4 * batch_capacity)
        # The kernels take the bytes; the views on them are for filling.
        self._floors_bytes = bytearray(8 * batch_capacity)
        self._spaces_bytes = bytearray(4 * batch_capacity)
        self._expires_bytes = bytearray(8 * batch_capacity)
        self._floors = np.frombuffer(self._floors_bytes, dtype=np.uint64)
        self._spaces = np.frombuffer(self._spaces_bytes, dtype=np.uint32)
        self._expires = np.frombuffer(self._expires_bytes, dtype=np.int64)
        self._alive = bytes(batch_capacity)
        self._filled_with: tuple[int, int, int] = (0, 0, 0)

    # Mint, for records.

    def stamp_above(self, stamp: int) -> int:
        """A stamp of our own, greater than ``stamp`` and all before; ClockError when too far ahead of the
        wall clock.
        """
        return self.hybrid.mint(stamp)

    def redraw_actor_after_loss(self) -> bool:
        """A new actor if the engine has lost or given up anything since the last look (DESIGN 3)."""
        losses = self.engine.losses
        if losses == self._losses_known:
            return False
        self._losses_known = losses
        self.actor = random_uint64(self._entropy)
        return True

    # The data path: plain reads and replacements in arrays.

    def prepare(self, batch: resp.Batch, spans: Sequence[Span]) -> None:
        """Hash and link the operations of a whole batch, and lay out what their buckets say."""
        count = batch.count
        digest.digest_many(count, batch.data, batch.name_starts, batch.name_lengths, self._digests)
        resp.chain(count, batch.kinds, self._digests, self._previous)
        self._lay_out(batch, spans)

    def apply(self, batch: resp.Batch, first: int, stop: int) -> Applied:
        """Run operations ``first`` <= i < ``stop`` of a prepared batch in order: one engine read, one
        engine write.
        """
        asked = stop - first
        digests: Buffer = self._digests
        previous: Buffer = self._previous
        kinds: bytes | bytearray = batch.kinds
        name_starts: Buffer = batch.name_starts
        name_lengths: Buffer = batch.name_lengths
        payload_starts: Buffer = batch.payload_starts
        payload_lengths: Buffer = batch.payload_lengths
        expires: Buffer = self._expires_bytes
        floors: Buffer = self._floors_bytes
        spaces: Buffer = self._spaces_bytes
        if first:
            digests = memoryview(self._digests)[first * DIGEST_BYTES :]
            # What an earlier stretch wrote is read back from the engine: links across the cut are dropped.
            linked = np.frombuffer(self._previous, dtype=np.int32)[first:stop] - first
            previous = np.maximum(linked, -1).tobytes()
            kinds = batch.kinds[first:stop]
            name_starts = memoryview(batch.name_starts)[8 * first :]
            name_lengths = memoryview(batch.name_lengths)[8 * first :]
            payload_starts = memoryview(batch.payload_starts)[8 * first :]
            payload_lengths = memoryview(batch.payload_lengths)[8 * first :]
            expires = memoryview(self._expires_bytes)[8 * first :]
            floors = memoryview(self._floors_bytes)[8 * first :]
            spaces = memoryview(self._spaces_bytes)[4 * first :]
        stored = self.engine.read_batch(asked, digests, self._read_bytes_max)
        count = stored.taken
        now_ms = self.clock.wall_ms()
        result = versions.apply_batch(
            count,
            kinds,
            previous,
            stored.status,
            stored.data,
            stored.offsets,
            batch.data,
            payload_starts,
            payload_lengths,
            expires,
            floors,
            self.actor,
            self.hybrid.reserve(count),
            self.hybrid.limit(),
            now_ms,
        )
        if not result.stamp_last:
            return Applied(count, result, 0, 0, None)
        self.hybrid.advance(result.stamp_last)
        writes = kinds.count(resp.SET, 0, count)
        try:
            ticket = self.engine.write_batch(
                count,
                digests,
                batch.data,
                name_starts,
                name_lengths,
                result.sets,
                result.set_offsets,
                spaces,
                self._alive,
            )
        except StorageError as error:
            return Applied(count, result, writes, 0, error)
        self.ticket_last = ticket
        return Applied(count, result, writes, ticket, None)

    def _lay_out(self, batch: resp.Batch, spans: Sequence[Span]) -> None:
        count = batch.count
        first = spans[0].bucket
        times = np.frombuffer(batch.ttl_ms, dtype=np.int64)[:count]
        same = all(span.bucket is first for span in spans)
        default_ttl = any(span.bucket.properties.ttl_ms is not None for span in spans)
        if same:
            mark = (id(first), first.space, first.floor)
            if mark != self._filled_with:
                # Filled whole, so that most batches find it done.
                self._floors.fill(first.floor)
                self._spaces.fill(first.space)
                self._filled_with = mark
        else:
            for span in spans:
                self._floors[span.first : span.stop] = span.bucket.floor
                self._spaces[span.first : span.stop] = span.bucket.space
            self._filled_with = (0, 0, 0)
        expires = self._expires[:count]
        if not default_ttl and times.max() < 0:
            expires.fill(-1)
            return
        if default_ttl:
            times = times.copy()
            for span in spans:
                if span.bucket.properties.ttl_ms is not None:
                    part = times[span.first : span.stop]
                    part[part < 0] = span.bucket.properties.ttl_ms
        np.add(times, self.clock.wall_ms(), out=expires)
        expires[times < 0] = -1

    # Records, for everything that needs the old value.

    def records(self, addresses: Iterable[tuple[Bucket, bytes]]) -> dict[tuple[bytes, bytes], Record]:
        """Records by (bucket, key), read in one batch.

        Raises:
            InvalidRequest: A key that is not 1 to 65535 bytes.
            LimitReached: Their stored bytes together exceed the read limit.
        """
        found: dict[tuple[bytes, bytes], tuple[Bucket, bytes, bytes]] = {}
        for bucket, key in addresses:
            address = (bucket.name, key)
            if address not in found:
                name = digest.address_name(bucket.name, key)
                found[address] = (bucket, name, digest.digest(name))
        if not found:
            return {}
        stored = self.engine.read_batch(
            len(found), b"".join(item[2] for item in found.values()), self._read_bytes_max
        )
        if stored.taken < len(found):
            raise LimitReached(
                f"the keys of this request hold more than {self._read_bytes_max} bytes; ask for fewer at once"
            )
        offsets = memoryview(stored.offsets).cast("q")
        now_ms = self.clock.wall_ms()
        records: dict[tuple[bytes, bytes], Record] = {}
        for index, (address, (bucket, name, hashed)) in enumerate(found.items()):
            records[address] = Record(
                bucket=address[0],
                key=address[1],
                name=name,
                digest=hashed,
                stored=bytes(stored.data[offsets[index] : offsets[index + 1]])
                if stored.status[index] == STORED
                else b"",
                readable=stored.status[index] != ERROR,
                floor=bucket.floor,
                now_ms=now_ms,
                mint=self,
            )
        return records

    def commit(self, records: Iterable[Record]) -> int:
        """Store the records that changed, in one batch; returns the ticket, 0 when nothing changed.

        Raises:
            StorageError: None of them was stored.
        """
        changed = [record for record in records if record.changed]
        if not changed:
            return 0
        spaces = [self.buckets.for_write(record.bucket) for record in changed]
        starts, lengths, offsets = [0], [], [0]
        flags = bytearray()
        for record, bucket in zip(changed, spaces, strict=True):
            if bucket.properties.lww:
                record.stored = versions.keep_newest(record.stored)
            lengths.append(len(record.name))
            starts.append(starts[-1] + len(record.name))
            offsets.append(offsets[-1] + len(record.stored))
            flags.append(segment.FLAG_DEAD if versions.is_dead(record.stored) else 0)
        ticket = self.engine.write_batch(
            len(changed),
            b"".join(record.digest for record in changed),
            b"".join(record.name for record in changed),
            array("q", starts),
            array("q", lengths),
            b"".join(record.stored for record in changed),
            array("q", offsets),
            array("I", [bucket.space for bucket in spaces]),
            flags,
        )
        for record in changed:
            record.changed = False
        self.ticket_last = ticket
        return ticket
