"""The replica's side: the one place where stored bytes become siblings.

``Vnodes`` is all vnodes of this node over one engine: an operation finds its partition by its digest alone.
It knows buckets, stamps and the actor; it knows nothing of clients, peers and quorums.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sadik.causality.clock import HybridClock
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import LimitReached, StorageError
from sadik.kernels import packets, replica, resp, segment, versions
from sadik.kernels.buffers import Buffer
from sadik.node.bucket_arrays import BucketArrays
from sadik.node.buckets import Bucket, BucketRegistry
from sadik.node.items import Item, Named, encode_items
from sadik.node.operations import Operations, Span
from sadik.node.records import Record
from sadik.node.stamps import StampBound
from sadik.storage.engine import DIGEST_BYTES, ERROR, STORED, Engine, ReadBatch

_PAGE_KEYS = 512
_LAST_DIGEST = b"\xff" * DIGEST_BYTES
_DEAD_FLAGS = bytes((0, segment.FLAG_DEAD)) + bytes(254)

NOT_STORED = 5
"""Status of ``Merging``, beside those of ``replica``: the engine did not take it."""


class Applied(NamedTuple):
    """What became of a batch.

    Attributes:
        taken: Operations done, counted from the first, at least one; fewer than asked when the read limit was
            reached.
        result: Statuses, values and new sets.
        ticket: The engine's ticket of those, 0 for none.
        error: Why none of the writes was stored, None when all were.
        stored: What was read before.
        previous: Links between operations on one address, int32 each.
    """

    taken: int
    result: versions.Applied
    ticket: int
    error: StorageError | None
    stored: ReadBatch
    previous: bytearray


class Merging(NamedTuple):
    """What became of version sets that came from elsewhere.

    Attributes:
        status: uint8 each: ``replica.MERGED``, ``KNOWN``, or why not (``NOT_STORED`` with an error).
        ticket: The engine's ticket of what was stored, 0 for nothing.
        error: Why nothing was stored, None when all was.
    """

    status: bytearray
    ticket: int
    error: StorageError | None


class Trees(Protocol):
    """Who keeps Merkle trees of what is stored (``repair/trees.py``)."""

    def update(self, n: int, count: int, digests: Buffer, before: Buffer, after: Buffer) -> None: ...

    def rebuild(self) -> None:
        """What the trees say is no longer what is stored."""
        ...


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
        self.trees: Trees | None = None
        self.read_bytes_max = read_bytes_max
        self._entropy = entropy
        self._losses_known = engine.losses
        self.actor = random_uint64(entropy)
        self._said = BucketArrays(clock, batch_capacity)

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
        while page := self.engine.scan(after, _LAST_DIGEST, _PAGE_KEYS, self.read_bytes_max):
            after = page[-1].digest
            for entry in page:
                if entry.space == bucket.space and entry.value is not None:
                    greatest = max(greatest, versions.stamp_max(entry.value))
        return greatest

    def _read(self, count: int, digests: Buffer) -> ReadBatch:
        """What is stored, of as many as may be read at once.

        With a new actor if the engine has lost or given up anything since the last look (DESIGN 3): before
        anything is minted on what was read.
        """
        engine = self.engine
        stored = engine.read_batch(count, digests, self.read_bytes_max)
        if engine.losses != self._losses_known:
            self._redraw_actor()
        return stored

    def _redraw_actor(self) -> None:
        self._losses_known = self.engine.losses
        self.actor = random_uint64(self._entropy)
        if self.trees is not None:
            self.trees.rebuild()

    # The data path: plain reads and replacements in arrays.

    def apply(self, operations: Operations) -> Applied:
        """Run a batch in order: one engine read, one engine write."""
        count = operations.count
        digests = operations.digests
        kinds = operations.kinds
        previous = bytearray(4 * count)
        resp.chain(count, kinds, digests, previous)
        said = self._said
        said.by_operations(operations)
        if count * operations.used > self.read_bytes_max:
            count = self._limit_repeats(operations, previous)
        stored = self._read(count, digests)
        count = stored.taken
        stamp_first, stamp_limit, now_ms = self.hybrid.begin(count)
        result = versions.apply_batch(
            count,
            kinds,
            previous,
            stored.status,
            stored.data,
            stored.offsets,
            operations.data,
            operations.payload_starts,
            operations.payload_lengths,
            said.expires,
            said.floors,
            self.actor,
            stamp_first,
            stamp_limit,
            now_ms,
        )
        stamp_last = result.stamp_last
        if not stamp_last:
            return Applied(count, result, 0, None, stored, previous)
        self.hybrid.advance(stamp_last)
        try:
            self.bound.cover(stamp_last)
            ticket = self.engine.write_batch(
                count,
                digests,
                operations.data,
                operations.name_starts,
                operations.name_lengths,
                result.sets,
                result.set_offsets,
                said.spaces,
                said.zeros,
            )
        except StorageError as error:
            return Applied(count, result, 0, error, stored, previous)
        self.ticket_last = ticket
        return Applied(count, result, ticket, None, stored, previous)

    def fingerprints(self, operations: Operations, applied: Applied) -> replica.Fingerprints:
        """Fingerprints around each operation that was done; the trees learn of them."""
        count, digests = applied.taken, operations.digests
        result, stored = applied.result, applied.stored
        prints = replica.fingerprints(
            count,
            digests,
            applied.previous,
            stored.status,
            stored.data,
            stored.offsets,
            result.sets,
            result.set_offsets,
        )
        if applied.ticket:
            self._update_trees(operations.spans, count, digests, prints.before, prints.after)
        return prints

    def _update_trees(
        self, spans: Sequence[Span], count: int, digests: Buffer, before: Buffer, after: Buffer
    ) -> None:
        trees = self.trees
        if trees is None:
            return
        if len(spans) == 1:
            trees.update(spans[0].bucket.properties.n, count, digests, before, after)
            return
        keys, old, new = memoryview(digests), memoryview(before), memoryview(after)
        for first, stop, bucket in spans:
            part = min(stop, count) - first
            if part > 0:
                trees.update(
                    bucket.properties.n,
                    part,
                    keys[DIGEST_BYTES * first :],
                    old[8 * first :],
                    new[8 * first :],
                )

    def _limit_repeats(self, operations: Operations, previous: bytearray) -> int:
        """How many of the operations may run together so that their replies stay within the read limit.

        The engine counts what it reads; reads of what the same batch writes are not among that. One SET of
        a megabyte and a thousand GETs of it fit into a megabyte of input, and their replies into a gigabyte.
        """
        count = operations.count
        lengths = np.frombuffer(operations.payload_lengths, dtype=np.int64, count=count)
        if count * int(lengths.max()) <= self.read_bytes_max:
            return count
        links = np.frombuffer(previous, dtype=np.int32)
        kinds = np.frombuffer(operations.kinds, dtype=np.uint8, count=count)
        repeated = np.where((links >= 0) & (kinds == resp.GET), lengths[links], 0)
        within = int(np.searchsorted(repeated.cumsum(), self.read_bytes_max, side="right"))
        return max(within, 1)

    def lay_out(self, operations: Operations) -> tuple[bytearray, bytearray]:
        """Expiry (int64) and floor (uint64) of each operation; valid until the next batch."""
        said = self._said
        said.by_operations(operations)
        return said.expires, said.floors

    # Version sets from other nodes, and for them.

    def merge(self, sets: packets.Sets) -> Merging:
        """Merge sets that came from elsewhere into what is stored: one engine read, one engine write.

        Raises:
            StorageError: A bucket that is new here cannot be recorded; nothing was stored.
        """
        count = sets.total
        spans = [Span(first, stop, self.buckets.for_merge(name)) for name, first, stop in sets.spans]
        previous = bytearray(4 * count)
        said = self._said
        said.by_spans(count, spans)
        resp.chain(count, said.all_sets, sets.digests, previous)
        merging = self._merge(
            count,
            sets.digests,
            previous,
            sets.data,
            sets.name_starts,
            sets.name_lengths,
            sets.set_starts,
            sets.set_lengths,
            spans,
        )
        if len(merging.status) == count:
            return merging
        return self._merge_rest(sets, spans, previous, merging)

    def _merge(
        self,
        count: int,
        digests: Buffer,
        previous: Buffer,
        data: Buffer,
        name_starts: Buffer,
        name_lengths: Buffer,
        set_starts: Buffer,
        set_lengths: Buffer,
        spans: Sequence[Span],
    ) -> Merging:
        """Merge as many as may be read at once; no more were tried than have a status."""
        said = self._said
        stored = self._read(count, digests)
        count = stored.taken
        merged = replica.merge_batch(
            count,
            digests,
            previous,
            stored.status,
            stored.data,
            stored.offsets,
            data,
            set_starts,
            set_lengths,
            said.newest_only,
            self.hybrid.limit(),
        )
        if not merged.sets:
            return Merging(merged.status, 0, None)
        # Never mint below what was taken in: a write that follows a read must win by (stamp, actor) too.
        self.hybrid.advance(merged.stamp_last)
        try:
            self.bound.cover(merged.stamp_last)
            ticket = self.engine.write_batch(
                count,
                digests,
                data,
                name_starts,
                name_lengths,
                merged.sets,
                merged.set_offsets,
                said.spaces,
                merged.dead.translate(_DEAD_FLAGS) if 1 in merged.dead else said.zeros,
            )
        except StorageError as error:
            return Merging(bytearray((NOT_STORED,)) * count, 0, error)
        self.ticket_last = ticket
        self._update_trees(spans, count, digests, merged.before, merged.after)
        return Merging(merged.status, ticket, None)

    def _merge_rest(
        self, sets: packets.Sets, spans: list[Span], previous: bytearray, done: Merging
    ) -> Merging:
        """The same part by part: what is stored may be much more than what comes."""
        status, ticket, error = done
        while error is None and len(status) < sets.total:
            first = len(status)
            left = [
                Span(max(span.first - first, 0), span.stop - first, span.bucket)
                for span in spans
                if span.stop > first
            ]
            self._said.by_spans(sets.total - first, left)
            part, ticket_of_part, error = self._merge(
                sets.total - first,
                memoryview(sets.digests)[DIGEST_BYTES * first :],
                # What the parts before have stored is read back from the engine: links to them are dropped.
                np.maximum(np.frombuffer(previous, np.int32)[first:] - first, -1).tobytes(),
                sets.data,
                memoryview(sets.name_starts)[8 * first :],
                memoryview(sets.name_lengths)[8 * first :],
                memoryview(sets.set_starts)[8 * first :],
                memoryview(sets.set_lengths)[8 * first :],
                left,
            )
            status += part
            ticket = max(ticket, ticket_of_part)
        return Merging(status + bytes((NOT_STORED,)) * (sets.total - len(status)), ticket, error)

    def merge_items(self, items: Sequence[Item]) -> Merging:
        """The same for (digest, name, set) of each; an empty set is refused as INVALID.

        Raises:
            StorageError: As ``merge``.
        """
        return self.merge(packets.decode_sets([encode_items(items, 0)]))

    def compare(self, count: int, digests: Buffer, prints: Buffer) -> replica.Compared:
        """Our answer to a coordinator's read: "same", or our own set.

        UNREADABLE stands for those, too, for which there is no room: the answer ends with the part of the
        read limit's size that has reached it.
        """
        found = self._compare(count, digests, prints)
        if len(found.status) == count:
            return found
        while len(found.status) < count and len(found.sets) < self.read_bytes_max:
            done = len(found.status)
            keys, wanted = memoryview(digests)[DIGEST_BYTES * done :], memoryview(prints)[8 * done :]
            part = self._compare(count - done, keys, wanted)
            offsets = np.frombuffer(part.set_offsets, np.int64)[1:] + len(found.sets)
            found = replica.Compared(
                found.status + part.status, found.sets + part.sets, found.set_offsets + offsets.tobytes()
            )
        left = count - len(found.status)
        return replica.Compared(
            found.status + bytes((replica.UNREADABLE,)) * left,
            found.sets,
            found.set_offsets + bytes(found.set_offsets[-8:]) * left,
        )

    def _compare(self, count: int, digests: Buffer, prints: Buffer) -> replica.Compared:
        """The same of as many as may be read at once."""
        stored = self._read(count, digests)
        return replica.compare_batch(
            stored.taken, digests, prints, stored.status, stored.data, stored.offsets
        )

    def sets(self, digests: Sequence[bytes], bytes_max: int | None = None) -> list[bytes | None]:
        """The stored set of each digest: ``b""`` where nothing is stored, None where it cannot be read.

        Args:
            bytes_max: Fewer come back, but not none, where they would exceed it.
        """
        found: list[bytes | None] = []
        while len(found) < len(digests):
            rest = digests[len(found) :]
            stored = self.engine.read_batch(
                len(rest), b"".join(rest), self.read_bytes_max if bytes_max is None else bytes_max
            )
            offsets = memoryview(stored.offsets).cast("q")
            for index in range(stored.taken):
                if stored.status[index] == ERROR:
                    found.append(None)
                elif stored.status[index] == STORED:
                    found.append(bytes(stored.data[offsets[index] : offsets[index + 1]]))
                else:
                    found.append(b"")
            if bytes_max is not None:
                break
        if self.engine.losses != self._losses_known:
            self._redraw_actor()
        return found

    # Records, for everything that needs the old value.

    def records(
        self, addresses: Iterable[tuple[Bucket, bytes]], others: Mapping[bytes, bytes] | None = None
    ) -> dict[tuple[bytes, bytes], Record]:
        """Records by (bucket, key), read in one batch.

        Args:
            others: Sets by digest that other replicas gave; each record is the merge of both.
        Raises:
            InvalidRequest: A key that is not 1 to 65535 bytes.
            LimitReached: Their stored bytes together exceed the read limit. A repeated address counts as
                often as it is there: one MGET can name the same megabyte a thousand times.
        """
        found: dict[tuple[bytes, bytes], Named] = {}
        repeats: list[tuple[bytes, bytes]] = []
        for bucket, key in addresses:
            address = (bucket.name, key)
            if address in found:
                repeats.append(address)
            else:
                found[address] = Named.of(bucket, key)
        if not found:
            return {}
        stored = self._read(len(found), b"".join(named.digest for named in found.values()))
        if stored.taken < len(found):
            raise self.too_much()
        offsets = memoryview(stored.offsets).cast("q")
        records: dict[tuple[bytes, bytes], Record] = {}
        for index, (address, named) in enumerate(found.items()):
            base = (
                bytes(stored.data[offsets[index] : offsets[index + 1]])
                if stored.status[index] == STORED
                else b""
            )
            other = others.get(named.digest, b"") if others else b""
            # What other replicas know of a record that cannot be read here is what is known, if only nothing.
            readable = stored.status[index] != ERROR or (others is not None and named.digest in others)
            merged = versions.merge(base, other) if other else base
            if named.bucket.properties.lww:
                merged = versions.keep_newest(merged)
            records[address] = self.record_of(named, merged, base=base, readable=readable)
        if repeats:
            bytes_asked = offsets[-1] + sum(len(records[address].stored) for address in repeats)
            if bytes_asked > max(self.read_bytes_max, offsets[-1]):
                raise self.too_much()
        return records

    def record_of(self, named: Named, stored: bytes, *, base: bytes, readable: bool = True) -> Record:
        """A record of an address whose set is known; ``base`` is what the engine holds of it."""
        return Record(
            bucket=named.bucket.name,
            key=named.key,
            name=named.name,
            digest=named.digest,
            stored=stored,
            base=base,
            readable=readable,
            floor=named.bucket.floor,
            now_ms=self.clock.wall_ms(),
            mint=self,
        )

    def too_much(self) -> LimitReached:
        """The refusal of a request whose keys hold more than may be read at once."""
        return LimitReached(
            f"the keys of this request hold more than {self.read_bytes_max} bytes; ask for fewer at once"
        )

    def commit(self, records: Iterable[Record]) -> int:
        """Store the records that changed, in one batch; returns the ticket, 0 when nothing changed.

        Raises:
            StorageError: None of them was stored.
        """
        changed = [record for record in records if record.changed]
        if not changed:
            return 0
        buckets = [self.buckets.for_write(record.bucket) for record in changed]
        starts, lengths, offsets = [0], [], [0]
        flags = bytearray()
        for record, bucket in zip(changed, buckets, strict=True):
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
            array("I", [bucket.space for bucket in buckets]),
            flags,
        )
        for record, bucket in zip(changed, buckets, strict=True):
            self._note(bucket, record.digest, record.base, record.stored)
            record.base = record.stored
            record.changed = False
        self.ticket_last = ticket
        return ticket

    def remove(self, bucket: Bucket, digest: bytes, stored: bytes) -> None:
        """Forget a key with nothing left.

        Raises:
            StorageError: It is still there.
        """
        self.engine.remove(digest)
        self._note(bucket, digest, stored, b"")

    def _note(self, bucket: Bucket, digest: bytes, before: bytes, after: bytes) -> None:
        if self.trees is not None:
            old, new = versions.fingerprint(digest, before), versions.fingerprint(digest, after)
            self.trees.update(bucket.properties.n, 1, digest, array("Q", [old]), array("Q", [new]))
