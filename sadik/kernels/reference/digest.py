"""Plain twin of the digest kernel: the ``blake3`` package, the independent authority; names by hand."""

from __future__ import annotations

import operator
import sys
from typing import Final

from blake3 import blake3

from sadik.errors import InvalidRequest
from sadik.kernels.buffers import Buffer

DIGEST_BYTES: Final = 16
PATHS: Final = ("package",)


def use_path(name: str) -> None:
    if name not in PATHS:
        raise ValueError(f"no code path {name!r}, only {', '.join(PATHS)}")


def digest(data: Buffer, /) -> bytes:
    return blake3(bytes(memoryview(data))).digest(length=DIGEST_BYTES)


def _view(source: Buffer, need: int, name: str, *, writable: bool = False) -> memoryview:
    view = memoryview(source)
    if writable and view.readonly:
        raise BufferError(f"{name} is read-only")
    # An empty array cannot be cast.
    view = view.cast("B") if view.nbytes else memoryview(b"")
    if len(view) < need:
        raise ValueError(f"{name} has {len(view)} bytes, {need} are needed")
    return view


def _count(count: int) -> int:
    count = operator.index(count)
    if abs(count) > sys.maxsize:
        raise OverflowError("count is out of range")
    if not 0 <= count <= 1 << 48:
        raise ValueError(f"count {count} is not a number of items")
    return count


def _integer(view: memoryview, index: int) -> int:
    return int.from_bytes(view[8 * index : 8 * index + 8], "little", signed=True)


def digest_many(count: int, data: Buffer, starts: Buffer, lengths: Buffer, out: Buffer) -> None:
    count = _count(count)
    source = _view(data, 0, "data")
    start_items = _view(starts, 8 * count, "starts")
    length_items = _view(lengths, 8 * count, "lengths")
    target = _view(out, 16 * count, "out", writable=True)
    for i in range(count):
        start = _integer(start_items, i)
        length = _integer(length_items, i)
        if start < 0 or length < 0 or start + length > len(source):
            raise ValueError(f"slice {i} ({start}, {length}) is outside data of {len(source)} bytes")
        target[16 * i : 16 * i + 16] = digest(source[start : start + length])


def tokens(count: int, digests: Buffer, out: Buffer) -> None:
    count = _count(count)
    source = _view(digests, 16 * count, "digests")
    target = _view(out, 8 * count, "out", writable=True)
    for i in range(count):
        token = int.from_bytes(source[16 * i : 16 * i + 8], "big")
        target[8 * i : 8 * i + 8] = token.to_bytes(8, "little")


def address_name(bucket: Buffer, key: Buffer, /) -> bytes:
    bucket = bytes(memoryview(bucket))
    key = bytes(memoryview(key))
    if not 1 <= len(bucket) <= 255:
        raise InvalidRequest(f"a bucket has 1 to 255 bytes, not {len(bucket)}")
    if not 1 <= len(key) <= 65535:
        raise InvalidRequest(f"a key has 1 to 65535 bytes, not {len(key)}")
    return bytes([len(bucket)]) + bucket + len(key).to_bytes(2, "big") + key


def address_digest(bucket: Buffer, key: Buffer, /) -> bytes:
    return digest(address_name(bucket, key))
