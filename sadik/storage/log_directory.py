"""The log engine's directory as such: made, locked, and known to be one of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from sadik.env.files import File, Files, Lock
from sadik.errors import DirectoryLocked, StorageError, WrongFormat
from sadik.storage.log_files import close_quietly
from sadik.storage.segment_file import write_whole

_FORMAT_FILE: Final = "FORMAT"
_FORMAT_WORD: Final = b"sadik log engine "
_FORMAT_VERSION: Final = 1
_LOCK_FILE: Final = "LOCK"


def prepare(files: Files, directory: str) -> Lock:
    """Make and lock the directory, and check that it is one of ours."""
    try:
        files.make_directory(directory)
        lock = files.lock(f"{directory}/{_LOCK_FILE}")
    except BlockingIOError as error:
        raise DirectoryLocked(f"{directory} is in use by another process") from error
    except OSError as error:
        raise StorageError(f"{directory} cannot be opened: {error}") from error
    try:
        _check_format(files, directory)
    except OSError as error:
        lock.release()
        raise StorageError(f"{directory} cannot be opened: {error}") from error
    except BaseException:
        lock.release()
        raise
    return lock


def _check_format(files: Files, directory: str) -> None:
    path = f"{directory}/{_FORMAT_FILE}"
    if files.exists(path):
        file = files.open(path)
        try:
            words = file.read_at(256, 0)
        finally:
            close_quietly(file)
        version = words.removeprefix(_FORMAT_WORD).strip()
        if not words.startswith(_FORMAT_WORD) or not version.isdigit():
            raise WrongFormat(f"{path} is not that of a log")
        if int(version) > _FORMAT_VERSION:
            raise WrongFormat(f"{path}: version {int(version)}, this one reads up to {_FORMAT_VERSION}")
        return
    # Names above first: who finds a FORMAT file believes that the way to it is durable.
    above = directory.rstrip("/")
    while "/" in above:
        above = above.rpartition("/")[0]
        with suppress(PermissionError):
            files.sync_directory(above or "/")
    temporary = f"{path}.tmp"
    if files.exists(temporary):
        files.remove(temporary)
    made: File = files.open(temporary, create=True)
    try:
        write_whole(made, _FORMAT_WORD + b"%d\n" % _FORMAT_VERSION, 0)
        made.sync()
    finally:
        close_quietly(made)
    files.rename(temporary, path)
    files.sync_directory(directory)
