"""How hints lie in their engine; the bytes are the ``hints`` kernel's.

**Places.** Owners may share the byte that a place begins with: a walk over one owner's range skips the
others'. Keys whose digests differ in the last byte alone share a place. Nobody meets that by accident (120
bits), and it costs 2**60 hashes on purpose; the value says whose the hint is, so the second one is refused,
never mixed up.

**Spaces.** Two for each owner, so that the engine counts: ``2 * number`` for hints that name a key only, one
more for those with a version set. The number is 30 bits of the owner's hash: what comes back from a damaged
disk is still in its owner's space.

Each hint says all that is needed to deliver it. The *ledger*, one record under a digest of its own, keeps the
totals and saves a walk over all hints at a start; without it the owners are found again by that walk.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sadik.errors import CorruptRecord, InvalidRequest
from sadik.ids import NodeId
from sadik.kernels import digest
from sadik.kernels import hints as kernel
from sadik.storage.engine import DIGEST_BYTES

KEY: Final = kernel.KEY
SET: Final = kernel.SET
LEDGER_PLACE: Final = bytes(DIGEST_BYTES)
LEDGER_SPACE: Final = 1
PREFIX_BYTES: Final = 7
"""So much of a key's digest can be told from its place."""

_VERSION: Final = 1
_HEADER: Final = struct.Struct("<BBBBQ16s")


class Content(NamedTuple):
    """A value, taken apart. ``set`` is ``b""`` without SET."""

    flags: int
    stored_ms: int
    digest: bytes
    owner: bytes
    set: bytes


class Layout:
    """Places and bytes of one owner's hints.

    Attributes:
        owner: Its name as bytes.
        hash: What places are mixed with.
        key_space, set_space: The engine's numbers for hints without and with a version set.
        first, last: The range of the engine's digests that its hints are in, as for ``scan``: not above
        ``last``, and
            greater than ``first`` (``b""``: from the very first).
        key_bytes: Length of a value that names a key only.
    """

    __slots__ = ("_mask", "first", "hash", "key_bytes", "key_space", "last", "owner", "set_space")

    def __init__(self, node: NodeId) -> None:
        """Raises ``InvalidRequest`` for a name that is not 1 to 255 bytes."""
        self.owner = node.encode()
        if not 1 <= len(self.owner) <= 255:
            raise InvalidRequest(f"a node id has 1 to 255 bytes, not {len(self.owner)}")
        self.hash = digest.digest(self.owner)
        number = 1 + int.from_bytes(self.hash[9:13], "big") % ((1 << 30) - 1)
        self.key_space = 2 * number
        self.set_space = 2 * number + 1
        start = self.hash[0] << 120
        self.first = (start - 1).to_bytes(DIGEST_BYTES, "big") if start else b""
        self.last = self.hash[:1] + b"\xff" * (DIGEST_BYTES - 1)
        self.key_bytes = kernel.HEADER_BYTES + len(self.owner)

    def place(self, key: bytes) -> bytes:
        """The engine's digest of the hint for a key's digest."""
        return bytes(kernel.places(1, key, self.hash))

    def encode(self, flags: int, stored_ms: int, key: bytes, set: bytes) -> bytes:
        """The value of one hint."""
        return _HEADER.pack(_VERSION, flags, len(self.owner), 0, stored_ms, key) + self.owner + set


def decode(value: bytes | bytearray) -> Content:
    """Take a value apart.

    Raises:
        CorruptRecord: It is none of version 1.
    """
    data = bytes(value)
    if len(data) < kernel.HEADER_BYTES:
        raise CorruptRecord(f"a hint of {len(data)} bytes")
    version, flags, length, _, stored_ms, key = _HEADER.unpack_from(data)
    stop = kernel.HEADER_BYTES + length
    if version != _VERSION or not 1 <= flags <= KEY | SET or len(data) < stop or not length:
        raise CorruptRecord(f"a hint of version {version}, flags {flags}, {len(data)} bytes")
    return Content(flags, stored_ms, key, data[kernel.HEADER_BYTES : stop], data[stop:])


class OwnerLine(msgspec.Struct, array_like=True, frozen=True):
    """What the ledger knows of an owner that hints are here for."""

    node: str
    bytes: int
    oldest_ms: int


class Ledger(msgspec.Struct, array_like=True, frozen=True):
    """Totals since the first start; new fields last and with defaults."""

    stored: int = 0
    delivered: int = 0
    expired: int = 0
    dropped: int = 0
    owners: Sequence[OwnerLine] = ()


_encode_ledger = msgspec.msgpack.Encoder().encode
_ledger: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Ledger)


def encode_ledger(ledger: Ledger) -> bytes:
    return _encode_ledger(ledger)


def decode_ledger(data: bytes) -> Ledger:
    """Raises ``CorruptRecord`` for anything else."""
    try:
        found: Ledger = _ledger.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"the ledger of hints: {error}") from error
    return found
