"""Hash functions behind one interface. To add one, add it to ``HASHES`` here; nothing else changes.

A cluster's hash is fixed at its birth: the birth record stores ``name``, and a node that knows no such hash
refuses to start. Every hash gives 16 bytes that are uniform enough to cut the token space evenly; the high 8,
big-endian, are the ring token.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from sadik.errors import InvalidRequest
from sadik.ids import Token
from sadik.kernels import digest as kernel
from sadik.kernels.buffers import Buffer

DIGEST_BYTES: Final = 16


class HashFunction(Protocol):
    """What maps a name (see ``sadik.kernels.digest``) to its digest."""

    @property
    def name(self) -> str:
        """Stored in birth records; never changes its meaning."""
        ...

    def digest(self, data: Buffer) -> bytes:
        """16 bytes."""
        ...

    def hash_many(self, count: int, data: Buffer, starts: Buffer, lengths: Buffer, out: Buffer) -> None:
        """Digests of ``count`` slices of ``data`` into ``out``; all as ``digest_many`` of the kernel."""
        ...


class Blake3:
    """The kernel's BLAKE3: the default, and the only one the data path is tuned for."""

    name: Final = "blake3"
    digest = staticmethod(kernel.digest)
    hash_many = staticmethod(kernel.digest_many)


class PerCall:
    """A hash from a function of one input: about a microsecond each, for study and comparison.

    Args:
        digest: Gives exactly 16 bytes.
    """

    def __init__(self, name: str, digest: Callable[[Buffer], bytes]) -> None:
        self.name: Final = name
        self.digest: Final = digest

    def hash_many(self, count: int, data: Buffer, starts: Buffer, lengths: Buffer, out: Buffer) -> None:
        if count < 0:
            raise ValueError(f"count {count} is not a number of items")
        source = bytes(memoryview(data))
        first = bytes(memoryview(starts))
        size = bytes(memoryview(lengths))
        target = memoryview(out)
        if target.readonly:
            raise BufferError("out is read-only")
        if len(first) < 8 * count or len(size) < 8 * count or target.nbytes < DIGEST_BYTES * count:
            raise ValueError(f"a buffer is too short for {count} items")
        digests = bytearray()
        slices = zip(
            struct.iter_unpack("<q", first[: 8 * count]),
            struct.iter_unpack("<q", size[: 8 * count]),
            strict=True,
        )
        for (start,), (length,) in slices:
            if start < 0 or length < 0 or start + length > len(source):
                raise ValueError(f"slice ({start}, {length}) is outside data of {len(source)} bytes")
            digests += self.digest(source[start : start + length])
        if count:
            target.cast("B")[: len(digests)] = digests


def _blake2b(data: Buffer) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _md5(data: Buffer) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


BLAKE3: Final[HashFunction] = Blake3()

HASHES: Final[Mapping[str, HashFunction]] = MappingProxyType(
    {
        BLAKE3.name: BLAKE3,
        "blake2b-128": PerCall("blake2b-128", _blake2b),
        # The paper's own (Dynamo 4.2). Keys that collide can be made at will: for study only.
        "md5": PerCall("md5", _md5),
    }
)


def hash_function(name: str) -> HashFunction:
    """The hash of a name.

    Raises:
        InvalidRequest: No such hash; the text names those there are.
    """
    try:
        return HASHES[name]
    except KeyError:
        raise InvalidRequest(f"no hash function {name!r}; there are {', '.join(HASHES)}") from None


def token_of(digest: bytes) -> Token:
    """The ring token of a digest: its first 8 bytes as one big-endian number."""
    return Token(int.from_bytes(digest[:8], "big"))
