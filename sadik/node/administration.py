"""What an operator sees and steers: members, layout, hints and repair of the cluster, through any of its
nodes.

Answers are documents of plain values, as the HTTP API serves them and the command line shows them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from sadik.comms.messages import Kind, Packed, encode
from sadik.comms.service import Peers
from sadik.errors import InvalidRequest, SadikError, Unavailable
from sadik.ids import NodeId
from sadik.members.layout import Change
from sadik.members.plan import Plan
from sadik.members.service import Members
from sadik.node.about import About
from sadik.node.buckets import BucketRegistry
from sadik.node.coordinator.requests import decoded
from sadik.node.repair.exchange.service import ExchangeService
from sadik.node.repair.hints import HintStore
from sadik.node.vnode import Vnodes
from sadik.storage.engine import DIGEST_BYTES

_LOOKED_AT = 256
"""Records of a partition that are looked at for one that is not garbage."""


class OccupiedReply(Packed, array_like=True, frozen=True):
    """Which partitions hold anything on a node, a bit each, and about how many bytes one of them has."""

    bitmap: bytes
    partition_bytes: int


class Administration:
    """The cluster as its operator sees it from this node."""

    def __init__(
        self,
        *,
        members: Members,
        about: About,
        peers: Peers,
        vnodes: Vnodes,
        buckets: BucketRegistry,
        hints: HintStore,
        exchange: ExchangeService,
        wait_hints: Callable[[float], Awaitable[bool]],
        layout_kept: Callable[[], Awaitable[None]],
        timeout_ms: int,
    ) -> None:
        self._members = members
        self._about = about
        self._peers = peers
        self._vnodes = vnodes
        self._buckets = buckets
        self._hints = hints
        self._exchange = exchange
        self._wait_hints = wait_hints
        self._layout_kept = layout_kept
        self._timeout_ms = timeout_ms
        peers.serve(Kind.OCCUPIED, self._serve_occupied)

    # Members and layout.

    def members(self) -> dict[str, Any]:
        """Everybody the cluster knows of."""
        return {"members": self._members.members()}

    def layout(self) -> dict[str, Any]:
        """Who owns what, and what is staged."""
        return self._about.layout()

    async def plan(self) -> dict[str, Any]:
        """What a commit would do now.

        Raises:
            Unavailable: A node of the layout did not say which partitions it holds.
        """
        return (await self._plan()).as_document()

    async def stage(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """Stage ``{"action", "node", "capacity"?, "with"?}`` for the next commit.

        Raises:
            InvalidRequest: It does not fit.
        """
        unknown = sorted(set(change) - {"action", "node", "capacity", "with"})
        if unknown:
            raise InvalidRequest(f"a change has no {unknown[0]!r}")
        try:
            made = msgspec.convert(
                (
                    change.get("action"),
                    change.get("node"),
                    change.get("capacity") or 0,
                    "",
                    "",
                    change.get("with") or "",
                ),
                Change,
            )
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"this is no change of the layout: {error}") from None
        self._members.stage(made)
        return await self.plan()

    async def revert(self) -> dict[str, Any]:
        """Take back what is staged."""
        self._members.revert()
        return await self.plan()

    async def commit(self, version: int, *, force: bool) -> dict[str, Any]:
        """Make the staged changes the layout ``version``.

        Raises:
            InvalidRequest: They were planned for another version, or would move data.
            QuorumMissed: Too few nodes of the current layout agree.
        """
        plan = await self._plan()
        if version != plan.version:
            raise InvalidRequest(
                f"version {version} was planned, and the next is {plan.version}: look at the plan again"
            )
        await self._members.commit(plan, force=force)
        # Done means done: a power cut must not bring back the layout before.
        await self._layout_kept()
        return self.layout()

    async def leave(self) -> dict[str, Any]:
        """Leave the cluster for good; the layout must not have this node any more."""
        await self._members.leave()
        return self.members()

    async def _plan(self) -> Plan:
        occupied, size = self.occupied()
        view = self._members.view
        for node, up in zip(view.nodes, view.up, strict=True):
            if node == self._members.me:
                continue
            if not up:
                # What it holds is on the others too, or in their hints: all that was acknowledged is.
                continue
            try:
                payload = await self._peers.call(node, Kind.OCCUPIED, b"", timeout_ms=self._timeout_ms)
            except SadikError as error:
                raise Unavailable(f"node {node} does not say which partitions hold data: {error}") from error
            reply = decoded(payload, OccupiedReply)
            size = max(size, reply.partition_bytes)
            occupied.update(
                partition
                for partition in range(min(view.layout.partitions, 8 * len(reply.bitmap)))
                if reply.bitmap[partition >> 3] >> (partition & 7) & 1
            )
        return self._members.plan(
            sizes=dict.fromkeys(sorted(occupied), size),
            occupied=occupied.__contains__,
            copies=sorted({self._buckets.get(name).properties.n for name in self._buckets.names()}),
        )

    def occupied(self) -> tuple[set[int], int]:
        """Partitions that hold anything here, and about how many bytes one of them has."""
        view = self._members.view
        bits = 8 * DIGEST_BYTES - view.partition_bits
        live = {self._buckets.get(name).space for name in self._buckets.names()}
        found: set[int] = set()
        after = b""
        # From one key to the next partition's: a step for each partition that holds anything.
        while page := self._vnodes.engine.scan(after, b"\xff" * DIGEST_BYTES, 1):
            partition = view.partition_of(page[0].digest)
            stop = (((partition + 1) << bits) - 1).to_bytes(DIGEST_BYTES, "big")
            entries = self._vnodes.engine.scan(after, stop, _LOOKED_AT, 1 << 20)
            # An unreadable record says nothing of its space: it counts.
            if len(entries) == _LOOKED_AT or any(
                entry.value is None or entry.space in live for entry in entries
            ):
                found.add(partition)
            after = stop
        size = self._vnodes.engine.statistics().live_bytes // max(1, len(found))
        return found, size

    def _serve_occupied(self, peer: NodeId, payload: bytes) -> bytes:
        found, size = self.occupied()
        bitmap = bytearray((self._members.view.layout.partitions + 7) // 8)
        for partition in sorted(found):
            bitmap[partition >> 3] |= 1 << (partition & 7)
        return encode(OccupiedReply(bytes(bitmap), size))

    # Hints and repair.

    def hints(self) -> dict[str, Any]:
        """Hints that this node keeps."""
        statistics = self._hints.statistics()
        return {
            "owners": [
                {
                    "owner": owner,
                    "hints": share.hints,
                    "bytes": share.bytes,
                    "oldest_ms": share.oldest_ms,
                }
                for owner, share in sorted(self._hints.owners().items())
            ],
            "stored": statistics.stored,
            "delivered": statistics.delivered,
            "expired": statistics.expired,
            "dropped": statistics.dropped,
            "bytes": statistics.bytes,
        }

    async def wait_hints(self, timeout_ms: int) -> dict[str, Any]:
        """Return once every hint of now is delivered, expired or dropped.

        Raises:
            Unavailable: Not within ``timeout_ms``.
        """
        if not await self._wait_hints(timeout_ms / 1000):
            raise Unavailable(f"not all hints are delivered after {timeout_ms} ms")
        return self.hints()

    def repair(self, partition: int | None) -> dict[str, Any]:
        """Compare with the other replicas now: one partition, or all of this node's.

        Raises:
            InvalidRequest: There is no such partition.
        """
        if partition is not None and not 0 <= partition < self._members.view.layout.partitions:
            raise InvalidRequest(f"there is no partition {partition}")
        self._exchange.repair(partition)
        return self.repair_status()

    def repair_status(self) -> dict[str, Any]:
        """How far that is."""
        status: dict[str, Any] = self._exchange.status()
        return status
