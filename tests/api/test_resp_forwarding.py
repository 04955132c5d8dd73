"""Commands in a cluster: writes go to the node that coordinates their key, reads are made from anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from sadik.api.resp.call import DEFAULT
from sadik.errors import QuorumMissed, StorageFull, Unavailable
from sadik.ids import NodeId
from sadik.node.coordinator.options import Options
from tests.api.alone import Forwarded, ToldWorld, running_told
from tests.api.resp_node import NIL, OK, array, bulk, command, configuration

N2, N3 = NodeId("n2"), NodeId("n3")


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


class Others:
    """Other nodes: they keep what is sent to them, and answer as they are told."""

    def __init__(self, world: ToldWorld, elsewhere: dict[bytes, NodeId]) -> None:
        self.sent: list[Forwarded] = []
        self.replies: dict[NodeId, bytes | Exception] = {}
        self.gate: asyncio.Event | None = None
        world.coordinator.elsewhere = elsewhere
        world.coordinator.forwards = self.forward

    async def forward(self, sent: Forwarded) -> bytes:
        self.sent.append(sent)
        if self.gate is not None:
            await self.gate.wait()
        reply = self.replies.get(sent[0], OK)
        if isinstance(reply, Exception):
            raise reply
        return reply


# One key.


def test_write_goes_whole_to_the_node_that_coordinates_its_key() -> None:
    """With its bucket and protocol; what the other node says is the client's reply. Reads stay."""

    async def story() -> None:
        async with running_told(configuration(limits={"request_timeout_ms": 4321})) as world:
            others, client = Others(world, {b"far": N2}), world.connect()
            others.replies[N2] = b":7\r\n"
            client.send(
                command(b"HELLO", b"3")
                + command(b"SELECT", b"5")
                + command(b"APPEND", b"far", b"x")
                + command(b"APPEND", b"near", b"x")
                + command(b"STRLEN", b"far")
                + command(b"MGET", b"far", b"near")
            )
            replies = await client.wait(6)
            assert replies[2:] == [b":7\r\n", b":1\r\n", b":0\r\n", array([b"_\r\n", bulk(b"x")])]
            assert others.sent == [(N2, b"5", 3, [b"APPEND", b"far", b"x"], 4321)]

    run(story())


def test_timeout_of_a_command_is_that_of_its_way() -> None:
    """A client that asked for 50 ms is told after 50 ms."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"far": N2}), world.connect()
            others.replies[N2] = b"$-1\r\n"
            words = (b"SADIK.PUT", b"far", b"", b"v", b"TIMEOUT_MS", b"50", b"TTL_MS", b"9")
            assert await client.call(*words) == NIL
            assert others.sent == [(N2, b"0", 2, list(words), 50)]

    run(story())


def test_client_waits_for_the_other_node_and_nobody_else_does() -> None:
    """Its later commands come behind the reply, whatever they are."""

    async def story() -> None:
        async with running_told() as world:
            others, client, other = Others(world, {b"far": N2}), world.connect(), world.connect()
            others.gate = asyncio.Event()
            client.send(command(b"DEL", b"far") + command(b"ECHO", b"x") + command(b"SET", b"near", b"1"))
            others.replies[N2] = b":1\r\n"
            await world.settle()
            assert client.replies() == []
            assert await other.call(b"GET", b"near") == NIL
            others.gate.set()
            assert await client.wait(3) == [b":1\r\n", bulk(b"x"), OK]

    run(story())


@pytest.mark.parametrize(
    ("failure", "reply"),
    [
        (
            Unavailable("the link to n2 broke", maybe_applied=True),
            b"-UNAVAILABLE the link to n2 broke; it may have been applied\r\n",
        ),
        (
            Unavailable("nothing came back; may have been applied", maybe_applied=True),
            b"-UNAVAILABLE nothing came back; may have been applied\r\n",
        ),
        (Unavailable("no link to n2; nothing was done"), b"-UNAVAILABLE no link to n2; nothing was done\r\n"),
        (ZeroDivisionError("secret"), b"-INTERNAL an internal error; it may have been applied\r\n"),
    ],
)
def test_failure_on_the_way_says_what_may_have_happened(failure: Exception, reply: bytes) -> None:
    """Clients try again only what surely did not happen; the connection goes on."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"far": N2}), world.connect()
            others.replies[N2] = failure
            assert await client.call(b"SETNX", b"far", b"v") == reply
            assert await client.call(b"SETNX", b"near", b"v") == b":1\r\n"

    run(story())


