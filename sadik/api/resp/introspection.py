"""COMMAND: the table as clients read it, above all which arguments are keys.

What Redis keeps beside its rows (access categories, key specifications) follows here from flags, group
and key positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from sadik.api.resp.arguments import SYNTAX_ERROR, option_word, shown
from sadik.api.resp.call import Call, Command, CommandError
from sadik.api.resp.containers import container
from sadik.api.resp.glob import matcher
from sadik.api.resp.lookup import arity_fits, find, key_positions
from sadik.api.resp.replies import (
    EMPTY_ARRAY,
    array,
    bulk,
    bulk_array,
    integer,
    mapping,
    null,
    simple,
    text,
    unordered,
)

Commands = Mapping[bytes, Command]

_CATEGORIES: Final = {
    "string": "@string",
    "generic": "@keyspace",
    "connection": "@connection",
    "transactions": "@transaction",
    "scripting": "@scripting",
}
_DANGEROUS: Final = frozenset({"keys", "flushdb", "flushall", "info"})
_KEYSPACE: Final = frozenset({"dbsize", "flushdb", "flushall"})


def command_row(commands: Commands) -> Command:
    """The row of COMMAND, on a table that it will be part of."""

    def row(
        name: str, arity: int, since: str, summary: str, handler: Callable[[Commands, Call], bytes]
    ) -> Command:
        bound = partial(handler, commands)
        return Command(f"command|{name}", arity, _FLAGS, 0, 0, 0, "server", since, summary, bound)

    subcommands = (
        row("count", 2, "2.8.13", "Number of commands.", count),
        row("list", -2, "7.0.0", "Names of commands.", list_),
        row("info", -2, "2.8.13", "Rows of commands.", info),
        row("docs", -2, "7.0.0", "What commands do.", docs),
        row("getkeys", -4, "2.8.13", "Keys in a command.", get_keys),
        row("getkeysandflags", -4, "7.0.0", "Keys in a command, and their use.", get_keys_and_flags),
    )
    return container(
        "command",
        "server",
        "2.8.13",
        "What commands there are.",
        subcommands,
        partial(all_rows, commands),
        arity=-1,
        flags=_FLAGS,
    )


def all_rows(commands: Commands, call: Call) -> bytes:
    """COMMAND."""
    return array([_row(command, call.session.protocol) for command in commands.values()])


def count(commands: Commands, call: Call) -> bytes:
    """COMMAND COUNT."""
    return integer(len(commands))


def list_(commands: Commands, call: Call) -> bytes:
    """COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]: subcommands too when
    filtered by pattern or category.
    """
    filters = call.arguments[2:]
    if not filters:
        return bulk_array(command.name.encode() for command in commands.values())
    if len(filters) != 3 or option_word(filters[0]) != b"FILTERBY":
        raise CommandError(SYNTAX_ERROR)
    kind, wanted = option_word(filters[1]), filters[2]
    if kind == b"MODULE":
        return EMPTY_ARRAY
    if kind == b"ACLCAT":
        category = "@" + shown(wanted).lower()
        return bulk_array(
            command.name.encode()
            for command in _with_subcommands(commands)
            if category in _categories(command)
        )
    if kind == b"PATTERN":
        matches = matcher(wanted, ignore_case=True)
        return bulk_array(
            command.name.encode() for command in _with_subcommands(commands) if matches(command.name.encode())
        )
    raise CommandError(SYNTAX_ERROR)


def _with_subcommands(commands: Commands) -> Iterator[Command]:
    for command in commands.values():
        yield command
        yield from command.subcommands


def info(commands: Commands, call: Call) -> bytes:
    """COMMAND INFO [name ...]: null in the place of a name that is not known."""
    names = call.arguments[2:]
    if not names:
        return all_rows(commands, call)
    protocol = call.session.protocol
    found = [_named(commands, name) for name in names]
    return array([null(protocol) if command is None else _row(command, protocol) for command in found])


def docs(commands: Commands, call: Call) -> bytes:
    """COMMAND DOCS [name ...]: names that are not known are left out."""
    names = call.arguments[2:]
    found = [_named(commands, name) for name in names] if names else list(commands.values())
    protocol = call.session.protocol
    return mapping(
        [(text(command.name), _documentation(command, protocol)) for command in found if command is not None],
        protocol,
    )


def _named(commands: Commands, name: bytes) -> Command | None:
    """A command by its name, a subcommand by ``container|name``."""
    parts = name.split(b"|")
    return find(commands, parts) if len(parts) <= 2 else None


def get_keys(commands: Commands, call: Call) -> bytes:
    """COMMAND GETKEYS name argument ..."""
    command, arguments = _given(commands, call)
    return bulk_array(arguments[position] for position in key_positions(command, arguments))


def get_keys_and_flags(commands: Commands, call: Call) -> bytes:
    """COMMAND GETKEYSANDFLAGS name argument ..."""
    command, arguments = _given(commands, call)
    flags = unordered([simple(flag) for flag in _access(command)], call.session.protocol)
    return array(
        [array([bulk(arguments[position]), flags]) for position in key_positions(command, arguments)]
    )


def _given(commands: Commands, call: Call) -> tuple[Command, list[bytes]]:
    arguments = call.arguments[2:]
    command = find(commands, arguments)
    if command is None:
        raise CommandError("ERR Invalid command specified")
    if not command.first_key:
        raise CommandError("ERR The command has no key arguments")
    if not arity_fits(command, len(arguments)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    return command, arguments


def _row(command: Command, protocol: int) -> bytes:
    """A command as COMMAND INFO has it: name, arity, flags, key positions, categories, tips, key
    specifications, subcommands.
    """
    return array(
        [
            text(command.name),
            integer(command.arity),
            unordered([simple(flag) for flag in command.flags], protocol),
            integer(command.first_key),
            integer(command.last_key),
            integer(command.step),
            unordered([simple(category) for category in _categories(command)], protocol),
            EMPTY_ARRAY if protocol == 2 else unordered((), protocol),
            unordered(_key_specifications(command, protocol), protocol),
            array([_row(subcommand, protocol) for subcommand in command.subcommands]),
        ]
    )


def _categories(command: Command) -> list[str]:
    flags = command.flags
    found = []
    if "readonly" in flags:
        found.append("@read")
    if "write" in flags:
        found.append("@write")
    if "admin" in flags:
        found.append("@admin")
    if "admin" in flags or command.name in _DANGEROUS:
        found.append("@dangerous")
    if command.name in _KEYSPACE:
        found.append("@keyspace")
    elif command.group in _CATEGORIES:
        found.append(_CATEGORIES[command.group])
    found.append("@fast" if "fast" in flags else "@slow")
    return found


def _access(command: Command) -> tuple[str, str]:
    return ("RO", "access") if "readonly" in command.flags else ("RW", "update")


def _key_specifications(command: Command, protocol: int) -> list[bytes]:
    if not command.first_key:
        return []
    # Redis gives the last key relative to the first one, or from the end of the arguments.
    last = command.last_key - command.first_key if command.last_key > 0 else command.last_key
    begin = {"index": integer(command.first_key)}
    keys = {"lastkey": integer(last), "keystep": integer(command.step), "limit": integer(0)}
    return [
        _fields(
            {
                "flags": unordered([simple(flag) for flag in _access(command)], protocol),
                "begin_search": _fields({"type": text("index"), "spec": _fields(begin, protocol)}, protocol),
                "find_keys": _fields({"type": text("range"), "spec": _fields(keys, protocol)}, protocol),
            },
            protocol,
        )
    ]


def _documentation(command: Command, protocol: int) -> bytes:
    fields = {
        "summary": text(command.summary),
        "since": text(command.since),
        "group": text(command.group),
    }
    if command.subcommands:
        fields["subcommands"] = mapping(
            [(text(row.name), _documentation(row, protocol)) for row in command.subcommands], protocol
        )
    return _fields(fields, protocol)


def _fields(fields: dict[str, bytes], protocol: int) -> bytes:
    return mapping([(text(name), value) for name, value in fields.items()], protocol)


_FLAGS: Final = ("loading", "stale")
