"""Every exception of Sadik, by whose fault it is. Imports nothing, so anyone may import it.

A class exists only where some caller catches exactly it. ``code`` is the word clients see in front of the
text (RESP) or in the problem document (HTTP); it never changes once released.
"""

from __future__ import annotations


class SadikError(Exception):
    """Root of all errors raised by Sadik on purpose."""

    code = "ERR"


class InvalidRequest(SadikError, ValueError):
    """The caller's fault: the request can never succeed as it is. Nothing was changed."""


class InvalidContext(InvalidRequest):
    """A context that is damaged, foreign, or of another address. Nothing was changed."""

    code = "BADCONTEXT"


class LimitReached(InvalidRequest):
    """A limit that protects the cluster (value size, siblings, entries). Nothing was changed."""

    code = "LIMIT"


class Unavailable(SadikError):
    """The cluster cannot do it now.

    Attributes:
        maybe_applied: True when the write may have happened ("unknown"), False when it surely did not
            ("refused").
    """

    code = "UNAVAILABLE"

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class QuorumMissed(Unavailable):
    """Fewer replicas answered than were required.

    Attributes:
        required, received: Replies.
        reasons: (node, why it did not count) of each that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        maybe_applied: bool = False,
        required: int = 0,
        received: int = 0,
        reasons: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, maybe_applied=maybe_applied)
        self.required = required
        self.received = received
        self.reasons = reasons


class Overloaded(Unavailable):
    """A bounded queue is full; refused before any effect. Try again later."""

    code = "BUSY"


class ClockError(Unavailable):
    """A stamp further ahead of the wall clock than ``clock_offset_max_ms`` would be needed. Names the node.
    """

    code = "CLOCK"


class ProtocolError(SadikError):
    """The peer sent bytes that are not the protocol; the connection cannot go on."""

    code = "ERR"


class StorageError(SadikError):
    """The storage engine could not do it; ``maybe_applied`` as in ``Unavailable``."""

    code = "STORAGE"

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class StorageFull(StorageError):
    """No room: writes are refused and rolled back, reads go on, writes resume when there is room."""

    code = "OOM"


class StorageFailed(StorageError):
    """A sync or a roll-back failed: writes are refused until the engine is opened again."""

    code = "STORAGE"


class CorruptRecord(StorageError):
    """Stored bytes that fail their check; never served. Not the same as "not found"."""

    code = "CORRUPT"


class DirectoryLocked(StorageError):
    """Another process has this data directory open."""


class WrongFormat(StorageError):
    """A directory or file of a newer or foreign format, or of another cluster or node; left untouched."""


class InternalError(SadikError):
    """Our bug."""

    code = "INTERNAL"
