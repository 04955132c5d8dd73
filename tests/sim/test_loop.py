"""The loop of simulated processes: time, order, death, and what it forbids."""

from __future__ import annotations

import asyncio
import random

import pytest

from sadik.sim.loop import START_S, Process, SimulationError, VirtualLoop, run


def test_time_goes_on_only_while_nobody_has_anything_to_do() -> None:
    async def story() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(3600)
        assert loop.time() == START_S + 3600
        for _ in range(100):
            await asyncio.sleep(0)
        return loop.time()

    assert run(story()) == START_S + 3600


def test_within_a_process_callbacks_run_in_the_order_in_which_they_became_ready() -> None:
    async def story() -> list[int]:
        found: list[int] = []
        for number in range(50):
            asyncio.get_running_loop().call_soon(found.append, number)
        await asyncio.sleep(0.1)
        return found

    assert run(story()) == list(range(50))


def _turns(seed: int) -> list[str]:
    loop = VirtualLoop(random.Random(seed))

    async def work(found: list[str], name: str) -> None:
        for _ in range(5):
            found.append(name)
            await asyncio.sleep(0)

    async def story() -> list[str]:
        found: list[str] = []
        for name in "abc":
            loop.spawn(Process(name), work(found, name))
        await asyncio.sleep(1)
        return found

    return run(story(), lambda: loop)


def test_between_processes_the_seed_chooses() -> None:
    assert _turns(1) == _turns(1)
    assert len({"".join(_turns(seed)) for seed in range(10)}) > 5


def test_a_killed_process_runs_nothing_any_more_not_even_its_cleanup() -> None:
    found: list[str] = []
    loop = VirtualLoop()

    async def victim() -> None:
        try:
            loop.call_later(2, found.append, "timer")
            await asyncio.sleep(2)
            found.append("went on")
        finally:
            found.append("cleaned up")

    async def story() -> list[str]:
        process = Process("victim")
        loop.spawn(process, victim())
        await asyncio.sleep(1)
        loop.kill(process)
        await asyncio.sleep(10)
        return list(found)

    assert run(story(), lambda: loop) == []


def test_a_paused_process_does_later_what_was_due_meanwhile() -> None:
    loop = VirtualLoop()

    async def sleeper() -> float:
        await asyncio.sleep(2)
        return loop.time()

    async def story() -> float:
        process = Process("sleeper")
        task = loop.spawn(process, sleeper())
        await asyncio.sleep(1)
        loop.pause(process)
        await asyncio.sleep(5)
        assert not task.done()
        loop.resume(process)
        return await task

    assert run(story(), lambda: loop) == START_S + 6


def test_sets_of_tasks_have_an_order_that_no_address_decides() -> None:
    async def story() -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(1), name=str(number)) for number in range(20)]
        done, _ = await asyncio.wait(tasks)
        return [task.get_name() for task in done]

    kept = [object() for _ in range(1000)]
    first = run(story())
    del kept[::3]
    assert run(story()) == first


def test_waiting_for_ever_is_an_error() -> None:
    async def story() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(SimulationError, match="everything waits for ever"):
        run(story())


def test_going_round_without_time_going_on_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sadik.sim.loop.RUNAWAY_TURNS", 1000)

    async def story() -> None:
        for _ in range(2000):
            await asyncio.sleep(0)

    with pytest.raises(SimulationError, match="time stands still"):
        run(story())


def test_threads_and_sockets_are_errors() -> None:
    async def threads() -> None:
        await asyncio.to_thread(int)

    async def sockets() -> None:
        asyncio.get_running_loop().add_reader(0, print)

    async def names() -> None:
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    for story in (threads, sockets, names):
        with pytest.raises(SimulationError, match="in a simulated world"):
            run(story())
