"""Campaigns, runs and plans of the simulated world: documents for programs, tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sadik.cli.tables import counted, table

if TYPE_CHECKING:
    from sadik.sim.campaign import Options, Summary
    from sadik.sim.checkers import Violation
    from sadik.sim.plan import Disturbance, Plan
    from sadik.sim.profiles import Profile
    from sadik.sim.run import Result

_FAULT: Final = "fault "
"""Before the kind of a fault, among the counts of a run."""
_STEPS_SHOWN: Final = 40

Document = dict[str, Any]


# Campaigns.


def campaign_document(
    summary: Summary,
    options: Options,
    *,
    first_seed: int,
    jobs: int,
    elapsed_s: float,
    coverage: bool,
    passed: bool,
) -> Document:
    """What a campaign has found.

    Args:
        elapsed_s: Of real time. coverage: Whether rare states that were not reached count.
    """
    from sadik.sim.sometimes import RARE

    invariants: dict[str, Document] = {}
    for result in summary.failed:
        for violation in result.violations:
            known = invariants.setdefault(violation.invariant, {"violations": 0, "seeds": []})
            known["violations"] += 1
            if result.seed not in known["seeds"]:
                known["seeds"].append(result.seed)
    return {
        "passed": passed,
        "profile": options.profile,
        "nodes": options.nodes,
        "operations_asked": options.operations,
        "faults_on": options.faults,
        "first_seed": first_seed,
        "jobs": jobs,
        "seeds": summary.seeds,
        "operations": summary.operations,
        "virtual_s": round(summary.virtual_s, 3),
        "cpu_s": round(summary.cpu_s, 3),
        "elapsed_s": round(elapsed_s, 3),
        "seeds_per_minute": round(60 * summary.seeds / elapsed_s, 1) if elapsed_s else 0.0,
        "seeds_per_minute_and_core": round(60 * summary.seeds / summary.cpu_s, 1) if summary.cpu_s else 0.0,
        "checked_twice": summary.checked,
        "mismatches": summary.mismatches,
        "invariants": dict(sorted(invariants.items())),
        "failed": [result_document(result) for result in summary.failed],
        "faults": {
            name.removeprefix(_FAULT): count
            for name, count in sorted(summary.counts.items())
            if name.startswith(_FAULT)
        },
        "sometimes": {name: summary.counts[name] for name in RARE},
        "missing": summary.missing,
        "coverage_decides": coverage,
    }


def campaign(document: Document) -> list[RenderableType]:
    """The same for people."""
    parts: list[RenderableType] = []
    counts = Table.grid(padding=(0, 4), expand=False)
    counts.add_row(_faults(document), _sometimes(document))
    parts += [counts, Text()]
    if document["failed"]:
        parts += [_invariants(document), Text()]
    if document["mismatches"]:
        seeds = ", ".join(map(str, document["mismatches"]))
        parts += [Text(f"not the same when run again: seeds {seeds}", style="red"), Text()]
    parts += [_figures(document), Text(), _conclusion(document)]
    if document["failed"]:
        parts.append(Text(f"  {document['failed'][0]['replay']}"))
    return parts


def _figures(document: Document) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    nodes = f", {document['nodes']} nodes" if document["nodes"] else ""
    quiet = "" if document["faults_on"] else ", no faults"
    rows.add_row("profile", f"{document['profile']}{nodes}{quiet}")
    again = f"; {document['checked_twice']:,} ran twice" if document["checked_twice"] else ""
    rows.add_row("seeds", f"{document['seeds']:,} (from {document['first_seed']} on{again})")
    rows.add_row("operations", f"{document['operations']:,}")
    pace = document["virtual_s"] / document["cpu_s"] if document["cpu_s"] else 0.0
    rows.add_row(
        "virtual time", f"{document['virtual_s']:,.0f} s, {pace:.1f} times as fast as a real clock's"
    )
    speed = f"{document['seeds_per_minute']:,.0f} seeds a minute"
    if document["jobs"] > 1:
        per_core = document["seeds_per_minute_and_core"]
        speed += f" in {document['jobs']} processes, {per_core:,.0f} a minute and core"
    rows.add_row("speed", speed)
    return rows


def _faults(document: Document) -> RenderableType:
    rows = table("fault")
    rows.add_column("times", justify="right")
    for kind, count in document["faults"].items():
        rows.add_row(kind.replace("_", " "), f"{count:,}")
    if not document["faults"]:
        rows.add_row(Text("none", style="dim"), "")
    return rows


def _sometimes(document: Document) -> RenderableType:
    """Rare states; one that decides and was not reached is red."""
    rows = table("reached")
    rows.add_column("times", justify="right")
    for name, count in document["sometimes"].items():
        style = "" if count else ("red" if document["coverage_decides"] else "yellow")
        rows.add_row(Text(name, style=style), Text(f"{count:,}" if count else "never", style=style))
    return rows


def _invariants(document: Document) -> RenderableType:
    rows = table("broken")
    for name in ("times", "seeds"):
        rows.add_column(name, justify="right")
    rows.add_column("first seeds")
    for name, found in document["invariants"].items():
        seeds = ", ".join(map(str, found["seeds"][:8])) + (", ..." if len(found["seeds"]) > 8 else "")
        rows.add_row(
            Text(name, style="red"), f"{found['violations']:,}", f"{len(found['seeds']):,}", Text(seeds)
        )
    return rows


def _conclusion(document: Document) -> Text:
    if document["failed"]:
        count = len(document["failed"])
        return Text(
            f"{counted(count, 'seed')} of {document['seeds']:,} failed; the first again:", style="red"
        )
    if document["mismatches"]:
        return Text("no violation, but the simulation is not deterministic", style="red")
    missing = ", ".join(document["missing"])
    if missing and document["coverage_decides"]:
        return Text(f"no violation, but never reached: {missing}", style="red")
    return Text("no violation", style="green")


# One run.


def result_document(result: Result) -> Document:
    """What one run has found."""
    return {
        "seed": result.seed,
        "profile": result.profile,
        "hash": result.hash,
        "events": result.events,
        "operations": result.operations,
        "virtual_s": round(result.virtual_s, 6),
        "cpu_s": round(result.cpu_s, 3),
        "counts": dict(sorted(result.counts.items())),
        "violations": [
            {
                "invariant": one.invariant,
                "text": one.text,
                "operations": list(one.operations),
                "key": one.key.decode("utf-8", "backslashreplace"),
            }
            for one in result.violations
        ],
    }


def failure(result: Result, command: str) -> list[RenderableType]:
    """A seed that has failed, while others still run."""
    head = Text(f"seed {result.seed} failed", style="red")
    parts: list[RenderableType] = [head]
    parts += [_violation(one) for one in result.violations[:3]]
    if len(result.violations) > 3:
        parts.append(Text(f"  and {len(result.violations) - 3:,} more"))
    parts.append(Text(f"  {command}", style="dim"))
    return [Group(*parts)]


def verdict(result: Result) -> list[RenderableType]:
    """The end of a run that was read along."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("seed", f"{result.seed} of profile {result.profile}")
    rows.add_row("operations", f"{result.operations:,}, in {result.virtual_s:.3f} virtual seconds")
    rows.add_row("events", f"{result.events:,}, hash {result.hash}")
    reached = ", ".join(f"{name} {count}" for name, count in sorted(result.counts.items()))
    rows.add_row("reached", reached or "nothing rare")
    parts: list[RenderableType] = [Text(), rows, Text()]
    if result.clean:
        return [*parts, Text("no violation", style="green")]
    return [*parts, *map(_violation, result.violations)]


