"""Plain twin of the segment kernel: records by struct and slices, CRC-32C by its definition, a byte at a
time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from sadik.errors import CorruptRecord
from sadik.kernels.buffers import Buffer

PATHS = ("plain",)
RECORD_HEADER_BYTES = 48
INDEX_ENTRY_BYTES = 40
SEQ_MAX = (1 << 48) - 1
FLAG_REMOVED = 1
FLAG_DEAD = 2
FLAG_SYSTEM = 4
FLAG_UNREADABLE = 16
FLAG_MARK = 64
FLAG_FOOTER = 128
END = 0
MORE = 1
BROKEN = 2

NAME_BYTES_MAX = 65793
VALUE_BYTES_MAX = (1 << 30) - 1

# Mark and header CRC; then what the header CRC covers, besides salt and offset.
_CHECKS = struct.Struct("<4sI")
_HEADER = struct.Struct("<IIQ16sII")
_ENTRY = struct.Struct("<16sQIIIB3x")


class Scan(NamedTuple):
    entries: bytes
    stop: int
    reason: int
    need: int
    durable: int
    footer: int
    seq_first: int
    seq_next: int


class Record(NamedTuple):
    seq: int
    digest: bytes
    space: int
    flags: int
    name: bytes
    value: bytes


class Header(NamedTuple):
    """A record's header whose checks have passed."""

    body_crc: int
    value_length: int
    seq: int
    digest: bytes
    space: int
    name_length: int
    flags: int

    @property
    def length(self) -> int:
        return RECORD_HEADER_BYTES + self.name_length + self.value_length


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def use_path(name: str) -> None:
    if name not in PATHS:
        raise ValueError(f"there is no path {name!r} here")


def crc32c(data: Buffer, seed: int = 0) -> int:
    state = ~seed & 0xFFFFFFFF
    for byte in bytes(data):
        state = _TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
    return ~state & 0xFFFFFFFF


def _check_lengths(digest: Buffer, name: Buffer, value: Buffer) -> None:
    if len(memoryview(digest)) != 16:
        raise ValueError("a digest has 16 bytes")
    if len(memoryview(name)) > NAME_BYTES_MAX or len(memoryview(value)) > VALUE_BYTES_MAX:
        raise ValueError("name or value is too long")


