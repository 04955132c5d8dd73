"""Membership of whole nodes over a network in memory: joins, restarts, cuts, duplicates, leaving, commits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sadik.comms.messages import Kind, encode
from sadik.comms.transport import Identity
from sadik.errors import InvalidRequest, QuorumMissed, Unavailable, WrongFormat
from sadik.ids import NodeId
from sadik.members.bootstrap import ALIVE, JoinRequest, decode_answer, encode_alive
from sadik.members.layout import Change
from sadik.members.service import ALIVE_INTERVAL_MS, SEED_ROUNDS, SPREAD_PEERS, TASKS_MAX, Members
from sadik.members.state import DEAD_AFTER_MS
from sadik.members.view import View
from sadik.members.voting import VOTE_HOLD_MS
from tests.members.cluster import CLUSTER_ID, NOON, Disk, Hands, Network, Runner
from tests.members.test_gossip import Words

NAMES = ("amber", "birch", "cedar", "dahlia", "elder")


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))  # type: ignore[arg-type]


async def idle(*runners: Runner) -> None:
    """Until no exchange is under way; the rounds themselves sleep for an hour."""
    for _ in range(10_000):
        if all(len(runner.members._tasks) <= 1 for runner in runners):
            return
        await asyncio.sleep(0)
    raise AssertionError("exchanges do not end")


async def started(count: int, *, clock: Hands, network: Network, **more: object) -> list[Runner]:
    """``count`` nodes that know of each other; the first is founder and seed."""
    runners = [Runner(network, NAMES[0], port=100, clock=clock, founder=True, **more)]  # type: ignore[arg-type]
    for number in range(1, count):
        runners.append(
            Runner(network, NAMES[number], port=100 + number, clock=clock, seeds=(100,), **more)  # type: ignore[arg-type]
        )
    await agreed(network, runners)
    return runners


async def agreed(network: Network, runners: list[Runner]) -> None:
    """Until all know the same, within the rounds that chance may need."""
    for _ in range(40):
        network.settle()
        await idle(*runners)
        if len({(r.members._table.digest(), r.members.state.digest()) for r in runners}) == 1:
            return
        for runner in runners:
            await runner.members.round()
    raise AssertionError("they do not agree")


async def committed(runners: list[Runner]) -> None:
    """All nodes are in the layout."""
    first = runners[0].members
    for runner in runners[1:]:
        first.stage(Change("join", runner.members.me))
    await first.commit(first.plan())
    await idle(*runners)


async def ended(*runners: Runner) -> None:
    for runner in runners:
        await runner.members.stop()


def test_nodes_that_know_a_seed_come_to_know_and_link_everybody() -> None:
    """Dynamo 4.8.1: gossip brings every node to every other; nothing is configured but a seed."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(5, clock=clock, network=network)
        for runner in runners:
            assert runner.states == dict.fromkeys(NAMES, "alive")
            assert sorted(runner.end.links) == sorted(set(NAMES) - {runner.members.me})
            assert runner.members.state.layout.version == 1
        shown = {it["node"]: it for it in runners[1].members.members()}["amber"]
        assert (shown["in_layout"], shown["peer"], shown["round_trip_ms"]) == (True, "127.0.0.1:100", 1.5)
        assert runners[1].members.statistics().members == runners[1].members.statistics().live == 5
        await ended(*runners)

    run(story)


