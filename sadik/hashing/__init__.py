"""Who should hold what, and how to compare holdings: a library of its own, without any server code.

    from sadik.hashing import Ring
    ring = Ring.from_nodes(["amber", "birch", "cedar"])
    ring.preference_list(b"some key", 2)        # the two nodes that keep it, nearest first

Names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sadik.hashing.digest import HASHES, HashFunction, hash_function, token_of
    from sadik.hashing.merkle import Descent, MerkleTree
    from sadik.hashing.placement import EqualPartitions, Node, RandomTokens, Strategy
    from sadik.hashing.preference import Move, TokenRange, moves, ranges_held, spread
    from sadik.hashing.ring import Ring

_HOMES = {
    "HASHES": "digest",
    "HashFunction": "digest",
    "hash_function": "digest",
    "token_of": "digest",
    "Descent": "merkle",
    "MerkleTree": "merkle",
    "EqualPartitions": "placement",
    "Node": "placement",
    "RandomTokens": "placement",
    "Strategy": "placement",
    "Move": "preference",
    "TokenRange": "preference",
    "moves": "preference",
    "ranges_held": "preference",
    "spread": "preference",
    "Ring": "ring",
}

__all__ = [
    "HASHES",
    "Descent",
    "EqualPartitions",
    "HashFunction",
    "MerkleTree",
    "Move",
    "Node",
    "RandomTokens",
    "Ring",
    "Strategy",
    "TokenRange",
    "hash_function",
    "moves",
    "ranges_held",
    "spread",
    "token_of",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
