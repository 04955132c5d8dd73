"""How big a simulated cluster is, how it is configured, and its disks once it has been formed.

Forming a cluster (founding, joining, voting on a layout) takes longer than most stories about it, so it is
done once for a shape; every world of that shape begins with copies of those disks. Stories about forming
begin with empty ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sadik.config import (
    ClusterConfig,
    HttpConfig,
    LimitsConfig,
    LogConfig,
    NodeConfig,
    RespConfig,
    StorageConfig,
    SyncMode,
)
from sadik.ids import NodeId
from sadik.settings import Address
from sadik.sim.node import HTTP_PORT, PEER_PORT, RESP_PORT, host_of

CLUSTER = "sim"
DIRECTORY = "/data"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """Attributes:
    nodes: In the layout. zones: They are spread over so many; 0 for none.
    spares: More machines that are not in the layout yet.
    partitions: Q.
    sync: Durability, with its interval.
    """

    nodes: int = 5
    spares: int = 0
    zones: int = 0
    partitions: int = 16
    sync: SyncMode = "always"
    sync_interval_ms: int = 200
    request_timeout_ms: int = 400
    gossip_interval_ms: int = 300
    heartbeat_interval_ms: int = 200
    peer_timeout_ms: int = 600
    exchange_interval_ms: int = 1000
    hint_age_ms: int = 3 * 3_600_000
    horizon_ms: int = 10 * 86_400_000
    clock_offset_max_ms: int = 500

    @property
    def names(self) -> list[str]:
        """Of all machines."""
        return [f"n{number + 1}" for number in range(self.nodes + self.spares)]

    @cache  # noqa: B019  (shapes are few)
    def config(self, number: int, *, everybody: bool = False) -> NodeConfig:
        """Of machine ``number``, counted from 0; its seeds are the first machine, or all others."""
        host = host_of(number)
        seeds = range(len(self.names)) if everybody else range(1)
        return NodeConfig(
            node_id=NodeId(f"n{number + 1}"),
            cluster=CLUSTER,
            partitions=self.partitions,
            data_directory=DIRECTORY,
            zone=f"z{number % self.zones}" if self.zones else "default",
            peer=Address(host, PEER_PORT),
            seed_nodes=tuple(Address(host_of(seed), PEER_PORT) for seed in seeds if seed != number),
            insecure=True,
            drain_timeout_ms=200,
            resp=RespConfig(
                listen=Address(host, RESP_PORT), batch_operations_max=256, batch_bytes_max=MIB // 4
            ),
            http=HttpConfig(listen=Address(host, HTTP_PORT)),
            storage=StorageConfig(
                sync=self.sync, sync_interval_ms=self.sync_interval_ms, segment_bytes_max=MIB
            ),
            limits=LimitsConfig(
                value_bytes_max=64 << 10,
                set_bytes_max=MIB // 2,
                request_timeout_ms=self.request_timeout_ms,
                horizon_ms=self.horizon_ms,
                clock_offset_max_ms=self.clock_offset_max_ms,
            ),
            peers=ClusterConfig(
                gossip_interval_ms=self.gossip_interval_ms,
                heartbeat_interval_ms=self.heartbeat_interval_ms,
                peer_timeout_ms=self.peer_timeout_ms,
                exchange_interval_ms=self.exchange_interval_ms,
                hint_age_ms=self.hint_age_ms,
            ),
            log=LogConfig(level="error"),
        )


def shipped() -> Shape:
    """With the intervals and timeouts that nodes have unless told otherwise; those of other shapes are
    shorter, so that seconds of them show what takes minutes.
    """
    storage, limits, peers = StorageConfig(), LimitsConfig(), ClusterConfig()
    return Shape(
        sync_interval_ms=storage.sync_interval_ms,
        request_timeout_ms=limits.request_timeout_ms,
        gossip_interval_ms=peers.gossip_interval_ms,
        heartbeat_interval_ms=peers.heartbeat_interval_ms,
        peer_timeout_ms=peers.peer_timeout_ms,
        exchange_interval_ms=peers.exchange_interval_ms,
    )