def test_joining_changes_no_layout() -> None:
    """Dynamo 4.8.1: who is a member holds nothing until an administrator says so."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        for runner in runners:
            assert runner.members.view.nodes == ("amber",)
        assert runners[1].members.view.me == -1
        await ended(*runners)

    run(story)


def test_a_staged_layout_is_committed_and_spreads_at_once() -> None:
    """No round is waited for: a change goes to others as soon as it is made. Labels come from members."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        views: list[View] = []
        runners[2].members.subscribe(views.append)
        first = runners[0].members
        for name in NAMES[1:3]:
            first.stage(Change("join", NodeId(name)))
        await idle(*runners)
        assert [change.node for change in runners[2].members.state.staged] == ["birch", "cedar"]
        layout = await first.commit(first.plan())
        await idle(*runners)
        assert layout.version == 2
        assert [(node.node, node.host, node.zone) for node in layout.nodes] == [
            (name, name, "z1") for name in NAMES[:3]
        ]
        for runner in runners:
            assert runner.members.state.layout == layout
            assert runner.members.state.staged == ()
            assert runner.members.view.up == (True, True, True)
        assert views[-1] is runners[2].members.view
        assert [view.number for view in views] == sorted({view.number for view in views})
        await ended(*runners)

    run(story)


def test_only_members_are_staged() -> None:
    """A slip of the pen must not give a tenth of the data to nobody."""

    async def story() -> None:
        network, clock = Network(), Hands()
        (first,) = await started(1, clock=clock, network=network)
        for change in (
            Change("join", NodeId("brich")),
            Change("replace", NodeId("amber"), other=NodeId("x")),
        ):
            with pytest.raises(InvalidRequest, match="not a member"):
                first.members.stage(change)
        await ended(first)

    run(story)


def test_a_failure_is_no_departure() -> None:
    """Dynamo 4.8.1: a node that is down is shown so, by each node for itself, and stays in the layout."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        await committed(runners)
        one, other, third = runners
        numbers: list[int] = []
        one.members.subscribe(lambda view: numbers.append(view.number))
        network.cut(one.end, third.end)
        assert one.members.view.up == (True, True, False)
        assert one.states["cedar"] == "suspect"
        assert other.states["cedar"] == "alive"
        clock.pass_ms(DEAD_AFTER_MS)
        assert one.states["cedar"] == "dead"
        assert one.members.statistics().live == 2
        await one.members.round()
        assert one.members.state.layout.names == NAMES[:3]
        network.heal()
        await agreed(network, runners)
        assert one.states["cedar"] == "alive"
        assert one.members.view.up == (True, True, True)
        assert len(numbers) == 2
        await ended(*runners)

    run(story)


def test_a_restart_goes_on_where_it_stopped_and_counts_up() -> None:
    """M3: members and layout are kept; the incarnation rises, also with a wall clock ten years back."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        await committed(runners)
        before = runners[0].members.member(NodeId("cedar"))
        assert before is not None
        await runners[2].members.stop()
        network.crash(runners[2].end)
        clock.now_ms -= 10 * 365 * 24 * 3_600_000
        again = Runner(network, "cedar", port=102, clock=clock, disk=runners[2].disk, actor=99)
        # Alone yet, it knows all it knew, and dials those members itself.
        assert again.members.view.nodes == NAMES[:3]
        assert again.members.view.up == (False, False, True)
        assert sorted(again.end.wanted) == ["amber", "birch"]
        runners[2] = again
        await agreed(network, runners)
        after = runners[0].members.member(NodeId("cedar"))
        assert after is not None
        assert after.incarnation > before.incarnation
        assert (after.actor, after.directory) == (99, 102)
        assert again.members.statistics().rivals == 0
        await ended(*runners)

    run(story)


def test_a_restored_back_up_counts_on_from_where_the_cluster_saw_it() -> None:
    """M3: with an incarnation that the cluster has long passed, its record would be ignored for ever."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        back_up = Disk()
        back_up.update(runners[1].disk)
        for actor in (50, 51, 52):
            network.crash(runners[1].end)
            await runners[1].members.stop()
            runners[1] = Runner(network, "birch", port=101, clock=clock, disk=runners[1].disk, actor=actor)
            await agreed(network, runners)
        network.crash(runners[1].end)
        await runners[1].members.stop()
        runners[1] = Runner(network, "birch", port=101, clock=clock, disk=back_up, actor=60)
        await agreed(network, runners)
        record = runners[0].members.member(NodeId("birch"))
        assert record is not None
        assert record.actor == 60
        assert runners[1].members.statistics().rivals == 1
        assert runners[1].members.fault == ""
        await ended(*runners)

    run(story)


def test_a_second_process_of_a_live_id_is_refused() -> None:
    """M4, Z5: a cloned directory has the same id and the same directory number; only the run differs."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        clone = Runner(
            network, "cedar", port=999, clock=clock, disk=Disk(), directory=102, actor=5, seeds=(100,)
        )
        network.settle()
        assert clone.end.links == {}
        assert "duplicate" in clone.end.refusals[0]
        assert runners[0].end.links["cedar"] is runners[2].end
        await ended(*runners, clone)

    run(story)


