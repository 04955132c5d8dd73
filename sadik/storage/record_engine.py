"""What engines share that store one record at a time: batches, tickets, counts per space, and the refusal of
work.

``RecordEngine`` turns the contract of ``engine.py`` into a few plain operations that an engine over a dict or
over a
library can give: fetch records, apply changes all or nothing, walk in order. An engine of its own format (the
log) does not need it.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sadik.errors import CorruptRecord, InvalidRequest, StorageFailed
from sadik.kernels import segment
from sadik.kernels.buffers import Buffer
from sadik.storage.engine import (
    ABSENT,
    DIGEST_BYTES,
    ERROR,
    NAME_BYTES_MAX,
    STORED,
    VALUE_BYTES_MAX,
    Entry,
    ReadBatch,
    Statistics,
    SyncRequest,
)
from sadik.storage.spaces import Footprint, Spaces

SYSTEM_NAME_BYTES_MAX: Final = 255
LAST_DIGEST: Final = b"\xff" * DIGEST_BYTES
_SWEEP_ENTRIES: Final = 128


class Record(NamedTuple):
    """One key as it is stored."""

    space: int
    flags: int
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        """Bytes it counts for: digest, name and value."""
        return DIGEST_BYTES + len(self.name) + len(self.value)


class Unreadable(NamedTuple):
    """What ``fetch`` gives in place of a record that fails its check."""

    reason: str


def footprint(record: Record) -> Footprint:
    return Footprint(record.space, bool(record.flags & segment.FLAG_DEAD), record.size)


class RecordEngine(ABC):
    """The storage contract on top of ``_fetch``, ``_apply``, ``_walk`` and the system table's two.

    Attributes:
        _spaces: Counts. ``_apply`` counts on a draft, and puts it here once the changes are stored.
        _failure: Why writes are refused, or None.
    """

    def __init__(self) -> None:
        self._spaces = Spaces()
        self._ticket = 0
        self._durable = 0
        self._failure: str | None = None
        self._closed = False
        self._losses = 0
        self._sweep_from = b""
        self._sweep_found = False
        self._sweep_over = True

    # What an engine gives.

    @abstractmethod
    def _fetch(self, digests: Iterable[bytes]) -> Iterator[Record | Unreadable | None]:
        """The record of each digest, as of one moment."""

    @abstractmethod
    def _apply(self, changes: Sequence[tuple[bytes, Record | None]]) -> None:
        """Store, or for None remove, each of (digest, record), in order; all or nothing; and count it.

        Raises:
            StorageFull, StorageFailed: Nothing was stored.
        """

    @abstractmethod
    def _walk(self, after: bytes, stop: bytes, count: int, bytes_max: int) -> list[Entry]:
        """As ``scan``."""

    @abstractmethod
    def _apply_system(self, name: bytes, value: bytes) -> None:
        """Store a system value; empty forgets it. Raises as ``_apply``."""

    @abstractmethod
    def _system(self) -> list[tuple[bytes, bytes]]:
        """All system values, sorted by name."""

    @abstractmethod
    def _release(self) -> None:
        """Give back memory, files and locks."""

    @abstractmethod
    def sync_begin(self) -> SyncRequest | None: ...

    @abstractmethod
    def statistics(self) -> Statistics: ...

    # What follows from it.

    def read_batch(self, count: int, digests: Buffer, bytes_max: int = VALUE_BYTES_MAX) -> ReadBatch:
        self._check_open()
        raw = bytes(_items(digests, count, DIGEST_BYTES, "digests"))
        keys = (raw[start : start + DIGEST_BYTES] for start in range(0, len(raw), DIGEST_BYTES))
        status, data, offsets = bytearray(), bytearray(), [0]
        for found in self._fetch(keys):
            if isinstance(found, Record):
                if status and len(data) + len(found.value) > bytes_max:
                    break
                status.append(STORED)
                data += found.value
            else:
                status.append(ABSENT if found is None else ERROR)
            offsets.append(len(data))
        return ReadBatch(len(status), status, data, bytearray(struct.pack(f"<{len(offsets)}q", *offsets)))

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
        self._check_writable()
        raw_digests = bytes(_items(digests, count, DIGEST_BYTES, "digests"))
        starts = _items(name_starts, count, 8, "name_starts").cast("q")
        lengths = _items(name_lengths, count, 8, "name_lengths").cast("q")
        offsets = _items(value_offsets, count + 1, 8, "value_offsets").cast("q")
        space_of = _items(spaces, count, 4, "spaces").cast("I")
        flags_of = _items(flags, count, 1, "flags")
        raw_names, raw_values = _bytes_view(names), _bytes_view(values)
        changes: list[tuple[bytes, Record | None]] = []
        for i in range(count):
            if offsets[i] == offsets[i + 1]:
                continue
            name = _slice(raw_names, starts[i], starts[i] + lengths[i], "names")
            value = _slice(raw_values, offsets[i], offsets[i + 1], "values")
            digest = raw_digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)]
            changes.append((digest, _record(space_of[i], flags_of[i], name, value)))
        return self._write(changes)

    def get(self, digest: Buffer) -> bytes | None:
        self._check_open()
        (found,) = self._fetch([_digest(digest)])
        if isinstance(found, Unreadable):
            raise CorruptRecord(f"{bytes(digest).hex()}: {found.reason}")
        return None if found is None else found.value

    def put(self, digest: Buffer, name: Buffer, value: Buffer, space: int = 0, flags: int = 0) -> int:
        self._check_writable()
        return self._write([(_digest(digest), _record(space, flags, bytes(name), bytes(value)))])

    def get_many(self, digests: Sequence[bytes]) -> list[bytes | None]:
        self._check_open()
        values: list[bytes | None] = []
        keys = [_digest(digest) for digest in digests]
        for digest, found in zip(keys, self._fetch(keys), strict=True):
            if isinstance(found, Unreadable):
                raise CorruptRecord(f"{digest.hex()}: {found.reason}")
            values.append(None if found is None else found.value)
        return values

    def put_many(self, items: Sequence[tuple[bytes, bytes, bytes]], space: int = 0) -> int:
        self._check_writable()
        return self._write(
            [(_digest(digest), _record(space, 0, bytes(name), bytes(value))) for digest, name, value in items]
        )

    def remove(self, digest: Buffer) -> int:
        self._check_writable()
        return self._write([(_digest(digest), None)])

    def scan(self, after: bytes, stop: bytes, count: int, bytes_max: int = VALUE_BYTES_MAX) -> list[Entry]:
        self._check_open()
        if count < 1:
            raise InvalidRequest(f"count is {count}, must be at least 1")
        return self._walk(after, stop, count, bytes_max)

    def count(self, space: int) -> int:
        self._check_open()
        return self._spaces.keys(space)

    def spaces(self) -> list[int]:
        self._check_open()
        return self._spaces.known()

    def declare_spaces(self, live: Sequence[int]) -> None:
        self._check_open()
        self._spaces.declare(live)
        self._sweep_anew()

    def retire(self, space: int) -> None:
        self._check_open()
        self._spaces.retire(space)
        self._sweep_anew()

    def system_put(self, name: bytes, value: bytes) -> int:
        self._check_writable()
        if not 1 <= len(name) <= SYSTEM_NAME_BYTES_MAX:
            raise InvalidRequest(f"system name of {len(name)} bytes, must be 1 to {SYSTEM_NAME_BYTES_MAX}")
        self._apply_system(bytes(name), bytes(value))
        return self._stored()

    def system_items(self) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        return iter(self._system())

    @property
    def losses(self) -> int:
        return self._losses

    @property
    def durable_ticket(self) -> int:
        return self._durable

    def sync(self) -> None:
        self._check_writable()
        request = self.sync_begin()
        if request is None:
            return
        try:
            request.run()
        except OSError as error:
            self.sync_done(request, error)
            raise StorageFailed(f"sync failed: {error}", maybe_applied=True) from error
        self.sync_done(request, None)

    def sync_done(self, request: SyncRequest, error: OSError | None) -> None:
        if error is not None:
            self._failure = f"a sync failed: {error}"
        elif self._failure is None:
            self._durable = max(self._durable, request.ticket)

    @property
    def wants_sync(self) -> bool:
        return False

    def maintain(self, bytes_max: int) -> bool:
        """Remove records of retired spaces, in rounds through all keys until a round finds none.

        A record that cannot be read is left alone, so garbage may remain.
        """
        self._check_open()
        walked = 0
        while walked < bytes_max and not self._sweep_over and self._failure is None:
            entries = self._walk(self._sweep_from, LAST_DIGEST, _SWEEP_ENTRIES, bytes_max - walked)
            garbage = [
                (entry.digest, None)
                for entry in entries
                if entry.value is not None and self._spaces.is_garbage(entry.space)
            ]
            if garbage:
                self._write(garbage)
                self._sweep_found = True
            if entries:
                self._sweep_from = entries[-1].digest
            else:
                self._sweep_over = not self._sweep_found
                self._sweep_from, self._sweep_found = b"", False
            walked += sum(DIGEST_BYTES + len(entry.name) + len(entry.value or b"") for entry in entries)
        return not self._sweep_over and self._failure is None

    def close(self) -> None:
        """Also lets go of what the engine holds, when its last sync fails; closing twice is fine."""
        if self._closed:
            return
        try:
            if self._failure is None:
                self.sync()
        finally:
            self._closed = True
            self._release()

    def _sweep_anew(self) -> None:
        self._sweep_from, self._sweep_found, self._sweep_over = b"", False, False

    def _write(self, changes: Sequence[tuple[bytes, Record | None]]) -> int:
        if not changes:
            return self._ticket
        self._apply(changes)
        return self._stored()

    def _stored(self) -> int:
        self._ticket += 1
        return self._ticket

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailed("the engine is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise StorageFailed(f"writes are refused until the engine is opened again: {self._failure}")


def _bytes_view(source: Buffer) -> memoryview:
    return memoryview(source).cast("B")


def _items(source: Buffer, count: int, size: int, name: str) -> memoryview:
    """The bytes of ``count`` items."""
    view = _bytes_view(source)
    if count < 0:
        raise InvalidRequest(f"count is {count}, must not be negative")
    if len(view) < count * size:
        raise InvalidRequest(f"{name} has {len(view)} bytes, {count * size} are needed")
    return view[: count * size]


def _slice(view: memoryview, start: int, stop: int, name: str) -> bytes:
    if not 0 <= start <= stop <= len(view):
        raise InvalidRequest(f"slice {start} to {stop} of {name}, which has {len(view)} bytes")
    return bytes(view[start:stop])


def _digest(digest: Buffer) -> bytes:
    raw = bytes(digest)
    if len(raw) != DIGEST_BYTES:
        raise InvalidRequest(f"a digest has {DIGEST_BYTES} bytes, not {len(raw)}")
    return raw


def _record(space: int, flags: int, name: bytes, value: bytes) -> Record:
    if not 0 <= space < 1 << 32:
        raise InvalidRequest(f"space is {space}, must be a uint32")
    if flags not in (0, segment.FLAG_DEAD):
        raise InvalidRequest(f"flags are {flags}, must be 0 or {segment.FLAG_DEAD}")
    if len(name) > NAME_BYTES_MAX:
        raise InvalidRequest(f"name of {len(name)} bytes, at most {NAME_BYTES_MAX} are taken")
    if len(value) > VALUE_BYTES_MAX:
        raise InvalidRequest(f"value of {len(value)} bytes, at most {VALUE_BYTES_MAX} are taken")
    return Record(space, flags, name, value)
