"""What a node tells of itself and of its cluster: status for people, the layout for clients that find their
own way."""

from __future__ import annotations

from typing import Any

from sadik.config import NodeConfig
from sadik.members.service import Members
from sadik.node.birth import BirthRecord
from sadik.node.buckets import BucketRegistry
from sadik.node.collection import Collector
from sadik.node.coordinator.flight import Flights
from sadik.node.repair.hints import HintStore
from sadik.node.vnode import Vnodes


class About:
    """Documents of plain values, made when asked for."""

    def __init__(
        self,
        *,
        birth: BirthRecord,
        config: NodeConfig,
        vnodes: Vnodes,
        buckets: BucketRegistry,
        members: Members,
        hints: HintStore,
        flights: Flights,
        collector: Collector,
    ) -> None:
        self._birth = birth
        self._config = config
        self._vnodes = vnodes
        self._buckets = buckets
        self._members = members
        self._hints = hints
        self._flights = flights
        self._collector = collector

    def status(self) -> dict[str, Any]:
        """This node's state."""
        statistics = self._vnodes.engine.statistics()
        gossip = self._members.statistics()
        return {
            "node": self._birth.node_id,
            "cluster": self._birth.cluster,
            "cluster_id": self._birth.cluster_id,
            "actor": f"{self._vnodes.actor:016x}",
            "zone": self._config.zone,
            "host": self._config.host_label or self._birth.node_id,
            "peer": str(self._config.advertise or self._config.peer),
            "partitions": self._birth.partitions,
            "hash": self._birth.hash,
            "members": gossip.members,
            "live_members": gossip.live,
            "layout_version": self._members.view.layout.version,
            "in_layout": self._members.view.me >= 0,
            "hints": self._hints.statistics().present,
            "in_flight": len(self._flights),
            "engine": statistics.engine,
            "sync": self._config.storage.sync,
            "writable": statistics.writable,
            "keys": statistics.keys,
            "stored_bytes": statistics.stored_bytes,
            "live_bytes": statistics.live_bytes,
            "index_bytes": statistics.index_bytes,
            "segments": statistics.segments,
            "corrupt_records": statistics.corrupt_records,
            "quarantined_segments": statistics.quarantined_segments,
            "buckets": len(self._buckets.names()),
        }

    def layout(self) -> dict[str, Any]:
        """Who owns what, where they are reached, and what is staged."""
        document = self._members.state.as_document()
        known = {member["node"]: member for member in self._members.members()}
        for node in document["nodes"]:
            member = known.get(node["node"], {})
            node["up"] = member.get("state") == "alive"
            for name in ("peer", "resp", "http"):
                node[name] = member.get(name, "")
        return document

    def client_layout(self) -> dict[str, Any]:
        """The same without what only people need."""
        document = self.layout()
        return {
            "version": document["version"],
            "partitions": document["partitions"],
            "replicas": document["replicas"],
            "width": document["width"],
            "nodes": [{name: node[name] for name in ("node", "resp", "up")} for node in document["nodes"]],
            "assignment": document["assignment"],
        }

    def expiring(self, bucket: bytes) -> int:
        """Keys of a bucket with a time to live, as the last round of collection found them here."""
        return self._collector.expiring.get(bucket, 0)
