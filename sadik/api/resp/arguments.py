"""Reading arguments as Redis reads them, and the checks that several commands share."""

from __future__ import annotations

import re
from typing import Final

from sadik.api.resp.call import Call, CommandError
from sadik.errors import LimitReached

INT64_MAX: Final = (1 << 63) - 1
INT64_MIN: Final = -(1 << 63)
STRING_BYTES_MAX: Final = 512 << 20
"""The longest string of Redis; its own limit is what clients' tests know, ours is ``value_bytes_max``."""
VALUE_BYTES_MAX_SETTING: Final = "value_bytes_max"

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")

SYNTAX_ERROR: Final = "ERR syntax error"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"


def parse_integer(argument: bytes, refusal: str = NOT_AN_INTEGER) -> int:
    """A signed 64-bit integer in its one canonical form: no sign but ``-``, no leading zero, no space.

    Raises:
        CommandError: ``refusal``.
    """
    if _INTEGER.fullmatch(argument):
        number = int(argument)
        if INT64_MIN <= number <= INT64_MAX:
            return number
    raise CommandError(refusal)


def option_word(argument: bytes) -> bytes:
    """An option in upper case. Redis compares options as C strings, so a zero byte ends them."""
    return argument.partition(b"\0")[0].upper()


def shown(argument: bytes) -> str:
    """A client's argument for an error text: one character a byte, ended by a zero byte as in Redis."""
    return argument.partition(b"\0")[0].decode("latin-1")


def check_value_bytes(call: Call, length: int) -> None:
    """Raise ``LimitReached`` for a value longer than ``value_bytes_max``."""
    limit = int(call.server.settings[VALUE_BYTES_MAX_SETTING])
    if length > limit:
        raise LimitReached(f"a value of {length} bytes is longer than {VALUE_BYTES_MAX_SETTING} {limit}")


def check_string_bytes(call: Call, length: int) -> None:
    """The same for a string that a command makes longer, with Redis' own answer where Redis would refuse
    too.
    """
    if length > STRING_BYTES_MAX:
        raise CommandError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    check_value_bytes(call, length)


def default_expiry_ms(call: Call) -> int:
    """When a value written now without a time to live of its own goes: by the bucket's ``ttl_ms``, or -1."""
    ttl_ms = call.server.store.properties(call.session.bucket).ttl_ms
    return -1 if ttl_ms is None else call.now_ms + ttl_ms
