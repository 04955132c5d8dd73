"""What other nodes have not decided yet: connections wait, each for itself, at no cost per operation."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import QuorumMissed
from sadik.kernels import resp, versions
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.operations import Span
from tests.api.alone import Done, ToldWorld, running_told
from tests.api.resp_node import (
    NIL,
    OK,
    Client,
    array,
    bulk,
    command,
    configuration,
    cut,
)
from tests.api.test_resp_server import CONVERSATIONS, Model, converse, own

MIB = 1 << 20
LOADING = b"-LOADING the node cannot serve data yet\r\n"


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def turns(count: int) -> None:
    """Some turns of the event loop, much less than a millisecond."""
    for _ in range(count):
        await asyncio.sleep(0)


# Waiting, and going on.


@settings(max_examples=120, deadline=None)
@given(CONVERSATIONS, st.integers(0, 2**32))
def test_every_client_is_answered_in_order_whatever_is_decided_when(
    conversations: list[list[tuple[bytes, ...]]], seed: int
) -> None:
    """However input is cut, and in whatever order other nodes let the coordinator answer: each client's
    replies are those of its own commands in order.
    """
    rng = random.Random(seed)
    config = configuration(
        resp={
            "batch_operations_max": rng.choice((1, 3, 64)),
            "pipeline_operations_max": rng.choice((1, 2, 64)),
        }
    )

    async def story() -> None:
        async with running_told(config, seed=seed) as world:
            coordinator = world.coordinator
            coordinator.holds = coordinator.by_run = True
            clients: list[tuple[Client, list[bytes], list[bytes]]] = []
            for number, conversation in enumerate(conversations):
                model = Model()
                sent = [own(words, number) for words in conversation]
                expected = [model.expect(words) for words in sent]
                pieces = cut(rng, b"".join(command(*words) for words in sent))
                clients.append((world.connect(), expected, pieces))
            while any(pieces for _, _, pieces in clients) or any(
                len(client.replies()) < len(expected) for client, expected, _ in clients
            ):
                client, _, pieces = rng.choice(clients)
                # A socket that is not read from delivers nothing.
                if pieces and client.transport.reading:
                    client.send(pieces.pop(0))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
                if coordinator.held and rng.random() < 0.5:
                    coordinator.release(rng.randrange(len(coordinator.held)))
            await world.settle()
            for client, expected, _ in clients:
                assert client.replies() == expected

    run(story())


def test_nothing_of_a_client_runs_while_its_last_run_is_in_flight() -> None:
    """Its next command may reach another coordinator: it would not see what this one has not finished."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            client, other = world.connect(), world.connect()
            client.send(command(b"SET", b"k", b"1"))
            await world.settle()
            client.send(command(b"GET", b"k") + command(b"APPEND", b"k", b"2") + command(b"GET", b"k"))
            await world.settle()
            assert world.coordinator.submitted == [1]
            other.send(command(b"ECHO", b"x") + command(b"GET", b"k"))
            await world.settle()
            assert other.replies() == [bulk(b"x")]
            while world.coordinator.held:
                world.coordinator.release()
                await world.settle()
            assert client.replies() == [OK, bulk(b"1"), b":2\r\n", bulk(b"12")]
            assert other.replies() == [bulk(b"x"), bulk(b"1")]

    run(story())


def test_those_who_are_answered_meet_in_one_batch_with_those_who_waited() -> None:
    """A turn costs every node of a cluster much more than an operation does."""

    async def story() -> None:
        async with running_told() as world:
            coordinator = world.coordinator
            coordinator.has_others = coordinator.holds = True
            clients = [world.connect() for _ in range(3)]
            for client in clients[:2]:
                client.send(command(b"SET", b"k", b"1"))
            await world.settle()
            clients[2].send(command(b"SET", b"k", b"2"))
            coordinator.release_all()
            await turns(5)
            clients[0].send(command(b"GET", b"k"))
            await turns(5)
            assert coordinator.submitted == [2]
            clients[1].send(command(b"GET", b"k"))
            await turns(5)
            assert coordinator.submitted == [2, 3]

    run(story())


def test_nobody_is_waited_for_after_a_pause() -> None:
    """Who has not come back at once will not come now, because somebody else does."""

    async def story() -> None:
        async with running_told() as world:
            coordinator = world.coordinator
            coordinator.has_others = coordinator.holds = True
            first, second = world.connect(), world.connect()
            first.send(command(b"SET", b"k", b"1"))
            await world.settle()
            coordinator.release_all()
            world.clock.now_ms += 20
            second.send(command(b"SET", b"k", b"2"))
            await turns(5)
            assert coordinator.submitted == [1, 1]

    run(story())


