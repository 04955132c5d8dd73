"""String commands.

A plain SET replaces what is stored without looking at it. Whatever depends on the old value (NX, XX,
GET, KEEPTTL, APPEND, SETRANGE, GETSET, GETDEL, GETEX) reads the newest live value and writes with the
context of that read. Check-then-act forms are *advisory*: two sides of a split cluster may both find
that a key is missing. They are no locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.api.resp.arguments import (
    SYNTAX_ERROR,
    check_string_bytes,
    check_value_bytes,
    default_expiry_ms,
    option_word,
    parse_integer,
)
from sadik.api.resp.call import DEFAULT, Call, Command, CommandError
from sadik.api.resp.expiry import UNITS, change_expiry, getex_expiry, parse_expiry, write_expiring
from sadik.api.resp.lookup import wrong_arity_error
from sadik.api.resp.replies import EMPTY_BULK, OK, ONE, ZERO, array, bulk, integer, null
from sadik.node.coordinator.options import Options
from sadik.node.records import Record

_LOOKING: Final = frozenset({b"NX", b"XX", b"GET", b"KEEPTTL"})
"""Options with which SET depends on what is there."""


def _newest(call: Call, record: Record) -> bytes:
    """The newest live value as a reply."""
    value = record.value
    return null(call.session.protocol) if value is None else bulk(value.payload)


def get(call: Call) -> bytes:
    """GET key."""
    return _newest(call, call.records[0])


def set_(call: Call) -> bytes:
    """SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]."""
    payload = call.arguments[2]
    options, timer, time = _set_options(call.arguments[3:])
    when = parse_expiry(call, timer, time, "set") if timer else default_expiry_ms(call)
    check_value_bytes(call, len(payload))
    record = call.records[0]
    old = _newest(call, record) if b"GET" in options else None
    if (b"NX" in options and record.exists) or (b"XX" in options and not record.exists):
        return null(call.session.protocol) if old is None else old
    if b"KEEPTTL" in options and record.exists:
        when = record.expires_at_ms
    write_expiring(record, call.now_ms, payload, when)
    return OK if old is None else old


def _set_options(arguments: list[bytes]) -> tuple[set[bytes], bytes, bytes]:
    """The words among SET's options, its expiry option, and that one's argument.

    NX excludes XX, and an expiry option every other one; the same one may be repeated and the last
    counts, as Redis has it.
    """
    words: set[bytes] = set()
    timer, time = b"", b""
    rest = iter(arguments)
    for item in rest:
        word = option_word(item)
        if word in UNITS:
            operand = next(rest, None)
            if operand is None or timer not in (b"", word) or b"KEEPTTL" in words:
                raise CommandError(SYNTAX_ERROR)
            timer, time = word, operand
        elif (
            word == b"GET"
            or (word == b"NX" and b"XX" not in words)
            or (word == b"XX" and b"NX" not in words)
            or (word == b"KEEPTTL" and not timer)
        ):
            words.add(word)
        else:
            raise CommandError(SYNTAX_ERROR)
    return words, timer, time


def set_is_blind(arguments: list[bytes]) -> bool:
    """Whether SET with these arguments replaces whatever is there; malformed ones may count as either."""
    return not any(option_word(word) in _LOOKING for word in arguments[3:])


def always_blind(arguments: list[bytes]) -> bool:
    """Of commands that only write."""
    return True


def setnx(call: Call) -> bytes:
    """SETNX key value."""
    check_value_bytes(call, len(call.arguments[2]))
    if call.records[0].exists:
        return ZERO
    call.records[0].put(call.arguments[2], default_expiry_ms(call))
    return ONE


def setex(call: Call) -> bytes:
    """SETEX key seconds value."""
    return _set_for(call, b"EX", "setex")


def psetex(call: Call) -> bytes:
    """PSETEX key milliseconds value."""
    return _set_for(call, b"PX", "psetex")


def _set_for(call: Call, timer: bytes, command: str) -> bytes:
    _, _, time, payload = call.arguments
    when = parse_expiry(call, timer, time, command)
    check_value_bytes(call, len(payload))
    call.records[0].put(payload, when)
    return OK


def getset(call: Call) -> bytes:
    """GETSET key value."""
    check_value_bytes(call, len(call.arguments[2]))
    old = _newest(call, call.records[0])
    call.records[0].put(call.arguments[2], default_expiry_ms(call))
    return old


def getdel(call: Call) -> bytes:
    """GETDEL key."""
    record = call.records[0]
    old = _newest(call, record)
    if record.exists:
        record.delete()
    return old


def getex(call: Call) -> bytes:
    """GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]."""
    timer, time = getex_expiry(call.arguments[2:])
    record = call.records[0]
    old = _newest(call, record)
    if not record.exists:
        return old
    if timer == b"PERSIST":
        if record.expires_at_ms != -1:
            change_expiry(record, call.now_ms, -1)
    elif timer:
        change_expiry(record, call.now_ms, parse_expiry(call, timer, time, "getex"))
    return old


def mget(call: Call) -> bytes:
    """MGET key [key ...]."""
    return array([_newest(call, record) for record in call.records])


def mset(call: Call) -> bytes:
    """MSET key value [key value ...]: each key on its own, not atomic over all of them."""
    payloads = call.arguments[2::2]
    for payload in payloads:
        check_value_bytes(call, len(payload))
    when = default_expiry_ms(call)
    for record, payload in zip(call.records, payloads, strict=True):
        record.put(payload, when)
    return OK


def mset_options(arguments: list[bytes]) -> Options:
    """None; but the pairs are counted here, before any of them goes its way."""
    if len(arguments) % 2 == 0:
        raise wrong_arity_error("mset")
    return DEFAULT


def all_done(replies: Sequence[bytes]) -> bytes:
    """One reply for the parts of MSET."""
    return OK


def strlen(call: Call) -> bytes:
    """STRLEN key."""
    return integer(len(call.records[0].payload))


def append(call: Call) -> bytes:
    """APPEND key value."""
    return _rewrite(call, call.records[0].payload + call.arguments[2])


def setrange(call: Call) -> bytes:
    """SETRANGE key offset value; the gap before ``offset`` is filled with zero bytes."""
    offset = parse_integer(call.arguments[2])
    if offset < 0:
        raise CommandError("ERR offset is out of range")
    patch = call.arguments[3]
    old = call.records[0].payload
    if not patch:
        return integer(len(old))
    # Checked before anything of that length is built.
    check_string_bytes(call, offset + len(patch))
    return _rewrite(call, old[:offset].ljust(offset, b"\0") + patch + old[offset + len(patch) :])


def _rewrite(call: Call, payload: bytes) -> bytes:
    """Replace the payload and keep the rest of the value; the reply is the new length."""
    check_string_bytes(call, len(payload))
    record = call.records[0]
    value = record.value
    if value is None:
        record.put(payload, default_expiry_ms(call))
    else:
        record.put(payload, value.expires_at_ms, metadata=value.metadata)
    return integer(len(payload))


def getrange(call: Call) -> bytes:
    """GETRANGE key start end: both ends belong to it, negative ones count from the end of the value."""
    start, end = parse_integer(call.arguments[2]), parse_integer(call.arguments[3])
    payload = call.records[0].payload
    if start < 0 and end < 0 and start > end:
        return EMPTY_BULK
    if start < 0:
        start = max(start + len(payload), 0)
    if end < 0:
        end = max(end + len(payload), 0)
    return bulk(payload[start : end + 1])


_READ: Final = ("readonly",)
_READ_FAST: Final = ("readonly", "fast")
_WRITE: Final = ("write", "denyoom")
_WRITE_FAST: Final = ("write", "denyoom", "fast")
_STRING: Final = "string"

ROWS: Final = (
    Command("get", 2, _READ_FAST, 1, 1, 1, _STRING, "1.0.0", "The newest value of a key.", get),
    Command(
        *("set", -3, _WRITE, 1, 1, 1, _STRING, "1.0.0", "Writes a value, whatever was there.", set_),
        blind=set_is_blind,
    ),
    Command("setnx", 3, _WRITE_FAST, 1, 1, 1, _STRING, "1.0.0", "Writes where no key is (advisory).", setnx),
    Command(
        *("setex", 4, _WRITE, 1, 1, 1, _STRING, "2.0.0", "Writes a value for some seconds.", setex),
        blind=always_blind,
    ),
    Command(
        *("psetex", 4, _WRITE, 1, 1, 1, _STRING, "2.6.0", "Writes a value for some milliseconds.", psetex),
        blind=always_blind,
    ),
    Command("getset", 3, _WRITE_FAST, 1, 1, 1, _STRING, "1.0.0", "Writes, answers the old.", getset),
    Command("getdel", 2, ("write", "fast"), 1, 1, 1, _STRING, "6.2.0", "Deletes and answers.", getdel),
    Command("getex", -2, ("write", "fast"), 1, 1, 1, _STRING, "6.2.0", "A value, with a new expiry.", getex),
    Command("mget", -2, _READ_FAST, 1, -1, 1, _STRING, "1.0.0", "The newest values of several keys.", mget),
    Command(
        *("mset", -3, _WRITE, 1, -1, 2, _STRING, "1.0.1", "Writes several keys, each on its own.", mset),
        options=mset_options,
        blind=always_blind,
        combine=all_done,
        pairs=True,
    ),
    Command("strlen", 2, _READ_FAST, 1, 1, 1, _STRING, "2.2.0", "Length of a value in bytes.", strlen),
    Command("append", 3, _WRITE_FAST, 1, 1, 1, _STRING, "2.0.0", "Adds bytes at the end.", append),
    Command(
        "setrange", 4, _WRITE, 1, 1, 1, _STRING, "2.2.0", "Overwrites bytes from an offset on.", setrange
    ),
    Command("getrange", 4, _READ, 1, 1, 1, _STRING, "2.4.0", "A part of a value.", getrange),
    Command("substr", 4, _READ, 1, 1, 1, _STRING, "1.0.0", "The older name of GETRANGE.", getrange),
)
