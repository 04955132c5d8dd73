"""The ring with names: which nodes keep a key, nearest first.

    ring = Ring.from_nodes(["amber", "birch", "cedar", "dogwood"], vnodes=256)
    ring.preference_list(b"key", 3)                      # ("birch", "cedar", "amber")
    ring.preference_list(b"key", 3, up={"amber", "birch", "dogwood"})   # ("birch", "amber", "dogwood")
    larger = ring.join(Node("elm", zone="north"))        # a new ring; this one never changes

Batches go through ``kernel`` (``sadik.kernels.ring``), which knows nodes as indexes into ``nodes``.
"""

from __future__ import annotations

import array
from collections.abc import Container, Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from sadik.errors import InvalidRequest
from sadik.hashing.digest import BLAKE3, HashFunction, token_of
from sadik.hashing.placement import EqualPartitions, Node, RandomTokens, Strategy, partition_ends
from sadik.kernels import digest as digest_kernel
from sadik.kernels import ring as ring_kernel

Integers = Sequence[int] | npt.NDArray[np.integer[Any]]


class Ring:
    """An unchanging map from tokens to preference lists, whose order ``sadik.kernels.ring`` tells.

    Attributes:
        nodes: In the order of their indexes.
        tokens: uint64, strictly increasing, read-only.
        owners: uint32, index of each token's node, read-only.
        strategy: What ``join`` and ``leave`` ask; None for a ring made of given tokens.
        function: The hash that makes tokens of keys.
        kernel: Lookups by token, single and in batches.
    """

    __slots__ = ("_indexes", "_names", "function", "kernel", "nodes", "owners", "strategy", "tokens")

    def __init__(
        self,
        nodes: Iterable[str | Node],
        tokens: Integers,
        owners: Integers,
        *,
        strategy: Strategy | None = None,
        function: HashFunction = BLAKE3,
    ) -> None:
        """A ring of given tokens.

        Args:
            nodes: Names, or ``Node`` where labels matter.
            tokens: Integers, 0 <= token < 2**64, strictly increasing, at least one.
            owners: For each token the index of its node.
        Raises:
            InvalidRequest: Two nodes of one name, or arrays that are no ring.
        """
        self.nodes = checked_nodes(nodes)
        self._names = tuple(node.name for node in self.nodes)
        self._indexes = {node.name: index for index, node in enumerate(self.nodes)}
        self.strategy = strategy
        self.function = function
        try:
            self.tokens = np.array(_integers("Q", tokens), dtype=np.uint64)
            self.owners = np.array(_integers("I", owners), dtype=np.uint32)
            self.kernel = ring_kernel.Ring(
                self.tokens.data,
                self.owners.data,
                _labels([node.host or f"\0{node.name}" for node in self.nodes]).data,
                _labels([node.zone for node in self.nodes]).data,
                64 if strategy is None else strategy.partition_bits,
            )
        except (ValueError, OverflowError, TypeError) as error:
            raise InvalidRequest(f"not a ring: {error}") from None
        self.tokens.flags.writeable = False
        self.owners.flags.writeable = False

    @classmethod
    def build(
        cls, nodes: Iterable[str | Node], strategy: Strategy, *, function: HashFunction = BLAKE3
    ) -> Ring:
        """The ring a strategy makes of ``nodes``.

        Raises:
            InvalidRequest: No node with a weight, two of one name, or the strategy cannot serve them.
        """
        return cls._placed(checked_nodes(nodes), strategy, function, None)

    @classmethod
    def from_nodes(
        cls,
        nodes: Iterable[str | Node],
        vnodes: int = 256,
        *,
        seed: bytes = b"",
        function: HashFunction = BLAKE3,
    ) -> Ring:
        """``vnodes`` random tokens for each node (Dynamo 6.2, strategy 1)."""
        return cls.build(nodes, RandomTokens(vnodes, seed=seed), function=function)

    @classmethod
    def partitioned(
        cls,
        nodes: Iterable[str | Node],
        partitions: int = 1024,
        *,
        seed: bytes = b"",
        function: HashFunction = BLAKE3,
    ) -> Ring:
        """Equal partitions, each node its share of them (Dynamo 6.2, strategy 3)."""
        return cls.build(nodes, EqualPartitions(partitions, seed=seed), function=function)

    @classmethod
    def _placed(
        cls, nodes: Sequence[Node], strategy: Strategy, function: HashFunction, before: Sequence[str] | None
    ) -> Ring:
        if not any(node.weight for node in nodes):
            raise InvalidRequest("a ring needs a node with a weight")
        tokens, owners = strategy.place(nodes, function, before)
        return cls(nodes, tokens, owners, strategy=strategy, function=function)

    def join(self, node: str | Node) -> Ring:
        """The ring after a node came (or, with a known name, took other labels or another weight).

        Raises:
            InvalidRequest: The ring was made without a strategy, or that cannot serve the node.
        """
        (new,) = checked_nodes([node])
        nodes = list(self.nodes)
        if (index := self._indexes.get(new.name)) is None:
            nodes.append(new)
        else:
            nodes[index] = new
        return self._changed(nodes)

    def leave(self, name: str) -> Ring:
        """The ring after a node went for good. (A node that is down stays; see ``up``.)

        Raises:
            InvalidRequest: No such node, or the last one; else as ``join``.
        """
        self.index_of(name)
        return self._changed([node for node in self.nodes if node.name != name])

    def _changed(self, nodes: Sequence[Node]) -> Ring:
        if self.strategy is None:
            raise InvalidRequest("a ring of given tokens has no strategy to place other nodes")
        before = [self._names[owner] for owner in self.owners.tolist()]
        return self._placed(nodes, self.strategy, self.function, before)

    def index_of(self, name: str) -> int:
        """Index of a node.

        Raises:
            InvalidRequest: No such node.
        """
        try:
            return self._indexes[name]
        except KeyError:
            raise InvalidRequest(f"no node {name!r} in the ring") from None

    def token(self, key: bytes) -> int:
        """Where a key lies on the ring."""
        return token_of(self.function.digest(key))

    def owner(self, key: bytes) -> str:
        """The node that owns a key: the first of its preference list."""
        return self._names[self.kernel.owner(self.token(key))]

    def preference_list(self, key: bytes, n: int, *, up: Container[str] | None = None) -> tuple[str, ...]:
        """The first ``n`` nodes for a key, distinct; fewer when there are not so many.

        Asked for more than the N primaries, the rest are the fallbacks in their order.

        Args:
            n: 1 to 2**20.
            up: Names of the nodes that are reachable; the others are left out. None: all are.
        Raises:
            InvalidRequest: ``n`` out of range.
        Source: Dynamo 4.3; with ``up`` the first N healthy nodes of 4.6.
        """
        if n < 1:
            raise InvalidRequest(f"a preference list has at least 1 node, not {n}")
        alive = None if up is None else bytes([name in up for name in self._names])
        return tuple([self._names[index] for index in self.kernel.preference(self.token(key), n, alive)])

    def preference_lists(self, keys: Sequence[bytes], n: int) -> npt.NDArray[np.uint32]:
        """The lists of many keys: node indexes, uint32, shape (len(keys), n); ``NO_NODE`` where none.

        Cost: 50 ns a key for short keys, and what it takes to join them.
        Raises:
            InvalidRequest: ``n`` < 1.
        """
        if n < 1:
            raise InvalidRequest(f"a preference list has at least 1 node, not {n}")
        count = len(keys)
        lengths = np.fromiter(map(len, keys), dtype=np.int64, count=count)
        starts = np.fromiter(accumulate(map(len, keys), initial=0), dtype=np.int64, count=count + 1)
        digests = bytearray(16 * count)
        self.function.hash_many(count, b"".join(keys), starts.data, lengths.data, digests)
        tokens = bytearray(8 * count)
        digest_kernel.tokens(count, digests, tokens)
        lists = np.empty((count, n), dtype=np.uint32)
        self.kernel.preference_many(count, tokens, n, lists.data)
        return lists

    @property
    def ends(self) -> npt.NDArray[np.uint64]:
        """The last token of each range of one list: the tokens, or the ends of strategy 2's partitions."""
        bits = 64 if self.strategy is None else self.strategy.partition_bits
        return self.tokens if bits == 64 else partition_ends(bits)

    def shares(self) -> dict[str, float]:
        """The part of the token space each node owns; the parts add up to 1."""
        ends = self.ends
        owners = np.empty(len(ends), dtype=np.uint32)
        self.kernel.owner_many(len(ends), ends.data, owners.data)
        # uint64 wraps as the ring does; a lone token owns all, which wraps to 0.
        sizes = (ends - np.roll(ends, 1)).astype(np.float64) if len(ends) > 1 else np.array([2.0**64])
        totals = np.bincount(owners, weights=sizes, minlength=len(self.nodes)) / 2.0**64
        return {node.name: float(total) for node, total in zip(self.nodes, totals, strict=True)}


