"""Commands over the cluster: reading first and committing, whole buckets, listing, explaining."""

from __future__ import annotations

import asyncio

import pytest

from sadik.errors import QuorumMissed, Unavailable
from sadik.kernels import versions
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from tests.api.resp_node import OK, bulk, command
from tests.node.cluster import GET, SET, Cluster, Request, cluster, run

KEY = b"k"


def test_updates_from_two_connections_on_one_coordinator_are_serial() -> None:
    """Nothing comes between the read of one APPEND and its write: none of them is lost."""

    async def story() -> None:
        async with cluster(3) as one:
            clients = [one.connect("n1"), one.connect("n1")]
            for number in range(50):
                for client in clients:
                    client.send(command(b"APPEND", KEY, b"%02d" % number))
            await one.wait_until(lambda: all(len(client.replies()) == 50 for client in clients))
            lengths = sorted(int(reply[1:]) for client in clients for reply in client.replies())
            assert lengths == list(range(2, 202, 2))
            value = await one.connect("n2").call(b"GET", KEY)
            assert sorted(value[6:][n : n + 2] for n in range(0, 200, 2)) == sorted(
                b"%02d" % number for number in range(50) for _ in clients
            )

    run(story())


def test_updates_through_nodes_that_do_not_hold_the_key_meet_at_one_coordinator() -> None:
    """A command goes to the first live primary from all of them, so they do not update a key side by side."""

    async def story() -> None:
        async with cluster(5) as one:
            first, _, _, *others = one.preference(KEY)
            clients = [one.connect(name) for name in (first, *others)]
            for _ in range(10):
                for client in clients:
                    client.send(command(b"APPEND", KEY, b"x"))
            await one.wait_until(lambda: all(len(client.replies()) == 10 for client in clients))
            lengths = sorted(int(reply[1:]) for client in clients for reply in client.replies())
            assert lengths == list(range(1, 31))

    run(story())


def test_a_delete_covers_what_r_replicas_know_and_not_just_its_coordinator() -> None:
    """With a coordinator that is behind, DEL would say "not there" of an acknowledged value, or leave it."""

    async def story() -> None:
        async with cluster(3) as one:
            assert (await one.set("n2", KEY, b"v")).ok
            await one.wait_until(one.equal)
            one.lose("n1", KEY)
            assert await one.connect("n1").call(b"DEL", KEY) == b":1\r\n"
            await one.settle()
            for name in one.names:
                assert versions.is_dead(one.holds(name, KEY))
                assert (await one.get(name, KEY)).value is None
            assert await one.connect("n3").call(b"DEL", KEY) == b":0\r\n"

    run(story())


def test_commands_over_many_keys_reach_every_coordinator_and_their_replies_are_joined() -> None:
    """MSET, MGET, EXISTS and DEL are one request of a client, wherever its keys live."""

    async def story() -> None:
        async with cluster(5) as one:
            keys = [b"key-%d" % number for number in range(60)]
            client = one.connect("n1")
            pairs = [part for key in keys for part in (key, b"v" + key)]
            assert await client.call(b"MSET", *pairs) == OK
            reader = one.connect("n4")
            reply = await reader.call(b"MGET", *keys, b"missing")
            assert reply == b"*61\r\n" + b"".join(bulk(b"v" + key) for key in keys) + bulk(None)
            assert await reader.call(b"EXISTS", *keys) == b":60\r\n"
            assert await reader.call(b"DEL", *keys[:30]) == b":30\r\n"
            assert await client.call(b"EXISTS", *keys) == b":30\r\n"
            await one.wait_until(one.equal)

    run(story())


