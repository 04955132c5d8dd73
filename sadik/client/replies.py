"""Replies of the Redis protocol, both versions, from bytes as they arrive. (The kernel reads requests only.)

Bulk and simple strings are ``bytes``; integers, doubles, big numbers and booleans are what they are in
Python, null is None; arrays and sets are lists, maps dicts; an error is an ``ErrorReply``, and never raised
here. Pushes and attributes, which nobody asked for, are read and dropped.

Every byte is looked at once, however it is cut; what is kept is at most one unfinished reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sadik.errors import ProtocolError

LINE_BYTES_MAX: Final = 64 * 1024
"""Errors and numbers; text of any length comes with its length in front."""
DEPTH_MAX: Final = 16
ITEM_BYTES: Final = 64
"""What one item of an array costs at least in memory: counted towards the limit of a reply."""

_LINE_END: Final = b"\r\n"
_MISSING: Final = object()
_OPENED: Final = object()
_DROPPED: Final = object()


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as it was sent: ``code`` is its first word.

    Attributes:
        text: All of it, latin-1 as it came.
    """

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]

    @property
    def message(self) -> str:
        """The text without the code."""
        return self.text.partition(" ")[2]


@dataclass(slots=True)
class _Aggregate:
    kind: int
    left: int
    items: list[object] = field(default_factory=list)

    def close(self) -> object:
        if self.kind in b"%|":
            pairs = zip(self.items[::2], self.items[1::2], strict=True)
            try:
                whole: object = dict(pairs)
            except TypeError:
                raise ProtocolError("a map of the reply has a key that is no plain value") from None
        else:
            whole = self.items
        return _DROPPED if self.kind in b"|>" else whole


class Parser:
    """One connection's replies.

    Args:
        reply_bytes_max: A reply that takes more, items counted with ITEM_BYTES each, is an error.
    """

    def __init__(self, reply_bytes_max: int) -> None:
        self._reply_bytes_max = reply_bytes_max
        self._buffer = bytearray()
        self._at = 0
        self._searched = 0
        """No line end begins before it."""
        self._bulk: tuple[int, int] | None = None
        """Kind and length of the string whose header is read already."""
        self._open: list[_Aggregate] = []
        self._taken = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[object]:
        """The replies that ``data`` completes.

        Raises:
            ProtocolError: These are no replies, or one passes a limit; the parser is of no use any more.
        """
        self._buffer += data
        replies: list[object] = []
        while (item := self._item()) is not _MISSING:
            if item is not _OPENED:
                self._place(item, replies)
        del self._buffer[: self._at]
        self._searched = max(self._searched - self._at, 0)
        self._at = 0
        return replies

    def _place(self, item: object, replies: list[object]) -> None:
        """Put a whole item where it belongs, and close what it completes."""
        while item is not _DROPPED:
            if not self._open:
                replies.append(item)
                self._taken = 0
                return
            top = self._open[-1]
            top.items.append(item)
            top.left -= 1
            if top.left:
                return
            self._open.pop()
            item = top.close()

    def _item(self) -> object:
        """The next string, number or error, _OPENED for the head of an aggregate, _MISSING for want of
        bytes.
        """
        if self._bulk is not None:
            return self._string(*self._bulk)
        line = self._line()
        if line is None:
            return _MISSING
        if not line:
            raise ProtocolError("an empty line where a reply should begin")
        kind, text = line[0], line[1:]
        self._charge(len(line) + ITEM_BYTES)
        if kind in b"+-:,(#_":
            return _scalar(kind, text)
        if kind in b"$=!":
            length = _count(text)
            if length < 0:
                return None
            self._charge(length)
            self._bulk = (kind, length)
            return self._string(kind, length)
        if kind in b"*~%|>":
            return self._aggregate(kind, _count(text))
        raise ProtocolError(f"no reply begins with {bytes((kind,))!r}")

    def _aggregate(self, kind: int, count: int) -> object:
        if count < 0:
            return None
        opened = _Aggregate(kind, 2 * count if kind in b"%|" else count)
        if not opened.left:
            return opened.close()
        if len(self._open) == DEPTH_MAX:
            raise ProtocolError(f"a reply is nested more than {DEPTH_MAX} deep")
        self._open.append(opened)
        return _OPENED

    def _string(self, kind: int, length: int) -> object:
        stop = self._at + length
        if len(self._buffer) < stop + 2:
            return _MISSING
        if self._buffer[stop : stop + 2] != _LINE_END:
            raise ProtocolError("a string of the reply does not end where it should")
        with memoryview(self._buffer) as view:
            text = bytes(view[self._at : stop])
        self._at = self._searched = stop + 2
        self._bulk = None
        if kind == ord("!"):
            return ErrorReply(text.decode("latin-1"))
        # Verbatim text has three letters and a colon in front.
        return text[4:] if kind == ord("=") else text

    def _line(self) -> bytes | None:
        """The next line without its end, None when it has not arrived."""
        end = self._buffer.find(_LINE_END, max(self._at, self._searched))
        if (end if end >= 0 else len(self._buffer)) - self._at > LINE_BYTES_MAX:
            raise ProtocolError(f"a line of more than {LINE_BYTES_MAX} bytes")
        if end < 0:
            self._searched = max(self._at, len(self._buffer) - 1)
            return None
        line = bytes(self._buffer[self._at : end])
        self._at = self._searched = end + 2
        return line

    def _charge(self, count: int) -> None:
        self._taken += count
        if self._taken > self._reply_bytes_max:
            raise ProtocolError(f"a reply takes more than {self._reply_bytes_max} bytes")


def encode(arguments: Sequence[bytes]) -> bytes:
    """A command as nodes read it."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts += (b"$%d\r\n" % len(argument), argument, _LINE_END)
    return b"".join(parts)


def _scalar(kind: int, text: bytes) -> object:
    try:
        match chr(kind):
            case "+":
                return text
            case "-":
                return ErrorReply(text.decode("latin-1"))
            case ":" | "(":
                return _integer(text)
            case ",":
                return float(text)
            case "#" if text in (b"t", b"f"):
                return text == b"t"
            case "_" if not text:
                return None
    except ValueError:
        pass
    raise ProtocolError(f"not a reply: {bytes((kind,)) + text[:40]!r}")


def _count(text: bytes) -> int:
    """A length; -1 for null."""
    try:
        count = _integer(text)
    except ValueError:
        count = -2
    if count < -1:
        raise ProtocolError(f"not a length: {text[:40]!r}")
    return count


def _integer(text: bytes) -> int:
    # int() also takes blanks and underscores, which no node sends, and any length in quadratic time.
    if len(text) > 400 or not text.removeprefix(b"-").removeprefix(b"+").isdigit():
        raise ValueError("not an integer")
    return int(text)
