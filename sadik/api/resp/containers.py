"""Commands that only hold subcommands, each with a HELP made from its rows."""

from __future__ import annotations

from functools import partial
from typing import Final

from sadik.api.resp.call import Call, Command, Handler
from sadik.api.resp.replies import array, simple

_HELP_FLAGS: Final = ("loading", "stale")


def container(
    name: str,
    group: str,
    since: str,
    summary: str,
    subcommands: tuple[Command, ...],
    handler: Handler | None = None,
    *,
    arity: int = -2,
    flags: tuple[str, ...] = (),
) -> Command:
    """A command with ``subcommands`` and HELP; ``handler`` is what it does when it stands alone, if
    anything.
    """
    helper = partial(_help, name, subcommands)
    row = Command(f"{name}|help", 2, _HELP_FLAGS, 0, 0, 0, group, since, "Lists the subcommands.", helper)
    return Command(name, arity, flags, 0, 0, 0, group, since, summary, handler, (*subcommands, row))


def _help(name: str, subcommands: tuple[Command, ...], call: Call) -> bytes:
    lines = [f"{name.upper()} has these subcommands:"]
    for subcommand in subcommands:
        lines += [subcommand.name.partition("|")[2].upper(), f"    {subcommand.summary}"]
    lines += ["HELP", "    Lists the subcommands."]
    return array([simple(line) for line in lines])
