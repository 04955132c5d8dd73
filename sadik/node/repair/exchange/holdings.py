"""What this node holds, as an exchange looks at it: trees, lists of keys, version sets, and the merge of
others'.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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
        page = _Page()
        for first, stop in _runs(leaves):
            start, end = digest_range(first, self._bits, stop)
            if end <= after:
                continue
            begun = page.last = max(start, after)
            begun_at = len(page.digests)
            whole = False
            while not whole and keys_max > 0 and bytes_max > 0:
                entries = self._engine.scan(page.last, end, keys_max, bytes_max)
                keys_max -= len(entries) + 1
                bytes_max -= sum([len(entry.value or b"") for entry in entries])
                self._add(page, n, entries)
                if not entries:
                    whole, page.last = True, end
            self._check_leaves(n, begun, page, begun_at)
            if not whole:
                return page.listing()
        page.last = b""
        return page.listing()

    @property
    def _bits(self) -> int:
        return self.trees.partition_bits + self.trees.leaf_bits

    def _add(self, page: _Page, n: int, entries: Sequence[Entry]) -> None:
        for entry in entries:
            page.last = entry.digest
            bucket = bucket_of(entry, self._buckets)
            if bucket is None or bucket.properties.n != n or entry.value is None:
                continue
            fingerprint = versions.fingerprint(entry.digest, entry.value)
            if fingerprint:
                page.digests.append(entry.digest)
                page.prints.append(fingerprint)

    def _check_leaves(self, n: int, begun: bytes, page: _Page, begun_at: int) -> None:
        """Compare the trees with what was listed behind ``begun``, as far as whole leaves were."""
        rest = _DIGEST_BITS - self._bits
        first = -(-(int.from_bytes(begun, "big") + bool(begun)) >> rest)
        stop = (int.from_bytes(page.last, "big") + bool(page.last)) >> rest
        totals: dict[int, int] = {}
        for digest, fingerprint in zip(page.digests[begun_at:], page.prints[begun_at:], strict=True):
            leaf = int.from_bytes(digest, "big") >> rest
            totals[leaf] = totals.get(leaf, 0) + fingerprint
        for number in range(first, stop):
            partition, leaf = divmod(number, 1 << self.trees.leaf_bits)
            if self.trees.is_built(partition):
                self.trees.correct(n, partition, leaf, totals.get(number, 0) % (1 << 64))


class _Page:
    """A listing in the making."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.prints = array("Q")
        self.last = b""

    def listing(self) -> Listing:
        return Listing(b"".join(self.digests), self.prints.tobytes(), self.last)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, stop) of the unbroken runs in ascending numbers."""
    first = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[first], numbers[index - 1] + 1
            first = index
