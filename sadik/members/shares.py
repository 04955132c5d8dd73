"""How many replicas each node is due, and how many of one partition may meet on a host and in a zone.

Replicas of a partition are spread as far as labels allow. With enough hosts each has at most one of them;
with too few, all have one before any has two. The same then holds for zones. So each group has a least and a
greatest number of replicas of one partition, and a share by capacity is possible only between those numbers
times the partitions. Within these bounds all nodes get the same number of replicas for a unit of capacity.

Integers throughout: every node must come to the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from sadik.hashing.digest import BLAKE3

if TYPE_CHECKING:
    from sadik.members.layout import LayoutNode

_FINE: Final = 40
"""Bits behind the point of a share in partitions."""


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Groups of nodes, and how many replicas of one partition each may have. All arrays are small.

    Attributes:
        width: Replicas of a partition.
        host_of, zone_of: Group of each node (intp). A host is a label within a zone.
        zone_of_host: Zone of each host group (intp).
        zone_hosts: 1 for each host and its zone, else 0: shape (hosts, zones), int64.
        host_low, host_high, zone_low, zone_high: Replicas of one partition in each group (int64).
    """

    width: int
    host_of: npt.NDArray[np.intp]
    zone_of: npt.NDArray[np.intp]
    zone_of_host: npt.NDArray[np.intp]
    zone_hosts: npt.NDArray[np.int64]
    host_low: npt.NDArray[np.int64]
    host_high: npt.NDArray[np.int64]
    zone_low: npt.NDArray[np.int64]
    zone_high: npt.NDArray[np.int64]

    @classmethod
    def of(cls, nodes: Sequence[LayoutNode], width: int) -> Bounds:
        """Bounds for ``width`` replicas on distinct ones of ``nodes``, of which there are as many at
        least.
        """
        zones = {zone: number for number, zone in enumerate(dict.fromkeys(node.zone for node in nodes))}
        # A node without a label is a host of its own, whatever the labels of others.
        names = [(node.zone, node.host, "" if node.host else node.node) for node in nodes]
        hosts = {name: number for number, name in enumerate(dict.fromkeys(names))}
        host_of = np.array([hosts[name] for name in names], dtype=np.intp)
        zone_of = np.array([zones[node.zone] for node in nodes], dtype=np.intp)
        zone_of_host = np.array([zones[name[0]] for name in hosts], dtype=np.intp)
        zone_hosts = np.zeros((len(hosts), len(zones)), dtype=np.int64)
        zone_hosts[np.arange(len(hosts)), zone_of_host] = 1
        sizes = np.bincount(host_of, minlength=len(hosts))
        host_low, host_high = _spread(np.zeros_like(sizes), sizes, width)
        zone_low, zone_high = _spread(host_low @ zone_hosts, host_high @ zone_hosts, width)
        return cls(
            *(width, host_of, zone_of, zone_of_host, zone_hosts),
            *(host_low, host_high, zone_low, zone_high),
        )


def _spread(
    low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The tightest bounds for ``width`` replicas over groups that take ``low`` to ``high`` each: all groups
    have as many, as far as they can, before one has more.
    """
    level = 0
    while int(np.maximum(low, np.minimum(high, level)).sum()) < width:
        level += 1
    return np.maximum(low, np.minimum(high, max(level - 1, 0))), np.maximum(low, np.minimum(high, level))


@dataclass(frozen=True, slots=True)
class _Group:
    """A part of the tree all, zones, hosts, nodes.

    Attributes:
        least, most: Bounds of its replicas of all partitions.
        held: Those it has now.
        capacity: Of a node; groups have that of their members.
        node: Number of a node, -1 for a group.
        name: Decides between equals.
    """

    least: int
    most: int
    held: int
    capacity: int = 0
    node: int = -1
    name: str = ""
    members: tuple[_Group, ...] = ()

    @classmethod
    def of(cls, least: int, most: int, members: Sequence[_Group]) -> _Group:
        held = sum(member.held for member in members)
        return cls(least, most, held, name=members[0].name, members=tuple(members))

    def share(self, level: int) -> int:
        """Replicas at ``level`` for each unit of capacity; both with ``_FINE`` bits behind the point."""
        asked = sum(member.share(level) for member in self.members) if self.members else level * self.capacity
        return min(max(asked, self.least << _FINE), self.most << _FINE)


def fair_shares(
    nodes: Sequence[LayoutNode], partitions: int, bounds: Bounds, held: Sequence[int]
) -> list[int]:
    """Replicas that each node should hold; together as many as all partitions have.

    Each is rounded up or down within its host, each host within its zone, each zone within all: less than
    three replicas off. Those are rounded up first that hold as many already, because that moves least.

    Args:
        held: What each holds now.
    """
    by_host: list[list[_Group]] = [[] for _ in bounds.host_low]
    for number, node in enumerate(nodes):
        by_host[bounds.host_of[number]].append(
            _Group(0, partitions, held[number], node.capacity, number, node.node)
        )
    by_zone: list[list[_Group]] = [[] for _ in bounds.zone_low]
    for zone, low, high, members in zip(
        bounds.zone_of_host, bounds.host_low, bounds.host_high, by_host, strict=True
    ):
        by_zone[zone].append(_Group.of(int(low) * partitions, int(high) * partitions, members))
    zones = [
        _Group.of(int(low) * partitions, int(high) * partitions, members)
        for low, high, members in zip(bounds.zone_low, bounds.zone_high, by_zone, strict=True)
    ]
    total = bounds.width * partitions
    shares = [0] * len(nodes)
    _divide(_Group.of(total, total, zones), total, shares)
    return shares


def _divide(group: _Group, total: int, shares: list[int]) -> None:
    """Give ``total`` replicas to the members of a group, within their bounds."""
    if not group.members:
        shares[group.node] = total
        return
    # The highest level at which the members together ask for no more than there is. At the limit every node
    # asks for all partitions.
    low, limit = 0, (group.most + 1) << _FINE
    while limit - low > 1:
        middle = (low + limit) // 2
        if sum(member.share(middle) for member in group.members) <= total << _FINE:
            low = middle
        else:
            limit = middle
    asked = [member.share(low) for member in group.members]
    given = [share >> _FINE for share in asked]
    # One step of the level is far less than a replica, so what is left is less than the fractions and one
    # more: only members with a fraction are rounded up, and their bounds, which are whole, hold.
    fractions = [share - (whole << _FINE) for share, whole in zip(asked, given, strict=True)]
    upward = sorted(
        (index for index, fraction in enumerate(fractions) if fraction),
        key=lambda index: (
            group.members[index].held <= given[index],
            -fractions[index],
            BLAKE3.digest(group.members[index].name.encode()),
        ),
    )
    for index in upward[: total - sum(given)]:
        given[index] += 1
    for member, part in zip(group.members, given, strict=True):
        _divide(member, part, shares)
