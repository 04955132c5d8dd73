"""Brings about the faults of a plan, each at its time and for as long, and writes them down."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from functools import partial

from sadik.sim.cluster import SimCluster
from sadik.sim.faults import Fault as DiskFault
from sadik.sim.files import UNLIMITED, SimFiles
from sadik.sim.history import Fault, FaultKind, History
from sadik.sim.network import Weather
from sadik.sim.plan import Disturbance
from sadik.sim.sometimes import Sometimes

DOWN: tuple[FaultKind, ...] = ("crash", "power_cut", "derived", "wiped", "restored", "copied")
"""What a node is started again after."""
NOT_YET = float("inf")
_ROOM_BYTES = 4096
_NEWEST_BYTES = (2048, 512)
_SLOWER = 30


class Nemesis:
    """Attributes:
    last_end: Why a node that has not started again was ended.
    """

    def __init__(
        self,
        cluster: SimCluster,
        history: History,
        sometimes: Sometimes,
        now_ms: Callable[[], float],
    ) -> None:
        self.last_end: dict[str, Fault] = {}
        self._cluster = cluster
        self._history = history
        self._sometimes = sometimes
        self._now_ms = now_ms
        self._names = list(cluster.nodes)
        self._backups: dict[str, tuple[float, SimFiles]] = {}
        self._open: dict[int, Fault] = {}

    async def run(self, disturbances: tuple[Disturbance, ...]) -> None:
        """Go through all of them; returns when the last is over."""
        loop = self._cluster.loop
        began_s = loop.now_s
        acts: list[tuple[float, int, Callable[[], None]]] = []
        for number, one in enumerate(disturbances):
            if one.kind == "restored":
                acts.append((one.at_s / 2, len(acts), partial(self.back_up, self._names[one.nodes[0]])))
            acts.append((one.at_s, len(acts), partial(self._begin, number, one)))
            acts.append((one.at_s + one.lasts_s, len(acts), partial(self._end, number, one)))
        for at_s, _, act in sorted(acts, key=lambda act: act[:2]):
            await asyncio.sleep(max(0.0, began_s + at_s - loop.now_s))
            act()

    def _begin(self, number: int, one: Disturbance) -> None:
        names = tuple(self._names[index] for index in one.nodes)
        others = tuple(self._names[index] for index in one.others)
        begun = getattr(self, f"_begin_{one.kind}")(one, names, others)
        if begun is False:
            return
        start_ms = NOT_YET if one.kind == "sync_failed" else self._now_ms()
        fault = Fault(one.kind, start_ms, -1, names, others, begun if isinstance(begun, str) else "")
        self._open[number] = fault
        self._history.add(fault)
        if one.kind in DOWN:
            for name in names:
                self.last_end[name] = fault
        self._cluster.trace.note("fault", one.kind, *names, *others)
        self._sometimes.see(f"fault {one.kind}")

    def _end(self, number: int, one: Disturbance) -> None:
        fault = self._open.pop(number, None)
        if fault is None:
            return
        getattr(self, f"_end_{one.kind}")(one, fault)
        fault.end_ms = self._now_ms()
        if fault.start_ms == NOT_YET:
            # There was no sync to fail: its node was started again, no more.
            fault.kind, fault.start_ms, fault.detail = "crash", fault.end_ms, ""
        self._cluster.trace.note("over", one.kind, *fault.nodes, *fault.others)

    # The network.

    def _paths(self, senders: tuple[str, ...], receivers: tuple[str, ...]) -> list[tuple[str, str]]:
        hosts = self._cluster.nodes
        return [(hosts[one].host, hosts[other].host) for one in senders for other in receivers]

    def _begin_split(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> None:
        for path in self._paths(names, others):
            self._cluster.network.close_path(*path)

    def _end_split(self, one: Disturbance, fault: Fault) -> None:
        for path in self._paths(fault.nodes, fault.others):
            self._cluster.network.open_path(*path)

    def _begin_slow(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> None:
        for sender, receiver in self._paths(names, others):
            path = self._cluster.network.path(sender, receiver)
            usual = self._cluster.network.weather
            path.weather = Weather(usual.latency_s * _SLOWER, 0.05, usual.bytes_per_s / 100, 0.2)

    def _end_slow(self, one: Disturbance, fault: Fault) -> None:
        for sender, receiver in self._paths(fault.nodes, fault.others):
            self._cluster.network.path(sender, receiver).weather = self._cluster.network.weather

    def _begin_clog(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> None:
        for sender, receiver in self._paths(names, others):
            path = self._cluster.network.path(sender, receiver)
            path.clogged_until_s = max(path.clogged_until_s, self._cluster.loop.now_s + one.lasts_s)

    def _end_clog(self, one: Disturbance, fault: Fault) -> None:
        """It ends by itself."""

    def _begin_reset(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        paths = self._paths(names, others)
        return sum(self._cluster.network.reset(*path) for path in paths) > 0

    def _end_reset(self, one: Disturbance, fault: Fault) -> None:
        """It is over at once."""

    # Processes.

    def _begin_crash(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        node = self._cluster.nodes[names[0]]
        if not node.alive:
            return False
        if one.amount % 3 == 0 and node.up:
            # In the middle of one of its next operations on the disk; at the end it is killed if there
            # was none.
            script = node.disk.script
            node.disk.crash_before(len(script.trace) + one.amount % 7, taken=one.amount % 50)
        else:
            node.kill()
        return True

    def _end_crash(self, one: Disturbance, fault: Fault) -> None:
        self._restart(fault)

    def _begin_power_cut(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        nodes = [self._cluster.nodes[name] for name in names if self._cluster.nodes[name].alive]
        if len(nodes) < len(names):
            return False
        for node in nodes:
            node.power_cut(random.Random(one.amount))
        return True

    def _end_power_cut(self, one: Disturbance, fault: Fault) -> None:
        self._restart(fault)

    def _begin_pause(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        node = self._cluster.nodes[names[0]]
        if not node.alive or node.process.paused:
            return False
        node.pause()
        return True

    def _end_pause(self, one: Disturbance, fault: Fault) -> None:
        self._cluster.nodes[fault.nodes[0]].resume()

    def _begin_clock(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> str:
        self._cluster.nodes[names[0]].clock.offset_ms = one.amount
        return str(one.amount)

    def _end_clock(self, one: Disturbance, fault: Fault) -> None:
        # Another one of the same clock may go on.
        name = fault.nodes[0]
        left = [other for other in self._open.values() if other.kind == "clock" and name in other.nodes]
        self._cluster.nodes[name].clock.offset_ms = int(left[-1].detail) if left else 0

    # Disks.

    def _begin_sync_failed(
        self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]
    ) -> str | bool:
        node = self._cluster.nodes[names[0]]
        if not node.up:
            return False
        store = "hints" if one.amount % 4 == 0 else "data"
        pattern = "*/hints/*" if store == "hints" else "*/log/*"
        node.disk.inject(DiskFault("sync", errno.EIO, path=pattern, loses=bool(one.amount % 2)))
        node.disk.script.on_fault = partial(self._on_disk_fault, node.name)
        return store

    def _on_disk_fault(self, name: str, struck: DiskFault) -> None:
        """A sync has failed only when there was one: from then on the node may not acknowledge."""
        for fault in self._open.values():
            if struck.kind == "sync" and fault.kind == "sync_failed" and name in fault.nodes:
                fault.start_ms = self._now_ms()

    def _end_sync_failed(self, one: Disturbance, fault: Fault) -> None:
        # Its operator starts it again.
        node = self._cluster.nodes[fault.nodes[0]]
        node.disk.clear_faults()
        if node.alive:
            node.kill()
        self._restart(fault)

    def _begin_full(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> None:
        disk = self._cluster.nodes[names[0]].disk
        disk.capacity_bytes = sum(len(disk.content(path)) for path in disk.paths()) + one.amount % _ROOM_BYTES

    def _end_full(self, one: Disturbance, fault: Fault) -> None:
        self._cluster.nodes[fault.nodes[0]].disk.capacity_bytes = UNLIMITED

    def _begin_eio(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> None:
        disk = self._cluster.nodes[names[0]].disk
        disk.inject(DiskFault("read", errno.EIO, path="*.segment", skip=one.amount % 5, times=3))

    def _end_eio(self, one: Disturbance, fault: Fault) -> None:
        self._cluster.nodes[fault.nodes[0]].disk.clear_faults()

    def _begin_flip(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        return self._rot(names[0], random.Random(one.amount))

    def _end_flip(self, one: Disturbance, fault: Fault) -> None:
        # It goes on to the end, and stays until it is repaired.
        self._rot(fault.nodes[0], random.Random(one.amount + 1))

    def _rot(self, name: str, rng: random.Random) -> bool:
        """Flip bits of a disk; False where there is nothing to flip."""
        node = self._cluster.nodes[name]
        paths = [path for path in node.disk.paths() if path.endswith(".segment") and node.disk.content(path)]
        if node.up and node.node.hints.statistics().present and rng.random() < 0.5:
            # What waits for others is seldom there, and soon gone.
            paths = [path for path in paths if "/hints/" in path]
        if not paths:
            return False
        # What is read is mostly what was written last.
        path = rng.choice((rng.choice(paths), max(paths, key=lambda path: len(node.disk.content(path)))))
        size = len(node.disk.content(path))
        first = max(0, size - rng.choice((size, *_NEWEST_BYTES)))
        for _ in range(rng.choice((1, 1, 3, 12))):
            node.disk.flip(path, rng.randrange(first, size), 1 << rng.randrange(8))
        return True

    def _begin_derived(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        node = self._cluster.nodes[names[0]]
        if not node.alive:
            return False
        node.kill()
        rng = random.Random(one.amount)
        for path in node.disk.paths():
            if path.endswith(".keydir") and (content := node.disk.content(path)):
                if rng.random() < 0.3:
                    node.disk.remove(path)
                else:
                    node.disk.damage(path, rng.randrange(len(content)), bytes([rng.randrange(256)]))
        return True

    def _end_derived(self, one: Disturbance, fault: Fault) -> None:
        self._restart(fault)

    def _begin_wiped(self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]) -> bool:
        return self._replace(names[0], one, SimFiles())

    def _end_wiped(self, one: Disturbance, fault: Fault) -> None:
        self._restart(fault)

    def _begin_restored(
        self, one: Disturbance, names: tuple[str, ...], others: tuple[str, ...]
    ) -> str | bool:
        at_ms, disk = self._backups.get(names[0], (0.0, None))
        if disk is None or not self._replace(names[0], one, disk.fork()):
            return False
        return str(at_ms)

    def _end_restored(self, one: Disturbance, fault: Fault) -> None:
        self._restart(fault)

    def back_up(self, name: str) -> None:
        """Copy a node's disk as it is now, for ``restored``."""
        disk = self._cluster.nodes[name].disk.fork()
        disk.capacity_bytes = UNLIMITED
        self._backups[name] = (self._now_ms(), disk)

    def _replace(self, name: str, one: Disturbance, disk: SimFiles) -> bool:
        node = self._cluster.nodes[name]
        if not node.alive:
            return False
        if one.amount % 2:
            node.kill()
        else:
            node.power_cut(random.Random(one.amount))
        node.adopt_disk(disk)
        return True

    # Its end.

    def _restart(self, fault: Fault) -> None:
        for name in fault.nodes:
            node = self._cluster.nodes[name]
            if node.alive and fault.kind == "crash":
                # The operation in whose middle it was to die never came.
                node.kill()
            if not node.alive:
                node.start()
