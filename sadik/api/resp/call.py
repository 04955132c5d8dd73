"""What a command handler is given: its arguments, its records, its session and the server's faces.

A handler is a plain function ``(call) -> bytes`` that returns an encoded reply. It reads and changes
``call.records`` (one per key, in the order of the table's key positions) and raises ``CommandError`` or a
``SadikError``; a handler that raises has changed nothing, because the server drops the records of a failed
command. What asks other nodes for more than records is a coroutine function instead (``Command.awaited``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sadik.errors import SadikError
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Explanation, KeyPage
from sadik.node.records import Record


class CommandError(SadikError):
    """An error reply, word and text as Redis gives them, for example ``ERR syntax error``."""


@dataclass(slots=True)
class Session:
    """One client's settings.

    Attributes:
        protocol: 2 or 3.
        bucket: What keys are in: ``b"0"`` after connecting, another after SELECT or SADIK.USE.
        close_after_reply: Set by QUIT and CLIENT KILL of oneself.
        reply_mode: ``on``, ``off`` or ``skip`` (CLIENT REPLY).
        queue: Commands since MULTI, None outside of it.
        queue_bytes: About the memory they take.
        queue_failed: A command was refused while queueing, so EXEC must abort.
    """

    id: int
    address: str
    local_address: str
    created_ms: int
    authenticated: bool
    protocol: int = 2
    bucket: bytes = b"0"
    name: bytes = b""
    library_name: bytes = b""
    library_version: bytes = b""
    last_command: bytes = b""
    last_command_ms: int = 0
    close_after_reply: bool = False
    reply_mode: str = "on"
    queue: list[list[bytes]] | None = None
    queue_bytes: int = 0
    queue_failed: bool = False


class Store(Protocol):
    """The node's operations beyond single records."""

    async def count(self, bucket: bytes) -> int:
        """Keys in a bucket; expired ones that nobody replaced are counted."""
        ...

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        """Existing keys (not deleted, not expired) after a cursor, in digest order, looking at about
        ``count`` keys; 0 starts and ends.

        Raises:
            InvalidRequest: A cursor outside 0 .. 2**63 - 1.
        """
        ...

    async def random_key(self, bucket: bytes) -> bytes | None: ...

    async def flush(self, buckets: Sequence[bytes]) -> None:
        """Hide everything that is in the buckets now, on every node."""
        ...

    def buckets(self) -> list[bytes]: ...

    def properties(self, bucket: bytes) -> BucketProperties: ...

    async def explain(self, bucket: bytes, key: bytes) -> Explanation: ...

    def client_layout(self) -> Mapping[str, object]:
        """Who holds which partition, and where clients reach them: JSON values."""
        ...

    def check_options(self, bucket: bytes, options: Options) -> None:
        """Raise ``InvalidRequest`` where a quorum asked for exceeds the effective N."""
        ...

    def encode_context(self, record: Record) -> bytes:
        """The opaque context of all that ``record`` knows, ``b""`` when that is nothing."""
        ...

    def decode_context(self, context: bytes, record: Record) -> Sequence[tuple[int, int]]:
        """Entries of a context made for the same address. Raises InvalidContext."""
        ...


class Server(Protocol):
    """The RESP server as its commands see it."""

    store: Store
    settings: dict[str, str]
    """CONFIG names and values: inert ones can be set, real ones are shown. Kept by the server for its life.
    """

    def sessions(self) -> list[Session]: ...

    def kill(self, session_id: int) -> None:
        """Close that connection after what it is owed."""
        ...

    def authenticate(self, user: bytes, password: bytes) -> bool: ...

    @property
    def password_required(self) -> bool: ...

    def information(self) -> dict[str, dict[str, str | int]]:
        """INFO sections in order: section name -> field -> value."""
        ...

    def reset_statistics(self) -> None: ...

    async def execute(self, session: Session, commands: Sequence[list[bytes]]) -> list[bytes]:
        """Run queued commands in order, without isolation, and return their encoded replies (EXEC)."""
        ...


DEFAULT: Final = Options()
"""What a command asks for that says nothing of it: its bucket's properties."""


@dataclass(slots=True)
class Call:
    """One command to run."""

    arguments: list[bytes]
    session: Session
    server: Server
    now_ms: int
    records: list[Record] = field(default_factory=list)
    options: Options = DEFAULT


Handler = Callable[[Call], bytes]
AwaitedHandler = Callable[[Call], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the command table: what COMMAND tells clients, and what runs.

    Attributes:
        arity: As Redis counts: with the name; negative means at least.
        first_key, last_key, step: Positions of keys in the arguments; 0, 0, 0 for none; last_key -1 is the
            last argument.
        flags: Redis' words: ``readonly``, ``write``, ``fast``, ``admin``, ``loading``, ``no_auth``, ...
        handler: None for a container of subcommands, and where ``awaited`` is set.
        awaited: Instead of a handler: runs in a task of its own, and gets no records.
        options: What the request itself asks of its quorums, from its arguments. Raises InvalidRequest.
        blind: Whether the command, with these arguments, writes without regard to what others hold: it needs
            no quorum to read, only what its coordinator knows.
        combine: Makes one reply of those to parts of the command, each with the keys that one node
            coordinates; None where a command has one key.
        pairs: All its arguments are keys and values to set: it may run as plain SETs (``PairWrites``).
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    first_key: int
    last_key: int
    step: int
    group: str
    since: str
    summary: str
    handler: Handler | None = None
    subcommands: tuple[Command, ...] = ()
    awaited: AwaitedHandler | None = None
    options: Callable[[list[bytes]], Options] | None = None
    blind: Callable[[list[bytes]], bool] | None = None
    combine: Callable[[Sequence[bytes]], bytes] | None = None
    pairs: bool = False