def test_of_two_processes_that_never_meet_one_stops() -> None:
    """M4: each is linked elsewhere; others carry their records to and fro, so both hear of it."""

    async def story() -> None:
        network, clock = Network(), Hands()
        one = Runner(network, "amber", port=100, clock=clock, founder=True)
        other = Runner(network, "birch", port=101, clock=clock, seeds=(100,))
        real = Runner(network, "cedar", port=102, clock=clock, actor=1, seeds=(100,))
        clone = Runner(network, "cedar", port=103, clock=clock, directory=102, actor=2, seeds=(101,))
        faults: list[str] = []
        clone.members.on_fault = faults.append
        for _ in range(40):
            network.settle()
            for runner in (one, other, real, clone):
                await runner.members.round()
            await idle(one, other, real, clone)
        assert "duplicate" in clone.members.fault
        assert faults == [clone.members.fault]
        assert real.members.fault == ""
        await ended(one, other, real, clone)

    run(story)


def test_a_node_that_left_is_gone_for_good() -> None:
    """M3, Z26: neither its directory nor an old copy of it comes back, wherever it knocks; a new one may."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        leaver = runners[2]
        old = Disk()
        old.update(leaver.disk)
        await leaver.members.leave()
        await agreed(network, runners)
        assert runners[0].states["cedar"] == "left"
        for runner in runners[:2]:
            await runner.members.round()
            assert "cedar" not in runner.end.links
            assert "cedar" not in runner.end.wanted
        network.crash(leaver.end)
        await leaver.members.stop()
        with pytest.raises(WrongFormat, match="left the cluster"):
            Runner(network, "cedar", port=102, clock=clock, disk=leaver.disk)
        network.crash(network.ends[next(iter(a for a in network.ends if a.port == 102))])
        revenant = Runner(network, "cedar", port=102, clock=clock, disk=old, actor=77)
        network.settle()
        assert revenant.end.links == {}
        assert all("left the cluster" in reason for reason in revenant.end.refusals)
        network.crash(revenant.end)
        await revenant.members.stop()
        fresh = Runner(network, "cedar", port=102, clock=clock, directory=202, seeds=(100,))
        await agreed(network, [*runners[:2], fresh])
        assert runners[1].states["cedar"] == "alive"
        await ended(runners[0], runners[1], fresh)

    run(story)


def test_a_revenant_that_got_in_is_put_out_again() -> None:
    """M3: it may knock where the news of its leaving has not come yet. Its record loses, its link ends."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        old = Disk()
        old.update(runners[2].disk)
        network.cut(runners[0].end, runners[1].end)
        network.cut(runners[2].end, runners[1].end)
        await runners[2].members.leave()
        network.crash(runners[2].end)
        await runners[2].members.stop()
        revenant = Runner(
            network, "cedar", port=302, clock=clock, disk=old, directory=102, actor=77, seeds=(101,)
        )
        network.settle()
        assert "cedar" in runners[1].end.links
        await idle(*runners[:2], revenant)
        network.heal()
        for _ in range(4):
            network.settle()
            for runner in (*runners[:2], revenant):
                await runner.members.round()
            await idle(*runners[:2], revenant)
        assert [runner.states["cedar"] for runner in runners[:2]] == ["left", "left"]
        assert "cedar" not in {**runners[0].end.links, **runners[1].end.links}
        assert any("left the cluster" in reason for reason in revenant.end.refusals)
        await ended(*runners[:2], revenant)

    run(story)


