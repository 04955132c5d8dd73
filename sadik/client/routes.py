"""Where keys live, as a node tells it (SADIK.LAYOUT): who is a primary of what, and at which address."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from typing import Final

import msgspec

from sadik.errors import InvalidRequest, ProtocolError
from sadik.ids import NodeId
from sadik.kernels import digest as kernel
from sadik.settings import Address

PARTITIONS_MAX: Final = 1 << 16


class _Node(msgspec.Struct):
    node: str
    resp: str | None = None
    up: bool = True


class _Document(msgspec.Struct):
    version: int
    partitions: int
    width: int
    nodes: list[_Node]
    assignment: bytes
    """base64 in JSON."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node of the layout.

    Attributes:
        address: Where clients reach it, None when nobody knows.
        up: In the eyes of the node that told.
        hint: The number by which a context names it.
    """

    node: NodeId
    address: Address | None
    up: bool
    hint: int


class Routes:
    """One version of the layout.

    Attributes:
        version: Rises with every change of the layout.
        places: By node number.
        partitions: Q, a power of two.
    """

    __slots__ = ("_assignment", "_shift", "_width", "partitions", "places", "version")

    def __init__(
        self, version: int, partitions: int, places: tuple[Place, ...], width: int, assignment: array[int]
    ) -> None:
        """``assignment``: node numbers, row after row of ``width``, one row for each partition."""
        self.version = version
        self.partitions = partitions
        self.places = places
        self._width = width
        self._assignment = assignment
        self._shift = 65 - partitions.bit_length()

    @classmethod
    def decode(cls, document: object) -> Routes:
        """From the JSON that a node answers with; fields not known here are left alone.

        Raises:
            ProtocolError: It is not such a document.
        """
        if not isinstance(document, bytes):
            raise ProtocolError("the node's answer is not that of SADIK.LAYOUT")
        try:
            found = msgspec.json.decode(document, type=_Document)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"not a layout: {error}") from None
        assignment = array("H")
        partitions, width = found.partitions, found.width
        if not 1 <= partitions <= PARTITIONS_MAX or partitions & (partitions - 1) or width < 0:
            raise ProtocolError(f"a layout of {partitions} partitions, {width} nodes each")
        if len(found.assignment) != partitions * width * assignment.itemsize:
            raise ProtocolError(f"a layout whose assignment has {len(found.assignment)} bytes")
        assignment.frombytes(found.assignment)
        if sys.byteorder == "big":
            assignment.byteswap()
        if max(assignment, default=-1) >= len(found.nodes):
            raise ProtocolError("a layout that assigns a partition to a node it does not have")
        places = tuple(
            Place(NodeId(it.node), _address(it.resp), it.up, node_hint(it.node)) for it in found.nodes
        )
        return cls(found.version, partitions, places, width, assignment)

    def primaries(self, digest: bytes) -> array[int]:
        """Numbers of the nodes that keep a key, the first of the partition first; empty in a cluster without
        nodes.
        """
        # The partition is the top bits of the digest's high half.
        first = (int.from_bytes(digest[:8], "big") >> self._shift) * self._width
        return self._assignment[first : first + self._width]


def node_hint(node: str) -> int:
    """The number by which a context names the node that answered a read."""
    return int.from_bytes(kernel.digest(node.encode())[:8], "big")


def _address(text: str | None) -> Address | None:
    # A node that tells nothing useful is reached through the others.
    try:
        address = Address.parse(text) if text else None
    except InvalidRequest:
        return None
    return address if address is not None and address.port else None
