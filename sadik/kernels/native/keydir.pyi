"""The log engine's index: where the newest record of each digest is, and the reading of it. 36 to 41 bytes a
key.

The keydir also holds the maps of the segments, so one call looks up, checks bounds and both CRCs, compares
the digest and copies the value out. Touching a map is guarded: a file that was cut, or a page that the disk
will not give, is an error of that record and not the end of the process
(``docs/decisions/0002-mapped-reads.md``).

Handles name attached segments, from 0, and are used again after ``detach``. Live bytes of a segment are sums
of record lengths rounded up to eight significant bits, which is what a slot remembers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sadik.kernels.buffers import Buffer

class Location(NamedTuple):
    """Where a key's newest record is. ``flags``: ``FLAG_DEAD``, ``FLAG_UNREADABLE``."""

    segment: int
    offset: int
    seq: int
    flags: int

class Keydir:
    """One table per partition (the top bits of the digest), each in digest order.

    Attributes:
        doubt_below: Keys with a smaller sequence number, and absent keys unless this is 0, read as errors: a
            newer record of them may lie where nothing can be read.

    Memory: a table grows by an eighth when nine tenths full. Digests that are not evenly spread are correct,
        but slow.
    """

    doubt_below: int

    def __init__(self, partitions: int) -> None:
        """``partitions``: a power of two, 1 to 2**20."""

    def __len__(self) -> int:
        """Keys, with dead and unreadable ones."""

    def bytes_used(self) -> int:
        """Memory of the tables."""

    def attach(self, view: Buffer, salt: Buffer, size: int) -> int:
        """Make a segment known and return its handle; of ``view`` the first ``size`` bytes may be touched.

        Raises:
            ValueError: ``size`` is beyond the view, or 65535 segments are attached.
        """

    def detach(self, segment: int) -> None:
        """Forget a segment and its view. ValueError when keys still point to it."""

    def set_size(self, segment: int, size: int) -> None:
        """How many bytes may be touched now."""

    def live(self, segment: int) -> tuple[int, int, int]:
        """Keys that point into a segment, their live bytes, and the smallest sequence number among its
        records that were replaced or removed (2**48 - 1 when none was)."""

    def put(self, segment: int, base: int, records: Buffer) -> int:
        """Take in records that were just written at ``base``, in order, each newer than all before; a removal
        forgets its key.

        Trusts the records' CRCs, not their lengths. ``size`` grows with them. Returns how many there were.

        Raises:
            ValueError: They are cut, or reach beyond the segment's view. Those in front were taken.
            MemoryError: A table cannot grow. Those in front were taken.
        """

    def load(self, segment: int, entries: Buffer) -> tuple[int, int, int]:
        """Offer records of any order: the greater sequence number wins, of two equal ones the first, unless
        only the second is readable.

        Removals stay, as keys that cannot be found, until ``settle``. System entries are skipped.

        Returns:
            How many were taken, smallest and greatest sequence number of all.
        """

    def settle(self) -> int:
        """Loading is over: forget the removals; returns how many there were."""

    def select(self, segment: int, entries: Buffer) -> bytearray:
        """What compaction must do with each entry of a segment: 0 nothing, 1 copy, 2 a removal that nothing
        newer covers, 3 a system record, 4 a live key whose record is unreadable (flagged so from now on).

        Keys of retired spaces are forgotten on the way.
        """

    def move(self, source: int, target: int, base: int, records: Buffer) -> int:
        """The records were copied to ``base`` of another segment: point their keys there, unless they have
        moved on meanwhile.

        Returns how many keys were moved. ValueError when they reach beyond the target's view.
        """

    def relocate(self, segment: int, entries: Buffer) -> int:
        """Correct the places of keys in a segment, where a readable record of the same number is elsewhere;
        returns how many.
        """

    def entries_of(self, segment: int) -> list[tuple[int, bytes]]:
        """(offset, digest) of all keys in a segment, by offset. Cost: a walk over the whole index."""

    def find(self, digest: Buffer) -> Location | None:
        """Where a key's newest record is, None when it is absent."""

    def flag_unreadable(self, digest: Buffer) -> bool:
        """Answer reads of this key by an error until it is written or removed; False when it is absent."""

    def read(self, digest: Buffer) -> bytes | None:
        """The value, None when absent.

        Raises:
            CorruptRecord: It is unreadable, or in doubt.
        Cost: about 0.3 us with a million keys.
        """

    def read_many(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """``read`` of each. Cost: about 0.2 us a key in hundreds: memory is asked for many keys at once."""

    def read_batch(
        self, count: int, digests: Buffer, bytes_max: int
    ) -> tuple[int, bytearray, bytes, bytearray]:
        """The fields of ``ReadBatch``: how many were read, status (uint8), values, offsets (int64)."""

    def scan(
        self, after: Buffer, stop: Buffer, count: int, bytes_max: int = ...
    ) -> list[tuple[bytes, int, int, bytes, bytes | None]]:
        """Up to ``count`` >= 1 (digest, space, flags, name, value) with ``after`` < digest <= ``stop``, in
        digest order.

        Ends with the value that brings the values to ``bytes_max``. ``after`` may be empty: from the very
        first. Value None and an empty name when unreadable.
        """

    def count(self, space: int) -> int:
        """Keys of a space that are not dead; 0 when it is retired. Cost: O(1)."""

    def spaces_known(self) -> list[int]:
        """Spaces with keys that are not retired, sorted. Beyond 65534 at a time, further ones are stored but
        not counted.
        """

    def retire(self, space: int) -> None:
        """Nothing in the space counts any more. Cost: O(1)."""

    def sweep(self, tables: int) -> bool:
        """Forget the keys of retired spaces in the next ``tables`` tables; False when all is done."""
