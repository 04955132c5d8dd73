"""Plain twin of the merkle kernel: a list of leaves, and every inner node hashed anew at each reading; a
forest is a dict of such trees, with the greatest digest that each one counts.
"""

from __future__ import annotations

import struct
from typing import Final

from blake3 import blake3

from sadik.kernels.buffers import Buffer

FANOUT: Final = 32
HASH_BYTES: Final = 16
LEAF_BYTES: Final = 8
LEAF_BITS_MAX: Final = 24

_UINT64_SPAN = 1 << 64


class Tree:
    def __init__(self, leaf_bits: int = 10, skip_bits: int = 64) -> None:
        if not 1 <= leaf_bits <= LEAF_BITS_MAX:
            raise ValueError("leaf_bits")
        if not 0 <= skip_bits <= 128 - leaf_bits:
            raise ValueError("skip_bits")
        self._leaf_bits = leaf_bits
        self._skip_bits = skip_bits
        self._leaves = [0] * 2**leaf_bits

    @property
    def leaf_bits(self) -> int:
        return self._leaf_bits

    @property
    def skip_bits(self) -> int:
        return self._skip_bits

    @property
    def depth(self) -> int:
        return len(self._levels()) - 1

    def width(self, level: int) -> int:
        return len(self._nodes(level))

    def leaf_of(self, digest: Buffer) -> int:
        raw = bytes(digest)
        if len(raw) != 16:
            raise ValueError("digest")
        bits = f"{int.from_bytes(raw, 'big'):0128b}"
        return int(bits[self._skip_bits : self._skip_bits + self._leaf_bits], 2)

    def leaf_sum(self, leaf: int) -> int:
        if not 0 <= leaf < len(self._leaves):
            raise ValueError("leaf")
        return self._leaves[leaf]

    def update(self, digest: Buffer, old: int, new: int) -> None:
        for fingerprint in (old, new):
            if not 0 <= fingerprint < _UINT64_SPAN:
                raise OverflowError("fingerprint")
        leaf = self.leaf_of(digest)
        self._leaves[leaf] = (self._leaves[leaf] - old + new) % _UINT64_SPAN

    def update_many(self, count: int, digests: Buffer, olds: Buffer | None, news: Buffer) -> None:
        if count < 0:
            raise ValueError("count")
        raw_digests = bytes(digests)
        raw_news = bytes(news)
        raw_olds = bytes(8 * count) if olds is None else bytes(olds)
        if len(raw_digests) < 16 * count or len(raw_olds) < 8 * count or len(raw_news) < 8 * count:
            raise ValueError("a buffer is too short")
        for i in range(count):
            (old,) = struct.unpack_from("<Q", raw_olds, 8 * i)
            (new,) = struct.unpack_from("<Q", raw_news, 8 * i)
            self.update(raw_digests[16 * i : 16 * i + 16], old, new)

    def clear(self) -> None:
        self._leaves = [0] * 2**self._leaf_bits

    def root(self) -> bytes:
        return self._nodes(0)[0]

    def level(self, level: int) -> bytes:
        return b"".join(self._nodes(level))

    def children(self, level: int, nodes: Buffer) -> bytes:
        below = self._children_level(level)
        fan = len(below) // self.width(level)
        return b"".join(
            child for node in self._numbers(level, nodes) for child in below[node * fan : (node + 1) * fan]
        )

    def differing(self, level: int, nodes: Buffer, theirs: Buffer) -> bytes:
        below = self._children_level(level)
        fan = len(below) // self.width(level)
        numbers = [node * fan + i for node in self._numbers(level, nodes) for i in range(fan)]
        size = len(below[0])
        their_bytes = bytes(theirs)
        if len(their_bytes) != size * len(numbers):
            raise ValueError("theirs")
        answer = [their_bytes[size * i : size * (i + 1)] for i in range(len(numbers))]
        differing = [
            number for number, their_hash in zip(numbers, answer, strict=True) if below[number] != their_hash
        ]
        return struct.pack(f"<{len(differing)}I", *differing)

    def differing_leaves(self, other: Tree) -> bytes:
        if not isinstance(other, Tree):
            raise TypeError("other")
        if (other.leaf_bits, other.skip_bits) != (self.leaf_bits, self.skip_bits):
            raise ValueError("trees of different shapes")
        differing = [i for i in range(len(self._leaves)) if self._leaves[i] != other._leaves[i]]
        return struct.pack(f"<{len(differing)}I", *differing)

    def _levels(self) -> list[list[bytes]]:
        """Every level, the root's first."""
        levels = [[struct.pack("<Q", leaf) for leaf in self._leaves]]
        while len(levels[0]) > 1:
            below = levels[0]
            blocks = [below[i : i + FANOUT] for i in range(0, len(below), FANOUT)]
            levels.insert(0, [blake3(b"".join(block)).digest(length=HASH_BYTES) for block in blocks])
        return levels

    def _nodes(self, level: int) -> list[bytes]:
        levels = self._levels()
        if not 0 <= level < len(levels):
            raise ValueError("level")
        return levels[level]

    def _children_level(self, level: int) -> list[bytes]:
        levels = self._levels()
        if not 0 <= level < len(levels) - 1:
            raise ValueError("level")
        return levels[level + 1]

    def _numbers(self, level: int, nodes: Buffer) -> list[int]:
        raw = bytes(nodes)
        if len(raw) % 4:
            raise ValueError("nodes")
        numbers = list(struct.unpack(f"<{len(raw) // 4}I", raw))
        if any(number >= self.width(level) for number in numbers):
            raise ValueError("nodes")
        return numbers


