"""Placement: where replicas go, how even that is, and how little moves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.hashing.digest import BLAKE3
from sadik.ids import NodeId
from sadik.members.layout import Change, Layout, LayoutNode
from sadik.members.placement import place
from sadik.members.plan import moves
from sadik.members.preference import preference_order, scores_of
from sadik.members.shares import Bounds, fair_shares
from tests.members.layouts import changed, clusters, distinct, layout_of, nodes_of

SHAPES = {
    "three nodes": nodes_of(3),
    "ten nodes": nodes_of(10),
    "two zones": nodes_of(5, zones=2),
    "uneven zones": nodes_of(4, zones=2, capacities=(100, 100, 300)),
    "nine hosts in three zones": nodes_of(27, hosts=9, zones=3),
    "capacities": nodes_of(12, capacities=(100, 300, 50)),
    "a hundred nodes": nodes_of(100, zones=5, capacities=(100, 1000, 7)),
}

EVEN = sorted(set(SHAPES) - {"uneven zones"})
"""Shapes whose labels do not stand in the way of the capacities."""


def hosts_of(layout: Layout) -> list[str]:
    return [node.host or f"\0{node.node}" for node in layout.nodes]


def zones_of(layout: Layout) -> list[str]:
    return [node.zone for node in layout.nodes]


def shares_of(layout: Layout) -> list[int]:
    """What each node should hold, rounding as it was rounded."""
    bounds = Bounds.of(layout.nodes, layout.width)
    return fair_shares(layout.nodes, layout.partitions, bounds, layout.held()[0].tolist())


@pytest.mark.parametrize("nodes", SHAPES.values(), ids=SHAPES)
def test_replicas_are_on_distinct_nodes_hosts_and_zones_as_far_as_there_are_enough(
    nodes: tuple[LayoutNode, ...],
) -> None:
    """One machine or one zone that fails takes as few replicas of a partition as possible."""
    layout = layout_of(nodes, 1024)
    assert min(distinct(layout, list(layout.names))) == 3
    assert min(distinct(layout, hosts_of(layout))) == min(3, len(set(hosts_of(layout))))
    assert min(distinct(layout, zones_of(layout))) == min(3, len(set(zones_of(layout))))


@settings(max_examples=150, deadline=None)
@given(clusters(), st.sampled_from([1, 2, 8, 64]), st.integers(1, 5))
def test_every_placement_is_as_spread_and_as_even_as_labels_allow(
    nodes: tuple[LayoutNode, ...], partitions: int, replicas: int
) -> None:
    """Loads always meet the shares, which is possible whatever the labels: a share is a flow's."""
    layout = layout_of(nodes, partitions, replicas)
    hosts, zones = hosts_of(layout), zones_of(layout)
    assert min(distinct(layout, hosts)) == min(layout.width, len(set(hosts)))
    hosts_in = Counter(zone for _, zone in {*zip(hosts, zones, strict=True)})
    if len(hosts_in) >= layout.width:
        assert min(distinct(layout, zones)) == layout.width
    for row in layout.assignment.tolist():
        used = Counter(zones[number] for number in row)
        # No zone has two more than another that has a host to spare.
        assert all(used[zone] + 1 >= max(used.values()) or used[zone] >= hosts_in[zone] for zone in hosts_in)
    assert layout.held()[0].tolist() == shares_of(layout)


@pytest.mark.parametrize("nodes", [SHAPES[name] for name in EVEN], ids=EVEN)
def test_load_follows_capacity_within_two_replicas(nodes: tuple[LayoutNode, ...]) -> None:
    """A node takes its part of the data, and coordinates its part of the requests."""
    layout = layout_of(nodes, 1024)
    total = sum(node.capacity for node in nodes)
    held, first = layout.held().tolist()
    asked = [3 * 1024 * node.capacity / total for node in nodes]
    assert all(abs(count - share) < 2 for count, share in zip(held, asked, strict=True))
    assert all(abs(count - load / 3) < 1 for count, load in zip(first, held, strict=True))


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from([8, 64]), st.integers(1, 5))
def test_every_column_of_an_assignment_is_even(
    nodes: tuple[LayoutNode, ...], partitions: int, replicas: int
) -> None:
    """A bucket with fewer replicas uses the first columns alone; its load must be even too."""
    layout = layout_of(nodes, partitions, replicas)
    held = layout.held()[0]
    for column in range(layout.width):
        counts = np.bincount(layout.assignment[:, column], minlength=len(nodes))
        assert (np.abs(counts - held / layout.width) < 2).all()


