"""Hostile conversations against the server's protocol objects, over a whole node in memory.

Commands of the whole table with odd arguments, valid and damaged, cut into pieces, from many clients in the
same turns. The parser alone says how many commands a client has sent and how its input ends
(``kernels/test_resp_hostile.py`` checks that against its plain twin): so many replies must come, each
well-formed, and then the error or nothing. Meanwhile an ordinary client works as if it were alone, and when
the hostile ones are gone no memory stays behind.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
import tracemalloc
from collections import deque

import pytest

from sadik.api.resp import table
from sadik.kernels.native import resp as native
from sadik.sim.files import SimFiles
from tests.api.resp_node import (
    OK,
    Client,
    HandClock,
    HandWorker,
    World,
    bulk,
    command,
    configuration,
    start_world,
)
from tests.kernels.fuzz_resp import Limits, cut, damage, mixed_case, one_command, run, word

MIB = 1 << 20
CLIENTS = 40
SECRET = b"sixteen bytes or more"
LIMITS = Limits(bulk_bytes_max=64 << 10, request_bytes_max=128 << 10, arguments_max=1000)
NAMES = sorted(table.COMMANDS)
# Without REPLY, SKIP and KILL: silence would leave nothing to count, and a killed client cannot answer.
WORDS = (
    *(b"0", b"1", b"-1", b"2", b"3", b"15", b"16", b"9223372036854775807", b"9223372036854775808", b"1e3"),
    *(b"18446744073709551615", b"-9223372036854775809", b"", b"*", b"[", b"a*[^b-", b"k", b"other", b"NaN"),
    *(b"EX", b"PX", b"EXAT", b"PXAT", b"NX", b"XX", b"GT", b"LT", b"GET", b"KEEPTTL", b"PERSIST", b"MATCH"),
    *(b"COUNT", b"TYPE", b"string", b"ASYNC", b"SYNC", b"ID", b"INFO", b"LIST", b"SETNAME", b"GETNAME"),
    *(b"SETINFO", b"LIB-NAME", b"NO-EVICT", b"ON", b"OFF", b"DOCS", b"GETKEYS", b"RESETSTAT", b"maxmemory"),
    *(b"AUTH", b"default", b"W", b"R", b"TTL_MS", b"TIMEOUT_MS", b"PW", b"\xff\x00\r\n", b"x" * 300),
)


def conversation(rng: random.Random) -> bytes:
    """What one client sends, before it is cut."""
    parts = []
    for _ in range(rng.randrange(1, 8)):
        if rng.random() < 0.25:
            parts.append(one_command(rng))
        else:
            arguments = [
                rng.choice(WORDS) if rng.random() < 0.97 else word(rng) for _ in range(rng.randrange(6))
            ]
            parts.append(command(mixed_case(rng, rng.choice(NAMES)), *arguments))
    data = b"".join(parts)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        data = damage(rng, data)
    return data


def expected_end(data: bytes, *, authenticated: bool) -> tuple[int, bytes | None]:
    """How many replies must come, and the last one where it is a protocol error."""
    *events, end = run(native, LIMITS._replace(authenticated=authenticated, batched=False), [data])
    for number, event in enumerate(events):
        if event[0].lower() == b"quit" and table.arity_fits(table.COMMANDS[b"quit"], len(event)):
            return number + 1, None
    if isinstance(end, str) and end:
        return len(events) + 1, b"-ERR " + end.encode("utf-8", "surrogateescape") + b"\r\n"
    return len(events), None


async def attack(world: World, seed: int, ordinary: Client, *, authenticated: bool) -> None:
    """One round: clients come together, say what they have to say, and go."""
    rng = random.Random(seed)
    clients = [(world.connect(), conversation(rng)) for _ in range(CLIENTS)]
    pieces = [(client, piece) for client, data in clients for piece in cut(rng, data)]
    if rng.random() < 0.5:
        # By pieces of all clients in turn, each client's own in order.
        queues: dict[int, deque[bytes]] = {id(client): deque() for client, _ in clients}
        for client, piece in pieces:
            queues[id(client)].append(piece)
        order = [client for client, _ in pieces]
        rng.shuffle(order)
        pieces = [(client, queues[id(client)].popleft()) for client in order]
    for number, (client, piece) in enumerate(pieces):
        await client.wait_until_read()
        client.send(piece)
        if number % 16 == 0:
            await asyncio.sleep(0)
    key, value = b"ordinary:%d" % seed, rng.randbytes(20)
    assert await ordinary.call(b"SET", key, value) == OK
    for client, data in clients:
        count, error = expected_end(data, authenticated=authenticated)
        replies = await client.wait(count)
        assert len(replies) == count, (seed, data, replies)
        if error is not None:
            assert replies[-1].split(b"'")[0] == error.split(b"'")[0], (seed, data)
            assert client.closed
    await world.settle()
    for client, data in clients:
        assert len(client.replies()) == expected_end(data, authenticated=authenticated)[0], (seed, data)
        assert not client.transport.received, (seed, data, client.transport.received)
        assert not client.transport.aborted, (seed, data)
        client.shut_writing()
    await world.settle()
    assert all(client.connection.lost for client, _ in clients)
    assert len(world.server.sessions()) == 1
    # FLUSHALL is among what they send, so the key may be gone; but only wholly.
    assert await ordinary.call(b"GET", key) in (bulk(value), b"$-1\r\n")
    assert await ordinary.call(b"FLUSHALL") == OK
    while world.node.maintain():
        pass


async def campaign(inputs: int, first_seed: int, *, secret: bytes | None) -> int:
    """Many rounds against one node; returns how many bytes its memory has grown by after the first ones."""
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    config = configuration(
        resp={
            "bulk_bytes_max": LIMITS.bulk_bytes_max,
            "request_bytes_max": LIMITS.request_bytes_max,
            "arguments_max": LIMITS.arguments_max,
            "batch_operations_max": 32,
            "batch_bytes_max": 128 << 10,
        },
        storage={"engine": "memory", "compaction_bytes_per_second": 0},
        limits={"value_bytes_max": 60_000},
        secret=secret,
    )
    clock = HandClock()
    world = await start_world(config, files=SimFiles(), clock=clock, worker=HandWorker(), seed=1)
    ordinary = world.connect()
    if secret is not None:
        assert await ordinary.call(b"AUTH", secret) == OK
    rounds = max(2, inputs // CLIENTS)
    settled = 0
    try:
        for number in range(rounds):
            began = time.monotonic()
            await attack(world, first_seed + number, ordinary, authenticated=secret is None)
            assert time.monotonic() - began < 30, f"seed {first_seed + number} takes too long"
            clock.now_ms += 10
            if number in (rounds // 2, rounds - 1):
                gc.collect()
                traced = tracemalloc.get_traced_memory()[0]
                settled = settled or traced
        assert not failures, failures
        return traced - settled
    finally:
        await world.server.stop(0)
        await world.node.close()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "strangers"])
def test_hostile_conversations_are_answered_one_by_one(secret: bytes | None) -> None:
    """A few thousand of them; ``make torture`` runs a million."""
    asyncio.run(campaign(1600 if secret is None else 800, 1, secret=secret))


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_million_hostile_conversations(capsys: pytest.CaptureFixture[str]) -> None:
    """No crash, no hang, no reply too many or too few, and no memory kept."""
    inputs = int(os.environ.get("TEST_INPUTS", "1000000"))
    began = time.monotonic()
    tracemalloc.start()
    grown = asyncio.run(campaign(inputs // 50, 1_000_000, secret=None))
    tracemalloc.stop()
    asyncio.run(campaign(inputs - inputs // 50 - inputs // 10, 2_000_000, secret=None))
    asyncio.run(campaign(inputs // 10, 3_000_000, secret=SECRET))
    with capsys.disabled():
        print(f"\n{inputs} conversations in {time.monotonic() - began:.0f} s, memory grew by {grown} bytes")
    assert grown < MIB
