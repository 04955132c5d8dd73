"""Whom a client asks, and what it does when that fails."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from sadik.client import Client, Limits, Session
from sadik.client.routes import node_hint
from sadik.errors import InvalidRequest, Overloaded, Unavailable
from sadik.kernels import digest
from tests.client.fake_nodes import (
    CUT,
    NULL,
    SILENCE,
    FakeNode,
    bulk,
    client,
    context_of,
    fakes,
    lay_out,
    nothing,
    until,
    values,
)

KEY = b"key"
BUSY = b"-BUSY too many requests\r\n"
REFUSED = b"-UNAVAILABLE 1 of 2 replicas can be reached; nothing was done\r\n"
LOADING = b"-LOADING the node cannot serve data yet\r\n"


def partition(key: bytes, partitions: int) -> int:
    return digest.address_digest(b"0", key)[0] * partitions // 256


# Who is asked.


def test_requests_go_straight_to_a_primary():
    """Found through one seed, from then on nobody else is asked: no hop."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(4)]
        async with fakes(*nodes):
            rows = [[p % 4, (p + 1) % 4] for p in range(8)]
            lay_out(nodes, rows)
            keys = [b"%d" % number for number in range(200)]
            async with client(nodes[0]) as session:
                await session.put_many(dict.fromkeys(keys, b"value"))
                for key in keys[:40]:
                    await session.get(key)
                await session.get_many(keys[40:])
            for number, node in enumerate(nodes):
                writes = [command[1] for command in node.commands if command[0] == b"SADIK.PUT"]
                reads = [command[1] for command in node.commands if command[0] == b"SADIK.GET"]
                assert writes
                assert all(rows[partition(key, 8)][0] == number for key in writes)
                assert all(number in rows[partition(key, 8)] for key in reads)
            assert sum(len(node.commands) for node in nodes) == 400

    asyncio.run(story())


def test_write_goes_to_the_node_that_answered_the_read():
    """Its name is in the context, wherever that came from (Dynamo 5)."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(3)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                for number in (2, 1, 0, 1):
                    context = context_of(KEY, (1, 1), hint=node_hint(f"n{number}"))
                    await session.put(KEY, b"x", context=context)
                await session.put(KEY, b"x", context=context_of(KEY, (1, 1), hint=12345))
            assert [len(node.commands) for node in nodes] == [2, 2, 1]

    asyncio.run(story())


def test_reads_prefer_the_node_that_has_been_fastest():
    """Each primary is measured once, then the slow ones are left alone."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(3)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(nodes[0]) as session:
                found = {str(address): pool for address, pool in session._cluster._pools.items()}
                pools = [found[node.address] for node in nodes]
                pools[0].latency_s, pools[1].latency_s, pools[2].latency_s = 0.5, 0.3, 0.4
                for number in range(10):
                    await session.get(b"%d" % number)
                assert [len(node.commands) for node in nodes] == [0, 10, 0]
                assert pools[1].latency_s < 0.3

    asyncio.run(story())


def test_slow_node_is_tried_again_after_a_while():
    """What was measured counts half after each refresh of the layout."""

    async def story() -> None:
        async with FakeNode(nothing) as node, client(node, limits=Limits(refresh_interval_ms=1)) as session:
            (pool,) = session._cluster._pools.values()
            pool.latency_s = 1000.0
            await until(lambda: pool.latency_s < 500)

    asyncio.run(story())


def test_node_that_others_call_down_is_asked_last():
    """Who told the layout sees it so; a client need not find out by waiting."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(3)]
        async with fakes(*nodes):
            lay_out(nodes, [[0, 1]], down=[0])
            async with client(*nodes) as session:
                await session.put(KEY, b"x")
                await session.get(KEY)
                assert [len(node.commands) for node in nodes] == [0, 2, 0]
                lay_out(nodes, [[0, 1]], version=2, down=[0, 1])
                await until(
                    lambda: session.statistics().layout_version == 2 or session._cluster._surprised.set()
                )
                await session.put(KEY, b"x")
                assert [len(node.commands) for node in nodes] == [0, 2, 1]

    asyncio.run(story())


def test_node_without_layouts_has_everything():
    """One node of a version before clusters."""

    async def story() -> None:
        async with FakeNode(nothing) as node, client(node) as session:
            await session.put(KEY, b"x")
            assert session.statistics().layout_version == 0
            assert session.statistics().refreshes == 1
            assert node.commands

    asyncio.run(story())


# The layout.


def test_layout_is_asked_for_again_and_again():
    """From a random node; the oldest it can be is the interval (Dynamo 6.4)."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(3)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(nodes[0], limits=Limits(refresh_interval_ms=1)) as session:
                await until(lambda: all(node.asked for node in nodes))
                assert session.statistics().refreshes_failed == 0

    asyncio.run(story())


