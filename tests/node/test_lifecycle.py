"""The end of a node: everything is closed, whatever fails on the way, and the failure is told."""

from __future__ import annotations

import asyncio
import errno

import pytest

from sadik.errors import StorageFailed
from sadik.sim.files import Fault, SimFiles
from tests.api.resp_node import HandClock, HandWorker, configuration, start_world


def test_failed_sync_is_told_at_the_end_although_it_was_long_ago() -> None:
    """Cause: a node whose sync had failed in the middle of its life closed without a word, and its process
    ended with code 0, "stopped cleanly", although acknowledged writes were not durable. Cure: the service of
    the syncs tells at its stop, and everything is closed and the lock given back all the same.
    """

    async def story() -> None:
        files, clock = SimFiles(), HandClock()

        async def life(seed: int, *, fails: bool) -> None:
            world = await start_world(
                configuration(), files=files, clock=clock, worker=HandWorker(), seed=seed
            )
            client = world.connect()
            await client.call(b"SET", b"k", b"v")
            if fails:
                files.inject(Fault("sync", errno.EIO))
                world.node.sync.sync_soon()
                await world.settle()
            await world.server.stop(0)
            await world.node.close()

        with pytest.raises(StorageFailed, match="sync failed"):
            await life(1, fails=True)
        await life(2, fails=False)

    asyncio.run(story())
