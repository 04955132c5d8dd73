"""``sadik demo`` as somebody tries it: look at the table, kill a node, see the others go on, press Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.system.cluster_harness import free_ports, wait_until

pytestmark = pytest.mark.slow

SADIK = (sys.executable, "-m", "sadik.cli.main")
START_S = 60


class Demo:
    """The program in a process of its own, and the table that it has printed."""

    def __init__(self, directory: Path) -> None:
        # Room for three nodes, with nobody in between.
        ports = free_ports(30)
        assert ports[-1] - ports[0] == 29, "no thirty free ports in a row"
        self.base_port = ports[0]
        command = [*SADIK, "demo", "--base-port", str(self.base_port), "--data", str(directory)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200"},
        )
        self.text = ""

    def until(self, pattern: str) -> None:
        """Read what it writes until that is among it."""
        assert self.process.stdout is not None
        while not re.search(pattern, self.text):
            readable, _, _ = select.select([self.process.stdout], [], [], START_S)
            piece = os.read(self.process.stdout.fileno(), 1 << 16) if readable else b""
            assert piece, f"{pattern!r} did not come: {self.text}"
            self.text += piece.decode()

    def pids(self) -> list[int]:
        """Of the nodes, as the table has them."""
        rows = [line.split() for line in self.text.splitlines() if re.match(r"n\d +127", line)]
        assert [row[1] for row in rows] == [f"127.0.0.1:{self.base_port + 10 * n}" for n in range(3)]
        return [int(row[4]) for row in rows]

    def sadik(self, number: int, *arguments: str) -> Any:
        """``sadik --json`` at a node."""
        address = f"127.0.0.1:{self.base_port + 10 * number + 1}"
        command = [*SADIK, "--node", address, "--json", *arguments]
        return json.loads(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)

    def redis(self, number: int) -> redis.Redis:
        return redis.Redis(port=self.base_port + 10 * number, retry=None)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Running, with its table."""
    demo = Demo(tmp_path / "demo")
    try:
        demo.until("Ctrl-C stops all nodes")
        yield demo
    finally:
        demo.process.kill()
        demo.process.communicate()


def runs(pid: int) -> bool:
    """Whether a process is there and not just a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_demo_shows_a_cluster_that_outlives_a_node(demo: Demo) -> None:
    """Its end is told and changes nothing; started by hand as it was, it gets what it has missed."""
    pids = demo.pids()
    victim = Path(f"/proc/{pids[2]}/cmdline").read_text().split("\0")[:-1]
    assert demo.redis(0).set("before", "1")
    os.kill(pids[2], signal.SIGKILL)
    demo.until(r"node n3 .*SIGKILL")
    for number in range(200):
        assert demo.redis(number % 2).set(f"meanwhile:{number}", number)
    assert demo.redis(1).get("before") == b"1"
    states = {member["node"]: member["state"] for member in demo.sadik(0, "members")["members"]}
    assert states["n1"] == states["n2"] == "alive" != states["n3"]
    kept = [owner for number in range(2) for owner in demo.sadik(number, "hints")["owners"]]
    assert sum(owner["hints"] for owner in kept if owner["owner"] == "n3") >= 200

    by_hand = subprocess.Popen(victim, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def is_back() -> bool:
            members = demo.sadik(0, "members")["members"]
            return all(member["state"] == "alive" for member in members)

        wait_until(is_back, 30, "n3 is back", every_s=0.5)
        for number in range(2):
            assert demo.sadik(number, "hints", "--wait")["owners"] == []
        explained = demo.sadik(2, "explain", "meanwhile:199")
        assert [replica["state"] for replica in explained["replicas"]] == ["stored"] * 3
        assert demo.redis(2).get("meanwhile:199") == b"199"
    finally:
        by_hand.terminate()
        assert by_hand.wait(30) == 0

    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(30) == 0
    assert not [pid for pid in pids if runs(pid)]
