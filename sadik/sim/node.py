"""One simulated machine and the node process on it: started, killed, cut off from power, paused, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final

from sadik.api.process import Outside, Serving, assemble, born, open_engine, open_hint_engine
from sadik.config import NodeConfig
from sadik.errors import SadikError
from sadik.node.birth import BirthRecord
from sadik.node.node import Node
from sadik.settings import Address
from sadik.sim.files import SimFiles
from sadik.sim.loop import Abandoned, Process, VirtualLoop
from sadik.sim.network import Network
from sadik.sim.outside import NodeClock, SeededEntropy, SimWorker, true_ms
from sadik.sim.trace import Trace
from sadik.sim.witness import Held, Witness, address_of, watch_data, watch_hints

PEER_PORT: Final = 7381
RESP_PORT: Final = 7379
HTTP_PORT: Final = 7380


def host_of(number: int) -> str:
    """The address of node ``number``, counted from 0."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


class SimNode:
    """A machine.

    Attributes:
        config: Of the next run. disk, clock: The machine's.
        process, serving: Of the run that there is, or was last; ``serving`` is None until it is up.
        failure: Why the last run has ended by itself, or ``""``.
        runs: How often it was started.
        on_start: Called when a run has opened its disk and serves.
        on_end: Called when a run is about to be gone, with whether its disk keeps all that it has now.
    """

    def __init__(
        self,
        name: str,
        host: str,
        config: NodeConfig,
        *,
        loop: VirtualLoop,
        network: Network,
        trace: Trace,
        witness: Witness,
        seed: str,
        disk: SimFiles,
        sync_s: Callable[[], float],
        with_http: bool = False,
    ) -> None:
        self.name = name
        self.host = host
        self.config = config
        self.disk = disk
        self.clock = NodeClock(loop)
        self.process = Process(f"{name}.0", host)
        self.process.alive = False
        self.serving: Serving | None = None
        self.failure = ""
        self.runs = 0
        self.actors: list[int] = []
        self.on_start: Callable[[SimNode], None] = lambda node: None
        self.on_end: Callable[[SimNode, bool], None] = lambda node, whole: None
        self._loop = loop
        self._network = network
        self._trace = trace
        self._witness = witness
        self._seed = seed
        self._sync_s = sync_s
        self._with_http = with_http
        self._main: asyncio.Task[None] | None = None
        self._stopping: asyncio.Event | None = None
        network.names[host] = name
        self.adopt_disk(disk)

    def __repr__(self) -> str:
        return f"<node {self.name}, run {self.runs}>"

    @property
    def alive(self) -> bool:
        """Whether its process runs, paused or not."""
        return self.process.alive

    @property
    def up(self) -> bool:
        """Whether it serves."""
        return self.process.alive and self.serving is not None

    @property
    def node(self) -> Node:
        assert self.serving is not None, f"{self.name} does not serve"
        return self.serving.node

    @property
    def address(self) -> Address:
        """Where Redis clients connect."""
        return Address(self.host, RESP_PORT)

    # Life.

    def adopt_disk(self, disk: SimFiles) -> None:
        """The next run has this disk."""
        self.disk = disk
        disk.script.on_operation = lambda kind, path, size: self._trace.note(
            "disk", self.name, kind, path, size
        )
        disk.script.on_crash = self._on_disk_crash

    def start(self) -> None:
        """Start a run; ``up`` tells when it serves."""
        assert not self.process.alive, f"{self.name} runs already"
        self.runs += 1
        self.failure = ""
        self.serving = None
        self.process = Process(f"{self.name}.{self.runs}", self.host)
        # Whatever an earlier process had open or locked is not any more.
        self.disk.kill()
        self._trace.note("start", self.name, self.runs)
        if self.host in self._network.unplugged:
            self._network.power_on(self.host)
        self._main = self._loop.spawn(self.process, self._run(self.process), "node")

    async def _run(self, process: Process) -> None:
        self._stopping = asyncio.Event()
        entropy = SeededEntropy(f"{self._seed}/{self.name}/{self.runs}")
        worker = SimWorker(self._loop, self._sync_s)
        outside = Outside(self.clock, entropy, self.disk, worker)
        try:
            async with contextlib.AsyncExitStack() as end:
                told = await born(self.config, self.disk, self.clock, entropy)
                end.callback(worker.close)
                serving = await assemble(
                    self.config,
                    outside,
                    end,
                    told=told,
                    with_http=self._with_http,
                    open_engine=self._open_engine,
                    open_hint_engine=self._open_hint_engine,
                )
                serving.node.on_fault = lambda reason: self._give_up(reason)
                self._seen_by(serving.node)
                self.serving = serving
                self.on_start(self)
                try:
                    await self._stopping.wait()
                except Abandoned:
                    # Nothing is closed in good order.
                    end.pop_all()
                    raise
        except (SadikError, OSError) as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._trace.note("ended", self.name, self.failure)
        self._gone(silent=False)

    def _open_engine(
        self, config: NodeConfig, birth: BirthRecord, files: Any, clock: Any, entropy: Any
    ) -> Any:
        engine = open_engine(config, birth, files, clock, entropy)
        return watch_data(engine, self._see, self._witness.attempt)

    def _seen_by(self, node: Node) -> None:
        self._vnodes = node.vnodes
        self._trace.meet(self.name, node.core.fallback_actor, "*")
        self._note_actor()

    def _note_actor(self) -> int:
        actor: int = self._vnodes.actor
        if not self.actors or self.actors[-1] != actor:
            self.actors.append(actor)
            self._trace.meet(self.name, actor)
        return actor

    def _open_hint_engine(
        self, config: NodeConfig, birth: BirthRecord, files: Any, clock: Any, entropy: Any
    ) -> Any:
        engine = open_hint_engine(config, birth, files, clock, entropy)
        return watch_hints(engine, self._see_hint, self._witness.attempt)

    def _see(self, name: bytes, encoded: Any, held: Held) -> None:
        self._witness.look(self.name, self._note_actor(), address_of(name)[1], encoded, held)

    def _see_hint(self, name: bytes, encoded: Any, digest: bytes) -> None:
        if self.serving is not None:
            node = self.node
            self._witness.look(
                self.name,
                node.core.fallback_actor,
                address_of(name)[1],
                encoded,
                lambda: node.hints.sets_for([digest])[0],
            )

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        assert self._stopping is not None
        self._stopping.set()

    def stop(self) -> None:
        """SIGTERM."""
        if self._stopping is not None and self.process.alive:
            self._trace.note("stop", self.name)
            self._stopping.set()

    # Death.

    def kill(self) -> None:
        """kill -9: what was handed to the operating system is still there, and its connections end."""
        self._trace.note("kill", self.name)
        self._gone(silent=False, whole=True)

    def power_cut(self, rng: random.Random) -> None:
        """The machine loses its power: what was not synced may be gone, and nobody is told."""
        self._trace.note("power cut", self.name)
        self._gone(silent=True)
        self.disk.power_cut(rng)

    def pause(self) -> None:
        """SIGSTOP."""
        self._trace.note("pause", self.name)
        self._loop.pause(self.process)

    def resume(self) -> None:
        """SIGCONT."""
        self._trace.note("resume", self.name)
        self._loop.resume(self.process)

    def _gone(self, *, silent: bool, whole: bool = False) -> None:
        if not self.process.alive:
            return
        self.on_end(self, whole)
        self._loop.kill(self.process)
        self.serving = None
        if silent:
            self._network.power_off(self.process)
        else:
            self._network.died(self.process)

    def _on_disk_crash(self) -> None:
        """The process dies in the middle of an operation on its disk."""
        self._trace.note("crash", self.name)
        self._gone(silent=False)

    def now_ms(self) -> float:
        """The true time."""
        return true_ms(self._loop)
