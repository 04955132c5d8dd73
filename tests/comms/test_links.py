"""When links come up, break and are given up: in memory, where network and clock do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.comms import links
from sadik.comms.link import MEASURED_EVERY, Link
from sadik.comms.messages import BULK, DATA, LANES
from sadik.config import ClusterConfig
from sadik.settings import Address
from tests.comms.worlds import MemoryWorld, Node, identity

TIMEOUT_MS = ClusterConfig().peer_timeout_ms
HEARTBEAT_MS = ClusterConfig().heartbeat_interval_ms
TICK_MS = 50


def run(story: Callable[[MemoryWorld], Awaitable[None]]) -> None:
    asyncio.run(story(MemoryWorld()))


async def pair(world: MemoryWorld, *names: str) -> tuple[Node, ...]:
    """Nodes that know each other, linked."""
    nodes = tuple([await world.node(name) for name in names or ("a", "b")])
    for node in nodes:
        for other in nodes:
            if other is not node:
                node.knows(other)
    await world.until(
        lambda: all(
            node.transport.is_up(other.name, lane)
            for node in nodes
            for other in nodes
            for lane in LANES
            if node is not other
        )
    )
    return nodes


def one_link(one: Node, other: Node, lane: int) -> bool:
    """Both sides hold the two ends of one and the same connection."""
    ends = [one.transport._up[lane].get(other.name), other.transport._up[lane].get(one.name)]
    match ends:
        case [Link(wire=near), Link(wire=far)]:
            return near.other is far  # type: ignore[attr-defined]
        case _:
            return False


def test_silent_link_is_given_up_after_the_timeout_and_not_before() -> None:
    """A network that drops packets tells nobody: this is what failure detection rests on."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.cut(a.name, b.name)
        world.run(TIMEOUT_MS - HEARTBEAT_MS - 2 * TICK_MS)
        assert a.transport.is_up(b.name)
        world.run(HEARTBEAT_MS + 4 * TICK_MS)
        assert not a.transport.is_up(b.name)
        assert a.recorder.downs() == b.recorder.downs() == ["silent"]

    run(story)


def test_link_that_is_heard_of_in_time_goes_on() -> None:
    """A short disturbance costs nobody a request."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.cut(a.name, b.name)
        a.send(b, b"text")
        world.run(TIMEOUT_MS // 2)
        assert b.texts() == []
        world.network.heal()
        world.run(10 * TIMEOUT_MS)
        assert b.texts() == [b"text"]
        assert (a.recorder.downs(), b.recorder.downs()) == ([], [])

    run(story)


def test_one_way_silence_ends_the_link_on_both_sides() -> None:
    """A hears B, B does not hear A: a link that works one way serves no request."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.cut_one_way(a.name, b.name)
        world.run(2 * TIMEOUT_MS)
        assert not a.transport.is_up(b.name)
        assert not b.transport.is_up(a.name)
        world.network.heal()
        await world.until(lambda: a.transport.is_up(b.name) and b.transport.is_up(a.name))

    run(story)


def test_cut_between_two_leaves_the_third_linked_with_both() -> None:
    """Partial splits are common and must not spread."""

    async def story(world: MemoryWorld) -> None:
        a, b, c = await pair(world, "a", "b", "c")
        world.network.cut(a.name, b.name)
        world.run(3 * TIMEOUT_MS)
        assert not a.transport.is_up(b.name)
        assert a.transport.is_up(c.name)
        assert b.transport.is_up(c.name)
        assert c.recorder.downs() == []
        world.network.heal()
        await world.until(lambda: one_link(a, b, DATA) and one_link(a, b, BULK))

    run(story)


