"""The node process: outside world, node, listeners, signals; the only place that knows them all.

Start order: birth (a new directory with seeds asks one of them which cluster it is born into), engines,
links to other nodes, RESP, HTTP, ready line. Stop order: nothing new is accepted, what is owed is answered,
background work ends, everything is synced, the directory is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import uvloop

import sadik
from sadik.api import descriptors
from sadik.api.http.server import HttpServer
from sadik.api.logs import configure_logging
from sadik.api.node_metrics import export_node
from sadik.api.resp.information import Facts
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.server import RespServer
from sadik.comms.service import Peers
from sadik.comms.tcp import TcpTransport
from sadik.comms.transport import Identity, Transport
from sadik.config import NodeConfig
from sadik.env.clock import Clock, SystemClock
from sadik.env.entropy import Entropy, SystemEntropy, random_uint64
from sadik.env.files import Files, SystemFiles
from sadik.env.worker import ThreadWorker, Worker
from sadik.ids import NodeId
from sadik.members.bootstrap import join
from sadik.metrics.registry import Registry
from sadik.node import birth as births
from sadik.node.birth import BirthRecord
from sadik.node.node import EngineOpener, Node
from sadik.settings import Address
from sadik.storage.engine import Engine

log = logging.getLogger("sadik.process")

_Result = TypeVar("_Result")

_HINT_TABLES = 65_536
_FRAME_MARGIN = 1 << 20
"""Beside a version set of the greatest size a frame holds its name and headers."""


def run(config: NodeConfig) -> int:
    """Run a node until SIGTERM or SIGINT; returns the exit code.

    Raises:
        SadikError, OSError: The node could not start, or its last sync failed.
    """
    configure_logging(config.log)
    return uvloop.run(serve(descriptors.raise_limit(config)))


def open_engine(
    config: NodeConfig, birth: BirthRecord, files: Files, clock: Clock, entropy: Entropy
) -> Engine:
    """The configured storage engine on the node's directory."""
    return _open(config, birth, files, clock, entropy, "log", config.storage.segment_bytes_max)


def open_hint_engine(
    config: NodeConfig, birth: BirthRecord, files: Files, clock: Clock, entropy: Entropy
) -> Engine:
    """The same for hints, which are kept apart."""
    segment_bytes = min(
        config.storage.segment_bytes_max, max(16 << 20, config.limits.set_bytes_max + (2 << 20))
    )
    return _open(config, birth, files, clock, entropy, "hints", segment_bytes)


def _open(
    config: NodeConfig,
    birth: BirthRecord,
    files: Files,
    clock: Clock,
    entropy: Entropy,
    name: str,
    segment_bytes_max: int,
) -> Engine:
    match config.storage.engine:
        case "memory":
            from sadik.storage.memory_engine import MemoryEngine

            return MemoryEngine()
        case "lmdb":
            from sadik.storage.lmdb_engine import LmdbEngine

            return LmdbEngine.open(f"{config.data_directory}/{'lmdb' if name == 'log' else name}")
        case _:
            from sadik.storage.log_engine import LogEngine

            return LogEngine.open(
                f"{config.data_directory}/{name}",
                files=files,
                clock=clock,
                entropy=entropy,
                # Hints of one owner share the first byte of their place: many tables keep them in short runs.
                partitions=birth.partitions if name == "log" else _HINT_TABLES,
                segment_bytes_max=segment_bytes_max,
            )


def tcp_transport(clock: Clock, entropy: Entropy, config: NodeConfig, identity: Identity) -> Transport:
    """Links to other nodes over TCP."""
    return TcpTransport(
        config.peer,
        identity,
        config.secret,
        config.peers,
        clock=clock,
        entropy=entropy,
        payload_bytes_max=2 * config.limits.set_bytes_max + _FRAME_MARGIN,
    )


async def born(
    config: NodeConfig, files: Files, clock: Clock, entropy: Entropy
) -> tuple[BirthRecord | None, Mapping[str, bytes]]:
    """For a new directory with seeds: its birth record, not written yet, and what the cluster told with it.

    Asks again and again until a seed answers.
    """
    if not config.seed_nodes:
        return None, {}
    if config.storage.engine != "memory":
        files.make_directory(config.data_directory)
        if files.exists(f"{config.data_directory}/{births.FILE_NAME}"):
            return None, {}
    record = births.found(
        cluster=config.cluster,
        node_id=config.node_id,
        partitions=config.partitions,
        engine=config.storage.engine,
        clock=clock,
        entropy=entropy,
    )
    # Where this node will listen once it is born; for now any port does.
    waiting = Address(config.peer.host, 0)
    transport = TcpTransport(
        waiting,
        Identity(
            config.cluster or "", "", NodeId(record.node_id), random_uint64(entropy), record.directory_id
        ),
        config.secret,
        config.peers,
        clock=clock,
        entropy=entropy,
        payload_bytes_max=_FRAME_MARGIN * 64,
    )
    peers = Peers(transport, clock=clock)
    await transport.start()
    try:
        log.info("asking %s which cluster to join", ", ".join(map(str, config.seed_nodes)))
        answer = await join(
            NodeId(record.node_id),
            peers=peers,
            transport=transport,
            seeds=config.seed_nodes,
            entropy=entropy,
            pause=asyncio.sleep,
        )
    finally:
        await transport.stop()
    record = births.joined(
        record,
        cluster=answer.cluster,
        cluster_id=answer.cluster_id,
        partitions=answer.partitions,
        hash=answer.hash,
        wanted_cluster=config.cluster,
        wanted_partitions=config.partitions,
    )
    return record, answer.stored()


