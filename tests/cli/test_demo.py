"""``sadik demo``: a cluster comes up, is formed once, and ends in every way that a process can end."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sadik.cli.demo import Demo
from sadik.cli.remote import Remote
from sadik.settings import Address

NODE = str(Path(__file__).with_name("scripted_demo_node.py"))
RUN = (
    "import asyncio, sys\n"
    "from sadik.cli.demo import Demo\n"
    "demo = Demo(3, sys.argv[1], int(sys.argv[2]), 'interval', (), program=(sys.executable, sys.argv[3]))\n"
    "sys.exit(asyncio.run(demo.run()))\n"
)
WAIT_S = 30


def free_ports(count, stride=10, width=3):
    """The first of ``count`` groups of ports that nobody has."""
    # Below those that the system hands out for port 0, so that nobody gets one of them meanwhile.
    for base in range(20_000 + os.getpid() % 300 * 30, 32_000, 30):
        try:
            for port in (base + stride * group + offset for group in range(count) for offset in range(width)):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class Running:
    """A demo in a process of its own."""

    def __init__(self, directory, command=None, count=3):
        self.base_port = free_ports(count)
        command = command or [sys.executable, "-c", RUN, str(directory), str(self.base_port), NODE]
        command = [word.replace("BASE_PORT", str(self.base_port)) for word in command]
        environment = {**os.environ, "SADIK_SYNC": "always", "COLUMNS": "160"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self.text = {"out": "", "err": ""}

    def until(self, stream, pattern):
        """Read until the output holds the pattern; what was found."""
        file = self.process.stdout if stream == "out" else self.process.stderr
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.text[stream])):
            readable, _, _ = select.select([file], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(file.fileno(), 1 << 16) if readable else b""
            if not piece:
                self.process.kill()
                self.end()
                raise AssertionError(f"{pattern!r} did not come: {self.text}")
            self.text[stream] += piece.decode()
        return found

    def pids(self):
        """Of the nodes, from the table."""
        self.until("out", "Ctrl-C stops all nodes")
        return [int(line.split()[4]) for line in self.text["out"].splitlines() if re.match(r"n\d ", line)]

    def end(self):
        """Exit code, with the rest of what it wrote."""
        out, err = self.process.communicate(timeout=WAIT_S)
        self.text["out"] += out.decode()
        self.text["err"] += err.decode()
        return self.process.returncode


@pytest.fixture
def demo(tmp_path):
    """Starts demos on the test's directory; what is left of them is killed at its end."""
    started = []

    def start(**more):
        started.append(Running(tmp_path, **more))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        running.process.stdout.close()
        running.process.stderr.close()


def wait_gone(pids):
    """Until none of the processes runs any more (a zombie does not)."""
    deadline = time.monotonic() + WAIT_S
    for pid in pids:
        while time.monotonic() < deadline:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                break
            if state in "ZX":
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f"process {pid} is still there")


def asked(directory, node="n1"):
    """What was posted to a node."""
    file = directory / node / "asked"
    return file.read_text().splitlines() if file.exists() else []


def mark(directory, node, word):
    (directory / node).mkdir(parents=True, exist_ok=True)
    (directory / node / word).touch()


def test_node_is_described_by_its_arguments(tmp_path):
    """What is shown can be started by hand: nothing else says what a node is."""
    demo = Demo(3, "/d", 7379, "always", ("--log-level", "debug"), program=("sadik-node",))
    assert " ".join(demo.command(demo.nodes[0])) == (
        "sadik-node --node-id n1 --host-label n1 --data /d/n1 --resp 127.0.0.1:7379 --http 127.0.0.1:7380 "
        "--peer 127.0.0.1:7381 --sync always --log-level debug"
    )
    assert " ".join(demo.command(demo.nodes[2])) == (
        "sadik-node --node-id n3 --host-label n3 --data /d/n3 --resp 127.0.0.1:7399 --http 127.0.0.1:7400 "
        "--peer 127.0.0.1:7401 --seed-node 127.0.0.1:7381 --sync always --log-level debug"
    )


def test_new_cluster_is_joined_and_committed_once(demo, tmp_path):
    """A first start makes the layout; a later one leaves alone what an operator may have changed."""
    first = demo()
    pids = first.pids()
    assert asked(tmp_path) == [
        'POST /v1/layout/stage {"action": "join", "node": "n2"}',
        'POST /v1/layout/stage {"action": "join", "node": "n3"}',
        'POST /v1/layout/commit {"version": 2, "force": false}',
    ]
    port = first.base_port
    assert f"127.0.0.1:{port + 20}" in first.text["out"]
    assert f"redis-cli -p {port} set greeting hello" in first.text["out"]
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == 0
    wait_gone(pids)
    second = demo()
    second.pids()
    assert len(asked(tmp_path)) == 3
    second.process.send_signal(signal.SIGINT)
    assert second.end() == 0


