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
from sadik.node.stamps import StampBound
from sadik.storage.engine import DIGEST_BYTES, ERROR, STORED, Engine

_PAGE_KEYS = 512
_LAST_DIGEST = b"\xff" * DIGEST_BYTES


class Span(NamedTuple):
    """Operations ``first`` <= i < ``stop`` of a batch that share a bucket."""

    first: int
    stop: int
    bucket: Bucket


class Applied(NamedTuple):
    """What became of a stretch of a batch.

    Attributes:
        taken: Operations done, counted from the stretch's first, at least one; fewer than asked when the
            read limit was reached.
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
        bound: Above every stamp on this disk, those of earlier runs too.
        horizon: Stamp below which no other node can hold a value that this one lacks.
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
        horizon: int,
        clock_offset_max_ms: int,
    ) -> None:
        self.engine = engine
        self.bound = StampBound(engine, hybrid, clock_offset_max_ms)
        self.horizon = horizon
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
        self._filled_with: tuple[int, int] | None = None
        self._never_expire = False

    # Mint, for records.

    def stamp_above(self, stamp: int) -> int:
        """A stamp of our own, greater than ``stamp`` and all before; ClockError when too far ahead of the
        wall clock.
        """
        return self.hybrid.mint(stamp)

    def stamp_greatest(self, bucket: Bucket) -> int:
        """The greatest stamp that the bucket holds, 0 for none. Cost: a walk through all keys."""
        greatest = 0
        after = b""
        while page := self.engine.scan(after, _LAST_DIGEST, _PAGE_KEYS, self._read_bytes_max):
            after = page[-1].digest
            for entry in page:
                if entry.space == bucket.space and entry.value is not None:
                    greatest = max(greatest, versions.stamp_max(entry.value))
        return greatest

    def _redraw_actor_after_loss(self) -> None:
        """A new actor if the engine has lost or given up anything since the last look (DESIGN 3).

        Asked after every read, before anything is minted on what was read.
        """
        losses = self.engine.losses
        if losses != self._losses_known:
            self._losses_known = losses
            self.actor = random_uint64(self._entropy)

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
        asked = self._limit_repeats(batch, first, asked)
        stored = self.engine.read_batch(asked, digests, self._read_bytes_max)
        self._redraw_actor_after_loss()
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
            self.bound.cover(result.stamp_last)
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

    def _limit_repeats(self, batch: resp.Batch, first: int, asked: int) -> int:
        """How many of the operations may run together so that their replies stay within the read limit.

        The engine counts what it reads; reads of what the same batch writes are not among that. One SET of
        a megabyte and a thousand GETs of it fit into a megabyte of input, and their replies into a gigabyte.
        """
        if asked * batch.used <= self._read_bytes_max:
            return asked
        lengths = np.frombuffer(batch.payload_lengths, dtype=np.int64)[: first + asked]
        if asked * int(lengths.max()) <= self._read_bytes_max:
            return asked
        links = np.frombuffer(self._previous, dtype=np.int32)[first : first + asked]
        kinds = np.frombuffer(batch.kinds, dtype=np.uint8)[first : first + asked]
        repeated = np.where((links >= first) & (kinds == resp.GET), lengths[links], 0)
        within = int(np.searchsorted(repeated.cumsum(), self._read_bytes_max, side="right"))
        return max(within, 1)

    def follows(self, index: int) -> int:
        """The latest SET before operation ``index`` of the prepared batch on the same address, or -1."""
        return int.from_bytes(self._previous[4 * index : 4 * index + 4], "little", signed=True)

    def _lay_out(self, batch: resp.Batch, spans: Sequence[Span]) -> None:
        count = batch.count
        bucket = spans[0].bucket
        if len(spans) == 1:
            # Filled whole, so that most batches find it done.
            if self._filled_with != (bucket.space, bucket.floor):
                self._floors.fill(bucket.floor)
                self._spaces.fill(bucket.space)
                self._filled_with = (bucket.space, bucket.floor)
        else:
            for span in spans:
                self._floors[span.first : span.stop] = span.bucket.floor
                self._spaces[span.first : span.stop] = span.bucket.space
            self._filled_with = None
        # A TTL of -1 is eight bytes of 255, and nothing else is: counting them costs less than any
        # arithmetic.
        plain = batch.ttl_ms.count(255, 0, 8 * count) == 8 * count
        if plain and all(span.bucket.properties.ttl_ms is None for span in spans):
            if not self._never_expire:
                self._expires.fill(-1)
                self._never_expire = True
            return
        self._never_expire = False
        times = np.frombuffer(batch.ttl_ms, dtype=np.int64)[:count].copy()
        for span in spans:
            if span.bucket.properties.ttl_ms is not None:
                part = times[span.first : span.stop]
                part[part < 0] = span.bucket.properties.ttl_ms
        expires = self._expires[:count]
        np.add(times, self.clock.wall_ms(), out=expires)
        expires[times < 0] = -1

    # Records, for everything that needs the old value.

    def records(self, addresses: Iterable[tuple[Bucket, bytes]]) -> dict[tuple[bytes, bytes], Record]:
        """Records by (bucket, key), read in one batch.

        Raises:
            InvalidRequest: A key that is not 1 to 65535 bytes.
            LimitReached: Their stored bytes together exceed the read limit. A repeated address counts as
                often as it is there: one MGET can name the same megabyte a thousand times.
        """
        found: dict[tuple[bytes, bytes], tuple[Bucket, bytes, bytes]] = {}
        repeats: list[tuple[bytes, bytes]] = []
        for bucket, key in addresses:
            address = (bucket.name, key)
            if address in found:
                repeats.append(address)
            else:
                name = digest.address_name(bucket.name, key)
                found[address] = (bucket, name, digest.digest(name))
        if not found:
            return {}
        stored = self.engine.read_batch(
            len(found), b"".join(item[2] for item in found.values()), self._read_bytes_max
        )
        self._redraw_actor_after_loss()
        if stored.taken < len(found):
            raise self._too_much()
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
        if repeats:
            bytes_asked = offsets[-1] + sum(len(records[address].stored) for address in repeats)
            if bytes_asked > max(self._read_bytes_max, offsets[-1]):
                raise self._too_much()
        return records

    def _too_much(self) -> LimitReached:
        return LimitReached(
            f"the keys of this request hold more than {self._read_bytes_max} bytes; ask for fewer at once"
        )

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
        self.bound.cover(self.hybrid.last)
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
