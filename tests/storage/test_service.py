"""Durability modes: who is acknowledged when, and what a failed sync means. On a fake engine and a worker
driven by hand.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest

from sadik.env.clock import SystemClock
from sadik.env.worker import Done, ThreadWorker, Work
from sadik.errors import StorageFailed
from sadik.storage.engine import SyncRequest
from sadik.storage.service import SyncMode, SyncService


class FakeEngine:
    """Counts tickets; a sync makes durable what was written before it began."""

    def __init__(self) -> None:
        self.written = 0
        self.durable_ticket = 0
        self.failed: OSError | None = None

    def write(self) -> int:
        self.written += 1
        return self.written

    def sync_begin(self) -> SyncRequest | None:
        return None if self.written == self.durable_ticket else SyncRequest(self.written, lambda: None)

    def sync_done(self, request: SyncRequest, error: OSError | None) -> None:
        if error is None:
            self.durable_ticket = request.ticket
        self.failed = error


class HandWorker:
    """Runs nothing until told."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Work, Done]] = []

    def submit(self, work: Work, done: Done) -> None:
        self.waiting.append((work, done))

    def run(self, error: OSError | None = None) -> None:
        work, done = self.waiting.pop(0)
        work()
        done(error)

    def close(self) -> None:
        assert not self.waiting


def service(mode: SyncMode, interval_ms: int = 1) -> tuple[FakeEngine, HandWorker, SyncService]:
    engine, worker = FakeEngine(), HandWorker()
    return engine, worker, SyncService(engine, worker, SystemClock(), mode, interval_ms)  # type: ignore[arg-type]


def test_one_sync_serves_all_writes_before_it_and_none_after() -> None:
    """Group commit: writes that arrive while a sync runs wait for the next one, together."""
    engine, worker, sync = service("always")
    acknowledged: list[int] = []

    def write() -> None:
        ticket = engine.write()
        assert sync.pending(ticket)
        sync.wait(ticket, lambda error: acknowledged.append(ticket))

    write()
    write()
    write()
    assert len(worker.waiting) == 1
    worker.run()
    # The sync began after the first write alone.
    assert acknowledged == [1]
    assert len(worker.waiting) == 1
    worker.run()
    assert acknowledged == [1, 2, 3]
    assert not worker.waiting


def test_after_a_failed_sync_nobody_is_acknowledged() -> None:
    """The system may have dropped the pages and call the next sync a success: who waited gets "unknown"."""
    engine, worker, sync = service("always")
    answers: list[StorageFailed | None] = []
    sync.wait(engine.write(), answers.append)
    sync.wait(engine.write(), answers.append)
    worker.run(OSError(errno.EIO, "failed"))
    sync.wait(engine.write(), answers.append)
    assert [answer is not None and answer.maybe_applied for answer in answers] == [True, True, True]
    assert not worker.waiting
    assert engine.failed is not None


@pytest.mark.parametrize("mode", ["interval", "never"])
def test_other_modes_do_not_wait(mode: SyncMode) -> None:
    """They acknowledge what the operating system has."""
    engine, _, sync = service(mode)
    assert not sync.pending(engine.write())


def test_interval_syncs_by_itself_and_never_does_not() -> None:
    """The interval's timer begins a sync when there is something to sync, and only then."""

    async def run(mode: SyncMode) -> tuple[int, bool]:
        engine, worker, sync = service(mode)
        begun = asyncio.Event()
        submit = worker.submit

        def submitted(work: Work, done: Done) -> None:
            submit(work, done)
            begun.set()

        worker.submit = submitted  # type: ignore[method-assign]
        sync.start()
        engine.write()
        if mode == "interval":
            await begun.wait()
            worker.run()
        stopping = asyncio.ensure_future(sync.stop())
        if mode == "never":
            await begun.wait()
            worker.run()
        await stopping
        return engine.durable_ticket, bool(worker.waiting)

    assert asyncio.run(run("interval")) == (1, False)
    assert asyncio.run(run("never")) == (1, False)


def test_stop_waits_for_the_running_sync_and_then_syncs_the_rest() -> None:
    """A clean stop loses nothing in any mode."""

    async def run() -> int:
        engine, worker, sync = service("always")
        sync.wait(engine.write(), lambda error: None)
        engine.write()
        stopping = asyncio.ensure_future(sync.stop())
        while not stopping.done():
            await asyncio.sleep(0)
            if worker.waiting:
                worker.run()
        return engine.durable_ticket

    assert asyncio.run(run()) == 2


def test_the_thread_worker_runs_in_order_and_reports_errors_on_the_loop() -> None:
    """The one thread of a node: results come back on the event loop."""

    async def run() -> list[object]:
        loop = asyncio.get_running_loop()
        results: list[object] = []
        finished = asyncio.Event()
        worker = ThreadWorker(loop.call_soon_threadsafe)

        def failing() -> None:
            raise OSError(errno.EIO, "no")

        def wrong() -> None:
            raise ValueError("a bug")

        def note(name: str) -> Callable[[OSError | None], None]:
            return lambda error: results.append((name, error and error.errno))

        worker.submit(lambda: None, note("first"))
        worker.submit(failing, note("second"))
        # Not an OSError, and told as one: the thread goes on, and nobody waits for ever.
        worker.submit(wrong, note("third"))
        worker.submit(lambda: None, lambda error: finished.set())
        await finished.wait()
        worker.close()
        return results

    assert asyncio.run(run()) == [("first", None), ("second", errno.EIO), ("third", errno.EIO)]
