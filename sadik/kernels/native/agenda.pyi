"""What a simulated world does next: turns of its processes, and timers.

A *turn* is one of a process: all of its callbacks that are ready, in the order in which they became so.
Between processes there is no order: ``random`` chooses, one draw for each turn for which there is a choice.
Time goes on only when nobody has anything to do; what is due at the same time becomes ready in the order in
which it was asked for.

``sim/loop.py`` makes an event loop of it: a class that has an agenda and these as well::

    _report(callback, error)    a callback has raised; what this raises ends the run
    _stands_still()             raises: too many turns, and time has not gone on
    _waits_for_ever()           raises: nobody has anything to do, now or later
"""

from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

class Due:
    """Something to run: a callback, its arguments, and the context in which it is called."""

    callback: Any
    args: Any
    context: Context

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None: ...
    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...

class Timer(Due):
    """Something to run at a time. One that is cancelled keeps neither callback nor arguments."""

    def when(self) -> float: ...

class Process:
    """What takes turns.

    Attributes:
        alive: What it asks for is heard. paused: It takes no turns; ``Agenda.resume`` ends that.
    """

    alive: bool
    paused: bool

    def __init__(self) -> None: ...
    def forget(self) -> None:
        """Nothing of it is ready any more."""

class Agenda:
    """Args:
        owner: Whose a context is; the harness's, if it does not say.
        random: From 0 up to 1.
        still_max: Turns in which time may stand still.

    Attributes:
        now_s: The time.
        turns: Taken so far.
    """

    now_s: float
    turns: int
    harness: Any
    _numbers: int
    _stopping: bool
    _ended: bool

    def __init__(
        self,
        owner: ContextVar[Any],
        harness: Process,
        random: Callable[[], float],
        now_s: float,
        still_max: int,
    ) -> None: ...
    def time(self) -> float:
        """The time."""

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Due:
        """Let something run in the next turn of its process. Cost: 0.2 us."""

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Timer:
        """Let something run after a time, in seconds."""

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Timer:
        """Let something run at a time."""

    def post_again(self, process: Process, when: float, due: Due) -> None:
        """Let something run at a time. It may wait for several at once, and is never cancelled."""

    def resume(self, process: Process) -> None:
        """It takes turns again, and does what became ready meanwhile."""

    def waiting(self) -> list[Any]:
        """Processes that want a turn."""

    def forget_timers(self) -> None:
        """Nothing waits for its time any more. The collector of garbage does not see timers: whoever drops
        an agenda with some calls this first."""

    def forget_turns(self) -> None:
        """Nobody wants a turn any more."""

    def _run_once(self) -> None:
        """Turns, until ``_stopping`` is set."""
