"""A disk in memory that remembers what was synced: ``SimFiles`` stands in for ``env.SystemFiles``.

What a disk may lose is modelled as weakly as POSIX allows, because an engine must not rely on more:

* ``File.sync`` makes a file's bytes and size durable and says nothing of its name. ``sync_directory`` makes
the names in
  that directory durable (creations, renames, removals) and says nothing of contents. Making a directory is a
  creation in its parent.
* ``power_cut`` keeps, by seed, nothing, all, a prefix or any subset of what was not synced, each file and
each directory by itself. A write
  may be torn, at 512 bytes or at one; where a file grew over bytes that were lost there are zeros or garbage.
  A rename is atomic.
* ``kill`` is the death of the process alone: all that was handed over is kept.
* Both make every handle stale (ESTALE) and give all locks back. A mapping keeps what it showed.

Faults are values, put in by ``inject``. ``crash_before`` ends the process at its n-th operation:
``CrashPoint`` is raised there and by all that the dying code still tries, so its cleanup changes nothing.
Everything is deterministic; there is no thread, clock or real file here.

Limits: no hard links; no renames across directories (EXDEV) nor of directories (EISDIR). A mapping shows
zeros, and no SIGBUS, beyond the end of the file, and shows what ``spoil`` hides from ``read_at``.
"""

from __future__ import annotations

import errno
import os
import posixpath
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from sadik.kernels.buffers import Buffer
from sadik.sim.disk import KEEPS, Directory, Inode, Keep, Node, Truncate, Write, copied
from sadik.sim.faults import CrashPoint, Fault, Operation, Script

__all__ = ["UNLIMITED", "CrashPoint", "Fault", "Operation", "SimFile", "SimFiles", "SimLock"]

UNLIMITED: Final = 1 << 62


class SimFile:
    """An open file of ``SimFiles``."""

    def __init__(self, files: SimFiles, path: str, inode: Inode, write: bool) -> None:
        self.path = path
        self._files = files
        self._inode = inode
        self._write = write
        self._life = files.life
        self._open = True
        inode.handles += 1

    def write_at(self, data: Buffer, offset: int) -> int:
        raw = bytes(data)
        self._check(write=True)
        try:
            fault = self._files.script.begin("write", self.path, len(raw))
        except CrashPoint as crash:
            self._put(raw[: crash.taken], offset)
            raise
        if fault is not None:
            taken = self._put(raw[: fault.taken], offset)
            _fail(fault, self.path)
            return taken
        taken = min(len(raw), max(0, self._files.file_bytes_max - offset))
        if raw and not taken:
            raise _error(errno.EFBIG, self.path)
        room = self._files.room_bytes() - max(0, offset - len(self._inode.content))
        taken = min(taken, max(0, len(self._inode.content) - offset) + max(0, room))
        if raw and not taken:
            raise _error(errno.ENOSPC, self.path)
        return self._put(raw[:taken], offset)

    def read_at(self, length: int, offset: int) -> bytes:
        self._check()
        _fail(self._files.script.begin("read", self.path), self.path)
        spoiled = self._inode.spoiled
        if spoiled and any(offset < stop and start < offset + length for start, stop in spoiled):
            raise _error(errno.EIO, self.path)
        return bytes(self._inode.content[offset : offset + length])

    def size(self) -> int:
        self._check()
        _fail(self._files.script.begin("size", self.path), self.path)
        return len(self._inode.content)

    def truncate(self, length: int) -> None:
        self._check(write=True)
        _fail(self._files.script.begin("truncate", self.path), self.path)
        if length > self._files.file_bytes_max:
            raise _error(errno.EFBIG, self.path)
        self._inode.change(Truncate(length))

    def sync(self) -> None:
        self._check()
        fault = self._files.script.begin("sync", self.path)
        if fault is not None and fault.loses:
            self._inode.lose()
        _fail(fault, self.path)
        self._inode.sync()

    def map(self, length: int) -> Buffer:
        self._check()
        _fail(self._files.script.begin("map", self.path), self.path)
        if length < 1:
            raise ValueError(f"length is {length}, must be at least 1")
        return self._inode.map(length)

    def close(self) -> None:
        if self._open and self._files.life == self._life:
            self._inode.handles -= 1
        self._open = False

    def _check(self, *, write: bool = False) -> None:
        if self._files.life != self._life:
            raise _error(errno.ESTALE, self.path)
        if not self._open or (write and not self._write):
            raise _error(errno.EBADF, self.path)

    def _put(self, data: bytes, offset: int) -> int:
        if data:
            self._inode.change(Write(offset, data))
        return len(data)


