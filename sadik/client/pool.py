"""The connections to one node, and how it has been doing: what a client knows of a node beyond the layout."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from sadik.client.connection import Connection, Greeting, Lost, NotReached
from sadik.client.limits import Limits
from sadik.errors import InvalidRequest
from sadik.settings import Address

_SHUNNED_S: Final = 0.2
_SHUNNED_MAX_S: Final = 10.0
_SMOOTHING: Final = 0.2
_OVER: Final = "the client is closed"


class Pool:
    """At most ``connections_max`` connections, opened as they are needed.

    Attributes:
        in_flight: Requests that are not answered yet.
        failures: Times in a row that the node was not reached or said nothing.
        latency_s: Of reads, smoothed; 0 for a node that has not answered any lately.
    """

    def __init__(self, address: Address, greeting: Greeting, limits: Limits) -> None:
        self.address = address
        self.in_flight = 0
        self.failures = 0
        self.latency_s = 0.0
        self._greeting = greeting
        self._limits = limits
        self._patience_s = limits.attempt_timeout_ms / 1000
        self._connections: list[Connection] = []
        self._slots = asyncio.Semaphore(limits.in_flight_max)
        self._opening: asyncio.Task[None] | None = None
        self._shunned_until = 0.0
        self._retired = False

    @property
    def connections(self) -> int:
        return len(self._connections)

    # How it is doing.

    def shunned(self, now: float) -> bool:
        """Whether others are asked first: the node failed a moment ago, or owes an answer and is silent."""
        return now < self._shunned_until or any(self._is_silent(one, now) for one in self._connections)

    def _is_silent(self, connection: Connection, now: float) -> bool:
        return now - connection.waits_since() >= self._patience_s

    def fade(self) -> None:
        """Trust what was measured less, so that a node that was slow once is tried again."""
        self.latency_s /= 2

    def _on_failure(self) -> None:
        self.failures += 1
        pause = min(_SHUNNED_S * 2 ** min(self.failures - 1, 10), _SHUNNED_MAX_S)
        self._shunned_until = asyncio.get_running_loop().time() + pause

    def _on_answer(self) -> None:
        self.failures = 0
        self._shunned_until = 0.0

    # Requests.

    async def exchange(self, requests: Sequence[bytes], *, until: float, writes: bool) -> list[object]:
        """Send requests and wait for their replies; one of each, in order, or ``Lost``.

        Reads of a node that is silent for ``attempt_timeout_ms`` are given up; writes are waited for.

        Args:
            until: When to give up at the latest, by the event loop's clock.
        Raises:
            InvalidRequest: The node does not want this client.
        """
        answers: list[asyncio.Future[object]] = []
        carriers: list[Connection] = []
        why = f"{self.address} could not be asked in time"
        try:
            async with asyncio.timeout_at(until):
                await self._open_enough(len(requests))
                for request in requests:
                    await self._slots.acquire()
                    connection = await self._connection_with_room()
                    carriers.append(connection)
                    answers.append(self._send(connection, request, writes))
        except NotReached as error:
            why = str(error)
        except TimeoutError:
            pass
        await self._wait(answers, carriers, until, writes)
        found = [
            answer.result() if answer.done() else Lost(f"{self.address} does not answer", sent=True)
            for answer in answers
        ]
        if any(isinstance(one, Lost) for one in found):
            self._on_failure()
        return found + [Lost(why, sent=False)] * (len(requests) - len(found))

    def _send(self, connection: Connection, request: bytes, writes: bool) -> asyncio.Future[object]:
        """The slot is taken already, and given back with the reply: however long nobody waits for it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()
        started = loop.time()
        self.in_flight += 1

        def on_reply(reply: object) -> None:
            self.in_flight -= 1
            self._slots.release()
            if isinstance(reply, Lost):
                reply = Lost(f"{self.address} {reply.reason}", reply.sent)
            else:
                self._on_answer()
                if not writes:
                    took = loop.time() - started
                    self.latency_s += (took - self.latency_s) * (_SMOOTHING if self.latency_s else 1.0)
            if not answer.done():
                answer.set_result(reply)

        connection.send(request, on_reply)
        return answer

    async def _wait(
        self,
        answers: Sequence[asyncio.Future[object]],
        carriers: Sequence[Connection],
        until: float,
        writes: bool,
    ) -> None:
        """Until all have come, or it is time to give up."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while left := [number for number, answer in enumerate(answers) if not answer.done()]:
            give_up = until
            if not writes:
                silent_since = min(max(started, carriers[number].heard_at) for number in left)
                give_up = min(until, silent_since + self._patience_s)
            if loop.time() >= give_up:
                return
            await asyncio.wait([answers[number] for number in left], timeout=give_up - loop.time())

    # Connections.

    async def _open_enough(self, count: int) -> None:
        """Have as many connections as ``count`` more requests can use; fewer will do, none will not.

        Raises:
            NotReached, InvalidRequest: There is none.
        """
        wanted = min(self._limits.connections_max, self.in_flight + count)
        if len(self._connections) >= wanted:
            return
        if self._retired:
            raise NotReached(f"{self.address} is not asked any more")
        # One opens for all who come meanwhile; who gives up waiting does not end it for the others.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open(wanted))
            self._opening.add_done_callback(self._on_opened)
        try:
            await asyncio.shield(self._opening)
        except (NotReached, InvalidRequest):
            if not self._connections:
                raise

    async def _open(self, wanted: int) -> None:
        try:
            for _ in range(wanted - len(self._connections)):
                opened = await Connection.open(self.address, self._greeting, self._limits, self._on_closed)
                if opened.closed:
                    raise NotReached(f"{self.address} closed the connection")
                self._connections.append(opened)
        except NotReached:
            self._on_failure()
            raise

    def _on_opened(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            # Whoever waits is told; where nobody does any more, the next one will be.
            task.exception()

    def _on_closed(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    async def _connection_with_room(self) -> Connection:
        """The connection of fewest requests that takes one more, a silent one last. The caller's slot is
        given back when there is none.
        """
        now = asyncio.get_running_loop().time()
        try:
            while self._connections:
                connection = min(self._connections, key=lambda one: (self._is_silent(one, now), one.pending))
                await connection.writable()
                if not connection.closed:
                    return connection
            raise NotReached(f"{self.address} closed the connection")
        except BaseException:
            self._slots.release()
            raise

    # Life.

    def tend(self) -> None:
        """Now and then: cut what has owed an answer for too long, and what nobody needs any more."""
        silence = self._limits.timeout_ms / 1000
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            if now - connection.waits_since() >= silence:
                connection.abort("has been silent for too long")
            elif self._retired and not connection.pending:
                connection.abort(_OVER)

    def retire(self) -> None:
        """No new connections: the layout has this node no more. What is under way is answered."""
        self._retired = True
        self.tend()

    async def close(self) -> None:
        """End everything; what waits is lost."""
        self._retired = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for connection in list(self._connections):
            connection.abort(_OVER)
