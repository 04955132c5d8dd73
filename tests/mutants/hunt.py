"""Looks for the seed that catches a mutant, and shows that the shipped code passes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sadik.sim.checkers import Violation
from sadik.sim.cluster import formed_disks
from sadik.sim.profiles import draw_plan
from sadik.sim.run import Result, run_plan
from tests.mutants.mutant import Mutant

SEEDS_MAX = 5000
"""A mutant that lives longer than so many seeds has survived."""


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """A seed that fails without the mutant, too: it has caught nothing."""

    profile: str
    seed: int
    violation: Violation


@dataclass(frozen=True, slots=True)
class Hunt:
    """Attributes:
    name: The mutant's.
    seeds: How many were run, the catching one included; the mutant's profiles in turn.
    cpu_s: Seconds of the processor.
    profile, seed: Of the run that caught it; ``""`` and -1 if none did.
    violations: What that run showed, of the invariants that count.
    others: Invariants that it broke beside.
    false_alarms: Seeds on the way that would have caught it, and fail without it.
    """

    name: str
    seeds: int
    cpu_s: float
    profile: str = ""
    seed: int = -1
    violations: tuple[Violation, ...] = ()
    others: tuple[str, ...] = ()
    false_alarms: tuple[FalseAlarm, ...] = ()

    @property
    def caught(self) -> bool:
        return self.seed >= 0

    @property
    def invariants(self) -> tuple[str, ...]:
        """By which it was caught."""
        return tuple(dict.fromkeys(one.invariant for one in self.violations))


def hunt(
    mutant: Mutant, seeds_max: int = SEEDS_MAX, on_seed: Callable[[int], None] = lambda seeds: None
) -> Hunt:
    """Run seeds in order, the mutant's profiles in turn, until an invariant that counts is broken, and is
    not when the same seed runs on the shipped code.

    Args:
        on_seed: Called with the number of seeds so far.
    """
    began_s = time.process_time()
    alarms: list[FalseAlarm] = []
    for number in range(seeds_max):
        profile = mutant.profiles[number % len(mutant.profiles)]
        seed = number // len(mutant.profiles)
        result = run_mutated(mutant, seed, profile)
        on_seed(number + 1)
        found = tuple(one for one in result.violations if one.invariant in mutant.caught_by)
        if not found:
            continue
        sound = run_plan(draw_plan(seed, profile)).violations
        if sound:
            alarms.append(FalseAlarm(profile, seed, sound[0]))
            continue
        others = {one.invariant for one in result.violations} - set(mutant.caught_by)
        cpu_s = time.process_time() - began_s
        return Hunt(
            mutant.name, number + 1, cpu_s, profile, seed, found, tuple(sorted(others)), tuple(alarms)
        )
    return Hunt(mutant.name, seeds_max, time.process_time() - began_s, false_alarms=tuple(alarms))


def run_mutated(mutant: Mutant, seed: int, profile: str) -> Result:
    """One seed with the mutant planted. The disks that it begins on were made by the shipped code."""
    plan = draw_plan(seed, profile)
    formed_disks(plan.shape)
    with mutant.planted():
        return run_plan(plan)