def test_a_command_without_its_quorum_is_refused_or_unknown_as_plain_ones_are() -> None:
    """ "-UNAVAILABLE" alone is safe to try again; "may have been applied" is not."""

    async def story() -> None:
        async with cluster(3) as one:
            client = one.connect("n1")
            assert await client.call(b"SET", KEY, b"v") == OK
            await one.isolate("n1")
            for words in ((b"SET", KEY, b"w"), (b"APPEND", KEY, b"w"), (b"DEL", KEY), (b"GET", KEY)):
                reply = await client.call(*words)
                assert reply.startswith(b"-UNAVAILABLE"), words
                assert b"may have been applied" not in reply, words
            await one.heal()
            assert await client.call(b"GET", KEY) == bulk(b"v")
            # Its read is answered, and then the others are gone.
            ended: list[object] = []
            coordinator = one.node("n1").coordinator

            def commit(found: object) -> None:
                assert isinstance(found, dict)
                record = found[b"0", KEY]
                record.put(b"unknown")
                one.cut("n1")
                coordinator.commit([record], Options(), ended.append)

            coordinator.read_records([(b"0", KEY)], Options(), commit)
            await one.wait_until(lambda: bool(ended))
            assert isinstance(ended[0], QuorumMissed)
            assert ended[0].maybe_applied
            await one.settle()
            assert (await one.get("n2", KEY)).value == b"unknown"

    run(story())


# Whole buckets.


async def fill(one: Cluster, name: str, count: int = 50) -> list[bytes]:
    keys = [b"key-%d" % number for number in range(count)]
    replies = await one.answer(one.submit(name, [(SET, key, b"v") for key in keys]))
    assert all(reply.ok for reply in replies)
    await one.wait_until(one.equal)
    return keys


def test_flushdb_has_hidden_everything_on_every_live_node_when_it_is_acknowledged() -> None:
    """Whoever has the answer and asks another node must not see what was flushed."""

    async def story() -> None:
        async with cluster(3) as one:
            keys = await fill(one, "n1")
            client = one.connect("n2")
            assert await client.call(b"FLUSHDB") == OK
            # Nothing has passed since the answer but this turn.
            for name in one.names:
                replies = [one.submit(name, [(GET, key, b"")], options=Options(r=1)) for key in keys]
                assert [request.replies[0].value for request in replies if request.replies[0]] == [None] * 50
                assert await one.connect(name).call(b"DBSIZE") == b":0\r\n"
            # Later writes are above it, on whatever node.
            for name in one.names:
                assert (await one.set(name, keys[0], name.encode())).ok
                assert (await one.get("n1", keys[0])).value == name.encode()

    run(story())


def test_flushdb_reaches_nodes_whose_clocks_are_behind_and_ahead() -> None:
    """A node that is behind could mint below the flush, and its writes would be hidden at once; one that is
    ahead has values above the others' clocks.
    """

    async def story() -> None:
        async with cluster(3) as one:
            one.lives["n2"].clock.offset_ms = -200
            one.lives["n3"].clock.offset_ms = 200
            for name in one.names:
                assert (await one.set(name, name.encode(), b"v")).ok
            for flusher in one.names:
                assert await one.connect(flusher).call(b"FLUSHDB") == OK
                for name in one.names:
                    for key in (b"n1", b"n2", b"n3"):
                        assert (await one.get(name, key)).value is None
                for name in one.names:
                    assert (await one.set(name, name.encode(), b"w")).ok
                for name in one.names:
                    assert (await one.get("n1", name.encode())).value == b"w"

    run(story())


def test_flushall_covers_the_buckets_of_redis_databases_and_flushdb_one() -> None:
    """SELECT is a bucket: FLUSHALL is all sixteen of them, FLUSHDB the selected one."""

    async def story() -> None:
        async with cluster(3) as one:
            client = one.connect("n1")
            for number in (b"0", b"3", b"15"):
                assert await client.call(b"SELECT", number) == OK
                assert await client.call(b"SET", KEY, b"v") == OK
            assert await client.call(b"FLUSHDB") == OK
            assert await client.call(b"GET", KEY) == bulk(None)
            other = one.connect("n2")
            await other.call(b"SELECT", b"3")
            assert await other.call(b"GET", KEY) == bulk(b"v")
            assert await client.call(b"FLUSHALL") == OK
            assert await other.call(b"GET", KEY) == bulk(None)

    run(story())


