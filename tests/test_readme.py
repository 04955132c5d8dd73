"""The examples of the README are run, so they stay true; links lead somewhere, commands and options exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import click
import pytest

from sadik.cli import main, node, sim
from tests.system.harness import NodeProcess

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "127.0.0.1:7379"
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))


@pytest.mark.slow
def test_readme_examples_hold(tmp_path, monkeypatch):
    """Every Python example gives what it shows, in order, as a reader would type it."""
    monkeypatch.chdir(tmp_path)
    server = NodeProcess(str(tmp_path / "data"), ["--engine", "memory", "--peer", "127.0.0.1:0"]).start()
    try:
        text = (ROOT / "README.md").read_text().replace(ADDRESS, f"127.0.0.1:{server.resp_port}")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert len(blocks) >= 5
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
        names: dict[str, object] = {}
        for number, block in enumerate(blocks, 1):
            example = parser.get_doctest(block, names, f"README example {number}", "README.md", 0)
            runner.run(example, clear_globs=False)
            names = example.globs
        assert runner.summarize(verbose=False).failed == 0
    finally:
        server.kill()


def test_links_lead_somewhere():
    """A link to a file that is not there is worse than none."""
    for document in DOCUMENTS:
        path = ROOT / document
        targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
        assert [target for target in targets if not (path.parent / target).exists()] == [], document


def test_files_that_the_architecture_names_exist():
    """Whoever looks a file up finds it where the page says."""
    names = re.findall(r"`((?:\w+/)+\w+\.(?:py|pyx))`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(names) > 40
    assert [name for name in names if not ((ROOT / name).exists() or (ROOT / "sadik" / name).exists())] == []


def test_commands_and_options_of_the_readme_exist():
    """What a reader types is not refused as misspelt."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/simulation.md"))
    program = main.command()
    known = set(program.commands) | {f"sim {name}" for name in sim.sim.commands}
    typed = set(re.findall(r"^(?:\$ )?sadik (sim \w+|\w+)", text, re.MULTILINE))
    assert len(typed) >= 8
    assert typed <= known
    options = {
        option
        for program in (program, *program.commands.values(), *sim.sim.commands.values(), node.command())
        for parameter in program.params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--data-binary", "--help"} <= options