def test_clients_that_take_their_time_are_not_waited_for_again() -> None:
    """They cost the others a millisecond, and ever fewer of them."""

    async def story() -> None:
        async with running_told() as world:
            coordinator = world.coordinator
            coordinator.has_others = True
            slow, quick = world.connect(), world.connect()
            waited = []
            for _ in range(40):
                coordinator.holds = True
                for client in (slow, quick):
                    client.send(command(b"SET", b"k", b"1"))
                await world.settle()
                coordinator.holds = False
                coordinator.release_all()
                quick.send(command(b"GET", b"k"))
                before = len(coordinator.submitted)
                await turns(5)
                waited.append(len(coordinator.submitted) == before)
                await world.settle()
            # After one in vain the next is not waited for, then two, then four: some 5 of 40.
            assert waited[0]
            assert 2 <= sum(waited) <= 8

    run(story())


def test_batches_and_runs_may_be_decided_in_any_order() -> None:
    """A slow replica of one client's keys is not the others' delay."""

    async def story() -> None:
        async with running_told() as world:
            coordinator = world.coordinator
            coordinator.holds = coordinator.by_run = True
            clients = [world.connect() for _ in range(6)]
            for turn in range(2):
                for client in clients[3 * turn : 3 * turn + 3]:
                    client.send(command(b"SET", b"k", b"v") + command(b"ECHO", b"x"))
                await world.settle()
            assert coordinator.submitted == [3, 3]
            assert len(coordinator.held) == 6
            # The last of the held ones first: its ECHO runs at once, the others still wait.
            for number in (5, 2, 3, 0, 4, 1):
                expected = {number} | {n for n, client in enumerate(clients) if client.replies()}
                held = [0, 1, 2, 3, 4, 5]
                for gone in expected - {number}:
                    held.remove(gone)
                coordinator.release(held.index(number))
                await world.settle()
                done = {n for n, client in enumerate(clients) if client.replies() == [OK, bulk(b"x")]}
                assert done == expected

    run(story())


def test_input_beyond_what_is_in_flight_is_bounded_and_stays_unread() -> None:
    """A client may send for ever while a peer does not answer: it fills its socket, not this node."""

    async def story() -> None:
        async with running_told(configuration(resp={"pipeline_operations_max": 8})) as world:
            world.coordinator.holds = True
            client = world.connect()
            sent = 0
            while client.transport.reading:
                client.send(b"".join(command(b"SET", b"k%d" % (sent + n), b"v" * 100) for n in range(50)))
                sent += 50
                await asyncio.sleep(0)
                assert sent < 2000
            await world.settle()
            assert world.coordinator.submitted == [8]
            assert client.connection.lane.buffered() < 128 * 1024
            assert not client.connection.pending
            while world.coordinator.held:
                world.coordinator.release()
                await world.settle()
            assert client.replies() == [OK] * sent
            assert client.transport.reading
            assert max(world.coordinator.submitted) == 8

    run(story())


@pytest.mark.parametrize("end", ["eof", "error", "quit", "kill", "lost"])
def test_what_ends_a_connection_waits_for_what_is_in_flight(end: str) -> None:
    """The answer that is owed comes first, then the end; who is gone is not waited for."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            client, other = world.connect(), world.connect()
            client.send(command(b"SET", b"k", b"v"))
            await world.settle()
            expected = [OK]
            if end == "eof":
                client.shut_writing()
            elif end == "error":
                client.send(b"*1\r\n!bad\r\n")
                expected.append(b"-ERR Protocol error: expected '$', got '!'\r\n")
            elif end == "quit":
                client.send(command(b"QUIT") + command(b"SET", b"k", b"never"))
                expected.append(OK)
            elif end == "kill":
                number = b"%d" % client.connection.session.id
                assert await other.call(b"CLIENT", b"KILL", b"ID", number) == b":1\r\n"
            else:
                client.transport.abort()
                expected.clear()
            await world.settle()
            assert client.replies() == []
            assert client.closed == (end == "lost")
            world.coordinator.release_all()
            await world.settle()
            assert client.replies() == expected
            assert client.closed
            world.coordinator.holds = False
            assert await other.call(b"GET", b"k") == bulk(b"v")

    run(story())


def test_error_and_commands_in_one_piece_with_a_run_in_flight_come_in_order() -> None:
    """All of it arrives in the turn in which the run is sent out."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            client, other = world.connect(), world.connect()
            client.send(
                command(b"SET", b"k", b"1")
                + command(b"STRLEN", b"k")
                + command(b"GET", b"k")
                + b"*1\r\n!bad\r\n"
            )
            other.send(command(b"SET", b"o", b"1") + b"*1\r\n!bad\r\n")
            await world.settle()
            assert client.replies() == other.replies() == []
            while world.coordinator.held:
                world.coordinator.release(-1)
                await world.settle()
            assert client.replies()[:3] == [OK, b":1\r\n", bulk(b"1")]
            assert other.replies()[:1] == [OK]
            for each in (client, other):
                assert each.replies()[-1].startswith(b"-ERR Protocol error")
                assert each.closed

    run(story())


