"""Scenarios: those of docs/scenarios go as they are told, and the format itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from sadik.sim.scenario import ScenarioError, parse
from sadik.sim.stage import play

DIRECTORY = Path(__file__).resolve().parents[2] / "docs/scenarios"
SCENARIOS = sorted(DIRECTORY.glob("*.txt"))

STORY = """\
# One node.

cluster A

alice@A> SET cart milk
       2.0  alice: OK
show cart
    A  [A:1] milk
"""


def test_there_are_scenarios():
    assert len(SCENARIOS) >= 9


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_goes_as_it_is_told(path):
    """They teach, so what they tell must be what happens."""
    scenario = parse(path.read_text())
    assert scenario.difference(play(scenario)) == ""


def test_every_scenario_explains_itself():
    """Each begins with what it is about, and every file's expected output is there."""
    for path in SCENARIOS:
        scenario = parse(path.read_text())
        assert path.read_text().startswith("# "), path
        assert any(command.expected for command in scenario.commands), path


def test_scenario_is_the_same_after_others():
    """Nothing of one story is left for the next."""
    scenario = parse(STORY)
    assert play(scenario) == play(scenario)


def test_text_is_kept_around_the_output():
    """Only what is indented below a command changes; comments and blank lines are the author's."""
    scenario = parse(STORY)
    outputs = [list(command.expected) for command in scenario.commands]
    assert scenario.render(outputs) == STORY
    assert scenario.difference(outputs) == ""
    assert "+    new" in scenario.difference([[], ["new"], outputs[2]])


def test_output_that_is_new_goes_below_its_command():
    """A file without any output becomes one with it."""
    bare = "".join(line + "\n" for line in STORY.splitlines() if not line.startswith(" "))
    scenario = parse(bare)
    assert scenario.render(play(scenario)) == STORY


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ("", "line 1: a scenario begins with: cluster NODE..."),
        ("kill A\n", "line 1: a scenario begins with: cluster NODE..."),
        ("    out\n", "line 1: an indented line is output, and no command is above it"),
        ("cluster A\n\n    out\n", "line 3: an indented line is output, and no command is above it"),
        ("cluster A A\n", "line 1: a cluster has 1 to 9 nodes, each with a name of its own"),
        ("cluster A colour=red\n", "line 1: there is no option 'colour'"),
        ("cluster A exchange_interval=soon\n", "line 1: exchange_interval takes a time such as 500ms"),
        ("cluster A sync=perhaps\n", "line 1: sync must be one of always, interval, never"),
        ("# one\ncluster A\ndance A\n", "line 3: there is no command 'dance'"),
        ("cluster A\nkill B\n", "line 2: there is no node 'B'"),
        ("cluster A\nkill\n", "line 2: name a node"),
        ("cluster A\nstart A\n", "line 2: A is up"),
        ("cluster A B\nkill A\npause A\n", "line 3: A is down"),
        ("cluster A B\nsplit A B\n", "line 2: split A | B, or split A > B"),
        ("cluster A\nkill A at SEATS 1\n", "line 2: kill A at KIND NUMBER"),
        ("cluster A\nclock A soon\n", "line 2: clock A +MILLISECONDS"),
        ("cluster A\nlisten birds\n", "line 2: listen to requests, exchange, gossip"),
        ("cluster A\nalice@A> SET 'cart\n", "line 2: No closing quotation"),
        ("cluster A B\nsplit A | B\nwait 2s\nsettle\n", "line 4: not within 60.0 s: the replicas are equal"),
    ],
)
def test_a_mistake_is_told_with_its_line(story, message):
    """Who writes a scenario is told what is wrong, and where."""
    with pytest.raises(ScenarioError) as caught:
        play(parse(story))
    assert str(caught.value).startswith(message)


def test_a_node_that_cannot_be_reached_is_told():
    """A client's failure is part of the story, not an error of it."""
    outputs = play(parse("cluster A B C\nkill A\nalice@A> SET cart milk\nstart A\nshow cart"))
    assert outputs[2] == ["   0.0  alice: A cannot be reached"]
    assert outputs[4] == ["A  nothing", "B  nothing", "C  nothing"]