def checked_nodes(nodes: Iterable[str | Node]) -> tuple[Node, ...]:
    """Nodes from names or nodes.

    Raises:
        InvalidRequest: Two of one name, an empty name, or a negative weight.
    """
    checked = tuple(Node(node) if isinstance(node, str) else node for node in nodes)
    seen: set[str] = set()
    for node in checked:
        if not node.name or node.name in seen:
            raise InvalidRequest(f"each node needs a name of its own, not {node.name!r}")
        if node.weight < 0:
            raise InvalidRequest(f"node {node.name!r} has a negative weight")
        seen.add(node.name)
    return checked


def _integers(kind: str, numbers: Integers) -> npt.NDArray[np.integer[Any]] | array.array[int]:
    """The numbers, none of them cut off or rounded on the way to an unsigned array.

    numpy takes a float for an integer without a word, and wraps negative items of an array.
    """
    if not isinstance(numbers, np.ndarray):
        return array.array(kind, numbers)
    if numbers.dtype.kind not in "ui":
        raise TypeError(f"tokens and owners are integers, not {numbers.dtype}")
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >> 8 * array.array(kind).itemsize):
        raise OverflowError("a token or owner is out of range")
    return numbers


def _labels(labels: Sequence[str]) -> npt.NDArray[np.uint32]:
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.uint32)
