"""Segment files around their records: names, the file header, the footer, and walking a file piece by piece.

``docs/segment-format.md`` gives the bytes. Nothing here may change for format version 1:
``tests/storage/test_log_format.py`` pins the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sadik.env.files import File
from sadik.errors import CorruptRecord, WrongFormat
from sadik.kernels import segment

FORMAT_VERSION: Final = 1
SEGMENT_SUFFIX: Final = ".segment"
INDEX_SUFFIX: Final = ".keydir"
TEMPORARY_SUFFIX: Final = ".tmp"

LOG: Final = 0
"""Records in the order of their sequence numbers, as writes came."""
COPY: Final = 1
"""Records moved from other segments, by compaction or recovery, with the numbers they had."""

HEADER_BYTES: Final = 64
DATA_START: Final = 2 * HEADER_BYTES
SEGMENT_BYTES_LIMIT: Final = 1 << 32
"""Offsets have 32 bits: no record ends above."""
CHUNK_BYTES: Final = 1 << 18
_BLOCK_BYTES: Final = 4096
_MAGIC: Final = b"SADIKSEG"
# magic, version, kind, number, salt, created ms, first seq, run, previous number, previous end; then
# the CRC.
_HEADER: Final = struct.Struct("<8sHHI16sQQIII")
_CRC: Final = struct.Struct("<I")
_FOOTER: Final = struct.Struct("<QQQ")
FOOTER_VALUE_BYTES: Final = HEADER_BYTES + _FOOTER.size
FOOTER_BYTES: Final = segment.RECORD_HEADER_BYTES + FOOTER_VALUE_BYTES
_MARK: Final = struct.Struct("<Q")
MARK_BYTES: Final = segment.RECORD_HEADER_BYTES + _MARK.size
_NO_DIGEST: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment file says of itself.

    Attributes:
        salt: 16 random bytes that every record's CRC covers.
        seq_first: A LOG segment holds no smaller sequence number; a COPY holds none as great.
        run: A random number of the engine's run that made it.
        previous: Number of the LOG segment before this one, 0 when there is none.
        previous_end: How many bytes of that one count; what lies behind was lost in a crash or never written.
    """

    number: int
    salt: bytes
    created_ms: int
    seq_first: int
    kind: int
    run: int
    previous: int = 0
    previous_end: int = 0

    def encode(self) -> bytes:
        """64 bytes; a file starts with two copies."""
        head = _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.kind,
            self.number,
            self.salt,
            self.created_ms,
            self.seq_first,
            self.run,
            self.previous,
            self.previous_end,
        )
        return head + _CRC.pack(segment.crc32c(head))

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader:
        """Read one copy.

        Raises:
            CorruptRecord: It fails its check.
            WrongFormat: It is sound, and of a newer version.
        """
        if len(data) < HEADER_BYTES:
            raise CorruptRecord(f"a segment header has {HEADER_BYTES} bytes, not {len(data)}")
        head = data[: _HEADER.size]
        (crc,) = _CRC.unpack_from(data, _HEADER.size)
        if head[:8] != _MAGIC or crc != segment.crc32c(head):
            raise CorruptRecord("the segment header fails its check")
        _, version, kind, number, salt, created_ms, seq_first, run, previous, previous_end = _HEADER.unpack(
            head
        )
        if version > FORMAT_VERSION:
            raise WrongFormat(
                f"segment {number} has format {version}, this version reads up to {FORMAT_VERSION}"
            )
        return cls(number, salt, created_ms, seq_first, kind, run, previous, previous_end)


class Footer(NamedTuple):
    """The last record of a sealed segment; written only when all before it is durable."""

    header: SegmentHeader
    records: int
    seq_min: int
    seq_max: int


def encode_footer(codec: segment.Codec, offset: int, seq_next: int, footer: Footer) -> bytes:
    """The footer record for ``offset``; ``seq_next`` is greater than every number in the segment."""
    value = footer.header.encode() + _FOOTER.pack(footer.records, footer.seq_min, footer.seq_max)
    return codec.encode(offset, seq_next, _NO_DIGEST, b"", value, 0, segment.FLAG_FOOTER)


def decode_footer(value: bytes) -> Footer:
    """Inverse of ``encode_footer`` for the record's value.

    Raises:
        CorruptRecord: The header copy inside fails its check.
    """
    if len(value) != FOOTER_VALUE_BYTES:
        raise CorruptRecord(f"a footer has {FOOTER_VALUE_BYTES} bytes, not {len(value)}")
    return Footer(SegmentHeader.decode(value[:HEADER_BYTES]), *_FOOTER.unpack_from(value, HEADER_BYTES))


def encode_mark(codec: segment.Codec, offset: int, seq_next: int, durable: int) -> bytes:
    """A record that says: a sync has succeeded, and this file is durable up to ``durable``."""
    return codec.encode(offset, seq_next, _NO_DIGEST, b"", _MARK.pack(durable), 0, segment.FLAG_MARK)


_ENTRY: Final = struct.Struct("<16sQIIIB3x")


class IndexEntry(NamedTuple):
    """One record as an index of its segment lists it; ``length`` is the whole record's."""

    digest: bytes
    seq: int
    offset: int
    length: int
    space: int
    flags: int


