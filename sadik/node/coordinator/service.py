"""The coordinator: drives requests over a key's replicas, and is what the APIs call (Dynamo 4.5, 5).

Plain reads and writes come as a turn's batch (``submit``), everything that needs the old value as records
(``read_records``, ``commit``). Whatever is coordinated here is done by the own replica first, then sent to
the others (``flight.py``); what is not goes to a primary in one hop. A one-node cluster takes the same ways
without the sending.

One view (layout, and who is up) is taken at the start of a batch and kept to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from sadik.causality.context import decode_context, decode_hint, encode_context
from sadik.comms.messages import REPLY, Kind, encode
from sadik.env.entropy import Entropy
from sadik.errors import InvalidRequest, LimitReached, SadikError, Unavailable
from sadik.ids import NodeId
from sadik.kernels import digest, resp, versions
from sadik.members.view import NOBODY, View
from sadik.node.buckets import Bucket, BucketProperties
from sadik.node.coordinator.core import Core
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Explanation, KeyPage, ReadOutcome, WriteOutcome
from sadik.node.coordinator.plain import Done, PlainRequests
from sadik.node.coordinator.requests import CallRequest, WriteReply, WriteRequest, decoded
from sadik.node.coordinator.sweep import Sweeps
from sadik.node.coordinator.updates import Address, RecordRequests
from sadik.node.items import Named
from sadik.node.operations import Span
from sadik.node.records import Record

_TICK_S = 0.05


class About(Protocol):
    """Who tells of the node and its cluster (``node/about.py``)."""

    def status(self) -> dict[str, Any]: ...

    def layout(self) -> dict[str, Any]: ...

    def client_layout(self) -> dict[str, Any]: ...

    def expiring(self, bucket: bytes) -> int: ...


async def _no_server(bucket: bytes, protocol: int, arguments: list[bytes]) -> bytes:
    raise Unavailable("this node does not serve commands yet; nothing was done")


class Coordinator:
    """Requests of clients, and those that other nodes forward.

    Attributes:
        run_command: Set by the RESP server: runs one forwarded command and gives its encoded reply.
    """

    def __init__(self, core: Core, context_key: bytes, entropy: Entropy, about: About) -> None:
        self._core = core
        self._about = about
        self._context_key = context_key
        self._ticker: asyncio.TimerHandle | None = None
        self._open = False
        self._was_ready = False
        self.vnodes = core.vnodes
        self.sync = core.sync
        self.hints = core.hints
        self.node_id = core.node
        self._plain = PlainRequests(core)
        self._records = RecordRequests(core)
        self._sweeps = Sweeps(core, entropy)
        self.run_command: Callable[[bytes, int, list[bytes]], Awaitable[bytes]] = _no_server
        core.peers.on_batch(Kind.HINTED | REPLY, core.flights.on_sets)
        core.peers.on_batch(Kind.READS | REPLY, core.flights.on_reads)
        core.peers.serve(Kind.CALL, self._serve_call)
        core.peers.serve(Kind.WRITE, self._serve_write)

    @property
    def view(self) -> View:
        """The layout and who is up, as requests take it."""
        return self._core.view

    @property
    def has_others(self) -> bool:
        """Whether batches go to other nodes too."""
        return not self.view.alone

    # Life.

    def start(self) -> None:
        """Accept requests, and give up in time what is not answered, on the running event loop."""
        self._open = True
        self._was_ready = self.ready()
        self._tick()

    def stop(self) -> None:
        self._open = False
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def ready(self) -> bool:
        """Whether default quorums can be met for every key."""
        if not self._open:
            return False
        targets = self.view.targets(BucketProperties().n)
        if not targets.n:
            return False
        live = (targets.reachable != NOBODY).sum(axis=1)
        return int(np.min(live)) >= targets.n // 2 + 1

    def was_ready(self) -> bool:
        """Whether it is now, or was before: from then on a quorum that is missed is a request's outcome."""
        self._was_ready = self._was_ready or self.ready()
        return self._was_ready

    def status(self) -> dict[str, Any]:
        """This node's state for people and programs."""
        return {**self._about.status(), "ready": self.ready()}

    def layout(self) -> dict[str, Any]:
        """Who owns what."""
        return self._about.layout()

    def client_layout(self) -> dict[str, Any]:
        """Who holds which partition, and where clients reach them."""
        return self._about.client_layout()

    def expiring(self, bucket: bytes) -> int:
        """Keys of a bucket with a time to live, as last counted here."""
        return self._about.expiring(bucket)

    def on_view(self, view: View) -> None:
        """The layout, or who is up, has changed."""
        self._core.on_view(view)
        self.was_ready()

    def on_link_down(self, node: NodeId, reason: str) -> None:
        """Whatever waits for that node's answer does not any more."""
        self._core.flights.on_link_down(node, reason)
        self._plain.on_link_down(node, reason)

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        now_ns = self._core.clock.monotonic_ns()
        self._core.flights.on_tick(now_ns)
        self._plain.on_tick(now_ns)

    # Plain reads and writes, and records.

    def submit(
        self,
        batch: resp.Batch,
        stops: Sequence[int],
        spans: Sequence[Span],
        options: Options | None = None,
        *,
        done: Done,
    ) -> int:
        """Run a turn's plain operations: ``PlainRequests.submit``."""
        return self._plain.submit(batch, stops, spans, done, options)

    def read_records(
        self,
        addresses: Sequence[Address],
        options: Options,
        done: Callable[[dict[Address, Record] | SadikError], None],
        *,
        quorum: bool = True,
    ) -> None:
        """Read keys with R replies each: ``RecordRequests.read``."""
        self._records.read(addresses, options, done, quorum=quorum)

    def commit(
        self, records: Iterable[Record], options: Options, done: Callable[[SadikError | None], None]
    ) -> None:
        """Store what changed at W replicas: ``RecordRequests.commit``."""
        self._records.commit(records, options, done)

    # Who coordinates.

    def route(self, bucket: bytes, key: bytes) -> NodeId | None:
        """The node that coordinates writes of a key; None: this one, also when nobody can be reached."""
        view = self.view
        if view.alone:
            return None
        found = self._core.buckets.get(bucket)
        partition = view.partition_of(Named.of(found, key).digest)
        number = int(view.targets(found.properties.n).coordinator[partition])
        return None if number in (view.me, NOBODY) else view.nodes[number]

    def _route_hinted(self, bucket: bytes, key: bytes, context: bytes | None) -> NodeId | None:
        """The same, preferring the replica that answered the read fastest, as its context says (Dynamo 5)."""
        view = self.view
        hint = decode_hint(context) if context else None
        if hint is not None and not view.alone:
            found = self._core.buckets.get(bucket)
            partition = view.partition_of(Named.of(found, key).digest)
            for number in view.targets(found.properties.n).primaries[partition].tolist():
                if view.up[number] and node_hint(view.nodes[number]) == hint:
                    return None if number == view.me else view.nodes[number]
        return self.route(bucket, key)

    async def forward_command(
        self, node: NodeId, bucket: bytes, protocol: int, arguments: Sequence[bytes], timeout_ms: int
    ) -> bytes:
        """Have another node run one command; its encoded reply.

        Raises:
            Unavailable: As ``Peers.call``: what may have been applied says so.
        """
        request = CallRequest(bucket, protocol, list(arguments), timeout_ms)
        return await self._core.peers.call(node, Kind.CALL, encode(request), timeout_ms=timeout_ms)

    async def _serve_call(self, peer: NodeId, payload: bytes) -> bytes:
        request = decoded(payload, CallRequest)
        return await self.run_command(request.bucket, request.protocol, request.arguments)

    # Single requests (HTTP).

    async def read(self, bucket: bytes, key: bytes, options: Options) -> ReadOutcome:
        """Live siblings and context of a key.

        Raises:
            CorruptRecord: No readable record where one should be: not the same as not found.
            InvalidRequest: A bad address, or a quorum beyond the effective N.
            QuorumMissed: Fewer than R replicas answered.
        """
        self.check_options(bucket, options)
        record = (await self._read_record(bucket, key, options))[bucket, key]
        return ReadOutcome(record.siblings(), self.encode_context(record))

    async def _read_record(self, bucket: bytes, key: bytes, options: Options) -> dict[Address, Record]:
        found: asyncio.Future[dict[Address, Record]] = asyncio.get_running_loop().create_future()

        def done(result: dict[Address, Record] | SadikError) -> None:
            if found.done():
                return
            if isinstance(result, SadikError):
                found.set_exception(result)
            else:
                found.set_result(result)

        self.read_records([(bucket, key)], options, done)
        return await found

    async def write(
        self,
        bucket: bytes,
        key: bytes,
        payload: bytes,
        *,
        context: bytes | None,
        metadata: bytes,
        options: Options,
    ) -> WriteOutcome:
        """Store a value that replaces what ``context`` has seen; without one it becomes a sibling.

        Raises:
            InvalidContext, LimitReached, ClockError, StorageError: As their names say; ``maybe_applied``
                tells whether it may have happened.
            Unavailable: Too few replicas have it, or not as durably as promised, in time.
        """
        self.check_options(bucket, options)
        limit = self._core.config.limits.value_bytes_max
        if len(payload) > limit:
            raise LimitReached(f"the value has {len(payload)} bytes; at most {limit} are taken")
        return await self._write(bucket, key, payload, context, metadata, options)

    async def delete(
        self, bucket: bytes, key: bytes, *, context: bytes | None, options: Options
    ) -> WriteOutcome:
        """Record a delete of what ``context`` has seen. Raises as ``write``."""
        self.check_options(bucket, options)
        return await self._write(bucket, key, None, context, b"", options)

    async def _write(
        self,
        bucket: bytes,
        key: bytes,
        payload: bytes | None,
        context: bytes | None,
        metadata: bytes,
        options: Options,
    ) -> WriteOutcome:
        node = self._route_hinted(bucket, key, context)
        if node is None:
            return WriteOutcome(await self._write_here(bucket, key, payload, context, metadata, options))
        timeout_ms = self._core.timeout_ms(options)
        request = WriteRequest(
            bucket, key, payload, context, metadata, options.w, options.pw, timeout_ms, options.ttl_ms
        )
        reply = await self._core.peers.call(node, Kind.WRITE, encode(request), timeout_ms=timeout_ms)
        return WriteOutcome(decoded(reply, WriteReply).context)

    async def _serve_write(self, peer: NodeId, payload: bytes) -> bytes:
        request = decoded(payload, WriteRequest)
        options = Options(w=request.w, pw=request.pw, timeout_ms=request.timeout_ms, ttl_ms=request.ttl_ms)
        context = await self._write_here(
            request.bucket, request.key, request.payload, request.context, request.metadata, options
        )
        return encode(WriteReply(context))

    async def _write_here(
        self,
        bucket: bytes,
        key: bytes,
        payload: bytes | None,
        context: bytes | None,
        metadata: bytes,
        options: Options,
    ) -> bytes | None:
        """The new context; None where siblings remain that the client has not seen."""
        record = self._core.record(bucket, key)
        covers = self.decode_context(context, record) if context else ()
        if payload is None:
            record.delete(covers=covers)
        else:
            ttl_ms = options.ttl_ms if options.ttl_ms is not None else self.properties(bucket).ttl_ms
            expires_at_ms = -1 if ttl_ms is None else self._core.clock.wall_ms() + ttl_ms
            record.put(payload, expires_at_ms, metadata=metadata, covers=covers)
        self.check_limits(record)
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: SadikError | None) -> None:
            if finished.done():
                return
            if error is None:
                finished.set_result(None)
            else:
                finished.set_exception(error)

        self.commit([record], options, done)
        await self._within(finished, options)
        own = 0 if payload is None else 1
        return None if len(record.siblings()) > own else self.encode_context(record)

    async def _within(self, finished: asyncio.Future[None], options: Options) -> None:
        """Wait for a commit; the own disk of a one-node cluster has no other deadline."""
        if finished.done():
            return finished.result()
        timeout_ms = self._core.timeout_ms(options)
        try:
            async with asyncio.timeout(timeout_ms / 1000 + _TICK_S * 4):
                await finished
        except TimeoutError as error:
            raise Unavailable(
                f"not durable within {timeout_ms} ms; may have been applied", maybe_applied=True
            ) from error

    # Records and contexts.

    def check_limits(self, record: Record) -> None:
        """Raise ``LimitReached`` when a changed record has more bytes, or more siblings, than a client may
        leave.
        """
        if len(record.stored) > self._core.config.limits.set_bytes_max:
            raise LimitReached(
                f"the values of this key would take more than {self._core.config.limits.set_bytes_max} bytes"
            )
        limit = min(
            self._core.buckets.get(record.bucket).properties.siblings_max,
            self._core.config.limits.siblings_max,
        )
        if limit < versions.SIBLINGS_MAX and len(versions.decode(record.stored)[1]) > limit:
            raise LimitReached(
                f"more than {limit} siblings would remain; read the key and write with its context"
            )

    def encode_context(self, record: Record) -> bytes:
        """The opaque context of all that ``record`` knows, ``b""`` when that is nothing."""
        entries = record.context()
        if not entries:
            return b""
        hint = None if self.view.alone or self.view.me < 0 else node_hint(self.node_id)
        return encode_context(entries, record.digest, self._context_key, hint=hint)

    def decode_context(self, context: bytes, record: Record) -> Sequence[tuple[int, int]]:
        """Entries of a context made for the same address. Raises InvalidContext."""
        return decode_context(context, record.digest, self._context_key)

    # Whole buckets, and every replica of a key.

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        """A page of existing keys: ``Sweeps.scan``."""
        return await self._sweeps.scan(bucket, cursor, count)

    async def count(self, bucket: bytes) -> int:
        """Keys in a bucket, about: ``Sweeps.count``."""
        return await self._sweeps.count(bucket)

    async def random_key(self, bucket: bytes) -> bytes | None:
        """Some existing key."""
        return await self._sweeps.random_key(bucket)

    async def flush(self, buckets: Sequence[bytes]) -> None:
        """Hide everything that is in the buckets now, on every live node: ``Sweeps.flush``."""
        await self._sweeps.flush(buckets)

    async def explain(self, bucket: bytes, key: bytes) -> Explanation:
        """Where a key lives and who has which version."""
        return await self._sweeps.explain(bucket, key)

    def keys_here(self, bucket: bytes) -> int:
        """Keys of a bucket that this node stores."""
        return self._sweeps.keys_here(bucket)

    # Buckets and options.

    def bucket(self, name: bytes) -> Bucket:
        """The bucket as the data path uses it."""
        return self._core.buckets.get(name)

    def bucket_for_write(self, name: bytes) -> Bucket:
        """The same, recorded in the log before its first data."""
        return self._core.buckets.for_write(name)

    def buckets(self) -> list[bytes]:
        """Names of the buckets written to so far, sorted."""
        return self._core.buckets.names()

    def properties(self, bucket: bytes) -> BucketProperties:
        return self._core.buckets.get(bucket).properties

    async def set_properties(self, bucket: bytes, properties: BucketProperties) -> None:
        """Replace a bucket's properties, durably here as the mode promises; they spread by gossip."""
        stamp = self.vnodes.stamp_above(0)
        await self.sync.durable(self._core.buckets.set_properties(bucket, properties, stamp))

    def check_options(self, bucket: bytes, options: Options) -> None:
        """Raise ``InvalidRequest`` where a quorum asked for exceeds the effective N."""
        effective = self.effective_n(bucket)
        for name in ("r", "w", "pr", "pw"):
            asked = getattr(options, name)
            if asked is not None and asked > effective:
                raise InvalidRequest(f"{name}={asked} is more than the {effective} replica(s) of this bucket")

    def effective_n(self, bucket: bytes) -> int:
        """Replicas a key of the bucket has: min(N, nodes in the layout)."""
        return self.view.effective_n(self.properties(bucket).n)


def node_hint(node: NodeId) -> int:
    """The number by which a context names a node."""
    return int.from_bytes(digest.digest(node.encode())[:8], "big")
