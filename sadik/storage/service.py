"""Durability as the node promises it: when to sync, and who waits for it.

* ``always``: acknowledged after a sync that began after it (group commit: one sync serves all writes handed
  over before it). A power cut takes nothing acknowledged.
* ``interval``: acknowledged when the operating system has it; a sync begins every ``interval_ms``. A power
  cut may take the writes since the last finished sync began.
* ``never``: acknowledged when the operating system has it; synced at a clean stop alone. A power cut may take
  whatever the system had not written by itself.

In every mode the death of the process alone loses nothing acknowledged. After a failed sync nothing is
acknowledged any more: those who wait are told "unknown", and the engine refuses writes until it is opened
again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from sadik.env.clock import Clock
from sadik.env.worker import Worker
from sadik.errors import StorageFailed
from sadik.storage.engine import Engine, SyncRequest

SyncMode = Literal["always", "interval", "never"]
Waiter = Callable[[StorageFailed | None], None]


class SyncService:
    """Runs an engine's syncs off the event loop, one at a time.

    Attributes:
        on_sync: Called with (seconds, error) after each sync, for metrics.
    """

    def __init__(
        self, engine: Engine, worker: Worker, clock: Clock, mode: SyncMode, interval_ms: int
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._clock = clock
        self._mode = mode
        self._interval_s = interval_ms / 1000
        self._running: SyncRequest | None = None
        self._began_ns = 0
        self._again = False
        self._waiters: deque[tuple[int, Waiter]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed: StorageFailed | None = None
        self.on_sync: Callable[[float, OSError | None], None] = lambda seconds, error: None

    def start(self) -> None:
        """Begin the interval's timer, where there is one."""
        if self._mode == "interval":
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def pending(self, ticket: int) -> bool:
        """Whether a write with this ticket still waits for a sync before it may be acknowledged."""
        return self._mode == "always" and ticket > self._engine.durable_ticket

    def wait(self, ticket: int, waiter: Waiter) -> None:
        """Call ``waiter`` once ``ticket`` is durable, or with the error that says it never will be. Tickets
        come in rising order.
        """
        if self._failed is not None:
            waiter(self._failed)
            return
        self._waiters.append((ticket, waiter))
        self._begin()

    async def durable(self, ticket: int) -> None:
        """Return once a write may be acknowledged.

        Raises:
            StorageFailed: It never will be durable.
        """
        if self.pending(ticket):
            await self.on_disk(ticket)

    async def on_disk(self, ticket: int) -> None:
        """Return once a write survives a power cut, whatever the mode.

        Raises:
            StorageFailed: It never will.
        """
        if ticket <= self._engine.durable_ticket:
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def waiter(error: StorageFailed | None) -> None:
            if finished.done():
                return
            if error is None:
                finished.set_result(None)
            else:
                finished.set_exception(error)

        self.wait(ticket, waiter)
        await finished

    async def stop(self) -> None:
        """Wait for the running sync; then make everything durable.

        Raises:
            StorageFailed: A sync failed, this one or one before: not all that was written is durable.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._running is not None:
            await self._idle.wait()
        if self._failed is None:
            self._begin()
            while self._running is not None:
                await self._idle.wait()
        if self._failed is not None:
            raise self._failed

    def sync_soon(self) -> None:
        """Begin a sync now, or right after the one that runs."""
        self._begin()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)
        self._begin()

    def _begin(self) -> None:
        if self._running is not None:
            self._again = True
            return
        if self._failed is not None:
            return
        request = self._engine.sync_begin()
        if request is None:
            return
        self._running = request
        self._again = False
        self._idle.clear()
        self._began_ns = self._clock.monotonic_ns()
        self._worker.submit(request.run, self._finished)

    def _finished(self, error: OSError | None) -> None:
        request, self._running = self._running, None
        assert request is not None, "a sync finished that nobody began"
        self._engine.sync_done(request, error)
        self.on_sync((self._clock.monotonic_ns() - self._began_ns) / 1e9, error)
        self._idle.set()
        if error is not None:
            self._failed = StorageFailed(f"sync failed: {error}; the outcome is unknown", maybe_applied=True)
            waiting, self._waiters = self._waiters, deque()
            for _, waiter in waiting:
                waiter(self._failed)
            return
        durable = self._engine.durable_ticket
        while self._waiters and self._waiters[0][0] <= durable:
            self._waiters.popleft()[1](None)
        if self._again or self._waiters:
            self._begin()
