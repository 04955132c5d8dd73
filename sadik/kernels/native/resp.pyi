"""The Redis protocol, RESP2 and RESP3, as a pure parser and encoder. Edge rules as Redis 7 has them.

Commands that need no Python (GET, SET and their plain expiry forms) are parsed straight into the arrays of a ``Batch``
shared by all connections of a turn; any other command comes out as a list of arguments.
"""

from collections.abc import Sequence
from typing import Final

from sadik.kernels.buffers import Buffer

# Results of ``Parser.pull``.
NEED_INPUT: Final[int]
COMMAND: Final[int]
"""A command stands in ``Parser.arguments``."""
BATCH_FULL: Final[int]
"""The batch has no room: run it, clear it, pull again."""

# Kinds of operation in a batch; equal to versions.READ and versions.REPLACE.
GET: Final[int]
SET: Final[int]

class Batch:
    """Operations of one turn in arrays that never move: ``bytearray``s of fixed capacity, ``count`` items used.

    Attributes:
        count: Operations in the batch.
        data: The arena: names and payloads.
        kinds: uint8 each: GET or SET.
        name_starts, name_lengths: int64 each: the address's name (see ``digest``) in ``data``.
        payload_starts, payload_lengths: int64 each: the value of a SET in ``data``; 0, 0 for GET.
        ttl_ms: int64 each: relative time to live of a SET (EX, PX), or -1.
    """

    def __init__(self, capacity: int, arena_bytes: int) -> None: ...
    count: int
    data: bytearray
    kinds: bytearray
    name_starts: bytearray
    name_lengths: bytearray
    payload_starts: bytearray
    payload_lengths: bytearray
    ttl_ms: bytearray
    def clear(self) -> None: ...

class Parser:
    """One connection's input: incremental, never scanning a byte twice, holding no more than the limits allow.

    Args:
        bulk_bytes_max: Longest bulk string taken (``proto-max-bulk-len``); longer is a protocol error before anything is allocated.
        request_bytes_max: Bytes of one whole command.
        arguments_max: Elements of one command.
    """

    def __init__(self, bulk_bytes_max: int, request_bytes_max: int, arguments_max: int = 1048576) -> None: ...
    arguments: list[bytes]
    """The command that the last ``pull`` returned COMMAND for; its first item is the name as sent."""
    authenticated: bool
    """False: the stricter limits for strangers hold (10 elements, 16384-byte bulks). Set by the owner; True at first."""
    def feed(self, data: Buffer) -> None:
        """Take bytes from the socket."""
    def pull(self, batch: Batch | None, prefix: bytes, room: int) -> int:
        """Take the next commands from the input.

        Plain GETs and SETs are appended to ``batch``, at most ``room`` of them, until another command, the end of the input, or a full batch stops it. ``batch=None``
        (in MULTI, before AUTH, with client options set) makes every command come out as arguments.

        Args:
            prefix: ``bucket length | bucket``, the first part of each name.
        Returns:
            NEED_INPUT, COMMAND or BATCH_FULL (also when ``room`` is used up).
        Raises:
            ProtocolError: The text is Redis' own, without ``-ERR ``; nothing after it is parsed.
        """
    def buffered(self) -> int:
        """Bytes fed and not yet pulled."""

def encode_run(
    first: int, stop: int, kinds: Buffer, status: Buffer, values: Buffer, value_starts: Buffer, value_lengths: Buffer, resp3: bool
) -> bytes:
    """Replies to operations ``first`` <= i < ``stop`` whose status is OK (0) or NOTHING (1): ``+OK``, a bulk string, or nil.

    Raises:
        ValueError: Another status, or a slice out of bounds.
    """

def chain(count: int, kinds: Buffer, digests: Buffer, previous: Buffer) -> None:
    """Link operations on the same address: ``previous[i]`` (int32) becomes the index of the latest SET before i with the same digest, or -1.

    Cost: O(count), a small hash table on the stack or heap.
    """

def bulk(value: Buffer) -> bytes:
    """``$n\\r\\n...\\r\\n``."""

def array(items: Sequence[Buffer]) -> bytes:
    """``*n\\r\\n`` and the items, each already encoded."""
