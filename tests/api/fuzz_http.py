"""Hostile HTTP from a seed, and an in-process bench that throws it at a server's protocol objects.

Inputs are whole conversations: one to four requests, most of them nearly right, because what is wholly wrong
is refused at the first byte. They are damaged (bytes flipped, cut, doubled, spliced from others) and cut into
pieces at random places.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sadik.api.http import HttpLimits, HttpServer
from sadik.api.http.connection import Connection
from sadik.config import NodeConfig
from sadik.metrics import Registry
from tests.api.fake_coordinator import FakeCoordinator

TURNS_MAX = 400
"""Turns of the loop after which an input counts as hanging; a usual one takes ten."""

LIMITS = HttpLimits(
    value_bytes_max=20_000, line_bytes_max=4000, field_bytes_max=2000, transfer_bytes_max=50_000
)

_METHODS = [
    b"GET",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"PUT",
    b"GET",
    b"POST",
    b"OPTIONS",
    b"CONNECT",
    b"PRI",
    b"get",
    b"",
]
_TARGETS = [
    b"/v1/kv/b/k",
    b"/v1/kv/b/%00%ff%2F",
    b"/v1/kv/b/" + b"%41" * 300,
    b"/v1/kv/b/k?r=1&timeout_ms=5&explain=1",
    b"/v1/kv/b?count=3&cursor=1",
    b"/v1/buckets/b",
    b"/v1/buckets",
    b"/v1/status",
    b"/metrics",
    b"/health",
    b"/",
    b"*",
    b"http://h:99999/v1/status",
    b"http://[::1/x",
    b"h:1",
    b"/v1/kv/b/\xff\xfe?\xff=\xff",
    b"/v1/kv/b/%zz",
    b"//v1//kv",
    b"/#f",
    b"/v1/kv/b/" + b"a" * 5000,
    b"?",
]
_FIELDS = [
    b"Connection: close",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Expect: a miracle",
    b"Accept: application/json",
    b"Accept: ;;q=,,,multipart/mixed;q=nan",
    b"If-None-Match: *",
    b"X-Sadik-Context: abc",
    b"X-Sadik-Context: WyIiLCAxXQ==",
    b"X-Sadik-Meta-A: \xc3\xa4\xff",
    b"X-Sadik-Meta-\xff: 1",
    b"Content-Type: text/plain",
    b"Content-Type: \t",
    b"Content-Encoding: gzip",
    b"Content-Encoding: deflate",
    b"Authorization: Basic ====",
    b"Cookie: " + b"a=b; " * 50,
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 0x10",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Trailer: X",
    b"Sec-WebSocket-Key1: 1",
    b" folded: x",
    b"Host: second",
    b"A" * 3000 + b": x",
]
_CHUNKS = [
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"fffffffffffffffff\r\n",
    b"-1\r\n",
    b"5;a=\x00\r\nhello\r\n",
]
_NOISE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b":",
    b"%",
    b"\xff",
    b"HTTP/1.1",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"\t",
]


@dataclass
class Input:
    """A conversation in pieces. ``whole``: it was not damaged, so it must be served."""

    pieces: list[bytes]
    whole: bool


def inputs(seed: int, count: int) -> Iterator[Input]:
    """``count`` conversations, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.1:
            yield Input(_cut(rng, _plain(rng)), True)
            continue
        data = b"".join(_request(rng) for _ in range(rng.choice((1, 1, 2, 4))))
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            data = _damage(rng, data)
        yield Input(_cut(rng, data), False)


def _plain(rng: random.Random) -> bytes:
    body = rng.randbytes(rng.randrange(0, 300))
    head = b"%s HTTP/1.1\r\nHost: h\r\n" % rng.choice(
        (b"PUT /v1/kv/b/k", b"GET /v1/status", b"DELETE /v1/kv/b/k")
    )
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return head + (length + body if head.startswith(b"PUT") else b"\r\n")


