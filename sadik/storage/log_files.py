"""The log engine's directory: its segments, who appends to them, and what of it is not durable yet.

``Log`` is the state that the engine, recovery and compaction share. ``SegmentWriter`` appends to one new
segment; nobody ever appends to a segment of an earlier run.

Sync rounds: a round makes everything handed over before it began durable. Whoever must not act before its
data is durable notes ``Log.next_round()`` and waits until ``Log.finished_rounds`` has reached it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.env.files import File, Files
from sadik.errors import InternalError, StorageError, StorageFailed, StorageFull
from sadik.kernels import keydir, segment
from sadik.kernels.buffers import Buffer
from sadik.storage.segment_file import (
    DATA_START,
    FOOTER_BYTES,
    LOG,
    MARK_BYTES,
    SEGMENT_BYTES_LIMIT,
    Footer,
    Segment,
    SegmentHeader,
    encode_footer,
    encode_mark,
    index_name,
    segment_name,
    write_whole,
)

DAMAGES_KEPT: Final = 1000
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Damage(NamedTuple):
    """Something stored that could not be read."""

    segment: int
    offset: int
    bytes: int
    reason: str


@dataclass(slots=True, eq=False)
class SystemValue:
    """Where the newest record of a name of the system table is; ``value`` is None when it is unreadable,
    empty when forgotten.
    """

    seq: int
    handle: int
    offset: int
    length: int
    name: bytes
    value: bytes | None


class Log:
    """One directory of segments.

    Attributes:
        segments: By keydir handle.
        writers: Of all segments that are still written or sealed. Every sync round covers all of them, so a
            later segment with a mark or footer proves that the headers of all earlier ones are durable.
        sealing: Those of them that get no more records.
        loose: Other files to sync.
        losses: How often something was found unreadable or given up.
    """

    def __init__(
        self, directory: str, *, files: Files, clock: Clock, entropy: Entropy, index: keydir.Keydir
    ) -> None:
        self.directory = directory
        self.files = files
        self.clock = clock
        self.entropy = entropy
        self.index = index
        self.segments: dict[int, Segment] = {}
        self.system: dict[bytes, SystemValue] = {}
        self.run = int.from_bytes(entropy.random_bytes(4), "little")
        self.number_next = 1
        self.seq_next = 1
        self.foreign = 0
        self.damages: list[Damage] = []
        self.losses = 0
        self.corrupt_records = 0
        self.corrupt_bytes = 0
        self.torn_bytes = 0
        self.writers: list[SegmentWriter] = []
        self.sealing: list[SegmentWriter] = []
        self.loose: dict[str, File] = {}
        self.directory_changed = False
        self.begun_rounds = 0
        self.finished_rounds = 0
        self._retired_files: list[File] = []
        self._covered: list[SegmentWriter] = []

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def free_bytes(self, unknown: int) -> int:
        """Bytes that may still be written; ``unknown`` where the file system does not say."""
        try:
            return self.files.free_bytes(self.directory)
        except OSError:
            return unknown

    def damage(self, found: Damage, *, records: int = 1) -> None:
        """Count and remember something unreadable; only the first ones are kept in detail."""
        self.losses += 1
        self.corrupt_records += records
        self.corrupt_bytes += found.bytes
        if len(self.damages) < DAMAGES_KEPT:
            self.damages.append(found)

    # Sync rounds

    def next_round(self) -> int:
        """The first round that begins after now."""
        return self.begun_rounds + 1

    def begin_round(self) -> Callable[[], None] | None:
        """What must run to make everything handed over durable; None when there is nothing."""
        self._covered = [writer for writer in self.writers if writer.tail != writer.synced]
        if not self._covered and not self.loose and not self.directory_changed:
            return None
        for writer in self._covered:
            writer.pending = writer.tail
        targets = [*(writer.file for writer in self._covered), *self.loose.values()]
        directory = self.directory if self.directory_changed else None
        self.loose.clear()
        self.directory_changed = False
        self.begun_rounds += 1
        files = self.files

        def run() -> None:
            for target in targets:
                target.sync()
            # After the data: a name that leads to nothing must not be durable before what it names.
            if directory is not None:
                files.sync_directory(directory)

        return run

    def finish_round(self) -> list[SegmentWriter]:
        """The round that began last has succeeded; returns the writers it covered."""
        self.finished_rounds = self.begun_rounds
        for writer in self._covered:
            writer.synced = writer.pending
        self.close_files()
        return self._covered

    def close_later(self, file: File) -> None:
        """Close a file once no sync can be using it."""
        if self.begun_rounds == self.finished_rounds:
            close_quietly(file)
        else:
            self._retired_files.append(file)

    def close_files(self) -> None:
        for file in self._retired_files:
            close_quietly(file)
        self._retired_files.clear()

    # Segments

    def attach(self, file: File, header: SegmentHeader, *, room: int, size: int) -> Segment:
        """Map a segment and make it known to the keydir."""
        view = file.map(max(room, 1))
        handle = self.index.attach(view, header.salt, size)
        made = Segment(
            path=file.path,
            header=header,
            codec=segment.Codec(header.salt),
            handle=handle,
            end=size,
            size=size,
        )
        self.segments[handle] = made
        return made

    def delete(self, victim: Segment) -> None:
        """Remove a segment that no key points to, its snapshot first.

        Raises:
            OSError: It is still there.
        """
        snapshot = self.path(index_name(victim.number))
        if self.files.exists(snapshot):
            self.files.remove(snapshot)
            self.directory_changed = True
        self.files.remove(victim.path)
        self.directory_changed = True
        self.index.detach(victim.handle)
        del self.segments[victim.handle]

    def seal(self, writer: SegmentWriter) -> None:
        """A segment gets no more records: its footer comes when all of it is durable."""
        self.sealing.append(writer)
        self.finish_sealing()

    def finish_sealing(self) -> None:
        """Give durable segments their footer, and let those go whose footer is durable too."""
        for writer in list(self.sealing):
            if writer.synced != writer.tail:
                continue
            if not writer.footed:
                writer.write_footer()
                if writer.synced != writer.tail:
                    continue
            writer.segment.sealed = True
            self.sealing.remove(writer)
            self.writers.remove(writer)
            self.close_later(writer.file)

    def last_log(self) -> tuple[int, int]:
        """Number and end of the newest LOG segment, zeros when there is none."""
        newest = max((s for s in self.segments.values() if s.header.kind == LOG), key=number_of, default=None)
        return (newest.number, newest.end) if newest is not None else (0, 0)


def number_of(found: Segment) -> int:
    return found.number


def close_quietly(file: File) -> None:
    """Close a file whose content no longer depends on it."""
    with suppress(OSError):
        file.close()


class SegmentWriter:
    """Appends to one segment that it created.

    Attributes:
        tail: Where the next record goes.
        synced: Everything below is durable.
        limit: Records that end above need a closer look first (no room, or the disk may be full).
        mark_due: A sync has finished since the last write.
        write_at: ``File.write_at`` of this file.
    """

    __slots__ = (
        "codec",
        "file",
        "footed",
        "handle",
        "limit",
        "log",
        "mark_due",
        "pending",
        "room",
        "segment",
        "synced",
        "tail",
        "write_at",
    )

    def __init__(self, log: Log, file: File, made: Segment, room: int) -> None:
        self.log = log
        self.file = file
        self.segment = made
        self.handle = made.handle
        self.codec = made.codec
        self.write_at = file.write_at
        self.room = room
        self.tail = DATA_START
        self.synced = 0
        self.pending = 0
        self.limit = -1
        self.mark_due = False
        self.footed = False

    @classmethod
    def create(cls, log: Log, *, kind: int, room: int) -> SegmentWriter:
        """Make a new segment file.

        Raises:
            StorageFull: No room for it. StorageError: It cannot be made. Nothing is left behind, as far as
                the disk allows.
        """
        number = log.number_next
        previous, previous_end = log.last_log() if kind == LOG else (0, 0)
        header = SegmentHeader(
            number,
            log.entropy.random_bytes(16),
            log.clock.wall_ms(),
            log.seq_next,
            kind,
            log.run,
            previous,
            previous_end,
        )
        path = log.path(segment_name(number))
        file: File | None = None
        try:
            file = log.files.open(path, create=True)
            # The number is used up, even when the file cannot be removed again below.
            log.number_next = number + 1
            write_whole(file, header.encode() * 2, 0)
            made = log.attach(file, header, room=room, size=DATA_START)
        except (OSError, ValueError) as error:
            if file is not None:
                close_quietly(file)
                with suppress(OSError):
                    log.files.remove(path)
                log.directory_changed = True
            if isinstance(error, ValueError) or error.errno in NO_ROOM:
                raise StorageFull(f"no room for a new segment: {error}") from error
            raise StorageError(f"cannot make a new segment: {error}") from error
        log.directory_changed = True
        writer = cls(log, file, made, room)
        log.writers.append(writer)
        return writer

    def append(self, data: bytes) -> None:
        """Write ``data`` at the tail, whole or not at all. The tail is moved by the caller, when the index
        knows.

        Raises:
            StorageFull, StorageError: Rolled back; the next try may succeed.
            StorageFailed: The roll-back failed: part of it may be there.
        """
        try:
            write_whole(self.file, data, self.tail)
        except OSError as error:
            raise self.roll_back(error) from error

    def finish(self, data: bytes, taken: int) -> None:
        """Write the rest of ``data`` after a short write at the tail. Raises OSError."""
        write_whole(self.file, data[taken:], self.tail + taken)

    def roll_back(self, error: OSError) -> StorageError:
        """Cut a failed write off the file; returns what to raise for it."""
        try:
            self.file.truncate(self.tail)
        except OSError as second:
            return StorageFailed(
                f"{self.file.path}: {error}, and the roll-back failed: {second}", maybe_applied=True
            )
        if error.errno in NO_ROOM:
            return StorageFull(f"{self.file.path}: {error}")
        return StorageError(f"{self.file.path}: {error}")

    def write_mark(self) -> None:
        """Note in the file how far it is durable. Best effort: a mark that is missing makes the next open
        copy more.
        """
        self.mark_due = False
        if self.tail + MARK_BYTES > SEGMENT_BYTES_LIMIT:
            return
        mark = encode_mark(self.codec, self.tail, self.log.seq_next, self.synced)
        try:
            self.append(mark)
        except StorageFailed:
            raise
        except StorageError:
            return
        self.tail += MARK_BYTES

    def write_footer(self) -> None:
        """Close the segment's records; call when all of it is durable. Best effort, like a mark."""
        self.footed = True
        made = self.segment
        if self.tail + FOOTER_BYTES > SEGMENT_BYTES_LIMIT:
            return
        footer = Footer(made.header, made.records, made.seq_min, made.seq_max)
        data = encode_footer(self.codec, self.tail, self.log.seq_next, footer)
        with suppress(StorageError):
            self.append(data)
            self.tail += FOOTER_BYTES
            made.size = self.tail


class NoSegment:
    """Stands for the active segment while there is none: nothing fits, so every write takes the slow path
    first.
    """

    def __init__(self) -> None:
        self.codec = segment.Codec(bytes(16))
        self.tail = DATA_START
        self.limit = -1
        self.mark_due = False
        self.handle = -1

    def write_at(self, data: Buffer, offset: int) -> int:
        raise InternalError("there is no active segment")

    def finish(self, data: bytes, taken: int) -> None:
        raise InternalError("there is no active segment")


class ClosedIndex:
    """The index of a closed engine."""

    def __getattr__(self, name: str) -> object:
        raise StorageFailed("the engine is closed")