def unpack_entry(entries: bytes, number: int) -> IndexEntry:
    """Entry ``number`` of packed ones."""
    return IndexEntry._make(_ENTRY.unpack_from(entries, number * _ENTRY.size))


def entry_flags(entries: bytes) -> bytes:
    """The flags byte of every packed entry."""
    return entries[36 :: _ENTRY.size]


def segment_name(number: int) -> str:
    return f"{number:010d}{SEGMENT_SUFFIX}"


def index_name(number: int) -> str:
    return f"{number:010d}{INDEX_SUFFIX}"


def segment_number(name: str) -> int | None:
    """The number of a segment file's name, None for other names."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    return int(stem) if stem != name and len(stem) == 10 and stem.isascii() and stem.isdigit() else None


@dataclass(slots=True, eq=False)
class Segment:
    """One segment file that the engine knows.

    Attributes:
        handle: Its handle in the keydir.
        end: Where its records end, the footer not counted; what lies behind does not count.
        size: Bytes of the file.
        seq_min, seq_max: Bounds of the numbers in it; ``seq_min`` is 0 when parts could not be read.
        pinned: Bytes of removal and system records, which no key points to.
        sealed: Complete and durable up to ``end``.
        indexed: A keydir snapshot is beside it, or cannot be made.
        damaged: It has unreadable parts.
        holes: Nobody knows what some of them held, so it is never deleted, unless the loss was accepted.
        evacuated: What is readable of a damaged one was copied elsewhere.
        trusted: Its keys came from a snapshot, so a failing read is followed by a look at the data.
    """

    path: str
    header: SegmentHeader
    codec: segment.Codec
    handle: int
    end: int
    size: int
    seq_min: int = segment.SEQ_MAX
    seq_max: int = 0
    records: int = 0
    pinned: int = 0
    sealed: bool = False
    indexed: bool = False
    damaged: bool = False
    holes: bool = False
    accepted: bool = False
    evacuated: bool = False
    trusted: bool = False

    @property
    def number(self) -> int:
        return self.header.number

    def note(self, records: int, seq_min: int, seq_max: int) -> None:
        """Count records with numbers between the two."""
        self.records += records
        self.seq_min = min(self.seq_min, seq_min)
        self.seq_max = max(self.seq_max, seq_max)


@dataclass(slots=True)
class Reader:
    """Reads a file in spans that are always whole: what cannot be read is zeros, which no check passes.

    Attributes:
        failed: (offset, bytes) of blocks the disk would not give.
    """

    file: File
    failed: list[tuple[int, int]] = field(default_factory=list)

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = self.file.read_at(length, offset)
        except OSError:
            data = b"".join(
                self._block(at, min(_BLOCK_BYTES, offset + length - at))
                for at in range(offset, offset + length, _BLOCK_BYTES)
            )
        # A file that has become shorter under us reads as zeros from there on.
        return data if len(data) == length else data + bytes(length - len(data))

    def _block(self, offset: int, length: int) -> bytes:
        try:
            data = self.file.read_at(length, offset)
        except OSError:
            self.failed.append((offset, length))
            data = b""
        return data + bytes(length - len(data))

    def failed_within(self, start: int, stop: int) -> bool:
        """Whether the disk refused anything between the two."""
        return any(offset < stop and start < offset + length for offset, length in self.failed)


class Run(NamedTuple):
    """Records that follow one another without a gap: what the scan says, and the bytes it looked at."""

    scan: segment.Scan
    data: bytes
    base: int


class Gap(NamedTuple):
    """Bytes that hold no readable record header."""

    start: int
    stop: int


def walk(reader: Reader, codec: segment.Codec, start: int, end: int) -> Iterator[Run | Gap]:
    """All of ``start`` to ``end`` in order, as runs of records and the gaps between them.

    After a header that fails its check the next sound one is searched for: the salt and the offset in its CRC
    make a chance match, or one inside a user's value, out of the question (a mark and a CRC of 32 bits each).
    """
    at = start
    want = CHUNK_BYTES
    while at < end:
        data = reader.read(at, min(want, end - at))
        scan = codec.scan(data, at, end)
        want = CHUNK_BYTES
        if scan.stop > at:
            yield Run(scan, data, at)
            at = scan.stop
        if scan.reason == segment.MORE:
            want = max(CHUNK_BYTES, scan.need)
        elif scan.reason == segment.BROKEN:
            stop = _next_header(reader, codec, at + 1, end)
            yield Gap(at, stop)
            at = stop


def _next_header(reader: Reader, codec: segment.Codec, start: int, end: int) -> int:
    """Offset of the first sound record header from ``start`` on, else ``end``."""
    at = start
    while end - at >= segment.RECORD_HEADER_BYTES:
        data = reader.read(at, min(CHUNK_BYTES, end - at))
        found = codec.find(data, at, at)
        if found >= 0:
            return found
        # A header may begin in the last bytes of this piece.
        at += max(1, len(data) - segment.RECORD_HEADER_BYTES + 1)
    return end


def write_whole(file: File, data: bytes, offset: int) -> None:
    """Write all of ``data``, however many calls it takes. On OSError any part of it may be there."""
    taken = file.write_at(data, offset)
    while taken < len(data):
        more = file.write_at(data[taken:], offset + taken)
        if more <= 0:
            raise OSError(f"{file.path}: a write took nothing")
        taken += more