def test_forwarded_command_runs_here_and_goes_no_further() -> None:
    """Two nodes with different views must not send a command to and fro."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"k": N2, b"other": N3}), world.connect()
            run_command = world.coordinator.run_command
            assert await run_command(b"3", 2, [b"append", b"k", b"value"]) == b":5\r\n"
            assert await run_command(b"3", 3, [b"GETDEL", b"none"]) == b"_\r\n"
            assert await run_command(b"3", 2, [b"MSET", b"k", b"1", b"other", b"2"]) == OK
            assert await run_command(b"3", 2, [b"NONSENSE"]) == (
                b"-ERR unknown command 'NONSENSE', with args beginning with: \r\n"
            )
            assert (await run_command(b"3", 2, [b"APPEND", b"k"])).startswith(b"-ERR wrong number")
            assert others.sent == []
            assert await client.call(b"SELECT", b"3") == OK
            assert await client.call(b"MGET", b"k", b"other") == array([bulk(b"1"), bulk(b"2")])

    run(story())


# Several keys.


def test_write_of_several_keys_is_split_by_coordinator() -> None:
    """Each node gets its keys with what belongs to them, in order, repetitions included."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"b": N2, b"c": N3, b"d": N2}), world.connect()
            words = [b"MSET", b"a", b"1", b"b", b"2", b"c", b"3", b"d", b"4", b"b", b"5", b"a", b"6"]
            assert await client.call(*words) == OK
            assert sorted(others.sent) == [
                (N2, b"0", 2, [b"MSET", b"b", b"2", b"d", b"4", b"b", b"5"], 5000),
                (N3, b"0", 2, [b"MSET", b"c", b"3"], 5000),
            ]
            assert await client.call(b"GET", b"a") == bulk(b"6")
            others.sent.clear()
            others.replies = {N2: b":2\r\n", N3: b":0\r\n"}
            assert await client.call(b"UNLINK", b"a", b"b", b"c", b"d", b"x") == b":3\r\n"
            assert sorted(sent[3] for sent in others.sent) == [[b"UNLINK", b"b", b"d"], [b"UNLINK", b"c"]]

    run(story())


def test_one_failed_part_is_the_error_of_the_whole() -> None:
    """And since other parts were done, or may have been, that is what it says."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"b": N2, b"c": N3}), world.connect()
            refused = Unavailable("no link; nothing was done")
            unknown = Unavailable("the link broke", maybe_applied=True)
            told = b"-UNAVAILABLE the link broke; it may have been applied\r\n"
            others.replies = {N2: refused, N3: b":1\r\n"}
            assert await client.call(b"DEL", b"b", b"c") == (
                b"-UNAVAILABLE no link; nothing was done; other keys of it may have been applied\r\n"
            )
            others.replies = {N2: refused, N3: unknown}
            assert await client.call(b"DEL", b"b", b"c") == told
            assert await client.call(b"DEL", b"b", b"c", b"near") == told
            others.replies = {N2: refused, N3: refused}
            assert await client.call(b"DEL", b"b", b"c") == b"-UNAVAILABLE no link; nothing was done\r\n"

    run(story())


def test_malformed_write_of_several_keys_reaches_nobody() -> None:
    """Half of it would otherwise be done."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"b": N2}), world.connect()
            reply = await client.call(b"MSET", b"a", b"1", b"b")
            assert reply == b"-ERR wrong number of arguments for 'mset' command\r\n"
            assert (await client.call(b"DEL", b"b", b"")).startswith(b"-ERR key must be")
            assert others.sent == []
            assert await client.call(b"GET", b"a") == NIL

    run(story())


# EXEC.


def test_exec_runs_in_order_across_nodes() -> None:
    """What another node coordinates is done before what comes behind it, and after what came before."""

    async def story() -> None:
        async with running_told() as world:
            others, client = Others(world, {b"far": N2}), world.connect()
            seen: list[bytes] = []

            async def forward(sent: Forwarded) -> bytes:
                seen.append((world.coordinator.record(b"0", b"near")).payload)
                return b":1\r\n"

            world.coordinator.forwards = forward
            client.send(
                command(b"MULTI")
                + command(b"SET", b"near", b"1")
                + command(b"DEL", b"far")
                + command(b"APPEND", b"near", b"2")
                + command(b"SELECT", b"1")
                + command(b"SETEX", b"near", b"100", b"x")
                + command(b"SELECT", b"0")
                + command(b"DEL", b"far")
                + command(b"SADIK.GET", b"none", b"R", b"9")
                + command(b"GET", b"near")
                + command(b"EXEC")
            )
            reply = (await client.wait(11))[-1]
            refusal = b"-ERR r is more than the 1 replica(s) of this bucket\r\n"
            one = b":1\r\n"
            assert reply == array([OK, one, b":2\r\n", OK, OK, OK, one, refusal, bulk(b"12")])
            assert seen == [b"1", b"12"]
            assert others.sent == []

    run(story())


# Quorums.