def test_stop_answers_what_is_in_flight_within_its_grace() -> None:
    """A drain is not a reason for "unknown"; who is not answered in time is cut off."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            clients = [world.connect() for _ in range(3)]
            clients[0].send(command(b"SET", b"k", b"v") + command(b"SET", b"k", b"w") * 3000)
            clients[1].send(command(b"APPEND", b"k", b"v"))
            await world.settle()
            stopping = asyncio.ensure_future(world.server.stop(60))
            await world.settle()
            assert clients[2].closed
            assert not stopping.done()
            while world.coordinator.held:
                world.coordinator.release()
                await world.settle()
            await stopping
            # What was in flight is answered, what came behind it is not run.
            assert clients[0].replies() == [OK] * 1024
            assert len(clients[1].replies()) == 1
            assert all(client.closed and not client.transport.aborted for client in clients)

    async def late() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            client = world.connect()
            client.send(command(b"SET", b"k", b"v"))
            await world.settle()
            await world.server.stop(0)
            assert client.transport.aborted
            world.coordinator.release_all()
            await world.settle()
            assert client.replies() == []

    run(story())
    run(late())


def test_client_that_does_not_read_and_waits_goes_on_once_both_are_over() -> None:
    """Two reasons to stand still; the one that ends first must not let it go."""

    async def story() -> None:
        async with running_told() as world:
            client, other = world.connect(), world.connect()
            big = bytes(MIB)
            assert await other.call(b"SET", b"big", big) == OK
            client.transport.taking = False
            client.send(command(b"GET", b"big"))
            await world.settle()
            assert client.connection.blocked
            world.coordinator.holds = True
            client.transport.take()
            client.send(command(b"GET", b"big") + command(b"GET", b"big"))
            await world.settle()
            client.send(command(b"ECHO", b"x"))
            world.coordinator.release_all()
            await world.settle()
            assert client.connection.blocked
            client.transport.taking = True
            client.transport.take()
            assert await client.wait(4) == [bulk(big)] * 3 + [bulk(b"x")]

    run(story())


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_answers_of_later_turns_reach_real_sockets(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The direct way to the socket is the same as within a turn."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            loop = asyncio.get_running_loop()

            def let_go() -> None:
                world.coordinator.release_all()
                ticking[0] = loop.call_soon(let_go)

            ticking = [loop.call_soon(let_go)]
            words = [(b"SET", b"k%d" % n, b"v" * n) for n in range(300)] + [
                (b"GET", b"k%d" % n) for n in range(300)
            ]
            expected = OK * 300 + b"".join(bulk(b"v" * n) for n in range(300))
            sent = b"".join(command(*item) for item in words)
            assert await converse(world, sent, len(expected), 1) == expected
            ticking[0].cancel()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in a later turn"])
def test_batch_that_was_cut_leaves_nothing_in_flight(later: bool) -> None:
    """Runs of which nothing was taken are nobody's to answer: counted all the same, they would make every
    later turn wait for them.
    """

    async def story() -> None:
        async with running_told() as world:
            clients, value = [world.connect() for _ in range(3)], bytes(MIB)
            assert await clients[0].call(b"SET", b"big", value) == OK
            world.coordinator.holds = later
            for client in clients:
                client.send(command(b"GET", b"big") * 10)
            await world.settle()
            assert world.coordinator.submitted[1] < 20
            while world.coordinator.held:
                world.coordinator.release()
                await world.settle()
            assert clients[0].replies() == [OK, *[bulk(value)] * 10]
            for client in clients[1:]:
                assert client.replies() == [bulk(value)] * 10
            assert world.server._plain.in_flight == 0

    run(story())


# Errors.


class Scripted:
    """Takes the place of ``submit``: the test says what becomes of each operation."""

    def __init__(self, world: ToldWorld) -> None:
        self.batches: list[tuple[int, Done, int]] = []
        world.coordinator.submit = self.submit  # type: ignore[method-assign]

    def submit(
        self,
        batch: resp.Batch,
        stops: list[int],
        spans: list[Span],
        options: object = None,
        *,
        done: Done,
    ) -> int:
        self.batches.append((batch.count, done, len(stops)))
        self.kinds = bytes(batch.kinds[: batch.count])
        return batch.count

    def answer(self, status: list[int], errors: dict[int, Exception]) -> None:
        count, done, runs = self.batches.pop()
        nothing = bytearray(8 * count)
        done(
            Answers(self.kinds, bytearray(status), b"", nothing, nothing, errors, max(status) > 1),  # type: ignore[arg-type]
            range(runs),
        )


def test_missed_quorums_are_told_operation_by_operation() -> None:
    """Refused and unknown are different answers, and each operation has its own."""

    async def story() -> None:
        async with running_told() as world:
            scripted, client = Scripted(world), world.connect()
            client.send(
                command(b"SET", b"a", b"1")
                + command(b"SET", b"b", b"1")
                + command(b"GET", b"c")
                + command(b"GET", b"d")
            )
            await world.settle()
            errors: dict[int, Exception] = {
                1: QuorumMissed("1 of 2 replicas answered", maybe_applied=True),
                3: QuorumMissed("0 of 2 replicas can be reached; nothing was done"),
            }
            scripted.answer([versions.OK, FAILED, versions.NOTHING, FAILED], errors)
            await world.settle()
            assert client.replies() == [
                OK,
                b"-UNAVAILABLE 1 of 2 replicas answered; it may have been applied\r\n",
                NIL,
                b"-UNAVAILABLE 0 of 2 replicas can be reached; nothing was done\r\n",
            ]

    run(story())


def test_what_a_batch_could_not_do_is_tried_again_with_what_was_sent() -> None:
    """By then the batch's memory holds what others have sent in later turns."""

    async def story() -> None:
        async with running_told() as world:
            plain = world.coordinator.submit
            scripted, client, other = Scripted(world), world.connect(), world.connect()
            client.send(
                command(b"SET", b"key", b"value")
                + command(b"SET", b"other", b"x")
                + command(b"GET", b"key")
                + command(b"SET", b"timed", b"t", b"EX", b"100")
                + command(b"ECHO", b"x")
            )
            await world.settle()
            world.coordinator.submit = plain  # type: ignore[method-assign]
            for number in range(20):
                assert await other.call(b"SET", b"noise%d" % number, bytes(100)) == OK
            again = versions.UNREADABLE
            scripted.answer([again, versions.OK, again, again], {})
            assert await client.wait(5) == [OK, OK, bulk(b"value"), OK, bulk(b"x")]
            assert await client.call(b"TTL", b"timed") == b":100\r\n"

    run(story())


