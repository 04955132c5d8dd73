"""What a change of the layout would do: who gains and gives what, what cannot be met, and whether it may be
done.

plan = state.plan(sizes={17: 4096})
plan.moves          # [Move(partition=17, giver="amber", taker="birch"), ...]
plan.refusal        # "" when it can be committed
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sadik.ids import NodeId
from sadik.members.shares import Bounds, fair_shares

if TYPE_CHECKING:
    # The layout makes plans; a plan only looks at layouts.
    from sadik.members.layout import Change, Layout

_TOLERANCE = 2
"""Partitions that a node may hold above or below its share by capacity before a plan tells."""


class Move(NamedTuple):
    """One replica that changes hands.

    Attributes:
        giver: Who needs it no more; empty for a replica more than there were.
        taker: Who must hold it; empty for one less.
    """

    partition: int
    giver: NodeId
    taker: NodeId


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A change of the layout that may be committed.

    Attributes:
        version: That the layout would get; the plan holds only while ``before`` is current.
        changes: Staged changes that it makes.
        moves: By partition.
        bytes_received: Per node that receives any; replicas of which no size is known count nothing.
        violations: What the new layout does not meet, for people; none of it prevents a commit.
        refusal: Why it cannot be committed, or empty.
    """

    version: int
    changes: tuple[Change, ...]
    before: Layout
    after: Layout
    moves: list[Move]
    bytes_received: dict[NodeId, int]
    violations: list[str]
    refusal: str

    def as_document(self) -> dict[str, Any]:
        """As JSON shows it; nodes that are in either layout, by name."""
        held = [
            dict(zip(layout.names, layout.held()[0].tolist(), strict=True))
            for layout in (self.before, self.after)
        ]
        receives = Counter(move.taker for move in self.moves)
        return {
            "version": self.version,
            "base_version": self.before.version,
            "changes": [change.as_document() for change in self.changes],
            "nodes": [
                {
                    "node": node,
                    "before": held[0].get(node, 0),
                    "after": held[1].get(node, 0),
                    "receives": receives[node],
                    "bytes": self.bytes_received.get(node, 0),
                }
                for node in sorted({*held[0], *held[1]})
            ],
            "moves": sum(1 for move in self.moves if move.taker),
            "bytes": sum(self.bytes_received.values()),
            "violations": self.violations,
            "refusal": self.refusal or None,
        }


def compare(
    before: Layout,
    after: Layout,
    changes: Sequence[Change],
    *,
    sizes: Mapping[int, int] | None = None,
    occupied: Callable[[int], bool] | None = None,
    copies: Collection[int] = (),
    refusal: str = "",
) -> Plan:
    """The plan that leads from one layout to another.

    Args:
        sizes: Bytes of each partition on one replica; those not named are empty.
        occupied: Whether any node holds data of a partition; asked only about those whose owners change.
        copies: The N of every bucket that has another one than the layout's ``replicas``: its keys live on as
            many nodes of a partition's order, so they change owners where those with other N do not.
        refusal: Known already.
    """
    found = moves(before, after)
    received: Counter[NodeId] = Counter()
    for move in found:
        if move.taker:
            received[move.taker] += (sizes or {}).get(move.partition, 0)
    if occupied is not None and not refusal:
        changing = sorted(set().union(*(owners_change(before, after, n) for n in {after.replicas, *copies})))
        refusal = _data_stays([partition for partition in changing if occupied(partition)])
    return Plan(
        before.version + 1,
        tuple(changes),
        before,
        after,
        found,
        dict(received),
        violations(after),
        refusal,
    )


def _data_stays(held: Sequence[int]) -> str:
    if not held:
        return ""
    others = f" and {len(held) - 1} others hold" if len(held) > 1 else " holds"
    return f"moving data between nodes is not there yet: partition {held[0]}{others} data"


def owners_change(before: Layout, after: Layout, n: int) -> list[int]:
    """Partitions whose first ``n`` nodes are not the same ones in both layouts, ascending."""
    names = {name: number for number, name in enumerate(sorted({*before.names, *after.names}))}
    old, new = (_holders(layout, names, n) for layout in (before, after))
    if old.shape != new.shape:
        return list(range(before.partitions))
    return [int(partition) for partition in np.nonzero((old != new).any(axis=1))[0]]


