"""What a session's calls send and give: contexts carried along, siblings, options, failures by key."""

from __future__ import annotations

import asyncio

import pytest

from sadik.client import Limits, ManyFailed, Reply, Sibling, StaleRead
from sadik.errors import (
    ClockError,
    CorruptRecord,
    InternalError,
    InvalidContext,
    InvalidRequest,
    LimitReached,
    Overloaded,
    ProtocolError,
    SadikError,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from tests.client.fake_nodes import (
    NULL,
    QUICK,
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


def test_read_gives_all_siblings_and_their_context():
    """Newest first; the newest is the value."""

    async def story() -> None:
        context = context_of(KEY, (1, 5))
        async with FakeNode(lambda _: values(context, b"new", b"old", expires_at_ms=77)) as node:
            async with client(node) as reader:
                reply = await reader.get("key", r=2, pr=1)
                assert reply == Reply((Sibling(b"new", 1000, 77), Sibling(b"old", 1000, 77)), context)
                assert (reply.value, reply.values) == (b"new", [b"new", b"old"])
            assert node.commands == [[b"SADIK.GET", KEY, b"R", b"2", b"PR", b"1"]]

    asyncio.run(story())


def test_key_without_a_value_has_none_and_its_context():
    """The context of a tombstone still comes; -1 is never."""

    async def story() -> None:
        async with FakeNode(lambda _: values(context_of(KEY, (1, 5)))) as node, client(node) as reader:
            reply = await reader.get(KEY)
            assert (reply.value, reply.siblings, reply.context) == (None, (), context_of(KEY, (1, 5)))
            node.script = lambda _: values(context_of(KEY, (1, 6)), b"x")
            assert (await reader.get(KEY)).siblings[0].expires_at_ms is None

    asyncio.run(story())


def test_write_hands_back_what_the_session_saw_last():
    """A read's context, then the write's own: each write replaces exactly what came before."""

    async def story() -> None:
        read, written = context_of(KEY, (1, 5)), context_of(KEY, (1, 6))

        def script(command: list[bytes]) -> bytes:
            return values(read, b"seen") if command[0] == b"SADIK.GET" else bulk(written)

        async with FakeNode(script) as node:
            async with client(node) as writer:
                await writer.get(KEY)
                assert await writer.put(KEY, "text", ttl_ms=100, w=2, pw=1) == written
                assert await writer.delete(KEY, w=3) == written
                assert await writer.put("other", b"first") == written
            assert node.commands[1:] == [
                [b"SADIK.PUT", KEY, read, b"text", b"W", b"2", b"PW", b"1", b"TTL_MS", b"100"],
                [b"SADIK.DEL", KEY, written, b"W", b"3"],
                [b"SADIK.PUT", b"other", b"", b"first"],
            ]

    asyncio.run(story())


def test_context_given_is_the_context_sent():
    """Even the empty one, which replaces nothing."""

    async def story() -> None:
        own = context_of(KEY, (9, 9))
        async with FakeNode(lambda _: bulk(context_of(KEY, (1, 5)))) as node, client(node) as writer:
            await writer.put(KEY, b"1")
            await writer.put(KEY, b"2", context=own)
            await writer.put(KEY, b"3", context=b"")
            await writer.delete(KEY, context=own)
            await writer.put_many({KEY: b"4", b"other": b"5"}, contexts={KEY: own})
            assert [command[2] for command in node.commands] == [b"", own, b"", own, own, b""]

    asyncio.run(story())


def test_write_that_left_siblings_keeps_the_context_of_the_read():
    """Null says that values are there which nobody here has seen: nothing may cover them."""

    async def story() -> None:
        read = context_of(KEY, (1, 5))
        script = lambda command: values(read, b"seen") if command[0] == b"SADIK.GET" else NULL  # noqa: E731
        async with FakeNode(script) as node, client(node) as writer:
            await writer.get(KEY)
            assert await writer.put(KEY, b"1") is None
            assert await writer.put(KEY, b"2") is None
            assert [command[2] for command in node.commands[1:]] == [read, read]

    asyncio.run(story())


def test_sessions_of_a_client_know_nothing_of_each_other():
    """Two users of one program: neither's write may cover what only the other has read."""

    async def story() -> None:
        read = context_of(KEY, (1, 5))
        script = lambda command: values(read, b"seen") if command[0] == b"SADIK.GET" else NULL  # noqa: E731
        async with FakeNode(script) as node, client(node) as ann:
            await ann.get(KEY)
            bob = ann.session()
            await bob.put(KEY, b"bob's")
            await ann.put(KEY, b"ann's")
            ann.forget(KEY)
            await ann.put(KEY, b"anew")
            assert [command[2] for command in node.commands[1:]] == [b"", read, b""]
            assert node.connected == 1

    asyncio.run(story())


def test_stale_read_is_tried_elsewhere():
    """A replica behind what the session has written is not shown; another one has it."""

    async def story() -> None:
        old, new = context_of(KEY, (1, 5)), context_of(KEY, (1, 6))
        behind = FakeNode(lambda command: values(old, b"old") if command[0] == b"SADIK.GET" else bulk(new))
        current = FakeNode(lambda command: values(new, b"new"))
        async with fakes(behind, current):
            lay_out([behind, current], [[0]])
            async with client(behind) as session:
                assert await session.put(KEY, b"new") == new
                for _ in range(5):
                    assert (await session.get(KEY)).value == b"new"
                assert session.statistics().stale == 5
                # Who has seen nothing misses nothing.
                assert (await session.session().get(KEY)).value == b"old"

    asyncio.run(story())


def test_read_that_stays_stale_says_so():
    """Never silently less than before. The reply is there for who wants it, and forgetting accepts it."""

    async def story() -> None:
        old, new = context_of(KEY, (1, 5)), context_of(KEY, (1, 5), (2, 1))
        nodes = [FakeNode(lambda _: values(new, b"new")) for _ in range(2)]
        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes) as session:
                assert (await session.get(KEY)).value == b"new"
                for node in nodes:
                    node.script = lambda _: values(old, b"old")
                with pytest.raises(StaleRead, match="less of this key") as caught:
                    await session.get(KEY, timeout_ms=500)
                assert (caught.value.reply.value, caught.value.maybe_applied) == (b"old", False)
                with pytest.raises(ManyFailed) as many:
                    await session.get_many([KEY, b"unseen"], timeout_ms=500)
                assert isinstance(many.value.failed[KEY], StaleRead)
                assert many.value.done.keys() == {b"unseen"}
                session.forget(KEY)
                assert (await session.get(KEY)).value == b"old"

    asyncio.run(story())


def test_session_that_is_not_monotonic_shows_what_comes():
    """Some programs would rather see something old than an error. Each session decides for itself."""

    async def story() -> None:
        nodes = [FakeNode(), FakeNode()]

        def show(stamp: int) -> None:
            for node in nodes:
                node.script = lambda _: values(context_of(KEY, (1, stamp)), b"%d" % stamp)

        async with fakes(*nodes):
            lay_out(nodes)
            async with client(*nodes, monotonic=False) as session:
                strict = session.session(monotonic=True)
                for stamp in (6, 5):
                    show(stamp)
                    assert (await session.get(KEY)).value == b"%d" % stamp
                    if stamp == 6:
                        await strict.get(KEY)
                with pytest.raises(StaleRead):
                    await strict.get(KEY, timeout_ms=500)

    asyncio.run(story())


def test_session_remembers_a_bounded_number_of_keys():
    """Of the key that was not used for the longest it hands nothing back any more."""

    async def story() -> None:
        async with FakeNode(lambda command: bulk(context_of(command[1], (1, 5)))) as node:
            async with client(node, limits=Limits(session_keys_max=2)) as session:
                for key in (b"a", b"b", b"c", b"a", b"c"):
                    await session.put(key, b"x")
            assert [command[2] != b"" for command in node.commands] == [False, False, False, False, True]

    asyncio.run(story())


def test_node_alone_cannot_be_stale():
    """It forgets what its former runs' contexts named, and there is nobody it could be behind."""

    async def story() -> None:
        async with FakeNode(lambda _: values(context_of(KEY, (1, 5)), b"old")) as node:
            lay_out([node])
            async with client(node) as session:
                await session.get(KEY)
                node.script = lambda _: values(context_of(KEY, (2, 9)), b"of the next run")
                assert (await session.get(KEY)).value == b"of the next run"
                node.script = lambda _: bulk(context_of(KEY, (3, 12)))
                await session.put(KEY, b"x")
                assert session._contexts.seen(KEY) == {3: 12}

    asyncio.run(story())


def test_many_keys_go_in_pipelines_and_come_back_in_order():
    """Keys as they were given, each once; a thousand on a few connections."""

    async def story() -> None:
        def script(command: list[bytes]) -> bytes:
            key = command[1]
            context = context_of(key, (1, 5))
            return values(context, b"value of " + key) if command[0] == b"SADIK.GET" else bulk(context)

        async with FakeNode(script) as node, client(node) as session:
            keys = [f"k{number}" for number in range(1000)]
            written = await session.put_many({key: key for key in keys})
            assert list(written) == keys
            found = await session.get_many([*keys, "k0", b"bytes"])
            assert list(found) == [*keys, b"bytes"]
            assert all(found[key].value == b"value of " + key.encode() for key in keys)
            assert len(node.commands) == 2001
            assert node.connected <= QUICK.connections_max
            assert await session.get_many([]) == {}
            assert await session.put_many({}) == {}

    asyncio.run(story())


def test_failures_of_many_are_told_by_key():
    """Nothing is overlooked: what was done, what was refused, and what nobody knows."""

    async def story() -> None:
        def script(command: list[bytes]) -> bytes:
            if command[1] == b"limit":
                return b"-LIMIT too many siblings\r\n"
            if command[1] == b"unknown":
                return b"-UNAVAILABLE 1 of 2; may have been applied\r\n"
            return bulk(context_of(command[1], (1, 5)))

        async with FakeNode(script) as node, client(node) as session:
            with pytest.raises(ManyFailed, match="2 of 3 keys failed, the first so: too many") as caught:
                await session.put_many({"limit": b"1", "good": b"2", "unknown": b"3"})
            error = caught.value
            assert error.done == {"good": context_of(b"good", (1, 5))}
            assert isinstance(error.failed["limit"], LimitReached)
            assert isinstance(error.failed["unknown"], Unavailable)
            assert error.maybe_applied is True
            with pytest.raises(ManyFailed) as caught:
                await session.put_many({"limit": b"1", "good": b"2"})
            assert caught.value.maybe_applied is False
            assert len([key for key in node.keys if key == b"unknown"]) == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("reply", "kind", "maybe_applied"),
    [
        ("ERR syntax error", InvalidRequest, None),
        ("BADCONTEXT of another key", InvalidContext, None),
        ("LIMIT too long", LimitReached, None),
        ("CLOCK n2 is ahead", ClockError, False),
        ("STORAGE a sync failed; it may have been applied", StorageFailed, True),
        ("OOM no room", StorageFull, False),
        ("CORRUPT unreadable", CorruptRecord, False),
        ("INTERNAL an internal error; it may have been applied", InternalError, None),
        ("BUSY half of it may have been applied", Overloaded, True),
        ("UNAVAILABLE 1 of 2 answered; may have been applied", Unavailable, True),
        ("STRANGE news", SadikError, None),
    ],
)
def test_errors_are_raised_as_what_they_are(reply, kind, maybe_applied):
    """By the code in front; none of these is worth a second try."""

    async def story() -> None:
        async with FakeNode(lambda _: f"-{reply}\r\n".encode()) as node, client(node) as session:
            with pytest.raises(kind) as caught:
                await session.put(KEY, b"value")
            assert type(caught.value) is kind
            assert getattr(caught.value, "maybe_applied", None) is maybe_applied
            assert str(caught.value) in reply
            assert len(node.commands) == 1

    asyncio.run(story())


