"""``sadik sim``: seeds of the simulated world, one by one or by the thousand, and stories told as text.

Everything here runs in this program; no node is asked. The simulator is imported by the commands that need
it: it brings the whole server along.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sadik.cli import sim_tables
from sadik.cli.session import PROGRAM, people
from sadik.env.clock import SystemClock

if TYPE_CHECKING:
    from sadik.sim.campaign import Options
    from sadik.sim.plan import Plan
    from sadik.sim.run import Result

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
JOBS_MAX: Final = 256
_FAILURES_SHOWN: Final = 10
"""Failing seeds that are told one by one while others still run."""

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_WORLD: Final = ("profile", "nodes", "operations", "faults")


def _world(function: _Decorated) -> _Decorated:
    """Options that, with the seed, say what a run is."""
    for option in (
        click.option(
            "--faults/--no-faults", default=True, help="Whether anything goes wrong.  [default: yes]"
        ),
        click.option(
            "--operations",
            type=click.IntRange(1),
            default=100,
            metavar="N",
            help="Of all clients together.  [default: 100]",
        ),
        click.option(
            "--nodes", type=click.IntRange(1, 250), metavar="N", help="[default: the profile's, five of most]"
        ),
        click.option(
            "--profile", default="default", metavar="NAME", help="Which faults and workloads; see `profiles`."
        ),
    ):
        function = option(function)
    return function


_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


class _Simulator(click.Group):
    """Lists its commands in the order of a first tour."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Simulator)
def sim() -> None:
    """The simulated world: whole clusters in virtual time, with faults, and checkers of what clients saw.

    A seed is one run: it draws sizes, delays, what clients do and what goes wrong, and is the same each time.
    """


