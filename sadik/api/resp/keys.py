"""Commands on keys whatever they hold, and on the keys of a bucket.

SCAN walks the digests in order, so its cursor needs no state on the node and survives restarts. KEYS and
SCAN see the keys of the bucket that the connection uses; DBSIZE counts them and may count expired ones
until their space is reclaimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.api.resp.arguments import INT64_MAX, SYNTAX_ERROR, option_word, parse_integer
from sadik.api.resp.call import AwaitedHandler, Call, Command, CommandError
from sadik.api.resp.glob import matcher
from sadik.api.resp.replies import OK, array, bulk, bulk_array, integer, null, simple

SCAN_COUNT_DEFAULT: Final = 10
SCAN_COUNT_MAX: Final = 10_000
"""More keys are never looked at in one call: COUNT is a hint, and everyone else waits meanwhile (some 10
ms).
"""
KEYS_PAGE: Final = 1000
NUMBERED_BUCKETS: Final = 16
"""Databases as Redis numbers them: SELECT 0 to 15 are the buckets ``0`` to ``15``."""


def delete(call: Call) -> bytes:
    """DEL and UNLINK key [key ...]: the number of keys that were there."""
    deleted = 0
    for record in call.records:
        if record.exists:
            record.delete()
            deleted += 1
    return integer(deleted)


def added_up(replies: Sequence[bytes]) -> bytes:
    """One reply for the parts of DEL."""
    return integer(sum(int(reply[1:]) for reply in replies))


def exists(call: Call) -> bytes:
    """EXISTS and TOUCH key [key ...]: how many are there; one that is named twice counts twice."""
    return integer(sum(record.exists for record in call.records))


def type_(call: Call) -> bytes:
    """TYPE key."""
    return simple("string" if call.records[0].exists else "none")


async def keys(call: Call) -> bytes:
    """KEYS pattern, over all of the bucket at once: for people and tests, not for programs."""
    matches = matcher(call.arguments[1])
    found: list[bytes] = []
    cursor = 0
    while True:
        page = await call.server.store.scan(call.session.bucket, cursor, KEYS_PAGE)
        found += [key for key in page.keys if matches(key)]
        cursor = page.cursor
        if cursor == 0:
            return bulk_array(found)


async def scan(call: Call) -> bytes:
    """SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]."""
    cursor = _cursor(call.arguments[1])
    count, pattern, kind = SCAN_COUNT_DEFAULT, b"*", b"STRING"
    rest = iter(call.arguments[2:])
    for option in rest:
        word, operand = option_word(option), next(rest, None)
        if operand is None or word not in (b"COUNT", b"MATCH", b"TYPE"):
            raise CommandError(SYNTAX_ERROR)
        if word == b"COUNT":
            count = parse_integer(operand)
            if count < 1:
                raise CommandError(SYNTAX_ERROR)
        elif word == b"MATCH":
            pattern = operand
        else:
            kind = option_word(operand)
    matches = matcher(pattern)
    page = await call.server.store.scan(call.session.bucket, cursor, min(count, SCAN_COUNT_MAX))
    found = [key for key in page.keys if matches(key)] if kind == b"STRING" else []
    return array([bulk(b"%d" % page.cursor), bulk_array(found)])


def _cursor(argument: bytes) -> int:
    if argument.isdigit() and len(argument) <= 19 and (cursor := int(argument)) <= INT64_MAX:
        return cursor
    raise CommandError("ERR invalid cursor")


async def random_key(call: Call) -> bytes:
    """RANDOMKEY."""
    key = await call.server.store.random_key(call.session.bucket)
    return null(call.session.protocol) if key is None else bulk(key)


async def database_size(call: Call) -> bytes:
    """DBSIZE."""
    return integer(await call.server.store.count(call.session.bucket))


async def flush_database(call: Call) -> bytes:
    """FLUSHDB [ASYNC | SYNC]: hides all that is in the bucket now; takes as long for a million keys as
    for one.
    """
    _check_flush_mode(call)
    await call.server.store.flush([call.session.bucket])
    return OK


async def flush_all(call: Call) -> bytes:
    """FLUSHALL [ASYNC | SYNC]: the buckets that SELECT reaches, in order. Others are not Redis databases
    and stay.
    """
    _check_flush_mode(call)
    stored = set(call.server.store.buckets())
    numbered = [b"%d" % number for number in range(NUMBERED_BUCKETS)]
    await call.server.store.flush([bucket for bucket in numbered if bucket in stored])
    return OK


def _check_flush_mode(call: Call) -> None:
    modes = [option_word(argument) for argument in call.arguments[1:]]
    if modes not in ([], [b"ASYNC"], [b"SYNC"]):
        raise CommandError(SYNTAX_ERROR)


_READ: Final = ("readonly",)
_READ_FAST: Final = ("readonly", "fast")
_WRITE: Final = ("write",)
_GENERIC: Final = "generic"
_SERVER: Final = "server"


def _whole(
    name: str,
    arity: int,
    flags: tuple[str, ...],
    group: str,
    since: str,
    summary: str,
    handler: AwaitedHandler,
) -> Command:
    """The row of a command on a whole bucket: every node has a part of it."""
    return Command(name, arity, flags, 0, 0, 0, group, since, summary, awaited=handler)


ROWS: Final = (
    Command("del", -2, _WRITE, 1, -1, 1, _GENERIC, "1.0.0", "Deletes keys.", delete, combine=added_up),
    Command(
        *("unlink", -2, ("write", "fast"), 1, -1, 1, _GENERIC, "4.0.0", "Deletes keys, as DEL.", delete),
        combine=added_up,
    ),
    Command("exists", -2, _READ_FAST, 1, -1, 1, _GENERIC, "1.0.0", "Counts keys that are there.", exists),
    Command("touch", -2, _READ_FAST, 1, -1, 1, _GENERIC, "3.2.1", "Counts keys, as EXISTS.", exists),
    Command("type", 2, _READ_FAST, 1, 1, 1, _GENERIC, "1.0.0", "Type of a key's value.", type_),
    _whole("keys", 2, _READ, _GENERIC, "1.0.0", "All keys that match a pattern.", keys),
    _whole("scan", -2, _READ, _GENERIC, "2.8.0", "Walks through the keys in steps.", scan),
    _whole("randomkey", 1, _READ, _GENERIC, "1.0.0", "Some key.", random_key),
    _whole("dbsize", 1, _READ_FAST, _SERVER, "1.0.0", "Number of keys, about.", database_size),
    _whole("flushdb", -1, _WRITE, _SERVER, "1.0.0", "Empties a bucket.", flush_database),
    _whole("flushall", -1, _WRITE, _SERVER, "1.0.0", "Empties buckets 0 to 15.", flush_all),
)
