"""Replies as bytes: the few RESP types that Sadik's commands answer with.

Types that RESP2 lacks fall back as Redis falls back: a map or set to a flat array, a verbatim string to
a bulk string, null to ``$-1``. Functions that need to know take the protocol, 2 or 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sadik.kernels import resp

__all__ = [
    "EMPTY_ARRAY",
    "EMPTY_BULK",
    "NOTHING",
    "OK",
    "ONE",
    "PONG",
    "QUEUED",
    "ZERO",
    "array",
    "bulk",
    "bulk_array",
    "error",
    "integer",
    "mapping",
    "null",
    "simple",
    "text",
    "unordered",
    "verbatim",
]

array = resp.array
bulk = resp.bulk

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
QUEUED: Final = b"+QUEUED\r\n"
ZERO: Final = b":0\r\n"
ONE: Final = b":1\r\n"
EMPTY_BULK: Final = b"$0\r\n\r\n"
EMPTY_ARRAY: Final = b"*0\r\n"
NOTHING: Final = b""
"""No reply at all (CLIENT REPLY OFF)."""

_NULL: Final = (b"", b"", b"$-1\r\n", b"_\r\n")
_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")


def simple(word: str) -> bytes:
    """A simple string, ASCII without line breaks."""
    return b"+%b\r\n" % word.encode()


def integer(number: int) -> bytes:
    """A signed 64-bit integer."""
    return b":%d\r\n" % number


def text(value: str) -> bytes:
    """A bulk string of text."""
    return bulk(value.encode())


def null(protocol: int) -> bytes:
    return _NULL[protocol]


def bulk_array(items: Iterable[bytes]) -> bytes:
    """An array of bulk strings."""
    return array([bulk(item) for item in items])


def mapping(pairs: Sequence[tuple[bytes, bytes]], protocol: int) -> bytes:
    """A map of encoded keys and values; a flat array in RESP2."""
    if protocol == 3:
        return b"%%%d\r\n" % len(pairs) + b"".join(part for pair in pairs for part in pair)
    return array([part for pair in pairs for part in pair])


def unordered(items: Sequence[bytes], protocol: int) -> bytes:
    """A set of encoded items; an array in RESP2."""
    if protocol == 3:
        return b"~%d\r\n" % len(items) + b"".join(items)
    return array(items)


def verbatim(value: str, protocol: int) -> bytes:
    """Text for people to read: ``=`` with the format ``txt``; a bulk string in RESP2."""
    encoded = value.encode()
    if protocol == 3:
        return b"=%d\r\ntxt:%b\r\n" % (len(encoded) + 4, encoded)
    return bulk(encoded)


def error(message: str) -> bytes:
    """An error reply; ``message`` starts with its word. Line breaks, which would end the reply, become
    spaces.

    Text that came from a client is held in latin-1, one character a byte, so that it goes back as it came.
    """
    return b"-%b\r\n" % message.translate(_LINE_BREAKS).encode("latin-1", "backslashreplace")
