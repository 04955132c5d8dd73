"""The log engine's background work, one bounded step at a time: copies of unproven tails, compaction,
snapshots, and the index of retired spaces, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from sadik.env.files import File
from sadik.errors import StorageError, StorageFailed
from sadik.storage.compaction import WAIT, Compactor, CopyTarget
from sadik.storage.log_files import NO_ROOM, Log, close_quietly, number_of
from sadik.storage.recovery import Tail
from sadik.storage.segment_file import DATA_START, Reader, Run, Segment, walk, write_whole
from sadik.storage.snapshot import write_snapshot

_CLOSE_SNAPSHOT_BYTES: Final = 1 << 30
_SWEEP_TABLES: Final = 64
_SLOTS_PER_STEP: Final = 1 << 15


class Maintenance:
    """What is to be done, and the job that is being done.

    Attributes:
        tails: What is readable in old segments and not known to be durable; copied at the open, or here when
            there was no room.
        tails_durable: They are so where they are, so that what they replace may go.
        waits: The job cannot go on before a sync.
    """

    def __init__(self, log: Log, *, segment_bytes_max: int, tails: list[Tail]) -> None:
        self._log = log
        self._job: Generator[int, None, None] | None = None
        self._segment_bytes_max = segment_bytes_max
        self._tails_not_before = 0
        self.compactor = Compactor(log, segment_bytes_max=segment_bytes_max)
        self.tails = tails
        self.tails_durable = False
        self.waits = False

    def step(self, bytes_max: int) -> bool:
        """Move about ``bytes_max`` bytes; True when more can be done at once.

        Raises:
            StorageFailed: A write could not be rolled back.
        """
        moved = 0
        while moved < bytes_max:
            if self._job is None:
                self._job = self._next_job()
                if self._job is None:
                    return False
            try:
                step = next(self._job)
            except StopIteration:
                self._job = None
                self.waits = False
                # Even a job of no bytes has cost something.
                moved += 1
                continue
            except StorageFailed:
                self._job = None
                raise
            self.waits = step == WAIT
            if step == WAIT:
                return False
            moved += step
        return True

    def stop(self) -> None:
        """Leave the job where it is; whatever it has not finished is as if not begun."""
        if self._job is not None:
            self._job.close()
            self._job = None

    def _next_job(self) -> Generator[int, None, None] | None:
        if self.tails:
            if self._log.finished_rounds >= self._tails_not_before:
                return self.copy_tails()
            if not self.tails_durable:
                return None
        busy = {writer.handle for writer in self._log.writers}
        job = self.compactor.next_job(busy)
        if job is not None:
            return job
        for made in sorted(self._log.segments.values(), key=number_of):
            if self._wants_snapshot(made) and made.handle not in busy:
                return write_snapshot(self._log, made)
        if self._log.index.sweep(0):
            return self._sweep()
        return None

    def _wants_snapshot(self, made: Segment) -> bool:
        # Of a segment where nothing counts not even the header may be durable: a snapshot would vouch for it.
        return made.sealed and made.end > DATA_START and not made.indexed and not made.damaged

    def _sweep(self) -> Generator[int, None, None]:
        """Drop the keys of retired spaces from the index."""
        while self._log.index.sweep(_SWEEP_TABLES):
            yield _SLOTS_PER_STEP

    def copy_tails(self) -> Generator[int, None, None]:
        """Move what only the memory may have into new segments; without room it stays, and is tried again
        after a sync round.
        """
        log = self._log
        target = CopyTarget(log, 0)
        try:
            while self.tails:
                tail = self.tails[-1]
                file = log.files.open(tail.segment.path)
                try:
                    for piece in walk(Reader(file), tail.segment.codec, tail.start, tail.stop):
                        if isinstance(piece, Run):
                            target = self._with_room(target, len(piece.data))
                            yield len(piece.data) + target.copy(tail.segment, piece, tail.hides)
                finally:
                    close_quietly(file)
                self.tails.pop()
                tail.segment.sealed = True
        except StorageFailed:
            raise
        except (StorageError, OSError):
            self._tails_not_before = log.next_round()
        if target.writer is not None:
            log.seal(target.writer)

    def _with_room(self, target: CopyTarget, length: int) -> CopyTarget:
        """A target that takes ``length`` more bytes: this one, or another when it would become too large."""
        if target.writer is not None:
            if target.writer.tail + length <= target.room:
                return target
            self._log.seal(target.writer)
        return CopyTarget(self._log, max(self._segment_bytes_max, DATA_START + length))

    def write_snapshots(self, sync: Callable[[], None]) -> None:
        """Snapshots of the newest segments that have none, as far as it takes little time."""
        left = _CLOSE_SNAPSHOT_BYTES
        for made in sorted(self._log.segments.values(), key=number_of, reverse=True):
            left -= made.size
            if left < 0:
                break
            if self._wants_snapshot(made):
                for step in write_snapshot(self._log, made):
                    if step == WAIT:
                        sync()
        sync()

    def sync_tails(self) -> None:
        """Where there was no room to copy: write the same bytes over themselves, which takes none, and sync.

        A sync alone is not enough: one that failed in an earlier run has left pages that pass for clean.

        Raises:
            StorageFailed: It cannot be made durable.
        """
        durable = True
        for tail in self.tails:
            path = tail.segment.path
            try:
                file = self._log.files.open(path, write=True)
                try:
                    durable &= _rewrite(file, tail)
                    file.sync()
                finally:
                    close_quietly(file)
            except OSError as error:
                raise StorageFailed(f"{path} cannot be synced: {error}") from error
        self.tails_durable = durable


def _rewrite(file: File, tail: Tail) -> bool:
    """Make the pages of a tail dirty again; False where even that takes room (copy-on-write), or where the
    disk would not give them: zeros stand for those, and must not be written.
    """
    reader = Reader(file)
    try:
        for piece in walk(reader, tail.segment.codec, tail.start, tail.stop):
            if reader.failed:
                return False
            if isinstance(piece, Run):
                write_whole(file, piece.data[: piece.scan.stop - piece.base], piece.base)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return False
    return True