def test_surprise_brings_the_new_layout_at_once():
    """A node that is gone: the next layout is not waited for."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(3)]
        async with fakes(*nodes):
            lay_out(nodes[:2], [[0]])
            async with client(nodes[1], limits=Limits(refresh_interval_ms=3_600_000)) as session:
                await session.put(KEY, b"x")
                await nodes[0].stop()
                # What is written before its end is noticed would be unknown.
                await until(lambda: session.statistics().connections == 1)
                lay_out([nodes[1], nodes[2]], [[1]], version=2, tell=nodes[1:])
                await session.put(KEY, b"x")
                await until(lambda: session.statistics().layout_version == 2)
                await session.put(KEY, b"x")
                assert nodes[2].commands

    asyncio.run(story())


def test_older_layout_is_not_taken():
    """A node may lag behind the one that was asked before."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(2)]
        async with fakes(*nodes):
            lay_out(nodes, version=5)
            async with client(*nodes, limits=Limits(refresh_interval_ms=1)) as session:
                lay_out(nodes, version=4)
                before = sum(node.asked for node in nodes)
                await until(lambda: sum(node.asked for node in nodes) > before + 1)
                assert session.statistics().layout_version == 5

    asyncio.run(story())


def test_node_that_left_is_let_go():
    """Its connections end once nothing is under way on them."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(2)]
        async with fakes(*nodes):
            lay_out(nodes, [[1]])
            async with client(nodes[0], limits=Limits(refresh_interval_ms=1)) as session:
                await session.put(KEY, b"x")
                assert nodes[1].connections == 1
                lay_out(nodes[:1], version=2, tell=nodes)
                await until(lambda: session.statistics().layout_version == 2 and nodes[1].connections == 0)
                assert session.statistics().nodes == 1

    asyncio.run(story())


def test_nonsense_for_a_layout_is_not_taken():
    """The other nodes are asked; a client that has one keeps it."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(2)]
        async with fakes(*nodes):
            lay_out(nodes)
            nodes[0].layout = bulk(b"{}")
            async with client(*nodes, limits=Limits(refresh_interval_ms=1)) as session:
                assert session.statistics().layout_version == 1
                nodes[1].layout = b"-INTERNAL broken\r\n"
                await until(lambda: session.statistics().refreshes_failed > 0)
                assert session.statistics().layout_version == 1
                await session.put(KEY, b"x")

    asyncio.run(story())


# Failures.


def test_client_that_finds_nobody_says_so():
    """Within its time-out, with a reason."""

    async def story() -> None:
        gone = FakeNode()
        async with gone:
            pass
        with pytest.raises(Unavailable, match="no node answers: 127"):
            async with client(gone, limits=Limits(timeout_ms=100)):
                pass
        silent = FakeNode()
        silent.hello = SILENCE
        async with silent:
            with pytest.raises(Unavailable, match="does not answer"):
                async with client(silent, limits=Limits(timeout_ms=200, connect_timeout_ms=50)):
                    pass
            await until(lambda: silent.connections == 0)

    asyncio.run(story())


def test_client_starts_while_its_cluster_starts():
    """A seed that is not up yet is asked again."""

    async def story() -> None:
        late = FakeNode(nothing)
        async with late:
            pass
        session = client(late)
        opening = asyncio.create_task(session.open())
        await until(lambda: session._cluster._refreshes_failed > 0)
        async with late:
            await opening
            await session.put(KEY, b"x")
            await session.close()

    asyncio.run(story())


