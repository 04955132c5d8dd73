"""Background work of the storage engine as the node drives it."""

from __future__ import annotations

import asyncio

import pytest

from sadik.sim.files import SimFiles
from tests.api.resp_node import OK, HandClock, HandWorker, command, configuration, start_world


@pytest.mark.parametrize("mode", ["always", "interval", "never"])
def test_garbage_does_not_pile_up(mode: str) -> None:
    """Cause: after a step that waited for a sync the job slept as if there was nothing to do, an engine
    emptied one segment per job, and with ``never`` no sync sealed a segment. Outcome: keys written over and
    over filled the disk sixty times faster than it was freed, or for ever. Cure: a step that waits asks for
    the sync and for another step.
    """

    async def story() -> None:
        config = configuration(storage={"sync": mode, "compaction_bytes_per_second": 0})
        world = await start_world(
            config,
            files=SimFiles(),
            clock=HandClock(),
            worker=HandWorker(),
            seed=1,
            segment_bytes_max=1 << 14,
        )
        client = world.connect()
        steps = 0
        for number in range(100):
            client.send(command(b"SET", b"k%d" % (number % 7), bytes(8000)) * 10)
            assert await client.wait(10 * number + 10) == [OK] * (10 * number + 10)
            while world.node.maintain():
                steps += 1
                await world.settle()
                assert steps < 5000
            assert world.node.engine.statistics().segments < 20
        assert world.node.engine.statistics().details["compacted_segments"] > 150
        await world.server.stop(0)
        await world.node.close()

    asyncio.run(story())
