"""Merkle trees over the keys of partitions: which keys two replicas hold differently, found by comparing
a few hashes.

A *leaf* is the sum modulo 2**64 of the fingerprints of the keys that fall into it; a key falls into the leaf
that ``leaf_bits`` bits of its digest name. Equal sets give equal trees whatever the order, and a change is
one subtraction and one addition. Not XOR: a key counted twice by mistake would vanish from an XOR, and anyone
who may choose fingerprints solves 64 linear equations to make two sets look equal.

Levels are counted from the root, which is level 0; leaves are level ``depth``. An inner node has 32 children
(the root may have fewer) and is the first 16 bytes of BLAKE3 over its children, one after another: 16 bytes
each, or 8 (little-endian) where the children are leaves. So a node is at most half a BLAKE3 chunk, and 1024
leaves are compared in two round trips. Inner nodes are hashed when they are read, and only those above a leaf
that changed since.

Size: 8 bytes a leaf and half a byte for what lies above it. About one key a leaf is a good choice: a
differing leaf then names a differing key. The default of 1024 leaves suits 1 M keys on 1024 partitions; 1 M
keys in one tree want ``leaf_bits=20``.

Node numbers travel in uint32 arrays, as raw little-endian bytes. Source: Dynamo 4.7; the additive leaves
after Riak's Tictac trees.
"""

from typing import Final

from sadik.kernels.buffers import Buffer

FANOUT: Final[int]
"""32 children to an inner node."""
HASH_BYTES: Final[int]
"""16 bytes to an inner node."""
LEAF_BYTES: Final[int]
"""8 bytes to a leaf."""
LEAF_BITS_MAX: Final[int]
"""24, which is 16 M leaves and 143 MB."""

class Tree:
    """The tree of one set of (digest, fingerprint).

    Args:
        leaf_bits: The tree has ``2**leaf_bits`` leaves; 1 to LEAF_BITS_MAX.
        skip_bits: Leading bits of a digest that the leaf's number leaves out, 0 to 128 - ``leaf_bits``. With
            the bits of the partition number here, a leaf is one unbroken range of digests, which engines scan
            cheaply. The default, 64, takes the low half, which spreads keys evenly whatever their tokens are.
    Raises:
        ValueError: A number out of range.
        MemoryError: The leaves could not be allocated.
    """

    def __init__(self, leaf_bits: int = 10, skip_bits: int = 64) -> None: ...
    @property
    def leaf_bits(self) -> int: ...
    @property
    def skip_bits(self) -> int: ...
    @property
    def depth(self) -> int:
        """Level of the leaves: ``leaf_bits / 5``, rounded up."""
    def width(self, level: int) -> int:
        """Number of nodes of a level.

        Raises:
            ValueError: Not 0 <= ``level`` <= ``depth``.
        """
    def leaf_of(self, digest: Buffer) -> int:
        """The leaf of a 16-byte digest.

        Raises:
            ValueError: ``digest`` has another length.
        """
    def leaf_sum(self, leaf: int) -> int:
        """What a leaf holds: the sum of its keys' fingerprints, uint64.

        Raises:
            ValueError: Not 0 <= ``leaf`` < ``2**leaf_bits``.
        """
    def update(self, digest: Buffer, old: int, new: int) -> None:
        """Replace one key's fingerprint. Fingerprints are uint64; 0 stands for "no such key", so an insert
        has ``old`` 0 and a removal ``new`` 0.

        The tree cannot tell whether ``old`` was there: it is the caller's promise, as a node knows the set it
        overwrites.

        Raises:
            ValueError: ``digest`` is not 16 bytes long.
            OverflowError: A fingerprint outside 0 to 2**64 - 1.
        Cost: O(1), about 0.1 us; nothing is hashed.
        """
    def update_many(self, count: int, digests: Buffer, olds: Buffer | None, news: Buffer) -> None:
        """``update`` of each; ``olds=None`` means zeros, as when building.

        Args:
            digests: ``16 * count`` bytes.
            olds, news: uint64 each.
        Raises:
            ValueError: ``count`` < 0 or a buffer that is too short; nothing was changed.
        Cost: a few ns each while the leaves fit the cache.
        """
    def clear(self) -> None:
        """Empty the tree."""
    def root(self) -> bytes:
        """The 16 bytes that stand for the whole set; hashes what is stale.

        Cost: ``depth`` hashes of 256 or 512 bytes for each changed leaf, at most one for each node.
        """
    def level(self, level: int) -> bytes:
        """All nodes of a level, one after another: HASH_BYTES each, LEAF_BYTES each at ``depth``. Raises as
        ``width``."""
    def children(self, level: int, nodes: Buffer) -> bytes:
        """The children of some nodes of a level, one after another: what a peer that found these nodes
        different asks for.

        Args:
            nodes: uint32 each, below ``width(level)``; in any order.
        Raises:
            ValueError: Not 0 <= ``level`` < ``depth``, a node out of range, or ``nodes`` is not
                a whole number of uint32.
        """
    def differing(self, level: int, nodes: Buffer, theirs: Buffer) -> bytes:
        """Which children of ``nodes`` differ from the peer's: numbers on ``level + 1``, uint32 each, in the
        order of ``nodes``.

        Args:
            theirs: The peer's ``children(level, nodes)``.
        Raises:
            ValueError: As ``children``, or ``theirs`` has not exactly that length.
        """
    def differing_leaves(self, other: Tree) -> bytes:
        """Leaves in which two local trees differ: uint32 each, ascending.

        Raises:
            ValueError: The trees have different shapes.
            TypeError: ``other`` is no tree.
        Cost: what is stale in both, and 32 comparisons at each differing node.
        """

