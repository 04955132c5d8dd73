"""An engine over LMDB: the storage contract on a library that somebody else wrote. Needs the extra
``sadik[lmdb]``.

Four tables: records (digest: check, space, flags, name length, name, value), the system table, counts per
space, and what this directory is. Records, counts and system values change in one LMDB transaction per call.

Durability. With ``sync_commits`` (the default) every call is durable when it returns, at the price of two
waits for the disk. Without it a commit only reaches the operating system, as LMDB's MDB_NOSYNC: the death of
the process loses nothing, syncs run elsewhere, but LMDB reuses pages, so **a power cut after unsynced commits
may damage what was synced before**. Only the log engine gives both speed and safety.

LMDB does not check what it reads. Each record carries a CRC-32 over digest, header, name and value; a record
that fails it is an error, never absent.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, Final, TypeVar
from zlib import crc32

from sadik.env.files import Files, Lock, SystemFiles
from sadik.env.worker import Mutex
from sadik.errors import DirectoryLocked, StorageError, StorageFailed, StorageFull, WrongFormat
from sadik.kernels import segment
from sadik.storage.engine import DIGEST_BYTES, Entry, Statistics, SyncRequest
from sadik.storage.record_engine import Record, RecordEngine, Unreadable, footprint
from sadik.storage.spaces import Footprint, SpaceCount, Spaces

FORMAT_VERSION: Final = 1
MAP_BYTES_FIRST: Final = 64 << 20
MAP_BYTES_MAX: Final = 1 << 44

# CRC-32 of digest and all that follows it, space, flags, length of the name.
_HEADER: Final = struct.Struct("<IIBI")
_CHECKED: Final = struct.Struct("<IBI")
_COUNTS: Final = struct.Struct("<QQQ")
_SPACE: Final = struct.Struct(">I")
_FORMAT_KEY: Final = b"format"


_MARGIN_BYTES: Final = 1 << 20
_FULL: Final = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))

_Result = TypeVar("_Result")


class LmdbEngine(RecordEngine):
    """See ``open``."""

    def __init__(
        self,
        library: ModuleType,
        environment: Any,
        files: Files,
        lock: Lock,
        *,
        sync_commits: bool,
        map_bytes_max: int,
    ) -> None:
        """Use ``open``."""
        super().__init__()
        self._lmdb = library
        self._environment = environment
        self._files = files
        self._lock = lock
        self._sync_commits = sync_commits
        self._map_bytes: int = environment.info()["map_size"]
        self._map_bytes_max = map_bytes_max
        # Growing the map moves it, which must not happen under a sync that runs on another thread.
        self._map_lock = Mutex()
        self._corrupt: dict[bytes, int] = {}
        self._check_format()
        self._records = environment.open_db(b"records")
        self._table = environment.open_db(b"system")
        self._counts = environment.open_db(b"spaces")
        with environment.begin(db=self._counts) as transaction:
            rows = list(transaction.cursor())
        self._spaces = Spaces({_SPACE.unpack(key)[0]: SpaceCount(*_COUNTS.unpack(row)) for key, row in rows})

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        files: Files | None = None,
        sync_commits: bool = True,
        map_bytes_first: int = MAP_BYTES_FIRST,
        map_bytes_max: int = MAP_BYTES_MAX,
    ) -> LmdbEngine:
        """Open or create the engine in a directory of its own, which stays locked until ``close``.

        Args:
            files: Makes the directory and takes the lock; LMDB itself always works on the operating system's
                files.
            sync_commits: See the top of this file.
            map_bytes_first, map_bytes_max: Size of the database, doubled when it is full; beyond the maximum:
                StorageFull.
        Raises:
            DirectoryLocked: Another engine has it open.
            WrongFormat: A newer format, or not a database of this engine; nothing was changed.
            StorageError: The ``lmdb`` package is missing, or it cannot open the directory.
        """
        library = _library()
        files = files or SystemFiles()
        directory = os.path.abspath(directory)
        files.make_directory(directory)
        try:
            lock = files.lock(f"{directory}/LOCK")
        except BlockingIOError as error:
            raise DirectoryLocked(f"{directory} is in use by another process") from error
        environment = None
        try:
            environment = library.open(
                directory,
                map_size=map_bytes_first,
                max_dbs=3,
                sync=sync_commits,
                metasync=sync_commits,
                meminit=False,
            )
            engine = cls(
                library, environment, files, lock, sync_commits=sync_commits, map_bytes_max=map_bytes_max
            )
            files.sync_directory(directory)
            files.sync_directory(os.path.dirname(directory))
        except BaseException as error:
            if environment is not None:
                environment.close()
            lock.release()
            if isinstance(error, (library.InvalidError, library.VersionMismatchError)):
                raise WrongFormat(f"{directory} holds no database that this LMDB reads: {error}") from error
            if isinstance(error, library.Error):
                raise StorageError(f"cannot open {directory}: {error}") from error
            raise
        return engine

    @property
    def durable_ticket(self) -> int:
        return self._ticket if self._sync_commits else self._durable

    def sync_begin(self) -> SyncRequest | None:
        self._check_open()
        if self.durable_ticket >= self._ticket or self._failure is not None:
            return None
        return SyncRequest(self._ticket, self._sync_environment)

    def statistics(self) -> Statistics:
        self._check_open()
        information, live = self._environment.info(), self._spaces.total(garbage=False)
        page_bytes = self._environment.stat()["psize"]
        return Statistics(
            engine="lmdb",
            keys=live.keys,
            stored_bytes=(information["last_pgno"] + 1) * page_bytes,
            live_bytes=live.bytes,
            index_bytes=0,
            segments=1,
            corrupt_records=len(self._corrupt),
            corrupt_bytes=sum(self._corrupt.values()),
            quarantined_segments=0,
            writable=self._failure is None,
            details={"map_bytes": information["map_size"], "sync_commits": int(self._sync_commits)},
        )

    def _fetch(self, digests: Iterable[bytes]) -> Iterator[Record | Unreadable | None]:
        with self._environment.begin(db=self._records) as transaction:
            for digest in digests:
                try:
                    raw = transaction.get(digest)
                except self._lmdb.Error as error:
                    yield self._unreadable(digest, 0, str(error))
                    continue
                yield None if raw is None else self._decode(digest, raw)

    def _apply(self, changes: Sequence[tuple[bytes, Record | None]]) -> None:
        def change(transaction: Any) -> Spaces:
            draft = self._spaces.draft()
            for digest, record in changes:
                old = transaction.get(digest, db=self._records)
                if old is not None:
                    draft.drop(_stored_footprint(old))
                if record is not None:
                    draft.add(footprint(record))
                    transaction.put(digest, _encode(digest, record), db=self._records)
                elif old is not None:
                    transaction.delete(digest, db=self._records)
            for space, count in draft.changed(self._spaces):
                row = _COUNTS.pack(count.keys, count.records, count.bytes)
                transaction.put(_SPACE.pack(space), row, db=self._counts)
            return draft

        self._spaces = self._transact(change, sum(record.size for _, record in changes if record is not None))
        for digest, _ in changes:
            self._corrupt.pop(digest, None)

    def _walk(self, after: bytes, stop: bytes, count: int, bytes_max: int) -> list[Entry]:
        entries: list[Entry] = []
        taken = 0
        with self._environment.begin(db=self._records) as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            if found and cursor.key() == after:
                found = cursor.next()
            while found and len(entries) < count and taken < bytes_max and cursor.key() <= stop:
                digest, raw = cursor.item()
                taken += len(raw)
                record = self._decode(digest, raw)
                if isinstance(record, Unreadable):
                    entries.append(Entry(digest, 0, 0, b"", None))
                else:
                    entries.append(Entry(digest, record.space, record.flags, record.name, record.value))
                found = cursor.next()
        return entries

    def _apply_system(self, name: bytes, value: bytes) -> None:
        def change(transaction: Any) -> None:
            if value:
                transaction.put(name, value, db=self._table)
            else:
                transaction.delete(name, db=self._table)

        self._transact(change, len(value))

    def _system(self) -> list[tuple[bytes, bytes]]:
        with self._environment.begin(db=self._table) as transaction:
            return list(transaction.cursor())

    def _release(self) -> None:
        self._environment.close()
        self._lock.release()

    def _check_format(self) -> None:
        """Before anything is written: is this ours, and not newer than we are?"""
        with self._environment.begin() as transaction:
            version = transaction.get(_FORMAT_KEY)
            if version is None and transaction.stat()["entries"]:
                raise WrongFormat(f"{self._environment.path()} holds another program's LMDB database")
        if version is None:
            with self._environment.begin(write=True) as transaction:
                transaction.put(_FORMAT_KEY, str(FORMAT_VERSION).encode())
        elif version != str(FORMAT_VERSION).encode():
            raise WrongFormat(
                f"{self._environment.path()} has format {version.decode(errors='replace')}, "
                f"this program knows {FORMAT_VERSION}"
            )

    def _transact(self, change: Callable[[Any], _Result], size: int) -> _Result:
        """Run ``change``, which stores about ``size`` bytes, in a write transaction; anew when the map had to
        grow.
        """
        while True:
            try:
                with self._environment.begin(write=True, buffers=True) as transaction:
                    result = change(transaction)
            except self._lmdb.MapFullError as error:
                self._grow(error)
            except self._lmdb.Error as error:
                if str(error).endswith(_FULL) or self._is_full(size):
                    raise StorageFull(f"no room to write: {error}") from error
                self._failure = str(error)
                raise StorageFailed(f"write failed: {error}", maybe_applied=True) from error
            else:
                return result

    def _is_full(self, size: int) -> bool:
        """Whether there is no room for ``size`` bytes and the pages around them.

        A write that the system cuts short comes out of LMDB as "Input/output error", with the transaction
        given up, so that may mean a full disk.
        """
        try:
            return self._files.free_bytes(self._environment.path()) < 2 * size + _MARGIN_BYTES
        except OSError:
            return False

    def _grow(self, error: Exception) -> None:
        if self._map_bytes >= self._map_bytes_max:
            raise StorageFull(f"the database has reached {self._map_bytes} bytes") from error
        self._map_bytes = min(2 * self._map_bytes, self._map_bytes_max)
        with self._map_lock:
            self._environment.set_mapsize(self._map_bytes)

    def _sync_environment(self) -> None:
        try:
            with self._map_lock:
                self._environment.sync(True)
        except self._lmdb.Error as error:
            raise OSError(errno.EIO, str(error)) from error

    def _decode(self, digest: bytes, raw: bytes) -> Record | Unreadable:
        if len(raw) < _HEADER.size:
            return self._unreadable(digest, len(raw), f"a record of {len(raw)} bytes")
        check, space, flags, name_bytes = _HEADER.unpack_from(raw)
        if crc32(memoryview(raw)[4:], crc32(digest)) != check:
            return self._unreadable(digest, len(raw), "wrong checksum")
        start = _HEADER.size + name_bytes
        return Record(space, flags, raw[_HEADER.size : start], raw[start:])

    def _unreadable(self, digest: bytes, size: int, reason: str) -> Unreadable:
        if digest not in self._corrupt:
            self._corrupt[digest] = size
            self._losses += 1
        return Unreadable(reason)


def _encode(digest: bytes, record: Record) -> bytes:
    checked = _CHECKED.pack(record.space, record.flags, len(record.name)) + record.name + record.value
    return crc32(checked, crc32(digest)).to_bytes(4, "little") + checked


def _stored_footprint(raw: memoryview) -> Footprint:
    """What an overwritten record counted for: by its header alone, which rot in the value leaves right."""
    if len(raw) < _HEADER.size:
        return Footprint(0, True, 0)
    _, space, flags, _ = _HEADER.unpack_from(raw)
    return Footprint(space, bool(flags & segment.FLAG_DEAD), len(raw) - _HEADER.size + DIGEST_BYTES)


def _library() -> ModuleType:
    try:
        import lmdb
    except ImportError as error:
        raise StorageError("the lmdb engine needs the lmdb package: pip install 'sadik[lmdb]'") from error
    return lmdb
