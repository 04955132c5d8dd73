"""The node process: outside world, node, listeners, signals; the only place that knows them all.

Start order: directory, engine, RESP, HTTP, ready line. Stop order: nothing new is accepted, what is owed is
answered, background work ends, everything is synced, the directory is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys

import uvloop

import sadik
from sadik.api import descriptors
from sadik.api.http.server import HttpServer
from sadik.api.logs import configure_logging
from sadik.api.node_metrics import export_node
from sadik.api.resp.information import Facts
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.server import RespServer
from sadik.config import NodeConfig
from sadik.env.clock import Clock, SystemClock
from sadik.env.entropy import Entropy, SystemEntropy
from sadik.env.files import Files, SystemFiles
from sadik.env.worker import ThreadWorker
from sadik.metrics.registry import Registry
from sadik.node.birth import BirthRecord
from sadik.node.node import Node
from sadik.storage.engine import Engine

log = logging.getLogger("sadik.process")


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
    match config.storage.engine:
        case "memory":
            from sadik.storage.memory_engine import MemoryEngine

            return MemoryEngine()
        case "lmdb":
            from sadik.storage.lmdb_engine import LmdbEngine

            return LmdbEngine.open(f"{config.data_directory}/lmdb")
        case _:
            from sadik.storage.log_engine import LogEngine

            return LogEngine.open(
                f"{config.data_directory}/log",
                files=files,
                clock=clock,
                entropy=entropy,
                partitions=birth.partitions,
                segment_bytes_max=config.storage.segment_bytes_max,
            )


async def serve(config: NodeConfig) -> int:
    """Start everything, wait for a signal, stop everything."""
    loop = asyncio.get_running_loop()
    clock, entropy = SystemClock(), SystemEntropy()
    started_ms = clock.wall_ms()
    grace_s = config.drain_timeout_ms / 1000
    # Whatever fails, at the start or at the end, the rest of the end still takes place.
    async with contextlib.AsyncExitStack() as end:
        worker = ThreadWorker(loop.call_soon_threadsafe)
        end.callback(worker.close)
        node = Node.open(
            config, open_engine=open_engine, files=SystemFiles(), clock=clock, entropy=entropy, worker=worker
        )
        end.push_async_callback(node.close)
        registry = Registry()
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
        http = HttpServer(node.coordinator, config, registry, clock=clock)
        end.push_async_callback(http.stop, grace_s)
        end.push_async_callback(resp.stop, grace_s)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        node.start()
        resp_address = await resp.start()
        http_address = await http.start()
        # Start-up garbage is kept out of every later collection: it would only be looked at again.
        gc.collect()
        gc.freeze()
        print(
            f"sadik-node {sadik.__version__} ready: node={node.birth.node_id} cluster={node.birth.cluster} "
            f"resp={resp_address} http={http_address} engine={config.storage.engine} "
            f"sync={config.storage.sync} "
            f"data={config.data_directory}",
            file=sys.stderr,
            flush=True,
        )
        await stop.wait()
        log.info("stopping")
    log.info("stopped")
    return 0
