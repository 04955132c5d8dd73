"""Merkle trees of partitions, and the descent that finds where two of them differ.

``MerkleTree`` is the kernel's tree with Python lists in place of packed arrays. ``Descent`` is one side's
half of an exchange as a plain value: it says what to ask the peer and takes the answers; whoever owns it does
the sending.

    descent = Descent(ours)                      peer
    while descent.wanted:
        send (descent.level, descent.wanted)  -> tree.children(level, wanted)
        descent.on_answer(hashes)             <-
    descent.leaves: what to compare key by key

Trees may change while a descent runs: it then names a leaf too many or too few, which the comparison of keys
and the next exchange put right. Source: Dynamo 4.7.
"""

from __future__ import annotations

from typing import Final

from sadik.kernels import merkle
from sadik.kernels.buffers import Buffer

DIGEST_BITS: Final = 128
_UINT32_BYTES: Final = 4


class MerkleTree(merkle.Tree):
    """A ``sadik.kernels.merkle.Tree``: shape, updates and readings are there, what people call is here."""

    def differences(self, other: MerkleTree) -> list[int]:
        """Leaves in which two local trees differ, ascending. Raises as ``differing_leaves``."""
        return memoryview(self.differing_leaves(other)).cast("I").tolist()

    def leaf_range(self, leaf: int, prefix: int = 0) -> tuple[bytes, bytes]:
        """First and last digest of a leaf; ``prefix`` is the number in the skipped bits (the partition).

        Raises:
            ValueError: ``leaf`` or ``prefix`` does not fit its bits.
        """
        if not 0 <= leaf < 1 << self.leaf_bits:
            raise ValueError(f"leaf is {leaf}, must be below {1 << self.leaf_bits}")
        if not 0 <= prefix < 1 << self.skip_bits:
            raise ValueError(f"prefix is {prefix}, must be below {1 << self.skip_bits}")
        rest_bits = DIGEST_BITS - self.skip_bits - self.leaf_bits
        first = ((prefix << self.leaf_bits) | leaf) << rest_bits
        last = first | ((1 << rest_bits) - 1)
        return first.to_bytes(DIGEST_BITS // 8, "big"), last.to_bytes(DIGEST_BITS // 8, "big")


class Descent:
    """Finds the leaves in which our tree and a peer's of the same shape differ, one level a round trip.

    Attributes:
        level: The level of ``wanted``.
        wanted: Nodes whose children the peer is asked for next, uint32 each; empty when the descent is over.
        leaves: Differing leaves, ascending; complete once ``wanted`` is empty.
        truncated: Some differing nodes were left for a later exchange, because of ``nodes_max``.

    Args:
        nodes_max: Most nodes followed on a level, at least 1. It bounds every answer (``32 * 16`` bytes a
            node) and ``leaves``.
    """

    def __init__(self, tree: merkle.Tree, *, nodes_max: int = 1024) -> None:
        if nodes_max < 1:
            raise ValueError(f"nodes_max is {nodes_max}, must be at least 1")
        self._tree = tree
        self._nodes_max = nodes_max
        self.level = 0
        self.wanted = bytes(_UINT32_BYTES)
        self.leaves: list[int] = []
        self.truncated = False

    def on_answer(self, hashes: Buffer) -> None:
        """Take the peer's ``children(level, wanted)`` and go one level down.

        Raises:
            ValueError: An answer of the wrong length, or one that nobody asked for.
        """
        if not self.wanted:
            raise ValueError("the descent is over")
        differing = self._tree.differing(self.level, self.wanted, hashes)
        if len(differing) > _UINT32_BYTES * self._nodes_max:
            differing = differing[: _UINT32_BYTES * self._nodes_max]
            self.truncated = True
        self.level += 1
        self.wanted = differing
        if self.level == self._tree.depth:
            self.leaves = memoryview(differing).cast("I").tolist()
            self.wanted = b""