def test_a_node_of_the_layout_does_not_leave() -> None:
    """Leaving with data in hand would be a failure called a departure."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        await committed(runners)
        with pytest.raises(InvalidRequest, match="in the layout"):
            await runners[1].members.leave()
        first = runners[0].members
        first.stage(Change("leave", NodeId("birch")))
        await first.commit(first.plan())
        await idle(*runners)
        await runners[1].members.leave()
        assert runners[0].states["birch"] == "left"
        await ended(*runners)

    run(story)


def test_leaving_unheard_is_said_so() -> None:
    """Whoever switches the machine off now leaves a dead member behind."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        network.cut(runners[0].end, runners[1].end)
        with pytest.raises(Unavailable, match="no other node") as caught:
            await runners[1].members.leave()
        assert caught.value.maybe_applied
        assert runners[1].states["birch"] == "left"
        network.heal()
        network.settle()
        await idle(*runners)
        assert runners[0].states["birch"] == "left"
        await ended(*runners)

    run(story)


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (Identity("test", "d" * 32, NodeId("x"), 1, 1), "not dddd"),
        (Identity("other", CLUSTER_ID, NodeId("x"), 1, 1), "not other"),
        (Identity("other", "", NodeId("x"), 1, 0), "not other"),
        (Identity("test", CLUSTER_ID, NodeId("amber"), 1, 1), "own id"),
        (Identity("test", "", NodeId("birch"), 1, 0), "duplicate"),
        (Identity("test", CLUSTER_ID, NodeId("x"), 1, 1), ""),
        (Identity("test", "", NodeId("x"), 1, 0), ""),
        (Identity("", "", NodeId("x"), 1, 0), ""),
    ],
)
def test_strangers_are_told_why(identity: Identity, reason: str) -> None:
    """Two clusters that meet by a wrong seed list must not become one; who is not born may ask."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        found = runners[0].members.admit(identity)
        assert reason in found
        assert bool(reason) == bool(found)
        await ended(*runners)

    run(story)


def test_a_node_that_is_not_born_is_no_member() -> None:
    """It may JOIN and nothing else: it holds nothing, whatever the layout says of its id."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        await committed(runners)
        network.crash(runners[1].end)
        unborn = network.attach(Identity("test", "", NodeId("birch"), 5, 0), 500)
        unborn.introduce(runners[0].end.address)
        network.settle()
        assert "amber" in unborn.links
        assert runners[0].members.view.up == (True, False)
        for kind in (Kind.GOSSIP, Kind.VOTE):
            with pytest.raises(InvalidRequest, match="not a member"):
                await unborn.call(NodeId("amber"), kind, b"", timeout_ms=1)
        await ended(*runners)

    run(story)


def test_a_wiped_node_comes_back_as_a_new_life() -> None:
    """The disk is lost, the id stays: it is let in, and its old disk is not, should that turn up."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        old = Disk()
        old.update(runners[2].disk)
        network.crash(runners[2].end)
        await runners[2].members.stop()
        answer = decode_answer(
            runners[0].members._on_join(NodeId("cedar"), encode(JoinRequest(NodeId("cedar"))))
        )
        empty = Disk()
        empty.update(answer.stored())
        runners[2] = Runner(network, "cedar", port=102, clock=clock, disk=empty, directory=777, seeds=(100,))
        await agreed(network, runners)
        record = runners[1].members.member(NodeId("cedar"))
        assert record is not None
        assert (record.directory, record.former) == (777, (102,))
        network.crash(runners[2].end)
        stale = Runner(
            network, "cedar", port=402, clock=clock, disk=old, directory=102, actor=3, seeds=(100,)
        )
        network.settle()
        assert stale.end.links == {}
        assert "older life" in stale.end.refusals[0]
        await ended(*runners, stale)

    run(story)


def test_a_commit_needs_a_majority() -> None:
    """DESIGN 4: the smaller side of a split network changes nothing, unless its operator insists."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        await committed(runners)
        one, other, third = runners
        network.cut(one.end, other.end)
        network.cut(one.end, third.end)
        one.members.stage(Change("weight", NodeId("amber"), capacity=200))
        plan = one.members.plan()
        with pytest.raises(QuorumMissed, match="1 of 3 nodes agree") as caught:
            await one.members.commit(plan)
        assert (caught.value.required, caught.value.received) == (2, 1)
        assert [node for node, _ in caught.value.reasons] == ["birch", "cedar"]
        assert one.members.state.layout.version == 2
        await one.members.commit(plan, force=True)
        assert one.members.state.layout.version == 3
        # The others commit as well; healed, all come to one of both.
        other.members.stage(Change("weight", NodeId("cedar"), capacity=300))
        await other.members.commit(other.members.plan())
        network.heal()
        await agreed(network, runners)
        assert one.members.state.layout.version == 3
        assert len({runner.members.state.layout.digest for runner in runners}) == 1
        await ended(*runners)

    run(story)


