"""What does it cost to find the nodes of a key: hash, ring position, preference list of three?

Measured: batches of 1000 keys on 100 nodes with 256 vnodes each (25600 tokens, 0.3 MB, and 0.8 MB of lists
once all are known), with and without zones; keys that come again (in cache) and keys always new.
Against uhashring's closest call on the same numbers of nodes and vnodes (``range`` of three distinct nodes, a
key at a time, from a string) and the plain twin. A batch's time divided by 1000 is the time of a key.
Not measured: making the packed keys (the protocol parsers do), sending anything anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sadik.hashing import Node, RandomTokens, Ring
from sadik.kernels.native import digest
from sadik.kernels.native import ring as native
from sadik.kernels.reference import ring as reference

COUNT, NODES, VNODES, N = 1000, 100, 256, 3
KEYS = [b"user%012d" % number for number in range(COUNT)]
ZONES = pytest.mark.parametrize("zones", [1, 3])


def make(zones: int = 1) -> Ring:
    return Ring.from_nodes([Node(f"node{i}", zone=str(i % zones)) for i in range(NODES)], VNODES)


def arrays(ring: Ring, zones: int) -> tuple[Any, ...]:
    hosts = np.arange(NODES, dtype=np.uint32)
    return ring.tokens, ring.owners, hosts, hosts % zones


def lookup(ring: Ring) -> tuple[Callable[[], None], Any]:
    """Packed keys to preference lists, as the data path does it: three calls for the batch."""
    data = b"".join(KEYS)
    lengths = np.full(COUNT, len(KEYS[0]), np.int64)
    starts = np.arange(COUNT, dtype=np.int64) * len(KEYS[0])
    digests, tokens = bytearray(16 * COUNT), bytearray(8 * COUNT)
    lists = np.empty((COUNT, N), dtype=np.uint32)

    def run() -> None:
        digest.digest_many(COUNT, data, starts, lengths, digests)
        digest.tokens(COUNT, digests, tokens)
        ring.kernel.preference_many(COUNT, tokens, N, lists)

    return run, lists


@ZONES
def test_keys_to_lists(benchmark: Any, zones: int) -> None:
    run, lists = lookup(make(zones))
    benchmark(run)
    benchmark.extra_info["checksum"] = int(lists.astype(np.uint64).sum())


def test_keys_to_lists_by_uhashring(benchmark: Any) -> None:
    uhashring = pytest.importorskip("uhashring")
    ring = uhashring.HashRing(nodes=[f"node{i}" for i in range(NODES)], vnodes=VNODES)
    keys = [key.decode() for key in KEYS]
    lists = benchmark.pedantic(
        lambda: [list(ring.range(key, size=N)) for key in keys], rounds=10, warmup_rounds=1
    )
    benchmark.extra_info["checksum"] = Counter(len(nodes) for nodes in lists)[N]


def test_names_of_one_key(benchmark: Any) -> None:
    """The call people make: a key to a tuple of names."""
    ring = make()
    names = benchmark(ring.preference_list, KEYS[0], N)
    benchmark.extra_info["checksum"] = " ".join(names)


@ZONES
def test_new_tokens_to_lists(benchmark: Any, zones: int) -> None:
    """Every batch meets other tokens; each list has been walked before, and is seldom in cache."""
    ring = make(zones)
    ring.kernel.preference_many(len(ring.tokens), ring.tokens, N, np.empty((len(ring.tokens), N), np.uint32))
    rng = np.random.default_rng(6)
    out = np.empty((COUNT, N), dtype=np.uint32)

    def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (COUNT, rng.integers(0, 2**64, COUNT, dtype=np.uint64), N, out), {}

    benchmark.pedantic(ring.kernel.preference_many, setup=fresh, rounds=500)
    benchmark.extra_info["checksum"] = int(out.astype(np.uint64).sum())


@ZONES
def test_first_lookup_of_every_position(benchmark: Any, zones: int) -> None:
    """Walking 25600 lists of eight nodes, which happens once a ring."""
    ring = make(zones)
    given = arrays(ring, zones)
    out = np.empty((len(ring.tokens), N), dtype=np.uint32)

    def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (native.Ring(*given),), {}

    def walk(kernel: native.Ring) -> None:
        kernel.preference_many(len(ring.tokens), ring.tokens, N, out)

    benchmark.pedantic(walk, setup=fresh, rounds=10)
    benchmark.extra_info["checksum"] = int(out.astype(np.uint64).sum())


def test_lists_with_nodes_down(benchmark: Any) -> None:
    """Every tenth node is down."""
    ring = make()
    tokens = np.random.default_rng(7).integers(0, 2**64, COUNT, dtype=np.uint64)
    out = np.empty((COUNT, N), dtype=np.uint32)
    up = bytes(i % 10 != 0 for i in range(NODES))
    benchmark(ring.kernel.preference_many, COUNT, tokens, N, out, up)
    benchmark.extra_info["checksum"] = int(out.astype(np.uint64).sum())


def test_owners(benchmark: Any) -> None:
    ring = make()
    tokens = np.random.default_rng(7).integers(0, 2**64, COUNT, dtype=np.uint64)
    out = np.empty(COUNT, dtype=np.uint32)
    benchmark(ring.kernel.owner_many, COUNT, tokens, out)
    benchmark.extra_info["checksum"] = int(out.astype(np.uint64).sum())


def test_lists_by_the_reference(benchmark: Any) -> None:
    """Ten keys: the plain twin goes round the whole ring for each."""
    ring = reference.Ring(*arrays(make(), 1))
    tokens = np.random.default_rng(7).integers(0, 2**64, 10, dtype=np.uint64)
    out = np.empty((10, N), dtype=np.uint32)
    benchmark.pedantic(ring.preference_many, args=(10, tokens, N, out), rounds=3)
    benchmark.extra_info["checksum"] = int(out.astype(np.uint64).sum())


def test_build_with_names(benchmark: Any) -> None:
    nodes = [Node(f"node{i}") for i in range(NODES)]
    ring = benchmark(Ring.build, nodes, RandomTokens(VNODES))
    benchmark.extra_info["checksum"] = hex(int(ring.tokens[0]))