def _violation(one: Violation) -> RenderableType:
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="red", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row(f"  {one.invariant}", Text(one.text))
    return rows


_DISK: Final = ("disk",)
_NOISE: Final = ("connect",)
_NOISY_FRAMES: Final = ("CHALLENGE", "HELLO", "WELCOME", "REFUSE", "PING", "PONG", "GOSSIP", "EXCHANGE")
_NOISY_WORDS: Final = ("HELLO 3", "server redis")


def hidden_kinds(*, disk: bool, noise: bool) -> tuple[str, ...]:
    """Kinds of lines of a trace that are not shown."""
    return (*(() if disk else _DISK), *(() if noise else _NOISE))


def is_hidden(line: str, hidden: tuple[str, ...]) -> bool:
    """Whether a line of a trace is not shown: it is of a hidden kind, or has nothing but frames that come and
    go whatever happens.
    """
    kind, _, text = line[12:].partition(" ")
    if kind in hidden:
        return True
    if kind != "send" or "connect" not in hidden:
        return False
    sent = text.strip().partition("  ")[2]
    return all(
        one.startswith((*_NOISY_FRAMES, *_NOISY_WORDS)) or one.endswith(" bytes") for one in sent.split(" + ")
    )


# Plans.


def plan(one: Plan) -> list[RenderableType]:
    """What is meant to happen: sizes, and the faults in their order."""
    shape, weather = one.shape, one.weather
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    zones = f" in {shape.zones} zones" if shape.zones else ""
    rows.add_row("seed", f"{one.seed} of profile {one.profile}")
    rows.add_row("cluster", f"{counted(shape.nodes, 'node')}{zones}, sync {shape.sync}")
    rows.add_row("clients", f"{one.clients}, {counted(len(one.steps), 'step')} in {one.horizon_s:g} s")
    rows.add_row(
        "network", f"{1000 * weather.latency_s:g} ms, {weather.bytes_per_s / 1e6:g} MB/s on the average"
    )
    parts: list[RenderableType] = [rows]
    if one.disturbances:
        parts += [Text(), _disturbances(one)]
    return parts


