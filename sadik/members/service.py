"""Membership as a running part of a node: gossip rounds, links to the members, views for everyone else.

``Members`` owns the member table and the layout, brings them and whatever else is shared to all nodes, keeps
them over restarts, tells the transport whom to be linked with, and makes a new ``View`` whenever the layout
or a link changes. All of that is synchronous; only calls to other nodes are awaited.

Failure detection is the links' (Dynamo 4.8.3): a node is up here while this node has a link to it, whatever
others say. It counts in the view once this node has heard its gossip over that link: a flush or a layout that
is not known here comes before any request is decided together with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from sadik.comms.messages import DATA, Kind, encode
from sadik.comms.service import Peers
from sadik.comms.transport import Identity, Transport
from sadik.config import ClusterConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import InvalidRequest, ProtocolError, SadikError, StorageError, Unavailable
from sadik.ids import NodeId
from sadik.members.bootstrap import (
    ALIVE,
    LAYOUT,
    MEMBERS,
    JoinAnswer,
    JoinRequest,
    NodeFacts,
    encode_alive,
    open_layout,
    open_members,
)
from sadik.members.gossip import Gossip, Learned, Shared
from sadik.members.layout import Change, Layout, LayoutState, vote
from sadik.members.own_record import OwnRecord, admission
from sadik.members.plan import Plan
from sadik.members.state import Member, presence, refusal
from sadik.members.view import View
from sadik.members.voting import VoteAnswer, Voter, VoteRequest, decode_answer, decode_request, missed
from sadik.settings import Address

log = logging.getLogger("sadik.members")

CALL_TIMEOUT_MS: Final = 2000
SPREAD_PEERS: Final = 3
"""Nodes that hear of a local change at once; with three, a round trip or two reach a small cluster."""
SEED_ROUNDS: Final = 10
"""Every so many rounds go to a seed: parts that do not know of each other meet there (Dynamo 4.8.2)."""
ALIVE_INTERVAL_MS: Final = 60_000
TASKS_MAX: Final = 64
"""Tasks beside the one that times the rounds; while so many wait for answers no further round begins."""

_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class MembersStatistics:
    """Since the start of the process.

    Attributes:
        rounds, failed: Exchanges begun here, and those of them without an answer.
        changes: Messages that brought something new. rejected: Parts of messages that could not be merged.
        bytes_out, bytes_in: Payloads of gossip, of both sides.
        members: Records of nodes that did not leave. live: Those of them that are up, this node included.
        gossip_age_ms: Since the last exchange with anybody; 0 for a node without others.
        rivals: How often another run had written this node's record.
    """

    rounds: int
    failed: int
    changes: int
    rejected: int
    bytes_out: int
    bytes_in: int
    members: int
    live: int
    gossip_age_ms: int
    rivals: int


class Members:
    """Membership of one node.

    Args:
        stored: What ``store`` was last given, by name; at a node's first start what the JOIN answer gives.
        store: Keeps a small value; may raise StorageError, and is then asked again.
        shared: What else all nodes come to agree on, beside members and layout.
    Attributes:
        state: The layout and what is staged. Read only: changes go through the methods here.
        view: The current view.
        on_fault: Called once when there is a ``fault``, with it.
    Raises:
        WrongFormat: This directory's node has left the cluster, or has lived on another directory since.
        CorruptRecord: ``stored`` cannot be read.
    """

    def __init__(
        self,
        facts: NodeFacts,
        config: ClusterConfig,
        *,
        peers: Peers,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        stored: Mapping[str, bytes],
        store: Callable[[str, bytes], None],
        shared: Sequence[Shared] = (),
        seeds: Sequence[Address] = (),
    ) -> None:
        self.facts = facts
        self.me = facts.node
        self.on_fault: Callable[[str], None] = _ignore
        self._config = config
        self._peers = peers
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._seeds = tuple(seeds)
        self._table = open_members(stored)
        self.state: LayoutState = open_layout(facts, stored)
        self._gossip = Gossip([self._table, self.state, *shared])
        self._kept = {name: stored.get(name, b"") for name in (MEMBERS, LAYOUT)}
        self._alive_stored_ms: int | None = None

        self._links: dict[NodeId, Identity] = {}
        self._heard: dict[NodeId, None] = {}
        self._since: dict[NodeId, tuple[int, int]] = {}
        self._dialled: dict[NodeId, str] = {}
        self._theirs: dict[NodeId, Mapping[str, bytes]] = {}

        self._began = (clock.monotonic_ns(), clock.wall_ms())
        self._met_ns = self._began[0]
        self._counts = dict.fromkeys(("rounds", "failed", "changes", "rejected", "bytes_out", "bytes_in"), 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._spreading = False
        self._unspread = False
        self._subscribers: list[Callable[[View], None]] = []

        self._own = OwnRecord(facts, self._table, clock)
        self._voter = Voter(self.state, clock)
        self.view = View(1, self.state.layout, self.me, ())
        peers.admission = self.admit
        peers.watch(self._on_up, self._on_down)
        peers.serve(Kind.GOSSIP, self._on_gossip)
        peers.serve(Kind.JOIN, self._on_join)
        peers.serve(Kind.VOTE, self._on_vote)

    @property
    def fault(self) -> str:
        """Why this node must stop, or empty: it has left, or another process runs under its id."""
        return self._own.fault

    # Life.

    def set_addresses(self, *, peer: str, resp: str, http: str) -> None:
        """Where this node is reached, as others shall use it; known once its listeners are bound."""
        self._own.move(peer=peer, resp=resp, http=http)
        self.local_change()

    def start(self) -> None:
        """Dial seeds and members, and begin the rounds, on the running event loop."""
        self._running = True
        for seed in self._seeds:
            if str(seed) != self._own.record.peer:
                self._transport.introduce(seed)
        self._settle()
        self._spawn(self._rounds)
        for node in self._live():
            self._spawn(partial(self._exchange, node))

    async def stop(self) -> None:
        """End the rounds, and keep the time for the next start. Links are the transport's to close."""
        self._running = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._alive_stored_ms = None
        self._keep()

    def subscribe(self, on_view: Callable[[View], None]) -> None:
        """Call with every new view from now on, at once when it is made."""
        self._subscribers.append(on_view)

    async def leave(self, *, timeout_ms: int = CALL_TIMEOUT_MS) -> None:
        """Leave the cluster for good; returns when another node has heard of it.

        Raises:
            InvalidRequest: The layout still has this node.
            Unavailable: It is on record here, and no other node could be told yet; gossip goes on trying.
        """
        if self.state.layout.number_of(self.me) >= 0:
            raise InvalidRequest(f"node {self.me} is in the layout: stage its leave and commit that first")
        self._own.depart()
        self._settle()
        others = self._live()
        told = await asyncio.gather(*(self._exchange(node, timeout_ms=timeout_ms) for node in others))
        if not any(told):
            raise Unavailable("no other node could be told that this one leaves", maybe_applied=True)

    # The layout.

    def stage(self, change: Change) -> None:
        """Stage a change and spread it. Labels and capacity of a node that comes in are, unless given, those
        of its member record.

        Raises:
            InvalidRequest: It does not fit, or the node that comes in is no member.
        """
        self.state.stage(self._complete(change))
        self.local_change()

    def revert(self) -> None:
        """Take back everything that is staged."""
        self.state.revert()
        self.local_change()

    def plan(
        self,
        *,
        sizes: Mapping[int, int] | None = None,
        occupied: Callable[[int], bool] | None = None,
        copies: Collection[int] = (),
    ) -> Plan:
        """What a commit would do; as ``LayoutState.plan``."""
        return self.state.plan(sizes=sizes, occupied=occupied, copies=copies)

    async def commit(self, plan: Plan, force: bool = False) -> Layout:
        """Make the plan's layout the cluster's, once a majority of the current layout's nodes agrees.

        Args:
            force: Do without the majority; of two layouts of one version all nodes come to the same.
        Raises:
            InvalidRequest: The plan carries a refusal, or was made on another layout than the current one.
            QuorumMissed: Too few agreed; nothing was changed.
        """
        if reason := plan.refusal or vote(self.state, plan.version, plan.before.digest):
            raise InvalidRequest(reason)
        before = self.state.layout
        request = VoteRequest(plan.version, before.digest, self.state.export())
        votes = await asyncio.gather(*(self._ask_vote(node, request) for node in before.names))
        error = missed(before, plan.version, dict(zip(before.names, votes, strict=True)))
        if error is not None:
            if not force:
                raise error
            log.warning("a layout is committed by force: %s", error)
        layout = self.state.committed(plan)
        self.local_change()
        return layout

    async def _ask_vote(self, node: NodeId, request: VoteRequest) -> str:
        if node == self.me:
            return self._voter.vote(node, request.version, request.base)
        try:
            answer = await self._peers.call(node, Kind.VOTE, encode(request), timeout_ms=CALL_TIMEOUT_MS)
            return decode_answer(answer).reason
        except SadikError as error:
            return str(error)

    def _complete(self, change: Change) -> Change:
        if change.action not in ("join", "replace"):
            return change
        node = change.node if change.action == "join" else change.other
        member = self._table.get(node)
        if member is None or member.state == "left":
            raise InvalidRequest(f"node {node} is not a member of the cluster: start it with a seed first")
        capacity = change.capacity or (member.capacity if change.action == "join" else 0)
        return msgspec.structs.replace(
            change, host=change.host or member.host, zone=change.zone or member.zone, capacity=capacity
        )

    # What people and others look at.

    def member(self, node: NodeId) -> Member | None:
        """A node's record."""
        return self._table.get(node)

    def members(self) -> list[dict[str, Any]]:
        """All members, sorted by id, with what this node sees of them; for the admin API."""
        links = [link for link in self._transport.statistics() if link.lane == DATA]
        round_trips = {link.node: link.round_trip_ns for link in links}
        return [self._describe(record, round_trips.get(record.node, 0)) for record in self._table.records()]

    def _describe(self, record: Member, round_trip_ns: int) -> dict[str, Any]:
        up = self._is_up(record.node)
        since_ns, since_ms = self._since.get(record.node, self._began)
        down_ms = (self._clock.monotonic_ns() - since_ns) // _MS
        state = presence(record, up=up, down_ms=down_ms)
        return {
            "node": record.node,
            "state": state,
            "in_layout": self.state.layout.number_of(record.node) >= 0,
            "incarnation": record.incarnation,
            "actor": f"{record.actor:016x}",
            "peer": record.peer,
            "resp": record.resp,
            "http": record.http,
            "zone": record.zone,
            "host": record.host,
            "capacity": record.capacity,
            "since_ms": record.changed_ms if state == "left" or record.node == self.me else since_ms,
            "round_trip_ms": round(round_trip_ns / _MS, 3),
        }

    def statistics(self) -> MembersStatistics:
        """A snapshot for metrics."""
        present = [record for record in self._table.records() if record.state == "alive"]
        others = any(record.node != self.me for record in present)
        age_ms = (self._clock.monotonic_ns() - self._met_ns) // _MS if others else 0
        live = sum(self._is_up(record.node) for record in present)
        return MembersStatistics(
            members=len(present), live=live, gossip_age_ms=age_ms, rivals=self._own.rivals, **self._counts
        )

    def _is_up(self, node: NodeId) -> bool:
        return node == self.me or node in self._links

    # Who is let in.

    def admit(self, identity: Identity) -> str:
        """Why a node that shakes hands is not let in, or ``""``. One that is not born yet may only JOIN."""
        return admission(identity, self.facts, self._table, self._links.get(identity.node))

    def _on_up(self, identity: Identity) -> None:
        if identity.cluster_id != self.facts.cluster_id or identity.node == self.me:
            return
        self._links[identity.node] = identity
        self._heard.pop(identity.node, None)
        self._since[identity.node] = self._now()
        self._theirs.pop(identity.node, None)
        log.info("node %s is up", identity.node)
        self._look()
        if self._running:
            self._spawn(partial(self._exchange, identity.node))

    def _on_down(self, node: NodeId, reason: str) -> None:
        if self._links.pop(node, None) is None:
            return
        self._heard.pop(node, None)
        self._since[node] = self._now()
        log.info("node %s is down: %s", node, reason)
        self._look()

    def _now(self) -> tuple[int, int]:
        return self._clock.monotonic_ns(), self._clock.wall_ms()

    # Requests of other nodes.

    def _on_gossip(self, sender: NodeId, payload: bytes) -> bytes:
        if sender not in self._links:
            raise InvalidRequest(f"node {sender} is not a member here")
        self._counts["bytes_in"] += len(payload)
        reply = self._gossip.message(self._learn(sender, payload).theirs)
        self._counts["bytes_out"] += len(reply)
        return reply

    def _on_join(self, sender: NodeId, payload: bytes) -> bytes:
        try:
            msgspec.msgpack.decode(payload, type=JoinRequest)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"not a request to join: {error}") from None
        layout = self.state.layout
        if not layout.version:
            raise Unavailable(f"node {self.me} has not heard of its cluster's layout itself yet")
        log.info("node %s asks for the facts of the cluster", sender)
        return encode(
            JoinAnswer(
                cluster=self.facts.cluster,
                cluster_id=self.facts.cluster_id,
                partitions=self.facts.partitions,
                hash=self.facts.hash,
                replicas=layout.replicas,
                members=self._table.export(),
                layout=self.state.export(),
            )
        )

    def _on_vote(self, sender: NodeId, payload: bytes) -> bytes:
        if sender not in self._links:
            raise InvalidRequest(f"node {sender} is not a member here")
        request = decode_request(payload)
        if self.state.merge(request.layout):
            self._settle()
        return encode(VoteAnswer(self._voter.vote(sender, request.version, request.base)))

    # Rounds.

    def local_change(self) -> None:
        """Something shared was changed on this node: keep it, make a view of it, tell some others at once."""
        self._settle()
        self._unspread = True
        if self._running and not self._spreading:
            self._spreading = True
            self._spawn(self._spread)

    async def _spread(self) -> None:
        try:
            while self._unspread:
                self._unspread = False
                chosen = self._choose(self._live(), SPREAD_PEERS)
                await asyncio.gather(*(self._exchange(node) for node in chosen))
        finally:
            self._spreading = False

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(self._config.gossip_interval_ms / 1000)
            self._begin_round()

    def _begin_round(self) -> None:
        # Not awaited: one that does not answer must not hold up the next round.
        if len(self._tasks) <= TASKS_MAX:
            self._spawn(self.round)

    async def round(self) -> None:
        """One round of gossip with a random live node, and what is to be done now and then."""
        self._drop_links()
        self._keep()
        live = self._live()
        self._counts["rounds"] += 1
        if self._counts["rounds"] % SEED_ROUNDS == 0:
            addresses = {str(seed) for seed in self._seeds}
            live = [node for node in live if self._peer_of(node) in addresses] or live
        unheard = [node for node in self._live() if node not in self._heard]
        chosen = dict.fromkeys(self._choose(live, 1) + self._choose(unheard, 1))
        if len(chosen) == 1:
            await self._exchange(*chosen)
        else:
            await asyncio.gather(*(self._exchange(node) for node in chosen))

    async def _exchange(self, node: NodeId, *, timeout_ms: int = CALL_TIMEOUT_MS) -> bool:
        """Gossip with one node; whether it answered."""
        try:
            learned = await self._call(node, self._theirs.get(node, {}), timeout_ms)
            if not self._gossip.agrees(learned.theirs):
                # It lacks something. Once is enough: what changes meanwhile has the next round.
                await self._call(node, learned.theirs, timeout_ms)
        except SadikError as error:
            self._counts["failed"] += 1
            log.debug("no gossip with node %s: %s", node, error)
            return False
        if node in self._links and node not in self._heard:
            self._heard[node] = None
            self._look()
        return True

    async def _call(self, node: NodeId, theirs: Mapping[str, bytes], timeout_ms: int) -> Learned:
        message = self._gossip.message(theirs)
        self._counts["bytes_out"] += len(message)
        reply = await self._peers.call(node, Kind.GOSSIP, message, timeout_ms=timeout_ms)
        self._counts["bytes_in"] += len(reply)
        return self._learn(node, reply)

    def _learn(self, node: NodeId, message: bytes) -> Learned:
        learned = self._gossip.learn(message)
        self._met_ns = self._clock.monotonic_ns()
        if node in self._links:
            self._theirs[node] = learned.theirs
        if learned.rejected:
            self._counts["rejected"] += len(learned.rejected)
            log.warning("gossip of node %s is not understood: %s", node, "; ".join(learned.rejected))
        if learned.changed:
            self._counts["changes"] += 1
            self._settle()
        return learned

    def _live(self) -> list[NodeId]:
        """Other nodes that have a link, sorted."""
        return sorted(self._links)

    def _choose(self, nodes: Sequence[NodeId], count: int) -> list[NodeId]:
        """Up to ``count`` of them at random."""
        left = list(nodes)
        return [left.pop(random_uint64(self._entropy) % len(left)) for _ in range(min(count, len(left)))]

    def _peer_of(self, node: NodeId) -> str:
        record = self._table.get(node)
        return record.peer if record is not None else ""

    def _spawn(self, work: Callable[[], Awaitable[object]]) -> None:
        """A task that ends at ``stop`` at the latest."""
        task = asyncio.get_running_loop().create_task(_finish(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # After every change.

    def _settle(self) -> None:
        """Bring everything here into line with what is known: the own record, links, the disk, the view."""
        self._defend()
        self._dial()
        self._keep()
        self._look()

    def _defend(self) -> None:
        before = self._own.fault
        self._own.defend()
        if self._own.fault != before:
            log.error("%s", self._own.fault)
            self.on_fault(self._own.fault)

    def _dial(self) -> None:
        if not self._running:
            return
        for record in self._table.records():
            wanted = record.peer if record.state == "alive" and record.node != self.me else ""
            if wanted and self._dialled.get(record.node) != wanted:
                self._dialled[record.node] = wanted
                self._transport.connect(record.node, Address.parse(wanted))

    def _drop_links(self) -> None:
        """Part from those who left. A round later than they say so: the answer to that must reach them."""
        for node in sorted({*self._links, *self._dialled}):
            record = self._table.get(node)
            identity = self._links.get(node)
            left = record is not None and record.state == "left" and node in self._dialled
            if left or (identity is not None and refusal(record, identity.directory)):
                self._dialled.pop(node, None)
                self._transport.forget(node)
                self._dial()

    def _keep(self) -> None:
        """Store what has changed; what the disk refuses is tried again in the next round."""
        now_ms = self._clock.wall_ms()
        try:
            for name, data in ((MEMBERS, self._table.export()), (LAYOUT, self.state.export())):
                if self._kept[name] != data:
                    self._store(name, data)
                    self._kept[name] = data
            last_ms = self._alive_stored_ms
            if last_ms is None or abs(now_ms - last_ms) >= ALIVE_INTERVAL_MS:
                self._store(ALIVE, encode_alive(now_ms))
                self._alive_stored_ms = now_ms
        except StorageError as error:
            log.warning("members and layout cannot be kept: %s", error)

    def _look(self) -> None:
        """A new view where the layout, or who of it is up, is not as in the last one."""
        layout = self.state.layout
        up = tuple(name == self.me or name in self._heard for name in layout.names)
        if layout is self.view.layout and up == self.view.up:
            return
        self.view = View(self.view.number + 1, layout, self.me, tuple(sorted(self._heard)))
        for on_view in self._subscribers:
            on_view(self.view)


async def _finish(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except Exception:
        # Nobody awaits it, and a bug in one exchange must not stay unseen.
        log.exception("gossip failed")


def _ignore(reason: str) -> None:
    """Nobody asked to be told."""
