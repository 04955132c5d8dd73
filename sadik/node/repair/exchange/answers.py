"""The asked side of an exchange: each question answered by itself, from what is held at that moment.

A question is bounded before it is answered, and so is the answer; whatever else comes is a ``ProtocolError``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Final

from sadik.comms.messages import encode
from sadik.errors import ProtocolError
from sadik.kernels import merkle, versions
from sadik.node.repair.exchange import messages
from sadik.node.repair.exchange.holdings import Holdings
from sadik.node.repair.exchange.messages import (
    Begin,
    Begun,
    Children,
    Flags,
    Items,
    Keys,
    Listing,
    Nodes,
    Roots,
)
from sadik.storage.engine import DIGEST_BYTES

_OTHER_LAYOUT: Final = "the two nodes have different layouts at the moment"
_OTHER_FACTS: Final = "the two nodes know different buckets at the moment"


class Answers:
    """Answers questions.

    Args:
        layout: The version of the layout now. facts: As in ``Begin``, now.
    """

    def __init__(self, holdings: Holdings, layout: Callable[[], int], facts: Callable[[], bytes]) -> None:
        self._holdings = holdings
        self._layout = layout
        self._facts = facts

    def answer(self, payload: bytes) -> bytes:
        """Encoded reply to an encoded question.

        Raises:
            ProtocolError: It is none, or one beyond the limits.
            StorageError: The engine cannot answer.
        """
        question = messages.decode_question(payload)
        match question:
            case Begin():
                return encode(self._begin(question))
            case Roots():
                return encode(self._flags(question))
            case Nodes():
                return encode(self._children(question))
            case Keys():
                return encode(self._listing(question))
            case _:
                return encode(self._items(question))

    def _begin(self, question: Begin) -> Begun:
        if question.layout != self._layout():
            return Begun(_OTHER_LAYOUT, [])
        if question.facts != self._facts():
            return Begun(_OTHER_FACTS, [])
        return Begun("", self._holdings.trees.counts)

    def _flags(self, question: Roots) -> Flags:
        trees = self._holdings.trees
        _check_n(question.n)
        partitions = _numbers(question.partitions, 2, messages.PARTITIONS_MAX, trees.partitions)
        if len(question.roots) != merkle.HASH_BYTES * len(partitions):
            raise ProtocolError(f"{len(question.roots)} bytes of roots for {len(partitions)} partitions")
        if question.layout != self._layout():
            return Flags(_OTHER_LAYOUT, b"")
        ours = messages.split(trees.roots(question.n, messages.pack(partitions, 4)), merkle.HASH_BYTES)
        unbuilt = bytes(merkle.HASH_BYTES)
        return Flags(
            "",
            bytes(
                [
                    messages.UNBUILT
                    if mine == unbuilt
                    else messages.EQUAL
                    if mine == theirs
                    else messages.DIFFERENT
                    for mine, theirs in zip(
                        ours, messages.split(question.roots, merkle.HASH_BYTES), strict=True
                    )
                ]
            ),
        )

    def _children(self, question: Nodes) -> Children:
        trees = self._holdings.trees
        _check_n(question.n)
        shape = trees.tree(question.n, 0)
        if not 0 <= question.level < shape.depth:
            raise ProtocolError(f"trees have no inner nodes on level {question.level}")
        width = shape.width(question.level)
        nodes = _numbers(question.nodes, 4, messages.NODES_MAX, width * trees.partitions)
        hashes = []
        unbuilt = []
        for partition, group in groupby(nodes, lambda node: node // width):
            if trees.is_built(partition):
                wanted = messages.pack([node % width for node in group], 4)
                hashes.append(trees.tree(question.n, partition).children(question.level, wanted))
            else:
                unbuilt.append(partition)
        return Children(b"".join(hashes), messages.pack(unbuilt, 2))

    def _listing(self, question: Keys) -> Listing:
        trees = self._holdings.trees
        _check_n(question.n)
        leaves = _numbers(question.leaves, 4, messages.LEAVES_MAX, trees.partitions << trees.leaf_bits)
        if len(question.after) not in (0, DIGEST_BYTES):
            raise ProtocolError(f"a digest of {len(question.after)} bytes")
        return self._holdings.list_keys(
            question.n, leaves, question.after, messages.PAGE_KEYS_MAX, messages.PAGE_BYTES_MAX
        )

    def _items(self, question: messages.Sets) -> Items:
        digests = messages.split(question.digests, DIGEST_BYTES)
        ours, theirs = messages.unpack(question.ours, 8), messages.unpack(question.theirs, 8)
        if not 1 <= len(digests) <= messages.SETS_KEYS_MAX or not len(digests) == len(ours) == len(theirs):
            raise ProtocolError(
                f"{len(digests)} keys asked for with {len(ours)} and {len(theirs)} fingerprints"
            )
        status = bytearray()
        sets: list[tuple[bytes, bytes]] = []
        bytes_left = messages.PAGE_BYTES_MAX
        for digest, their_print, listed in zip(digests, ours, theirs, strict=True):
            held = self._holdings.look(digest)
            bytes_left -= len(held.stored or b"")
            if bytes_left < 0 and status:
                break
            if held.stored is None:
                status.append(messages.UNREADABLE)
            elif versions.fingerprint(digest, held.stored) == their_print:
                status.append(messages.EQUAL)
            else:
                status.append(messages.DIFFERENT if held.listed == listed else messages.MOVED)
                sets.append((held.name if held.stored else b"", held.stored))
        return Items(bytes(status), sets)


def _numbers(packed: bytes, size: int, count_max: int, below: int) -> list[int]:
    """Ascending numbers of ``size`` bytes each, at least one."""
    numbers = messages.unpack(packed, size)
    if not 1 <= len(numbers) <= count_max:
        raise ProtocolError(f"{len(numbers)} numbers asked for, must be 1 to {count_max}")
    if numbers[-1] >= below or any(first >= second for first, second in pairwise(numbers)):
        raise ProtocolError(f"numbers must ascend and be below {below}")
    return numbers


def _check_n(n: int) -> None:
    if not 1 <= n <= messages.N_MAX:
        raise ProtocolError(f"no bucket has {n} replicas")
