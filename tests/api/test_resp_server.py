"""The RESP server over a real engine: order of replies, errors in their places, limits of a turn, syncs."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.kernels import digest, versions
from sadik.sim.files import Fault, SimFiles
from tests.api.resp_node import (
    NIL,
    OK,
    Client,
    HandClock,
    HandWorker,
    World,
    array,
    bulk,
    command,
    configuration,
    cut,
    running,
)

MIB = 1 << 20


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def is_error(reply: bytes, word: bytes) -> bool:
    return reply.startswith(b"-" + word + b" ")


# Order.


class Model:
    """What one client must be told, command after command; its keys are its own."""

    def __init__(self) -> None:
        self.buckets: dict[bytes, dict[bytes, bytes]] = {}
        self.bucket = b"0"
        self.queue: list[tuple[bytes, ...]] | None = None
        self.failed = False

    def expect(self, words: tuple[bytes, ...]) -> bytes:
        name = words[0].upper()
        if self.queue is not None and name not in (b"EXEC", b"DISCARD", b"MULTI"):
            if name == b"LPUSH":
                self.failed = True
                return self._run(words)
            self.queue.append(words)
            return b"+QUEUED\r\n"
        match name:
            case b"MULTI" if self.queue is not None:
                return b"-ERR MULTI calls can not be nested\r\n"
            case b"MULTI":
                self.queue, self.failed = [], False
                return OK
            case b"DISCARD" if self.queue is None:
                return b"-ERR DISCARD without MULTI\r\n"
            case b"DISCARD":
                self.queue = None
                return OK
            case b"EXEC" if self.queue is None:
                return b"-ERR EXEC without MULTI\r\n"
            case b"EXEC":
                queued, self.queue = self.queue, None
                if self.failed:
                    return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
                return array([self._run(item) for item in queued])
        return self._run(words)

    def _run(self, words: tuple[bytes, ...]) -> bytes:
        keys = self.buckets.setdefault(self.bucket, {})
        match words:
            case (b"GET", key):
                return bulk(keys.get(key))
            case (b"SET", key, _, b"NX") if key in keys:
                return NIL
            case (b"SET", key, value, *_):
                keys[key] = value
                return OK
            case (b"APPEND", key, value):
                keys[key] = keys.get(key, b"") + value
                return b":%d\r\n" % len(keys[key])
            case (b"GETSET", key, value):
                old, keys[key] = keys.get(key), value
                return bulk(old)
            case (b"DEL", *names):
                return b":%d\r\n" % sum(keys.pop(key, None) is not None for key in names)
            case (b"MGET", *names):
                return array([bulk(keys.get(key)) for key in names])
            case (b"SELECT", number):
                self.bucket = number
                return OK
            case (b"ECHO", text):
                return bulk(text)
            case (b"LPUSH", *_):
                return b"-ERR LPUSH is not supported: no lists, which need one order of pushes and pops\r\n"
        raise AssertionError(words)


KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.one_of(st.binary(max_size=8), st.just(b"v" * 3000))
COMMANDS = st.one_of(
    st.tuples(st.just(b"GET"), KEYS),
    st.tuples(st.just(b"SET"), KEYS, VALUES),
    st.tuples(st.just(b"GET"), KEYS),
    st.tuples(st.just(b"SET"), KEYS, VALUES),
    st.tuples(st.just(b"SET"), KEYS, VALUES, st.just(b"NX")),
    st.tuples(st.just(b"SET"), KEYS, VALUES, st.just(b"EX"), st.just(b"100")),
    st.tuples(st.just(b"APPEND"), KEYS, VALUES),
    st.tuples(st.just(b"GETSET"), KEYS, VALUES),
    st.tuples(st.just(b"DEL"), KEYS, KEYS),
    st.tuples(st.just(b"MGET"), KEYS, KEYS, KEYS),
    st.tuples(st.just(b"SELECT"), st.sampled_from([b"0", b"1"])),
    st.tuples(st.just(b"ECHO"), VALUES),
    st.tuples(st.just(b"LPUSH"), KEYS, VALUES),
    st.sampled_from([(b"MULTI",), (b"EXEC",), (b"EXEC",), (b"DISCARD",)]),
)
CONVERSATIONS = st.lists(st.lists(COMMANDS, min_size=1, max_size=25), min_size=1, max_size=4)


def own(words: tuple[bytes, ...], number: int) -> tuple[bytes, ...]:
    """The same command on keys of one client."""
    if words[0] in (b"ECHO", b"SELECT"):
        return words
    last = len(words) if words[0] in (b"MGET", b"DEL") else 2
    return (words[0], *(b"%d:%b" % (number, key) for key in words[1:last]), *words[last:])


@settings(max_examples=120, deadline=None)
@given(CONVERSATIONS, st.integers(0, 2**32), st.sampled_from(["always", "interval"]))
def test_every_client_is_answered_as_if_it_were_alone(
    conversations: list[list[tuple[bytes, ...]]], seed: int, sync: str
) -> None:
    """Whatever arrives together, cut wherever, and whatever the batch and pipeline limits are: each client's
    replies are those of its own commands in order.
    """
    rng = random.Random(seed)
    # The least the options allow for bytes is more than these tests send, so counts do the cutting.
    config = configuration(
        resp={
            "batch_operations_max": rng.choice((1, 3, 64)),
            "pipeline_operations_max": rng.choice((1, 2, 64)),
        },
        storage={"sync": sync},
    )

    async def story() -> None:
        async with running(config, seed=seed) as world:
            clients: list[tuple[Client, list[bytes], list[bytes]]] = []
            for number, conversation in enumerate(conversations):
                model = Model()
                sent = [own(words, number) for words in conversation]
                expected = [model.expect(words) for words in sent]
                pieces = cut(rng, b"".join(command(*words) for words in sent))
                clients.append((world.connect(), expected, pieces))
            while any(pieces for _, _, pieces in clients):
                client, _, pieces = rng.choice([row for row in clients if row[2]])
                # A socket that is not read from delivers nothing.
                if client.transport.reading:
                    client.send(pieces.pop(0))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            for client, expected, _ in clients:
                assert await client.wait(len(expected)) == expected

    run(story())


def test_writes_and_reads_of_one_key_in_one_pipeline_take_turns() -> None:
    """A later operation sees an earlier one's result although both are one batch."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            client.send(
                b"".join(
                    command(b"SET", b"k", b"%d" % number) + command(b"GET", b"k") for number in range(500)
                )
            )
            expected = [reply for number in range(500) for reply in (OK, bulk(b"%d" % number))]
            assert await client.wait(1000) == expected

    run(story())


