"""Connections between simulated hosts: in order, late, or broken, as with TCP."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sadik.sim.loop import Process, VirtualLoop, run
from sadik.sim.network import Network, Weather
from sadik.sim.stream import WINDOW_BYTES
from sadik.sim.trace import Trace

A, B = "10.0.0.1", "10.0.0.2"


class Peer(asyncio.Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pieces = 0
        self.lost: list[Exception | None] = []
        self.eof = False
        self.paused = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.pieces += 1

    def eof_received(self) -> bool:
        self.eof = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.paused -= 1


class Hosts:
    """Two hosts, and a connection that the first has opened to the second."""

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self.loop = loop
        self.network = Network(loop, random.Random(1), Trace(loop.time), weather)
        self.processes = {host: Process(host, host) for host in (A, B)}
        self.served: list[Peer] = []

    async def connect(self) -> tuple[Peer, Peer]:
        def serve() -> Peer:
            self.served.append(Peer())
            return self.served[-1]

        async def listen() -> None:
            await self.loop.create_server(serve, B, 80)

        async def dial() -> Peer:
            _, protocol = await self.loop.create_connection(Peer, B, 80)
            assert isinstance(protocol, Peer)
            return protocol

        await self.loop.spawn(self.processes[B], listen())
        near = await self.loop.spawn(self.processes[A], dial())
        await asyncio.sleep(1)
        return near, self.served[-1]


def hosts(story: Callable[[Hosts], Coroutine[Any, Any, None]], weather: Weather | None = None) -> None:
    loop = VirtualLoop()

    async def whole() -> None:
        await story(Hosts(loop, weather or Weather(latency_s=0.01)))

    run(whole(), lambda: loop)


def test_bytes_arrive_in_order_whatever_the_weather() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        sent = b""
        for number in range(500):
            near.transport.write(b"%d," % number)
            sent += b"%d," % number
            await asyncio.sleep(0.001)
        await asyncio.sleep(100)
        assert far.data == sent
        assert far.pieces > 10

    hosts(story, Weather(latency_s=0.01, slow=0.001, bytes_per_s=1e5, torn=0.5))


def test_bandwidth_takes_time() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        near.transport.write(bytes(100_000))
        await asyncio.sleep(9)
        assert not far.data
        await asyncio.sleep(2)
        assert len(far.data) == 100_000

    hosts(story, Weather(latency_s=0.001, bytes_per_s=1e4, torn=0))


def test_a_closed_path_holds_bytes_back_and_breaks_nothing() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        one.network.close_path(A, B)
        near.transport.write(b"there")
        far.transport.write(b"and back")
        await asyncio.sleep(100)
        assert not far.data
        assert near.data == b"and back"
        one.network.open_path(A, B)
        await asyncio.sleep(10)
        assert far.data == b"there"
        assert not near.lost + far.lost

    hosts(story)


def test_nobody_connects_over_a_closed_path_and_the_attempt_goes_on() -> None:
    async def story(one: Hosts) -> None:
        one.network.close_path(B, A)
        connecting = asyncio.create_task(one.connect())
        await asyncio.sleep(10)
        assert not connecting.done()
        one.network.open_path(B, A)
        await asyncio.sleep(20)
        near, far = connecting.result()
        near.transport.write(b"x")
        await asyncio.sleep(1)
        assert far.data == b"x"

    hosts(story)


def test_a_port_where_nobody_listens_refuses() -> None:
    async def story(one: Hosts) -> None:
        with pytest.raises(ConnectionRefusedError):
            await one.loop.create_connection(Peer, B, 81)

    hosts(story)


def test_a_close_delivers_what_was_written_and_then_the_end() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        near.transport.write(b"last words")
        near.transport.close()
        await asyncio.sleep(1)
        assert far.data == b"last words"
        assert far.eof
        assert near.lost == far.lost == [None]

    hosts(story)


def test_an_abort_resets_the_other_end() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        near.transport.abort()
        await asyncio.sleep(1)
        assert near.lost == [None]
        assert isinstance(far.lost[0], ConnectionResetError)

    hosts(story)


def test_a_killed_process_breaks_its_connections_and_refuses_new_ones() -> None:
    async def story(one: Hosts) -> None:
        near, _ = await one.connect()
        one.loop.kill(one.processes[B])
        one.network.died(one.processes[B])
        await asyncio.sleep(1)
        assert isinstance(near.lost[0], ConnectionResetError)
        with pytest.raises(ConnectionRefusedError):
            await one.loop.create_connection(Peer, B, 80)

    hosts(story)


def test_a_machine_without_power_is_silent_until_it_is_back() -> None:
    async def story(one: Hosts) -> None:
        near, _ = await one.connect()
        one.loop.kill(one.processes[B])
        one.network.power_off(one.processes[B])
        near.transport.write(b"hello?")
        await asyncio.sleep(100)
        assert not near.lost
        one.network.power_on(B)
        await asyncio.sleep(5)
        assert isinstance(near.lost[0], ConnectionResetError)

    hosts(story)


def test_a_reset_of_a_path_is_heard_at_both_ends() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        assert one.network.reset(A, B) == 2
        await asyncio.sleep(1)
        assert [type(peer.lost[0]) for peer in (near, far)] == [ConnectionResetError] * 2

    hosts(story)


def test_who_is_not_read_from_is_told_to_pause() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        far.transport.pause_reading()
        for _ in range(10):
            near.transport.write(bytes(WINDOW_BYTES // 4))
        await asyncio.sleep(1)
        assert near.paused == 1
        assert near.transport.get_write_buffer_size() > 0
        assert not far.data
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert near.paused == 0
        assert len(far.data) == 10 * (WINDOW_BYTES // 4)

    hosts(story)


def test_a_clogged_path_delivers_everything_when_it_is_free() -> None:
    async def story(one: Hosts) -> None:
        near, far = await one.connect()
        one.network.path(A, B).clogged_until_s = one.loop.time() + 5
        near.transport.write(b"x")
        await asyncio.sleep(4.9)
        assert not far.data
        await asyncio.sleep(1)
        assert far.data == b"x"

    hosts(story)