def test_commands_that_need_the_old_value_read_a_quorum_and_others_do_not() -> None:
    """A blind write must not fail, nor wait, for what it does not look at (DESIGN 3)."""
    blind = [
        (b"SETEX", b"k", b"100", b"v"),
        (b"PSETEX", b"k", b"100", b"v"),
        (b"MSET", b"k", b"v", b"j", b"v"),
        (b"SET", b"k", b"v", b"EXAT", b"99999999999"),
        (b"SADIK.PUT", b"k", b"", b"v"),
        (b"SADIK.DEL", b"k", b""),
    ]
    looking = [
        (b"SET", b"k", b"v", b"NX"),
        (b"SET", b"k", b"v", b"xx"),
        (b"SET", b"k", b"v", b"GET"),
        (b"SET", b"k", b"v", b"KEEPTTL"),
        (b"SETNX", b"k", b"v"),
        (b"GETSET", b"k", b"v"),
        (b"GETDEL", b"k"),
        (b"GETEX", b"k", b"PERSIST"),
        (b"APPEND", b"k", b"v"),
        (b"SETRANGE", b"k", b"1", b"v"),
        (b"DEL", b"k"),
        (b"EXPIRE", b"k", b"100"),
        (b"PERSIST", b"k"),
        (b"STRLEN", b"k"),
        (b"EXISTS", b"k"),
        (b"TTL", b"k"),
        (b"MGET", b"k"),
        (b"SADIK.GET", b"k"),
    ]

    async def story() -> None:
        async with running_told() as world:
            client = world.connect()
            for quorum, commands in ((False, blind), (True, looking)):
                for words in commands:
                    world.coordinator.asked.clear()
                    assert not (await client.call(*words)).startswith(b"-"), words
                    assert world.coordinator.asked == [(DEFAULT, quorum)], words

    run(story())


def test_options_of_a_command_are_its_own() -> None:
    """They are checked before anything is read, and do not touch the commands beside it."""

    async def story() -> None:
        async with running_told() as world:
            first, second = world.connect(), world.connect()
            first.send(command(b"SADIK.GET", b"k", b"R", b"1", b"TIMEOUT_MS", b"70"))
            second.send(command(b"STRLEN", b"k"))
            await world.settle()
            assert world.coordinator.asked == [(Options(r=1, timeout_ms=70), True), (DEFAULT, True)]
            world.coordinator.asked.clear()
            assert (await first.call(b"SADIK.GET", b"k", b"R", b"2")).startswith(b"-ERR r is more than")
            assert (await first.call(b"SADIK.PUT", b"k", b"", b"v", b"R", b"1")).startswith(b"-ERR option r")
            assert (await first.call(b"SADIK.DEL", b"k", b"", b"W")).startswith(b"-ERR option 'W'")
            assert world.coordinator.asked == []

    run(story())


def test_read_that_misses_its_quorum_is_not_an_empty_key() -> None:
    """Nil would be a lie, and a write made from it would bury what was there."""

    async def story() -> None:
        async with running_told() as world:
            client, other = world.connect(), world.connect()
            assert await client.call(b"SET", b"k", b"v") == OK
            world.coordinator.fault = QuorumMissed("1 of 2 replicas answered; nothing was read")
            client.send(command(b"STRLEN", b"k") + command(b"APPEND", b"k", b"x"))
            other.send(command(b"EXISTS", b"k"))
            told = b"-UNAVAILABLE 1 of 2 replicas answered; nothing was read\r\n"
            assert (await client.wait(3))[1:] == [told, told]
            assert await other.wait(1) == [told]
            world.coordinator.fault = None
            assert await client.call(b"GET", b"k") == bulk(b"v")

    run(story())


def test_missed_write_quorum_is_the_writers_answer_and_readers_see_what_is_here() -> None:
    """Commands of a turn share a record: what may have been applied may be seen, what was not stored not."""

    async def story() -> None:
        async with running_told() as world:
            writer, reader = world.connect(), world.connect()
            assert await writer.call(b"SET", b"k", b"old") == OK
            told = b"-UNAVAILABLE 1 of 2 replicas answered; it may have been applied\r\n"
            world.coordinator.commit_fault = QuorumMissed("1 of 2 replicas answered", maybe_applied=True)
            writer.send(command(b"APPEND", b"k", b"er"))
            reader.send(command(b"GETRANGE", b"k", b"0", b"-1"))
            assert (await writer.wait(2))[1] == told
            assert await reader.wait(1) == [bulk(b"older")]
            world.coordinator.commit_fault = StorageFull("no room")
            assert await writer.call(b"SETNX", b"new", b"x") == b"-OOM no room\r\n"

    run(story())


# What a cluster shows.


def test_layout_and_info_tell_of_the_cluster() -> None:
    """SADIK.LAYOUT is for clients that find their own way; INFO for people and their tools."""

    async def story() -> None:
        async with running_told() as world:
            client = world.connect()
            layout = await client.call(b"SADIK.LAYOUT")
            assert json.loads(layout.split(b"\r\n", 1)[1]) == world.coordinator.client_layout()
            info = await client.call(b"INFO", b"cluster")
            lines = info.split(b"\r\n")[2:]
            assert lines == [
                b"cluster_enabled:0",
                b"members:1",
                b"live_members:1",
                b"layout_version:1",
                b"hints:0",
                b"",
                b"",
            ]

    run(story())
