"""Limits of a real node: each is reached by a client that means no good, while another goes on as before."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sadik.api import descriptors
from sadik.config import HttpConfig, NodeConfig, RespConfig
from tests.system.conftest import NodeStarter
from tests.system.harness import NodeProcess, encode, read_reply

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
SECRET = b"correct horse battery"
CONNECTIONS_MAX = 30


class Client:
    """A blocking client with a deadline of ten seconds for everything."""

    def __init__(self, node: NodeProcess, *, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            # A small window: what the client does not read piles up in the node, not in the kernel.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", node.resp_port))
        self.stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def __call__(self, *words: bytes) -> bytes:
        self.send(encode(*words))
        return read_reply(self.stream)

    def rest(self) -> bytes:
        """All that still comes, up to the end of the connection."""
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


Connect = Callable[..., Client]


@pytest.fixture
def connect(node: NodeProcess) -> Iterator[Connect]:
    """Connects to the node of the test; all connections are closed at its end."""
    with contextlib.ExitStack() as opened:

        def make(**options: int) -> Client:
            client = Client(node, **options)
            opened.callback(client.close)
            return client

        yield make


@pytest.fixture(scope="module")
def narrow_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node whose limits are easily reached, shared by the tests of this file."""
    options = {
        "--resp-connections-max": CONNECTIONS_MAX,
        "--resp-request-bytes-max": 128 * KIB,
        "--resp-bulk-bytes-max": 64 * KIB,
        "--value-bytes-max": 60 * KIB,
        "--set-bytes-max": 256 * KIB,
        "--resp-arguments-max": 100,
        "--resp-batch-bytes-max": 128 * KIB,
        "--resp-output-bytes-max": 512 * KIB,
        "--resp-output-soft-bytes-max": 64 * KIB,
        "--resp-output-soft-ms": 1000,
        "--segment-bytes-max": MIB,
    }
    words = [str(word) for pair in options.items() for word in pair]
    node = NodeProcess(str(tmp_path_factory.mktemp("narrow") / "data"), words).start()
    yield node
    code, text = node.stop()
    assert code == 0, text


@pytest.fixture
def node(narrow_node: NodeProcess) -> NodeProcess:
    return narrow_node


def resident_bytes(node: NodeProcess) -> int:
    assert node.process is not None
    pages = int(Path(f"/proc/{node.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def metric(node: NodeProcess, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll, because a real process has no event to wait for from outside."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.02)


# Connections.


def test_connections_beyond_the_limit_are_refused_with_an_error(node: NodeProcess, connect: Connect) -> None:
    """Those that are there go on, and a place that becomes free is given away again."""
    clients = [connect() for _ in range(CONNECTIONS_MAX)]
    assert all(client(b"PING") == b"+PONG" for client in clients)
    for _ in range(3):
        assert connect().rest() == b"-ERR max number of clients reached\r\n"
    assert all(client(b"PING") == b"+PONG" for client in clients)
    clients.pop().close()

    def served() -> bool:
        client = Client(node)
        try:
            client.send(encode(b"PING"))
            return client.stream.readline() == b"+PONG\r\n"
        except ConnectionError:
            return False
        finally:
            client.close()

    wait_for(served)


def test_flood_of_connections_stops_nobody(node: NodeProcess, connect: Connect) -> None:
    """A thousand connections that come and send at once; each is refused early, and the old client does not
    wait.
    """
    old = connect()
    slowest = 0.0
    for _ in range(20):
        flood = []
        for _ in range(50):
            client = socket.create_connection(("127.0.0.1", node.resp_port), timeout=10)
            client.send(b"PING\r\n")
            flood.append(client)
        began = time.monotonic()
        assert old(b"SET", b"k", b"v") == b"+OK"
        slowest = max(slowest, time.monotonic() - began)
        for client in flood:
            client.close()
    assert slowest < 1
    assert metric(node, 'sadik_resp_connections_total{fate="refused"}') > 0


# Requests.


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"*2\r\n$3\r\nGET\r\n$65537\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$9999999999999\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*101\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (encode(b"MGET", *[b"k" * 60_000] * 3), b"-ERR Protocol error: too big request\r\n"),
        (b"GET " + b"k" * 70_000, b"-ERR Protocol error: too big inline request\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$" + b"1" * 70_000, b"-ERR Protocol error: too big bulk count string\r\n"),
    ],
    ids=["bulk", "enormous bulk", "arguments", "request", "line", "length"],
)
def test_request_beyond_a_limit_ends_its_connection_with_a_reason(
    node: NodeProcess, connect: Connect, sent: bytes, error: bytes
) -> None:
    """What is announced too large is refused before it is sent, and costs no memory."""
    client, other = connect(), connect()
    client.send(sent)
    assert client.stream.readline() == error
    client.socket.shutdown(socket.SHUT_WR)
    assert client.rest() == b""
    assert other(b"PING") == b"+PONG"


def test_announced_sizes_cost_no_memory(node: NodeProcess, connect: Connect) -> None:
    """Twenty clients announce all that is allowed and send next to nothing of it."""
    before = resident_bytes(node)
    clients = [connect() for _ in range(20)]
    for client in clients:
        client.send(b"*100\r\n$65536\r\nx")
    assert connect()(b"PING") == b"+PONG"
    assert resident_bytes(node) < before + MIB


