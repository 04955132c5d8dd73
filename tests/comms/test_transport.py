"""What a transport promises, on each of them: the same tests over TCP and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from sadik.comms.messages import BULK, DATA, LANES
from sadik.config import ClusterConfig
from sadik.kernels import frames
from sadik.settings import Address
from tests.comms.worlds import PAYLOAD_BYTES_MAX, MemoryWorld, Node, TcpWorld, World, identity

Story = Callable[[World], Awaitable[None]]
Run = Callable[[Story], None]


@pytest.fixture(params=["memory", "tcp", "tcp on uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    async def in_world(story: Story) -> None:
        world = MemoryWorld() if request.param == "memory" else TcpWorld()
        try:
            await story(world)
        finally:
            await world.close()

    def runner(story: Story) -> None:
        (uvloop.run if request.param == "tcp on uvloop" else asyncio.run)(in_world(story))

    return runner


def is_linked(one: Node, other: Node) -> bool:
    return all(
        one.transport.is_up(other.name, lane) and other.transport.is_up(one.name, lane) for lane in LANES
    )


async def pair(world: World) -> tuple[Node, Node]:
    """Two nodes that know each other and are linked."""
    a, b = await world.node("a"), await world.node("b")
    a.knows(b)
    b.knows(a)
    await world.until(lambda: is_linked(a, b))
    return a, b


def test_frames_arrive_once_and_in_order_on_each_lane(run: Run) -> None:
    """Client order within a connection, and the order of a batch's parts, rest on it."""

    async def story(world: World) -> None:
        a, b = await pair(world)
        texts = [b"%d" % number * (number % 50) for number in range(300)]
        for text in texts:
            assert a.send(b, text)
            assert a.send(b, text, BULK)
            assert b.send(a, text)
        await world.until(lambda: [len(b.texts()), len(b.texts(BULK)), len(a.texts())] == [len(texts)] * 3)
        assert b.texts() == b.texts(BULK) == a.texts() == texts
        assert {item[:2] for item in b.recorder.frames} == {("a", DATA), ("a", BULK)}

    run(story)


def test_nothing_is_delivered_from_within_a_send(run: Run) -> None:
    """A caller is in the middle of a batch when it sends."""

    async def story(world: World) -> None:
        a, b = await pair(world)
        a.send(b, b"text")
        b.send(a, b"text")
        assert (a.texts(), b.texts()) == ([], [])
        await world.until(lambda: a.texts() and b.texts())

    run(story)


def test_payload_of_any_allowed_length_passes(run: Run) -> None:
    async def story(world: World) -> None:
        a, b = await pair(world)
        texts = [b"", b"x" * PAYLOAD_BYTES_MAX, b"y" * 100_000]
        for text in texts:
            assert a.send(b, text)
        await world.until(lambda: len(b.texts()) == len(texts))
        assert b.texts() == texts

    run(story)


def test_what_is_too_long_for_a_link_is_not_sent(run: Run) -> None:
    """The other side would take it for an attack, and end the link with everything else on it."""

    async def story(world: World) -> None:
        a, b = await pair(world)
        assert not a.send(b, b"x" * (PAYLOAD_BYTES_MAX + 1))
        assert a.send(b, b"text")
        await world.until(lambda: b.texts() == [b"text"])
        assert a.transport.statistics()[0].refused_full == 1

    run(story)


def test_nothing_is_sent_to_who_is_not_linked(run: Run) -> None:
    async def story(world: World) -> None:
        a = await world.node("a")
        assert not a.transport.send(a.name, frames.encode(16, 1, (b"",)))
        assert not a.transport.is_up(a.name)
        assert a.transport.queued_bytes(a.name, DATA) == 0
        assert a.transport.statistics() == []

    run(story)


def test_events_tell_of_the_data_lane_once(run: Run) -> None:
    async def story(world: World) -> None:
        a, b = await pair(world)
        assert a.recorder.events == [("up", "b")]
        assert b.recorder.events == [("up", "a")]
        a.transport.forget(b.name)
        await world.until(lambda: len(a.recorder.events) == len(b.recorder.events) == 3)
        assert sorted(event[0] for event in a.recorder.events) == ["bulk down", "down", "up"]

    run(story)


def test_smaller_id_dials(run: Run) -> None:
    """Else both would, and half of the links would be made in vain."""

    async def story(world: World) -> None:
        b, a = await world.node("b"), await world.node("a")
        b.knows(a)
        a.knows(b)
        await world.until(lambda: is_linked(a, b))
        await world.settle()
        assert b.transport.port_statistics().welcomed == 2
        assert a.transport.port_statistics().accepted == 0
        assert [link.reconnects for link in a.transport.statistics()] == [0, 0]

    run(story)


def test_greater_id_dials_when_nothing_comes_up(run: Run) -> None:
    """The smaller one may not know where the greater one is."""

    async def story(world: World) -> None:
        a, b = await world.node("a"), await world.node("b")
        b.knows(a)
        await world.until(lambda: is_linked(a, b))
        assert a.transport.port_statistics().welcomed == 2

    run(story)


