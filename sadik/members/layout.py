"""The layout: which nodes keep each partition. Versioned, gossiped, and changed by an administrator alone.

A node that is down stays in the layout; only a commit takes it out. Changes are first staged, on any node,
and gossip brings them together; ``plan`` shows what they would do; a commit makes them the next version:

    state = LayoutState(Layout.founded(LayoutNode("amber"), partitions=1024))
    state.stage(Change("join", "birch", host="rack-2"))
    state.committed(state.plan())                # version 2, with both nodes; nothing is staged any more

What a node knows of this is a join-semilattice, so all nodes come to the same whatever order they hear things
in: of two layouts the greater ``(version, digest)`` wins, and brings what is staged on top of it; staged
changes of one layout are joined, the last one for each node winning. Placement is a function of the layout
before and the changes
alone: two commits of the same changes are the same layout.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from sadik.errors import InvalidRequest, LimitReached, ProtocolError, Unavailable
from sadik.hashing.digest import BLAKE3
from sadik.ids import NodeId
from sadik.members.placement import place
from sadik.members.plan import Plan, compare
from sadik.members.preference import preference_order

NODES_MAX: Final = 256
"""Every node keeps every partition's order of all nodes: 8 MiB at 16384 partitions (Dynamo 6.6 names the same
limit, a couple of hundred)."""
PARTITIONS_MAX: Final = 1 << 16
REPLICAS_DEFAULT: Final = 3
REPLICAS_MAX: Final = 16
CAPACITY_DEFAULT: Final = 100
CAPACITY_MAX: Final = 1_000_000
STAGED_MAX: Final = 2 * NODES_MAX
"""Staged changes, those taken back among them, until the next commit."""

_FORMAT: Final = 1
_LABEL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

Action = Literal["join", "leave", "weight", "replace", "revert"]


class LayoutNode(msgspec.Struct, frozen=True, array_like=True):
    """A node as placement sees it.

    Attributes:
        host: Replicas of a partition go to distinct hosts while there are enough; empty: a host of its own.
        zone: Likewise, after hosts.
        capacity: Share of the replicas, against the others' numbers.
    """

    node: NodeId
    host: str = ""
    zone: str = ""
    capacity: int = CAPACITY_DEFAULT


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One staged change.

    Attributes:
        node: Whom it is about.
        capacity: Of the node that joins or whose weight changes; 0: the default, or the replaced node's.
        host, zone: Labels of the node that comes in (join, replace).
        other: Who takes the node's place (replace).
        stamp: Greater than that of every change its maker knew of; the greatest for a node counts.
    """

    action: Action
    node: NodeId
    capacity: int = 0
    host: str = ""
    zone: str = ""
    other: NodeId = NodeId("")
    stamp: int = 0

    def as_document(self) -> dict[str, Any]:
        """As JSON shows it: ``action`` and ``node``, and of the rest what the action has."""
        fields = {"capacity": self.capacity, "host": self.host, "zone": self.zone, "with": self.other}
        return {"action": self.action, "node": self.node, **{name: it for name, it in fields.items() if it}}


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    format: int
    version: int
    partitions: int
    replicas: int
    nodes: tuple[LayoutNode, ...]
    assignment: bytes


