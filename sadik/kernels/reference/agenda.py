"""What a simulated world does next, checked by eye."""

from __future__ import annotations

import contextvars
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any, cast


class Due:
    __slots__ = ("args", "callback", "context", "is_cancelled", "is_scheduled")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.callback: Any = callback
        self.args: Any = args
        self.context = context
        self.is_cancelled = False
        self.is_scheduled = False

    def cancelled(self) -> bool:
        return self.is_cancelled

    def cancel(self) -> None:
        self.is_cancelled = True


class Timer(Due):
    __slots__ = ("agenda", "time")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        agenda: Agenda,
        context: contextvars.Context,
    ) -> None:
        super().__init__(callback, args, context)
        self.time = when
        self.agenda = agenda

    def when(self) -> float:
        return self.time

    def cancel(self) -> None:
        if not self.is_cancelled:
            self.is_cancelled = True
            # The agenda may keep it until its time.
            self.callback = self.args = None
            if self.is_scheduled:
                self.agenda.on_cancelled()


class Process:
    def __init__(self) -> None:
        self.alive = True
        self.paused = False
        self.is_listed = False
        self.ready: deque[Due] = deque()

    def forget(self) -> None:
        self.ready.clear()


class Agenda:
    def __init__(
        self,
        owner: contextvars.ContextVar[Any],
        harness: Process,
        random: Callable[[], float],
        now_s: float,
        still_max: int,
    ) -> None:
        self.now_s = now_s
        self.turns = 0
        self.harness = harness
        self._numbers = 0
        self._stopping = False
        self._ended = False
        self.owner = owner
        self.random = random
        self.still_max = self.turns_max = still_max
        self.runnable: list[Process] = []
        self.heap: list[tuple[float, int, Due, Process]] = []
        self.cancelled = 0

    def time(self) -> float:
        return self.now_s

    def put(self, process: Process, due: Due) -> None:
        process.ready.append(due)
        if not process.is_listed:
            process.is_listed = True
            self.runnable.append(process)

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Due:
        if context is None:
            context = contextvars.copy_context()
        due = Due(callback, args, context)
        process = context.get(self.owner, self.harness)
        if process.alive and not self._ended:
            self.put(process, due)
        return due

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Timer:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Timer:
        if context is None:
            context = contextvars.copy_context()
        timer = Timer(when, callback, args, self, context)
        process = context.get(self.owner, self.harness)
        if process.alive and not self._ended:
            if when > self.now_s:
                timer.is_scheduled = True
                self.post_again(process, when, timer)
            else:
                self.put(process, timer)
        return timer

    def post_again(self, process: Process, when: float, due: Due) -> None:
        if process.alive and not self._ended:
            self._numbers += 1
            heapq.heappush(self.heap, (when, self._numbers, due, process))

    def resume(self, process: Process) -> None:
        process.paused = False
        if process.alive and process.ready and not process.is_listed:
            process.is_listed = True
            self.runnable.append(process)

    def waiting(self) -> list[Process]:
        return list(self.runnable)

    def forget_timers(self) -> None:
        self.heap.clear()

    def forget_turns(self) -> None:
        for process in self.runnable:
            process.forget()
        self.runnable.clear()

    def on_cancelled(self) -> None:
        self.cancelled += 1
        if self.cancelled > 100 and 2 * self.cancelled > len(self.heap):
            self.heap[:] = [entry for entry in self.heap if not entry[2].is_cancelled]
            heapq.heapify(self.heap)
            self.cancelled = 0

    def _run_once(self) -> None:
        runnable = self.runnable
        while not self._stopping:
            if not runnable:
                self._advance()
            self.turns += 1
            if self.turns > self.turns_max:
                cast("Any", self)._stands_still()
            count = len(runnable)
            chosen = int(self.random() * count) if count > 1 else 0
            process = runnable[chosen]
            runnable[chosen] = runnable[-1]
            runnable.pop()
            process.is_listed = False
            if not process.paused:
                self._run_turn(process)

    def _run_turn(self, process: Process) -> None:
        ready = process.ready
        for _ in range(len(ready)):
            if not ready:
                # It has died in the middle.
                return
            due = ready.popleft()
            if due.is_cancelled:
                continue
            try:
                due.context.run(due.callback, *due.args)
            except BaseException as error:  # noqa: BLE001  (as asyncio does)
                cast("Any", self)._report(due.callback, error)
        if ready and not process.is_listed:
            process.is_listed = True
            self.runnable.append(process)

    def _advance(self) -> None:
        """Nobody has anything to do: it is the time of the next timer, and all that is due then is ready."""
        while self.heap and (not self.runnable or self.heap[0][0] <= self.now_s):
            when, _, due, process = heapq.heappop(self.heap)
            due.is_scheduled = False
            if due.is_cancelled:
                self.cancelled -= 1
            elif process.alive:
                if when > self.now_s:
                    self.now_s = when
                    self.turns_max = self.turns + self.still_max
                self.put(process, due)
        if not self.runnable:
            cast("Any", self)._waits_for_ever()
