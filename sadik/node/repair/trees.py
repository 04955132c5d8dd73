"""The Merkle trees of what this node stores: built by a scan, kept up by every write.

Replicas are compared over the same keys, so keys are told apart by the N of their bucket: two nodes may
both be primaries of a partition for N=3 and only one of them for N=2. There is a forest for each N that any
bucket has. All forests are built by the same scan and stand at the same place of it: so a partition is
built for all N or for none.

Nothing of this is on disk: after a start, an emptied bucket or an unreadable record the trees are built
anew, in steps between which writes go on. What a wrong tree costs is a comparison; it can never make two
replicas look equal and stay so, since ``correct`` mends each leaf that a comparison of its keys finds
wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sadik.kernels import merkle, versions
from sadik.kernels.buffers import Buffer
from sadik.node.buckets import Bucket
from sadik.storage.engine import DIGEST_BYTES, Engine, Entry

TREE_BITS_MAX: Final = 20
"""log2 of the leaves of all partitions together: one leaf a key at 1 M keys, 9 MB of memory. With more keys a
differing leaf names several of them, which a comparison then lists.
"""
LEAF_BITS_MAX: Final = 10
LEAF_BITS_MIN: Final = 5

_PAGE_KEYS: Final = 256
_PAGE_BYTES: Final = 4 * 1024 * 1024
_DIGEST_BITS: Final = 8 * DIGEST_BYTES


def leaf_bits_for(partition_bits: int) -> int:
    """log2 of the leaves of a partition. Every node must reckon the same, or trees cannot be compared."""
    return max(LEAF_BITS_MIN, min(LEAF_BITS_MAX, TREE_BITS_MAX - partition_bits))


def digest_range(number: int, bits: int, stop_number: int | None = None) -> tuple[bytes, bytes]:
    """(after, last) of the digests that begin with the ``bits`` bits of ``number``, or of all from
    ``number`` up to and without ``stop_number``: greater than ``after`` (empty: from the very first) and
    not above ``last``.
    """
    rest = _DIGEST_BITS - bits
    first = number << rest
    stop = (number + 1 if stop_number is None else stop_number) << rest
    after = (first - 1).to_bytes(DIGEST_BYTES, "big") if first else b""
    return after, (stop - 1).to_bytes(DIGEST_BYTES, "big")


def bucket_of(entry: Entry, buckets: Callable[[bytes], Bucket]) -> Bucket | None:
    """The bucket that a readable entry belongs to; None when it is unreadable or of a life that the bucket
    has lost.
    """
    if entry.value is None or not entry.name:
        return None
    bucket = buckets(entry.name[1 : 1 + entry.name[0]])
    return bucket if bucket.space == entry.space else None


@dataclass(frozen=True, slots=True)
class TreeStatistics:
    """A snapshot. ``rebuilds``, ``corrected`` (leaves) and ``unreadable`` (records that builds met) count
    since the start; ``built`` of ``partitions`` can be compared now.
    """

    partitions: int
    built: int
    rebuilds: int
    corrected: int
    unreadable: int


class Trees:
    """All Merkle trees of one node.

    Args:
        partition_bits: log2 of the cluster's partitions.
        page_keys: Most keys that a step of building looks at.
    """

    def __init__(self, partition_bits: int, *, page_keys: int = _PAGE_KEYS) -> None:
        self._page_keys = page_keys
        self.partition_bits = partition_bits
        self.leaf_bits = leaf_bits_for(partition_bits)
        self.partitions = 1 << partition_bits
        self._forests: dict[int, merkle.Forest] = {}
        self._built = bytearray(self.partitions)
        # The scan goes through partitions up to _stop. It is in _at, which every forest has begun, and has
        # given what is not above the digest _after. With _at == _stop there is none.
        self._at = 0
        self._stop = 0
        self._after = b""
        self._rebuilds = 0
        self._corrected = 0
        self._unreadable = 0

    def update(self, n: int, count: int, digests: Buffer, before: Buffer, after: Buffer) -> None:
        """A batch of writes in buckets of property ``n``; called for every one, in the turn in which it was
        stored.

        Args:
            digests: ``16 * count`` bytes. before, after: Fingerprints, uint64 each; a digest may occur
            several times.
        Raises:
            ValueError: A buffer is too short.
        """
        forest = self._forests.get(n)
        if forest is None:
            forest = self._add_forest(n)
        forest.update_many(count, digests, before, after)

    def rebuild(self) -> None:
        """What is stored has changed in other ways than by ``update``: all trees are built anew."""
        self._forests.clear()
        self._built = bytearray(self.partitions)
        self._at = self._stop = 0
        self._rebuilds += 1

    @property
    def counts(self) -> list[int]:
        """Each N that has trees, ascending."""
        return sorted(self._forests)

    def is_built(self, partition: int) -> bool:
        return bool(self._built[partition])

    def roots(self, n: int, partitions: Buffer) -> bytes:
        """The root of each partition (uint32 each) for ``n``, 16 bytes; zeros where it is not built."""
        return self._forest(n).roots(partitions)

    def tree(self, n: int, partition: int) -> merkle.Tree:
        """The tree of a partition that is built, for reading, until the next step of the event loop."""
        return self._forest(n).tree(partition)

    def correct(self, n: int, partition: int, leaf: int, total: int) -> bool:
        """Make a leaf of a built partition what a scan of its keys has just added up to; True when it was
        not.

        Bytes that the trees did not hear of are the reason: of a bucket's lost life, say, which writes
        still see as what was there before.
        """
        held = self.tree(n, partition).leaf_sum(leaf)
        if held == total:
            return False
        _, digest = digest_range((partition << self.leaf_bits) | leaf, self.partition_bits + self.leaf_bits)
        self.update(n, 1, digest, array("Q", [held]), array("Q", [total]))
        self._corrected += 1
        return True

    def build_step(self, engine: Engine, buckets: Callable[[bytes], Bucket]) -> bool:
        """Scan one page of what is not built; False when all is.

        Raises:
            StorageError: The engine refused; the next step goes on from the same place.
        """
        if self._at == self._stop and not self._begin():
            return False
        # Engines end a page early; only an empty one is the end.
        _, last = digest_range(self._at, self.partition_bits, self._stop)
        page = engine.scan(self._after, last, self._page_keys, _PAGE_BYTES)
        if page:
            self._count(page, buckets)
        else:
            self._advance(self._stop)
        return True

    def statistics(self) -> TreeStatistics:
        return TreeStatistics(
            self.partitions, self._built.count(1), self._rebuilds, self._corrected, self._unreadable
        )

    def _forest(self, n: int) -> merkle.Forest:
        return self._forests.get(n) or self._add_forest(n)

    def _add_forest(self, n: int) -> merkle.Forest:
        """A forest that stands where all stand: so far no key of this N was met, or it would be there."""
        forest = self._forests[n] = merkle.Forest(self.partition_bits, self.leaf_bits)
        for partition in range(self.partitions):
            if self._built[partition]:
                forest.begin(partition)
                forest.finish(partition)
        if self._at < self._stop:
            forest.begin(self._at)
            if self._after and self._partition_of(self._after) == self._at:
                forest.extend(self._at, self._after, 0, b"", b"")
        return forest

    def _begin(self) -> bool:
        """Start at the first run of partitions that are not built; False when there is none."""
        first = self._built.find(0)
        if first < 0:
            return False
        stop = self._built.find(1, first)
        self._at = first
        self._stop = self.partitions if stop < 0 else stop
        self._after, _ = digest_range(first, self.partition_bits)
        for forest in self._forests.values():
            forest.begin(first)
        return True

    def _count(self, page: list[Entry], buckets: Callable[[bytes], Bucket]) -> None:
        """Count a page of the scan, which may go through many partitions."""
        last = page[-1].digest
        first = 0
        while first < len(page):
            partition = self._partition_of(page[first].digest)
            stop = first + 1
            while stop < len(page) and self._partition_of(page[stop].digest) == partition:
                stop += 1
            self._advance(partition)
            self._extend(partition, page[first:stop], buckets)
            first = stop
        self._after = last

    def _extend(self, partition: int, entries: list[Entry], buckets: Callable[[bytes], Bucket]) -> None:
        digests: dict[int, list[bytes]] = {n: [] for n in self._forests}
        prints: dict[int, array[int]] = {n: array("Q") for n in self._forests}
        for entry in entries:
            if entry.value is None:
                self._unreadable += 1
                continue
            bucket = bucket_of(entry, buckets)
            if bucket is None:
                continue
            n = bucket.properties.n
            if n not in digests:
                self._add_forest(n)
                digests[n], prints[n] = [], array("Q")
            digests[n].append(entry.digest)
            prints[n].append(versions.fingerprint(entry.digest, entry.value))
        for n, forest in self._forests.items():
            forest.extend(partition, entries[-1].digest, len(prints[n]), b"".join(digests[n]), prints[n])

    def _advance(self, partition: int) -> None:
        """The scan has seen the end of all partitions below ``partition``, and goes on there."""
        for forest in self._forests.values():
            for done in range(self._at, partition):
                forest.finish(done)
                if done + 1 < self._stop:
                    forest.begin(done + 1)
        self._built[self._at : partition] = b"\1" * (partition - self._at)
        self._at = partition

    def _partition_of(self, digest: bytes) -> int:
        return int.from_bytes(digest, "big") >> (_DIGEST_BITS - self.partition_bits)
