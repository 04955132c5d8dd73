"""Makes a plan that fails smaller, while it fails in the same way: fewer faults, nodes, operations.

Delta debugging (Zeller): leave out halves, then quarters, and so on to single parts. A smaller plan is
another run, with other delays, so what is left is not always the smallest; it is short enough to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from sadik.sim.plan import Plan
from sadik.sim.run import Result, run_plan

T = TypeVar("T")

_NODES_MIN = 3


class Shrinker:
    """Args:
    runs_max: Most runs that may be spent.

    Attributes:
        plan, result: The smallest that fails so far. runs: Spent.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        runs_max: int = 300,
        run: Callable[[Plan], Result] = run_plan,
        on_run: Callable[[Plan], None] = lambda plan: None,
    ) -> None:
        self.plan = plan
        self.runs = 0
        self._runs_max = runs_max
        self._run = run
        self._on_run = on_run
        self.result = run(plan)
        self._wanted = {violation.invariant for violation in self.result.violations}

    def shrink(self) -> Plan:
        """Returns the smallest plan found that breaks one of the invariants that the first one broke. A plan
        that breaks none is returned as it is.
        """
        if not self._wanted:
            return self.plan
        before = None
        while before != self.plan and self.runs < self._runs_max:
            before = self.plan
            self._leave_out(self.plan.disturbances, lambda left: replace(self.plan, disturbances=left))
            self._fewer_nodes()
            self._leave_out(self.plan.steps, lambda left: replace(self.plan, steps=left))
        return self.plan

    def _leave_out(self, parts: Sequence[T], without: Callable[[tuple[T, ...]], Plan]) -> None:
        left = tuple(parts)
        size = max(1, len(left) // 2)
        while left:
            start = 0
            while start < len(left):
                fewer = left[:start] + left[start + size :]
                if self._fails(without(fewer)):
                    left = fewer
                else:
                    start += size
            if size == 1:
                break
            size = max(1, size // 2)

    def _fewer_nodes(self) -> None:
        while self.plan.shape.nodes > _NODES_MIN:
            nodes = self.plan.shape.nodes - 1
            if not self._fails(_with_nodes(self.plan, nodes)):
                break

    def _fails(self, plan: Plan) -> bool:
        """Whether a plan still fails; then it is the smallest."""
        if self.runs >= self._runs_max:
            return False
        self.runs += 1
        self._on_run(plan)
        result = self._run(plan)
        if self._wanted.isdisjoint(violation.invariant for violation in result.violations):
            return False
        self.plan, self.result = plan, result
        return True


def _with_nodes(plan: Plan, nodes: int) -> Plan:
    """The same with fewer nodes: what those that are gone suffered or were asked, others suffer and are."""
    kept = []
    for one in plan.disturbances:
        struck = tuple(dict.fromkeys(node % nodes for node in one.nodes))
        others = tuple(dict.fromkeys(node % nodes for node in one.others if node % nodes not in struck))
        if others or not one.others:
            kept.append(replace(one, nodes=struck, others=others))
    return replace(
        plan,
        shape=replace(plan.shape, nodes=nodes),
        disturbances=tuple(kept),
        steps=tuple(replace(step, node=step.node % nodes) for step in plan.steps),
        lost=tuple(dict.fromkeys(node % nodes for node in plan.lost)),
    )