class _Shared(msgspec.Struct, frozen=True, array_like=True):
    layout: bytes
    staged: tuple[Change, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """One version of the map from partitions to nodes. Never changes.

    Attributes:
        version: 0 for a node that has heard of none yet, 1 for a cluster just founded.
        partitions: Q, a power of two, fixed at the cluster's birth.
        replicas: Nodes that each partition is assigned to, where there are so many.
        nodes: Sorted by name; a node's place here is its number.
        assignment: Node numbers, uint16, shape (Q, min(replicas, len(nodes))), read-only; the nodes of a row
            are distinct, and the first is the one that coordinates when all are up.
    Raises:
        InvalidRequest: Anything of this does not hold, or a limit of this module is passed.
    """

    version: int
    partitions: int
    replicas: int
    nodes: tuple[LayoutNode, ...]
    assignment: npt.NDArray[np.uint16]

    def __post_init__(self) -> None:
        _check_shape(self)
        for node in self.nodes:
            check_node(node)
        rows = np.ascontiguousarray(self.assignment)
        if rows is self.assignment and rows.flags.writeable:
            rows = rows.copy()
        rows.flags.writeable = False
        object.__setattr__(self, "assignment", rows)

    @classmethod
    def empty(cls, partitions: int, replicas: int = REPLICAS_DEFAULT) -> Layout:
        """What a node has before it hears of its cluster's layout: version 0, no nodes."""
        return cls(0, partitions, replicas, (), np.empty((partitions, 0), dtype=np.uint16))

    @classmethod
    def founded(cls, node: LayoutNode, partitions: int, replicas: int = REPLICAS_DEFAULT) -> Layout:
        """The first layout of a cluster: version 1, the founder alone."""
        return cls(1, partitions, replicas, (node,), np.zeros((partitions, 1), dtype=np.uint16))

    @classmethod
    @lru_cache(maxsize=8)  # Read twice at a start, and by every node of a process that runs many.
    def decode(cls, data: bytes) -> Layout:
        """The layout of ``encoded`` bytes.

        Raises:
            ProtocolError: Bytes that ``encoded`` never gives.
        """
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
            if stored.format != _FORMAT:
                raise ProtocolError(f"a layout of format {stored.format}, not {_FORMAT}")
            width = min(stored.replicas, len(stored.nodes))
            flat = np.frombuffer(stored.assignment, dtype="<u2").astype(np.uint16)
            layout = cls(
                stored.version,
                stored.partitions,
                stored.replicas,
                stored.nodes,
                flat.reshape(stored.partitions, width),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise ProtocolError(f"not a layout: {error}") from None
        if layout.encoded != data:
            raise ProtocolError("a layout that is not in its one encoding")
        return layout

    @cached_property
    def encoded(self) -> bytes:
        """MessagePack, the same bytes for the same layout everywhere."""
        flat = self.assignment.astype("<u2").tobytes()
        return msgspec.msgpack.encode(
            _Stored(_FORMAT, self.version, self.partitions, self.replicas, self.nodes, flat)
        )

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that name this layout."""
        return BLAKE3.digest(self.encoded)

    @cached_property
    def names(self) -> tuple[NodeId, ...]:
        return tuple(node.node for node in self.nodes)

    @cached_property
    def _numbers(self) -> dict[NodeId, int]:
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def order(self) -> npt.NDArray[np.uint16]:
        """Each partition's preference list of all nodes: those assigned, then the fallbacks in the order in
        which they stand in; uint16, shape (Q, len(nodes)), read-only.

        Cost: made once; at 1024 partitions 1 ms for 5 nodes, 30 ms for 100.
        """
        order = preference_order(self.nodes, self.assignment)
        order.flags.writeable = False
        return order

    @property
    def width(self) -> int:
        """Replicas that each partition has: ``replicas``, or the number of nodes if that is less."""
        return int(self.assignment.shape[1])

    @property
    def partition_bits(self) -> int:
        return self.partitions.bit_length() - 1

    @property
    def majority(self) -> int:
        """How many of its nodes must agree to a commit."""
        return len(self.nodes) // 2 + 1

    def number_of(self, node: NodeId) -> int:
        """A node's number, -1 for one that is not in the layout."""
        return self._numbers.get(node, -1)

    def held(self) -> npt.NDArray[np.int64]:
        """Partitions of each node as any replica, and as the first: int64, shape (2, len(nodes))."""
        columns = (self.assignment.reshape(-1), self.assignment[:, :1].reshape(-1))
        return np.stack([np.bincount(column, minlength=len(self.nodes)) for column in columns])

    def as_document(self) -> dict[str, Any]:
        """What clients and people see; ``from_document`` reads it. ``share`` is a node's part of all
        replicas.
        """
        counts = self.held().tolist()
        slots = max(self.assignment.size, 1)
        return {
            "version": self.version,
            "partitions": self.partitions,
            "replicas": self.replicas,
            "nodes": [
                {
                    "node": node.node,
                    "host": node.host,
                    "zone": node.zone,
                    "capacity": node.capacity,
                    "partitions": any_,
                    "first": first,
                    "share": any_ / slots,
                }
                for node, any_, first in zip(self.nodes, *counts, strict=True)
            ],
            "assignment": base64.b64encode(self.assignment.astype("<u2").tobytes()).decode(),
            "width": self.width,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Layout:
        """The layout of ``as_document``; what else the document says is left alone.

        Raises:
            ProtocolError: Not such a document.
        """
        try:
            nodes = tuple(
                LayoutNode(NodeId(item["node"]), item["host"], item["zone"], item["capacity"])
                for item in document["nodes"]
            )
            flat = np.frombuffer(base64.b64decode(document["assignment"]), dtype="<u2").astype(np.uint16)
            rows = flat.reshape(document["partitions"], min(document["replicas"], len(nodes)))
            return cls(document["version"], document["partitions"], document["replicas"], nodes, rows)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"not a layout document: {error}") from None

    def __eq__(self, other: object) -> bool:
        return self.encoded == other.encoded if isinstance(other, Layout) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.encoded)


def check_node(node: LayoutNode) -> None:
    """Raise ``InvalidRequest`` naming what is wrong with a node."""
    if not _LABEL.fullmatch(node.node):
        raise InvalidRequest(f"a node's name matches {_LABEL.pattern}, not {node.node[:80]!r}")
    for name, label in (("host", node.host), ("zone", node.zone)):
        if label and not _LABEL.fullmatch(label):
            raise InvalidRequest(f"{name} of {node.node} must match {_LABEL.pattern}, not {label[:80]!r}")
    if not 1 <= node.capacity <= CAPACITY_MAX:
        raise InvalidRequest(f"capacity of {node.node} must be 1 to {CAPACITY_MAX}, not {node.capacity}")


def _check_shape(layout: Layout) -> None:
    partitions, count = layout.partitions, len(layout.nodes)
    if not 1 <= partitions <= PARTITIONS_MAX or partitions & (partitions - 1):
        raise InvalidRequest(f"partitions must be a power of two up to {PARTITIONS_MAX}, not {partitions}")
    if not 1 <= layout.replicas <= REPLICAS_MAX:
        raise InvalidRequest(f"replicas must be 1 to {REPLICAS_MAX}, not {layout.replicas}")
    if not 0 <= layout.version < 1 << 63:
        raise InvalidRequest(f"version must be 0 to 2**63 - 1, not {layout.version}")
    if count > NODES_MAX:
        raise LimitReached(f"a layout has at most {NODES_MAX} nodes, not {count}")
    if any(one.node >= other.node for one, other in zip(layout.nodes, layout.nodes[1:], strict=False)):
        raise InvalidRequest("the nodes of a layout are sorted, each once")
    rows = layout.assignment
    if rows.dtype != np.uint16 or rows.shape != (partitions, min(layout.replicas, count)):
        raise InvalidRequest(f"an assignment of {rows.dtype} {rows.shape} for {partitions} partitions")
    ascending = np.sort(rows, axis=1)
    if rows.size and (int(rows.max()) >= count or (ascending[:, 1:] == ascending[:, :-1]).any()):
        raise InvalidRequest("a partition is assigned to a node twice, or to one that is not there")


def changed_nodes(layout: Layout, changes: Iterable[Change]) -> tuple[LayoutNode, ...]:
    """The nodes after ``changes``, of which there is one for each node at most; their order does not matter.

    Raises:
        InvalidRequest: A change that does not fit the layout, or two that contradict each other.
    """
    nodes = {node.node: node for node in layout.nodes}
    coming: dict[NodeId, LayoutNode] = {}
    for change in sorted(changes, key=lambda item: item.node):
        known = change.node in layout.names
        if (change.action == "join") == known:
            raise InvalidRequest(f"node {change.node} is {'already' if known else 'not'} in the layout")
        match change.action:
            case "leave":
                del nodes[change.node]
            case "weight":
                nodes[change.node] = msgspec.structs.replace(nodes[change.node], capacity=change.capacity)
            case "join":
                _add(layout, coming, change, change.node, change.capacity or CAPACITY_DEFAULT)
            case "replace":
                old = nodes.pop(change.node)
                _add(layout, coming, change, change.other, change.capacity or old.capacity)
    after = tuple(sorted([*nodes.values(), *coming.values()], key=lambda node: node.node))
    for node in after:
        check_node(node)
    if not after:
        raise InvalidRequest("the last node cannot leave")
    if len(after) > NODES_MAX:
        raise LimitReached(f"a layout has at most {NODES_MAX} nodes, not {len(after)}")
    return after


def _add(
    layout: Layout, coming: dict[NodeId, LayoutNode], change: Change, name: NodeId, capacity: int
) -> None:
    if name in coming or name in layout.names:
        raise InvalidRequest(f"node {name} cannot come in twice ({change.action} {change.node})")
    coming[name] = LayoutNode(name, change.host, change.zone, capacity)


def next_layout(layout: Layout, changes: Collection[Change]) -> Layout:
    """The layout after ``changes``: one version on, placed with as few moves as it takes.

    A node that replaces another takes over exactly its partitions, as far as labels and capacities allow it.

    Raises:
        InvalidRequest: As ``changed_nodes``.
    Cost: as ``placement.place``.
    """
    nodes = changed_nodes(layout, changes)
    heirs = {change.node: change.other for change in changes if change.action == "replace"}
    before = [heirs.get(name, name) for name in layout.names]
    rows = place(nodes, layout.partitions, layout.replicas, before=(before, layout.assignment))
    return Layout(layout.version + 1, layout.partitions, layout.replicas, nodes, rows)


class LayoutState:
    """What one node knows of the layout: the current one and what is staged on it. Shared by gossip."""

    name: Final = "layout"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._staged: dict[NodeId, Change] = {}
        self._export = self._digest = b""
        self._next: Layout | None = None

    @property
    def staged(self) -> tuple[Change, ...]:
        """Changes that the next commit makes, by node."""
        return tuple(self._staged[node] for node in sorted(self._staged) if not _reverted(self._staged[node]))

    def digest(self) -> bytes:
        """16 bytes, equal where everything known is equal."""
        if not self._digest:
            self._digest = BLAKE3.digest(self.export())
        return self._digest

    def export(self) -> bytes:
        """All of it, for ``merge`` on another node, or on this one after a restart."""
        if not self._export:
            staged = tuple(self._staged[node] for node in sorted(self._staged))
            self._export = msgspec.msgpack.encode(_Shared(self.layout.encoded, staged))
        return self._export

    def merge(self, data: bytes) -> bool:
        """Learn what another node exported; whether that was anything new.

        Raises:
            ProtocolError: Not such bytes, or of another number of partitions; nothing is changed.
        """
        try:
            shared = msgspec.msgpack.decode(data, type=_Shared)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"not the state of a layout: {error}") from None
        known = self.layout
        theirs = known if shared.layout == known.encoded else Layout.decode(shared.layout)
        if theirs.partitions != known.partitions:
            raise ProtocolError(f"a layout of {theirs.partitions} partitions, not {known.partitions}")
        if (theirs.version, theirs.digest) < (known.version, known.digest):
            return False
        changed = theirs is not known and theirs != known
        staged = {} if changed else dict(self._staged)
        for change in shared.staged:
            mine = staged.get(change.node)
            if mine is None or _rank(change) > _rank(mine):
                staged[change.node] = change
        if not changed and staged == self._staged:
            return False
        self._set(theirs if changed else known, staged)
        return True

    def stage(self, change: Change) -> None:
        """Add a change, in place of what was staged for that node; its stamp is given here.

        Raises:
            InvalidRequest: It does not fit the layout and what else is staged.
            Unavailable: This node has not heard of its cluster's layout yet.
        """
        if self.layout.version == 0:
            # Else its first version would rival the founder's.
            raise Unavailable("this node has not heard of the cluster's layout yet")
        if change.action == "revert":
            raise InvalidRequest("a change is a join, leave, weight or replace")
        others = [staged for staged in self.staged if staged.node != change.node]
        changed_nodes(self.layout, [*others, change])
        self._put([change])

    def revert(self) -> None:
        """Take back everything that is staged."""
        self._put([Change("revert", change.node) for change in self.staged])

    def plan(
        self,
        *,
        sizes: Mapping[int, int] | None = None,
        occupied: Callable[[int], bool] | None = None,
        copies: Collection[int] = (),
    ) -> Plan:
        """What a commit would do now; nothing changes.

        Args:
            sizes: Bytes of each partition on one replica; those not named are empty.
            occupied: Whether any node holds data of a partition. None: nothing is known to be held.
            copies: The N of every bucket that has another one than the layout's ``replicas``.
        Cost: the first time after a change as ``placement.place``.
        """
        staged = self.staged
        refusal = "" if staged else "nothing is staged"
        try:
            if staged and self._next is None:
                self._next = next_layout(self.layout, staged)
        except InvalidRequest as error:
            # Each was checked when it was staged; on two nodes at once, two may contradict each other.
            refusal = f"the staged changes contradict each other: {error}"
        after = self._next or self.layout
        return compare(
            self.layout, after, staged, sizes=sizes, occupied=occupied, copies=copies, refusal=refusal
        )

    def committed(self, plan: Plan) -> Layout:
        """Make the plan's layout the current one, on which nothing is staged but what came after the plan.

        Raises:
            InvalidRequest: The plan carries a refusal, or was made on another layout than the current one.
        """
        if plan.refusal:
            raise InvalidRequest(plan.refusal)
        if reason := vote(self, plan.version, plan.before.digest):
            raise InvalidRequest(reason)
        made = set(plan.changes)
        self._set(plan.after, {node: later for node, later in self._staged.items() if later not in made})
        return self.layout

    def as_document(self) -> dict[str, Any]:
        """The layout's document with what is staged."""
        return {**self.layout.as_document(), "staged": [change.as_document() for change in self.staged]}

    def _put(self, changes: Iterable[Change]) -> None:
        stamp = 1 + max((change.stamp for change in self._staged.values()), default=0)
        stamped = {change.node: msgspec.structs.replace(change, stamp=stamp) for change in changes}
        staged = {**self._staged, **stamped}
        if len(staged) > STAGED_MAX:
            raise LimitReached(f"at most {STAGED_MAX} changes are staged between two commits")
        self._set(self.layout, staged)

    def _set(self, layout: Layout, staged: dict[NodeId, Change]) -> None:
        self.layout, self._staged, self._next = layout, staged, None
        self._export = self._digest = b""


def vote(state: LayoutState, version: int, base: bytes) -> str:
    """Why a node does not agree that ``version`` be made out of the layout with digest ``base``; ``""``: it
    agrees.
    """
    known = state.layout
    if version != known.version + 1:
        return f"the layout is at version {known.version}, so the next is {known.version + 1}, not {version}"
    if base != known.digest:
        return f"another layout of version {known.version} is current here"
    return ""


def _reverted(change: Change) -> bool:
    return change.action == "revert"


def _rank(change: Change) -> tuple[int, bytes]:
    return change.stamp, msgspec.msgpack.encode(change)
