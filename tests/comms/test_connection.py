"""Connections between nodes: what leaves together, and that nothing is an error that an end leaves unsent."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

from sadik.comms.connection import Connection, Outbox


def test_bytes_for_a_connection_that_has_just_ended_go_nowhere() -> None:
    """The other side's reset may come in the turn that wrote them; the link is told as always."""
    errors: list[dict[str, Any]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        transport, connection = await loop.create_connection(
            lambda: Connection(lambda _: None, Outbox(), timeout_ms=1000), host, port
        )
        transport.abort()
        connection.write(b"a frame")
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert errors == []


class Wire(asyncio.Transport):
    """Takes down what is written, a call each."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


def ends(count: int, outbox: Outbox) -> tuple[list[Connection], list[Wire]]:
    connections = [Connection(lambda _: None, outbox, timeout_ms=1000) for _ in range(count)]
    wires = [Wire() for _ in range(count)]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
    return connections, wires


def test_what_a_step_writes_leaves_together_in_the_next_one() -> None:
    async def run() -> None:
        (one, two), (to_one, to_two) = ends(2, Outbox())
        one.write(b"a")
        two.write(b"b")
        one.write(b"c")
        assert to_one.written == to_two.written == []
        await asyncio.sleep(0)
        assert (to_one.written, to_two.written) == ([b"ac"], [b"b"])

    asyncio.run(run())


def test_what_is_held_leaves_with_the_flush_and_what_comes_behind_it_in_the_next_step() -> None:
    """Held twice, as when a handler of frames submits a batch: nothing stays behind."""

    async def run() -> None:
        outbox = Outbox()
        (one,), (to_one,) = ends(1, outbox)
        outbox.hold()
        one.write(b"a")
        outbox.hold()
        one.write(b"b")
        outbox.flush()
        assert to_one.written == [b"ab"]
        one.write(b"c")
        outbox.flush()
        one.write(b"d")
        assert to_one.written == [b"ab", b"c"]
        await asyncio.sleep(0)
        assert to_one.written == [b"ab", b"c", b"d"]

    asyncio.run(run())


def test_what_leaves_at_once_does_not_overtake_what_waits() -> None:
    async def run() -> None:
        (one,), (to_one,) = ends(1, Outbox())
        one.write_at_once(b"a")
        assert to_one.written == [b"a"]
        one.write(b"b")
        one.write_at_once(b"c")
        assert to_one.written == [b"a"]
        await asyncio.sleep(0)
        assert to_one.written == [b"a", b"bc"]

    asyncio.run(run())
