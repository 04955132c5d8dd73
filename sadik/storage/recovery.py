"""Opening a directory: from the bytes of all segments to the index, and what may be believed.

Every segment file is read newest first (by its snapshot where there is a sound one), and every record is
offered to the index, where the greater sequence number wins. What differs between segments is how far they
are **proven**: the bytes that some sync is known to have made durable, by the footer, a mark, a snapshot, or
the header of the segment that came after.

* Unreadable inside the proven part is rot. If the record's header is sound, or a snapshot names the keys,
  exactly these keys are errors. Otherwise nobody knows which: every key whose newest known number is smaller
      than the last that may have
  been there is in **doubt**, absent ones too, until it is written again or the loss is accepted.
* Unreadable behind the proven part is the tail that a crash may take: not an error, and not served.
* Readable behind the proven part counts, but it may be only in memory (a failed sync leaves such pages
  behind, clean and wrong). It is copied into a new segment and synced before the engine is open.

Source: Bitcask's keydir and hint files, with the failures of FACTS 7 turned round; the doubt rule is ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from sadik.env.files import File
from sadik.errors import CorruptRecord, StorageError
from sadik.kernels import segment
from sadik.storage.log_files import Damage, Log, SystemValue, close_quietly
from sadik.storage.segment_file import (
    COPY,
    DATA_START,
    FOOTER_BYTES,
    FOOTER_VALUE_BYTES,
    HEADER_BYTES,
    LOG,
    TEMPORARY_SUFFIX,
    Footer,
    Gap,
    IndexEntry,
    Reader,
    Segment,
    SegmentHeader,
    decode_footer,
    entry_flags,
    segment_name,
    segment_number,
    unpack_entry,
    walk,
)
from sadik.storage.snapshot import Snapshot, load_snapshot

_ORDINARY: Final = bytes((0, segment.FLAG_DEAD))
_REMOVAL: Final = 2
ACCEPTED_LOSS: Final = b"\0accepted-loss"


@dataclass(slots=True)
class Hole:
    """A gap, with what is known of the numbers that may have been in it (seq_low <= number < seq_high)."""

    start: int
    stop: int
    seq_low: int
    seq_high: int | None


@dataclass(slots=True)
class Tail:
    """Readable records behind the proven part of a segment.

    Attributes:
        removals: Offsets of the removal records that no proven segment has too.
    """

    segment: Segment
    start: int
    stop: int
    pieces: list[bytes]
    removals: set[int] = field(default_factory=set)

    def hides(self, entry: IndexEntry) -> bool:
        """Whether this removal record must be kept."""
        return entry.offset in self.removals


@dataclass(slots=True)
class Recovery:
    """What is known while a directory is opened.

    Attributes:
        proven_runs: Runs of those segments read so far that are known to have been synced.
        runs: The run that made each segment, by number.
        headless: Number and bytes of files without a header; whether they are rot for sure; the proven runs
            of later segments; the number their records are below, where it is known.
        claims: For a LOG segment's number, what the next one says: (how many bytes of it count, first number
            after it).
        seq_beyond: All records of the segment at hand have smaller numbers: the first one of the LOG segment
            after it; None when there is none. Unlike "everything so far" it does not rise from open to open,
            so a loss that was accepted stays accepted.
        doubt_seq: Keys whose newest number is smaller may have had a newer one that is unreadable.
        lost_bytes: Unreadable bytes of any kind: numbers they may have used are not used again.
    """

    log: Log
    proven_runs: set[int] = field(default_factory=set)
    runs: dict[int, int] = field(default_factory=dict)
    headless: list[tuple[int, int, bool, frozenset[int], int | None]] = field(default_factory=list)
    claims: dict[int, tuple[int, int]] = field(default_factory=dict)
    seq_beyond: int | None = None
    doubt_seq: int = 0
    doubt_all: bool = False
    lost_bytes: int = 0
    seq_max: int = 0
    tails: list[Tail] = field(default_factory=list)

    def run(self) -> None:
        """Read everything; afterwards the index is complete.

        Raises:
            StorageError: A file cannot be opened at all. Nothing was changed.
            WrongFormat: A segment of a newer version.
        """
        log = self.log
        try:
            names = log.files.names(log.directory)
            for name in names:
                if name.endswith(TEMPORARY_SUFFIX):
                    log.files.remove(log.path(name))
                    log.directory_changed = True
            numbers = [number for name in names if (number := segment_number(name)) is not None]
            for number in sorted(numbers, reverse=True):
                self._open(number)
        except OSError as error:
            raise StorageError(f"{log.directory} cannot be read: {error}") from error
        self._judge_headless()
        log.number_next = max(numbers, default=0) + 1
        # Proven records first: of two copies of one record the first met stays.
        for tail in self.tails:
            self._take(tail.segment, tail.pieces)
        for tail in self.tails:
            # Only while removals are still in the index can it tell which of two copies counts.
            tail.removals = self._own_removals(tail)
        log.seq_next = self.seq_max + 1 + self.lost_bytes // segment.RECORD_HEADER_BYTES
        log.index.settle()
        self._load_system()
        accepted = log.system.get(system_digest(ACCEPTED_LOSS))
        known = int.from_bytes(accepted.value, "little") if accepted is not None and accepted.value else 0
        doubt = log.seq_next if self.doubt_all else self.doubt_seq
        log.index.doubt_below = doubt if doubt > known else 0

    def _open(self, number: int) -> None:
        log = self.log
        file = log.files.open(log.path(segment_name(number)))
        try:
            size = file.size()
            reader = Reader(file)
            snapshot = load_snapshot(log, number)
            header = self._header(reader, size, snapshot)
            if header is None:
                self._headless(file, number, size, reader)
                return
            self.runs[number] = header.run
            # A file under another's name is as good as under its own, because numbers in records decide and
            # not names; but what others say of that name is not about it.
            claim = self.claims.get(number) if header.number == number and header.kind == LOG else None
            beyond = self.seq_beyond
            if header.number != number:
                header = replace(header, number=number, previous=0, previous_end=0)
                self.seq_beyond = None
            elif header.kind == LOG:
                beyond = header.seq_first
            made = log.attach(file, header, room=size, size=size)
            self.seq_max = max(self.seq_max, header.seq_first - 1)
            if self._index(made, reader, snapshot, claim):
                # Synced after it was made, so all that was there when it was made is durable.
                self.proven_runs.add(header.run)
                if header.kind == LOG and header.previous_end > DATA_START:
                    self.claims[header.previous] = (header.previous_end, header.seq_first)
            self.seq_beyond = beyond
        finally:
            close_quietly(file)

    def _header(self, reader: Reader, size: int, snapshot: Snapshot | None) -> SegmentHeader | None:
        """The file's header from wherever it is readable: two copies in front, one in the footer, one in the
        snapshot.
        """
        front = reader.read(0, min(DATA_START, size))
        footer = size - FOOTER_VALUE_BYTES
        back = reader.read(footer, HEADER_BYTES) if footer >= DATA_START else b""
        for copy in (front[:HEADER_BYTES], front[HEADER_BYTES:], back):
            with suppress(CorruptRecord):
                return SegmentHeader.decode(copy)
        return snapshot.header if snapshot is not None else None

    def _headless(self, file: File, number: int, size: int, reader: Reader) -> None:
        """A file whose salt is lost: none of its records can be read. What that means is known at the end."""
        if size <= DATA_START and not reader.failed and number not in self.claims:
            # It never got as far as a record.
            self.log.files.remove(file.path)
            self.log.directory_changed = True
            return
        self.lost_bytes += size
        sure = bool(reader.failed) or number in self.claims
        self.headless.append((number, size, sure, frozenset(self.proven_runs), self.seq_beyond))

    def _judge_headless(self) -> None:
        """A file without a header is rot if a sync has succeeded after it was made, else what a crash may
        leave.
        """
        log = self.log
        for number, size, sure, proven_later, seq_beyond in self.headless:
            same_run = any(run in proven_later for before, run in self.runs.items() if before < number)
            if sure or same_run:
                log.foreign += 1
                log.damage(Damage(number, 0, size, "the segment's header is unreadable"))
                self._doubt_below(seq_beyond)
            else:
                log.torn_bytes += size

    def _footer(self, made: Segment, reader: Reader) -> Footer | None:
        start = made.size - FOOTER_BYTES
        if start < DATA_START:
            return None
        try:
            record = made.codec.decode(reader.read(start, FOOTER_BYTES), start, start)
            if not record.flags & segment.FLAG_FOOTER:
                return None
            footer = decode_footer(record.value)
        except CorruptRecord:
            return None
        self.seq_max = max(self.seq_max, record.seq - 1)
        return footer if footer.header.salt == made.header.salt else None

    def _index(
        self, made: Segment, reader: Reader, snapshot: Snapshot | None, claim: tuple[int, int] | None
    ) -> bool:
        """Take in all records of a segment; returns whether it is known to have been synced."""
        footer = self._footer(made, reader)
        proven = 0
        seq_after: int | None = None
        if footer is not None:
            proven = made.end = made.size - FOOTER_BYTES
            seq_after = footer.seq_max + 1
        if footer is None and claim is not None:
            proven, seq_after = claim
        start = DATA_START
        if (
            snapshot is not None
            and snapshot.header.salt == made.header.salt
            and (footer is None or (snapshot.end == made.end and snapshot.records == footer.records))
        ):
            proven = max(proven, snapshot.end)
            with suppress(OSError):
                self._take(made, snapshot.pieces(self.log))
                made.indexed = made.trusted = True
                start = snapshot.end
        scan = _Scan(self, made, reader, proven, seq_after)
        scan.run(start)
        proven = scan.proven
        if made.size < proven:
            self._missing(made, proven, scan.seq_next, seq_after, covered=start >= proven)
        if scan.held:
            self.tails.append(Tail(made, max(proven, DATA_START), made.end, scan.held))
        made.sealed = not scan.held
        made.end = min(made.end, max(proven, DATA_START))
        return proven > 0

    def _missing(self, made: Segment, proven: int, low: int, high: int | None, *, covered: bool) -> None:
        """A durable file that has become shorter. With a snapshot its keys are known, and reading them
        fails.
        """
        made.damaged = True
        made.holes = not covered
        self.log.damage(Damage(made.number, made.size, proven - made.size, "the file has become shorter"))
        self.lost_bytes += proven - made.size
        if not covered:
            self.doubt(made, Hole(made.size, proven, low, high))

    def doubt(self, made: Segment, hole: Hole) -> None:
        """Raise the doubt limit over all numbers that may have been in a hole."""
        high = hole.seq_high
        if made.header.kind == COPY:
            high = made.header.seq_first
        elif high is not None and high <= hole.seq_low:
            # The numbers before and after are neighbours: only a mark was there.
            return
        self._doubt_below(high if high is not None else self.seq_beyond)

    def _doubt_below(self, seq: int | None) -> None:
        if seq is None:
            self.doubt_all = True
        else:
            self.doubt_seq = max(self.doubt_seq, seq)

    def take(self, made: Segment, entries: bytes) -> None:
        """Offer records to the index and to the system table."""
        self._take(made, [entries])

    def _take(self, made: Segment, pieces: Iterable[bytes]) -> None:
        for entries in pieces:
            if not entries:
                continue
            _, seq_min, seq_max = self.log.index.load(made.handle, entries)
            made.note(len(entries) // segment.INDEX_ENTRY_BYTES, seq_min, seq_max)
            self.seq_max = max(self.seq_max, seq_max)
            flags = entry_flags(entries)
            if flags.translate(None, _ORDINARY):
                self._take_special(made, entries, flags)

    def _take_special(self, made: Segment, entries: bytes, flags: bytes) -> None:
        for number, flag in enumerate(flags):
            if flag in _ORDINARY:
                continue
            entry = unpack_entry(entries, number)
            if flag & segment.FLAG_UNREADABLE:
                made.damaged = True
                self.log.damage(
                    Damage(made.number, entry.offset, entry.length, "the record's body fails its check")
                )
            if flag & (segment.FLAG_SYSTEM | segment.FLAG_REMOVED):
                made.pinned += entry.length
            if flag & segment.FLAG_SYSTEM:
                known = self.log.system.get(entry.digest)
                if known is None or known.seq < entry.seq:
                    value = None if flag & segment.FLAG_UNREADABLE else b""
                    self.log.system[entry.digest] = SystemValue(
                        entry.seq, made.handle, entry.offset, entry.length, b"", value
                    )

    def _own_removals(self, tail: Tail) -> set[int]:
        found = set()
        for entries in tail.pieces:
            mask = self.log.index.select(tail.segment.handle, entries)
            at = mask.find(_REMOVAL)
            while at >= 0:
                found.add(unpack_entry(entries, at).offset)
                at = mask.find(_REMOVAL, at + 1)
        return found

    def _load_system(self) -> None:
        """Read the newest value of each name of the system table."""
        log = self.log
        by_segment: dict[int, list[SystemValue]] = {}
        for found in log.system.values():
            if found.value is not None:
                by_segment.setdefault(found.handle, []).append(found)
        for handle, values in by_segment.items():
            made = log.segments[handle]
            file = log.files.open(made.path)
            reader = Reader(file)
            try:
                for found in values:
                    found.name, found.value = read_system(made, reader, found)
                    if found.value is None:
                        made.damaged = True
                        log.damage(
                            Damage(made.number, found.offset, found.length, "a system value is unreadable")
                        )
            finally:
                close_quietly(file)


class _Scan:
    """One walk over a segment's data: what is proven goes to the index at once, the rest is held until it is
    known.
    """

    def __init__(
        self, recovery: Recovery, made: Segment, reader: Reader, proven: int, seq_after: int | None
    ) -> None:
        self.recovery = recovery
        self.made = made
        self.reader = reader
        self.proven = proven
        self.seq_after = seq_after
        self.seq_next = made.header.seq_first
        self.held: list[bytes] = []
        self.released = 0
        self.holes: list[Hole] = []
        self.stop = DATA_START

    def run(self, start: int) -> None:
        """Walk from ``start`` to the end of the records."""
        recovery, made = self.recovery, self.made
        self.stop = start
        waiting: Hole | None = None
        for piece in walk(self.reader, made.codec, start, made.end):
            if isinstance(piece, Gap):
                waiting = Hole(piece.start, piece.stop, self.seq_next, None)
                self.holes.append(waiting)
                recovery.lost_bytes += piece.stop - piece.start
                continue
            scan = piece.scan
            if waiting is not None:
                waiting.seq_high = scan.seq_first
                waiting = None
            self.seq_next = scan.seq_next
            self.stop = scan.stop
            recovery.seq_max = max(recovery.seq_max, scan.seq_next - 1)
            self._prove(scan)
            if len(scan.entries):
                self.held.append(scan.entries)
            if self.proven > self.released or scan.stop <= self.proven:
                self._release()
        self._settle()

    def _prove(self, scan: segment.Scan) -> None:
        self.proven = max(self.proven, scan.durable)
        if scan.footer >= 0:
            # Something follows the footer, or the last bytes would have been it: nobody appends to a sealed
            # segment.
            self.proven = max(self.proven, scan.footer)
            self.made.end = min(self.made.end, scan.footer)

    def _release(self) -> None:
        """Hand on the held records that are proven by now. Called when that is more than before, for it looks
        at all that are held.
        """
        self.released = self.proven
        keep: list[bytes] = []
        for entries in self.held:
            split = _split(entries, self.proven)
            self.recovery.take(self.made, entries[:split])
            if split < len(entries):
                keep.append(entries[split:])
        self.held = keep

    def _settle(self) -> None:
        """All is read: sort the holes into rot and torn tail, and drop what a crash tore."""
        recovery, made, log = self.recovery, self.made, self.recovery.log
        self._release()
        for hole in self.holes:
            refused = self.reader.failed_within(hole.start, hole.stop)
            if hole.start < self.proven or refused:
                if hole.seq_high is None and hole.start < self.proven:
                    hole.seq_high = self.seq_after
                made.damaged = made.holes = True
                reason = "the disk refused to read it" if refused else "no record header passes its check"
                log.damage(Damage(made.number, hole.start, hole.stop - hole.start, reason))
                recovery.doubt(made, hole)
            else:
                log.torn_bytes += hole.stop - hole.start
        self.held = [kept for entries in self.held if (kept := self._drop_torn(entries))]

    def _drop_torn(self, entries: bytes) -> bytes:
        if not any(flags & segment.FLAG_UNREADABLE for flags in set(entry_flags(entries))):
            return entries
        kept = []
        for number in range(len(entries) // segment.INDEX_ENTRY_BYTES):
            entry = unpack_entry(entries, number)
            place = number * segment.INDEX_ENTRY_BYTES
            if entry.flags & segment.FLAG_UNREADABLE and not self.reader.failed_within(
                entry.offset, entry.offset + entry.length
            ):
                self.recovery.log.torn_bytes += entry.length
            else:
                kept.append(entries[place : place + segment.INDEX_ENTRY_BYTES])
        return b"".join(kept)


def _split(entries: bytes, offset: int) -> int:
    """Bytes of those entries that lie below ``offset``; entries rise with their offsets."""
    low, high = 0, len(entries) // segment.INDEX_ENTRY_BYTES
    while low < high:
        middle = (low + high) // 2
        if unpack_entry(entries, middle).offset < offset:
            low = middle + 1
        else:
            high = middle
    return low * segment.INDEX_ENTRY_BYTES


def read_system(made: Segment, reader: Reader, found: SystemValue) -> tuple[bytes, bytes | None]:
    """Name and value of a system record; value None when it is unreadable."""
    try:
        record = made.codec.decode(reader.read(found.offset, found.length), found.offset, found.offset)
    except CorruptRecord:
        return b"", None
    return record.name, record.value


def system_digest(name: bytes) -> bytes:
    """What stands in a system record's digest field: it tells which name an unreadable record was for."""
    return hashlib.blake2b(name, digest_size=16).digest()
