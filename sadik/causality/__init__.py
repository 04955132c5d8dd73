"""What happened before what: vector clocks, version sets, contexts and hybrid time, usable without a server.

``from sadik.causality import VectorClock, VersionSet``. Names load when first used; nothing here imports
asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sadik.causality.clock import HybridClock
    from sadik.causality.context import context_key, decode_context, encode_context
    from sadik.causality.vclock import Actor, Order, VectorClock
    from sadik.causality.versions import Value, VersionSet

__all__ = [
    "Actor",
    "HybridClock",
    "Order",
    "Value",
    "VectorClock",
    "VersionSet",
    "context_key",
    "decode_context",
    "encode_context",
]

HOMES = {
    "Actor": "vclock",
    "HybridClock": "clock",
    "Order": "vclock",
    "Value": "versions",
    "VectorClock": "vclock",
    "VersionSet": "versions",
    "context_key": "context",
    "decode_context": "context",
    "encode_context": "context",
}


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
