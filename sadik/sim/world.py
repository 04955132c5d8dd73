"""One run: cluster, clients and faults go through a plan; then everything is healed and looked at."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sadik.comms.transport import Identity
from sadik.ids import NodeId
from sadik.kernels import versions
from sadik.node import birth
from sadik.node.repair.hints import Hint
from sadik.sim.client import Journal, SimClient
from sadik.sim.cluster import NotInTime, SimCluster
from sadik.sim.faults import CrashPoint
from sadik.sim.files import SimFiles
from sadik.sim.history import (
    End,
    Fault,
    FaultKind,
    History,
    MemberSeen,
    NodeEnd,
    Operation,
    Owners,
    Phase,
    Recovery,
    Run,
    Setup,
    StoredSet,
    Suspicion,
)
from sadik.sim.history import Hints as HintsAccount
from sadik.sim.loop import PROCESS, VirtualLoop
from sadik.sim.nemesis import Nemesis
from sadik.sim.node import SimNode
from sadik.sim.outside import SeededEntropy, true_ms
from sadik.sim.plan import Plan, Step
from sadik.sim.session_client import SessionClient
from sadik.sim.shape import MIB
from sadik.sim.sometimes import Sometimes
from sadik.sim.trace import Trace
from sadik.sim.witness import address_of, watch_deliveries

READY_S: Final = 20.0
EQUAL_S: Final = 30.0
ROT: Final[tuple[FaultKind, ...]] = ("flip", "torn", "sync_failed", "eio")
"""After these a disk may be so damaged that a node refuses to start on it."""
DAMAGE: Final[tuple[FaultKind, ...]] = (*ROT, "wiped", "restored")
LOSSES: Final[tuple[FaultKind, ...]] = (*DAMAGE, "power_cut", "full")
"""After these a disk may have less than its node has said."""
"""After these a disk has not what it had."""
_OVERTIME: Final = 1.5
"""Clients give up what they had still to do after so many horizons."""
_ATTEMPTS: Final = 6
"""To read or write a key when all is well: a packet that was sent before may still be under way."""
_POLL_S: Final = 0.1


def _pause_s(attempt: int) -> float:
    """Before the next one: a link that a packet has broken is up again in half a second or so."""
    return _POLL_S * (1 + attempt)


@dataclass
class Findings:
    """What went wrong beside the history: (invariant, text)."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, invariant: str, text: str) -> None:
        self.found.append((invariant, text))


