"""Bytes of the log engine's segments: record encode, check and scan, CRC-32C. Pure: buffers in, buffers out.

``docs/segment-format.md`` gives the bytes. A record carries: sequence number, 16-byte digest, space (u32), flags (u8), name,
value. Its CRC-32C also covers the segment's 16-byte random salt and the record's offset in the segment, so nothing inside a user's value,
nor a record copied from elsewhere, can pass for a record.
"""

from typing import Final

from sadik.kernels.buffers import Buffer

RECORD_HEADER_BYTES: Final[int]
FLAG_REMOVED: Final[int]
"""The record says: no value any more. The engine's tombstone; its value is empty."""
FLAG_DEAD: Final[int]
"""The caller says: no live value inside (all siblings are tombstones). Kept, but not counted as a key."""
FLAG_SYSTEM: Final[int]
"""The engine's own small table (``Engine.system_put``); not part of the keydir."""

def crc32c(data: Buffer, seed: int = 0) -> int:
    """CRC-32C (Castagnoli) of ``data``, continuing from ``seed``."""
