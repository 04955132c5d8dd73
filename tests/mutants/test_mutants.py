"""The catalogue is whole, a mutant leaves nothing behind, and those that are found at once are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sadik.sim.profiles import draw_plan
from sadik.sim.run import run_plan
from tests.mutants.catalogue import MUTANTS, ROWS, WITHOUT, by_name, chosen
from tests.mutants.hunt import hunt
from tests.mutants.mutant import Mutant, replaced

ROOT = Path(__file__).resolve().parents[2]
FAST = [one for one in MUTANTS if one.fast]
FAST_SEEDS = 12


def names(mutants: list[Mutant]) -> list[str]:
    return [one.name.replace(" ", "-") for one in mutants]


# The catalogue.


def test_every_historic_bug_has_a_mutant_or_a_reason() -> None:
    planted = {row for one in MUTANTS for row in one.rows}
    assert [row for row in ROWS if row not in planted and not WITHOUT.get(row)] == []
    assert planted.isdisjoint(WITHOUT)
    assert set(WITHOUT) <= set(ROWS)


def test_mutants_are_told_apart_and_tell_their_story() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    assert all(one.story and one.caught_by and one.rows for one in MUTANTS)


def test_mutants_are_chosen_by_name_or_row() -> None:
    assert chosen([]) == list(MUTANTS)
    assert [one.name for one in chosen(["Z16", "plain version vectors"])] == [
        "plain version vectors",
        "a corrupt hint is tried for ever",
        "a corrupt hint goes without an account",
    ]
    with pytest.raises(KeyError, match="Z99"):
        chosen(["Z1", "Z99"])


# Planting.


def shipped() -> dict[tuple[str, str], object]:
    """Everything that modules of the package and their classes have, by name."""
    found: dict[tuple[str, str], object] = {}
    for place, module in list(sys.modules.items()):
        if place.split(".")[0] != "sadik":
            continue
        for name, value in vars(module).items():
            found[place, name] = value
            if isinstance(value, type) and value.__module__ == place:
                found |= {(f"{place}.{name}", inner): one for inner, one in vars(value).items()}
    return found


@pytest.mark.parametrize("mutant", MUTANTS, ids=names(list(MUTANTS)))
def test_a_mutant_changes_the_shipped_code_and_leaves_nothing_behind(mutant: Mutant) -> None:
    before = shipped()
    with mutant.planted():
        during = shipped()
    after = shipped()
    assert any(during[name] is not one for name, one in before.items())
    assert [name for name, one in before.items() if after[name] is not one] == []
    assert set(after) == set(before)


def test_a_mutant_goes_when_its_run_fails() -> None:
    class Owner:
        name = "before"

    def fail() -> None:
        with replaced(Owner, "name", "after"):
            assert Owner.name == "after"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Owner.name == "before"


def test_a_run_is_the_same_before_and_after_a_mutant() -> None:
    plan = draw_plan(3, "siblings")
    before = run_plan(plan).hash
    mutant = by_name("the last writer wins")
    with mutant.planted():
        assert run_plan(plan).hash != before
    assert run_plan(plan).hash == before


# Hunting.


@pytest.mark.parametrize("mutant", FAST, ids=names(FAST))
def test_what_is_found_at_once_is_found(mutant: Mutant) -> None:
    found = hunt(mutant, FAST_SEEDS)
    assert not found.false_alarms
    assert found.caught, f"not within {FAST_SEEDS} seeds of {', '.join(mutant.profiles)}"


def test_a_seed_that_fails_without_the_mutant_catches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = by_name("the last writer wins")
    monkeypatch.setattr("tests.mutants.hunt.run_plan", lambda plan: run_with(mutant, plan))
    found = hunt(mutant, 1)
    assert not found.caught
    assert [(one.profile, one.seed, one.violation.invariant) for one in found.false_alarms] == [
        ("siblings", 0, "D2")
    ]


def run_with(mutant: Mutant, plan: object) -> object:
    with mutant.planted():
        return run_plan(plan)  # type: ignore[arg-type]


@pytest.mark.parametrize(("word", "code"), [("contexts are ignored", 0), ("Z8", 2)])
def test_the_command_shows_a_table_or_says_what_there_is(word: str, code: int) -> None:
    command = [sys.executable, "-m", "tests.mutants", "--mutant", word, "--seeds-max", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert ("1 of 1 mutant caught" in done.stdout) is (code == 0)
    assert ("there is no mutant 'Z8'" in done.stderr) is (code == 2)
