"""Whole nodes in one event loop whose time is a number: real coordinators, replicas, membership and repair
over links in memory and disks that remember what was synced.

Time goes on only while nothing is ready to run, so a second costs what is done in it, and a run with the same
seed is the same run. A node *crashes* without any of its own endings: nothing it sends or writes from that
moment on reaches anybody, and its links break as those of a killed process do. ``restart`` opens the same
disk, a copy, or an empty one, in a new run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from sadik.api.process import open_engine, open_hint_engine
from sadik.api.resp.information import Facts
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.server import RespServer
from sadik.comms.memory import MemoryNetwork, MemoryTransport
from sadik.config import ClusterConfig, LimitsConfig, LogConfig, NodeConfig, StorageConfig
from sadik.errors import SadikError
from sadik.ids import NodeId
from sadik.kernels import digest, resp, versions
from sadik.metrics.registry import Registry
from sadik.node import birth as births
from sadik.node.birth import BirthRecord
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.node import Node
from sadik.node.operations import Span
from sadik.node.records import Record
from sadik.settings import Address
from sadik.sim.files import SimFiles
from sadik.sim.loop import VirtualLoop
from sadik.sim.loop import run as run_in
from sadik.sim.outside import EPOCH_MS, NodeClock, SeededEntropy, SimWorker
from sadik.storage.engine import Engine
from sadik.storage.memory_engine import MemoryEngine
from tests.api.resp_node import Client

BUCKET = b"0"
DIRECTORY = "/data"
EVERYTHING = b"\xff" * 16
GET, SET = resp.GET, resp.SET
NO_OPTIONS = Options()
_TICK_S = 0.01
_STEP_S = 0.005
_CLIENT_STEP_S = 0.0005
_PATIENCE = 20_000

T = TypeVar("T")


class CountingLoop(VirtualLoop):
    """Counts what costs: ``made`` by name."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        super().__init__()

    def create_task(self, *args: Any, **named: Any) -> Any:
        self.made["task"] += 1
        return super().create_task(*args, **named)

    def create_future(self) -> Any:
        self.made["future"] += 1
        return super().create_future()

    def call_soon(self, *args: Any, **named: Any) -> Any:
        self.made["handle"] += 1
        return super().call_soon(*args, **named)

    def call_at(self, *args: Any, **named: Any) -> Any:
        self.made["timer"] += 1
        return super().call_at(*args, **named)


def run(story: Coroutine[Any, Any, T]) -> T:
    """Run a story in virtual time."""
    return run_in(story, CountingLoop)


class DelayedWorker(SimWorker):
    """Each piece of work takes ``delay_s``."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.delay_s = 0.0
        super().__init__(loop, lambda: self.delay_s)


class MortalFiles:
    """A disk as one process sees it: dead, it changes nothing any more."""

    def __init__(self, files: SimFiles) -> None:
        self._files = files
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        if self.dead:
            raise OSError(errno.ESTALE, "the process is dead")
        return getattr(self._files, name)


class FaultyMemory(MemoryEngine):
    """An engine in memory with records that cannot be read: those in ``unreadable``, by digest."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: set[bytes] = set()
        self.lost = 0

    @property
    def losses(self) -> int:
        return self.lost

    def read_batch(self, count: int, digests: Any, bytes_max: int = 1 << 30) -> Any:
        found = super().read_batch(count, digests, bytes_max)
        if self.unreadable:
            view = memoryview(digests).cast("B")
            for index in range(found.taken):
                if bytes(view[16 * index : 16 * index + 16]) in self.unreadable:
                    found.status[index] = 2
        return found

    def spoil(self, digest: bytes) -> None:
        """The record cannot be read from now on, until it is written again."""
        self.unreadable.add(digest)
        self.lost += 1

    def write_batch(self, count: int, digests: Any, *rest: Any) -> int:
        if self.unreadable:
            view = memoryview(digests).cast("B")
            for index in range(count):
                self.unreadable.discard(bytes(view[16 * index : 16 * index + 16]))
        return super().write_batch(count, digests, *rest)


class NodeClient(Client):
    """A Redis client that lets time pass while it waits."""

    async def wait(self, count: int) -> list[bytes]:
        for _ in range(_PATIENCE):
            found = self.replies()
            if len(found) >= count or self.closed:
                return found
            await asyncio.sleep(_CLIENT_STEP_S)
        raise AssertionError(f"{len(self.replies())} replies of {count}")


