"""``python -m tests.mutants``: see the package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import click
from rich.console import RenderableType
from rich.text import Text

from sadik.cli.session import people
from sadik.cli.sim import progress_bar
from sadik.cli.tables import counted, table
from tests.mutants.catalogue import MUTANTS, by_name, chosen
from tests.mutants.hunt import SEEDS_MAX, Hunt, hunt


@click.command()
@click.option("--mutant", "names", multiple=True, metavar="NAME", help="Or a row, as Z4.  [default: all]")
@click.option("--seeds-max", type=click.IntRange(1), default=SEEDS_MAX, show_default=True, metavar="N")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes.")
def mutants(names: tuple[str, ...], seeds_max: int, jobs: int) -> None:
    """Plant each known bug, and run seeds until a checker notices it; exit code 1 if one survives."""
    try:
        wanted = chosen(names)
    except KeyError as error:
        shown = ", ".join(f'"{one.name}"' for one in MUTANTS)
        raise click.UsageError(f"there is no mutant {error.args[0]!r}; there are {shown}") from None
    hunts: dict[str, Hunt] = {}
    with progress_bar() as progress:
        bar = progress.add_task("mutants", total=len(wanted), note="")

        def tell(note: str) -> None:
            progress.update(bar, note=note)
            progress.refresh()

        for done in _hunts([one.name for one in wanted], seeds_max, jobs, tell):
            hunts[done.name] = done
            progress.update(bar, advance=1)
            progress.refresh()
    console = people()
    for part in _tables([hunts[one.name] for one in wanted]):
        console.print(part)
    sys.exit(0 if all(one.caught for one in hunts.values()) else 1)


def _hunts(names: list[str], seeds_max: int, jobs: int, tell: Callable[[str], None]) -> Iterator[Hunt]:
    """As they end."""
    if jobs == 1:
        for name in names:
            yield hunt(by_name(name), seeds_max, lambda seeds, name=name: tell(f"{name}, seed {seeds:,}"))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_hunt, name, seeds_max) for name in names]):
            tell(done.result().name)
            yield done.result()


def _hunt(name: str, seeds_max: int) -> Hunt:
    return hunt(by_name(name), seeds_max)


def _tables(hunts: Sequence[Hunt]) -> Iterator[RenderableType]:
    rows = table("rows", "mutant", "caught by", "profile")
    for name in ("seed", "after seeds", "CPU s"):
        rows.add_column(name, justify="right")
    for one in hunts:
        caught = Text(", ".join(one.invariants)) if one.caught else Text("survives", style="red")
        rows.add_row(
            ", ".join(by_name(one.name).rows),
            one.name,
            caught,
            one.profile,
            str(one.seed) if one.caught else "",
            f"{one.seeds:,}",
            f"{one.cpu_s:.0f}",
        )
    yield rows
    for one in hunts:
        for alarm in one.false_alarms:
            text = f"{alarm.violation.invariant} {alarm.violation.text}"
            where = f"{one.name}: {alarm.profile} {alarm.seed} fails without it, too: "
            yield Text(where + text, style="yellow")
    caught = [one for one in hunts if one.caught]
    last = max((one.seeds for one in caught), default=0)
    yield Text("")
    yield Text(
        f"{len(caught)} of {counted(len(hunts), 'mutant')} caught; the slowest after {counted(last, 'seed')}"
    )


if __name__ == "__main__":
    mutants()