def test_full_node_is_in_every_partition() -> None:
    """A share of more than one replica of each partition is cut off, and the rest goes to the others."""
    nodes = (*nodes_of(4), LayoutNode(NodeId("vast"), capacity=1_000_000))
    layout = layout_of(nodes, 256)
    assert layout.held()[0].tolist() == [128, 128, 128, 128, 256]


def test_small_zone_holds_a_copy_of_everything() -> None:
    """Spread comes before capacity: with two zones each has a replica of every partition."""
    nodes = (*nodes_of(4), LayoutNode(NodeId("other"), zone="far", capacity=1))
    layout = layout_of(nodes, 256)
    assert layout.held()[0].tolist() == [128, 128, 128, 128, 256]


@settings(max_examples=100, deadline=None)
@given(clusters(), st.integers(1, 1024), st.integers(1, 5), st.data())
def test_shares_add_up_within_their_bounds(
    nodes: tuple[LayoutNode, ...], partitions: int, replicas: int, data: st.DataObject
) -> None:
    """Every replica has an owner, no node more than all partitions, no group more than its bounds."""
    width = min(replicas, len(nodes))
    bounds = Bounds.of(nodes, width)
    held = data.draw(st.lists(st.integers(0, partitions), min_size=len(nodes), max_size=len(nodes)))
    shares = np.array(fair_shares(nodes, partitions, bounds, held))
    assert shares.sum() == width * partitions
    assert (shares >= 0).all()
    assert (shares <= partitions).all()
    for group, low, high in (
        (bounds.host_of, bounds.host_low, bounds.host_high),
        (bounds.zone_of, bounds.zone_low, bounds.zone_high),
    ):
        sums = np.bincount(group, weights=shares, minlength=len(low))
        assert (sums >= low * partitions).all()
        assert (sums <= high * partitions).all()


def test_rounding_favours_those_that_hold_more() -> None:
    """Three nodes cannot share 8 replicas evenly; who has three keeps them."""
    nodes = nodes_of(3)
    bounds = Bounds.of(nodes, 1)
    for held in ([3, 3, 2], [3, 2, 3], [2, 3, 3]):
        assert fair_shares(nodes, 8, bounds, held) == held


# ---- few moves ----


@pytest.mark.parametrize("nodes", SHAPES.values(), ids=SHAPES)
def test_joining_node_takes_its_share_and_nothing_else_moves(nodes: tuple[LayoutNode, ...]) -> None:
    """About 1/n of the data moves, all of it to the newcomer. (One or two more where rounding turned.)"""
    before = layout_of(nodes, 1024)
    zone = nodes[0].zone
    after = changed(before, Change("join", NodeId("late"), zone=zone, host="late"))
    held = int(after.held()[0][after.number_of(NodeId("late"))])
    found = moves(before, after)
    to_others = [move for move in found if move.taker != "late"]
    assert len(found) - len(to_others) == held
    assert len(to_others) <= 2
    if len({node.capacity for node in nodes} | {100}) == 1 and len(set(zones_of(before))) == 1:
        assert held == pytest.approx(3 * 1024 / (len(nodes) + 1), abs=1)


@pytest.mark.parametrize("nodes", SHAPES.values(), ids=SHAPES)
def test_leaving_node_moves_only_what_it_had(nodes: tuple[LayoutNode, ...]) -> None:
    """Everyone else keeps what it has. (One or two more where rounding turned.)"""
    before = layout_of(nodes, 1024)
    after = changed(before, Change("leave", nodes[1].node))
    found = moves(before, after)
    assert len([move for move in found if move.giver != nodes[1].node]) <= 2
    assert len([move for move in found if move.giver == nodes[1].node]) == before.held()[0][1]


