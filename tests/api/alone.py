"""The RESP server over a coordinator that answers when it is told to.

``Alone`` is what the RESP face asks of a coordinator, over the vnodes of one engine in memory. While it
``holds``, nothing is handed over: answers wait in ``held`` until a test lets one go, in whatever order; so
other nodes are slow, and overtake each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np

from sadik.api.resp.coordinator import Address as KeyAddress
from sadik.api.resp.coordinator import RunCommand
from sadik.api.resp.server import RespServer
from sadik.causality.clock import HybridClock
from sadik.causality.context import decode_context, encode_context
from sadik.config import NodeConfig
from sadik.errors import InvalidRequest, LimitReached, SadikError, StorageError, StorageFailed
from sadik.ids import NodeId
from sadik.kernels import resp, versions
from sadik.node.buckets import Bucket, BucketProperties, BucketRegistry
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import FAILED, Answers, Explanation, KeyPage
from sadik.node.operations import Span, of_batch
from sadik.node.records import Record
from sadik.node.vnode import Vnodes
from sadik.settings import Address
from sadik.storage.memory_engine import MemoryEngine
from sadik.storage.service import SyncService
from tests.api.resp_node import (
    Client,
    HandClock,
    HandWorker,
    SeededEntropy,
    configuration,
    settle,
    start_server,
)

Done = Callable[[Answers, Sequence[int]], None]
Forwarded = tuple[NodeId, bytes, int, list[bytes], int]
_CONTEXT_KEY = bytes(32)


class Alone:
    """Attributes:
    holds: Answers wait for ``release``.
    by_run: Each run of a batch is answered for itself.
    held: What waits, oldest first.
    submitted: Operations of each batch.
    elsewhere: Keys that other nodes coordinate.
    forwards: Called with each forwarded command; its reply is the client's.
    fault: Given to whoever reads records, while it is set.
    commit_fault: Given to whoever commits, after the records were stored.
    """

    run_command: RunCommand
    has_others = False

    def __init__(self, config: NodeConfig, clock: HandClock, worker: HandWorker, seed: int) -> None:
        self._config = config
        self.engine = MemoryEngine()
        self._buckets = BucketRegistry(self.engine)
        offset_ms = config.limits.clock_offset_max_ms
        self.vnodes = Vnodes(
            self.engine,
            self._buckets,
            clock=clock,
            hybrid=HybridClock(clock, node="n1", clock_offset_max_ms=offset_ms),
            entropy=SeededEntropy(seed),
            batch_capacity=config.resp.batch_operations_max,
            read_bytes_max=max(config.limits.value_bytes_max, 16 << 20),
            horizon=(1 << 64) - 1,
            clock_offset_max_ms=offset_ms,
        )
        self.sync = SyncService(self.engine, worker, clock, config.storage.sync, 1000)
        self.holds = self.by_run = False
        self.held: list[Callable[[], None]] = []
        self.submitted: list[int] = []
        self.asked: list[tuple[Options, bool]] = []
        self.elsewhere: dict[bytes, NodeId] = {}
        self.forwards: Callable[[Forwarded], Awaitable[bytes]] | None = None
        self.fault: SadikError | None = None
        self.commit_fault: SadikError | None = None
        self.is_ready = True

    def release(self, number: int = 0) -> None:
        """Hand over one answer that is held."""
        self.held.pop(number)()

    def release_all(self) -> None:
        while self.held:
            self.release()

    def _hand_over(self, call: Callable[[], None]) -> None:
        if self.holds:
            self.held.append(call)
        else:
            call()

    # Plain operations.

    def submit(
        self,
        batch: resp.Batch,
        stops: Sequence[int],
        spans: Sequence[Span],
        options: Options | None = None,
        *,
        done: Done,
    ) -> int:
        operations = of_batch(batch, spans)
        applied = self.vnodes.apply(operations)
        taken, result = applied.taken, applied.result
        self.submitted.append(taken)
        kinds = bytes(batch.kinds[:taken])
        status = bytearray(result.status)
        errors: dict[int, SadikError] = {}
        if applied.error is not None:
            errors = _fail(kinds, status, applied.error)
        links = np.frombuffer(applied.previous, np.int32)[:taken].tolist()
        for index, before in enumerate(links):
            if kinds[index] == resp.GET and before >= 0 and status[before] != versions.OK:
                status[index] = versions.UNREADABLE
        refused = max(status) > versions.NOTHING
        arrays = (kinds, status, result.values, result.value_start, result.value_length)
        pending = applied.ticket if self.sync.pending(applied.ticket) else 0
        first = 0
        ready, waiting = [], []
        for number, stop in enumerate(stops):
            if first >= taken:
                break
            writes = kinds.find(resp.SET, first, min(stop, taken)) >= 0
            (waiting if pending and writes else ready).append(number)
            first = stop

        def durable(error: StorageFailed | None) -> None:
            if error is None:
                answers = Answers(*arrays, errors, refused)
            else:
                answers = Answers(*arrays, errors | _fail(kinds, status, error), True)
            self._answer(done, answers, waiting)

        if ready:
            self._answer(done, Answers(*arrays, errors, refused), ready)
        if waiting:
            self.sync.wait(pending, durable)
        return taken

    def _answer(self, done: Done, answers: Answers, runs: list[int]) -> None:
        for part in [[run] for run in runs] if self.by_run else [runs]:
            self._hand_over(partial(done, answers, part))

    # Commands.

    def read_records(
        self,
        addresses: Sequence[KeyAddress],
        options: Options,
        done: Callable[[dict[KeyAddress, Record] | SadikError], None],
        *,
        quorum: bool = True,
    ) -> None:
        self.asked.append((options, quorum))

        def read() -> None:
            found: dict[KeyAddress, Record] | SadikError
            try:
                if self.fault is not None:
                    raise self.fault
                found = self.vnodes.records((self.bucket(bucket), key) for bucket, key in addresses)
            except SadikError as error:
                found = error
            done(found)

        self._hand_over(read)

    def commit(
        self, records: Sequence[Record], options: Options, done: Callable[[SadikError | None], None]
    ) -> None:
        try:
            ticket = self.vnodes.commit(records)
        except StorageError as error:
            done(error)
            return
        self._when_durable(ticket, lambda error: self._hand_over(lambda: done(error or self.commit_fault)))

    def _when_durable(self, ticket: int, done: Callable[[SadikError | None], None]) -> None:
        if self.sync.pending(ticket):
            self.sync.wait(ticket, done)
        else:
            done(None)

    def check_limits(self, record: Record) -> None:
        limits = self._config.limits
        if len(record.stored) > limits.set_bytes_max:
            raise LimitReached(f"the values of this key would take more than {limits.set_bytes_max} bytes")

    def route(self, bucket: bytes, key: bytes) -> NodeId | None:
        return self.elsewhere.get(key)

    async def forward_command(
        self, node: NodeId, bucket: bytes, protocol: int, arguments: list[bytes], timeout_ms: int
    ) -> bytes:
        assert self.forwards is not None
        return await self.forwards((node, bucket, protocol, arguments, timeout_ms))

    # Buckets, and what is asked of the whole node.

    def bucket(self, name: bytes) -> Bucket:
        return self._buckets.get(name)

    def bucket_for_write(self, name: bytes) -> Bucket:
        return self._buckets.for_write(name)

    async def count(self, bucket: bytes) -> int:
        return self.keys_here(bucket)

    def keys_here(self, bucket: bytes) -> int:
        found = self._buckets.get(bucket)
        return self.engine.count(found.space) if found.stored else 0

    def expiring(self, bucket: bytes) -> int:
        return 0

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        """A page of the whole, by place: the top 63 bits of the digest."""
        if not 0 <= cursor < 1 << 63:
            raise InvalidRequest("invalid cursor")
        keys = [(place, key) for place, key in self._keys(bucket) if place >= cursor]
        page = keys[:count]
        return KeyPage([key for _, key in page], page[-1][0] + 1 if len(keys) > count else 0)

    def _keys(self, bucket: bytes) -> list[tuple[int, bytes]]:
        found = self._buckets.get(bucket)
        now_ms = self.vnodes.clock.wall_ms()
        return [
            (int.from_bytes(entry.digest[:8], "big") >> 1, entry.name[len(found.prefix) + 2 :])
            for entry in self.engine.scan(b"", b"\xff" * 16, 1 << 20, 1 << 30)
            if entry.value is not None
            and entry.space == found.space
            and versions.newest(entry.value, found.floor, now_ms) is not None
        ]

    async def random_key(self, bucket: bytes) -> bytes | None:
        keys = self._keys(bucket)
        return keys[0][1] if keys else None

    async def flush(self, buckets: Sequence[bytes]) -> None:
        for bucket in buckets:
            found = self._buckets.get(bucket)
            stamp = self.vnodes.stamp_above(self.vnodes.stamp_greatest(found))
            self.vnodes.ticket_last = self._buckets.truncate(bucket, stamp)
        await self.sync.durable(self.vnodes.ticket_last)

    def buckets(self) -> list[bytes]:
        return self._buckets.names()

    def properties(self, bucket: bytes) -> BucketProperties:
        return self._buckets.get(bucket).properties

    async def explain(self, bucket: bytes, key: bytes) -> Explanation:
        digest = self.record(bucket, key).digest
        return Explanation(bucket, key, digest.hex(), int.from_bytes(digest[:8], "big"), 7, 1, 1, 1, [])

    def client_layout(self) -> dict[str, object]:
        return {"version": 1, "nodes": [{"node": "n1"}]}

    def check_options(self, bucket: bytes, options: Options) -> None:
        for name in ("r", "w", "pr", "pw"):
            if (getattr(options, name) or 0) > 1:
                raise InvalidRequest(f"{name} is more than the 1 replica(s) of this bucket")

    def encode_context(self, record: Record) -> bytes:
        entries = record.context()
        return encode_context(entries, record.digest, _CONTEXT_KEY) if entries else b""

    def decode_context(self, context: bytes, record: Record) -> Sequence[tuple[int, int]]:
        return decode_context(context, record.digest, _CONTEXT_KEY)

    def status(self) -> dict[str, object]:
        facts: dict[str, object] = {"node": "n1", "cluster": "c", "engine": self._config.storage.engine}
        return {**facts, "members": 1, "live_members": 1, "layout_version": 1, "hints": 0, "ready": True}

    def ready(self) -> bool:
        return self.is_ready

    def was_ready(self) -> bool:
        return self.is_ready

    # For tests.

    def record(self, bucket: bytes, key: bytes) -> Record:
        """The record of one address."""
        (record,) = self.vnodes.records([(self._buckets.get(bucket), key)]).values()
        return record


def _fail(kinds: bytes, status: bytearray, error: SadikError) -> dict[int, SadikError]:
    """Let the writes of a batch fail."""
    failed = [index for index, kind in enumerate(kinds) if kind == resp.SET]
    for index in failed:
        status[index] = FAILED
    return dict.fromkeys(failed, error)


class ToldWorld:
    """A server over ``Alone``, and its clients."""

    def __init__(self, coordinator: Alone, server: RespServer, address: Address, clock: HandClock) -> None:
        self.coordinator = coordinator
        self.clock = clock
        self.server = server
        self.address = address
        self._connected = 0

    def connect(self) -> Client:
        self._connected += 1
        return Client(self.server, self._connected)

    async def settle(self) -> None:
        """Run what is ready, until nothing is left that any input could still cause."""
        await settle(self.server)


@asynccontextmanager
async def running_told(
    config: NodeConfig | None = None, *, worker: HandWorker | None = None, seed: int = 1
) -> AsyncIterator[ToldWorld]:
    """A server that answers when it is told to; at the end nothing may have failed unseen."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    config, clock = config or configuration(), HandClock()
    coordinator = Alone(config, clock, worker or HandWorker(), seed)
    server, address = await start_server(coordinator, config, clock)
    try:
        yield ToldWorld(coordinator, server, address, clock)
    finally:
        coordinator.holds = False
        coordinator.release_all()
        await server.stop(0)
    assert not failures, failures
