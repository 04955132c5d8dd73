"""What a simulated node gets from outside: clocks, randomness, a thread's worth of blocking work."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from sadik.env.worker import Done, Work
from sadik.sim.loop import START_S, VirtualLoop

EPOCH_MS: Final = 1_800_000_000_000
"""Unix time at the start of every world."""


def true_ms(loop: VirtualLoop) -> float:
    """Unix time as nobody's clock has it, in milliseconds."""
    return EPOCH_MS + (loop.now_s - START_S) * 1000


class NodeClock:
    """The loop's time as the clocks of one machine have it.

    Attributes:
        offset_ms: How far the wall clock is off; may be changed at any time.
    """

    def __init__(self, loop: VirtualLoop, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms
        self._loop = loop

    def wall_ms(self) -> int:
        return int(true_ms(self._loop)) + self.offset_ms

    def monotonic_ns(self) -> int:
        return int(self._loop.now_s * 1e9)


class SeededEntropy:
    """Random bytes of a seed."""

    def __init__(self, seed: int | str) -> None:
        self._rng = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)


class SimWorker:
    """One thread: works one piece after another, each at the end of the time that it takes.

    Args:
        takes_s: How long the next piece takes.
    """

    def __init__(self, loop: VirtualLoop, takes_s: Callable[[], float] = lambda: 0.0) -> None:
        self._loop = loop
        self._takes_s = takes_s
        self._free_s = 0.0
        self._waiting: list[tuple[Work, Done]] = []

    def submit(self, work: Work, done: Done) -> None:
        self._free_s = max(self._free_s, self._loop.now_s) + self._takes_s()
        self._waiting.append((work, done))
        self._loop.call_at(self._free_s, self._run)

    def _run(self) -> None:
        # The end of the node may have waited for it.
        if self._waiting:
            work, done = self._waiting.pop(0)
            done(_attempt(work))

    def close(self) -> None:
        while self._waiting:
            self._run()


def _attempt(work: Work) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None
