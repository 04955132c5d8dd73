"""``sadik sim``: campaigns, replays, scenarios, and how they end."""

from __future__ import annotations

import json
import signal
from collections import Counter
from functools import partial

import pytest

from sadik.cli import sim_tables
from sadik.sim import campaign
from sadik.sim.checkers import Violation
from sadik.sim.plan import decode_plan
from sadik.sim.profiles import draw_plan
from sadik.sim.run import Result
from sadik.sim.shrink import Shrinker
from sadik.sim.sometimes import RARE

SMALL = ("--operations", "10", "--nodes", "3", "--no-faults")


def result(seed, *violations, counts=(), hash="a" * 32):
    """A run as a campaign sees it."""
    return Result(seed, "default", list(violations), hash, 10, 100, Counter(dict(counts)), 3.0, 0.1)


def lost(number=4):
    return Violation("D2", f"#{number} was acknowledged, and nobody has it", (number,), b"k1")


@pytest.fixture
def scripted(monkeypatch):
    """Seeds give what the test says; others are clean."""
    results = {}
    monkeypatch.setattr(campaign, "run_seed", lambda seed, *a, **k: results.get(seed) or result(seed))
    return results


@pytest.fixture
def sim(capsys, monkeypatch):
    """Runs ``sadik sim`` in a terminal of 80 columns."""
    from sadik.cli.main import main

    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        code = main(["sim", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_campaign_of_real_seeds(sim):
    """What is counted is what has run."""
    code, out, _ = sim("run", "--seeds", "2", "--first-seed", "7", "--json", *SMALL)
    document = json.loads(out)
    assert (code, document["passed"], document["seeds"], document["first_seed"]) == (0, True, 2, 7)
    assert document["operations"] >= 20
    assert document["faults"] == {}
    assert document["virtual_s"] > 0
    assert list(document["sometimes"]) == list(RARE)


def test_table_for_people_fits_eighty_columns(sim, scripted):
    code, out, _ = sim("run", "--seeds", "100")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "no violation" in out
    assert "100 (from 1 on; 1 ran twice)" in out


def test_a_violation_fails_and_says_how_to_see_it(sim, scripted):
    """One command, with all options that made the run what it was."""
    scripted[5] = result(5, lost())
    code, out, err = sim("run", "--seeds", "9", "--profile", "disks", "--nodes", "4")
    assert code == 1
    assert "1 seed of 9 failed" in out
    assert "sadik sim replay 5 --profile disks --nodes 4" in out
    assert "#4 was acknowledged, and nobody has it" in err
    assert "D2" in out


def test_a_failing_seed_is_in_the_document(sim, scripted):
    scripted[2] = result(2, lost(), lost(9))
    code, out, _ = sim("run", "--seeds", "3", "--json")
    document = json.loads(out)
    assert (code, document["passed"]) == (1, False)
    assert document["invariants"] == {"D2": {"violations": 2, "seeds": [2]}}
    assert document["failed"][0]["replay"] == "sadik sim replay 2"
    assert document["failed"][0]["violations"][0]["operations"] == [4]


def test_fail_fast_stops_at_the_first(sim, scripted):
    scripted[2] = result(2, lost())
    _, out, _ = sim("run", "--seeds", "50", "--fail-fast", "--json")
    assert json.loads(out)["seeds"] == 2


def test_an_interrupted_campaign_is_summed_up(sim, monkeypatch):
    """Ctrl-C after an hour must not throw the hour away."""

    def run(seed, *arguments, **more):
        if seed == 7:
            signal.raise_signal(signal.SIGINT)
        return result(seed)

    monkeypatch.setattr(campaign, "run_seed", run)
    code, out, err = sim("run", "--seeds", "50", "--json")
    assert code == 130
    assert json.loads(out)["seeds"] == 7
    assert "interrupted" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_differs_the_second_time_fails(sim, monkeypatch):
    """A simulation that is not deterministic proves nothing: its seeds cannot be looked at again."""
    hashes = iter(range(1000))
    monkeypatch.setattr(campaign, "run_seed", lambda seed, *a, **k: result(seed, hash=f"{next(hashes):032x}"))
    code, out, _ = sim("run", "--seeds", "1", "--first-seed", "100")
    assert code == 1
    assert "not the same when run again: seeds 100" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--seeds", "3"), 0),
        (("--seeds", "3", "--coverage"), 1),
        (("--seeds", "1000"), 1),
        (("--seeds", "1000", "--no-coverage"), 0),
        (("--seeds", "1000", "--profile", "calm"), 0),
        (("--seeds", "1000", "--nodes", "3"), 0),
        (("--seeds", "1000", "--no-faults"), 0),
    ],
)
def test_rare_states_decide_for_large_campaigns(sim, scripted, arguments, code):
    """What was never reached was not tested; but a profile without faults cannot reach it."""
    found, out, _ = sim("run", *arguments)
    assert found == code
    assert ("never reached: three siblings" in " ".join(out.split())) is (code == 1)


