"""Real nodes under kill -9, SIGSTOP, splits and damaged disks keep what the simulator checks."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sadik.sim.checkers import judge
from sadik.sim.history import End, decode_lines
from tests.system.torture.campaign import Torture
from tests.system.torture.rounds import Result, Round

KILLS_PER_HOUR = 500


def torture(tmp_path: Path, *options: str) -> str:
    """Run it; what it has printed."""
    command = [sys.executable, "-m", "tests.system.torture", "--data", str(tmp_path / "torture"), *options]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_short_torture_finds_nothing(tmp_path: Path) -> None:
    text = torture(tmp_path, "--minutes", "0.1", "--round-s", "12")
    assert "1 rounds" in text
    assert " 0 kill -9" not in text


@pytest.mark.torture
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(("nodes", "minutes"), [(3, 60), (5, 15)])
def test_long_torture_finds_nothing(
    tmp_path: Path, nodes: int, minutes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar: three nodes, an hour, 500 kills."""
    text = torture(tmp_path, "--minutes", str(minutes), "--nodes", str(nodes))
    with capsys.disabled():
        print(f"\n{text}")
    kills = sum(int(line.split(": ")[1].split()[0]) for line in text.splitlines() if " kill -9, " in line)
    assert kills >= KILLS_PER_HOUR * minutes / 60


class Sabotaged(Round):
    """Every disk gets back what it had before the first request, and nobody writes it down."""

    async def run(self, seconds: float) -> Result:
        for node in self.cluster.nodes:
            shutil.copytree(node.directory, node.directory.with_name(f"{node.name}-old"))
        return await super().run(seconds)

    async def _heal(self, end: End) -> bool:
        for node in self.cluster.nodes:
            node.kill()
            node.wipe()
            shutil.copytree(node.directory.with_name(f"{node.name}-old"), node.directory)
        await asyncio.to_thread(self.cluster.start)
        return await super()._heal(end)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_loss_that_nobody_wrote_down_is_found(tmp_path: Path) -> None:
    """The harness sees what it is there for, and keeps what shows it."""
    run = Torture(seed=1, nodes=3, place=tmp_path, round_s=5, kind=Sabotaged)
    assert not run.run(minutes=0.01)
    (result,) = run.results
    assert "D2" in {one.invariant for one in result.violations}
    with open(tmp_path / "cluster-0" / "round-0.jsonl", "rb") as file:
        history = decode_lines(file)
    assert {one.text for one in judge(history)} <= {one.text for one in result.violations}
    assert (tmp_path / "cluster-0" / "n3" / "log").is_dir()
