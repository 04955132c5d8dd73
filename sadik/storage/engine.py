"""The storage contract: the whole of what a node asks of an engine.

An engine keeps one value (opaque bytes) per digest, together with the *name* it stands for and a *space*.
It is opened once per node, on a directory it locks, and serves all partitions. It never looks into names or
values.

* **Batches first.** ``read_batch`` and ``write_batch`` are the data path: packed arrays, no Python object
  per operation. ``get``, ``put`` and their plural forms are the same for people and tests.
* **Handed over, then durable.** A write that returned has been handed to the operating system: it survives
  the death of the process. It is durable (survives a power cut) once a sync that began after it has
  succeeded: ``sync`` does it here and now, ``sync_begin`` and ``sync_done`` let a thread do it. Tickets
  order the two.
* **Absent, stored or error.** An unreadable record is ERROR, never ABSENT and never an older version.
* **Spaces.** A space is a number (uint32, from 1) the node gives to each life of a bucket. Counting is per
  space; ``retire`` makes all of a space garbage in O(1) (FLUSHDB), reclaimed by compaction. A record of a
  retired space is still returned by reads: hiding it is the node's part.
* **System table.** A few small named values (buckets, birth facts), in the same log and durability order as
  the data.
* Not thread-safe, but for the callable in a ``SyncRequest``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from sadik.kernels.buffers import Buffer

STORED: Final = 0
ABSENT: Final = 1
ERROR: Final = 2

DIGEST_BYTES: Final = 16
NAME_BYTES_MAX: Final = 1 + 255 + 2 + 65535
VALUE_BYTES_MAX: Final = (1 << 30) - 1


class ReadBatch(NamedTuple):
    """Stored values, packed: value i is ``data[offsets[i]:offsets[i + 1]]``, empty unless ``status[i]`` is
    STORED.

    status: uint8 each; offsets: int64, count + 1. ``taken`` is how many of the digests asked for were
    read.
    """

    taken: int

    status: bytearray
    data: bytes | bytearray
    offsets: bytearray


class Entry(NamedTuple):
    """One stored key as ``scan`` gives it; ``value`` is None when it was unreadable (and name may be
    empty).
    """

    digest: bytes
    space: int
    flags: int
    name: bytes
    value: bytes | None


class SyncRequest(NamedTuple):
    """A sync that is due: ``run`` may block and may be called on another thread; then tell the engine by
    ``sync_done``.
    """

    ticket: int
    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A frozen snapshot for metrics and status pages. Bytes unless the name says otherwise."""

    engine: str
    keys: int
    stored_bytes: int
    live_bytes: int
    index_bytes: int
    segments: int
    corrupt_records: int
    corrupt_bytes: int
    quarantined_segments: int
    writable: bool
    details: dict[str, int | str]


class Engine(Protocol):
    """What every engine does. Digests are 16 bytes; batches take them one after another in one buffer."""

    def read_batch(self, count: int, digests: Buffer, bytes_max: int = VALUE_BYTES_MAX) -> ReadBatch:
        """Values of ``count`` digests, stopping before the values read exceed ``bytes_max``, but not before
        the first one.

        The bound is what keeps a pipeline of reads of big values from filling the memory: the rest is asked
        for again.
        """
        ...

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
        """Store the values of those operations whose value is not empty, in order; others are skipped. All
        or nothing.

        Args:
            names, name_starts, name_lengths: Slices; int64 each.
            values, value_offsets: Packed; int64, count + 1.
            spaces: uint32 each.
            flags: uint8 each; ``FLAG_DEAD`` or 0.
        Returns:
            The ticket of this write: durable once ``durable_ticket`` >= it.
        Raises:
            StorageFull: No room; nothing of the batch was stored.
            StorageFailed: The engine refuses writes until reopened.
        """
        ...

    def get(self, digest: Buffer) -> bytes | None:
        """The value, or None when absent.

        Raises:
            CorruptRecord: It is there and cannot be read.
        """
        ...

    def put(self, digest: Buffer, name: Buffer, value: Buffer, space: int = 0, flags: int = 0) -> int:
        """Store one value, which may be empty; returns the ticket. Raises as ``write_batch``."""
        ...

    def get_many(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """``get`` of each."""
        ...

    def put_many(self, items: Sequence[tuple[bytes, bytes, bytes]], space: int = 0) -> int:
        """Store (digest, name, value) of each item, all or nothing, as one append."""
        ...

    def remove(self, digest: Buffer) -> int:
        """Forget a key entirely (after collection or handoff, never for a client's delete); returns the
        ticket.
        """
        ...

    def scan(self, after: bytes, stop: bytes, count: int, bytes_max: int = VALUE_BYTES_MAX) -> list[Entry]:
        """Up to ``count`` >= 1 entries with ``after`` < digest <= ``stop``, in digest order; ``after=b""``
        starts at the very first.

        Ends early with the value that brings the values to ``bytes_max`` bytes; only an empty page is the
        end. Keys present throughout a walk are met exactly once; keys written meanwhile may or may not be.
        """
        ...

    def count(self, space: int) -> int:
        """Keys of a space that are not flagged dead; O(1)."""
        ...

    def spaces(self) -> list[int]:
        """The spaces that stored records are in, retired ones too as long as some are left. New spaces get
        greater numbers.
        """
        ...

    def declare_spaces(self, live: Sequence[int]) -> None:
        """After an open, before any client's write: the spaces that count. Whatever lies in another one is
        garbage.
        """
        ...

    def retire(self, space: int) -> None:
        """Everything in ``space`` is garbage from now on and its count is 0: O(1). Space numbers are never
        used again.
        """
        ...

    def system_put(self, name: bytes, value: bytes) -> int:
        """Store a small named value of the node itself; returns the ticket. An empty value forgets the
        name.
        """
        ...

    def system_items(self) -> Iterator[tuple[bytes, bytes]]:
        """All of them, sorted by name."""
        ...

    @property
    def losses(self) -> int:
        """How often anything stored was found unreadable or was given up; when it rises the node draws a
        new actor.
        """
        ...

    @property
    def durable_ticket(self) -> int:
        """Every write with a ticket up to this one survives a power cut."""
        ...

    def sync(self) -> None:
        """Make every write so far durable, here and now.

        Raises:
            StorageFailed: The sync failed; the engine refuses writes until reopened.
        """
        ...

    def sync_begin(self) -> SyncRequest | None:
        """What must run to make all writes so far durable; None when they are. One request is out at a
        time.
        """
        ...

    def sync_done(self, request: SyncRequest, error: OSError | None) -> None:
        """The request has run. With an error the engine refuses writes from now on."""
        ...

    def maintain(self, bytes_max: int) -> bool:
        """One bounded step of background work (compaction, snapshots), moving about ``bytes_max`` bytes;
        True when there is more to do.

        Never blocks on a sync: what it deletes waits until ``sync_done`` has told that its replacement is
        durable.
        """
        ...

    @property
    def wants_sync(self) -> bool:
        """Background work waits for a sync, whatever the node's durability mode."""
        ...

    def statistics(self) -> Statistics: ...

    def close(self) -> None:
        """Sync, write what makes the next open fast, give the lock back. Further calls raise
        ``StorageFailed``.
        """
        ...
