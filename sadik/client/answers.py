"""What a client's calls give, and how they fail; from the replies of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sadik.client.replies import ErrorReply
from sadik.errors import (
    ClockError,
    CorruptRecord,
    InternalError,
    InvalidContext,
    InvalidRequest,
    LimitReached,
    Overloaded,
    ProtocolError,
    SadikError,
    StorageError,
    StorageFailed,
    StorageFull,
    Unavailable,
)

Key = bytes | str
"""Text stands for its UTF-8 bytes."""

MAYBE_APPLIED: Final = "may have been applied"
"""Every error that a write may nevertheless have survived says so."""

_REFUSED: Final = ("UNAVAILABLE", "BUSY", "LOADING")
"""What is worth another try, if the node does not say that the write may have been applied."""

_CALLERS_FAULT: Final[Mapping[str, type[InvalidRequest]]] = {
    "ERR": InvalidRequest,
    "NOAUTH": InvalidRequest,
    "WRONGPASS": InvalidRequest,
    "BADCONTEXT": InvalidContext,
    "LIMIT": LimitReached,
}
_OTHERS: Final[Mapping[str, type[Unavailable] | type[StorageError]]] = {
    "UNAVAILABLE": Unavailable,
    "LOADING": Unavailable,
    "BUSY": Overloaded,
    "CLOCK": ClockError,
    "STORAGE": StorageFailed,
    "OOM": StorageFull,
    "CORRUPT": CorruptRecord,
}


@dataclass(frozen=True, slots=True)
class Sibling:
    """One of a key's values.

    Attributes:
        stamp_ms: When it was written, Unix milliseconds.
        expires_at_ms: When it goes, or None.
    """

    value: bytes
    stamp_ms: int
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a read saw.

    Attributes:
        siblings: All values of the key, newest first; none for a key that does not exist.
        context: Stands for exactly this; a write with it replaces exactly this. Opaque.
    """

    siblings: tuple[Sibling, ...]
    context: bytes

    @property
    def value(self) -> bytes | None:
        """The newest value, None where there is none."""
        return self.siblings[0].value if self.siblings else None

    @property
    def values(self) -> list[bytes]:
        return [sibling.value for sibling in self.siblings]


class StaleRead(Unavailable):
    """The cluster shows less of a key than this session has seen before.

    Replicas that have it cannot be reached, or it is gone for good (the bucket was flushed, nodes lost their
    disks). ``forget`` makes the session accept what is there.

    Attributes:
        reply: What the cluster shows.
    """

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message)
        self.reply = reply


class ManyFailed(SadikError):
    """Of many keys some failed; the others are done.

    Attributes:
        failed: Each failed key's error. One whose write may have been applied says so, as always.
        done: What the other keys gave: a ``Reply`` for reads, the new context or None for writes.
    """

    def __init__(self, failed: Mapping[Key, SadikError], done: Mapping[Key, object]) -> None:
        first = next(iter(failed.values()))
        super().__init__(f"{len(failed)} of {len(failed) + len(done)} keys failed, the first so: {first}")
        self.failed = dict(failed)
        self.done = dict(done)

    @property
    def maybe_applied(self) -> bool:
        """Whether any of the failed writes may have been applied."""
        return any(getattr(error, "maybe_applied", False) for error in self.failed.values())


def failure_of(reply: ErrorReply) -> SadikError:
    """The error that a node's reply stands for, as the class of its code; its text keeps the code where no
    class says it.
    """
    maybe_applied = MAYBE_APPLIED in reply.text
    if (fault := _CALLERS_FAULT.get(reply.code)) is not None:
        return fault(reply.message if reply.code != "NOAUTH" else "the node wants a secret")
    if (other := _OTHERS.get(reply.code)) is not None:
        return other(reply.message, maybe_applied=maybe_applied)
    return InternalError(reply.message) if reply.code == "INTERNAL" else SadikError(reply.text)


def is_refused(reply: ErrorReply) -> bool:
    """Whether the node surely did nothing, and the same request may succeed later or elsewhere."""
    return reply.code in _REFUSED and MAYBE_APPLIED not in reply.text


def read_reply(reply: object) -> Reply:
    """The answer to SADIK.GET.

    Raises:
        ProtocolError: It is none.
    """
    match reply:
        case [bytes(context), [*values]]:
            return Reply(tuple(_sibling(value) for value in values), context)
    raise ProtocolError("the node's answer is not that of SADIK.GET")


def _sibling(value: object) -> Sibling:
    match value:
        case [bytes(payload), int(stamp_ms), int(expires_at_ms)]:
            return Sibling(payload, stamp_ms, None if expires_at_ms < 0 else expires_at_ms)
    raise ProtocolError("the node's answer is not that of SADIK.GET")


def write_reply(reply: object) -> bytes | None:
    """The answer to SADIK.PUT and SADIK.DEL: the new context, or None where siblings remain.

    Raises:
        ProtocolError: It is none.
    """
    if reply is None or isinstance(reply, bytes):
        return reply
    raise ProtocolError(f"the node's answer is not that of a write; it {MAYBE_APPLIED}")