def _number(value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise OverflowError(f"{value} does not fit in {bits} bits")
    return value


def _check_place(offset: int, seq: int, count: int, length: int) -> None:
    if seq < 1 or count > SEQ_MAX - seq + 1:
        raise ValueError(f"sequence number {seq} is outside 1..2**48-1")
    if offset + length > 1 << 32 or offset >= 1 << 32:
        raise OverflowError("records reach beyond 4 GiB")


def _acquired(source: Buffer, need: int, name: str) -> bytes:
    data = bytes(source)
    if len(data) < need:
        raise ValueError(f"{name} has {len(data)} bytes, {need} are needed")
    return data


class Codec:
    def __init__(self, salt: Buffer) -> None:
        self.salt = _acquired(salt, 16, "salt")[:16]

    def header_at(self, data: bytes, base: int, offset: int) -> Header | None:
        """The header at an offset, None when the bytes there are not one."""
        head = data[offset - base : offset - base + RECORD_HEADER_BYTES]
        if len(head) < RECORD_HEADER_BYTES:
            return None
        mark, crc = _CHECKS.unpack_from(head)
        covered = head[_CHECKS.size :]
        body_crc, value_length, seq, digest, space, name_flags = _HEADER.unpack(covered)
        name_length, flags = name_flags & 0xFFFFFF, name_flags >> 24
        if mark != self.salt[12:] or crc != crc32c(self.salt + offset.to_bytes(8, "little") + covered):
            return None
        if not 1 <= seq <= SEQ_MAX or value_length > VALUE_BYTES_MAX or name_length > NAME_BYTES_MAX:
            return None
        return Header(body_crc, value_length, seq, digest, space, name_length, flags)

    def _seal(self, offset: int, covered: bytes) -> bytes:
        crc = crc32c(self.salt + offset.to_bytes(8, "little") + covered)
        return _CHECKS.pack(self.salt[12:], crc) + covered

    def _record(
        self, offset: int, seq: int, digest: bytes, name: bytes, value: bytes, space: int, flags: int
    ) -> bytes:
        name_flags = len(name) | flags << 24
        covered = _HEADER.pack(crc32c(name + value), len(value), seq, digest, space, name_flags)
        return self._seal(offset, covered) + name + value

    def encode(
        self,
        offset: int,
        seq: int,
        digest: Buffer,
        name: Buffer,
        value: Buffer,
        space: int = 0,
        flags: int = 0,
    ) -> bytes:
        _number(offset, 64), _number(seq, 64), _number(space, 32), _number(flags, 8)
        _check_lengths(digest, name, value)
        _check_place(offset, seq, 1, RECORD_HEADER_BYTES + len(bytes(name)) + len(bytes(value)))
        return self._record(offset, seq, bytes(digest), bytes(name), bytes(value), space, flags)

    def encode_many(
        self, offset: int, seq: int, items: Sequence[tuple[bytes, bytes, bytes]], space: int = 0
    ) -> bytes:
        _number(offset, 64), _number(seq, 64), _number(space, 32)
        rows = list(items)
        for row in rows:
            if len(row) != 3 or not all(isinstance(part, bytes) for part in row):
                raise (
                    TypeError("digest, name and value are bytes")
                    if len(row) == 3
                    else ValueError("not a row")
                )
            _check_lengths(*row)
        total = sum(RECORD_HEADER_BYTES + len(name) + len(value) for _, name, value in rows)
        _check_place(offset, seq, len(rows), total)
        out = b""
        for number, (digest, name, value) in enumerate(rows):
            out += self._record(offset + len(out), seq + number, digest, name, value, space, 0)
        return out

    def encode_batch(
        self,
        offset: int,
        seq: int,
        count: int,
        digests: Buffer,
        names: Buffer,
        name_starts: Buffer,
        name_lengths: Buffer,
        values: Buffer,
        value_offsets: Buffer,
        spaces: Buffer,
        flags: Buffer,
    ) -> bytes:
        _number(offset, 64), _number(seq, 64)
        if not 0 <= count <= 1 << 40:
            raise ValueError(f"count {count} is not a batch size")
        all_digests = _acquired(digests, 16 * count, "digests")
        all_names = bytes(names)
        starts = struct.unpack_from(f"<{count}q", _acquired(name_starts, 8 * count, "name_starts"))
        lengths = struct.unpack_from(f"<{count}q", _acquired(name_lengths, 8 * count, "name_lengths"))
        all_values = bytes(values)
        offsets = struct.unpack_from(
            f"<{count + 1}q", _acquired(value_offsets, 8 * (count + 1), "value_offsets")
        )
        all_spaces = struct.unpack_from(f"<{count}I", _acquired(spaces, 4 * count, "spaces"))
        all_flags = _acquired(flags, count, "flags")
        if offsets[0] < 0 or offsets[-1] > len(all_values):
            raise ValueError("value_offsets reach outside of values")
        rows = []
        for i in range(count):
            if offsets[i + 1] < offsets[i] or offsets[i + 1] > len(all_values):
                raise ValueError(f"value_offsets fall or reach outside of values at operation {i}")
            if offsets[i + 1] == offsets[i]:
                continue
            if starts[i] < 0 or lengths[i] < 0 or starts[i] + lengths[i] > len(all_names):
                raise ValueError(f"name of operation {i} reaches outside of names")
            if all_flags[i] not in (0, FLAG_DEAD):
                raise ValueError(f"flags {all_flags[i]} of operation {i} are not the caller's")
            digest = all_digests[16 * i : 16 * i + 16]
            name = all_names[starts[i] : starts[i] + lengths[i]]
            value = all_values[offsets[i] : offsets[i + 1]]
            _check_lengths(digest, name, value)
            rows.append((digest, name, value, all_spaces[i], all_flags[i]))
        total = sum(RECORD_HEADER_BYTES + len(row[1]) + len(row[2]) for row in rows)
        _check_place(offset, seq, len(rows), total)
        out = b""
        for number, row in enumerate(rows):
            out += self._record(offset + len(out), seq + number, *row)
        return out

    def scan(self, data: Buffer, base: int, end: int) -> Scan:
        seen = bytes(data)
        _number(base, 64), _number(end, 64)
        if end > 1 << 32 or base >= 1 << 32 or base + len(seen) > end:
            raise ValueError("the data reaches beyond the end")
        entries = []
        stop, reason, need = base, END, 0
        durable = seq_first = seq_next = 0
        footer = -1
        while stop != end:
            room = base + len(seen) - stop
            if room < RECORD_HEADER_BYTES:
                reason, need = (
                    (BROKEN, 0) if end - stop < RECORD_HEADER_BYTES else (MORE, RECORD_HEADER_BYTES)
                )
                break
            header = self.header_at(seen, base, stop)
            if header is None:
                reason = BROKEN
                break
            length = min(header.length, end - stop)
            if length > room:
                reason, need = MORE, length
                break
            body = seen[stop - base + RECORD_HEADER_BYTES : stop - base + length]
            sound = length == header.length and crc32c(body) == header.body_crc
            value = body[header.name_length :]
            seq_first = seq_first or header.seq
            if header.flags & (FLAG_MARK | FLAG_FOOTER):
                seq_next = header.seq
                if sound and header.flags & FLAG_FOOTER:
                    footer = stop
                elif sound and len(value) == 8:
                    (durable,) = struct.unpack("<Q", value)
            else:
                seq_next = header.seq + 1
                flags = header.flags if sound else header.flags | FLAG_UNREADABLE
                entries.append(_ENTRY.pack(header.digest, header.seq, stop, length, header.space, flags))
            stop += length
        return Scan(b"".join(entries), stop, reason, need, durable, footer, seq_first, seq_next)

    def find(self, data: Buffer, base: int, start: int) -> int:
        seen = bytes(data)
        _number(base, 64), _number(start, 64)
        if not base <= start <= base + len(seen):
            raise ValueError("start is outside of the data")
        for offset in range(start, base + len(seen) - RECORD_HEADER_BYTES + 1):
            if self.header_at(seen, base, offset) is not None:
                return offset
        return -1

    def decode(self, data: Buffer, base: int, offset: int) -> Record:
        seen = bytes(data)
        _number(base, 64), _number(offset, 64)
        if not base <= offset <= base + len(seen):
            raise ValueError("offset is outside of the data")
        header = self.header_at(seen, base, offset)
        if header is None:
            raise CorruptRecord("no record there")
        start = offset - base + RECORD_HEADER_BYTES
        body = seen[start : start + header.name_length + header.value_length]
        if len(body) != header.name_length + header.value_length or crc32c(body) != header.body_crc:
            raise CorruptRecord("the record fails its check")
        name, value = body[: header.name_length], body[header.name_length :]
        return Record(header.seq, header.digest, header.space, header.flags, name, value)

    def recode(
        self, source: Codec, data: Buffer, base: int, entries: Buffer, mask: Buffer, offset: int
    ) -> tuple[bytes, int, int, int]:
        seen, lines = bytes(data), bytes(entries)
        _number(base, 64), _number(offset, 64)
        count = len(lines) // INDEX_ENTRY_BYTES
        wanted = _acquired(mask, count, "mask")
        chosen = [_ENTRY.unpack_from(lines, i * INDEX_ENTRY_BYTES) for i in range(count) if wanted[i]]
        for _, _, at, length, _, _ in chosen:
            if at < base or at + length > base + len(seen) or length < RECORD_HEADER_BYTES:
                raise ValueError("an entry lies outside of the data")
        _check_place(offset, 1, 0, sum(entry[3] for entry in chosen))
        out = b""
        numbers = []
        for _, _, at, length, _, _ in chosen:
            header = source.header_at(seen, base, at)
            if header is None or header.length != length:
                raise CorruptRecord("the record fails its check")
            record = seen[at - base : at - base + length]
            covered = record[_CHECKS.size : RECORD_HEADER_BYTES]
            out += self._seal(offset + len(out), covered) + record[RECORD_HEADER_BYTES:]
            numbers.append(header.seq)
        return out, len(numbers), min(numbers, default=SEQ_MAX), max(numbers, default=0)
