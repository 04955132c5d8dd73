"""How two nodes come to trust a connection: a pure state machine for each side.

::

    dialled                                   dialling
    CHALLENGE (nonce)        ------------->
                             <-------------   HELLO (nonce, lane, whom it wants, identity, proof)
    WELCOME (identity, proof)------------->   the lane is up on both sides
    or REFUSE (code, reason) ------------->   and the connection ends

With a secret, a proof is a keyed BLAKE3 of all that was said, the other side's fresh nonce among it, under a
key made from the secret; the two sides' proofs begin with different words, so that none can be sent back to
its maker. Who does not know the secret learns the protocol version, a nonce, and that it was refused. The
secret says who may take part. It hides nothing: frames travel in the clear, and whoever can change packets on
the way can change them. That is for the network below.

Before its WELCOME, a stranger gets one frame of at most ``GREETING_BYTES_MAX`` read.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final, NamedTuple, TypeVar

import msgspec
from blake3 import blake3

from sadik.comms.messages import (
    LANES,
    MESSAGE_CHARACTERS_MAX,
    NONCE_BYTES,
    NOT_ADMITTED,
    PROOF_BYTES,
    Challenge,
    Hello,
    Kind,
    Refuse,
    Welcome,
    encode,
)
from sadik.comms.transport import Frame, Identity
from sadik.env.entropy import Entropy
from sadik.errors import ProtocolError
from sadik.ids import NodeId
from sadik.kernels import frames

GREETING_BYTES_MAX: Final = 8192
"""Payload of a frame of someone not known yet: a HELLO has some 350 bytes, a REFUSE up to 4 KiB of text."""

_KEY_CONTEXT: Final = "sadik 1 peer handshake"
_DIALLING: Final = b"sadik dialling"
_DIALLED: Final = b"sadik dialled"


class Greeted(NamedTuple):
    """A stranger that has given its name, and the proof of it if that is asked for.

    Attributes:
        wanted: The node it means to reach, ``""`` for any.
    """

    identity: Identity
    lane: int
    wanted: str


def key_of(secret: bytes | None) -> bytes | None:
    """The key of proofs, 32 bytes; ``None`` without a secret."""
    return None if not secret else bytes(blake3(secret, derive_key_context=_KEY_CONTEXT).digest())


def check_cluster(ours: Identity, theirs: Identity) -> str:
    """Why two nodes are not of one cluster, or ``""``. One not born yet may not know its cluster."""
    if ours.cluster and theirs.cluster and ours.cluster != theirs.cluster:
        return f"this is cluster {ours.cluster}, not {theirs.cluster}"
    if ours.cluster_id and theirs.cluster_id and ours.cluster_id != theirs.cluster_id:
        return f"this is another cluster of the name {ours.cluster}: its id is not the same"
    return ""


def refuse(refusal: Refuse) -> bytes:
    """The REFUSE frame."""
    short = msgspec.structs.replace(refusal, reason=refusal.reason[:MESSAGE_CHARACTERS_MAX])
    return frames.encode(Kind.REFUSE, 0, (encode(short),))


class Dialled:
    """The side that was dialled: sends ``challenge``, takes a HELLO, sends ``welcome``.

    Args:
        key: Of ``key_of``.
    """

    def __init__(self, identity: Identity, key: bytes | None, entropy: Entropy) -> None:
        self._identity = identity
        self._key = key
        self._nonce = entropy.random_bytes(NONCE_BYTES)
        self._theirs = b""

    def challenge(self) -> bytes:
        """The first frame."""
        return frames.encode(Kind.CHALLENGE, 0, (encode(Challenge(self._nonce)),))

    def on_hello(self, frame: Frame) -> Greeted | Refuse:
        """Who dials, or why it is not let in. Raises ProtocolError: not a HELLO."""
        if frame.kind != Kind.HELLO:
            raise ProtocolError(f"a frame of kind {frame.kind} instead of a HELLO")
        hello = _decode(frame, _HELLO)
        identity = Identity(hello.cluster, hello.cluster_id, NodeId(hello.node), hello.actor, hello.directory)
        said = _said(self._nonce, hello.nonce, identity, hello.lane, hello.wanted)
        if reason := _check_proof(self._key, _DIALLING + said, hello.proof):
            return Refuse(NOT_ADMITTED, reason)
        if hello.lane not in LANES:
            return Refuse(NOT_ADMITTED, f"there is no lane {hello.lane}")
        if reason := check_cluster(self._identity, identity):
            return Refuse(NOT_ADMITTED, reason)
        if hello.wanted and hello.wanted != self._identity.node:
            return Refuse(NOT_ADMITTED, f"this is node {self._identity.node}, not {hello.wanted}")
        self._theirs = said
        return Greeted(identity, hello.lane, hello.wanted)

    def welcome(self) -> bytes:
        """The frame that lets in who sent the HELLO."""
        me = self._identity
        proof = _proof(self._key, _DIALLED + self._theirs + _identity_bytes(me))
        message = Welcome(me.cluster, me.cluster_id, me.node, me.actor, me.directory, proof)
        return frames.encode(Kind.WELCOME, 0, (encode(message),))


class Dialling:
    """The side that dials: takes a CHALLENGE, sends the HELLO that ``on_challenge`` gives, takes the answer.

    Args:
        wanted: The node that is expected at the address; ``""`` when that is not known.
    """

    def __init__(
        self, identity: Identity, key: bytes | None, entropy: Entropy, *, lane: int, wanted: str
    ) -> None:
        self._identity = identity
        self._key = key
        self._nonce = entropy.random_bytes(NONCE_BYTES)
        self.lane = lane
        self._wanted = wanted
        self._ours: bytes | None = None

    @property
    def has_greeted(self) -> bool:
        """Whether the HELLO is on its way, so that the other side may have let this node in."""
        return self._ours is not None

    def on_challenge(self, frame: Frame) -> bytes:
        """The HELLO frame. Raises ProtocolError: not a CHALLENGE."""
        if frame.kind != Kind.CHALLENGE:
            raise ProtocolError(f"a frame of kind {frame.kind} instead of a CHALLENGE")
        me = self._identity
        said = _said(_decode(frame, _CHALLENGE).nonce, self._nonce, me, self.lane, self._wanted)
        self._ours = said
        message = Hello(
            self._nonce,
            self.lane,
            self._wanted,
            me.cluster,
            me.cluster_id,
            me.node,
            me.actor,
            me.directory,
            _proof(self._key, _DIALLING + said),
        )
        return frames.encode(Kind.HELLO, 0, (encode(message),))

    def on_answer(self, frame: Frame) -> Identity | Refuse:
        """Who let this node in, or why the other side, or this one, does not go on. Raises ProtocolError."""
        if frame.kind == Kind.REFUSE:
            return _decode(frame, _REFUSE)
        if frame.kind != Kind.WELCOME or self._ours is None:
            raise ProtocolError(f"a frame of kind {frame.kind} instead of a WELCOME")
        welcome = _decode(frame, _WELCOME)
        identity = Identity(
            welcome.cluster, welcome.cluster_id, NodeId(welcome.node), welcome.actor, welcome.directory
        )
        said = _DIALLED + self._ours + _identity_bytes(identity)
        if reason := _check_proof(self._key, said, welcome.proof):
            return Refuse(NOT_ADMITTED, reason)
        if reason := check_cluster(self._identity, identity):
            return Refuse(NOT_ADMITTED, reason)
        if self._wanted and identity.node != self._wanted:
            return Refuse(NOT_ADMITTED, f"node {identity.node} answers, not {self._wanted}")
        return identity


def _identity_bytes(identity: Identity) -> bytes:
    # MessagePack lists say their lengths, so nothing can slip from one field into its neighbour.
    return msgspec.msgpack.encode(tuple(identity))


def _said(challenge: bytes, nonce: bytes, identity: Identity, lane: int, wanted: str) -> bytes:
    """All that both sides have said up to the HELLO."""
    return challenge + nonce + msgspec.msgpack.encode((lane, wanted)) + _identity_bytes(identity)


def _proof(key: bytes | None, said: bytes) -> bytes:
    return b"" if key is None else bytes(blake3(said, key=key).digest())


def _check_proof(key: bytes | None, said: bytes, proof: bytes) -> str:
    if key is None:
        return "one of the two nodes has a secret, the other one has none" if proof else ""
    if not proof:
        return "one of the two nodes has a secret, the other one has none"
    same = len(proof) == PROOF_BYTES and compare_digest(proof, _proof(key, said))
    return "" if same else "the two nodes do not have the same secret"


_Message = TypeVar("_Message")

_CHALLENGE: Final = msgspec.msgpack.Decoder(Challenge)
_HELLO: Final = msgspec.msgpack.Decoder(Hello)
_WELCOME: Final = msgspec.msgpack.Decoder(Welcome)
_REFUSE: Final = msgspec.msgpack.Decoder(Refuse)


def _decode(frame: Frame, decoder: msgspec.msgpack.Decoder[_Message]) -> _Message:
    try:
        return decoder.decode(frame.payload)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a frame of kind {frame.kind} that is not one: {error}") from None
