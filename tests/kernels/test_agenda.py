"""What a simulated world does next: both twins on generated schedules, and each rule by itself."""

from __future__ import annotations

import contextvars
import gc
import random
import weakref
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import agenda as native
from sadik.kernels.reference import agenda as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
OWNER: contextvars.ContextVar[Any] = contextvars.ContextVar("owner")
STILL_MAX = 2000
COUNT = 4
"""Processes beside the harness."""


class Over(BaseException):
    """The end of a run."""


def world(twin: Any, seed: int = 0) -> Any:
    """An agenda of a twin, with processes, and a log of what ran when."""

    class World(twin.Agenda):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(OWNER, twin.Process(), random.Random(seed).random, 10.0, STILL_MAX)
            self.processes = [twin.Process() for _ in range(COUNT)]
            self.contexts = []
            for process in self.processes:
                context = contextvars.copy_context()
                context.run(OWNER.set, process)
                self.contexts.append(context)
            self.log: list[Any] = []
            self.handles: list[Any] = []

        def _report(self, callback: Any, error: BaseException) -> None:
            self.log.append(("raised", repr(error), self.now_s))
            if not isinstance(error, Exception):
                raise error

        def _stands_still(self) -> NoReturn:
            raise Over("stands still")

        def _waits_for_ever(self) -> NoReturn:
            raise Over("waits for ever")

        def run(self) -> str:
            try:
                self._run_once()
            except Over as over:
                return str(over)
            return "stopped"

    return World()


PROCESSES = st.integers(0, COUNT - 1)
DELAYS = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.5, 1.0, 3.0])
ACTS = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["kill", "pause", "resume"]), PROCESSES),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("raise"), st.booleans()),
        st.just(("stop",)),
    ),
    lambda acts: st.one_of(
        st.tuples(st.just("soon"), st.none() | PROCESSES, st.lists(acts, max_size=4)),
        st.tuples(st.just("later"), st.none() | PROCESSES, DELAYS, st.lists(acts, max_size=4)),
        st.tuples(st.just("again"), PROCESSES, DELAYS, st.integers(1, 3), st.lists(acts, max_size=2)),
    ),
    max_leaves=40,
)


def perform(world: Any, twin: Any, acts: list[Any], name: str) -> None:
    """What a callback does: it writes down that it ran, and goes through its acts."""
    owner = OWNER.get(None)
    who = world.processes.index(owner) if owner in world.processes else None
    world.log.append((name, who, world.now_s, world.turns))
    for number, (kind, *facts) in enumerate(acts):
        child = f"{name}.{number}"
        if kind in ("soon", "later", "again"):
            arguments = (world, twin, facts[-1], child)
            context = None if facts[0] is None else world.contexts[facts[0]]
            if kind == "soon":
                world.handles.append(world.call_soon(perform, *arguments, context=context))
            elif kind == "later":
                world.handles.append(world.call_later(facts[1], perform, *arguments, context=context))
                world.log.append(world.handles[-1].when())
            else:
                due = twin.Due(perform, arguments, context)
                for i in range(facts[2]):
                    world.post_again(world.processes[facts[0]], world.now_s + facts[1] * i, due)
        elif kind == "kill":
            world.processes[facts[0]].alive = False
            world.processes[facts[0]].forget()
        elif kind == "pause":
            world.processes[facts[0]].paused = True
        elif kind == "resume":
            world.resume(world.processes[facts[0]])
        elif kind == "cancel" and facts[0] < len(world.handles):
            world.handles[facts[0]].cancel()
        elif kind == "raise":
            raise ValueError(child) if facts[0] else KeyboardInterrupt(child)
        elif kind == "stop":
            world._stopping = True


