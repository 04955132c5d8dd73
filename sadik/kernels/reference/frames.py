"""Plain twin of the frames kernel; its contract is ``native/frames.pyi``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sadik.errors import ProtocolError
from sadik.kernels.buffers import Buffer

HEADER_BYTES: Final = 20
VERSION: Final = 1
PAYLOAD_BYTES_LIMIT: Final = 2**32 - 1


class Frame(NamedTuple):
    kind: int
    request: int
    payload: bytes


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE: Final = _table()


def _crc32c(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state = _TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def encode(kind: int, request: int, parts: Sequence[Buffer]) -> bytes:
    if not 0 <= request < 2**64:
        raise OverflowError(f"request must be a uint64, not {request}")
    if not 1 <= kind <= 255:
        raise ValueError(f"kind must be 1 to 255, not {kind}")
    views = [memoryview(part) for part in parts]
    length = sum(view.nbytes for view in views)
    if length > PAYLOAD_BYTES_LIMIT:
        raise ValueError(f"a payload has at most {PAYLOAD_BYTES_LIMIT} bytes, not {length}")
    payload = b"".join(views)
    covered = length.to_bytes(4, "little") + bytes([VERSION, kind, 0, 0]) + request.to_bytes(8, "little")
    return covered + _crc32c(covered + payload).to_bytes(4, "little") + payload


class Reader:
    def __init__(self, payload_bytes_max: int, greetings: int = 0, greeting_bytes_max: int = 0) -> None:
        for number in (payload_bytes_max, greeting_bytes_max):
            if not 0 <= number < 2**64:
                raise OverflowError(f"a number of bytes must be a uint64, not {number}")
        if max(payload_bytes_max, greeting_bytes_max) > PAYLOAD_BYTES_LIMIT or greetings < 0:
            raise ValueError(f"a payload has 0 to {PAYLOAD_BYTES_LIMIT} bytes")
        self.payload_bytes_max = payload_bytes_max
        self._greetings = greetings
        self._greeting_bytes_max = min(greeting_bytes_max, payload_bytes_max)
        self._rest = b""
        self._error = ""

    @property
    def held_bytes(self) -> int:
        return len(self._rest)

    def feed(self, data: Buffer) -> list[Frame]:
        if self._error:
            raise ProtocolError(self._error)
        self._rest += bytes(memoryview(data))
        frames = []
        try:
            while len(self._rest) >= HEADER_BYTES:
                length = self._check(self._rest[:HEADER_BYTES])
                frame = self._rest[: HEADER_BYTES + length]
                if len(frame) < HEADER_BYTES + length:
                    break
                self._rest = self._rest[len(frame) :]
                frames.append(self._open(frame))
        except ProtocolError as error:
            self._error = str(error)
            self._rest = b""
            raise
        return frames

    def _check(self, header: bytes) -> int:
        length = int.from_bytes(header[:4], "little")
        limit = self._greeting_bytes_max if self._greetings else self.payload_bytes_max
        if header[4] != VERSION:
            raise ProtocolError(f"the peer speaks protocol version {header[4]}, this node {VERSION}")
        if header[5] == 0 or header[6:8] != b"\0\0":
            raise ProtocolError("bytes that are no frame")
        if length > limit:
            raise ProtocolError(f"a frame of {length} bytes where at most {limit} are allowed")
        return length

    def _open(self, frame: bytes) -> Frame:
        payload = frame[HEADER_BYTES:]
        if int.from_bytes(frame[16:20], "little") != _crc32c(frame[:16] + payload):
            raise ProtocolError(f"a frame of kind {frame[5]} with {len(payload)} bytes fails its checksum")
        self._greetings = max(0, self._greetings - 1)
        return Frame(frame[5], int.from_bytes(frame[8:16], "little"), payload)
