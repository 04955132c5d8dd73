"""Plans: what moves, what it costs, what is not met, and what is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.ids import NodeId
from sadik.members.layout import Change, Layout, LayoutNode, LayoutState
from sadik.members.plan import Move, moves, owners_change, violations
from tests.members.layouts import changed, clusters, layout_of, nodes_of

A, B, C, D = (NodeId(name) for name in ("amber", "birch", "cedar", "dogwood"))


def layout(version: int, names: tuple[NodeId, ...], rows: list[list[int]]) -> Layout:
    nodes = tuple(LayoutNode(name) for name in names)
    return Layout(version, len(rows), 2, nodes, np.array(rows, np.uint16))


BEFORE = layout(1, (A, B, C), [[0, 1], [1, 2], [2, 0], [0, 2]])


def staged(base: Layout, *changes: Change) -> LayoutState:
    state = LayoutState(base)
    for change in changes:
        state.stage(change)
    return state


def test_move_names_who_gives_and_who_takes() -> None:
    """Nodes are told apart by name, as their numbers change; order within a partition does not matter."""
    after = layout(2, (A, C, D), [[0, 2], [1, 2], [0, 1], [1, 0]])
    assert moves(BEFORE, after) == [Move(0, B, D), Move(1, B, D)]


def test_more_or_fewer_replicas_are_moves_of_one_side() -> None:
    """One node becomes three: nobody gives anything up."""
    alone = Layout.founded(LayoutNode(A), 2)
    three = changed(alone, Change("join", B), Change("join", C))
    grown = moves(alone, three)
    assert {(move.giver, move.taker) for move in grown} == {("", B), ("", C)}
    assert len(grown) == 4
    shrunk = moves(three, changed(three, Change("leave", B)))
    assert {(move.giver, move.taker) for move in shrunk} == {(B, "")}


@settings(max_examples=60, deadline=None)
@given(clusters(), clusters(), st.integers(1, 4))
def test_moves_lead_from_one_layout_to_the_other(
    old: tuple[LayoutNode, ...], new: tuple[LayoutNode, ...], replicas: int
) -> None:
    """Carried out one by one they give exactly the new owners."""
    before, after = layout_of(old, 16, replicas), layout_of(new, 16, replicas)
    held = [{before.names[number] for number in row} for row in before.assignment.tolist()]
    for move in moves(before, after):
        if move.giver:
            held[move.partition].remove(move.giver)
        if move.taker:
            assert move.taker not in held[move.partition]
            held[move.partition].add(move.taker)
    assert held == [{after.names[number] for number in row} for row in after.assignment.tolist()]


def test_plan_tells_what_each_node_holds_receives_and_in_bytes() -> None:
    """Each replica that moves is as large as its partition; sizes nobody knows count nothing."""
    base = changed(Layout.founded(LayoutNode(A), 8), Change("join", B), Change("join", C))
    plan = staged(base, Change("replace", B, other=D)).plan(sizes={0: 100, 3: 20})
    document = plan.as_document()
    assert document["nodes"] == [
        {"node": A, "before": 8, "after": 8, "receives": 0, "bytes": 0},
        {"node": B, "before": 8, "after": 0, "receives": 0, "bytes": 0},
        {"node": C, "before": 8, "after": 8, "receives": 0, "bytes": 0},
        {"node": D, "before": 0, "after": 8, "receives": 8, "bytes": 120},
    ]
    assert (document["version"], document["base_version"]) == (3, 2)
    assert (document["moves"], document["bytes"]) == (8, 120)
    assert document["changes"] == [{"action": "replace", "node": B, "with": D}]
    assert (document["violations"], document["refusal"]) == ([], None)
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


def test_plan_changes_nothing() -> None:
    """It is a look ahead, and the same one as often as one looks."""
    state = staged(Layout.founded(LayoutNode(A), 8), Change("join", B))
    before = state.export()
    assert state.plan().after is state.plan().after
    assert state.export() == before


# ---- data stays where it is, for now ----


def test_plan_that_moves_data_is_refused_and_names_a_partition() -> None:
    """Moving data is not there yet: a new owner would have nothing, and reads would miss what is there."""
    state = staged(changed(Layout.founded(LayoutNode(A), 8), Change("join", B)), Change("leave", B))
    found = state.plan(occupied=lambda partition: partition in (3, 5, 6)).refusal
    assert found == "moving data between nodes is not there yet: partition 3 and 2 others hold data"
    found = state.plan(occupied=lambda partition: partition == 5).refusal
    assert found == "moving data between nodes is not there yet: partition 5 holds data"


def test_brand_new_cluster_commits_freely() -> None:
    """Nothing is written yet, so every partition may go anywhere."""
    state = staged(Layout.founded(LayoutNode(A), 8), Change("join", B), Change("join", C))
    plan = state.plan(occupied=lambda partition: False)
    assert plan.refusal == ""
    assert state.committed(plan).width == 3


def test_only_partitions_that_change_owners_are_asked_about() -> None:
    """Data that stays where it is stands in nobody's way, and asking costs a look at the storage."""
    base = layout_of(nodes_of(8), 64)
    state = staged(base, Change("weight", NodeId("n003"), 50))
    asked: list[int] = []
    plan = state.plan(occupied=lambda partition: bool(asked.append(partition)))
    assert asked == sorted({move.partition for move in plan.moves})
    assert 0 < len(asked) < 64


