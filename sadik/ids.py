"""The small numbers that name things: plain ints at run time, so that arrays and kernels take them as they
are.
"""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
"""Name of a physical node, chosen by its operator; unique in the cluster, 1 to 64 of ``[A-Za-z0-9._-]``."""

ActorId = NewType("ActorId", int)
"""One run of one node: a random uint64 drawn at every start. The first half of a dot."""

Stamp = NewType("Stamp", int)
"""A hybrid logical clock reading as uint64: 48 bits of Unix milliseconds, 16 bits of logic. The second half
of a dot.
"""

Token = NewType("Token", int)
"""A position on the ring, uint64: the high half of an address digest."""

STAMP_LOGIC_BITS = 16


def stamp_ms(stamp: int) -> int:
    """Unix milliseconds of a stamp."""
    return stamp >> STAMP_LOGIC_BITS


def stamp_at(wall_ms: int) -> Stamp:
    """The first stamp of a millisecond."""
    return Stamp(wall_ms << STAMP_LOGIC_BITS)
