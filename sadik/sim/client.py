"""A simulated client: takes its steps over real connections, and writes down what it asked and was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from sadik.client.answers import MAYBE_APPLIED, read_reply
from sadik.client.connection import Connection, Greeting, Lost, NotReached
from sadik.client.limits import Limits
from sadik.client.replies import ErrorReply, encode
from sadik.errors import InvalidRequest
from sadik.settings import Address
from sadik.sim.history import NEVER, History, Kind, Operation, Seen, encode_value
from sadik.sim.loop import Process
from sadik.sim.plan import Step
from sadik.sim.trace import Trace

_GREETING: Final = Greeting(b"0", None)
_LIMITS: Final = Limits(connect_timeout_ms=300)
_GONE: Final = Lost("no answer in time", sent=True)


class Journal:
    """Numbers the operations of all clients of a world, and notes them in its trace and history."""

    def __init__(self, history: History, trace: Trace, now_ms: Callable[[], float]) -> None:
        self.history = history
        self.trace = trace
        self.now_ms = now_ms
        self.batches = 0

    def ask(self, client: SimClient, key: bytes, kind: Kind, node: str) -> Operation:
        """An operation that is sent now."""
        operation = Operation(
            number=len(self.history.operations),
            client=client.number,
            session=client.number,
            seq=client.seq,
            key=key,
            kind=kind,
            node=node,
            start_ms=self.now_ms(),
        )
        self.history.operations.append(operation)
        return operation

    def answered(self, operation: Operation, reply: object) -> bool:
        """Note what became of it; True if it was done."""
        operation.end_ms = self.now_ms()
        if isinstance(reply, Lost):
            operation.outcome = "unknown" if reply.sent else "refused"
            operation.reason = reply.reason
        elif isinstance(reply, ErrorReply):
            operation.outcome = "unknown" if MAYBE_APPLIED in reply.text else "refused"
            operation.reason = reply.text
        else:
            operation.outcome = "done"
        return operation.outcome == "done"

    def close(self, operation: Operation) -> None:
        """All is known of it."""
        self.trace.note(
            "client",
            operation.number,
            operation.client,
            operation.kind,
            operation.key,
            operation.node,
            operation.outcome,
            operation.reason,
            *(value.value for value in operation.values),
        )


class SimClient:
    """Attributes:
    seq: Counts what it has written.
    """

    def __init__(
        self,
        number: int,
        loop: asyncio.AbstractEventLoop,
        journal: Journal,
        addresses: Sequence[tuple[str, Address]],
        *,
        patience_s: float,
    ) -> None:
        self.number = number
        self.seq = 0
        self.process = Process(f"c{number}", f"127.9.0.{number + 1}")
        self._loop = loop
        self._journal = journal
        self._addresses = addresses
        self._patience_s = patience_s
        self._connections: dict[int, Connection] = {}
        self._received: dict[bytes, Operation] = {}

    @property
    def stale_reads(self) -> int:
        """Reads that showed less than it had seen, where it notices."""
        return 0

    async def run(self, steps: Sequence[Step], until_s: float) -> None:
        """Take the steps, one after another; none is begun after ``until_s``."""
        for step in steps:
            await asyncio.sleep(step.pause_s)
            if self._loop.time() > until_s:
                return
            await self.take(step)

    async def take(self, step: Step) -> None:
        """Take one step."""
        keys = [b"k%d" % number for number in step.keys]
        match step.verb:
            case "read":
                await self.read(step.node, keys[0])
            case "get" | "mget":
                await self._get(step.node, keys)
            case "rmw":
                read = await self.read(step.node, keys[0])
                if read.outcome == "done":
                    await self._put(step, keys[0], read)
            case "put":
                await self._put(step, keys[0], self._received.get(keys[0]))
            case "forge":
                await self._put(step, keys[0], None)
            case "delete":
                await self._delete(step, keys[0])
            case "set" | "mset":
                await self._set(step, keys)
            case "del":
                operation = self._ask(keys[0], "blind_delete", step.node)
                self._finish(operation, await self._send(step.node, [b"DEL", keys[0]]))
            case "expire":
                await self._expire(step, keys[0])
            case _:
                raise AssertionError(step.verb)

    async def read(self, node: int, key: bytes, *, primaries: int = 0) -> Operation:
        """SADIK.GET, with answers of so many primaries."""
        operation = self._ask(key, "read", node)
        operation.r = operation.pr = primaries
        options = [b"R", b"%d" % primaries, b"PR", b"%d" % primaries] if primaries else []
        reply = await self._send(node, [b"SADIK.GET", key, *options])
        if self._journal.answered(operation, reply):
            shown = read_reply(reply)
            operation.context = shown.context
            operation.values = tuple(
                Seen(one.value, one.stamp_ms, NEVER if one.expires_at_ms is None else one.expires_at_ms)
                for one in shown.siblings
            )
            self._received[key] = operation
        self._journal.close(operation)
        return operation

    async def _get(self, node: int, keys: Sequence[bytes]) -> None:
        operations = self._ask_many(keys, "read", node)
        words = [b"GET", *keys] if len(keys) == 1 else [b"MGET", *keys]
        reply = await self._send(node, words)
        values: list[Any] = reply if isinstance(reply, list) else [reply]
        for index, operation in enumerate(operations):
            operation.newest_only = True
            if self._journal.answered(operation, reply):
                operation.values = () if values[index] is None else (Seen(values[index]),)
            self._journal.close(operation)

    async def _put(self, step: Step, key: bytes, source: Operation | None) -> None:
        operation = self._ask(key, "write", step.node)
        value = self._give(operation, step)
        self._with_context(operation, source)
        options = [b"TTL_MS", b"%d" % step.ttl_ms] if step.ttl_ms else []
        reply = await self._send(step.node, [b"SADIK.PUT", key, operation.context_given, value, *options])
        self._finish_with_context(operation, reply)

    async def _delete(self, step: Step, key: bytes) -> None:
        source = self._received.get(key)
        operation = self._ask(key, "delete", step.node)
        self._with_context(operation, source)
        reply = await self._send(step.node, [b"SADIK.DEL", key, operation.context_given])
        self._finish_with_context(operation, reply)

    async def _set(self, step: Step, keys: Sequence[bytes]) -> None:
        operations = self._ask_many(keys, "blind", step.node)
        values = [self._give(operation, step) for operation in operations]
        pairs = [word for pair in zip(keys, values, strict=True) for word in pair]
        if step.verb == "mset":
            words = [b"MSET", *pairs]
            for operation in operations:
                operation.ttl_ms = -1
        else:
            words = [b"SET", *pairs] + ([b"PX", b"%d" % step.ttl_ms] if step.ttl_ms else [])
        reply = await self._send(step.node, words)
        for operation in operations:
            self._finish(operation, reply)

    async def _expire(self, step: Step, key: bytes) -> None:
        operation = self._ask(key, "expire", step.node)
        operation.ttl_ms = step.ttl_ms
        reply = await self._send(step.node, [b"PEXPIRE", key, b"%d" % step.ttl_ms])
        if reply == 0:
            operation.end_ms = self._journal.now_ms()
            operation.outcome, operation.reason = "refused", "nothing is there"
            self._journal.close(operation)
            return
        self._finish(operation, reply)

    def _ask(self, key: bytes, kind: Kind, node: int) -> Operation:
        return self._journal.ask(self, key, kind, self._addresses[node][0])

    def _ask_many(self, keys: Sequence[bytes], kind: Kind, node: int) -> list[Operation]:
        operations = [self._ask(key, kind, node) for key in keys]
        if len(keys) > 1:
            self._journal.batches += 1
            for operation in operations:
                operation.batch = self._journal.batches
        return operations

    def _give(self, operation: Operation, step: Step) -> bytes:
        """A value that names this client."""
        self.seq += 1
        operation.seq = self.seq
        operation.value = encode_value(self.number, self.seq, operation.key, step.size)
        if step.ttl_ms:
            operation.ttl_ms = step.ttl_ms
        return operation.value

    def _with_context(self, operation: Operation, source: Operation | None) -> None:
        if source is not None and source.context:
            operation.context_given = source.context
            operation.context_of = source.number

    def _finish_with_context(self, operation: Operation, reply: object) -> None:
        if self._journal.answered(operation, reply) and isinstance(reply, bytes):
            operation.context = reply
            self._received[operation.key] = operation
        self._journal.close(operation)

    def _finish(self, operation: Operation, reply: object) -> None:
        self._journal.answered(operation, reply)
        self._journal.close(operation)

    # The wire.

    async def _send(self, node: int, words: Sequence[bytes]) -> object:
        """Ask a node; its reply, or ``Lost``."""
        connection = self._connections.get(node)
        if connection is None or connection.closed:
            try:
                connection = await Connection.open(
                    self._addresses[node][1], _GREETING, _LIMITS, lambda connection: None
                )
            except (NotReached, InvalidRequest) as error:
                return Lost(str(error), sent=False)
            self._connections[node] = connection
        answer = connection.ask(encode(words))
        patience = self._loop.call_later(self._patience_s, _give_up, answer)
        reply = await answer
        patience.cancel()
        if reply is _GONE:
            connection.abort("does not answer")
        return reply


def _give_up(answer: asyncio.Future[object]) -> None:
    if not answer.done():
        answer.set_result(_GONE)
