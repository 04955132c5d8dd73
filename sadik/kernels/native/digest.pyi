"""BLAKE3 truncated to 128 bits: the one hash of an address, a few tens of nanoseconds for short input.

Layout of a digest: 16 bytes as BLAKE3 gives them; read as one big-endian number, the high 64 bits are the ring token. Digests
in byte order are therefore in ring order.

A *name* is what is hashed and stored for an address: ``bucket length (u8) | bucket | key length (u16, big-endian) | key``. It is
injective, and pinned by test vectors for ever.
"""

from sadik.kernels.buffers import Buffer

def digest(data: Buffer) -> bytes:
    """The first 16 bytes of BLAKE3 of ``data``, of any length."""

def digest_many(count: int, data: Buffer, starts: Buffer, lengths: Buffer, out: Buffer) -> None:
    """Digests of ``count`` slices of one buffer, written to ``out`` one after another.

    Args:
        data: Bytes that hold every slice.
        starts: int64, at least ``count`` long: offset of each slice in ``data``.
        lengths: int64, at least ``count`` long.
        out: Writable, at least ``16 * count`` bytes.
    Raises:
        ValueError: A slice outside ``data``, or a buffer that is too short.
    """

def address_name(bucket: Buffer, key: Buffer) -> bytes:
    """The name of an address (see above).

    Raises:
        InvalidRequest: ``bucket`` not 1 to 255 bytes, or ``key`` not 1 to 65535 bytes.
    """

def address_digest(bucket: Buffer, key: Buffer) -> bytes:
    """``digest(address_name(bucket, key))`` without building the name. Raises as ``address_name``."""
