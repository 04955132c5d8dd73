"""The Redis protocol, RESP2 and RESP3, as a pure parser and encoder. Edge rules as Redis 7 has them.

Commands that need no Python (GET, SET and their plain expiry forms) are parsed straight into the arrays of a
``Batch`` shared by all connections of a turn; any other command comes out as a list of arguments.

What a connection sends gives the same commands, operations and errors however it is cut into pieces.
Differences from Redis, all in what no client sends: a line of more than 65536 bytes is refused even when its
end came along with it (Redis: only when its end was read later), a NUL in a line is a byte like any other
(Redis waits for ever), and a whole command has a limit of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from sadik.errors import ProtocolError
from sadik.kernels.buffers import Buffer

# Results of ``Parser.pull``.
NEED_INPUT: Final[int]
"""All input is parsed, but for a part of a command."""
COMMAND: Final[int]
"""A command stands in ``Parser.arguments``."""
BATCH_FULL: Final[int]
"""The next operation finds no room: run the batch, clear it, pull again."""

# Besides those, of ``take_plain``.
ASIDE: Final[int]
"""Not pulled: the owner wants to do it itself."""

# Kinds of operation in a batch; equal to versions.READ and versions.REPLACE.
GET: Final[int]
SET: Final[int]

class Batch:
    """Operations of one turn in arrays that never move.

    The arrays are ``bytearray``s; resizing one is a ``BufferError``.

    Attributes:
        capacity, arena_bytes: Most operations, and most bytes of names and payloads, that fit.
        count, used: Operations and bytes in the batch now.
        sets, longest: How many of them are SETs, and the bytes of the longest payload.
        data: The arena: names and payloads, ``arena_bytes`` long.
        kinds: uint8 each, as all arrays ``capacity`` long: GET or SET.
        name_starts, name_lengths: int64 each: the address's name (see ``digest``) in ``data``.
        payload_starts, payload_lengths: int64 each: the value of a SET in ``data``; 0, 0 for GET.
        ttl_ms: int64 each: relative time to live of a SET (EX, PX), or -1.
    """

    def __init__(self, capacity: int, arena_bytes: int) -> None:
        """An empty batch; ``ValueError`` unless 1 <= capacity < 2**31 and arena_bytes >= 1."""

    @property
    def capacity(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def sets(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def data(self) -> bytearray: ...
    @property
    def kinds(self) -> bytearray: ...
    @property
    def name_starts(self) -> bytearray: ...
    @property
    def name_lengths(self) -> bytearray: ...
    @property
    def payload_starts(self) -> bytearray: ...
    @property
    def payload_lengths(self) -> bytearray: ...
    @property
    def ttl_ms(self) -> bytearray: ...
    def append(self, kind: int, name: Buffer, payload: Buffer = b"", ttl_ms: int = -1) -> bool:
        """Add an operation from elsewhere (MSET, HTTP); False, and nothing added, when it finds no room.

        Raises:
            ValueError: Another kind than GET and SET, a GET with payload or ``ttl_ms``, or ``ttl_ms`` neither
                -1 nor positive.
        """

    def clear(self) -> None:
        """Forget all operations. Cost: O(1); the arrays keep their stale content."""

    def keep(self) -> Kept:
        """A copy of the operations, in as many bytes as they take. Cost: about 200 ns, and the copying."""

class Kept:
    """The operations of a batch whose arrays may be used for the next one."""

    def __len__(self) -> int:
        """Bytes that it holds: 41 an operation, and its name and payload."""

    def command(self, index: int) -> list[bytes]:
        """Operation ``index`` as the command it was: ``GET key`` or ``SET key value [PX milliseconds]``.

        Raises:
            IndexError: There is none.
            ValueError: Its name is not that of an address (see ``digest``).
        """

class Parser:
    """One connection's input: incremental, scanning no byte twice, holding no more than its limits.

    A bytes object is parsed where it is and let go when all of it is read. The memory held for a part of a
    command is at most about twice the bytes that came of it, plus the objects of its finished elements: a
    length announced costs nothing. Idle, a parser holds at most 4 KiB.

    Args:
        bulk_bytes_max: Longest bulk string taken (``proto-max-bulk-len``); longer is a protocol error before
            anything is allocated.
        request_bytes_max: Bytes of one whole command as sent, headers included.
        arguments_max: Elements of one command.
    Raises:
        ValueError: A limit below 1, or ``arguments_max`` above 2**31 - 1.
    """

    def __init__(self, bulk_bytes_max: int, request_bytes_max: int, arguments_max: int = 1048576) -> None: ...
    @property
    def arguments(self) -> list[bytes]:
        """The command that the last ``pull`` returned COMMAND for; its first item is the name as sent.

        Never empty after COMMAND, and the caller's to keep: the next ``pull`` puts another list here.
        """
    authenticated: bool
    """Set by the owner, True at first. False: a stranger, held to 10 elements and to bulks of 16384 bytes."""
    def feed(self, data: Buffer) -> None:
        """Take bytes from the socket; after a protocol error they are dropped.

        A ``bytes`` object fed when all before it is pulled is kept, not copied; anything else is copied. Any
        amount may be fed before it is pulled: the owner limits it by ``buffered``.
        """

    def pull(self, batch: Batch | None, prefix: bytes, room: int) -> int:
        """Take the next commands from the input.

        Plain operations are appended to ``batch``, at most ``room`` >= 0 of them, until another command, the
        end of the input, or a plain one that finds no room stops it. Plain are ``GET key`` and ``SET key
        value [EX seconds | PX milliseconds]``, however sent, with a key of 1 to 65535 bytes, a positive
        canonical integer of at most 2**48 milliseconds, and a size that an empty batch would hold. Every
        other one comes out as arguments, and with ``batch=None`` (in MULTI, before AUTH, with client options
        set) all do.

        Args:
            prefix: ``bucket length | bucket``, the first part of each name; not looked at without a batch.
        Returns:
            NEED_INPUT, COMMAND or BATCH_FULL. BATCH_FULL takes nothing from the input: pulling again without
            clearing the batch, or with ``room`` 0, gives it again.
        Raises:
            ProtocolError: The text is Redis' own, without ``-ERR `` (but ``Protocol error: too big request``
                for ``request_bytes_max``); it may hold any byte as the character of that number, so encode it
                as latin-1. An empty text means: close at once without a reply (``POST`` and ``Host:``: a
                browser was made to talk to us). What this call had appended before is in the batch and is to
                be run and answered first. Everything else is dropped, and every later call raises the same.
            ValueError: ``prefix`` is not of that form, or ``room`` is negative; nothing was taken.
        Cost: about 50 ns an operation of 100 bytes, 200 ns a call.
        """

    def buffered(self) -> int:
        """Bytes fed that belong to commands not yet pulled, the one under way included; 0 after an error."""

class Line:
    """The lanes of one server that have input, in the order it came.

    Attributes:
        missing: Lanes that are expected and do not stand in it yet.
    """

    def __init__(self, first: Callable[[], object], complete: Callable[[], object]) -> None:
        """
        Args:
            first: Called when a lane stands in a line that was empty.
            complete: Called when the last one missing does, unless it is the first.
        """

    @property
    def missing(self) -> int: ...
    def __len__(self) -> int: ...
    def expect(self, lanes: list[Lane]) -> None:
        """Count these as missing, but for those that stand in the line, until the next ``take``."""

    def forget(self) -> None:
        """Expect nobody any more."""

    def take(self) -> list[Lane]:
        """Empty the line; the lanes that stood in it may stand in it again, and none is expected."""

class Lane(Parser):
    """A connection's parser, and its place in the line of those that have input.

    ``receive`` is what the event loop calls for every piece of input, so that a piece costs no Python of
    ours.

    Attributes:
        plain: ``take_plain`` may pull it; False at first, and whenever the owner has anything to look at
            itself.
        waiting: Something of it is in flight: nothing is to be pulled until that is answered.
        stirred: Set by the owner when a lane that waits is not to become plain by itself again.
        deaf: Input is dropped from now on; ``dropped`` tells that some was.
        prefix: As in ``pull``.
        resp3: Replies are RESP3.
        transport: With a ``descriptor`` of 0 or more, its stream socket: replies go straight there, unless
            ``transport.is_closing()``, or bytes wait in it: ``queued`` is set by whoever writes to it, and
            cleared where ``transport.get_write_buffer_size()`` is 0.
        owner: None before ``attach``. received: Bytes taken in so far.
    """

    def attach(self, owner: Any, line: Line) -> None:
        """Belong to a server.

        Args:
            owner: What ``take_plain`` gives back: the connection.
            line: Where lanes with input stand, shared by all of a server.
        """

    @property
    def owner(self) -> Any: ...
    @property
    def received(self) -> int: ...
    plain: bool
    waiting: bool
    stirred: bool
    deaf: bool
    dropped: bool
    prefix: bytes
    resp3: bool
    transport: Any
    descriptor: int
    queued: bool
    def receive(self, data: Buffer) -> None:
        """``feed``, and ``enlist``."""

    def enlist(self) -> None:
        """Stand in line, once; nothing before ``attach``."""

    def wait(self) -> None:
        """Something of it is in flight from now on: neither plain, nor stirred if it was plain."""

class Runs:
    """What lanes gave to a batch: run k, operations ``stops[k - 1]`` <= i < ``stops[k]``, is of ``lanes[k]``.

    Attributes:
        bounds: Numbers of the runs whose lane has another prefix than the one before; 0 is the first.
    """

    def __init__(self) -> None: ...
    @property
    def lanes(self) -> list[Lane]: ...
    @property
    def stops(self) -> list[int]: ...
    @property
    def bounds(self) -> list[int]: ...
    def add(self, lane: Lane, stop: int) -> None:
        """The next run."""

    def wait(self) -> None:
        """``wait`` of all lanes."""

    def answer(
        self,
        numbers: Sequence[int],
        kinds: Buffer,
        status: Buffer,
        values: Buffer,
        value_starts: Buffer,
        value_lengths: Buffer,
    ) -> tuple[int, int, list[tuple[Any, bytes]], list[Any]]:
        """Send the replies of some runs, encoded as by ``encode_run``, straight to their sockets.

        Nothing blocks and no signal is raised. A lane that waited, and is not stirred, is plain again.

        Returns:
            Operations answered; bytes sent; the owners of lanes that did not take everything, each with the
            bytes still to be sent to it (no room, no socket, or an error, which whoever sends them will meet
            again); and the owners of lanes that are stirred, and still wait.
        Raises:
            ValueError: As ``encode_run``, or a run that does not exist; nothing was sent.
        Cost: the system calls, and about 100 ns a lane.
        """

def take_plain(
    lanes: list[Lane], batch: Batch, room: int, runs: Runs
) -> tuple[list[tuple[Any, int | ProtocolError]], int]:
    """``pull`` every plain lane into one batch, each that gives operations as the next of ``runs``.

    Returns:
        The owners that need more than that, each with BATCH_FULL, COMMAND, its ProtocolError, or ASIDE for a
        lane that is not plain and was not pulled; and the bytes received by all lanes since they were last
        taken.
    Cost: about 100 ns a lane besides its operations.
    """

def encode_run(
    first: int,
    stop: int,
    kinds: Buffer,
    status: Buffer,
    values: Buffer,
    value_starts: Buffer,
    value_lengths: Buffer,
    resp3: bool,
) -> bytes:
    """Replies to operations ``first`` <= i < ``stop``: ``+OK`` to SET, a bulk string or nil to GET.

    Nil is ``$-1`` in RESP2 and ``_`` in RESP3.

    Args:
        kinds: uint8 each: GET or SET.
        status: uint8 each: OK (0), or NOTHING (1) for a GET without a value.
        value_starts, value_lengths: int64 each: slices of ``values``, looked at for a GET with status OK.
    Raises:
        ValueError: Another status or kind, a slice out of bounds, an array shorter than ``stop``, or not 0 <=
            first <= stop < 2**31.
    Cost: about 15 ns an operation of 100 bytes, 250 ns a call.
    """

def chain(count: int, kinds: Buffer, digests: Buffer, previous: Buffer) -> None:
    """Link operations on the same address.

    ``previous[i]`` (int32) becomes the index of the latest SET before i with the same digest, or -1.

    Args:
        kinds: uint8 each: GET or SET.
        digests: 16 bytes each.
        previous: Writable, at least ``4 * count`` bytes.
    Raises:
        ValueError: Another kind, a buffer that is too short, or not 0 <= count < 2**31.
    Cost: O(count), also for digests chosen to collide; about 3 ns each in a batch of 256. A table of 8 to 16
        bytes per SET, on the stack up to 2048 SETs.
    """

def bulk(value: Buffer) -> bytes:
    """``$n\\r\\n...\\r\\n``."""

def array(items: Sequence[Buffer]) -> bytes:
    """``*n\\r\\n`` and the items, each already encoded."""
