"""MULTI, EXEC and DISCARD: an ordered batch, without isolation.

The queued commands run in order on one coordinator and each write stands for itself: other clients may
see some of them before the rest, an error does not stop those after it, and EXEC never answers null.
What Redis refuses while queueing (an unknown command, a wrong number of arguments) makes EXEC refuse the
whole batch, as there.
"""

from __future__ import annotations

from typing import Final

from sadik.api.resp.call import Call, Command, CommandError, Session
from sadik.api.resp.replies import OK, QUEUED, array

_AT_ONCE: Final = frozenset({"multi", "exec", "discard", "quit", "reset"})
"""Commands that are not queued."""

_ARGUMENT_BYTES: Final = 64
"""About what an argument takes in memory beside its own bytes."""


def queue(session: Session, command: Command, arguments: list[bytes], bytes_max: int) -> bytes | None:
    """Queue a command whose arity fits; None where it must run now (outside of MULTI, or a command that
    steers it).

    Raises:
        CommandError: The command may not be part of a batch, or the batch would take more than
            ``bytes_max`` of memory; EXEC will refuse.
    """
    if session.queue is None or command.name in _AT_ONCE:
        return None
    if "no_multi" in command.flags:
        session.queue_failed = True
        raise CommandError("ERR Command not allowed inside a transaction")
    size = _ARGUMENT_BYTES * (len(arguments) + 1) + sum(map(len, arguments))
    if session.queue_bytes + size > bytes_max:
        raise CommandError(f"LIMIT the queued commands take more than {bytes_max} bytes")
    session.queue_bytes += size
    session.queue.append(arguments)
    return QUEUED


def multi(call: Call) -> bytes:
    """MULTI."""
    if call.session.queue is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    call.session.queue = []
    call.session.queue_bytes = 0
    call.session.queue_failed = False
    return OK


async def execute(call: Call) -> bytes:
    """EXEC."""
    commands, failed = call.session.queue, call.session.queue_failed
    if commands is None:
        raise CommandError("ERR EXEC without MULTI")
    forget(call.session)
    if failed:
        raise CommandError("EXECABORT Transaction discarded because of previous errors.")
    return array(await call.server.execute(call.session, commands))


def discard(call: Call) -> bytes:
    """DISCARD."""
    if call.session.queue is None:
        raise CommandError("ERR DISCARD without MULTI")
    forget(call.session)
    return OK


def forget(session: Session) -> None:
    """Leave MULTI; what was queued is dropped."""
    session.queue = None
    session.queue_bytes = 0
    session.queue_failed = False


_STEERING: Final = ("noscript", "loading", "stale", "fast")
_GROUP: Final = "transactions"

ROWS: Final = (
    Command("multi", 1, _STEERING, 0, 0, 0, _GROUP, "1.2.0", "Starts to queue a batch.", multi),
    Command(
        *("exec", 1, ("noscript", "loading", "stale"), 0, 0, 0, _GROUP, "1.2.0", "Runs a batch."),
        awaited=execute,
    ),
    Command("discard", 1, _STEERING, 0, 0, 0, _GROUP, "2.0.0", "Forgets the batch.", discard),
)
