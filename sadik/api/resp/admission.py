"""What must be right before a command runs: it exists, the client may call it, its arity fits, its keys can
be keys.

A command that is refused, or queued by MULTI, is answered here and never reaches a handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sadik.api.resp import batch, table
from sadik.api.resp.call import DEFAULT, Command, CommandError, Session
from sadik.api.resp.replies import error
from sadik.errors import InvalidRequest
from sadik.node.coordinator.options import Options

KEY_BYTES_MAX = 65535
QUEUE_BYTES_MAX = 64 << 20
LOADING = "LOADING the node cannot serve data yet"
"""Until default quorums can be met for the first time; the word is Redis', and clients try again."""

_ALONE = frozenset({"reset", "sadik.use", "select"})
"""Commands that others of their connection must not be read ahead of: they change where keys are."""


class Admitted(NamedTuple):
    """A command that may run.

    Attributes:
        keys: In the order of the command's key positions, repetitions included.
        options: What it asks of its quorums itself.
        blind: It is a write without regard to what others hold.
        writes: It changes its keys.
        alone: What came before it on its connection must be stored first, what comes after be read later.
    """

    command: Command
    arguments: list[bytes]
    keys: list[bytes]
    options: Options
    blind: bool
    writes: bool
    alone: bool

    def part(self, numbers: Sequence[int]) -> list[bytes]:
        """The command with some of its keys only, and what belongs to them (MSET's values)."""
        command = self.command
        found = list(self.arguments[: command.first_key])
        for number in numbers:
            at = command.first_key + number * command.step
            found += self.arguments[at : at + command.step]
        return found


def admit(
    session: Session, arguments: list[bytes], queue_bytes_max: int = QUEUE_BYTES_MAX, *, loading: bool = False
) -> Admitted | bytes:
    """The command to run, or the reply that says why not.

    Args:
        queue_bytes_max: Memory that commands queued by MULTI may take.
        loading: The node cannot serve data yet: commands that need it are refused.
    """
    try:
        return _admit(session, arguments, queue_bytes_max, loading)
    except CommandError as refused:
        if session.queue is not None:
            session.queue_failed = True
        return error(str(refused))
    except InvalidRequest as refused:
        return error(f"{refused.code} {refused}")


def _admit(session: Session, arguments: list[bytes], queue_bytes_max: int, loading: bool) -> Admitted | bytes:
    command = table.find(arguments)
    if command is None:
        raise table.unknown_command_error(arguments)
    session.last_command = command.name.encode()
    if not table.arity_fits(command, len(arguments)):
        raise table.wrong_arity_error(command.name)
    if not session.authenticated and "no_auth" not in command.flags:
        raise CommandError("NOAUTH Authentication required.")
    if loading and "loading" not in command.flags:
        raise CommandError(LOADING)
    queued = batch.queue(session, command, arguments, queue_bytes_max)
    if queued is not None:
        return queued
    keys = [arguments[position] for position in table.key_positions(command, arguments)]
    for key in keys:
        if not 1 <= len(key) <= KEY_BYTES_MAX:
            raise CommandError(f"ERR key must be 1 to {KEY_BYTES_MAX} bytes")
    options = DEFAULT if command.options is None else command.options(arguments)
    return Admitted(
        command,
        arguments,
        keys,
        options,
        blind=command.blind is not None and command.blind(arguments),
        writes="write" in command.flags,
        alone=options is not DEFAULT or command.awaited is not None or command.name in _ALONE,
    )
