"""A cluster of two nodes as its operator sees it, for tests of the HTTP face: documents, orders, faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sadik.errors import InvalidRequest


class FakeCluster:
    """Attributes:
    fault: Raised instead of any answer, while it is set.
    orders: What was ordered, in order.
    """

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.orders: list[tuple[object, ...]] = []
        self.version = 1
        self.staged: list[dict[str, Any]] = []

    def members(self) -> dict[str, Any]:
        self._fail()
        texts = {"peer": "10.0.0.1:7381", "resp": "10.0.0.1:7379", "http": "10.0.0.1:7380", "zone": "a"}
        member = {
            "node": "n1",
            "state": "alive",
            "in_layout": True,
            "incarnation": 1,
            "actor": "00000000000a11ce",
            **texts,
            "host": "h1",
            "capacity": 100,
            "since_ms": 1_700_000_000_000,
            "round_trip_ms": 0.25,
        }
        return {"members": [member, {**member, "node": "n2", "state": "dead", "round_trip_ms": 0}]}

    def layout(self) -> dict[str, Any]:
        self._fail()
        node = {"node": "n1", "host": "h1", "zone": "", "capacity": 100, "peer": "", "resp": "", "http": ""}
        return {
            "version": self.version,
            "partitions": 2,
            "replicas": 3,
            "width": 1,
            "nodes": [{**node, "up": True, "partitions": 2, "first": 2, "share": 1.0}],
            "assignment": "AAAAAA==",
            "staged": self.staged,
        }

    async def plan(self) -> dict[str, Any]:
        self._fail()
        return {
            "version": self.version + 1,
            "base_version": self.version,
            "changes": self.staged,
            "nodes": [{"node": "n2", "before": 0, "after": 1, "receives": 1, "bytes": 0}],
            "moves": 1,
            "bytes": 0,
            "violations": ["partition 0 has one host"],
            "refusal": None,
        }

    async def stage(self, change: Mapping[str, Any]) -> dict[str, Any]:
        self.orders.append(("stage", dict(change)))
        self._fail()
        if change["node"] == "nobody":
            raise InvalidRequest("no member is called nobody")
        self.staged.append(dict(change))
        return await self.plan()

    async def revert(self) -> dict[str, Any]:
        self.orders.append(("revert",))
        self._fail()
        self.staged.clear()
        return await self.plan()

    async def commit(self, version: int, *, force: bool) -> dict[str, Any]:
        self.orders.append(("commit", version, force))
        self._fail()
        if version != self.version + 1:
            raise InvalidRequest(f"the plan is of version {self.version + 1} now")
        self.version = version
        return self.layout()

    def hints(self) -> dict[str, Any]:
        self._fail()
        counts = {"stored": 7, "delivered": 3, "expired": 0, "dropped": 0, "bytes": 400}
        return {"owners": [{"owner": "n2", "hints": 4, "bytes": 400, "oldest_ms": 12}], **counts}

    async def wait_hints(self, timeout_ms: int) -> dict[str, Any]:
        self.orders.append(("wait_hints", timeout_ms))
        return self.hints()

    def repair(self, partition: int | None) -> dict[str, Any]:
        self.orders.append(("repair", partition))
        return self.repair_status()

    def repair_status(self) -> dict[str, Any]:
        self._fail()
        counts = {"partitions_total": 2, "partitions_done": 1, "keys_compared": 5, "keys_repaired": 0}
        return {"running": True, **counts, "bytes": 99, "errors": ["n2: timed out"]}

    async def leave(self) -> dict[str, Any]:
        self.orders.append(("leave",))
        self._fail()
        return self.members()

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault
