"""The examples of docs/client.md are run against a node, so they stay true."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import sadik.client
from tests.system.harness import NodeProcess

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "client.md"
ADDRESS = "127.0.0.1:7379"


@pytest.mark.slow
def test_examples_hold(tmp_path):
    """Every example gives what it shows, in order, as a reader would type it."""
    node = NodeProcess(str(tmp_path / "data"), ["--peer", "127.0.0.1:0"]).start()
    try:
        text = DOCUMENT.read_text().replace(ADDRESS, f"127.0.0.1:{node.resp_port}")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert len(blocks) >= 6
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
        names: dict[str, object] = {}
        for number, block in enumerate(blocks, 1):
            example = parser.get_doctest(block, names, f"example {number}", DOCUMENT.name, 0)
            assert example.examples, f"example {number} shows nothing to run"
            runner.run(example, clear_globs=False)
            names = example.globs
        assert runner.summarize(verbose=False).failed == 0
    finally:
        node.kill()


def test_what_the_document_names_exists():
    """Options, errors and numbers that a reader takes from it."""
    text = DOCUMENT.read_text()
    parameters = {
        name
        for method in (sadik.client.Client, sadik.client.Client.get, sadik.client.Client.put)
        for name in inspect.signature(method).parameters
    }
    for option in ("bucket", "secret", "monotonic", "context", "r", "w", "pr", "pw", "ttl_ms", "timeout_ms"):
        assert option in parameters
        assert option in text
    limits = sadik.client.Limits()
    assert f"last {limits.session_keys_max:,} (`session_keys_max`)" in text
    assert f"at most {limits.connections_max} connections and {limits.in_flight_max} requests" in text
    assert f"after {limits.attempt_timeout_ms // 1000} s |" in text
    assert f"every {limits.refresh_interval_ms // 1000} s" in text
    for name in sadik.client.__all__:
        assert getattr(sadik.client, name)
    for name in ("Client", "SyncClient", "Reply", "StaleRead", "ManyFailed", "Limits"):
        assert f"`{name}" in text