def _disturbances(one: Plan) -> RenderableType:
    rows = table("fault")
    for name in ("at s", "lasts s"):
        rows.add_column(name, justify="right")
    rows.add_column("where")
    for fault in one.disturbances:
        rows.add_row(
            fault.kind.replace("_", " "), f"{fault.at_s:.3f}", f"{fault.lasts_s:.3f}", _where(one, fault)
        )
    return rows


def _where(one: Plan, fault: Disturbance) -> str:
    names = one.shape.names
    nodes = " ".join(names[number] for number in fault.nodes)
    others = " ".join(names[number] for number in fault.others)
    return f"{nodes} -> {others}" if others else nodes


def shrunk_document(before: Plan, after: Plan, result: Result, *, runs: int, path: str) -> Document:
    """What shrinking has done."""
    return {
        "runs": runs,
        "before": _sizes(before),
        "after": _sizes(after),
        "plan": path,
        "result": result_document(result),
    }


def _sizes(one: Plan) -> Document:
    return {"faults": len(one.disturbances), "nodes": one.shape.nodes, "steps": len(one.steps)}


def shrunk(before: Plan, after: Plan, result: Result, command: str) -> list[RenderableType]:
    """The same for people, with what is left."""
    sizes = table("")
    for name in ("before", "now"):
        sizes.add_column(name, justify="right")
    was, now = _sizes(before), _sizes(after)
    for name in was:
        sizes.add_row(name, str(was[name]), str(now[name]))
    parts: list[RenderableType] = [sizes, Text()]
    if after.disturbances:
        parts += [_disturbances(after), Text()]
    parts += [_steps(after), Text()]
    parts += [_violation(one) for one in result.violations]
    return [*parts, Text(), Text("It again, and what was said:"), Text(f"  {command}")]


def _steps(one: Plan) -> RenderableType:
    rows = table("client", "asks", "step", "keys")
    rows.add_column("after s", justify="right")
    for step in one.steps[:_STEPS_SHOWN]:
        keys = " ".join(f"k{key}" for key in step.keys)
        rows.add_row(str(step.client), one.shape.names[step.node], step.verb, keys, f"{step.pause_s:.3f}")
    if len(one.steps) > _STEPS_SHOWN:
        rows.add_row("...", "", f"and {len(one.steps) - _STEPS_SHOWN} more", "", "")
    return rows


def profiles_document(known: Mapping[str, Profile]) -> list[Document]:
    """What each profile may draw."""
    return [
        {
            "profile": name,
            "nodes": one.shape.nodes,
            "faults": list(one.faults),
            "workloads": list(one.workloads),
            "sync": sorted(set(one.sync)),
        }
        for name, one in known.items()
    ]


def profiles(document: list[Document]) -> list[RenderableType]:
    """The same for people."""
    rows = table("profile")
    rows.add_column("nodes", justify="right")
    for name in ("faults", "workloads"):
        rows.add_column(name, overflow="fold")
    for one in document:
        rows.add_row(one["profile"], str(one["nodes"]), _words(one["faults"]), _words(one["workloads"]))
    return [rows]


def scenarios(document: list[Document]) -> list[RenderableType]:
    """Which stories went as they were told, and where others differ."""
    rows = table("scenario")
    rows.add_column("commands", justify="right")
    rows.add_column("")
    parts: list[RenderableType] = []
    for one in document:
        words = ("updated", "yellow") if one["updated"] else ("as expected", "green")
        if one["difference"] and not one["updated"]:
            words = ("different", "red")
            parts += [Text(one["scenario"], style="bold"), *_diff(one["difference"]), Text()]
        rows.add_row(one["scenario"], str(one["commands"]), Text(words[0], style=words[1]))
    return [*parts, rows]


def _diff(difference: str) -> Iterator[Text]:
    styles = {"-": "red", "+": "green", "@": "cyan"}
    for line in difference.splitlines():
        yield Text(line, style=styles.get(line[:1], ""))


def _words(names: list[str]) -> str:
    return ", ".join(_spaced(names)) or "none"


def _spaced(names: list[str]) -> Iterator[str]:
    return (name.replace("_", " ") for name in names)