def test_peer_that_takes_nothing_is_given_up() -> None:
    """It may go on sending signs of life: what counts is whether it can be reached."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        # Seen from a: b's bytes come, its own do not leave.
        world.network.cut_one_way(a.name, b.name)
        b.transport._timeout_ns = 10**15
        a.send(b, b"text")
        world.run(TIMEOUT_MS + HEARTBEAT_MS + 4 * TICK_MS)
        assert a.recorder.downs() == ["it takes nothing"]

    run(story)


def test_one_sign_of_life_a_heartbeat_is_asked_for_and_answered() -> None:
    """The answer is the other side's sign of life: two frames keep an idle link, not four."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.run(2 * TIMEOUT_MS)
        before = [node.transport.statistics()[DATA].frames_out for node in (a, b)]
        # Never at the same moment, where both would ask.
        for _ in range(20 * HEARTBEAT_MS // TICK_MS):
            for node in (a, b):
                world.clock.now_ns += TICK_MS * 1_000_000 // 2
                node.transport.tick()
                world.drain()
        for node, was in zip((a, b), before, strict=True):
            sent = node.transport.statistics()[DATA].frames_out - was
            assert 15 <= sent <= 21

    run(story)


def test_frames_are_signs_of_life_themselves() -> None:
    """A busy link carries a PING now and then, so that its round trip stays known, and no more of them."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        before = a.transport.statistics()[DATA].frames_out
        texts = 20 * HEARTBEAT_MS // TICK_MS
        for _ in range(texts):
            a.send(b, b"text")
            b.send(a, b"text")
            world.run(TICK_MS)
        signs = a.transport.statistics()[DATA].frames_out - before - texts
        assert 2 * (20 // MEASURED_EVERY) <= signs <= 2 * (20 // MEASURED_EVERY + 2)

    run(story)


def test_one_sided_stream_keeps_its_link() -> None:
    """The side that only receives asks for no answer and gets none; it is heard all the same."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        for lane in LANES:
            for _ in range(5 * TIMEOUT_MS // TICK_MS):
                a.send(b, b"text", lane)
                world.run(TICK_MS)
        assert a.recorder.events == [("up", "b")]
        assert b.recorder.events == [("up", "a")]

    run(story)


def bulk_frames(*nodes: Node) -> list[int]:
    return [node.transport.statistics()[BULK].frames_out for node in nodes]


def hold_back(node: Node, other: Node, lane: int) -> None:
    """What passes between two nodes on a lane does not arrive any more, nor does word of its end."""
    for one, far in ((node, other), (other, node)):
        one.transport._up[lane][far.name].wire.land = lambda: None  # type: ignore[attr-defined]


async def resting(world: MemoryWorld) -> tuple[Node, Node]:
    """Two nodes whose bulk link rests on both sides."""
    a, b = await pair(world)
    world.run(2 * TIMEOUT_MS)
    assert a.transport._up[BULK][b.name].resting
    assert b.transport._up[BULK][a.name].resting
    return a, b


def test_bulk_link_that_nobody_uses_is_quiet_and_stays() -> None:
    async def story(world: MemoryWorld) -> None:
        a, b = await resting(world)
        before = bulk_frames(a, b)
        world.run(20 * TIMEOUT_MS)
        assert bulk_frames(a, b) == before
        assert one_link(a, b, BULK)
        assert a.send(b, b"text", BULK)
        world.run(20 * TIMEOUT_MS)
        assert b.texts(BULK) == [b"text"]
        assert one_link(a, b, BULK)
        assert [link.reconnects for link in a.transport.statistics()] == [0, 0]

    run(story)


@pytest.mark.parametrize("answers", [True, False])
def test_use_of_a_resting_link_shows_whether_it_works(answers: bool) -> None:
    """Silence counts from the first frame: neither is the rest held against it, nor is it found out late."""

    async def story(world: MemoryWorld) -> None:
        a, b = await resting(world)
        if not answers:
            hold_back(a, b, BULK)
        a.send(b, b"text", BULK)
        world.run(TIMEOUT_MS - HEARTBEAT_MS)
        assert a.transport.is_up(b.name, BULK)
        world.run(HEARTBEAT_MS + TICK_MS)
        assert (("bulk down", b.name, "silent") in a.recorder.events) is not answers

    run(story)


def test_rest_is_not_held_against_a_queue_that_waits() -> None:
    """What cannot be sent at once after a rest has as long as anything else."""

    async def story(world: MemoryWorld) -> None:
        a, b = await resting(world)
        world.network.cut(a.name, b.name)
        a.send(b, b"text", BULK)
        world.run(TIMEOUT_MS // 2)
        world.network.heal()
        world.run(2 * TIMEOUT_MS)
        assert b.texts(BULK) == [b"text"]
        assert a.recorder.events == [("up", b.name)]

    run(story)


def test_resting_link_goes_with_the_silent_data_link() -> None:
    """Its sender learns at once that the node cannot be reached, as if there had been signs of life."""

    async def story(world: MemoryWorld) -> None:
        a, b = await resting(world)
        world.network.cut(a.name, b.name)
        await world.until(lambda: not a.transport.is_up(b.name))
        assert not a.transport.is_up(b.name, BULK)
        world.network.heal()
        await world.until(lambda: one_link(a, b, DATA) and one_link(a, b, BULK))

    run(story)


def test_resting_link_the_other_side_has_lost_makes_room() -> None:
    async def story(world: MemoryWorld) -> None:
        a, b = await resting(world)
        hold_back(a, b, BULK)
        b.transport._close(b.transport._up[BULK][a.name], "lost")
        await world.until(lambda: one_link(a, b, BULK))
        assert a.recorder.events[1:] == [("bulk down", b.name, "replaced by a newer link")]

    run(story)


def test_new_data_link_tries_the_resting_one() -> None:
    """Only one side may know where the other one is: here b, which has lost its bulk link, waits for a."""

    async def story(world: MemoryWorld) -> None:
        a, b = await resting(world)
        hold_back(a, b, BULK)
        for lane in LANES:
            del b.transport._dials[a.name, lane]
        b.transport._close(b.transport._up[BULK][a.name], "lost")
        world.run(5 * TIMEOUT_MS)
        assert not b.transport.is_up(a.name, BULK)
        a.transport._up[DATA][b.name].wire.abort()
        world.run(2 * TIMEOUT_MS)
        assert one_link(a, b, BULK)

    run(story)


def test_own_pause_is_not_the_others_silence() -> None:
    """After a stopped process or a long write, all links would look silent at once, and all be closed."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        # Twice, as what came since the last tick would count as heard now.
        for _ in range(2):
            world.network.tick()
        world.clock.now_ns += 120_000_000_000
        world.network.tick()
        assert (a.recorder.downs(), b.recorder.downs()) == ([], [])
        world.run(2 * TIMEOUT_MS)
        assert a.transport.is_up(b.name)

    run(story)


def test_lost_link_is_dialled_again_with_growing_pauses() -> None:
    """At once, as most losses are short; then seldom, as a machine that is gone needs no help."""

    async def story(world: MemoryWorld) -> None:
        _, b = await pair(world)
        world.run(2000)
        await b.transport.stop()
        world.drain()
        dials: list[int] = []
        dial = world.network.dial

        def counted(dialling, wanted, attempt):
            dials.append(world.clock.now_ns // 1_000_000)
            dial(dialling, wanted, attempt)

        world.network.dial = counted
        world.run(20_000)
        pauses = [after - before for before, after in zip(dials[::2], dials[2::2], strict=False)]
        assert dials[0] * 1_000_000 <= world.clock.now_ns - 20_000_000_000 + 2 * TICK_MS * 1_000_000
        assert max(pauses) <= links.BACKOFF_MAX_MS + TICK_MS
        assert min(pauses[-4:]) >= links.BACKOFF_MAX_MS // 2
        assert len(dials) <= 60

    run(story)


def test_link_that_never_lasts_is_dialled_seldom() -> None:
    """The other side lets us in and throws us out: that is no success to begin anew from."""

    async def story(world: MemoryWorld) -> None:
        a, b = await world.node("a"), await world.node("b")
        b.recorder.on_link_up = lambda who: b.transport.forget(who.node)
        a.knows(b)
        world.run(20_000)
        assert 10 <= b.transport.port_statistics().welcomed <= 60

    run(story)


def test_attempts_that_fail_alike_are_not_logged_each(caplog: pytest.LogCaptureFixture) -> None:
    """A node that is down for a night must not fill the others' disks."""

    async def story(world: MemoryWorld) -> None:
        a = await world.node("a")
        a.transport.connect(identity("b").node, Address("127.0.0.1", 1))
        world.run(600_000)

    run(story)
    lines = [record for record in caplog.records if record.levelname == "WARNING"]
    assert 2 <= len(lines) <= 2 * (2 + 600 // links.ATTEMPTS_A_LINE)
    assert "node b at 127.0.0.1:1, attempt 1: cannot be reached" in lines[0].getMessage()


def test_link_the_other_side_has_lost_already_makes_room() -> None:
    """The greater id lost it and dials; here it only went quiet. Waiting for the timeout would cost time."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.cut(a.name, b.name)
        b.transport._timeout_ns //= 2
        await world.until(lambda: not b.transport.is_up(a.name))
        assert a.transport.is_up(b.name)
        # The goodbye, and the answer to what a still writes into the dead connection, are held back.
        for wire in list(world.network._ends):
            wire.pump = wire.land = lambda: None
        world.network.heal()
        await world.until(lambda: one_link(a, b, DATA))
        assert a.recorder.downs() == ["replaced by a newer link"]

    run(story)


def test_link_of_an_earlier_run_is_closed_on_every_lane() -> None:
    """Its frames and its peer's memory of requests are gone; only the kernel has not said so yet."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.leave(b.address)
        again = await world.node(identity("b", actor=99), listen=b.address)
        again.transport.introduce(a.address)
        await world.until(lambda: one_link(a, again, DATA))
        assert "replaced by a newer link" in a.recorder.downs()
        await world.until(lambda: one_link(a, again, BULK))
        assert {link.identity.actor for lane in LANES for link in a.transport._up[lane].values()} == {99}

    run(story)


def test_introduction_may_be_taken_over_while_it_succeeds() -> None:
    """Who hears that the old link is down may connect at once, in the middle of the new one's coming up."""

    async def story(world: MemoryWorld) -> None:
        a, b = await world.node("a"), await world.node("b")
        b.transport.introduce(a.address)
        await world.until(lambda: one_link(a, b, DATA))
        world.network.leave(b.address)
        again = await world.node(identity("b", actor=99), listen=b.address)
        a.recorder.on_link_down = lambda peer, reason: a.knows(again)
        b.transport.finish()
        world.steps.clear()
        a.transport.introduce(again.address)
        world.run(2000)
        assert one_link(a, again, DATA)
        assert one_link(a, again, BULK)

    run(story)


def test_down_is_told_before_up_when_a_forgotten_node_comes_back_at_once() -> None:
    """Else the last word about a node that is up would be that it is down."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        a.transport.forget(b.name)
        # The goodbye is held back, the new handshake is not.
        kept = list(world.steps)
        world.steps.clear()
        a.knows(b)
        b.transport._up[DATA].clear()
        b.transport._up[BULK].clear()
        await world.until(lambda: a.transport.is_up(b.name))
        world.steps.extend(kept)
        world.run(1000)
        assert [event[0] for event in a.recorder.events if event[0] != "bulk down"] == ["up", "down", "up"]
        assert a.transport.is_up(b.name)

    run(story)


def test_what_does_not_get_sent_at_the_stop_is_given_up() -> None:
    """A node that stops does not wait for ever for a peer that is not there."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.network.cut(a.name, b.name)
        a.send(b, b"text")
        await a.transport.stop()
        world.drain()
        assert a.transport.is_parting
        world.run(TIMEOUT_MS + 2 * TICK_MS)
        assert not a.transport.is_parting
        assert a.recorder.downs() == ["this node stops"]

    run(story)


def test_nodes_linked_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a secret, anyone may come under ever new names."""
    monkeypatch.setattr(links, "NODES_MAX", 3)

    async def story(world: MemoryWorld) -> None:
        a = await world.node("a")
        others = [await world.node(f"n{number}") for number in range(5)]
        for other in others:
            other.transport.introduce(a.address)
        world.run(5000)
        assert sum(a.transport.is_up(other.name) for other in others) == 3

    run(story)


def test_counters_of_names_that_came_and_went_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "NODES_MAX", 3)

    async def story(world: MemoryWorld) -> None:
        a = await world.node("a")
        for number in range(40):
            other = await world.node(f"n{number}")
            other.transport.introduce(a.address)
            await world.until(lambda: a.transport.is_up(other.name))  # noqa: B023
            await other.transport.stop()
            world.run(100)
        assert len(a.transport.statistics()) <= 2 * 3 * len(LANES)

    run(story)


def test_broken_link_is_made_again_by_the_smaller_id() -> None:
    """The other side waits its grace time: else both would dial at the same moment, each time."""

    async def story(world: MemoryWorld) -> None:
        a, b = await pair(world)
        world.run(2000)
        before = [node.transport.port_statistics().accepted for node in (a, b)]
        for wire in list(world.network._ends):
            wire.abort()
        world.drain()
        assert not a.transport.is_up(b.name)
        world.run(100)
        assert one_link(a, b, DATA)
        assert [node.transport.port_statistics().accepted for node in (a, b)] == [before[0], before[1] + 2]

    run(story)


def test_of_two_attempts_at_once_the_smaller_ids_is_the_link() -> None:
    """Both have greeted before either is answered; without another attempt one of them holds."""

    async def story(world: MemoryWorld) -> None:
        a, b = await world.node("a"), await world.node("b")
        b.knows(a)
        for dial in b.transport._dials.values():
            dial.due_ns = 0
        b.transport.tick()
        a.knows(b)
        world.drain()
        assert one_link(a, b, DATA)
        assert one_link(a, b, BULK)
        assert all(a.transport._up[lane][b.name].dialled_by_us for lane in LANES)

    run(story)


@given(choices=st.lists(st.integers(0, 7), max_size=150), ahead=st.integers(0, 6), first=st.booleans())
@settings(max_examples=150, deadline=None)
def test_one_of_two_attempts_at_once_is_given_up_before_it_is_a_link(
    choices: list[int], ahead: int, first: bool
) -> None:
    """Two links that replace each other would cost the requests on the first one."""
    drawn = iter(choices)
    world = MemoryWorld(lambda count: next(drawn, 0) % count)

    async def story() -> None:
        nodes = [await world.node("a"), await world.node("b")]
        for node, other in (nodes, nodes[::-1]) if first else (nodes[::-1], nodes):
            node.knows(other)
            for dial in node.transport._dials.values():
                # As if the greater id's grace time were over just now.
                dial.due_ns = 0
            node.transport.tick()
            for _ in range(ahead):
                if world.steps:
                    world.steps.popleft()()
        world.run(3000)
        a, b = nodes
        assert one_link(a, b, DATA)
        assert one_link(a, b, BULK)
        assert [node.recorder.events for node in nodes] == [[("up", "b")], [("up", "a")]]

    asyncio.run(story())


@given(
    choices=st.lists(st.integers(0, 7), max_size=150),
    introduced=st.tuples(st.booleans(), st.booleans()),
    known=st.sampled_from([(True, True), (True, False), (False, True)]),
    pause=st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_crossing_attempts_end_in_the_same_link_on_both_sides(
    choices: list[int], introduced: tuple[bool, bool], known: tuple[bool, bool], pause: int
) -> None:
    """Whatever overtakes what: both hold the ends of one connection, and it stays."""
    drawn = iter(choices)
    world = MemoryWorld(lambda count: next(drawn, 0) % count)

    async def story() -> None:
        a, b = await world.node("a"), await world.node("b")
        for node, other, introduces, knows in (
            (a, b, introduced[0], known[0]),
            (b, a, introduced[1], known[1]),
        ):
            if introduces:
                node.transport.introduce(other.address)
            for _ in range(pause):
                if world.steps:
                    world.steps.popleft()()
            if knows:
                node.knows(other)
        world.run(4000)
        assert one_link(a, b, DATA)
        assert one_link(a, b, BULK)
        counts = [link.reconnects for node in (a, b) for link in node.transport.statistics()]
        world.run(4000)
        # Nobody goes on dialling.
        assert counts == [link.reconnects for node in (a, b) for link in node.transport.statistics()]
        assert max(counts) <= 2
        for node in (a, b):
            ups = [event[0] for event in node.recorder.events if event[0] != "bulk down"]
            assert ups == ["up", "down"] * (len(ups) // 2) + ["up"]

    asyncio.run(story())


@given(
    story=st.lists(
        st.tuples(st.sampled_from(["cut", "one way", "heal", "run", "restart"]), st.integers(0, 2)),
        max_size=12,
    ),
    choices=st.lists(st.integers(0, 7), max_size=100),
)
@settings(max_examples=60, deadline=None)
def test_three_nodes_are_linked_again_after_any_story(
    story: list[tuple[str, int]], choices: list[int]
) -> None:
    """Healed: every pair has one link a lane, known alike to both, within a few back-offs."""
    drawn = iter(choices)
    world = MemoryWorld(lambda count: next(drawn, 0) % count)

    async def run_story() -> None:
        nodes = [await world.node(name) for name in "abc"]
        runs = 1

        def introduce_all() -> None:
            for node in nodes:
                for other in nodes:
                    if node is not other:
                        node.knows(other)

        introduce_all()
        for action, which in story:
            one, other = nodes[which], nodes[(which + 1) % 3]
            match action:
                case "cut":
                    world.network.cut(one.name, other.name)
                case "one way":
                    world.network.cut_one_way(one.name, other.name)
                case "heal":
                    world.network.heal()
                case "restart":
                    runs += 1
                    await one.transport.stop()
                    who = identity(one.name, actor=1000 + runs)
                    nodes[which] = await world.node(who, listen=one.address)
                    introduce_all()
            world.run(700)
        world.network.heal()
        world.run(3 * TIMEOUT_MS + 3 * links.BACKOFF_MAX_MS)
        for index, one in enumerate(nodes):
            for other in nodes[index + 1 :]:
                assert one_link(one, other, DATA), (one.name, other.name)
                assert one_link(one, other, BULK), (one.name, other.name)
        for node in nodes:
            state = {}
            for event in node.recorder.events:
                if event[0] != "bulk down":
                    assert state.get(event[1], "down") != event[0], node.recorder.events
                    state[event[1]] = event[0]
            assert list(state.values()) == ["up", "up"]

    asyncio.run(run_story())