def test_what_nodes_write_is_passed_on_and_variables_are_not(demo):
    """Each line says whose it is; a variable would be an option that the arguments do not show."""
    running = demo()
    running.until("err", r"n3 variables: \[\]\n")
    running.until("err", "n1 sadik-node 0 ready: node=n1\n")


def test_layout_that_cannot_change_is_told_and_left(demo, tmp_path):
    """The nodes that are there go on serving; nothing stays staged."""
    mark(tmp_path, "n1", "refuse")
    running = demo()
    running.until("err", "n2, n3 cannot join: partition 1 holds data")
    running.pids()
    assert asked(tmp_path)[-1].startswith("DELETE /v1/layout/stage")


def test_death_of_one_is_told_and_changes_nothing(demo):
    """No restart, no stop: the others' behaviour is what there is to see."""
    running = demo()
    pids = running.pids()
    os.kill(pids[1], signal.SIGKILL)
    told = running.until("err", r"node n2 has died \(SIGKILL\); the others go on. Start it again:\n  (.*)\n")
    assert "--node-id n2" in told[1]
    for number in (0, 2):
        address = Address("127.0.0.1", running.base_port + 10 * number + 1)
        assert Remote(address).get("/ready") == {"status": "ready"}
    wait_gone([pids[1]])
    for pid in (pids[0], pids[2]):
        os.kill(pid, signal.SIGKILL)
    assert running.end() == 1
    assert "no node is left" in running.text["err"]


def test_nodes_die_with_the_demo(demo):
    """Killed without a chance to clean up, it leaves no process behind; a stopped node goes too."""
    running = demo()
    pids = running.pids()
    os.kill(pids[2], signal.SIGSTOP)
    running.process.kill()
    running.process.wait()
    wait_gone(pids)


def test_stopped_node_ends_at_the_first_signal(demo):
    """SIGSTOP is what people try; a stop must not hang on it."""
    running = demo()
    pids = running.pids()
    os.kill(pids[0], signal.SIGSTOP)
    running.process.send_signal(signal.SIGHUP)
    assert running.end() == 0
    assert "is killed" not in running.text["err"]
    wait_gone(pids)


def test_second_signal_does_not_wait(demo, tmp_path):
    """Who presses Ctrl-C twice means it."""
    mark(tmp_path, "n2", "stubborn")
    running = demo()
    pids = running.pids()
    running.process.send_signal(signal.SIGINT)
    wait_gone([pids[0], pids[2]])
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    assert "node n2 is killed" in running.text["err"]
    wait_gone(pids)


def test_node_that_does_not_start_ends_all(demo, tmp_path):
    """A cluster that is not the one asked for is no cluster; its own line says why."""
    mark(tmp_path, "n2", "fail")
    running = demo()
    assert running.end() == 1
    assert "n2 sadik-node: address is taken" in running.text["err"]
    assert "sadik: node n2 did not start (exit code 5)" in running.text["err"]


def test_cluster_that_cannot_be_formed_ends_all(demo, tmp_path):
    """What failed is told in one line, and no node is left behind."""
    mark(tmp_path, "n1", "broken")
    running = demo()
    assert running.end() == 1
    assert "sadik: the cluster could not be formed: 127.0.0.1:" in running.text["err"]
    assert "Traceback" not in running.text["err"]


def test_directory_of_a_single_node_is_refused(sadik, tmp_path):
    """Its data would neither be shown nor be safe from the mix."""
    (tmp_path / "BIRTH").touch()
    ran = sadik("demo", "--data", str(tmp_path))
    assert (ran.code, "is the directory of a single node" in ran.err) == (2, True)


@pytest.mark.slow
def test_real_cluster_serves_and_comes_back(demo, tmp_path):
    """The whole way with the real program: any node answers, and a restart finds layout and data."""
    words = [sys.executable, "-m", "sadik.cli.main", "demo", "--base-port", "BASE_PORT"]
    words += ["--data", str(tmp_path / "demo"), "--", "--partitions", "64"]

    def sadik(running, number, *arguments):
        node = f"127.0.0.1:{running.base_port + 10 * number + 1}"
        program = [sys.executable, "-m", "sadik.cli.main", "--node", node, *arguments]
        return subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout

    first = demo(command=words)
    pids = first.pids()
    context = sadik(first, 0, "put", "greeting", "hello").strip()
    assert sadik(first, 2, "get", "greeting") == "hello"
    sadik(first, 1, "put", "greeting", "bonjour", "--context", context)
    first.process.terminate()
    assert first.end() == 0
    wait_gone(pids)
    second = demo(command=words)
    second.pids()
    layout = json.loads(sadik(second, 2, "--json", "ring"))
    assert (layout["version"], layout["partitions"], len(layout["nodes"])) == (2, 64, 3)
    assert sadik(second, 0, "get", "greeting") == "bonjour"
    second.process.terminate()
    assert second.end() == 0
