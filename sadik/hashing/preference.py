"""What preference lists mean for data: the token ranges a node holds, and what moves when the ring changes.

A node holds a range when it is among the first N of the range's list, so it is responsible from its Nth
predecessor up to itself (Dynamo 4.3). When the ring changes, each range whose holders differ is a ``Move``:
those that held it and need not any more offer it to those that now must (Dynamo 4.9).
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sadik.hashing.ring import Ring
from sadik.kernels import ring as kernel

TOKENS: Final = 2**64
_Value = TypeVar("_Value")


class TokenRange(NamedTuple):
    """The arc (start, end] of the ring, clockwise; it may wrap, and ``start == end`` is the whole ring."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of tokens, 1 to 2**64."""
        return (self.end - self.start) % TOKENS or TOKENS

    def covers(self, token: int) -> bool:
        """Whether a token lies in the range."""
        return (token - self.start - 1) % TOKENS < self.size


class Move(NamedTuple):
    """A range that gets other holders."""

    range: TokenRange
    givers: tuple[str, ...]
    """Held it, and need not any more."""
    keepers: tuple[str, ...]
    """Hold it before and after."""
    takers: tuple[str, ...]
    """Did not hold it, and must."""


class Spread(NamedTuple):
    """The least a ring does for any key: how few distinct nodes, hosts and zones its N holders are."""

    nodes: int
    hosts: int
    zones: int


def ranges_held(ring: Ring, name: str, n: int) -> list[TokenRange]:
    """The ranges a node holds as one of the first ``n``, by their end, neighbours joined.

    Raises:
        InvalidRequest: No such node.
    Cost: O(T * n) for T tokens.
    """
    index = ring.index_of(name)
    ends = ring.ends
    held = (_lists(ring, ends, n) == index).any(axis=1)
    return [joined for joined, holds in _arcs(ends, [bool(one) for one in held]) if holds]


def moves(before: Ring, after: Ring, n: int) -> list[Move]:
    """What must change hands when one ring replaces another, by the range's end, neighbours joined.

    Nodes are told apart by name; their order within a list does not matter.

    Cost: O(T * n) for the tokens of both.
    """
    ends = np.union1d(before.ends, after.ends)
    old = _holders(before, ends, n)
    new = _holders(after, ends, n)
    return [
        Move(
            joined,
            tuple(name for name in held if name not in due),
            tuple(name for name in held if name in due),
            tuple(name for name in due if name not in held),
        )
        for joined, (held, due) in _arcs(ends, list(zip(old, new, strict=True)))
        if held != due
    ]


def spread(ring: Ring, n: int) -> Spread:
    """How far apart the first ``n`` of every list are; what could not be met shows here."""
    lists = np.unique(_lists(ring, ring.ends, n), axis=0)
    rows = [[ring.nodes[index] for index in row if index != kernel.NO_NODE] for row in lists.tolist()]
    return Spread(
        min(len(row) for row in rows),
        min(len({node.host or f"\0{node.name}" for node in row}) for row in rows),
        min(len({node.zone for node in row}) for row in rows),
    )


def _lists(ring: Ring, tokens: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.uint32]:
    lists = np.empty((len(tokens), n), dtype=np.uint32)
    ring.kernel.preference_many(len(tokens), tokens.data, n, lists.data)
    return lists


def _holders(ring: Ring, tokens: npt.NDArray[np.uint64], n: int) -> list[tuple[str, ...]]:
    """Names of the holders at each token, sorted."""
    names = [node.name for node in ring.nodes]
    return [
        tuple(sorted(names[index] for index in row if index != kernel.NO_NODE))
        for row in _lists(ring, tokens, n).tolist()
    ]


def _arcs(ends: npt.NDArray[np.uint64], values: list[_Value]) -> list[tuple[TokenRange, _Value]]:
    """The ranges that end at ``ends`` with their values; equal neighbours are one, across the wrap too."""
    last = [i for i, value in enumerate(values) if value != values[(i + 1) % len(values)]]
    if not last:
        return [(TokenRange(int(ends[-1]), int(ends[-1])), values[-1])]
    return [
        (TokenRange(int(ends[last[i - 1]]), int(ends[stop])), values[stop]) for i, stop in enumerate(last)
    ]