def test_a_vote_is_held_for_a_while() -> None:
    """Two administrators at two nodes: one of them hears that the other is at it."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        await committed(runners)
        one, other, third = (runner.members for runner in runners)
        one.stage(Change("weight", NodeId("amber"), capacity=200))
        await idle(*runners)
        layout = one.state.layout
        assert third._voter.vote(one.me, 3, layout.digest) == ""
        assert third._voter.vote(one.me, 3, layout.digest) == ""
        assert other._voter.vote(one.me, 3, layout.digest) == ""
        with pytest.raises(QuorumMissed, match="amber is about to commit"):
            await other.commit(other.plan())
        clock.pass_ms(VOTE_HOLD_MS)
        await other.commit(other.plan())
        assert other.state.layout.version == 3
        await ended(*runners)

    run(story)


def test_a_plan_of_yesterday_is_refused() -> None:
    """What was looked at must be what is done."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        first = runners[0].members
        first.stage(Change("join", NodeId("birch")))
        plan = first.plan()
        await first.commit(plan)
        with pytest.raises(InvalidRequest, match="version"):
            await first.commit(plan)
        with pytest.raises(InvalidRequest, match="nothing is staged"):
            await first.commit(first.plan(), force=True)
        await ended(*runners)

    run(story)


def test_revert_spreads_like_a_change() -> None:
    """What one takes back must not be committed by another."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        runners[0].members.stage(Change("join", NodeId("birch")))
        await idle(*runners)
        assert runners[1].members.state.staged
        runners[1].members.revert()
        await idle(*runners)
        assert runners[0].members.state.staged == ()
        await ended(*runners)

    run(story)


def test_what_else_is_shared_travels_along() -> None:
    """Buckets and whatever comes later need no gossip of their own."""

    async def story() -> None:
        network, clock = Network(), Hands()
        one, other = Words("words", "a"), Words("words", "b")
        first = Runner(network, "amber", port=100, clock=clock, founder=True, shared=(one,))
        second = Runner(network, "birch", port=101, clock=clock, seeds=(100,), shared=(other,))
        await agreed(network, [first, second])
        assert one.words == other.words == {"a", "b"}
        one.words.add("c")
        first.members.local_change()
        await idle(first, second)
        assert "c" in other.words
        await ended(first, second)

    run(story)


def test_a_local_change_is_told_to_a_few_with_the_news_in_the_first_message() -> None:
    """Known digests of the others tell what they lack; the rest of the cluster hears of it in rounds."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(5, clock=clock, network=network)
        first = runners[0]
        await first.members.round()
        for runner in runners:
            await first.members._exchange(runner.members.me)
        first.end.calls.clear()
        first.members.stage(Change("join", NodeId("birch")))
        await idle(*runners)
        assert len(first.end.calls) == SPREAD_PEERS
        assert sum(bool(runner.members.state.staged) for runner in runners) == 1 + SPREAD_PEERS
        await agreed(network, runners)
        await ended(*runners)

    run(story)