_FIRST = b""
_LAST = b"\xff" * 16


class Forest:
    def __init__(self, partition_bits: int, leaf_bits: int = 10) -> None:
        if not 0 <= partition_bits <= 16:
            raise ValueError("partition_bits")
        self._empty = Tree(leaf_bits, partition_bits)
        self._partition_bits = partition_bits
        self._leaf_bits = leaf_bits
        self._trees: dict[int, Tree] = {}
        # Digests up to this one count; below every digest where a scan has given nothing yet. Without: not
        # built.
        self._counted: dict[int, bytes] = {}
        self._built: set[int] = set()

    @property
    def partition_bits(self) -> int:
        return self._partition_bits

    @property
    def leaf_bits(self) -> int:
        return self._leaf_bits

    def update_many(self, count: int, digests: Buffer, befores: Buffer, afters: Buffer) -> None:
        for digest, before, after in zip(
            _split(count, digests, 16), _split(count, befores, 8), _split(count, afters, 8), strict=True
        ):
            partition = self._partition_of(digest)
            if before != after and partition in self._counted and digest <= self._counted[partition]:
                old, new = int.from_bytes(before, "little"), int.from_bytes(after, "little")
                self._own_tree(partition).update(digest, old, new)

    def begin(self, partition: int) -> None:
        self.forget(partition)
        self._counted[partition] = _FIRST

    def extend(self, partition: int, last: Buffer, count: int, digests: Buffer, fingerprints: Buffer) -> None:
        self._check_being_built(partition)
        end = bytes(last)
        if len(end) != 16 or self._partition_of(end) != partition or end <= self._counted[partition]:
            raise ValueError("last")
        page = list(zip(_split(count, digests, 16), _split(count, fingerprints, 8), strict=True))
        for digest, _ in page:
            if self._partition_of(digest) != partition or not self._counted[partition] < digest <= end:
                raise ValueError("digests")
        for digest, fingerprint in page:
            self._own_tree(partition).update(digest, 0, int.from_bytes(fingerprint, "little"))
        self._counted[partition] = end

    def finish(self, partition: int) -> None:
        self._check_being_built(partition)
        self._counted[partition] = _LAST
        self._built.add(partition)

    def forget(self, partition: int) -> None:
        self._check(partition)
        self._trees.pop(partition, None)
        self._counted.pop(partition, None)
        self._built.discard(partition)

    def forget_all(self) -> None:
        for partition in range(2**self._partition_bits):
            self.forget(partition)

    def is_built(self, partition: int) -> bool:
        self._check(partition)
        return partition in self._built

    def tree(self, partition: int) -> Tree:
        self._check(partition)
        return self._trees.get(partition, self._empty)

    def roots(self, partitions: Buffer) -> bytes:
        raw = bytes(partitions)
        if len(raw) % 4:
            raise ValueError("partitions")
        numbers = struct.unpack(f"<{len(raw) // 4}I", raw)
        for number in numbers:
            self._check(number)
        return b"".join(
            self.tree(number).root() if number in self._built else bytes(HASH_BYTES) for number in numbers
        )

    def _own_tree(self, partition: int) -> Tree:
        if partition not in self._trees:
            self._trees[partition] = Tree(self._leaf_bits, self._partition_bits)
        return self._trees[partition]

    def _partition_of(self, digest: bytes) -> int:
        return int.from_bytes(digest, "big") >> (128 - self._partition_bits)

    def _check(self, partition: int) -> None:
        if not 0 <= partition < 2**self._partition_bits:
            raise ValueError("partition")

    def _check_being_built(self, partition: int) -> None:
        self._check(partition)
        if partition not in self._counted or partition in self._built:
            raise ValueError("not being built")


def _split(count: int, packed: Buffer, size: int) -> list[bytes]:
    """The first ``count`` elements of a packed array."""
    raw = bytes(packed)
    if count < 0 or len(raw) < size * count:
        raise ValueError("count")
    return [raw[size * i : size * (i + 1)] for i in range(count)]
