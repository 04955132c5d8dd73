"""The engines that the contract is asked of, each with a directory of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from sadik.storage.engine import Engine
from sadik.storage.lmdb_engine import LmdbEngine
from sadik.storage.log_engine import LogEngine
from sadik.storage.memory_engine import MemoryEngine


@dataclass(frozen=True)
class Subject:
    """One way to open an engine.

    Attributes:
        expression: Opens it in another process; ``directory`` is a variable there.
        persistent: What was stored is there after a reopen.
    """

    name: str
    directory: str
    open: Callable[[], Engine]
    expression: str
    persistent: bool


def subject_of(name: str, directory: str) -> Subject:
    """The subject ``name`` on ``directory``."""
    opens: dict[str, tuple[Callable[[], Engine], str]] = {
        "memory": (MemoryEngine, ""),
        "log": (
            lambda: LogEngine.open(directory),
            "from sadik.storage.log_engine import LogEngine; engine = LogEngine.open(directory)",
        ),
        # So small that every few calls seal a segment and every maintenance has something to compact.
        "log-small": (
            lambda: LogEngine.open(directory, segment_bytes_max=1 << 14),
            "from sadik.storage.log_engine import LogEngine; "
            "engine = LogEngine.open(directory, segment_bytes_max=1 << 14)",
        ),
        "lmdb": (
            lambda: LmdbEngine.open(directory, map_bytes_first=1 << 16),
            "from sadik.storage.lmdb_engine import LmdbEngine; engine = LmdbEngine.open(directory)",
        ),
        "lmdb-unsynced": (
            lambda: LmdbEngine.open(directory, sync_commits=False),
            "from sadik.storage.lmdb_engine import LmdbEngine; "
            "engine = LmdbEngine.open(directory, sync_commits=False)",
        ),
    }
    opener, expression = opens[name]
    return Subject(name, directory, opener, expression, persistent=name != "memory")


ENGINES = ["memory", "log", "log-small", "lmdb", "lmdb-unsynced"]


def temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """In memory where that is possible: these tests wait for many syncs, and none of them cuts the power."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(
        prefix="sadik-storage-", dir=memory if os.access(memory, os.W_OK) else None
    )


@pytest.fixture
def directory() -> Iterator[str]:
    """A path where nothing is yet."""
    with temporary_directory() as parent:
        yield f"{parent}/engine"


@pytest.fixture(params=ENGINES)
def subject(request: pytest.FixtureRequest, directory: str) -> Subject:
    """Every engine."""
    return subject_of(request.param, directory)


@pytest.fixture(params=[name for name in ENGINES if name != "memory"])
def persistent(request: pytest.FixtureRequest, directory: str) -> Subject:
    """Every engine that keeps what it stored."""
    return subject_of(request.param, directory)


@pytest.fixture
def engine(subject: Subject) -> Iterator[Engine]:
    """Every engine, open and empty."""
    opened = subject.open()
    yield opened
    opened.close()
