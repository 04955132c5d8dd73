"""The HTTP server of one node: listens, hands requests to the application, stops without losing answers."""

from __future__ import annotations

import asyncio

from aiohttp import web

from sadik.api.http.application import Application
from sadik.api.http.cluster import Cluster
from sadik.api.http.connection import Connection, ConnectionSet
from sadik.api.http.coordinator import Coordinator
from sadik.api.http.instruments import HttpInstruments
from sadik.api.http.limits import HttpLimits
from sadik.config import NodeConfig
from sadik.env.clock import Clock, SystemClock
from sadik.metrics import Registry
from sadik.settings import Address

_BACKLOG = 1024


class HttpServer:
    """Serves one coordinator over HTTP/1.1 on the running event loop.

    Args:
        config: Where to listen, the limits, and the secret clients must present.
        registry: Where the server's instruments are declared, and what ``/metrics`` shows.
        clock: Measures requests.
        limits: Instead of those that follow from ``config``.
        cluster: What operators steer; without it those routes are not there.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        config: NodeConfig,
        registry: Registry,
        *,
        clock: Clock | None = None,
        limits: HttpLimits | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self._listen = config.http.listen
        self._limits = limits or HttpLimits.of(config)
        instruments = HttpInstruments(
            registry, lambda: len(self.connections.open), lambda: self.application.budget.used
        )
        self.connections = ConnectionSet(
            self._limits, instruments.refused, instruments.late, instruments.malformed
        )
        self.application = Application(
            coordinator,
            cluster,
            registry=registry,
            instruments=instruments,
            clock=clock or SystemClock(),
            limits=self._limits,
            secret=config.secret,
        )
        self._handler: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> Address:
        """Listen; returns the bound address. Raises OSError when that is not possible."""
        loop = asyncio.get_running_loop()
        host, port = self._listen
        self._listener = await loop.create_server(self.connect, host, port, backlog=_BACKLOG)
        self._watch()
        host, port = self._listener.sockets[0].getsockname()[:2]
        return Address(host, port)

    def connect(self) -> Connection:
        """A protocol for one new connection; the listener calls this."""
        loop = asyncio.get_running_loop()
        if self._handler is None:
            self._handler = web.Server(self.application.handle)
        return Connection(self._handler, self.connections, loop)

    async def stop(self, grace_s: float) -> None:
        """Stop listening, close idle connections, let requests in progress finish for ``grace_s``, then close
        all.
        """
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._listener is not None:
            self._listener.close()
        if self._handler is not None:
            self._handler.pre_shutdown()
            await self._handler.shutdown(grace_s)
            self._handler = None
        if self._listener is not None:
            # Only now: from Python 3.12 on this waits for the connections too.
            await self._listener.wait_closed()
            self._listener = None

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self.connections.close_late_heads(loop.time())
        self._sweep = loop.call_later(self._limits.request_timeout_s / 4, self._watch)
