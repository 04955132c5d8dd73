"""What two nodes say to each other in an exchange: the payloads of EXCHANGE calls, and their limits.

One asks, the other answers and remembers nothing. Numbers in packed fields are little-endian, digests 16
bytes, fingerprints uint64. Nodes and leaves of a tree are numbered over all partitions: ``partition *
width(level) + node``, so a leaf's number is the first bits of its keys' digests. A question is MessagePack
``[tag, fields...]``.

=========  ===========================================  =====================================================
question   asks                                         answer
=========  ===========================================  =====================================================
Begin      may we compare?                              Begun: why not, or each N that has keys
Roots      are these roots yours?                       Flags: for each partition equal, different, unbuilt
Nodes      the children of these nodes of the trees     Children
Keys       the keys in these leaves                     Listing: a page of digests and fingerprints
Sets       have these keys changed? what are they now?  Items: for each key how it is, and its version set
=========  ===========================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np

from sadik.comms.messages import Packed
from sadik.errors import ProtocolError
from sadik.kernels.buffers import Buffer

PARTITIONS_MAX: Final = 256
"""Roots in a question: 4 KiB. Under load every one of them is stale, and hashing 256 trees anew takes 3 ms.
"""
GROUP_PARTITIONS_MAX: Final = 32
"""Partitions that are descended into together."""
NODES_MAX: Final = 1024
"""Nodes in a question, as a group of partitions has at most above its leaves; the answer is 512 KiB at most.
"""
LEAVES_MAX: Final = 1024
PAGE_KEYS_MAX: Final = 256
"""Keys in a listing, and about how many steps a node takes to make one: 1 to 2 ms."""
PAGE_BYTES_MAX: Final = 1 << 20
"""Bytes of version sets that are read for a listing or sent in an answer; a greater set travels alone."""
SETS_KEYS_MAX: Final = 64
N_MAX: Final = 16

EQUAL: Final = 0
"""Of a partition, or of a key: we hold the same."""
DIFFERENT: Final = 1
UNBUILT: Final = 2
"""Of a partition: the trees of it are still being built here."""
MOVED: Final = 2
"""Of a key: different, and changed here since it was listed."""
UNREADABLE: Final = 3
"""Of a key: what is stored here cannot be read."""


class Begin(Packed, tag=1, frozen=True):
    """``facts`` stands for what trees depend on beside the layout: buckets, their properties and
    truncations.
    """

    layout: int
    facts: bytes


class Roots(Packed, tag=2, frozen=True):
    """partitions: uint16 each, ascending. roots: 16 bytes each."""

    layout: int
    n: int
    partitions: bytes
    roots: bytes


class Nodes(Packed, tag=3, frozen=True):
    """nodes: uint32 each, ascending, of ``level``."""

    n: int
    level: int
    nodes: bytes


class Keys(Packed, tag=4, frozen=True):
    """leaves: uint32 each, ascending. after: the digest to go on behind, or empty."""

    n: int
    leaves: bytes
    after: bytes


class Sets(Packed, tag=5, frozen=True):
    """Digests that differ.

    Attributes:
        ours: The asker's fingerprints now. theirs: Those that the asked node has listed before.
    """

    digests: bytes
    ours: bytes
    theirs: bytes


Question = Begin | Roots | Nodes | Keys | Sets


class Begun(Packed, frozen=True):
    """``refusal`` says why the two cannot be compared now; ``counts`` each N of which the answerer has
    trees.
    """

    refusal: str
    counts: list[int]


class Flags(Packed, frozen=True):
    """flags: uint8 for each partition asked for; EQUAL, DIFFERENT or UNBUILT. Empty with a refusal."""

    refusal: str
    flags: bytes


class Children(Packed, frozen=True):
    """hashes: of the children of each node asked for, without those of ``unbuilt`` partitions (uint16
    each).
    """

    hashes: bytes
    unbuilt: bytes


class Listing(Packed, frozen=True):
    """The keys of the leaves asked for, up to the digest ``last``; all of them when that is empty.

    Attributes:
        digests: Ascending. prints: Their fingerprints, none of them 0. What cannot be read is not listed: it
        differs
            from whatever the other side has.
    """

    digests: bytes
    prints: bytes
    last: bytes


class Items(Packed, frozen=True):
    """How the first keys asked for are; at least one.

    Attributes:
        status: uint8 each: EQUAL, DIFFERENT, MOVED or UNREADABLE.
        sets: (name, version set) of those that are DIFFERENT or MOVED; both empty where nothing is stored.
    """

    status: bytes
    sets: list[tuple[bytes, bytes]]


Reply = TypeVar("Reply", Begun, Flags, Children, Listing, Items)


def decode_question(payload: Buffer) -> Question:
    """Raises ``ProtocolError`` when it is none. What the fields hold is for the answerer to check."""
    try:
        question: Question = _QUESTIONS.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a question of an exchange: {error}") from error
    return question


def decode_reply(payload: Buffer, kind: type[Reply]) -> Reply:
    """Raises ``ProtocolError`` when it is none. What the fields hold is for the asker to check."""
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a {kind.__name__} of an exchange: {error}") from error


def split(packed: bytes, size: int) -> list[bytes]:
    """The elements of a packed array.

    Raises:
        ProtocolError: It is not a whole number of them.
    """
    _check_whole(packed, size)
    return [packed[at : at + size] for at in range(0, len(packed), size)]


def unpack(packed: bytes, size: int) -> list[int]:
    """The numbers of a packed array, of 2, 4 or 8 bytes each. Raises as ``split``."""
    _check_whole(packed, size)
    numbers: list[int] = np.frombuffer(packed, dtype=f"<u{size}").tolist()
    return numbers


def pack(numbers: Sequence[int], size: int) -> bytes:
    return np.array(numbers, dtype=f"<u{size}").tobytes()


def _check_whole(packed: bytes, size: int) -> None:
    if len(packed) % size:
        raise ProtocolError(f"{len(packed)} bytes are not a whole number of {size}")


_QUESTIONS: Final = msgspec.msgpack.Decoder(Question)