def test_thousand_connections_of_one_turn_get_their_own_replies() -> None:
    """The batch is shared by all; the replies must not be."""

    async def story() -> None:
        async with running() as world:
            clients = [world.connect() for _ in range(1000)]
            for number, client in enumerate(clients):
                word = b"%d" % number
                client.send(
                    command(b"SET", word, word)
                    + command(b"ECHO", word) * (number % 3)
                    + command(b"GET", word)
                )
            for number, client in enumerate(clients):
                word = b"%d" % number
                expected = [OK, *[bulk(word)] * (number % 3), bulk(word)]
                assert await client.wait(len(expected)) == expected

    run(story())


def test_select_inside_exec_holds_for_what_comes_after() -> None:
    """Inside EXEC and after it, keys are those of the bucket that was selected."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            words = [
                (b"SET", b"k", b"zero"),
                (b"MULTI",),
                (b"GET", b"k"),
                (b"SELECT", b"1"),
                (b"GET", b"k"),
                (b"SET", b"k", b"one"),
                (b"GET", b"k"),
                (b"EXEC",),
                (b"GET", b"k"),
                (b"SELECT", b"0"),
                (b"GET", b"k"),
            ]
            client.send(b"".join(command(*item) for item in words))
            replies = await client.wait(11)
            inner = array([bulk(b"zero"), OK, NIL, OK, bulk(b"one")])
            assert replies == [OK, OK, *[b"+QUEUED\r\n"] * 5, inner, bulk(b"one"), OK, bulk(b"zero")]

    run(story())


def test_flush_in_a_pipeline_hides_what_came_before_and_nothing_after() -> None:
    """FLUSHDB is ordered with the plain writes around it, which run in batches."""

    async def story() -> None:
        async with running() as world:
            client, other = world.connect(), world.connect()
            words = [
                (b"SET", b"a", b"1"),
                (b"SET", b"b", b"1"),
                (b"FLUSHDB",),
                (b"SET", b"a", b"2"),
                (b"GET", b"a"),
                (b"GET", b"b"),
                (b"DBSIZE",),
                (b"FLUSHDB",),
                (b"GET", b"a"),
                (b"SET", b"a", b"3"),
            ]
            client.send(b"".join(command(*item) for item in words))
            replies = await client.wait(10)
            assert replies == [OK, OK, OK, OK, bulk(b"2"), NIL, b":1\r\n", OK, NIL, OK]
            assert await other.call(b"GET", b"a") == bulk(b"3")

    run(story())


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_slow_reader_on_a_real_socket_gets_every_byte_in_order(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Small replies go straight to the socket, large ones and what it has no room for through the transport:
    none may overtake another.
    """

    async def story() -> None:
        rng, model = random.Random(7), Model()
        async with running() as world:
            conversations: list[tuple[bytes, bytes]] = []
            for number in range(4):
                words = [
                    own(
                        rng.choice(
                            (
                                (b"GET", b"a"),
                                (b"GET", b"b"),
                                (b"ECHO", rng.randbytes(rng.randrange(50))),
                                (b"SET", b"a", rng.randbytes(rng.choice((10, 1000, 60_000)))),
                                (b"SET", b"b", rng.randbytes(10)),
                                (b"MGET", b"a", b"b"),
                            )
                        ),
                        number,
                    )
                    for _ in range(150)
                ]
                expected = b"".join(map(model.expect, words))
                conversations.append((b"".join(command(*item) for item in words), expected))
            received = await asyncio.gather(
                *(
                    converse(world, data, len(expected), seed)
                    for seed, (data, expected) in enumerate(conversations)
                )
            )
            for (_, expected), data in zip(conversations, received, strict=True):
                assert data == expected

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())


