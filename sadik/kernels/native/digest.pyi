"""BLAKE3 truncated to 128 bits: the one hash of an address, a few tens of nanoseconds for short input.

Layout of a digest: 16 bytes as BLAKE3 gives them; read as one big-endian number, the high 64 bits are the
ring token. Digests in byte order are therefore in ring order.

A *name* is what is hashed and stored for an address: ``bucket length (u8) | bucket | key length (u16,
big-endian) | key``. It is injective, and pinned by test vectors for ever.

Cost with AVX2: a name of at most 64 bytes 25 ns in a batch and 130 ns in a call of its own; a batch of
inputs of 100 bytes 45 ns and of 1000 bytes 0.3 us each; long input 2.4 GB/s.
"""

from typing import Final

from sadik.kernels.buffers import Buffer

DIGEST_BYTES: Final = 16

PATHS: Final[tuple[str, ...]]
"""Code paths this processor can run, fastest first. All give the same bytes; the first is in use after
import.
"""

def use_path(name: str) -> None:
    """Run one of ``PATHS`` from now on, in the whole process: to test and to measure what other processors
    would run.

    Raises:
        ValueError: Not one of ``PATHS``.
    """

def digest(data: Buffer, /) -> bytes:
    """The first 16 bytes of BLAKE3 of ``data``, of any length."""

def digest_many(count: int, data: Buffer, starts: Buffer, lengths: Buffer, out: Buffer) -> None:
    """Digests of ``count`` slices of one buffer, written to ``out`` one after another.

    Slices may overlap and come in any order. Inputs of at most 1024 bytes are hashed eight at a time where
    the processor can, those of equally many 64-byte blocks together.

    Args:
        data: Bytes that hold every slice.
        starts: int64, at least ``count`` long: offset of each slice in ``data``.
        lengths: int64, at least ``count`` long.
        out: Writable, at least ``16 * count`` bytes. Unspecified after an error.
    Raises:
        ValueError: A slice outside ``data``, a buffer that is too short, or ``count`` < 0.
    """

def tokens(count: int, digests: Buffer, out: Buffer) -> None:
    """Ring tokens of ``count`` digests: uint64 in the machine's order, as ``ring`` takes them.

    Args:
        digests: At least ``16 * count`` bytes.
        out: Writable uint64, at least ``count`` long; must not overlap ``digests``.
    Raises:
        ValueError: A buffer that is too short, or ``count`` < 0.
    """

def address_name(bucket: Buffer, key: Buffer, /) -> bytes:
    """The name of an address (see above).

    Raises:
        InvalidRequest: ``bucket`` not 1 to 255 bytes, or ``key`` not 1 to 65535 bytes.
    """

def address_digest(bucket: Buffer, key: Buffer, /) -> bytes:
    """``digest(address_name(bucket, key))`` without building the name. Raises as ``address_name``."""
