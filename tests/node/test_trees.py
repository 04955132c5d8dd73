"""The trees say what is stored: built by scans, kept up by writes, in whatever order the two come."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.kernels import digest, merkle, versions
from sadik.kernels.buffers import Buffer
from sadik.node.buckets import BucketProperties, BucketRegistry
from sadik.node.repair.trees import Trees, digest_range, leaf_bits_for
from sadik.storage.engine import VALUE_BYTES_MAX, Entry
from sadik.storage.memory_engine import MemoryEngine

BITS = 3
ALL = array("I", range(1 << BITS))


class Disk(MemoryEngine):
    """A memory engine in which some records cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.rotten: set[bytes] = set()

    def scan(self, after: bytes, stop: bytes, count: int, bytes_max: int = VALUE_BYTES_MAX) -> list[Entry]:
        found = super().scan(after, stop, count, bytes_max)
        return [
            entry._replace(name=b"", value=None) if entry.digest in self.rotten else entry for entry in found
        ]


class Store:
    """An engine with buckets "two" (n=2) and "three" (n=3), and the trees of it."""

    def __init__(self, page_keys: int = 3) -> None:
        self.engine = Disk()
        self.buckets = BucketRegistry(self.engine)
        for name, n in ((b"two", 2), (b"three", 3)):
            self.buckets.for_write(name).properties = BucketProperties(n=n)
        self.trees = Trees(BITS, page_keys=page_keys)
        self.page_keys = page_keys

    def write(self, bucket: bytes, key: int, stamp: int, *, seen_only: bool = False) -> None:
        """Store one value instead of what was there; with ``seen_only`` only the memory of it."""
        name = digest.address_name(bucket, b"%d" % key)
        address = digest.digest(name)
        values = [] if seen_only else [versions.Value(7, stamp, 0, 0, -1, b"", b"x")]
        new = versions.encode([(7, stamp)], values)
        before = versions.fingerprint(address, self.engine.get(address) or b"")
        space = self.buckets.for_write(bucket).space
        self.engine.put(address, name, new, space)
        self._tell(bucket, address, before, versions.fingerprint(address, new))

    def remove(self, bucket: bytes, key: int) -> None:
        address = digest.digest(digest.address_name(bucket, b"%d" % key))
        before = versions.fingerprint(address, self.engine.get(address) or b"")
        self.engine.remove(address)
        self._tell(bucket, address, before, 0)

    def _tell(self, bucket: bytes, address: bytes, before: int, after: int) -> None:
        n = self.buckets.get(bucket).properties.n
        self.trees.update(n, 1, address, array("Q", [before]), array("Q", [after]))

    def step(self) -> bool:
        return self.trees.build_step(self.engine, self.buckets.get)

    def build(self) -> None:
        while self.step():
            pass

    def roots(self) -> tuple[bytes, bytes]:
        return self.trees.roots(2, ALL), self.trees.roots(3, ALL)

    def rebuilt_roots(self) -> tuple[bytes, bytes]:
        """What trees would say that are built from what is stored now."""
        trees = Trees(BITS)
        while trees.build_step(self.engine, self.buckets.get):
            pass
        return trees.roots(2, ALL), trees.roots(3, ALL)


events = st.one_of(
    st.tuples(st.just("write"), st.sampled_from([b"two", b"three"]), st.integers(0, 30)),
    st.tuples(st.just("remove"), st.sampled_from([b"two", b"three"]), st.integers(0, 30)),
    st.tuples(st.just("step"), st.just(b""), st.just(0)),
    st.tuples(st.just("rebuild"), st.just(b""), st.just(0)),
)


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(events, max_size=60))
def test_incremental_root_equals_a_rebuilt_one(
    page_keys: int, story: Sequence[tuple[str, bytes, int]]
) -> None:
    """Whatever the interleaving of writes and build steps, and of starts anew (FACTS C3)."""
    store = Store(page_keys)
    for stamp, (kind, bucket, key) in enumerate(story, start=1):
        if kind == "write":
            store.write(bucket, key, stamp, seen_only=stamp % 5 == 0)
        elif kind == "remove":
            store.remove(bucket, key)
        elif kind == "step":
            store.step()
        else:
            store.trees.rebuild()
    store.build()
    assert store.roots() == store.rebuilt_roots()
    assert not any(store.roots()[0][16 * i : 16 * i + 16] == bytes(16) for i in ALL)


