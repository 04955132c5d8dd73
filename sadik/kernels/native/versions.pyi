"""Version sets: the state of one key, as bytes. Event, merge, discard and views work on the encoding itself.

A version set holds, for each actor, ``seen`` (every event of that actor with stamp <= seen is known here),
and the values still alive, each with its dot (actor, stamp). It is DVVSet with sparse counters (Almeida et
al., "Scalable and accurate causality tracking for eventually consistent stores", and Garage's K2V).
Invariants of every encoded set:

* entries sorted by actor, one per actor; values sorted by (actor, stamp), one per dot; each value's actor has
  an entry with ``seen`` >= its stamp;
* equal states have equal bytes (the encoding is canonical);
* the empty set (nothing known) is ``b""``; anything else starts with the version byte 1 and has at least one
  entry.

The bytes, little-endian, fixed for version 1 for ever (pinned by test vectors). Fixed widths, heads before
bodies: everything but the payload is found without decoding, and merge and comparison of dots never touch a
payload's page::

    header     0  version, 1          u8
               1  zero                u8
               2  E, entries          u16, 1 to 65535
               4  V, values           u16
    E entries     actor               u64     } 16 bytes each
                  seen                u64, >= 1
    V heads       actor               u64     } 32 bytes each
                  stamp               u64, >= 1
                  expires_at_ms       i64, >= -1
                  payload bytes P     u32
                  metadata bytes M    u16
                  flags               u8, 0 or TOMBSTONE
                  kind                u8
    V bodies      metadata, M bytes, then payload, P bytes; in the order of the heads

A set of one actor and one value takes 54 bytes and its payload. A flag this version does not know makes a set
invalid: its meaning could change what is alive. New flags come with a new version byte.

Ids and stamps are uint64; times are Unix milliseconds below 2**63. ``Entries`` (a causal context) is a
sequence of (actor, stamp), strictly ascending by actor, stamps from 1. A truncation *floor* is a stamp:
values with stamp <= floor do not exist for a reader (FLUSHDB). A value is expired from the millisecond
``expires_at_ms`` on. Every function that takes encoded sets raises ``CorruptRecord`` when the bytes are not a
valid set, before reading beyond them, and ``InvalidRequest`` for numbers out of range and entries out of
order. All cost one pass over entries and heads, plus the copy of what they return; what ``merge``,
``keep_newest``, ``prune`` and ``forget`` leave as it is comes back as the object that was given, if that is
``bytes``.
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
COUNT_MAX: Final[int]
"""65535 entries and as many values are what the format can hold, far above any real set."""

# Statuses of ``apply_batch``.
OK: Final[int]
NOTHING: Final[int]
"""A read that found no live value."""
UNREADABLE: Final[int]
"""The stored set could not be read, or is not a valid set."""
LIMIT: Final[int]
CLOCK: Final[int]
"""The stamp needed lies beyond ``stamp_limit``."""

# Kinds of ``apply_batch``.
READ: Final[int]
REPLACE: Final[int]

# Statuses of the stored set of each operation, as the engines' ``read_batch`` gives them.
STORED: Final[int]
ABSENT: Final[int]
"""Nothing is stored: the empty set, whatever the offsets say."""
ERROR: Final[int]

class Value(NamedTuple):
    """One sibling."""

    actor: int
    stamp: int
    flags: int
    """0 or TOMBSTONE."""
    kind: int
    """Data type of the payload: 0 is opaque bytes; 1 to 255 are kept for converging types."""
    expires_at_ms: int
    """Absolute Unix milliseconds, or -1 for never."""
    metadata: bytes
    """Content type and user metadata as the API encodes them; empty for RESP. At most 65535 bytes."""
    payload: bytes

class Applied(NamedTuple):
    """What ``apply_batch`` gives; arrays hold one item of the type named per operation."""

    status: bytearray
    """uint8."""
    value_start: bytearray
    """int64: offset in ``values`` of the newest live payload of a READ with status OK; else 0."""
    value_length: bytearray
    """int64; 0 unless a READ with status OK."""
    values: bytes | bytearray
    """Payloads read. Reads of a value written in the same batch share one copy, so slices may overlap."""
    set_offsets: bytearray
    """int64, count + 1: where each new set is in ``sets``; empty where nothing is to be stored."""
    sets: bytes | bytearray
    """Made by accepted REPLACEs, one after another, ready for ``Engine.write_batch``."""
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
    """``current`` after a write: what ``covers`` covers goes, ``seen`` rises to it, the new value joins.

    ``covers=None`` covers everything in ``current``; ``()`` covers nothing, so the new value becomes a
    sibling. Entries stay, with or without values: dropping them is ``forget``'s and ``prune``'s
    part.

    Raises:
        InvalidRequest: ``stamp`` is not greater than every stamp in ``current`` and ``covers``, or a
            tombstone has a payload.
        LimitReached: More than SIBLINGS_MAX values or ENTRIES_MAX entries would remain.
    """

def merge(left: Buffer, right: Buffer) -> bytes:
    """Least upper bound: a value stays if both have its dot, or one has it and the other has not seen it.

    Commutative, associative, idempotent, byte for byte. Should one dot ever stand for two values (a broken
    promise of the actors), the one whose encoded head, metadata and payload compare greater stays, so that
    replicas still converge.
    Cost: one pass over both; nothing is built in the common case that one side already is the result.

    Source: Dotted Version Vector Sets, function ``sync``, with sparse counters as in Garage's K2V.
    Raises:
        LimitReached: More than COUNT_MAX entries or values.
    """

def discard(data: Buffer, covers: Entries) -> bytes:
    """Drop the values that ``covers`` has seen and raise ``seen`` to it.

    ``event(current, covers, ...)`` is ``discard(current, covers)`` followed by the new dot.
    """

def keep_newest(data: Buffer) -> bytes:
    """Only the newest value by (stamp, actor); entries stay: the ``lww`` bucket's rule at merge."""

