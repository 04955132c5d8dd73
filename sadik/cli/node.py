"""``sadik-node``: from the command line to one running node, and from its end to an exit code.

Whatever goes wrong is one line on standard error and one code, so that a service manager can tell them apart:

==== ==============================================================================
0    stopped cleanly
2    a flag, a variable, the configuration file: nothing was touched
3    the data directory is locked by another process
4    the data directory has a newer format, or belongs to another cluster or node
5    an address cannot be bound
6    the storage failed
1    anything else: a bug (``--log-level debug`` adds the traceback)
==== ==============================================================================
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

import sadik
from sadik.cli.options import collect, flag_of
from sadik.config import SETTINGS, build
from sadik.errors import DirectoryLocked, InvalidRequest, SadikError, StorageError, WrongFormat

if TYPE_CHECKING:
    from sadik.config import NodeConfig
    from sadik.settings import Setting

PROGRAM: Final = "sadik-node"

EXIT_OK: Final = 0
EXIT_BUG: Final = 1
EXIT_USAGE: Final = 2
EXIT_LOCKED: Final = 3
EXIT_FORMAT: Final = 4
EXIT_BIND: Final = 5
EXIT_STORAGE: Final = 6
EXIT_INTERRUPTED: Final = 130
"""Interrupted from the keyboard before the node was up, as shells report it."""

# What bind(2) says. A privileged port is EACCES; so is a forbidden directory, but that error names a file.
_BIND_ERRORS: Final = frozenset(
    {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT}
)


class _Command(click.Command):
    """A command whose help has a section per component."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            option = SETTINGS.get(parameter.name or "")
            record = parameter.get_help_record(context)
            if record is not None:
                groups.setdefault(option.group if option else "General", []).append(record)
        # What is asked first comes first.
        for group in sorted(groups, key=lambda name: name != "Node"):
            with formatter.section(group):
                formatter.write_dl(groups[group], col_max=36)


def _option(setting: Setting) -> click.Option:
    flag = flag_of(setting.name)
    if setting.kind == "flag":
        return click.Option([f"{flag}/--no-{flag[2:]}", setting.name], default=None, help=setting.help)
    metavar = {
        "address": "HOST:PORT",
        "addresses": "HOST:PORT",
        "bytes": "BYTES",
        "choice": "|".join(setting.choices),
        "count": "N",
        "milliseconds": "MS",
        "path": "DIR",
        "secret": "FILE",
        "text": "NAME",
    }[setting.kind]
    notes = []
    if setting.default not in (None, ()):
        notes.append(f"default: {setting.spell(setting.default)}")
    if setting.high and setting.kind != "secret":
        notes.append(f"{setting.spell(setting.low)} to {setting.spell(setting.high)}")
    note = f"  [{'; '.join(notes)}]" if notes else ""
    multiple = setting.kind == "addresses"
    default = () if multiple else None
    return click.Option(
        [flag, setting.name], default=default, multiple=multiple, metavar=metavar, help=setting.help + note
    )


def command() -> click.Command:
    """The click command; invoking it gives what was on the command line, by option name."""

    def callback(**given: Any) -> dict[str, Any]:
        return {name: value for name, value in given.items() if value not in (None, ())}

    config = click.Option(
        ["--config"], metavar="FILE", help='TOML file with the same names, as in resp = "[::1]:7379".'
    )
    plain = _Command(
        name=PROGRAM,
        callback=callback,
        params=[*(_option(setting) for setting in SETTINGS.values()), config],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        help="Run one Sadik node until SIGTERM.\n\n"
        "Each option may also be an environment variable (--sync-interval-ms is SADIK_SYNC_INTERVAL_MS) "
        "or a key of the TOML file (sync_interval_ms). Flags win over variables, variables over the file. "
        "Sizes may be written as 64KiB, 16MiB, 1GiB; times as 500ms, 10s, 5m, 2h, 10d.",
        epilog="Exit codes: 0 clean stop, 2 bad option, 3 directory locked, 4 wrong format or other cluster, "
        "5 cannot bind, 6 storage failed, 1 anything else.",
    )
    version = click.version_option(sadik.__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
    return version(plain)


def configure(given: Mapping[str, Any], environment: Mapping[str, str]) -> NodeConfig:
    """The configuration from all sources.

    Raises:
        InvalidRequest: One line for the operator.
    """
    flags = dict(given)
    file = flags.pop("config", None) or environment.get("SADIK_CONFIG") or None
    return build(collect(flags, environment, file))


def exit_code(error: BaseException) -> int:
    """What a failed start or run means to whoever started it."""
    match error:
        case InvalidRequest():
            return EXIT_USAGE
        case DirectoryLocked():
            return EXIT_LOCKED
        case WrongFormat():
            return EXIT_FORMAT
        case StorageError():
            return EXIT_STORAGE
        case socket.gaierror():
            return EXIT_BIND
        case OSError():
            if error.filename is None and error.errno in _BIND_ERRORS:
                return EXIT_BIND
            return EXIT_STORAGE
        case _:
            return EXIT_BUG


def _describe(error: BaseException) -> str:
    if isinstance(error, SadikError):
        text = str(error)
    elif isinstance(error, socket.gaierror):
        text = f"an address to listen on cannot be resolved: {error.strerror}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    else:
        text = f"internal error: {type(error).__name__}: {error}"
    return " ".join(text.split())


def main(
    arguments: Sequence[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    run: Callable[[NodeConfig], int] | None = None,
) -> int:
    """Run a node; returns the exit code.

    Args:
        arguments: Without the program's name; None: those of this process.
        environment: None: that of this process.
        run: What runs the node; None: ``sadik.api.process.run``.
    """
    try:
        given = command().main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        return _fail(f"{error.format_message()} (see {PROGRAM} --help)", EXIT_USAGE)
    if isinstance(given, int):
        return given  # The help or the version has been shown.
    verbose = False
    try:
        config = configure(given, os.environ if environment is None else environment)
        verbose = config.log.level == "debug"
        return (run or _server())(config)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  (the last resort of a program: one line and a code)
        if verbose:
            traceback.print_exc()
        return _fail(_describe(error), exit_code(error))


def _server() -> Callable[[NodeConfig], int]:
    # Late, so that --help and a wrong flag do not wait for the server's libraries.
    from sadik.api import process

    return process.run


def _fail(text: str, code: int) -> int:
    print(f"{PROGRAM}: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
