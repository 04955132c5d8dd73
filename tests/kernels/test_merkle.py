"""The Merkle kernel and its plain twin: the same cases on both, and both on the same generated sets."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import merkle as native
from sadik.kernels.reference import merkle as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])

digests = st.binary(min_size=16, max_size=16)
fingerprints = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]))
shapes = st.integers(1, 12).flatmap(lambda bits: st.tuples(st.just(bits), st.integers(0, 128 - bits)))


def numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return call()
    except (ValueError, TypeError, OverflowError) as error:
        return type(error)


def digest_of(number: int) -> bytes:
    return blake3(number.to_bytes(8, "little")).digest(length=16)


def filled(twin: Any, items: dict[bytes, int], leaf_bits: int = 10, skip_bits: int = 64) -> Any:
    tree = twin.Tree(leaf_bits, skip_bits)
    for digest, fingerprint in items.items():
        tree.update(digest, 0, fingerprint)
    return tree


@TWINS
def test_shape_follows_from_the_leaf_bits(twin: Any) -> None:
    """32 children to a node counted from the leaves up; the root takes what is left."""
    trees = {bits: twin.Tree(bits) for bits in (1, 5, 6, 10, 12)}
    widths = {bits: [tree.width(level) for level in range(tree.depth + 1)] for bits, tree in trees.items()}
    assert widths == {1: [1, 2], 5: [1, 32], 6: [1, 2, 64], 10: [1, 32, 1024], 12: [1, 4, 128, 4096]}
    assert (twin.FANOUT, twin.HASH_BYTES, twin.LEAF_BYTES, twin.LEAF_BITS_MAX) == (32, 16, 8, 24)


@TWINS
def test_hashes_are_pinned(twin: Any) -> None:
    """Peers of different versions compare these bytes, so they may never change."""
    tree = filled(twin, {digest_of(i): i + 1 for i in range(100)}, 6)
    leaves = [0] * 64
    for i in range(100):
        leaves[digest_of(i)[8] >> 2] += i + 1
    raw = struct.pack("<64Q", *leaves)
    inner = [blake3(raw[:256]).digest()[:16], blake3(raw[256:]).digest()[:16]]
    assert tree.level(2) == raw
    assert tree.level(1) == b"".join(inner)
    assert tree.root() == tree.level(0) == blake3(b"".join(inner)).digest()[:16]
    assert twin.Tree().root().hex() == "369f625d4b3e4011cba1d1a03bd1f56d"
    assert tree.root().hex() == "14357fbc38081e002f48e72ff820b214"


@TWINS
def test_leaf_is_cut_out_of_the_digest(twin: Any) -> None:
    """``skip_bits`` counts from the highest bit of the first byte; a window may lie across the two halves."""
    digest = bytes.fromhex("0123456789abcdef fedcba9876543210")
    assert twin.Tree(12, 0).leaf_of(digest) == 0x012
    assert twin.Tree(12, 4).leaf_of(digest) == 0x123
    assert twin.Tree(16, 56).leaf_of(digest) == 0xEFFE
    assert twin.Tree(8, 64).leaf_of(digest) == 0xFE
    assert twin.Tree(8, 120).leaf_of(digest) == 0x10


@TWINS
def test_update_then_undo_restores_the_tree(twin: Any) -> None:
    """A leaf is a group element: what was added can be taken out exactly, wrapping included."""
    tree = twin.Tree()
    empty = tree.root()
    tree.update(digest_of(1), 0, 2**64 - 1)
    tree.update(digest_of(1), 2**64 - 1, 5)
    assert tree.root() != empty
    tree.update(digest_of(1), 5, 0)
    assert tree.root() == empty


@TWINS
def test_key_counted_twice_does_not_vanish(twin: Any) -> None:
    """The reason for sums: with XOR the same fingerprint twice in a leaf would look like an empty leaf."""
    tree = twin.Tree()
    tree.update(digest_of(1), 0, 77)
    tree.update(digest_of(1), 0, 77)
    assert tree.root() != twin.Tree().root()


@TWINS
def test_clear_forgets_everything(twin: Any) -> None:
    tree = filled(twin, {digest_of(i): i + 1 for i in range(50)})
    tree.clear()
    assert tree.root() == twin.Tree().root()
    assert tree.level(tree.depth) == bytes(8 * 1024)


@TWINS
def test_reading_between_updates_sees_every_update(twin: Any) -> None:
    """Lazy hashing may not leave a stale ancestor, whichever level was read before."""
    tree, items = twin.Tree(12), {}
    for i in range(40):
        tree.update(digest_of(i), 0, i + 1)
        items[digest_of(i)] = i + 1
        tree.children(i % 3, numbers(0))
        assert tree.root() == filled(twin, items, 12).root()


@TWINS
def test_children_and_differing_find_a_single_difference(twin: Any) -> None:
    """One level a step from the root to the one leaf that differs."""
    ours = filled(twin, {digest_of(i): 1 for i in range(100)})
    theirs = filled(twin, {digest_of(i): 1 + (i == 42) for i in range(100)})
    nodes = numbers(0)
    for level in range(ours.depth):
        nodes = ours.differing(level, nodes, theirs.children(level, nodes))
        assert len(nodes) == 4
    assert nodes == numbers(ours.leaf_of(digest_of(42))) == ours.differing_leaves(theirs)


@TWINS
def test_nodes_come_in_the_order_asked(twin: Any) -> None:
    tree = filled(twin, {digest_of(i): i for i in range(1, 500)})
    level = tree.level(2)
    assert tree.children(1, numbers(3, 1, 3)) == level[768:1024] + level[256:512] + level[768:1024]
    assert tree.children(1, b"") == b""
    nonzero = [i for i in (*range(96, 128), *range(32)) if level[8 * i : 8 * i + 8] != bytes(8)]
    assert tree.differing(1, numbers(3, 0), bytes(512)) == numbers(*nonzero)


@TWINS
@pytest.mark.parametrize(
    "call",
    [
        lambda tree: type(tree)(0),
        lambda tree: type(tree)(25),
        lambda tree: type(tree)(10, -1),
        lambda tree: type(tree)(10, 119),
        lambda tree: tree.width(-1),
        lambda tree: tree.width(3),
        lambda tree: tree.level(3),
        lambda tree: tree.leaf_of(bytes(15)),
        lambda tree: tree.leaf_of(bytes(17)),
        lambda tree: tree.update(bytes(15), 0, 1),
        lambda tree: tree.update_many(-1, b"", b"", b""),
        lambda tree: tree.update_many(2**62, b"", b"", b""),
        lambda tree: tree.update_many(2, bytes(31), bytes(16), bytes(16)),
        lambda tree: tree.update_many(2, bytes(32), bytes(15), bytes(16)),
        lambda tree: tree.update_many(2, bytes(32), None, bytes(15)),
        lambda tree: tree.children(2, numbers(0)),
        lambda tree: tree.children(-1, numbers(0)),
        lambda tree: tree.children(0, numbers(1)),
        lambda tree: tree.children(1, numbers(31, 32)),
        lambda tree: tree.children(1, bytes(3)),
        lambda tree: tree.differing(1, numbers(0), bytes(255)),
        lambda tree: tree.differing(1, numbers(0), bytes(257)),
        lambda tree: tree.differing(2, numbers(0), b""),
        lambda tree: tree.differing(1, numbers(2**32 - 1), bytes(256)),
        lambda tree: tree.differing_leaves(type(tree)(11)),
        lambda tree: tree.differing_leaves(type(tree)(10, 63)),
    ],
)
def test_bad_arguments_raise_value_error_and_change_nothing(twin: Any, call: Callable[[Any], object]) -> None:
    tree = filled(twin, {digest_of(i): i for i in range(10)})
    before = tree.root()
    with pytest.raises(ValueError, match=r"."):
        call(tree)
    assert tree.root() == before


@TWINS
def test_bad_types_and_ranges_are_refused(twin: Any) -> None:
    tree = twin.Tree()
    for old, new in ((-1, 0), (0, 2**64), (2**64, 0), (0, -1)):
        with pytest.raises(OverflowError):
            tree.update(bytes(16), old, new)
    with pytest.raises(TypeError):
        tree.update("x" * 16, 0, 1)
    with pytest.raises(TypeError):
        tree.children(0, None)
    with pytest.raises(TypeError):
        tree.differing_leaves(None)
    assert tree.root() == twin.Tree().root()


@given(shapes, st.lists(st.tuples(digests, fingerprints, fingerprints), max_size=20), st.data())
def test_twins_agree_on_any_set(
    shape: tuple[int, int], updates: list[tuple[bytes, int, int]], data: st.DataObject
) -> None:
    """Every reading of every level, and the batch form against the single one."""
    fast, plain, batch = native.Tree(*shape), reference.Tree(*shape), native.Tree(*shape)
    for digest, old, new in updates:
        fast.update(digest, old, new)
        plain.update(digest, old, new)
        assert fast.leaf_of(digest) == plain.leaf_of(digest)
    batch.update_many(
        len(updates),
        b"".join(digest for digest, _, _ in updates),
        struct.pack(f"<{len(updates)}Q", *(old for _, old, _ in updates)),
        struct.pack(f"<{len(updates)}Q", *(new for _, _, new in updates)),
    )
    assert fast.depth == plain.depth
    levels = [plain.level(i) for i in range(plain.depth + 1)]
    assert [fast.level(i) for i in range(fast.depth + 1)] == levels
    assert [batch.level(i) for i in range(fast.depth + 1)] == levels
    level = data.draw(st.integers(0, plain.depth - 1))
    nodes = numbers(*data.draw(st.lists(st.integers(0, plain.width(level) - 1), max_size=4)))
    answer = plain.children(level, nodes)
    assert fast.children(level, nodes) == answer
    assert fast.differing(level, nodes, answer) == b""
    other = bytes(data.draw(st.sampled_from(bytes(answer) or b"\0")) for _ in answer[:1]) + answer[1:]
    assert fast.differing(level, nodes, other) == plain.differing(level, nodes, other)


@given(
    st.integers(-1, 4),
    st.binary(max_size=9) | st.lists(st.integers(0, 40), max_size=3).map(lambda values: numbers(*values)),
    st.integers(0, 800),
)
def test_twins_refuse_the_same_questions(level: int, nodes: bytes, answer_bytes: int) -> None:
    """Node lists come from a peer: anything may be in them."""
    fast, plain = native.Tree(6), reference.Tree(6)
    answer = bytes(answer_bytes)
    assert outcome(lambda: fast.children(level, nodes)) == outcome(lambda: plain.children(level, nodes))
    assert outcome(lambda: fast.differing(level, nodes, answer)) == outcome(
        lambda: plain.differing(level, nodes, answer)
    )


@given(
    st.dictionaries(digests, fingerprints, max_size=12),
    st.dictionaries(digests, fingerprints, max_size=12),
    st.dictionaries(digests, fingerprints, max_size=12),
)
def test_differing_leaves_are_those_whose_keys_differ(
    common: dict[bytes, int], mine: dict[bytes, int], yours: dict[bytes, int]
) -> None:
    trees = [
        (filled(twin, common | mine, 8), filled(twin, common | yours, 8)) for twin in (native, reference)
    ]
    found = [left.differing_leaves(right) for left, right in trees]
    assert found[0] == found[1] == trees[0][1].differing_leaves(trees[0][0])
    assert (found[0] == b"") == (trees[0][0].root() == trees[0][1].root())


@given(st.dictionaries(digests, fingerprints, max_size=30), st.randoms(use_true_random=False))
def test_equal_sets_give_equal_trees_in_any_order(items: dict[bytes, int], rng: random.Random) -> None:
    """Also when some keys had other values on the way."""
    order = list(items.items())
    rng.shuffle(order)
    tree = native.Tree(7)
    for digest, fingerprint in order:
        detour = rng.getrandbits(64)
        tree.update(digest, 0, detour)
        if rng.random() < 0.3:
            tree.root()
        tree.update(digest, detour, fingerprint)
    assert tree.root() == filled(native, items, 7).root()
