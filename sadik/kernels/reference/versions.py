"""Version sets in plain Python: decode, apply the rule, encode again. Contract: ``native/versions.pyi``."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from operator import index
from typing import Final, NamedTuple

from sadik.errors import CorruptRecord, InvalidRequest, LimitReached
from sadik.kernels.buffers import Buffer

Entries = Sequence[tuple[int, int]]

TOMBSTONE: Final = 1
SIBLINGS_MAX: Final = 64
ENTRIES_MAX: Final = 64
COUNT_MAX: Final = 65535

OK, NOTHING, UNREADABLE, LIMIT, CLOCK = range(5)
READ, REPLACE = range(2)
STORED, ABSENT, ERROR = range(3)

HEADER = struct.Struct("<BBHH")
ENTRY = struct.Struct("<QQ")
HEAD = struct.Struct("<QQqIHBB")
UINT64_MAX = 2**64 - 1


class Value(NamedTuple):
    actor: int
    stamp: int
    flags: int
    kind: int
    expires_at_ms: int
    metadata: bytes
    payload: bytes


class Applied(NamedTuple):
    status: bytearray
    value_start: bytearray
    value_length: bytearray
    values: bytes | bytearray
    set_offsets: bytearray
    sets: bytes | bytearray
    stamp_last: int


def check_uint64(*numbers: int) -> None:
    for number in numbers:
        if not 0 <= index(number) <= UINT64_MAX:
            raise InvalidRequest("a number must be 0 to 2**64 - 1")


def check_time(time_ms: int) -> None:
    if not -1 <= index(time_ms) < 2**63:
        raise InvalidRequest("a time must be -1 or Unix milliseconds")


def checked_entries(entries: Entries) -> list[tuple[int, int]]:
    pairs = [(actor, stamp) for actor, stamp in entries]
    for actor, stamp in pairs:
        check_uint64(actor, stamp)
    if any(left[0] >= right[0] for left, right in pairwise(pairs)) or any(stamp == 0 for _, stamp in pairs):
        raise InvalidRequest("entries must be sorted by actor, one per actor, with stamps from 1")
    return pairs


def broken_rule(entries: list[tuple[int, int]], values: list[Value]) -> str | None:
    """The first invariant of a set that does not hold, or None."""
    seen = dict(entries)
    if any(left[0] >= right[0] for left, right in pairwise(entries)) or 0 in seen.values():
        return "its entries are not in order"
    if any(left[:2] >= right[:2] for left, right in pairwise(values)):
        return "its values are not in order"
    for value in values:
        if not 0 < value.stamp <= seen.get(value.actor, 0):
            return "it holds a value that its entries have not seen"
        odd_tombstone = value.flags == TOMBSTONE and value.payload
        if value.flags > TOMBSTONE or value.expires_at_ms < -1 or odd_tombstone:
            return "it holds a value with impossible fields"
    return None


def head_bytes(value: Value) -> bytes:
    return HEAD.pack(
        value.actor,
        value.stamp,
        value.expires_at_ms,
        len(value.payload),
        len(value.metadata),
        value.flags,
        value.kind,
    )


def packed(entries: list[tuple[int, int]], values: list[Value]) -> bytes:
    if not entries:
        return b""
    if len(entries) > COUNT_MAX or len(values) > COUNT_MAX:
        raise LimitReached(f"a version set holds at most {COUNT_MAX} entries and as many values")
    return b"".join(
        [
            HEADER.pack(1, 0, len(entries), len(values)),
            *(ENTRY.pack(*entry) for entry in entries),
            *(head_bytes(value) for value in values),
            *(value.metadata + value.payload for value in values),
        ]
    )


def encode(entries: Entries, values: Sequence[Value]) -> bytes:
    pairs = checked_entries(entries)
    checked = []
    if len(pairs) > COUNT_MAX or len(values) > COUNT_MAX:
        raise InvalidRequest(f"a version set holds at most {COUNT_MAX} entries and as many values")
    for actor, stamp, flags, kind, expires_at_ms, metadata, payload in values:
        check_fields(actor, stamp, flags, kind, expires_at_ms, metadata, payload)
        checked.append(Value(actor, stamp, flags, kind, expires_at_ms, bytes(metadata), bytes(payload)))
    if not pairs and checked:
        raise InvalidRequest("this is no version set: it holds values without entries")
    if rule := broken_rule(pairs, checked):
        raise InvalidRequest(f"this is no version set: {rule}")
    return packed(pairs, checked)


def check_fields(
    actor: int, stamp: int, flags: int, kind: int, expires_at_ms: int, metadata: bytes, payload: bytes
) -> None:
    check_uint64(actor, stamp)
    check_time(expires_at_ms)
    if not 0 <= flags <= TOMBSTONE or not 0 <= kind <= 255:
        raise InvalidRequest(f"flags must be 0 to {TOMBSTONE} and kind 0 to 255")
    if len(metadata) > 65535 or len(payload) > 2**32 - 1:
        raise InvalidRequest("metadata or payload is too long")


def decode(data: Buffer) -> tuple[list[tuple[int, int]], list[Value]]:
    raw = bytes(data)
    if not raw:
        return [], []
    try:
        version, zero, entry_count, value_count = HEADER.unpack_from(raw)
        if version != 1 or zero != 0 or entry_count == 0:
            raise CorruptRecord("not a version set: its header is not that of a version set of this format")
        at = HEADER.size
        entries = [ENTRY.unpack_from(raw, at + i * ENTRY.size) for i in range(entry_count)]
        at += entry_count * ENTRY.size
        heads = [HEAD.unpack_from(raw, at + i * HEAD.size) for i in range(value_count)]
        at += value_count * HEAD.size
    except struct.error:
        raise CorruptRecord("not a version set: its length differs from what it declares") from None
    values = []
    for actor, stamp, expires_at_ms, payload_length, metadata_length, flags, kind in heads:
        metadata = raw[at : at + metadata_length]
        at += metadata_length
        payload = raw[at : at + payload_length]
        at += payload_length
        values.append(Value(actor, stamp, flags, kind, expires_at_ms, metadata, payload))
    if at != len(raw):
        raise CorruptRecord("not a version set: its length differs from what it declares")
    if rule := broken_rule(entries, values):
        raise CorruptRecord(f"not a version set: {rule}")
    return entries, values


def validate(data: Buffer) -> None:
    decode(data)


def union(left: Entries, right: Entries) -> list[tuple[int, int]]:
    stamps = dict(left)
    for actor, stamp in right:
        stamps[actor] = max(stamp, stamps.get(actor, 0))
    return sorted(stamps.items())


def uncovered(values: list[Value], covers: Entries) -> list[Value]:
    seen = dict(covers)
    return [value for value in values if value.stamp > seen.get(value.actor, 0)]


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
    new = Value(actor, stamp, flags, kind, expires_at_ms, bytes(metadata), bytes(payload))
    check_fields(*new)
    if flags == TOMBSTONE and payload:
        raise InvalidRequest("a tombstone has no payload")
    entries, values = decode(current)
    covered = [] if covers is None else checked_entries(covers)
    if any(stamp <= known for _, known in [*entries, *covered]) or stamp == 0:
        raise InvalidRequest("the stamp of an event must be greater than every stamp it knows")
    kept = [] if covers is None else uncovered(values, covered)
    entries = union(union(entries, covered), [(actor, stamp)])
    if len(kept) + 1 > SIBLINGS_MAX:
        raise LimitReached(f"the write would leave more than {SIBLINGS_MAX} siblings")
    if len(entries) > ENTRIES_MAX:
        raise LimitReached(f"the write would leave more than {ENTRIES_MAX} actors")
    return packed(entries, sorted([*kept, new]))


def merge(left: Buffer, right: Buffer) -> bytes:
    left_entries, left_values = decode(left)
    right_entries, right_values = decode(right)
    left_dots = {value[:2]: value for value in left_values}
    right_dots = {value[:2]: value for value in right_values}
    kept = {value[:2]: value for value in uncovered(left_values, right_entries)}
    kept |= {value[:2]: value for value in uncovered(right_values, left_entries)}
    for dot in left_dots.keys() & right_dots.keys():
        kept[dot] = max(
            left_dots[dot],
            right_dots[dot],
            key=lambda value: head_bytes(value) + value.metadata + value.payload,
        )
    return packed(union(left_entries, right_entries), [kept[dot] for dot in sorted(kept)])


def discard(data: Buffer, covers: Entries) -> bytes:
    entries, values = decode(data)
    covered = checked_entries(covers)
    return packed(union(entries, covered), uncovered(values, covered))


def keep_newest(data: Buffer) -> bytes:
    entries, values = decode(data)
    return packed(entries, sorted(values, key=age)[-1:])


def prune(data: Buffer, horizon: int) -> bytes:
    check_uint64(horizon)
    entries, values = decode(data)
    kept = [value for value in values if value.flags != TOMBSTONE or value.stamp >= horizon]
    valued = {value.actor for value in kept}
    return packed([(actor, seen) for actor, seen in entries if actor in valued or seen >= horizon], kept)


def forget(data: Buffer, horizon: int) -> bytes:
    check_uint64(horizon)
    entries, values = decode(data)
    valued = {value.actor for value in values}
    return packed([(actor, seen) for actor, seen in entries if actor in valued or seen >= horizon], values)


def context(data: Buffer) -> list[tuple[int, int]]:
    return decode(data)[0]


def stamp_max(data: Buffer) -> int:
    return max((stamp for _, stamp in context(data)), default=0)


def age(value: Value) -> tuple[int, int]:
    return value.stamp, value.actor


def is_live(value: Value, now_ms: int) -> bool:
    return value.flags != TOMBSTONE and (value.expires_at_ms == -1 or value.expires_at_ms > now_ms)


def siblings(data: Buffer, floor: int, now_ms: int) -> list[Value]:
    check_uint64(floor)
    check_time(now_ms)
    live = [value for value in decode(data)[1] if value.stamp > floor and is_live(value, now_ms)]
    return sorted(live, key=age, reverse=True)


def newest(data: Buffer, floor: int, now_ms: int) -> Value | None:
    check_uint64(floor)
    check_time(now_ms)
    above = [value for value in decode(data)[1] if value.stamp > floor]
    value = max(above, key=age, default=None)
    return value if value is not None and is_live(value, now_ms) else None


def is_dead(data: Buffer) -> bool:
    return all(value.flags == TOMBSTONE for value in decode(data)[1])


def mix(word: int) -> int:
    word ^= word >> 30
    word = word * 0xBF58476D1CE4E5B9 % 2**64
    word ^= word >> 27
    word = word * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def fingerprint(digest: Buffer, data: Buffer) -> int:
    raw = bytes(digest)
    if len(raw) < 16:
        raise ValueError(f"digest has {len(raw)} bytes, 16 are needed")
    _, values = decode(data)
    if not values:
        return 0
    words = [int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:16], "little")]
    for value in values:
        words += [value.actor, value.stamp]
    state = 0
    for word in words:
        state = mix(((state ^ word) + 0x9E3779B97F4A7C15) % 2**64)
    return state or 1


def int_array(data: Buffer, item: str, count: int, name: str) -> tuple[int, ...]:
    form = struct.Struct(f"<{count}{item}")
    raw = bytes(data)
    if len(raw) < form.size:
        raise ValueError(f"{name} has {len(raw)} bytes, {form.size} are needed")
    return form.unpack_from(raw)


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
    check_uint64(actor, stamp_first, stamp_limit)
    check_time(now_ms)
    if count < 0:
        raise ValueError("count must not be negative")
    kind = int_array(kinds, "B", count, "kinds")
    before = int_array(previous, "i", count, "previous")
    state = int_array(stored_status, "B", count, "stored_status")
    bounds = int_array(stored_offsets, "q", count + 1, "stored_offsets")
    start = int_array(payload_starts, "q", count, "payload_starts")
    length = int_array(payload_lengths, "q", count, "payload_lengths")
    expiry = int_array(expires_at_ms, "q", count, "expires_at_ms")
    floor = int_array(floors, "Q", count, "floors")
    held, content = bytes(stored), bytes(data)
    if not 0 <= bounds[0] <= bounds[-1] <= len(held) or list(bounds) != sorted(bounds):
        raise ValueError("stored_offsets must ascend within stored")
    for i in range(count):
        if kind[i] > REPLACE or state[i] > ERROR:
            raise ValueError("an operation has an unknown kind or stored status")
        if before[i] != -1 and not (0 <= before[i] < i and kind[before[i]] == REPLACE):
            raise ValueError("previous must be -1 or the index of an earlier REPLACE")
        if kind[i] == REPLACE:
            if start[i] < 0 or length[i] < 0 or start[i] + length[i] > len(content):
                raise ValueError("a payload lies outside data")
            if length[i] > 2**32 - 1 or expiry[i] < -1:
                raise ValueError("a payload is too long, or expires_at_ms is not a time")

    status, stamps = bytearray(), [0]
    made: list[bytes | None] = []  # by operation: what its followers see, None for what is stored
    read_at: dict[int, int] = {}  # by REPLACE: where its payload stands in `values`
    starts, lengths, offsets, values, sets = [], [], [0], bytearray(), bytearray()
    writer: list[int] = []
    for i in range(count):
        origin = writer[before[i]] if before[i] >= 0 else -1
        current: bytes | None
        if origin >= 0:
            current = made[origin]
        elif state[i] == ABSENT:
            current = b""
        else:
            current = held[bounds[i] : bounds[i + 1]] if state[i] == STORED else None
            try:
                validate(current or b"")
            except CorruptRecord:
                current = None
        outcome, place, size, new = UNREADABLE, 0, 0, None
        if current is not None and kind[i] == READ:
            value = newest(current, floor[i], now_ms)
            outcome = NOTHING if value is None else OK
            if value is not None:
                size = len(value.payload)
                place = read_at.get(origin, len(values))
                if place == len(values):
                    values += value.payload
                if origin >= 0:
                    read_at[origin] = place
        elif current is not None:
            stamp = max(stamp_first + i, stamp_max(current) + 1, floor[i] + 1)
            payload = content[start[i] : start[i] + length[i]]
            known = {known_actor for known_actor, _ in context(current)}
            if len(known | {actor}) > ENTRIES_MAX:
                outcome = LIMIT
            elif stamp > stamp_limit:
                outcome = CLOCK
            else:
                outcome = OK
                new = event(current, None, actor, stamp, 0, 0, expiry[i], b"", payload)
                sets += new
                stamps.append(stamp)
        status.append(outcome)
        starts.append(place)
        lengths.append(size)
        offsets.append(len(sets))
        made.append(new)
        writer.append(i if new is not None else origin)

    def array(numbers: list[int]) -> bytearray:
        return bytearray(struct.pack(f"<{len(numbers)}q", *numbers))

    return Applied(status, array(starts), array(lengths), values, array(offsets), sets, max(stamps))
