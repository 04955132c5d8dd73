"""Claims of "Dynamo: Amazon's Highly Available Key-value Store" (SOSP 2007), one test each, by section."""

from __future__ import annotations

from collections import Counter

import pytest

from sadik.hashing import EqualPartitions, Node, RandomTokens, Ring, TokenRange, moves, ranges_held, spread

HUNDRED = [f"node-{index}" for index in range(100)]
# The ring of the paper's figure 2: seven nodes with one token each.
FIGURE = dict(zip("ABCDEFG", range(100, 800, 100), strict=True))


def figure_ring(**more: int) -> Ring:
    tokens = sorted([*FIGURE.items(), *more.items()], key=lambda item: item[1])
    return Ring([name for name, _ in tokens], [token for _, token in tokens], range(len(tokens)))


def arc(start: str, end: str, **more: int) -> TokenRange:
    places = {**FIGURE, **more}
    return TokenRange(places[start], places[end])


def owned(ring: Ring, keys: int = 20_000) -> Counter[str]:
    lists = ring.preference_lists([b"%d" % number for number in range(keys)], 1)
    return Counter(ring.nodes[index].name for index in lists[:, 0].tolist())


# ---- 4.2 partitioning ----


def test_key_belongs_to_the_first_node_clockwise_and_the_ring_wraps() -> None:
    """4.2: the largest wraps to the smallest; a node owns what lies between its predecessor and itself."""
    ring = figure_ring()
    owner = {
        token: ring.nodes[ring.kernel.owner(token)].name for token in (0, 100, 101, 200, 700, 701, 2**64 - 1)
    }
    assert owner == {0: "A", 100: "A", 101: "B", 200: "B", 700: "G", 701: "A", 2**64 - 1: "A"}


def test_departure_affects_only_immediate_neighbours() -> None:
    """4.2: the principal advantage of consistent hashing."""
    before, after = figure_ring(), Ring(list("ABDEFG"), [100, 200, 400, 500, 600, 700], range(6))
    (move,) = moves(before, after, 1)
    assert move.range == arc("B", "C")
    assert (move.givers, move.takers) == (("C",), ("D",))


def test_virtual_nodes_even_out_the_load() -> None:
    """4.2: one random position per node leads to non-uniform load; many positions repair it."""

    def imbalance(vnodes: int) -> float:
        return max(Ring.from_nodes(HUNDRED, vnodes).shares().values()) * len(HUNDRED)

    assert imbalance(1) > 3
    assert imbalance(256) < 1.25


def test_load_of_a_failed_node_spreads_evenly_over_the_survivors() -> None:
    """4.2: first advantage of virtual nodes."""
    names = HUNDRED[:10]
    ring = Ring.from_nodes(names, vnodes=4096)
    up = set(names) - {"node-3"}
    extra: Counter[str] = Counter()
    for number in range(30_000):
        key = b"%d" % number
        if ring.owner(key) == "node-3":
            extra[ring.preference_list(key, 1, up=up)[0]] += 1
    mean = sum(extra.values()) / 9
    assert set(extra) == up
    assert all(0.7 * mean < count < 1.3 * mean for count in extra.values())


def test_joining_node_takes_about_equal_load_from_each() -> None:
    """4.2: second advantage of virtual nodes."""
    names = HUNDRED[:10]
    before = Ring.from_nodes(names, vnodes=4096)
    given: Counter[str] = Counter()
    for move in moves(before, before.join("late"), 1):
        assert move.takers == ("late",)
        given[move.givers[0]] += move.range.size
    mean = sum(given.values()) / len(names)
    assert mean * len(names) / 2**64 == pytest.approx(1 / 11, rel=0.1)
    assert set(given) == set(names)
    assert all(0.7 * mean < size < 1.3 * mean for size in given.values())


def test_number_of_virtual_nodes_follows_capacity() -> None:
    """4.2: third advantage of virtual nodes: heterogeneity."""
    load = owned(Ring.from_nodes([Node("large", weight=4), *HUNDRED[:8]], vnodes=256))
    assert load["large"] / sum(load.values()) == pytest.approx(4 / 12, rel=0.1)


# ---- 4.3 replication ----


def test_node_holds_from_its_nth_predecessor_to_itself() -> None:
    """4.3, figure 2: with N = 3 node D stores the keys in (A, B], (B, C] and (C, D]."""
    assert ranges_held(figure_ring(), "D", 3) == [arc("A", "D")]
    assert ranges_held(figure_ring(), "D", 1) == [arc("C", "D")]
    for n in (1, 2, 3):
        assert ranges_held(figure_ring(), "A", n) == [arc("GFE"[n - 1], "A")]


def test_key_is_kept_by_its_coordinator_and_the_next_two() -> None:
    """4.3, figure 2: key K in (A, B] is kept by B, C and D."""
    ring = figure_ring()
    assert [ring.nodes[index].name for index in ring.kernel.preference(150, 3)] == ["B", "C", "D"]


def test_list_names_distinct_physical_nodes() -> None:
    """4.3: positions of a physical node already listed are skipped; the list is longer than N."""
    ring = Ring.from_nodes(HUNDRED[:6], vnodes=64)
    lists = ring.preference_lists([b"%d" % number for number in range(2000)], 5).tolist()
    assert all(len(set(row)) == 5 for row in lists)


