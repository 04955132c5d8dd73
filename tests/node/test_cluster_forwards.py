"""Requests at a node that does not hold the key: one hop to a primary, in order, and never twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sadik.ids import NodeId
from sadik.members.view import View
from sadik.node.coordinator.options import Options
from sadik.settings import Address
from tests.api.resp_node import OK, bulk, command
from tests.node.cluster import GET, SET, Cluster, cluster, dots, payloads, run

KEY = b"k"


def holders(one: Cluster, key: bytes) -> list[str]:
    return [name for name in one.names if one.holds(name, key) or one.kept(name, key)]


def test_any_node_takes_any_request_and_a_primary_coordinates_it() -> None:
    """Clients need not know the layout: but what is minted, is minted where the key lives."""

    async def story() -> None:
        async with cluster(5) as one:
            keys = [b"key-%d" % number for number in range(100)]
            for name in one.names:
                replies = await one.answer(one.submit(name, [(SET, key, name.encode()) for key in keys]))
                assert all(reply.ok for reply in replies)
                replies = await one.answer(one.submit(name, [(GET, key, b"") for key in keys]))
                assert [reply.value for reply in replies] == [name.encode()] * len(keys)
            await one.wait_until(one.equal)
            for key in keys:
                primaries = one.preference(key)[:3]
                assert sorted(holders(one, key)) == sorted(primaries)
                (actor,) = {actor for actor, _ in dots(one.holds(primaries[0], key))}
                assert actor in [one.node(name).vnodes.actor for name in primaries]

    run(story())


def test_replies_and_effects_keep_the_order_of_a_connection_through_a_forward() -> None:
    """SET then GET of one key on one connection is what a program relies on, wherever it is connected."""

    async def story() -> None:
        async with cluster(5) as one:
            for name in one.names:
                client = one.connect(name)
                sent, wanted = b"", []
                for number in range(30):
                    key = b"key-%d" % (number % 7)
                    value = b"%s-%d" % (name.encode(), number)
                    sent += command(b"SET", key, value) + command(b"GET", key)
                    wanted += [OK, bulk(value)]
                    if number % 5 == 0:
                        sent += command(b"APPEND", key, b"!") + command(b"GET", key)
                        wanted += [b":%d\r\n" % (len(value) + 1), bulk(value + b"!")]
                client.send(sent)
                await one.wait_until(
                    lambda client=client, wanted=wanted: len(client.replies()) >= len(wanted)
                )
                assert client.replies() == wanted

    run(story())


def test_a_write_forwarded_to_a_node_that_dies_is_unknown_and_is_not_tried_elsewhere() -> None:
    """It may have been done there. A second coordinator would write it twice, and the second one would win
    over whatever came in between.
    """

    async def story() -> None:
        async with cluster(5) as one:
            first, *_, entry = one.preference(KEY)
            one.cut(first)
            request = one.submit(entry, [(SET, KEY, b"v"), (GET, KEY, b"")])
            await one.turns(3)
            one.crash(first)
            write, read = await one.answer(request)
            assert write.unknown
            assert "may have been applied" in str(write.error)
            assert read.refused
            assert "nothing was read" in str(read.error)
            await one.pass_s(1.0)
            assert not any(one.holds(name, KEY) or one.kept(name, KEY) for name in one.lives)
            # What comes later goes to the next primary.
            assert (await one.set(entry, KEY, b"w")).ok

    run(story())


def test_a_forward_that_is_not_answered_in_time_is_unknown() -> None:
    """The client's deadline is kept although the node in between has no say in what happens."""

    async def story() -> None:
        async with cluster(5, engine="log", storage={"sync": "always"}) as one:
            first, *_, entry = one.preference(KEY)
            one.lives[first].worker.delay_s = 3.0
            for name in one.preference(KEY)[1:3]:
                one.lives[name].worker.delay_s = 3.0
            began_s = one.loop.time()
            reply = await one.set(entry, KEY, b"v", timeout_ms=300)
            assert reply.unknown
            assert one.loop.time() - began_s < 0.5
            for life in one.lives.values():
                life.worker.delay_s = 0.0

    run(story())