class Forest:
    """The trees of all partitions of a node, kept up by its writes and built by its scans.

    A partition's number is the first ``partition_bits`` bits of a digest, a leaf's the ``leaf_bits`` bits
    after them. A partition is not built, being built, or built. What is written to it counts from the
    moment when it is certain that a scan has seen, or will not see, the key: all of it once it is built,
    digests up to the last one that the scan gave while it is being built, nothing before. So whatever the
    interleaving of writes and pages of a scan, a built tree is the one of what is stored.

    A partition takes no memory until a key of it counts.

    Args:
        partition_bits: log2 of the number of partitions, 0 to 16.
        leaf_bits: As for ``Tree``.
    Raises:
        ValueError: A number out of range.
    """

    def __init__(self, partition_bits: int, leaf_bits: int = 10) -> None: ...
    @property
    def partition_bits(self) -> int: ...
    @property
    def leaf_bits(self) -> int: ...
    def update_many(self, count: int, digests: Buffer, befores: Buffer, afters: Buffer) -> None:
        """A batch of writes: each replaces a fingerprint (0: no such key) where its partition counts it
        already.

        Args:
            digests: ``16 * count`` bytes. befores, afters: uint64 each.
        Raises:
            ValueError: ``count`` < 0 or a buffer that is too short; nothing was changed.
            MemoryError: A tree could not be allocated; nothing was changed.
        Cost: 30 to 50 ns each where the trees exceed the cache, as those of 1 M keys do; 2 ns where nothing
        changes.
        """
    def begin(self, partition: int) -> None:
        """Start to build a partition; what it had is forgotten.

        Raises:
            ValueError: Not 0 <= ``partition`` < ``2**partition_bits``.
        """
    def extend(self, partition: int, last: Buffer, count: int, digests: Buffer, fingerprints: Buffer) -> None:
        """Count a page of a scan, which has given everything up to the digest ``last``.

        Args:
            last: 16 bytes, of the partition, greater than the one before.
            digests, fingerprints: 16 bytes and a uint64 for each key of the page that belongs into this
                forest: in the partition, above the ``last`` of the page before, not above this one, none
                twice.
        Raises:
            ValueError: The partition is not being built, or arguments that are not so; nothing was changed.
            MemoryError: The tree could not be allocated; nothing was changed.
        """
    def finish(self, partition: int) -> None:
        """The scan has seen the end of the partition: it is built. Raises ValueError as ``extend``."""
    def forget(self, partition: int) -> None:
        """It is not built any more. Raises as ``begin``."""
    def forget_all(self) -> None:
        """Nothing is built any more."""
    def is_built(self, partition: int) -> bool:
        """Raises as ``begin``."""
    def tree(self, partition: int) -> Tree:
        """The tree of a partition, for reading only and until it is forgotten: one stands for all empty ones.

        Raises as ``begin``. A partition that is not built has a tree of what counts so far.
        """
    def roots(self, partitions: Buffer) -> bytes:
        """The root of each partition's tree, HASH_BYTES each; zeros for one that is not built.

        Args:
            partitions: uint32 each.
        Raises:
            ValueError: A partition out of range, or not a whole number of uint32.
        Cost: As ``Tree.root``; 0.1 us each where nothing changed.
        """
