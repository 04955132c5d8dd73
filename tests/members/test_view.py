"""Views: partitions of keys, and where operations go, checked against the rules written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.ids import NodeId
from sadik.kernels import digest as kernel
from sadik.members.layout import Layout, LayoutNode
from sadik.members.view import NOBODY, View
from tests import strategies
from tests.members.layouts import clusters, layout_of, nodes_of, partition_digests

STRANGER = NodeId("stranger")


def plain_row(view: View, partition: int, n: int) -> tuple[list[int], int, int]:
    """(reachable, coordinator, live primaries) of a partition, as the rules read."""
    order = view.order[partition].tolist()
    primaries, rest = order[:n], [number for number in order[n:] if view.up[number]]
    reachable = [number if view.up[number] else rest.pop(0) if rest else NOBODY for number in primaries]
    live = [number for number in primaries if view.up[number]]
    stand_ins = [number for number in reachable if number != NOBODY]
    candidates = live or stand_ins
    if view.me in primaries or (not live and view.me in stand_ins):
        coordinator = view.me
    else:
        coordinator = candidates[0] if candidates else NOBODY
    return reachable, coordinator, len(live)


@settings(max_examples=150, deadline=None)
@given(clusters(), st.sampled_from([1, 2, 64]), st.integers(1, 4), st.data())
def test_targets_are_what_the_rules_say(
    nodes: tuple[LayoutNode, ...], partitions: int, replicas: int, data: st.DataObject
) -> None:
    """Sloppy quorum: the first n reachable nodes, each fallback for one primary (Dynamo 4.6)."""
    layout = layout_of(nodes, partitions, replicas)
    me = data.draw(st.sampled_from([*layout.names, STRANGER]))
    up = data.draw(st.sets(st.sampled_from(layout.names)))
    view = View(1, layout, me, up)
    for n in range(1, 6):
        targets = view.targets(n)
        assert targets.n == view.effective_n(n) == min(n, len(nodes))
        assert targets.everywhere == (n >= len(nodes))
        assert (targets.primaries == layout.order[:, : targets.n]).all()
        for partition in range(partitions):
            reachable, coordinator, live = plain_row(view, partition, targets.n)
            assert targets.reachable[partition].tolist() == reachable
            assert targets.coordinator[partition] == coordinator
            assert targets.live_primaries[partition] == live


def test_view_says_who_is_up_and_who_i_am() -> None:
    """This node can always be reached; names of no node of the layout are left alone."""
    layout = layout_of(nodes_of(3))
    view = View(7, layout, NodeId("n001"), ["n002", "other"])
    assert (view.number, view.me, view.up, view.alone) == (7, 1, (False, True, True), False)
    outside = View(8, layout, STRANGER, layout.names)
    assert (outside.me, outside.up, outside.alone) == (-1, (True, True, True), False)


def test_lone_node_coordinates_everything() -> None:
    """A one-node cluster takes the short way, which needs no targets at all."""
    view = View(1, Layout.founded(LayoutNode(NodeId("a")), 8), NodeId("a"), [])
    assert view.alone
    targets = view.targets(3)
    assert (targets.n, targets.everywhere) == (1, True)
    assert targets.coordinator.tolist() == [0] * 8
    assert not View(1, view.layout, NodeId("b"), []).alone


def test_node_without_a_layout_reaches_nobody() -> None:
    """It was born into a cluster whose layout it has not heard of yet."""
    view = View(1, Layout.empty(8), NodeId("a"), [])
    targets = view.targets(3)
    assert (view.me, view.alone, targets.n, targets.everywhere) == (-1, False, 0, False)
    assert targets.reachable.shape == (8, 0)
    assert targets.coordinator.tolist() == [NOBODY] * 8
    assert view.preference(0, 3) == ()


def test_targets_are_made_once_and_never_change() -> None:
    """The data path asks for them with every batch."""
    view = View(1, layout_of(nodes_of(4)), NodeId("n000"), [])
    targets = view.targets(3)
    assert view.targets(3) is targets
    assert view.targets(9) is view.targets(4)
    for array in (targets.primaries, targets.reachable, targets.coordinator, targets.live_primaries):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_order_is_the_layouts_own() -> None:
    """A view is made for every node that comes or goes; the order is not made again."""
    layout = layout_of(nodes_of(5))
    assert View(1, layout, STRANGER, []).order is View(2, layout, STRANGER, layout.names).order


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(strategies.digests, st.integers(0, 255).map(lambda byte: bytes([byte] * 16)))),
    st.integers(0, 16),
)
def test_partition_is_the_top_bits_of_the_digest(digests: list[bytes], bits: int) -> None:
    """Digests in byte order are in partition order, so a partition is one range of the storage."""
    view = View(1, Layout.empty(1 << bits), STRANGER, [])
    expected = [int.from_bytes(digest, "big") >> (128 - bits) for digest in digests]
    found = view.partitions_of(len(digests), b"".join(digests))
    assert found.dtype == np.uint16
    assert found.tolist() == expected
    assert [view.partition_of(digest) for digest in digests] == expected


def test_every_partition_is_found() -> None:
    """The first digests of a partition are in it, and no partition is left out."""
    view = View(1, layout_of(nodes_of(3), 1024), STRANGER, [])
    assert view.partitions_of(1024, bytearray(partition_digests(view.layout))).tolist() == list(range(1024))


def test_too_few_digests_are_refused() -> None:
    """A count that does not match its buffer is a bug of the caller, not a partition by chance."""
    view = View(1, layout_of(nodes_of(3)), STRANGER, [])
    with pytest.raises(ValueError, match="buffer"):
        view.partitions_of(2, bytes(31))


def test_preference_is_the_primaries_then_the_fallbacks() -> None:
    """As `SADIK.EXPLAIN` shows it; who is up does not matter."""
    layout = layout_of(nodes_of(5))
    view = View(1, layout, STRANGER, [])
    partition = view.partition_of(kernel.address_digest(b"0", b"key"))
    names = view.preference(partition, 9)
    assert sorted(names) == list(layout.names)
    assert names[:3] == tuple(layout.names[number] for number in layout.assignment[partition].tolist())
    assert view.preference(partition, 2) == names[:2]