class Outside(NamedTuple):
    """What a node process gets from outside; the network is the event loop's."""

    clock: Clock
    entropy: Entropy
    files: Files
    worker: Worker


@dataclass(frozen=True, slots=True)
class Serving:
    """A node that serves; addresses are the bound ones."""

    node: Node
    registry: Registry
    resp: RespServer
    resp_address: Address
    http_address: Address | None
    peer_address: Address


async def assemble(
    config: NodeConfig,
    outside: Outside,
    end: contextlib.AsyncExitStack,
    *,
    told: tuple[BirthRecord | None, Mapping[str, bytes]],
    with_http: bool = True,
    open_engine: EngineOpener = open_engine,
    open_hint_engine: EngineOpener = open_hint_engine,
) -> Serving:
    """Open a node, and its listeners, and start it; ``end`` gets what undoes that.

    Args:
        told: What ``born`` gave.
        with_http: Whether to listen for HTTP.
    Raises:
        SadikError, OSError: It cannot start.
    """
    clock, entropy, files, worker = outside
    started_ms = clock.wall_ms()
    grace_s = config.drain_timeout_ms / 1000
    birth, kept = told
    # Without HTTP nobody asks for the figures of the process.
    registry = Registry(process=with_http)
    node = Node.open(
        config,
        open_engine=open_engine,
        open_hint_engine=open_hint_engine,
        files=files,
        clock=clock,
        entropy=entropy,
        worker=worker,
        make_transport=lambda config, identity: tcp_transport(clock, entropy, config, identity),
        registry=registry,
        birth=birth,
        kept=kept,
    )
    end.push_async_callback(node.close)
    export_node(registry, node)
    facts = Facts(
        node_id=node.birth.node_id,
        cluster=node.birth.cluster,
        started_ms=started_ms,
        run_id=f"{node.vnodes.actor:016x}".rjust(40, "0"),
        data_directory=config.data_directory,
    )
    resp = RespServer(
        node.coordinator, config, clock=clock, instruments=RespInstruments(registry), facts=facts
    )
    http: HttpServer | None = None
    if with_http:
        http = HttpServer(node.coordinator, config, registry, clock=clock, cluster=node.administration)
        end.push_async_callback(http.stop, grace_s)
    end.push_async_callback(resp.stop, grace_s)
    peer_address = await node.listen()
    resp_address = await resp.start()
    http_address = await http.start() if http is not None else None
    node.start(
        peer=str(config.advertise or peer_address),
        resp=_reached(resp_address, config.advertise),
        http=_reached(http_address, config.advertise) if http_address else "",
    )
    return Serving(node, registry, resp, resp_address, http_address, peer_address)


async def serve(config: NodeConfig) -> int:
    """Start everything, wait for a signal, stop everything."""
    loop = asyncio.get_running_loop()
    clock, entropy, files = SystemClock(), SystemEntropy(), SystemFiles()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    told = await _unless_stopped(born(config, files, clock, entropy), stop)
    if told is None:
        return 0
    # Whatever fails, at the start or at the end, the rest of the end still takes place.
    async with contextlib.AsyncExitStack() as end:
        worker = ThreadWorker(loop.call_soon_threadsafe)
        end.callback(worker.close)
        serving = await assemble(config, Outside(clock, entropy, files, worker), end, told=told)
        node = serving.node
        node.on_fault = lambda reason: stop.set()
        if node.members.fault:
            stop.set()
        # Start-up garbage is kept out of every later collection: it would only be looked at again.
        gc.collect()
        gc.freeze()
        print(
            f"sadik-node {sadik.__version__} ready: node={node.birth.node_id} cluster={node.birth.cluster} "
            f"resp={serving.resp_address} http={serving.http_address} peer={serving.peer_address} "
            f"engine={config.storage.engine} sync={config.storage.sync} "
            f"data={config.data_directory}",
            file=sys.stderr,
            flush=True,
        )
        await stop.wait()
        log.info("stopping")
    log.info("stopped")
    return 0 if not node.members.fault else 4


async def _unless_stopped(work: Coroutine[Any, Any, _Result], stop: asyncio.Event) -> _Result | None:
    """What ``work`` gives; None when the node is told to stop before it has finished."""
    task = asyncio.get_running_loop().create_task(work)
    stopped = asyncio.get_running_loop().create_task(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, stopped):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one


def _reached(bound: Address, advertise: Address | None) -> str:
    """Where others reach a listener: on the advertised host, if it listens on every address."""
    everywhere = bound.host in ("0.0.0.0", "::", "")
    return str(Address(advertise.host if advertise and everywhere else bound.host, bound.port))
