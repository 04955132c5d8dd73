"""``sadik status``, ``members``, ``ring``, ``plan`` and its kind: look at a cluster and steer it.

The layout changes in three steps: stage (``join``, ``leave``, ``weight``), look (``plan``), and ``commit`` of
the version that was looked at. Nothing moves before the commit.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import click
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sadik.cli import tables
from sadik.cli.remote import Document
from sadik.cli.session import Asking, Session, people
from sadik.env.clock import SystemClock

_POLL_S: Final = 0.2
"""Between two looks at a repair: often enough for a bar that moves."""
_GRACE_S: Final = 10.0
"""How much longer than asked for an answer may be on its way."""
# The server starts to look for a majority of nodes that may be down: it takes their time-outs too.
_COMMIT_TIMEOUT_S: Final = 60.0


@click.command(cls=Asking)
@click.pass_obj
def status(session: Session) -> None:
    """Facts of one node."""
    document = session.remote.get("/v1/status")
    session.show(document, *tables.status(document))


@click.command(cls=Asking)
@click.pass_obj
def members(session: Session) -> None:
    """Who belongs to the cluster, and who of them is up.

    States are those that the asked node sees: alive; suspect (silent for a moment); dead (silent for longer,
    and still a member: a failure is never a departure); left.
    """
    document = session.remote.get("/v1/members")
    session.show(document, *tables.members(document, SystemClock().wall_ms()))


@click.command(cls=Asking)
@click.option(
    "--partition", type=click.IntRange(0), metavar="P", help="The nodes of one partition instead, in order."
)
@click.pass_obj
def ring(session: Session, partition: int | None) -> None:
    """Who holds how much of the data: load and ownership.

    "replicas" are partitions that a node holds a copy of, "first" those it is the first choice for. "share"
    is what it holds of all, "asked" what its capacity asks for.
    """
    document = session.remote.get("/v1/layout")
    if partition is None:
        session.show(document, *tables.ring(document))
        return
    try:
        parts = tables.partition(document, partition)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    session.show(document, *parts)


@click.command(cls=Asking)
@click.option("--revert", is_flag=True, help="Forget what is staged.")
@click.pass_obj
def plan(session: Session, revert: bool) -> None:
    """What the staged changes would do: who gains and gives what, and what cannot be met."""
    remote = session.remote
    document = remote.delete("/v1/layout/stage") if revert else remote.get("/v1/layout/plan")
    session.show(document, *tables.plan(document))


@click.command(cls=Asking)
@click.argument("version", type=click.IntRange(1))
@click.option(
    "--force",
    is_flag=True,
    help="Without a majority of the current layout's nodes. Those that are away learn of it later; if they "
    "commit something else meanwhile, one of the two wins.",
)
@click.pass_obj
def commit(session: Session, version: int, force: bool) -> None:
    """Make the plan the layout: VERSION is the one that `sadik plan` names.

    A plan that has changed since is refused. It needs a majority of the current layout's nodes.
    """
    if force:
        session.note("warning: committing without asking for a majority", style="yellow")
    document = session.remote.post(
        "/v1/layout/commit", {"version": version, "force": force}, timeout_s=_COMMIT_TIMEOUT_S
    )
    session.show(document, *tables.ring(document))


_NODE = click.argument("node", metavar="NODE")


@click.command(cls=Asking)
@_NODE
@click.option(
    "--capacity", type=click.IntRange(1), metavar="N", help="Share of the data, against the others'."
)
@click.option("--replaces", metavar="OLD", help="Take the place of OLD, which leaves.")
@click.pass_obj
def join(session: Session, node: str, capacity: int | None, replaces: str | None) -> None:
    """Stage that the member NODE gets a share of the data."""
    if replaces is not None:
        if capacity is not None:
            raise click.UsageError("--capacity does not go with --replaces: the place keeps its capacity")
        _stage(session, {"action": "replace", "node": replaces, "with": node})
        return
    _stage(session, {"action": "join", "node": node} | ({"capacity": capacity} if capacity else {}))


@click.command(cls=Asking)
@click.argument("node", metavar="NODE", required=False)
@click.option(
    "--final",
    is_flag=True,
    help="Without NODE: the asked node, which no layout holds any more, marks itself as left for good.",
)
@click.pass_obj
def leave(session: Session, node: str | None, final: bool) -> None:
    """Stage that NODE gives up its share of the data.

    After the commit, `sadik --node ITS-ADDRESS leave --final` ends its membership.
    """
    if final == (node is not None):
        raise click.UsageError("name the NODE that gives up its share, or say --final, not both")
    if node is not None:
        _stage(session, {"action": "leave", "node": node})
        return
    document = session.remote.post("/v1/leave", {})
    session.show(document, *tables.members(document, SystemClock().wall_ms()))


@click.command(cls=Asking)
@_NODE
@click.argument("capacity", type=click.IntRange(1))
@click.pass_obj
def weight(session: Session, node: str, capacity: int) -> None:
    """Stage that NODE holds a share of CAPACITY, against the others' numbers."""
    _stage(session, {"action": "weight", "node": node, "capacity": capacity})


def _stage(session: Session, change: Document) -> None:
    document = session.remote.post("/v1/layout/stage", change, timeout_s=_COMMIT_TIMEOUT_S)
    session.show(document, *tables.plan(document))


@click.command(cls=Asking)
@click.option("--wait", is_flag=True, help="Return when all hints up to now are delivered.")
@click.option(
    "--timeout-ms",
    type=click.IntRange(1),
    default=60_000,
    metavar="MS",
    help="How long --wait waits.  [default: 60000]",
)
@click.pass_obj
def hints(session: Session, wait: bool, timeout_ms: int) -> None:
    """Writes that this node keeps for nodes that are away."""
    if wait:
        document = session.remote.post(
            "/v1/hints/wait", {"timeout_ms": timeout_ms}, timeout_s=timeout_ms / 1000 + _GRACE_S
        )
    else:
        document = session.remote.get("/v1/hints")
    session.show(document, *tables.hints(document, SystemClock().wall_ms()))


@click.command(cls=Asking)
@click.option("--partition", type=click.IntRange(0), metavar="P", help="Only this one.")
@click.pass_obj
def repair(session: Session, partition: int | None) -> int:
    """Compare the asked node's replicas with the others' now, and repair what differs."""
    document = asyncio.run(_follow(session, partition))
    parts: list[RenderableType] = tables.repair(document)
    session.show(document, *parts)
    return 1 if document.get("errors") else 0


async def _follow(session: Session, partition: int | None) -> Document:
    # Nothing else runs on this loop, so asking may block it.
    document = session.remote.post("/v1/repair", {"partition": partition})
    columns: list[Any] = [TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    columns.append(TextColumn("{task.fields[repaired]} keys repaired"))
    console = people(stderr=True)
    hidden = session.as_json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=None, repaired=0)
        while True:
            progress.update(
                task,
                total=document["partitions_total"] or None,
                completed=document["partitions_done"],
                repaired=document["keys_repaired"],
            )
            if not document["running"]:
                return document
            await asyncio.sleep(_POLL_S)
            document = session.remote.get("/v1/repair")


COMMANDS: Final[tuple[click.Command, ...]] = (
    *(status, members, ring, plan, commit, join, leave, weight, hints, repair),
)