def test_replacing_node_takes_over_exactly_the_old_ones_partitions() -> None:
    """A broken machine's successor has its work, in its order, and no other node notices."""
    before = layout_of(nodes_of(7, zones=3), 256)
    after = changed(before, Change("replace", NodeId("n003"), zone="z0", other=NodeId("new")))
    names = {"n003": "new"}
    for old, new in zip(before.assignment.tolist(), after.assignment.tolist(), strict=True):
        expected = [names.get(before.names[number], before.names[number]) for number in old]
        assert [after.names[number] for number in new] == expected


def test_new_zone_moves_only_what_the_spread_asks_for() -> None:
    """Two zones become three: of each partition one replica goes to the new zone, the others stay."""
    before = layout_of(nodes_of(4, zones=2), 256)
    after = changed(before, Change("join", NodeId("third"), zone="z9"))
    found = moves(before, after)
    assert len(found) == 256
    assert {move.taker for move in found} == {"third"}
    assert min(distinct(after, zones_of(after))) == 3


def test_weight_moves_the_difference() -> None:
    """Half the capacity gives away half the replicas, and those of nobody else."""
    before = layout_of(nodes_of(8), 1024)
    after = changed(before, Change("weight", NodeId("n002"), capacity=50))
    found = moves(before, after)
    assert {move.giver for move in found} == {"n002"}
    assert after.held()[0][2] == pytest.approx(3 * 1024 * 50 / 750, abs=1)


@settings(max_examples=100, deadline=None)
@given(clusters(), clusters(), st.sampled_from([8, 64]), st.integers(1, 4))
def test_any_cluster_becomes_any_other(
    old: tuple[LayoutNode, ...], new: tuple[LayoutNode, ...], partitions: int, replicas: int
) -> None:
    """Whatever changes at once, labels too, the result is as good as a fresh one."""
    before = layout_of(old, partitions, replicas)
    rows = place(new, partitions, replicas, before=(before.names, before.assignment))
    after = Layout(2, partitions, replicas, new, rows)
    assert min(distinct(after, hosts_of(after))) == min(after.width, len(set(hosts_of(after))))
    bounds = Bounds.of(new, after.width)
    for group, low, high in (
        (bounds.host_of, bounds.host_low, bounds.host_high),
        (bounds.zone_of, bounds.zone_low, bounds.zone_high),
    ):
        for row in after.assignment:
            counts = np.bincount(group[row], minlength=len(low))
            assert (counts >= low).all()
            assert (counts <= high).all()
    assert after.held()[0].sum() == partitions * after.width
    assert after.held()[0].tolist() == shares_of(after)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from([8, 64]), st.integers(1, 4))
def test_nothing_moves_where_nothing_changes(
    nodes: tuple[LayoutNode, ...], partitions: int, replicas: int
) -> None:
    """A layout placed on itself is itself."""
    rows = place(nodes, partitions, replicas)
    names = [node.node for node in nodes]
    assert (place(nodes, partitions, replicas, before=(names, rows)) == rows).all()


def test_load_of_a_node_that_leaves_spreads_over_all_others() -> None:
    """No two nodes share all their partitions, so no single one inherits the work of another."""
    before = layout_of(nodes_of(10), 1024)
    after = changed(before, Change("leave", NodeId("n004")))
    received = Counter(move.taker for move in moves(before, after))
    assert len(received) == 9
    assert max(received.values()) <= 2 + 3 * 1024 / 10 / 9


def test_pairs_of_nodes_share_about_equally_many_partitions() -> None:
    """A node that is down has stand-ins, and a node that is lost sources, among all the others."""
    layout = layout_of(nodes_of(10), 1024)
    pairs = Counter(
        (one, other) for row in layout.assignment.tolist() for one in row for other in row if one != other
    )
    mean = 1024 * 6 / 90
    assert len(pairs) == 90
    assert all(0.5 * mean < count < 1.6 * mean for count in pairs.values())


