"""The whole protocol between nodes: every kind of frame, and what its payload holds.

A frame is a kind, a request id and a payload (``frames.py`` gives the bytes). Frames of the data path (SETS,
READS, FORWARD and their replies) carry packed arrays, written and read by ``kernels.packets``. All others
are MessagePack of the structs here. A reply has the request id of what it answers and the kind with
``REPLY`` added.

Kinds and fields are for ever within one protocol version: new fields have defaults and come last.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

PROTOCOL_VERSION: Final = 1
"""In every header. Nodes of different versions refuse each other's first frame, and say so in their logs."""

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
    OCCUPIED = 38
    """Which partitions hold anything."""

    GOSSIP = 48
    JOIN = 49
    """What a node without a birth record asks its seed: the facts of the cluster."""
    VOTE = 50
    """Agreement to a commit of a layout."""

    EXCHANGE = 64
    """Merkle comparison (``node/repair/exchange.py``)."""

    ERROR = 127
    """Instead of a reply, of any kind of request: it failed (``Failure``)."""


class Packed(msgspec.Struct, array_like=True, frozen=True):
    """Base of control messages: MessagePack arrays, fields in order, new ones last and with defaults."""


NONCE_BYTES: Final = 16
PROOF_BYTES: Final = 32
MESSAGE_CHARACTERS_MAX: Final = 1000
"""Of a text for people; longer ones are cut by their sender."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9._-]+\Z")]
ClusterName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[A-Za-z0-9._-]*\Z")]
ClusterId = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
Unsigned = Annotated[int, msgspec.Meta(ge=0)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Proof = Annotated[bytes, msgspec.Meta(max_length=PROOF_BYTES)]
Message = Annotated[str, msgspec.Meta(max_length=MESSAGE_CHARACTERS_MAX)]


class Challenge(Packed, frozen=True):
    """CHALLENGE, the first frame of the side that was dialled."""

    nonce: Nonce


class Hello(Packed, frozen=True):
    """HELLO, the dialling side's answer: who it is, and whom it wants, ``""`` for anybody.

    Attributes:
        cluster, cluster_id, node, actor, directory: Its ``Identity``.
        proof: That it knows the secret (``handshake.py``); empty without one.
    """

    nonce: Nonce
    lane: Unsigned
    wanted: Annotated[str, msgspec.Meta(max_length=64)]
    cluster: ClusterName
    cluster_id: ClusterId
    node: Name
    actor: Unsigned
    directory: Unsigned
    proof: Proof


class Welcome(Packed, frozen=True):
    """WELCOME: the lane may be used from here on."""

    cluster: ClusterName
    cluster_id: ClusterId
    node: Name
    actor: Unsigned
    directory: Unsigned
    proof: Proof


class Refuse(Packed, frozen=True):
    """REFUSE: the connection ends here. ``code`` is one of those below, ``reason`` is for people, ``node`` is
    who refuses, if that is told.
    """

    code: Unsigned
    reason: Message
    node: Annotated[str, msgspec.Meta(max_length=64)] = ""


NOT_ADMITTED: Final = 0
LINKED: Final = 1
"""There is a link of this lane already, or one is being made the other way."""
MYSELF: Final = 2
"""The dialling node has reached itself."""


class Failure(Packed, frozen=True):
    """ERROR: a ``SadikError``, to be raised again by whoever asked.

    Attributes:
        code, name: The error's wire code and class. A class that the receiver does not know is known by its
        code.
        required, received, reasons: Of ``QuorumMissed``.
    """

    code: str
    name: str
    message: Message
    maybe_applied: bool = False
    required: Unsigned = 0
    received: Unsigned = 0
    reasons: tuple[tuple[str, str], ...] = ()


def encode(message: msgspec.Struct) -> bytes:
    return _ENCODER.encode(message)


_ENCODER: Final = msgspec.msgpack.Encoder()
