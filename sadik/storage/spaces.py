"""Counts per space, for engines that keep them beside their records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple


class Footprint(NamedTuple):
    """What the counts need to know of a record."""

    space: int
    dead: bool
    size: int


class SpaceCount(NamedTuple):
    """Of one space: keys that are not dead, all records, and their bytes."""

    keys: int = 0
    records: int = 0
    bytes: int = 0


_NOTHING = SpaceCount()


class Spaces:
    """Counts per space, and which spaces are garbage."""

    def __init__(self, counts: Mapping[int, SpaceCount] | None = None) -> None:
        self._counts = dict(counts or {})
        self._retired: set[int] = set()

    def draft(self) -> Spaces:
        """A copy to count a batch on, which replaces the original once the batch is stored."""
        copy = Spaces(self._counts)
        copy._retired = self._retired
        return copy

    def add(self, item: Footprint) -> None:
        self._shift(item, 1)

    def drop(self, item: Footprint) -> None:
        self._shift(item, -1)

    def keys(self, space: int) -> int:
        return 0 if space in self._retired else self._counts.get(space, _NOTHING).keys

    def known(self) -> list[int]:
        """Spaces that have records, garbage included; sorted."""
        return sorted(space for space, count in self._counts.items() if count.records)

    def retire(self, space: int) -> None:
        self._retired.add(space)

    def declare(self, live: Iterable[int]) -> None:
        self._retired.update(self._counts.keys() - set(live))

    def is_garbage(self, space: int) -> bool:
        return space in self._retired

    def total(self, *, garbage: bool) -> SpaceCount:
        """All spaces together, with or without the garbage."""
        counts = [count for space, count in self._counts.items() if garbage or space not in self._retired]
        return SpaceCount(
            sum(count.keys for count in counts),
            sum(count.records for count in counts),
            sum(count.bytes for count in counts),
        )

    def changed(self, since: Spaces) -> Iterator[tuple[int, SpaceCount]]:
        """Spaces counted differently than in ``since``."""
        for space, count in self._counts.items():
            if since._counts.get(space) != count:
                yield space, count

    def _shift(self, item: Footprint, sign: int) -> None:
        count = self._counts.get(item.space, _NOTHING)
        self._counts[item.space] = SpaceCount(
            count.keys + (0 if item.dead else sign), count.records + sign, count.bytes + sign * item.size
        )
