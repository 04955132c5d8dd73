"""Plain twin of the hints kernel; the stub ``native/hints.pyi`` is the contract."""

from __future__ import annotations

import struct
from typing import NamedTuple

from sadik.kernels.buffers import Buffer

KEY = 1
SET = 2
HEADER_BYTES = 28

_STORED, _ABSENT = 0, 1


class Sifted(NamedTuple):
    added: int
    places: bytearray
    name_starts: bytearray
    name_lengths: bytearray
    name_bytes: int
    values: bytearray
    value_offsets: bytearray
    unreadable: list[int]
    others: list[int]


def places(count: int, digests: Buffer, owner_hash: Buffer) -> bytearray:
    if count < 0:
        raise ValueError("count must not be negative")
    keys = _bytes(digests, 16 * count, "digests")
    owner = _bytes(owner_hash, 9, "owner_hash")
    made = bytearray()
    for i in range(count):
        key = keys[16 * i : 16 * i + 16]
        made.append(owner[0])
        made += key[:7]
        made += bytes(a ^ b for a, b in zip(key[7:15], owner[1:9], strict=True))
    return made


def sift(
    count: int,
    digests: Buffer,
    places: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
    key_value: Buffer,
    name_starts: Buffer,
    name_lengths: Buffer,
) -> Sifted:
    if not 0 <= count <= 1 << 28:
        raise ValueError("count must be 0 to 2**28")
    keys = _bytes(digests, 16 * count, "digests")
    at = _bytes(places, 16 * count, "places")
    status = _bytes(stored_status, count, "stored_status")
    data = _bytes(stored, 0, "stored")
    offsets = struct.unpack_from(f"{count + 1}q", _bytes(stored_offsets, 8 * (count + 1), "stored_offsets"))
    value = _bytes(key_value, HEADER_BYTES + 1, "key_value")
    starts = struct.unpack_from(f"{count}q", _bytes(name_starts, 8 * count, "name_starts"))
    lengths = struct.unpack_from(f"{count}q", _bytes(name_lengths, 8 * count, "name_lengths"))
    if offsets[0] < 0 or list(offsets) != sorted(offsets) or offsets[-1] > len(data):
        raise ValueError("stored_offsets must ascend inside their buffer")
    new: dict[bytes, int] = {}
    others = []
    for i in range(count):
        key = keys[16 * i : 16 * i + 16]
        if status[i] != _STORED:
            new.setdefault(at[16 * i : 16 * i + 16], i)
        else:
            found = data[offsets[i] : offsets[i + 1]]
            if found[:4] + found[12:] != value[:4] + key + value[28:]:
                others.append(i)
    values = [value[:12] + keys[16 * i : 16 * i + 16] + value[28:] for i in new.values()]
    return Sifted(
        len(new),
        bytearray(b"".join(new)),
        bytearray(struct.pack(f"{len(new)}q", *(starts[i] for i in new.values()))),
        bytearray(struct.pack(f"{len(new)}q", *(lengths[i] for i in new.values()))),
        sum(lengths[i] for i in new.values()),
        bytearray(b"".join(values)),
        bytearray(struct.pack(f"{len(new) + 1}q", *range(0, (len(new) + 1) * len(value), len(value)))),
        [i for i in new.values() if status[i] != _ABSENT],
        others,
    )


def _bytes(source: Buffer, need: int, name: str) -> bytes:
    found = bytes(memoryview(source).cast("B"))
    if len(found) < need:
        raise ValueError(f"{name} has {len(found)} bytes, {need} are needed")
    return found
