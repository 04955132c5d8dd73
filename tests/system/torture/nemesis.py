"""Kills, stops, splits, wipes and damages the nodes of a running cluster, and writes it all down."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from sadik.sim.history import Fault, FaultKind, History, Recovery, Run
from tests.system.cluster_harness import START_TIMEOUT_S, Cluster, ClusterNode
from tests.system.torture import disks
from tests.system.torture.network import Network

_POLL_S = 0.02
_PEEK = 0.3
"""Share of kills after which the dead node's disk is looked at."""
_SPOILED = 0.15
"""Share of kills after which a file that can be made anew is damaged."""
_PATIENT = 0.6
"""Share of kills that wait until all nodes serve: there must be something that can be lost."""
_LOSSES = 0.6
"""Of the unlucky node's kills in a round with losses."""
_PATIENCE_S = 10.0
_AGAIN = 0.3
"""Share of starts in which the node is killed again before it serves, or just when it does."""
_START_S = 3.0
REFUSALS = ("CorruptRecord", "a system value is unreadable")
"""How a node says that it does not start on a damaged disk."""


@dataclass(frozen=True, slots=True)
class Temper:
    """How bad it gets; times in seconds, between two bounds.

    Attributes:
        kill_every_s, disturb_every_s: From one kill, or one of all other faults, to the next.
        losses: Whether one node, always the same one, loses or damages its disk.
    """

    kill_every_s: tuple[float, float] = (2.0, 5.0)
    disturb_every_s: tuple[float, float] = (3.0, 8.0)
    down_s: tuple[float, float] = (0.0, 1.5)
    pause_s: tuple[float, float] = (0.1, 6.0)
    split_s: tuple[float, float] = (1.0, 8.0)
    losses: bool = False


