"""The cluster as a client sees it: which node to ask, and what to do when that fails.

The layout is asked for once in ``refresh_interval_ms`` from a random node, and at once on a surprise: a node
that was not reached, refused, or said nothing (client-driven coordination, Dynamo 6.4). Requests go straight
to a primary of their key: reads to the one that has been the fastest, writes to the one that answered the
read whose context they bring (Dynamo 5), else to the first. Any node takes any request, so a layout that is
old, or none at all, costs a hop and nothing else.

What is tried again, within the call's deadline: reads; and writes that surely were not applied, because
nothing was sent or the node refused them. A write that was sent and not answered is reported as unknown, at
the latest at the deadline, and never sent twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from sadik.client.answers import MAYBE_APPLIED, failure_of, is_refused
from sadik.client.connection import Greeting, Lost
from sadik.client.limits import Limits
from sadik.client.pool import Pool
from sadik.client.replies import ErrorReply, encode
from sadik.client.routes import Place, Routes
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import InvalidRequest, Overloaded, ProtocolError, SadikError, StorageError, Unavailable
from sadik.settings import Address

log = logging.getLogger("sadik.client")

_PAUSE_S: Final = 0.01
_PAUSE_MAX_S: Final = 0.5
_INSTANT_TRIES: Final = 3
"""Nodes that are asked one right after the other; who still fails then, waits before each further try."""
_REFRESH_PAUSE_S: Final = 0.1
"""Least time between two refreshes, however many surprises there are."""
_INSTANT_S: Final = 1e-6
"""A node that has not been measured counts as the fastest, and load still tells two of them apart."""


@dataclass(slots=True)
class Operation:
    """One key's request on its way.

    Attributes:
        digest: Of the address.
        request: Encoded.
        hint: The node that the context names, for writes.
        reply: The node's answer, once there is one.
        failure: Why there is none; while more tries are possible, of the last one.
        tried: Nodes asked in this round.
    """

    digest: bytes
    request: bytes
    writes: bool
    hint: int | None = None
    reply: object = None
    failure: SadikError | None = None
    tried: list[Address] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot; counts are since the client was opened.

    Attributes:
        layout_version: 0 while none is known.
        nodes: That can be asked, seeds included.
        connections, in_flight: Now, over all nodes.
        requests: Sent, all attempts.
        retries: Of these, attempts after the first.
        unknown: Writes of which nobody knows whether they were applied.
        stale: Reads that showed less than their session had seen; repeated, or reported.
        refreshes, refreshes_failed: Of the layout.
    """

    layout_version: int
    nodes: int
    connections: int
    in_flight: int
    requests: int
    retries: int
    unknown: int
    stale: int
    refreshes: int
    refreshes_failed: int