class SimLock:
    """A lock of ``SimFiles``."""

    def __init__(self, files: SimFiles, path: str) -> None:
        self._files = files
        self._path = path
        self._life = files.life
        self._held = True
        files.locked.add(path)

    def release(self) -> None:
        if self._held and self._files.life == self._life:
            self._files.locked.discard(self._path)
        self._held = False


class SimFiles:
    """The disk: implements ``env.files.Files``. Paths are absolute; a relative one is taken from ``/``.

    Args:
        capacity_bytes: Room for all files; beyond it writes are short, then ENOSPC.
        file_bytes_max: The longest file; beyond it writes are short, then EFBIG.
        directories: There from the start, durably, parents included.

    Attributes:
        capacity_bytes, file_bytes_max: May be changed at any time.
        script: Faults and the count of operations; what tests need of it is offered here too.
        locked: Paths of the locks that are held.
        life: How often the process has died.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int = UNLIMITED,
        file_bytes_max: int = UNLIMITED,
        directories: Sequence[str] = (),
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.file_bytes_max = file_bytes_max
        self.script = Script()
        self.locked: set[str] = set()
        self.life = 0
        self._root = Directory()
        self._unlinked: list[Inode] = []
        for path in directories:
            self._make(_absolute(path))
        for _, node in self._walk():
            if isinstance(node, Directory):
                node.sync()

    # What storage sees.

    def open(self, path: str, *, create: bool = False, write: bool = False) -> SimFile:
        path = _absolute(path)
        _fail(self.script.begin("create" if create else "open", path), path)
        directory, name = self._parent(path)
        node = directory.names.get(name)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        if create:
            if node is not None:
                raise _error(errno.EEXIST, path)
            node = Inode()
            directory.change(name, node)
        elif node is None:
            raise _error(errno.ENOENT, path)
        return SimFile(self, path, node, create or write)

    def exists(self, path: str) -> bool:
        self.script.check_alive()
        try:
            self._node(_absolute(path))
        except OSError:
            return False
        return True

    def names(self, directory: str) -> list[str]:
        path = _absolute(directory)
        _fail(self.script.begin("names", path), path)
        return sorted(self._directory(path).names)

    def make_directory(self, path: str) -> None:
        path = _absolute(path)
        _fail(self.script.begin("make_directory", path), path)
        self._make(path)

    def rename(self, source: str, target: str) -> None:
        source, target = _absolute(source), _absolute(target)
        _fail(self.script.begin("rename", source), source)
        directory, _ = self._parent(source)
        to_directory, name = self._parent(target)
        inode = self._file(source)
        replaced = to_directory.names.get(name)
        if isinstance(replaced, Directory):
            raise _error(errno.EISDIR, target)
        if directory is not to_directory:
            raise _error(errno.EXDEV, target)
        if replaced is inode:
            return
        if replaced is not None:
            self._unlinked.append(replaced)
        directory.change(name, inode)

    def remove(self, path: str) -> None:
        path = _absolute(path)
        _fail(self.script.begin("remove", path), path)
        inode = self._file(path)
        self._parent(path)[0].change(None, inode)
        self._unlinked.append(inode)

    def sync_directory(self, path: str) -> None:
        path = _absolute(path)
        _fail(self.script.begin("sync_directory", path), path)
        self._directory(path).sync()

    def lock(self, path: str) -> SimLock:
        path = _absolute(path)
        _fail(self.script.begin("lock", path), path)
        directory, name = self._parent(path)
        node = directory.names.get(name)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        if path in self.locked:
            raise _error(errno.EWOULDBLOCK, path)
        if node is None:
            directory.change(name, Inode())
        return SimLock(self, path)

    def free_bytes(self, directory: str) -> int:
        path = _absolute(directory)
        _fail(self.script.begin("free_bytes", path), path)
        self._directory(path)
        return max(0, self.room_bytes())

    # What tests do to it.

    @property
    def trace(self) -> list[Operation]:
        """The counted operations so far: those that change something or sync it."""
        return self.script.trace

    def inject(self, fault: Fault) -> None:
        """Add a fault; of several that match an operation the first added one acts. They outlive the
        process."""
        self.script.inject(fault)

    def clear_faults(self) -> None:
        self.script.clear_faults()

    def crash_before(self, number: int, *, taken: int = 0) -> None:
        """Die instead of running operation ``number`` of the trace, counted from 0.

        Of a write, ``taken`` bytes are handed over first.
        """
        self.script.crash_before(number, taken)

    def kill(self) -> None:
        """The process dies, the machine does not: all that was handed over is still there, synced or not."""
        for _, node in self._walk():
            if isinstance(node, Inode):
                node.release()
        for inode in self._unlinked:
            inode.release()
        self._unlinked.clear()
        self.locked.clear()
        self.life += 1
        self.script.revive()

    def power_cut(self, rng: random.Random, keep: Keep | None = None) -> None:
        """The machine dies: what was not synced is kept or lost as ``keep`` says, or by ``rng`` for each file
        and directory."""
        self.kill()
        # Directories first, from the root: what lies in a lost one is lost with it.
        for _, node in self._walk():
            choice: Keep = rng.choice(KEEPS) if keep is None else keep
            node.settle(choice, rng)

    def fork(self) -> SimFiles:
        """A copy of the disk as it is now, for trying several ends of one story: no handles, locks, faults or
        crash in it."""
        copy = SimFiles(capacity_bytes=self.capacity_bytes, file_bytes_max=self.file_bytes_max)
        copy._root = copied(self._root)
        return copy

    def paths(self) -> list[str]:
        """Every file, sorted."""
        return sorted(path for path, node in self._walk() if isinstance(node, Inode))

    def content(self, path: str) -> bytes:
        """What reads of a file see."""
        return bytes(self._file(_absolute(path)).content)

    def durable_content(self, path: str) -> bytes:
        """What a power cut keeps of a file for certain, as far as its name survives."""
        return bytes(self._file(_absolute(path)).durable)

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Replace bytes on the medium, behind everybody's back; mappings show it.

        Raises:
            ValueError: Beyond the end of the file.
        """
        self._file(_absolute(path)).damage(offset, data)

    def flip(self, path: str, offset: int, mask: int = 1) -> None:
        """Invert the bits ``mask`` of one byte."""
        inode = self._file(_absolute(path))
        inode.damage(offset, bytes([inode.content[offset] ^ mask]))

    def spoil(self, path: str, start: int, stop: int) -> None:
        """Make ``read_at`` of anything in ``start`` to ``stop`` fail with EIO, for ever."""
        self._file(_absolute(path)).spoiled.append((start, stop))

    def room_bytes(self) -> int:
        """Free room; a removed file takes its room until its last handle is closed."""
        if self.capacity_bytes >= UNLIMITED:
            return UNLIMITED
        self._unlinked = [inode for inode in self._unlinked if inode.handles]
        inodes = [node for _, node in self._walk() if isinstance(node, Inode)] + self._unlinked
        return self.capacity_bytes - sum(len(inode.content) for inode in inodes)

    def _walk(self) -> Iterator[tuple[str, Node]]:
        """Every node but lost ones, parents first, names in order. A directory may be changed while it is
        met."""
        waiting: list[tuple[str, Node]] = [("/", self._root)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            if isinstance(node, Directory):
                names = sorted(node.names, reverse=True)
                waiting.extend((posixpath.join(path, name), node.names[name]) for name in names)

    def _node(self, path: str) -> Node:
        node: Node = self._root
        for name in _parts(path):
            if not isinstance(node, Directory):
                raise _error(errno.ENOTDIR, path)
            if name not in node.names:
                raise _error(errno.ENOENT, path)
            node = node.names[name]
        return node

    def _directory(self, path: str) -> Directory:
        node = self._node(path)
        if not isinstance(node, Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _file(self, path: str) -> Inode:
        node = self._node(path)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        parent, name = posixpath.split(path)
        if not name:
            raise _error(errno.EISDIR, path)
        return self._directory(parent), name

    def _make(self, path: str) -> None:
        node: Node = self._root
        for name in _parts(path):
            if not isinstance(node, Directory):
                raise _error(errno.ENOTDIR, path)
            if name not in node.names:
                node.change(name, Directory())
            node = node.names[name]
        if not isinstance(node, Directory):
            raise _error(errno.EEXIST, path)


@lru_cache(maxsize=1024)
def _absolute(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path))


@lru_cache(maxsize=1024)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def _fail(fault: Fault | None, path: str) -> None:
    if fault is not None and fault.code:
        raise _error(fault.code, path)
