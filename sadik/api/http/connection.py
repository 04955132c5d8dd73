"""One client's connection: aiohttp's protocol with limits on what a client may make us hold, and for how
long.

aiohttp parses, keeps alive, pipelines with a bound and closes idle connections. Added here: a limit on
connections, a time and a size for a request's head (a client that trickles headers would otherwise hold its
connection for ever), a bound on pipelined requests that counts in bytes, and errors of the parser as problem
documents.

A head is late when bytes have come, no request is being answered, and none has started since. Whether a
request is being answered is known from its handler, so nothing here depends on how aiohttp parses.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from sadik.api.http.limits import HEADERS_MAX, PIPELINE_MAX, HttpLimits
from sadik.api.http.problems import MEDIA_TYPE, Problem, busy, document, render
from sadik.metrics import CounterChild

_READ_BYTES: Final = 64 << 10
"""What aiohttp buffers of a body before it stops reading from the socket (it allows twice that)."""

_LINGERING_MAX: Final = 128
"""Refused connections that may wait for their end at one time; any more are closed at once."""

_log = logging.getLogger("sadik.http")


@dataclass(slots=True)
class ConnectionSet:
    """The open connections of one server, and what happened to others."""

    limits: HttpLimits
    refused: CounterChild
    late: CounterChild
    malformed: CounterChild
    open: dict[Connection, None] = field(default_factory=dict)
    lingering: int = 0

    def close_late_heads(self, now_s: float) -> None:
        """Answer 408 and close where a request's head has been under way for too long."""
        oldest = now_s - self.limits.request_timeout_s
        for connection in list(self.open):
            if not connection.active and not connection.refused and 0.0 < connection.head_since_s <= oldest:
                self.late.add()
                connection.refuse(Problem(408, "TIMEOUT", "the head of the request came too slowly"))


class Connection(web.RequestHandler):
    """See the top of the file.

    Attributes:
        refused: The connection has been told off and only waits for its end.
        active: A request is being answered, its body included.
        head_since_s: Loop time at which the first byte of a head came that is not complete; 0.0 for none.
    """

    def __init__(
        self, server: web.Server, connections: ConnectionSet, loop: asyncio.AbstractEventLoop
    ) -> None:
        limits = connections.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_timeout_s,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=limits.line_bytes_max,
            max_field_size=limits.field_bytes_max,
            max_headers=HEADERS_MAX,
            lingering_time=limits.linger_s,
            read_bufsize=_READ_BYTES,
            # Values are stored as they came; decompressing would also let a small body become a huge one.
            auto_decompress=False,
        )
        # aiohttp's own bound of 32 requests is right for small heads. With keys of 64 KiB, escaped, it would
        # let each connection hold 6 MiB.
        self._max_msg_queue_size = PIPELINE_MAX
        self._msg_queue_resume_size = PIPELINE_MAX // 2
        self._connections = connections
        self._now_s = loop.time
        self.refused = False
        self._head_bytes = 0
        self._socket: asyncio.Transport | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self.active = False
        self.head_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        connections = self._connections
        if len(connections.open) >= connections.limits.connections_max:
            connections.refused.add()
            self.refuse(busy(f"all {connections.limits.connections_max} connections are in use"))
            return
        connections.open[self] = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if not self.active and data:
            if not self.head_since_s:
                self.head_since_s = self._now_s()
            self._head_bytes += len(data)
        super().data_received(data)
        if self._messages:
            # A head is complete; what follows it may be a body, which has limits of its own.
            self._head_bytes = 0
        # The parser bounds the request line and each field; this bounds their sum.
        elif self._head_bytes > self._connections.limits.head_bytes_max and not self.active:
            self.refuse(Problem(431, "LIMIT", "the head of the request is too large"))

    def eof_received(self) -> None:
        """The client sends nothing more; asyncio closes the connection after this."""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._socket = None
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
            self._connections.lingering -= 1
        # One that was refused at once is unknown to aiohttp.
        if self in self._connections.open:
            del self._connections.open[self]
            super().connection_lost(exc)

    def on_request_start(self) -> None:
        """A complete head has reached its handler."""
        self.active = True
        self.head_since_s = 0.0
        self._head_bytes = 0

    def on_request_end(self) -> None:
        self.active = False

    def refuse(self, problem: Problem) -> None:
        """Say what is wrong and close, without a request to answer.

        A socket that is closed while bytes of its client are unread is reset, and the client loses the
        answer. So our side is closed first, and what still comes is dropped for a moment.
        """
        self.refused = True
        transport = self._socket
        if transport is None or transport.is_closing():
            return
        self._say(transport, problem)
        if self._connections.lingering >= _LINGERING_MAX:
            transport.close()
            return
        self._connections.lingering += 1
        loop = asyncio.get_running_loop()
        self._lingering = loop.call_later(self._connections.limits.linger_s, transport.abort)
        if transport.can_write_eof():
            transport.write_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that aiohttp could not parse; called by aiohttp, the connection closes
        after it.
        """
        if status >= 500:
            _log.error("a request handler failed", exc_info=exc)
            return render(Problem(500, "INTERNAL", "an internal error; the node's log has more", close=True))
        self._connections.malformed.add()
        if isinstance(exc, LineTooLong):
            line = len(exc.args) > 1 and exc.args[1] == self._connections.limits.line_bytes_max
            what, code = ("request line", 414) if line else ("header field", 431)
            return render(Problem(code, "LIMIT", f"the {what} is too long", close=True))
        reason = (message or "not HTTP").strip().splitlines()[0][:200]
        return render(Problem(400, "ERR", f"the request is malformed: {reason}", close=True))

    @staticmethod
    def _say(transport: asyncio.Transport, problem: Problem) -> None:
        body = document(problem)
        lines = [
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
            f"Content-Type: {MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {text}" for name, text in problem.headers.items()),
            "Connection: close",
        ]
        transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
