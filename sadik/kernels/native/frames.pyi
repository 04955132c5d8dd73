"""Frames between nodes: a header, a checksum, a payload of any bytes.

Header, little-endian::

    0   payload length    u32
    4   protocol version  u8, 1
    5   kind              u8, not 0
    6   zero              u16
    8   request           u64
    16  CRC-32C           u32, of bytes 0 to 16 and the payload
    20  payload

The checksum is against faults, not against people: TCP's own sixteen bits let one in some ten thousand
damaged segments pass, and proxies make it anew.

Cost: a frame of 100 bytes 0.2 us to encode and 0.2 us to read; long ones 4 GB/s, which is the copy and the
checksum.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sadik.kernels.buffers import Buffer

HEADER_BYTES: Final = 20
VERSION: Final = 1
PAYLOAD_BYTES_LIMIT: Final[int]
"""2**32 - 1: what the length field can say. Readers have lower limits."""

class Frame(NamedTuple):
    """One received frame; ``payload`` is the receiver's to keep."""

    kind: int
    request: int
    payload: bytes

def encode(kind: int, request: int, parts: Sequence[Buffer]) -> bytes:
    """A frame whose payload is all parts in order, copied once.

    Args:
        kind: 1 to 255.
        request: uint64.
    Raises:
        ValueError: ``kind`` out of range, or more bytes than the length field can say.
        OverflowError: ``request`` out of range.
    """

class Reader:
    """Cuts one stream of bytes into frames.

    Holds a frame that is not whole yet: at most about twice what of it has arrived, whatever length it
    claims.

    Args:
        payload_bytes_max: Longest payload, 0 to ``PAYLOAD_BYTES_LIMIT``.
        greetings: The first so many frames, of someone not known yet, are limited to ``greeting_bytes_max``.
    Attributes:
        held_bytes: Memory taken for a frame that is not whole.
    """

    payload_bytes_max: int

    def __init__(self, payload_bytes_max: int, greetings: int = 0, greeting_bytes_max: int = 0) -> None: ...
    @property
    def held_bytes(self) -> int: ...
    def feed(self, data: Buffer) -> list[Frame]:
        """Take the next bytes of the stream; returns the frames they complete.

        A header is judged as soon as it is whole, before its payload is waited for.

        Raises:
            ProtocolError: Not a frame, another version, longer than allowed, or damaged. Frames of the same
            call that
                came before are lost; the stream cannot go on, and every later call raises too.
        """
