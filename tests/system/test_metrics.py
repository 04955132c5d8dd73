"""docs/metrics.md says what a node answers, no more and no less."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.system.conftest import NodeStarter

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = re.compile(r"\| `(sadik_\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.+) \|")


@pytest.mark.slow
def test_every_metric_is_documented_as_it_is(start_node: NodeStarter) -> None:
    """Name, type and meaning of each, and its labels where it has samples; in both formats."""
    node = start_node("--engine", "memory")
    node.command(b"SET", b"key", b"value")
    documented = {
        name: (kind, {label.strip() for label in labels.split(",") if label.strip()}, meaning)
        for name, kind, labels, meaning in ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    }
    exported: dict[str, tuple[str, str]] = {}
    for family in parse_text(scrape(node.http_port, "")):
        if not family.name.startswith("sadik_"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        exported[name] = (family.type, family.documentation)
        assert name in documented, f"{name} is not in docs/metrics.md: {family.documentation}"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == documented[name][1], name
    assert {name: (kind, meaning) for name, (kind, _, meaning) in documented.items()} == exported
    parsed = list(parse_openmetrics(scrape(node.http_port, "application/openmetrics-text")))
    assert {family.name for family in parsed} >= {name.removesuffix("_total") for name in documented} - {
        "sadik_node_info"
    }


def scrape(port: int, accept: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text: str = answer.read().decode()
    return text
