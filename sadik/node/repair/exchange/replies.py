"""What a peer answered, checked before anything is made of it: whatever is not an answer is a
``ProtocolError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from sadik.errors import CorruptRecord, InvalidRequest, ProtocolError
from sadik.hashing.merkle import Descent
from sadik.kernels import digest, merkle, versions
from sadik.node.repair.exchange import messages
from sadik.node.repair.exchange.messages import Items, Listing
from sadik.storage.engine import DIGEST_BYTES


class Theirs(NamedTuple):
    """A key at the peer.

    Attributes:
        name: Empty when nothing is there.
        stored: Its version set, ``b""`` for nothing, None when it cannot be read there.
        moved: It has changed since it was listed.
    """

    name: bytes
    stored: bytes | None
    moved: bool


def read_listing(listing: Listing) -> dict[bytes, int]:
    """Fingerprints by digest, of our own page as well as of a peer's."""
    digests = messages.split(listing.digests, DIGEST_BYTES)
    prints = messages.unpack(listing.prints, 8)
    if len(digests) != len(prints) or len(digests) > messages.PAGE_KEYS_MAX:
        raise ProtocolError(f"a page of {len(digests)} keys and {len(prints)} fingerprints")
    return dict(zip(digests, prints, strict=True))


def read_page(reply: Listing, leaves: Sequence[int], after: bytes, leaf_bits: int) -> dict[bytes, int]:
    """A peer's answer to ``Keys`` as fingerprints by digest.

    Args:
        leaves, after: As asked. leaf_bits: Of a leaf's number over all partitions.
    """
    prints = read_listing(reply)
    if reply.last and (len(reply.last) != DIGEST_BYTES or reply.last <= after):
        raise ProtocolError("a page of keys that does not go on")
    wanted = frozenset(leaves)
    rest = 8 * DIGEST_BYTES - leaf_bits
    for before, key in pairwise([after, *prints]):
        if key <= before or int.from_bytes(key, "big") >> rest not in wanted:
            raise ProtocolError("a page of keys out of order, or with keys that nobody asked for")
    return prints


def hand_out(descents: Mapping[int, Descent], shape: merkle.Tree, level: int, hashes: bytes) -> None:
    """Give each descent, all on ``level``, its part of an answer to ``Nodes``."""
    child_bytes = merkle.LEAF_BYTES if level + 1 == shape.depth else merkle.HASH_BYTES
    block = child_bytes * (shape.width(level + 1) // shape.width(level))
    sizes = [block * (len(descent.wanted) // 4) for descent in descents.values()]
    if len(hashes) != sum(sizes):
        raise ProtocolError(f"{len(hashes)} bytes of children, {sum(sizes)} are expected")
    at = 0
    for descent, size in zip(descents.values(), sizes, strict=True):
        if size:
            descent.on_answer(hashes[at : at + size])
        at += size


def read_items(
    keys: Sequence[bytes], reply: Items, settle: Callable[[bytes, bytes], bytes]
) -> list[Theirs | None]:
    """How the peer holds the first of some keys; None where it holds the same as we.

    Args:
        settle: As in ``Holdings``.
    """
    given = iter(reply.sets)
    found: list[Theirs | None] = []
    for key, status in zip(keys, reply.status, strict=False):
        if status == messages.EQUAL:
            found.append(None)
        elif status == messages.UNREADABLE:
            found.append(Theirs(b"", None, moved=False))
        elif status in (messages.DIFFERENT, messages.MOVED):
            one = next(given, None)
            if one is None:
                raise ProtocolError("a key that differs comes without its version set")
            name, stored = one
            if stored:
                _check_set(key, name, stored)
                stored = settle(name, stored)
            found.append(Theirs(name, stored, moved=status == messages.MOVED))
        else:
            raise ProtocolError(f"a key of status {status}")
    if next(given, None) is not None:
        raise ProtocolError("more version sets than keys that differ")
    return found


def _check_set(key: bytes, name: bytes, stored: bytes) -> None:
    """A version set from a peer must be one, of the key that was asked for."""
    try:
        cut = 1 + name[0] if name else 0
        if name != digest.address_name(name[1:cut], name[cut + 2 :]) or digest.digest(name) != key:
            raise ProtocolError("a version set of a key that nobody asked for")
        versions.validate(stored)
    except (InvalidRequest, CorruptRecord) as error:
        raise ProtocolError(f"a peer sent what is no version set: {error}") from error
