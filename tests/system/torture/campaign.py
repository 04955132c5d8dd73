"""Rounds on clusters, one after another, and what is told of them."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.system.cluster_harness import Cluster
from tests.system.torture.nemesis import Temper
from tests.system.torture.network import Network
from tests.system.torture.rounds import OPTIONS, Result, Round

ROUNDS_OF_A_CLUSTER: Final = 3
"""In the last one of these a disk is damaged or lost; then a new cluster is formed."""
COLUMNS: Final = ("kill -9", "stops", "splits", "flips", "wipes", "derived")
KINDS: Final = ("crash", "pause", "split", "flip", "wiped", "derived")


class Torture:
    """Rounds on clusters, one after another, until the time is over.

    Args:
        place: Directory of data directories and histories; those of a round with violations stay, and all
            if ``keep``.
        round_s: How long a round does harm.
        kind: Of rounds.
    """

    def __init__(
        self,
        seed: int,
        nodes: int,
        place: Path,
        round_s: float,
        *,
        keep: bool = False,
        kind: type[Round] = Round,
    ) -> None:
        self.seed = seed
        self.nodes = nodes
        self.place = place
        self.round_s = round_s
        self.network = Network(nodes)
        self.keep = keep
        self._kind = kind
        self.results: list[Result] = []
        self._console = Console(width=None if sys.stdout.isatty() else 140)

    def run(self, minutes: float) -> bool:
        """Whether no promise was broken."""
        began_s = time.monotonic()
        number = 0
        try:
            while not number or time.monotonic() - began_s < 60 * minutes - self.round_s / 2:
                number = self._live(number, began_s, minutes)
        finally:
            self._console.print(self._table())
        return not any(result.violations for result in self.results)

    def _live(self, number: int, began_s: float, minutes: float) -> int:
        """The life of one cluster; the number of the next round."""
        directory = self.place / f"cluster-{number}"
        durability = ("interval", "always")[number // ROUNDS_OF_A_CLUSTER % 2]
        keep = self.keep
        try:
            with self._form(directory, durability) as cluster:
                while True:
                    one = self._kind(
                        cluster,
                        self.network,
                        self.seed,
                        number,
                        temper=Temper(losses=number % ROUNDS_OF_A_CLUSTER == ROUNDS_OF_A_CLUSTER - 1),
                        durability=durability,
                    )
                    result = asyncio.run(one.run(self.round_s))
                    number += 1
                    self.results.append(result)
                    self._tell(result)
                    if result.violations or keep:
                        result.save(directory / f"round-{result.number}.jsonl")
                    if result.violations:
                        keep = True
                        break
                    over = time.monotonic() - began_s > 60 * minutes - self.round_s / 2
                    if over or number % ROUNDS_OF_A_CLUSTER == 0:
                        break
                    result.history.operations.clear()
        except BaseException:
            keep = True
            raise
        finally:
            if keep:
                self._console.print(f"kept: {directory}", style="yellow", soft_wrap=True)
            else:
                shutil.rmtree(directory)
        return number

    def _form(self, directory: Path, durability: str) -> Cluster:
        cluster = Cluster(directory, self.nodes, options=[*OPTIONS, "--sync", durability])
        try:
            for number, node in enumerate(cluster.nodes):
                node.host = self.network.host(number)
                node.launcher = self.network.launcher(number)
            for node in cluster.nodes[1:]:
                cluster.seed_from(node, cluster[0])
            cluster.start()
            cluster.join(cluster.nodes[1:])
            for node in cluster.nodes:
                cluster.seed_from(node, *(other for other in cluster.nodes if other is not node))
        except BaseException:
            cluster.close()
            raise
        return cluster

    def _tell(self, result: Result) -> None:
        faults = ", ".join(f"{result.faults[kind]} {name}" for kind, name in zip(KINDS, COLUMNS, strict=True))
        outcomes = ", ".join(f"{result.outcomes[name]} {name}" for name in ("done", "refused", "unknown"))
        self._console.print(
            f"round {result.number}: {faults}; {outcomes}; equal after {result.equal_s:.1f} s; "
            f"{len(result.violations)} violations; {result.seconds:.0f} s",
            style="red" if result.violations else None,
            soft_wrap=True,
            highlight=False,
        )
        for one in result.violations[:10]:
            self._console.print(f"  {one.invariant}: {one.text}", style="red", markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table("", *COLUMNS, "done", "refused", "unknown", "violations", "seconds")
        for column in table.columns[1:]:
            column.justify = "right"
        faults: Counter[str] = sum((one.faults for one in self.results), Counter())
        outcomes: Counter[str] = sum((one.outcomes for one in self.results), Counter())
        table.add_row(
            f"{len(self.results)} rounds, {self.nodes} nodes, seed {self.seed}",
            *(str(faults[kind]) for kind in KINDS),
            *(str(outcomes[name]) for name in ("done", "refused", "unknown")),
            str(sum(len(one.violations) for one in self.results)),
            f"{sum(one.seconds for one in self.results):.0f}",
        )
        return table