class Reply(NamedTuple):
    """What became of one operation."""

    status: int
    value: bytes | None
    error: SadikError | None

    @property
    def ok(self) -> bool:
        """Done: a write acknowledged, or a read answered."""
        return self.status in (versions.OK, versions.NOTHING)

    @property
    def unknown(self) -> bool:
        """A write that may have been applied."""
        return self.error is not None and bool(getattr(self.error, "maybe_applied", False))

    @property
    def refused(self) -> bool:
        """Surely not done."""
        return not self.ok and not self.unknown


class Request:
    """A batch that was submitted; ``replies`` has None where there is no answer yet."""

    def __init__(self, count: int) -> None:
        self.replies: list[Reply | None] = [None] * count
        self.answers = 0

    @property
    def done(self) -> bool:
        return None not in self.replies

    def take(self, base: int, stops: Sequence[int], answers: Answers, runs: Sequence[int]) -> None:
        """What a coordinator hands over."""
        self.answers += 1
        for run in runs:
            for index in range(stops[run - 1] if run else 0, min(stops[run], len(answers.status))):
                assert self.replies[base + index] is None, "answered twice"
                status = answers.status[index]
                start = int.from_bytes(answers.value_start[8 * index : 8 * index + 8], "little")
                length = int.from_bytes(answers.value_length[8 * index : 8 * index + 8], "little")
                value = None
                if answers.kinds[index] == GET and status == versions.OK:
                    value = bytes(answers.values[start : start + length])
                error = answers.errors[index] if status == FAILED else None
                self.replies[base + index] = Reply(status, value, error)


class Life:
    """One run of a node."""

    def __init__(
        self, node: Node, files: MortalFiles, disk: SimFiles, clock: NodeClock, worker: DelayedWorker
    ) -> None:
        self.node = node
        self.files = files
        self.disk = disk
        self.clock = clock
        self.worker = worker
        self.server: RespServer | None = None


Operation = tuple[int, bytes, bytes]
"""(kind, key, value)."""


