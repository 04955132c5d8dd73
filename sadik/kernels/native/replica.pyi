"""A replica's loops over version sets: fingerprints of a batch, comparison for reads, merge for writes.

Version sets, their bytes and their fingerprints are ``versions``'. Stored sets come as the engines'
``read_batch`` gives them. ``previous`` links operations on one address as ``resp.chain`` does: int32 each,
the index of an earlier operation, or -1. All cost tens of nanoseconds an operation and the copy of what they
return.
"""

from typing import Final, NamedTuple

from sadik.kernels.buffers import Buffer

# Statuses of ``compare_batch``.
SAME: Final[int]
"""The set stored here has the fingerprint that was given."""
DIFFERENT: Final[int]
"""It has not; the set is given, empty where nothing is stored."""
UNREADABLE: Final[int]
"""What is stored cannot be read: not the same as nothing."""

# Statuses of ``merge_batch``.
MERGED: Final[int]
"""The merged set differs from what was there and is to be stored."""
KNOWN: Final[int]
"""Everything in the incoming set was known; nothing is to be stored."""
INVALID: Final[int]
"""The incoming bytes are no version set."""
LIMIT: Final[int]
"""The merged set would exceed what the format holds."""
CLOCK: Final[int]
"""The incoming set has a stamp beyond ``stamp_limit``."""

class Fingerprints(NamedTuple):
    """uint64 each, native order: of the set an operation saw, and of the set after it."""

    before: bytearray
    after: bytearray

class Compared(NamedTuple):
    """Answers to a read: ``sets[set_offsets[i]:set_offsets[i + 1]]`` (int64, count + 1) where status is
    DIFFERENT."""

    status: bytearray
    sets: bytearray
    set_offsets: bytearray

class Merged(NamedTuple):
    """What became of incoming sets.

    Attributes:
        status: uint8 each.
        sets, set_offsets: Merged sets ready for ``Engine.write_batch``; empty unless status is MERGED.
        dead: uint8 each, 1 where a merged set has nothing but tombstones.
        before, after: Fingerprints, uint64 each; both 0 unless status is MERGED.
        unreadable: How many stored sets could not be read; the incoming set took their place.
        stamp_last: The greatest stamp among the incoming sets that were merged, 0 for none.
    """

    status: bytearray
    sets: bytearray
    set_offsets: bytearray
    dead: bytearray
    before: bytearray
    after: bytearray
    unreadable: int
    stamp_last: int

def fingerprints(
    count: int,
    digests: Buffer,
    previous: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
    sets: Buffer,
    set_offsets: Buffer,
) -> Fingerprints:
    """Fingerprints around each operation of a batch that ``versions.apply_batch`` has run.

    An operation sees the latest non-empty set made before it along ``previous``, else what is stored; what
    cannot be read counts as nothing.

    Args:
        sets, set_offsets: Sets the operations made, empty for those that made none; int64, count + 1.
    Raises:
        ValueError: A buffer is too short, offsets that do not ascend, a link out of range, or a made set
        that is none.
    """

def compare_batch(
    count: int,
    digests: Buffer,
    fingerprints: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
) -> Compared:
    """What a replica answers a coordinator that sent the fingerprints of its own sets (uint64 each).

    Raises:
        ValueError: As ``fingerprints``.
    """

def merge_batch(
    count: int,
    digests: Buffer,
    previous: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
    data: Buffer,
    set_starts: Buffer,
    set_lengths: Buffer,
    newest_only: Buffer,
    stamp_limit: int,
) -> Merged:
    """Merge incoming sets into what is stored, in order; each is ``versions.merge`` of what was there and
    what comes.

    A stored set that cannot be read counts as empty: the incoming one heals it, as far as it knows.

    Args:
        data, set_starts, set_lengths: Incoming sets as slices; int64 each. An empty one is INVALID.
        newest_only: uint8 each, 1 where the bucket keeps the newest value alone (``versions.keep_newest``).
    Raises:
        ValueError: As ``fingerprints``, or a slice out of bounds.
    """
