"""Exchanges on a timer and on request: who with whom and when, one at a time, and what came of them.

Of two nodes that share partitions the one with the smaller id asks in the timer's rounds, so a pair
compares once in a round; a repair that an operator asked for compares with all, whatever their ids.
Everything goes over the bulk lane, and after each step this node rests for as long as the step took it:
requests come first (Dynamo 6.5).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Protocol

import numpy as np

from sadik.comms.messages import BULK, Kind
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import SadikError, Unavailable
from sadik.ids import NodeId
from sadik.members.view import View
from sadik.node.background import woken
from sadik.node.buckets import Bucket
from sadik.node.items import Item
from sadik.node.repair.exchange.answers import Answers
from sadik.node.repair.exchange.comparison import Ask, Comparison, Pause, Progress, Push
from sadik.node.repair.exchange.holdings import Holdings
from sadik.node.repair.trees import Trees
from sadik.storage.engine import Engine

log = logging.getLogger("sadik.exchange")

PAUSE_MS: Final = 500
"""Between two looks at what differs: a write is at the other replicas in milliseconds (Riak waits as long).
"""
CALL_TIMEOUT_MS: Final = 10_000
REQUESTS_MAX: Final = 64
"""Repairs of single partitions that may wait; beyond, all partitions are repaired instead."""
ERRORS_KEPT: Final = 8


class Calls(Protocol):
    """What is asked of ``comms.service.Peers``."""

    def serve(self, kind: int, handler: Callable[[NodeId, bytes], bytes | Awaitable[bytes]]) -> None: ...

    async def call(self, node: NodeId, kind: int, payload: bytes, *, timeout_ms: int, lane: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ExchangeStatistics:
    """A snapshot.

    Attributes:
        running: A round goes on, or is about to.
        peer: With whom at the moment, or empty.
        round: Of the round that goes on, or of the last one.
        total: Since the start.
        rounds: Finished.
        exchanges, failures: With one node each, and those of them that broke off.
        errors: Why exchanges of the round could not be had or broke off; the first few.
        partitions_built: Of this node's, how many can be compared.
    """

    running: bool
    peer: str
    round: Progress
    total: Progress
    rounds: int
    exchanges: int
    failures: int
    errors: tuple[str, ...]
    partitions_built: int


class ExchangeService:
    """One node's exchanges. It answers those of others from its construction on, and begins its own with
    ``start``.

    Args:
        buckets: The bucket of a name.
        merge_items: Stores the merge of each item with what is there, and says for each how that went
            (``kernels.replica.merge_batch``).
        push: Has a node merge items, for a reason; a status for each, 0 where it has it durably.
        interval_ms: Mean length of the wait between two rounds; 0: only on request.
        pause_ms: Between two looks at what differs.
        settle: As in ``Holdings``.
        facts: As in ``Begin``: nodes whose facts differ are not compared.
        is_catching_up: Whether a node is being sent what it missed; the timer leaves it alone so long.
    """

    def __init__(
        self,
        *,
        me: NodeId,
        trees: Trees,
        engine: Engine,
        buckets: Callable[[bytes], Bucket],
        merge_items: Callable[[Sequence[Item]], bytes],
        push: Callable[[NodeId, Sequence[Item], str], Awaitable[bytes]],
        peers: Calls,
        clock: Clock,
        entropy: Entropy,
        interval_ms: int,
        pause_ms: int = PAUSE_MS,
        settle: Callable[[bytes, bytes], bytes] = lambda name, stored: stored,
        facts: Callable[[], bytes] = bytes,
        is_catching_up: Callable[[NodeId], bool] = lambda node: False,
    ) -> None:
        self._me = me
        self._trees = trees
        self._push = push
        self._peers = peers
        self._clock = clock
        self._entropy = entropy
        self._interval_ms = interval_ms
        self._pause_s = pause_ms / 1000
        self._facts = facts
        self._is_catching_up = is_catching_up
        self._holdings = Holdings(engine, buckets, trees, merge_items, settle)
        self._answers = Answers(self._holdings, self._layout_version, facts)
        self._view: View | None = None
        self._wanted: list[int | None] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running = False
        self._peer = ""
        self._round = Progress()
        self._total = Progress()
        self._errors: list[str] = []
        self._rounds = self._exchanges = self._failures = 0
        peers.serve(Kind.EXCHANGE, lambda node, payload: self._answers.answer(payload))

    def start(self) -> None:
        """Begin the timer."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="exchange")

    async def stop(self) -> None:
        """End between two steps; what is left over differs again at the next start."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise

    def on_view(self, view: View) -> None:
        """Another layout, or other nodes are up; an exchange on an older layout breaks off."""
        self._view = view

    def repair(self, partition: int | None) -> None:
        """Compare with all replicas now, one partition or all of this node's; ``statistics`` shows how far
        it is.
        """
        if partition is None or len(self._wanted) >= REQUESTS_MAX:
            self._wanted = [None]
        elif None not in self._wanted and partition not in self._wanted:
            self._wanted.append(partition)
        self._wake.set()

    def statistics(self) -> ExchangeStatistics:
        return ExchangeStatistics(
            running=self._running or bool(self._wanted),
            peer=self._peer,
            round=replace(self._round),
            total=_sum(self._total, self._round),
            rounds=self._rounds,
            exchanges=self._exchanges,
            failures=self._failures,
            errors=tuple(self._errors),
            partitions_built=self._trees.statistics().built,
        )

    def status(self) -> dict[str, Any]:
        """The same for an operator: how far the round is, or what the last one did."""
        now = self.statistics()
        return {
            "running": now.running,
            "peer": now.peer,
            "partitions_total": now.round.partitions_total,
            "partitions_done": now.round.partitions_done,
            "partitions_unbuilt": now.round.unbuilt,
            "keys_compared": now.round.keys_compared,
            "keys_repaired": now.round.keys_repaired,
            "bytes": now.round.bytes_sent + now.round.bytes_received,
            "errors": list(now.errors),
        }

    def _layout_version(self) -> int:
        return self._view.layout.version if self._view is not None else -1

    async def _run(self) -> None:
        while True:
            await woken(self._wake, self._wait_s())
            self._wake.clear()
            if not self._wanted:
                await self._run_round(None, everybody=False)
            while self._wanted:
                self._wake.clear()
                await self._run_round(self._wanted.pop(0), everybody=True)

    def _wait_s(self) -> float | None:
        """Jittered, so that the nodes of a cluster started together do not exchange together."""
        if not self._interval_ms:
            return None
        return self._interval_ms / 1000 * (0.75 + 0.5 * random_uint64(self._entropy) / (1 << 64))

    async def _run_round(self, partition: int | None, *, everybody: bool) -> None:
        """Exchange with one node after the other: all that share partitions, or those for which it is our
        part.
        """
        self._running = True
        self._total = _sum(self._total, self._round)
        self._round = Progress()
        self._errors = []
        try:
            view = self._view
            for node in view.nodes if view is not None and view.me >= 0 else ():
                if node == self._me or not (everybody or node > self._me):
                    continue
                if everybody or not self._is_catching_up(node):
                    await self._exchange(node, partition, everybody=everybody)
            self._rounds += 1
        finally:
            self._running = False
            self._peer = ""

    async def _exchange(self, node: NodeId, partition: int | None, *, everybody: bool) -> None:
        view = self._view
        if view is None or node not in view.nodes:
            return
        if not view.up[view.nodes.index(node)]:
            if everybody:
                self._note(node, "is down")
            return
        self._peer = node
        self._exchanges += 1
        repaired = self._round.keys_repaired
        try:
            refusal = await self._compare(node, view, partition)
        except SadikError as error:
            self._fail(node, error)
            log.warning("the exchange with node %s broke off: %s", node, error)
            return
        except Exception as error:
            # Any: a timer that ended would leave its work undone for good, unseen.
            self._fail(node, error)
            log.exception("the exchange with node %s failed", node)
            return
        if refusal:
            self._note(node, refusal)
        if self._round.keys_repaired > repaired:
            log.info("exchange with node %s: %d keys repaired", node, self._round.keys_repaired - repaired)

    async def _compare(self, node: NodeId, view: View, partition: int | None) -> str:
        """One exchange; returns why it was refused, or ``""``."""
        progress = self._round
        comparison = Comparison(
            self._holdings,
            layout=view.layout.version,
            facts=self._facts(),
            shared=lambda n: shared_partitions(view, node, n, partition),
            progress=progress,
        )
        steps = comparison.steps()
        given: bytes | None = None
        while True:
            began_ns = self._clock.monotonic_ns()
            try:
                # None starts a generator; everything later is what a step brought.
                step = next(steps) if given is None else steps.send(given)
            except StopIteration:
                return comparison.refusal
            await asyncio.sleep((self._clock.monotonic_ns() - began_ns) / 1e9)
            if self._layout_version() != view.layout.version:
                raise Unavailable("the layout has changed")
            match step:
                case Ask(payload):
                    given = await self._peers.call(
                        node, Kind.EXCHANGE, payload, timeout_ms=CALL_TIMEOUT_MS, lane=BULK
                    )
                    progress.bytes_sent += len(payload)
                    progress.bytes_received += len(given)
                case Push(items):
                    given = await self._push(node, items, "exchange")
                    progress.bytes_sent += sum(len(name) + len(stored) for _, name, stored in items)
                case Pause():
                    await asyncio.sleep(self._pause_s)
                    given = b""

    def _fail(self, node: NodeId, error: Exception) -> None:
        self._failures += 1
        self._note(node, str(error))

    def _note(self, node: NodeId, reason: str) -> None:
        if len(self._errors) < ERRORS_KEPT:
            self._errors.append(f"{node}: {reason}")


def shared_partitions(view: View, node: NodeId, n: int, only: int | None = None) -> list[int]:
    """The partitions that this node and another one are primaries of, for buckets of property n; ascending.

    Args:
        only: Leave out all but this one.
    """
    primaries = view.targets(n).primaries
    both = (primaries == view.me).any(axis=1) & (primaries == view.nodes.index(node)).any(axis=1)
    found: list[int] = np.flatnonzero(both).tolist()
    return found if only is None else [partition for partition in found if partition == only]


def _sum(first: Progress, second: Progress) -> Progress:
    return Progress(*[getattr(first, f.name) + getattr(second, f.name) for f in fields(Progress)])