def test_introduction_finds_out_who_is_there(run: Run) -> None:
    """A seed is an address. Once its node is known the link is that node's, with both lanes."""

    async def story(world: World) -> None:
        a, b = await world.node("a"), await world.node("b")
        b.transport.introduce(a.address)
        await world.until(lambda: b.transport.is_up(a.name))
        assert b.recorder.events == [("up", "a")]
        b.knows(a)
        await world.until(lambda: is_linked(a, b))
        await world.settle()
        assert b.recorder.events == [("up", "a")]
        assert a.transport.port_statistics().accepted == 2

    run(story)


def test_introduction_to_a_linked_node_comes_to_an_end(run: Run) -> None:
    """The seed has dialled us first: there is nothing left to introduce, and the link is left alone."""

    async def story(world: World) -> None:
        a, b = await pair(world)
        b.transport.introduce(a.address)
        await world.until(lambda: a.transport.port_statistics().refused == 1)
        await world.settle()
        assert a.transport.port_statistics().accepted == 1
        assert a.recorder.events == [("up", "b")]

    run(story)


def test_introduction_to_oneself_comes_to_an_end(run: Run) -> None:
    """One list of seeds for all nodes is the usual configuration."""

    async def story(world: World) -> None:
        a = await world.node("a")
        a.transport.introduce(a.address)
        await world.until(lambda: a.transport.port_statistics().refused == 1)
        await world.settle()
        assert a.transport.port_statistics().accepted == 1
        assert a.recorder.events == []

    run(story)


def test_introduction_goes_on_until_somebody_is_there(run: Run) -> None:
    """Nodes of a cluster are started in any order."""

    async def story(world: World) -> None:
        first = await world.node("a")
        await first.transport.stop()
        b = await world.node("b")
        b.transport.introduce(first.address)
        await world.settle()
        await world.node("a", listen=first.address)
        await world.until(lambda: b.transport.is_up(first.name))

    run(story)


def test_forgotten_node_is_not_dialled_any_more(run: Run) -> None:
    async def story(world: World) -> None:
        a, b = await pair(world)
        a.transport.forget(b.name)
        b.transport.forget(a.name)
        assert not a.transport.is_up(b.name)
        assert not a.send(b, b"text")
        await world.until(lambda: a.recorder.downs() and b.recorder.downs())
        await world.settle()
        assert not a.transport.is_up(b.name)
        assert a.transport.statistics() == []

    run(story)


def test_what_was_sent_before_the_stop_arrives(run: Run) -> None:
    """The last replies of a node that is restarted in an orderly way."""

    async def story(world: World) -> None:
        a, b = await pair(world)
        texts = [b"x" * 10_000] * 20
        for text in texts:
            a.send(b, text)
        await a.transport.stop()
        await world.until(lambda: b.recorder.downs())
        assert b.texts() == texts
        assert not a.send(b, b"text")

    run(story)


def test_restarted_node_is_linked_again(run: Run) -> None:
    """A new run has another actor; both lanes must be its own."""

    async def story(world: World) -> None:
        a, b = await pair(world)
        await b.transport.stop()
        await world.until(lambda: a.recorder.downs())
        again = await world.node(identity("b", actor=99), listen=b.address)
        await world.until(lambda: is_linked(a, again))
        a.send(again, b"text")
        await world.until(lambda: again.texts() == [b"text"])
        assert [event[0] for event in a.recorder.events if event[0] != "bulk down"] == ["up", "down", "up"]
        assert [link.reconnects for link in a.transport.statistics()] == [1, 1]

    run(story)


def test_node_that_moved_is_found_at_its_new_address(run: Run) -> None:
    async def story(world: World) -> None:
        a, b = await pair(world)
        await b.transport.stop()
        await world.until(lambda: a.recorder.downs())
        again = await world.node("b")
        a.knows(again)
        await world.until(lambda: is_linked(a, again))

    run(story)


