"""Real starts of ``sadik-node``: what an operator does wrong, told in one line and one exit code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.system.harness import NodeProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A running node, born as ``amber`` of ``forest`` with 64 partitions."""
    directory = tmp_path_factory.mktemp("start") / "data"
    born = ["--node-id", "amber", "--cluster", "forest", "--partitions", "64"]
    running = NodeProcess(str(directory), born).start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.kill()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The directory of a node that was born likewise and has stopped."""
    directory = tmp_path_factory.mktemp("stopped") / "data"
    born = ["--node-id", "amber", "--cluster", "forest", "--partitions", "64"]
    once = NodeProcess(str(directory), born).start()
    code, text = once.stop()
    assert code == 0, text
    return str(directory)


def start(directory, *options):
    """Exit code and standard error of a start that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SADIK_")}
    command = [sys.executable, "-m", "sadik.cli.node", "--data", str(directory)]
    for listener in ("--resp", "--http", "--peer"):
        command += [listener, "127.0.0.1:0"]
    command += options
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == ""
    return result.returncode, result.stderr


def is_one_line(text):
    return text.startswith("sadik-node: ") and text.count("\n") == 1 and "Traceback" not in text


def test_ready_line_names_what_was_bound(node):
    """Scripts and people read the ports from it, above all after port 0."""
    assert node.resp_port
    assert node.http_port
    assert "node=amber cluster=forest" in node.ready_line


def test_directory_in_use_is_code_3(node):
    """Two processes on one log would destroy it."""
    code, text = start(node.directory)
    assert (code, is_one_line(text)) == (3, True), text
    assert node.directory in text


@pytest.mark.parametrize("listener", ["--resp", "--http"])
def test_taken_port_is_code_5_and_gives_the_directory_back(node, tmp_path, listener):
    """Which address it was stands in the line; the next try must not fail for the sake of the last one."""
    directory = str(tmp_path / "data")
    code, text = start(directory, listener, f"127.0.0.1:{node.resp_port}")
    assert (code, is_one_line(text)) == (5, True), text
    assert str(node.resp_port) in text
    if listener == "--resp":
        assert NodeProcess(directory).start().stop()[0] == 0


@pytest.mark.parametrize(("option", "value"), [("--cluster", "desert"), ("--partitions", "128")])
def test_other_birth_is_code_4(stopped, option, value):
    """A directory of another cluster or node is left alone."""
    code, text = start(stopped, option, value)
    assert (code, is_one_line(text)) == (4, True), text
    assert value in text


def test_restart_needs_no_flags(stopped):
    """What the directory was born with need not be said again."""
    again = NodeProcess(stopped).start()
    assert "node=amber cluster=forest" in again.ready_line
    code, text = again.stop()
    assert code == 0, text
    assert "Traceback" not in text


def test_impossible_directory_is_code_6(tmp_path):
    """A path that cannot be a directory is named."""
    (tmp_path / "file").write_text("")
    code, text = start(tmp_path / "file" / "data")
    assert (code, is_one_line(text)) == (6, True), text
    assert str(tmp_path / "file") in text


def test_sigterm_ends_open_connections_and_is_code_0(tmp_path):
    """A service manager's stop is a clean end, even with clients that stay connected."""
    node = NodeProcess(str(tmp_path / "data")).start()
    with node.connect(), socket.create_connection(("127.0.0.1", node.http_port)):
        assert node.command(b"SET", b"key", b"value") == b"+OK"
        code, text = node.stop()
    assert code == 0, text
    assert "Traceback" not in text
