"""One connection to a node: requests out, replies in, in the same order.

What is sent in one turn of the event loop leaves in one write. Every request is answered once: with its
reply, or with ``Lost`` when the connection ends first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

from sadik.client.answers import failure_of
from sadik.client.limits import Limits
from sadik.client.replies import ErrorReply, Parser, encode
from sadik.errors import InvalidRequest, ProtocolError
from sadik.settings import Address

OnReply = Callable[[object], None]


@dataclass(frozen=True, slots=True)
class Lost:
    """In the place of a reply: there is none.

    Attributes:
        sent: Whether the node may have got the request.
    """

    reason: str
    sent: bool


class NotReached(Exception):
    """A connection to a node could not be opened; the text says why. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a connection begins with.

    Attributes:
        bucket: What its keys are in.
        secret: What nodes want from their clients, or None.
    """

    bucket: bytes
    secret: bytes | None

    def commands(self) -> list[list[bytes]]:
        hello = [b"HELLO", b"3"]
        if self.secret is not None:
            hello += [b"AUTH", b"default", self.secret]
        # New connections are in bucket 0, and a node that is starting knows no other.
        use = [] if self.bucket == b"0" else [[b"SADIK.USE", self.bucket]]
        return [hello, *use]


class _Waiting(NamedTuple):
    on_reply: OnReply
    sent_at: float


class Connection(asyncio.Protocol):
    """Open one by ``Connection.open``.

    Attributes:
        heard_at: When bytes came last, or it was opened; seconds of the event loop's clock.
        closed: Nothing can be sent any more.
    """

    def __init__(self, address: Address, limits: Limits, on_closed: Callable[[Connection], None]) -> None:
        self.heard_at = 0.0
        self.closed = False
        self._address = address
        self._limits = limits
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = Parser(limits.reply_bytes_max)
        self._waiting: deque[_Waiting] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._unpaused = asyncio.Event()
        self._unpaused.set()

    @classmethod
    async def open(
        cls, address: Address, greeting: Greeting, limits: Limits, on_closed: Callable[[Connection], None]
    ) -> Connection:
        """Connect and greet.

        Raises:
            NotReached: Not in time, or not now.
            InvalidRequest: The node does not want this client: the secret, the bucket's name.
        """
        loop = asyncio.get_running_loop()
        connection = cls(address, limits, on_closed)
        try:
            async with asyncio.timeout(limits.connect_timeout_ms / 1000):
                await loop.create_connection(lambda: connection, address.host, address.port)
                await connection._greet(greeting)
        except TimeoutError:
            connection.abort("does not answer")
            raise NotReached(f"{address} does not answer") from None
        except OSError as error:
            raise NotReached(f"{address} cannot be reached: {error.strerror or error}") from None
        except BaseException:
            connection.abort("was not greeted")
            raise
        return connection

    async def _greet(self, greeting: Greeting) -> None:
        commands = greeting.commands()
        replies = [self.ask(encode(command)) for command in commands]
        for command, waiting in zip(commands, replies, strict=True):
            reply = await waiting
            if isinstance(reply, Lost):
                raise NotReached(f"{self._address} {reply.reason}")
            if isinstance(reply, ErrorReply):
                failure = failure_of(reply)
                # "max number of clients reached" comes in the place of the hello, and as ERR too.
                if isinstance(failure, InvalidRequest) and (reply.code != "ERR" or command[0] != b"HELLO"):
                    raise failure
                raise NotReached(f"{self._address} answers: {reply.text}")

    def ask(self, request: bytes) -> asyncio.Future[object]:
        """Send a request; its reply, or ``Lost``, which nobody needs to wait for."""
        answer: asyncio.Future[object] = self._loop.create_future()

        def on_reply(reply: object) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.send(request, on_reply)
        return answer

    @property
    def pending(self) -> int:
        """Requests that are not answered yet."""
        return len(self._waiting)

    def waits_since(self) -> float:
        """Since when the node owes something and is silent; the present when it owes nothing."""
        return max(self.heard_at, self._waiting[0].sent_at) if self._waiting else self._loop.time()

    async def writable(self) -> None:
        """Wait until there is room for one more request, or none ever."""
        while not self._unpaused.is_set() or self._unsent_bytes > self._limits.unsent_bytes_max:
            if self._unsent_bytes:
                self._flush()
            await self._unpaused.wait()

    def send(self, request: bytes, on_reply: OnReply) -> None:
        """Send a request with the others of this turn; ``on_reply`` is called once, later."""
        if self.closed:
            self._loop.call_soon(on_reply, Lost("closed the connection", sent=False))
            return
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(request)
        self._unsent_bytes += len(request)
        self._waiting.append(_Waiting(on_reply, self._loop.time()))

    def _flush(self) -> None:
        if self._unsent and self._transport is not None:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_bytes = 0
            self._transport.write(data)

    def abort(self, reason: str) -> None:
        """End it now; what waits is lost."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.unsent_bytes_max)
        self.heard_at = self._loop.time()
        if self.closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            for reply in self._parser.feed(data):
                if not self._waiting:
                    raise ProtocolError("a reply that nothing was asked for")
                self._waiting.popleft().on_reply(reply)
        except ProtocolError as error:
            self.abort(f"does not speak the protocol: {error}")

    def pause_writing(self) -> None:
        self._unpaused.clear()

    def resume_writing(self) -> None:
        self._unpaused.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._end("closed the connection" if error is None else f"was lost: {error}")

    def _end(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._unpaused.set()
        unsent, self._unsent_bytes = len(self._unsent), 0
        self._unsent.clear()
        waiting, self._waiting = self._waiting, deque()
        sent = len(waiting) - unsent
        for number, one in enumerate(waiting):
            one.on_reply(Lost(reason, sent=number < sent))
        self._on_closed(self)