def test_newcomer_is_first_as_often_as_second_or_third_without_reordering_others() -> None:
    """Where its keys are coordinated changes for as few partitions as the newcomer's share asks for."""
    before = layout_of(nodes_of(3), 1024)
    after = changed(before, Change("join", NodeId("x"), zone="z0"))
    first = [before.names[row[0]] for row in before.assignment.tolist()]
    now = [after.names[row[0]] for row in after.assignment.tolist()]
    others = sum(one != two for one, two in zip(first, now, strict=True) if two != "x")
    assert now.count("x") == 256
    assert others < 64


# ---- preference order ----


def plain_order(layout: Layout, partition: int) -> list[int]:
    """The rule as it reads: the least used host, then zone, then the least score."""
    hosts, zones = hosts_of(layout), zones_of(layout)
    scores = scores_of(layout.names, layout.partitions)[partition].tolist()
    row = layout.assignment[partition].tolist()
    while len(row) < len(layout.nodes):
        used_hosts = Counter(hosts[number] for number in row)
        used_zones = Counter(zones[number] for number in row)
        rest = [number for number in range(len(layout.nodes)) if number not in row]
        row.append(min(rest, key=lambda at: (used_hosts[hosts[at]], used_zones[zones[at]], scores[at])))
    return row


@settings(max_examples=150, deadline=None)
@given(clusters(nodes_max=12), st.integers(1, 4))
def test_order_is_what_its_rule_says(nodes: tuple[LayoutNode, ...], replicas: int) -> None:
    """Sorted in a few passes over arrays, it equals choosing one fallback after the other."""
    layout = layout_of(nodes, 16, replicas)
    for partition in range(layout.partitions):
        assert layout.order[partition].tolist() == plain_order(layout, partition)


def test_fallbacks_of_a_node_are_all_other_nodes() -> None:
    """When a node is down, everybody stands in for a part of it."""
    layout = layout_of(nodes_of(20), 1024)
    stands_in = Counter(layout.order[(layout.assignment == 7).any(axis=1), 3].tolist())
    assert len(stands_in) == 19
    assert max(stands_in.values()) < 3 * 154 / 19


def test_order_and_scores_are_pinned() -> None:
    """Every node computes the order for itself: nodes of two releases must come to the same one."""
    scores = scores_of(["amber", "birch"], 2)
    assert int(scores[1, 0]) == int.from_bytes(BLAKE3.digest(b"\0\0\0\1amber")[:8], "big")
    nodes = nodes_of(12, hosts=8, zones=3)
    rows = np.array([[number % 12, (number + 1) % 12, (number + 2) % 12] for number in range(64)], np.uint16)
    order = preference_order(nodes, rows)
    assert BLAKE3.digest(order.astype("<u2").tobytes()).hex() == "06331fc25ac7f0ddfa3f2c289632b95e"


def test_zone_that_is_full_of_the_wrong_hosts_gives_one_up() -> None:
    """A host without a replica needs a place in a zone that has no room: of two on another host one must go.

    Counted by zone alone nothing was wrong, and then no node could take the free place.
    """
    nodes = [*(("a1", "a"), ("a2", "a"), ("a3", "a")), *(("b1", "b"), ("b2", "b")), ("c1", "c"), ("c2", "c")]
    after = tuple(LayoutNode(NodeId(name), host, "z1" if host == "c" else "z0") for name, host in nodes)
    rows = np.array([[0, 1, 5, 7]] * 8, dtype=np.uint16)
    names = [*(node.node for node in after), NodeId("gone")]
    layout = Layout(2, 8, 4, after, place(after, 8, 4, before=(names, rows)))
    assert distinct(layout, hosts_of(layout)) == [3] * 8
    assert (layout.assignment < 3).sum(axis=1).tolist() == [1] * 8
