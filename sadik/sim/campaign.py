"""Many seeds, in one process or several; every hundredth runs twice, and must have one hash."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from sadik.sim.history import History
from sadik.sim.run import Result, run_seed
from sadik.sim.sometimes import RARE

CHECK_EVERY = 100
COVERAGE_SEEDS = 1000
"""So many seeds reach every rare state, or something is wrong with them."""
_CHUNK = 25


@dataclass(slots=True)
class Summary:
    """Attributes:
    failed: Results with violations, as they came.
    mismatches: Seeds whose second run had another hash.
    checked: Seeds that ran twice.
    counts: Rare states, by name.
    """

    seeds: int = 0
    operations: int = 0
    failed: list[Result] = field(default_factory=list)
    mismatches: list[int] = field(default_factory=list)
    checked: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, result: Result) -> None:
        """Take in one more run."""
        self.seeds += 1
        self.operations += result.operations
        self.counts.update(result.counts)
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        if not result.clean:
            self.failed.append(result)

    @property
    def missing(self) -> list[str]:
        """Rare states that were never reached."""
        return [name for name in RARE if not self.counts[name]]

    def succeeded(self, *, coverage: bool | None = None) -> bool:
        """No violation, no mismatch and, from ``COVERAGE_SEEDS`` on or when asked for, no gap.

        Args:
            coverage: Whether gaps count; None leaves it to the number of seeds.
        """
        wanted = self.seeds >= COVERAGE_SEEDS if coverage is None else coverage
        return not self.failed and not self.mismatches and not (wanted and self.missing)


@dataclass(frozen=True, slots=True)
class Options:
    """What all runs of a campaign share; as in ``run_seed``."""

    profile: str = "default"
    nodes: int | None = None
    operations: int = 100
    faults: bool = True


def run_campaign(
    seeds: Iterable[int],
    options: Options,
    *,
    jobs: int = 1,
    on_result: Callable[[Result], None] = lambda result: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run seeds.

    Args:
        jobs: Processes.
        on_result: Called with each result; with several processes in any order.
        stop: Asked after each result whether that is enough.
    """
    summary = Summary()
    for result, twice in _results(list(seeds), options, jobs):
        summary.add(result)
        if twice is not None:
            summary.checked += 1
            if twice != result.hash:
                summary.mismatches.append(result.seed)
        on_result(result)
        if stop():
            break
    return summary


def _results(seeds: list[int], options: Options, jobs: int) -> Iterator[tuple[Result, str | None]]:
    if jobs <= 1:
        _prepare()
        for seed in seeds:
            yield _run_one(options, seed)
        return
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        with _no_interruption():
            running = [pool.submit(partial(_run_chunk, options), chunk) for chunk in chunks]
        try:
            for done in as_completed(running):
                yield from done.result()
        finally:
            for one in running:
                one.cancel()


def _prepare() -> None:
    """What is there before the first run is kept out of every collection."""
    gc.collect()
    gc.freeze()


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Processes that are started here hear nothing of the keyboard: that is for their starter."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_chunk(options: Options, seeds: list[int]) -> list[tuple[Result, str | None]]:
    return [_run_one(options, seed) for seed in seeds]


def _run_one(options: Options, seed: int) -> tuple[Result, str | None]:
    """A run, and the hash of its second one where it is checked."""
    result = _run(options, seed)
    # A history is big, and can be had again.
    result.history = History()
    return result, _run(options, seed).hash if seed % CHECK_EVERY == 0 else None


def _run(options: Options, seed: int) -> Result:
    return run_seed(
        seed,
        options.profile,
        nodes=options.nodes,
        operations=options.operations,
        faults=options.faults,
    )
