"""The end of a node: everything is closed, whatever fails on the way, and the failure is told."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest

from sadik.errors import StorageFailed
from sadik.sim.files import Fault, SimFiles
from tests.api.resp_node import HandClock, HandWorker, configuration, start_world
from tests.node.cluster import cluster, run


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


def test_a_failed_sync_of_hints_ends_the_node_all_the_same() -> None:
    """Cause: the end went from part to part, and the first that failed left the rest undone: a failed sync of
    hints left the data's sync running on a closed engine, once a second for as long as the process went on.
    Cure: every part is ended, and the failure is told after that.
    """

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            assert (await one.set("n1", b"k", b"v")).ok
            disk = one.lives["n1"].disk
            disk.inject(Fault("sync", errno.EIO, path="*/hints/*"))
            with pytest.raises(StorageFailed, match="sync failed"):
                await one.stop("n1")
            disk.clear_faults()
            disk.power_cut(random.Random(1), keep="none")
            await one.pass_s(3.0)
            assert not one.failures
            await one.restart("n1", files=disk)
            assert one.values("n1", b"k") == [b"v"]

    run(story())
