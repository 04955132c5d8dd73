"""Background jobs: one shape, one runner.

A job is a name, one bounded step, and a wait until there may be work again. The runner gives every job
pacing (so that clients come first, Dynamo 6.5), backoff after an error, a status and an orderly stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sadik.env.clock import Clock
from sadik.errors import StorageError

log = logging.getLogger("sadik.background")

_BACKOFF_S_FIRST = 1.0
_BACKOFF_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """Work in steps.

    Attributes:
        step: Does a bounded piece; True when there is more. Synchronous, so its invariants hold between
            steps.
        idle_s: Length of the wait when there is nothing to do.
        share: Greatest part of the time it may take while it has work, 0 < share <= 1: a step that took t is
            followed by a pause of t * (1 / share - 1).
        pause_s: Least pause between two steps.
    """

    name: str
    step: Callable[[], bool]
    idle_s: float
    share: float = 0.2
    pause_s: float = 0.0


@dataclass(slots=True)
class JobStatus:
    """Counters of one job since the start; seconds are of work, not of waiting."""

    name: str
    steps: int = 0
    errors: int = 0
    seconds: float = 0.0
    last_error: str = ""


class BackgroundRunner:
    """Runs jobs on the event loop until stopped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._status: list[JobStatus] = []

    def start(self, job: Job) -> None:
        """Run a job from now on."""
        status = JobStatus(job.name)
        self._status.append(status)
        self._tasks.append(
            asyncio.get_running_loop().create_task(self._run(job, status), name=f"job {job.name}")
        )

    def statistics(self) -> list[JobStatus]:
        """One entry per job, in order of start."""
        return list(self._status)

    async def stop(self) -> None:
        """End every job between two steps."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
        self._tasks.clear()

    async def _run(self, job: Job, status: JobStatus) -> None:
        backoff_s = _BACKOFF_S_FIRST
        while True:
            began_ns = self._clock.monotonic_ns()
            try:
                more = job.step()
            except Exception as error:
                # Any: a job that ended would leave its work undone for good, unseen.
                status.errors += 1
                status.last_error = str(error)
                # Of a bug, where it is; of a disk, what it said.
                trace = None if isinstance(error, (StorageError, OSError)) else error
                log.warning(
                    "job %s failed, trying again in %.0f s: %s", job.name, backoff_s, error, exc_info=trace
                )
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S_MAX)
                continue
            took_s = (self._clock.monotonic_ns() - began_ns) / 1e9
            status.steps += 1
            status.seconds += took_s
            backoff_s = _BACKOFF_S_FIRST
            await asyncio.sleep(max(took_s * (1 / job.share - 1), job.pause_s) if more else job.idle_s)


async def woken(event: asyncio.Event, after_s: float | None) -> None:
    """Return when the event is set, which a timer does at the latest; None: no timer.

    Cheaper than a timeout, whose end is an exception; the event must be the caller's alone.
    """
    timer = None if after_s is None else asyncio.get_running_loop().call_later(after_s, event.set)
    try:
        await event.wait()
    finally:
        if timer is not None:
            timer.cancel()
