"""Plain twin of the packets kernel; the stub ``native/packets.pyi`` is the contract."""

from __future__ import annotations

import struct
from typing import NamedTuple

from sadik.errors import ProtocolError
from sadik.kernels.buffers import Buffer

COUNT_MAX = 1 << 24
_SETS_HEADER = struct.Struct("<IHBBI")
_OPERATIONS_HEADER = struct.Struct("<IHHIQ")


class Sets(NamedTuple):
    total: int
    data: bytes
    digests: bytearray
    name_starts: bytearray
    name_lengths: bytearray
    set_starts: bytearray
    set_lengths: bytearray
    spans: list[tuple[bytes, int, int]]
    stops: list[int]
    reasons: list[int]
    owners: list[bytes]


class Operations(NamedTuple):
    total: int
    kinds: bytearray
    digests: bytearray
    data: bytes
    name_starts: bytearray
    name_lengths: bytearray
    payload_starts: bytearray
    payload_lengths: bytearray
    ttl_ms: bytearray
    spans: list[tuple[bytes, int, int]]
    timeout_ms: int
    layout: int


def encode_sets(
    reason: int,
    owner: bytes,
    spans: list[tuple[bytes, int]],
    count: int,
    digests: Buffer,
    names: Buffer,
    name_starts: Buffer,
    name_lengths: Buffer,
    sets: Buffer,
    set_offsets: Buffer,
    select: Buffer | None = None,
) -> tuple[bytes, bytes]:
    keys = _fixed(digests, 16, count, "digests")
    offsets = _numbers(set_offsets, "q", count + 1, "set_offsets")
    if not 0 <= reason <= 255 or len(owner) > 255:
        raise ValueError("reason must be a byte, and owner at most 255 bytes")
    _check_spans(spans, count)
    texts = _slices(names, name_starts, name_lengths, count, "name")
    if list(offsets) != sorted(offsets) or offsets[0] < 0 or offsets[-1] > len(bytes(sets)):
        raise ValueError("set_offsets must ascend within sets")
    content = bytes(sets)
    wanted = (1,) * count if select is None else _numbers(select, "B", count, "select")
    chosen = [i for i in range(count) if wanted[i] and offsets[i + 1] > offsets[i]]
    listed, first = [], 0
    for bucket, operations in spans:
        here = sum(first <= i < first + operations for i in chosen)
        if here:
            listed.append((bucket, here))
        first += operations
    packet = b"".join(
        (
            _SETS_HEADER.pack(len(chosen), len(listed), reason, len(owner), 0),
            owner,
            _pack_spans(listed),
            *(keys[i] for i in chosen),
            *(struct.pack("<I", len(texts[i])) for i in chosen),
            *(struct.pack("<I", offsets[i + 1] - offsets[i]) for i in chosen),
            *(texts[i] for i in chosen),
            *(content[offsets[i] : offsets[i + 1]] for i in chosen),
        )
    )
    return packet, struct.pack(f"={len(chosen)}i", *chosen)


def decode_sets(packets: list[bytes]) -> Sets:
    if not packets:
        raise ValueError("no packets")
    digests = bytearray()
    places: list[list[int]] = [[], [], [], []]
    spans: list[tuple[bytes, int, int]] = []
    stops: list[int] = []
    reasons: list[int] = []
    owners: list[bytes] = []
    offset = 0
    for packet in packets:
        reader = _Reader(packet, _SETS_HEADER.size)
        count, listed, reason, owner_length, _ = _SETS_HEADER.unpack_from(packet)
        _check_count(count, len(packet) - _SETS_HEADER.size, 24)
        base = stops[-1] if stops else 0
        reasons.append(reason)
        owners.append(reader.take(owner_length))
        found = reader.spans(listed, count, base)
        digests += reader.take(16 * count)
        lengths = struct.unpack(f"<{2 * count}I", reader.take(8 * count))
        starts = reader.places(lengths[:count])
        _check_names(packet, starts, lengths[:count], found, base)
        places[0] += [offset + start for start in starts]
        places[1] += lengths[:count]
        places[2] += [offset + start for start in reader.places(lengths[count:])]
        places[3] += lengths[count:]
        reader.end()
        stops.append(base + count)
        offset += len(packet)
        if spans and spans[-1][0] == found[0][0]:
            found[0] = (found[0][0], spans.pop()[1], found[0][2])
        spans += found
    if stops[-1] > COUNT_MAX:
        raise ProtocolError(f"packets hold more than {COUNT_MAX} sets")
    arrays = [bytearray(struct.pack(f"={len(part)}q", *part)) for part in places]
    data = packets[0] if len(packets) == 1 else b"".join(packets)
    return Sets(
        stops[-1], data, digests, arrays[0], arrays[1], arrays[2], arrays[3], spans, stops, reasons, owners
    )