async def converse(world: World, data: bytes, size: int, seed: int) -> bytes:
    """Send pieces, and read ``size`` bytes of replies in pieces, through a socket with little room."""
    rng = random.Random(seed)
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    connected.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connected, (world.address.host, world.address.port))

    async def send() -> None:
        for piece in cut(rng, data, 200):
            await loop.sock_sendall(connected, piece)
            await asyncio.sleep(0)

    sending = loop.create_task(send())
    received = bytearray()
    while len(received) < size:
        part = await loop.sock_recv(connected, rng.choice((100, 5000, 100_000)))
        assert part, "the connection was closed"
        received += part
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
    await sending
    connected.close()
    return bytes(received)


# Replies that are not sent, and ends of connections.


def test_client_reply_off_and_skip_silence_errors_too() -> None:
    """A client that counts on silence would take any stray reply for the answer to its next command."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            words = [
                (b"CLIENT", b"REPLY", b"SKIP"),
                (b"NONSENSE",),
                (b"ECHO", b"1"),
                (b"CLIENT", b"REPLY", b"SKIP"),
                (b"SET", b"k", b"skipped"),
                (b"GET", b"k"),
                (b"CLIENT", b"REPLY", b"OFF"),
                (b"GET", b"k"),
                (b"GET",),
                (b"SET", b"k", b"off"),
                (b"MULTI",),
                (b"SET", b"k", b"both"),
                (b"EXEC",),
                (b"CLIENT", b"REPLY", b"ON"),
                (b"GET", b"k"),
            ]
            client.send(b"".join(command(*item) for item in words))
            await world.settle()
            assert client.replies() == [bulk(b"1"), bulk(b"skipped"), OK, bulk(b"both")]

    run(story())


def test_skip_before_exec_silences_exec_as_a_whole() -> None:
    """A skip is for one reply; half an array would be worse than none."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            for words in ((b"MULTI",), (b"ECHO", b"a"), (b"ECHO", b"b")):
                await client.call(*words)
            client.connection.session.reply_mode = "skip"
            client.send(command(b"EXEC") + command(b"ECHO", b"after"))
            assert (await client.wait(4))[3:] == [bulk(b"after")]

    run(story())


