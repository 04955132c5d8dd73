"""Any node takes any request: Redis clients, curl and the Python client on clusters of three and five."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from sadik.client import Client, Session, SyncClient
from sadik.errors import Unavailable
from tests.system.cluster_harness import Cluster, ClusterNode, wait_until
from tests.system.conftest import needs
from tests.system.test_clients import cli, curl

pytestmark = pytest.mark.slow

RESIDENT_BYTES_MAX = 80 << 20
"""Of an idle node."""


@pytest.fixture(scope="module", params=[3, 5], ids=["three", "five"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes on which every test brings its own keys; with five, most keys have no replica on a given node."""
    count: int = request.param
    with Cluster.form(tmp_path_factory.mktemp("clients"), count) as cluster:
        yield cluster


def clients(cluster: Cluster, database: int, protocol: int = 2) -> list[redis.Redis]:
    """One to each node; nothing is tried twice, so that nothing is hidden."""
    return [
        redis.Redis(port=node.resp_port, db=database, protocol=protocol, retry=None) for node in cluster.nodes
    ]


def test_idle_node_takes_little_memory(cluster: Cluster) -> None:
    """The first test of the module: the nodes have only met so far."""
    wait_until(
        lambda: all(
            node.document("GET", "/v1/status")["live_members"] == len(cluster) for node in cluster.nodes
        ),
        10,
        "gossip has gone around",
    )
    for node in cluster.nodes:
        assert node.resident_bytes() <= RESIDENT_BYTES_MAX


# Redis clients.


@needs("redis-cli")
def test_redis_cli_session_over_all_nodes(cluster: Cluster) -> None:
    """What one node was told every other one knows."""
    for number, node in enumerate(cluster.nodes):
        other = cluster[(number + 1) % len(cluster)]
        key = f"cli:{number}"
        assert cli(node, "-n", "1", "set", key, "hello") == "OK"
        assert cli(other, "-n", "1", "append", key, " world") == "11"
        assert [cli(one, "-n", "1", "get", key) for one in cluster.nodes] == ["hello world"] * len(cluster)
        assert cli(other, "-n", "1", "expire", key, "100") == "1"
        assert 0 < int(cli(node, "-n", "1", "ttl", key)) <= 100
        explained = cli(other, "-n", "1", "sadik.explain", key).splitlines()
        assert explained.count("primary") == 3
        assert explained.count("node") == len(cluster)
        assert cli(other, "-n", "1", "del", key) == "1"
        assert [cli(one, "-n", "1", "exists", key) for one in cluster.nodes] == ["0"] * len(cluster)
    assert "cluster" in cli(cluster[0], "info", "cluster").lower()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_over_all_nodes(cluster: Cluster, protocol: int) -> None:
    """Commands over many keys fan out; a pipeline of plain and other commands keeps its order."""
    connected = clients(cluster, 1 + protocol, protocol)
    for number, client in enumerate(connected):
        other = connected[number - 1]
        values = {b"%d:%d \x00\r\n\xff" % (number, key): b"%d" % key for key in range(40)}
        assert client.mset(values)
        assert other.mget([*values, b"nothing"]) == [*values.values(), None]
        assert other.exists(*values) == 40
        with other.pipeline(transaction=False) as pipeline:
            for key in values:
                pipeline.append(key, b"!").get(key).set(key, b"x")
            replies = pipeline.execute()
        assert replies[::3] == [len(value) + 1 for value in values.values()]
        assert replies[1::3] == [value + b"!" for value in values.values()]
        with client.pipeline(transaction=True) as pipeline:
            pipeline.set(b"in one go", 1).append(b"in one go", 2).get(b"in one go")
            assert pipeline.execute() == [True, 2, b"12"]
        assert client.delete(b"in one go", b"nothing") == 1
        found = set(client.scan_iter(match=b"%d:*" % number, count=50))
        assert found == set(values)
        assert other.delete(*list(values)[:20]) == 20
        assert client.mget(list(values)[:21])[-2:] == [None, b"x"]
    left = 20 * len(cluster)
    assert [client.dbsize() for client in connected] == [left] * len(cluster)
    assert connected[0].randomkey() is not None
    # A flush counts on every node before it is acknowledged.
    assert connected[-1].flushdb()
    assert [client.dbsize() for client in connected] == [0] * len(cluster)
    assert [list(client.scan_iter()) for client in connected] == [[]] * len(cluster)
    for client in connected:
        client.close()


