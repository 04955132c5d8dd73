"""What concerns a whole bucket, or every replica of a key: listing, counting, FLUSHDB, explain.

These ask node after node, and are rare. Listings and counts are approximate by nature: each partition is
told by one live replica, as it is at that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.comms.messages import Kind, encode
from sadik.env.entropy import Entropy
from sadik.errors import InvalidRequest, ProtocolError, SadikError, Unavailable
from sadik.ids import NodeId
from sadik.kernels import versions
from sadik.members.view import NOBODY, View
from sadik.node.coordinator.core import Core
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Explanation, KeyPage, ReplicaView
from sadik.node.coordinator.quorum import needs_of
from sadik.node.coordinator.requests import (
    CountReply,
    CountRequest,
    ExplainReply,
    ExplainRequest,
    ScanReply,
    ScanRequest,
    TruncateReply,
    TruncateRequest,
    decoded,
)
from sadik.node.items import Named

CURSOR_LIMIT: Final = 1 << 63
_SCAN_PAGE: Final = 512
_SCAN_COUNT_MAX: Final = 10_000
_SCAN_BYTES: Final = 16 * 1024 * 1024
_RANDOM_PROBES: Final = 64
_LAST: Final = b"\xff" * 16


class Sweeps:
    """Requests over all nodes, and this node's part in those of others."""

    def __init__(self, core: Core, entropy: Entropy) -> None:
        self._core = core
        self._vnodes = core.vnodes
        self._buckets = core.buckets
        self._sync = core.sync
        self._peers = core.peers
        self._entropy = entropy
        self._timeout_ms = core.config.limits.request_timeout_ms
        peers = core.peers
        peers.serve(Kind.SCAN, self._serve_scan)
        peers.serve(Kind.COUNT, self._serve_count)
        peers.serve(Kind.EXPLAIN, self._serve_explain)
        peers.serve(Kind.TRUNCATE, self._serve_truncate)

    # Listing.

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        """Existing keys after a cursor, in digest order, looking at about ``count`` stored keys of all
        buckets.

        The cursor is the top 63 bits of the next digest to look at: nothing is kept between calls, it
        survives restarts and changes of nodes.

        Raises:
            InvalidRequest: A cursor outside 0 .. 2**63 - 1, or ``count`` < 1.
            Unavailable: No replica of the next partition can be reached.
        """
        if not 0 <= cursor < CURSOR_LIMIT:
            raise InvalidRequest("invalid cursor")
        if count < 1:
            raise InvalidRequest("count must be at least 1")
        view = self._core.view
        n = self._buckets.get(bucket).properties.n
        after = ((cursor << 65) - 1).to_bytes(16, "big") if cursor else b""
        partition = cursor >> (63 - view.partition_bits)
        number, last_partition = self._stretch(view, n, partition)
        bits = 128 - view.partition_bits
        stop = (((last_partition + 1) << bits) - 1).to_bytes(16, "big")
        request = ScanRequest(bucket, after, stop, min(count, _SCAN_COUNT_MAX))
        if number == view.me:
            reply = self._scan_here(request)
        else:
            payload = await self._peers.call(
                view.nodes[number], Kind.SCAN, encode(request), timeout_ms=self._timeout_ms
            )
            reply = decoded(payload, ScanReply)
        if reply.last:
            return KeyPage(reply.keys, (int.from_bytes(reply.last[:8], "big") >> 1) + 1)
        following = (last_partition + 1) << (63 - view.partition_bits)
        return KeyPage(reply.keys, following if following < CURSOR_LIMIT else 0)

    def _stretch(self, view: View, n: int, partition: int) -> tuple[int, int]:
        """Who tells of a partition, and the last of those behind it that the same node tells of."""
        coordinators = view.targets(n).coordinator
        number = int(coordinators[partition])
        if number == NOBODY:
            raise Unavailable(f"no replica of partition {partition} can be reached")
        last = partition
        while last + 1 < len(coordinators) and coordinators[last + 1] == number:
            last += 1
        return number, last

    def _scan_here(self, request: ScanRequest) -> ScanReply:
        found = self._buckets.get(request.bucket)
        now_ms = self._vnodes.clock.wall_ms()
        after = request.after
        keys: list[bytes] = []
        limit, looked, position = request.count, 0, -1
        bytes_left = _SCAN_BYTES
        while True:
            left = max(limit - looked, 1)
            page = self._vnodes.engine.scan(after, request.stop, min(_SCAN_PAGE, left), _SCAN_BYTES)
            if not page:
                return ScanReply(keys, b"")
            for entry in page:
                # Keys of one cursor position stay together: the next page starts behind all of them.
                here = int.from_bytes(entry.digest[:8], "big") >> 1
                if looked >= limit and here != position:
                    return ScanReply(keys, position_end(position))
                position = here
                looked += 1
                if (
                    entry.value is not None
                    and entry.space == found.space
                    and versions.newest(entry.value, found.floor, now_ms) is not None
                ):
                    keys.append(entry.name[len(found.prefix) + 2 :])
            after = page[-1].digest
            bytes_left -= sum(len(entry.value or b"") for entry in page)
            if bytes_left <= 0:
                limit = min(limit, looked)

    async def _serve_scan(self, peer: NodeId, payload: bytes) -> bytes:
        request = decoded(payload, ScanRequest)
        if len(request.after) not in (0, 16) or len(request.stop) != 16 or request.count < 1:
            raise ProtocolError("a scan without a range")
        return encode(self._scan_here(request))

    async def random_key(self, bucket: bytes) -> bytes | None:
        """Some existing key: the first one after a random position."""
        if await self.count(bucket) == 0:
            return None
        start = int.from_bytes(self._entropy.random_bytes(8), "big") >> 1
        page = KeyPage([], start)
        for _ in range(_RANDOM_PROBES):
            page = await self.scan(bucket, page.cursor, 16)
            if page.keys:
                return page.keys[0]
        # A sparse bucket among many others: walk it all before saying there is none.
        cursor = 0
        while True:
            page = await self.scan(bucket, cursor, _SCAN_PAGE)
            if page.keys:
                return page.keys[0]
            if not (cursor := page.cursor):
                return None

    async def count(self, bucket: bytes) -> int:
        """Keys in a bucket, about: expired ones that nobody replaced are counted, and replicas may differ.

        The stored keys of all live nodes, divided by the replicas of a key.
        """
        view = self._core.view
        own = self.keys_here(bucket)
        if view.alone:
            return own
        counts = [own] if view.me >= 0 else []
        for node, up in zip(view.nodes, view.up, strict=True):
            if up and node != self._core.node:
                payload = await self._peers.call(
                    node, Kind.COUNT, encode(CountRequest(bucket)), timeout_ms=self._timeout_ms
                )
                counts.append(decoded(payload, CountReply).keys)
        if not counts:
            raise Unavailable("no node of the layout can be reached")
        n = view.effective_n(self._buckets.get(bucket).properties.n)
        if n == len(view.nodes):
            return max(counts)
        return round(sum(counts) * len(view.nodes) / (len(counts) * n))

    def keys_here(self, bucket: bytes) -> int:
        """Keys of a bucket that this node stores."""
        found = self._buckets.get(bucket)
        return self._vnodes.engine.count(found.space) if found.stored else 0

    async def _serve_count(self, peer: NodeId, payload: bytes) -> bytes:
        return encode(CountReply(self.keys_here(decoded(payload, CountRequest).bucket)))

    # FLUSHDB.

    async def flush(self, buckets: Sequence[bytes]) -> None:
        """Hide everything that is in the buckets now, on every live node, before this returns.

        O(1) per bucket, but for the first moments after a restart. Nodes that are down learn of it before
        they take part again.

        Raises:
            ClockError: A stamp above all that is stored cannot be minted: some wall clock went back.
            Unavailable: A live node did not answer, and nothing was done; or it did not confirm, and whether
                it is done there is unknown.
        """
        view = self._core.view
        others = [
            node for node, up in zip(view.nodes, view.up, strict=True) if up and node != self._core.node
        ]
        for number, bucket in enumerate(buckets):
            highest = self._highest(bucket)
            for node in others:
                try:
                    reply = await self._truncate(node, TruncateRequest(bucket))
                except SadikError as error:
                    done = f"the first {number} buckets are flushed" if number else "nothing was done"
                    raise Unavailable(
                        f"node {node} does not say how high its stamps are: {error}; {done}",
                        maybe_applied=number > 0,
                    ) from error
                highest = max(highest, reply.stamp)
            stamp = self._vnodes.stamp_above(highest)
            ticket = self._buckets.truncate(bucket, stamp)
            self._vnodes.ticket_last = ticket
            for node in others:
                try:
                    await self._truncate(node, TruncateRequest(bucket, stamp))
                except SadikError as error:
                    raise Unavailable(
                        f"node {node} did not confirm the flush: {error}; it is done elsewhere, and spreads",
                        maybe_applied=True,
                    ) from error
            await self._sync.durable(ticket)

    async def _truncate(self, node: NodeId, request: TruncateRequest) -> TruncateReply:
        payload = await self._peers.call(node, Kind.TRUNCATE, encode(request), timeout_ms=self._timeout_ms)
        return decoded(payload, TruncateReply)

    def _highest(self, bucket: bytes) -> int:
        """A stamp that nothing in the bucket exceeds here."""
        vnodes = self._vnodes
        if vnodes.stamp_above(0) <= vnodes.bound.at_start:
            # Right after a restart, or with a wall clock that went back: earlier runs may have minted above
            # it. Looking is better than jumping ahead, which would drive the stamps away from the wall clock.
            return max(vnodes.hybrid.last, vnodes.stamp_greatest(self._buckets.get(bucket)))
        return vnodes.hybrid.last

    async def _serve_truncate(self, peer: NodeId, payload: bytes) -> bytes:
        request = decoded(payload, TruncateRequest)
        if not request.stamp:
            return encode(TruncateReply(self._highest(request.bucket)))
        # Later writes of this node must be above it, or they would be hidden at once.
        self._vnodes.hybrid.observe(request.stamp)
        ticket = self._buckets.raise_floor(request.bucket, request.stamp)
        if ticket:
            self._vnodes.ticket_last = ticket
            await self._sync.durable(ticket)
        return encode(TruncateReply(request.stamp))

    # Explain.

    async def explain(self, bucket: bytes, key: bytes) -> Explanation:
        """Where a key lives and who has which version."""
        view = self._core.view
        found = self._buckets.get(bucket)
        named = Named.of(found, key)
        effective = view.effective_n(found.properties.n)
        partition = view.partition_of(named.digest)
        preference = view.preference(partition, min(len(view.nodes), effective + 2))
        needs = needs_of(found.properties, Options(), effective)
        request = ExplainRequest(bucket, key)
        replicas = []
        for place, node in enumerate(preference):
            up = view.up[view.nodes.index(node)]
            reply = ExplainReply("unknown", [], 0, 0)
            if node == self._core.node:
                reply = self._explain_here(request)
            elif up:
                try:
                    payload = await self._peers.call(
                        node, Kind.EXPLAIN, encode(request), timeout_ms=self._timeout_ms
                    )
                    reply = decoded(payload, ExplainReply)
                except SadikError:
                    up = False
            role = "primary" if place < effective else "fallback"
            replicas.append(
                ReplicaView(node, role, up, reply.state, reply.entries, reply.siblings, reply.size)
            )
        return Explanation(
            bucket=bucket,
            key=key,
            digest=named.digest.hex(),
            token=int.from_bytes(named.digest[:8], "big"),
            partition=partition,
            n=effective,
            r=needs.r,
            w=needs.w,
            replicas=replicas,
        )

    def _explain_here(self, request: ExplainRequest) -> ExplainReply:
        address = (self._buckets.get(request.bucket), request.key)
        (record,) = self._vnodes.records([address]).values()
        if not record.readable:
            return ExplainReply("error", [], 0, 0)
        if record.stored:
            return ExplainReply("stored", record.context(), len(record.siblings()), len(record.stored))
        (kept,) = self._core.hints.sets_for([record.digest])
        if kept:
            siblings = versions.siblings(kept, record.floor, self._vnodes.clock.wall_ms())
            return ExplainReply("hinted", versions.context(kept), len(siblings), len(kept))
        return ExplainReply("absent", [], 0, 0)

    async def _serve_explain(self, peer: NodeId, payload: bytes) -> bytes:
        return encode(self._explain_here(decoded(payload, ExplainRequest)))


def position_end(position: int) -> bytes:
    """The last digest of a cursor position."""
    return (((position + 1) << 65) - 1).to_bytes(16, "big")