class Cluster:
    """Nodes by name, in one loop.

    Attributes:
        lives: The nodes that run. disks: Of all that ever ran.
        delay: Seconds until a step of the network is done; None: in the next turn.
    """

    def __init__(
        self,
        count: int,
        *,
        engine: str = "memory",
        partitions: int = 16,
        seed: int = 1,
        zones: Sequence[str] = (),
        exchange_interval_ms: int = 0,
        storage: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        peers: Mapping[str, Any] | None = None,
    ) -> None:
        self.names = [f"n{number + 1}" for number in range(count)]
        self.loop = asyncio.get_running_loop()
        assert isinstance(self.loop, CountingLoop)
        self.made = self.loop.made
        self.delay: Callable[[], float] | None = None
        self.network = MemoryNetwork(self._schedule)
        self.lives: dict[str, Life] = {}
        self.disks: dict[str, SimFiles] = {}
        self.engines: dict[str, FaultyMemory] = {}
        self.hint_engines: dict[str, FaultyMemory] = {}
        self.failures: list[dict[str, Any]] = []
        self._seed = seed
        self._runs = 0
        self._clients = 0
        self._dying: list[asyncio.Task[None]] = []
        self._founder: BirthRecord | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._batch = resp.Batch(16384, 8 << 20)
        self.configs = {
            name: NodeConfig(
                node_id=NodeId(name),
                cluster="c",
                partitions=partitions,
                data_directory=DIRECTORY,
                peer=Address("127.0.0.1", 7000 + number),
                zone=zones[number] if zones else "default",
                seed_nodes=() if not number else (Address("127.0.0.1", 7000),),
                storage=StorageConfig(engine=engine, **(storage or {})),
                limits=LimitsConfig(**{"request_timeout_ms": 1000, **(limits or {})}),
                peers=ClusterConfig(
                    **{
                        "gossip_interval_ms": 50,
                        "heartbeat_interval_ms": 40,
                        "peer_timeout_ms": 300,
                        "exchange_interval_ms": exchange_interval_ms,
                        **(peers or {}),
                    }
                ),
                log=LogConfig(level="error"),
            )
            for number, name in enumerate(self.names)
        }

    def _schedule(self, step: Callable[[], None]) -> None:
        if self.delay is None:
            self.loop.call_soon(step)
        else:
            self.loop.call_later(self.delay(), step)

    # Life and death.

    async def start(self) -> None:
        """Found the cluster, let the others join, and commit a layout of all."""
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self._tick()
        for name in self.names:
            await self.open(name)
        first = self.lives[self.names[0]].node
        if len(self.names) > 1:
            await self.wait_until(lambda: self.is_linked(), "the nodes meet")
            for name in self.names[1:]:
                document = await first.administration.stage({"action": "join", "node": name})
            await first.administration.commit(document["version"], force=False)
        await self.wait_until(self.is_agreed, "all have the layout")

    async def open(self, name: str, *, files: SimFiles | None = None, offset_ms: int = 0) -> Node:
        """Start a node on its disk, or on ``files``; on an empty one it is born anew."""
        assert name not in self.lives
        config = self.configs[name]
        self._runs += 1
        entropy = SeededEntropy(1000 * self._seed + self._runs)
        clock, worker = NodeClock(self.loop, offset_ms), DelayedWorker(self.loop)
        disk = files or self.disks.get(name) or SimFiles()
        self.disks[name] = disk
        mortal = MortalFiles(disk)
        node = Node.open(
            config,
            open_engine=self._opener(name, self.engines, open_engine),
            open_hint_engine=self._opener(name, self.hint_engines, open_hint_engine),
            files=mortal,  # type: ignore[arg-type]
            clock=clock,
            entropy=entropy,
            worker=worker,
            make_transport=lambda config, identity: MemoryTransport(
                self.network,
                config.peer,
                identity,
                None,
                config.peers,
                clock=clock,
                entropy=entropy,
                payload_bytes_max=64 << 20,
            ),
            registry=Registry(),
            birth=self._birth(config, clock, entropy),
        )
        if self._founder is None:
            self._founder = node.birth
        self.lives[name] = Life(node, mortal, disk, clock, worker)
        address = await node.listen()
        node.start(peer=str(address))
        return node

    def _opener(self, name: str, engines: dict[str, FaultyMemory], otherwise: Any) -> Any:
        def opener(config: NodeConfig, *rest: Any) -> Engine:
            if config.storage.engine != "memory":
                engine: Engine = otherwise(config, *rest)
                return engine
            engines[name] = FaultyMemory()
            return engines[name]

        return opener

    def _birth(self, config: NodeConfig, clock: NodeClock, entropy: SeededEntropy) -> BirthRecord | None:
        """For an empty directory: of a node that joins, or founds the cluster."""
        record = births.found(
            cluster=config.cluster,
            node_id=config.node_id,
            partitions=config.partitions,
            engine=config.storage.engine,
            clock=clock,
            entropy=entropy,
        )
        if self._founder is None:
            return record
        return births.joined(
            record,
            cluster=self._founder.cluster,
            cluster_id=self._founder.cluster_id,
            partitions=self._founder.partitions,
            hash=self._founder.hash,
            wanted_cluster=None,
            wanted_partitions=None,
        )

    def crash(self, name: str) -> SimFiles:
        """The process dies now; returns its disk, as the death of a process leaves it."""
        life = self.lives.pop(name)
        life.files.dead = True
        life.disk.kill()
        for end in list(self.network._ends):
            if end.node == name:
                end.abort()
        # What is left of it only frees its tasks: neither disk nor network hear of that.
        self._dying.append(self.loop.create_task(_bury(life)))
        return life.disk

    async def restart(
        self, name: str, *, files: SimFiles | None = None, offset_ms: int = 0, agreed: bool = True
    ) -> Node:
        """The next run of a node that has crashed or stopped, on its disk or another one."""
        for task in self._dying:
            await task
        self._dying.clear()
        node = await self.open(name, files=files, offset_ms=offset_ms)
        if agreed:
            await self.wait_until(lambda: self.is_agreed(), f"{name} is back")
        return node

    async def stop(self, name: str) -> None:
        """An orderly end."""
        await self.lives.pop(name).node.close()

    async def close(self) -> None:
        """The end of all; nothing must have failed unseen."""
        self.delay = None
        self.network.heal()
        for name in list(self.lives):
            life = self.lives[name]
            if life.server is not None:
                await life.server.stop(0)
            await self.stop(name)
        for task in self._dying:
            await task
        if self._ticker is not None:
            self._ticker.cancel()
        assert not self.failures, self.failures

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(_TICK_S, self._tick)
        self.network.tick()

    # The network.

    def cut(self, one: str, *others: str) -> None:
        """Nothing passes between one node and the others; all others when none is named."""
        for other in others or [name for name in self.names if name != one]:
            self.network.cut(NodeId(one), NodeId(other))

    async def isolate(self, one: str, *others: str) -> None:
        """The same, until both sides have noticed."""
        others = others or tuple(name for name in self.names if name != one)
        self.cut(one, *others)
        pairs = [(one, other) for other in others] + [(other, one) for other in others]
        await self.wait_until(lambda: not any(self.sees(*pair) for pair in pairs), f"{one} is cut off")

    async def heal(self) -> None:
        """All paths are open, and all live nodes see each other."""
        self.network.heal()
        await self.wait_until(self.is_agreed, "all see each other")

    def sees(self, one: str, other: str) -> bool:
        """Whether a node that runs takes another one for up."""
        if one not in self.lives:
            return False
        view = self.node(one).members.view
        return NodeId(other) in view.nodes and view.up[view.nodes.index(NodeId(other))]

    def is_linked(self) -> bool:
        """Whether every live node has links to all others."""
        return all(
            life.node.transport.is_up(NodeId(other), lane)
            for name, life in self.lives.items()
            for other in self.lives
            if other != name
            for lane in (0, 1)
        )

    def is_agreed(self) -> bool:
        """Whether live nodes have links to each other and one layout, and know who is down."""
        if len({life.node.members.state.layout.digest for life in self.lives.values()}) > 1:
            return False
        return self.is_linked() and all(
            up == (node in self.lives)
            for life in self.lives.values()
            for node, up in zip(life.node.members.view.nodes, life.node.members.view.up, strict=True)
        )

    # Waiting.

    async def wait_until(
        self, condition: Callable[[], bool], what: str = "it", within_s: float = 20.0
    ) -> None:
        """Let time pass until a condition holds."""
        deadline = self.loop.time() + within_s
        while not condition():
            assert self.loop.time() < deadline, f"not within {within_s} s: {what}"
            await asyncio.sleep(_STEP_S)

    async def turns(self, count: int) -> None:
        """Let some turns of the loop pass, and no time if anything is ready."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        end = self.loop.time() + seconds
        await self.wait_until(lambda: self.loop.time() >= end, within_s=seconds + 1)

    # Requests.

    def node(self, name: str) -> Node:
        return self.lives[name].node

    def submit(
        self,
        name: str,
        operations: Sequence[Operation],
        *,
        bucket: bytes = BUCKET,
        options: Options | None = None,
        stops: Sequence[int] | None = None,
    ) -> Request:
        """Hand operations to a node's coordinator as one batch."""
        coordinator = self.node(name).coordinator
        request = Request(len(operations))
        done = 0
        while done < len(operations):
            batch = self._batch
            batch.clear()
            for kind, key, value in operations[done:]:
                name_of = digest.address_name(bucket, key)
                assert batch.append(kind, name_of, value if kind == SET else b"")
            writes = any(kind == SET for kind, _, _ in operations[done:])
            found = coordinator.bucket_for_write(bucket) if writes else coordinator.bucket(bucket)
            ends = list(stops) if stops is not None and not done else [batch.count]
            base = done
            taken = coordinator.submit(
                batch,
                ends,
                [Span(0, batch.count, found)],
                options,
                done=lambda answers, runs, base=base, ends=ends: request.take(base, ends, answers, runs),
            )
            # The arrays are the caller's again.
            batch.data[: batch.used] = b"\xaa" * batch.used
            done += taken
        return request

    async def answer(self, request: Request, within_s: float = 5.0) -> list[Reply]:
        """The replies of a batch."""
        await self.wait_until(lambda: request.done, "an answer", within_s)
        return [reply for reply in request.replies if reply is not None]

    async def set(self, name: str, key: bytes, value: bytes, **options: Any) -> Reply:
        """One plain write."""
        return (await self.answer(self.submit(name, [(SET, key, value)], **_split(options))))[0]

    async def get(self, name: str, key: bytes, **options: Any) -> Reply:
        """One plain read."""
        return (await self.answer(self.submit(name, [(GET, key, b"")], **_split(options))))[0]

    async def read(
        self, name: str, key: bytes, bucket: bytes = BUCKET, options: Options = NO_OPTIONS
    ) -> Record | SadikError:
        """The record of a key, read with R replies."""
        found: list[Any] = []
        self.node(name).coordinator.read_records([(bucket, key)], options, found.append)
        await self.wait_until(lambda: bool(found), "a record")
        assert len(found) == 1
        return found[0] if isinstance(found[0], SadikError) else found[0][bucket, key]

    async def update(
        self,
        name: str,
        key: bytes,
        change: Callable[[Record], None],
        *,
        bucket: bytes = BUCKET,
        options: Options = NO_OPTIONS,
    ) -> SadikError | None:
        """Read a key, change its record and commit it; None when that is acknowledged."""
        coordinator = self.node(name).coordinator
        ended: list[SadikError | None] = []

        def done(found: Any) -> None:
            if isinstance(found, SadikError):
                ended.append(found)
                return
            record = found[bucket, key]
            try:
                change(record)
            except SadikError as error:
                ended.append(error)
                return
            coordinator.commit([record], options, ended.append)

        coordinator.read_records([(bucket, key)], options, done)
        await self.wait_until(lambda: bool(ended), "an update")
        assert len(ended) == 1
        return ended[0]

    async def repair(self, *names: str) -> None:
        """Let nodes compare all they have with all others, now."""
        for name in names or list(self.lives):
            exchange = self.node(name).exchange
            left = 1
            while left:
                before = exchange.statistics().rounds
                exchange.repair(None)
                await self.wait_until(
                    lambda exchange=exchange, before=before: exchange.statistics().rounds > before
                )
                # What trees are not built of yet is left out.
                left = exchange.statistics().round.unbuilt

    def connect(self, name: str) -> NodeClient:
        """A Redis client of a node; from now on all nodes serve commands."""
        for life in self.lives.values():
            if life.server is None:
                life.server = self._serve(life)
        server = self.lives[name].server
        assert server is not None
        self._clients += 1
        return NodeClient(server, self._clients)

    def _serve(self, life: Life) -> RespServer:
        facts = Facts(
            node_id=life.node.birth.node_id,
            cluster=life.node.birth.cluster,
            started_ms=life.clock.wall_ms(),
            run_id="0" * 40,
            data_directory=DIRECTORY,
        )
        server = RespServer(
            life.node.coordinator,
            life.node.config,
            clock=life.clock,
            instruments=RespInstruments(Registry()),
            facts=facts,
        )
        # Its clients are objects here: nobody listens.
        server._loop = self.loop
        return server

    async def settle(self) -> None:
        """Heal everything, and let hints and one exchange make all equal."""
        await self.heal()
        await self.wait_until(self.no_hints, "all hints are delivered", within_s=60)
        await self.repair()
        assert self.equal(), self.differences()

    # What is where.

    def digest(self, key: bytes, bucket: bytes = BUCKET) -> bytes:
        return digest.digest(digest.address_name(bucket, key))

    def preference(self, key: bytes, bucket: bytes = BUCKET) -> list[str]:
        """All nodes in the order in which they hold a key: N primaries first."""
        view = next(iter(self.lives.values())).node.members.view
        partition = view.partition_of(self.digest(key, bucket))
        return [str(node) for node in view.preference(partition, len(view.nodes))]

    def keys_of(self, primaries: Sequence[str], count: int = 1) -> list[bytes]:
        """Keys whose first primaries are these, in that order."""
        found: list[bytes] = []
        number = 0
        while len(found) < count:
            key = b"key-%d" % number
            if self.preference(key)[: len(primaries)] == list(primaries):
                found.append(key)
            number += 1
            assert number < 100_000, f"no partition has the primaries {primaries}"
        return found

    def holdings(self, name: str) -> dict[bytes, bytes]:
        """Version sets by digest, as a node's engine has them; ``b"?"`` where it cannot be read. What a flush
        hides is not there.
        """
        buckets = self.node(name).buckets
        found: dict[bytes, bytes] = {}
        for entry in _entries(self.node(name).engine):
            if entry.value is None:
                found[entry.digest] = b"?"
                continue
            bucket = buckets.get(entry.name[1 : 1 + entry.name[0]])
            if entry.space == bucket.space and versions.stamp_max(entry.value) > bucket.floor:
                found[entry.digest] = bytes(entry.value)
        return found

    def holds(self, name: str, key: bytes, bucket: bytes = BUCKET) -> bytes:
        """The version set of a key in a node's own data, ``b""`` for none."""
        (found,) = self.node(name).vnodes.sets([self.digest(key, bucket)])
        return b"?" if found is None else found

    def put(self, name: str, key: bytes, one: bytes, bucket: bytes = BUCKET) -> None:
        """Put a version set into a node's engine behind its back; ``b""``: nothing is there any more."""
        node = self.node(name)
        space = node.buckets.for_merge(bucket).space
        if one:
            node.engine.put(self.digest(key, bucket), digest.address_name(bucket, key), one, space)
        else:
            node.engine.remove(self.digest(key, bucket))

    def lose(self, name: str, key: bytes) -> None:
        """A node's engine in memory loses a key, and notices."""
        self.put(name, key, b"")
        self.engines[name].lost += 1

    def kept(self, name: str, key: bytes) -> bytes:
        """The version set of a key that a node keeps for others."""
        return self.node(name).hints.sets_for([self.digest(key)])[0]

    def values(self, name: str, key: bytes, bucket: bytes = BUCKET) -> list[bytes]:
        """Live values of a key in a node's own data."""
        return payloads(self.holds(name, key, bucket))

    def hints(self, name: str) -> dict[str, int]:
        """Number of hints by owner."""
        owners = self.node(name).hints.owners()
        return {str(owner): share.hints for owner, share in owners.items() if share.hints}

    def differences(self) -> list[str]:
        """Keys that a live primary does not hold as the other live ones do."""
        held = {name: self.holdings(name) for name in self.lives}
        view = next(iter(self.lives.values())).node.members.view
        found = []
        for key in sorted({key for holding in held.values() for key in holding}):
            primaries = view.preference(view.partition_of(key), view.effective_n(3))
            prints = {name: _fingerprint(key, held[name].get(key, b"")) for name in primaries if name in held}
            if len(set(prints.values())) > 1:
                found.append(f"{key.hex()}: {prints}")
        return found

    def equal(self) -> bool:
        """Whether all live primaries hold the same."""
        return not self.differences()

    def no_hints(self) -> bool:
        """Whether no hint waits anywhere."""
        return not any(self.hints(name) for name in self.lives)


