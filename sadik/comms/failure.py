"""Errors on the wire: what one node raises, another one raises again."""

from __future__ import annotations

from typing import Final

import msgspec

from sadik import errors
from sadik.comms.messages import MESSAGE_CHARACTERS_MAX, Failure, encode
from sadik.errors import ProtocolError, QuorumMissed, SadikError, StorageError, Unavailable
from sadik.ids import NodeId

REASONS_MAX: Final = 16
REASON_CHARACTERS_MAX: Final = 200

_CLASSES: Final = {
    item.__name__: item
    for item in vars(errors).values()
    if isinstance(item, type) and issubclass(item, SadikError)
}
_DECODER: Final = msgspec.msgpack.Decoder(Failure)


def encode_failure(error: SadikError) -> bytes:
    """Payload of an ERROR frame."""
    quorum = error if isinstance(error, QuorumMissed) else QuorumMissed("")
    return encode(
        Failure(
            error.code,
            type(error).__name__,
            str(error)[:MESSAGE_CHARACTERS_MAX],
            getattr(error, "maybe_applied", False),
            quorum.required,
            quorum.received,
            tuple((node, why[:REASON_CHARACTERS_MAX]) for node, why in quorum.reasons[:REASONS_MAX]),
        )
    )


def decode_failure(payload: bytes, sender: NodeId) -> SadikError:
    """The error to raise here; a ProtocolError if the payload is none."""
    try:
        failure = _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        return ProtocolError(f"node {sender} sent an error that is none: {error}")
    kind = _class_of(failure)
    if issubclass(kind, QuorumMissed):
        return kind(
            failure.message,
            maybe_applied=failure.maybe_applied,
            required=failure.required,
            received=failure.received,
            reasons=failure.reasons,
        )
    if issubclass(kind, Unavailable | StorageError):
        return kind(failure.message, maybe_applied=failure.maybe_applied)
    return kind(failure.message)


def _class_of(failure: Failure) -> type[SadikError]:
    """The class by its name, or for one of a newer version the most general one of its code."""
    if (known := _CLASSES.get(failure.name)) is not None:
        return known
    return next((item for item in _CLASSES.values() if item.code == failure.code), SadikError)
