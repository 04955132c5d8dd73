"""Real nodes under kill -9, SIGSTOP, splits and damaged disks keep what the simulator checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOUR_KILLS = 500


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
@pytest.mark.parametrize("nodes", [3, 5])
def test_an_hour_of_torture_finds_nothing(
    tmp_path: Path, nodes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar: an hour, 500 kills; TORTURE_MINUTES makes it shorter or longer, TORTURE_SEED another one."""
    minutes, seed = os.environ.get("TORTURE_MINUTES", "60"), os.environ.get("TORTURE_SEED", "1")
    text = torture(tmp_path, "--minutes", minutes, "--seed", seed, "--nodes", str(nodes))
    with capsys.disabled():
        print(f"\n{text}")
    kills = sum(int(line.split(": ")[1].split()[0]) for line in text.splitlines() if " kill -9, " in line)
    assert kills >= HOUR_KILLS * float(minutes) / 60