# Cost.


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what the server has it make."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.calls = 0

    def create_task(self, *arguments: Any, **options: Any) -> Any:
        self.made += 1
        return super().create_task(*arguments, **options)

    def create_future(self) -> Any:
        self.made += 1
        return super().create_future()

    def call_at(self, *arguments: Any, **options: Any) -> Any:
        self.made += 1
        return super().call_at(*arguments, **options)

    def call_soon(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return super().call_soon(*arguments, **options)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in a later turn"])
def test_no_task_future_timer_or_exception_is_made_per_operation(later: bool) -> None:
    """The cost of an operation is in the kernels: 6400 of them make no more than one does."""
    raised: list[str] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if event == "exception" and "/sadik/" in frame.f_code.co_filename:
            raised.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {argument[0]}")
        return trace

    def let_go(world: ToldWorld, clients: list[Client]) -> None:
        while world.coordinator.held:
            world.coordinator.release()

    with asyncio.Runner(loop_factory=CountingLoop) as runner:

        async def story() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, CountingLoop)
            async with running_told() as world:
                clients = [world.connect() for _ in range(100)]
                # The first write opens a segment.
                assert await world.connect().call(b"SET", b"k", b"v") == OK
                world.coordinator.holds = later
                pipeline = (command(b"SET", b"k", b"v") + command(b"GET", b"k")) * 32
                made, calls = loop.made, loop.calls
                sys.settrace(trace)
                for client in clients:
                    client.send(pipeline)
                for _ in range(5):
                    await asyncio.sleep(0)
                    let_go(world, clients)
                sys.settrace(None)
                assert loop.made == made
                # Those of the turns, and of this test's own waiting.
                assert loop.calls - calls < 20
                assert raised == []
                for client in clients:
                    assert client.replies() == [OK, bulk(b"v")] * 32

        runner.run(story())


