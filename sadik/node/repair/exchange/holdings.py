"""What this node holds, as an exchange looks at it: trees, lists of keys, version sets, and the merge of
others'.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sadik.kernels import versions
from sadik.node.buckets import Bucket
from sadik.node.items import Item
from sadik.node.repair.exchange.messages import Listing
from sadik.node.repair.trees import Trees, bucket_of, digest_range
from sadik.storage.engine import DIGEST_BYTES, Engine, Entry

_DIGEST_BITS = 8 * DIGEST_BYTES


class Held(NamedTuple):
    """One key as this node holds it now.

    Attributes:
        name: Empty when nothing is stored, or nothing that can be read.
        stored: Its version set without what everybody may collect; ``b""`` for nothing, None when unreadable.
        listed: Fingerprint of all that is stored, as in trees and listings.
    """

    name: bytes
    stored: bytes | None
    listed: int


class Holdings:
    """One node's side of a comparison.

    Args:
        merge: Stores the merge of each item with what is there; a status of ``kernels.replica.merge_batch``
        for each,
            or another one where it is not stored.
        settle: (name, set) -> what collection would leave of it here and now, ``b""`` for nothing. Without it
        one
            node's collector and another's exchange could bring an old tombstone back and forth for ever.
    """

    def __init__(
        self,
        engine: Engine,
        buckets: Callable[[bytes], Bucket],
        trees: Trees,
        merge: Callable[[Sequence[Item]], bytes],
        settle: Callable[[bytes, bytes], bytes] = lambda name, stored: stored,
    ) -> None:
        self.trees = trees
        self._bits = trees.partition_bits + trees.leaf_bits
        self._width = 1 << trees.leaf_bits
        self.merge = merge
        self.settle = settle
        self._engine = engine
        self._buckets = buckets

    def look(self, digest: bytes) -> Held:
        """One key. A record of a bucket's lost life is nothing."""
        number = int.from_bytes(digest, "big")
        after = (number - 1).to_bytes(DIGEST_BYTES, "big") if number else b""
        for entry in self._engine.scan(after, digest, 1):
            if entry.value is None:
                return Held(b"", None, 0)
            if bucket_of(entry, self._buckets) is not None:
                listed = versions.fingerprint(digest, entry.value)
                return Held(entry.name, self.settle(entry.name, entry.value), listed)
        return Held(b"", b"", 0)

    def list_keys(
        self, n: int, leaves: Sequence[int], after: bytes, keys_max: int, bytes_max: int
    ) -> Listing:
        """A page of the keys of buckets with property ``n`` in some leaves.

        A leaf that a page lists whole also shows whether the tree is right about it; else that is corrected.

        Args:
            leaves: Numbers over all partitions, ascending.
            after: Where to go on behind; empty at first.
            keys_max: Most records to look at and calls of the engine, together; at least 1.
            bytes_max: Most bytes of version sets to look at, but for the last one; at least 1.
        """
        page = _Page(leaves)
        for first, stop in self._runs(n, leaves):
            start, end = digest_range(first, self._bits, stop)
            if end <= after:
                continue
            begun = page.last = max(start, after)
            page.totals.clear()
            whole = False
            while not whole and keys_max > 0 and bytes_max > 0:
                entries = self._engine.scan(page.last, end, keys_max, bytes_max)
                keys_max -= len(entries) + 1
                bytes_max -= sum([len(entry.value or b"") for entry in entries])
                self._add(page, n, entries)
                if not entries:
                    whole, page.last = True, end
            self._check_leaves(n, begun, page)
            if not whole:
                return page.listing()
        page.last = b""
        return page.listing()

    def _runs(self, n: int, leaves: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(first, stop) of the ranges to scan for some leaves, none across partitions.

        Leaves between them that are empty by the trees are scanned along: two calls of the engine for each
        of many leaves that hold a key or none would cost more than the keys do.
        """
        numbers = np.array(leaves, dtype=np.int64)
        partitions = numbers >> self.trees.leaf_bits
        for part in np.split(numbers, np.flatnonzero(np.diff(partitions)) + 1):
            partition, local = int(part[0]) >> self.trees.leaf_bits, part & (self._width - 1)
            if self.trees.is_built(partition):
                filled = np.cumsum(self._sums(n, partition) != 0)
                ends = np.flatnonzero(filled[local[1:] - 1] != filled[local[:-1]])
            else:
                ends = np.flatnonzero(np.diff(local) != 1)
            firsts = part[np.concatenate(([0], ends + 1))]
            stops = part[np.concatenate((ends, [-1]))] + 1
            yield from zip(firsts.tolist(), stops.tolist(), strict=True)

    def _sums(self, n: int, partition: int) -> npt.NDArray[np.uint64]:
        """What the leaves of a partition's tree hold."""
        tree = self.trees.tree(n, partition)
        return np.frombuffer(tree.level(tree.depth), dtype="<u8")

    def _add(self, page: _Page, n: int, entries: Sequence[Entry]) -> None:
        rest = _DIGEST_BITS - self._bits
        for entry in entries:
            page.last = entry.digest
            bucket = bucket_of(entry, self._buckets)
            if bucket is None or bucket.properties.n != n or entry.value is None:
                continue
            fingerprint = versions.fingerprint(entry.digest, entry.value)
            leaf = int.from_bytes(entry.digest, "big") >> rest
            page.totals[leaf] = page.totals.get(leaf, 0) + fingerprint
            if fingerprint and leaf in page.wanted:
                page.digests.append(entry.digest)
                page.prints.append(fingerprint)

    def _check_leaves(self, n: int, begun: bytes, page: _Page) -> None:
        """Compare the tree with what a partition's scan has met behind ``begun``, as far as whole leaves
        go.
        """
        rest = _DIGEST_BITS - self._bits
        first = -(-(int.from_bytes(begun, "big") + bool(begun)) >> rest)
        stop = (int.from_bytes(page.last, "big") + bool(page.last)) >> rest
        partition = first // self._width
        if first >= stop or not self.trees.is_built(partition):
            return
        expected = np.zeros(stop - first, dtype=np.uint64)
        for leaf, total in page.totals.items():
            if first <= leaf < stop:
                expected[leaf - first] = total % (1 << 64)
        local = first % self._width
        held = self._sums(n, partition)[local : local + stop - first]
        for index in np.flatnonzero(held != expected).tolist():
            self.trees.correct(n, partition, local + index, int(expected[index]))


class _Page:
    """A listing in the making.

    Attributes:
        wanted: The leaves to list.
        totals: Sum of the fingerprints that the scan at hand has met, by leaf.
    """

    def __init__(self, leaves: Sequence[int]) -> None:
        self.wanted = frozenset(leaves)
        self.totals: dict[int, int] = {}
        self.digests: list[bytes] = []
        self.prints = array("Q")
        self.last = b""

    def listing(self) -> Listing:
        return Listing(b"".join(self.digests), self.prints.tobytes(), self.last)
