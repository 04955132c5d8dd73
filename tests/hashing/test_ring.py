"""Rings with names: standalone use, and what each strategy promises when nodes come and go."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import InvalidRequest
from sadik.hashing import EqualPartitions, Node, RandomTokens, Ring, hash_function

NAMES = [f"node-{index}" for index in range(10)]
STRATEGIES = {
    "random tokens": RandomTokens(16),
    "random tokens, equal partitions": RandomTokens(16, partitions=1024),
    "equal partitions": EqualPartitions(256),
}

names = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12, unique=True)


@pytest.fixture(params=list(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> RandomTokens | EqualPartitions:
    return STRATEGIES[request.param]


def owner_names(ring: Ring) -> list[str]:
    return [ring.nodes[owner].name for owner in ring.owners.tolist()]


def moved(before: Ring, after: Ring) -> list[tuple[str, str]]:
    """(old owner, new owner) of each partition that changed hands; both rings have the same partitions."""
    pairs = zip(owner_names(before), owner_names(after), strict=True)
    return [(old, new) for old, new in pairs if old != new]


def test_hashing_imports_no_server_code() -> None:
    """The ring is a library of its own."""
    code = (
        "import sys, sadik.hashing as hashing; [getattr(hashing, name) for name in hashing.__all__]; "
        "sys.exit(any(name in sys.modules for name in ('asyncio', 'aiohttp', 'uvloop')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_list_of_a_key_never_changes() -> None:
    """Every node and every version must compute the same ring, or they look for a key in different places."""
    ring = Ring.from_nodes(["amber", "birch", "cedar", "dogwood"], vnodes=8, seed=b"s")
    assert [hex(token) for token in ring.tokens[:3].tolist()] == [
        "0x33c4b050accb921",
        "0x5e1e60ed8a03718",
        "0x8d12b8597234bbf",
    ]
    assert [ring.preference_list(key, 4) for key in (b"one", b"two", b"three")] == [
        ("dogwood", "birch", "cedar", "amber"),
        ("dogwood", "birch", "cedar", "amber"),
        ("dogwood", "birch", "cedar", "amber"),
    ]
    equal = Ring.partitioned(["amber", "birch", "cedar"], partitions=8)
    assert owner_names(equal) == ["amber", "amber", "birch", "amber", "cedar", "birch", "cedar", "cedar"]
    assert owner_names(equal.join("dogwood")) == [
        "amber",
        "amber",
        "birch",
        "dogwood",
        "dogwood",
        "birch",
        "cedar",
        "cedar",
    ]


def test_owner_is_the_first_of_the_list(strategy: RandomTokens | EqualPartitions) -> None:
    ring = Ring.build(NAMES, strategy)
    for number in range(50):
        key = b"key %d" % number
        nodes = ring.preference_list(key, 10)
        assert nodes[0] == ring.owner(key)
        assert sorted(nodes) == sorted(NAMES)


def test_batch_equals_single_lists(strategy: RandomTokens | EqualPartitions) -> None:
    ring = Ring.build(NAMES, strategy)
    keys = [b"key %d" % number for number in range(100)]
    lists = ring.preference_lists(keys, 3)
    assert [tuple(ring.nodes[index].name for index in row) for row in lists.tolist()] == [
        ring.preference_list(key, 3) for key in keys
    ]
    assert ring.preference_lists([], 3).shape == (0, 3)


@given(
    names=names,
    seed=st.binary(max_size=4),
    strategy=st.sampled_from(list(STRATEGIES.values())),
    data=st.data(),
)
@settings(max_examples=40)
def test_ring_does_not_depend_on_the_order_nodes_were_learned_in(
    names: list[str], seed: bytes, strategy: RandomTokens | EqualPartitions, data: st.DataObject
) -> None:
    other = data.draw(st.permutations(names))
    left = Ring.build(names, strategy)
    right = Ring.build(other, strategy)
    assert left.tokens.tolist() == right.tokens.tolist()
    assert owner_names(left) == owner_names(right)
    assert left.preference_list(seed, 20) == right.preference_list(seed, 20)


def test_seed_and_hash_give_other_rings(strategy: RandomTokens | EqualPartitions) -> None:
    ring = Ring.build(NAMES, strategy)
    other = Ring.build(NAMES, strategy, function=hash_function("blake2b-128"))
    assert owner_names(ring) != owner_names(other)
    seeded = type(strategy)(seed=b"x")
    assert owner_names(Ring.build(NAMES, seeded)) != owner_names(Ring.build(NAMES, type(strategy)()))


def test_nodes_that_are_down_are_left_out() -> None:
    ring = Ring.from_nodes(NAMES, vnodes=8)
    full = ring.preference_list(b"key", 10)
    up = set(full[1:])
    assert ring.preference_list(b"key", 3, up=up) == full[1:4]
    assert ring.preference_list(b"key", 3, up=()) == ()


@pytest.mark.parametrize("weight", [2, 5])
def test_weight_gives_a_part_in_proportion(weight: int) -> None:
    """Dynamo 4.2: the number of virtual nodes follows from capacity."""
    nodes = [Node("big", weight=weight), *(Node(name) for name in NAMES)]
    for strategy, tolerance in ((RandomTokens(512), 0.15), (EqualPartitions(4096), 0.01)):
        shares = Ring.build(nodes, strategy).shares()
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["big"] == pytest.approx(weight / (len(NAMES) + weight), rel=tolerance)


def test_node_of_weight_zero_owns_nothing(strategy: RandomTokens | EqualPartitions) -> None:
    """A node that drains stays known, and gets no data."""
    ring = Ring.build([*NAMES, Node("draining", weight=0)], strategy)
    assert ring.shares()["draining"] == 0
    assert "draining" not in ring.preference_list(b"key", 20)


def test_joining_again_with_another_weight_changes_the_share() -> None:
    ring = Ring.partitioned(NAMES, 1024)
    grown = ring.join(Node(NAMES[0], weight=3))
    assert [node.name for node in grown.nodes] == NAMES
    assert grown.shares()[NAMES[0]] == pytest.approx(3 / 12, abs=1 / 1024)
    assert {new for _, new in moved(ring, grown)} == {NAMES[0]}


def test_random_tokens_stay_where_they_are_when_others_come_and_go() -> None:
    ring = Ring.from_nodes(NAMES, vnodes=16)
    assert set(ring.tokens.tolist()) < set(ring.join("late").tokens.tolist())
    back = ring.join("late").leave("late")
    assert back.tokens.tolist() == ring.tokens.tolist()
    assert owner_names(back) == owner_names(ring)


class FewTokens:
    """A hash with sixteen tokens, so that nodes draw the same ones."""

    name = "few"

    def digest(self, data: bytes) -> bytes:
        return bytes([sum(data) % 16]) + bytes(15)

    def hash_many(self, count, data, starts, lengths, out):  # type: ignore[no-untyped-def]
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            out[16 * i : 16 * i + 16] = self.digest(data[start : start + length])


def test_token_drawn_twice_belongs_to_the_first_by_name() -> None:
    """The ring must be the same wherever it is computed, however unlikely the case."""
    one = Ring.from_nodes(["b", "a"], vnodes=16, function=FewTokens())
    two = Ring.from_nodes(["a", "b"], vnodes=16, function=FewTokens())
    assert len(one.tokens) == 16
    assert set(owner_names(one)) == set(owner_names(two)) == {"a"}


@given(
    count=st.integers(1, 20),
    bits=st.integers(5, 9),
    seed=st.binary(max_size=3),
    changes=st.lists(st.integers(-20, 20), max_size=6),
)
@settings(max_examples=40)
def test_equal_partitions_keep_their_property_through_any_changes(
    count: int, bits: int, seed: bytes, changes: list[int]
) -> None:
    """Dynamo 6.2, strategy 3: Q/S tokens per node after every join and leave, and no move without need."""
    partitions = 1 << bits
    ring = Ring.partitioned([f"n{index}" for index in range(count)], partitions, seed=seed)
    for step, change in enumerate([0, *changes]):
        before = ring
        if change > 0:
            ring = ring.join(f"new{step}")
        elif change < 0 and len(ring.nodes) > 1:
            ring = ring.leave(ring.nodes[change % len(ring.nodes)].name)
        counts = Counter(owner_names(ring))
        share = partitions // len(ring.nodes)
        assert set(counts.values()) <= {share, share + 1}
        assert len(counts) == len(ring.nodes)
        joined = {node.name for node in ring.nodes} - {node.name for node in before.nodes}
        left = {node.name for node in before.nodes} - {node.name for node in ring.nodes}
        held = Counter(owner_names(before))
        moves = moved(before, ring)
        if joined:
            assert len(moves) == share
            assert {new for _, new in moves} == joined
        if left:
            assert len(moves) == sum(held[name] for name in left)
            assert {old for old, _ in moves} == left


def test_partitions_are_equal_ranges_of_the_token_space() -> None:
    for partitions in (1, 2, 1024):
        ring = Ring.partitioned(["a"], partitions)
        width = 2**64 // partitions
        assert ring.tokens.tolist() == [(index + 1) * width - 1 for index in range(partitions)]
        assert ring.shares() == {"a": 1.0}


def test_tokens_given_stay_exact() -> None:
    """Through float64, which has 53 bits, these would be one token."""
    last = 2**64 - 1
    ring = Ring(["a", "b", "c"], [5, last - 1, last], [0, 1, 2])
    assert ring.tokens.tolist() == [5, last - 1, last]
    assert ring.kernel.owner(last - 1) == 1
    same = Ring(["a", "b", "c"], np.array([5, last - 1, last], dtype=np.uint64), np.array([0, 1, 2]))
    assert same.tokens.tolist() == [5, last - 1, last]


def test_ring_and_the_arrays_it_was_made_of_are_apart() -> None:
    tokens = np.array([5, 9], dtype=np.uint64)
    ring = Ring(["a", "b"], tokens, [0, 1])
    tokens[1] = 6
    assert ring.tokens.tolist() == [5, 9]
    with pytest.raises(ValueError, match="read-only"):
        ring.tokens[0] = 1


REFUSED = {
    "no node": lambda: Ring.from_nodes([]),
    "two of one name": lambda: Ring.from_nodes(["a", "a"]),
    "empty name": lambda: Ring.from_nodes([""]),
    "negative weight": lambda: Ring.from_nodes([Node("a", weight=-1)]),
    "all of weight zero": lambda: Ring.from_nodes([Node("a", weight=0)]),
    "no vnodes": lambda: Ring.from_nodes(["a"], vnodes=0),
    "partitions no power of two": lambda: Ring.partitioned(["a"], 100),
    "no partitions": lambda: Ring.partitioned(["a"], 0),
    "too many partitions": lambda: Ring.partitioned(["a"], 2**25),
    "fewer partitions than nodes": lambda: Ring.partitioned(NAMES, 8),
    "strategy 2, no power of two": lambda: RandomTokens(8, partitions=6),
    "tokens falling": lambda: Ring(["a"], [2, 1], [0, 0]),
    "token too large": lambda: Ring(["a"], [2**64], [0]),
    "token negative": lambda: Ring(["a"], np.array([-1]), [0]),
    "token no integer": lambda: Ring(["a"], [1.5], [0]),
    "token array of floats": lambda: Ring(["a"], np.array([1.0]), [0]),
    "owner unknown": lambda: Ring(["a"], [1], [1]),
    "owner too large": lambda: Ring(["a"], [1], np.array([2**32])),
    "empty list": lambda: Ring.from_nodes(["a"]).preference_list(b"k", 0),
    "empty lists": lambda: Ring.from_nodes(["a"]).preference_lists([b"k"], 0),
    "unknown node leaves": lambda: Ring.from_nodes(["a"]).leave("b"),
    "last node leaves": lambda: Ring.from_nodes(["a"]).leave("a"),
    "join without strategy": lambda: Ring(["a"], [1], [0]).join("b"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_ring_is_refused(case: str) -> None:
    with pytest.raises(InvalidRequest):
        REFUSED[case]()