class Ledger:
    """Every dot that was seen anywhere, and the one value that it may ever stand for (D1)."""

    def __init__(self) -> None:
        self._values: dict[tuple[bytes, int, int], tuple[int, bytes]] = {}

    def look(self, one: Cluster) -> None:
        """Take in what all nodes hold now, hints too."""
        for name in one.lives:
            node = one.node(name)
            held = one.holdings(name)
            sets = list(held.items()) + list(zip(held, node.hints.sets_for(list(held)), strict=True))
            for key, stored in sets:
                for value in versions.decode(stored)[1] if stored not in (b"", b"?") else ():
                    dot = (key, value.actor, value.stamp)
                    known = self._values.setdefault(dot, (value.flags, value.payload))
                    assert known == (value.flags, value.payload), f"two values share the dot {dot}"


def payloads(one: bytes) -> list[bytes]:
    """Live values of a version set."""
    return [value.payload for value in versions.siblings(one, 0, EPOCH_MS)] if one else []


def dots(one: bytes) -> list[tuple[int, int]]:
    """(actor, stamp) of every value and tombstone in a version set."""
    return [(value.actor, value.stamp) for value in versions.decode(one)[1]] if one else []


def _fingerprint(key: bytes, one: bytes) -> int:
    return -1 if one == b"?" else versions.fingerprint(key, one)


def _entries(engine: Engine) -> Iterator[Any]:
    after = b""
    while page := engine.scan(after, EVERYTHING, 512):
        yield from page
        after = page[-1].digest


def _split(options: dict[str, Any]) -> dict[str, Any]:
    bucket = options.pop("bucket", BUCKET)
    return {"bucket": bucket, "options": Options(**options) if options else None}


async def _bury(life: Life) -> None:
    if life.server is not None:
        with contextlib.suppress(Exception):
            await life.server.stop(0)
    with contextlib.suppress(Exception):
        await life.node.close()


@asynccontextmanager
async def cluster(count: int, **options: Any) -> AsyncIterator[Cluster]:
    """A cluster that has its layout; closed at the end."""
    made = Cluster(count, **options)
    await made.start()
    yield made
    await made.close()


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """The same in another order."""
    left = list(items)
    rng.shuffle(left)
    return left
