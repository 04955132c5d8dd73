"""The log engine: one append-only log of segments, an index in memory, reads through memory maps.

A write is one encode, one ``pwrite`` at the known end, one index insert; a read is one native call that looks
up, checks and copies. The disk is not asked for anything else on the data path. ``docs/segment-format.md``
gives the bytes, ``recovery.py`` what an open believes, ``compaction.py`` how garbage goes.

Sequence numbers are the tickets. Every record has one, greater than all before it; whoever has the greater
one is the newer.

Source: Bitcask (log of records, index of all keys in memory), with one log for all partitions, numbers
instead of file order, and checks that cover place and segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, cast

from sadik.env.clock import Clock, SystemClock
from sadik.env.entropy import Entropy, SystemEntropy
from sadik.env.files import Files, Lock, SystemFiles
from sadik.errors import (
    CorruptRecord,
    InternalError,
    InvalidRequest,
    StorageError,
    StorageFailed,
    StorageFull,
)
from sadik.kernels import keydir, segment
from sadik.kernels.buffers import Buffer
from sadik.storage.engine import ERROR, VALUE_BYTES_MAX, Entry, ReadBatch, Statistics, SyncRequest
from sadik.storage.inspection import inspect
from sadik.storage.log_directory import prepare
from sadik.storage.log_files import (
    ClosedIndex,
    Damage,
    Log,
    NoSegment,
    SegmentWriter,
    SystemValue,
)
from sadik.storage.maintenance import Maintenance
from sadik.storage.recovery import ACCEPTED_LOSS, Recovery, Tail, system_digest
from sadik.storage.segment_file import DATA_START, LOG, SEGMENT_BYTES_LIMIT

SEGMENT_BYTES_MAX: Final = 128 << 20
SYSTEM_VALUE_BYTES_MAX: Final = 1 << 20
_RESERVE_SHARE: Final = 16
# Makes a named tuple of a tuple without a call of Python code.
_new_tuple: Final = tuple.__new__


class LogEngine:
    """The default engine; see ``Engine`` for what its methods promise. Made by ``open``.

    Attributes:
        segment_bytes_max: A segment is left for a new one before it grows beyond this; one larger batch makes
            one larger file.
        reserve_bytes: Room on the disk that writes leave, so that compaction can free more; removals may use
            it.
    """

    def __init__(
        self, log: Log, lock: Lock, *, tails: list[Tail], segment_bytes_max: int, reserve_bytes: int
    ) -> None:
        self._log = log
        self._lock = lock
        self._keydir = log.index
        self._read = log.index.read
        self._index = log.index.put
        self._none = NoSegment()
        self._writer: SegmentWriter | NoSegment = self._none
        self._request: SyncRequest | None = None
        self._durable = 0
        self._failed: str | None = None
        self._sync_failed = False
        self._closed = False
        self.segment_bytes_max = segment_bytes_max
        self.reserve_bytes = reserve_bytes
        self._maintenance = Maintenance(log, segment_bytes_max=segment_bytes_max, tails=tails)

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        files: Files | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        partitions: int = 1024,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        reserve_bytes: int | None = None,
    ) -> LogEngine:
        """Open a directory, making it when it is not there. Everything readable is durable afterwards.

        Args:
            partitions: Tables of the index, a power of two; may differ from the last time.
            segment_bytes_max: From 4096, below 4 GiB.
            reserve_bytes: None takes a sixteenth of what is free, at most one segment.
        Raises:
            DirectoryLocked: Another process has it open.
            WrongFormat: It is of a newer version, or not a log; left untouched.
            StorageError: It cannot be read.
            StorageFailed: It cannot be synced.
        """
        if not 4096 <= segment_bytes_max < SEGMENT_BYTES_LIMIT:
            raise InvalidRequest(f"segment_bytes_max must be from 4096 to 2**32 - 1, not {segment_bytes_max}")
        files = files if files is not None else SystemFiles()
        lock = prepare(files, directory)
        try:
            log = Log(
                directory,
                files=files,
                clock=clock if clock is not None else SystemClock(),
                entropy=entropy if entropy is not None else SystemEntropy(),
                index=keydir.Keydir(partitions),
            )
            recovery = Recovery(log)
            recovery.run()
            if reserve_bytes is None:
                reserve_bytes = min(segment_bytes_max, log.free_bytes(1 << 62) // _RESERVE_SHARE)
            engine = cls(
                log,
                lock,
                tails=recovery.tails,
                segment_bytes_max=segment_bytes_max,
                reserve_bytes=reserve_bytes,
            )
            engine._start()
        except BaseException:
            lock.release()
            raise
        return engine

    def _start(self) -> None:
        """Copy what is readable but not known to be durable, and make it so."""
        log = self._log
        for _ in self._maintenance.copy_tails():
            pass
        self._durable = log.seq_next - 1
        try:
            self._maintenance.sync_tails()
            self.sync()
            # The footer of the copy, and the end of the old segment in its successor.
            self.sync()
        except StorageFailed:
            self._close_files()
            raise

    # Reading

    def get(self, digest: Buffer) -> bytes | None:
        try:
            return self._read(digest)
        except CorruptRecord:
            return self._read_again(digest)

    def get_many(self, digests: Sequence[bytes]) -> list[bytes | None]:
        read = self._keydir.read_many
        try:
            return read(digests)
        except CorruptRecord:
            return [self.get(digest) for digest in digests]

    def read_batch(self, count: int, digests: Buffer, bytes_max: int = VALUE_BYTES_MAX) -> ReadBatch:
        batch = _new_tuple(ReadBatch, self._keydir.read_batch(count, digests, bytes_max))
        if ERROR in batch.status and self._recheck(batch, digests):
            return _new_tuple(ReadBatch, self._keydir.read_batch(count, digests, bytes_max))
        return batch

    def scan(self, after: bytes, stop: bytes, count: int, bytes_max: int = VALUE_BYTES_MAX) -> list[Entry]:
        found = [Entry._make(row) for row in self._keydir.scan(after, stop, count, bytes_max)]
        for entry in found:
            if entry.value is None and inspect(self._log, entry.digest):
                return [Entry._make(row) for row in self._keydir.scan(after, stop, count, bytes_max)]
        return found

    def count(self, space: int) -> int:
        return self._keydir.count(space)

    def _recheck(self, batch: ReadBatch, digests: Buffer) -> bool:
        """Look closer at the failed reads of a batch; True when one of them can be read now."""
        view = memoryview(digests).cast("B")
        better = False
        for number, status in enumerate(batch.status):
            if status == ERROR:
                better |= inspect(self._log, bytes(view[16 * number : 16 * number + 16]))
        return better

    def _read_again(self, digest: Buffer) -> bytes | None:
        if inspect(self._log, bytes(digest)):
            return self._read(digest)
        found = self._keydir.find(digest)
        if found is None or found.seq < self._keydir.doubt_below:
            raise CorruptRecord("a newer record of this key may lie in an unreadable region")
        number = self._log.segments[found.segment].number
        raise CorruptRecord(f"segment {number}, offset {found.offset}: the record is unreadable")

    # Writing

    def put(self, digest: Buffer, name: Buffer, value: Buffer, space: int = 0, flags: int = 0) -> int:
        if flags & ~segment.FLAG_DEAD:
            raise InvalidRequest(f"flags {flags} are not the caller's")
        seq = self._log.seq_next
        return self._append(
            *self._encode(
                lambda writer: writer.codec.encode(writer.tail, seq, digest, name, value, space, flags)
            )
        )

    def put_many(self, items: Sequence[tuple[bytes, bytes, bytes]], space: int = 0) -> int:
        seq = self._log.seq_next
        return self._append(
            *self._encode(lambda writer: writer.codec.encode_many(writer.tail, seq, items, space))
        )

    def write_batch(
        self,
        count: int,
        digests: Buffer,
        names: Buffer,
        name_starts: Buffer,
        name_lengths: Buffer,
        values: Buffer,
        value_offsets: Buffer,
        spaces: Buffer,
        flags: Buffer,
    ) -> int:
        arrays = (count, digests, names, name_starts, name_lengths, values, value_offsets, spaces, flags)
        writer = self._writer
        if writer.mark_due:
            self._mark()
        tail = writer.tail
        seq = self._log.seq_next
        try:
            records = writer.codec.encode_batch(tail, seq, *arrays)
            if tail + len(records) > writer.limit:
                raise OverflowError
        except OverflowError:
            writer, records = self._encode_slowly(
                lambda writer: writer.codec.encode_batch(writer.tail, seq, *arrays)
            )
        return self._append(writer, records)

    def remove(self, digest: Buffer) -> int:
        log = self._log
        if self._keydir.find(digest) is None and not self._keydir.doubt_below:
            return log.seq_next - 1
        seq = log.seq_next
        writer, record = self._encode(
            lambda writer: writer.codec.encode(writer.tail, seq, digest, b"", b"", 0, segment.FLAG_REMOVED),
            urgent=True,
        )
        ticket = self._append(writer, record)
        writer.segment.pinned += segment.RECORD_HEADER_BYTES
        return ticket

    def _encode(
        self, encode: Callable[[SegmentWriter | NoSegment], bytes], *, urgent: bool = False
    ) -> tuple[SegmentWriter, bytes]:
        """Records, and the segment at whose tail they fit."""
        writer = self._writer
        if writer.mark_due:
            self._mark()
        if isinstance(writer, SegmentWriter):
            with suppress(OverflowError):
                records = encode(writer)
                if writer.tail + len(records) <= writer.limit:
                    return writer, records
        return self._encode_slowly(encode, urgent=urgent)

    def _append(self, writer: SegmentWriter | NoSegment, records: bytes) -> int:
        """Write records at the tail, all or none, and index them; returns the last one's ticket."""
        log = self._log
        if not records:
            return log.seq_next - 1
        tail = writer.tail
        self._write(writer, tail, records)
        try:
            written = self._index(writer.handle, tail, records)
        except BaseException:
            self._fail("the index could not take records that are written")
            raise
        writer.tail = tail + len(records)
        log.seq_next += written
        return log.seq_next - 1

    def _write(self, writer: SegmentWriter | NoSegment, tail: int, records: bytes) -> None:
        """Write records at the tail, all or none; it is not moved yet."""
        try:
            taken = writer.write_at(records, tail)
            if taken != len(records):
                writer.finish(records, taken)
        except OSError as error:
            raise self._refused(writer, error) from error

    def _encode_slowly(
        self, encode: Callable[[SegmentWriter | NoSegment], bytes], *, urgent: bool = False
    ) -> tuple[SegmentWriter, bytes]:
        """Whatever keeps a write from the fast path: no segment yet, a full one, a disk that may be full."""
        self._check_open()
        if self._failed is not None:
            raise StorageFailed(f"writes are refused until the engine is opened again: {self._failed}")
        # At the start of a segment everything fits that fits at all: this gives the length, and refuses what
        # cannot be.
        try:
            length = len(encode(self._none))
        except OverflowError as error:
            raise InvalidRequest(f"a number is too large, or a batch reaches 4 GiB: {error}") from error
        room = max(self.segment_bytes_max, DATA_START + length)
        free = None if urgent else self._check_free(length)
        writer = self._writer
        if isinstance(writer, NoSegment) or writer.tail + length > writer.room:
            if isinstance(writer, SegmentWriter):
                self._leave(writer)
            writer = self._writer = SegmentWriter.create(self._log, kind=LOG, room=room)
        if free is not None:
            self._set_limit(writer, writer.tail + length, free - length)
        return writer, encode(writer)

    def _mark(self) -> None:
        """The active segment's first write after a sync: note in it how far it is durable, and look at the
        disk.
        """
        writer = self._writer
        assert isinstance(writer, SegmentWriter), "only segments have marks"
        try:
            writer.write_mark()
        except StorageFailed as error:
            self._fail(str(error))
            raise
        self._set_limit(writer, writer.tail, self._log.free_bytes(1 << 62))

    def _set_limit(self, writer: SegmentWriter, tail: int, free: int) -> None:
        # Asking what is free costs a system call: not again before an eighth of what may be used is.
        writer.limit = min(writer.room, tail + max(0, free - self.reserve_bytes) // 8)

    def _check_free(self, length: int) -> int:
        free = self._log.free_bytes(1 << 62)
        if free - length < self.reserve_bytes:
            raise StorageFull(
                f"{self._log.directory}: {free} bytes are free, {self.reserve_bytes} are kept for compaction"
            )
        return free

    def _refused(self, writer: SegmentWriter | NoSegment, error: OSError) -> StorageError:
        """Undo a failed write; returns what to raise."""
        assert isinstance(writer, SegmentWriter), "nothing is written without a segment"
        refused = writer.roll_back(error)
        if isinstance(refused, StorageFailed):
            self._fail(str(refused))
        return refused

    def _fail(self, reason: str) -> None:
        """Refuse writes from now on."""
        if self._failed is None:
            self._failed = reason
        self._none.limit = -1
        if isinstance(self._writer, SegmentWriter):
            self._writer.limit = -1
            self._writer.mark_due = False

    # System table

    def system_put(self, name: bytes, value: bytes) -> int:
        if len(value) > SYSTEM_VALUE_BYTES_MAX:
            raise InvalidRequest(
                f"a system value has at most {SYSTEM_VALUE_BYTES_MAX} bytes, not {len(value)}"
            )
        log = self._log
        digest = system_digest(name)
        seq = log.seq_next
        flags = segment.FLAG_SYSTEM if value else segment.FLAG_SYSTEM | segment.FLAG_REMOVED
        writer, record = self._encode(
            lambda writer: writer.codec.encode(writer.tail, seq, digest, name, value, 0, flags), urgent=True
        )
        self._write(writer, writer.tail, record)
        log.system[digest] = SystemValue(seq, writer.handle, writer.tail, len(record), name, value)
        writer.segment.pinned += len(record)
        writer.tail += len(record)
        log.seq_next = seq + 1
        return seq

    def system_items(self) -> Iterator[tuple[bytes, bytes]]:
        doubt = self._keydir.doubt_below
        if any(found.value is None or found.seq < doubt for found in self._log.system.values()):
            raise CorruptRecord("a system value is unreadable, or may be older than one that is")
        items = [(found.name, found.value) for found in self._log.system.values() if found.value]
        return iter(sorted((name, value) for name, value in items if name != ACCEPTED_LOSS))

    # Spaces

    def spaces(self) -> list[int]:
        return self._keydir.spaces_known()

    def declare_spaces(self, live: Sequence[int]) -> None:
        wanted = set(live)
        for space in self._keydir.spaces_known():
            if space not in wanted:
                self._keydir.retire(space)

    def retire(self, space: int) -> None:
        self._keydir.retire(space)

    # Loss

    @property
    def losses(self) -> int:
        return self._log.losses

    @property
    def damages(self) -> list[Damage]:
        """The first unreadable places found since the open, in the order they were found."""
        return list(self._log.damages)

    def accept_loss(self) -> int:
        """Give up what unreadable regions may have held: keys in doubt answer with what is readable again;
        returns the ticket.

        For a node whose replicas have brought it up to date, or whose operator has decided. Remembered: the
            next open
        does not doubt again. Keys that are known to be unreadable stay errors until they are written.
        """
        log = self._log
        ticket = self.system_put(ACCEPTED_LOSS, log.seq_next.to_bytes(8, "little"))
        if self._keydir.doubt_below:
            log.losses += 1
        self._keydir.doubt_below = 0
        for made in log.segments.values():
            if made.holes:
                made.holes = False
                made.accepted = True
        return ticket

    # Durability

    @property
    def durable_ticket(self) -> int:
        return self._durable

    def sync_begin(self) -> SyncRequest | None:
        self._check_open()
        return None if self._sync_failed else self._begin()

    def _begin(self) -> SyncRequest | None:
        if self._request is not None:
            raise InternalError("a sync is already out")
        run = self._log.begin_round()
        self._request = None if run is None else SyncRequest(self._log.seq_next - 1, run)
        return self._request

    def sync_done(self, request: SyncRequest, error: OSError | None) -> None:
        if request is not self._request:
            raise InternalError("this sync was not begun, or is done")
        self._request = None
        if error is not None:
            self._sync_failed = True
            self._fail(f"a sync failed: {error}")
            return
        self._durable = max(self._durable, request.ticket)
        covered = self._log.finish_round()
        if self._failed is None:
            active = self._writer
            if isinstance(active, SegmentWriter) and active in covered:
                active.mark_due = True
            self._log.finish_sealing()

    def sync(self) -> None:
        self._check_open()
        if self._sync_failed:
            raise StorageFailed(f"writes are refused until the engine is opened again: {self._failed}")
        request = self._begin()
        if request is None:
            return
        try:
            request.run()
        except OSError as error:
            self.sync_done(request, error)
            raise StorageFailed(f"a sync failed: {error}", maybe_applied=True) from error
        self.sync_done(request, None)

    def _leave(self, writer: SegmentWriter) -> None:
        """The active segment is full, or the engine closes: it gets no more records."""
        made = writer.segment
        made.end = made.size = writer.tail
        # A LOG segment has every number from its first on, each in one record.
        records = self._log.seq_next - made.header.seq_first
        if records:
            made.note(records, made.header.seq_first, self._log.seq_next - 1)
        self._writer = self._none
        self._log.seal(writer)

    # Background work

    def maintain(self, bytes_max: int) -> bool:
        self._check_open()
        if self._failed is not None:
            return False
        try:
            return self._maintenance.step(bytes_max)
        except StorageFailed as error:
            self._fail(str(error))
            return False

    @property
    def wants_sync(self) -> bool:
        # A segment that is full is compacted only when it is sealed, and sealing takes syncs.
        return self._failed is None and (self._maintenance.waits or bool(self._log.sealing))

    # Figures and the end

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailed("the engine is closed")

    def statistics(self) -> Statistics:
        self._check_open()
        log = self._log
        for writer in log.writers:
            writer.segment.size = writer.tail
        figures = [log.index.live(handle) for handle in log.segments]
        return Statistics(
            engine="log",
            keys=len(log.index),
            stored_bytes=sum(made.size for made in log.segments.values()),
            live_bytes=sum(live for _, live, _ in figures),
            index_bytes=log.index.bytes_used(),
            segments=len(log.segments),
            corrupt_records=log.corrupt_records,
            corrupt_bytes=log.corrupt_bytes,
            quarantined_segments=sum(made.damaged for made in log.segments.values()) + log.foreign,
            writable=self._failed is None,
            details={
                "torn_bytes": log.torn_bytes,
                "compacted_bytes": self._maintenance.compactor.bytes_moved,
                "compacted_segments": self._maintenance.compactor.segments_deleted,
                "doubt_below_ticket": log.index.doubt_below,
                "failure": self._failed or "",
            },
        )

    def close(self) -> None:
        if self._closed:
            return
        self._maintenance.stop()
        failure: StorageFailed | None = None
        if self._request is not None:
            # It may fail, which nobody would hear of, and a second sync would not fail again: so nothing is
            # vouched for, and the next open copies what it finds.
            self._sync_failed = True
            self._request = None
            failure = StorageFailed("closed while a sync was out: its outcome is unknown", maybe_applied=True)
        if isinstance(self._writer, SegmentWriter):
            self._leave(self._writer)
        try:
            if not self._sync_failed:
                self.sync()
                self.sync()
                self._maintenance.write_snapshots(self.sync)
        except StorageFailed as error:
            failure = error
        self._close_files()
        if failure is not None:
            raise failure

    def _close_files(self) -> None:
        log = self._log
        for writer in log.writers:
            log.close_later(writer.file)
        log.close_files()
        self._closed = True
        self._fail("the engine is closed")
        self._writer = self._none
        log.sealing.clear()
        log.writers.clear()
        # Reads end too. The maps go with the index.
        self._read = _closed_read
        self._keydir = log.index = cast(keydir.Keydir, ClosedIndex())
        log.segments.clear()
        self._lock.release()


def _closed_read(digest: Buffer) -> bytes | None:
    raise StorageFailed("the engine is closed")
