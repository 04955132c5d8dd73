"""Requests that one coordinator passes to another, or asks of all nodes: control messages, MessagePack
arrays."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from sadik.comms.messages import Packed
from sadik.errors import ProtocolError

_Message = TypeVar("_Message", bound=msgspec.Struct)


def decoded(payload: bytes, kind: type[_Message]) -> _Message:
    """A message of this kind.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a {kind.__name__} cannot be read: {error}") from None


class CallRequest(Packed, array_like=True, frozen=True):
    """One Redis command for the coordinator of its key; the reply is the encoded RESP reply."""

    bucket: bytes
    protocol: int
    arguments: list[bytes]
    timeout_ms: int


class WriteRequest(Packed, array_like=True, frozen=True):
    """One write with context, from HTTP; ``payload`` None records a delete."""

    bucket: bytes
    key: bytes
    payload: bytes | None
    context: bytes | None
    metadata: bytes
    w: int | None
    pw: int | None
    timeout_ms: int
    ttl_ms: int | None


class WriteReply(Packed, array_like=True, frozen=True):
    """``context`` is None where siblings remain."""

    context: bytes | None


class ScanRequest(Packed, array_like=True, frozen=True):
    """Existing keys of a bucket with ``after`` < digest <= ``stop``, looking at about ``count`` stored
    keys."""

    bucket: bytes
    after: bytes
    stop: bytes
    count: int


class ScanReply(Packed, array_like=True, frozen=True):
    """Keys, and the digest looked at last; ``b""`` when the end was reached."""

    keys: list[bytes]
    last: bytes


class CountRequest(Packed, array_like=True, frozen=True):
    """Number of keys that a node stores of a bucket."""

    bucket: bytes


class CountReply(Packed, array_like=True, frozen=True):
    keys: int


class ExplainRequest(Packed, array_like=True, frozen=True):
    """What a node stores of one key."""

    bucket: bytes
    key: bytes


class ExplainReply(Packed, array_like=True, frozen=True):
    """``state`` is stored, absent, error or hinted."""

    state: str
    entries: list[tuple[int, int]]
    siblings: int
    size: int


class TruncateRequest(Packed, array_like=True, frozen=True):
    """FLUSHDB: without a stamp the question how high it must be, with one the order to hide what is not
    above it."""

    bucket: bytes
    stamp: int = 0


class TruncateReply(Packed, array_like=True, frozen=True):
    """The greatest stamp that this node may hold in the bucket, or the stamp that was applied."""

    stamp: int
