"""The examples of the README are run, so they stay true."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_readme_examples_hold(tmp_path, monkeypatch):
    """Every Python example gives what it shows, in order, as a reader would type it."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        example = parser.get_doctest(block, names, f"README example {number}", "README.md", 0)
        runner.run(example, clear_globs=False)
        names = example.globs
    assert runner.summarize(verbose=False).failed == 0


def test_readme_links_lead_somewhere():
    """A link to a file that is not there is worse than none."""
    for document in ("README.md", "ARCHITECTURE.md"):
        targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text())
        assert [target for target in targets if not (ROOT / target).exists()] == [], document
