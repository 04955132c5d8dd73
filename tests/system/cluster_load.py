"""Clients that write to a cluster while it is broken, and keep account of every request.

Each connection writes keys of its own, some at a time, and writes none twice. One whose node dies goes on at
the next node, as a client would; what it had sent and not been answered counts as lost.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tests.system.cluster_harness import ClusterNode, wait_until
from tests.system.harness import encode

LOST = b""
"""In the place of a reply: the connection ended before."""

_BACKLOG_S = 0.002


@dataclass(slots=True)
class Request:
    """One write; times are monotonic seconds.

    Attributes:
        node: That was asked.
        reply: Raw, without its line end; ``LOST`` when there was none.
    """

    node: str
    key: bytes
    began_s: float
    ended_s: float = 0.0
    reply: bytes = LOST

    @property
    def done(self) -> bool:
        return self.reply == b"+OK"

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


def value_of(key: bytes) -> bytes:
    """What the load writes to a key: 100 bytes that nobody else writes."""
    return (key + b"=" + b"x" * 100)[:100]


@dataclass
class Load:
    """Writes until the end of its ``with``.

    Args:
        nodes: Where connections begin, and where they go on.
        prefix: Of all keys.
        connections: To each node.
        depth: Requests in flight on a connection.
        rate: Requests a second over all connections; 0 for as fast as it goes. A connection that was held up
            does not catch up.
    """

    nodes: Sequence[ClusterNode]
    prefix: bytes
    connections: int = 2
    depth: int = 4
    rate: float = 0.0
    requests: list[Request] = field(default_factory=list)
    """Those that are over."""

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._interval_s = self.connections * len(self.nodes) / self.rate if self.rate else 0.0
        self._clients = [
            _Client(self, number * self.connections + index, number)
            for number in range(len(self.nodes))
            for index in range(self.connections)
        ]
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        for client in self._clients:
            client.connect()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more, and wait for what is in flight."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "requests are still not answered"
        self._selector.close()
        if self._failure is not None:
            raise self._failure

    # What has happened.

    def acknowledged(self) -> list[bytes]:
        """Keys whose write was done."""
        return [request.key for request in list(self.requests) if request.done]

    def failed(self) -> list[Request]:
        """Requests without an answer or with an error."""
        return [request for request in list(self.requests) if not request.done]

    def wait_for(self, count: int, timeout_s: float = 60.0) -> None:
        """Until so many writes that begin from now on are done."""
        since_s, seen, found = time.monotonic(), len(self.requests), 0

        def enough() -> bool:
            nonlocal seen, found
            stop = len(self.requests)
            found += sum(one.done and one.began_s >= since_s for one in self.requests[seen:stop])
            seen = stop
            return found >= count

        wait_until(enough, timeout_s, f"{count} more writes are done")

    def p99_s(self, first_s: float, last_s: float) -> float:
        """Latency that one of a hundred requests exceeds, of those begun between two moments."""
        took = sorted(
            request.took_s for request in list(self.requests) if first_s <= request.began_s < last_s
        )
        assert len(took) >= 200, f"{len(took)} requests are too few for a percentile"
        return took[len(took) * 99 // 100]

    # The thread.

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  Any: ``stop`` raises it where somebody sees it.
            self._failure = error

    def _serve(self) -> None:
        while not self._stop.is_set() or any(client.waiting for client in self._clients):
            for key, _ in self._selector.select(_BACKLOG_S if self.rate else 0.05):
                key.data.receive()
            if not self._stop.is_set():
                for client in self._clients:
                    client.send()
        for client in self._clients:
            client.close()


class _Client:
    """One connection."""

    def __init__(self, load: Load, number: int, place: int) -> None:
        self._load = load
        self._number = number
        self._place = place
        self._written = 0
        self._input = b""
        self._due_s = 0.0
        self._socket: socket.socket | None = None
        self.waiting: deque[Request] = deque()

    def connect(self) -> None:
        """To the first node from its place on that takes it; none may be there for a moment."""
        nodes = self._load.nodes
        for step in range(len(nodes)):
            place = (self._place + step) % len(nodes)
            with contextlib.suppress(OSError):
                self._socket = nodes[place].connect()
                self._place = place
                self._socket.setblocking(False)
                self._load._selector.register(self._socket, selectors.EVENT_READ, self)
                return

    def send(self) -> None:
        """Fill the pipeline up to its depth."""
        load = self._load
        if self._socket is None:
            self.connect()
            if self._socket is None:
                return
        now_s = time.monotonic()
        count = load.depth - len(self.waiting)
        if load.rate:
            if now_s < self._due_s or count < 1:
                return
            self._due_s = max(self._due_s, now_s - load._interval_s) + load._interval_s
            count = 1
        elif 2 * count < load.depth:
            return
        data = []
        for _ in range(count):
            key = b"%b:%d:%d" % (load.prefix, self._number, self._written)
            self._written += 1
            data.append(encode(b"SET", key, value_of(key)))
            self.waiting.append(Request(load.nodes[self._place].name, key, now_s))
        try:
            # A pipeline fits into the socket's buffer: what is not taken would be a dead connection.
            assert self._socket.send(b"".join(data)) == sum(map(len, data))
        except BlockingIOError:
            raise AssertionError("the node does not read") from None
        except OSError:
            self._lose()

    def receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        *lines, self._input = (self._input + data).split(b"\r\n")
        now_s = time.monotonic()
        for line in lines:
            self._over(line, now_s)

    def close(self) -> None:
        if self._socket is not None:
            self._load._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _lose(self) -> None:
        self.close()
        self._input = b""
        now_s = time.monotonic()
        while self.waiting:
            self._over(LOST, now_s)
        self._place = (self._place + 1) % len(self._load.nodes)

    def _over(self, reply: bytes, now_s: float) -> None:
        request = self.waiting.popleft()
        request.ended_s, request.reply = now_s, reply
        self._load.requests.append(request)


def sample(keys: Sequence[bytes], count: int) -> list[bytes]:
    """About ``count`` of some keys, evenly over all of them, the last one too."""
    return [*keys[:: max(1, len(keys) // count)], *keys[-1:]]


def missing(node: ClusterNode, keys: Iterable[bytes]) -> list[bytes]:
    """Of keys that a load wrote, those that a node does not give as they were written."""
    asked = list(keys)
    found = node.pipeline([(b"GET", key) for key in asked])
    return [key for key, value in zip(asked, found, strict=True) if value != value_of(key)]
