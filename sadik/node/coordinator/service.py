"""The coordinator: drives requests over a key's replicas, and is what the APIs call.

Here the layout has one node, so every quorum is its own replica: effective N, R and W are 1, and an
explicit larger value is
refused. The shape is the one a cluster needs: reads give records, pure functions change them, commits store
them, and an acknowledgement waits for what the durability mode promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from sadik.causality.context import decode_context, encode_context
from sadik.config import NodeConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.errors import InvalidRequest, LimitReached, StorageFailed, Unavailable
from sadik.kernels import versions
from sadik.node.birth import BirthRecord
from sadik.node.buckets import Bucket, BucketProperties, BucketRegistry
from sadik.node.collection import Collector
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Explanation, KeyPage, ReadOutcome, ReplicaView, WriteOutcome
from sadik.node.records import Record
from sadik.node.vnode import Vnodes
from sadik.storage.service import SyncService

CURSOR_LIMIT = 1 << 63
_SCAN_PAGE = 512
_SCAN_BYTES = 16 * 1024 * 1024
_RANDOM_PROBES = 64
_LAST = b"\xff" * 16


class Coordinator:
    """Requests of clients on a one-node cluster.

    Attributes:
        vnodes: The local replica; the RESP server runs its batches there.
        sync: Who says when a ticket may be acknowledged.
    """

    def __init__(
        self,
        *,
        birth: BirthRecord,
        config: NodeConfig,
        vnodes: Vnodes,
        buckets: BucketRegistry,
        sync: SyncService,
        collector: Collector,
        context_key: bytes,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.vnodes = vnodes
        self.sync = sync
        self._birth = birth
        self._config = config
        self._buckets = buckets
        self._collector = collector
        self._context_key = context_key
        self._clock = clock
        self._entropy = entropy
        self._ready = False

    # Single requests (HTTP).

    async def read(self, bucket: bytes, key: bytes, options: Options) -> ReadOutcome:
        """Live siblings and context of a key.

        Raises:
            CorruptRecord: The stored record cannot be read: not the same as not found.
            InvalidRequest: A bad address, or a quorum beyond the effective N.
        """
        self.check_options(bucket, options)
        record = self.record(bucket, key)
        return ReadOutcome(record.siblings(), self.encode_context(record))

    async def write(
        self,
        bucket: bytes,
        key: bytes,
        payload: bytes,
        *,
        context: bytes | None,
        metadata: bytes,
        options: Options,
    ) -> WriteOutcome:
        """Store a value that replaces what ``context`` has seen; without one it becomes a sibling.

        Raises:
            InvalidContext, LimitReached, ClockError, StorageError: As their names say; ``maybe_applied``
                tells whether it may have happened.
            Unavailable: The durability promised was not reached in time; the outcome is unknown.
        """
        self.check_options(bucket, options)
        if len(payload) > self._config.limits.value_bytes_max:
            raise LimitReached(
                f"the value has {len(payload)} bytes; at most {self._config.limits.value_bytes_max} are taken"
            )
        record = self.record(bucket, key)
        ttl_ms = options.ttl_ms if options.ttl_ms is not None else self.properties(bucket).ttl_ms
        expires_at_ms = -1 if ttl_ms is None else self._clock.wall_ms() + ttl_ms
        record.put(payload, expires_at_ms, metadata=metadata, covers=self._covers(context, record))
        return await self._store(record, options, own=1)

    async def delete(
        self, bucket: bytes, key: bytes, *, context: bytes | None, options: Options
    ) -> WriteOutcome:
        """Record a delete of what ``context`` has seen. Raises as ``write``."""
        self.check_options(bucket, options)
        record = self.record(bucket, key)
        record.delete(covers=self._covers(context, record))
        return await self._store(record, options, own=0)

    async def _store(self, record: Record, options: Options, *, own: int) -> WriteOutcome:
        self.check_limits(record)
        ticket = self.vnodes.commit([record])
        await self._durable(ticket, options)
        # A context must not cover what its client never saw: with other living siblings there is none.
        return WriteOutcome(None if len(record.siblings()) > own else self.encode_context(record))

    async def _durable(self, ticket: int, options: Options) -> None:
        if not self.sync.pending(ticket):
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def waiter(error: StorageFailed | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self.sync.wait(ticket, waiter)
        timeout_ms = (
            options.timeout_ms if options.timeout_ms is not None else self._config.limits.request_timeout_ms
        )
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await done
        except TimeoutError as error:
            raise Unavailable(
                f"not durable within {timeout_ms} ms; the outcome is unknown", maybe_applied=True
            ) from error

    # Records and contexts (RESP commands and the requests above).

    def record(self, bucket: bytes, key: bytes) -> Record:
        """The record of one address."""
        (record,) = self.records([(bucket, key)]).values()
        return record

    def records(self, addresses: Iterable[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], Record]:
        """Records by (bucket, key), read in one batch."""
        return self.vnodes.records((self._buckets.get(bucket), key) for bucket, key in addresses)

    def commit(self, records: Iterable[Record]) -> int:
        """Store what changed; returns the ticket to wait for."""
        return self.vnodes.commit(records)

    def check_limits(self, record: Record) -> None:
        """Raise ``LimitReached`` when a changed record has more bytes, or more siblings, than a client may
        leave.
        """
        if len(record.stored) > self._config.limits.set_bytes_max:
            raise LimitReached(
                f"the values of this key would take more than {self._config.limits.set_bytes_max} bytes"
            )
        limit = min(
            self._buckets.get(record.bucket).properties.siblings_max, self._config.limits.siblings_max
        )
        if limit < versions.SIBLINGS_MAX and len(versions.decode(record.stored)[1]) > limit:
            raise LimitReached(
                f"more than {limit} siblings would remain; read the key and write with its context"
            )

    def encode_context(self, record: Record) -> bytes:
        """The opaque context of all that ``record`` knows, ``b""`` when that is nothing."""
        entries = record.context()
        return encode_context(entries, record.digest, self._context_key) if entries else b""

    def decode_context(self, context: bytes, record: Record) -> Sequence[tuple[int, int]]:
        """Entries of a context made for the same address. Raises InvalidContext."""
        return decode_context(context, record.digest, self._context_key)

    def _covers(self, context: bytes | None, record: Record) -> Sequence[tuple[int, int]]:
        return self.decode_context(context, record) if context else ()

    # Buckets.

    def bucket(self, name: bytes) -> Bucket:
        """The bucket as the data path uses it."""
        return self._buckets.get(name)

    def bucket_for_write(self, name: bytes) -> Bucket:
        """The same, recorded in the log before its first data."""
        return self._buckets.for_write(name)

    def buckets(self) -> list[bytes]:
        """Names of the buckets written to so far, sorted."""
        return self._buckets.names()

    def properties(self, bucket: bytes) -> BucketProperties:
        return self._buckets.get(bucket).properties

    async def set_properties(self, bucket: bytes, properties: BucketProperties) -> None:
        """Replace a bucket's properties, durably as the mode promises."""
        await self._durable(self._buckets.set_properties(bucket, properties), Options())

    def check_options(self, bucket: bytes, options: Options) -> None:
        """Raise ``InvalidRequest`` where a quorum asked for exceeds the effective N."""
        for name in ("r", "w", "pr", "pw"):
            asked = getattr(options, name)
            if asked is not None and asked > self.effective_n(bucket):
                raise InvalidRequest(
                    f"{name}={asked} is more than the {self.effective_n(bucket)} replica(s) of this bucket"
                )

    def effective_n(self, bucket: bytes) -> int:
        """Replicas a key of the bucket has: min(N, nodes in the layout)."""
        return min(self.properties(bucket).n, 1)

    def flush(self, bucket: bytes) -> None:
        """Hide everything that is in the bucket now; durable like any write.

        O(1), but for the first moments after a restart, when it walks through the keys.

        Raises:
            ClockError: The wall clock went back since an earlier run, so far that a stamp above all that is
                stored cannot be minted.
        """
        # One of our own stamps: every later write is above it, every earlier one of this run below.
        stamp = self.vnodes.stamp_above(0)
        if stamp <= self.vnodes.bound.at_start:
            # Right after a restart, or with a wall clock that went back: earlier runs may have minted above
            # it. Looking is better than jumping ahead, which would drive the stamps away from the wall clock.
            stamp = self.vnodes.stamp_above(self.vnodes.stamp_greatest(self._buckets.get(bucket)))
        self.vnodes.ticket_last = self._buckets.truncate(bucket, stamp)

    # Whole buckets.

    def count(self, bucket: bytes) -> int:
        """Keys in a bucket; expired ones that nobody replaced are counted."""
        found = self._buckets.get(bucket)
        return self.vnodes.engine.count(found.space) if found.stored else 0

    def expiring(self, bucket: bytes) -> int:
        """Keys of a bucket with a time to live, as the last round of collection found them."""
        return self._collector.expiring.get(bucket, 0)

    def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        """Existing keys after a cursor, in digest order, looking at about ``count`` stored keys of all
        buckets.

        The cursor is the top 63 bits of the next digest to look at: nothing is kept between calls, it
        survives restarts.

        Raises:
            InvalidRequest: A cursor outside 0 .. 2**63 - 1, or ``count`` < 1.
        """
        if not 0 <= cursor < CURSOR_LIMIT:
            raise InvalidRequest("invalid cursor")
        if count < 1:
            raise InvalidRequest("count must be at least 1")
        found = self._buckets.get(bucket)
        now_ms = self._clock.wall_ms()
        after = ((cursor << 65) - 1).to_bytes(16, "big") if cursor else b""
        keys: list[bytes] = []
        looked = 0
        prefix = -1
        while True:
            page = self.vnodes.engine.scan(
                after, _LAST, min(_SCAN_PAGE, max(count - looked, 1)), _SCAN_BYTES
            )
            if not page:
                return KeyPage(keys, 0)
            for entry in page:
                position = int.from_bytes(entry.digest[:8], "big") >> 1
                if looked >= count and position != prefix:
                    return KeyPage(keys, prefix + 1)
                prefix = position
                looked += 1
                if (
                    entry.value is not None
                    and entry.space == found.space
                    and versions.newest(entry.value, found.floor, now_ms) is not None
                ):
                    keys.append(entry.name[len(found.prefix) + 2 :])
            after = page[-1].digest
            if prefix + 1 == CURSOR_LIMIT and looked >= count:
                return KeyPage(keys, 0)

    def random_key(self, bucket: bytes) -> bytes | None:
        """Some existing key: the first one after a random position."""
        if self.count(bucket) == 0:
            return None
        start = int.from_bytes(self._entropy.random_bytes(8), "big") >> 1
        page = KeyPage([], start)
        for _ in range(_RANDOM_PROBES):
            page = self.scan(bucket, page.cursor, 16)
            if page.keys:
                return page.keys[0]
        # A sparse bucket among many others: walk it all before saying there is none.
        cursor = 0
        while True:
            page = self.scan(bucket, cursor, _SCAN_PAGE)
            if page.keys:
                return page.keys[0]
            if not (cursor := page.cursor):
                return None

    # What people look at.

    def explain(self, bucket: bytes, key: bytes) -> Explanation:
        """Where a key lives and who has which version."""
        record = self.record(bucket, key)
        token = int.from_bytes(record.digest[:8], "big")
        effective = self.effective_n(bucket)
        properties = self.properties(bucket)
        state = "error" if not record.readable else "stored" if record.stored else "absent"
        readable = record.readable and bool(record.stored)
        replica = ReplicaView(
            node=self._birth.node_id,
            role="primary",
            up=True,
            state=state,
            entries=record.context() if readable else [],
            siblings=len(record.siblings()) if readable else 0,
            bytes=len(record.stored),
        )
        return Explanation(
            bucket=bucket,
            key=key,
            digest=record.digest.hex(),
            token=token,
            partition=token * self._birth.partitions >> 64,
            n=effective,
            r=min(properties.r or effective // 2 + 1, effective),
            w=min(properties.w or effective // 2 + 1, effective),
            replicas=[replica],
        )

    def status(self) -> dict[str, object]:
        """One node's state for people and programs."""
        statistics = self.vnodes.engine.statistics()
        return {
            "node": self._birth.node_id,
            "cluster": self._birth.cluster,
            "cluster_id": self._birth.cluster_id,
            "actor": f"{self.vnodes.actor:016x}",
            "ready": self.ready(),
            "zone": self._config.zone,
            "host": self._config.host_label or self._birth.node_id,
            "peer": str(self._config.advertise or self._config.peer),
            "partitions": self._birth.partitions,
            "hash": self._birth.hash,
            "engine": statistics.engine,
            "sync": self._config.storage.sync,
            "writable": statistics.writable,
            "keys": statistics.keys,
            "stored_bytes": statistics.stored_bytes,
            "live_bytes": statistics.live_bytes,
            "index_bytes": statistics.index_bytes,
            "segments": statistics.segments,
            "corrupt_records": statistics.corrupt_records,
            "quarantined_segments": statistics.quarantined_segments,
            "buckets": len(self.buckets()),
        }

    def layout(self) -> dict[str, object]:
        """Who owns what: one node, every partition."""
        return {
            "version": 1,
            "partitions": self._birth.partitions,
            "nodes": [{"node": self._birth.node_id, "partitions": self._birth.partitions}],
        }

    def ready(self) -> bool:
        return self._ready

    def set_ready(self, ready: bool) -> None:
        self._ready = ready
