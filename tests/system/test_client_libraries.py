"""A client library against a real node, as programs use it: deep pipelines, big values, refusals, restarts.

What was checked by hand with clients of other languages is in docs/clients.md; these are the same stories
with the library that the tests have anyway.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from tests.system.conftest import NodeStarter
from tests.system.harness import NodeProcess

pytestmark = pytest.mark.slow

MIB = 1 << 20
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for all tests that leave it as they found it."""
    node = NodeProcess(str(tmp_path_factory.mktemp("shared") / "data")).start()
    yield node
    node.kill()


@pytest.fixture
def client(shared: NodeProcess, protocol: int) -> Iterator[redis.Redis]:
    """One connection on an empty database; nothing is tried twice, so that nothing is hidden."""
    with redis.Redis(
        port=shared.resp_port, db=protocol, protocol=protocol, single_connection_client=True, retry=None
    ) as client:
        client.flushdb()
        yield client
        client.flushdb()


@PROTOCOLS
def test_deep_pipeline_and_scan(client: redis.Redis) -> None:
    """A thousand commands in flight are answered in order, and SCAN finds what they wrote."""
    with client.pipeline(transaction=False) as pipeline:
        for number in range(1000):
            pipeline.set(b"key %d \x00\r\n\xff" % number, b"%d" % number, ex=1000)
        assert pipeline.execute() == [True] * 1000
        for number in range(1000):
            pipeline.get(b"key %d \x00\r\n\xff" % number).ttl(b"key %d \x00\r\n\xff" % number)
        replies = pipeline.execute()
    assert replies[::2] == [b"%d" % number for number in range(1000)]
    assert all(990 <= ttl_s <= 1000 for ttl_s in replies[1::2])
    assert set(client.scan_iter(match=b"key 7*", count=100)) == {
        b"key %d \x00\r\n\xff" % number for number in range(1000) if str(number).startswith("7")
    }
    assert list(client.scan_iter(_type="hash")) == []


@PROTOCOLS
def test_big_values(client: redis.Redis) -> None:
    """10 MiB go in and out; what is above the value limit is refused, and the connection stays."""
    number = client.client_id()
    big = bytes(range(256)) * (10 * MIB // 256)
    assert client.set("big", big)
    assert client.get("big") == big
    assert client.getrange("big", 9 * MIB, 9 * MIB + 9) == bytes(range(10))
    with pytest.raises(redis.ResponseError, match=r"^LIMIT .* value_bytes_max"):
        client.set("big", b"x" * (17 * MIB))
    with client.pipeline(transaction=False) as pipeline:
        pipeline.set("a", 1).set("big", b"x" * (17 * MIB)).strlen("big").get("a")
        replies = pipeline.execute(raise_on_error=False)
    assert isinstance(replies.pop(1), redis.ResponseError)
    assert replies == [True, 10 * MIB, b"1"]
    assert client.client_id() == number


@PROTOCOLS
@pytest.mark.parametrize(
    "words",
    [
        "INCR counter",
        "HSET hash field value",
        "LPUSH list value",
        "BLPOP list 1",
        "SADD set member",
        "ZADD sorted 1 member",
        "XADD stream * field value",
        "PUBLISH channel message",
        "SUBSCRIBE channel",
        "EVAL return(1) 0",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
        "MSETNX key value",
        "RENAME old new",
        "OBJECT ENCODING key",
        "CLUSTER SLOTS",
        "CLIENT TRACKING ON",
        "NONSENSE key",
        "GET",
    ],
)
def test_refused_command_leaves_the_connection_as_it_was(client: redis.Redis, words: str) -> None:
    """Alone, in a pipeline and in a transaction: the error is the command's own, and the next one works."""
    number = client.client_id()
    # Never -NOSCRIPT: it would send clients into loading the script and trying again.
    with pytest.raises(redis.ResponseError) as refusal:
        client.execute_command(*words.split())
    assert not isinstance(refusal.value, redis.exceptions.NoScriptError)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.set("key", "value").execute_command(*words.split())
        pipeline.get("key")
        replies = pipeline.execute(raise_on_error=False)
    assert (replies[0], replies[2]) == (True, b"value")
    assert isinstance(replies[1], redis.ResponseError)
    client.execute_command("MULTI")
    client.execute_command("SET", "key", "not this")
    with pytest.raises(redis.ResponseError):
        client.execute_command(*words.split())
    with pytest.raises(redis.exceptions.ExecAbortError):
        client.execute_command("EXEC")
    assert client.get("key") == b"value"
    assert client.client_id() == number


def test_argument_above_the_limit_is_answered(start_node: NodeStarter) -> None:
    """The client sends on while the node has long refused; the error must not be lost in a reset."""
    node = start_node("--value-bytes-max", "64KiB", "--resp-bulk-bytes-max", "1MiB")
    client = redis.Redis(port=node.resp_port, retry=None)
    for _ in range(3):
        with pytest.raises(redis.ResponseError, match="invalid bulk length"):
            client.set("key", b"x" * (24 * MIB))
        assert client.set("key", "value")
    client.close()
    with socket.create_connection(("127.0.0.1", node.resp_port), timeout=20) as raw:
        raw.sendall(b"SET key other\r\n*2\r\n$3\r\nGET\r\n$1048577\r\n")
        for _ in range(24):
            raw.sendall(bytes(MIB))
        raw.shutdown(socket.SHUT_WR)
        received = raw.makefile("rb").read()
    assert received == b"+OK\r\n-ERR Protocol error: invalid bulk length\r\n"


def test_programs_go_on_after_a_restart(start_node: NodeStarter) -> None:
    """A client that reconnects by itself, as most do, needs no help; SCAN goes on where it was."""
    node = start_node()
    address = f"127.0.0.1:{node.resp_port}"
    client = redis.Redis(port=node.resp_port, db=3, client_name="program")
    assert client.mset({f"key {number}": number for number in range(500)})
    cursor, found = client.scan(count=100)
    node.kill()
    start_node("--resp", address)
    assert client.get("key 7") == b"7"
    assert client.client_getname() in ("program", b"program")
    keys = list(found)
    while cursor:
        cursor, found = client.scan(cursor, count=100)
        keys += found
    assert set(keys) == {b"key %d" % number for number in range(500)}
    client.close()


@PROTOCOLS
def test_asyncio_client(shared: NodeProcess, protocol: int) -> None:
    """Many connections at once, pipelines and a walk through the keys, as text."""

    async def story() -> None:
        client = redis.asyncio.Redis(
            port=shared.resp_port, db=5, protocol=protocol, decode_responses=True, max_connections=50
        )
        await client.flushdb()
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.set("name", "žluťoučký", px=60_000).get("name").mget("name", "nobody")
            assert await pipeline.execute() == [True, "žluťoučký", ["žluťoučký", None]]
        numbers = range(40)
        assert all(await asyncio.gather(*(client.set(f"key {number}", number) for number in numbers)))
        values = await asyncio.gather(*(client.get(f"key {number}") for number in numbers))
        assert values == [str(number) for number in numbers]
        assert {key async for key in client.scan_iter(match="key *")} == {f"key {n}" for n in numbers}
        with pytest.raises(redis.ResponseError, match="INCRBY is not supported"):
            await client.incr("key 1")
        big = "x" * (10 * MIB)
        assert await client.set("big", big)
        assert await client.get("big") == big
        assert await client.delete("big", "nobody") == 1
        await client.aclose()

    asyncio.run(story())
