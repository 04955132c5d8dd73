"""Plain twin of the replica kernel; the stub ``native/replica.pyi`` is the contract."""

from __future__ import annotations

import struct
from typing import NamedTuple

from sadik.errors import CorruptRecord, LimitReached
from sadik.kernels.buffers import Buffer
from sadik.kernels.reference.versions import (
    ABSENT,
    ERROR,
    STORED,
    fingerprint,
    is_dead,
    keep_newest,
    merge,
    stamp_max,
    validate,
)

SAME, DIFFERENT, UNREADABLE = range(3)
MERGED, KNOWN, INVALID, LIMIT, CLOCK = range(5)


class Fingerprints(NamedTuple):
    before: bytearray
    after: bytearray


class Compared(NamedTuple):
    status: bytearray
    sets: bytearray
    set_offsets: bytearray


class Merged(NamedTuple):
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
    _check_count(count)
    keys = _digests(count, digests)
    links = _links(count, previous)
    kept = _stored(count, stored_status, stored, stored_offsets)
    made = _slices(count, sets, set_offsets, "set_offsets")
    before: list[int] = []
    after: list[int] = []
    seen: list[bytes] = []
    for i in range(count):
        current = seen[links[i]] if links[i] >= 0 and seen[links[i]] else kept[i] or b""
        before.append(fingerprint(keys[i], current))
        if made[i]:
            try:
                validate(made[i])
            except CorruptRecord as error:
                raise ValueError("sets holds what is no version set") from error
        # What followers see: the latest set made along the links, or nothing made yet.
        seen.append(made[i] or (seen[links[i]] if links[i] >= 0 else b""))
        after.append(fingerprint(keys[i], made[i] or current))
    return Fingerprints(_words(before), _words(after))


def compare_batch(
    count: int,
    digests: Buffer,
    fingerprints: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
) -> Compared:
    _check_count(count)
    keys = _digests(count, digests)
    theirs = _numbers(fingerprints, "Q", count, "fingerprints")
    kept = _stored(count, stored_status, stored, stored_offsets)
    status, sets, offsets = bytearray(), bytearray(), [0]
    for key, print_, held in zip(keys, theirs, kept, strict=True):
        if held is None:
            status.append(UNREADABLE)
        elif fingerprint(key, held) == print_:
            status.append(SAME)
        else:
            status.append(DIFFERENT)
            sets += held
        offsets.append(len(sets))
    return Compared(status, sets, _places(offsets))


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
    _check_count(count)
    if not 0 <= stamp_limit < 1 << 64:
        raise ValueError("stamp_limit must be 0 to 2**64 - 1")
    keys = _digests(count, digests)
    links = _links(count, previous)
    kept = _stored(count, stored_status, stored, stored_offsets)
    content = bytes(data)
    starts = _numbers(set_starts, "q", count, "set_starts")
    lengths = _numbers(set_lengths, "q", count, "set_lengths")
    only = _numbers(newest_only, "B", count, "newest_only")
    for start, length in zip(starts, lengths, strict=True):
        if start < 0 or length < 0 or start + length > len(content):
            raise ValueError("a set lies outside data")
    status, sets, offsets, dead = bytearray(), bytearray(), [0], bytearray()
    before: list[int] = []
    after: list[int] = []
    made: list[bytes | None] = []
    unreadable = last = 0
    for i in range(count):
        incoming = content[starts[i] : starts[i] + lengths[i]]
        base = made[links[i]] if links[i] >= 0 else None
        outcome, result = _merge_one(incoming, stamp_limit)
        if outcome == MERGED:
            if base is None:
                base = kept[i]
                unreadable += base is None
            try:
                result = merge(base or b"", incoming)
                if result != (base or b"") and only[i]:
                    result = keep_newest(result)
            except LimitReached:
                outcome = LIMIT
            else:
                outcome = KNOWN if result == (base or b"") else MERGED
        status.append(outcome)
        dead.append(outcome == MERGED and is_dead(result))
        if outcome == MERGED:
            before.append(fingerprint(keys[i], base or b""))
            after.append(fingerprint(keys[i], result))
            sets += result
            last = max(last, stamp_max(incoming))
            made.append(result)
        else:
            before.append(0)
            after.append(0)
            made.append(made[links[i]] if links[i] >= 0 else None)
        offsets.append(len(sets))
    return Merged(status, sets, _places(offsets), dead, _words(before), _words(after), unreadable, last)


def _merge_one(incoming: bytes, stamp_limit: int) -> tuple[int, bytes]:
    """Whether an incoming set may be merged at all."""
    try:
        validate(incoming)
    except CorruptRecord:
        return INVALID, b""
    if not incoming:
        return INVALID, b""
    return (CLOCK if stamp_max(incoming) > stamp_limit else MERGED), b""


def _check_count(count: int) -> None:
    if count < 0:
        raise ValueError("count must not be negative")


def _numbers(source: Buffer, code: str, count: int, name: str) -> tuple[int, ...]:
    size = struct.calcsize(code)
    raw = bytes(source)
    if len(raw) < size * count:
        raise ValueError(f"{name} has {len(raw)} bytes, {size * count} are needed")
    return struct.unpack(f"={count}{code}", raw[: size * count])


def _digests(count: int, digests: Buffer) -> list[bytes]:
    raw = bytes(_numbers(digests, "B", 16 * count, "digests"))
    return [raw[16 * i : 16 * i + 16] for i in range(count)]


def _links(count: int, previous: Buffer) -> tuple[int, ...]:
    links = _numbers(previous, "i", count, "previous")
    if any(not -1 <= link < i for i, link in enumerate(links)):
        raise ValueError("previous must be -1 or the index of an earlier operation")
    return links


def _slices(count: int, data: Buffer, offsets: Buffer, name: str) -> list[bytes]:
    raw = bytes(data)
    places = _numbers(offsets, "q", count + 1, name)
    if places[0] < 0 or list(places) != sorted(places) or places[-1] > len(raw):
        raise ValueError(f"{name} must ascend within their buffer")
    return [raw[places[i] : places[i + 1]] for i in range(count)]


def _stored(count: int, status: Buffer, stored: Buffer, offsets: Buffer) -> list[bytes | None]:
    """Stored sets, None where unreadable."""
    states = _numbers(status, "B", count, "stored_status")
    if any(state > ERROR for state in states):
        raise ValueError("stored_status must be STORED, ABSENT or ERROR")
    kept: list[bytes | None] = []
    for state, data in zip(states, _slices(count, stored, offsets, "stored_offsets"), strict=True):
        held: bytes | None = None
        if state == ABSENT:
            held = b""
        elif state == STORED:
            try:
                validate(data)
                held = data
            except CorruptRecord:
                held = None
        kept.append(held)
    return kept


def _words(numbers: list[int]) -> bytearray:
    return bytearray(struct.pack(f"={len(numbers)}Q", *numbers))


def _places(offsets: list[int]) -> bytearray:
    return bytearray(struct.pack(f"={len(offsets)}q", *offsets))