def story(twin: Any, acts: list[Any], seed: int) -> list[Any]:
    made = world(twin, seed)
    for number, act in enumerate(acts):
        made.call_at(10.0 + number // 4, perform, made, twin, [act], str(number))
    for _ in range(8):
        made._stopping = False
        try:
            made.log.append(made.run())
        except KeyboardInterrupt as error:
            made.log.append(repr(error))
        made.log.append([made.processes.index(one) for one in made.waiting() if one in made.processes])
    made.log.append([handle.cancelled() for handle in made.handles])
    made.log.append((made.turns, made.now_s, made._numbers))
    return list(made.log)


@given(acts=st.lists(ACTS, max_size=12), seed=st.integers(0, 3))
def test_twins_run_the_same_in_the_same_order(acts: list[Any], seed: int) -> None:
    assert story(native, acts, seed) == story(reference, acts, seed)


def churn(twin: Any, seed: int) -> list[Any]:
    """Thousands of timers, most of which are cancelled."""
    made, rng = world(twin), random.Random(seed)
    for number in range(3000):
        when = 10 + rng.randrange(500) / 8
        made.handles.append(made.call_at(when, made.log.append, number, context=made.contexts[number % 4]))
    for number in rng.sample(range(3000), 2000 + seed * 400):
        made.handles[number].cancel()
    made.log.append(made.run())
    return [*made.log, made.turns]


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_timers_are_swept_and_the_others_keep_their_order(seed: int) -> None:
    found = churn(native, seed)
    assert found == churn(reference, seed)
    assert len(found) == 3000 - 2000 - seed * 400 + 2


@TWINS
def test_due_at_one_time_run_in_the_order_in_which_they_were_asked_for(twin: Any) -> None:
    made = world(twin)
    for number in range(100):
        made.call_at(11.0, made.log.append, number, context=made.contexts[0])
    assert made.run() == "waits for ever"
    assert made.log == list(range(100))
    assert made.now_s == made.time() == 11.0


@TWINS
def test_what_has_run_is_not_held_nor_what_was_cancelled(twin: Any) -> None:
    class Thing:
        def touch(self) -> None:
            pass

    made = world(twin)
    things = [Thing() for _ in range(2)]
    gone = [weakref.ref(thing) for thing in things]
    made.call_soon(things[0].touch)
    made.call_later(1, things[1].touch).cancel()
    things.clear()
    assert gone[0]() is not None
    assert gone[1]() is None
    assert made.run() == "waits for ever"
    gc.collect()
    assert gone[0]() is None


@TWINS
def test_a_context_is_left_though_its_callback_raises(twin: Any) -> None:
    made = world(twin)
    for _ in range(2):
        made.call_soon(int, "x", context=made.contexts[1])
        # The harness's: whose context it is, it does not say.
        made.call_soon(lambda: made.log.append(OWNER.get(None)), context=contextvars.Context())
    made.run()
    assert [one[0] for one in made.log if one] == ["raised", "raised"]
    assert made.log.count(None) == 2


@TWINS
def test_an_entered_context_is_an_error_that_is_reported(twin: Any) -> None:
    made = world(twin)

    def nested() -> None:
        made.call_soon(int, context=made.contexts[0])
        assert made.run() == "waits for ever"

    made.contexts[0].run(nested)
    assert "is already entered" in made.log[0][1]


@TWINS
def test_turns_without_time_are_counted_anew_when_time_goes_on(twin: Any) -> None:
    made = world(twin)

    def again(left: int) -> None:
        if left:
            made.call_soon(again, left - 1)

    made.call_soon(again, STILL_MAX // 2)
    made.call_later(1, again, STILL_MAX - 2)
    made.call_later(2, again, STILL_MAX)
    assert made.run() == "stands still"
    assert made.now_s == 12.0


@TWINS
def test_after_the_end_nothing_is_taken(twin: Any) -> None:
    made = world(twin)
    made.call_soon(made.log.append, 1)
    made.call_later(1, made.log.append, 2)
    made._ended = True
    made.forget_timers()
    made.forget_turns()
    made.call_soon(made.log.append, 3)
    made.call_later(1, made.log.append, 4)
    made.post_again(made.harness, 12.0, twin.Due(made.log.append, (5,), contextvars.copy_context()))
    assert made.waiting() == []
    assert made.run() == "waits for ever"
    assert made.log == []


@TWINS
def test_what_is_no_process_and_no_due_is_refused(twin: Any) -> None:
    if twin is reference:
        pytest.skip("plain Python takes it as it comes")
    made = world(twin)
    due = twin.Due(print, (), contextvars.copy_context())
    context = contextvars.copy_context()
    context.run(OWNER.set, "nobody")
    with pytest.raises(TypeError):
        made.call_soon(print, context=context)
    with pytest.raises(TypeError):
        context.run(made.call_soon, print)
    with pytest.raises(TypeError):
        made.post_again(None, 12.0, due)
    with pytest.raises(TypeError):
        made.post_again(made.harness, 12.0, None)
    with pytest.raises(TypeError):
        twin.Due(print, None, context)
