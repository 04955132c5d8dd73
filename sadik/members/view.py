"""A view: one layout and who is up, as one node sees it. A request takes one and keeps it to its end.

A view never changes; whenever the layout or a link does, a new one is made. That must be cheap, since it
happens for every node that comes or goes: what depends on the layout alone is kept by the layout, and
``targets`` are made when first asked for and kept for views that are alike.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from sadik.ids import NodeId
from sadik.kernels.buffers import Buffer
from sadik.members.layout import Layout

NOBODY: Final = 0xFFFF
"""In arrays of node numbers: no node."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Where the operations of buckets with ``n`` replicas go, by partition. All arrays are read-only.

    Attributes:
        n: Replicas of a key, at most the nodes of the layout.
        primaries: uint16, shape (Q, n): the nodes that should hold a key.
        reachable: uint16, shape (Q, n): for each primary itself while it is up, else the fallback that stands
            in for it, else ``NOBODY``. The j-th primary that is down gets the j-th live fallback, so each
            stands in once.
        coordinator: uint16, shape (Q,): this node if it is a primary; else the first live primary; else, with
            all primaries down, this node if it stands in, or the first that does; ``NOBODY`` where nobody
            can.
        live_primaries: uint8, shape (Q,): how many primaries are up.
        everywhere: Every node of the layout is a primary of every key.
    """

    n: int
    primaries: npt.NDArray[np.uint16]
    reachable: npt.NDArray[np.uint16]
    coordinator: npt.NDArray[np.uint16]
    live_primaries: npt.NDArray[np.uint8]
    everywhere: bool


class View:
    """One layout and who is up.

    Attributes:
        number: Grows with every view that this node makes.
        nodes: Names by number.
        me: This node's number, -1 when it is not in the layout.
        up: By number, whether a node can be reached; this node itself always.
        alone: The layout has this node and no other.
        partition_bits: log2 of the number of partitions.
        order: Preference lists of all nodes, as ``Layout.order``.
    """

    __slots__ = (
        "_shift",
        "_targets",
        "alone",
        "layout",
        "me",
        "nodes",
        "number",
        "order",
        "partition_bits",
        "up",
    )

    def __init__(self, number: int, layout: Layout, me: NodeId, up: Collection[NodeId]) -> None:
        """
        Args:
            up: Names of the nodes with a live link; others than the layout's are left alone.
        Cost: O(nodes); the first view of a layout also makes its ``order``.
        """
        self.number = number
        self.layout = layout
        self.nodes = layout.names
        self.me = layout.number_of(me)
        self.up = tuple([name == me or name in up for name in self.nodes])
        self.alone = self.nodes == (me,)
        self.partition_bits = layout.partition_bits
        self.order = layout.order
        self._shift = np.uint16(16 - self.partition_bits)
        self._targets: dict[int, Targets] = {}

    def partition_of(self, digest: bytes | bytearray) -> int:
        """The partition of a key's digest: its top bits."""
        return int.from_bytes(digest[:2], "big") >> (16 - self.partition_bits)

    def partitions_of(self, count: int, digests: Buffer) -> npt.NDArray[np.uint16]:
        """Partitions of ``count`` packed digests: uint16, the caller's.

        Args:
            digests: At least ``16 * count`` bytes.
        Raises:
            ValueError: Fewer.
        Cost: 2 us, and 2 ns a digest.
        """
        words: npt.NDArray[np.uint16] = np.frombuffer(memoryview(digests), dtype=">u2", count=8 * count)
        return words[::8] >> self._shift

    def effective_n(self, n: int) -> int:
        """Replicas that a bucket with property ``n`` can have."""
        return min(n, len(self.nodes))

    def preference(self, partition: int, count: int) -> tuple[NodeId, ...]:
        """The first ``count`` nodes of a partition, up or not; fewer when there are not so many."""
        return tuple([self.nodes[number] for number in self.order[partition, :count].tolist()])

    def targets(self, n: int) -> Targets:
        """Where the operations of a bucket with property ``n`` (1 or more) go. Made once per effective n.

        Cost: 1 ms the first time for 1024 partitions and 5 nodes.
        """
        effective = self.effective_n(n)
        found = self._targets.get(effective)
        if found is None:
            found = self._targets[effective] = _make_targets(self.layout, self.up, self.me, effective)
        return found


@lru_cache(maxsize=64)  # A node that comes back, or a link that flaps, brings what there was before.
def _make_targets(layout: Layout, up: tuple[bool, ...], me: int, n: int) -> Targets:
    order = layout.order
    live = np.array(up, dtype=np.bool_)
    primaries = order[:, :n]
    alive = live[primaries]
    reachable = np.where(alive, primaries, np.uint16(NOBODY))
    missing = np.cumsum(~alive, axis=1)
    most = int(missing[:, -1].max()) if n else 0
    if most:
        fallbacks = _live_fallbacks(order[:, n:], live, most)
        rows, columns = np.nonzero(~alive)
        reachable[rows, columns] = fallbacks[rows, missing[rows, columns] - 1]
    targets = Targets(
        n,
        np.ascontiguousarray(primaries),
        reachable,
        _coordinators(primaries, alive, reachable, me),
        alive.sum(axis=1, dtype=np.uint8),
        0 < n == len(up),
    )
    for array in (targets.primaries, targets.reachable, targets.coordinator, targets.live_primaries):
        array.flags.writeable = False
    return targets


def _live_fallbacks(
    after: npt.NDArray[np.uint16], live: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.uint16]:
    """The first ``count`` live nodes of those ``after`` the primaries, ``NOBODY`` where there are fewer;
    shape (Q, count).
    """
    found = np.full((len(after), count), NOBODY, dtype=np.uint16)
    alive = live[after]
    rank = np.cumsum(alive, axis=1)
    rows, columns = np.nonzero(alive & (rank <= count))
    found[rows, rank[rows, columns] - 1] = after[rows, columns]
    return found


def _coordinators(
    primaries: npt.NDArray[np.uint16],
    up: npt.NDArray[np.bool_],
    reachable: npt.NDArray[np.uint16],
    me: int,
) -> npt.NDArray[np.uint16]:
    if not up.shape[1]:
        return np.full(len(up), NOBODY, dtype=np.uint16)
    # Without a live primary argmax gives 0, and the first reachable one is the first fallback.
    first: npt.NDArray[np.uint16] = reachable[np.arange(len(up)), up.argmax(axis=1)]
    if me < 0:
        return first
    # A primary that is me is up, so it is in both; a fallback coordinates only where no primary can.
    mine = (primaries == me).any(axis=1) | (~up.any(axis=1) & (reachable == me).any(axis=1))
    return np.where(mine, np.uint16(me), first)
