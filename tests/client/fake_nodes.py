"""Nodes that answer as a test tells them: RESP over real sockets, no store behind.

A node's ``script`` is called with each command that is not part of the greeting or a question for the layout;
what it returns is sent: bytes, ``SILENCE`` for no answer to this and all that follows on the connection
(which the script is not asked about), ``CUT`` for a connection that ends instead.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Final, Self

from sadik.causality.context import context_key, encode_context
from sadik.client import Client, Limits
from sadik.kernels import digest

CLUSTER: Final = context_key("a cluster of fakes")
SILENCE: Final = b"(silence)"
CUT: Final = b"(cut)"
OK: Final = b"+OK\r\n"
NULL: Final = b"_\r\n"
HELLO: Final = b"%1\r\n$5\r\nproto\r\n:3\r\n"
ROUNDS_MAX: Final = 2000

Script = Callable[[list[bytes]], bytes]

QUICK: Final = Limits(timeout_ms=10_000, attempt_timeout_ms=300, connect_timeout_ms=1_000)
"""Short where a test waits for it to pass."""


class FakeNode:
    """One listener.

    Attributes:
        script: See above.
        layout: The answer to SADIK.LAYOUT, raw, or one of the signs.
        hello, use: The answers to HELLO and SADIK.USE.
        commands: What the script was asked, in order.
        greetings: HELLO and SADIK.USE as they came.
        asked: Times that the layout was asked for.
        connections: Open now; ``connected`` counts all there were.
        reads: Cleared, it reads no further command until it is set again.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda command: OK)
        self.layout = b"-ERR unknown command 'SADIK.LAYOUT'\r\n"
        self.hello = HELLO
        self.use = OK
        self.commands: list[list[bytes]] = []
        self.greetings: list[list[bytes]] = []
        self.asked = 0
        self.connections = 0
        self.connected = 0
        self.port = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def keys(self) -> list[bytes]:
        return [command[1] for command in self.commands]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a process that dies: nothing listens, every connection ends."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await until(lambda: self.connections == 0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected += 1
        self._writers.append(writer)
        silent = False
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self.reads.wait() and (command := await read_command(reader)) is not None:
                    if silent:
                        self.commands.append(command)
                        continue
                    answer = self._answer(command)
                    if answer == CUT:
                        break
                    # What came after would be taken for the answer that is owed.
                    silent = answer == SILENCE
                    if not silent:
                        writer.write(answer)
                        await writer.drain()
        finally:
            self.connections -= 1
            if writer in self._writers:
                self._writers.remove(writer)
            writer.close()

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"HELLO":
            self.greetings.append(command)
            return self.hello
        if command[0] == b"SADIK.USE":
            self.greetings.append(command)
            return self.use
        if command[0] == b"SADIK.LAYOUT":
            self.asked += 1
            return self.layout
        self.commands.append(command)
        return self.script(command)


async def read_command(reader: asyncio.StreamReader) -> list[bytes] | None:
    """The next command, None at the end of the stream."""
    line = await reader.readline()
    if not line:
        return None
    arguments = []
    for _ in range(int(line[1:])):
        length = int((await reader.readline())[1:])
        arguments.append((await reader.readexactly(length + 2))[:-2])
    return arguments


@asynccontextmanager
async def fakes(*nodes: FakeNode) -> AsyncIterator[None]:
    """All of them, started."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node)
        yield


def lay_out(
    nodes: Sequence[FakeNode],
    rows: Sequence[Sequence[int]] = (),
    *,
    version: int = 1,
    down: Sequence[int] = (),
    tell: Sequence[FakeNode] | None = None,
) -> None:
    """Have ``tell``, or all of the nodes, answer with this layout: ``n0``, ``n1`` ... and a row of node
    numbers for each partition; by default one partition that all keep.
    """
    rows = rows or [range(len(nodes))]
    width = len(rows[0])
    document = {
        "version": version,
        "partitions": len(rows),
        "replicas": width,
        "width": width,
        "nodes": [
            {"node": f"n{number}", "resp": node.address, "up": number not in down}
            for number, node in enumerate(nodes)
        ],
        "assignment": base64.b64encode(
            b"".join(number.to_bytes(2, "little") for row in rows for number in row)
        ).decode(),
    }
    for node in nodes if tell is None else tell:
        node.layout = bulk(json.dumps(document).encode())


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def context_of(key: bytes, *entries: tuple[int, int], hint: int | None = None, bucket: bytes = b"0") -> bytes:
    """As a node makes it."""
    return encode_context(entries, digest.address_digest(bucket, key), CLUSTER, hint=hint)


def values(context: bytes, *payloads: bytes, expires_at_ms: int = -1) -> bytes:
    """The answer to SADIK.GET."""
    items = b"".join(b"*3\r\n%b:1000\r\n:%d\r\n" % (bulk(value), expires_at_ms) for value in payloads)
    return b"*2\r\n%b*%d\r\n%b" % (bulk(context), len(payloads), items)


def nothing(command: list[bytes]) -> bytes:
    """A script: no key exists, every write is done."""
    return values(b"") if command[0] == b"SADIK.GET" else NULL


def client(*nodes: FakeNode, limits: Limits = QUICK, monotonic: bool = True) -> Client:
    return Client([node.address for node in nodes], limits=limits, monotonic=monotonic)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; at most some seconds."""
    for _ in range(ROUNDS_MAX):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to hold")
