"""L1: everything has a limit."""

from __future__ import annotations

from sadik.sim.checkers.oracle import Oracle, Violation
from sadik.sim.history import Bound


def limits_hold(oracle: Oracle) -> list[Violation]:
    """L1: no quantity that was watched (queues, tasks, open files, log lines) was ever above its limit.

    Only what a run records is judged; memory and file descriptors of real processes are the harness's to
    record.
    """
    return [Violation("L1", _text(one)) for one in oracle.history.bounds if one.value > one.limit]


def _text(one: Bound) -> str:
    what = f"{one.name} of {one.node}" if one.node else one.name
    return f"{what} reached {one.value:g}, the limit is {one.limit:g}"