def test_what_was_reached_is_counted(sim, scripted):
    every = dict.fromkeys(RARE, 1) | {"fault split": 2}
    for seed in range(1, 4):
        scripted[seed] = result(seed, counts=every)
    code, out, _ = sim("run", "--seeds", "3", "--coverage", "--json")
    document = json.loads(out)
    assert (code, document["missing"], document["faults"]) == (0, [], {"split": 6})
    assert set(document["sometimes"].values()) == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--profile", "stormy"), "--profile must be one of default,"),
        (("run", "--seeds", "0"), "0 is not in the range"),
        (("replay",), "give either a SEED or --plan"),
        (("replay", "1", "--plan", "x"), "give either a SEED or --plan"),
        (("replay", "--plan", "/no/such"), "--plan: cannot read /no/such"),
        (("scenario", "/no/such.txt"), "cannot read /no/such.txt"),
    ],
)
def test_wrong_usage_is_one_line(sim, arguments, message):
    code, _, err = sim(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_replay_tells_the_story_and_the_same_hash(sim):
    """The hash is the one that the campaign saw: it is the same run."""
    code, out, _ = sim("replay", "3", *SMALL)
    again = json.loads(sim("replay", "3", "--json", *SMALL)[1])
    assert code == 0
    assert f"hash {again['hash']}" in " ".join(out.split())
    assert "no violation" in out
    assert "client" in out
    assert " disk " not in out
    assert "GOSSIP" not in out


def test_replay_with_everything(sim):
    _, out, _ = sim("replay", "3", "--disk", "--noise", *SMALL)
    assert " disk " in out
    assert "GOSSIP" in out


def test_replay_keeps_the_history(sim, tmp_path):
    """For other programs, and for the checkers."""
    from sadik.sim.checkers import judge
    from sadik.sim.history import decode_lines

    path = tmp_path / "history"
    assert sim("replay", "3", "--history", str(path), "--json", *SMALL)[0] == 0
    with path.open("rb") as lines:
        history = decode_lines(lines)
    assert len(history.operations) >= 10
    assert judge(history) == []


def test_shrink_writes_a_plan_that_replays(sim, tmp_path, monkeypatch):
    """What is left of a failing seed is a file, and a command."""
    marked = draw_plan(3, nodes=3, operations=10, faults=False).steps[4]

    def run(plan):
        return result(plan.seed, *([lost()] if marked in plan.steps else []))

    monkeypatch.setattr("sadik.sim.shrink.Shrinker", partial(Shrinker, run=run))
    path = tmp_path / "small.json"
    code, out, _ = sim("shrink", "3", "--output", str(path), *SMALL)
    assert code == 0
    assert f"sadik sim replay --plan {path}" in "".join(out.split("\n"))
    assert decode_plan(path.read_bytes()).steps == (marked,)
    assert sim("replay", "--plan", str(path))[0] == 0


def test_a_seed_that_does_not_fail_is_not_shrunk(sim):
    code, _, err = sim("shrink", "3", *SMALL)
    assert code == 2
    assert "does not fail" in err


def test_scenarios_are_compared_and_updated(sim, tmp_path):
    """A difference is shown as one; --update makes it what is expected."""
    path = tmp_path / "one.txt"
    path.write_text("# One.\ncluster A\nshow cart\n    A  something\n")
    code, out, _ = sim("scenario", str(tmp_path))
    assert code == 1
    assert "-    A  something" in out
    assert "+    A  nothing" in out
    assert sim("scenario", "--update", str(path))[0] == 0
    assert path.read_text() == "# One.\ncluster A\nshow cart\n    A  nothing\n"
    code, out, _ = sim("scenario", "--json", str(path))
    assert (code, json.loads(out)[0]["difference"]) == (0, "")
    assert "A  nothing" in sim("scenario", "--show", str(path))[1]


def test_a_scenario_with_a_mistake_names_file_and_line(sim, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("cluster A\n\ndance\n")
    code, _, err = sim("scenario", str(path))
    assert code == 2
    assert f"{path}: line 3: there is no command 'dance'" in err


def test_profiles_are_listed(sim):
    code, out, _ = sim("profiles")
    assert code == 0
    assert "power cut" in out
    assert {one["profile"] for one in json.loads(sim("profiles", "--json")[1])} >= {"default", "calm"}


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        ("  0.000000  disk     n5 write /data/log/0000000002.segment 128", True),
        ("  0.108796  connect  41 127.0.1.1 127.0.1.5 7381", True),
        ("  0.012345  send     n1 > n2  PING", True),
        ("  0.012345  send     n1 > n2  PING + SETS k1 nothing", False),
        ("  0.012345  fault    split n1 n2", False),
        ("  0.012345  client   c1 #4 read", False),
    ],
)
def test_what_comes_and_goes_whatever_happens_is_left_out(line, hidden):
    assert sim_tables.is_hidden(line, sim_tables.hidden_kinds(disk=False, noise=False)) is hidden
    assert not sim_tables.is_hidden(line, sim_tables.hidden_kinds(disk=True, noise=True))