def test_only_built_partitions_have_a_root() -> None:
    """What is half built must not be compared: it would look like a replica that lost its keys."""
    store = Store(page_keys=1)
    for key in range(40):
        store.write(b"three", key, key + 1)
    seen = 0
    while store.step():
        roots = store.trees.roots(3, ALL)
        built = [bool(any(roots[16 * i : 16 * i + 16])) for i in ALL]
        assert built == [store.trees.is_built(i) for i in ALL]
        assert sum(built) >= seen
        seen = sum(built)
    assert seen == store.trees.statistics().built == 1 << BITS


def test_step_looks_at_one_page() -> None:
    """Requests come between the steps."""
    store = Store(page_keys=7)
    for key in range(70):
        store.write(b"three", key, key + 1)
    steps = 0
    while store.step():
        steps += 1
    assert steps == 11


def test_keys_of_another_n_have_trees_of_their_own() -> None:
    """Two nodes that share a partition for n=3 need not share it for n=2."""
    store = Store()
    store.build()
    blank = store.roots()
    store.write(b"two", 1, 5)
    assert store.roots()[0] != blank[0]
    assert store.roots()[1] == blank[1]
    assert store.trees.counts == [2, 3]


def test_n_that_appears_while_trees_are_built_stands_where_they_stand() -> None:
    store = Store(page_keys=2)
    for key in range(20):
        store.write(b"three", key, key + 1)
    for _ in range(4):
        store.step()
    for key in range(20):
        store.write(b"two", key, key + 1)
    store.build()
    assert store.roots() == store.rebuilt_roots()


def test_retired_and_unreadable_records_are_not_counted() -> None:
    """A flushed bucket's records wait for compaction; an unreadable one is reported, never guessed."""
    store = Store()
    for key in range(20):
        store.write(b"three", key, key + 1)
    store.engine.retire(store.buckets.get(b"three").space)
    store.buckets.get(b"three").space += 1
    store.write(b"two", 1, 1)
    store.write(b"two", 2, 2)
    store.trees.rebuild()
    store.engine.rotten = {digest.digest(digest.address_name(b"two", b"1"))}
    store.build()
    expected = merkle.Tree(leaf_bits_for(BITS), BITS)
    address = digest.digest(digest.address_name(b"two", b"2"))
    value = store.engine.get(address) or b""
    expected.update(address, 0, versions.fingerprint(address, value))
    assert store.trees.roots(2, array("I", [address[0] >> 5])) == expected.root()
    assert store.trees.roots(3, ALL) == merkle.Tree(leaf_bits_for(BITS), BITS).root() * (1 << BITS)
    assert store.trees.statistics().unreadable == 1


def test_wrong_leaf_is_corrected_by_what_its_keys_add_up_to() -> None:
    store = Store()
    store.build()
    store.write(b"three", 1, 1)
    roots = store.roots()
    address = digest.digest(digest.address_name(b"three", b"1"))
    partition, leaf = address[0] >> 5, store.trees.tree(3, address[0] >> 5).leaf_of(address)
    fingerprint = versions.fingerprint(address, store.engine.get(address) or b"")
    assert not store.trees.correct(3, partition, leaf, fingerprint)
    store.trees.update(3, 1, address, array("Q", [77]), array("Q", [0]))
    assert store.roots() != roots
    assert store.trees.correct(3, partition, leaf, fingerprint)
    assert store.roots() == roots
    assert store.trees.statistics().corrected == 1


def test_shape_follows_from_the_partitions_alone() -> None:
    """Peers compare trees of one shape, whatever each of them holds; leaves together stay near a million."""
    assert [leaf_bits_for(bits) for bits in (0, 3, 10, 14, 16)] == [10, 10, 10, 6, 5]


def test_ranges_of_digests_meet_without_gap() -> None:
    """(after, last]: the end of one range is where the next one starts."""
    assert digest_range(0, 3) == (b"", b"\x1f" + b"\xff" * 15)
    assert digest_range(1, 3) == (b"\x1f" + b"\xff" * 15, b"\x3f" + b"\xff" * 15)
    assert digest_range(7, 3)[1] == b"\xff" * 16
    assert digest_range(1, 3, 8) == (digest_range(1, 3)[0], b"\xff" * 16)
    assert digest_range(0, 0) == (b"", b"\xff" * 16)


def test_short_buffers_are_refused() -> None:
    trees = Trees(BITS)
    short: Any = b""
    cases: list[tuple[Buffer, Buffer]] = [(short, bytes(8)), (bytes(8), short)]
    for before, after in cases:
        try:
            trees.update(3, 1, bytes(16), before, after)
        except ValueError:
            continue
        raise AssertionError("not refused")