def test_commands_that_read_and_write_are_serial_at_any_one_node(cluster: Cluster) -> None:
    """A node that has no replica passes them to one coordinator; one that has is the coordinator itself."""
    for number, node in enumerate(cluster.nodes):
        key = f"log:{number}"
        connected = [redis.Redis(port=node.resp_port, db=6, retry=None) for _ in range(4)]

        def append(client: redis.Redis, key: str = key) -> list[int]:
            return [client.append(key, "x") for _ in range(25)]

        with ThreadPoolExecutor(len(connected)) as threads:
            lengths = [length for found in threads.map(append, connected) for length in found]
        assert sorted(lengths) == list(range(1, 101))
        assert [one.strlen(key) for one in clients(cluster, 6)] == [100] * len(cluster)


@needs("redis-benchmark")
@pytest.mark.parametrize(("tests", "count"), [("set,get", 2000), ("mset", 200)])
def test_redis_benchmark_runs_against_a_cluster(cluster: Cluster, tests: str, count: int) -> None:
    """Any error reply ends it with 1."""
    options = ["--dbnum", "7", "-t", tests, "-n", str(count), "-q", "-r", "1000", "-P", "8"]
    command = ["redis-benchmark", "-p", str(cluster[-1].resp_port), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


# HTTP.


@needs("curl")
def test_siblings_are_seen_and_settled_through_any_node(cluster: Cluster) -> None:
    """Contexts are the cluster's: what one node gave another one takes."""
    for number, node in enumerate(cluster.nodes):
        others = [one for one in cluster.nodes if one is not node]
        path = f"/v1/kv/carts/ann{number}"
        text = ("-H", "content-type: text/plain")
        assert curl(node, path, "-X", "PUT", "-d", "milk", *text)[0] == 204
        assert curl(others[0], path, "-X", "PUT", "-d", "bread", *text)[0] == 204
        for one in cluster.nodes:
            status, headers, body = curl(one, path, "-H", "accept: application/json")
            assert status == 300
            assert len(json.loads(body)["siblings"]) == 2
        context = ("-H", f"X-Sadik-Context: {headers['x-sadik-context']}")
        status, headers, _ = curl(others[1], path, "-X", "PUT", "-d", "milk, bread", *context)
        assert status == 204
        assert [curl(one, path)[2] for one in cluster.nodes] == ["milk, bread"] * len(cluster)
        context = ("-H", f"X-Sadik-Context: {headers['x-sadik-context']}")
        assert curl(node, path, "-X", "DELETE", *context)[0] == 204
        assert [curl(one, path)[0] for one in cluster.nodes] == [404] * len(cluster)
    assert [curl(one, "/ready")[0] for one in cluster.nodes] == [200] * len(cluster)


def test_every_node_explains_a_key_alike(cluster: Cluster) -> None:
    """Who has it does not depend on who is asked; and three nodes have it, whatever their number."""
    cluster[0].command(b"SET", b"explained", b"value")

    def explained() -> bool:
        documents = [node.explain([b"explained"])[0] for node in cluster.nodes]
        assert all(document == documents[0] for document in documents)
        stored = [one["node"] for one in documents[0]["replicas"] if one["state"] == "stored"]
        primaries = [one["node"] for one in documents[0]["replicas"] if one["role"] == "primary"]
        return len(primaries) == 3 and stored == primaries

    wait_until(explained, 5, "all three primaries have the key")
    assert [owner.name for owner in cluster.owners(b"explained")] == [
        one["node"] for one in cluster[-1].explain([b"explained"])[0]["replicas"][:3]
    ]


def test_keys_of_a_bucket_are_listed_over_the_cluster(cluster: Cluster) -> None:
    """Through HTTP, page by page, each key once, by any node."""
    keys = {f"key{number}" for number in range(60)}
    for number, key in enumerate(sorted(keys)):
        node = cluster[number % len(cluster)]
        assert node.request("PUT", f"/v1/kv/listed/{key}", body=b"x")[0] == 204
    for node in cluster.nodes:
        found: list[str] = []
        cursor = "0"
        while cursor is not None:
            page = node.document("GET", f"/v1/kv/listed?count=25&cursor={cursor}")
            found += page["keys"]
            cursor = page["cursor"]
        assert sorted(found) == sorted(keys)


def test_bucket_properties_are_the_same_everywhere(cluster: Cluster) -> None:
    """Set at one node, they are gossiped to all."""
    cluster[0].document("PUT", "/v1/buckets/single", {"n": 1, "r": 1, "w": 1})
    wait_until(
        lambda: all(node.document("GET", "/v1/buckets/single")["n"] == 1 for node in cluster.nodes),
        10,
        "every node knows the bucket",
    )
    for node in cluster.nodes:
        assert node.request("PUT", f"/v1/kv/single/{node.name}", body=b"x")[0] == 204
        (document,) = cluster[0].explain([node.name.encode()], b"single")
        assert [one["state"] for one in document["replicas"]].count("stored") == 1
        assert [one.request("GET", f"/v1/kv/single/{node.name}")[0] for one in cluster.nodes] == [200] * len(
            cluster
        )


# The Python client.


def addresses(nodes: list[ClusterNode]) -> list[str]:
    return [f"127.0.0.1:{node.resp_port}" for node in nodes]


def forwarded(cluster: Cluster) -> float:
    return sum(node.metric("sadik_forwarded_operations_total", direction="out") for node in cluster.running())


def test_python_client_asks_the_primaries(cluster: Cluster) -> None:
    """It finds the cluster from one address, and no node has to pass anything on."""

    async def story() -> None:
        async with Client(addresses(cluster.nodes[:1]), bucket="direct") as client:
            before = forwarded(cluster)
            keys = [b"%d" % number for number in range(300)]
            await client.put_many(dict.fromkeys(keys, b"value"))
            found = await client.get_many(keys)
            assert [reply.value for reply in found.values()] == [b"value"] * 300
            for key in keys[:50]:
                await client.put(key, b"again")
                assert (await client.get(key)).value == b"again"
            assert client.statistics().layout_version == 2
            assert client.statistics().nodes == len(cluster)
            assert forwarded(cluster) == before

    asyncio.run(story())


def test_python_clients_contexts_settle_what_two_sessions_wrote(cluster: Cluster) -> None:
    """A session replaces what it has seen, and what it has not seen stays beside it."""

    async def story() -> None:
        async with Client(addresses(cluster.nodes), bucket="carts") as client:
            other = client.session()
            await client.put("ann", b"milk")
            assert (await other.get("ann")).values == [b"milk"]
            await client.put("ann", b"milk, bread")
            assert await other.put("ann", b"milk, eggs") is None
            reply = await client.get("ann")
            assert sorted(reply.values) == [b"milk, bread", b"milk, eggs"]
            assert await client.put("ann", b"milk, bread, eggs") is not None
            assert (await other.get("ann")).values == [b"milk, bread, eggs"]
            await other.delete("ann")
            assert (await client.get("ann")).values == []

    asyncio.run(story())


def test_synchronous_client(cluster: Cluster) -> None:
    """The same without an event loop."""
    with SyncClient(addresses(cluster.nodes), bucket="sync") as client:
        client.put("key", "one")
        client.put("key", "two")
        assert client.get("key").values == [b"two"]
        client.put_many({f"{number}": "x" for number in range(100)})
        assert len(client.get_many([f"{number}" for number in range(100)])) == 100
        client.delete("key")
        assert client.get("key").value is None


@dataclass
class Writers:
    """Sessions that write one key after another, and read each back.

    Attributes:
        done: Keys that were written and read.
        unknown: Of which the client says that nobody knows.
    """

    stop: bool = False
    done: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, session: Session, prefix: str) -> None:
        number = 0
        while not self.stop:
            key = f"{prefix}:{number}"
            number += 1
            try:
                await session.put(key, key)
            except Unavailable as error:
                if not error.maybe_applied:
                    raise
                self.unknown.append(key)
                continue
            assert (await session.get(key)).values == [key.encode()]
            self.done.append(key)
            self._moved.set()

    async def more(self, count: int) -> None:
        """Until so many more are done."""
        wanted = len(self.done) + count
        async with asyncio.timeout(30):
            while len(self.done) < wanted:
                self._moved.clear()
                await self._moved.wait()


def test_python_client_outlives_the_death_of_a_node(tmp_path: Path) -> None:
    """What was in flight to the dead node is unknown; nothing else fails, and all that was done is there."""

    async def story(cluster: Cluster) -> None:
        writers = Writers()
        async with Client(addresses(cluster.nodes)) as client:
            async with asyncio.TaskGroup() as tasks:
                for number in range(4):
                    tasks.create_task(writers.write(client.session(), f"{number}"))
                await writers.more(200)
                cluster[2].kill()
                await writers.more(400)
                await asyncio.to_thread(cluster[2].start)
                await writers.more(400)
                writers.stop = True
            assert len(writers.unknown) <= 4
            found = await client.get_many(writers.done)
            assert [reply.values for reply in found.values()] == [[key.encode()] for key in writers.done]

    with Cluster.form(tmp_path / "cluster", 3) as cluster:
        asyncio.run(story(cluster))
