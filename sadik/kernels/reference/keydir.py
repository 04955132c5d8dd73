"""Plain twin of the keydir kernel: a dict from digest to place, and reading by slices. Without the guard: a
file that was cut under it ends the process."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sadik.errors import CorruptRecord
from sadik.kernels.buffers import Buffer
from sadik.kernels.reference import segment as records_twin
from sadik.kernels.reference.segment import (
    FLAG_DEAD,
    FLAG_REMOVED,
    FLAG_SYSTEM,
    FLAG_UNREADABLE,
    INDEX_ENTRY_BYTES,
    RECORD_HEADER_BYTES,
    SEQ_MAX,
)

_STORED, _ABSENT, _ERROR = 0, 1, 2
_SLOT_BYTES = 32
# What the native twin reads of a record's header without checking it: value length, number, digest, space,
# name and flags.
_FIELDS = struct.Struct("<12xIQ16sII")
_ENTRY = struct.Struct("<16sQIIIB3x")


class Location(NamedTuple):
    segment: int
    offset: int
    seq: int
    flags: int


@dataclass
class _Key:
    segment: int
    offset: int
    seq: int
    space: int
    counted: int
    dead: bool
    removed: bool
    unreadable: bool


@dataclass
class _Segment:
    view: memoryview
    codec: records_twin.Codec
    size: int
    dead_seq_min: int = SEQ_MAX


def _rounded(length: int) -> int:
    """A length rounded up to eight significant bits."""
    unit = 1 << max(0, length.bit_length() - 8)
    return -(-length // unit) * unit


def _fields(data: bytes, at: int) -> tuple[int, int, bytes, int, int]:
    """Length, number, digest, space and flags of a record."""
    value_length, seq, digest, space, name_flags = _FIELDS.unpack_from(data, at)
    return (
        RECORD_HEADER_BYTES + (name_flags & 0xFFFFFF) + value_length,
        seq,
        digest,
        space,
        name_flags >> 24,
    )


def _entries(entries: Buffer) -> list[tuple[bytes, int, int, int, int, int]]:
    packed = bytes(entries)
    return [
        _ENTRY.unpack_from(packed, i * INDEX_ENTRY_BYTES) for i in range(len(packed) // INDEX_ENTRY_BYTES)
    ]


def _digest(digest: Buffer) -> bytes:
    whole = bytes(digest)
    if len(whole) != 16:
        raise ValueError(f"digest has {len(whole)} bytes, 16 are needed")
    return whole


class Keydir:
    def __init__(self, partitions: int) -> None:
        if partitions < 1 or partitions > 1 << 20 or partitions & (partitions - 1):
            raise ValueError(f"partitions must be a power of two up to 2**20, not {partitions}")
        self.doubt_below = 0
        self._keys: dict[bytes, _Key] = {}
        self._segments: dict[int, _Segment] = {}
        self._retired: set[int] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def bytes_used(self) -> int:
        return _SLOT_BYTES * len(self._keys)

    def attach(self, view: Buffer, salt: Buffer, size: int) -> int:
        held = memoryview(view).cast("B")
        if size > len(held):
            raise ValueError("size reaches beyond the view")
        codec = records_twin.Codec(salt)
        handle = next(number for number in range(65536) if number not in self._segments)
        if handle == 65535:
            raise ValueError("too many segments")
        self._segments[handle] = _Segment(held, codec, size)
        return handle

    def detach(self, segment: int) -> None:
        self._segment(segment)
        if any(key.segment == segment for key in self._keys.values()):
            raise ValueError("keys still point to the segment")
        del self._segments[segment]

    def set_size(self, segment: int, size: int) -> None:
        found = self._segment(segment)
        if size > len(found.view):
            raise ValueError("size reaches beyond the view")
        found.size = size

    def live(self, segment: int) -> tuple[int, int, int]:
        found = self._segment(segment)
        there = [key for key in self._keys.values() if key.segment == segment]
        return len(there), sum(key.counted for key in there), found.dead_seq_min

    def _segment(self, segment: int) -> _Segment:
        if segment not in self._segments:
            raise ValueError(f"no segment {segment} is attached")
        return self._segments[segment]

    # Taking in

    def _bury(self, key: _Key) -> None:
        """A record of a segment is dead; a removal is not, for it hides others."""
        if not key.removed:
            found = self._segments[key.segment]
            found.dead_seq_min = min(found.dead_seq_min, key.seq)

    def _forget(self, digest: bytes) -> None:
        key = self._keys.pop(digest, None)
        if key is not None:
            self._bury(key)

    def put(self, segment: int, base: int, records: Buffer) -> int:
        found = self._segment(segment)
        data = bytes(records)
        if base + len(data) > min(len(found.view), 1 << 32):
            raise ValueError("records reach beyond the segment")
        at = count = 0
        while at < len(data):
            if len(data) - at < RECORD_HEADER_BYTES:
                raise ValueError("records end in the middle of a header")
            length, seq, digest, space, flags = _fields(data, at)
            if length > len(data) - at or seq == 0:
                raise ValueError("records end in the middle of one")
            found.size = max(found.size, base + at + length)
            self._forget(digest)
            if not flags & FLAG_REMOVED:
                dead, unreadable = bool(flags & FLAG_DEAD), bool(flags & FLAG_UNREADABLE)
                self._keys[digest] = _Key(
                    segment, base + at, seq, space, _rounded(length), dead, False, unreadable
                )
            at += length
            count += 1
        return count

    def load(self, segment: int, entries: Buffer) -> tuple[int, int, int]:
        self._segment(segment)
        taken, seq_min, seq_max = 0, SEQ_MAX, 0
        for digest, seq, offset, length, space, flags in _entries(entries):
            seq_min, seq_max = min(seq_min, seq), max(seq_max, seq)
            if flags & FLAG_SYSTEM or seq == 0:
                continue
            new = _Key(
                segment,
                offset,
                seq,
                space,
                _rounded(length),
                bool(flags & FLAG_DEAD),
                bool(flags & FLAG_REMOVED),
                bool(flags & FLAG_UNREADABLE),
            )
            old = self._keys.get(digest)
            if old is not None and (old.seq, not old.unreadable) >= (new.seq, not new.unreadable):
                self._bury(new)
                continue
            self._forget(digest)
            self._keys[digest] = new
            taken += 1
        return taken, seq_min, seq_max

    def settle(self) -> int:
        removed = [digest for digest, key in self._keys.items() if key.removed]
        for digest in removed:
            del self._keys[digest]
        return len(removed)

    def select(self, segment: int, entries: Buffer) -> bytearray:
        self._segment(segment)
        mask = bytearray()
        for digest, seq, offset, _, _, flags in _entries(entries):
            key = self._keys.get(digest)
            mark = 0
            if flags & FLAG_SYSTEM:
                mark = 3
            elif flags & FLAG_REMOVED:
                mark = (
                    2 if key is None or key.seq < seq or (key.segment, key.offset) == (segment, offset) else 0
                )
            elif key is not None and (key.segment, key.offset, key.seq) == (segment, offset, seq):
                if key.space in self._retired:
                    self._forget(digest)
                elif key.unreadable or flags & FLAG_UNREADABLE:
                    key.unreadable = True
                    mark = 4
                else:
                    mark = 1
            mask.append(mark)
        return mask

    def move(self, source: int, target: int, base: int, records: Buffer) -> int:
        self._segment(source)
        found = self._segment(target)
        data = bytes(records)
        if base + len(data) > min(len(found.view), 1 << 32):
            raise ValueError("records reach beyond the segment")
        at = moved = 0
        while at + RECORD_HEADER_BYTES <= len(data):
            length, seq, digest, _, flags = _fields(data, at)
            if at + length > len(data):
                break
            key = self._keys.get(digest)
            ordinary = not flags & (FLAG_SYSTEM | FLAG_REMOVED)
            if ordinary and key is not None and (key.segment, key.seq) == (source, seq):
                self._bury(key)
                key.segment, key.offset = target, base + at
                moved += 1
            at += length
        found.size = max(found.size, base + at)
        return moved

    def relocate(self, segment: int, entries: Buffer) -> int:
        self._segment(segment)
        corrected = 0
        for digest, seq, offset, _, _, flags in _entries(entries):
            key = self._keys.get(digest)
            if flags & (FLAG_SYSTEM | FLAG_REMOVED | FLAG_UNREADABLE) or key is None:
                continue
            if (key.segment, key.seq) == (segment, seq) and key.offset != offset:
                key.offset = offset
                key.unreadable = False
                corrected += 1
        return corrected

    # Looking up

    def entries_of(self, segment: int) -> list[tuple[int, bytes]]:
        self._segment(segment)
        return sorted((key.offset, digest) for digest, key in self._keys.items() if key.segment == segment)

    def find(self, digest: Buffer) -> Location | None:
        key = self._keys.get(_digest(digest))
        if key is None:
            return None
        flags = (FLAG_DEAD if key.dead else 0) | (FLAG_UNREADABLE if key.unreadable else 0)
        return Location(key.segment, key.offset, key.seq, flags)

    def flag_unreadable(self, digest: Buffer) -> bool:
        key = self._keys.get(_digest(digest))
        if key is not None:
            key.unreadable = True
        return key is not None

    def _record(self, digest: bytes, key: _Key) -> records_twin.Record:
        found = self._segments[key.segment]
        if key.unreadable or key.seq < self.doubt_below:
            raise CorruptRecord("the record is unreadable")
        if key.offset + RECORD_HEADER_BYTES > found.size:
            raise CorruptRecord("no record fits there")
        head = bytes(found.view[key.offset : key.offset + RECORD_HEADER_BYTES])
        length = _fields(head, 0)[0]
        data = bytes(found.view[key.offset : min(key.offset + length, found.size)])
        record = found.codec.decode(data, key.offset, key.offset)
        if record.digest != digest:
            raise CorruptRecord("another key's record is there")
        return record

    def read(self, digest: Buffer) -> bytes | None:
        whole = _digest(digest)
        key = self._keys.get(whole)
        if key is None:
            if self.doubt_below:
                raise CorruptRecord("this key may lie in an unreadable region")
            return None
        return self._record(whole, key).value

    def read_many(self, digests: Sequence[bytes]) -> list[bytes | None]:
        return [self.read(digest) for digest in digests]

    def read_batch(
        self, count: int, digests: Buffer, bytes_max: int
    ) -> tuple[int, bytearray, bytes, bytearray]:
        if not 0 <= count <= 1 << 40:
            raise ValueError(f"count {count} is not a batch size")
        packed = bytes(digests)
        if len(packed) < 16 * count:
            raise ValueError("digests are cut")
        status = bytearray()
        data = b""
        offsets = [0]
        for i in range(count):
            try:
                value = self.read(packed[16 * i : 16 * i + 16])
                mark = _ABSENT if value is None else _STORED
            except CorruptRecord:
                value, mark = None, _ERROR
            if value is not None and len(data) + len(value) > bytes_max and i > 0:
                break
            status.append(mark)
            data += value or b""
            offsets.append(len(data))
        return len(status), status, data, bytearray(struct.pack(f"<{len(offsets)}q", *offsets))

    def scan(
        self, after: Buffer, stop: Buffer, count: int, bytes_max: int = (1 << 30) - 1
    ) -> list[tuple[bytes, int, int, bytes, bytes | None]]:
        low, high = bytes(after), bytes(stop)
        if len(low) not in (0, 16) or len(high) != 16:
            raise ValueError("bounds are digests of 16 bytes; only the first may be empty")
        if count < 1:
            raise ValueError("count must be at least 1")
        found: list[tuple[bytes, int, int, bytes, bytes | None]] = []
        for digest in sorted(self._keys):
            key = self._keys[digest]
            if (low and digest <= low) or digest > high or key.removed or len(found) >= count:
                continue
            if sum(len(entry[4] or b"") for entry in found) >= bytes_max:
                break
            try:
                record = self._record(digest, key)
                found.append((digest, record.space, record.flags, record.name, record.value))
            except CorruptRecord:
                found.append((digest, key.space, FLAG_DEAD if key.dead else 0, b"", None))
        return found

    # Spaces

    def _live_in(self, space: int) -> int:
        return sum(
            1 for key in self._keys.values() if key.space == space and not key.dead and not key.removed
        )

    def count(self, space: int) -> int:
        return 0 if space in self._retired else self._live_in(space)

    def spaces_known(self) -> list[int]:
        return sorted({key.space for key in self._keys.values()} - self._retired)

    def retire(self, space: int) -> None:
        if any(key.space == space for key in self._keys.values()):
            self._retired.add(space)

    def sweep(self, tables: int) -> bool:
        if tables:
            for digest in [digest for digest, key in self._keys.items() if key.space in self._retired]:
                self._forget(digest)
        self._retired &= {key.space for key in self._keys.values()}
        return bool(self._retired)
