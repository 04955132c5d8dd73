"""Bugs of logs, syncs and what is read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sadik.errors import CorruptRecord
from sadik.kernels import segment
from sadik.storage import recovery, snapshot
from sadik.storage.engine import ERROR, STORED, ReadBatch
from sadik.storage.log_engine import LogEngine
from sadik.storage.log_files import Log
from sadik.storage.recovery import Recovery
from sadik.storage.segment_file import Gap, Reader, Run, Segment, SegmentHeader, unpack_entry
from sadik.storage.service import SyncService
from tests.mutants.mutant import mutant, replaced


@mutant("Z13", caught_by=("S1", "S3", "D2", "C1"), profiles=("restarts",))
def the_higher_file_number_wins() -> Iterator[None]:
    """bitcask#148. Bitcask opens files in the order of their numbers, and the last one to have a key wins. A
    merge that runs beside a write puts its old value into a file with a higher number."""
    take = Recovery._take

    def by_file(self: Recovery, made: Segment, pieces: Any) -> None:
        if not hasattr(self.log, "met"):
            self.log.met = {}  # type: ignore[attr-defined]
        met: dict[bytes, int] = self.log.met  # type: ignore[attr-defined]
        for entries in pieces:
            kept = []
            for number in range(len(entries) // segment.INDEX_ENTRY_BYTES):
                entry = unpack_entry(entries, number)
                if (
                    entry.flags & segment.FLAG_SYSTEM
                    or met.setdefault(entry.digest, made.number) == made.number
                ):
                    at = number * segment.INDEX_ENTRY_BYTES
                    kept.append(entries[at : at + segment.INDEX_ENTRY_BYTES])
            take(self, made, [b"".join(kept)])

    with replaced(Recovery, "_take", by_file):
        yield


@mutant("Z14", caught_by=("S2", "S3", "S4", "D2", "X"), profiles=("restarts",), fast=True)
def snapshots_are_believed() -> Iterator[None]:
    """bitcask#15. A hint file, a keydir snapshot here, is taken as it is: nobody checks its CRC, its length
    or whether the places in it are in the data file."""

    def trusting(file: Any) -> snapshot.Snapshot:
        head = file.read_at(snapshot.HEAD_BYTES, 0)
        _, header, end, _, _ = snapshot._HEAD.unpack_from(head)
        records = (file.size() - snapshot.HEAD_BYTES) // segment.INDEX_ENTRY_BYTES
        return snapshot.Snapshot(file.path, SegmentHeader.decode(header), end, records)

    with replaced(snapshot, "_read", trusting):
        yield


@mutant("Z15", caught_by=("S2", "S4", "X", "C1", "C2"), profiles=("powercuts",))
def zeros_are_an_empty_key() -> Iterator[None]:
    """riak_kv#1120. Zeros at the end of a file, which a power cut leaves, decode as a record with an empty
    key; the node dies of it, is started again, and dies again."""
    walk = recovery.walk

    def trusting(reader: Reader, codec: segment.Codec, start: int, end: int) -> Iterator[Run | Gap]:
        for piece in walk(reader, codec, start, end):
            if isinstance(piece, Gap) and not any(reader.read(piece.start, piece.stop - piece.start)):
                raise CorruptRecord("a record with an empty key")
            yield piece

    with replaced(recovery, "walk", trusting):
        yield


@mutant("Z20", caught_by=("S1", "D2", "T1"), profiles=("powercuts", "crashes"))
def acknowledged_before_the_sync() -> Iterator[None]:
    """NATS#7564. In the mode that is advertised as durable, writes are acknowledged when the operating system
    has them; a power cut takes them from all replicas at once."""
    with replaced(SyncService, "pending", lambda self, ticket: False):
        yield


@mutant("Z21", caught_by=("S6", "S1", "D2", "T1"), profiles=("syncs", "disks"))
def a_failed_sync_is_swallowed() -> Iterator[None]:
    """fsyncgate. A sync fails, once; the kernel has marked the pages clean, so the next one succeeds. Whoever
    ignores the error, or tries again, acknowledges what is on no disk."""
    finished = SyncService._finished

    with replaced(SyncService, "_finished", lambda self, error: finished(self, None)):
        yield


@mutant("Z23", caught_by=("S4", "D5"), profiles=("rot",))
def rotten_values_are_read_and_spread() -> Iterator[None]:
    """CORDS (FAST 2017). A value whose checksum does not fit is read all the same; read repair and exchange
    then copy it over good ones."""
    read = LogEngine.read_batch

    def unchecked(self: LogEngine, count: int, digests: Any, *rest: Any) -> ReadBatch:
        batch = read(self, count, digests, *rest)
        if ERROR not in batch.status:
            return batch
        view, offsets = memoryview(digests).cast("B"), memoryview(batch.offsets).cast("q")
        parts: list[bytes] = []
        places = [0]
        for index, status in enumerate(batch.status):
            part: bytes | None = bytes(batch.data[offsets[index] : offsets[index + 1]])
            if status == ERROR:
                part = _raw(self, bytes(view[16 * index : 16 * index + 16]))
                if part is None:
                    part = b""
                else:
                    batch.status[index] = STORED
            parts.append(part or b"")
            places.append(places[-1] + len(parts[-1]))
        joined = b"".join(parts)
        packed = bytearray(b"".join(place.to_bytes(8, "little") for place in places))
        return ReadBatch(batch.taken, batch.status, bytearray(joined), packed)

    with replaced(LogEngine, "read_batch", unchecked):
        yield


def _raw(engine: LogEngine, digest: bytes) -> bytes | None:
    """The value of a record, whatever its checksum says; None where its header does not tell where it is."""
    found = engine._keydir.find(digest)
    made = None if found is None else engine._log.segments.get(found.segment)
    if found is None or made is None:
        return None
    file = engine._log.files.open(made.path)
    try:
        data = file.read_at(1 << 20, found.offset)
    finally:
        file.close()
    scan = made.codec.scan(data, found.offset, found.offset + len(data))
    if not scan.entries:
        return None
    length = unpack_entry(scan.entries, 0).length
    return data[length - int.from_bytes(data[12:16], "little") : length]


@mutant("Z24", caught_by=("S1", "D2", "T1"), profiles=("powercuts",))
def names_are_not_synced() -> Iterator[None]:
    """A new segment's bytes are synced and its directory is not: a power cut takes the whole file, with all
    that was acknowledged in it."""
    begin: Callable[[Log], Any] = Log.begin_round

    def files_only(self: Log) -> Any:
        self.directory_changed = False
        return begin(self)

    with replaced(Log, "begin_round", files_only):
        yield


MUTANTS = [value for value in globals().values() if type(value).__name__ == "Mutant"]