def test_buckets_with_other_n_are_kept_where_they_are_too() -> None:
    """A bucket with n = 1 lives on the first node alone, one with n = 4 on a fallback as well: their keys
    change owners where the others' do not.
    """
    rows = BEFORE.assignment.tolist()
    turned = layout(2, (A, B, C), [[1, 0], *rows[1:]])
    assert moves(BEFORE, turned) == []
    assert owners_change(BEFORE, turned, 2) == []
    assert owners_change(BEFORE, turned, 1) == [0]
    assert owners_change(BEFORE, layout(2, (A, B, C, D), rows), 4) == [0, 1, 2, 3]

    base = layout_of(nodes_of(4), 64, 3)
    state = staged(base, Change("join", NodeId("n9"), zone="z0"))
    quiet = sorted(set(range(64)) - {move.partition for move in state.plan().moves})
    assert state.plan(occupied=quiet.__contains__).refusal == ""
    assert "hold data" in state.plan(occupied=quiet.__contains__, copies=[5]).refusal


# ---- what cannot be met ----


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        (nodes_of(3), []),
        (nodes_of(6, hosts=3, zones=3), []),
        (nodes_of(2), ["3 replicas are wanted and there are only 2 nodes"]),
        (
            nodes_of(6, hosts=2),
            ["some partitions have their 3 replicas on 2 hosts, all there are"],
        ),
        (
            nodes_of(6, zones=2),
            ["some partitions have their 3 replicas on 2 zones, all there are"],
        ),
        (
            (*nodes_of(3), LayoutNode(NodeId("vast"), zone="z0", capacity=900)),
            [
                "node vast holds 64 replicas and its capacity asks for 144, and 3 other nodes are off too: "
                "distinct nodes, hosts and zones allow no better"
            ],
        ),
        (
            (*nodes_of(4), LayoutNode(NodeId("w1"), "x", "z0"), LayoutNode(NodeId("w2"), "x", "z1")),
            [
                "some partitions have their 3 replicas on 2 zones, all there are",
                "host x is in several zones, so two replicas of a partition may meet on it",
            ],
        ),
    ],
    ids=["met", "labels met", "nodes", "hosts", "zones", "capacity", "labels contradict"],
)
def test_plan_tells_what_is_not_met(nodes: tuple[LayoutNode, ...], told: list[str]) -> None:
    """People decide whether it is good enough; none of it prevents a commit."""
    found = violations(layout_of(nodes))
    assert [text for text in found if text in told] == told
    assert len(found) == len(told) or "host x" in found[1]


def test_hand_made_layout_that_could_be_better_is_told_apart() -> None:
    """Uneven by choice of the placement, not for want of nodes: worth a look at the placement."""
    rows = [[0, 1]] * 8
    (text,) = violations(layout(2, (A, B, C), rows))
    assert text.endswith("a better placement was not found")


def test_empty_layout_violates_nothing() -> None:
    """There is nobody to hold anything."""
    assert violations(Layout.empty(8)) == []
