"""What every command of ``sadik`` shares: which node, which secret, and in which form to answer."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Final

import click
from rich.console import Console, RenderableType
from rich.text import Text

from sadik.cli.options import read_secret
from sadik.cli.remote import Remote, RemoteError
from sadik.errors import InvalidRequest
from sadik.settings import Address

PROGRAM: Final = "sadik"
NODE_DEFAULT: Final = "127.0.0.1:7380"
_SHARED: Final = ("address", "secret_file", "as_json")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the program.

    Attributes:
        remote: The node to ask.
        as_json: Answer programs, not people.
    """

    remote: Remote
    as_json: bool

    @classmethod
    def of(cls, given: dict[str, Any]) -> Session:
        """From the shared options. Raises click.UsageError."""
        try:
            address = Address.parse(given["address"] or NODE_DEFAULT)
        except InvalidRequest as error:
            raise click.UsageError(f"--node {error}") from None
        if address.port == 0:
            raise click.UsageError("--node needs a port that is not 0")
        try:
            secret = read_secret(given["secret_file"]) if given["secret_file"] else None
        except InvalidRequest as error:
            raise click.UsageError(f"--secret-file {error}") from None
        return cls(Remote(address, secret), bool(given["as_json"]))

    def show(self, document: object, *parts: RenderableType) -> None:
        """The answer: the document for programs, ``parts`` for people."""
        if self.as_json:
            print(json.dumps(document, indent=2))
            return
        console = people()
        for part in parts:
            console.print(part)

    def note(self, text: str, style: str = "") -> None:
        """A line beside the answer, on standard error, so that it is never taken for the answer."""
        if not self.as_json:
            people(stderr=True).print(Text(text, style=style), soft_wrap=True)


def people(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: names and values of users are no markup."""
    return Console(file=sys.stderr if stderr else sys.stdout, markup=False, highlight=False, emoji=False)


def options(*, first: bool) -> list[click.Parameter]:
    """The shared options, of the program itself (``first``) or of one of its commands."""
    return [
        click.Option(
            ["--node", "address"],
            metavar="HOST:PORT",
            envvar="SADIK_NODE" if first else None,
            help=f"HTTP address of the node to ask.  [SADIK_NODE; default: {NODE_DEFAULT}]",
        ),
        click.Option(
            ["--secret-file"],
            metavar="FILE",
            envvar="SADIK_SECRET_FILE" if first else None,
            help="File with the secret that the node wants.  [SADIK_SECRET_FILE]",
        ),
        click.Option(
            ["--json", "as_json"], is_flag=True, default=False, help="Answer in JSON, for programs."
        ),
    ]


class Asking(click.Command):
    """A command that asks a node: it takes the shared options too, as people write them last."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.params += options(first=False)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with a ``Session`` as the context's object."""
        outer = ctx.parent.params if ctx.parent is not None else {}
        given = {name: ctx.params.pop(name) or outer.get(name) for name in _SHARED}
        session = ctx.obj = Session.of(given)
        try:
            return super().invoke(ctx)
        except RemoteError as error:
            if session.as_json:
                session.show(error.document)
            raise
