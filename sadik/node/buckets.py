"""Buckets: their properties, their truncation stamps and their spaces.

A bucket exists from its first write on. Its facts are one small value in the engine's system table, written
in the same log and order as its data: ``{properties, truncate_before, space}``. The truncation stamp hides
everything older (FLUSHDB); the space is the number under which the engine counts the bucket's keys since
then. In a cluster, properties and stamps travel by gossip.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from sadik.errors import InvalidRequest, StorageError
from sadik.kernels import versions
from sadik.storage.engine import DIGEST_BYTES, Engine

log = logging.getLogger("sadik.buckets")

_PREFIX = b"bucket:"
_PAGE_KEYS = 512
_PAGE_BYTES = 16 * 1024 * 1024
_LAST_DIGEST = b"\xff" * DIGEST_BYTES
SIBLINGS_CEILING = 64


class BucketProperties(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """What may be set per bucket; None takes the cluster's default.

    Attributes:
        n: Replicas wanted; the effective number is at most the nodes of the layout.
        r, w, pr, pw: Quorum sizes; None is the majority of the effective n (0 for pr and pw).
        lww: Keep only the newest value at merge (last writer wins).
        ttl_ms: Time to live of values written without their own, None for ever.
        siblings_max: Client writes that would leave more siblings are refused.
    """

    n: int = 3
    r: int | None = None
    w: int | None = None
    pr: int | None = None
    pw: int | None = None
    lww: bool = False
    ttl_ms: int | None = None
    siblings_max: int = SIBLINGS_CEILING


class _Stored(msgspec.Struct, frozen=True):
    space: int
    truncate_before: int
    properties: BucketProperties


@dataclass(slots=True)
class Bucket:
    """One bucket as the data path uses it.

    Attributes:
        prefix: ``length | bucket``, the first part of every name in it.
        floor: Values with a stamp <= this are hidden.
        space: The engine's number for what was written since.
    """

    name: bytes
    prefix: bytes
    space: int
    floor: int
    properties: BucketProperties
    stored: bool


def check_properties(properties: BucketProperties) -> None:
    """Raise ``InvalidRequest`` naming the property that is out of range."""
    if not 1 <= properties.n <= 16:
        raise InvalidRequest(f"n must be 1 to 16, not {properties.n}")
    for name in ("r", "w", "pr", "pw"):
        number = getattr(properties, name)
        low = 0 if name in ("pr", "pw") else 1
        if number is not None and not low <= number <= properties.n:
            raise InvalidRequest(f"{name} must be {low} to n={properties.n}, not {number}")
    if properties.ttl_ms is not None and not 1 <= properties.ttl_ms <= 1 << 48:
        raise InvalidRequest(f"ttl_ms must be 1 to 2**48, not {properties.ttl_ms}")
    if not 1 <= properties.siblings_max <= SIBLINGS_CEILING:
        raise InvalidRequest(f"siblings_max must be 1 to {SIBLINGS_CEILING}, not {properties.siblings_max}")


class BucketRegistry:
    """All buckets of one node, loaded from and stored to its engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buckets: dict[bytes, Bucket] = {}
        self._space_last = 0
        for name, value in engine.system_items():
            if not name.startswith(_PREFIX):
                continue
            stored = msgspec.json.decode(value, type=_Stored)
            bucket = name[len(_PREFIX) :]
            self._buckets[bucket] = _make(
                bucket, stored.space, stored.truncate_before, stored.properties, stored=True
            )
            self._space_last = max(self._space_last, stored.space)
        strays = self._strays()
        try:
            self._truncate_again(strays)
        except StorageError as error:
            log.warning("buckets stay as before a truncation that a power cut has lost: %s", error)
        else:
            strays = set()
        engine.declare_spaces([*(bucket.space for bucket in self._buckets.values()), *strays])

    def _strays(self) -> set[int]:
        """Spaces that hold records and may be younger than what is known of their bucket."""
        live = {bucket.space for bucket in self._buckets.values()}
        known = self._engine.spaces()
        self._space_last = max([self._space_last, *known])
        oldest = min(live, default=0)
        return {space for space in known if space > oldest and space not in live}

    def _truncate_again(self, strays: set[int]) -> None:
        """Do once more what a power cut has half undone.

        It may keep a record and lose the one before it that gave the bucket its space (FLUSHDB, or the
        bucket's first write). Reads would find such a record, listings not, and compaction would drop it.
        Nothing in its space was ever promised to be durable, but it tells that the truncation took place,
        and between which stamps. Spaces retired in order have lower numbers than their bucket's.

        Cost: nothing as a rule; a walk through all keys where there are such spaces.
        """
        youngest: dict[bytes, tuple[int, int]] = {}
        after = b""
        while strays and (page := self._engine.scan(after, _LAST_DIGEST, _PAGE_KEYS, _PAGE_BYTES)):
            after = page[-1].digest
            for entry in page:
                if entry.space not in strays or not entry.value:
                    continue
                name = entry.name[1 : 1 + entry.name[0]]
                # Each record's last event came after the truncation, and everything older before it.
                found = (-entry.space, versions.stamp_max(entry.value))
                if entry.space > self.get(name).space:
                    youngest[name] = min(youngest.get(name, found), found)
        for name, (space, stamp) in sorted(youngest.items()):
            known = self.get(name)
            bucket = _make(name, -space, max(known.floor, stamp - 1), known.properties, stored=False)
            self._store(bucket)
            self._buckets[name] = bucket

    def get(self, name: bytes) -> Bucket:
        """The bucket, which need not be stored yet.

        Raises:
            InvalidRequest: A name that is not 1 to 255 bytes.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            if not 1 <= len(name) <= 255:
                raise InvalidRequest(f"a bucket name is 1 to 255 bytes, not {len(name)}")
            # Not remembered: reading many buckets that do not exist must not grow memory.
            bucket = _make(name, 0, 0, BucketProperties(), stored=False)
        return bucket

    def for_write(self, name: bytes) -> Bucket:
        """The bucket, recorded in the log before its first data."""
        bucket = self.get(name)
        if not bucket.stored:
            bucket.space = self._next_space()
            self._store(bucket)
            self._buckets[name] = bucket
        return bucket

    def truncate(self, name: bytes, stamp: int) -> int:
        """Hide everything in the bucket up to ``stamp``; returns the engine's ticket."""
        bucket = self.for_write(name)
        retired = bucket.space
        previous = bucket.floor
        bucket.floor = max(bucket.floor, stamp)
        bucket.space = self._next_space()
        try:
            ticket = self._store(bucket)
        except BaseException:
            bucket.floor, bucket.space = previous, retired
            raise
        self._engine.retire(retired)
        return ticket

    def set_properties(self, name: bytes, properties: BucketProperties) -> int:
        """Replace the properties; returns the engine's ticket.

        Raises:
            InvalidRequest: A property out of range.
        """
        check_properties(properties)
        bucket = self.for_write(name)
        previous = bucket.properties
        bucket.properties = properties
        try:
            return self._store(bucket)
        except BaseException:
            bucket.properties = previous
            raise

    def names(self) -> list[bytes]:
        """Stored buckets, sorted."""
        return sorted(self._buckets)

    def _next_space(self) -> int:
        self._space_last += 1
        return self._space_last

    def _store(self, bucket: Bucket) -> int:
        stored = _Stored(space=bucket.space, truncate_before=bucket.floor, properties=bucket.properties)
        ticket = self._engine.system_put(_PREFIX + bucket.name, msgspec.json.encode(stored))
        bucket.stored = True
        return ticket


def _make(name: bytes, space: int, floor: int, properties: BucketProperties, *, stored: bool) -> Bucket:
    return Bucket(name, bytes([len(name)]) + name, space, floor, properties, stored)
