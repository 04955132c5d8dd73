"""Claims of Dynamo (SOSP 2007) about preference lists, on the layout that a cluster runs with."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sadik.ids import NodeId
from sadik.members.layout import Change, Layout, LayoutState
from sadik.members.placement import place
from sadik.members.view import NOBODY, View
from tests.members.layouts import changed, distinct, layout_of, nodes_of

TEN = layout_of(nodes_of(10), 1024)
ZONES = layout_of(nodes_of(5, zones=2), 1024)


def view_of(layout: Layout, me: str, *, down: tuple[str, ...] = ()) -> View:
    return View(1, layout, NodeId(me), [name for name in layout.names if name not in down])


# ---- 4.3 replication ----


def test_every_node_can_determine_the_nodes_of_any_key() -> None:
    """4.3: each computes the same list from the same layout, whatever it knows besides."""
    copies = [Layout.decode(TEN.encoded) for _ in range(3)]
    views = [
        view_of(layout, name, down=down)
        for layout, name, down in zip(
            copies, ("n001", "n004", "n007"), ((), ("n002",), ("n009",)), strict=True
        )
    ]
    for view in views[1:]:
        assert (view.order == views[0].order).all()
        assert (view.targets(3).primaries == views[0].targets(3).primaries).all()


def test_list_holds_distinct_physical_nodes_only() -> None:
    """4.3: positions of a node that is already in the list are skipped; so are those of its host."""
    assert set(distinct(TEN, list(TEN.names))) == {3}
    shared = layout_of(nodes_of(12, hosts=4), 1024)
    assert set(distinct(shared, [node.host for node in shared.nodes])) == {3}


def test_list_is_longer_than_n_to_account_for_failures() -> None:
    """4.3: it goes on through all nodes, each once, and its first N are the replicas."""
    assert (np.sort(TEN.order, axis=1) == np.arange(10)).all()
    assert (TEN.order[:, :3] == TEN.assignment).all()


def test_any_n_is_served_by_one_layout() -> None:
    """4.3: N is configured per instance (here per bucket): a list's first N nodes, whatever N."""
    view = view_of(TEN, "n000")
    for n in (1, 2, 3, 5):
        assert (view.targets(n).primaries == TEN.order[:, :n]).all()
        counts = np.bincount(view.targets(n).primaries.reshape(-1), minlength=10)
        assert counts.max() < 1.25 * 1024 * n / 10


# ---- 4.6 sloppy quorum ----


def test_operations_go_to_the_first_n_healthy_nodes() -> None:
    """4.6: not necessarily the first N of the list. With A down its replica goes to D, the next one."""
    view = view_of(TEN, "n000", down=("n003",))
    targets = view.targets(3)
    for row, reachable in zip(TEN.order.tolist(), targets.reachable.tolist(), strict=True):
        healthy = [number for number in row if number != 3][:3]
        assert sorted(reachable) == sorted(healthy)
        if 3 in row[:3]:
            assert reachable[row.index(3)] == healthy[-1]


def test_each_stand_in_keeps_the_writes_of_one_node() -> None:
    """4.6: the replica's metadata names the node it was meant for, so who stands in for whom is fixed."""
    targets = view_of(TEN, "n000", down=("n002", "n003", "n004")).targets(3)
    for reachable in targets.reachable.tolist():
        assert len(set(reachable)) == 3
        assert NOBODY not in reachable


def test_every_node_chooses_the_same_stand_ins() -> None:
    """4.6: two coordinators that see the same failures put the replica at the same place."""
    down = ("n002", "n003")
    one, other = (view_of(TEN, me, down=down).targets(3) for me in ("n000", "n008"))
    assert (one.reachable == other.reachable).all()


def test_work_of_a_failed_node_is_spread_over_all_others() -> None:
    """4.2, 4.6: no single node takes over; each of the nine stands in for about a ninth."""
    targets = view_of(TEN, "n000", down=("n003",)).targets(3)
    stands_in = Counter(targets.reachable[targets.primaries == 3].tolist())
    mean = sum(stands_in.values()) / 9
    assert len(stands_in) == 9
    assert all(0.6 * mean < count < 1.5 * mean for count in stands_in.values())


def test_write_is_rejected_only_if_all_nodes_are_unavailable() -> None:
    """4.6: with W = 1 one node, any node, is enough."""
    for alive in TEN.names:
        view = view_of(TEN, alive, down=tuple(name for name in TEN.names if name != alive))
        assert (view.targets(3).coordinator == view.me).all()
        assert ((view.targets(3).reachable == view.me).sum(axis=1) == 1).all()


def test_lists_span_data_centres_so_that_one_may_fail_whole() -> None:
    """4.6: with two zones, each partition has a replica in both, and stand-ins for the zone that is gone."""
    assert set(distinct(ZONES, [node.zone for node in ZONES.nodes])) == {2}
    for zone in ("z0", "z1"):
        down = tuple(node.node for node in ZONES.nodes if node.zone == zone)
        (me, *_) = [name for name in ZONES.names if name not in down]
        targets = view_of(ZONES, me, down=down).targets(3)
        assert targets.live_primaries.min() >= 1
        assert ((targets.reachable != NOBODY).sum(axis=1) >= 2).all()


# ---- 4.8 membership, 4.9 adding and removing nodes, 6.2 placement ----


def test_outage_does_not_change_the_layout() -> None:
    """4.8.1: it rarely signifies a permanent departure; lists stay what they were."""
    up, down = view_of(TEN, "n000"), view_of(TEN, "n000", down=("n005",))
    assert (up.targets(3).primaries == down.targets(3).primaries).all()


@pytest.mark.parametrize("nodes", [3, 10])
def test_strategy_three_gives_each_node_its_share_of_equal_partitions(nodes: int) -> None:
    """6.2: Q/S of the Q partitions, so the load is as even as it can be."""
    layout = layout_of(nodes_of(nodes), 1024)
    held, first = layout.held()
    assert held.max() - held.min() <= 1
    assert first.max() - first.min() <= 2


def test_joining_node_takes_from_all_and_leaving_node_gives_to_all() -> None:
    """6.2: the property is kept by stealing, and by spreading, tokens evenly; nothing else moves."""
    after = changed(TEN, Change("join", NodeId("late"), zone="z0"))
    for before, later in ((TEN, after), (after, changed(after, Change("leave", NodeId("late"))))):
        names = sorted({*before.names, *later.names})
        counts = [
            dict(zip(layout.names, layout.held()[0].tolist(), strict=True)) for layout in (before, later)
        ]
        change = {name: counts[1].get(name, 0) - counts[0].get(name, 0) for name in names}
        others = [abs(change[name]) for name in names if name != "late"]
        assert abs(change["late"]) == sum(others) == pytest.approx(3 * 1024 / 11, abs=1)
        assert max(others) - min(others) <= 2


def test_change_of_membership_needs_agreement_and_is_explicit() -> None:
    """4.8.1, 6.2: an administrator's command on any one node, agreed by gossip; strategy 3 asks for it."""
    one, other = LayoutState(TEN), LayoutState(Layout.decode(TEN.encoded))
    one.stage(Change("leave", NodeId("n001")))
    other.merge(one.export())
    layout = other.committed(other.plan())
    one.merge(other.export())
    assert one.layout == layout
    assert (layout.assignment == place(layout.nodes, 1024, 3, before=(TEN.names, TEN.assignment))).all()
