"""What an operation costs on the normal path: nothing of its own (DESIGN 5).

A Python task or future costs ten microseconds and more, as much as ten operations on the data path. So
everything is per batch: counted here on the loop itself.
"""

from __future__ import annotations

from collections import Counter

from tests.api.resp_node import OK, bulk, command
from tests.node.cluster import GET, SET, Cluster, cluster, run

OPERATIONS = 10_000
SMALL = 1_000


async def counted(one: Cluster, stretches: list[bytes], wanted: list[bytes]) -> Counter[str]:
    """What the loop made while one client had its pipeline answered, beyond what an idle cluster makes."""
    client = one.connect("n1")
    await one.pass_s(0.2)
    before, began_s = Counter(one.made), one.loop.time()
    for stretch in stretches:
        client.send(stretch)
    turns = 0
    while len(client.transport.received) < sum(map(len, wanted)):
        await one.turns(1)
        turns += 1
        assert turns < 5000
    assert bytes(client.transport.received) == b"".join(wanted)
    # Timers of gossip and heartbeats do not go off: no time has passed, or next to none.
    assert one.loop.time() - began_s < 0.05
    made = Counter(one.made)
    made.subtract(before)
    made["handle"] -= turns
    return made


def pipeline(count: int, kind: int) -> tuple[list[bytes], list[bytes]]:
    """Commands in stretches as a socket brings them, and their replies."""
    keys = [b"key-%d" % number for number in range(count)]
    if kind == SET:
        commands, replies = [command(b"SET", key, b"v" + key) for key in keys], [OK] * count
    else:
        commands, replies = [command(b"GET", key) for key in keys], [bulk(b"v" + key) for key in keys]
    data = b"".join(commands)
    return [data[at : at + 65536] for at in range(0, len(data), 65536)], replies


def test_ten_thousand_pipelined_operations_make_no_task_future_timer_or_handle_of_their_own() -> None:
    """Three nodes, quorums and replication and all: ten times the operations make the same tasks and futures
    (none), and handles by batch and frame.
    """

    async def story() -> None:
        async with cluster(3) as one:
            for kind in (SET, GET):
                small = await counted(one, *pipeline(SMALL, kind))
                large = await counted(one, *pipeline(OPERATIONS, kind))
                for made in (small, large):
                    assert made["task"] == 0, made
                    assert made["future"] == 0, made
                    assert made["timer"] <= 16, made
                assert large["handle"] < OPERATIONS // 20, large

    run(story())


def test_coordinating_a_batch_costs_handles_by_frame_and_nothing_by_operation() -> None:
    """The same below the clients: a batch of 4000 makes what a batch of 40 makes."""

    async def story() -> None:
        async with cluster(3) as one:
            made: dict[tuple[int, int], Counter[str]] = {}
            await one.pass_s(0.2)
            for kind in (SET, GET):
                for count in (40, 4000):
                    operations = [(kind, b"key-%d" % number, b"v") for number in range(count)]
                    before = Counter(one.made)
                    request = one.submit("n1", operations)
                    turns = 0
                    while not request.done or len(one.node("n1").core.flights):
                        await one.turns(1)
                        turns += 1
                    after = Counter(one.made)
                    after.subtract(before)
                    after["handle"] -= turns
                    made[kind, count] = after
                assert made[kind, 40]["task"] == made[kind, 4000]["task"] == 0
                assert made[kind, 40]["future"] == made[kind, 4000]["future"] == 0
                assert made[kind, 4000]["handle"] <= made[kind, 40]["handle"] + 8, made
                assert made[kind, 4000]["handle"] < 40, made

    run(story())


def test_operations_that_go_five_ways_still_cost_by_batch_and_node() -> None:
    """Five nodes: a batch is split among its coordinators, and each part is one frame."""

    async def story() -> None:
        async with cluster(5, partitions=64) as one:
            await one.pass_s(0.2)
            for kind in (SET, GET):
                operations = [(kind, b"key-%d" % number, b"v") for number in range(4000)]
                before = Counter(one.made)
                request = one.submit("n1", operations)
                turns = 0
                while not request.done:
                    await one.turns(1)
                    turns += 1
                made = Counter(one.made)
                made.subtract(before)
                assert made["task"] == made["future"] == 0, made
                assert made["timer"] == 0, made
                assert made["handle"] - turns < 200, made

    run(story())


def test_a_flight_leaves_nothing_behind() -> None:
    """What is kept of a batch ends with its last reply: bytes held are zero again, and so are requests that
    wait.
    """

    async def story() -> None:
        async with cluster(3) as one:
            for name in one.names:
                operations = [(SET, b"key-%d" % number, bytes(100)) for number in range(2000)]
                await one.answer(one.submit(name, operations))
                await one.answer(one.submit(name, [(GET, key, b"") for _, key, _ in operations]))
            await one.wait_until(lambda: not any(len(one.node(name).core.flights) for name in one.names))
            for name in one.names:
                flights = one.node(name).core.flights
                assert flights.bytes_held == 0
                assert not flights._pending

    run(story())
