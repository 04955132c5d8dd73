"""The command line of ``sadik-node``: one line and one exit code for whatever goes wrong."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

import sadik
from sadik.cli.node import command, main
from sadik.cli.options import flag_of
from sadik.config import SETTINGS
from sadik.errors import (
    CorruptRecord,
    DirectoryLocked,
    InvalidRequest,
    StorageFailed,
    StorageFull,
    Unavailable,
    WrongFormat,
)


def refuse(config):
    raise AssertionError("the node must not be started")


def test_good_options_reach_the_node_once():
    """What the node is built from is exactly what was asked for, and its code is the program's."""
    seen = []
    code = main(
        ["--data", "/d", "--sync", "always", "--insecure", "--resp", "[::]:0"],
        environment={"SADIK_NODE_ID": "n1"},
        run=lambda config: seen.append(config) or 0,
    )
    (config,) = seen
    assert code == 0
    assert (config.data_directory, config.storage.sync, config.node_id) == ("/d", "always", "n1")
    assert str(config.resp.listen) == "[::]:0"


def test_flag_can_take_back_what_a_variable_gave():
    """--no-insecure wins over SADIK_INSECURE=1."""
    seen = []
    assert (
        main(["--no-insecure"], environment={"SADIK_INSECURE": "1"}, run=lambda c: seen.append(c) or 0) == 0
    )
    assert not seen[0].insecure


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--rsep", "x"], {}, "No such option '--rsep'"),
        (["--sync"], {}, "Option '--sync' requires an argument"),
        (["serve"], {}, "Got unexpected extra argument (serve)"),
        (["--sync", "often"], {}, "--sync must be one of always, interval, never, not 'often'"),
        (["--resp", "::1:7379"], {}, "--resp needs brackets around an IPv6 address"),
        (["--partitions", "100"], {}, "partitions must be a power of two, not 100"),
        (["--value-bytes-max", "1TiB"], {}, "--value-bytes-max must be 1 to 256MiB"),
        (["--seed-node", "other"], {}, "--seed-node must be HOST:PORT, not 'other'"),
        (["--resp", "0.0.0.0:0"], {}, "resp 0.0.0.0:0 can be reached from other machines"),
        (["--config", "/nowhere"], {}, "--config: cannot read /nowhere: No such file or directory"),
        ([], {"SADIK_CONFIG": "/nowhere"}, "--config: cannot read /nowhere: No such file or directory"),
        ([], {"SADIK_SINC": "always"}, "unknown environment variable SADIK_SINC; did you mean SADIK_SYNC?"),
        ([], {"SADIK_SYNC": "often"}, "SADIK_SYNC must be one of always, interval, never, not 'often'"),
    ],
)
def test_bad_options_are_one_line_and_code_2(arguments, environment, message, capsys):
    """A service manager shows one line, so that line must say it all."""
    assert main(arguments, environment=environment, run=refuse) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"sadik-node: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidRequest("node_id is taken"), 2, "node_id is taken"),
        (DirectoryLocked("/d is in use"), 3, "/d is in use"),
        (WrongFormat("/d has format 9"), 4, "/d has format 9"),
        (OSError(errno.EADDRINUSE, "address 127.0.0.1:7379 is taken"), 5, "address 127.0.0.1:7379 is taken"),
        (OSError(errno.EADDRNOTAVAIL, "no such address"), 5, "no such address"),
        (PermissionError(errno.EACCES, "port 80 needs privileges"), 5, "port 80 needs privileges"),
        (
            socket.gaierror(socket.EAI_NONAME, "unknown name"),
            5,
            "an address to listen on cannot be resolved: ",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/d/log"), 6, "Permission denied: /d/log"),
        (OSError(errno.EIO, "Input/output error"), 6, "Input/output error"),
        (OSError(errno.EROFS, "Read-only file system", "/d"), 6, "Read-only file system: /d"),
        (StorageFull("no room"), 6, "no room"),
        (StorageFailed("sync failed"), 6, "sync failed"),
        (CorruptRecord("birth record"), 6, "birth record"),
        (Unavailable("why"), 1, "why"),
        (KeyError("x\ny"), 1, "internal error: KeyError: "),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_have_codes_and_one_line(error, code, message, capsys):
    """Each reason that an operator treats differently has a code of its own, and none shows a traceback."""

    def run(config):
        raise error

    assert main([], environment={}, run=run) == code
    text = capsys.readouterr().err
    assert text.startswith(f"sadik-node: {message}")
    assert text.count("\n") == 1


def test_traceback_is_there_for_those_who_debug(capsys):
    def run(config):
        raise RuntimeError("a bug")

    assert main(["--log-level", "debug"], environment={}, run=run) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("sadik-node: internal error: RuntimeError: a bug\n")


def test_help_names_every_option_with_its_default():
    """--help is complete, because it is made from the same table as the options."""
    result = CliRunner().invoke(command(), ["--help"], terminal_width=100)
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for name, option in SETTINGS.items():
        assert f"{flag_of(name)} " in text
        if option.default not in (None, (), False):
            assert f"default: {option.spell(option.default)}" in text
        assert f"{option.group}:" in text
    places = [text.index(f"{group}:") for group in ("Node", "Redis protocol (RESP)", "HTTP", "General")]
    assert places == sorted(places)


def invoke(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SADIK_")}
    return subprocess.run(
        [sys.executable, "-m", "sadik.cli.node", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_is_that_of_the_package():
    result = invoke("--version")
    assert (result.returncode, result.stdout) == (0, f"sadik-node {sadik.__version__}\n")


def test_process_reports_a_bad_variable():
    """The whole way through a real process: variable, line, exit code."""
    result = invoke(SADIK_RESP="7379")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "sadik-node: SADIK_RESP must be HOST:PORT, not '7379'\n"


def test_help_does_not_load_the_server():
    """The answer to --help should not wait for libraries that only a running node needs."""
    code = (
        "import sys; from sadik.cli.node import main; main(['--version'])\n"
        "print(sorted({'asyncio', 'aiohttp', 'uvloop', 'numpy', 'sadik.api'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
