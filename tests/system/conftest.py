"""A running node for tests with real clients."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import NodeProcess

NodeStarter = Callable[..., NodeProcess]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[NodeStarter]:
    """Starts nodes on directories of the test; all are killed at its end."""
    nodes: list[NodeProcess] = []

    def start(*options: str, directory: str = "data") -> NodeProcess:
        node = NodeProcess(str(tmp_path / directory), list(options)).start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.kill()


@pytest.fixture
def node(start_node: NodeStarter) -> NodeProcess:
    """One node with default options."""
    return start_node()


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a client is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
