"""Buckets: their properties, their truncation stamps and their spaces.

A bucket exists from its first write on. Its facts are one small value in the engine's system table, written
in the same log and order as its data: ``{properties, stamp, truncate_before, space}``. The truncation stamp
hides everything older (FLUSHDB); the space is the number under which the engine counts the bucket's keys
since then.

In a cluster all but the space is shared by gossip: of two properties those set at the greater stamp win, of
two truncation stamps the greater one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from sadik.errors import InvalidRequest, LimitReached, ProtocolError, StorageError
from sadik.hashing.digest import BLAKE3
from sadik.kernels import versions
from sadik.storage.engine import DIGEST_BYTES, Engine

log = logging.getLogger("sadik.buckets")

_PREFIX = b"bucket:"
_PAGE_KEYS = 512
_PAGE_BYTES = 16 * 1024 * 1024
_LAST_DIGEST = b"\xff" * DIGEST_BYTES
SIBLINGS_CEILING = 64
BUCKETS_MAX = 1 << 16
"""Buckets that clients may make: all are in memory, and in one message of gossip where they differ."""


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


_DEFAULTS: Final = BucketProperties()


class _Stored(msgspec.Struct, frozen=True):
    space: int
    truncate_before: int
    properties: BucketProperties
    stamp: int = 0


class _Shared(msgspec.Struct, frozen=True, array_like=True):
    """What other nodes learn of a bucket; new fields last and with defaults.

    Attributes:
        properties: None for the defaults, which most buckets have.
    """

    name: bytes
    floor: int
    stamp: int
    properties: BucketProperties | None = None


_DECODER: Final = msgspec.msgpack.Decoder(list[_Shared])


@dataclass(slots=True)
class Bucket:
    """One bucket as the data path uses it.

    Attributes:
        prefix: ``length | bucket``, the first part of every name in it.
        floor: Values with a stamp <= this are hidden.
        space: The engine's number for what was written since.
        stamp: When the properties were set, 0 for the defaults.
    """

    name: bytes
    prefix: bytes
    space: int
    floor: int
    properties: BucketProperties
    stored: bool
    stamp: int = 0


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
    """All buckets of one node, loaded from and stored to its engine; what is shared of them (``members``'
    ``Shared``).

    Attributes:
        on_change: Called with a bucket's name after its properties or its floor changed, here or elsewhere.
        newest: A stamp that nothing on this node exceeds; not known at first.
    """

    name: Final = "buckets"

    def __init__(self, engine: Engine) -> None:
        self.on_change: Callable[[bytes], None] = _ignore
        self.newest: Callable[[], int] = _unknown
        self._export = b""
        self._digest = b""
        self._engine = engine
        self._buckets: dict[bytes, Bucket] = {}
        self._space_last = 0
        for name, value in engine.system_items():
            if not name.startswith(_PREFIX):
                continue
            stored = msgspec.json.decode(value, type=_Stored)
            bucket = name[len(_PREFIX) :]
            # Properties of before there was a stamp were set by somebody all the same: above the defaults.
            stamp = stored.stamp or int(stored.properties != _DEFAULTS)
            self._buckets[bucket] = _make(
                bucket, stored.space, stored.truncate_before, stored.properties, stamp, stored=True
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
            floor = max(known.floor, stamp - 1)
            bucket = _make(name, -space, floor, known.properties, known.stamp, stored=False)
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
            bucket = _make(name, 0, 0, _DEFAULTS, 0, stored=False)
        return bucket

    def for_write(self, name: bytes) -> Bucket:
        """The bucket, recorded in the log before its first data.

        Raises:
            InvalidRequest: As ``get``.
            LimitReached: There are as many buckets as there may be, and this would be another one.
            StorageError: It cannot be recorded.
        """
        if len(self._buckets) >= BUCKETS_MAX and name not in self._buckets:
            raise LimitReached(f"there are {BUCKETS_MAX} buckets; no more can be made")
        return self.for_merge(name)

    def for_merge(self, name: bytes) -> Bucket:
        """The same for data of another node, which made the bucket within its limit."""
        bucket = self._buckets.get(name)
        if bucket is not None and bucket.stored:
            return bucket
        bucket = self.get(name)
        bucket.space = self._next_space()
        self._store(bucket)
        self._buckets[name] = bucket
        return bucket

    def truncate(self, name: bytes, stamp: int) -> int:
        """Hide everything in the bucket, which is up to ``stamp`` all of it; returns the engine's ticket.

        What is in the bucket now is counted no more, and compaction drops it: with a ``stamp`` of another
        node, which may be below some of it, use ``raise_floor``.
        """
        bucket = self.for_merge(name)
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
        self.on_change(name)
        return ticket

    def raise_floor(self, name: bytes, stamp: int) -> int:
        """Hide everything in the bucket up to ``stamp``, minted by another node; returns the engine's ticket,
        0 when that is hidden already.

        Where nothing here may be newer this is ``truncate``. Else the bucket goes on in its space: what is
        newer was written after the truncation and must stay. What is hidden is counted until collection has
        gone round.
        """
        bucket = self.get(name)
        if stamp <= bucket.floor:
            return 0
        if not bucket.stored or stamp >= self.newest():
            return self.truncate(name, stamp)
        previous = bucket.floor
        bucket.floor = stamp
        try:
            ticket = self._store(bucket)
        except BaseException:
            bucket.floor = previous
            raise
        self.on_change(name)
        return ticket

    def set_properties(self, name: bytes, properties: BucketProperties, stamp: int = 0) -> int:
        """Replace the properties; returns the engine's ticket.

        Args:
            stamp: Of now. Always taken as above that of the properties before.
        Raises:
            InvalidRequest: A property out of range.
            LimitReached, StorageError: As ``for_write``.
        """
        check_properties(properties)
        bucket = self.for_write(name)
        return self._replace(bucket, properties, max(stamp, bucket.stamp + 1))

    def _replace(self, bucket: Bucket, properties: BucketProperties, stamp: int) -> int:
        previous = bucket.properties, bucket.stamp
        bucket.properties, bucket.stamp = properties, stamp
        try:
            ticket = self._store(bucket)
        except BaseException:
            bucket.properties, bucket.stamp = previous
            raise
        self.on_change(bucket.name)
        return ticket

    # What is shared.

    def digest(self) -> bytes:
        """16 bytes, equal where all that is shared is. Made anew after a change only."""
        if not self._digest:
            self._digest = BLAKE3.digest(self.export())
        return self._digest

    def export(self) -> bytes:
        """Every stored bucket's floor and properties, for ``merge`` on another node."""
        if not self._export:
            buckets = (self._buckets[name] for name in sorted(self._buckets))
            self._export = msgspec.msgpack.encode(
                [
                    _Shared(
                        it.name, it.floor, it.stamp, None if it.properties == _DEFAULTS else it.properties
                    )
                    for it in buckets
                ]
            )
        return self._export

    def merge(self, data: bytes) -> bool:
        """Learn what another node exported; whether that was anything new.

        Raises:
            ProtocolError: Not such bytes, or more buckets than there can be; nothing is changed.
            StorageError: The engine refused; what was merged before is, and the rest can be merged again.
        """
        try:
            entries = _DECODER.decode(data)
            for entry in entries:
                check_properties(entry.properties or _DEFAULTS)
                _check_shared(entry)
        except (msgspec.MsgspecError, InvalidRequest) as error:
            raise ProtocolError(f"not a list of buckets: {error}") from None
        # Nodes that reach the limit at the same time end up above it: each within its own.
        if len(self._buckets.keys() | {entry.name for entry in entries}) > 2 * BUCKETS_MAX:
            raise ProtocolError(f"more than {2 * BUCKETS_MAX} buckets")
        changed = False
        for entry in entries:
            changed |= self._merge_one(entry)
        return changed

    def _merge_one(self, entry: _Shared) -> bool:
        changed = not self.get(entry.name).stored
        bucket = self.for_merge(entry.name)
        properties = entry.properties or _DEFAULTS
        if _rank(entry.stamp, properties) > _rank(bucket.stamp, bucket.properties):
            self._replace(bucket, properties, entry.stamp)
            changed = True
        if entry.floor > bucket.floor:
            self.raise_floor(entry.name, entry.floor)
            changed = True
        return changed

    def names(self) -> list[bytes]:
        """Stored buckets, sorted."""
        return sorted(self._buckets)

    def _next_space(self) -> int:
        self._space_last += 1
        return self._space_last

    def _store(self, bucket: Bucket) -> int:
        stored = _Stored(bucket.space, bucket.floor, bucket.properties, bucket.stamp)
        ticket = self._engine.system_put(_PREFIX + bucket.name, msgspec.json.encode(stored))
        bucket.stored = True
        self._export = self._digest = b""
        return ticket


def _make(
    name: bytes, space: int, floor: int, properties: BucketProperties, stamp: int, *, stored: bool
) -> Bucket:
    return Bucket(name, bytes([len(name)]) + name, space, floor, properties, stored, stamp)


def _check_shared(entry: _Shared) -> None:
    if not 1 <= len(entry.name) <= 255:
        raise InvalidRequest(f"a bucket name is 1 to 255 bytes, not {len(entry.name)}")
    for stamp in (entry.floor, entry.stamp):
        if not 0 <= stamp < 1 << 64:
            raise InvalidRequest(f"a stamp is a uint64, not {stamp}")


def _rank(stamp: int, properties: BucketProperties) -> tuple[int, bytes]:
    return stamp, msgspec.msgpack.encode(properties)


def _ignore(name: bytes) -> None:
    """Nobody asked to be told."""


def _unknown() -> int:
    return 1 << 64