def encode_operations(
    spans: list[tuple[bytes, int]],
    count: int,
    kinds: Buffer,
    digests: Buffer,
    data: Buffer,
    name_starts: Buffer,
    name_lengths: Buffer,
    payload_starts: Buffer,
    payload_lengths: Buffer,
    ttl_ms: Buffer,
    timeout_ms: int,
    layout: int,
) -> bytes:
    if not 0 <= timeout_ms < 1 << 32 or not 0 <= layout < 1 << 64:
        raise OverflowError("timeout_ms or layout does not fit")
    if not 1 <= count <= COUNT_MAX:
        raise ValueError(f"count must be 1 to {COUNT_MAX}")
    kind = bytes(_numbers(kinds, "B", count, "kinds"))
    keys = _fixed(digests, 16, count, "digests")
    times = _numbers(ttl_ms, "q", count, "ttl_ms")
    _check_spans(spans, count)
    names = _slices(data, name_starts, name_lengths, count, "name")
    payloads = _slices(data, payload_starts, payload_lengths, count, "payload")
    listed = [span for span in spans if span[1]]
    return b"".join(
        (
            _OPERATIONS_HEADER.pack(count, len(listed), 0, timeout_ms, layout),
            _pack_spans(listed),
            kind,
            *keys,
            struct.pack(f"<{count}q", *times),
            struct.pack(f"<{count}I", *map(len, names)),
            struct.pack(f"<{count}I", *map(len, payloads)),
            *names,
            *payloads,
        )
    )


def decode_operations(packet: bytes) -> Operations:
    reader = _Reader(packet, _OPERATIONS_HEADER.size)
    count, listed, _, timeout_ms, layout = _OPERATIONS_HEADER.unpack_from(packet)
    _check_count(count, len(packet) - _OPERATIONS_HEADER.size, 33)
    spans = reader.spans(listed, count, 0)
    kinds = bytearray(reader.take(count))
    if max(kinds) > 1:
        raise ProtocolError("a packet holds an operation of an unknown kind")
    digests = bytearray(reader.take(16 * count))
    ttl_ms = bytearray(reader.take(8 * count))
    if min(struct.unpack(f"<{count}q", ttl_ms)) < -1:
        raise ProtocolError("a packet holds an impossible time to live")
    lengths = struct.unpack(f"<{2 * count}I", reader.take(8 * count))
    names, payloads = lengths[:count], lengths[count:]
    name_starts = reader.places(names)
    _check_names(packet, name_starts, names, spans, 0)
    payload_starts = reader.places(payloads)
    if any(length and not kind for kind, length in zip(kinds, payloads, strict=True)):
        raise ProtocolError("a packet holds a read with a payload")
    reader.end()
    arrays = [
        bytearray(struct.pack(f"={count}q", *part)) for part in (name_starts, names, payload_starts, payloads)
    ]
    return Operations(
        count,
        kinds,
        digests,
        packet,
        arrays[0],
        arrays[1],
        arrays[2],
        arrays[3],
        ttl_ms,
        spans,
        timeout_ms,
        layout,
    )