def _holders(layout: Layout, names: Mapping[NodeId, int], n: int) -> npt.NDArray[np.int64]:
    """Each partition's first ``n`` nodes as numbers of ``names``, ascending: shape (Q, min(n, nodes))."""
    number = np.array([names[name] for name in layout.names], dtype=np.int64)
    rows = layout.assignment if n <= layout.width else layout.order
    return np.sort(number[rows[:, :n]], axis=1)


def moves(before: Layout, after: Layout) -> list[Move]:
    """Replicas that change hands, by partition and name; a partition's givers are paired with its takers."""
    found: list[Move] = []
    for partition in owners_change(before, after, after.replicas):
        old, new = (
            [layout.names[number] for number in layout.assignment[partition].tolist()]
            for layout in (before, after)
        )
        givers = sorted(name for name in old if name not in new)
        takers = sorted(name for name in new if name not in old)
        nobody = [NodeId("")] * abs(len(givers) - len(takers))
        if len(givers) < len(takers):
            givers += nobody
        else:
            takers += nobody
        found += [Move(partition, giver, taker) for giver, taker in zip(givers, takers, strict=True)]
    return found


def violations(layout: Layout) -> list[str]:
    """What a layout does not meet, in words: too few nodes, hosts or zones, and loads far from their
    capacity.
    """
    if not layout.nodes:
        return []
    found: list[str] = []
    width, wanted = layout.width, layout.replicas
    if width < wanted:
        found.append(f"{wanted} replicas are wanted and there are only {width} nodes")
    bounds = Bounds.of(layout.nodes, width)
    for word, groups, labels in (
        ("hosts", bounds.host_of, [node.host or node.node for node in layout.nodes]),
        ("zones", bounds.zone_of, [node.zone for node in layout.nodes]),
    ):
        total = len(set(labels))
        least = int(_distinct(groups[layout.assignment]).min())
        # One zone for all is no zones at all: nobody asked for them.
        if least < width and not (word == "zones" and total == 1):
            all_there_are = "all there are" if least == total else f"of {total}"
            found.append(f"some partitions have their {width} replicas on {least} {word}, {all_there_are}")
    found += [
        f"host {host} is in several zones, so two replicas of a partition may meet on it"
        for host in _hosts_in_several_zones(layout)
    ]
    return found + _uneven(layout, bounds)


def _distinct(labels: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    ascending = np.sort(labels, axis=1)
    steps: npt.NDArray[np.int64] = (ascending[:, 1:] != ascending[:, :-1]).sum(axis=1)
    return steps + 1


def _hosts_in_several_zones(layout: Layout) -> list[str]:
    pairs = {(node.host, node.zone) for node in layout.nodes if node.host}
    counts = Counter(host for host, _ in pairs)
    return sorted(host for host, count in counts.items() if count > 1)


def _uneven(layout: Layout, bounds: Bounds) -> list[str]:
    """The node whose load is furthest from what its capacity asks for, and how many more are far."""
    slots = layout.assignment.size
    total = sum(node.capacity for node in layout.nodes)
    held = layout.held()[0].tolist()
    asked = [round(slots * node.capacity / total) for node in layout.nodes]
    off = [number for number, count in enumerate(held) if abs(count - asked[number]) > _TOLERANCE]
    if not off:
        return []
    worst = max(off, key=lambda number: abs(held[number] - asked[number]))
    more = f", and {len(off) - 1} other nodes are off too" if len(off) > 1 else ""
    fair = fair_shares(layout.nodes, layout.partitions, bounds, held)
    best = all(abs(count - share) <= _TOLERANCE for count, share in zip(held, fair, strict=True))
    why = "distinct nodes, hosts and zones allow no better" if best else "a better placement was not found"
    return [
        f"node {layout.names[worst]} holds {held[worst]} replicas and its capacity asks for {asked[worst]}"
        f"{more}: {why}"
    ]
