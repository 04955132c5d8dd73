"""Which node owns which token: the three partitioning strategies of Dynamo 6.2, pure functions all.

1. ``RandomTokens(vnodes)``: T random tokens a node; a token's range reaches back to the token before.
   Ranges are uneven, and change whenever a node comes or goes.
2. ``RandomTokens(vnodes, partitions=Q)``: the same tokens, but data is cut in Q equal partitions; a partition
   belongs to the first nodes clockwise from its end. Partitions stay, their nodes still change unevenly.
3. ``EqualPartitions(Q)``: each node owns Q/S of Q equal partitions. A node that joins steals its share, one
   that leaves spreads its own at random over the others. Most even, moves least, and a partition can be
   shipped whole; but each change builds on the ring before it, so everybody must agree on their order.

Randomness comes from hashing a seed with names: every node computes the same ring, in whatever order it
learned of the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sadik.errors import InvalidRequest
from sadik.hashing.digest import HashFunction
from sadik.kernels import digest as kernel

PARTITION_BITS_MAX: Final = 24
"""More partitions than this are a mistake: 16 million lists, most of them empty."""


class Node(NamedTuple):
    """A node as placement sees it.

    Attributes:
        name: Unique in the ring.
        host: Nodes of one host are not chosen together while there are others; empty: a host of its own.
        zone: Likewise, after hosts.
        weight: Capacity against other nodes; a node of weight 2 owns twice as much, one of 0 nothing.
    """

    name: str
    host: str = ""
    zone: str = ""
    weight: int = 1


class Placement(NamedTuple):
    """Tokens (uint64, strictly increasing) and, for each, the index of the node that owns it (uint32)."""

    tokens: npt.NDArray[np.uint64]
    owners: npt.NDArray[np.uint32]


class Strategy(Protocol):
    """How tokens are given to nodes."""

    @property
    def partition_bits(self) -> int:
        """Lookups go to the end of one of 2**partition_bits partitions first; 64: they do not."""
        ...

    def place(self, nodes: Sequence[Node], function: HashFunction, before: Sequence[str] | None) -> Placement:
        """Owners for ``nodes``, whose names are distinct and whose weights are not all 0.

        Args:
            before: The owner's name of each token of the ring that is changed; None when there is none.
        Raises:
            InvalidRequest: The strategy cannot serve these nodes.
        """
        ...


def bits_of(partitions: int) -> int:
    """log2 of a number of partitions.

    Raises:
        InvalidRequest: Not a power of two, or not 1 to 2**24.
    """
    bits = partitions.bit_length() - 1
    if partitions < 1 or partitions != 1 << bits or bits > PARTITION_BITS_MAX:
        raise InvalidRequest(
            f"partitions must be a power of two from 1 to 2**{PARTITION_BITS_MAX}, not {partitions}"
        )
    return bits


def partition_ends(bits: int) -> npt.NDArray[np.uint64]:
    """The last token of each of 2**bits equal partitions, ascending."""
    if bits == 0:
        return np.array([2**64 - 1], dtype=np.uint64)
    # Every number here stays uint64. Mixed with a plain int array, numpy computes in float64, which has 53
    # bits: the ends of small partitions become equal.
    shift = np.uint64(64 - bits)
    last = np.uint64(2 ** (64 - bits) - 1)
    return (np.arange(1 << bits, dtype=np.uint64) << shift) | last


@dataclass(frozen=True, slots=True)
class RandomTokens:
    """Strategies 1 and 2: ``vnodes`` random tokens for each unit of weight.

    A node's tokens depend on the seed, its name and its weight alone, so a change moves only what it must.
    Should two nodes draw one token (2**-64 for each pair) it belongs to the first by name.

    Attributes:
        vnodes: Tokens a node of weight 1 draws.
        partitions: Q of strategy 2, a power of two; None for strategy 1.
        seed: Gives another ring of the same nodes.
    """

    vnodes: int = 256
    partitions: int | None = None
    seed: bytes = b""

    def __post_init__(self) -> None:
        if self.vnodes < 1:
            raise InvalidRequest(f"vnodes must be at least 1, not {self.vnodes}")
        if self.partitions is not None:
            bits_of(self.partitions)

    @property
    def partition_bits(self) -> int:
        return 64 if self.partitions is None else bits_of(self.partitions)

    def place(self, nodes: Sequence[Node], function: HashFunction, before: Sequence[str] | None) -> Placement:
        drawn = [_draw(function, self.seed, node.name, self.vnodes * node.weight) for node in nodes]
        tokens = np.concatenate(drawn)
        owners = np.repeat(np.arange(len(nodes), dtype=np.uint32), [len(part) for part in drawn])
        by_name = sorted(range(len(nodes)), key=lambda index: nodes[index].name)
        place_of = np.empty(len(nodes), dtype=np.uint32)
        place_of[by_name] = np.arange(len(nodes), dtype=np.uint32)
        order = np.lexsort((place_of[owners], tokens))
        tokens, first = np.unique(tokens[order], return_index=True)
        return Placement(tokens, owners[order][first])


@dataclass(frozen=True, slots=True)
class EqualPartitions:
    """Strategy 3: every node owns its share of Q equal partitions, one more or less for rounding.

    A change moves only what the shares ask for: what leaving nodes owned, and what others have above
    their new share. Which those are, and who takes which, is random: load comes from all and goes to all.

    Attributes:
        partitions: Q, a power of two, not fewer than nodes.
        seed: Gives other choices.
    """

    partitions: int = 1024
    seed: bytes = b""

    def __post_init__(self) -> None:
        bits_of(self.partitions)

    @property
    def partition_bits(self) -> int:
        # The tokens are the ends of the partitions, so there is nothing to round.
        return 64

    def place(self, nodes: Sequence[Node], function: HashFunction, before: Sequence[str] | None) -> Placement:
        names = sorted(node.name for node in nodes)
        owning = sum(node.weight > 0 for node in nodes)
        if owning > self.partitions:
            raise InvalidRequest(f"{self.partitions} partitions do not give each of {owning} nodes one")
        # The change itself is in the draw: else two joins in a row would pick by one order.
        seed = function.digest(_text(self.seed, *(name.encode() for name in names)))

        held: dict[str, list[int]] = {name: [] for name in names}
        moving: list[int] = []
        for partition in range(self.partitions):
            owner = None if before is None else before[partition]
            (moving if owner is None or owner not in held else held[owner]).append(partition)

        shares = self._shares(nodes, held, function, seed)
        wanting: list[tuple[str, int]] = []
        for name in names:
            above = len(held[name]) - shares[name]
            if above > 0:
                shuffled = _shuffled(function, seed, b"give", [(name, item) for item in held[name]])
                moving += [item for _, item in shuffled[:above]]
                held[name] = [item for _, item in shuffled[above:]]
            wanting += [(name, place) for place in range(-above)]

        wanting = _shuffled(function, seed, b"take", wanting)
        takers = zip(sorted(moving), wanting, strict=True)
        for partition, (name, _) in takers:
            held[name].append(partition)
        owners = np.empty(self.partitions, dtype=np.uint32)
        for index, node in enumerate(nodes):
            owners[held[node.name]] = index
        return Placement(partition_ends(bits_of(self.partitions)), owners)

    def _shares(
        self, nodes: Sequence[Node], held: dict[str, list[int]], function: HashFunction, seed: bytes
    ) -> dict[str, int]:
        """Partitions each node is due: its part by weight rounded down, and one more by largest remainder.

        Equal remainders: to those that hold most now, because that moves least.
        """
        total = sum(node.weight for node in nodes)
        shares = {node.name: self.partitions * node.weight // total for node in nodes}
        remainder = {node.name: self.partitions * node.weight % total for node in nodes}
        chance = [
            name for name, _ in _shuffled(function, seed, b"share", [(name, 0) for name in sorted(held)])
        ]
        chance.sort(key=lambda name: (-remainder[name], -len(held[name])))
        for name in chance[: self.partitions - sum(shares.values())]:
            shares[name] += 1
        return shares


def _text(*parts: bytes) -> bytes:
    """Parts with their lengths in front, so that no two lists give the same bytes."""
    return b"".join(struct.pack(">H", len(part)) + part for part in parts)


def _draw(function: HashFunction, seed: bytes, name: str, count: int) -> npt.NDArray[np.uint64]:
    """``count`` tokens: the hash of seed, name and 0, 1, 2... (uint32, big-endian). Pinned by a test."""
    prefix = _text(seed, name.encode())
    length = len(prefix) + 4
    inputs = b"".join(prefix + struct.pack(">I", index) for index in range(count))
    return _tokens(
        function, inputs, np.arange(count, dtype=np.int64) * length, np.full(count, length, np.int64)
    )


def _tokens(
    function: HashFunction, inputs: bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    digests = bytearray(16 * len(starts))
    function.hash_many(len(starts), inputs, starts.data, lengths.data, digests)
    tokens = np.empty(len(starts), dtype=np.uint64)
    kernel.tokens(len(starts), digests, tokens.data)
    return tokens


def _shuffled(
    function: HashFunction, seed: bytes, purpose: bytes, items: Iterable[tuple[str, int]]
) -> list[tuple[str, int]]:
    """The items in an order drawn by hashing seed, purpose and item."""
    return sorted(
        items,
        key=lambda item: function.digest(_text(seed, purpose, item[0].encode(), struct.pack(">I", item[1]))),
    )