def test_quit_drops_what_comes_after_it() -> None:
    """QUIT answers, closes, and nothing behind it runs."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            client.send(
                command(b"SET", b"a", b"1")
                + command(b"QUIT")
                + command(b"SET", b"a", b"2")
                + command(b"ECHO", b"x")
            )
            await world.settle()
            assert client.replies() == [OK, OK]
            assert client.closed
            assert await world.connect().call(b"GET", b"a") == bulk(b"1")

    run(story())


@pytest.mark.parametrize("sync", ["always", "interval"])
def test_half_closed_client_gets_every_reply(sync: str) -> None:
    """`printf ... | nc` ends its input at once and reads on; so does a client that shuts down in order."""

    async def story() -> None:
        async with running(configuration(storage={"sync": sync})) as world:
            client = world.connect()
            client.send(
                b"".join(
                    command(b"SET", b"k%d" % number, b"v")
                    + command(b"STRLEN", b"k%d" % number)
                    + command(b"GET", b"k%d" % number)
                    for number in range(200)
                )
            )
            client.shut_writing()
            replies = await client.wait(600)
            assert replies == [OK, b":1\r\n", bulk(b"v")] * 200
            await world.settle()
            assert client.closed

    run(story())


@pytest.mark.parametrize("sync", ["always", "interval"])
def test_protocol_error_answers_what_came_before_it(sync: str) -> None:
    """Good commands in front of nonsense count; the error is the last reply, then the connection ends."""

    async def story() -> None:
        async with running(configuration(storage={"sync": sync})) as world:
            client = world.connect()
            client.send(
                command(b"SET", b"a", b"1")
                + command(b"ECHO", b"x")
                + command(b"GET", b"a")
                + b"*1\r\n!bad\r\n"
                + command(b"SET", b"a", b"2")
            )
            await world.settle()
            replies = client.replies()
            assert replies[:3] == [OK, bulk(b"x"), bulk(b"1")]
            assert replies[3:] == [b"-ERR Protocol error: expected '$', got '!'\r\n"]
            assert client.closed
            assert await world.connect().call(b"GET", b"a") == bulk(b"1")

    run(story())


# Big values and clients that do not read.


def test_reads_of_one_big_value_do_not_multiply_it_in_memory() -> None:
    """One SET of a megabyte and 2000 GETs of it arrive in one turn: 2 GB of replies. What a client that does
    not read can make the node hold is a few batches, and it gets everything once it reads.
    """

    async def story() -> None:
        async with running() as world:
            client, other = world.connect(), world.connect()
            value = random.Random(5).randbytes(MIB)
            client.transport.taking = False
            client.send(
                command(b"SET", b"big", value) + command(b"GET", b"big") * 2000 + command(b"ECHO", b"x")
            )
            await world.settle()
            assert client.transport.unsent_max < 40 * MIB
            assert await other.call(b"ECHO", b"fine") == bulk(b"fine")
            taken = bytearray()
            for _ in range(3000):
                client.transport.take()
                taken += client.transport.received[:64]
                whole = len(client.transport.received)
                client.transport.received.clear()
                if whole and client.transport.unsent_max >= 40 * MIB:
                    raise AssertionError("more is held than a batch")
                await asyncio.sleep(0)
                story_bytes[0] += whole
            assert story_bytes[0] == len(OK) + 2000 * len(bulk(value)) + len(bulk(b"x"))

    story_bytes = [0]
    run(story())


def test_client_that_stops_reading_keeps_its_order() -> None:
    """Operations of a batch that was cut are run later as commands: before what the client sent after them,
    and with the values of their place.
    """

    async def story() -> None:
        config = configuration(resp={"output_bytes_max": 256 * MIB, "output_soft_bytes_max": 256 * MIB})
        async with running(config) as world:
            client, writer = world.connect(), world.connect()
            big = bytes(4 * MIB)
            for number in range(8):
                assert await writer.call(b"SET", b"big%d" % number, big) == OK
            client.transport.taking = False
            client.send(
                b"".join(command(b"GET", b"big%d" % number) for number in range(8))
                + command(b"SET", b"k", b"1")
                + command(b"GET", b"k")
                + command(b"SET", b"k", b"2")
                + command(b"APPEND", b"k", b"3")
                + command(b"GET", b"k")
                + b"*1\r\n!bad\r\n"
            )
            await world.settle()
            assert await writer.call(b"GET", b"k") == NIL
            assert client.connection.pending
            assert not client.transport.reading
            client.transport.taking = True
            client.transport.take()
            replies = await client.wait(14)
            assert [len(reply) for reply in replies[:8]] == [len(bulk(big))] * 8
            assert replies[8:13] == [OK, bulk(b"1"), OK, b":2\r\n", bulk(b"23")]
            assert replies[13].startswith(b"-ERR Protocol error")
            await world.settle()
            assert client.closed

    run(story())


def test_mget_of_one_key_named_often_is_refused_before_it_is_built() -> None:
    """The reply to 40 bytes a name can be a megabyte a name."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            assert await client.call(b"SET", b"big", bytes(MIB)) == OK
            assert len(await client.call(b"MGET", *[b"big"] * 15)) > 15 * MIB
            assert is_error(await client.call(b"MGET", *[b"big"] * 17), b"LIMIT")

    run(story())


