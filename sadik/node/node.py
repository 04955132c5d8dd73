"""One node: the parts put together in order, and taken apart in reverse.

Open: lock the directory, check the birth record, open the engine, load the buckets, draw an actor. Close:
stop the jobs, sync, close the engine, give the lock back. Everything from outside (clock, files, entropy,
worker) is an argument.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sadik.causality.clock import HybridClock
from sadik.causality.context import context_key
from sadik.config import NodeConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.env.files import Files, Lock
from sadik.env.worker import Worker
from sadik.errors import DirectoryLocked
from sadik.node.background import BackgroundRunner, Job
from sadik.node.birth import BirthRecord, found, read_or_found
from sadik.node.buckets import BucketRegistry
from sadik.node.collection import Collector
from sadik.node.coordinator.service import Coordinator
from sadik.node.vnode import Vnodes
from sadik.storage.engine import Engine
from sadik.storage.service import SyncService

_MAINTENANCE_STEP_BYTES = 256 * 1024
_MAINTENANCE_IDLE_S = 1.0
_COLLECTION_IDLE_S = 60.0
_COLLECTION_SHARE = 0.02
READ_BYTES_MAX = 16 * 1024 * 1024
"""Stored bytes one batch may read: what is beyond waits until the replies before it have gone to the
transport.
"""

_HORIZON_ALONE = (1 << 64) - 1
"""The horizon of a one-node cluster: nobody else holds any value, however young."""

EngineOpener = Callable[[NodeConfig, BirthRecord, Files, Clock, Entropy], Engine]


class Node:
    """A running node without its listeners; ``Node.open`` makes it, ``start`` needs the event loop.

    Attributes:
        birth: Who this node is.
        coordinator: What the APIs call.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        birth: BirthRecord,
        engine: Engine,
        lock: Lock | None,
        clock: Clock,
        entropy: Entropy,
        worker: Worker,
    ) -> None:
        self.config = config
        self.birth = birth
        self.engine = engine
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
        self.sync = SyncService(engine, worker, clock, config.storage.sync, config.storage.sync_interval_ms)
        self.background = BackgroundRunner(clock)
        self.collector = Collector(self.vnodes, clock, config.limits.horizon_ms)
        self.coordinator = Coordinator(
            birth=birth,
            config=config,
            vnodes=self.vnodes,
            buckets=self.buckets,
            sync=self.sync,
            collector=self.collector,
            context_key=context_key(birth.cluster_id),
            clock=clock,
            entropy=entropy,
        )

    @classmethod
    def open(
        cls,
        config: NodeConfig,
        *,
        open_engine: EngineOpener,
        files: Files,
        clock: Clock,
        entropy: Entropy,
        worker: Worker,
    ) -> Node:
        """Open the data directory.

        Raises:
            DirectoryLocked: Another process has it.
            WrongFormat: It is not this node's, not Sadik's, or newer.
            StorageError, OSError: It cannot be opened.
        """
        if config.storage.engine == "memory":
            birth = found(
                cluster=config.cluster,
                node_id=config.node_id,
                partitions=config.partitions,
                engine=config.storage.engine,
                clock=clock,
                entropy=entropy,
            )
            engine = open_engine(config, birth, files, clock, entropy)
            return cls(
                config=config,
                birth=birth,
                engine=engine,
                lock=None,
                clock=clock,
                entropy=entropy,
                worker=worker,
            )
        directory = config.data_directory
        files.make_directory(directory)
        try:
            lock = files.lock(f"{directory}/LOCK")
        except BlockingIOError as error:
            raise DirectoryLocked(f"{directory} is in use by another process") from error
        with contextlib.ExitStack() as undo:
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
            )
            engine = open_engine(config, birth, files, clock, entropy)
            undo.callback(engine.close)
            node = cls(
                config=config,
                birth=birth,
                engine=engine,
                lock=lock,
                clock=clock,
                entropy=entropy,
                worker=worker,
            )
            undo.pop_all()
        return node

    def start(self) -> None:
        """Begin syncs and background work on the running event loop, and accept requests."""
        self.sync.start()
        rate = self.config.storage.compaction_bytes_per_second
        if rate:
            self.background.start(
                Job(
                    name="storage maintenance",
                    step=self.maintain,
                    idle_s=_MAINTENANCE_IDLE_S,
                    pause_s=_MAINTENANCE_STEP_BYTES / rate,
                )
            )
        self.background.start(
            Job(
                name="collection",
                step=self.collector.step,
                idle_s=_COLLECTION_IDLE_S,
                share=_COLLECTION_SHARE,
            )
        )
        self.coordinator.set_ready(True)

    async def close(self) -> None:
        """Stop the jobs, make everything durable, close the engine.

        Raises:
            StorageFailed: A sync failed, the last one or one before; everything is closed all the same.
        """
        self.coordinator.set_ready(False)
        with contextlib.ExitStack() as end:
            if self._lock is not None:
                end.callback(self._lock.release)
            end.callback(self.engine.close)
            end.callback(self._worker.close)
            await self.background.stop()
            await self.sync.stop()
            # Closing syncs once more and writes what makes the next start fast: let the loop breathe before
            # it.
            await asyncio.sleep(0)

    def maintain(self) -> bool:
        """One step of the engine's background work; True when the next one is not to wait for long."""
        more = self.engine.maintain(_MAINTENANCE_STEP_BYTES)
        if self.engine.wants_sync:
            # Compaction deletes its sources only after its output is durable, in every mode. The sync takes
            # milliseconds: a wait as long as when there is nothing to do would let garbage pile up.
            self.sync.sync_soon()
            return True
        return more
