"""Short ways to call an engine, shared by the tests of the contract."""

from __future__ import annotations

import array
import struct
from collections.abc import Sequence
from itertools import pairwise

from sadik.storage.engine import Engine, Entry

LAST = b"\xff" * 16


def digest(number: int) -> bytes:
    """Digests spread over all partitions, in another order than the numbers."""
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") + number.to_bytes(8, "big")


def in_order(numbers: Sequence[int]) -> list[bytes]:
    return sorted(digest(number) for number in numbers)


Item = tuple[bytes, bytes, bytes, int, int]
"""Digest, name, value, space, flags."""


def write_batch(engine: Engine, items: Sequence[Item]) -> int:
    names = b"".join(name for _, name, _, _, _ in items)
    starts, offsets = [0], [0]
    for _, name, value, _, _ in items:
        starts.append(starts[-1] + len(name))
        offsets.append(offsets[-1] + len(value))
    return engine.write_batch(
        len(items),
        b"".join(key for key, _, _, _, _ in items),
        names,
        array.array("q", starts[:-1]),
        array.array("q", [len(name) for _, name, _, _, _ in items]),
        b"".join(value for _, _, value, _, _ in items),
        array.array("q", offsets),
        array.array("I", [space for _, _, _, space, _ in items]),
        bytes(flags for _, _, _, _, flags in items),
    )


def read_batch(engine: Engine, keys: Sequence[bytes], **options: int) -> list[tuple[int, bytes]]:
    """(status, value) of each key that was read."""
    batch = engine.read_batch(len(keys), b"".join(keys), **options)
    offsets = struct.unpack_from(f"<{batch.taken + 1}q", bytes(batch.offsets))
    assert offsets[0] == 0
    return [
        (batch.status[i], bytes(batch.data[start:stop])) for i, (start, stop) in enumerate(pairwise(offsets))
    ]


def walk(engine: Engine, page: int = 1000) -> list[Entry]:
    """All entries, page by page."""
    entries: list[Entry] = []
    while True:
        after = entries[-1].digest if entries else b""
        found = engine.scan(after, LAST, page)
        assert len(found) <= page
        if not found:
            return entries
        entries += found
