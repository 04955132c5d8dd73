"""Storage engines: bytes by digest, behind one contract (``Engine``). Use them without anything else of
Sadik.

from sadik.storage import LogEngine
engine = LogEngine.open("directory")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sadik.storage.engine import ABSENT, ERROR, STORED, Engine, Entry, ReadBatch, Statistics, SyncRequest
    from sadik.storage.lmdb_engine import LmdbEngine
    from sadik.storage.log_engine import LogEngine
    from sadik.storage.memory_engine import MemoryEngine

_HOME = {
    "ABSENT": "engine",
    "ERROR": "engine",
    "STORED": "engine",
    "Engine": "engine",
    "Entry": "engine",
    "ReadBatch": "engine",
    "Statistics": "engine",
    "SyncRequest": "engine",
    "LmdbEngine": "lmdb_engine",
    "LogEngine": "log_engine",
    "MemoryEngine": "memory_engine",
}

__all__ = [
    "ABSENT",
    "ERROR",
    "STORED",
    "Engine",
    "Entry",
    "LmdbEngine",
    "LogEngine",
    "MemoryEngine",
    "ReadBatch",
    "Statistics",
    "SyncRequest",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
