"""The disk as an argument: what storage may do with files, and the real thing.

The interface is small on purpose: each method is one thing a fake can model (what is synced, what a power cut
may keep, what may fail). Paths are plain ``str``. Every failure is an ``OSError`` with its errno, from the
fakes too. No method is retried inside: short writes are visible, because rolling them back is the caller's
promise.
"""

from __future__ import annotations

import fcntl
import os
from typing import Protocol

from sadik.kernels import mapping
from sadik.kernels.buffers import Buffer


class File(Protocol):
    """One open file. Appending means ``write_at`` the known end: no hidden position that a failed write could
    move.
    """

    path: str

    def write_at(self, data: Buffer, offset: int) -> int:
        """Write once; returns the number of bytes taken, which may be short."""
        ...

    def read_at(self, length: int, offset: int) -> bytes:
        """Up to ``length`` bytes; short only at the end of the file."""
        ...

    def size(self) -> int: ...

    def truncate(self, length: int) -> None: ...

    def sync(self) -> None:
        """Make data and size durable (fdatasync). May block for long; may run in another thread."""
        ...

    def map(self, length: int) -> Buffer:
        """A read-only view of ``length`` > 0 bytes that also shows what is written later.

        Bytes beyond the file's size must not be touched. The view outlives ``close`` of the file.
        """
        ...

    def close(self) -> None: ...


class Lock(Protocol):
    """An exclusive claim on a directory, given back by ``release`` or by the death of the process."""

    def release(self) -> None: ...


class Files(Protocol):
    """The directory operations storage uses."""

    def open(self, path: str, *, create: bool = False, write: bool = False) -> File:
        """Open a file. ``create`` implies ``write`` and fails with EEXIST when the file exists."""
        ...

    def exists(self, path: str) -> bool: ...

    def names(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""
        ...

    def make_directory(self, path: str) -> None:
        """Create a directory and its parents; fine when it exists."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomically replace ``target``; durable only after ``sync_directory``."""
        ...

    def remove(self, path: str) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def lock(self, path: str) -> Lock:
        """Take an exclusive lock on a file, creating it; OSError(EWOULDBLOCK) when another holder lives."""
        ...

    def free_bytes(self, directory: str) -> int:
        """Bytes an ordinary user may still write there."""
        ...


class SystemFile:
    """A file of the operating system."""

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def write_at(self, data: Buffer, offset: int) -> int:
        return os.pwrite(self._fd, data, offset)

    def read_at(self, length: int, offset: int) -> bytes:
        # One pread may stop early (signals, 2 GiB); only an empty answer is the end of the file.
        first = os.pread(self._fd, length, offset)
        if len(first) == length or not first:
            return first
        parts = [first]
        taken = len(first)
        while taken < length and (part := os.pread(self._fd, length - taken, offset + taken)):
            parts.append(part)
            taken += len(part)
        return b"".join(parts)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def map(self, length: int) -> Buffer:
        return mapping.map_file(self._fd, length)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SystemLock:
    """flock(2) on an open file: the kernel gives it back when the process dies, so no stale lock files."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SystemFiles:
    """The operating system's file system."""

    def open(self, path: str, *, create: bool = False, write: bool = False) -> File:
        if create:
            return SystemFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        return SystemFile(path, os.O_RDWR if write else os.O_RDONLY)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def names(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: str) -> Lock:
        return SystemLock(path)

    def free_bytes(self, directory: str) -> int:
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize
