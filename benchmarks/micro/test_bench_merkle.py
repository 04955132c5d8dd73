"""How long does a Merkle tree take to build, to update, and to show ten differences among a million keys?

Measured: building from packed fingerprints (with and without hashing), one update, and ten updates followed
by the full comparison of two trees, hashing included. Sizes: 1024 leaves (8 KB, in the first-level cache) and
2**20 leaves (8 MB, one key a leaf), against hashing the same leaves bottom-up with the blake3 package alone.
Not measured: reading the keys from an engine, computing fingerprints, the network.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from blake3 import blake3

from sadik.kernels.native import merkle as native
from sadik.kernels.reference import merkle as reference

SIZES = pytest.mark.parametrize("leaf_bits", [10, 20])


def items(count: int) -> tuple[int, bytes, bytes]:
    rng = random.Random(4)
    return count, rng.randbytes(16 * count), rng.randbytes(8 * count)


@SIZES
def test_build(benchmark: Any, leaf_bits: int, million: int) -> None:
    count, digests, news = items(million)

    def build() -> bytes:
        tree = native.Tree(leaf_bits)
        tree.update_many(count, digests, None, news)
        return tree.root()

    root = benchmark.pedantic(build, rounds=7, warmup_rounds=1)
    benchmark.extra_info["checksum"] = root.hex()


def test_build_with_the_blake3_package_alone(benchmark: Any, million: int) -> None:
    """The obvious library way, on leaves that are already summed up: every level from below."""
    leaves = random.Random(4).randbytes(8 * million)

    def build() -> bytes:
        level, block = leaves, 256
        while len(level) > 16:
            level = b"".join(
                blake3(level[i : i + block]).digest(length=16) for i in range(0, len(level), block)
            )
            block = 512
        return level

    benchmark.extra_info["checksum"] = benchmark.pedantic(build, rounds=5, warmup_rounds=1).hex()


def test_build_reference(benchmark: Any, million: int) -> None:
    """A hundredth of the size, for the ratio."""
    count, digests, news = items(max(1, million // 100))

    def build() -> bytes:
        tree = reference.Tree(10)
        tree.update_many(count, digests, None, news)
        return tree.root()

    benchmark.extra_info["checksum"] = benchmark.pedantic(build, rounds=3).hex()


@SIZES
def test_update(benchmark: Any, leaf_bits: int) -> None:
    tree, digest = native.Tree(leaf_bits), bytes(range(16))
    benchmark(tree.update, digest, 1, 2)


@SIZES
def test_find_ten_differences(benchmark: Any, leaf_bits: int, million: int) -> None:
    """Ten updates on one side, then all that is stale is hashed and both trees are compared."""
    count, digests, news = items(million)
    ours, theirs = native.Tree(leaf_bits), native.Tree(leaf_bits)
    for tree in (ours, theirs):
        tree.update_many(count, digests, None, news)
        tree.root()
    rng = random.Random(5)

    def change() -> tuple[tuple[()], dict[str, Any]]:
        """Make both sides equal, then ten keys of one side different."""
        for leaf in memoryview(ours.differing_leaves(theirs)).cast("I").tolist():
            digest = leaf_digest(leaf, leaf_bits)
            old = int.from_bytes(theirs.level(theirs.depth)[8 * leaf : 8 * leaf + 8], "little")
            new = int.from_bytes(ours.level(ours.depth)[8 * leaf : 8 * leaf + 8], "little")
            theirs.update(digest, old, new)
        assert ours.root() == theirs.root()
        for key in rng.sample(range(count), 10):
            theirs.update(digests[16 * key : 16 * key + 16], 0, rng.getrandbits(64))
        return (), {}

    found = benchmark.pedantic(lambda: ours.differing_leaves(theirs), setup=change, rounds=30)
    assert 1 <= len(found) // 4 <= 10


def leaf_digest(leaf: int, leaf_bits: int) -> bytes:
    """A digest that falls into ``leaf``."""
    return bytes(8) + (leaf << (64 - leaf_bits)).to_bytes(8, "big")


@pytest.fixture
def million(benchmark: Any) -> int:
    """1 M when benchmarks are measured; small when this file only has to run."""
    return 1_000_000 if benchmark.enabled else 20_000