def test_seeds_are_met_now_and_then() -> None:
    """Dynamo 4.8.2: parts that grew apart find each other at the seeds."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(5, clock=clock, network=network)
        last = runners[4]
        while last.members.statistics().rounds % SEED_ROUNDS != SEED_ROUNDS - 1:
            await last.members.round()
        for _ in range(3):
            last.end.calls.clear()
            await last.members.round()
            assert [node for node, _, _ in last.end.calls] == ["amber"]
            for _ in range(SEED_ROUNDS - 1):
                await last.members.round()
        await ended(*runners)

    run(story)


def test_a_node_that_does_not_answer_is_counted_and_holds_nobody_up() -> None:
    """A process that hangs keeps its link for a while; gossip goes on with the others."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(3, clock=clock, network=network)
        runners[2].end.mute = True
        clock.pass_ms(5000)
        assert runners[0].members.statistics().gossip_age_ms == 5000
        for _ in range(10):
            await runners[0].members.round()
        statistics = runners[0].members.statistics()
        assert statistics.failed > 0
        assert statistics.gossip_age_ms == 0
        await ended(*runners)

    run(story)


def test_rounds_do_not_pile_up() -> None:
    """With every node silent and a short interval, only so many calls wait at once."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        members: Members = runners[0].members
        held = asyncio.Event()

        async def hang(*_: object, **__: object) -> bytes:
            await held.wait()
            raise Unavailable("silent")

        runners[0].end.call = hang  # type: ignore[method-assign]
        for _ in range(TASKS_MAX):
            members._spawn(members.round)
        members._begin_round()
        await asyncio.sleep(0)
        # Those, and the one that times the rounds.
        assert len(members._tasks) == TASKS_MAX + 1
        held.set()
        await idle(*runners)
        await ended(*runners)

    run(story)


def test_a_full_disk_delays_what_is_kept_and_loses_nothing() -> None:
    """A node without room stays a member, and writes it all down as soon as it can."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(2, clock=clock, network=network)
        runners[1].disk.full = True
        runners[0].members.stage(Change("join", NodeId("birch")))
        await idle(*runners)
        assert runners[1].disk["layout"] != runners[1].members.state.export()
        runners[1].disk.full = False
        await runners[1].members.round()
        assert runners[1].disk["layout"] == runners[1].members.state.export()
        await ended(*runners)

    run(story)


def test_the_time_of_being_alive_is_kept_now_and_then_and_at_the_end() -> None:
    """It decides whether a start is refused; each second to the disk would be too dear."""

    async def story() -> None:
        network, clock = Network(), Hands()
        (only,) = await started(1, clock=clock, network=network)
        assert only.disk[ALIVE] == encode_alive(NOON)
        clock.pass_ms(ALIVE_INTERVAL_MS - 1)
        await only.members.round()
        assert only.disk[ALIVE] == encode_alive(NOON)
        clock.pass_ms(1)
        await only.members.round()
        assert only.disk[ALIVE] == encode_alive(NOON + ALIVE_INTERVAL_MS)
        clock.pass_ms(7)
        await ended(only)
        assert only.disk[ALIVE] == encode_alive(NOON + ALIVE_INTERVAL_MS + 7)

    run(story)


def test_nodes_at_rest_send_next_to_nothing() -> None:
    """A round between equal nodes is a hundred bytes or so each way."""

    async def story() -> None:
        network, clock = Network(), Hands()
        runners = await started(5, clock=clock, network=network)
        await committed(runners)
        await agreed(network, runners)
        for runner in runners:
            for node in sorted(runner.end.links):
                await runner.members._exchange(node)
        before = runners[0].members.statistics()
        for _ in range(10):
            await runners[0].members.round()
        after = runners[0].members.statistics()
        assert after.bytes_out - before.bytes_out < 10 * 100
        assert after.changes == before.changes
        await ended(*runners)

    run(story)
