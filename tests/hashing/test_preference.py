"""Ranges held, moves and spread, against the plain meaning: which node is in which key's list."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.hashing import EqualPartitions, Node, RandomTokens, Ring, TokenRange, moves, ranges_held, spread
from tests import strategies

SMALL = [RandomTokens(3), RandomTokens(3, partitions=16), EqualPartitions(16)]


def holders(ring: Ring, token: int, n: int) -> set[str]:
    return {ring.nodes[index].name for index in ring.kernel.preference(token, n)}


@given(start=strategies.tokens, end=strategies.tokens, token=strategies.tokens)
def test_range_is_open_at_its_start_and_may_wrap(start: int, end: int, token: int) -> None:
    arc = TokenRange(start, end)
    if start < end:
        assert arc.covers(token) == (start < token <= end)
        assert arc.size == end - start
    elif start > end:
        assert arc.covers(token) == (token > start or token <= end)
        assert arc.size == 2**64 - start + end
    else:
        assert arc.covers(token)
        assert arc.size == 2**64


@given(count=st.integers(1, 6), n=st.integers(1, 4), strategy=st.sampled_from(SMALL), token=strategies.tokens)
@settings(max_examples=60)
def test_ranges_held_are_those_whose_list_names_the_node(
    count: int, n: int, strategy: RandomTokens | EqualPartitions, token: int
) -> None:
    ring = Ring.build([f"n{index}" for index in range(count)], strategy)
    probes = [token, *(int(end) + step for end in ring.ends for step in (0, 1) if int(end) + step < 2**64)]
    for node in ring.nodes:
        held = ranges_held(ring, node.name, n)
        for probe in probes:
            assert sum(arc.covers(probe) for arc in held) == (node.name in holders(ring, probe, n))


@given(
    count=st.integers(1, 6),
    n=st.integers(1, 4),
    strategy=st.sampled_from(SMALL),
    leave=st.booleans(),
    token=strategies.tokens,
)
@settings(max_examples=60)
def test_moves_turn_the_old_holders_into_the_new(
    count: int, n: int, strategy: RandomTokens | EqualPartitions, leave: bool, token: int
) -> None:
    before = Ring.build([f"n{index}" for index in range(count)], strategy)
    after = before.leave("n0") if leave and count > 1 else before.join("new")
    changes = moves(before, after, n)
    ends = [*before.ends.tolist(), *after.ends.tolist()]
    for probe in [token, *ends, *((end + 1) % 2**64 for end in ends)]:
        old, new = holders(before, probe, n), holders(after, probe, n)
        found = [move for move in changes if move.range.covers(probe)]
        if old == new:
            assert not found
        else:
            (move,) = found
            assert set(move.givers) == old - new
            assert set(move.keepers) == old & new
            assert set(move.takers) == new - old
    assert moves(before, before, n) == []


def test_spread_tells_what_could_not_be_met() -> None:
    nodes = [Node("a", "h1", "z1"), Node("b", "h1", "z1"), Node("c", "h2", "z1"), Node("d", "h3", "z2")]
    ring = Ring.from_nodes(nodes, vnodes=8)
    assert spread(ring, 2) == (2, 2, 2)
    assert spread(ring, 3) == (3, 3, 2)
    assert spread(ring, 4) == (4, 3, 2)
    assert spread(ring, 9) == (4, 3, 2)


def test_unnamed_hosts_are_hosts_of_their_own() -> None:
    """Even beside a host that is called like a node."""
    ring = Ring.from_nodes([Node("a"), Node("b", host="a"), Node("c", host="a")], vnodes=8)
    assert spread(ring, 2).hosts == 2
