"""The order in which nodes stand in for each other: each partition's list of all nodes, the same on every
node.

Rendezvous hashing: a node's place among the fallbacks of a partition depends on a hash of the two, and so
neither on the other nodes nor on the layouts before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sadik.hashing.digest import BLAKE3
from sadik.members.shares import Bounds

if TYPE_CHECKING:
    # A layout has itself ordered.
    from sadik.members.layout import LayoutNode

Matrix = npt.NDArray[np.int64]


def scores_of(names: Sequence[str], partitions: int) -> npt.NDArray[np.uint64]:
    """A number by chance for each partition and name: the first 8 bytes, big-endian, of the hash of the
    partition (uint32, big-endian) and the name. uint64, shape (partitions, len(names)). Pinned by a test.
    """
    numbers = np.arange(partitions, dtype=">u4").view(np.uint8).reshape(partitions, 4)
    scores = np.empty((partitions, len(names)), dtype=np.uint64)
    digests = np.empty(2 * partitions, dtype=">u8")
    for column, name in enumerate(names):
        text = np.frombuffer(name.encode(), dtype=np.uint8)
        inputs = np.concatenate([numbers, np.broadcast_to(text, (partitions, len(text)))], axis=1)
        lengths = np.full(partitions, inputs.shape[1], dtype=np.int64)
        starts = np.arange(partitions, dtype=np.int64) * inputs.shape[1]
        BLAKE3.hash_many(partitions, inputs.tobytes(), starts.data, lengths.data, digests.view(np.uint8).data)
        scores[:, column] = digests[::2]
    return scores


def preference_order(
    nodes: Sequence[LayoutNode], assignment: npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint16]:
    """Each partition's order of all nodes: those assigned, then fallbacks. uint16, shape (Q, len(nodes)).

    The next fallback is on a host with the fewest nodes in the list so far; of those, in a zone with the
    fewest; and of those it is the node with the least score (rendezvous hashing). So when a node is down its
    load goes to all others.
    """
    partitions, width = assignment.shape
    count = len(nodes)
    if count == width:
        return assignment.copy()
    bounds = Bounds.of(nodes, width)
    lines = np.arange(partitions)[:, None]
    # Ranks and keys are unique in a row. Primaries come first in each, in their order.
    rank = np.empty((partitions, count), dtype=np.int64)
    rank[lines, np.argsort(scores_of([node.node for node in nodes], partitions), axis=1, kind="stable")] = (
        np.arange(width, width + count)
    )
    rank[lines, assignment] = np.arange(width)
    key = rank
    span = width + count
    if len(bounds.host_low) < count:
        # The host's nodes that precede a node in the list are those of lower rank on it.
        level = _rank_within(bounds.host_of, key, span)
        level[lines, assignment] = 0
        key = level * span + rank
        span *= count
    if len(bounds.zone_low) > 1:
        # Likewise in a zone, where those on hosts that are used less come first.
        ahead = _rank_within(bounds.zone_of, key, span)
        level = key // (width + count)
        key = (level * count + ahead) * (width + count) + rank
        key[lines, assignment] = np.arange(width)
    return np.argsort(key, axis=1).astype(np.uint16)


def _rank_within(group_of: npt.NDArray[np.intp], key: Matrix, span: int) -> Matrix:
    """How many of its group have a lesser key in the row; keys are unique and below ``span``."""
    order = np.argsort(group_of * span + key, axis=1)
    sizes = np.bincount(group_of)
    start = np.cumsum(sizes) - sizes
    within = np.empty_like(key)
    position = np.arange(key.shape[1]) - start[group_of[order]]
    within[np.arange(len(key))[:, None], order] = position
    return within
