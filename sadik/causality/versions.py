"""Version sets as values to study: a readable face of the ``versions`` kernel, which the data path calls
directly.

    >>> from sadik.causality import VersionSet
    >>> blind = VersionSet().event(actor=1, stamp=10, payload=b"milk")
    >>> read = blind.context
    >>> both = blind.event(actor=1, stamp=11, payload=b"eggs", covers=())
    >>> [value.payload for value in both.values]
    [b'milk', b'eggs']
    >>> after = both.event(actor=1, stamp=12, payload=b"milk, bread", covers=read)
    >>> [value.payload for value in after.values]
    [b'eggs', b'milk, bread']

Both writes went through one server, and neither knew of the other; a vector clock of server ids loses one
of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sadik.kernels import versions

if TYPE_CHECKING:
    from sadik.kernels.native.versions import Value
else:
    Value = versions.Value

Entries: TypeAlias = "versions.Entries"

__all__ = ["Entries", "Value", "VersionSet"]


@dataclass(frozen=True, slots=True)
class VersionSet:
    """Everything one replica knows of one key: what it has seen, and the values that nothing seen covers.

    Equal sets have equal bytes. Rules and errors are those of ``sadik.kernels.versions``.

    Args:
        encoded: The set's bytes; ``b""`` for nothing known.
    Raises:
        CorruptRecord: Not the bytes of a set.
    """

    encoded: bytes = b""

    def __post_init__(self) -> None:
        versions.validate(self.encoded)

    @classmethod
    def of(cls, entries: Entries, values: list[Value] | tuple[Value, ...] = ()) -> VersionSet:
        """A set from its parts, sorted."""
        return cls(versions.encode(entries, values))

    @property
    def entries(self) -> list[tuple[int, int]]:
        """(actor, seen), by actor."""
        return versions.context(self.encoded)

    @property
    def context(self) -> list[tuple[int, int]]:
        """What a reader of this set has seen: its entries, to be handed to the ``event`` that answers it."""
        return versions.context(self.encoded)

    @property
    def values(self) -> list[Value]:
        """All values, tombstones and expired ones too, by (actor, stamp)."""
        return versions.decode(self.encoded)[1]

    def event(
        self,
        *,
        actor: int,
        stamp: int,
        payload: bytes = b"",
        covers: Entries | None = None,
        deleted: bool = False,
        expires_at_ms: int = -1,
    ) -> VersionSet:
        """This set after a write, or after a delete when ``deleted``; ``covers=None`` replaces all, ``()``
        nothing.
        """
        flags = versions.TOMBSTONE if deleted else 0
        return VersionSet(
            versions.event(
                self.encoded, covers, actor, stamp, flags=flags, expires_at_ms=expires_at_ms, payload=payload
            )
        )

    def merge(self, other: VersionSet) -> VersionSet:
        """All that either side knows."""
        return VersionSet(versions.merge(self.encoded, other.encoded))

    def discard(self, covers: Entries) -> VersionSet:
        """This set after learning that everything in ``covers`` is obsolete."""
        return VersionSet(versions.discard(self.encoded, covers))

    def keep_newest(self) -> VersionSet:
        """The last writer wins: one value is left."""
        return VersionSet(versions.keep_newest(self.encoded))

    def prune(self, horizon: int) -> VersionSet:
        """This set without entries and tombstones older than ``horizon``."""
        return VersionSet(versions.prune(self.encoded, horizon))

    def siblings(self, now_ms: int, floor: int = 0) -> list[Value]:
        """What a client that wants all sees, newest first."""
        return versions.siblings(self.encoded, floor, now_ms)

    def newest(self, now_ms: int, floor: int = 0) -> Value | None:
        """What a client that wants one sees."""
        return versions.newest(self.encoded, floor, now_ms)

    def descends(self, other: VersionSet) -> bool:
        """True when this set has seen all that ``other`` has: merging ``other`` changes nothing."""
        return versions.merge(self.encoded, other.encoded) == self.encoded

    def __or__(self, other: VersionSet) -> VersionSet:
        return self.merge(other)

    def __repr__(self) -> str:
        return f"VersionSet.of({self.entries!r}, {[tuple(value) for value in self.values]!r})"
