"""What a simulated disk holds: files and directories that know which of their changes are durable.

Nothing here knows about handles, errors or faults; ``files.py`` is the interface that storage sees. A node of
the disk has a state that reads see, a durable state, and the changes made since the last sync, in order.
``settle`` is the power cut: it starts from the durable state and keeps some of the changes.
"""

from __future__ import annotations

import mmap
import random
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

SECTOR_BYTES: Final = 512

Keep = Literal["none", "all", "prefix", "subset"]
"""What a power cut keeps of the changes since the last sync."""
KEEPS: Final[tuple[Keep, ...]] = ("none", "all", "prefix", "subset")

_Change = TypeVar("_Change")


class Write(NamedTuple):
    """Bytes put at an offset; a gap before them reads as zeros."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        if self.offset > len(content):
            content.extend(bytes(self.offset - len(content)))
        content[self.offset : self.offset + len(self.data)] = self.data


class Truncate(NamedTuple):
    """The end of the file moved to ``length``; zeros where that is beyond the old one."""

    length: int

    def apply(self, content: bytearray) -> None:
        del content[self.length :]
        content.extend(bytes(self.length - len(content)))


@dataclass(eq=False)
class Inode:
    """One file, whatever its name.

    ``content`` is what reads see. Replaying ``unsynced`` on ``durable`` gives the same, unless a sync lost
    something or the medium was damaged. ``spoiled`` are the ranges that cannot be read.
    """

    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Truncate] = field(default_factory=list)
    spoiled: list[tuple[int, int]] = field(default_factory=list)
    handles: int = 0
    mappings: list[weakref.ref[mmap.mmap]] = field(default_factory=list)

    def change(self, step: Write | Truncate) -> None:
        step.apply(self.content)
        self.unsynced.append(step)
        if isinstance(step, Write):
            self._show(step.offset, step.offset + len(step.data))
        else:
            self._show(step.length, None)

    def damage(self, offset: int, data: bytes) -> None:
        """Replace bytes on the medium and in the cache; not a write, so no sync is due."""
        end = offset + len(data)
        if end > len(self.content):
            raise ValueError(f"damage up to {end} in a file of {len(self.content)} bytes")
        self.change(Write(offset, data))
        if reached := data[: max(0, len(self.durable) - offset)]:
            Write(offset, reached).apply(self.durable)

    def sync(self) -> None:
        for step in self.unsynced:
            step.apply(self.durable)
        self.unsynced.clear()

    def lose(self) -> None:
        """A sync that wrote nothing and still made everything clean: reads go on to show what is no longer on
        its way to the disk."""
        self.unsynced.clear()

    def map(self, length: int) -> memoryview:
        # Anonymous memory: as lazy as a real mapping, so a huge one costs nothing.
        view = mmap.mmap(-1, length)
        self.mappings.append(weakref.ref(view))
        self._show(0, len(self.content))
        return memoryview(view).toreadonly()

    def release(self) -> None:
        """The process is gone: handles are closed, and mappings no longer follow."""
        self.handles = 0
        self.mappings.clear()

    def settle(self, keep: Keep, rng: random.Random) -> None:
        """A power cut: become what is left on the medium."""
        steps = _kept(self.unsynced, keep, rng)
        if keep == "prefix" and len(steps) < len(self.unsynced) and rng.random() < 0.5:
            steps = steps + self._torn(self.unsynced[len(steps)], keep, rng)
        elif keep == "subset":
            steps = [
                piece
                for step in steps
                for piece in (self._torn(step, keep, rng) if rng.random() < 0.3 else [step])
            ]
            if self.unsynced and rng.random() < 0.25:
                # The new size reached the medium before the bytes did.
                lost = rng.choice(self.unsynced)
                if isinstance(lost, Write):
                    steps = [*steps, Write(lost.offset + len(lost.data), b"")]
        content, written = bytearray(self.durable), bytearray(b"\1" * len(self.durable))
        for step in steps:
            step.apply(content)
            (Write(step.offset, b"\1" * len(step.data)) if isinstance(step, Write) else step).apply(written)
        if rng.random() < 0.5:
            _fill_holes(content, written, rng)
        self.content, self.durable = content, bytearray(content)
        self.unsynced.clear()

    @staticmethod
    def _torn(step: Write | Truncate, keep: Keep, rng: random.Random) -> list[Write | Truncate]:
        """Some sectors or bytes of a write. Sectors are those of the file, so a write may begin and end
        within one."""
        if isinstance(step, Truncate):
            return [step]
        end = step.offset + len(step.data)
        if keep == "prefix":
            cut = rng.randint(step.offset, end)
            if rng.random() < 0.5:
                cut = max(step.offset, cut - cut % SECTOR_BYTES)
            return [Write(step.offset, step.data[: cut - step.offset])]
        first_edge = step.offset - step.offset % SECTOR_BYTES + SECTOR_BYTES
        edges = [step.offset, *range(first_edge, end, SECTOR_BYTES), end]
        return [
            Write(start, step.data[start - step.offset : stop - step.offset])
            for start, stop in pairwise(edges)
            if rng.random() < 0.5
        ]

    def _show(self, start: int, stop: int | None) -> None:
        """Bring a range of the living mappings up to date, with zeros beyond the end; ``stop=None`` is as far
        as they go."""
        if not self.mappings:
            return
        self.mappings = [reference for reference in self.mappings if reference() is not None]
        for reference in self.mappings:
            view = reference()
            if view is not None and start < len(view):
                end = len(view) if stop is None else min(stop, len(view))
                view[start:end] = bytes(self.content[start:end]).ljust(end - start, b"\0")


@dataclass(eq=False)
class Directory:
    """Names, and the changes of names since the last ``sync_directory``: creations, renames and removals."""

    names: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    unsynced: list[Naming] = field(default_factory=list)

    def change(self, name: str | None, node: Node) -> None:
        """``node`` is called ``name`` from now on, and nothing else; None removes it."""
        step = Naming(name, node)
        step.apply(self.names)
        self.unsynced.append(step)

    def sync(self) -> None:
        for step in self.unsynced:
            step.apply(self.durable)
        self.unsynced.clear()

    def settle(self, keep: Keep, rng: random.Random) -> None:
        """A power cut. Any subset of the changes is a legal outcome; each of them is atomic."""
        names = dict(self.durable)
        for step in _kept(self.unsynced, keep, rng):
            step.apply(names)
        self.names, self.durable = names, dict(names)
        self.unsynced.clear()


Node: TypeAlias = Inode | Directory


class Naming(NamedTuple):
    """A change of one name."""

    name: str | None
    node: Node

    def apply(self, names: dict[str, Node]) -> None:
        # Old names go by identity: when an earlier change was lost, the file may still have an older name
        # than the last.
        for old in [name for name, node in names.items() if node is self.node]:
            del names[old]
        if self.name is not None:
            names[self.name] = self.node


def _kept(steps: Sequence[_Change], keep: Keep, rng: random.Random) -> list[_Change]:
    match keep:
        case "none":
            return []
        case "all":
            return list(steps)
        case "prefix":
            return list(steps[: rng.randint(0, len(steps))])
        case "subset":
            return [step for step in steps if rng.random() < 0.5]


def _fill_holes(content: bytearray, written: bytearray, rng: random.Random) -> None:
    """Put garbage where the file grew over bytes that never reached the medium."""
    start = written.find(0)
    while start >= 0:
        stop = written.find(1, start)
        stop = len(written) if stop < 0 else stop
        content[start:stop] = rng.randbytes(stop - start)
        start = written.find(0, stop)


def copied(directory: Directory) -> Directory:
    """A directory and all below it, with what is durable and what is not; handles and mappings are not
    copied."""
    return _Copier().directory(directory)


class _Copier:
    """Copies each node once, since durable names, names and changes share them."""

    def __init__(self) -> None:
        self._copies: dict[int, Node] = {}

    def node(self, node: Node) -> Node:
        if id(node) not in self._copies:
            if isinstance(node, Directory):
                return self.directory(node)
            self._copies[id(node)] = Inode(
                bytearray(node.content), bytearray(node.durable), list(node.unsynced), list(node.spoiled)
            )
        return self._copies[id(node)]

    def directory(self, original: Directory) -> Directory:
        copy = self._copies[id(original)] = Directory()
        copy.names = {name: self.node(node) for name, node in original.names.items()}
        copy.durable = {name: self.node(node) for name, node in original.durable.items()}
        copy.unsynced = [Naming(step.name, self.node(step.node)) for step in original.unsynced]
        return copy
