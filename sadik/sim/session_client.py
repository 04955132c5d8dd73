"""A simulated client that uses the Python client's sessions, as programs do: they choose nodes, remember
contexts, and say so when the cluster shows less than they have seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sadik.client.client import Client
from sadik.client.limits import Limits
from sadik.client.session import Session
from sadik.env.entropy import Entropy
from sadik.errors import SadikError
from sadik.sim.client import SimClient
from sadik.sim.history import NEVER, Operation, Seen
from sadik.sim.history import Session as SessionRecord
from sadik.sim.plan import Step

_LIMITS: Final = Limits(
    timeout_ms=1500, attempt_timeout_ms=400, connect_timeout_ms=300, refresh_interval_ms=1000
)


class SessionClient(SimClient):
    """Takes the same steps; where a step would name a node or be blind, the session does what is nearest."""

    def __init__(self, *arguments: Any, entropy: Entropy, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._entropy = entropy
        self._client: Client | None = None
        self._journal.history.add(SessionRecord(self.number))

    @property
    def stale_reads(self) -> int:
        """Those that the session asked for again, or reported."""
        return 0 if self._client is None else self._client.statistics().stale

    async def take(self, step: Step) -> None:
        """Take one step; of many keys one after another."""
        for number in step.keys:
            await self._take(step, b"k%d" % number)

    async def _take(self, step: Step, key: bytes) -> None:
        match step.verb:
            case "read" | "get" | "mget":
                await self.read(step.node, key)
            case "rmw":
                if (await self.read(step.node, key)).outcome == "done":
                    await self._write(step, key)
            case "delete" | "del":
                await self._write(step, key, deletes=True)
            case _:
                await self._write(step, key)

    async def read(self, node: int, key: bytes, *, primaries: int = 0) -> Operation:
        """``get``."""
        operation = self._journal.ask(self, key, "read", "")
        found = await self._call(operation, lambda session: session.get(key))
        if operation.outcome == "done":
            operation.context = found.context
            operation.values = tuple(
                Seen(one.value, one.stamp_ms, NEVER if one.expires_at_ms is None else one.expires_at_ms)
                for one in found.siblings
            )
        self._journal.close(operation)
        return operation

    async def _write(self, step: Step, key: bytes, *, deletes: bool = False) -> None:
        operation = self._journal.ask(self, key, "delete" if deletes else "write", "")
        if self._client is not None:
            operation.context_given = self._client._contexts.context(key)
        if deletes:
            context = await self._call(operation, lambda session: session.delete(key))
        else:
            value = self._give(operation, step)
            ttl_ms = step.ttl_ms or None
            context = await self._call(operation, lambda session: session.put(key, value, ttl_ms=ttl_ms))
        if operation.outcome == "done" and context is not None:
            operation.context = context
        self._journal.close(operation)

    async def _call(self, operation: Operation, call: Callable[[Session], Awaitable[Any]]) -> Any:
        """Call the session; what it gives, or nothing, with the reason noted."""
        try:
            found = await call(await self._opened())
        except SadikError as error:
            operation.end_ms = self._journal.now_ms()
            maybe = operation.writes and getattr(error, "maybe_applied", False)
            operation.outcome = "unknown" if maybe else "refused"
            operation.reason = f"{type(error).__name__}: {error}"
            return None
        operation.end_ms = self._journal.now_ms()
        operation.outcome = "done"
        return found

    async def _opened(self) -> Client:
        if self._client is None:
            addresses: Sequence[Any] = [address for _, address in self._addresses]
            client = Client(addresses, limits=_LIMITS, entropy=self._entropy)
            self._client = await client.open()
        return self._client
