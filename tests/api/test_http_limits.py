"""Every limit is an answer: sizes, times, connections, memory; and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from sadik.api.http import HttpLimits
from sadik.api.http.transfers import ByteBudget
from tests.api.fuzz_http import FakeTransport
from tests.api.http_harness import Answer, Client, Harness, run

SMALL = HttpLimits(value_bytes_max=100_000, document_bytes_max=1000, linger_s=0.2)
QUICK = HttpLimits(request_timeout_s=0.2, transfer_bytes_s_min=1 << 20, linger_s=0.2)
HOST = b"Host: localhost\r\n"


async def raw(http: Harness, data: bytes) -> tuple[Client, Answer]:
    client = await http.connect()
    await client.send(data)
    return client, await client.answer()


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    return answer.status, document["code"]


def test_largest_value_is_taken_and_one_byte_more_is_not() -> None:
    """413 comes before the body is sent, and nothing is stored."""

    async def test(http: Harness) -> None:
        assert (await http.request("PUT", "/v1/kv/b/k", {}, b"x" * 100_000)).status == 204
        client, answer = await raw(
            http, b"PUT /v1/kv/b/big HTTP/1.1\r\n" + HOST + b"Content-Length: 100001\r\n\r\n"
        )
        assert problem(answer) == (413, "LIMIT")
        assert answer.headers["connection"] == "close"
        assert await client.closed()
        assert [key for _, key in http.coordinator.held] == [b"k"]

    run(test, SMALL)


def test_chunked_bodies_are_joined_and_limited() -> None:
    """A body without a length is read as it comes, up to the limit."""

    async def test(http: Harness) -> None:
        head = b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        _, answer = await raw(http, head + b"3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n")
        assert answer.status == 204
        assert (await http.request("GET", "/v1/kv/b/k")).body == b"abc0123456789abcdef"
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        _, answer = await raw(http, head.replace(b"b/k", b"b/big") + chunk * 7)
        assert problem(answer) == (413, "LIMIT")
        assert len(http.coordinator.held) == 1

    run(test, SMALL)


def test_documents_have_a_smaller_limit() -> None:
    """Bucket properties are not values."""

    async def test(http: Harness) -> None:
        answer = await http.request("PUT", "/v1/buckets/b", {}, b" " * 1001)
        assert problem(answer) == (413, "LIMIT")

    run(test, SMALL)


def test_expectation_is_confirmed_only_when_the_body_is_wanted() -> None:
    """curl asks before it sends big bodies: a refusal must come instead of 100, not after it."""

    async def test(http: Harness) -> None:
        head = b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: "
        client, answer = await raw(http, head + b"5\r\n\r\n")
        assert answer.status == 100
        await client.send(b"hello")
        assert (await client.answer()).status == 204
        _, answer = await raw(http, head + b"100001\r\n\r\n")
        assert answer.status == 413
        bad_context = head.replace(b"Expect", b"X-Sadik-Context: x\r\nX-Sadik-Context: y\r\nExpect")
        _, answer = await raw(http, bad_context + b"5\r\n\r\n")
        assert answer.status == 400
        _, answer = await raw(http, head.replace(b"100-continue", b"200-ok") + b"5\r\n\r\n")
        assert answer.status == 417
        assert len(http.coordinator.held) == 1

    run(test, SMALL)


def test_compressed_bodies_are_refused() -> None:
    """Stored as they are they would lose their encoding; unpacked, a small body may fill the memory."""

    async def test(http: Harness) -> None:
        answer = await http.request("PUT", "/v1/kv/b/k", {"Content-Encoding": "gzip"}, b"\x1f\x8b")
        assert problem(answer) == (415, "ENCODING")
        identity = await http.request("PUT", "/v1/kv/b/k", {"Content-Encoding": "identity"}, b"1")
        assert identity.status == 204

    run(test)


@pytest.mark.parametrize("half_close", [True, False])
def test_a_body_that_breaks_off_is_never_stored(half_close: bool) -> None:
    """Half a value would be a value nobody wrote."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        await client.send(b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nhalf")
        await http.until(lambda: http.server.application.budget.used == 4)
        if half_close:
            client.writer.write_eof()
        else:
            client.writer.transport.abort()
        await http.until(lambda: not http.server.connections.open)
        assert not http.coordinator.calls
        assert http.server.application.budget.used == 0

    run(test)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5x\r\n",
        b"Content-Length: +5\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Host: other\r\n",
        b"Content-Type: a/b\r\nContent-Type: c/d\r\n",
        b"X-A: b\r\n continued: c\r\n",
        b"X-A: \x00\r\n",
        b"X A: b\r\n",
        b": b\r\n",
        b"\xff: b\r\n",
        b"X-A: b\rX-B: c\r\n",
        b"A: b\r\n" * 65,
    ],
)
def test_ambiguous_framing_is_refused(head: bytes) -> None:
    """What two servers could read in two ways lets a request hide in another one's body."""

    async def test(http: Harness) -> None:
        client, answer = await raw(http, b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + head + b"\r\n0\r\n\r\n")
        assert problem(answer)[0] == 400
        assert await client.closed()
        assert not http.coordinator.calls

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"GET  /v1/status HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/3.0\r\nHost: a\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_problem_and_is_closed(data: bytes) -> None:
    """Redis clients, TLS and HTTP/2 find this port too."""

    async def test(http: Harness) -> None:
        client, answer = await raw(http, data)
        assert problem(answer) == (400, "ERR")
        assert await client.closed()
        assert http.sample("sadik_http_malformed_total") == 1

    run(test)


