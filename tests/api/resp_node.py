"""A whole node in the test's process: real server, coordinator and log engine over a simulated disk.

Clients are fake transports, so a test says what arrives together, who reads and who does not, and when a sync
runs. Nothing sleeps: time is a number, and the event loop is only asked to run what is ready.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sadik.api.resp.connection import Connection
from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.information import Facts
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.server import RespServer
from sadik.comms.memory import MemoryNetwork, MemoryTransport
from sadik.comms.transport import Identity
from sadik.config import LimitsConfig, LogConfig, NodeConfig, RespConfig, StorageConfig
from sadik.env.worker import Done, Work
from sadik.errors import StorageFailed
from sadik.metrics.registry import Registry
from sadik.node.node import Node
from sadik.node.records import Record
from sadik.settings import Address
from sadik.sim.files import SimFiles
from sadik.sim.outside import SeededEntropy
from sadik.storage.engine import Engine
from sadik.storage.log_engine import LogEngine
from sadik.storage.memory_engine import MemoryEngine

DIRECTORY = "/data"
OK = b"+OK\r\n"
NIL = b"$-1\r\n"
_PATIENCE = 20_000
"""Turns of the event loop before a reply counts as missing; none takes more than a few hundred."""


class HandClock:
    """Both clocks, moved by hand."""

    def __init__(self, wall_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = wall_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ms * 1_000_000


class HandWorker:
    """Runs blocking work when told to, or at the end of the turn when ``by_hand`` is off."""

    def __init__(self, *, by_hand: bool = False) -> None:
        self.by_hand = by_hand
        self.waiting: list[tuple[Work, Done]] = []

    def submit(self, work: Work, done: Done) -> None:
        self.waiting.append((work, done))
        if not self.by_hand:
            asyncio.get_running_loop().call_soon(self._run_next)

    def run(self) -> None:
        """The oldest piece of work, from its beginning to its end."""
        self.work()()

    def _run_next(self) -> None:
        # The end of the node may have run it before.
        if self.waiting:
            self.run()

    def work(self) -> Callable[[], None]:
        """Do the oldest piece of work; what is returned reports it done."""
        work, done = self.waiting.pop(0)
        error: OSError | None = None
        try:
            work()
        except OSError as caught:
            error = caught
        return lambda: done(error)

    def close(self) -> None:
        while self.waiting:
            self.run()


class FakeTransport(asyncio.Transport):
    """The server's side of a connection whose client reads, or does not.

    Attributes:
        received: What the client has read.
        unsent: What it has not.
        unsent_max: The most that ever was unsent.
        taking: Whether the client reads now.
        finished: The server has closed its side.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, number: int) -> None:
        super().__init__(
            {"peername": ("127.0.0.1", 40_000 + number % 20_000), "sockname": ("127.0.0.1", 7379)}
        )
        self._loop = loop
        self._protocol = protocol
        self._high = 64 * 1024
        self._paused = False
        self._ended = False
        self.received = bytearray()
        self.unsent = bytearray()
        self.unsent_max = 0
        self.taking = True
        self.reading = True
        self.closing = False
        self.aborted = False
        self.finished = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self._high = high

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def write(self, data: Any) -> None:
        if self.closing:
            return
        assert not self.finished, "a write after the end"
        self.unsent += data
        self.unsent_max = max(self.unsent_max, len(self.unsent))
        if self.taking:
            self.take()
        elif len(self.unsent) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def take(self) -> None:
        """The client reads all that there is."""
        self.received += self.unsent
        self.unsent.clear()
        if self._paused:
            self._paused = False
            self._protocol.resume_writing()
        if self.closing:
            self._end()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.finished = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        if not self.unsent:
            self._end()

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.unsent.clear()
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.call_soon(self._protocol.connection_lost, None)


class Client:
    """One client of the node in process."""

    def __init__(self, server: RespServer, number: int) -> None:
        self.connection = Connection(server)
        self.transport = FakeTransport(asyncio.get_running_loop(), self.connection, number)
        self.connection.connection_made(self.transport)
        self._taken: list[bytes] = []

    def send(self, *pieces: bytes) -> None:
        """Bytes as the event loop would hand them over: each piece by itself, all in one turn."""
        for piece in pieces:
            self.connection.data_received(piece)

    def shut_writing(self) -> None:
        """shutdown(SHUT_WR): nothing more will come, but replies are still read."""
        if not self.connection.eof_received():
            self.transport.close()

    def replies(self) -> list[bytes]:
        """The replies received so far, whole ones."""
        data = bytes(self.transport.received)
        at = 0
        while (end := reply_end(data, at)) is not None:
            self._taken.append(data[at:end])
            at = end
        del self.transport.received[:at]
        return list(self._taken)

    async def wait(self, count: int) -> list[bytes]:
        """The replies, once there are ``count``; fewer when the connection is closed before."""
        for _ in range(_PATIENCE):
            found = self.replies()
            if len(found) >= count or self.closed:
                return found
            await asyncio.sleep(0)
        raise AssertionError(f"{len(self.replies())} replies of {count}")

    async def wait_until_read(self) -> None:
        """A socket that the node does not read from delivers nothing."""
        for _ in range(_PATIENCE):
            if self.transport.reading or self.closed:
                return
            await asyncio.sleep(0)
        raise AssertionError("the node does not read any more")

    async def call(self, *words: bytes) -> bytes:
        """One command; its reply."""
        before = len(self.replies())
        self.send(command(*words))
        found = await self.wait(before + 1)
        assert len(found) == before + 1
        return found[-1]

    @property
    def closed(self) -> bool:
        """Whether the client has read all that it ever will."""
        return self.connection.lost or (self.transport.finished and not self.transport.unsent)


