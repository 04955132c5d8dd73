"""An event loop whose time is a number, shared by simulated processes that know nothing of each other.

Each callback belongs to the *process* whose code asked for it, as its context says. A turn of the loop is a
turn of one process: all of its callbacks that are ready, in the order in which they became so, as asyncio
promises. Between processes there is no order: the seed chooses whose turn is next. Time goes on only when
nobody has anything to do. A process that is killed runs nothing any more, not even its cleanup; one that is
paused runs everything later.

What real programs do and a simulation must not is an error: waiting for ever, going round without time going
on, threads, sockets.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, Protocol, TypeVar

T = TypeVar("T")

START_S: Final = 1000.0
"""Time of the loop at its start: no zero, which code might take for "never"."""
_CLEANUPS_MAX: Final = 1000
RUNAWAY_TURNS: Final = 200_000
"""Turns in which time stands still: something runs for ever."""


class SimulationError(BaseException):
    """The simulated program did what it must not: not an ``Exception``, so no handler of it may hide that."""


class Abandoned(BaseException):
    """The simulation is over; ends what was left of it."""


class Streams(Protocol):
    """The network as the loop offers it: see ``network.py``."""

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> Any: ...

    async def connect(self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> Any: ...


class Process:
    """What lives and dies together.

    Attributes:
        name: Unique in its world, with the number of its run.
        host: Its address, as listeners and dialling see it.
        context: Every callback of the process runs in a copy of it.
        alive: Not killed. paused: Nothing of it runs for now.
        ready: Callbacks that wait for its turn.
    """

    def __init__(self, name: str, host: str = "") -> None:
        self.name = name
        self.host = host
        self.alive = True
        self.paused = False
        self.ready: deque[Due] = deque()
        self.listed = False
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return f"<process {self.name}>"


PROCESS: Final[contextvars.ContextVar[Process]] = contextvars.ContextVar("process")


class SimTask(asyncio.Task[T]):
    """A task that sets and dictionaries find by its number: its address would differ from run to run."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        loop: VirtualLoop,
        name: str,
        context: contextvars.Context,
        process: Process,
        number: int,
    ) -> None:
        # Before all else: asyncio puts every task into a set of its own.
        self.number = number
        self.process = process
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[T]):
    """A future with a number, likewise."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimHandle:
    """A callback: what a turn runs. No ``Handle`` of asyncio's, as there are a thousand for each operation of
    a client."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True


