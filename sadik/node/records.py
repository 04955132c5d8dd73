"""One key as a command sees it: what is stored, the view of it, and a change that is already visible to the
next command.

Commands that need the old value are pure functions on records: the node reads the records of a whole round
in one batch, the
functions run in order, the node writes what changed in one batch. Two commands of a round on the same key
share one record, so the second sees what the first did.
"""

from __future__ import annotations

from typing import Protocol

from sadik.errors import CorruptRecord
from sadik.kernels import versions


class Mint(Protocol):
    """Gives new dots: this run's actor, and stamps that only rise."""

    @property
    def actor(self) -> int: ...

    @property
    def horizon(self) -> int:
        """Entries without values and with smaller stamps may be forgotten: nobody holds what they cover."""
        ...

    def stamp_above(self, stamp: int) -> int:
        """A stamp greater than ``stamp`` and than every stamp given before.

        Raises:
            ClockError: It would lie further ahead of the wall clock than allowed.
        """
        ...


class Record:
    """The version set of one address during one round.

    Attributes:
        bucket, key, name, digest: The address, its name and its digest (``kernels.digest``).
        stored: The encoded version set, changes of this round included; ``b""`` when nothing is known.
        base: What the engine holds of it, as far as that could be read.
        changed: Whether ``stored`` is to be written.
        readable: False when the stored bytes could not be read: every view of the value raises
            ``CorruptRecord``.
    """

    __slots__ = (
        "_now_ms",
        "_value",
        "_viewed",
        "base",
        "bucket",
        "changed",
        "digest",
        "floor",
        "key",
        "mint",
        "name",
        "readable",
        "stored",
    )

    def __init__(
        self,
        *,
        bucket: bytes,
        key: bytes,
        name: bytes,
        digest: bytes,
        stored: bytes,
        base: bytes,
        readable: bool,
        floor: int,
        now_ms: int,
        mint: Mint,
    ) -> None:
        self.bucket = bucket
        self.key = key
        self.name = name
        self.digest = digest
        self.stored = stored
        self.base = base
        self.readable = readable
        self.floor = floor
        self.mint = mint
        self.changed = False
        self._now_ms = now_ms
        self._value: versions.Value | None = None
        self._viewed = False

    @property
    def value(self) -> versions.Value | None:
        """The newest live value, or None: what RESP shows.

        Raises:
            CorruptRecord: The stored bytes cannot be read.
        """
        if not self._viewed:
            self._require_readable()
            self._value = versions.newest(self.stored, self.floor, self._now_ms)
            self._viewed = True
        return self._value

    @property
    def exists(self) -> bool:
        return self.value is not None

    @property
    def payload(self) -> bytes:
        """The newest live payload, ``b""`` where there is none."""
        value = self.value
        return b"" if value is None else value.payload

    @property
    def expires_at_ms(self) -> int:
        """Unix milliseconds at which the newest live value goes, or -1."""
        value = self.value
        return -1 if value is None else value.expires_at_ms

    def siblings(self) -> list[versions.Value]:
        """All live values, newest first."""
        self._require_readable()
        return versions.siblings(self.stored, self.floor, self._now_ms)

    def context(self) -> list[tuple[int, int]]:
        """What a reader of this record has seen."""
        self._require_readable()
        return versions.context(self.stored)

    def put(
        self,
        payload: bytes,
        expires_at_ms: int = -1,
        *,
        metadata: bytes = b"",
        covers: versions.Entries | None = None,
    ) -> None:
        """A new value that replaces what ``covers`` has seen; by default everything known here.

        An unreadable record may be replaced blindly: nothing that could still be read is lost by it.

        Raises:
            ClockError, LimitReached: Refused; the record is as before.
        """
        self._write(covers, 0, payload, expires_at_ms, metadata)

    def delete(self, *, covers: versions.Entries | None = None) -> None:
        """A tombstone: a value with a dot of its own that competes with the others. Raises as ``put``."""
        self._write(covers, versions.TOMBSTONE, b"", -1, b"")

    def state(self) -> tuple[bytes, bool, bool]:
        """What ``restore`` takes to undo the changes made since."""
        return self.stored, self.changed, self.readable

    def restore(self, state: tuple[bytes, bool, bool]) -> None:
        """Back to ``state``: a command that fails has changed nothing."""
        self.stored, self.changed, self.readable = state
        self._viewed = False

    def _write(
        self, covers: versions.Entries | None, flags: int, payload: bytes, expires_at_ms: int, metadata: bytes
    ) -> None:
        current = self.stored if self.readable else b""
        if covers is None:
            covers = versions.context(current)
        # What the new value replaces goes first: each run of a node is another actor, and 64 of them with
        # nothing alive would make the key read-only for ever.
        left = versions.discard(current, covers)
        # Above the floor too: after a restart the wall clock may read less than at the last FLUSHDB, and what
        # is written below it would be hidden at once.
        stamp = self.mint.stamp_above(max(versions.stamp_max(left), self.floor))
        left = versions.forget(left, self.mint.horizon)
        self.stored = versions.event(
            left, (), self.mint.actor, stamp, flags, 0, expires_at_ms, metadata, payload
        )
        self.readable = True
        self.changed = True
        self._viewed = False

    def _require_readable(self) -> None:
        if not self.readable:
            raise CorruptRecord("the stored record of this key cannot be read")
