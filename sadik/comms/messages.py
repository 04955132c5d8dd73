"""The whole protocol between nodes: every kind of frame, and what its payload holds.

A frame is a kind, a request id and a payload (``frames.py`` gives the bytes). Frames of the data path (SETS, READS,
FORWARD and their replies) carry packed arrays, written and read by ``kernels.packets``. All others are MessagePack
of the structs here. A reply has the request id of what it answers and the kind with ``REPLY`` added.

Kinds and fields are for ever within one protocol version: new fields have defaults and come last.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

PROTOCOL_VERSION: Final = 1

DATA: Final = 0
"""Lane of requests and their replies."""
BULK: Final = 1
"""Lane of repair and hand-over: it never delays a request."""
LANES: Final = (DATA, BULK)

REPLY: Final = 0x80


class Kind(IntEnum):
    """What a frame is about; 1 to 127. Those below 16 are the connection's own and never reach a handler."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REFUSE = 4
    PING = 5
    PONG = 6

    SETS = 16
    """Version sets to merge into the receiver's own; the reply says how each was taken."""
    READS = 17
    """Digests with the sender's fingerprints; the reply says "same" or gives the receiver's sets."""
    FORWARD = 18
    """Plain operations for a coordinator that is a primary of their keys; the reply has their answers."""
    HINTED = 19
    """Version sets to keep for another node until it is back."""

    CALL = 32
    """One Redis command for a coordinator that is a primary of its key (``CallRequest``)."""
    WRITE = 33
    """One write with context, from HTTP (``WriteRequest``)."""
    SCAN = 34
    COUNT = 35
    EXPLAIN = 36
    TRUNCATE = 37
    """FLUSHDB: a bucket's truncation stamp, applied before it is answered."""

    GOSSIP = 48
    JOIN = 49
    """What a node without a birth record asks its seed: the facts of the cluster."""
    VOTE = 50
    """Agreement to a commit of a layout."""

    EXCHANGE = 64
    """Merkle comparison (``node/repair/exchange.py``)."""


class Packed(msgspec.Struct, array_like=True, frozen=True):
    """Base of control messages: MessagePack arrays, fields in order, new ones last and with defaults."""


def encode(message: msgspec.Struct) -> bytes:
    return _ENCODER.encode(message)


_ENCODER: Final = msgspec.msgpack.Encoder()
