"""Quorums as values: what a request needs, and how far each operation of a batch has come.

``Needs`` is what must answer. ``Tally`` counts per operation, in arrays; a batch whose operations all need
the same of the same replicas is counted by two integers instead (``flight.py``), and turns to a tally when
anything is uneven.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sadik.ids import NodeId
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options


class Needs(NamedTuple):
    """Replies needed by a read and a write, and how many of them from primaries."""

    r: int
    w: int
    pr: int
    pw: int

    @property
    def read(self) -> int:
        """Replies of a read where every replica is a primary."""
        return max(self.r, self.pr)

    @property
    def write(self) -> int:
        return max(self.w, self.pw)


def needs_of(properties: BucketProperties, options: Options | None, n: int) -> Needs:
    """What a request on a bucket needs with ``n`` replicas in effect; more than those is never waited for.

    An explicit option wins over the bucket's property, and that over the default: the majority of ``n``.
    """
    majority = n // 2 + 1
    asked = options or _PLAIN
    r, w = (asked.r, asked.w)
    return Needs(
        min(r or properties.r or majority, n),
        min(w or properties.w or majority, n),
        min(_first(asked.pr, properties.pr), n),
        min(_first(asked.pw, properties.pw), n),
    )


_PLAIN = Options()


def _first(option: int | None, default: int | None) -> int:
    return (default or 0) if option is None else option


class Uniform(NamedTuple):
    """What a batch needs whose operations all have the same primaries and need the same, as one view has it;
    nobody is asked in the place of another.

    Attributes:
        here: This node is one of the primaries.
        read, write: Replies needed, the own one included. There are enough nodes for reads.
        writable: There are enough for writes, too.
        others, down: The primaries but this node, by whether they are up.
    """

    here: bool
    read: int
    write: int
    writable: bool
    others: Sequence[NodeId]
    down: Sequence[NodeId]


class Tally:
    """Replies per operation.

    Attributes:
        need, need_primary: int16 each. Operations that need nothing are decided from the start.
        got, got_primary: Replies that count so far.
        hope, hope_primary: Replies that may still come.
    """

    __slots__ = ("got", "got_primary", "hope", "hope_primary", "need", "need_primary")

    def __init__(self, need: npt.NDArray[np.int16], need_primary: npt.NDArray[np.int16]) -> None:
        self.need = need
        self.need_primary = need_primary
        self.got = np.zeros_like(need)
        self.got_primary = np.zeros_like(need)
        self.hope = np.zeros_like(need)
        self.hope_primary = np.zeros_like(need)

    def expect(self, operations: npt.NDArray[np.intp], *, primary: bool) -> None:
        """One more replica was asked for these."""
        self.hope[operations] += 1
        if primary:
            self.hope_primary[operations] += 1

    def count(self, operations: npt.NDArray[np.intp], *, primary: bool) -> None:
        """A replica that was not expected has done these: the coordinator's own."""
        self.got[operations] += 1
        if primary:
            self.got_primary[operations] += 1

    def settle(
        self, operations: npt.NDArray[np.intp], done: npt.NDArray[np.bool_] | bool, *, primary: bool
    ) -> None:
        """A replica that was expected has answered for these; ``done`` says for which its answer counts."""
        self.hope[operations] -= 1
        self.got[operations] += done
        if primary:
            self.hope_primary[operations] -= 1
            self.got_primary[operations] += done

    def reached(self) -> npt.NDArray[np.bool_]:
        """Which operations have what they need."""
        return (self.got >= self.need) & (self.got_primary >= self.need_primary)

    def decided(self) -> npt.NDArray[np.bool_]:
        """Which have it, or cannot get it any more."""
        lost = (self.got + self.hope < self.need) | (self.got_primary + self.hope_primary < self.need_primary)
        return self.reached() | lost
