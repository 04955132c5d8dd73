"""``python -m tests.system.torture``: see the package."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.system.torture.campaign import Torture
from tests.system.torture.network import ISOLATED, isolation


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), default=60.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of faults and requests.")
@click.option("--nodes", type=click.IntRange(3, 9), default=3, show_default=True)
@click.option("--round-s", type=click.FloatRange(5), default=60.0, show_default=True, help="Of faults.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where data directories go, those of a failure to stay.  [default: a temporary one]",
)
@click.option("--keep", is_flag=True, help="Keep all data directories and histories.")
def torture(minutes: float, seed: int, nodes: int, round_s: float, data: Path | None, keep: bool) -> None:
    """Real nodes under kill -9, SIGSTOP, splits and damaged disks; exit code 1 if a promise was broken."""
    if ISOLATED not in os.environ:
        apart = isolation()
        if apart is not None:
            os.environ[ISOLATED] = "1"
            command = [*apart, sys.executable, "-m", "tests.system.torture", *sys.argv[1:]]
            os.execvp(command[0], command)
        click.echo("no namespaces on this machine: nothing will be split")
    place = data or Path(tempfile.mkdtemp(prefix="torture-"))
    clean = Torture(seed, nodes, place, round_s, keep=keep).run(minutes)
    if clean and data is None and not keep:
        shutil.rmtree(place)
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    torture()
