"""Blocking work as an argument: one thread beside the event loop, for syncs that may take milliseconds to
minutes.

The simulator's worker runs the same callable in virtual time. No other module starts a thread.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from typing import Protocol

Mutex = threading.Lock
"""What guards state shared with a worker's callable; uncontended it costs some 50 ns."""

Work = Callable[[], None]
Done = Callable[[OSError | None], None]


class Worker(Protocol):
    """Runs blocking callables one after another, away from the event loop."""

    def submit(self, work: Work, done: Done) -> None:
        """Run ``work``; then ``done(None)``, or ``done(error)``, back on the event loop's thread.

        What is not an OSError arrives as one: whoever waits for ``done`` must not wait for ever.
        """
        ...

    def close(self) -> None:
        """Finish what was submitted and stop."""
        ...


class ThreadWorker:
    """One operating system thread.

    Args:
        call_soon_threadsafe: How ``done`` gets back to the event loop, for example
            ``loop.call_soon_threadsafe``.
    """

    def __init__(self, call_soon_threadsafe: Callable[..., object]) -> None:
        self._deliver = call_soon_threadsafe
        self._queue: queue.SimpleQueue[tuple[Work, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sadik-sync", daemon=True)
        self._thread.start()

    def submit(self, work: Work, done: Done) -> None:
        self._queue.put((work, done))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, done = item
            error: OSError | None = None
            try:
                work()
            except OSError as caught:
                error = caught
            except Exception as caught:  # noqa: BLE001  (the thread must outlive a bug in the work)
                error = OSError(errno.EIO, f"{type(caught).__name__}: {caught}")
            self._deliver(done, error)
