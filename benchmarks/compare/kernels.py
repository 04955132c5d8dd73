"""Question: how much faster are the kernels than what a Python program would use instead?

Ring: keys to preference lists of three on 100 nodes with 256 vnodes each, a batch of 1000, against
    uhashring's
``range``. Vector clocks: merge of 3 + 3 entries against a plain loop over dicts. Merkle: building from a
million fingerprints, and ten differences found among a million keys. The contenders alternate, and ratios
are of medians.

Not measured: anything around the kernels; ``benchmarks/micro`` has their details.

    python benchmarks/compare/kernels.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import uhashring
from rich.console import Console
from rich.table import Table

from sadik.causality import VectorClock
from sadik.hashing import MerkleTree, Ring
from sadik.kernels import digest

KEYS, NODES, VNODES, N = 1000, 100, 256, 3
MILLION = 1_000_000


def seconds_each(run: Callable[[], object], operations: int, least_s: float = 0.1) -> float:
    """Seconds per operation, over as many calls as take ``least_s``."""
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < least_s:
        run()
        calls += 1
    return (time.perf_counter() - began) / (calls * operations)


def ring_contenders() -> tuple[Callable[[], object], Callable[[], object]]:
    names = [f"node{number}" for number in range(NODES)]
    ring = Ring.from_nodes(names, vnodes=VNODES)
    keys = [b"user%012d" % number for number in range(KEYS)]
    data = b"".join(keys)
    lengths = np.array([len(key) for key in keys], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
    digests, tokens = bytearray(16 * KEYS), bytearray(8 * KEYS)
    lists = bytearray(4 * N * KEYS)

    def ours() -> None:
        digest.digest_many(KEYS, data, starts, lengths, digests)
        digest.tokens(KEYS, digests, tokens)
        ring.kernel.preference_many(KEYS, tokens, N, lists)

    other = uhashring.HashRing(nodes=names, vnodes=VNODES)
    texts = [key.decode() for key in keys]
    return ours, lambda: [list(other.range(key, size=N)) for key in texts]


def vclock_contenders() -> tuple[Callable[[], object], Callable[[], object]]:
    left, right = {"a": 3, "b": 1, "c": 7}, {"b": 2, "c": 5, "d": 1}
    one, two = VectorClock(left), VectorClock(right)

    def plain() -> dict[str, int]:
        merged = dict(left)
        for actor, counter in right.items():
            if counter > merged.get(actor, 0):
                merged[actor] = counter
        return merged

    assert dict(one.merge(two).items()) == plain()

    def ours() -> None:
        for _ in range(1000):
            one.merge(two)

    def theirs() -> None:
        for _ in range(1000):
            plain()

    return ours, theirs


def merkle_seconds() -> tuple[float, float]:
    """Build of a million fingerprints; ten differences found, hashing of what is dirty included."""
    rng = random.Random(4)
    digests, prints = rng.randbytes(16 * MILLION), rng.randbytes(8 * MILLION)
    began = time.perf_counter()
    left = MerkleTree(leaf_bits=20)
    left.update_many(MILLION, digests, None, prints)
    left.root()
    built = time.perf_counter() - began
    right = MerkleTree(leaf_bits=20)
    right.update_many(MILLION, digests, None, prints)
    right.root()
    changed = rng.sample(range(MILLION), 10)
    for number in changed:
        old = int.from_bytes(prints[8 * number : 8 * number + 8], "little")
        right.update(digests[16 * number : 16 * number + 16], old, old ^ 1)
    began = time.perf_counter()
    found = left.differences(right)
    took = time.perf_counter() - began
    assert sorted(found) == sorted({left.leaf_of(digests[16 * n : 16 * n + 16]) for n in changed})
    return built, took


def main() -> None:
    parser = argparse.ArgumentParser(description="kernels beside what would be used instead")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    table = Table(title=f"medians of {rounds} rounds")
    for column in ("what", "Sadik", "other", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, (ours, theirs), operations in (
        ("key to preference list: uhashring range", ring_contenders(), KEYS),
        ("vector clock merge, 3 + 3: loop over dicts", vclock_contenders(), 1000),
    ):
        pairs = [(seconds_each(ours, operations), seconds_each(theirs, operations)) for _ in range(rounds)]
        mine, other = (statistics.median(pair[side] for pair in pairs) * 1e9 for side in (0, 1))
        ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
        table.add_row(what, f"{mine:,.0f} ns", f"{other:,.0f} ns", f"{ratio:,.1f}")
    merkle = [merkle_seconds() for _ in range(rounds)]
    for what, side in (("Merkle: build from 1 M fingerprints", 0), ("Merkle: 10 differences in 1 M keys", 1)):
        table.add_row(what, f"{statistics.median(run[side] for run in merkle) * 1e3:,.3f} ms", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