class _Reader:
    """Takes pieces of a packet in order."""

    def __init__(self, packet: bytes, header: int) -> None:
        if len(packet) < header:
            raise ProtocolError("a packet is shorter than its header")
        self._packet = packet
        self._at = header

    def take(self, length: int) -> bytes:
        if length > len(self._packet) - self._at:
            raise ProtocolError("a packet is shorter than it declares")
        self._at += length
        return self._packet[self._at - length : self._at]

    def places(self, lengths: tuple[int, ...]) -> list[int]:
        starts = []
        for length in lengths:
            starts.append(self._at)
            self.take(length)
        return starts

    def spans(self, listed: int, count: int, base: int) -> list[tuple[bytes, int, int]]:
        found, first = [], 0
        for _ in range(listed):
            operations, length = struct.unpack("<IB", self.take(5))
            bucket = self.take(length)
            if not length or not 0 < operations <= count - first:
                raise ProtocolError("the spans of a packet do not fit its operations")
            found.append((bucket, base + first, base + first + operations))
            first += operations
        if first != count:
            raise ProtocolError("the spans of a packet do not fit its operations")
        return found

    def end(self) -> None:
        if self._at != len(self._packet):
            raise ProtocolError("a packet is longer than it declares")


def _check_count(count: int, room: int, least: int) -> None:
    if not 1 <= count <= min(room // least, COUNT_MAX):
        raise ProtocolError("a packet's count does not fit its length")


def _check_names(
    packet: bytes,
    starts: list[int],
    lengths: tuple[int, ...],
    spans: list[tuple[bytes, int, int]],
    base: int,
) -> None:
    for bucket, first, stop in spans:
        for i in range(first - base, stop - base):
            name = packet[starts[i] : starts[i] + lengths[i]]
            head = bytes([len(bucket)]) + bucket
            key = name[len(head) + 2 :]
            if not key or name[: len(head)] != head or name[len(head) : len(head) + 2] != _size(key):
                raise ProtocolError("a packet holds a name that is none of its bucket")


def _size(key: bytes) -> bytes:
    return len(key).to_bytes(2, "big") if len(key) < 1 << 16 else b""


def _check_spans(spans: list[tuple[bytes, int]], count: int) -> None:
    if len(spans) > 0xFFFF:
        raise ValueError("more than 65535 spans")
    if any(not 1 <= len(bucket) <= 255 or operations < 0 for bucket, operations in spans):
        raise ValueError("a span is a bucket of 1 to 255 bytes and its operations")
    if sum(operations for _, operations in spans) != count:
        raise ValueError(f"spans do not hold {count} operations")


def _pack_spans(spans: list[tuple[bytes, int]]) -> bytes:
    return b"".join(
        struct.pack("<IB", operations, len(bucket)) + bytes(bucket) for bucket, operations in spans
    )


def _numbers(source: Buffer, code: str, count: int, name: str) -> tuple[int, ...]:
    raw = bytes(source)
    if len(raw) < struct.calcsize(code) * count:
        raise ValueError(f"{name} is too short")
    return struct.unpack(f"={count}{code}", raw[: struct.calcsize(code) * count])


def _fixed(source: Buffer, size: int, count: int, name: str) -> list[bytes]:
    raw = bytes(source)
    if len(raw) < size * count:
        raise ValueError(f"{name} is too short")
    return [raw[size * i : size * (i + 1)] for i in range(count)]


def _slices(data: Buffer, starts: Buffer, lengths: Buffer, count: int, name: str) -> list[bytes]:
    raw = bytes(data)
    first = _numbers(starts, "q", count, f"{name}_starts")
    size = _numbers(lengths, "q", count, f"{name}_lengths")
    for start, length in zip(first, size, strict=True):
        if start < 0 or length < 0 or start + length > len(raw):
            raise ValueError(f"a {name} lies outside its buffer")
    return [raw[start : start + length] for start, length in zip(first, size, strict=True)]
