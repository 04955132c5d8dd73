"""All links of a node: whom to dial and when, which of two crossing links stays, who is silent.

Pure: connections are opened by a subclass (``tcp.py``, ``memory.py``), and ``tick`` is called with the time,
some twenty times a second. Everything that depends on time happens there.

One link per node and lane. Whoever knows an address may dial. Of two nodes that know each other the one with
the smaller id does, the other one only after a grace time. Where both do at once:

- **Who is dialled decides, who dials obeys.** A dialled node that has a live link of that lane to the same
  run of the dialling node, or that has greeted it itself and has the smaller id, refuses. Otherwise it lets
  it in, and gives its own attempt up.
- A WELCOME is therefore the newest word: a link that the dialling node let in meanwhile is one the other side
  has given up, and is replaced.
- A link on which nothing was heard for some two heartbeats does not count as live: the other side may have
  lost it already.

A peer that is silent for ``peer_timeout_ms``, or takes nothing of what is queued for so long, has its link
closed. Everything that is sent is a sign of life; a PING is sent where nothing else was. A bulk link that
nobody uses rests: the data link's signs of life count for it, and it is closed with that one. If this process
itself stood still (a stopped process, a long write), that time is not held against anyone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from sadik.comms.handshake import Dialled, Dialling, Greeted, key_of, refuse
from sadik.comms.link import SILENT, Counters, Link, Wire
from sadik.comms.messages import BULK, DATA, LANES, LINKED, MYSELF, NOT_ADMITTED, Refuse
from sadik.comms.throttle import Throttle
from sadik.comms.transport import Identity, LinkStatistics, PortStatistics, Receiver
from sadik.config import ClusterConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.ids import NodeId
from sadik.kernels import frames
from sadik.settings import Address

log = logging.getLogger("sadik.comms")

BACKOFF_MIN_MS: Final = 50
BACKOFF_MAX_MS: Final = 2000
GRACE_MS: Final = 250
"""So long the node with the greater id waits for the other one to dial: some first attempts and their jitter.
"""
STEADY_MS: Final = 1000
"""A link that was up for so long was a success: the next attempt does not go on with the backoff of those
before.
"""
STRANGERS_MAX: Final = 64
"""Connections in their handshake, which takes a round trip; the oldest makes room for one more. With what
each may hold before it is known, that is about 1 MiB.
"""
NODES_MAX: Final = 1024
"""Nodes linked at once; the design is for a hundred."""
UNASKED_BYTES: Final = 256 * 1024
"""Longer frames ask for the length of the queue first, as all do once the wire says that much is queued."""

ATTEMPTS_A_LINE: Final = 30
"""Attempts that fail alike are logged once, and then every minute or so."""

_MS: Final = 1_000_000
_NEVER_NS: Final = 2**63
_NOBODY: Final = NodeId("")


@dataclass(slots=True, eq=False)
class Dial:
    """An address to dial, again and again.

    Attributes:
        node: Who is wanted there; ``""`` for an introduction.
        found: Who was last found there.
        due_ns: Not dialled before. failures: Attempts since the last success.
        pending: A connection is being opened, or is in its handshake as ``link``.
    """

    address: Address
    lane: int
    node: NodeId
    due_ns: int
    found: NodeId = _NOBODY
    failures: int = 0
    attempts: int = 0
    pending: bool = False
    link: Link | None = None
    reason: str = ""


class Links:
    """Everything of a ``Transport`` but the opening of connections; a subclass gives ``start``, ``stop``,
    ``_open``.

    Args:
        identity: Who this node is in handshakes.
        secret: What every node of the cluster knows; None asks nobody for it.
        payload_bytes_max: Longest payload of a frame; longer ones are neither sent nor taken.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        secret: bytes | None,
        config: ClusterConfig,
        clock: Clock,
        entropy: Entropy,
        payload_bytes_max: int,
        receiver: Receiver | None = None,
    ) -> None:
        self.identity = identity
        self._key = key_of(secret)
        self._clock = clock
        self._entropy = entropy
        self._payload_bytes_max = payload_bytes_max
        self._frame_bytes_max = payload_bytes_max + frames.HEADER_BYTES
        self._queue_bytes_max = config.peer_queue_bytes_max
        self._timeout_ns = config.peer_timeout_ms * _MS
        self._heartbeat_ns = config.heartbeat_interval_ms * _MS
        self.tick_ns = min(50 * _MS, self._heartbeat_ns // 4, self._timeout_ns // 8)
        self._throttle = Throttle(clock)
        if receiver is not None:
            self.set_receiver(receiver)

        self._up: tuple[dict[NodeId, Link], ...] = tuple({} for _ in LANES)
        self._strangers: dict[Link, Dial | None] = {}
        self._parting: dict[Link, tuple[int, str]] = {}
        self._dials: dict[tuple[NodeId, int], Dial] = {}
        self._introductions: dict[Address, Dial] = {}
        self._counters: dict[tuple[NodeId, int], Counters] = {}
        self._running = False
        self._ticked_ns = clock.monotonic_ns()
        self._accepted = 0
        self._welcomed = 0
        self._refused = 0
        self._broken = 0
        self._timed_out = 0
        self._displaced = 0

    def set_receiver(self, receiver: Receiver) -> None:
        """Who hears of everything; before ``start``."""
        self._receiver = receiver

    # What a Transport offers.

    def connect(self, node: NodeId, address: Address) -> None:
        """Keep both lanes to a node; see ``Transport``."""
        if node == self.identity.node:
            raise ValueError(f"node {node} does not connect to itself")
        for introduction in list(self._introductions.values()):
            if introduction.found == node:
                self._abandon(introduction)
        now_ns = self._clock.monotonic_ns()
        for lane in LANES:
            dial = self._dials.get((node, lane))
            if dial is None:
                patience_ns = 0 if self.identity.node < node else self._jitter(GRACE_MS)
                dial = Dial(address, lane, node, now_ns + patience_ns)
                self._dials[node, lane] = dial
            elif dial.address != address:
                dial.address = address
                dial.failures = 0
                dial.due_ns = now_ns
            self._dial_if_due(dial, now_ns)

    def introduce(self, address: Address) -> None:
        """Dial an address until its node is known; see ``Transport``."""
        if address not in self._introductions:
            now_ns = self._clock.monotonic_ns()
            dial = Dial(address, DATA, NodeId(""), now_ns)
            self._introductions[address] = dial
            self._dial_if_due(dial, now_ns)

    def forget(self, node: NodeId) -> None:
        """Close the links to a node and dial it no more; see ``Transport``."""
        for introduction in list(self._introductions.values()):
            if introduction.found == node:
                self._abandon(introduction)
        for lane in LANES:
            if dial := self._dials.pop((node, lane), None):
                self._give_up(dial)
            if link := self._up[lane].pop(node, None):
                # Told of when the connection has ended: the caller may be in the middle of something.
                self._part(link, tell="forgotten")
            self._counters.pop((node, lane), None)

    def is_up(self, node: NodeId, lane: int = DATA) -> bool:
        return node in self._up[lane]

    def send(self, node: NodeId, frame: bytes, lane: int = DATA) -> bool:
        """Queue an encoded frame; see ``Transport``."""
        link = self._up[lane].get(node)
        if link is None:
            return False
        if (link.congested or len(frame) > UNASKED_BYTES) and not self._has_room(link, len(frame)):
            return False
        link.send(frame)
        return True

    def queued_bytes(self, node: NodeId, lane: int) -> int:
        link = self._up[lane].get(node)
        return 0 if link is None else link.wire.queued_bytes()

    def statistics(self) -> list[LinkStatistics]:
        return [
            LinkStatistics(
                node=node,
                lane=lane,
                up=(link := self._up[lane].get(node)) is not None,
                queued_bytes=0 if link is None else link.wire.queued_bytes(),
                frames_out=counters.frames_out,
                frames_in=counters.frames_in,
                bytes_out=counters.bytes_out,
                bytes_in=counters.bytes_in,
                round_trip_ns=counters.round_trip_ns,
                refused_full=counters.refused_full,
                reconnects=counters.links - 1,
            )
            for (node, lane), counters in sorted(self._counters.items())
        ]

    def port_statistics(self) -> PortStatistics:
        return PortStatistics(
            accepted=self._accepted,
            welcomed=self._welcomed,
            refused=self._refused,
            broken=self._broken,
            timed_out=self._timed_out,
            displaced=self._displaced,
        )

    # What a subclass gives and tells.

    def _open(self, dial: Dial, attempt: int) -> None:
        """Open a connection to ``dial.address``; later, not before this returns, tell ``opened`` or
        ``failed``.
        """
        raise NotImplementedError

    def accepted(self, wire: Wire) -> Link:
        """Someone has connected; the caller feeds the link from now on."""
        self._accepted += 1
        if sum(dial is None for dial in self._strangers.values()) >= STRANGERS_MAX:
            oldest = next(link for link, dial in self._strangers.items() if dial is None)
            self._displaced += 1
            self._say("displaced", "%d connections without a greeting: the oldest is closed", STRANGERS_MAX)
            self._close(oldest, "displaced")
        link = self._new_link(wire, Dialled(self.identity, self._key, self._entropy))
        self._strangers[link] = None
        link.begin()
        return link

    def opened(self, dial: Dial, attempt: int, wire: Wire) -> Link | None:
        """What ``_open`` was asked for is there; None: it is not wanted any more, and aborted."""
        if not dial.pending or attempt != dial.attempts:
            wire.abort()
            return None
        greeting = Dialling(self.identity, self._key, self._entropy, lane=dial.lane, wanted=dial.node)
        link = self._new_link(wire, greeting)
        dial.link = link
        self._strangers[link] = dial
        return link

    def failed(self, dial: Dial, attempt: int, reason: str) -> None:
        """No connection could be opened."""
        if dial.pending and attempt == dial.attempts:
            self._try_later(dial, f"cannot be reached: {reason}")

    def tick(self) -> None:
        """Let time pass: heartbeats, silence, attempts that are due."""
        now_ns = self._clock.monotonic_ns()
        pause_ns = now_ns - self._ticked_ns - self.tick_ns
        self._ticked_ns = now_ns
        # The bulk lane first: whether a link of it rests is asked when the data link is found to be silent.
        everyone = [*self._strangers, *self._up[BULK].values(), *self._up[DATA].values()]
        if pause_ns > self.tick_ns:
            for link in everyone:
                link.forgive(pause_ns)
        for link in everyone:
            if link.ended:
                continue
            reason = link.tick(now_ns, heartbeat_ns=self._heartbeat_ns, timeout_ns=self._timeout_ns)
            if reason:
                self._timed_out += not link.up and not link.dialled_by_us
                self._close(link, reason)
                resting = self._up[BULK].get(link.identity.node) if reason == SILENT else None
                if resting is not None and resting.resting:
                    self._close(resting, reason)
        for link, (since_ns, _) in list(self._parting.items()):
            if now_ns - since_ns >= self._timeout_ns:
                link.wire.abort()
        for dial in [*self._dials.values(), *self._introductions.values()]:
            if now_ns >= dial.due_ns:
                self._dial_if_due(dial, now_ns)

    def begin(self) -> None:
        """Dial from now on."""
        self._running = True
        self._ticked_ns = self._clock.monotonic_ns()
        self.tick()

    def finish(self) -> None:
        """Dial no more and part from everybody; ``is_parting`` until the last link has ended."""
        self._running = False
        for dial in [*self._dials.values(), *self._introductions.values()]:
            self._give_up(dial)
        self._dials.clear()
        self._introductions.clear()
        for link in list(self._strangers):
            self._close(link, "this node stops")
        for links in self._up:
            for link in list(links.values()):
                del links[link.identity.node]
                self._part(link, tell="this node stops")

    @property
    def is_parting(self) -> bool:
        """Some link has not ended yet that was closed gently."""
        return bool(self._parting)

    # What links ask and tell.

    def on_greeted(self, link: Link, greeted: Greeted) -> Refuse | None:
        identity, lane, _ = greeted
        me = self.identity
        if (identity.node, identity.actor) == (me.node, me.actor):
            return Refuse(MYSELF, "this is the node that dials")
        if reason := self._receiver.admit(identity):
            return Refuse(NOT_ADMITTED, reason)
        existing = self._up[lane].get(identity.node)
        if existing is not None:
            if existing.identity.actor == identity.actor and self._is_live(existing):
                return Refuse(LINKED, f"node {identity.node} has a link here already", me.node)
        elif len(self._up[lane]) >= NODES_MAX:
            return Refuse(NOT_ADMITTED, f"more than {NODES_MAX} nodes")
        dial = self._dials.get((identity.node, lane))
        greeted_by_us = dial is not None and dial.link is not None and dial.link.has_greeted
        if existing is None and greeted_by_us and me.node < identity.node:
            return Refuse(LINKED, f"node {me.node} dials node {identity.node} at this moment", me.node)
        return None

    def on_welcomed(self, link: Link, greeted: Greeted) -> Refuse | None:
        identity = greeted.identity
        if (identity.node, identity.actor) == (self.identity.node, self.identity.actor):
            return Refuse(MYSELF, "this is the node that dials")
        if reason := self._receiver.admit(identity):
            return Refuse(NOT_ADMITTED, f"not let in here: {reason}")
        return None

    def on_up(self, link: Link) -> None:
        dial = self._strangers.pop(link)
        identity, lane = link.identity, link.lane
        node = identity.node
        if dial is not None:
            # Before anyone is told anything: who hears of it may connect or forget at once.
            dial.found = node
            dial.pending = False
            dial.link = None
        if existing := self._up[lane].get(node):
            self._close(existing, "replaced by a newer link")
        for parting, (since_ns, tell) in list(self._parting.items()):
            if tell and (parting.identity.node, parting.lane) == (node, lane):
                # Down is told before up, though the old connection has not ended yet.
                self._parting[parting] = (since_ns, "")
                self._tell(parting, tell)
        for links in self._up:
            if (other := links.get(node)) and other.identity.actor != identity.actor:
                self._close(other, "the node has started again")
        resting = self._up[BULK].get(node)
        if lane == DATA and resting is not None and not self._is_live(resting):
            # What broke the data link before may have broken this one too.
            resting.wake(self._clock.monotonic_ns())
        known = self._dials.get((node, lane))
        if known is not None and known is not dial and known.pending:
            self._give_up(known)
        counters = self._count(node, lane)
        counters.links += 1
        link.set_up(self._receiver.on_frames, counters)
        self._up[lane][node] = link
        if dial is None:
            self._welcomed += 1
        elif not dial.node and (node, lane) in self._dials:
            self._introductions.pop(dial.address, None)
        log.debug("link to node %s, lane %d, %s is up", node, lane, link.wire.peer())
        if lane == DATA:
            self._receiver.on_link_up(identity)

    def on_refused(self, link: Link, refusal: Refuse) -> None:
        dial = self._strangers.pop(link, None)
        peer = link.wire.peer()
        if dial is None:
            self._refused += 1
            link.wire.write(refuse(refusal))
            self._part(link)
            if refusal.code == NOT_ADMITTED:
                name = f" as node {link.identity.node}" if link.identity.node else ""
                self._say("refused", "%s%s is not let in: %s", peer, name, refusal.reason)
            return
        link.end()
        dial.link = None
        if refusal.code == MYSELF and not dial.node:
            self._introductions.pop(dial.address, None)
            dial.pending = False
        elif refusal.code == LINKED:
            dial.found = NodeId(refusal.node)
            self._try_later(dial, "")
        else:
            self._try_later(dial, f"does not let this node in: {refusal.reason}")

    def on_broken(self, link: Link, reason: str, *, protocol: bool) -> None:
        if protocol:
            self._broken += 1
            self._say("broken", "%s does not speak the protocol: %s", link.wire.peer(), reason)
        self._close(link, reason)

    # Ends.

    def _close(self, link: Link, reason: str) -> None:
        """End a link at once, in whatever state, and tell who has to know."""
        node, lane = link.identity.node, link.lane
        if link in self._strangers:
            dial = self._strangers.pop(link)
            link.end()
            if dial is not None:
                dial.link = None
                self._try_later(dial, reason)
        elif self._up[lane].get(node) is link:
            del self._up[lane][node]
            link.end()
            self._redial(link, reason)
            self._tell(link, reason)
        elif link in self._parting:
            _, tell = self._parting.pop(link)
            if tell:
                self._tell(link, tell)

    def _part(self, link: Link, tell: str = "") -> None:
        """End a link that is in no table any more once what is queued is sent; the receiver is told ``tell``
        then.
        """
        self._parting[link] = (self._clock.monotonic_ns(), tell)
        link.end(gently=True)

    def _tell(self, link: Link, reason: str) -> None:
        node = link.identity.node
        log.debug("link to node %s, lane %d, %s is down: %s", node, link.lane, link.wire.peer(), reason)
        if link.lane == DATA:
            self._receiver.on_link_down(node, reason)
        else:
            self._receiver.on_bulk_down(node, reason)

    def _has_room(self, link: Link, size: int) -> bool:
        queued = link.wire.queued_bytes()
        # One frame of any length passes an empty queue, however low the limit is set.
        if size <= self._frame_bytes_max and (not queued or queued + size <= self._queue_bytes_max):
            return True
        link.counters.refused_full += 1
        return False

    def _is_live(self, link: Link) -> bool:
        # What was sent is seen in the next tick, and a sign of life is sent in one: a tick late each.
        patience_ns = 2 * (self._heartbeat_ns + self.tick_ns)
        return link.heard or self._clock.monotonic_ns() - link.heard_ns < patience_ns

    def _new_link(self, wire: Wire, greeting: Dialled | Dialling) -> Link:
        return Link(self, wire, greeting, payload_bytes_max=self._payload_bytes_max, clock=self._clock)

    def _count(self, node: NodeId, lane: int) -> Counters:
        """A lane's counters. Without a secret anyone may come under ever new names: those of nobody are
        dropped.
        """
        counters = self._counters.get((node, lane))
        if counters is None:
            if len(self._counters) >= 2 * NODES_MAX * len(LANES):
                for key in list(self._counters):
                    if key not in self._dials and key[0] not in self._up[key[1]]:
                        del self._counters[key]
            counters = self._counters[node, lane] = Counters()
        return counters

    # Dialling.

    def _dial_if_due(self, dial: Dial, now_ns: int) -> None:
        if dial.pending or now_ns < dial.due_ns or not self._running:
            return
        if (dial.node or dial.found) in self._up[dial.lane]:
            # Until that link is lost: see _redial.
            dial.due_ns = _NEVER_NS
            return
        if not dial.node and (dial.found, dial.lane) in self._dials:
            self._abandon(dial)
            return
        dial.pending = True
        dial.attempts += 1
        self._open(dial, dial.attempts)

    def _try_later(self, dial: Dial, reason: str) -> None:
        """An attempt was in vain; without a reason, because it was not needed."""
        dial.pending = False
        dial.failures += 1
        backoff_ms = min(BACKOFF_MIN_MS << min(dial.failures - 1, 16), BACKOFF_MAX_MS)
        dial.due_ns = self._clock.monotonic_ns() + self._jitter(backoff_ms)
        if reason and (reason != dial.reason or dial.failures % ATTEMPTS_A_LINE == 0):
            dial.reason = reason
            name = f"node {dial.node}" if dial.node else "the node"
            self._say("dial", f"{name} at %s, attempt %d: %s", dial.address, dial.failures, reason)

    def _redial(self, link: Link, reason: str) -> None:
        """A link that was up is gone: who has to dial does so soon, the other side after its grace time."""
        node, now_ns = link.identity.node, self._clock.monotonic_ns()
        steady = now_ns - link.up_ns >= STEADY_MS * _MS
        dials = [
            dial for dial in self._introductions.values() if dial.found == node and dial.lane == link.lane
        ]
        if (known := self._dials.get((node, link.lane))) is not None:
            dials.append(known)
        for dial in dials:
            if dial.pending:
                continue
            if steady:
                dial.failures = 0
                dial.reason = ""
            self._try_later(dial, "")
            if dial.node and self.identity.node > node:
                dial.due_ns += self._jitter(GRACE_MS)

    def _give_up(self, dial: Dial) -> None:
        """End the attempt under way, if there is one."""
        dial.pending = False
        link, dial.link = dial.link, None
        if link is not None:
            del self._strangers[link]
            link.end()

    def _abandon(self, introduction: Dial) -> None:
        self._give_up(introduction)
        self._introductions.pop(introduction.address, None)

    def _jitter(self, milliseconds: int) -> int:
        """Between half of it and all of it, in ns: nodes that lost each other at once do not come back at
        once.
        """
        return milliseconds * _MS // 2 + random_uint64(self._entropy) * (milliseconds * _MS // 2) // 2**64

    def _say(self, topic: str, text: str, *arguments: object) -> None:
        """Warn, some lines a second at most of each topic: strangers must not fill the disk."""
        dropped = self._throttle.admit(topic)
        if dropped is not None:
            log.warning(
                text + (" (and %d such lines before)" if dropped else ""),
                *arguments,
                *([dropped] if dropped else []),
            )
