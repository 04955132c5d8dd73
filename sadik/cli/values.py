"""``sadik get``, ``put``, ``delete`` and ``explain``: one key.

The answer of a write is the context that the next one gives back with ``--context``; it stands alone on
standard output, so that a shell can keep it. A write without context covers nothing: what is there stays
beside it as a sibling.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from sadik.cli import tables
from sadik.cli.remote import CONTEXT_HEADER, RemoteError, value_path
from sadik.cli.session import Asking, Session
from sadik.env.clock import SystemClock

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_GRACE_S: Final = 5.0
_BUCKET_DEFAULT: Final = "0"
"""Where Redis clients are that choose nothing."""


def _key(function: _Decorated) -> _Decorated:
    """The argument KEY and the option --bucket."""
    bucket = click.option(
        "-b",
        "--bucket",
        default=_BUCKET_DEFAULT,
        metavar="NAME",
        help=f"[default: {_BUCKET_DEFAULT}, the first Redis database]",
    )
    return bucket(click.argument("key")(function))


def _numbers(**helps: str) -> Callable[[_Decorated], _Decorated]:
    """Options of one request, by the names that the node knows them by."""

    def decorate(function: _Decorated) -> _Decorated:
        for name, text in reversed(helps.items()):
            flags = [f"-{name}"] if len(name) == 1 else [f"--{name.replace('_', '-')}"]
            metavar = "MS" if name.endswith("_ms") else "N"
            option = click.option(*flags, name, type=click.IntRange(1), metavar=metavar, help=text)
            function = option(function)
        return function

    return decorate


_READ = _numbers(
    r="Replicas that must answer.",
    pr="The same, counting primaries only.",
    timeout_ms="Give up after so long.",
)
_WRITE = _numbers(
    w="Replicas that must have taken it.",
    pw="The same, counting primaries only.",
    timeout_ms="Give up after so long; the write may have happened.",
)
_TTL = _numbers(ttl_ms="Forget the value after so long.")
_CONTEXT = click.option(
    "-c",
    "--context",
    metavar="CONTEXT",
    help="What an earlier read or write answered: exactly that is replaced.",
)


@click.command(cls=Asking)
@_key
@click.option("--file", metavar="FILE", help="Write the value into a file.")
@_READ
@click.pass_obj
def get(session: Session, /, key: str, bucket: str, file: str | None, **numbers: int | None) -> int:
    """The value of KEY on standard output, as it is; its context on standard error.

    Siblings, values of concurrent writes, are shown as a table; --json has them whole, in base64.
    """
    remote = session.remote
    try:
        answer = remote.ask("GET", _path(bucket, key), query=_given(numbers), timeout_s=_patience(numbers))
    except RemoteError as error:
        if error.document.get("code") == "NOTFOUND" and error.document.get("context"):
            session.note(f"context: {error.document['context']}", style="dim")
        raise
    document = remote.parsed(answer)
    if session.as_json:
        session.show(document)
        return 0
    if len(document["siblings"]) > 1:
        if file is not None:
            detail = f"{key} has siblings, and a file takes one value: see --json"
            raise RemoteError({"code": "ERR", "detail": detail, "outcome": "refused"})
        session.show(document, *tables.siblings(document, SystemClock().wall_ms()))
    else:
        _deliver(base64.b64decode(document["siblings"][0]["value"]), file)
    session.note(f"context: {document['context']}", style="dim")
    return 0


@click.command(cls=Asking)
@_key
@click.argument("value", required=False)
@click.option("--file", metavar="FILE", help="Take the value from a file; - is standard input.")
@click.option("--type", "content_type", metavar="TYPE", help="Its content type.")
@_CONTEXT
@_WRITE
@_TTL
@click.pass_obj
def put(
    session: Session,
    /,
    key: str,
    bucket: str,
    value: str | None,
    file: str | None,
    content_type: str | None,
    context: str | None,
    **numbers: int | None,
) -> None:
    """Store VALUE under KEY; the new context on standard output.

    Without --context the value becomes a sibling of what is there. Where siblings remain there is no context.
    """
    if (value is None) == (file is None):
        raise click.UsageError("give either a VALUE or --file")
    body = os.fsencode(value) if value is not None else _content(str(file))
    headers = {"Content-Type": content_type} if content_type else {}
    _write(session, "PUT", _path(bucket, key), context, numbers, headers=headers, body=body)


@click.command(cls=Asking)
@_key
@_CONTEXT
@_WRITE
@click.pass_obj
def delete(session: Session, /, key: str, bucket: str, context: str | None, **numbers: int | None) -> None:
    """Delete the values of KEY that --context saw; without it, none that is there goes.

    A delete is a version like any other: a write that it has not seen stays.
    """
    _write(session, "DELETE", _path(bucket, key), context, numbers)


@click.command(cls=Asking)
@_key
@click.pass_obj
def explain(session: Session, key: str, bucket: str) -> None:
    """Where KEY lives, which replica has which version, and who is up."""
    remote = session.remote
    document = remote.parsed(remote.ask("GET", _path(bucket, key), query={"explain": 1}))
    session.show(document, *tables.explain(document, SystemClock().wall_ms()))


def _write(
    session: Session,
    method: str,
    path: str,
    context: str | None,
    numbers: dict[str, int | None],
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> None:
    fields = dict(headers or {})
    if context:
        if not (context.isascii() and context.isprintable()):
            raise click.UsageError("a context is what an earlier answer gave, one word of ASCII text")
        fields[CONTEXT_HEADER] = context
    answer = session.remote.ask(
        method, path, query=_given(numbers), headers=fields, body=body, timeout_s=_patience(numbers)
    )
    given = answer.headers.get(CONTEXT_HEADER.lower())
    if session.as_json:
        session.show({"context": given})
    elif given:
        print(given)
    else:
        session.note("done; siblings remain that this write has not seen (see `sadik get`)", style="yellow")


def _path(bucket: str, key: str) -> str:
    if not bucket or not key:
        raise click.UsageError("a bucket and a key are at least one byte")
    return value_path(os.fsencode(bucket), os.fsencode(key))


def _given(numbers: dict[str, int | None]) -> dict[str, int]:
    return {name: number for name, number in numbers.items() if number is not None}


def _patience(numbers: dict[str, int | None]) -> float | None:
    """Longer than the node's own deadline, so that the node's account of it arrives."""
    asked = numbers.get("timeout_ms")
    return None if asked is None else asked / 1000 + _GRACE_S


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        with open(file, "rb") as source:
            return source.read()
    except OSError as error:
        raise click.UsageError(f"--file: cannot read {file}: {error.strerror}") from None


def _deliver(payload: bytes, file: str | None) -> None:
    if file is not None:
        try:
            with open(file, "wb") as sink:
                sink.write(payload)
        except OSError as error:
            raise click.UsageError(f"--file: cannot write {file}: {error.strerror}") from None
        return
    output = sys.stdout.buffer
    output.write(payload)
    if sys.stdout.isatty() and not payload.endswith(b"\n"):
        output.write(b"\n")
    output.flush()


COMMANDS: Final[tuple[click.Command, ...]] = (get, put, delete, explain)
