"""Real clients against a real node: what users see first must be what they expect."""

from __future__ import annotations

import json
import subprocess

import pytest
import redis

from tests.system.conftest import NodeStarter, needs
from tests.system.harness import NodeProcess

pytestmark = pytest.mark.slow


def cli(node: NodeProcess, *arguments: str) -> str:
    result = subprocess.run(
        ["redis-cli", "-p", str(node.resp_port), *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return result.stdout.strip()


def curl(node: NodeProcess, path: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Status, lower-case headers and body."""
    url = f"http://127.0.0.1:{node.http_port}{path}"
    command = ["curl", "-s", "-i", "--path-as-is", "-m", "10", *options, url]
    text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    head, _, body = text.partition("\n\n" if "\r\n" not in text else "\r\n\r\n")
    lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


@needs("redis-cli")
def test_redis_cli_session(node: NodeProcess) -> None:
    """The README's first session."""
    assert cli(node, "set", "greeting", "hello") == "OK"
    assert cli(node, "get", "greeting") == "hello"
    assert cli(node, "append", "greeting", " world") == "11"
    assert cli(node, "expire", "greeting", "100") == "1"
    assert 0 < int(cli(node, "ttl", "greeting")) <= 100
    assert cli(node, "-3", "mget", "greeting", "nothing").splitlines()[0] == "hello world"
    assert cli(node, "-n", "2", "get", "greeting") == ""
    assert cli(node, "dbsize") == "1"
    assert cli(node, "--scan") == "greeting"
    assert cli(node, "del", "greeting", "nothing") == "1"
    assert cli(node, "get", "greeting") == ""
    assert cli(node, "dbsize") == "0"


@needs("redis-benchmark")
def test_redis_benchmark_runs(node: NodeProcess) -> None:
    """Any error reply ends it with 1; without ``-r`` all requests hit one key."""
    for extra in ([], ["-r", "1000"], ["-P", "16"]):
        subprocess.run(
            [
                "redis-benchmark",
                "-p",
                str(node.resp_port),
                "-t",
                "ping,set,get,mset",
                "-n",
                "2000",
                "-q",
                *extra,
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(node: NodeProcess, protocol: int) -> None:
    """The handshake of redis-py 8, pipelines, binary keys and the types it converts."""
    client = redis.Redis(port=node.resp_port, protocol=protocol, client_name="test", db=3)
    assert client.ping()
    key = bytes(range(256))
    assert client.set(key, b"\x00\r\n\xff", ex=60)
    assert client.get(key) == b"\x00\r\n\xff"
    assert client.set(key, b"other", nx=True) is None
    assert client.set(key, b"other", xx=True, get=True) == b"\x00\r\n\xff"
    with client.pipeline(transaction=False) as pipeline:
        for number in range(300):
            pipeline.set(f"k{number}", number)
            pipeline.get(f"k{number}")
        assert pipeline.execute() == [reply for number in range(300) for reply in (True, b"%d" % number)]
    with client.pipeline(transaction=True) as pipeline:
        pipeline.mset({"a": 1, "b": 2}).expire("a", 10).get("b").select(4).set("elsewhere", 1)
        assert pipeline.execute() == [True, True, b"2", True, True]
    assert client.dbsize() == 1
    client.select(3)
    assert sorted(client.scan_iter(match="k1*", count=10)) == sorted(
        f"k{number}".encode() for number in range(300) if str(number).startswith("1")
    )
    assert client.info()["redis_version"] == "7.2.4"
    assert client.flushdb()
    assert client.dbsize() == 0
    assert client.get("a") is None
    with pytest.raises(redis.ResponseError, match="WATCH"):
        client.execute_command("WATCH", "a")
    assert client.ping()
    client.close()


@needs("curl")
def test_curl_session(node: NodeProcess) -> None:
    """The README's HTTP session: siblings are shown, a context replaces them."""
    assert (
        curl(node, "/v1/kv/carts/ann", "-X", "PUT", "-d", "milk", "-H", "content-type: text/plain")[0] == 204
    )
    assert (
        curl(node, "/v1/kv/carts/ann", "-X", "PUT", "-d", "bread", "-H", "content-type: text/plain")[0] == 204
    )
    status, headers, body = curl(node, "/v1/kv/carts/ann", "-H", "accept: application/json")
    assert status == 300
    siblings = json.loads(body)["siblings"]
    assert len(siblings) == 2
    context = headers["x-sadik-context"]
    status, headers, _ = curl(
        node, "/v1/kv/carts/ann", "-X", "PUT", "-d", "milk, bread", "-H", f"X-Sadik-Context: {context}"
    )
    assert status == 204
    assert headers["x-sadik-context"] != context
    assert curl(node, "/v1/kv/carts/ann")[2] == "milk, bread"
    status, headers, _ = curl(
        node, "/v1/kv/carts/ann", "-X", "DELETE", "-H", f"X-Sadik-Context: {headers['x-sadik-context']}"
    )
    assert status == 204
    status, headers, _ = curl(node, "/v1/kv/carts/ann")
    assert status == 404
    assert headers["x-sadik-context"]
    assert curl(node, "/v1/kv/carts/ann", "-X", "PUT", "-d", "x", "-H", "X-Sadik-Context: nonsense")[0] == 400
    assert curl(node, "/health")[0] == 200
    assert curl(node, "/ready")[0] == 200
    assert "sadik_storage_keys" in curl(node, "/metrics")[2]
    assert json.loads(curl(node, "/v1/status")[2])["ready"] is True


@needs("curl")
def test_both_faces_show_the_same_data(node: NodeProcess) -> None:
    """RESP database n is bucket "n"; keys are any bytes on both."""
    client = redis.Redis(port=node.resp_port)
    client.set(b"\x00/%2F \xff", b"value")
    status, _, body = curl(node, "/v1/kv/0/%00%2F%252F%20%FF")
    assert (status, body) == (200, "value")
    assert curl(node, "/v1/kv/0/new", "-X", "PUT", "-d", "by http")[0] == 204
    assert client.get("new") == b"by http"
    context, values = client.execute_command("SADIK.GET", "new")
    assert [value[0] for value in values] == [b"by http"]
    assert client.execute_command("SADIK.PUT", "new", context, "again")
    # The first context is stale now: what it saw is gone, so this is a sibling and no context comes back.
    assert client.execute_command("SADIK.PUT", "new", context, "concurrent") is None
    assert curl(node, "/v1/kv/0/new")[0] == 300
    client.set("new", "one")
    assert curl(node, "/v1/kv/0/new")[2] == "one"
    client.close()


def test_a_secret_is_asked_for(start_node: NodeStarter, tmp_path: object) -> None:
    """Without it nothing is readable or writable on either face."""
    secret = f"{tmp_path}/secret"
    with open(secret, "w", encoding="ascii") as file:
        file.write("correct horse battery\n")
    node = start_node("--secret-file", secret)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=node.resp_port).get("a")
    client = redis.Redis(port=node.resp_port, password="correct horse battery")
    assert client.set("a", 1)
    assert curl(node, "/v1/kv/0/a")[0] == 401
    assert curl(node, "/v1/kv/0/a", "-H", "Authorization: Bearer correct horse battery")[2] == "1"
    client.close()
