"""What does a pipelined request cost before and after the store: parsing, linking, and writing the reply?

Measured: feed and pull of a run of SETs (16-byte keys, 100-byte values) and of GETs into a batch; the SETs as
lists of arguments; one 1 MiB value in pieces of 64 KiB; replies to a run of GETs, also by joining formatted
bytes; links within a batch. Run lengths: 1 (a client that waits), 16 (the usual pipeline), 256 (several
clients in a turn). Not measured: sockets, the event loop, hashing, the store.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from sadik.kernels.native import resp as native
from sadik.kernels.reference import resp as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
RUNS = pytest.mark.parametrize("run", [1, 16, 256])

PREFIX = b"\x010"
VALUE = b"v" * 100


def requests(kind: str, run: int) -> bytes:
    """``run`` requests of one kind on different keys."""
    rng = random.Random(run)
    keys = [b"%016x" % rng.getrandbits(64) for _ in range(run)]
    words = [(b"SET", key, VALUE) if kind == "set" else (b"GET", key) for key in keys]
    return b"".join(
        b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in items)
        for items in words
    )


@TWINS
@RUNS
@pytest.mark.parametrize("kind", ["set", "get"])
def test_parse_into_batch(benchmark: Any, twin: Any, kind: str, run: int) -> None:
    parser, batch = twin.Parser(1 << 29, 1 << 30), twin.Batch(run, 1 << 16)
    data = requests(kind, run)

    def parse() -> int:
        batch.clear()
        parser.feed(data)
        assert parser.pull(batch, PREFIX, run) == 0
        return int(batch.count)

    assert benchmark(parse) == run


@TWINS
@RUNS
def test_parse_into_arguments(benchmark: Any, twin: Any, run: int) -> None:
    parser = twin.Parser(1 << 29, 1 << 30)
    data = requests("set", run)

    def parse() -> int:
        parser.feed(data)
        count = 0
        while parser.pull(None, b"", 0) == 1:
            count += len(parser.arguments)
        return count

    assert benchmark(parse) == 3 * run


@TWINS
def test_parse_long_value_in_pieces(benchmark: Any, twin: Any) -> None:
    parser = twin.Parser(1 << 29, 1 << 30)
    data = b"*2\r\n$4\r\nECHO\r\n$1048576\r\n" + bytes(1 << 20) + b"\r\n"
    pieces = [data[i : i + 65536] for i in range(0, len(data), 65536)]

    def parse() -> int:
        for piece in pieces:
            parser.feed(piece)
            result = parser.pull(None, b"", 0)
        assert result == 1
        return len(parser.arguments[1])

    assert benchmark(parse) == 1 << 20


@TWINS
@RUNS
def test_encode_run(benchmark: Any, twin: Any, run: int) -> None:
    values = VALUE * run
    starts = struct.pack(f"<{run}q", *range(0, 100 * run, 100))
    lengths = struct.pack(f"<{run}q", *[100] * run)
    kinds = status = bytes(run)
    replies = benchmark(lambda: twin.encode_run(0, run, kinds, status, values, starts, lengths, False))
    assert replies == (b"$100\r\n" + VALUE + b"\r\n") * run


@RUNS
def test_encode_run_by_joining(benchmark: Any, run: int) -> None:
    """The obvious Python: one formatted reply after another, joined."""
    values = [VALUE] * run
    replies = benchmark(lambda: b"".join([b"$%d\r\n%b\r\n" % (len(value), value) for value in values]))
    assert replies == (b"$100\r\n" + VALUE + b"\r\n") * run


@TWINS
@RUNS
@pytest.mark.parametrize("keys", ["random", "aimed"])
def test_chain(benchmark: Any, twin: Any, run: int, keys: str) -> None:
    """Aimed: digests whose halves differ in few bits, as a hostile client may choose its keys."""
    rng = random.Random(run)
    kinds = bytes(rng.choices([0, 1], k=run))
    digests = rng.randbytes(16 * run)
    if keys == "aimed":
        digests = b"".join(struct.pack("<QQ", i << 40, i << 40) for i in range(run))
    previous = bytearray(4 * run)
    benchmark(lambda: twin.chain(run, kinds, digests, previous))
    assert previous == b"\xff" * (4 * run)