# ---- 4.6 failures ----


def test_write_meant_for_a_failed_node_goes_to_the_next_beyond_the_top_n() -> None:
    """4.6: with N = 3 and A down, D keeps the replica that would have been on A."""
    ring = figure_ring()
    up = bytes(node.name != "A" for node in ring.nodes)
    assert [ring.nodes[index].name for index in ring.kernel.preference(50, 3)] == ["A", "B", "C"]
    assert [ring.nodes[index].name for index in ring.kernel.preference(50, 3, up)] == ["B", "C", "D"]


@pytest.mark.parametrize(
    "strategy", [RandomTokens(64), RandomTokens(64, partitions=4096), EqualPartitions(1024)]
)
def test_lists_span_data_centres(strategy: RandomTokens | EqualPartitions) -> None:
    """4.6: each object is replicated across data centres, so that a whole one may fail."""
    nodes = [Node(name, zone=f"zone-{index % 3}") for index, name in enumerate(HUNDRED[:12])]
    assert spread(Ring.build(nodes, strategy), 3) == (3, 3, 3)


# ---- 4.9 adding and removing nodes ----


def test_inserted_node_takes_one_range_from_each_of_the_next_three() -> None:
    """4.9: with N = 3 X between A and B stores (F, G], (G, A], (A, X]; B, C, D each drop one."""
    before, after = figure_ring(), figure_ring(X=150)
    assert ranges_held(after, "X", 3) == [arc("F", "X", X=150)]
    assert [(move.range, move.givers, move.takers) for move in moves(before, after, 3)] == [
        (arc("G", "A"), ("C",), ("X",)),
        (arc("A", "X", X=150), ("D",), ("X",)),
        (arc("F", "G"), ("B",), ("X",)),
    ]


def test_removal_is_the_reverse_of_insertion() -> None:
    """4.9: on removal the keys are handed back in a reverse process."""
    without, with_x = figure_ring(), figure_ring(X=150)
    there = {(move.range, move.givers, move.takers) for move in moves(without, with_x, 3)}
    back = {(move.range, move.takers, move.givers) for move in moves(with_x, without, 3)}
    assert there == back


# ---- 6.2 partitioning strategies ----


def test_strategy_1_changes_ranges_whenever_a_node_joins() -> None:
    """6.2: Merkle trees of the ranges that change must be computed anew."""
    ring = Ring.build(HUNDRED[:10], RandomTokens(32))
    assert len(set(ring.join("late").ends.tolist()) - set(ring.ends.tolist())) == 32


def test_strategy_2_places_a_partition_on_the_first_nodes_clockwise_from_its_end() -> None:
    """6.2: tokens only map partitions to nodes; they do not cut the data."""
    ring = Ring.build(HUNDRED[:10], RandomTokens(8, partitions=256))
    plain = Ring.build(HUNDRED[:10], RandomTokens(8))
    width = 2**64 // 256
    for partition in range(256):
        end = (partition + 1) * width - 1
        expected = plain.kernel.preference(end, 5)
        for token in (partition * width, partition * width + width // 3, end):
            assert ring.kernel.preference(token, 5) == expected
    assert ring.join("late").ends.tolist() == ring.ends.tolist()


def test_strategy_3_is_most_even_and_gives_every_node_its_share() -> None:
    """6.2, figure 8: strategy 3 has the best load balancing efficiency (mean load over the highest)."""

    def efficiency(strategy: RandomTokens | EqualPartitions) -> float:
        return 1 / (max(Ring.build(HUNDRED[:30], strategy).shares().values()) * 30)

    first, second, third = (
        efficiency(strategy)
        for strategy in (RandomTokens(34), RandomTokens(34, partitions=1024), EqualPartitions(1024))
    )
    assert third > 0.97
    assert first < 0.9
    assert second < 0.9


def test_strategy_3_leaving_node_is_spread_over_all_others() -> None:
    """6.2: its tokens are distributed at random to the remaining nodes so that the property stays."""
    ring = Ring.build(HUNDRED[:10], EqualPartitions(1024))
    takers: Counter[str] = Counter()
    for move in moves(ring, ring.leave("node-4"), 1):
        assert move.givers == ("node-4",)
        takers[move.takers[0]] += move.range.size * 1024 // 2**64
    assert set(takers) == set(HUNDRED[:10]) - {"node-4"}
    assert max(takers.values()) - min(takers.values()) <= 2


def test_strategy_3_joining_node_steals_evenly() -> None:
    """6.2: it steals tokens from nodes in the system in a way that keeps the property."""
    ring = Ring.build(HUNDRED[:10], EqualPartitions(1024))
    givers: Counter[str] = Counter()
    for move in moves(ring, ring.join("late"), 1):
        assert move.takers == ("late",)
        givers[move.givers[0]] += move.range.size * 1024 // 2**64
    assert sum(givers.values()) == 1024 // 11
    assert set(givers) == set(HUNDRED[:10])
    assert max(givers.values()) - min(givers.values()) <= 2