def test_exec_stops_running_when_its_replies_are_too_long() -> None:
    """EXEC answers with one array, which is in memory whole: the rest of the batch is refused, one by one."""

    async def story() -> None:
        config = configuration(resp={"output_bytes_max": 20 * MIB, "output_soft_bytes_max": 20 * MIB})
        async with running(config) as world:
            client = world.connect()
            await client.call(b"SET", b"big", bytes(MIB))
            client.send(
                command(b"MULTI")
                + command(b"GET", b"big") * 100
                + command(b"SET", b"k", b"1")
                + command(b"EXEC")
            )
            reply = (await client.wait(104))[-1]
            assert 20 * MIB < len(reply) < 22 * MIB
            assert reply.count(b"-LIMIT not run") == 81
            assert await client.call(b"GET", b"k") == NIL

    run(story())


def test_queue_of_multi_is_limited() -> None:
    """What MULTI queues is held until EXEC, so it must not grow without end."""

    async def story() -> None:
        config = configuration(
            resp={"request_bytes_max": 2 * MIB, "bulk_bytes_max": MIB, "batch_bytes_max": MIB},
            limits={"value_bytes_max": MIB},
        )
        async with running(config) as world:
            client = world.connect()
            assert await client.call(b"MULTI") == OK
            for _ in range(3):
                assert await client.call(b"SET", b"k", bytes(600_000)) == b"+QUEUED\r\n"
            assert is_error(await client.call(b"SET", b"k", bytes(600_000)), b"LIMIT")
            assert is_error(await client.call(b"EXEC"), b"EXECABORT")
            assert await client.call(b"MULTI") == OK
            assert await client.call(b"SET", b"k", bytes(600_000)) == b"+QUEUED\r\n"
            assert await client.call(b"EXEC") == array([OK])

    run(story())


def test_value_above_the_limit_is_refused_in_a_batch_as_in_a_command() -> None:
    """The plain path must not let through what every other way in refuses."""

    async def story() -> None:
        async with running(configuration(limits={"value_bytes_max": 1000})) as world:
            client = world.connect()
            client.send(
                command(b"SET", b"a", bytes(1000))
                + command(b"SET", b"b", bytes(1001))
                + command(b"GET", b"b")
                + command(b"SET", b"c", b"x")
                + command(b"STRLEN", b"a")
                + command(b"GET", b"c")
            )
            replies = await client.wait(6)
            assert is_error(replies[1], b"LIMIT")
            assert [replies[0], *replies[2:]] == [OK, NIL, OK, b":1000\r\n", bulk(b"x")]

    run(story())


def test_client_is_not_read_from_faster_than_it_is_served() -> None:
    """A pipeline of commands that are run one a round would pile up in the parser."""

    async def story() -> None:
        async with running() as world:
            client = world.connect()
            sent = taken = 0
            for _ in range(2000):
                if client.transport.reading:
                    client.send(command(b"ECHO", b"x" * 50) * 500)
                    sent += 500
                await asyncio.sleep(0)
                assert client.connection.lane.buffered() < 256 * 1024
                taken = len(client.replies())
            assert sent > taken > 5000
            assert await client.wait(sent) == [bulk(b"x" * 50)] * sent

    run(story())


# A full disk.


