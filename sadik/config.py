"""Everything an operator can set, once: its name, default, range, unit and the reason for the number.

One frozen dataclass per component; ``NodeConfig`` holds them all and is the only thing a node is built from.
Each field made by ``setting`` is an option: ``StorageConfig.sync_interval_ms`` is the flag
``--sync-interval-ms``, the variable ``SADIK_SYNC_INTERVAL_MS`` and the TOML key ``sync_interval_ms``.
``SETTINGS`` lists them for the command line, which knows no option, default or range of its own.

Pure data: nothing here reads a file, the environment or a clock. A value out of range raises
``InvalidRequest`` with the option's name, whoever builds the object. Sizes are bytes, times are milliseconds;
both say so in their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal, get_args

from sadik.errors import InvalidRequest
from sadik.ids import NodeId
from sadik.settings import Address, Component, Setting, setting, settings_of

__all__ = [
    "CLUSTER_DEFAULT",
    "PARTITIONS_DEFAULT",
    "SETTINGS",
    "Address",
    "ClusterConfig",
    "EngineName",
    "HttpConfig",
    "LimitsConfig",
    "LogConfig",
    "MetricsConfig",
    "NodeConfig",
    "RespConfig",
    "StorageConfig",
    "SyncMode",
    "build",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
SECOND: Final = 1000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR

CLUSTER_DEFAULT: Final = "sadik"
PARTITIONS_DEFAULT: Final = 1024
"""Q of a new cluster: 100 nodes still hold about 30 of the 3072 replicas each, so loads stay even."""

EngineName = Literal["log", "memory", "lmdb"]
SyncMode = Literal["always", "interval", "never"]

NAME_PATTERN: Final = r"[A-Za-z0-9._-]{1,64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RespConfig(Component):
    """The Redis protocol's listener.

    A limit that is reached costs its client a request or the connection, and nobody else anything.
    """

    PREFIX: ClassVar[str] = "resp_"
    GROUP: ClassVar[str] = "Redis protocol (RESP)"

    listen: Address = setting(
        Address("127.0.0.1", 7379), "address", "Where Redis clients connect.", name="resp"
    )
    connections_max: int = setting(
        10_000,
        "count",
        "Connections; more are refused with an error. Redis' own default.",
        low=1,
        high=1_000_000,
    )
    request_bytes_max: int = setting(
        64 * MIB,
        "bytes",
        "One command with all its arguments: what one client can make the node hold.",
        low=128 * KIB,
        high=4 * GIB,
    )
    # More than a value may have: one that is too long is then refused like any other command, and only what
    # could never fit into a request costs its client the connection.
    bulk_bytes_max: int = setting(
        64 * MIB,
        "bytes",
        "One argument; a longer one ends the connection before memory is taken for it. "
        "Rises with --value-bytes-max, falls with --resp-request-bytes-max.",
        low=64 * KIB,
        high=512 * MIB,
    )
    arguments_max: int = setting(
        1_048_576, "count", "Arguments of one command. Redis' own limit.", low=16, high=1_048_576
    )
    pipeline_operations_max: int = setting(
        1024,
        "count",
        "Operations of one connection in flight; at the limit its socket is not read.",
        low=1,
        high=1_000_000,
    )
    output_bytes_max: int = setting(
        64 * MIB,
        "bytes",
        "Unsent replies of a client that does not read; beyond, it is disconnected.",
        low=64 * KIB,
        high=4 * GIB,
    )
    output_soft_bytes_max: int = setting(
        16 * MIB,
        "bytes",
        "Unsent replies that a client may hold no longer than --resp-output-soft-ms.",
        low=64 * KIB,
        high=4 * GIB,
    )
    output_soft_ms: int = setting(
        10 * SECOND, "milliseconds", "How long a client may stay over the soft limit.", low=1, high=DAY
    )
    idle_timeout_ms: int = setting(
        0,
        "milliseconds",
        "Close a connection that sends nothing for so long; 0 never does, as in Redis.",
        high=365 * DAY,
    )
    batch_operations_max: int = setting(
        4096,
        "count",
        "Operations of one turn of the event loop: some 4 ms of work, which bounds everyone's wait.",
        low=1,
        high=1 << 20,
    )
    batch_bytes_max: int = setting(
        8 * MIB,
        "bytes",
        "Keys and values of one turn; a longer value goes the slower way, alone.",
        low=128 * KIB,
        high=GIB,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig(Component):
    """The HTTP listener. A body may be as long as a value (``LimitsConfig.value_bytes_max``)."""

    PREFIX: ClassVar[str] = "http_"
    GROUP: ClassVar[str] = "HTTP"

    listen: Address = setting(
        Address("127.0.0.1", 7380), "address", "Where HTTP clients and Prometheus connect.", name="http"
    )
    connections_max: int = setting(1024, "count", "Connections; more are refused.", low=1, high=1_000_000)
    line_bytes_max: int = setting(
        256 * KIB,
        "bytes",
        "Request line. The longest bucket and key take 193 KiB when percent-encoded.",
        low=8 * KIB,
        high=MIB,
    )
    header_bytes_max: int = setting(
        16 * KIB, "bytes", "One header field. The longest context takes 2 KiB.", low=4 * KIB, high=MIB
    )
    request_timeout_ms: int = setting(
        30 * SECOND,
        "milliseconds",
        "A request must have arrived whole after so long; guards against slow senders.",
        low=100,
        high=DAY,
    )
    idle_timeout_ms: int = setting(
        75 * SECOND,
        "milliseconds",
        "Close a kept-alive connection that asks nothing for so long.",
        low=100,
        high=DAY,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig(Component):
    """The storage engine."""

    GROUP: ClassVar[str] = "Storage"

    engine: EngineName = setting(
        "log",
        "choice",
        "log: append-only files. memory: forgets at exit. lmdb: needs sadik[lmdb].",
        choices=get_args(EngineName),
    )
    sync: SyncMode = setting(
        "interval",
        "choice",
        "When a write counts as done. always: it is on disk. interval: the operating system has it, and "
        "it is on disk within --sync-interval-ms. never: the operating system has it. Each survives the "
        "death of the process; a power cut takes nothing, one interval, or more.",
        choices=get_args(SyncMode),
    )
    sync_interval_ms: int = setting(
        SECOND,
        "milliseconds",
        "What a power cut may take in interval mode. Redis' own choice.",
        low=1,
        high=HOUR,
    )
    segment_bytes_max: int = setting(
        128 * MIB,
        "bytes",
        "One file of the log: large enough that files are few, small enough to compact in steps.",
        low=MIB,
        high=4 * GIB - MIB,
    )
    compaction_bytes_per_second: int = setting(
        32 * MIB,
        "bytes",
        "Pace of compaction, a tenth or so of a small SSD: the rest is for requests. 0 switches it off.",
        high=64 * GIB,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig(Component):
    """Limits on the data itself: the same on every way in."""

    GROUP: ClassVar[str] = "Limits on data"

    value_bytes_max: int = setting(
        16 * MIB,
        "bytes",
        "One value. It is in memory whole, some three times while it is written.",
        low=1,
        high=256 * MIB,
    )
    siblings_max: int = setting(
        64,
        "count",
        "Concurrent values of one key; a client's write that leaves more is refused.",
        low=1,
        high=64,
    )
    set_bytes_max: int = setting(
        64 * MIB,
        "bytes",
        "All values of one key together; a client's write that leaves more is refused. "
        "Rises with --value-bytes-max.",
        low=256 * KIB,
        high=GIB - MIB,
    )
    request_timeout_ms: int = setting(
        5 * SECOND,
        "milliseconds",
        "What a request that names no timeout may take: beyond a slow disk, within a client's patience.",
        low=1,
        high=HOUR,
    )
    clock_offset_max_ms: int = setting(
        500,
        "milliseconds",
        "Stamps further ahead of this node's clock are refused. NTP keeps machines within a tenth of it.",
        low=1,
        high=HOUR,
    )
    horizon_ms: int = setting(
        10 * DAY,
        "milliseconds",
        "How long deletes are remembered; a node that was away longer must rejoin empty.",
        low=6 * HOUR,
        high=3650 * DAY,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig(Component):
    """Links to other nodes, gossip, hints and repair."""

    GROUP: ClassVar[str] = "Cluster"

    capacity: int = setting(
        100, "count", "Share of the data this node takes, against the others' numbers.", low=1, high=1_000_000
    )
    gossip_interval_ms: int = setting(
        SECOND, "milliseconds", "A round of gossip with one other node; Dynamo's own.", low=10, high=HOUR
    )
    heartbeat_interval_ms: int = setting(
        500, "milliseconds", "Between two signs of life on a link to another node.", low=10, high=HOUR
    )
    peer_timeout_ms: int = setting(
        2 * SECOND,
        "milliseconds",
        "A node that was silent for so long counts as down: longer than a busy machine's pauses, "
        "short enough that requests route around it before their clients notice.",
        low=50,
        high=HOUR,
    )
    peer_queue_bytes_max: int = setting(
        64 * MIB,
        "bytes",
        "Unsent bytes to one node, for requests and for repair each; beyond, it counts as not reached.",
        low=MIB,
        high=4 * GIB,
    )
    in_flight_bytes_max: int = setting(
        256 * MIB,
        "bytes",
        "Requests that wait for other nodes, together; beyond, new ones get -BUSY.",
        low=MIB,
        high=64 * GIB,
    )
    hint_bytes_max: int = setting(
        GIB,
        "bytes",
        "Hints kept for nodes that are down; when they are full, writes that need one are refused.",
        low=MIB,
        high=1 << 44,
    )
    hint_age_ms: int = setting(
        3 * HOUR,
        "milliseconds",
        "A hint that could not be delivered for so long is dropped; exchange repairs what it was for.",
        low=SECOND,
        high=5 * HOUR,
    )
    exchange_interval_ms: int = setting(
        60 * SECOND,
        "milliseconds",
        "Replicas compare their Merkle trees so often; 0 leaves it to `sadik repair`.",
        high=DAY,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig(Component):
    """What is written to standard error: one line an event."""

    PREFIX: ClassVar[str] = "log_"
    GROUP: ClassVar[str] = "Logging"

    format: str = setting(
        "text", "choice", "For people, or one JSON object a line.", choices=("text", "json")
    )
    level: str = setting(
        "info", "choice", "Least severity that is written.", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig(Component):
    """Shape of the histograms. Not options: figures of different nodes must add up."""

    latency_bounds_us: tuple[int, ...] = (
        *(50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000),
        *(100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000),
    )
    """Upper bounds in microseconds, three to a decade: from below a local read to beyond every timeout."""
    batch_bounds: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    """Upper bounds in operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig(Component):
    """One node. ``None`` means: as the data directory was born, or the default of a new one."""

    GROUP: ClassVar[str] = "Node"

    data_directory: str = setting(
        "./sadik-data", "path", "Directory of all that the node keeps.", name="data"
    )
    node_id: NodeId | None = setting(
        None,
        "text",
        "Name of this node, unique in its cluster. Default: the directory's; random for a new directory.",
        pattern=NAME_PATTERN,
    )
    cluster: str | None = setting(
        None,
        "text",
        "Name of the cluster; a directory of another one is refused. "
        f"Default: the directory's; {CLUSTER_DEFAULT} for a new directory.",
        pattern=NAME_PATTERN,
    )
    partitions: int | None = setting(
        None,
        "count",
        "Q, a power of two, fixed when the cluster is born. "
        f"Default: the directory's; {PARTITIONS_DEFAULT} for a new directory.",
        low=1,
        high=16_384,
    )
    zone: str = setting(
        "default", "text", "Failure zone: replicas of a key go to distinct ones.", pattern=NAME_PATTERN
    )
    host_label: str | None = setting(
        None, "text", "The machine, for several nodes on one. Default: the node's name.", pattern=NAME_PATTERN
    )
    peer: Address = setting(
        Address("127.0.0.1", 7381),
        "address",
        "Where other nodes connect.",
        name="peer",
    )
    advertise: Address | None = setting(
        None, "address", "Address that other nodes will use. Default: that of --peer."
    )
    seed_nodes: tuple[Address, ...] = setting(
        (),
        "addresses",
        "A node of the cluster to join; repeatable. A new directory becomes a node of that cluster.",
        name="seed_node",
    )
    secret: bytes | None = setting(
        None,
        "secret",
        "File with the secret that every client must give; a line end after it does not count.",
        low=16,
        high=1024,
        name="secret_file",
        repr=False,
    )
    insecure: bool = setting(False, "flag", "Bind other addresses than loopback although there is no secret.")
    drain_timeout_ms: int = setting(
        10 * SECOND, "milliseconds", "How long a stop waits for requests in flight.", high=HOUR
    )
    resp: RespConfig = field(default_factory=RespConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    peers: ClusterConfig = field(default_factory=ClusterConfig)
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is a new class, which its methods' class cells do not know.
        Component.__post_init__(self)
        if self.partitions is not None and self.partitions & (self.partitions - 1):
            raise InvalidRequest(f"partitions must be a power of two, not {self.partitions}")
        self._check_sizes()
        self._check_addresses()

    def _check_sizes(self) -> None:
        value_bytes = ("value_bytes_max", self.limits.value_bytes_max)
        for order in (
            (
                value_bytes,
                ("resp_bulk_bytes_max", self.resp.bulk_bytes_max),
                ("resp_request_bytes_max", self.resp.request_bytes_max),
            ),
            (
                value_bytes,
                ("set_bytes_max", self.limits.set_bytes_max),
                # A record also carries its name, 64 KiB at most, and headers.
                ("segment_bytes_max less 128 KiB", self.storage.segment_bytes_max - 128 * KIB),
            ),
            (
                ("resp_output_soft_bytes_max", self.resp.output_soft_bytes_max),
                ("resp_output_bytes_max", self.resp.output_bytes_max),
            ),
        ):
            for (small_name, small), (large_name, large) in pairwise(order):
                if small > large:
                    raise InvalidRequest(
                        f"{small_name} ({small}) must not be more than {large_name} ({large})"
                    )

    def _check_addresses(self) -> None:
        taken: dict[Address, str] = {}
        for name, address in (("resp", self.resp.listen), ("http", self.http.listen), ("peer", self.peer)):
            if address.port and address in taken:
                raise InvalidRequest(f"{taken[address]} and {name} are both {address}")
            taken[address] = name
            if not (address.is_loopback or self.secret or self.insecure):
                raise InvalidRequest(
                    f"{name} {address} can be reached from other machines, and there is no secret: "
                    f"give secret_file, or insecure if anyone may read and write"
                )


def _all_settings() -> Iterator[Setting]:
    yield from settings_of(NodeConfig)
    for attribute, component in _components().items():
        yield from settings_of(component, attribute)


def _components() -> dict[str, Any]:
    """Dataclass by attribute of ``NodeConfig``."""
    return {
        item.name: item.default_factory for item in fields(NodeConfig) if item.default_factory is not MISSING
    }


SETTINGS: Final[Mapping[str, Setting]] = {item.name: item for item in _all_settings()}
"""Every option by name, in the order of ``--help``."""


def build(values: Mapping[str, Any]) -> NodeConfig:
    """A configuration from options by name; what is not given has its default.

    Limits that must not be below ``value_bytes_max`` rise with it where they are not given themselves, and
    ``resp_bulk_bytes_max`` falls with ``resp_request_bytes_max``, likewise.

    Raises:
        InvalidRequest: An unknown name, a value out of range, or values that do not fit together.
    """
    given = dict(values)
    value_bytes = given.get("value_bytes_max", SETTINGS["value_bytes_max"].default)
    LimitsConfig(value_bytes_max=value_bytes, set_bytes_max=SETTINGS["set_bytes_max"].high)
    for name in ("resp_request_bytes_max", "set_bytes_max"):
        given.setdefault(name, max(SETTINGS[name].default, value_bytes + MIB))
    request_bytes = given["resp_request_bytes_max"]
    RespConfig(request_bytes_max=request_bytes)
    bulk_bytes = min(SETTINGS["resp_bulk_bytes_max"].default, request_bytes)
    given.setdefault("resp_bulk_bytes_max", max(bulk_bytes, value_bytes))
    parts: dict[str, dict[str, Any]] = {attribute: {} for attribute in ("", *_components())}
    for name, value in given.items():
        option = SETTINGS.get(name)
        if option is None:
            raise InvalidRequest(f"there is no option {name!r}")
        parts[option.component][option.field] = value
    own = parts.pop("")
    components = {attribute: _components()[attribute](**chosen) for attribute, chosen in parts.items()}
    return NodeConfig(**own, **components)
