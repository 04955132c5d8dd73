"""Moving live records out of segments that are mostly garbage, so that these can be deleted.

A job takes some sealed segments (victims), copies what is live into one new segment, waits until that is
durable and sealed, and only then deletes the victims. A copy keeps its sequence number, so a crash at any
point leaves at worst two copies of one record. Jobs are generators: each step moves one bounded piece;
``WAIT`` says that nothing can go on before a sync round.

When may a removal record be dropped? Not because it is old, but when no other segment can hold a record that
it hides: only *dead* records can be hidden, so each segment knows the smallest number among its dead ones,
and a removal goes when its own number is below all of those (elsewhere). Segments that block this for long
are compacted for that reason alone, else removals could pile up for ever.

What cannot be read is never deleted: the readable rest is copied, and the file stays, is counted and
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from sadik.errors import StorageError, StorageFailed
from sadik.kernels import segment
from sadik.storage.log_files import NO_ROOM, Damage, Log, SegmentWriter, close_quietly, number_of
from sadik.storage.segment_file import (
    COPY,
    DATA_START,
    Gap,
    IndexEntry,
    Reader,
    Run,
    Segment,
    unpack_entry,
    walk,
)

WAIT: Final = 0
DEAD_RATIO_MIN: Final = 0.4
"""Below this a job would write more than it frees; write amplification stays under 1 / 0.4."""
SMALL_SHARE: Final = 16
SMALL_COUNT: Final = 8
"""Segments below a sixteenth of the full size are merged once there are eight: restarts leave them behind."""
EMPTY_COUNT_MAX: Final = 8
"""Most empty segments of one job: they are read whole before they go, and the first waits for the last."""
PINNED_SHARE: Final = 10
_SLACK_BYTES: Final = 1 << 16
# What select() says of an entry.
_LIVE, _REMOVAL, _SYSTEM, _UNREADABLE = 1, 2, 3, 4
_PLAIN: Final = bytes((0, _LIVE))


class CopyTarget:
    """The segment that copies go to, made when the first record needs it."""

    def __init__(self, log: Log, room: int) -> None:
        self.log = log
        self.room = room
        self.writer: SegmentWriter | None = None

    def copy(self, source: Segment, run: Run, hides: Callable[[IndexEntry], bool]) -> int:
        """Copy what is live of a run and point the index there; returns bytes written.

        Args:
            hides: Whether a removal record may still hide something; otherwise it is dropped.
        Raises:
            StorageError: No room, or the disk refused; the index still points to the source.
        """
        log = self.log
        entries = run.scan.entries
        mask = log.index.select(source.handle, entries)
        special = bool(mask.translate(None, _PLAIN))
        if special:
            self._decide(source, entries, mask, hides)
        if mask.count(0) == len(mask):
            return 0
        if self.writer is None:
            self.writer = SegmentWriter.create(log, kind=COPY, room=self.room)
        writer = self.writer
        records, copied, seq_min, seq_max = writer.codec.recode(
            source.codec, run.data, run.base, entries, mask, writer.tail
        )
        if writer.tail + len(records) > writer.room:
            raise StorageError("more is live than was counted; the rest stays where it is")
        writer.append(records)
        log.index.move(source.handle, writer.handle, writer.tail, records)
        if special:
            self._move_special(source, writer, entries, mask)
        writer.tail += len(records)
        writer.segment.end = writer.segment.size = writer.tail
        writer.segment.note(copied, seq_min, seq_max)
        return len(records)

    def _decide(
        self, source: Segment, entries: bytes, mask: bytearray, hides: Callable[[IndexEntry], bool]
    ) -> None:
        """Settle the entries that the index alone cannot: removals, system records, unreadable ones."""
        for number, mark in enumerate(mask):
            if mark <= _LIVE:
                continue
            entry = unpack_entry(entries, number)
            if mark == _REMOVAL:
                mask[number] = hides(entry)
            elif mark == _SYSTEM:
                known = self.log.system.get(entry.digest)
                current = known is not None and (known.handle, known.offset) == (source.handle, entry.offset)
                mask[number] = current and not entry.flags & segment.FLAG_UNREADABLE
                if current and not mask[number]:
                    _unreadable(self.log, source, entry.offset, entry.length)
            else:
                mask[number] = 0
                _unreadable(self.log, source, entry.offset, entry.length)

    def _move_special(self, source: Segment, writer: SegmentWriter, entries: bytes, mask: bytearray) -> None:
        """Follow the copied removal and system records: the index does not know them."""
        offset = writer.tail
        for number, mark in enumerate(mask):
            if not mark:
                continue
            entry = unpack_entry(entries, number)
            if entry.flags & (segment.FLAG_SYSTEM | segment.FLAG_REMOVED):
                writer.segment.pinned += entry.length
            known = self.log.system.get(entry.digest) if entry.flags & segment.FLAG_SYSTEM else None
            if known is not None and (known.handle, known.offset) == (source.handle, entry.offset):
                known.handle, known.offset = writer.handle, offset
            offset += entry.length


def _unreadable(log: Log, source: Segment, offset: int, length: int) -> None:
    source.damaged = True
    log.damage(Damage(source.number, offset, length, "the record's body fails its check"))


class Survey:
    """Figures of all segments at one moment, so that choosing costs one pass over them."""

    def __init__(self, log: Log) -> None:
        self._live = {handle: log.index.live(handle) for handle in log.segments}
        self._system: dict[int, int] = {}
        for known in log.system.values():
            self._system[known.handle] = self._system.get(known.handle, 0) + known.length
        # The two smallest dead numbers: the second is for the segment that has the first.
        found = [(0 if s.holes else self._live[h][2], h) for h, s in log.segments.items()]
        self._least = [*sorted(found)[:2], (segment.SEQ_MAX, -1), (segment.SEQ_MAX, -1)]
        self._unknown = bool(log.foreign)

    def needed(self, found: Segment) -> bool:
        """Whether keys or names of the system table point into a segment."""
        return self._live[found.handle][0] > 0 or found.handle in self._system

    def dead_seq_min(self, found: Segment) -> int:
        return self._live[found.handle][2]

    def removals_below(self, found: Segment) -> int:
        """Removal records of ``found`` with smaller numbers than this hide nothing in any other segment."""
        if self._unknown:
            return 0
        first, second = self._least[:2]
        return second[0] if first[1] == found.handle else first[0]

    def kept(self, found: Segment) -> int:
        """Bytes of removal and system records that a copy must keep."""
        system = self._system.get(found.handle, 0)
        return system if self.removals_below(found) > found.seq_max else max(system, found.pinned)

    def live(self, found: Segment) -> int:
        """Bytes a copy would take, rounded up a little."""
        return self._live[found.handle][1] + self.kept(found)


class Compactor:
    """Chooses victims and works on one job at a time."""

    def __init__(self, log: Log, *, segment_bytes_max: int) -> None:
        self._log = log
        self._segment_bytes_max = segment_bytes_max
        self._not_before = 0
        self.bytes_moved = 0
        self.segments_deleted = 0

    def next_job(self, busy: set[int]) -> Generator[int, None, None] | None:
        """A job that is worth doing, None when there is none. ``busy``: handles still being written or
        sealed.
        """
        log = self._log
        if log.finished_rounds < self._not_before:
            return None
        candidates = [s for s in log.segments.values() if s.sealed and s.handle not in busy]
        if not candidates:
            return None
        survey = Survey(log)
        chosen = self._choose(sorted(candidates, key=number_of), survey)
        return self._run(chosen, survey) if chosen else None

    def _choose(self, candidates: list[Segment], survey: Survey) -> list[Segment]:
        free = self._log.free_bytes(0)
        worth: list[tuple[float, int, Segment]] = []
        small: list[Segment] = []
        possible: list[Segment] = []
        empty: list[Segment] = []
        pinned = total = 0
        for found in candidates:
            total += found.size
            live = survey.live(found)
            fits = live == 0 or live + _SLACK_BYTES <= free
            if found.damaged:
                if fits and (not found.evacuated or not (survey.needed(found) or found.holes)):
                    return [found]
                continue
            pinned += survey.kept(found)
            if live == 0:
                empty.append(found)
                continue
            if not fits:
                continue
            possible.append(found)
            dead = 1 - live / max(1, found.end - DATA_START)
            if dead >= DEAD_RATIO_MIN:
                worth.append((-dead, found.number, found))
            if live * SMALL_SHARE <= self._segment_bytes_max:
                small.append(found)
        if empty:
            # Together: each job waits for a sync, and keys written over and over empty segments faster.
            return empty[:EMPTY_COUNT_MAX]
        if worth:
            return self._together([found for _, _, found in sorted(worth)], survey, free)
        if len(small) >= SMALL_COUNT:
            return self._together(small, survey, free)
        if pinned * PINNED_SHARE > total:
            return self._blocker(possible, survey)
        return []

    def _together(self, found: list[Segment], survey: Survey, free: int) -> list[Segment]:
        """As many as fit into one new segment; at least one."""
        room = min(self._segment_bytes_max, free) - _SLACK_BYTES - survey.live(found[0])
        chosen = found[:1]
        for more in found[1:]:
            room -= survey.live(more)
            if room < 0:
                break
            chosen.append(more)
        return chosen

    def _blocker(self, found: list[Segment], survey: Survey) -> list[Segment]:
        """The segment whose oldest dead record keeps the most removals alive; none when nothing is dead."""
        dead = [(survey.dead_seq_min(s), s.number, s) for s in found]
        dead = [row for row in dead if row[0] < segment.SEQ_MAX]
        return [min(dead)[2]] if dead else []

    def _run(self, victims: list[Segment], survey: Survey) -> Generator[int, None, None]:
        log = self._log
        room = DATA_START + sum(survey.live(victim) for victim in victims) + _SLACK_BYTES
        target = CopyTarget(log, room)
        # Before anything moves: what is copied away is not dead, only twice there.
        limits = [survey.removals_below(victim) for victim in victims]
        done: list[Segment] = []
        try:
            for victim, limit in zip(victims, limits, strict=True):
                yield from self._copy(victim, target, limit)
                done.append(victim)
        except StorageFailed:
            raise
        except (StorageError, OSError) as error:
            # No room, or the disk refused: what is copied is good, what is not stays where it was. Try again
            # later.
            self._not_before = log.next_round()
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                victims[len(done)].evacuated = victims[len(done)].damaged
        if target.writer is not None:
            log.seal(target.writer)
        # A round for the copies, for whatever made other records garbage, and for earlier deletions (their
        # records may be what removals dropped here have hidden); another for the copy's footer, without which
        # rot in the copy could pass for a torn tail.
        for _ in range(1 if target.writer is None else 2):
            wanted = log.next_round()
            log.directory_changed = True
            while log.finished_rounds < wanted:
                yield WAIT
        for victim in done:
            self._finish(victim)

    def _copy(self, victim: Segment, target: CopyTarget, removals_below: int) -> Generator[int, None, None]:
        log = self._log
        file = log.files.open(victim.path)
        try:
            reader = Reader(file)
            for piece in walk(reader, victim.codec, DATA_START, victim.end):
                if isinstance(piece, Gap):
                    self._hole(victim, piece)
                    continue
                moved = target.copy(victim, piece, lambda entry: entry.seq >= removals_below)
                self.bytes_moved += moved
                yield len(piece.data) + moved
        finally:
            close_quietly(file)

    def _hole(self, victim: Segment, gap: Gap) -> None:
        """A region of a victim is unreadable: its live keys are errors from now on, and the file is kept."""
        log = self._log
        lost = [
            digest for offset, digest in log.index.entries_of(victim.handle) if gap.start <= offset < gap.stop
        ]
        for digest in lost:
            log.index.flag_unreadable(digest)
        if not victim.holes and not victim.accepted:
            victim.holes = True
            log.damage(
                Damage(victim.number, gap.start, gap.stop - gap.start, "no record header passes its check"),
                records=max(1, len(lost)),
            )
        victim.damaged = True

    def _finish(self, victim: Segment) -> None:
        """Delete a victim, if nothing needs it."""
        log = self._log
        records, _, _ = log.index.live(victim.handle)
        named = any(known.handle == victim.handle for known in log.system.values())
        victim.evacuated = True
        if records or victim.holes or named:
            victim.damaged = True
            return
        try:
            log.delete(victim)
        except OSError:
            self._not_before = log.next_round()
            return
        self.segments_deleted += 1