def test_full_disk_refuses_writes_one_by_one_and_reads_go_on() -> None:
    """In one pipeline each SET is refused, and each GET answers what is stored: not what was refused."""

    async def story() -> None:
        files = SimFiles(capacity_bytes=8 * MIB)
        async with running(files=files) as world:
            client = world.connect()
            await client.call(b"SET", b"k", b"old")
            room = files.capacity_bytes
            files.capacity_bytes = room - files.room_bytes()
            client.send(
                command(b"GET", b"k")
                + command(b"SET", b"k", bytes(MIB))
                + command(b"GET", b"k")
                + command(b"SET", b"n", bytes(MIB))
                + command(b"GET", b"n")
                + command(b"STRLEN", b"k")
                + command(b"GETSET", b"k", bytes(MIB))
                + command(b"GET", b"k")
                + command(b"FLUSHDB")
                + command(b"GET", b"k")
            )
            replies = (await client.wait(11))[1:]
            for index in (1, 3, 6, 8):
                assert is_error(replies[index], b"OOM"), replies[index]
            old = bulk(b"old")
            assert [replies[index] for index in (0, 2, 4, 5, 7, 9)] == [old, old, NIL, b":3\r\n", old, old]
            # A bucket that is not there yet, too.
            other = world.connect()
            other.send(
                command(b"SELECT", b"7")
                + command(b"SET", b"k", b"x")
                + command(b"GET", b"k")
                + command(b"ECHO", b"x")
            )
            replies = await other.wait(4)
            assert is_error(replies[1], b"OOM"), replies
            assert replies[2:] == [NIL, bulk(b"x")]
            files.capacity_bytes = room
            client.send(command(b"SET", b"k", b"new") + command(b"GET", b"k"))
            assert (await client.wait(13))[11:] == [OK, bulk(b"new")]
            assert await other.call(b"SET", b"k", b"x") == OK

    run(story())


def test_commands_of_one_turn_do_not_see_what_was_refused() -> None:
    """Commands of a turn share records; when those cannot be stored, a reader looks again and a client that
    wants no replies gets none.
    """

    async def story() -> None:
        files = SimFiles(capacity_bytes=8 * MIB)
        async with running(files=files) as world:
            clients = [world.connect() for _ in range(4)]
            await clients[0].call(b"SET", b"k", b"old")
            clients[3].send(command(b"CLIENT", b"REPLY", b"OFF"))
            await world.settle()
            files.capacity_bytes -= files.room_bytes()
            clients[0].send(command(b"SETRANGE", b"k", b"0", bytes(MIB)))
            clients[1].send(command(b"GETRANGE", b"k", b"0", b"-1"))
            clients[2].send(command(b"SET", b"k", b"x", b"NX"))
            clients[3].send(command(b"APPEND", b"k", b"more"))
            await world.settle()
            assert is_error(clients[0].replies()[-1], b"OOM")
            assert clients[1].replies() == [bulk(b"old")]
            assert clients[2].replies() == [NIL]
            assert clients[3].replies() == []

    run(story())


# Durability.


def test_nothing_is_acknowledged_before_its_sync() -> None:
    """``always``: replies leave after a sync that began after the write. What its client sent behind it runs
    after that, so it cannot see more than was acknowledged.
    """

    async def story() -> None:
        worker = HandWorker(by_hand=True)
        async with running(configuration(storage={"sync": "always"}), worker=worker) as world:
            first, second = world.connect(), world.connect()
            first.send(command(b"GET", b"a") + command(b"SET", b"a", b"1"))
            await world.settle()
            first.send(command(b"GET", b"a") + command(b"APPEND", b"a", b"2") + command(b"ECHO", b"x"))
            await world.settle()
            assert first.replies() == []
            # The sync of the first write is done by the disk, and not yet heard of, when others write.
            done = worker.work()
            second.send(command(b"SET", b"b", b"1"))
            await world.settle()
            # Nothing but a write is held back.
            assert await world.connect().call(b"GET", b"a") == bulk(b"1")
            assert second.replies() == []
            done()
            await world.settle()
            # GET and SET were one run; the APPEND waits for the next sync, and the ECHO for it.
            assert first.replies() == [NIL, OK, bulk(b"1")]
            assert second.replies() == []
            while worker.waiting:
                worker.run()
                await world.settle()
            assert first.replies() == [NIL, OK, bulk(b"1"), b":2\r\n", bulk(b"x")]
            assert second.replies() == [OK]

    run(story())


