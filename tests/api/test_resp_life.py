"""What the server does for those who did not ask: at a stop, and beside other clients of a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.api.resp_node import NIL, OK, HandWorker, command, configuration, running


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_stop_waits_for_held_replies_although_the_last_client_left_before() -> None:
    """Cause: "no client left" was remembered from whenever it was last so, and a stop that came later did not
    wait at all. Replies that waited for a sync, or for a slow reader, were lost. Cure: asked at the stop.
    """

    async def story() -> None:
        worker = HandWorker(by_hand=True)
        async with running(configuration(storage={"sync": "always"}), worker=worker) as world:
            early = world.connect()
            early.transport.close()
            await world.settle()
            client = world.connect()
            client.send(command(b"SET", b"k", b"v"))
            await world.settle()
            stopping = asyncio.ensure_future(world.server.stop(60))
            await world.settle()
            assert not stopping.done()
            worker.run()
            await stopping
            assert client.replies() == [OK]
            assert client.closed

    run(story())


def test_reading_beside_a_writer_records_no_bucket() -> None:
    """Cause: one SET in a turn recorded the buckets of all who read in it, and each costs memory and log for
    ever; names are free to choose. Cure: a bucket is recorded for those who write to it.
    """

    async def story() -> None:
        async with running() as world:
            writer, reader = world.connect(), world.connect()
            await reader.call(b"SELECT", b"9")
            writer.send(command(b"SET", b"k", b"v"))
            reader.send(command(b"GET", b"k"))
            assert await writer.wait(1) == [OK]
            assert await reader.wait(2) == [OK, NIL]
            assert world.node.coordinator.buckets() == [b"0"]

    run(story())
