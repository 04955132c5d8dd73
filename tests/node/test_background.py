"""Background jobs: they outlive their errors, and a stop ends them all."""

from __future__ import annotations

import asyncio

from sadik.env.clock import SystemClock
from sadik.errors import StorageFull
from sadik.node import background
from sadik.node.background import BackgroundRunner, Job


def test_job_goes_on_after_a_full_disk_and_after_a_bug(monkeypatch) -> None:
    """Cause: only errors of the storage were expected; any other ended the job unseen, and came out of the
    node's stop, which then neither synced nor closed anything. Cure: every error is counted and waited out.
    """
    monkeypatch.setattr(background, "_BACKOFF_S_FIRST", 0.0)

    async def story() -> tuple[int, str]:
        faults = [StorageFull("no room"), ValueError("a bug")]
        worked = asyncio.Event()

        def step() -> bool:
            if faults:
                raise faults.pop(0)
            worked.set()
            return False

        runner = BackgroundRunner(SystemClock())
        runner.start(Job(name="weeding", step=step, idle_s=60.0))
        await asyncio.wait_for(worked.wait(), 10)
        await runner.stop()
        (status,) = runner.statistics()
        return status.errors, status.last_error

    assert asyncio.run(story()) == (2, "a bug")