class SimTimerHandle:
    """A callback at a time, likewise."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_loop", "_scheduled", "_when")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: contextvars.Context,
    ) -> None:
        self._when = when
        self._callback: Any = callback
        self._args: Any = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._scheduled = False

    def when(self) -> float:
        return self._when

    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            # The loop may keep it until its time.
            self._callback = self._args = None
            if self._scheduled:
                self._loop._timer_cancelled()


Due = Any
"""What a turn runs: a handle, or whatever has ``_context``, ``_callback``, ``_args``, ``_cancelled``
and ``_scheduled``."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop.

    Args:
        rng: Chooses whose turn is next.

    Attributes:
        now_s: The time.
        turns: Turns taken so far.
        harness: The process of whoever drives the simulation.
        streams: Where connections and listeners come from; without it there are none.
        on_error: Called with asyncio's description of an exception that nobody took.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        super().__init__()
        self.now_s = START_S
        self.turns = 0
        self.harness = Process("harness")
        self.streams: Streams | None = None
        self._rng = rng or random.Random(0)
        self._timers: list[tuple[float, int, Due, Process]] = []
        self._cancelled = 0
        self._runnable: list[Process] = []
        self._numbers = 0
        self._turns_max = RUNAWAY_TURNS
        self._ended = False
        self._stopping = False
        self._buried: list[SimTask[Any]] = []

    # Time and callbacks.

    def time(self) -> float:
        return self.now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> SimHandle:
        if context is None:
            context = contextvars.copy_context()
        handle = SimHandle(callback, args, context)
        process = context.get(PROCESS, self.harness)
        if process.alive and not self._ended:
            process.ready.append(handle)
            if not process.listed:
                process.listed = True
                self._runnable.append(process)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimTimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> SimTimerHandle:
        if context is None:
            context = contextvars.copy_context()
        handle = SimTimerHandle(when, callback, args, self, context)
        process = context.get(PROCESS, self.harness)
        if process.alive and not self._ended:
            if when > self.now_s:
                handle._scheduled = True
                self._numbers += 1
                heapq.heappush(self._timers, (when, self._numbers, handle, process))
            else:
                process.ready.append(handle)
                if not process.listed:
                    process.listed = True
                    self._runnable.append(process)
        return handle

    def post(
        self, process: Process, when: float, callback: Callable[..., object], *args: Any
    ) -> SimTimerHandle:
        """Call back in another process at a time."""
        return self.call_at(when, callback, *args, context=process.context)

    def post_again(self, process: Process, when: float, due: Due) -> None:
        """Let something run at a time. It may wait for several at once, and is never cancelled."""
        if process.alive and not self._ended:
            self._numbers += 1
            heapq.heappush(self._timers, (when, self._numbers, due, process))

    def _timer_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > 100 and 2 * self._cancelled > len(self._timers):
            self._timers[:] = [timer for timer in self._timers if not timer[2]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled = 0

    # Tasks.

    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> SimTask[Any]:
        if context is None:
            context = contextvars.copy_context()
        self._numbers += 1
        return SimTask(
            coro,
            loop=self,
            name=str(name or "task"),
            context=context,
            process=context.get(PROCESS, self.harness),
            number=self._numbers,
        )

    def create_future(self) -> SimFuture[Any]:
        self._numbers += 1
        future: SimFuture[Any] = SimFuture(loop=self)
        future.number = self._numbers
        return future

    def spawn(self, process: Process, work: Coroutine[Any, Any, T], name: str = "main") -> SimTask[T]:
        """Run a coroutine as a task of a process."""
        return self.create_task(work, name=name, context=process.context.copy())

    # Life and death.

    def kill(self, process: Process) -> None:
        """The process is gone in this instant; nothing of it runs any more."""
        if not process.alive:
            return
        process.alive = False
        # Their coroutines must not end, which they would if nobody held them.
        self._bury(task for task in asyncio.all_tasks(self) if task.process is process)  # type: ignore[attr-defined]
        process.ready.clear()

    def pause(self, process: Process) -> None:
        """Nothing of the process runs until ``resume``; what is due meanwhile runs then."""
        process.paused = True

    def resume(self, process: Process) -> None:
        process.paused = False
        if process.alive and process.ready and not process.listed:
            process.listed = True
            self._runnable.append(process)

    def abandon(self) -> None:
        """The end of the simulation: every process that still runs is gone, and the loop can be closed."""
        self._ended = True
        self._timers.clear()
        self._bury(task for task in asyncio.all_tasks(self))
        for process in self._runnable:
            process.ready.clear()
        self._runnable.clear()
        for task in self._buried:
            _unwind(task.get_coro())
        self._buried.clear()

    def _bury(self, tasks: Any) -> None:
        for task in sorted(tasks, key=hash):
            task._log_destroy_pending = False
            # Else the next run's tasks, which have the same hashes, would be compared with it.
            asyncio._unregister_task(task)
            self._buried.append(task)

    # The turn.

    def _run_once(self) -> None:
        runnable, random = self._runnable, self._rng.random
        while not self._stopping:
            if not runnable:
                self._advance()
            self.turns += 1
            if self.turns > self._turns_max:
                raise SimulationError(
                    f"time stands still at {self.now_s:.6f}: something of {runnable} runs for ever"
                )
            count = len(runnable)
            chosen = int(random() * count) if count > 1 else 0
            process = runnable[chosen]
            runnable[chosen] = runnable[-1]
            runnable.pop()
            process.listed = False
            if not process.paused:
                self._run_turn(process)

    def _run_turn(self, process: Process) -> None:
        ready = process.ready
        for _ in range(len(ready)):
            if not ready:
                # It has died in the middle.
                return
            due = ready.popleft()
            if due._cancelled:
                continue
            try:
                due._context.run(due._callback, *due._args)
            except (SystemExit, KeyboardInterrupt, SimulationError):
                raise
            except BaseException as error:  # noqa: BLE001  (as asyncio does)
                self._report(due, error)
        if ready and not process.listed:
            process.listed = True
            self._runnable.append(process)

    def _report(self, due: Due, error: BaseException) -> None:
        what = getattr(due._callback, "__qualname__", repr(due._callback))
        self.call_exception_handler({"message": f"Exception in callback {what}", "exception": error})

    def _advance(self) -> None:
        """Nobody has anything to do: it is the time of the next timer, and all that is due then is ready."""
        timers, runnable = self._timers, self._runnable
        while timers and (not runnable or timers[0][0] <= self.now_s):
            when, _, due, process = heapq.heappop(timers)
            due._scheduled = False
            if due._cancelled:
                self._cancelled -= 1
            elif process.alive:
                if when > self.now_s:
                    self.now_s = when
                    self._turns_max = self.turns + RUNAWAY_TURNS
                process.ready.append(due)
                if not process.listed:
                    process.listed = True
                    runnable.append(process)
        if not runnable:
            raise SimulationError("everything waits for ever")

    # The network.

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any
    ) -> Any:
        assert self.streams is not None, "a world without a network"
        return await self.streams.listen(protocol_factory, host, port)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any
    ) -> Any:
        assert self.streams is not None, "a world without a network"
        return await self.streams.connect(protocol_factory, host, port)

    # What there is not.

    def _refuse(self, what: str) -> NoReturn:
        raise SimulationError(f"{what} in a simulated world")

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> NoReturn:
        self._refuse("a thread")

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        self._refuse("a thread")

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Any, *args: Any
    ) -> NoReturn:
        self._refuse("a real socket")

    def add_writer(  # type: ignore[override]
        self, fd: Any, callback: Any, *args: Any
    ) -> NoReturn:
        self._refuse("a real socket")

    async def getaddrinfo(self, *args: Any, **named: Any) -> NoReturn:
        self._refuse("a look-up of names")

    def _write_to_self(self) -> None:
        """Nobody waits in a system call."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""


def _unwind(work: Any) -> None:
    """Free a coroutine of what is dead. Whatever its cleanup tries to do is not heard, and what it awaits
    does not come."""
    for _ in range(_CLEANUPS_MAX):
        try:
            work.throw(Abandoned())
        except BaseException:  # noqa: BLE001  (of a cleanup that nobody hears)
            return


def run(story: Coroutine[Any, Any, T], factory: Callable[[], VirtualLoop] = VirtualLoop) -> T:
    """Run a story in virtual time; what it has left behind is abandoned."""
    loop = factory()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(story)
    finally:
        loop.abandon()
        asyncio.set_event_loop(None)
        loop.close()