def test_failed_sync_is_unknown_to_writers_and_nothing_to_readers() -> None:
    """Who waited is told that it may have happened, later writes are refused, and reads go on."""

    async def story() -> None:
        worker, files = HandWorker(by_hand=True), SimFiles()
        async with running(configuration(storage={"sync": "always"}), worker=worker, files=files) as world:
            client, other = world.connect(), world.connect()
            client.send(command(b"SET", b"a", b"1"))
            await world.settle()
            worker.run()
            await world.settle()
            files.inject(Fault("sync", errno.EIO, times=1))
            client.send(command(b"SET", b"a", b"2") + command(b"GET", b"a") + command(b"SET", b"b", b"2"))
            await world.settle()
            client.send(command(b"GET", b"a") + command(b"ECHO", b"x"))
            client.send(command(b"APPEND", b"a", b"3"))
            await world.settle()
            assert client.replies() == [OK]
            worker.run()
            await world.settle()
            replies = client.replies()
            for index in (1, 3):
                assert is_error(replies[index], b"STORAGE")
                assert b"may have been applied" in replies[index]
            assert [replies[2], *replies[4:6]] == [bulk(b"2"), bulk(b"2"), bulk(b"x")]
            assert is_error(replies[6], b"STORAGE")
            other.send(
                command(b"SET", b"c", b"1")
                + command(b"GET", b"c")
                + command(b"GET", b"b")
                + command(b"DEL", b"b")
                + command(b"EXISTS", b"b")
                + command(b"FLUSHDB")
            )
            replies = await other.wait(6)
            assert [is_error(replies[index], b"STORAGE") for index in (0, 3, 5)] == [True] * 3
            assert [replies[1], replies[2], replies[4]] == [NIL, bulk(b"2"), b":1\r\n"]

    run(story())


def test_client_may_have_only_so_many_operations_in_flight() -> None:
    """Operations that wait for the disk count against the connection: at the limit no more of it is run, and
    others go on.
    """

    async def story() -> None:
        worker = HandWorker(by_hand=True)
        config = configuration(storage={"sync": "always"}, resp={"pipeline_operations_max": 10})
        async with running(config, worker=worker) as world:
            client, other = world.connect(), world.connect()
            client.send(b"".join(command(b"SET", b"k%d" % number, b"v") for number in range(100)))
            await world.settle()
            assert await other.call(b"GET", b"k9") == bulk(b"v")
            assert await other.call(b"GET", b"k10") == NIL
            while len(client.replies()) < 100:
                worker.run()
                await world.settle()
            assert client.replies() == [OK] * 100

    run(story())


def test_replies_in_flight_are_limited_in_bytes() -> None:
    """One SET that waits for the disk, and behind it reads of 200 MB: those wait where they are."""

    async def story() -> None:
        worker = HandWorker(by_hand=True)
        async with running(configuration(storage={"sync": "always"}), worker=worker) as world:
            client, value = world.connect(), random.Random(6).randbytes(MIB)
            client.send(command(b"SET", b"big", value))
            await world.settle()
            worker.run()
            await world.settle()
            client.send(command(b"SET", b"k", b"v") + command(b"GET", b"big") * 200 + command(b"ECHO", b"x"))
            await world.settle()
            assert len(client.replies()) == 1
            while worker.waiting:
                worker.run()
                await world.settle()
            replies = await client.wait(203)
            assert replies[1] == OK
            assert replies[2:202] == [bulk(value)] * 200
            assert replies[202] == bulk(b"x")

    run(story())


def test_unsent_replies_beyond_the_hard_limit_cut_the_client_off() -> None:
    """What one command makes for a client that takes nothing is the most it can have."""

    async def story() -> None:
        config = configuration(
            resp={"output_bytes_max": 300_000, "output_soft_bytes_max": 300_000},
            limits={"value_bytes_max": 70_000},
        )
        async with running(config) as world:
            client, other = world.connect(), world.connect()
            await other.call(b"SET", b"big", bytes(70_000))
            client.transport.taking = False
            client.send(command(b"MULTI") + command(b"GET", b"big") * 5 + command(b"EXEC"))
            await world.settle()
            assert client.transport.aborted
            assert client.closed
            # Who reads gets as much in one pipeline.
            other.send(command(b"GET", b"big") * 100)
            assert await other.wait(101) == [OK, *[bulk(bytes(70_000))] * 100]

    run(story())


# Records that cannot be read, and actors.


def spoil(world: World, files: SimFiles, key: bytes) -> None:
    """Damage the stored record of a key on the medium."""
    name = digest.address_name(b"0", key)
    stored = world.node.engine.get(digest.digest(name))
    assert stored is not None
    for path in files.paths():
        if (at := files.content(path).find(stored)) >= 0:
            files.flip(path, at + len(stored) - 1)
            return
    raise AssertionError("the record is nowhere")


