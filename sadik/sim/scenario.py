"""Scenarios: short stories about a few nodes as text, with what is expected to happen below each command.

A line that begins with ``#`` is for the reader, an indented one is expected output, and any other one is a
command (``stage.py`` has them all)::

    # A write through Sx, with the two others as replicas.
    cluster Sx Sy Sz
    alice@Sx> SET cart milk
        0.0  Sx > Sy     SETS cart [Sx:1] milk
        0.0  Sx > Sz     SETS cart [Sx:1] milk
        ...

Output is compared to the letter. Nothing in a scenario is left to chance: messages take a millisecond each,
and the cluster is the one that a fixed seed makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Final

from sadik.errors import InvalidRequest

INDENT: Final = "    "


class ScenarioError(InvalidRequest):
    """A scenario that cannot be told: a command that there is not, or one that does not fit the story.

    Attributes:
        line: Of the command, counted from 1.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Command:
    """Attributes:
    line: Where it stands, counted from 1.
    text: Without its line end.
    expected: Lines below it, without indentation.
    """

    line: int
    text: str
    expected: tuple[str, ...] = ()


@dataclass(slots=True)
class Scenario:
    """Attributes:
    lines: All of the text that is not expected output; None stands where a command's output belongs.
    """

    commands: list[Command] = field(default_factory=list)
    lines: list[str | None] = field(default_factory=list)

    def render(self, outputs: Sequence[Sequence[str]]) -> str:
        """The text with these outputs, one for each command."""
        left = iter(outputs)
        parts: list[str] = []
        for line in self.lines:
            if line is None:
                parts += [f"{INDENT}{one}".rstrip() for one in next(left)]
            else:
                parts.append(line)
        return "".join(f"{part}\n" for part in parts)

    def difference(self, outputs: Sequence[Sequence[str]]) -> str:
        """Where the outputs are not what is expected, as a unified diff; empty if nowhere."""
        expected = self.render([command.expected for command in self.commands])
        found = self.render(outputs)
        return "".join(
            unified_diff(expected.splitlines(True), found.splitlines(True), "expected", "found", n=2)
        )


def parse(text: str) -> Scenario:
    """The scenario of a text.

    Raises:
        ScenarioError: Output comes before any command.
    """
    scenario = Scenario()
    output: list[str] = []
    heads: list[tuple[int, str]] = []
    outputs: list[list[str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line[:1].isspace() and line.strip():
            if scenario.lines[-1:] != [None]:
                raise ScenarioError(number, "an indented line is output, and no command is above it")
            output.append(line[len(INDENT) :] if line.startswith(INDENT) else line.lstrip())
        else:
            scenario.lines.append(line.rstrip())
            if line.strip() and not line.startswith("#"):
                heads.append((number, line.rstrip()))
                outputs.append(output := [])
                scenario.lines.append(None)
    scenario.commands = [
        Command(number, head, tuple(lines)) for (number, head), lines in zip(heads, outputs, strict=True)
    ]
    return scenario
