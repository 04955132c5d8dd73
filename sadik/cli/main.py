"""``sadik``: look at a cluster, steer it, read and write single keys, run a local one.

Tables for people, ``--json`` for programs. Whatever goes wrong is one line on standard error and one code:

==== ==============================================================================
0    done
1    refused or failed: surely nothing was changed; also a key that has no value
2    a wrong option or argument: nothing was asked
3    unknown: the write may have happened
==== ==============================================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

import sadik
from sadik.cli import cluster, demo, sim, values
from sadik.cli.remote import RemoteError
from sadik.cli.session import PROGRAM, options

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNKNOWN: Final = 3
EXIT_INTERRUPTED: Final = 130
"""Interrupted from the keyboard, as shells report it."""


class _Program(click.Group):
    """A group whose help lists its commands in the order of a first tour."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def command() -> click.Group:
    """The click command of the whole program."""

    def callback(**given: Any) -> None:
        context = click.get_current_context()
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    program = _Program(
        name=PROGRAM,
        callback=callback,
        invoke_without_command=True,
        params=options(first=True),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        help="Look at a Sadik cluster and steer it. Any node answers for all.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 unknown (it may have been done).",
    )
    for item in (demo.demo, *values.COMMANDS, *cluster.COMMANDS, sim.sim):
        program.add_command(item)
    version = click.version_option(sadik.__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
    return version(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code.

    Args:
        arguments: Without the program's name; None: those of this process.
    """
    try:
        code = command().main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else EXIT_OK
    except click.Abort:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else PROGRAM
        return _fail(f"{error.format_message()} (see {path} --help)", EXIT_USAGE)
    except RemoteError as error:
        return _fail(str(error), EXIT_UNKNOWN if error.maybe_applied else EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read our output has had enough of it; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _fail(text: str, code: int) -> int:
    line = " ".join(text.split())
    print(f"{PROGRAM}: {''.join(c if c.isprintable() else '?' for c in line)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
