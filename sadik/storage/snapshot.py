"""Keydir snapshots: an index of one sealed segment beside it, so that opening need not read the data.

A snapshot is derived, so anything odd about it (a missing or short file, a wrong check, another segment's
salt, a size that does not fit) means that the segment is read instead; nothing is decided from it that the
data contradicts. It lists every record of the segment in file order, not only the live ones: it never
changes, can be written in bounded steps, and tells which keys lay in a region that has become unreadable.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from sadik.env.files import File
from sadik.errors import CorruptRecord, WrongFormat
from sadik.kernels import segment
from sadik.storage.log_files import Log, close_quietly
from sadik.storage.segment_file import (
    DATA_START,
    HEADER_BYTES,
    TEMPORARY_SUFFIX,
    Gap,
    Reader,
    Run,
    Segment,
    SegmentHeader,
    entry_flags,
    index_name,
    walk,
    write_whole,
)

_MAGIC: Final = b"SADIKIDX"
# magic, the segment's header, size covered, records, CRC of the entries; then the CRC of this head.
_HEAD: Final = struct.Struct(f"<8s{HEADER_BYTES}sQQI")
_CRC: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _CRC.size
_READ_BYTES: Final = segment.INDEX_ENTRY_BYTES << 12


class Snapshot(NamedTuple):
    """What a sound snapshot says.

    Attributes:
        end: It covers the segment up to here; written only when all of that was durable.
    """

    path: str
    header: SegmentHeader
    end: int
    records: int

    def pieces(self, log: Log) -> Iterator[bytes]:
        """The entries in file order, some at a time: together they may be a third of the segment. Raises
        OSError.
        """
        file = log.files.open(self.path)
        try:
            yield from _pieces(file, self.records * segment.INDEX_ENTRY_BYTES)
        finally:
            close_quietly(file)


def load_snapshot(log: Log, number: int) -> Snapshot | None:
    """The snapshot of a segment, None when there is none that passes its own checks."""
    path = log.path(index_name(number))
    try:
        if not log.files.exists(path):
            return None
        file = log.files.open(path)
    except OSError:
        return None
    try:
        return _read(file)
    except (OSError, CorruptRecord, WrongFormat):
        return None
    finally:
        close_quietly(file)


def _read(file: File) -> Snapshot:
    head = file.read_at(HEAD_BYTES, 0)
    if len(head) != HEAD_BYTES or _CRC.unpack_from(head, _HEAD.size)[0] != segment.crc32c(head[: _HEAD.size]):
        raise CorruptRecord("the snapshot's head fails its check")
    magic, header, end, records, crc = _HEAD.unpack_from(head)
    length = records * segment.INDEX_ENTRY_BYTES
    if magic != _MAGIC or file.size() != HEAD_BYTES + length:
        raise CorruptRecord("the snapshot is cut or foreign")
    seen = 0
    for piece in _pieces(file, length):
        seen = segment.crc32c(piece, seen)
    if seen != crc:
        raise CorruptRecord("the snapshot's entries fail their check")
    return Snapshot(file.path, SegmentHeader.decode(header), end, records)


def _pieces(file: File, length: int) -> Iterator[bytes]:
    for at in range(0, length, _READ_BYTES):
        piece = file.read_at(min(_READ_BYTES, length - at), HEAD_BYTES + at)
        if len(piece) != min(_READ_BYTES, length - at):
            raise OSError(f"{file.path} has become shorter")
        yield piece


def write_snapshot(log: Log, source: Segment) -> Generator[int, None, None]:
    """Write the snapshot of a sealed segment, step by step; yields bytes moved, and 0 while it waits for a
    sync round.

    A segment that turns out to be damaged gets none: what is wrong with it must be found again at each open.
    """
    temporary = log.path(index_name(source.number) + TEMPORARY_SUFFIX)
    file: File | None = None
    data: File | None = None
    try:
        data = log.files.open(source.path)
        reader = Reader(data)
        # Left behind by an attempt that the disk refused.
        if log.files.exists(temporary):
            log.files.remove(temporary)
        file = log.files.open(temporary, create=True)
        log.directory_changed = True
        at = HEAD_BYTES
        crc = 0
        for piece in walk(reader, source.codec, DATA_START, source.end):
            if not _sound(piece, reader):
                source.damaged = True
                return
            assert isinstance(piece, Run), "gaps are not sound"
            entries = piece.scan.entries
            write_whole(file, entries, at)
            crc = segment.crc32c(entries, crc)
            at += len(entries)
            yield len(piece.data)
        records = (at - HEAD_BYTES) // segment.INDEX_ENTRY_BYTES
        head = _HEAD.pack(_MAGIC, source.header.encode(), source.end, records, crc)
        write_whole(file, head + _CRC.pack(segment.crc32c(head)), 0)
        log.loose[temporary] = file
        synced = log.next_round()
        while log.finished_rounds < synced:
            yield 0
        log.files.rename(temporary, log.path(index_name(source.number)))
        log.directory_changed = True
    except OSError:
        # No room, or a disk that refuses: without a snapshot this segment is read at the next open.
        with suppress(OSError):
            log.files.remove(temporary)
        return
    finally:
        source.indexed = True
        if data is not None:
            close_quietly(data)
        if file is not None:
            log.loose.pop(temporary, None)
            log.close_later(file)


def _sound(piece: Run | Gap, reader: Reader) -> bool:
    if isinstance(piece, Gap) or reader.failed:
        return False
    return not any(flags & segment.FLAG_UNREADABLE for flags in set(entry_flags(piece.scan.entries)))
