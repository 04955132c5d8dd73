"""The client against a real node process: what the scripted nodes assume of nodes is true."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from sadik.client import Client, Limits, SyncClient
from sadik.client.contexts import covers, seen_by
from sadik.errors import InvalidContext, InvalidRequest, LimitReached, Unavailable
from tests.client.fake_nodes import until
from tests.system.harness import NodeProcess

pytestmark = pytest.mark.slow

MIB = 1 << 20
PEER = ("--peer", "127.0.0.1:0")
"""Other tests' nodes may have the default one."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for all tests that leave it running; each has a bucket of its own."""
    started = NodeProcess(str(tmp_path_factory.mktemp("node") / "data"), list(PEER)).start()
    yield started
    started.kill()


def address(node: NodeProcess) -> str:
    return f"127.0.0.1:{node.resp_port}"


def test_life_of_a_key(node):
    """Nothing, a value, another, a delete; each answer's context covers the one before."""

    async def story() -> None:
        async with Client([address(node)], bucket="life") as client:
            nothing = await client.get("key")
            assert (nothing.value, nothing.context) == (None, b"")
            first = await client.put("key", b"one")
            read = await client.get("key")
            assert (read.values, read.context) == ([b"one"], first)
            second = await client.put("key", b"two", ttl_ms=60_000)
            assert second is not None
            assert covers(second, seen_by(read.context))
            assert not covers(read.context, seen_by(second))
            read = await client.get("key", r=1, pr=1, timeout_ms=5000)
            assert read.siblings[0].expires_at_ms is not None
            assert 0 < read.siblings[0].expires_at_ms - read.siblings[0].stamp_ms <= 60_000
            third = await client.delete("key", w=1, pw=1)
            deleted = await client.get("key")
            assert (deleted.value, deleted.context) == (None, third)

    asyncio.run(story())


def test_concurrent_writers_leave_siblings(node):
    """And a session that has seen all of them replaces them."""

    async def story() -> None:
        async with Client([address(node)], bucket="siblings") as client:
            writers = [client.session() for _ in range(5)]
            answers = [await writer.put("key", b"%d" % number) for number, writer in enumerate(writers)]
            assert [answer is None for answer in answers] == [False, True, True, True, True]
            assert sorted((await client.get("key")).values) == [b"0", b"1", b"2", b"3", b"4"]
            assert await client.put("key", b"merged") is not None
            assert (await writers[0].get("key")).values == [b"merged"]

    asyncio.run(story())


def test_keys_and_values_are_any_bytes(node):
    """Also those that the protocol itself is made of; and big ones."""

    async def story() -> None:
        async with Client([address(node)], bucket=b"\x00\r\n\xff") as client:
            key, value = bytes(range(256)), b"$3\r\n\x00\xff\r\n" * 1000
            await client.put(key, value)
            assert (await client.get(key)).value == value
            big = os.urandom(10 * MIB)
            await client.put_many({b"k" * 65535: big, "empty": b""})
            found = await client.get_many([b"k" * 65535, "empty"])
            assert [reply.value for reply in found.values()] == [big, b""]

    asyncio.run(story())


def test_many_keys_in_a_pipeline(node):
    """Some thousands, written, read and replaced by one session, then by tasks side by side."""

    async def story() -> None:
        async with Client([address(node)], bucket="many") as client:
            values = {f"k{number}": b"%d" % number for number in range(3000)}
            assert None not in (await client.put_many(values)).values()
            found = await client.get_many(values)
            assert {key: reply.values for key, reply in found.items()} == {k: [v] for k, v in values.items()}
            assert None not in (await client.put_many(dict.fromkeys(values, b"again"))).values()
            replies = await asyncio.gather(*(client.get(key) for key in list(values)[:500]))
            assert {reply.value for reply in replies} == {b"again"}
            assert client.statistics().retries == 0

    asyncio.run(story())


def test_refusals_are_raised_as_what_they_are(node):
    """By a real node's own texts."""

    async def story() -> None:
        async with Client([address(node)], bucket="refusals") as client:
            context = await client.put("a", b"x")
            assert context is not None
            with pytest.raises(InvalidContext):
                await client.put("a", b"x", context=b"nonsense")
            with pytest.raises(InvalidContext):
                await client.put("b", b"x", context=context)
            with pytest.raises(LimitReached):
                await client.put("a", bytes(17 * MIB))
            with pytest.raises(InvalidRequest):
                await client.get("a", r=2)
            assert (await client.get("a")).value == b"x"

    asyncio.run(story())


def test_session_reads_on_after_a_restart(tmp_path):
    """Connections that ended are replaced; the contexts of before still hold, and nothing is stale."""

    async def story() -> None:
        node = NodeProcess(str(tmp_path / "data"), list(PEER)).start()
        async with Client([address(node)], bucket="restart") as client:
            await client.put("key", b"before")
            port = node.resp_port
            node.kill()
            # A write that goes out before the end of the connection is noticed would be unknown.
            await until(lambda: client.statistics().connections == 0)
            with pytest.raises(Unavailable) as caught:
                await client.put("key", b"meanwhile", timeout_ms=200)
            assert caught.value.maybe_applied is False
            node.options = [*PEER, "--resp", f"127.0.0.1:{port}"]
            node.start()
            try:
                assert (await client.get("key")).value == b"before"
                assert await client.put("key", b"after") is not None
                assert (await client.get("key")).values == [b"after"]
            finally:
                node.kill()

    asyncio.run(story())


def test_stopped_node_makes_a_write_unknown_and_a_read_unavailable(tmp_path):
    """SIGSTOP: nothing comes. What happened to the write shows when it goes on."""

    async def story() -> None:
        node = NodeProcess(str(tmp_path / "data"), list(PEER)).start()
        try:
            limits = Limits(attempt_timeout_ms=100, connect_timeout_ms=100)
            async with Client([address(node)], bucket="stopped", limits=limits) as client:
                await client.put("key", b"before")
                assert node.process is not None
                node.process.send_signal(signal.SIGSTOP)
                with pytest.raises(Unavailable) as caught:
                    await client.put("key", b"unknown", timeout_ms=300)
                assert caught.value.maybe_applied is True
                with pytest.raises(Unavailable, match="does not answer"):
                    await client.get("key", timeout_ms=300)
                node.process.send_signal(signal.SIGCONT)
                assert (await client.get("key")).values == [b"unknown"]
                await until(lambda: client.statistics().in_flight == 0)
        finally:
            node.kill()

    asyncio.run(story())


def test_secret_is_shown_to_the_node(tmp_path):
    """Without the right one nothing opens."""
    (tmp_path / "secret").write_text("correct horse battery\n")
    node = NodeProcess(str(tmp_path / "data"), [*PEER, "--secret-file", str(tmp_path / "secret")]).start()
    try:
        for secret in (None, "wrong horse battery"):
            with pytest.raises(InvalidRequest):
                SyncClient([address(node)], secret=secret).open()
        with SyncClient([address(node)], bucket="x", secret="correct horse battery") as client:
            client.put("key", b"value")
            assert client.get("key").value == b"value"
    finally:
        node.kill()