def test_what_can_never_succeed_is_refused_before_it_is_sent():
    """Keys, values, options and contexts out of range."""

    async def story() -> None:
        async with FakeNode(nothing) as node, client(node, limits=Limits(value_bytes_max=10)) as session:
            bad = [
                lambda: session.get(b""),
                lambda: session.get(b"x" * 65536),
                lambda: session.get(7),
                lambda: session.get(KEY, r=0),
                lambda: session.get(KEY, r=True),
                lambda: session.get(KEY, timeout_ms=0),
                lambda: session.put(KEY, 7),
                lambda: session.put(KEY, b"x" * 11),
                lambda: session.put(KEY, b"x", ttl_ms=-1),
                lambda: session.put_many({"key": b"1", b"key": b"2"}),
                lambda: session.put_many({"key": b"1"}, contexts={"other": b"x"}),
            ]
            for call in bad:
                with pytest.raises(InvalidRequest):
                    await call()
            assert node.commands == []
            await session.put(KEY, b"x" * 10)

    asyncio.run(story())


@pytest.mark.parametrize(
    "reply", [b":1\r\n", b"*1\r\n+x\r\n", b"*2\r\n+x\r\n*1\r\n*2\r\n+x\r\n:1\r\n", b"*2\r\n_\r\n*0\r\n"]
)
def test_answer_of_another_form_is_an_error(reply):
    """Not a value made up from what came."""

    async def story() -> None:
        async with FakeNode(lambda _: reply) as node, client(node) as session:
            with pytest.raises(ProtocolError):
                await session.get(KEY)

    asyncio.run(story())


def test_write_answered_by_a_number_may_have_been_applied():
    """Whatever that node did, nobody knows."""

    async def story() -> None:
        async with FakeNode(lambda _: b":1\r\n") as node, client(node) as session:
            with pytest.raises(ProtocolError, match="may have been applied"):
                await session.put(KEY, b"x")

    asyncio.run(story())


def test_cancelled_call_leaves_the_connection_in_order():
    """Its reply comes later, and is nobody else's."""

    async def story() -> None:
        def reply(key: bytes) -> bytes:
            return values(context_of(key, (1, 1)), key)

        node = FakeNode(lambda command: b"" if command[1] == b"slow" else reply(b"slow") + reply(b"fast"))
        async with node, client(node, limits=Limits(connections_max=1)) as session:
            slow = asyncio.create_task(session.get(b"slow"))
            await until(lambda: node.keys == [b"slow"])
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert session.statistics().in_flight == 1
            assert (await session.get(b"fast")).value == b"fast"
            assert session.statistics().in_flight == 0

    asyncio.run(story())
