"""A connection at its end: what is still to be written then is nobody's error."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

from sadik.comms.connection import Connection


def test_bytes_for_a_connection_that_has_just_ended_go_nowhere() -> None:
    """The other side's reset may come in the turn that wrote them; the link is told as always."""
    errors: list[dict[str, Any]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        transport, connection = await loop.create_connection(
            lambda: Connection(lambda _: None, timeout_ms=1000), host, port
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