class World:
    """Attributes:
    history: Fills up as ``live`` goes on. findings: What no checker needs to judge.
    """

    def __init__(
        self,
        plan: Plan,
        loop: VirtualLoop,
        trace: Trace,
        disks: dict[str, SimFiles] | None,
    ) -> None:
        self.plan = plan
        self.loop = loop
        self.trace = trace
        self.history = History()
        self.findings = Findings()
        self.sometimes = Sometimes()
        self.cluster = SimCluster(
            plan.shape,
            loop,
            trace,
            str(plan.seed),
            weather=plan.weather,
            disks=disks,
            sync_s=plan.sync_s,
        )
        self._formed = disks is not None
        self._runs: dict[str, Run] = {}
        self._suspected: dict[str, dict[NodeId, Suspicion]] = {}
        self._known: dict[tuple[str, str], tuple[int, str]] = {}
        self._held: dict[str, list[StoredSet]] = {}
        self._nemesis = Nemesis(
            self.cluster,
            self.history,
            self.sometimes,
            self.now_ms,
        )
        self._journal = Journal(self.history, trace, self.now_ms)
        loop.set_exception_handler(self._on_exception)
        for node in self.cluster.nodes.values():
            node.on_start = self._on_start
            node.on_end = self._on_end

    def now_ms(self) -> float:
        """The true time."""
        return true_ms(self.loop)

    # The story.

    async def live(self) -> None:
        """Go through the plan; ``history`` is whole afterwards."""
        self.history.add(self._setup())
        cluster = self.cluster
        if self._formed:
            cluster.start()
        else:
            await cluster.form()
        await cluster.wait_until(cluster.is_ready, "all nodes serve", READY_S)
        await self._disturb()
        healed_ms, agreed_ms = await self._heal()
        if self.plan.lost:
            await self._use_core(healed_ms)
        equal_ms = await self._settle()
        await self._read_everything()
        # A slow reply may have made hints again, and reads have found what was rotten.
        try:
            await cluster.wait_until(
                lambda: not cluster.hints() and not cluster.differences(rot=True), "all is repaired", EQUAL_S
            )
        except NotInTime as error:
            self.findings.add("C1", f"{error}: {cluster.hints()} hints, {cluster.differences(rot=True)}")
        self._look(End(healed_ms, equal_ms, healed_ms, agreed_ms))

    def _setup(self) -> Setup:
        plan, shape = self.plan, self.plan.shape
        return Setup(
            seed=plan.seed,
            profile=plan.profile,
            nodes=tuple(shape.names[: shape.nodes]),
            n=min(3, shape.nodes),
            r=min(2, shape.nodes),
            w=min(2, shape.nodes),
            durability=shape.sync,
            sync_interval_ms=shape.sync_interval_ms,
            sync_stall_ms=1000 * 100 * plan.sync_s,
            skew_ms=plan.skew_ms,
            hint_life_ms=shape.hint_age_ms,
            converge_within_ms=1000 * EQUAL_S,
            agree_within_ms=1000 * READY_S,
            # Where packets may take a hundred times as long nobody can tell them from silence.
            detect_within_ms=0
            if plan.weather.slow
            else shape.peer_timeout_ms + 2 * shape.heartbeat_interval_ms,
        )

    async def _disturb(self) -> None:
        """The first phase: clients work while things go wrong."""
        plan = self.plan
        until_s = self.loop.now_s + _OVERTIME * plan.horizon_s
        steps: list[list[Step]] = [[] for _ in range(plan.clients)]
        for step in plan.steps:
            steps[step.client].append(step)
        clients = [self._client(number) for number in range(plan.clients)]
        works = [
            self.loop.spawn(client.process, client.run(steps[client.number], until_s), "client")
            for client in clients
        ]
        await self._nemesis.run(plan.disturbances)
        await self.cluster.wait_until(
            lambda: all(work.done() for work in works),
            "clients come to an end",
            _OVERTIME * plan.horizon_s + 30,
        )
        for work in works:
            # A bug of the simulator shows here.
            work.result()
        self.sometimes.see("stale read noticed", sum(client.stale_reads for client in clients))

    def _client(self, number: int) -> SimClient:
        addresses = [(node.name, node.address) for node in self.cluster.nodes.values()]
        arguments = (number, self.loop, self._journal, addresses[: self.plan.shape.nodes])
        patience_s = 2.5 * self.plan.shape.request_timeout_ms / 1000
        if number < self.plan.sessions:
            entropy = SeededEntropy(f"{self.plan.seed}/client {number}")
            return SessionClient(*arguments, patience_s=patience_s, entropy=entropy)
        return SimClient(*arguments, patience_s=patience_s)

    async def _heal(self) -> tuple[float, float]:
        """All is well again: since when, and when all nodes knew of each other again, or -1."""
        cluster = self.cluster
        cluster.network.clear_up()
        for number in self.plan.lost:
            self._lose(list(cluster.nodes.values())[number])
        healed_ms = self.now_ms()
        self.trace.note("healed")
        try:
            await cluster.wait_until(self._is_well, "all nodes serve and know it", READY_S)
        except NotInTime as error:
            down = [f"{node.name}: {node.failure}" for node in cluster.nodes.values() if not node.up]
            self.findings.add("C2", f"{error}; down are {down}, layouts {cluster.layouts()}")
            return healed_ms, -1
        return healed_ms, self.now_ms()

    def _is_well(self) -> bool:
        """Whether all nodes serve; those that are down are started by their operator."""
        for node in list(self.cluster.nodes.values())[: self.plan.shape.nodes]:
            if not node.alive and node.name not in self.cluster.lost:
                self._start_again(node)
        return self.cluster.is_ready()

    def _start_again(self, node: SimNode) -> None:
        if node.failure:
            self.trace.note("refuses", node.name, node.failure)
            self._replace_disk(node)
        node.start()

    def _replace_disk(self, node: SimNode) -> None:
        """What refuses to start on a damaged disk gets an empty one, and the others' data. Without room for
        its birth record it has an empty one, and is tried again.
        """
        now_ms = self.now_ms()
        hurt = [fault for fault in self.history.faults if node.name in fault.nodes]
        if f"{birth.FILE_NAME}.new" in node.failure and any(one.kind == "full" for one in hurt):
            self.history.add(Fault("crash", now_ms, now_ms, (node.name,)))
            return
        if not node.failure.startswith("CorruptRecord") or not any(one.kind in ROT for one in hurt):
            self.findings.add("X", f"{node.name} has ended by itself: {node.failure}")
        self.history.add(Fault("wiped", now_ms, now_ms, (node.name,)))
        self.sometimes.see("damaged disk refused")
        node.adopt_disk(SimFiles())

    def _lose(self, node: SimNode) -> None:
        """A node never comes back."""
        if node.alive:
            node.power_cut(random.Random(self.plan.seed))
        self.cluster.lost.append(node.name)
        self.history.add(Fault("power_cut", self.now_ms(), nodes=(node.name,)))
        self.sometimes.see("node lost for good")

    async def _use_core(self, since_ms: float) -> None:
        """With those that are left, every key can be read and written."""
        keys = sorted({operation.key for operation in self.history.operations})
        if not keys:
            return
        nodes = tuple(node.name for node in self.cluster.up())
        self.history.add(phase := Phase("core", since_ms, nodes=nodes))
        client = self._client(self.plan.clients + 1)
        numbers = [list(self.cluster.nodes).index(name) for name in nodes]

        async def use() -> None:
            for number, key in enumerate(keys):
                for attempt in range(_ATTEMPTS):
                    node = numbers[(number + attempt) % len(numbers)]
                    asked = len(self.history.operations)
                    await client.take(Step(client.number, 0, "rmw", (int(key[1:]),), node))
                    if all(one.outcome == "done" for one in self.history.operations[asked:]):
                        break
                    await asyncio.sleep(_pause_s(attempt))

        work = self.loop.spawn(client.process, use(), "core")
        await self.cluster.wait_until(work.done, "the core is used", 60)
        work.result()
        phase.end_ms = self.now_ms()

    async def _settle(self) -> float:
        """Wait until all replicas are equal; when they were, or -1."""
        cluster = self.cluster
        until_s = self.loop.now_s + EQUAL_S
        while self.loop.now_s < until_s:
            if not cluster.hints() and not cluster.differences(rot=False):
                return self.now_ms()
            await asyncio.sleep(_POLL_S)
        return -1

    async def _read_everything(self) -> None:
        """Every key is read from all its replicas, each time through another node.

        Where a node is lost, from two primaries. Fallbacks do not count: while links are broken by a late
        heartbeat two of them, who hold nothing, would be enough for R.
        """
        self.history.add(Phase("final", self.now_ms()))
        reader = self._client(self.plan.clients)
        names = list(self.cluster.nodes)
        nodes = [names.index(node.name) for node in self.cluster.up()]
        primaries = 2 if self.plan.lost else min(3, self.plan.shape.nodes)
        keys = list(dict.fromkeys(operation.key for operation in self.history.operations))

        async def read() -> None:
            for number, key in enumerate(sorted(keys)):
                for attempt in range(_ATTEMPTS):
                    node = nodes[(number + attempt) % len(nodes)]
                    if (await reader.read(node, key, primaries=primaries)).outcome == "done":
                        break
                    await asyncio.sleep(_pause_s(attempt))
                else:
                    self.findings.add("C2", f"{key!r} could not be read after everything was healed")

        work = self.loop.spawn(reader.process, read(), "reader")
        await self.cluster.wait_until(work.done, "all keys are read", 60)
        work.result()

    # What happens to nodes.

    def _on_start(self, node: SimNode) -> None:
        now_ms = self.now_ms()
        self.history.add(run := Run(node.name, now_ms))
        self._runs[node.name] = run
        self._watch(node)
        held = self._held.pop(node.name, None)
        fault = self._nemesis.last_end.pop(node.name, None)
        if fault is None:
            return
        if fault.kind in ("wiped", "restored"):
            self.sometimes.see("resurrection tried")
        sound = fault.kind in ("crash", "derived") and not any(
            node.name in one.nodes and one.kind in DAMAGE and one.until_ms >= fault.start_ms
            for one in self.history.faults
        )
        self.history.add(
            Recovery(
                node.name,
                now_ms,
                fault.kind,
                fault.start_ms,
                self._sets(node),
                held if sound else None,
            )
        )

    def _watch(self, node: SimNode) -> None:
        """Write down whom the node takes for down, which it may do without a fault: packets are slow. Whom it
        has not met since it was started again is as good as down.
        """
        suspected = self._suspected[node.name] = {}
        for name in self.plan.shape.names[: self.plan.shape.nodes] if node.runs > 1 else ():
            if name != node.name and not node.node.peers.is_up(NodeId(name)):
                suspected[NodeId(name)] = one = Suspicion(node.name, name, self.now_ms())
                self.history.add(one)

        def on_up(peer: Identity) -> None:
            if (one := suspected.pop(peer.node, None)) is not None:
                one.end_ms = self.now_ms()

        def on_down(peer: NodeId, reason: str) -> None:
            suspected[peer] = one = Suspicion(node.name, peer, self.now_ms())
            self.history.add(one)

        node.node.peers.watch(on_up, on_down)
        node.node.members.subscribe(lambda view: self._note_members(node))
        self._note_members(node)
        watch_deliveries(node.node.hints, partial(self._see_delivered, node))

    def _see_delivered(self, node: SimNode, hints: Sequence[Hint]) -> None:
        """What a hint was kept for is there when the hint goes, unless a disk may have lost it since."""
        for hint in hints:
            owner = self.cluster.nodes[str(hint.owner)]
            if hint.set is None or not owner.up:
                continue
            if any(one.kind in LOSSES and owner.name in one.nodes for one in self.history.faults):
                continue
            held = bytes(owner.node.engine.read_batch(1, hint.digest, MIB).data)
            if versions.merge(held, hint.set) != held:
                key = address_of(hint.name)[1]
                self.findings.add(
                    "H1", f"{node.name} drops a hint of {key!r} that {owner.name} has not taken"
                )

    def _note_members(self, node: SimNode) -> None:
        """Write down what the node knows of members, where it is not what it knew before."""
        for peer in self.cluster.nodes:
            member = node.node.members.member(NodeId(peer))
            known = self._known.get((node.name, peer))
            if member is not None and known != (seen := (member.incarnation, member.state)):
                self._known[node.name, peer] = seen
                self.history.add(MemberSeen(node.name, peer, self.now_ms(), *seen))

    def _on_end(self, node: SimNode, whole: bool) -> None:
        """A node is about to be gone; ``whole``: its disk keeps what it has."""
        self._held.pop(node.name, None)
        if node.up:
            if whole:
                self._held[node.name] = self._sets(node)
            self._count(node)
            if any(share.hints for share in node.node.hints.owners().values()):
                self.sometimes.see("hint during restart")
        self._close_run(node)

    def _close_run(self, node: SimNode) -> None:
        run = self._runs.pop(node.name, None)
        if run is not None:
            run.actors = tuple(node.actors)
            run.end_ms = self.now_ms()
        for one in self._suspected.pop(node.name, {}).values():
            one.end_ms = self.now_ms()
        node.actors.clear()

    def _sets(self, node: SimNode) -> list[StoredSet]:
        return [
            StoredSet.decode(key, encoded)
            for key, encoded in sorted(self.cluster.holdings(node.node).items())
        ]

    def _on_exception(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, CrashPoint):
            self.sometimes.see("crash in a disk operation")
            return
        if self.trace.stopped:
            # Of what is torn down after the run.
            return
        self.findings.add("X", f"{context['message']}: {type(error).__name__}: {error}")
        self.trace.note("exception", context["message"], repr(error))

    def on_log(self, record: logging.LogRecord) -> None:
        """A line of a node's log."""
        if record.exc_info and record.exc_info[1] is not None:
            self.findings.add("X", f"{record.getMessage()}: {record.exc_info[1]!r}")
        if self.trace.is_read:
            process = PROCESS.get(self.loop.harness)
            self.trace.tell("log", f"{process.name.partition('.')[0]}: {record.getMessage()}")

    # The end.

    def _look(self, end: End) -> None:
        cluster = self.cluster
        self._fill_in_dots()
        for node in cluster.up():
            self._count(node)
            self._note_members(node)
            self._close_run(node)
            accounts = node.node.hints.statistics()
            layout = node.node.members.state.layout
            end.nodes.append(
                NodeEnd(
                    node.name,
                    self._sets(node),
                    str(layout.digest),
                    layout.version,
                    tuple(map(str, node.node.members.view.nodes)),
                    hints=HintsAccount(
                        accounts.stored,
                        accounts.delivered,
                        accounts.expired,
                        accounts.dropped,
                        accounts.present,
                    ),
                )
            )
        n = min(3, self.plan.shape.nodes)
        for key in sorted({operation.key for operation in self.history.operations}):
            end.owners.append(Owners(key, tuple(cluster.preference(key)[:n])))
        self.history.add(end)
        self.history.phases[-1].end_ms = self.now_ms()

    def _fill_in_dots(self) -> None:
        """What answers do not tell and the witness has seen: dots, and what blind writes covered."""
        witness = self.cluster.witness
        for operation in self.history.operations:
            if operation.value is None:
                continue
            minted = witness.by_value.get(operation.value, [])
            operation.dots = tuple(one.dot for one in minted)
            if operation.kind == "blind" and len(minted) == 1:
                operation.covered = minted[0].covered
            if minted:
                operation.coordinator = minted[0].node
        deletes: dict[bytes, list[Operation]] = {}
        for operation in self.history.operations:
            if operation.deletes and operation.outcome != "refused":
                deletes.setdefault(operation.key, []).append(operation)
        tombstones: dict[bytes, list[Any]] = {}
        for one in witness.minted:
            if one.tombstone:
                tombstones.setdefault(one.key, []).append(one)
        for key, some in deletes.items():
            self._match(some, tombstones.get(key, []))

    def _match(self, deletes: list[Operation], tombstones: list[Any]) -> None:
        """Tombstones do not name their writers: one is a delete's if it can be nobody else's."""
        for operation in deletes:
            end_ms = operation.end_ms if operation.outcome == "done" else float("inf")
            own = [one for one in tombstones if operation.start_ms <= one.at_ms <= end_ms]
            if len(own) != 1:
                continue
            others = [
                other
                for other in deletes
                if other is not operation
                and other.start_ms <= own[0].at_ms
                and (other.outcome != "done" or own[0].at_ms <= other.end_ms)
            ]
            if not others:
                operation.dots = (own[0].dot,)
                operation.coordinator = own[0].node
                if operation.kind == "blind_delete":
                    operation.covered = own[0].covered

    def _count(self, node: SimNode) -> None:
        """Rare states that a node's own figures tell of."""
        see, figures = self.sometimes.see, node.node.instruments
        hints = node.node.hints.statistics()
        see("sloppy quorum", int(figures.sloppy.value))
        see("read repaired", sum(int(one.value) for one in figures.repaired.values()))
        see("hint kept", hints.stored)
        see("hint delivered", hints.delivered)
        see("exchange repaired", int(figures.received[3].value))
        if any(fault.kind == "split" for fault in self.history.faults):
            see("forwarded write after a split", int(figures.forwarded_out.value))
        see("torn tail", int(bool(node.node.engine.statistics().details.get("torn_bytes"))))
        see("clock behind", int(node.node.hybrid.ahead_ms() > 0))
        if len(node.actors) > 1:
            see("new actor after a loss")

    def count_operations(self) -> None:
        """Rare states that clients have seen."""
        see = self.sometimes.see
        mortal = {operation.key for operation in self.history.operations if operation.ttl_ms >= 0}
        deleted = {operation.key for operation in self.history.operations if operation.deletes}
        for operation in self.history.operations:
            if operation.kind == "read" and operation.context and not operation.values:
                see("expired", int(operation.key in mortal - deleted))
            if len(operation.values) > 2:
                see("three siblings")
            if operation.outcome == "unknown":
                see("unknown outcome")
                if operation.reason.startswith(("was lost", "closed")):
                    see("connection broken in flight")
            elif operation.outcome == "refused":
                see("refused")
            elif operation.kind == "read" and not operation.values and operation.context:
                see("tombstone read")
