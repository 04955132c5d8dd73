"""Payloads of the data path's frames: the operations and version sets of a batch, packed.

Little-endian throughout; ``bucket``, ``name`` and ``owner`` as elsewhere. A *span* is a stretch of
operations in one bucket; a packet lists its spans in order: ``operations u32 | bucket length u8 | bucket``.

Sets (SETS, HINTED)::

    0   count             u32, at least 1
    4   spans             u16
    6   reason            u8: why they are sent, for metrics
    7   owner length      u8
    8   zero              u32
    12  owner             of HINTED: the node they are kept for
    ..  spans
    ..  digests           16 bytes each
    ..  name lengths      u32 each
    ..  set lengths       u32 each
    ..  names, then sets

Operations (FORWARD)::

    0   count             u32, at least 1
    4   spans             u16
    6   zero              u16
    8   timeout_ms        u32: what is left of the request's time
    12  layout            u64: version of the layout that the sender chose the receiver by
    20  spans
    ..  kinds             u8 each: GET 0, SET 1 (``resp``)
    ..  digests           16 bytes each
    ..  ttl_ms            i64 each
    ..  name lengths      u32 each
    ..  payload lengths   u32 each
    ..  names, then payloads

Decoding checks a packet whole, bounded by the bytes that came, and raises ``ProtocolError``. Digests are
taken as they are: who sends them has the cluster's secret, and the frame has a checksum.
"""

from typing import Final, NamedTuple

from sadik.kernels.buffers import Buffer

COUNT_MAX: Final[int]
"""2**24 operations in a packet, far above any batch."""

class Sets(NamedTuple):
    """Version sets of one or several packets, as one batch.

    Attributes:
        data: Names and sets lie in it: slices of int64 starts and lengths.
        digests: 16 bytes each.
        spans: (bucket, first, stop) in order.
        stops: Behind the last set of each packet.
        reasons, owners: One per packet.
    """

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
    """Operations in arrays like ``resp.Batch``'s; names and payloads lie in ``data``."""

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
    """A packet of those operations that have a non-empty set, and are marked in ``select`` where it is given.

    Args:
        spans: (bucket, operations), over all ``count`` operations.
        name_starts, name_lengths: int64 each. set_offsets: int64, count + 1. select: uint8 each.
    Returns:
        The packet, and the chosen operations' indices, int32 each, ascending. With none chosen it is no
        packet anybody may send: its count is 0.
    Raises:
        ValueError: A buffer is too short, a slice out of bounds, spans of another count.
    """

def decode_sets(packets: list[bytes]) -> Sets:
    """One batch of all packets, copied together only where there are several.

    Raises:
        ProtocolError: One of them is malformed.
        ValueError: No packets.
    """

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
    """A packet of all ``count`` >= 1 operations.

    Raises:
        ValueError: As ``encode_sets``. OverflowError: ``timeout_ms`` or ``layout`` does not fit.
    """

def decode_operations(packet: bytes) -> Operations:
    """Raises ``ProtocolError`` when the packet is malformed."""
