"""A scripted node for the tests of ``sadik``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from sadik.cli.main import main
from tests.cli.scripted_node import ScriptedNode


class Ran(NamedTuple):
    """A run of the program: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def scripted() -> Iterator[ScriptedNode]:
    """A node that answers what the test says."""
    node = ScriptedNode()
    yield node
    node.close()


@pytest.fixture
def sadik(
    scripted: ScriptedNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Runs the program against the scripted node."""
    for name in [*os.environ]:
        if name.startswith("SADIK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("SADIK_NODE", scripted.address)

    def run(*arguments: str) -> Ran:
        code = main(list(arguments))
        return Ran(code, *capsys.readouterr())

    return run
