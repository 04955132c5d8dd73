"""What INFO and CONFIG GET say: the fields clients read, with Sadik's own figures behind them."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Final

import sadik
from sadik.api.resp.admin import default_settings
from sadik.api.resp.connection_commands import REDIS_VERSION
from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.keys import NUMBERED_BUCKETS
from sadik.config import NodeConfig
from sadik.env.clock import Clock

_CLUSTER: Final = (
    *("cluster_id", "members", "live_members", "layout_version"),
    *("in_layout", "hints", "in_flight"),
)
"""What of a node's status is about its cluster; ``cluster_enabled`` is Redis' own protocol, which is off."""


@dataclass(slots=True)
class Facts:
    """What does not change while the server runs; ``resp_port`` is known once it listens."""

    node_id: str
    cluster: str
    started_ms: int
    run_id: str
    data_directory: str
    resp_port: int = 0


def settings(config: NodeConfig) -> dict[str, str]:
    """CONFIG names and values: Redis' inert ones, and those that say what is really so."""
    return default_settings() | {
        "appendfsync": {"always": "always", "interval": "everysec", "never": "no"}[config.storage.sync],
        "appendonly": "no" if config.storage.engine == "memory" else "yes",
        "bind": config.resp.listen.host,
        "databases": str(NUMBERED_BUCKETS),
        "dir": os.path.abspath(config.data_directory),
        "maxclients": str(config.resp.connections_max),
        "port": str(config.resp.listen.port),
        "proto-max-bulk-len": str(config.resp.bulk_bytes_max),
        "timeout": str(config.resp.idle_timeout_ms // 1000),
        "value_bytes_max": str(config.limits.value_bytes_max),
    }


def sections(
    facts: Facts,
    instruments: RespInstruments,
    coordinator: Coordinator,
    clients: int,
    clock: Clock,
    *,
    loading: bool,
) -> dict[str, dict[str, str | int]]:
    """INFO's sections in order.

    Args:
        loading: Data commands are still refused; clients that ask before they begin wait and ask again.
    """
    status = coordinator.status()
    uptime_s = max(0, (clock.wall_ms() - facts.started_ms) // 1000)
    used = resident_bytes()
    keyspace: dict[str, str | int] = {}
    for database in range(NUMBERED_BUCKETS):
        bucket = str(database).encode()
        keys = coordinator.keys_here(bucket)
        if keys:
            # Of this node alone: INFO must answer when other nodes do not. DBSIZE counts the cluster's.
            keyspace[f"db{database}"] = f"keys={keys},expires={min(keys, coordinator.expiring(bucket))}"
    cluster: dict[str, str | int] = {"cluster_enabled": 0}
    cluster |= {name: _plain(status[name]) for name in _CLUSTER if name in status}
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "server_name": "sadik",
            "sadik_version": sadik.__version__,
            "redis_mode": "standalone",
            "os": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
            "arch_bits": 64,
            "process_id": os.getpid(),
            "run_id": facts.run_id,
            "tcp_port": facts.resp_port,
            "uptime_in_seconds": uptime_s,
            "uptime_in_days": uptime_s // 86400,
        },
        "Clients": {"connected_clients": clients, "blocked_clients": 0},
        "Memory": {
            "used_memory": used,
            "used_memory_human": f"{used / (1 << 20):.2f}M",
            "used_memory_rss": used,
            "used_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "maxmemory": 0,
            "maxmemory_human": "0B",
            "maxmemory_policy": "noeviction",
        },
        "Persistence": {
            "loading": int(loading),
            "aof_enabled": 0 if status["engine"] == "memory" else 1,
            "rdb_bgsave_in_progress": 0,
        },
        "Stats": {
            "total_connections_received": instruments.accepted.value,
            "total_commands_processed": instruments.commands_processed,
            "total_error_replies": instruments.errors,
            "rejected_connections": instruments.refused.value,
            "total_net_input_bytes": instruments.bytes_in.value,
            "total_net_output_bytes": instruments.bytes_out.value,
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "CPU": {
            "used_cpu_sys": f"{os.times().system:.6f}",
            "used_cpu_user": f"{os.times().user:.6f}",
        },
        "Cluster": cluster,
        "Keyspace": keyspace,
        "Sadik": {f"sadik_{name}": _plain(value) for name, value in status.items()},
    }


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _plain(value: object) -> str | int:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int) else str(value)
