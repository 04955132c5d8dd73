"""What must be right before a command runs: it exists, the client may call it, its arity fits, its keys can
be keys.

A command that is refused, or queued by MULTI, is answered here and never reaches a handler.
"""

from __future__ import annotations

from typing import NamedTuple

from sadik.api.resp import batch, table
from sadik.api.resp.call import Command, CommandError, Session
from sadik.api.resp.replies import error

KEY_BYTES_MAX = 65535
QUEUE_BYTES_MAX = 64 << 20

_BARRIERS = frozenset({"exec", "reset", "sadik.explain", "sadik.use", "select"})
"""Commands that others of a round must not be read ahead of: they change or show more than their records."""


class Admitted(NamedTuple):
    """A command that may run.

    Attributes:
        keys: In the order of the command's key positions, repetitions included.
        barrier: What came before must be stored first, and what comes after be read later.
    """

    command: Command
    arguments: list[bytes]
    keys: list[bytes]
    barrier: bool


def admit(
    session: Session, arguments: list[bytes], queue_bytes_max: int = QUEUE_BYTES_MAX
) -> Admitted | bytes:
    """The command to run, or the reply that says why not.

    Args:
        queue_bytes_max: Memory that commands queued by MULTI may take.
    """
    try:
        return _admit(session, arguments, queue_bytes_max)
    except CommandError as refused:
        if session.queue is not None:
            session.queue_failed = True
        return error(str(refused))


def _admit(session: Session, arguments: list[bytes], queue_bytes_max: int) -> Admitted | bytes:
    command = table.find(arguments)
    if command is None:
        raise table.unknown_command_error(arguments)
    session.last_command = command.name.encode()
    if not table.arity_fits(command, len(arguments)):
        raise table.wrong_arity_error(command.name)
    if not session.authenticated and "no_auth" not in command.flags:
        raise CommandError("NOAUTH Authentication required.")
    queued = batch.queue(session, command, arguments, queue_bytes_max)
    if queued is not None:
        return queued
    keys = [arguments[position] for position in table.key_positions(command, arguments)]
    for key in keys:
        if not 1 <= len(key) <= KEY_BYTES_MAX:
            raise CommandError(f"ERR key must be 1 to {KEY_BYTES_MAX} bytes")
    touches_store = "readonly" in command.flags or "write" in command.flags
    barrier = command.name in _BARRIERS or (touches_store and not keys)
    return Admitted(command, arguments, keys, barrier)