def test_a_node_that_was_away_learns_of_a_flush_before_its_old_data_is_served_or_spread() -> None:
    """It still holds everything. What it says before it knows would bring back what was flushed."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            keys = await fill(one, "n1")
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            assert await one.connect("n1").call(b"FLUSHDB") == OK
            # As on a real network, there is a time between "it is up" and "it knows".
            one.delay = lambda: 0.004
            await one.restart("n3", agreed=False)
            assert len(one.holdings("n3")) == 50
            requests: list[Request] = []
            end = one.loop.time() + 0.3
            while one.loop.time() < end:
                for name in one.names:
                    requests.append(one.submit(name, [(GET, keys[len(requests) % 50], b"")]))
                await asyncio.sleep(0.001)
            one.delay = None
            await one.wait_until(lambda: all(request.done for request in requests))
            replies = [reply for request in requests for reply in request.replies if reply is not None]
            assert [reply.value for reply in replies if reply.value is not None] == []
            assert one.is_agreed()
            await one.settle()
            for name in one.names:
                for key in keys:
                    assert (await one.get(name, key, r=1)).value is None
            assert (await one.set("n3", keys[0], b"new")).ok
            assert (await one.get("n1", keys[0])).value == b"new"

    run(story())


def test_a_flush_says_whether_it_may_have_hidden_anything() -> None:
    """A node that is asked first and does not answer: nothing was done. One that does not confirm: unknown,
    and it spreads by itself from then on.
    """

    async def story() -> None:
        async with cluster(3) as one:
            keys = await fill(one, "n1")

            async def flush() -> Unavailable:
                with pytest.raises(Unavailable) as caught:
                    await one.node("n1").coordinator.flush([b"0"])
                return caught.value

            one.cut("n3")
            assert not (await flush()).maybe_applied
            await one.settle()
            assert (await one.get("n3", keys[0])).value == b"v"
            # The question is answered, and then n3 is gone.
            buckets = one.node("n1").buckets
            truncate = buckets.truncate

            def truncate_and_cut(name: bytes, stamp: int) -> int:
                one.cut("n3")
                return truncate(name, stamp)

            buckets.truncate = truncate_and_cut  # type: ignore[method-assign]
            assert (await flush()).maybe_applied
            buckets.truncate = truncate  # type: ignore[method-assign]
            await one.heal()
            await one.wait_until(lambda: one.node("n3").buckets.get(b"0").floor > 0)
            for name in one.names:
                assert (await one.get(name, keys[0])).value is None

    run(story())


def test_bucket_properties_set_on_one_node_hold_on_all() -> None:
    """N, R and W of a bucket are the cluster's, not those of the node that was asked."""

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            one.crash("n5")
            await one.wait_until(one.is_agreed)
            properties = BucketProperties(n=5, r=1, w=4, lww=True)
            await one.node("n2").coordinator.set_properties(b"wide", properties)

            def has(name: str) -> bool:
                return one.node(name).coordinator.properties(b"wide") == properties

            await one.wait_until(lambda: all(has(name) for name in one.lives), within_s=1.0)
            await one.restart("n5")
            await one.wait_until(lambda: has("n5"), within_s=1.0)
            assert (await one.set("n1", KEY, b"v", bucket=b"wide")).ok
            await one.wait_until(lambda: all(one.values(name, KEY, b"wide") == [b"v"] for name in one.names))
            for name in ("n4", "n5"):
                await one.isolate(name)
            assert (await one.set("n1", KEY, b"w", bucket=b"wide")).refused
            await one.heal()

    run(story())


# Listing, counting, explaining.


