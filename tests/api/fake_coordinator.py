"""A coordinator in memory, for tests of the HTTP face: real causality on plain lists, and faults on request.

Every write gets the next dot of one actor. A key holds what has been seen and the values alive; a context is
a digest of the address and the stamp it covers, so foreign and damaged ones are known.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field

from sadik.errors import InvalidContext, LimitReached
from sadik.ids import stamp_at
from sadik.kernels import versions
from sadik.node.buckets import BucketProperties, check_properties
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Explanation, KeyPage, ReadOutcome, ReplicaView, WriteOutcome

ACTOR = 0xA11CE
WALL_MS = 1_700_000_000_000


@dataclass
class Held:
    seen: int = 0
    values: list[versions.Value] = field(default_factory=list)


class FakeCoordinator:
    """Attributes:
    fault: Raised by the next operations instead of doing anything, while it is set.
    gate: When set, reads and writes wait for it first: a slow cluster.
    calls: Name and arguments of every operation.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[bytes, bytes], Held] = {}
        self.bucket_properties: dict[bytes, BucketProperties] = {}
        self.fault: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.is_ready = True
        self.calls: list[tuple[object, ...]] = []
        self.facts: dict[str, object] = {"node_id": "n1", "engine": {"keys": 3}}
        self._stamp = stamp_at(WALL_MS)

    async def read(self, bucket: bytes, key: bytes, options: Options) -> ReadOutcome:
        await self._begin("read", bucket, key, options)
        held = self.held.get((bucket, key))
        if held is None:
            return ReadOutcome([], b"")
        live = [value for value in held.values if not value.flags]
        return ReadOutcome(live, _context(bucket, key, held.seen))

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
        await self._begin("write", bucket, key, payload, context, metadata, options)
        expires = -1 if options.ttl_ms is None else WALL_MS + options.ttl_ms
        return self._change(bucket, key, context, 0, expires, metadata, payload)

    async def delete(
        self, bucket: bytes, key: bytes, *, context: bytes | None, options: Options
    ) -> WriteOutcome:
        await self._begin("delete", bucket, key, context, options)
        return self._change(bucket, key, context, 1, -1, b"", b"")

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        self._fail()
        self.calls.append(("scan", bucket, cursor, count))
        keys = sorted(key for held_bucket, key in self.held if held_bucket == bucket)
        stop = min(cursor + count, len(keys))
        return KeyPage(keys[cursor:stop], 0 if stop == len(keys) else stop)

    def properties(self, bucket: bytes) -> BucketProperties:
        self._fail()
        return self.bucket_properties.get(bucket, BucketProperties())

    async def set_properties(self, bucket: bytes, properties: BucketProperties) -> None:
        self._fail()
        check_properties(properties)
        self.bucket_properties[bucket] = properties

    def buckets(self) -> list[bytes]:
        self._fail()
        return sorted({bucket for bucket, _ in self.held} | set(self.bucket_properties))

    async def explain(self, bucket: bytes, key: bytes) -> Explanation:
        self._fail()
        held = self.held.get((bucket, key), Held())
        replica = ReplicaView(
            node="n1",
            role="primary",
            up=True,
            state="stored" if held.values else "absent",
            entries=[(ACTOR, held.seen)],
            siblings=len(held.values),
            bytes=99,
        )
        return Explanation(bucket, key, "ab" * 16, (1 << 64) - 1, 7, 1, 1, 1, [replica])

    def status(self) -> dict[str, object]:
        self._fail()
        return self.facts

    def ready(self) -> bool:
        return self.is_ready

    def was_ready(self) -> bool:
        return self.is_ready

    async def _begin(self, *call: object) -> None:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        self._fail()

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _change(
        self,
        bucket: bytes,
        key: bytes,
        context: bytes | None,
        flags: int,
        expires_at_ms: int,
        metadata: bytes,
        payload: bytes,
    ) -> WriteOutcome:
        covered = 0 if not context else _covered(bucket, key, context)
        held = self.held.get((bucket, key), Held())
        kept = [value for value in held.values if value.stamp > covered]
        if len(kept) >= 64:
            raise LimitReached("64 siblings")
        self._stamp += 1 << 16
        value = versions.Value(ACTOR, self._stamp, flags, 0, expires_at_ms, metadata, payload)
        self.held[bucket, key] = Held(self._stamp, [value, *kept])
        return WriteOutcome(None if kept else _context(bucket, key, self._stamp))


def _context(bucket: bytes, key: bytes, seen: int) -> bytes:
    return base64.urlsafe_b64encode(json.dumps([_address(bucket, key), seen]).encode())


def _address(bucket: bytes, key: bytes) -> str:
    return hashlib.blake2b(bucket + b"/" + key, digest_size=16).hexdigest()


def _covered(bucket: bytes, key: bytes, context: bytes) -> int:
    try:
        address, seen = json.loads(base64.urlsafe_b64decode(context))
    except ValueError:
        raise InvalidContext("the context is damaged") from None
    if address != _address(bucket, key) or not isinstance(seen, int):
        raise InvalidContext("the context is of another key")
    return seen
