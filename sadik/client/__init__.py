"""The Python client: contexts carried along, requests straight to a node that holds the key, honest outcomes.

    async with Client(["127.0.0.1:7379", "127.0.0.1:7389"], bucket="carts") as client:
        cart = await client.get("ann")
        await client.put("ann", b"milk, bread")     # replaces exactly what the read saw

``docs/client.md`` is a tour. Nothing of a server is imported; names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sadik.client.answers import ManyFailed, Reply, Sibling, StaleRead
    from sadik.client.client import Client
    from sadik.client.cluster import Statistics
    from sadik.client.limits import Limits
    from sadik.client.session import Session
    from sadik.client.sync import SyncClient, SyncSession

_HOMES = {
    "Client": "client",
    "Limits": "limits",
    "ManyFailed": "answers",
    "Reply": "answers",
    "Session": "session",
    "Sibling": "answers",
    "StaleRead": "answers",
    "Statistics": "cluster",
    "SyncClient": "sync",
    "SyncSession": "sync",
}

__all__ = [
    "Client",
    "Limits",
    "ManyFailed",
    "Reply",
    "Session",
    "Sibling",
    "StaleRead",
    "Statistics",
    "SyncClient",
    "SyncSession",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