def test_read_survives_the_death_of_its_node():
    """The connection ends without an answer: another node is asked."""

    async def story() -> None:
        nodes = [FakeNode(lambda _: CUT), FakeNode(lambda _: CUT), FakeNode(nothing)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                for number in range(6):
                    assert (await session.get(b"%d" % number)).value is None
                assert session.statistics().retries > 0

    asyncio.run(story())


def test_silent_node_costs_a_read_one_time_out():
    """SIGSTOP: the connection stays and nothing comes. The next reads go elsewhere at once."""

    async def story() -> None:
        nodes = [FakeNode(lambda _: SILENCE), FakeNode(nothing)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                for number in range(20):
                    await session.get(b"%d" % number)
                assert len(nodes[0].commands) == 1

    asyncio.run(story())


def test_slow_reply_that_keeps_coming_is_waited_for():
    """A big value takes longer than the patience with a silent node."""

    async def story() -> None:
        reply = values(context_of(KEY, (1, 1)), b"x" * 100)
        node = FakeNode(lambda _: b"")
        async with node, client(node, limits=Limits(attempt_timeout_ms=500)) as session:
            reading = asyncio.create_task(session.get(KEY))
            await until(lambda: node.keys == [KEY])
            for byte in range(0, len(reply), 20):
                node._writers[0].write(reply[byte : byte + 20])
                await asyncio.sleep(0.1)
            assert (await reading).value == b"x" * 100
            assert node.keys == [KEY]

    asyncio.run(story())


def test_write_that_was_sent_is_never_sent_again():
    """The node died with it: it may have been applied, and is reported so."""

    async def story() -> None:
        nodes = [FakeNode(lambda _: CUT), FakeNode(lambda _: CUT)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                with pytest.raises(Unavailable, match="may have been applied") as caught:
                    await session.put(KEY, b"x")
                assert caught.value.maybe_applied is True
                with pytest.raises(Unavailable) as caught:
                    await session.delete(KEY)
                assert caught.value.maybe_applied is True
                assert sum(len(node.commands) for node in nodes) == 2
                assert session.statistics().unknown == 2

    asyncio.run(story())


def test_write_without_an_answer_is_unknown_at_the_deadline():
    """A silent node may still do it, much later."""

    async def story() -> None:
        nodes = [FakeNode(lambda _: SILENCE), FakeNode(nothing)]
        async with fakes(*nodes):
            lay_out(nodes, [[0]])
            async with client(*nodes) as session:
                with pytest.raises(Unavailable, match="does not answer; the write may") as caught:
                    await session.put(KEY, b"x", timeout_ms=500)
                assert caught.value.maybe_applied is True
                assert nodes[1].commands == []
                # Once a node is known to be silent, writes too go elsewhere, until it speaks again.
                await session.put(b"next", b"x")
                (pool,) = [
                    one for one in session._cluster._pools.values() if one.address.port == nodes[0].port
                ]
                await until(lambda: asyncio.get_running_loop().time() > pool._shunned_until)
                await session.put(b"later", b"x")
                assert nodes[1].keys == [b"next", b"later"]

    asyncio.run(story())


def test_write_to_a_node_that_is_not_there_goes_to_the_next():
    """Nothing was sent, so nothing can have happened."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(2)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(nodes[1]) as session:
                await nodes[0].stop()
                for number in range(20):
                    await session.put(b"%d" % number, b"x")
                assert len(nodes[1].commands) == 20
                assert session.statistics().unknown == 0

    asyncio.run(story())


@pytest.mark.parametrize("refusal", [BUSY, REFUSED, LOADING])
def test_write_that_was_refused_is_tried_again(refusal):
    """The node surely did nothing; the next one, or the same one later, may."""

    async def story() -> None:
        answers = [refusal, refusal, refusal, NULL]
        nodes = [FakeNode(lambda _: answers.pop(0)) for _ in range(2)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                await session.put(KEY, b"x")
                assert [len(node.commands) for node in nodes] == [2, 2]
                assert session.statistics().retries == 3

    asyncio.run(story())


@pytest.mark.parametrize(("refusal", "kind"), [(BUSY, Overloaded), (REFUSED, Unavailable)])
def test_refusal_that_lasts_is_reported_as_one(refusal, kind):
    """At the deadline: refused, with the node's own reason."""

    async def story() -> None:
        async with FakeNode(lambda _: refusal) as node, client(node) as session:
            with pytest.raises(kind) as caught:
                await session.put(KEY, b"x", timeout_ms=500)
            assert caught.value.maybe_applied is False
            assert str(caught.value) in refusal.decode()
            # With pauses in between: some ten in this time, not thousands.
            assert 2 <= len(node.commands) <= 20

    asyncio.run(story())


def test_read_that_one_disk_refuses_is_asked_of_the_others():
    """A rotten record is its node's alone; when all say so, it is the answer."""

    async def story() -> None:
        rotten = b"-CORRUPT the stored record of this key cannot be read\r\n"
        nodes = [FakeNode(lambda _: rotten), FakeNode(lambda _: rotten), FakeNode(nothing)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                assert (await session.get(KEY)).value is None
                nodes[2].script = lambda _: rotten
                before = sum(len(node.commands) for node in nodes)
                with pytest.raises(Exception, match="cannot be read"):
                    await session.get(KEY)
                assert sum(len(node.commands) for node in nodes) == before + 3

    asyncio.run(story())


def test_one_dead_node_fails_none_of_many_reads():
    """Only its part of the batch is asked again."""

    async def story() -> None:
        nodes = [FakeNode(nothing) for _ in range(3)]
        async with fakes(*nodes):
            lay_out(nodes, [[p % 3, (p + 1) % 3] for p in range(8)])
            async with client(*nodes) as session:
                await nodes[0].stop()
                keys = [b"%d" % number for number in range(300)]
                assert len(await session.get_many(keys)) == 300
                assert len(await session.put_many(dict.fromkeys(keys, b"x"))) == 300

    asyncio.run(story())


def test_death_in_the_middle_of_many_writes_makes_some_unknown():
    """Those that were sent; the others are done, and none twice."""

    async def story() -> None:
        nodes = [FakeNode(), FakeNode(nothing)]
        nodes[0].script = lambda _: NULL if len(nodes[0].commands) <= 10 else CUT
        async with fakes(*nodes):
            lay_out(nodes, [[0, 1], [1, 0]])
            async with client(*nodes, limits=Limits(connections_max=1)) as session:
                keys = [b"%d" % number for number in range(100)]
                with pytest.raises(Exception, match="keys failed") as caught:
                    await session.put_many(dict.fromkeys(keys, b"x"))
                failed, done = caught.value.failed, caught.value.done
                assert {getattr(error, "maybe_applied", None) for error in failed.values()} == {True}
                assert len(failed) + len(done) == 100
                assert len([key for key in keys if partition(key, 2) == 0 and key in done]) == 10
                taken = [key for node in nodes for key in node.keys]
                assert len(taken) == len(set(taken))

    asyncio.run(story())


def test_secret_and_bucket_go_with_each_connection():
    """HELLO with the secret, then the bucket; bucket 0 is where connections begin."""

    async def story() -> None:
        async with FakeNode(nothing) as node:
            async with Client([node.address], bucket="carts", secret="s3cret") as session:
                await session.get(KEY)
            async with Client([node.address]) as session:
                await session.get(KEY)
            assert node.greetings == [
                [b"HELLO", b"3", b"AUTH", b"default", b"s3cret"],
                [b"SADIK.USE", b"carts"],
                [b"HELLO", b"3"],
            ]

    asyncio.run(story())


@pytest.mark.parametrize("refusal", ["NOAUTH wants a password", "WRONGPASS invalid password"])
def test_wrong_secret_is_the_callers_fault(refusal):
    """No second try can help."""

    async def story() -> None:
        async with FakeNode() as node:
            node.hello = f"-{refusal}\r\n".encode()
            with pytest.raises(InvalidRequest):
                async with client(node):
                    pass
            assert node.connected == 1

    asyncio.run(story())


def test_node_that_starts_is_tried_again():
    """It knows no bucket but 0 yet; nothing was done."""

    async def story() -> None:
        async with FakeNode(nothing) as node:
            node.use = LOADING
            opening = asyncio.create_task(Client([node.address], bucket="carts").open())
            await until(lambda: node.connected >= 2)
            node.use = b"+OK\r\n"
            await (await opening).close()
            node.use = b"-ERR a bucket has no such name\r\n"
            with pytest.raises(InvalidRequest, match="no such name"):
                await Client([node.address], bucket="carts").open()

    asyncio.run(story())


def test_outage_is_logged_once(caplog):
    """Not ten times a second."""

    async def story() -> None:
        node = FakeNode(nothing)
        async with node:
            session = await client(node, limits=Limits(refresh_interval_ms=1, timeout_ms=5000)).open()
        await until(lambda: session.statistics().refreshes_failed >= 3)
        async with node:
            before = session.statistics().refreshes
            await until(lambda: session.statistics().refreshes > before)
        failed = session.statistics().refreshes_failed
        await until(lambda: session.statistics().refreshes_failed > failed + 1)
        await session.close()

    asyncio.run(story())
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the layout cannot be refreshed"
    ] * 2


def test_node_that_closes_every_connection_is_not_stormed():
    """Each try opens what it needs once, and the pauses between tries grow."""

    async def story() -> None:
        async with FakeNode(lambda _: CUT) as node:
            node.layout = CUT
            with pytest.raises(Unavailable, match="closed the connection"):
                await client(node, limits=Limits(timeout_ms=1000)).open()
            assert 2 <= node.connected <= 20

    asyncio.run(story())


def test_full_node_is_tried_again():
    """Its error comes in the place of the greeting, and passes."""

    async def story() -> None:
        async with FakeNode(nothing) as node:
            node.hello = b"-ERR max number of clients reached\r\n"
            opening = asyncio.create_task(client(node).open())
            await until(lambda: node.connected >= 2)
            node.hello = b"+OK\r\n"
            session = await opening
            await session.close()

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(4))
def test_outcomes_are_honest_whatever_happens(seed):
    """Done: applied once. Refused: never. Unknown: at most once. Reads come through all the same."""

    async def story() -> None:
        chance = random.Random(seed)
        applied: list[bytes] = []

        def script(command: list[bytes]) -> bytes:
            luck = chance.random()
            if command[0] == b"SADIK.GET":
                context = context_of(command[1], (1, 1))
                return CUT if luck < 0.05 else BUSY if luck < 0.2 else values(context, command[1])
            if luck < 0.1:
                return BUSY if luck < 0.05 else REFUSED
            if luck < 0.15:
                return CUT
            applied.append(command[1])
            return CUT if luck < 0.2 else SILENCE if luck < 0.22 else bulk(context_of(command[1], (1, 1)))

        nodes = [FakeNode(script) for _ in range(3)]
        done, refused, unknown = [], [], []

        async def write(session: Session, keys: Sequence[bytes]) -> None:
            for key in keys:
                try:
                    await session.put(key, b"x", timeout_ms=200)
                    done.append(key)
                except Unavailable as error:
                    (unknown if error.maybe_applied else refused).append(key)
                assert (await session.get(key)).value == key

        async with fakes(*nodes):
            lay_out(nodes, [[p % 3, (p + 1) % 3] for p in range(8)])
            keys = [b"%d" % number for number in range(200)]
            async with client(*nodes) as session:
                await asyncio.gather(*(write(session, keys[first::20]) for first in range(20)))
        count = Counter(applied)
        assert {count[key] for key in done} == {1}
        assert {count[key] for key in refused} <= {0}
        assert {count[key] for key in unknown} == {0, 1}
        assert len(done) + len(refused) + len(unknown) == 200

    asyncio.run(story())


# Limits and life.


def test_reply_beyond_the_limit_ends_the_connection():
    """Before memory is taken for it."""

    async def story() -> None:
        node, limits = (
            FakeNode(lambda _: b"$1000000000\r\n"),
            Limits(reply_bytes_max=1 << 20, timeout_ms=1000),
        )
        async with node, client(node, limits=limits) as session:
            with pytest.raises(Unavailable, match="takes more than 1048576 bytes"):
                await session.get(KEY)

    asyncio.run(story())


def test_connections_and_requests_in_flight_are_bounded():
    """Further requests wait their turn; those that wait too long were not sent."""

    async def story() -> None:
        node = FakeNode(lambda _: SILENCE)
        limits = Limits(connections_max=2, in_flight_max=5)
        async with node, client(node, limits=limits) as session:
            tasks = [asyncio.create_task(session.put(b"%d" % n, b"x", timeout_ms=1000)) for n in range(12)]
            await until(lambda: len(node.commands) == 5)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [error.maybe_applied for error in results].count(True) == 5
            assert len(node.commands) == 5
            assert node.connected <= 2
            assert session.statistics().in_flight == 5

    asyncio.run(story())


def test_requests_wait_for_a_node_that_does_not_read():
    """What a connection holds for it is bounded, whatever many callers want to send."""

    async def story() -> None:
        node = FakeNode()
        limits = Limits(connections_max=1, unsent_bytes_max=1 << 16)
        async with node, client(node, limits=limits) as session:
            await session.put(b"warm", b"x")
            node.reads.clear()
            tasks = [asyncio.create_task(session.put(b"%d" % n, bytes(1 << 20))) for n in range(30)]
            (pool,) = session._cluster._pools.values()
            transport = pool._connections[0]._transport
            await until(lambda: transport.get_write_buffer_size() > 1 << 16)
            for _ in range(20):
                await asyncio.sleep(0)
            assert pool.in_flight < 30
            assert transport.get_write_buffer_size() <= (1 << 16) + (1 << 20) + 200
            node.reads.set()
            await asyncio.gather(*tasks)
            assert len(node.commands) == 31

    asyncio.run(story())


def test_connection_that_stays_silent_is_cut():
    """Half-open: its node will never answer what is pending, which would fill the pipeline for ever."""

    async def story() -> None:
        node = FakeNode(lambda _: SILENCE)
        limits = Limits(timeout_ms=500, refresh_interval_ms=10, attempt_timeout_ms=200)
        async with node, client(node, limits=limits) as session:
            with pytest.raises(Unavailable):
                await session.put(KEY, b"x")
            await until(lambda: session.statistics().in_flight == 0)

    asyncio.run(story())


def test_closing_ends_calls_and_connections():
    """What was under way is unavailable, and unknown where it was a write that had left."""

    async def story() -> None:
        node = FakeNode(lambda _: SILENCE)
        async with node:
            session = await client(node).open()
            calls = [asyncio.create_task(call) for call in (session.get(b"a"), session.put(b"b", b"x"))]
            await until(lambda: len(node.commands) == 2)
            await session.close()
            read, write = await asyncio.gather(*calls, return_exceptions=True)
            assert (read.maybe_applied, write.maybe_applied) == (False, True)
            await until(lambda: node.connections == 0)
            with pytest.raises(InvalidRequest, match="not open"):
                await session.get(b"a")
            await session.close()
            node.script = nothing
            async with session:
                await session.get(b"a")
                with pytest.raises(InvalidRequest, match="open already"):
                    await session.open()

    asyncio.run(story())


def test_client_is_told_how_to_begin():
    """Before it is open, and with addresses that are none."""

    async def story() -> None:
        with pytest.raises(InvalidRequest, match="not open"):
            await Client(["127.0.0.1:1"]).get(KEY)

    asyncio.run(story())
    for addresses in ([], ["nonsense"], "127.0.0.1:7379"):
        with pytest.raises(InvalidRequest):
            Client(addresses)
    for bucket in ("", "x" * 256):
        with pytest.raises(InvalidRequest):
            Client(["127.0.0.1:1"], bucket=bucket)
    with pytest.raises(InvalidRequest, match="timeout_ms"):
        Limits(timeout_ms=0)


def test_nonsense_from_a_node_ends_the_connection_only():
    """A reply that is none, or that nothing was asked for; a write it was the answer to is unknown."""

    async def story() -> None:
        nodes = [FakeNode(lambda _: b"HTTP/1.1 400 Bad Request\r\n"), FakeNode(nothing)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                with pytest.raises(Unavailable, match="does not speak the protocol") as caught:
                    await session.put(KEY, b"x")
                assert caught.value.maybe_applied is True
                for number in range(5):
                    await session.get(b"%d" % number)
                nodes[1].script = lambda _: NULL + NULL
                await session.put(b"twice", b"x")
                await until(lambda: nodes[1].connections == 0 or nodes[1].connected > 1)

    asyncio.run(story())