def test_run_in_flight_keeps_no_more_than_was_sent() -> None:
    """What is kept for another try is the bytes of the batch, not the arrays of a whole turn."""

    async def story() -> None:
        async with running_told() as world:
            coordinator = world.coordinator
            coordinator.holds = True
            rng = random.Random(3)
            clients = [world.connect() for _ in range(50)]
            for client in clients:
                client.send(command(b"SET", b"k", rng.randbytes(100)))
                await world.settle()
            kept = 0
            for let_go in coordinator.held:
                runs = let_go.args[0]  # type: ignore[attr-defined]
                kept += len(runs.kept)
            assert kept < 50 * 400
            coordinator.release_all()
            assert all(client.replies() == [OK] for client in clients)

    run(story())


# Before the first quorum.


def test_loading_node_refuses_ping_and_data_until_it_was_ready_once() -> None:
    """Clients wait and ask again; later a missed quorum is each request's own outcome."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.is_ready = False
            client = world.connect()
            client.send(
                command(b"GET", b"k")
                + command(b"SET", b"k", b"v")
                + command(b"PING")
                + command(b"DEL", b"k")
                + command(b"ECHO", b"x")
                + command(b"SELECT", b"1")
            )
            assert await client.wait(6) == [*[LOADING] * 4, bulk(b"x"), OK]
            assert b"loading:1\r\n" in await client.call(b"INFO", b"persistence")
            assert (await client.call(b"MULTI")) == OK
            assert await client.call(b"GET", b"k") == LOADING
            assert (await client.call(b"EXEC")).startswith(b"-EXECABORT")
            world.coordinator.is_ready = True
            assert await client.call(b"SET", b"k", b"v") == OK
            world.coordinator.is_ready = False
            client.send(command(b"GET", b"k") + command(b"PING"))
            assert (await client.wait(13))[11:] == [bulk(b"v"), b"+PONG\r\n"]
            assert b"loading:0\r\n" in await client.call(b"INFO", b"persistence")

    run(story())


# Commands that wait.


def test_commands_wait_each_for_itself() -> None:
    """A command in flight is its connection's matter; EXEC's commands run in order behind each other."""

    async def story() -> None:
        async with running_told() as world:
            coordinator = world.coordinator
            coordinator.holds = True
            first, second = world.connect(), world.connect()
            first.send(
                command(b"MULTI")
                + command(b"SET", b"k", b"1")
                + command(b"APPEND", b"k", b"2")
                + command(b"DBSIZE")
                + command(b"GET", b"k")
                + command(b"EXEC")
                + command(b"GET", b"k")
            )
            second.send(command(b"SETNX", b"k", b"other") + command(b"ECHO", b"x"))
            await world.settle()
            assert len(first.replies()) == 5
            assert second.replies() == []
            # SETNX has read and written before EXEC reads.
            while coordinator.held:
                coordinator.release()
                await world.settle()
            assert second.replies() == [b":1\r\n", bulk(b"x")]
            inner = array([OK, b":2\r\n", b":1\r\n", bulk(b"12")])
            assert first.replies()[5:] == [inner, bulk(b"12")]

    run(story())


def test_two_appends_on_one_coordinator_are_serial() -> None:
    """Nothing comes between the read that a write is made from and its storing."""

    async def story() -> None:
        async with running_told() as world:
            world.coordinator.holds = True
            clients = [world.connect() for _ in range(10)]
            for number, client in enumerate(clients):
                client.send(command(b"APPEND", b"k", b"%d" % number))
                if number % 3 == 0:
                    await world.settle()
            rng = random.Random(9)
            while world.coordinator.held:
                world.coordinator.release(rng.randrange(len(world.coordinator.held)))
                await world.settle()
            assert sorted(client.replies()[0] for client in clients) == sorted(
                b":%d\r\n" % length for length in range(1, 11)
            )
            world.coordinator.holds = False
            assert len(await clients[0].call(b"GET", b"k")) == len(bulk(bytes(10)))

    run(story())