def prune(data: Buffer, horizon: int) -> bytes:
    """Drop tombstones with stamp < ``horizon``, then entries without values with seen < ``horizon``.

    ``b""`` when nothing is left.
    Safe only when no replica can still come back with what is forgotten here; ten days by default.
    """

def forget(data: Buffer, horizon: int) -> bytes:
    """Drop entries without values with seen < ``horizon``; tombstones stay, as values do.

    What keeps a key writable that many runs of one node have written: each run is an actor, and its entry
    outlives its values.
    Safe only where no other copy holds a value below ``horizon``: on a node that is alone in its cluster
    nothing does, elsewhere as for ``prune``.
    """

def context(data: Buffer) -> list[tuple[int, int]]:
    """The entries: what a reader of this set has seen."""

def stamp_max(data: Buffer) -> int:
    """The greatest stamp in entries, 0 for the empty set."""

def siblings(data: Buffer, floor: int, now_ms: int) -> list[Value]:
    """Live values above ``floor``, newest first by (stamp, actor): no tombstones, nothing expired."""

def newest(data: Buffer, floor: int, now_ms: int) -> Value | None:
    """What RESP GET shows: the newest value above ``floor`` by (stamp, actor).

    None when that one is a tombstone, expired, or absent. A tombstone competes: a delete newer than every
    value hides older siblings from this view.
    """

def is_dead(data: Buffer) -> bool:
    """True when no value but tombstones is left (expiry is not looked at)."""

def fingerprint(digest: Buffer, data: Buffer) -> int:
    """uint64 over the 16-byte digest and the dots of values and tombstones: what Merkle leaves sum up.

    0 exactly when there is no value: a replica that only remembers what it saw equals one that holds nothing.
    Nodes compare it, so it is pinned: ``h = 0``; for each word of digest[0:8], digest[8:16]
    (little-endian), then actor and stamp of each value in order: ``h = mix((h ^ word) +
    0x9E3779B97F4A7C15)``; at last 0 becomes 1. ``mix`` is the finaliser of splitmix64. Not cryptographic: a
    digest that users cannot choose freely goes in first.

    Raises:
        ValueError: ``digest`` is shorter than 16 bytes.
    """

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

    READ finds the newest live payload as ``newest`` does; REPLACE is ``event(current, None, ...)`` of a plain
    value. Operation i sees the set that operation ``previous[i]`` made; where that one was refused, what it
    would have seen itself; at the chain's end (-1), its own stored set. The stamp of a REPLACE is the least
    that is >= stamp_first + i and greater than all it knows and its floor. A refusal (LIMIT before CLOCK) is
    of that operation alone.

    Cost: tens of nanoseconds an operation plus the copy of its payload; no Python object per operation.

    Args:
        kinds: uint8 each: READ or REPLACE.
        previous: int32 each: index < i of the latest REPLACE of the same address in this batch, or -1 (see
            ``resp.chain``).
        stored_status: uint8 each: STORED, ABSENT or ERROR.
        stored, stored_offsets: The stored sets one after another; int64, count + 1. Sets are checked when
            used: UNREADABLE if invalid.
        data, payload_starts, payload_lengths: Payloads of REPLACE as slices of ``data``; int64 each.
        expires_at_ms: int64 each: absolute, or -1.
        floors: uint64 each.
        stamp_first: First of ``count`` stamps reserved for this batch.
        stamp_limit: Greatest stamp that may be minted now.
    Raises:
        ValueError: A buffer is too short, a slice, an index or a number is out of bounds. Nothing was done.
    """