@pytest.mark.parametrize("line", [b"GET /v1/status", b"GET /v1/status HTTP/2.0"])
def test_other_versions_are_refused(line: bytes) -> None:
    """The parser takes HTTP/0.9, where a request smuggled through another protocol is easily made."""

    async def test(http: Harness) -> None:
        headers = b"\r\nHost: a" if b"HTTP" in line else b""
        client, answer = await raw(http, line + headers + b"\r\n\r\n")
        assert problem(answer) == (505, "ERR")
        assert answer.version == "HTTP/1.1"
        assert await client.closed()

    run(test)


def test_heads_are_limited_by_line_field_and_sum() -> None:
    """414 for the line, 431 for a field and for all of them together."""

    async def test(http: Harness) -> None:
        _, answer = await raw(http, b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert problem(answer) == (414, "LIMIT")
        _, answer = await raw(http, b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 17_000 + b"\r\n\r\n")
        assert problem(answer) == (431, "LIMIT")
        client = await http.connect()
        await client.send(b"GET / HTTP/1.1\r\n" + HOST)
        field = b"b" * 16_000 + b"\r\n"
        for number in range(40):
            await client.send(b"A%d: " % number + field)
        assert problem(await client.answer()) == (431, "LIMIT")

    run(test)


@pytest.mark.parametrize("turns", range(6))
def test_a_body_right_behind_a_long_head_is_not_counted_as_head(turns: int) -> None:
    """Between the parser and the handler lie some turns of the loop, in which more of the body may come."""

    async def test(http: Harness) -> None:
        transport = FakeTransport(asyncio.get_running_loop())
        transport.protocol = connection = http.server.connect()
        connection.connection_made(transport)
        head = (
            b"PUT /v1/kv/b/" + b"%41" * 65_000 + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 320000\r\n\r\n"
        )
        connection.data_received(head[:-10])
        connection.data_received(head[-10:] + b"x" * 160_000)
        for _ in range(turns):
            await asyncio.sleep(0)
        connection.data_received(b"x" * 160_000)
        await http.until(lambda: bool(transport.written))
        assert transport.written.startswith(b"HTTP/1.1 204 ")
        transport.close()

    run(test)


def test_a_slow_head_is_closed_and_a_fast_client_is_not() -> None:
    """A client that trickles its head would hold a connection for ever; others go on meanwhile."""

    async def test(http: Harness) -> None:
        slow, fast = await http.connect(), await http.connect()
        await slow.send(b"GET /v1/status HTTP/1.1\r\nX: ")

        async def trickle() -> None:
            while True:
                slow.writer.write(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        answer = await slow.answer()
        trickling.cancel()
        assert problem(answer) == (408, "TIMEOUT")
        assert (await fast.request("GET", "/health")).status == 200
        assert http.sample("sadik_http_late_heads_total") == 1
        # An idle connection between requests has sent nothing, so it is not late.
        http.server.connections.close_late_heads(asyncio.get_running_loop().time() + 60)
        assert (await fast.request("GET", "/health")).status == 200

    run(test, QUICK)


def test_a_slow_body_is_given_up_and_its_memory_given_back() -> None:
    """The same for a body: it must come at a least rate."""

    async def test(http: Harness) -> None:
        _, answer = await raw(http, b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nhalf")
        assert problem(answer) == (408, "TIMEOUT")
        assert not http.coordinator.calls
        assert http.server.application.budget.used == 0

    run(test, QUICK)


def test_a_slow_body_at_the_least_rate_is_taken() -> None:
    """Time grows with what has come, so that big values on slow lines are not cut off."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        await client.send(b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 80000\r\n\r\n")
        for _ in range(8):
            await client.send(b"x" * 10_000)
            await asyncio.sleep(0.08)
        assert (await client.answer()).status == 204

    run(test, HttpLimits(request_timeout_s=0.4, transfer_bytes_s_min=100_000))


def test_an_idle_connection_is_closed() -> None:
    """Also one that never asked anything."""

    async def test(http: Harness) -> None:
        silent, used = await http.connect(), await http.connect()
        assert (await used.request("GET", "/health")).status == 200
        assert await silent.closed()
        assert await used.closed()

    run(test, HttpLimits(idle_timeout_s=0.2))


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Its answers are held for a bounded time, and count against the budget while they are."""

    async def test(http: Harness) -> None:
        await http.request("PUT", "/v1/kv/b/k", {}, b"x" * (8 << 20))
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", http.port))
        await asyncio.get_running_loop().sock_sendall(sock, b"GET /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"\r\n")
        await http.until(lambda: http.server.application.budget.used >= 8 << 20)
        await http.until(lambda: http.sample("sadik_http_answers_cut_off_total") == 1)
        assert http.server.application.budget.used == 0
        sock.close()

    run(test, HttpLimits(request_timeout_s=0.2, transfer_bytes_s_min=40 << 20))


def test_a_client_that_asks_on_and_never_reads_is_cut_off() -> None:
    """Answers without a body must not pile up either."""

    async def test(http: Harness) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", http.port))
        await http.until(lambda: bool(http.server.connections.open))
        (connection,) = http.server.connections.open
        assert connection.transport is not None
        # As small as it gets: the system would take some megabytes of answers before the server notices.
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        async def ask_on() -> None:
            request = b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n"
            with contextlib.suppress(ConnectionError):
                while True:
                    await loop.sock_sendall(sock, request * 100)

        await asyncio.wait_for(ask_on(), 20)
        await http.until(lambda: http.sample("sadik_http_answers_cut_off_total") == 1)
        sock.close()

    run(test, QUICK)


def test_connections_are_limited_with_an_answer() -> None:
    """One more is told why, and may come when another has gone."""

    async def test(http: Harness) -> None:
        clients = [await http.connect() for _ in range(3)]
        for client in clients:
            assert (await client.request("GET", "/health")).status == 200
        refused = await http.connect()
        answer = await refused.answer()
        assert problem(answer) == (503, "BUSY")
        assert answer.headers["retry-after"] == "1"
        assert await refused.closed()
        assert http.sample("sadik_http_connections_refused_total") == 1
        await clients[0].close()
        await http.until(lambda: len(http.server.connections.open) == 2)
        assert (await http.request("GET", "/health")).status == 200

    run(test, HttpLimits(connections_max=3))


def test_bodies_in_transfer_are_limited_together() -> None:
    """Many big bodies at once are refused before they fill the memory; announcing alone takes nothing."""

    async def test(http: Harness) -> None:
        head = b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n"
        idle = [await http.connect() for _ in range(5)]
        for client in idle:
            await client.send(head)
        assert (await http.request("PUT", "/v1/kv/b/a", {}, b"x" * 60_000)).status == 204
        await idle[0].send(b"x" * 59_000)
        await http.until(lambda: http.server.application.budget.used == 59_000)
        answer = await http.request("PUT", "/v1/kv/b/b", {}, b"x" * 60_000)
        assert problem(answer) == (503, "BUSY")
        assert json.loads(answer.body)["outcome"] == "refused"
        assert (await http.request("PUT", "/v1/kv/b/c", {}, b"x" * 40_000)).status == 204
        await idle[0].send(b"x" * 1000)
        assert (await idle[0].answer()).status == 204

    run(test, HttpLimits(transfer_bytes_max=100_000))


def test_budget_lets_the_only_holder_through() -> None:
    """A single value larger than the budget is slow for others, not impossible."""
    budget = ByteBudget(10)
    with budget.reserve() as first, budget.reserve() as second:
        assert first.take(8)
        assert first.take(50)
        assert not second.take(1)
        assert budget.used == 58
    assert budget.used == 0


def test_pipelined_requests_are_answered_in_order() -> None:
    """Also when the first is slow."""

    async def test(http: Harness) -> None:
        http.coordinator.gate = asyncio.Event()
        client = await http.connect()
        keys = [b"%d" % number for number in range(40)]
        for key in keys:
            await client.send(
                b"PUT /v1/kv/b/" + key + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nab"
            )
        await client.send(b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n")
        await http.until(lambda: bool(http.coordinator.calls))
        http.coordinator.gate.set()
        statuses = [(await client.answer()).status for _ in range(41)]
        assert statuses == [204] * 40 + [404]
        assert [call[2] for call in http.coordinator.calls] == keys

    run(test)


def test_pipelined_heads_are_not_read_without_bound() -> None:
    """Requests with the longest keys behind a slow one stop being read, instead of being held in memory."""

    async def test(http: Harness) -> None:
        http.coordinator.gate = asyncio.Event()
        client = await http.connect()
        request = b"GET /v1/kv/b/" + b"%41" * 65_535 + b" HTTP/1.1\r\n" + HOST + b"\r\n"
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(100):
                client.writer.write(request)
                await client.writer.drain()
                sent += 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(push(), 0.5)
        # Sockets take some megabytes on their own; nineteen more must have stayed with the client.
        assert sent * len(request) < 12 << 20
        (connection,) = http.server.connections.open
        held = sum(len(message.path) for message, _ in connection._messages)
        assert held <= 2 * len(request) + (512 << 10)
        http.coordinator.gate.set()
        client.writer.transport.abort()

    run(test)


def test_stop_lets_requests_in_progress_finish() -> None:
    """New connections are refused, idle ones closed, and who waits for an answer gets it."""

    async def test(http: Harness) -> None:
        http.coordinator.gate = asyncio.Event()
        idle, waiting = await http.connect(), await http.connect()
        assert (await idle.request("GET", "/health")).status == 200
        await waiting.send(b"PUT /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nab")
        await http.until(lambda: bool(http.coordinator.calls))
        stopping = asyncio.create_task(http.server.stop(10))
        assert await idle.closed()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", http.port)
        http.coordinator.gate.set()
        assert (await waiting.answer()).status == 204
        assert await waiting.closed()
        await stopping

    run(test)


def test_stop_does_not_wait_longer_than_its_grace() -> None:
    """A request that never ends is given up."""

    async def test(http: Harness) -> None:
        http.coordinator.gate = asyncio.Event()
        client = await http.connect()
        await client.send(b"GET /v1/kv/b/k HTTP/1.1\r\n" + HOST + b"\r\n")
        await http.until(lambda: bool(http.coordinator.calls))
        started = asyncio.get_running_loop().time()
        await http.server.stop(0.1)
        assert asyncio.get_running_loop().time() - started < 2
        assert await client.closed()

    run(test)
