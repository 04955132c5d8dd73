"""Version sets: the state of one key, as bytes. Event, merge, discard and views work on the encoding itself.

A version set holds, for each actor, ``seen`` (every event of that actor with stamp <= seen is known here), and the values still
alive, each with its dot (actor, stamp). It is DVVSet with sparse counters (Almeida et al., "Scalable and accurate causality
tracking for eventually consistent stores", and Garage's K2V). Invariants of every encoded set:

* entries sorted by actor, one per actor; values sorted by (actor, stamp), one per dot; each value's actor has an entry with
  ``seen`` >= its stamp;
* equal states have equal bytes (the encoding is canonical);
* the empty set (nothing known) is ``b""``; anything else starts with the version byte 1.

Ids and stamps are uint64; times are Unix milliseconds. ``Entries`` (a causal context) is a sequence of (actor, stamp), sorted by
actor. A truncation *floor* is a stamp: values with stamp <= floor do not exist for a reader (FLUSHDB).
Every function that takes encoded sets raises ``CorruptRecord`` when the bytes are not a valid set, before reading beyond them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sadik.kernels.buffers import Buffer

Entries = Sequence[tuple[int, int]]

TOMBSTONE: Final[int]
"""Flag of a value that records a delete; its payload is empty."""

SIBLINGS_MAX: Final[int]
"""64: a client write that would leave more is refused (status LIMIT); merges never are."""
ENTRIES_MAX: Final[int]
"""64 actors, likewise."""

# Statuses of ``apply_batch``.
OK: Final[int]
NOTHING: Final[int]
"""A read that found no live value."""
UNREADABLE: Final[int]
"""The stored set could not be read, or is not a valid set."""
LIMIT: Final[int]
CLOCK: Final[int]
"""The stamp needed lies beyond ``stamp_max``."""

# Kinds of ``apply_batch``.
READ: Final[int]
REPLACE: Final[int]

# Statuses of the stored set of each operation, as the engines' ``read_batch`` gives them.
STORED: Final[int]
ABSENT: Final[int]
ERROR: Final[int]

class Value(NamedTuple):
    """One sibling. ``kind`` is the data type of the payload: 0 is opaque bytes; others are kept for converging types."""

    actor: int
    stamp: int
    flags: int
    kind: int
    expires_at_ms: int
    """Absolute Unix milliseconds, or -1 for never."""
    metadata: bytes
    """Content type and user metadata as the API encodes them; empty for RESP. At most 65535 bytes."""
    payload: bytes

class Applied(NamedTuple):
    """What ``apply_batch`` gives; arrays are ``bytearray``s of the item type named, one item per operation."""

    status: bytearray
    """uint8."""
    value_start: bytearray
    """int64: offset in ``values`` of the newest live payload of a READ with status OK."""
    value_length: bytearray
    """int64."""
    values: bytes | bytearray
    """Payloads read, one after another."""
    set_offsets: bytearray
    """int64, count + 1: new set of operation i is ``sets[set_offsets[i]:set_offsets[i+1]]``; empty where nothing is to be stored."""
    sets: bytes | bytearray
    stamp_last: int
    """The greatest stamp minted, 0 when none was: the clock must not fall behind it."""

def encode(entries: Entries, values: Sequence[Value]) -> bytes:
    """The canonical bytes of a set.

    Raises:
        InvalidRequest: An invariant of the module does not hold, or a number is out of range.
    """

def decode(data: Buffer) -> tuple[list[tuple[int, int]], list[Value]]:
    """Entries and values; ``decode(encode(e, v)) == (e, v)`` for sorted input."""

def validate(data: Buffer) -> None:
    """Raise ``CorruptRecord`` unless ``data`` is a canonical set."""

def event(
    current: Buffer,
    covers: Entries | None,
    actor: int,
    stamp: int,
    flags: int = 0,
    kind: int = 0,
    expires_at_ms: int = -1,
    metadata: Buffer = b"",
    payload: Buffer = b"",
) -> bytes:
    """``current`` after a write: values covered by ``covers`` go, ``seen`` rises to it, the new value joins under (actor, stamp).

    ``covers=None`` covers everything in ``current``; ``()`` covers nothing, so the new value becomes a sibling.

    Raises:
        InvalidRequest: ``stamp`` is not greater than every stamp in ``current`` and ``covers``.
        LimitReached: More than SIBLINGS_MAX values or ENTRIES_MAX entries would remain.
    """

def merge(left: Buffer, right: Buffer) -> bytes:
    """Least upper bound: a value stays if both sides have its dot, or one has it and the other has not seen it.

    Commutative, associative, idempotent. Cost: one pass; nothing is built in the common case that one side has seen
    all of the other (its bytes come back as they are).
    """

def discard(data: Buffer, covers: Entries) -> bytes:
    """Drop the values that ``covers`` has seen and raise ``seen`` to it."""

def keep_newest(data: Buffer) -> bytes:
    """Only the newest value by (stamp, actor); entries stay: the ``lww`` bucket's rule at merge."""

def prune(data: Buffer, horizon: int) -> bytes:
    """Drop entries without values and tombstones with stamp (for entries: seen) < ``horizon``. ``b""`` when nothing is left."""

def context(data: Buffer) -> list[tuple[int, int]]:
    """The entries: what a reader of this set has seen."""

def stamp_max(data: Buffer) -> int:
    """The greatest stamp in entries, 0 for the empty set."""

def siblings(data: Buffer, floor: int, now_ms: int) -> list[Value]:
    """Live values above ``floor``: no tombstones, nothing expired at ``now_ms``; newest first by (stamp, actor)."""

def newest(data: Buffer, floor: int, now_ms: int) -> Value | None:
    """What RESP GET shows: the newest value above ``floor`` by (stamp, actor), or None when that one is a tombstone, expired, or absent.

    A tombstone competes: a delete newer than every value hides older siblings from this view.
    """

def is_dead(data: Buffer) -> bool:
    """True when no value but tombstones is left (expiry is not looked at)."""

def fingerprint(digest: Buffer, data: Buffer) -> int:
    """uint64 over the 16-byte digest and the dots of values and tombstones (not ``seen``): what Merkle leaves sum up. 0 for the empty set."""

def apply_batch(
    count: int,
    kinds: Buffer,
    previous: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
    data: Buffer,
    payload_starts: Buffer,
    payload_lengths: Buffer,
    expires_at_ms: Buffer,
    floors: Buffer,
    actor: int,
    stamp_first: int,
    stamp_limit: int,
    now_ms: int,
) -> Applied:
    """Run ``count`` operations on version sets in arrival order: the one loop of the data path.

    READ finds the newest live payload as ``newest`` does; REPLACE is ``event(current, None, ...)`` of a plain value, with values at or below
    the floor forgotten. Operation i sees the set that operation ``previous[i]`` made, or the stored one where that is -1 or was refused.
    The stamp of a REPLACE is the least that is >= stamp_first + i and greater than all it knows.

    Args:
        kinds: uint8 each: READ or REPLACE.
        previous: int32 each: index < i of the latest REPLACE of the same address in this batch, or -1.
        stored_status: uint8 each: STORED, ABSENT or ERROR.
        stored, stored_offsets: The stored sets one after another; int64, count + 1.
        data, payload_starts, payload_lengths: Payloads of REPLACE as slices of ``data``; int64 each.
        expires_at_ms: int64 each: absolute, or -1.
        floors: uint64 each.
    Raises:
        ValueError: A buffer is too short, a slice or an index is out of bounds.
    """
