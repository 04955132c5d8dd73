"""A campaign in small: some hundred seeds. ``sadik sim run`` has the large ones."""

from __future__ import annotations

import shlex

import pytest

from sadik.cli.sim import replay_command
from sadik.sim.campaign import Options, Summary, run_campaign
from sadik.sim.profiles import PROFILES

SEEDS = dict.fromkeys(PROFILES, 8) | {"default": 101}
"""The default profile has everything; the others look closer at a part of it."""


def report(summary: Summary, options: Options) -> str:
    """What has failed, and how to see it."""
    lines = []
    for result in summary.failed:
        lines += [replay_command(result.seed, options), *(f"  {one}" for one in result.violations)]
    lines += [f"{replay_command(seed, options)}: not the same twice" for seed in summary.mismatches]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("profile", list(PROFILES))
def test_seeds_are_clean(profile):
    """No promise is broken under any mix of faults, and no run differs from itself."""
    options = Options(profile)
    summary = run_campaign(range(100, 100 + SEEDS[profile]), options)
    assert summary.succeeded(coverage=False), report(summary, options)
    assert summary.seeds == SEEDS[profile]
    assert summary.checked >= 1


def test_processes_change_nothing():
    """Seeds are the same whichever process runs them, in whatever order, with another salt of hash()."""
    options = Options(operations=20)
    hashes: dict[int, str] = {}
    run_campaign(range(30), options, on_result=lambda one: hashes.update({one.seed: one.hash}))
    others: dict[int, str] = {}
    summary = run_campaign(
        range(30), options, jobs=2, on_result=lambda one: others.update({one.seed: one.hash})
    )
    assert others == hashes
    assert summary.seeds == 30


def test_a_replay_command_says_all_that_matters():
    """What is as usual is left out."""
    assert replay_command(7, Options()) == "sadik sim replay 7"
    options = Options("disks", nodes=4, operations=30, faults=False)
    assert shlex.split(replay_command(7, options)) == [
        *("sadik", "sim", "replay", "7", "--profile", "disks"),
        *("--nodes", "4", "--operations", "30", "--no-faults"),
    ]
