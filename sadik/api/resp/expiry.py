"""Times to live: EXPIRE and its family, and how SET, GETEX and SETEX read theirs.

Every value carries its expiry as an absolute time, so it is the same on every replica. To change it is
to write the value anew under a new dot; a time that has passed writes a tombstone. Nothing is ever
deleted silently on one node.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from sadik.api.resp.arguments import (
    INT64_MAX,
    INT64_MIN,
    SYNTAX_ERROR,
    option_word,
    parse_integer,
    shown,
)
from sadik.api.resp.call import Call, Command, CommandError
from sadik.api.resp.replies import ONE, ZERO, integer
from sadik.node.records import Record

_MS: Final = 1
_SECONDS: Final = 1000

UNITS: Final = {
    b"EX": (_SECONDS, True),
    b"PX": (_MS, True),
    b"EXAT": (_SECONDS, False),
    b"PXAT": (_MS, False),
}
"""Option: milliseconds in its unit, and whether it counts from now."""


def invalid_expire_time(command: str) -> CommandError:
    return CommandError(f"ERR invalid expire time in '{command}' command")


def parse_expiry(call: Call, option: bytes, argument: bytes, command: str) -> int:
    """Unix milliseconds from the argument of EX, PX, EXAT or PXAT, which must be positive.

    Raises:
        CommandError: Not an integer; zero, negative, or beyond 64 bits of milliseconds.
    """
    unit_ms, relative = UNITS[option]
    number = parse_integer(argument)
    when = number * unit_ms + (call.now_ms if relative else 0)
    if number <= 0 or when > INT64_MAX:
        raise invalid_expire_time(command)
    return when


def write_expiring(record: Record, now_ms: int, payload: bytes, when: int, metadata: bytes = b"") -> None:
    """Write a value that goes at ``when`` (-1: never); a tombstone where that has passed."""
    if -1 < when <= now_ms:
        record.delete()
    else:
        record.put(payload, when, metadata=metadata)


def change_expiry(record: Record, now_ms: int, when: int) -> None:
    """Write the newest live value anew with another expiry; there must be one."""
    value = record.value
    assert value is not None
    write_expiring(record, now_ms, value.payload, when, value.metadata)


def expire(command: str, unit_ms: int, relative: bool, call: Call) -> bytes:
    """EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT key time [NX | XX | GT | LT]; 1 where the expiry was set."""
    conditions = _conditions(call.arguments[3:])
    number = parse_integer(call.arguments[2])
    when = number * unit_ms
    if not INT64_MIN <= when <= INT64_MAX:
        raise invalid_expire_time(command)
    when += call.now_ms if relative else 0
    if when > INT64_MAX:
        raise invalid_expire_time(command)
    record = call.records[0]
    if not record.exists or not _allowed(conditions, record.expires_at_ms, when):
        return ZERO
    # A negative time is long past; -1 itself would mean "never" to the record.
    change_expiry(record, call.now_ms, max(when, 0))
    return ONE


def _conditions(arguments: list[bytes]) -> set[bytes]:
    conditions = set()
    for argument in arguments:
        word = option_word(argument)
        if word not in (b"NX", b"XX", b"GT", b"LT"):
            raise CommandError(f"ERR Unsupported option {shown(argument)}")
        conditions.add(word)
    if b"NX" in conditions and len(conditions) > 1:
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= conditions:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    return conditions


def _allowed(conditions: set[bytes], current: int, when: int) -> bool:
    """Whether a key that goes at ``current`` (-1: never, which GT and LT take as the end of time) may
    get ``when``.
    """
    return not (
        (b"NX" in conditions and current != -1)
        or (b"XX" in conditions and current == -1)
        or (b"GT" in conditions and (current == -1 or when <= current))
        or (b"LT" in conditions and current != -1 and when >= current)
    )


def remaining(unit_ms: int, absolute: bool, call: Call) -> bytes:
    """TTL, PTTL, EXPIRETIME and PEXPIRETIME key; -2 for no key, -1 for no expiry. Seconds are rounded to
    the nearest.
    """
    record = call.records[0]
    if not record.exists:
        return integer(-2)
    when = record.expires_at_ms
    if when == -1:
        return integer(-1)
    length_ms = when if absolute else max(when - call.now_ms, 0)
    return integer(length_ms if unit_ms == _MS else (length_ms + 500) // 1000)


def persist(call: Call) -> bytes:
    """PERSIST key; 1 where an expiry was taken away."""
    record = call.records[0]
    if record.expires_at_ms == -1:
        return ZERO
    change_expiry(record, call.now_ms, -1)
    return ONE


def getex_expiry(arguments: list[bytes]) -> tuple[bytes, bytes]:
    """The one option of GETEX and its argument, each ``b""`` where there is none.

    A repeated option counts once, with its last argument, as Redis has it.
    """
    found, argument = b"", b""
    rest = iter(arguments)
    for item in rest:
        word = option_word(item)
        operand = next(rest, None) if word in UNITS else b""
        if (word != b"PERSIST" and word not in UNITS) or operand is None or found not in (b"", word):
            raise CommandError(SYNTAX_ERROR)
        found, argument = word, operand
    return found, argument


_READ: Final = ("readonly", "fast")
_WRITE: Final = ("write", "fast")


def _expire_row(name: str, since: str, unit_ms: int, relative: bool, summary: str) -> Command:
    return Command(
        name, -3, _WRITE, 1, 1, 1, "generic", since, summary, partial(expire, name, unit_ms, relative)
    )


def _remaining_row(name: str, since: str, unit_ms: int, absolute: bool, summary: str) -> Command:
    return Command(name, 2, _READ, 1, 1, 1, "generic", since, summary, partial(remaining, unit_ms, absolute))


ROWS: Final = (
    _expire_row("expire", "1.0.0", _SECONDS, True, "Lets a key go after some seconds."),
    _expire_row("pexpire", "2.6.0", _MS, True, "Lets a key go after some milliseconds."),
    _expire_row("expireat", "1.2.0", _SECONDS, False, "Lets a key go at a Unix time in seconds."),
    _expire_row("pexpireat", "2.6.0", _MS, False, "Lets a key go at a Unix time in milliseconds."),
    _remaining_row("ttl", "1.0.0", _SECONDS, False, "Seconds until a key goes."),
    _remaining_row("pttl", "2.6.0", _MS, False, "Milliseconds until a key goes."),
    _remaining_row("expiretime", "7.0.0", _SECONDS, True, "Unix time in seconds at which a key goes."),
    _remaining_row("pexpiretime", "7.0.0", _MS, True, "Unix time in milliseconds at which a key goes."),
    Command("persist", 2, _WRITE, 1, 1, 1, "generic", "2.2.0", "Takes a key's expiry away.", persist),
)