class Nemesis:
    """Attributes:
    counts: Faults by kind. found: What went wrong beside the history: (invariant, text).
    """

    def __init__(
        self,
        cluster: Cluster,
        network: Network,
        history: History,
        rng: random.Random,
        temper: Temper,
        now_ms: Callable[[], float],
        keys: Callable[[], Collection[bytes]],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.found: list[tuple[str, str]] = []
        self._cluster = cluster
        self._network = network
        self._history = history
        self._rng = rng
        self._temper = temper
        self._now_ms = now_ms
        self._keys = keys
        self._unlucky = rng.choice(cluster.nodes)
        self._busy: set[str] = set()
        self._paused: dict[str, Fault] = {}
        self._runs: dict[str, Run] = {}
        self._acts: set[asyncio.Task[None]] = set()
        for node in cluster.nodes:
            self._begin_run(node)

    async def run(self, seconds: float) -> None:
        """Do harm for so long; what has begun is over when it returns, but for nodes that do not start."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        await asyncio.gather(self._kill_again(until_s), self._disturb_again(until_s))
        await self._join()
        self.heal()

    def heal(self) -> None:
        """Nothing is stopped or split any more."""
        self._network.mend()
        for node in self._cluster.nodes:
            self._resume(node)
        for fault in self._history.faults:
            if fault.kind == "split" and fault.end_ms < 0:
                fault.end_ms = self._now_ms()

    def close(self) -> None:
        """The runs of nodes are over."""
        for run in self._runs.values():
            run.end_ms = self._now_ms()

    async def start(self, node: ClusterNode, fault: Fault) -> None:
        """Start a node that is down; one that refuses its damaged disk gets an empty one.

        ``fault`` is over when it serves.
        """
        for _ in range(2):
            node.start(wait=False)
            if await self._serves(node):
                fault.end_ms = self._now_ms()
                self._begin_run(node)
                return
            log = node.log_tail(40)
            if node.running:
                self.found.append(("X", f"{node.name} has not started in {START_TIMEOUT_S:g} s: {log}"))
                return
            hurt = any(one.kind == "flip" and node.name in one.nodes for one in self._history.faults)
            if not hurt or not any(text in log for text in REFUSALS):
                self.found.append(("X", f"{node.name} does not start: {log}"))
                return
            self._wipe(node, "refused its damaged disk")

    # Life and death.

    async def _kill_again(self, until_s: float) -> None:
        loop, rng = asyncio.get_running_loop(), self._rng
        while True:
            await asyncio.sleep(rng.uniform(*self._temper.kill_every_s))
            if rng.random() < _PATIENT:
                await self._all_serve()
            if loop.time() > until_s:
                return
            well = [node for node in self._cluster.nodes if node.name not in self._busy]
            count = rng.choice((1,) * 10 + (2, len(self._cluster)))
            for node in rng.sample(well, min(count, len(well))):
                self._act(self._kill(node))

    async def _all_serve(self) -> None:
        """Wait until they do, but not for ever."""
        for _ in range(int(_PATIENCE_S / _POLL_S)):
            if all(node.serves for node in self._cluster.nodes):
                return
            await asyncio.sleep(_POLL_S)

    async def _kill(self, node: ClusterNode) -> None:
        rng = self._rng
        self._busy.add(node.name)
        try:
            if not node.running:
                self.found.append(("X", f"{node.name} has ended by itself: {node.log_tail(40)}"))
            fault = self._note("crash", node)
            node.kill()
            self._paused_no_more(node)
            self._runs[node.name].end_ms = self._now_ms()
            if rng.random() < _PEEK:
                await self._peek(node, fault)
            if node is self._unlucky and self._temper.losses and rng.random() < _LOSSES:
                if rng.random() < 0.3:
                    self._wipe(node, "")
                else:
                    self._damage(node, "flip", disks.flip)
            elif rng.random() < _SPOILED:
                self._damage(node, "derived", disks.spoil_derived)
            await asyncio.sleep(rng.uniform(*self._temper.down_s))
            while rng.random() < _AGAIN:
                fault = await self._kill_in_start(node, fault)
            await self.start(node, fault)
        finally:
            self._busy.discard(node.name)

    async def _kill_in_start(self, node: ClusterNode, fault: Fault) -> Fault:
        """Start a node that is down for the length of a blink; the fault of which it is down now."""
        node.start(wait=False)
        await asyncio.sleep(self._rng.uniform(0, _START_S))
        if not node.running:
            # Whether it may refuse to start is looked at when it is to stay.
            return fault
        now_ms = fault.end_ms = self._now_ms()
        if node.serves:
            self._history.add(Run(node.name, now_ms, now_ms))
        fault = self._note("crash", node)
        node.kill()
        return fault

    async def _serves(self, node: ClusterNode) -> bool:
        """Wait for a node's ready line; False if it ends instead."""
        deadline_s = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline_s:
            if not node.running:
                return False
            if node.serves:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    def _begin_run(self, node: ClusterNode) -> None:
        self._runs[node.name] = run = Run(node.name, self._now_ms())
        self._history.add(run)

    async def _peek(self, node: ClusterNode, fault: Fault) -> None:
        rotten = any(one.kind == "flip" and node.name in one.nodes for one in self._history.faults)
        try:
            sets = await asyncio.to_thread(disks.held, node, self._keys())
        except Exception as error:  # noqa: BLE001  (whatever it is, the disk cannot be opened)
            if not rotten:
                self.found.append(("S2", f"the disk of {node.name} cannot be opened: {error!r}"))
            return
        self._history.add(Recovery(node.name, self._now_ms(), "crash", fault.start_ms, sets))

    def _wipe(self, node: ClusterNode, detail: str) -> None:
        fault = self._note("wiped", node, detail)
        node.wipe()
        fault.end_ms = self._now_ms()

    def _damage(
        self, node: ClusterNode, kind: FaultKind, damage: Callable[[Path, random.Random], str | None]
    ) -> None:
        where = damage(node.directory, self._rng)
        if where is not None:
            fault = self._note(kind, node, where)
            if kind == "derived":
                fault.end_ms = fault.start_ms

    # Everything else.

    async def _disturb_again(self, until_s: float) -> None:
        loop, rng = asyncio.get_running_loop(), self._rng
        while True:
            await asyncio.sleep(rng.uniform(*self._temper.disturb_every_s))
            if loop.time() > until_s:
                return
            if self._network.can_split and rng.random() < 0.5:
                self._act(self._split())
            else:
                self._act(self._pause(rng.choice(self._cluster.nodes)))

    async def _pause(self, node: ClusterNode) -> None:
        if node.name in self._busy or node.name in self._paused or not node.running:
            return
        fault = self._paused[node.name] = self._note("pause", node)
        node.pause()
        await asyncio.sleep(self._rng.uniform(*self._temper.pause_s))
        if self._paused.get(node.name) is fault:
            self._resume(node)

    def _resume(self, node: ClusterNode) -> None:
        if node.name in self._paused:
            node.resume()
            self._paused_no_more(node)

    def _paused_no_more(self, node: ClusterNode) -> None:
        fault = self._paused.pop(node.name, None)
        if fault is not None:
            fault.end_ms = self._now_ms()

    async def _split(self) -> None:
        """One way or both: between two nodes, one and the others, or two camps."""
        rng, nodes = self._rng, self._cluster.nodes
        order = rng.sample(range(len(nodes)), len(nodes))
        size = rng.choice((1, 1, len(nodes) // 2))
        here, there = order[:size], order[size:]
        if rng.random() < 0.3:
            there = there[:1]
        ways = [(here, there), (there, here)]
        rng.shuffle(ways)
        faults: list[Fault] = []
        paths: list[tuple[int, int]] = []
        for senders, receivers in ways[: rng.choice((1, 2))]:
            paths += [(one, other) for one in senders for other in receivers]
            fault = Fault(
                "split",
                self._now_ms(),
                nodes=tuple(nodes[one].name for one in senders),
                others=tuple(nodes[one].name for one in receivers),
            )
            faults.append(fault)
            self._history.add(fault)
        self.counts["split"] += 1
        self._network.cut(paths)
        await asyncio.sleep(rng.uniform(*self._temper.split_s))
        self._network.mend(paths)
        for fault in faults:
            fault.end_ms = self._now_ms()

    # Bookkeeping.

    def _note(self, kind: FaultKind, node: ClusterNode, detail: str = "") -> Fault:
        fault = Fault(kind, self._now_ms(), nodes=(node.name,), detail=detail)
        self._history.add(fault)
        self.counts[kind] += 1
        return fault

    def _act(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)

    async def _join(self) -> None:
        while self._acts:
            await asyncio.gather(*self._acts)