def _request(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        # Right so far: reaches the code behind the parser.
        lines = [
            rng.choice((b"PUT ", b"PUT ", b"DELETE ", b"GET ")) + rng.choice(_TARGETS[:6]) + b" HTTP/1.1"
        ]
        lines += [b"Host: h", *rng.sample(_FIELDS, rng.randrange(0, 4))]
    else:
        version = rng.choice((b"HTTP/1.1",) * 6 + (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1 x", b""))
        lines = [b" ".join((rng.choice(_METHODS), rng.choice(_TARGETS), version))]
        if rng.random() < 0.95:
            lines.append(b"Host: h")
        lines += rng.sample(_FIELDS, rng.randrange(0, 5))
    body = b""
    match rng.randrange(4):
        case 0:
            body = rng.randbytes(rng.randrange(0, 3000))
            lines.append(b"Content-Length: %d" % (len(body) + rng.choice((0, 0, 0, -1, 1, 30_000))))
        case 1:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"".join(rng.choices(_CHUNKS, k=rng.randrange(1, 6)))
        case 2:
            body = rng.randbytes(rng.randrange(0, 30))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _damage(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return rng.randbytes(5)
    at = rng.randrange(len(data))
    to = min(len(data), at + rng.choice((1, 1, 4, 40, 400)))
    match rng.randrange(6):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + data[to:]
        case 2:
            return data[:to] + data[at:]
        case 3:
            return data[:at] + rng.choice(_NOISE) * rng.choice((1, 1, 2, 50)) + data[at:]
        case 4:
            return data[:at]
        case _:
            return data[:at] + _request(rng)[: rng.randrange(1, 200)] + data[to:]


def _cut(rng: random.Random, data: bytes) -> list[bytes]:
    match rng.randrange(4):
        case 0:
            return [data]
        case 1 if len(data) < 400:
            return [data[at : at + 1] for at in range(len(data))]
        case _:
            points = [rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8))]
            marks = sorted({0, len(data), *points})
            return [data[low:high] for low, high in pairwise(marks)]


class FakeTransport(asyncio.Transport):
    """A socket without a system: keeps what is written, obeys pauses, tells of its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.protocol: Connection | None = None
        self.written = bytearray()
        self.reading = True
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closing:
            self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            assert self.protocol is not None
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close


class Bench(logging.Handler):
    """One server, and what went wrong in it.

    Attributes:
        faults: Errors logged, and errors that the event loop was told of.
        statuses: How often each status was answered.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.faults: list[str] = []
        self.statuses: dict[int, int] = {}
        self.coordinator = FakeCoordinator()
        self.server = HttpServer(self.coordinator, NodeConfig(), Registry(process=False), limits=LIMITS)

    def emit(self, record: logging.LogRecord) -> None:
        self.faults.append(self.format(record))

    async def run(self, seed: int, count: int) -> None:
        """Throw ``count`` inputs and judge each; the first that misbehaves fails with its seed and number."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_unhandled)
        logging.getLogger().addHandler(self)
        try:
            for number, hostile in enumerate(inputs(seed, count)):
                await self._throw(loop, hostile, f"seed {seed} input {number}: {hostile.pieces!r:.2000}")
                if number % 64 == 0:
                    self.coordinator.held.clear()
                    self.coordinator.calls.clear()
        finally:
            logging.getLogger().removeHandler(self)
            await self.server.stop(0.1)

    async def _throw(self, loop: asyncio.AbstractEventLoop, hostile: Input, label: str) -> None:
        transport = FakeTransport(loop)
        transport.protocol = connection = self.server.connect()
        connection.connection_made(transport)
        for piece in hostile.pieces:
            for _ in range(TURNS_MAX):
                if transport.reading or transport.closing:
                    break
                await asyncio.sleep(0)
            if transport.closing:
                break
            # A body that nobody reads leaves reading paused; a socket would hold the rest back, too.
            if transport.reading:
                connection.data_received(piece)
            if len(hostile.pieces) < 10:
                await asyncio.sleep(0)
        for _ in range(12):
            await asyncio.sleep(0)
        transport.close()
        for _ in range(TURNS_MAX):
            if not self.server.connections.open and not connection.active:
                break
            await asyncio.sleep(0)
        assert not self.server.connections.open, f"hangs: {label}"
        assert not connection.active, f"hangs: {label}"
        assert self.server.application.budget.used == 0, f"keeps memory: {label}"
        assert not self.faults, f"{self.faults[0]}\n{label}"
        answered = re.match(rb"HTTP/1\.[01] (\d{3}) [A-Z]", transport.written)
        assert answered or not transport.written, f"answers {bytes(transport.written[:99])!r}: {label}"
        status = int(answered[1]) if answered else 0
        self.statuses[status] = self.statuses.get(status, 0) + 1
        assert status != 500, f"breaks: {label}"
        if hostile.whole:
            assert status in (200, 204), f"refused with {status}: {label}"

    def _on_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')} {context.get('exception')!r}")
