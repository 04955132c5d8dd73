"""One seed from its plan to its verdict, and many of them."""

from __future__ import annotations

import gc
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sadik.sim.checkers import Oracle, Violation, examine, staleness
from sadik.sim.cluster import FORMED_S, formed_disks
from sadik.sim.history import History
from sadik.sim.loop import SimulationError, VirtualLoop, run
from sadik.sim.plan import Plan
from sadik.sim.profiles import draw_plan
from sadik.sim.trace import Trace
from sadik.sim.world import World

_COLLECT_EVERY = 20
"""Runs between two collections of garbage, which take some ten milliseconds."""


@dataclass(slots=True)
class Result:
    """Attributes:
    violations: What was promised and not kept; empty for a clean run.
    hash: Of the event log: the same whenever the seed runs.
    counts: Rare states reached, by name (``sometimes.py``).
    virtual_s, cpu_s: Seconds in the world and of the processor.
    """

    seed: int
    profile: str
    violations: list[Violation]
    hash: str
    events: int
    operations: int
    counts: Counter[str]
    virtual_s: float
    cpu_s: float
    history: History = field(default_factory=History, repr=False)

    @property
    def clean(self) -> bool:
        return not self.violations


def run_seed(
    seed: int,
    profile: str = "default",
    *,
    nodes: int | None = None,
    operations: int = 100,
    faults: bool = True,
) -> Result:
    """Run one seed of a profile."""
    return run_plan(draw_plan(seed, profile, nodes=nodes, operations=operations, faults=faults))


def run_plan(plan: Plan, sink: Callable[[str], None] | None = None) -> Result:
    """Run a plan.

    Args:
        sink: Called with each line of a readable trace.
    """
    began_s = time.process_time()
    disks = formed_disks(plan.shape)
    loop = VirtualLoop(random.Random(f"{plan.seed}/turns"))
    loop.now_s += FORMED_S
    start_s = loop.now_s
    trace = Trace(loop.time, sink)
    world = World(plan, loop, trace, disks)
    violations: list[Violation] = []
    failure: BaseException | None = None
    with _logs(world), _no_collection():
        try:
            run(_live(world), lambda: loop)
        except (SimulationError, Exception) as error:  # noqa: BLE001  (whatever it is, it is the run's result)
            failure = error
    world.trace.stop()
    violations += [Violation(invariant, text) for invariant, text in world.findings.found]
    if failure is not None:
        violations.append(Violation("X", f"{type(failure).__name__}: {failure}"))
    else:
        oracle = Oracle(world.history)
        violations += examine(oracle)
        world.sometimes.see("stale by a sloppy quorum", staleness(oracle).stale)
    world.count_operations()
    return Result(
        seed=plan.seed,
        profile=plan.profile,
        violations=violations,
        hash=trace.hexdigest(),
        events=trace.events,
        operations=len(world.history.operations),
        counts=world.sometimes.counts,
        virtual_s=loop.now_s - start_s,
        cpu_s=time.process_time() - began_s,
        history=world.history,
    )


async def _live(world: World) -> None:
    try:
        await world.live()
    finally:
        # What is torn down from here on is no part of the run.
        world.trace.stop()


@contextmanager
def _logs(world: World) -> Iterator[None]:
    """Nodes' logs go to the world."""
    logger = logging.getLogger("sadik")
    handler = logging.Handler(logging.WARNING)
    handler.emit = world.on_log  # type: ignore[method-assign]
    before = (logger.level, logger.propagate, list(logger.handlers))
    logger.setLevel(logging.INFO if world.trace.is_read else logging.WARNING)
    logger.propagate = False
    logger.handlers = [handler]
    if world.trace.is_read:
        handler.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.handlers = before[2]


_runs = 0


@contextmanager
def _no_collection() -> Iterator[None]:
    """Finalizers run where the program drops things, not where the collector happens to pass."""
    global _runs
    was_on = gc.isenabled()
    gc.disable()
    if not _runs:
        # Modules and their like are there for good: no collection need look at them.
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        _runs += 1
        if _runs % _COLLECT_EVERY == 0:
            gc.collect()
        if was_on:
            gc.enable()


def replay(plan: Plan) -> tuple[Result, list[str]]:
    """A plan's result, and its readable trace: who sent what to whom, when, in virtual seconds."""
    lines: list[str] = []
    return run_plan(plan, lines.append), lines
