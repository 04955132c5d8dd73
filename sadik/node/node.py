"""One node: the parts put together in order, and taken apart in reverse.

Open: lock the directory, check the birth record, open the engines, load the buckets, draw an actor. Start:
links, membership, requests, background work. Close: stop the jobs, sync, close the engines, give the lock
back. Everything from outside (clock, files, entropy, worker, transport) is an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sadik.causality.clock import HybridClock
from sadik.causality.context import context_key
from sadik.comms.messages import Kind
from sadik.comms.service import Peers
from sadik.comms.transport import Identity, Transport
from sadik.config import NodeConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.env.files import Files, Lock
from sadik.env.worker import Worker
from sadik.errors import DirectoryLocked
from sadik.ids import NodeId, stamp_at
from sadik.kernels import replica
from sadik.members.bootstrap import LAYOUT, NodeFacts, away_ms
from sadik.members.service import Members
from sadik.members.view import View
from sadik.metrics.registry import Registry
from sadik.node.about import About
from sadik.node.administration import Administration
from sadik.node.background import BackgroundRunner, Job
from sadik.node.birth import BirthRecord, check_absence, found, read_or_found
from sadik.node.buckets import BucketRegistry
from sadik.node.collection import Collector
from sadik.node.coordinator.core import Core
from sadik.node.coordinator.instruments import CoordinatorInstruments
from sadik.node.coordinator.service import Coordinator
from sadik.node.items import Item
from sadik.node.repair.exchange.service import ExchangeService
from sadik.node.repair.hints import HintStore
from sadik.node.repair.pushes.service import Pushes
from sadik.node.repair.replay.service import HintReplay
from sadik.node.repair.trees import Trees
from sadik.node.replica import Replica
from sadik.node.vnode import Vnodes
from sadik.settings import Address
from sadik.storage.engine import Engine
from sadik.storage.service import SyncService

_MAINTENANCE_STEP_BYTES = 256 * 1024
_MAINTENANCE_IDLE_S = 1.0
_COLLECTION_IDLE_S = 60.0
_COLLECTION_SHARE = 0.02
_TREES_IDLE_S = 1.0
_TREES_SHARE = 0.2
_EXPIRY_IDLE_S = 60.0
READ_BYTES_MAX = 16 * 1024 * 1024
"""Stored bytes one batch may read: what is beyond waits until the replies before it have gone to the
transport.
"""

_HORIZON_ALONE = (1 << 64) - 1
"""The horizon of a one-node cluster: nobody else holds any value, however young."""
_SYSTEM_PREFIX = b"cluster:"

EngineOpener = Callable[[NodeConfig, BirthRecord, Files, Clock, Entropy], Engine]
TransportMaker = Callable[[NodeConfig, Identity], Transport]


class Node:
    """A running node without its client listeners; ``Node.open`` makes it, ``start`` needs the event loop.

    Attributes:
        birth: Who this node is.
        coordinator: What the APIs call.
        administration: What operators call.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        birth: BirthRecord,
        engine: Engine,
        hint_engine: Engine,
        lock: Lock | None,
        clock: Clock,
        entropy: Entropy,
        worker: Worker,
        make_transport: TransportMaker,
        registry: Registry,
        kept: Mapping[str, bytes] | None = None,
    ) -> None:
        self.config = config
        self.birth = birth
        self.engine = engine
        self.clock = clock
        self._lock = lock
        self._worker = worker
        self.buckets = BucketRegistry(engine)
        self.hybrid = HybridClock(
            clock, node=birth.node_id, clock_offset_max_ms=config.limits.clock_offset_max_ms
        )
        self.vnodes = Vnodes(
            engine,
            self.buckets,
            clock=clock,
            hybrid=self.hybrid,
            entropy=entropy,
            batch_capacity=config.resp.batch_operations_max,
            read_bytes_max=max(
                # A client that reads must not be cut off for the replies of one batch.
                min(READ_BYTES_MAX, config.resp.output_bytes_max // 2),
                config.limits.value_bytes_max,
            ),
            horizon=_HORIZON_ALONE,
            clock_offset_max_ms=config.limits.clock_offset_max_ms,
        )
        sync, interval_ms = config.storage.sync, config.storage.sync_interval_ms
        self.sync = SyncService(engine, worker, clock, sync, interval_ms)
        self.hint_engine = hint_engine
        self.hint_sync = SyncService(hint_engine, worker, clock, sync, interval_ms)
        self.background = BackgroundRunner(clock)
        self.collector = Collector(self.vnodes, clock, config.limits.horizon_ms)
        me = NodeId(birth.node_id)
        identity = Identity(birth.cluster, birth.cluster_id, me, self.vnodes.actor, birth.directory_id)
        self.transport = make_transport(config, identity)
        self.peers = Peers(self.transport, clock=clock)
        stored = {
            name[len(_SYSTEM_PREFIX) :].decode(): value
            for name, value in engine.system_items()
            if name.startswith(_SYSTEM_PREFIX)
        }
        self._layout_ticket = 0
        self._started = False
        self.members = Members(
            NodeFacts(
                cluster=birth.cluster,
                cluster_id=birth.cluster_id,
                node=me,
                directory=birth.directory_id,
                actor=self.vnodes.actor,
                founder=birth.founder,
                partitions=birth.partitions,
                hash=birth.hash,
                host=config.host_label or birth.node_id,
                zone=config.zone,
                capacity=config.peers.capacity,
            ),
            config.peers,
            peers=self.peers,
            transport=self.transport,
            clock=clock,
            entropy=entropy,
            stored=stored or kept or {},
            store=self._store,
            shared=[self.buckets],
            seeds=config.seed_nodes,
        )
        self.on_fault: Callable[[str], None] = lambda reason: None
        self.members.on_fault = lambda reason: self.on_fault(reason)
        self.buckets.on_change = self._on_bucket
        self.buckets.newest = lambda: max(self.hybrid.last, self.vnodes.bound.at_start)
        self._lost_hints: dict[int | None, None] = {}
        self.hints = HintStore(
            hint_engine,
            clock,
            bytes_max=config.peers.hint_bytes_max,
            age_ms=config.peers.hint_age_ms,
            on_lost=self._on_hint_lost,
        )
        self.instruments = CoordinatorInstruments(registry)
        self.core = Core(
            node=me,
            config=config,
            vnodes=self.vnodes,
            buckets=self.buckets,
            sync=self.sync,
            peers=self.peers,
            view=self.members.view,
            hints=self.hints,
            hint_sync=self.hint_sync,
            clock=clock,
            entropy=entropy,
            instruments=self.instruments,
        )
        self.about = About(
            birth=birth,
            config=config,
            vnodes=self.vnodes,
            buckets=self.buckets,
            members=self.members,
            hints=self.hints,
            flights=self.core.flights,
            collector=self.collector,
        )
        self.coordinator = Coordinator(self.core, context_key(birth.cluster_id), entropy, self.about)
        self.replica = Replica(
            links=self.peers,
            vnodes=self.vnodes,
            sync=self.sync,
            hints=self.hints,
            hint_sync=self.hint_sync,
            instruments=self.instruments,
        )
        self.trees = Trees(birth.partitions.bit_length() - 1)
        self.pushes = Pushes(self.peers, self.core.flights.on_sets)
        self.replay = HintReplay(
            self.hints,
            push=self._push_hints,
            local_sets=self.vnodes.sets,
            primaries_of=self._primaries_of,
            clock=clock,
        )
        self.exchange = ExchangeService(
            me=me,
            trees=self.trees,
            engine=engine,
            buckets=self.buckets.get,
            merge_items=lambda items: bytes(self.vnodes.merge_items(items).status),
            push=self.pushes.push,
            peers=self.peers,
            clock=clock,
            entropy=entropy,
            interval_ms=config.peers.exchange_interval_ms,
            settle=self.collector.settle,
            # Nodes that know different buckets hide different values; gossip comes first, and hints do.
            facts=self.buckets.digest,
            is_catching_up=lambda node: node in self.hints.owners(),
        )
        self.administration = Administration(
            members=self.members,
            about=self.about,
            peers=self.peers,
            vnodes=self.vnodes,
            buckets=self.buckets,
            hints=self.hints,
            exchange=self.exchange,
            wait_hints=self.replay.wait,
            layout_kept=lambda: self.sync.on_disk(self._layout_ticket),
            timeout_ms=config.limits.request_timeout_ms,
        )
        self.peers.on_batch(Kind.SETS, self.replica.on_sets)
        self.peers.on_batch(Kind.READS, self.replica.on_reads)
        self.peers.on_batch(Kind.HINTED, self.replica.on_hinted)
        self.members.subscribe(self._on_view)
        self.peers.watch(lambda identity: None, self._on_link_down)
        self._on_view(self.members.view)

    @classmethod
    def open(
        cls,
        config: NodeConfig,
        *,
        open_engine: EngineOpener,
        open_hint_engine: EngineOpener,
        files: Files,
        clock: Clock,
        entropy: Entropy,
        worker: Worker,
        make_transport: TransportMaker,
        registry: Registry,
        birth: BirthRecord | None = None,
        kept: Mapping[str, bytes] | None = None,
    ) -> Node:
        """Open the data directory.

        Args:
            birth: For an empty directory: the record to write there, of a node that a cluster has told its
            facts. kept: What that cluster told beside: members and layout.
        Raises:
            DirectoryLocked: Another process has it.
            WrongFormat: It is not this node's, not Sadik's, or newer; or it was away for too long.
            StorageError, OSError: It cannot be opened.
        """
        in_memory = config.storage.engine == "memory"
        with contextlib.ExitStack() as undo:
            lock: Lock | None = None
            if in_memory:
                birth = birth or found(
                    cluster=config.cluster,
                    node_id=config.node_id,
                    partitions=config.partitions,
                    engine=config.storage.engine,
                    clock=clock,
                    entropy=entropy,
                )
            else:
                directory = config.data_directory
                files.make_directory(directory)
                try:
                    lock = files.lock(f"{directory}/LOCK")
                except BlockingIOError as error:
                    raise DirectoryLocked(f"{directory} is in use by another process") from error
                undo.callback(lock.release)
                birth = read_or_found(
                    files,
                    directory,
                    cluster=config.cluster,
                    node_id=config.node_id,
                    partitions=config.partitions,
                    engine=config.storage.engine,
                    clock=clock,
                    entropy=entropy,
                    fresh=birth,
                )
            engine = open_engine(config, birth, files, clock, entropy)
            undo.callback(engine.close)
            hint_engine = open_hint_engine(config, birth, files, clock, entropy)
            undo.callback(hint_engine.close)
            _check_away(engine, birth, clock, config)
            node = cls(
                config=config,
                birth=birth,
                engine=engine,
                hint_engine=hint_engine,
                lock=lock,
                clock=clock,
                entropy=entropy,
                worker=worker,
                make_transport=make_transport,
                registry=registry,
                kept=kept,
            )
            undo.pop_all()
        return node

    # Life.

    async def listen(self) -> Address:
        """Let other nodes connect; returns the bound address. Raises OSError."""
        return await self.transport.start()

    def start(self, *, peer: str = "", resp: str = "", http: str = "") -> None:
        """Begin syncs, membership and background work on the running event loop, and accept requests.

        Args:
            peer, resp, http: Where this node is reached, as other nodes and clients are told.
        """
        self.sync.start()
        self.hint_sync.start()
        rate = self.config.storage.compaction_bytes_per_second
        if rate:
            for name, step in (
                ("storage maintenance", self.maintain),
                ("hint maintenance", partial(_maintain, self.hint_engine, self.hint_sync)),
            ):
                self.background.start(
                    Job(
                        name=name,
                        step=step,
                        idle_s=_MAINTENANCE_IDLE_S,
                        pause_s=_MAINTENANCE_STEP_BYTES / rate,
                    )
                )
        self.background.start(
            Job(
                name="collection",
                step=self._collect,
                idle_s=_COLLECTION_IDLE_S,
                share=_COLLECTION_SHARE,
            )
        )
        self.background.start(
            Job(name="Merkle trees", step=self._build_trees, idle_s=_TREES_IDLE_S, share=_TREES_SHARE)
        )
        self.background.start(Job(name="hint expiry", step=self.hints.expire, idle_s=_EXPIRY_IDLE_S))
        self.members.set_addresses(peer=peer, resp=resp, http=http)
        self.members.start()
        self.replay.start()
        self.exchange.start()
        self._started = True
        for partition in self._lost_hints:
            self.exchange.repair(partition)
        self._lost_hints.clear()
        self.coordinator.start()

    def maintain(self) -> bool:
        """One step of the engine's background work; True when the next one is not to wait for long."""
        return _maintain(self.engine, self.sync)

    async def close(self) -> None:
        """Stop the jobs, part from the others, make everything durable, close the engines.

        Raises:
            StorageFailed: A sync failed, the last one or one before; everything is closed all the same.
        """
        self.coordinator.stop()
        # Last in, first out; whatever fails on the way, the rest takes place.
        async with contextlib.AsyncExitStack() as end:
            if self._lock is not None:
                end.callback(self._lock.release)
            end.callback(self.engine.close)
            end.callback(self.hint_engine.close)
            end.callback(self._worker.close)
            # Closing syncs once more and writes what makes the next start fast: let the loop breathe before
            # it.
            end.push_async_callback(asyncio.sleep, 0)
            for stop in (
                self.sync.stop,
                self.hint_sync.stop,
                self.background.stop,
                self.transport.stop,
                self.peers.stop,
                self.members.stop,
                self.replay.stop,
                self.exchange.stop,
            ):
                end.push_async_callback(stop)

    # What changes while it runs.

    def _on_view(self, view: View) -> None:
        self.coordinator.on_view(view)
        # A node that is alone has nobody to compare with: its writes pay for no trees.
        if view.alone and self.vnodes.trees is not None:
            self.vnodes.trees = None
        elif not view.alone and self.vnodes.trees is None:
            self.trees.rebuild()
            self.vnodes.trees = self.trees
        self._set_horizon()
        self.replay.on_view(view)
        self.exchange.on_view(view)

    def _set_horizon(self) -> None:
        away = self.clock.wall_ms() - self.config.limits.horizon_ms
        self.vnodes.horizon = _HORIZON_ALONE if self.members.view.alone else stamp_at(max(0, away))

    def _on_bucket(self, name: bytes) -> None:
        """A bucket's properties or floor have changed, here or elsewhere."""
        # Its N may be another, or what is hidden: the trees said otherwise.
        self.trees.rebuild()
        self.members.local_change()

    def _on_link_down(self, node: NodeId, reason: str) -> None:
        self.pushes.on_link_down(node, reason)
        self.coordinator.on_link_down(node, reason)

    def _on_hint_lost(self, owner: str, prefix: bytes) -> None:
        """A hint cannot be delivered any more: what it was for is found by comparison."""
        partition = self.members.view.partition_of(prefix) if prefix else None
        if self._started:
            self.exchange.repair(partition)
        else:
            self._lost_hints[partition] = None

    async def _push_hints(self, node: NodeId, items: Sequence[Item]) -> bytes:
        if node != self.core.node:
            return await self.pushes.push(node, items, "hint")
        merging = self.vnodes.merge_items(items)
        # What was known already need not be durable yet.
        await self.sync.durable(self.vnodes.ticket_last)
        return bytes(0 if status <= replica.KNOWN else status for status in merging.status)

    def _store(self, name: str, data: bytes) -> None:
        ticket = self.engine.system_put(_SYSTEM_PREFIX + name.encode(), data)
        if name == LAYOUT:
            self._layout_ticket = ticket
        if name == LAYOUT and self._started:
            # In every mode: a founder with the layout of its first day would serve as if it were alone.
            self.sync.sync_soon()

    def _collect(self) -> bool:
        self._set_horizon()
        return self.collector.step()

    def _build_trees(self) -> bool:
        return self.vnodes.trees is not None and self.trees.build_step(self.engine, self.buckets.get)

    def _primaries_of(self, digest: bytes, name: bytes) -> list[NodeId]:
        view = self.members.view
        n = self.buckets.get(name[1 : 1 + name[0]]).properties.n
        return list(view.preference(view.partition_of(digest), view.effective_n(n)))


def _maintain(engine: Engine, sync: SyncService) -> bool:
    """One step of an engine's background work; True when the next one is not to wait for long."""
    more = engine.maintain(_MAINTENANCE_STEP_BYTES)
    if engine.wants_sync:
        # Compaction deletes its sources only after its output is durable, in every mode. The sync takes
        # milliseconds: a wait as long as when there is nothing to do would let garbage pile up.
        sync.sync_soon()
        return True
    return more


def _check_away(engine: Engine, birth: BirthRecord, clock: Clock, config: NodeConfig) -> None:
    """Refuse a directory that was away for longer than deletes are remembered."""
    stored = {
        name[len(_SYSTEM_PREFIX) :].decode(): value
        for name, value in engine.system_items()
        if name.startswith(_SYSTEM_PREFIX)
    }
    away = away_ms(stored, NodeId(birth.node_id), clock.wall_ms())
    check_absence(away, config.limits.horizon_ms, config.data_directory)