def test_value_beyond_the_limit_is_an_error_and_the_connection_stays(
    node: NodeProcess, connect: Connect
) -> None:
    """This one is understood, so only the command is refused: on the plain path as elsewhere."""
    client = connect()
    assert client(b"SET", b"big", bytes(60 * KIB)) == b"+OK"
    assert client(b"SET", b"big", bytes(60 * KIB + 1)).startswith(b"-LIMIT ")
    assert client(b"APPEND", b"big", b"x").startswith(b"-LIMIT ")
    assert client(b"STRLEN", b"big") == b":%d" % (60 * KIB)


# Clients that do not read, or hardly send.


def test_client_that_does_not_read_is_not_read_from(node: NodeProcess, connect: Connect) -> None:
    """It asks for 600 MB without taking any: the node stops reading it, holds little, and cuts it off when it
    is over the soft limit for too long. Others do not notice.
    """
    writer = connect()
    assert writer(b"SET", b"big", bytes(60 * KIB)) == b"+OK"
    before, cut_off = resident_bytes(node), metric(node, 'sadik_resp_connections_total{fate="cut_off"}')
    client = connect(receive_bytes=4096)
    client.socket.setblocking(False)
    sent = 0
    request = encode(b"GET", b"big") * 10_000
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(request)
        assert writer(b"GET", b"nothing") == b"$-1"
        # One batch: what it may read (16 MiB), and the replies made of it.
        assert resident_bytes(node) < before + 64 * MIB
    assert sent > 100_000, "the node never read"
    wait_for(lambda: metric(node, 'sadik_resp_connections_total{fate="cut_off"}') > cut_off)
    assert writer(b"GET", b"nothing") == b"$-1"


def test_slow_senders_delay_nobody(node: NodeProcess, connect: Connect) -> None:
    """Twenty clients that send a command byte by byte, and one in a hurry."""
    fast = connect()
    slow = [connect() for _ in range(20)]
    request = encode(b"SET", b"slow", b"x" * 50)
    times = []
    for at in range(len(request)):
        for client in slow:
            client.send(request[at : at + 1])
        for _ in range(5):
            began = time.monotonic()
            assert fast(b"SET", b"fast", b"x") == b"+OK"
            times.append(time.monotonic() - began)
    assert sorted(times)[len(times) // 2] < 0.02
    assert max(times) < 1
    for client in slow:
        assert read_reply(client.stream) == b"+OK"


# Time, and strangers.


@pytest.fixture
def guarded_node(start_node: NodeStarter, tmp_path: Path) -> NodeProcess:
    """A node that asks for a secret and has little patience."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    return start_node("--secret-file", str(secret), "--resp-idle-timeout-ms", "1500")


def test_idle_clients_are_closed_and_strangers_kept_small(guarded_node: NodeProcess) -> None:
    """Who says nothing is closed, known or not, and who says something stays. A stranger may send ten
    arguments of 16 KiB, and nothing runs for it.
    """
    with contextlib.ExitStack() as opened:
        clients = [Client(guarded_node) for _ in range(6)]
        for client in clients:
            opened.callback(client.close)
        idle, idle_known, busy, many, large, stranger = clients
        for client in (idle_known, busy):
            assert client(b"AUTH", SECRET) == b"+OK"
        many.send(b"*11\r\n")
        assert many.stream.readline() == b"-ERR Protocol error: unauthenticated multibulk length\r\n"
        large.send(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n")
        assert large.stream.readline() == b"-ERR Protocol error: unauthenticated bulk length\r\n"
        assert stranger(b"SET", b"k", b"v") == b"-NOAUTH Authentication required."
        assert stranger(b"AUTH", b"wrong").startswith(b"-WRONGPASS ")
        assert stranger(b"GET", b"k") == b"-NOAUTH Authentication required."
        closed: set[Client] = set()
        for client in (idle, idle_known):
            client.socket.settimeout(0.2)
        end = time.monotonic() + 10
        while len(closed) < 2:
            assert time.monotonic() < end, "idle clients are not closed"
            assert busy(b"PING") == b"+PONG"
            for client in (idle, idle_known):
                with contextlib.suppress(TimeoutError):
                    if client.socket.recv(1) == b"":
                        closed.add(client)
        assert busy(b"GET", b"k") == b"$-1"


# File descriptors.


def test_soft_limit_of_open_files_is_raised(start_node: NodeStarter) -> None:
    """Most systems start a process with 1024 open files; connections and log segments share them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))
    try:
        node = start_node(
            "--segment-bytes-max", str(MIB), "--value-bytes-max", "65536", "--set-bytes-max", "262144"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with contextlib.ExitStack() as opened:
        clients = [Client(node) for _ in range(200)]
        for client in clients:
            opened.callback(client.close)
        for number in range(100):
            # Three segments' worth: each new one takes a descriptor.
            assert clients[number](b"SET", b"k%d" % number, bytes(32 * KIB)) == b"+OK"


def test_connections_leave_descriptors_for_storage() -> None:
    """Where the limit cannot be raised, fewer connections are accepted."""
    config = NodeConfig(resp=RespConfig(connections_max=1000), http=HttpConfig(connections_max=100))
    assert descriptors.fit(config, 1100 + descriptors.RESERVE) is config
    fitted = descriptors.fit(config, 464)
    assert (fitted.resp.connections_max, fitted.http.connections_max) == (350, 50)
    smallest = descriptors.fit(config, 10)
    assert (smallest.resp.connections_max, smallest.http.connections_max) == (1, 1)