class Cluster:
    """Runs operations; shared by the sessions of one client.

    Attributes:
        stale: Counted by the sessions.
    Args:
        seeds: Where to begin, and what is left when no other node can be reached; at least one.
    """

    def __init__(
        self, seeds: Sequence[Address], greeting: Greeting, limits: Limits, entropy: Entropy
    ) -> None:
        self.limits = limits
        self._greeting = greeting
        self._entropy = entropy
        self._seeds = list(dict.fromkeys(seeds))
        self._refresher: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        """As before anything was asked; nothing of the last event loop is left."""
        self._pools = {seed: Pool(seed, self._greeting, self.limits) for seed in self._seeds}
        self._retired: list[Pool] = []
        self._routes: Routes | None = None
        self._surprised = asyncio.Event()
        self._requests = self._retries = self._unknown = self.stale = 0
        self._refreshes = self._refreshes_failed = 0

    @property
    def alone(self) -> bool:
        """One node has all: it cannot be behind another."""
        return self._routes is None or len(self._routes.places) <= 1

    @property
    def is_open(self) -> bool:
        return self._refresher is not None

    def statistics(self) -> Statistics:
        pools = self._pools.values()
        return Statistics(
            layout_version=0 if self._routes is None else self._routes.version,
            nodes=len(pools),
            connections=sum(pool.connections for pool in pools),
            in_flight=sum(pool.in_flight for pool in pools),
            requests=self._requests,
            retries=self._retries,
            unknown=self._unknown,
            stale=self.stale,
            refreshes=self._refreshes,
            refreshes_failed=self._refreshes_failed,
        )

    # Life.

    async def open(self) -> None:
        """Ask the seeds for the layout, and keep it fresh from now on.

        Raises:
            Unavailable: None of them answers within ``timeout_ms``.
            InvalidRequest: The secret or the bucket is refused, or it is open already.
        """
        if self.is_open:
            raise InvalidRequest("the client is open already")
        self._begin()
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.timeout_ms / 1000
        pause = _PAUSE_S
        told = ""
        try:
            while (reason := await self._refresh(until)) is not None:
                # The last round may have been cut short, and then knows less than the one before.
                told = reason if not told or loop.time() < until else told
                pause = min(2 * pause, _PAUSE_MAX_S)
                if loop.time() + pause >= until:
                    raise Unavailable(f"no node answers: {told}")
                await asyncio.sleep(pause * self._jitter())
        except BaseException:
            await self._close_pools()
            raise
        self._refresher = loop.create_task(self._keep_fresh())
        self._refresher.add_done_callback(_report)

    async def close(self) -> None:
        """End all connections; calls under way end with ``Unavailable``."""
        refresher, self._refresher = self._refresher, None
        if refresher is not None:
            refresher.cancel()
            await asyncio.wait([refresher])
        await self._close_pools()

    async def _close_pools(self) -> None:
        for pool in [*self._pools.values(), *self._retired]:
            await pool.close()

    # Operations.

    async def run(self, operations: Sequence[Operation], until: float) -> None:
        """Bring every operation to its reply or failure.

        Args:
            until: Deadline by the event loop's clock.
        Raises:
            InvalidRequest: The client is not open.
        """
        if not self.is_open:
            raise InvalidRequest("the client is not open; use `async with`, or `open`")
        loop = asyncio.get_running_loop()
        pause = _PAUSE_S
        left = list(operations)
        while True:
            left, wait = await self._attempt(left, until)
            if not left:
                return
            if wait:
                if loop.time() + pause >= until:
                    return
                await asyncio.sleep(pause * self._jitter())
                pause = min(2 * pause, _PAUSE_MAX_S)
            elif loop.time() >= until:
                return
            if not self.is_open:
                return
            self._retries += len(left)

    async def _attempt(self, operations: Sequence[Operation], until: float) -> tuple[list[Operation], bool]:
        """Ask one node for each operation; those to try again, and whether to wait before."""
        groups: dict[Pool, list[Operation]] = {}
        for operation in operations:
            groups.setdefault(self._choose(operation), []).append(operation)
        self._requests += len(operations)
        if len(groups) == 1:
            ((pool, group),) = groups.items()
            await self._ask(pool, group, until)
        else:
            async with asyncio.TaskGroup() as tasks:
                for pool, group in groups.items():
                    tasks.create_task(self._ask(pool, group, until))
        again = [operation for operation in operations if self._once_more(operation)]
        enough = min(_INSTANT_TRIES, len(self._pools))
        return again, any(
            len(operation.tried) >= enough or isinstance(operation.failure, Overloaded) for operation in again
        )

    async def _ask(self, pool: Pool, group: Sequence[Operation], until: float) -> None:
        for operation in group:
            operation.tried.append(pool.address)
        # Reads and writes never come in one call.
        writes = group[0].writes
        try:
            requests = [operation.request for operation in group]
            replies = await pool.exchange(requests, until=until, writes=writes)
        except InvalidRequest as refused:
            for operation in group:
                operation.reply, operation.failure = None, refused
            return
        for operation, reply in zip(group, replies, strict=True):
            self._settle(operation, reply, until)

    def _settle(self, operation: Operation, reply: object, until: float) -> None:
        late = asyncio.get_running_loop().time() >= until
        if late and isinstance(reply, Lost) and not reply.sent and operation.failure is not None:
            # There was no time for this try: what the one before met says more.
            return
        operation.reply = reply
        if isinstance(reply, ErrorReply):
            operation.failure = failure_of(reply)
        elif isinstance(reply, Lost):
            maybe_applied = operation.writes and reply.sent
            text = f"{reply.reason}; the write {MAYBE_APPLIED}" if maybe_applied else reply.reason
            operation.failure = Unavailable(text, maybe_applied=maybe_applied)
        else:
            operation.failure = None
        if isinstance(operation.failure, Unavailable):
            self._surprised.set()
        if operation.writes and getattr(operation.failure, "maybe_applied", False):
            self._unknown += 1

    def _once_more(self, operation: Operation) -> bool:
        """Whether an operation that failed is to be tried again."""
        failure, reply = operation.failure, operation.reply
        if failure is None:
            return False
        if isinstance(reply, Lost):
            return not (operation.writes and reply.sent)
        if not isinstance(reply, ErrorReply):
            return False
        if operation.writes:
            return is_refused(reply)
        # A disk that cannot be read is its node's alone: each of the others is asked once.
        return isinstance(failure, Unavailable) or (
            isinstance(failure, StorageError) and len(operation.tried) < len(self._pools)
        )

    # Who is asked.

    def _choose(self, operation: Operation) -> Pool:
        """The best node for an operation: not yet tried in this round, not failing, a primary, fast."""
        if len(operation.tried) >= len(self._pools):
            operation.tried.clear()
        now = asyncio.get_running_loop().time()
        places = self._primaries(operation)
        primaries: list[tuple[tuple[bool, bool, float], Pool]] = []
        for position, place in enumerate(places):
            pool = None if place.address is None else self._pools.get(place.address)
            if pool is None or pool.address in operation.tried:
                continue
            if not operation.writes:
                preference = (pool.latency_s + _INSTANT_S) * (1 + pool.in_flight)
            else:
                preference = -1.0 if place.hint == operation.hint else float(position)
            primaries.append(((pool.shunned(now), not place.up, preference), pool))
        if primaries:
            (shunned, down, _), best = min(primaries, key=lambda item: item[0])
            if not shunned and not down:
                return best
        known = {place.address for place in self._places() if place.up}
        others = [
            ((pool.shunned(now), pool.address not in known, pool.in_flight, number), pool)
            for number, pool in enumerate(self._pools.values())
            if pool.address not in operation.tried
        ]
        return min(others, key=lambda item: item[0])[1]

    def _places(self) -> Sequence[Place]:
        return () if self._routes is None else self._routes.places

    def _primaries(self, operation: Operation) -> list[Place]:
        if self._routes is None:
            return []
        return [self._routes.places[number] for number in self._routes.primaries(operation.digest)]

    # The layout.

    async def _keep_fresh(self) -> None:
        fresh = True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.refresh_interval_ms / 1000):
                    await self._surprised.wait()
            self._surprised.clear()
            until = asyncio.get_running_loop().time() + self.limits.timeout_ms / 1000
            try:
                reason = await self._refresh(until)
            except InvalidRequest as refused:
                reason = str(refused)
            # Once for each time that it goes wrong, however long it lasts.
            if reason is not None and fresh:
                log.warning("the layout cannot be refreshed: %s", reason)
            fresh = reason is None
            for pool in [*self._pools.values(), *self._retired]:
                pool.tend()
                pool.fade()
            self._retired = [pool for pool in self._retired if pool.connections]
            await asyncio.sleep(_REFRESH_PAUSE_S)

    async def _refresh(self, until: float) -> str | None:
        """Ask nodes for the layout, a random one first, until one has answered; why none did, or None.

        Raises:
            InvalidRequest: A node does not want this client.
        """
        reason: str | None = None
        now = asyncio.get_running_loop().time()
        candidates = sorted(self._shuffled(self._pools.values()), key=lambda pool: pool.shunned(now))
        for pool in candidates:
            (reply,) = await pool.exchange([encode([b"SADIK.LAYOUT"])], until=until, writes=False)
            if isinstance(reply, Lost):
                reason = reply.reason
            elif isinstance(reply, ErrorReply) and reply.text.startswith("ERR unknown command"):
                # A node of a version without clusters: it has everything.
                self._refreshes += 1
                return None
            elif isinstance(reply, ErrorReply):
                reason = f"{pool.address} answers: {reply.text}"
            else:
                try:
                    self._adopt(Routes.decode(reply))
                except ProtocolError as error:
                    reason = f"{pool.address}: {error}"
                else:
                    self._refreshes += 1
                    return None
        self._refreshes_failed += 1
        return reason or "there is no node to ask"

    def _adopt(self, routes: Routes) -> None:
        """Take a layout, unless it is older than the one here: a node may lag behind."""
        if self._routes is not None and routes.version < self._routes.version:
            return
        self._routes = routes
        addresses = {place.address for place in routes.places if place.address is not None}
        for address in sorted(addresses - self._pools.keys()):
            self._pools[address] = Pool(address, self._greeting, self.limits)
        for address in [one for one in self._pools if one not in addresses and one not in self._seeds]:
            pool = self._pools.pop(address)
            pool.retire()
            self._retired.append(pool)

    def _shuffled(self, pools: Iterable[Pool]) -> list[Pool]:
        drawn = [(random_uint64(self._entropy), number, pool) for number, pool in enumerate(pools)]
        return [pool for _, _, pool in sorted(drawn, key=lambda item: item[:2])]

    def _jitter(self) -> float:
        """0.5 to 1."""
        return 0.5 + random_uint64(self._entropy) / 2**65


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (bug := task.exception()) is not None:
        log.error("the layout is not refreshed any more: %s", bug, exc_info=bug)
