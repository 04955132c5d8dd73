"""How a node comes to its cluster: what it asks a seed, what it starts with, and when it must not start.

A node with seeds and an empty directory is not born yet: it asks a seed for the facts of the cluster (JOIN),
writes them into its birth record, and starts with the members and the layout that came along. It is a member
then, and holds no data until an administrator brings it into the layout.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from sadik.comms.messages import Kind, Packed, encode
from sadik.comms.service import Peers
from sadik.comms.transport import Identity, Transport
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import CorruptRecord, ProtocolError, SadikError
from sadik.ids import NodeId
from sadik.members.layout import REPLICAS_DEFAULT, Layout, LayoutNode, LayoutState
from sadik.members.state import MemberTable
from sadik.settings import Address

log = logging.getLogger("sadik.members")

MEMBERS: Final = "members"
LAYOUT: Final = "layout"
ALIVE: Final = "alive"
"""Names under which a node keeps what it must know at its next start."""

BACKOFF_FIRST_MS: Final = 100
BACKOFF_LAST_MS: Final = 5000
JOIN_TIMEOUT_MS: Final = 2000
"""For one seed's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Who this node is, in this run.

    Attributes:
        directory: Drawn at birth. actor: Drawn for this run.
        founder: It founded its cluster, so its first layout is itself alone; else it waits for the cluster's.
        partitions, replicas, hash: Of the cluster; ``replicas`` counts for a founder only.
        host, zone, capacity: What it says of itself; the layout has what it said when it was brought in.
    """

    cluster: str
    cluster_id: str
    node: NodeId
    directory: int
    actor: int
    founder: bool
    partitions: int
    hash: str
    host: str
    zone: str
    capacity: int
    replicas: int = REPLICAS_DEFAULT


class JoinRequest(Packed, frozen=True):
    """JOIN: who wants to be born."""

    node: NodeId


class JoinAnswer(Packed, frozen=True):
    """The facts of the cluster, and what the seed knows of it."""

    cluster: str
    cluster_id: str
    partitions: int
    hash: str
    replicas: int
    members: bytes
    layout: bytes

    def stored(self) -> dict[str, bytes]:
        """What the node starts with in place of what it had kept."""
        return {MEMBERS: self.members, LAYOUT: self.layout}


def decode_answer(data: bytes) -> JoinAnswer:
    """Raises ProtocolError: not the answer to a JOIN."""
    try:
        answer = msgspec.msgpack.decode(data, type=JoinAnswer)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not an answer to a JOIN: {error}") from None
    if not answer.cluster_id:
        raise ProtocolError("the answer to a JOIN names no cluster")
    return answer


def open_members(stored: Mapping[str, bytes]) -> MemberTable:
    """The members as they were kept. Raises CorruptRecord."""
    table = MemberTable()
    _load(table, stored.get(MEMBERS))
    return table


def open_layout(facts: NodeFacts, stored: Mapping[str, bytes]) -> LayoutState:
    """The layout as it was kept; a founder's first one; or none yet. Raises CorruptRecord."""
    if facts.founder:
        alone = LayoutNode(facts.node, facts.host, facts.zone, facts.capacity)
        first = Layout.founded(alone, facts.partitions, facts.replicas)
    else:
        first = Layout.empty(facts.partitions, facts.replicas)
    data = stored.get(LAYOUT)
    state = LayoutState(first if data is None else Layout.empty(facts.partitions, facts.replicas))
    _load(state, data)
    return state


def _load(shared: MemberTable | LayoutState, data: bytes | None) -> None:
    if data is None:
        return
    try:
        shared.merge(data)
    except ProtocolError as error:
        raise CorruptRecord(f"what was kept of the {shared.name} cannot be read: {error}") from None


def encode_alive(wall_ms: int) -> bytes:
    """The time of being alive, as it is kept (``ALIVE``)."""
    return max(0, wall_ms).to_bytes(8, "big")


def away_ms(stored: Mapping[str, bytes], me: NodeId, wall_ms: int) -> int:
    """How long this node was not running, by what it kept; 0 for one that knows of no other living member:
    nobody has said anything that it did not hear. A wall clock that has gone back gives 0: it cannot be told.

    Raises:
        CorruptRecord: What was kept cannot be read.
    """
    data = stored.get(ALIVE)
    if data is None:
        return 0
    if len(data) != 8:
        raise CorruptRecord(f"the time this node was last alive has {len(data)} bytes, not 8")
    if not any(member.node != me and member.state == "alive" for member in open_members(stored).records()):
        return 0
    return max(0, wall_ms - int.from_bytes(data, "big"))


def backoff_ms(attempt: int, entropy: Entropy) -> int:
    """How long to wait after the failed ``attempt``, counted from 0: doubling, with a jitter of half."""
    whole = min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS << min(attempt, 16))
    return whole // 2 + random_uint64(entropy) % (whole // 2 + 1)


async def join(
    me: NodeId,
    *,
    peers: Peers,
    transport: Transport,
    seeds: Sequence[Address],
    entropy: Entropy,
    pause: Callable[[float], Awaitable[None]],
) -> JoinAnswer:
    """Ask seeds for the facts of their cluster, again and again until one answers; cancel it to give up.

    Args:
        peers, transport: Started, of a node that is not born yet (an ``Identity`` without cluster id). The
            caller stops them afterwards, and starts anew as who the node is then.
        pause: Waits some seconds (``asyncio.sleep``).
    """
    linked: dict[NodeId, None] = {}

    def on_up(identity: Identity) -> None:
        linked[identity.node] = None

    def on_down(node: NodeId, reason: str) -> None:
        linked.pop(node, None)

    peers.watch(on_up, on_down)
    for seed in seeds:
        transport.introduce(seed)
    attempt = 0
    while True:
        for node in list(linked):
            try:
                request = encode(JoinRequest(me))
                return decode_answer(await peers.call(node, Kind.JOIN, request, timeout_ms=JOIN_TIMEOUT_MS))
            except SadikError as error:
                log.warning("node %s does not let this one join yet: %s", node, error)
        if attempt % 10 == 9 and not linked:
            log.warning("none of the seeds %s can be reached yet", ", ".join(map(str, seeds)))
        await pause(backoff_ms(attempt, entropy) / 1000)
        attempt += 1