def test_scan_gives_every_key_of_the_cluster_once_from_any_node() -> None:
    """It walks over all partitions, wherever they live, and keeps nothing in between."""

    async def story() -> None:
        async with cluster(5) as one:
            keys = await fill(one, "n1", 300)
            for name in one.names:
                coordinator = one.node(name).coordinator
                found: list[bytes] = []
                cursor = 0
                while True:
                    page = await coordinator.scan(b"0", cursor, 25)
                    found += page.keys
                    cursor = page.cursor
                    if not cursor:
                        break
                assert sorted(found) == sorted(keys)
            # Also while a node is down: its partitions are told by others.
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            found, cursor = [], 0
            while True:
                page = await one.node("n1").coordinator.scan(b"0", cursor, 100)
                found += page.keys
                cursor = page.cursor
                if not cursor:
                    break
            assert sorted(found) == sorted(keys)

    run(story())


def test_dbsize_counts_a_key_once_however_many_replicas_it_has() -> None:
    """About: replicas may differ. On a cluster at rest it is exact."""

    async def story() -> None:
        for nodes in (3, 5):
            async with cluster(nodes) as one:
                await fill(one, "n1", 200)
                for name in one.names:
                    assert await one.connect(name).call(b"DBSIZE") == b":200\r\n"
                assert await one.node("n2").coordinator.random_key(b"0") is not None

    run(story())


def test_explain_says_where_a_key_lives_who_has_what_and_who_is_up() -> None:
    """The answer to "why do I see this value", from any node."""

    async def story() -> None:
        async with cluster(5) as one:
            first, second, third, stand_in, last = one.preference(KEY)
            assert (await one.set(first, KEY, b"v", w=3)).ok
            one.crash(third)
            await one.wait_until(one.is_agreed)
            assert (await one.set(first, KEY, b"w", w=3)).ok
            told = await one.node(last).coordinator.explain(b"0", KEY)
            assert (told.n, told.r, told.w) == (3, 2, 2)
            assert [replica.node for replica in told.replicas] == [first, second, third, stand_in, last]
            assert [replica.role for replica in told.replicas] == ["primary"] * 3 + ["fallback"] * 2
            assert [replica.up for replica in told.replicas] == [True, True, False, True, True]
            assert [replica.state for replica in told.replicas] == [
                "stored",
                "stored",
                "unknown",
                "hinted",
                "absent",
            ]
            assert told.replicas[0].entries == told.replicas[1].entries
            one.engines[second].spoil(one.digest(KEY))
            told = await one.node(last).coordinator.explain(b"0", KEY)
            assert told.replicas[1].state == "error"

    run(story())


def test_hints_of_before_a_flush_bring_nothing_back() -> None:
    """They were kept before it and are delivered after it: stamps decide, not the order of arrival."""

    async def story() -> None:
        for nodes in (3, 5):
            async with cluster(nodes, engine="log") as one:
                away = one.preference(KEY)[2]
                one.crash(away)
                await one.wait_until(one.is_agreed)
                entry = one.preference(KEY)[0]
                assert (await one.set(entry, KEY, b"flushed")).ok
                await one.node(entry).coordinator.flush([b"0"])
                assert (await one.set(entry, b"later", b"kept")).ok
                await one.restart(away, agreed=False)
                await one.settle()
                for name in one.names:
                    assert (await one.get(name, KEY)).value is None
                    assert (await one.get(name, b"later")).value == b"kept"
                assert one.values(away, KEY) == [] or one.holdings(away).get(one.digest(KEY)) is None

    run(story())


def test_a_last_writer_wins_bucket_keeps_the_newest_alone_on_every_replica() -> None:
    """Siblings are what its owner has opted out of: both sides of a cut agree on one of them."""

    async def story() -> None:
        async with cluster(3) as one:
            await one.node("n1").coordinator.set_properties(b"b", BucketProperties(lww=True))
            await one.wait_until(
                lambda: all(one.node(name).coordinator.properties(b"b").lww for name in one.names)
            )
            await one.isolate("n3")
            assert (await one.set("n3", KEY, b"older", w=1, bucket=b"b")).ok
            await one.pass_s(0.05)
            assert (await one.set("n1", KEY, b"newer", bucket=b"b")).ok
            await one.settle()
            for name in one.names:
                assert one.values(name, KEY, b"b") == [b"newer"]

    run(story())