def test_crossing_attempts_leave_one_link_a_lane(run: Run) -> None:
    """Both know only an address, and dial at once."""

    async def story(world: World) -> None:
        a, b = await world.node("a"), await world.node("b")
        a.transport.introduce(b.address)
        b.transport.introduce(a.address)
        a.knows(b)
        b.knows(a)
        await world.until(lambda: is_linked(a, b))
        await world.settle()
        a.send(b, b"there")
        b.send(a, b"back")
        await world.until(lambda: b.texts() == [b"there"] and a.texts() == [b"back"])
        for node in (a, b):
            ups = [event[0] for event in node.recorder.events if event[0] != "bulk down"]
            assert ups == ["up", "down"] * (len(ups) // 2) + ["up"]

    run(story)


STRANGERS = {
    "another secret": ({"secret": b"another secret here"}, {}, "do not have the same secret"),
    "no secret": ({"secret": None}, {}, "the other one has none"),
    "another cluster": ({}, {"cluster": "d"}, "cluster c, not d"),
    "another cluster of the name": ({}, {"cluster_id": "f" * 32}, "its id is not the same"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_stranger_is_not_let_in_and_both_logs_say_why(
    run: Run, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two clusters meet by a wrong seed: neither may take the other one's nodes for its own."""
    options, changes, reason = STRANGERS[case]

    async def story(world: World) -> None:
        a = await world.node("a")
        b = await world.node(identity("b", **changes), **options)
        b.transport.introduce(a.address)
        await world.until(lambda: a.transport.port_statistics().refused >= 2)
        assert (a.recorder.events, b.recorder.events) == ([], [])
        assert a.transport.port_statistics().welcomed == 0

    run(story)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("is not let in" in line and reason in line for line in lines), lines
    assert any("does not let this node in" in line and reason in line for line in lines), lines


def test_node_that_is_not_born_yet_is_let_in(run: Run) -> None:
    """It does not know its cluster; what it may ask is for the layers above."""

    async def story(world: World) -> None:
        a, b = await world.node("a"), await world.node(identity("b", cluster="", cluster_id=""))
        b.transport.introduce(a.address)
        await world.until(lambda: a.transport.is_up(b.name) and b.transport.is_up(a.name))

    run(story)


@pytest.mark.parametrize("dialling", ["a", "b"])
def test_who_is_not_admitted_gets_no_link_whoever_dials(run: Run, dialling: str) -> None:
    async def story(world: World) -> None:
        a, b = await world.node("a"), await world.node("b")
        a.recorder.admission = lambda who: f"{who.node} has left" if who.node == "b" else ""
        dialler, other = (a, b) if dialling == "a" else (b, a)
        dialler.transport.introduce(other.address)
        await world.until(lambda: other.transport.port_statistics().accepted >= 3)
        assert not a.transport.is_up(b.name)
        assert a.recorder.events == []

    run(story)


def test_another_node_at_an_address_is_not_taken_for_the_wanted_one(run: Run) -> None:
    """Addresses are given to new nodes; a write for c must not end up with b."""

    async def story(world: World) -> None:
        a, b = await world.node("a"), await world.node("b")
        a.transport.connect(identity("c").node, b.address)
        await world.until(lambda: b.transport.port_statistics().refused >= 2)
        assert a.recorder.events == b.recorder.events == []

    run(story)


def test_node_does_not_connect_to_itself(run: Run) -> None:
    async def story(world: World) -> None:
        a = await world.node("a")
        with pytest.raises(ValueError, match="itself"):
            a.transport.connect(a.name, a.address)

    run(story)


def test_address_in_use_is_an_error_at_start(run: Run) -> None:
    async def story(world: World) -> None:
        a = await world.node("a")
        with pytest.raises(OSError, match="in use"):
            await world.node("b", listen=a.address)

    run(story)


def test_heartbeats_measure_the_way_there_and_back(run: Run) -> None:
    async def story(world: World) -> None:
        a, b = await pair(world)
        for link in a.transport.statistics():
            assert link.round_trip_ns, "the handshake did"
        a.transport._count(b.name, DATA).round_trip_ns = 0
        await world.until(lambda: a.transport.statistics()[DATA].round_trip_ns)
        assert [(link.node, link.lane, link.up) for link in a.transport.statistics()] == [
            (b.name, lane, True) for lane in LANES
        ]
        assert all(link.round_trip_ns < 10**9 for link in a.transport.statistics())
        assert (a.texts(), b.texts()) == ([], [])

    run(story)


def test_full_queue_takes_nothing_more(run: Run) -> None:
    """A slow peer costs bounded memory; its writes count as not reached. Other lanes go on."""

    async def story(world: World) -> None:
        limit = 1 << 20
        a = await world.node("a", config=ClusterConfig(peer_queue_bytes_max=limit, peer_timeout_ms=5000))
        b = await world.node("b")
        a.knows(b)
        await world.until(lambda: is_linked(a, b))
        text = b"x" * 60_000
        sent = 0
        # Within one turn of the loop, so that the other side reads nothing meanwhile.
        for _ in range(1000):
            sent += a.send(b, text)
        assert a.transport.queued_bytes(b.name, DATA) <= limit
        assert limit // len(text) - 1 <= sent < 1000
        assert a.transport.statistics()[DATA].refused_full == 1000 - sent
        assert a.send(b, b"bulk", BULK)
        await world.until(lambda: len(b.texts()) == sent)
        assert a.send(b, b"again")
        await world.until(lambda: b.texts()[-1] == b"again")

    run(story)


def test_one_frame_of_any_length_passes_an_empty_queue(run: Run) -> None:
    """However low the queue's limit is set, the longest value can be written."""

    async def story(world: World) -> None:
        a = await world.node("a", config=ClusterConfig(peer_queue_bytes_max=1 << 20, peer_timeout_ms=5000))
        b = await world.node("b")
        a.knows(b)
        await world.until(lambda: is_linked(a, b))
        assert a.send(b, b"x" * PAYLOAD_BYTES_MAX)
        await world.until(lambda: b.texts())

    run(story)


def test_stop_of_a_transport_that_never_started_is_nothing(run: Run) -> None:
    async def story(world: World) -> None:
        a = await world.node("a")
        await a.transport.stop()
        await a.transport.stop()
        a.transport.introduce(Address("127.0.0.1", 1))
        await world.settle()

    run(story)
