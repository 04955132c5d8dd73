"""The command table: every command the server has, by lower-case name, with its arity, flags, keys and
handler.

The rows stand beside their handlers; COMMAND is made from the same table, so what clients are told is
what happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.api.resp import (
    admin,
    batch,
    clients,
    connection_commands,
    expiry,
    introspection,
    keys,
    lookup,
    native,
    refused,
    strings,
)
from sadik.api.resp.call import Command, CommandError
from sadik.api.resp.lookup import arity_fits, key_positions, wrong_arity_error

__all__ = [
    "COMMANDS",
    "arity_fits",
    "find",
    "key_positions",
    "unknown_command_error",
    "wrong_arity_error",
]

_MODULES: Final = (strings, keys, expiry, batch, connection_commands, clients, admin, native)

COMMANDS: Final[dict[bytes, Command]] = {row.name.encode(): row for module in _MODULES for row in module.ROWS}
COMMANDS[b"command"] = introspection.command_row(COMMANDS)


def find(arguments: Sequence[bytes]) -> Command | None:
    """The command that ``arguments`` call; None for a name that Sadik does not have.

    A container without its subcommand has no handler; its arity does not fit then.
    """
    return lookup.find(COMMANDS, arguments)


def unknown_command_error(arguments: Sequence[bytes]) -> CommandError:
    """Why ``find`` found nothing: the reason where Redis has the command, else Redis' text for unknown
    ones.
    """
    return refused.refusal(arguments) or lookup.unknown_command_error(COMMANDS, arguments)