class World:
    """A node and its clients; real ones may come to ``address``."""

    def __init__(
        self,
        node: Node,
        server: RespServer,
        address: Address,
        clock: HandClock,
        worker: HandWorker,
    ) -> None:
        self.node = node
        self.address = address
        self.server = server
        self.clock = clock
        self.worker = worker
        self._connected = 0

    def record(self, key: bytes, bucket: bytes = b"0") -> Record:
        """What the node holds of a key."""
        (record,) = self.node.vnodes.records([(self.node.buckets.get(bucket), key)]).values()
        return record

    def connect(self) -> Client:
        self._connected += 1
        return Client(self.server, self._connected)

    async def settle(self) -> None:
        """Run what is ready, until nothing is left that any input could still cause."""
        await settle(self.server)


def configuration(
    *,
    resp: dict[str, Any] | None = None,
    storage: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    **node: Any,
) -> NodeConfig:
    """A node's options, on port 0."""
    return NodeConfig(
        data_directory=DIRECTORY,
        resp=RespConfig(listen=Address("127.0.0.1", 0), **(resp or {})),
        storage=StorageConfig(**(storage or {})),
        limits=LimitsConfig(**(limits or {})),
        log=LogConfig(level="error"),
        **node,
    )


async def start_world(
    config: NodeConfig,
    *,
    files: SimFiles,
    clock: HandClock,
    worker: HandWorker,
    seed: int,
    segment_bytes_max: int | None = None,
) -> World:
    """A node that serves; whoever calls must end it.

    Args:
        segment_bytes_max: Takes the place of the option, which does not go below a MiB.
    """
    entropy = SeededEntropy(seed)

    def opener(name: str) -> Callable[..., Engine]:
        def open_engine(*_: object) -> Engine:
            if config.storage.engine == "memory":
                return MemoryEngine()
            return LogEngine.open(
                f"{DIRECTORY}/{name}",
                files=files,
                clock=clock,
                entropy=entropy,
                partitions=16,
                segment_bytes_max=segment_bytes_max or config.storage.segment_bytes_max,
                reserve_bytes=None if segment_bytes_max is None else 0,
            )

        return open_engine

    def make_transport(config: NodeConfig, identity: Identity) -> MemoryTransport:
        return MemoryTransport(
            MemoryNetwork(asyncio.get_running_loop().call_soon),
            config.peer,
            identity,
            None,
            config.peers,
            clock=clock,
            entropy=entropy,
            payload_bytes_max=64 << 20,
        )

    node = Node.open(
        config,
        open_engine=opener("log"),
        open_hint_engine=opener("hints"),
        files=files,
        clock=clock,
        entropy=entropy,
        worker=worker,
        make_transport=make_transport,
        registry=Registry(),
    )
    peer = await node.listen()
    server, address = await start_server(node.coordinator, config, clock)
    try:
        node.start(peer=str(peer), resp=str(address), http="")
    except BaseException:
        # Where a power cut comes with the node's first words.
        await server.stop(0)
        raise
    return World(node, server, address, clock, worker)


async def settle(server: RespServer) -> None:
    """Run what is ready, and then what input has caused that waited for its turn."""
    for _ in range(2):
        for _ in range(50):
            await asyncio.sleep(0)
        # Polled: a turn has no event of its own, and it may wait a moment for what is in flight.
        while server._line:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def start_server(
    coordinator: Coordinator, config: NodeConfig, clock: HandClock
) -> tuple[RespServer, Address]:
    """The RESP face of a coordinator."""
    facts = Facts(
        node_id="n", cluster="c", started_ms=clock.wall_ms(), run_id="0" * 40, data_directory=DIRECTORY
    )
    instruments = RespInstruments(Registry())
    server = RespServer(coordinator, config, clock=clock, instruments=instruments, facts=facts)
    return server, await server.start()


@asynccontextmanager
async def running(
    config: NodeConfig | None = None,
    *,
    files: SimFiles | None = None,
    clock: HandClock | None = None,
    worker: HandWorker | None = None,
    seed: int = 1,
) -> AsyncIterator[World]:
    """A node that serves; closed at the end, as far as the disk still allows."""
    worker = worker or HandWorker()
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    world = await start_world(
        config or configuration(),
        files=files or SimFiles(),
        clock=clock or HandClock(),
        worker=worker,
        seed=seed,
    )
    try:
        yield world
    finally:
        worker.by_hand = False
        while worker.waiting:
            worker.run()
        await world.server.stop(0)
        writable = world.node.engine.statistics().writable
        try:
            await world.node.close()
        except StorageFailed:
            assert not writable
    assert not failures, failures


def command(*words: bytes) -> bytes:
    """A command as clients send it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def bulk(value: bytes | None) -> bytes:
    """A bulk reply of RESP2, nil for None."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


def reply_end(data: bytes, at: int) -> int | None:
    """Where the reply that begins at ``at`` ends; None when it is not all there."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, text = data[at : at + 1], data[at + 1 : end]
    end += 2
    if kind in b"$=" and text != b"-1":
        end += int(text) + 2
        return end if end <= len(data) else None
    if kind in b"*~%>" and text != b"-1":
        next_end: int | None = end
        for _ in range(int(text) * (2 if kind == b"%" else 1)):
            if next_end is None:
                return None
            next_end = reply_end(data, next_end)
        return next_end
    assert kind in b"+-:_$*#,(", data[at : at + 80]
    return end


def cut(rng: random.Random, data: bytes, pieces_max: int = 6) -> list[bytes]:
    """``data`` in up to ``pieces_max`` pieces."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(pieces_max)))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
