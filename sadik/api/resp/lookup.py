"""Finding commands by their arguments, finding the keys in them, and the errors when that fails, in
Redis' words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sadik.api.resp.arguments import shown
from sadik.api.resp.call import Command, CommandError

_SHOWN_MAX: Final = 128
"""Characters that an error repeats of a command's name, and of all its arguments."""


def find(commands: Mapping[bytes, Command], arguments: Sequence[bytes]) -> Command | None:
    """The command that ``arguments`` call, case ignored; the subcommand where there are any and one is named.

    A container that stands alone is found itself (and then refused for its arity).
    """
    command = commands.get(arguments[0].lower())
    if command is None or not command.subcommands or len(arguments) == 1:
        return command
    name = f"{command.name}|{arguments[1].lower().decode('latin-1')}"
    for subcommand in command.subcommands:
        if subcommand.name == name:
            return subcommand
    return None


def arity_fits(command: Command, count: int) -> bool:
    """Whether ``count`` arguments, the name among them, are what the command takes."""
    return count == command.arity if command.arity >= 0 else count >= -command.arity


def key_positions(command: Command, arguments: Sequence[bytes]) -> list[int]:
    """Where the keys stand in ``arguments``; empty for a command without keys."""
    first, last, step = command.first_key, command.last_key, command.step
    if not first:
        return []
    stop = last + 1 if last >= 0 else len(arguments) + last + 1
    return list(range(first, min(stop, len(arguments)), step))


def wrong_arity_error(name: str) -> CommandError:
    return CommandError(f"ERR wrong number of arguments for '{name}' command")


def unknown_command_error(commands: Mapping[bytes, Command], arguments: Sequence[bytes]) -> CommandError:
    """What Redis says of a name it does not know: the name, and the arguments as far as 128 characters go."""
    name = shown(arguments[0])
    if arguments[0].lower() in commands:
        subcommand = shown(arguments[1])[:_SHOWN_MAX]
        return CommandError(f"ERR unknown subcommand '{subcommand}'. Try {name.upper()} HELP.")
    beginning = ""
    for argument in arguments[1:]:
        if len(beginning) >= _SHOWN_MAX:
            break
        beginning += f"'{shown(argument)[: _SHOWN_MAX - len(beginning)]}' "
    return CommandError(f"ERR unknown command '{name[:_SHOWN_MAX]}', with args beginning with: {beginning}")
