"""A raw HTTP client on streams, and a server around the fake coordinator: tests see the bytes as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sadik.api.http import HttpLimits, HttpServer
from sadik.config import HttpConfig, NodeConfig
from sadik.metrics import Registry
from sadik.settings import Address
from tests.api.fake_cluster import FakeCluster
from tests.api.fake_coordinator import FakeCoordinator

WAIT_S = 20.0


@dataclass
class Answer:
    """One response: headers by lower-case name, the last of a repeated one."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    version: str = "HTTP/1.1"

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(
        self,
        method: str,
        target: str | bytes,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        raw = target if isinstance(target, bytes) else target.encode()
        lines = [method.encode() + b" " + raw + b" HTTP/1.1", b"Host: localhost"]
        lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
        return await self.answer(head_only=method == "HEAD")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), WAIT_S)

    async def answer(self, *, head_only: bool = False) -> Answer:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        status, *lines = head.decode().split("\r\n")
        headers = {}
        for line in filter(None, lines):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        answer = Answer(int(status.split()[1]), headers, version=status.split()[0])
        assert "transfer-encoding" not in headers
        if not head_only and answer.status not in (100, 204, 304):
            length = int(headers["content-length"])
            answer.body = await asyncio.wait_for(self.reader.readexactly(length), WAIT_S)
        return answer

    async def closed(self) -> bool:
        """Wait for the end of the connection; True when nothing came before it."""
        try:
            return await asyncio.wait_for(self.reader.read(), WAIT_S) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Harness:
    """A running server, its coordinator and its metrics."""

    coordinator: FakeCoordinator
    cluster: FakeCluster
    server: HttpServer
    registry: Registry
    port: int
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def request(
        self,
        method: str,
        target: str | bytes,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        return await (await self.connect()).request(method, target, headers, body)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until the condition holds."""
        async with asyncio.timeout(WAIT_S):
            # What is waited for is server state without an event of its own.
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value now; 0.0 where it was never counted."""
        return self.registry.prometheus.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(limits: HttpLimits | None = None, secret: bytes | None = None) -> AsyncIterator[Harness]:
    """A server on a free port; at the end it must stop in good order, with nothing held."""
    coordinator, cluster = FakeCoordinator(), FakeCluster()
    registry = Registry(process=False)
    config = NodeConfig(secret=secret, http=HttpConfig(listen=Address("127.0.0.1", 0)))
    server = HttpServer(coordinator, config, registry, limits=limits, cluster=cluster)
    harness = Harness(coordinator, cluster, server, registry, (await server.start()).port)
    try:
        yield harness
    finally:
        for client in harness.clients:
            await client.close()
        await asyncio.wait_for(server.stop(0.5), WAIT_S)
    await harness.until(lambda: not server.connections.open)
    assert server.application.budget.used == 0


def run(
    test: Callable[[Harness], Awaitable[None]],
    limits: HttpLimits | None = None,
    secret: bytes | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run one test against a server; whatever the loop reports as unhandled fails it."""
    unhandled: list[dict[str, Any]] = []

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        async with serving(limits, secret) as harness:
            await test(harness)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(whole())
    assert unhandled == []