def rotated(one: Cluster, name: str) -> None:
    """Make a node see every partition with the next nodes."""
    node = one.node(name)
    layout = node.members.view.layout
    count = len(layout.nodes)
    other = replace(layout, assignment=((layout.assignment + 1) % count).astype(np.uint16))
    node.coordinator.on_view(View(99, other, node.core.node, node.members.view.nodes))


def test_two_nodes_with_different_layouts_refuse_and_nothing_is_done() -> None:
    """Who would coordinate by a layout that the other one does not have might write where nobody looks. The
    answer is "refused", so that trying again is safe.
    """

    async def story() -> None:
        async with cluster(5) as one:
            keys = [b"key-%d" % number for number in range(100)]
            rotated(one, "n1")
            replies = await one.answer(one.submit("n1", [(SET, key, b"v") for key in keys]))
            wrong = [key for key, reply in zip(keys, replies, strict=True) if not reply.ok]
            assert wrong
            for key, reply in zip(keys, replies, strict=True):
                if key in wrong:
                    assert reply.refused
                    assert "by layout" in str(reply.error)
                    assert holders(one, key) == []
            client = one.connect("n1")
            reply = await client.call(b"APPEND", wrong[0], b"v")
            assert reply.startswith(b"-UNAVAILABLE")
            assert b"may have been applied" not in reply
            assert holders(one, wrong[0]) == []

    run(story())


def test_a_write_with_context_goes_to_the_replica_that_answered_the_read() -> None:
    """Its copy is the freshest the client knows of, so read-your-writes holds more often (Dynamo 5)."""

    async def story() -> None:
        async with cluster(5) as one:
            first, second, _, _, entry = one.preference(KEY)
            await one.set(first, KEY, b"v")
            read = await one.node(second).coordinator.read(b"0", KEY, Options())
            assert [value.payload for value in read.siblings] == [b"v"]

            async def write(context: bytes | None, value: bytes) -> int:
                await one.node(entry).coordinator.write(
                    b"0", KEY, value, context=context, metadata=b"", options=Options(w=3)
                )
                (actor,) = {
                    version.actor
                    for version in one.node(first)
                    .vnodes.records([(one.node(first).buckets.get(b"0"), KEY)])[b"0", KEY]
                    .siblings()
                    if version.payload == value
                }
                return actor

            assert await write(read.context, b"w") == one.node(second).vnodes.actor
            assert payloads(one.holds(first, KEY)) == [b"w"]
            assert await write(None, b"x") == one.node(first).vnodes.actor
            # The hint is advice: with that node away another primary does it.
            read = await one.node(second).coordinator.read(b"0", KEY, Options())
            one.crash(second)
            await one.wait_until(one.is_agreed)
            assert await write(read.context, b"y") == one.node(first).vnodes.actor

    run(story())


def test_a_node_that_is_not_in_the_layout_serves_all_requests_and_keeps_nothing() -> None:
    """It has joined, and nobody has given it a share yet: it is a way in like any other."""

    async def story() -> None:
        async with cluster(3) as one:
            one.configs["n4"] = replace(
                one.configs["n3"], node_id=NodeId("n4"), peer=Address("127.0.0.1", 7103)
            )
            one.names.append("n4")
            guest = await one.open("n4")
            await one.wait_until(lambda: one.is_linked() and guest.members.view.layout.version > 1)
            await one.wait_until(lambda: all(one.sees("n4", name) for name in ("n1", "n2", "n3")))
            keys = [b"key-%d" % number for number in range(50)]
            replies = await one.answer(one.submit("n4", [(SET, key, key) for key in keys]))
            assert all(reply.ok for reply in replies)
            replies = await one.answer(one.submit("n4", [(GET, key, b"") for key in keys]))
            assert [reply.value for reply in replies] == keys
            client = one.connect("n4")
            assert await client.call(b"APPEND", keys[0], b"!") == b":6\r\n"
            assert await client.call(b"DEL", *keys[:10]) == b":10\r\n"
            assert await client.call(b"DBSIZE") == b":40\r\n"
            read = await guest.coordinator.read(b"0", keys[20], Options())
            await guest.coordinator.write(
                b"0", keys[20], b"w", context=read.context, metadata=b"", options=Options()
            )
            assert (await one.get("n1", keys[20])).value == b"w"
            assert one.holdings("n4") == {}

    run(story())
