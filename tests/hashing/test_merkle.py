"""Merkle trees as the exchange uses them: local differences, leaf ranges, and a descent against a peer."""

from __future__ import annotations

import random

import pytest

from sadik.hashing.merkle import Descent, MerkleTree


def random_items(count: int, seed: int) -> dict[bytes, int]:
    rng = random.Random(seed)
    return {rng.randbytes(16): rng.getrandbits(64) for _ in range(count)}


def tree_of(items: dict[bytes, int], leaf_bits: int = 10, skip_bits: int = 64) -> MerkleTree:
    tree = MerkleTree(leaf_bits, skip_bits)
    for digest, fingerprint in items.items():
        tree.update(digest, 0, fingerprint)
    return tree


def descend(ours: MerkleTree, theirs: MerkleTree, nodes_max: int = 1024) -> tuple[Descent, int]:
    """Run a descent to its end; also the number of round trips."""
    descent, trips = Descent(ours, nodes_max=nodes_max), 0
    while descent.wanted:
        descent.on_answer(theirs.children(descent.level, descent.wanted))
        trips += 1
    return descent, trips


@pytest.mark.parametrize("leaf_bits", [1, 5, 6, 10, 15])
def test_descent_finds_what_a_local_comparison_finds(leaf_bits: int) -> None:
    """Levels over the wire lead to the same leaves as looking at both trees."""
    items = random_items(2000, seed=leaf_bits)
    ours, theirs = tree_of(items, leaf_bits), tree_of(items, leaf_bits)
    changed = sorted(items)[::200]
    for digest in changed:
        theirs.update(digest, items[digest], items[digest] ^ 1)
    descent, trips = descend(ours, theirs)
    assert descent.leaves == ours.differences(theirs) == sorted({ours.leaf_of(digest) for digest in changed})
    assert not descent.truncated
    assert trips == ours.depth


def test_descent_between_equal_trees_ends_after_one_answer() -> None:
    """Idle exchange costs one small message each way."""
    items = random_items(100, seed=1)
    descent, trips = descend(tree_of(items), tree_of(dict(reversed(items.items()))))
    assert (descent.leaves, trips) == ([], 1)


def test_descent_is_bounded_and_says_so() -> None:
    """A replica that lost everything differs everywhere: the rest waits for the next exchange."""
    ours, theirs = tree_of(random_items(5000, seed=2)), MerkleTree()
    descent, _ = descend(ours, theirs, nodes_max=8)
    assert descent.truncated
    assert len(descent.leaves) == 8
    assert set(descent.leaves) <= set(ours.differences(theirs))


def test_descent_refuses_answers_of_the_wrong_length_and_after_its_end() -> None:
    descent = Descent(MerkleTree())
    with pytest.raises(ValueError, match="theirs"):
        descent.on_answer(bytes(511))
    descent.on_answer(MerkleTree().children(0, descent.wanted))
    with pytest.raises(ValueError, match="over"):
        descent.on_answer(b"")
    with pytest.raises(ValueError, match="nodes_max"):
        Descent(MerkleTree(), nodes_max=0)


def test_leaf_range_holds_exactly_the_digests_of_the_leaf() -> None:
    """With the partition's bits skipped, a leaf is one range, which a scan can walk."""
    tree = MerkleTree(8, 4)
    for leaf in (0, 1, 77, 255):
        first, last = tree.leaf_range(leaf, prefix=9)
        assert first[0] >> 4 == last[0] >> 4 == 9
        assert tree.leaf_of(first) == tree.leaf_of(last) == leaf
        span = int.from_bytes(last, "big") - int.from_bytes(first, "big") + 1
        assert span == 2 ** (128 - 12)
    assert MerkleTree(8, 0).leaf_range(255)[1] == b"\xff" * 16
    for leaf, prefix in ((256, 0), (-1, 0), (0, 16), (0, -1)):
        with pytest.raises(ValueError, match="must be below"):
            tree.leaf_range(leaf, prefix)


def test_differences_of_foreign_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        MerkleTree(10).differences(MerkleTree(11))
