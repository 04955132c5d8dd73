"""Every seed that ever failed, with its story: ``regressions/NAME.toml``.

Keys: ``seed`` and ``profile``, with ``nodes``, ``operations`` and ``faults`` where they were not as usual;
``broke``, the invariants; ``fixed``, the title of the commit that mended it; ``story``. A seed draws other
things once profiles or workloads change, so its plan is kept beside it, shrunk where that was done: ``plan``
names the file (``sadik sim shrink SEED --output FILE``).

What a plan does not fix are delays, and these are others after any change of the code. So each is run several
times, with other delays: the same clients and the same faults, meeting in other ways.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from sadik.sim.checkers import CHECKERS
from sadik.sim.plan import Plan, decode_plan
from sadik.sim.profiles import PROFILES, draw_plan
from sadik.sim.run import run_plan

DIRECTORY = Path(__file__).with_name("regressions")
FILES = sorted(DIRECTORY.glob("*.toml"))
RUNS = 5
NEEDED = {"seed", "profile", "broke", "fixed", "story"}
KNOWN = NEEDED | {"plan", "nodes", "operations", "faults"}


def plan_of(path: Path) -> Plan:
    """The plan that failed."""
    told = tomllib.loads(path.read_text())
    if "plan" in told:
        return decode_plan((DIRECTORY / told["plan"]).read_bytes())
    return draw_plan(
        told["seed"],
        told["profile"],
        nodes=told.get("nodes"),
        operations=told.get("operations", 100),
        faults=told.get("faults", True),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_failed_once_is_clean(path):
    """A bug that came once comes again."""
    plan = plan_of(path)
    for number in range(RUNS):
        result = run_plan(replace(plan, seed=plan.seed + number))
        assert result.clean, (number, result.violations)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_seed_tells_its_story(path):
    """A number alone says nothing to whom it fails for the second time."""
    told = tomllib.loads(path.read_text())
    assert NEEDED <= told.keys() <= KNOWN
    assert told["profile"] in PROFILES
    # X is whatever is no checker's: an exception, a node that ended by itself.
    assert set(told["broke"].split()) <= {*CHECKERS, "X", "hash"}
    assert len(told["story"].split()) > 20
    assert ": " in told["fixed"]


def test_no_plan_is_left_over():
    """Each belongs to a story."""
    named = {tomllib.loads(path.read_text()).get("plan") for path in FILES} - {None}
    assert named == {path.name for path in DIRECTORY.glob("*.json")}
