"""Nodes and layouts for the tests of members."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from sadik.ids import NodeId
from sadik.members.layout import Change, Layout, LayoutNode, LayoutState
from sadik.members.placement import place


def nodes_of(
    count: int, *, hosts: int = 0, zones: int = 1, capacities: tuple[int, ...] = (100,)
) -> tuple[LayoutNode, ...]:
    """``count`` nodes, dealt to ``hosts`` (0: one each), and these to ``zones``."""
    places = [number % hosts if hosts else number for number in range(count)]
    return tuple(
        LayoutNode(
            NodeId(f"n{number:03}"),
            f"h{at}" if hosts else "",
            f"z{at % zones}",
            capacities[number % len(capacities)],
        )
        for number, at in enumerate(places)
    )


def layout_of(nodes: tuple[LayoutNode, ...], partitions: int = 64, replicas: int = 3) -> Layout:
    return Layout(1, partitions, replicas, nodes, place(nodes, partitions, replicas))


def changed(layout: Layout, *changes: Change) -> Layout:
    """The layout after a commit of these changes."""
    state = LayoutState(layout)
    for change in changes:
        state.stage(change)
    return state.committed(state.plan())


def distinct(layout: Layout, labels: list[str]) -> list[int]:
    """How many distinct labels each partition's replicas have."""
    return [len({labels[number] for number in row}) for row in layout.assignment.tolist()]


@st.composite
def clusters(draw: st.DrawFn, *, nodes_max: int = 9) -> tuple[LayoutNode, ...]:
    """Nodes with labels and capacities; a host is in one zone, and some nodes are hosts of their own."""
    count = draw(st.integers(1, nodes_max))
    zone_of_host = draw(st.lists(st.integers(0, 3), min_size=nodes_max, max_size=nodes_max))
    names = draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True))
    nodes = []
    for name in sorted(names):
        host = draw(st.integers(-1, nodes_max - 1))
        zone = zone_of_host[host] if host >= 0 else draw(st.integers(0, 3))
        capacity = draw(st.sampled_from([1, 50, 100, 100, 300, 1_000_000]))
        label = f"h{host}" if host >= 0 else ""
        nodes.append(LayoutNode(NodeId(f"n{name:02}"), label, f"z{zone}", capacity))
    return tuple(nodes)


def partition_digests(layout: Layout) -> bytes:
    """One digest in each partition, packed, in order."""
    tops = np.arange(layout.partitions, dtype=np.uint64) << np.uint64(64 - layout.partition_bits)
    if layout.partitions == 1:
        tops = np.zeros(1, dtype=np.uint64)
    return b"".join(int(top).to_bytes(8, "big") + b"\xff" * 8 for top in tops)