@sim.command()
@click.option("--seeds", type=click.IntRange(1), default=1000, metavar="N", help="How many.  [default: 1000]")
@click.option("--first-seed", type=click.IntRange(0), default=1, metavar="SEED", help="[default: 1]")
@_world
@click.option(
    "--jobs", type=click.IntRange(1, JOBS_MAX), default=1, metavar="N", help="Processes.  [default: 1]"
)
@click.option(
    "--coverage/--no-coverage",
    default=None,
    help="Whether a rare state that was never reached is a failure.  [default: from 1,000 seeds on, of the "
    "profile default as it is]",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first violation.")
@_JSON
@click.pass_context
def run(
    context: click.Context,
    /,
    seeds: int,
    first_seed: int,
    jobs: int,
    coverage: bool | None,
    fail_fast: bool,
    as_json: bool,
    **world: Any,
) -> int:
    """Run many seeds, and sum them up.

    Fails (1) on a violation, on a seed whose second run differs (every hundredth runs twice), and on a rare
    state that was never reached, where --coverage says so.
    """
    from sadik.sim.campaign import COVERAGE_SEEDS, run_campaign

    options = _options(world)
    as_json = as_json or _asked_for_json(context)
    clock = SystemClock()
    began_ns = clock.monotonic_ns()
    failed = 0

    def elapsed_s() -> float:
        return (clock.monotonic_ns() - began_ns) / 1e9

    with _interruptible() as interrupted, progress_bar(as_json) as progress:
        bar = progress.add_task("seeds", total=seeds, note="")

        def on_result(result: Result) -> None:
            nonlocal failed
            if not result.clean:
                failed += 1
                if failed <= _FAILURES_SHOWN and not as_json:
                    progress.console.print(
                        *sim_tables.failure(result, replay_command(result.seed, options)), sep="\n"
                    )
            progress.update(bar, advance=1, note=f"{failed} failed" if failed else "")
            progress.refresh()

        summary = run_campaign(
            range(first_seed, first_seed + seeds),
            options,
            jobs=jobs,
            on_result=on_result,
            stop=lambda: bool(interrupted) or (fail_fast and failed > 0),
        )
    whole = options.profile == "default" and options.faults and (options.nodes or 5) >= 5
    wanted = coverage if coverage is not None else whole and summary.seeds >= COVERAGE_SEEDS
    passed = summary.succeeded(coverage=wanted)
    document = sim_tables.campaign_document(
        summary,
        options,
        first_seed=first_seed,
        jobs=jobs,
        elapsed_s=elapsed_s(),
        coverage=wanted,
        passed=passed,
    )
    for failure in document["failed"]:
        failure["replay"] = replay_command(failure["seed"], options)
    _show(as_json, document, sim_tables.campaign(document))
    if interrupted:
        raise click.Abort
    return EXIT_OK if passed else EXIT_FAILED


@sim.command()
@click.argument("seed", type=click.IntRange(0), required=False)
@_world
@click.option(
    "--plan", "plan_file", metavar="FILE", help="A plan that `shrink` has written, instead of a seed."
)
@click.option("--disk", is_flag=True, help="Operations on disks too.")
@click.option("--noise", is_flag=True, help="Heartbeats, gossip and handshakes too.")
@click.option("--history", metavar="FILE", help="Write down what clients saw, a line of JSON each.")
@_JSON
@click.pass_context
def replay(
    context: click.Context,
    /,
    seed: int | None,
    plan_file: str | None,
    disk: bool,
    noise: bool,
    history: str | None,
    as_json: bool,
    **world: Any,
) -> int:
    """Run SEED once more, and tell all of it.

    Who sent what to whom, which faults struck, what clients asked and heard, what nodes logged. Times are
    virtual seconds since the start. The verdict and the hash of all events are at the end.
    """
    from sadik.sim.history import encode_line
    from sadik.sim.run import run_plan

    plan = _plan(seed, plan_file, world)
    as_json = as_json or _asked_for_json(context)
    hidden = sim_tables.hidden_kinds(disk=disk, noise=noise)

    def tell(line: str) -> None:
        if not sim_tables.is_hidden(line, hidden):
            print(line)

    if not as_json:
        _print_plan(plan)
        print()
    result = run_plan(plan, None if as_json else tell)
    if history is not None:
        lines = b"".join(map(encode_line, result.history.records()))
        _write_file("--history", history, lines)
    document = sim_tables.result_document(result)
    _show(as_json, document, sim_tables.verdict(result))
    return EXIT_OK if result.clean else EXIT_FAILED


@sim.command()
@click.argument("seed", type=click.IntRange(0), required=False)
@_world
@click.option(
    "--plan", "plan_file", metavar="FILE", help="A plan that `shrink` has written, instead of a seed."
)
@click.option(
    "--runs", type=click.IntRange(1), default=300, metavar="N", help="Most that may be tried.  [default: 300]"
)
@click.option("--output", metavar="FILE", help="Write the smaller plan here.  [default: sim-SEED.json]")
@_JSON
@click.pass_context
def shrink(
    context: click.Context,
    /,
    seed: int | None,
    plan_file: str | None,
    runs: int,
    output: str | None,
    as_json: bool,
    **world: Any,
) -> int:
    """Make SEED, which fails, smaller.

    Fewer faults, nodes and operations, as long as it breaks what it broke before.
    """
    from sadik.sim.plan import encode_plan
    from sadik.sim.shrink import Shrinker

    plan = _plan(seed, plan_file, world)
    as_json = as_json or _asked_for_json(context)
    with progress_bar(as_json) as progress:
        bar = progress.add_task("runs", total=runs, note="")

        def on_run(tried: Plan) -> None:
            note = f"{len(shrinker.plan.disturbances)} faults, {len(shrinker.plan.steps)} steps"
            progress.update(bar, advance=1, note=note)
            progress.refresh()

        shrinker = Shrinker(plan, runs_max=runs, on_run=on_run)
        if shrinker.result.clean:
            raise click.ClickException(f"seed {plan.seed} does not fail: there is nothing to shrink")
        small = shrinker.shrink()
    path = output or f"sim-{plan.seed}.json"
    _write_file("--output", path, encode_plan(small))
    document = sim_tables.shrunk_document(plan, small, shrinker.result, runs=shrinker.runs, path=path)
    command = shlex.join([PROGRAM, "sim", "replay", "--plan", path])
    _show(as_json, document, sim_tables.shrunk(plan, small, shrinker.result, command))
    return EXIT_OK


@sim.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option("--show", is_flag=True, help="Tell each story as it goes, too.")
@click.option("--update", is_flag=True, help="Write what happens into the files, as what is expected.")
@_JSON
@click.pass_context
def scenario(
    context: click.Context, /, paths: tuple[str, ...], show: bool, update: bool, as_json: bool
) -> int:
    """Play scenarios: stories as text.

    Below each command stands what is expected to happen. A directory stands for its .txt files. Fails (1)
    where something else happens, and shows the difference.
    """
    from sadik.sim.scenario import ScenarioError, parse
    from sadik.sim.stage import play

    as_json = as_json or _asked_for_json(context)
    document: list[sim_tables.Document] = []
    for path in _scenario_files(paths):
        told = _read_text(path)
        try:
            story = parse(told)
            outputs = play(story)
        except ScenarioError as error:
            raise click.ClickException(f"{path}: {error}") from None
        difference = story.difference(outputs)
        if update and difference:
            _write_file("--update", path, story.render(outputs).encode())
        if show and not as_json:
            print(story.render(outputs))
        document.append(
            {
                "scenario": path,
                "commands": len(story.commands),
                "difference": difference,
                "updated": bool(update and difference),
            }
        )
    _show(as_json, document, sim_tables.scenarios(document))
    return EXIT_FAILED if any(one["difference"] and not update for one in document) else EXIT_OK


@sim.command()
@_JSON
@click.pass_context
def profiles(context: click.Context, /, as_json: bool) -> None:
    """Which profiles there are, and what each may draw."""
    from sadik.sim.profiles import PROFILES

    document = sim_tables.profiles_document(PROFILES)
    _show(as_json or _asked_for_json(context), document, sim_tables.profiles(document))


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C fills the list, so that what has run so far is summed up; a second one ends the program."""
    signals: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        signals.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


def replay_command(seed: int, options: Options) -> str:
    """What runs a seed of a campaign again, for a shell."""
    words = [PROGRAM, "sim", "replay", str(seed)]
    if options.profile != "default":
        words += ["--profile", options.profile]
    if options.nodes is not None:
        words += ["--nodes", str(options.nodes)]
    if options.operations != 100:
        words += ["--operations", str(options.operations)]
    if not options.faults:
        words.append("--no-faults")
    return shlex.join(words)


def _options(world: dict[str, Any]) -> Options:
    from sadik.sim.campaign import Options
    from sadik.sim.profiles import PROFILES

    if world["profile"] not in PROFILES:
        raise click.UsageError(f"--profile must be one of {', '.join(PROFILES)}, not {world['profile']!r}")
    return Options(**{name: world[name] for name in _WORLD})


def _plan(seed: int | None, plan_file: str | None, world: dict[str, Any]) -> Plan:
    from sadik.sim.plan import decode_plan
    from sadik.sim.profiles import draw_plan

    if (seed is None) == (plan_file is None):
        raise click.UsageError("give either a SEED or --plan")
    options = _options(world)
    if plan_file is None:
        assert seed is not None
        return draw_plan(
            seed, options.profile, nodes=options.nodes, operations=options.operations, faults=options.faults
        )
    try:
        with open(plan_file, "rb") as source:
            return decode_plan(source.read())
    except OSError as error:
        raise click.UsageError(f"--plan: cannot read {plan_file}: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"--plan: {plan_file} is not a plan: {error}") from None


def _scenario_files(paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.endswith(".txt"))
            found += [os.path.join(path, name) for name in names]
        else:
            found.append(path)
    if not found:
        raise click.UsageError(f"there is no .txt file in {', '.join(paths)}")
    return found


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as source:
            return source.read()
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not text") from None


def _write_file(option: str, path: str, content: bytes) -> None:
    try:
        with open(path, "wb") as sink:
            sink.write(content)
    except OSError as error:
        raise click.UsageError(f"{option}: cannot write {path}: {error.strerror}") from None


def _asked_for_json(context: click.Context) -> bool:
    return bool(context.find_root().params.get("as_json"))


def progress_bar(as_json: bool = False) -> Progress:
    """A bar on standard error. It moves when something is done, and no thread of its own turns it: the
    simulator has none beside it. Its tasks have a field ``note``.
    """
    console: Console = people(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=as_json or not console.is_terminal,
    )


def _print_plan(plan: Plan) -> None:
    console = people()
    for part in sim_tables.plan(plan):
        console.print(part)


def _show(as_json: bool, document: object, parts: list[RenderableType]) -> None:
    if as_json:
        print(json.dumps(document, indent=2))
        return
    console = people()
    for part in parts:
        console.print(part)
