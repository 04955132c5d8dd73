"""Delivers hints: to their owner as soon as it is back, or to a key's primaries where the owner has left for
good.

* It begins when the owner is up, and waits for no other repair.
* A few parcels are under way per owner, and half of the time belongs to others. What fails is tried again
  later, each time after a longer pause, until it is delivered or too old.
* A hint goes only after a durable answer, from a node that the layout still has. Replies that are lost cost a
  second delivery, which changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sadik.env.clock import Clock
from sadik.errors import SadikError, StorageError
from sadik.ids import NodeId
from sadik.members.view import View
from sadik.node.background import woken
from sadik.node.items import Item
from sadik.node.repair.hints import Hint, HintStore
from sadik.node.repair.replay.parcels import LocalSets, pack

log = logging.getLogger("sadik.replay")

Push = Callable[[NodeId, Sequence[Item]], Awaitable[bytes]]
"""Merge items at a node, our own included; a status per item, 0 where it is durable there. Raises
``SadikError`` when there is no answer.
"""
Primaries = Callable[[bytes, bytes], Sequence[NodeId]]
"""(digest, name) -> the primaries of a key."""

PAGE_HINTS: Final = 256
PARCEL_BYTES_MAX: Final = 1024 * 1024
PARCELS_MAX: Final = 4
"""Under way to one owner: enough to hide a sync of some ten milliseconds at the other end."""
OWNERS_MAX: Final = 4
"""Delivered to at a time: so 16 MiB and a few values are under way at most."""
SHARE: Final = 0.5
"""Greatest part of the time that deliveries take, together."""
PUSH_TIMEOUT_S: Final = 30.0
_REMOVED_AT_ONCE: Final = 128
_LOOK_S: Final = 0.5
_LOOK_S_MIN: Final = 0.05
_PAUSE_S_FIRST: Final = 0.1
_PAUSE_S_MAX: Final = 30.0
_WAIT_LOOK_S: Final = 0.1
_PATIENCE_NS: Final = 1_000_000_000
"""Longest pause after a failure while somebody waits."""


@dataclass(frozen=True, slots=True)
class ReplayStatistics:
    """Counts since the start.

    Attributes:
        delivering: Owners that hints are being sent for.
        rounds: Walks over all hints of an owner.
        items, bytes: Version sets sent.
        failures: Parcels without an answer.
        refused: Items that were answered by something else than "durable".
        unreadable: Times a hint stayed because the own set could not be read.
    """

    delivering: tuple[NodeId, ...]
    rounds: int
    items: int
    bytes: int
    failures: int
    refused: int
    unreadable: int


@dataclass(slots=True)
class _Round:
    """One walk over an owner's hints.

    Attributes:
        gone: The owner is not in the layout: the primaries take its hints.
        kept: Hints that stay.
        ended: All hints were met.
        failed: Why the walk ends early, ``""`` for not.
    """

    owner: NodeId
    gone: bool
    delivered: int = 0
    kept: int = 0
    ended: bool = False
    failed: str = ""


@dataclass(slots=True)
class _Progress:
    """How far an owner is.

    Attributes:
        begun: Rounds so far, counted from 1. clean: The last one that left nothing it had met.
        pause_s: How long to wait after a round that left something.
        due_ns: When the next round may begin, monotonic.
    """

    begun: int = 0
    clean: int = 0
    pause_s: float = _PAUSE_S_FIRST
    due_ns: int = 0


@dataclass(slots=True)
class _Counts:
    rounds: int = 0
    items: int = 0
    bytes: int = 0
    failures: int = 0
    refused: int = 0
    unreadable: int = 0
    busy_ns: int = 0


class HintReplay:
    """Runs on the event loop from ``start`` to ``stop``; the store's ``expire`` is a background job of its
    own."""

    def __init__(
        self,
        store: HintStore,
        *,
        push: Push,
        local_sets: LocalSets,
        primaries_of: Primaries,
        clock: Clock,
    ) -> None:
        self._store = store
        self._push = push
        self._local_sets = local_sets
        self._primaries_of = primaries_of
        self._clock = clock
        self._layout: frozenset[NodeId] = frozenset()
        self._up: frozenset[NodeId] = frozenset()
        self._running: dict[NodeId, asyncio.Task[None]] = {}
        self._progress: dict[NodeId, _Progress] = {}
        self._counts = _Counts()
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Deliver from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="hint replay")

    async def stop(self) -> None:
        """End all deliveries; hints whose answer has not come stay."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        task, self._task = self._task, None
        if not task.cancelled():
            task.result()

    def on_view(self, view: View) -> None:
        """The layout, or who is up, has changed. Without a view nothing is delivered."""
        before = self._up
        self._layout = frozenset(view.nodes)
        self._up = frozenset(node for node, up in zip(view.nodes, view.up, strict=True) if up)
        for node in view.nodes:
            if node in self._up and node not in before:
                self.owner_up(node)
        self._wake.set()

    def owner_up(self, node: NodeId) -> None:
        """A node is back: what failed before is no reason to wait."""
        progress = self._progress.get(node)
        if progress is not None:
            progress.due_ns, progress.pause_s = 0, _PAUSE_S_FIRST
        self._wake.set()

    async def wait(self, timeout_s: float) -> bool:
        """Return once every hint of now has been delivered, or has expired or was dropped; False when that
        takes longer.

        What is added meanwhile is not waited for.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        wanted: dict[NodeId, tuple[_Progress, int]] = {}
        for owner in self._store.owners():
            progress = self._progress.setdefault(owner, _Progress())
            progress.due_ns = 0
            wanted[owner] = progress, progress.begun + 1
        self._wake.set()
        while True:
            present = self._store.owners()
            wanted = {
                owner: (progress, number)
                for owner, (progress, number) in wanted.items()
                if owner in present and progress.clean < number
            }
            if not wanted:
                return True
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            soon_ns = self._clock.monotonic_ns() + _PATIENCE_NS
            for progress, _ in wanted.values():
                progress.due_ns = min(progress.due_ns, soon_ns)
            await _within(self._news, min(left_s, _WAIT_LOOK_S))

    def statistics(self) -> ReplayStatistics:
        counts = self._counts
        return ReplayStatistics(
            delivering=tuple(self._running),
            rounds=counts.rounds,
            items=counts.items,
            bytes=counts.bytes,
            failures=counts.failures,
            refused=counts.refused,
            unreadable=counts.unreadable,
        )

    # Which owners, and when

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                for owner in self._due():
                    self._running[owner] = group.create_task(self._serve(owner), name=f"hints for {owner}")
                await woken(self._wake, self._pause_s())

    def _pause_s(self) -> float:
        """How long to wait for the next owner whose time comes, and for hints that nobody has announced."""
        now_ns = self._clock.monotonic_ns()
        due = [
            one.due_ns - now_ns
            for owner, one in self._progress.items()
            if owner not in self._running and self._is_reachable(owner)
        ]
        return min(_LOOK_S, max(_LOOK_S_MIN, min(due) / 1e9)) if due else _LOOK_S

    def _due(self) -> list[NodeId]:
        """Owners to begin with now."""
        now_ns = self._clock.monotonic_ns()
        owners = self._store.owners()
        for owner in [owner for owner in self._progress if owner not in owners]:
            if owner not in self._running:
                del self._progress[owner]
        due = [
            owner
            for owner in owners
            if owner not in self._running
            and self._is_reachable(owner)
            and self._progress.setdefault(owner, _Progress()).due_ns <= now_ns
        ]
        return due[: OWNERS_MAX - len(self._running)]

    def _is_reachable(self, owner: NodeId) -> bool:
        """Its hints can go somewhere: it is up, or not in the layout any more."""
        return bool(self._layout) and (owner in self._up or owner not in self._layout)

    async def _serve(self, owner: NodeId) -> None:
        """One round for an owner, and when to try again."""
        progress = self._progress.setdefault(owner, _Progress())
        progress.begun += 1
        self._counts.rounds += 1
        number, walk = progress.begun, _Round(owner, gone=owner not in self._layout)
        try:
            await self._walk(walk)
        except Exception as error:
            # Any: an end of this task would end the deliveries to all others.
            walk.failed = f"{type(error).__name__}: {error}"
            log.exception("a bug ended the delivery of hints for %s", owner)
        finally:
            del self._running[owner]
        if walk.failed or walk.kept or not walk.ended:
            if walk.delivered:
                progress.pause_s = _PAUSE_S_FIRST
            why = walk.failed or (f"{walk.kept} were not taken" if walk.ended else "the view has changed")
            log.info("hints for %s wait for %.1f s: %s", owner, progress.pause_s, why)
        else:
            progress.clean = number
            progress.pause_s = _PAUSE_S_FIRST
        progress.due_ns = self._clock.monotonic_ns() + int(progress.pause_s * 1e9)
        progress.pause_s = min(2 * progress.pause_s, _PAUSE_S_MAX)
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # One owner

    async def _walk(self, walk: _Round) -> None:
        """Take its hints page by page; a few pages are under way at a time."""
        free = asyncio.Semaphore(PARCELS_MAX)
        after = b""
        async with asyncio.TaskGroup() as group:
            while self._goes_on(walk):
                await free.acquire()
                began_ns = self._clock.monotonic_ns()
                try:
                    page = self._store.take(walk.owner, after, PAGE_HINTS, PARCEL_BYTES_MAX)
                except StorageError as error:
                    walk.failed = str(error)
                    break
                self._counts.busy_ns += self._clock.monotonic_ns() - began_ns
                if not page.more:
                    walk.ended = True
                    break
                after = page.after
                group.create_task(self._deliver(walk, page.hints, free))
                await self._give_way()

    def _goes_on(self, walk: _Round) -> bool:
        moved = walk.gone != (walk.owner not in self._layout)
        return not walk.failed and not moved and self._is_reachable(walk.owner)

    async def _give_way(self) -> None:
        """Sleep as long as the work since the last time took: others come first."""
        busy_s, self._counts.busy_ns = self._counts.busy_ns / 1e9, 0
        await asyncio.sleep(busy_s * (1 / SHARE - 1))

    async def _deliver(self, walk: _Round, hints: list[Hint], free: asyncio.Semaphore) -> None:
        """Send some hints, and remove those that were taken."""
        left = hints
        try:
            while left and self._goes_on(walk):
                began_ns = self._clock.monotonic_ns()
                parcel = pack(left, self._local_sets, PARCEL_BYTES_MAX)
                left = parcel.rest
                self._counts.busy_ns += self._clock.monotonic_ns() - began_ns
                self._counts.unreadable += len(parcel.unreadable)
                walk.kept += len(parcel.unreadable)
                taken = await self._send(walk, parcel.hints, parcel.items)
                if walk.gone != (walk.owner not in self._layout):
                    # Taken by a node that has left since is taken by nobody: the primaries are asked next.
                    walk.kept += len(taken)
                    break
                await self._remove(walk, parcel.settled + taken)
        except StorageError as error:
            walk.failed = str(error)
        finally:
            walk.kept += len(left)
            self._store.release(hints)
            free.release()

    async def _send(self, walk: _Round, hints: list[Hint], items: list[Item]) -> list[Hint]:
        """Those of the hints that all who should have taken have."""
        groups: dict[tuple[NodeId, ...], list[int]] = {}
        for index, hint in enumerate(hints):
            nodes = tuple(self._primaries_of(hint.digest, hint.name)) if walk.gone else (walk.owner,)
            groups.setdefault(nodes, []).append(index)
        taken: list[Hint] = []
        for nodes, indices in groups.items():
            left = indices if nodes else []
            for node in nodes:
                if left:
                    status = await self._ask(walk, node, [items[index] for index in left])
                    left = [index for index, one in zip(left, status, strict=True) if one == 0]
            walk.kept += len(indices) - len(left)
            taken += [hints[index] for index in left]
        return taken

    async def _ask(self, walk: _Round, node: NodeId, items: list[Item]) -> bytes:
        """A node's statuses; "not taken" for all when it does not answer."""
        try:
            async with asyncio.timeout(PUSH_TIMEOUT_S):
                status = await self._push(node, items)
        except (SadikError, TimeoutError) as error:
            self._counts.failures += 1
            walk.failed = f"{node}: {str(error) or 'no answer'}"
            return b"\xff" * len(items)
        self._counts.items += len(items)
        self._counts.bytes += sum(len(item[2]) for item in items)
        self._counts.refused += len(items) - status.count(0)
        return status

    async def _remove(self, walk: _Round, hints: list[Hint]) -> None:
        for first in range(0, len(hints), _REMOVED_AT_ONCE):
            began_ns = self._clock.monotonic_ns()
            some = hints[first : first + _REMOVED_AT_ONCE]
            self._store.delivered(some)
            walk.delivered += len(some)
            self._counts.busy_ns += self._clock.monotonic_ns() - began_ns
            await self._give_way()


async def _within(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or after the time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