def test_unreadable_record_is_an_error_until_it_is_written_blindly() -> None:
    """-CORRUPT is not nil. A blind SET replaces it under a new actor: the old one may have minted stamps here
    that are lost.
    """

    async def story() -> None:
        files = SimFiles()
        async with running(files=files) as world:
            client, vnodes = world.connect(), world.node.vnodes
            await client.call(b"SET", b"k", b"first")
            await client.call(b"SET", b"other", b"x")
            actor = vnodes.actor
            spoil(world, files, b"k")
            client.send(
                command(b"GET", b"k")
                + command(b"GET", b"other")
                + command(b"APPEND", b"k", b"x")
                + command(b"MGET", b"other", b"k")
                + command(b"GET", b"k")
            )
            replies = await client.wait(7)
            assert replies[3] == bulk(b"x")
            assert [is_error(replies[index], b"CORRUPT") for index in (2, 4, 5, 6)] == [True] * 4
            assert vnodes.actor != actor
            client.send(
                command(b"SET", b"k", b"second") + command(b"GET", b"k") + command(b"SET", b"k", b"3")
            )
            assert (await client.wait(10))[7:] == [OK, bulk(b"second"), OK]
            entries = world.record(b"k").context()
            assert [entry[0] for entry in entries] == [vnodes.actor]

    run(story())


def test_key_stays_writable_over_70_restarts() -> None:
    """Each run is a new actor, and a version set takes 64 of them from clients."""
    files, clock = SimFiles(), HandClock()

    async def life(number: int) -> None:
        async with running(files=files, clock=clock, seed=number) as world:
            client = world.connect()
            word = b"%d" % number
            client.send(
                command(b"GET", b"plain")
                + command(b"SET", b"plain", word)
                + command(b"GET", b"plain")
                + command(b"SET", b"plain", word + b"+")
                + command(b"GETSET", b"read", word)
            )
            replies = await client.wait(5)
            before = bulk(b"%d+" % (number - 1)) if number else NIL
            assert replies[:4] == [before, OK, bulk(word), OK], number
            assert replies[4] == (bulk(b"%d" % (number - 1)) if number else NIL), number
            assert len(world.record(b"plain").context()) <= versions.ENTRIES_MAX
            assert len(world.record(b"read").context()) == 1
        clock.now_ms += 10

    for number in range(70):
        run(life(number))


def test_siblings_of_64_runs_can_be_replaced_with_their_context() -> None:
    """What the refusal asks for must be possible: reading all siblings, and writing with that context."""
    files, clock = SimFiles(), HandClock()
    contexts: list[bytes] = []

    async def life(number: int) -> None:
        async with running(files=files, clock=clock, seed=number) as world:
            client = world.connect()
            reply = await client.call(b"SADIK.PUT", b"k", b"", b"%d" % number)
            assert reply.startswith(b"-LIMIT") == (number == 64)
            if number == 64:
                record = world.record(b"k")
                contexts.append(world.node.coordinator.encode_context(record))
                assert len(record.siblings()) == 64
                reply = await client.call(b"SADIK.PUT", b"k", contexts[0], b"one")
                assert reply.startswith(b"$")
                assert await client.call(b"GET", b"k") == bulk(b"one")
                assert len(world.record(b"k").context()) == 1
        clock.now_ms += 10

    for number in range(65):
        run(life(number))


def test_writes_after_a_flush_are_seen_although_the_clock_went_back() -> None:
    """The floor of FLUSHDB is a stamp: a restart with an earlier wall clock must not write below it."""
    files, clock = SimFiles(), HandClock()

    async def flush() -> None:
        async with running(files=files, clock=clock) as world:
            client = world.connect()
            await client.call(b"SET", b"k", b"1")
            assert await client.call(b"FLUSHDB") == OK

    async def write() -> None:
        async with running(files=files, clock=clock, seed=2) as world:
            client = world.connect()
            for key, words in ((b"a", (b"SET", b"a", b"2")), (b"b", (b"APPEND", b"b", b"2"))):
                assert not is_error(await client.call(*words), b"CLOCK")
                assert await client.call(b"GET", key) == bulk(b"2")
            assert await client.call(b"GET", b"k") == NIL

    run(flush())
    clock.now_ms -= 300
    run(write())
