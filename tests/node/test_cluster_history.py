"""The bugs that history found in stores of this kind (FACTS 4.2), told to whole nodes.

Each ends with all replicas equal, every acknowledged value there or knowingly replaced, and no dot that two
values share.
"""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import replace

import pytest

from sadik.errors import WrongFormat
from sadik.ids import NodeId
from sadik.kernels import versions
from sadik.node.coordinator.options import Options
from sadik.settings import Address
from sadik.sim.files import Fault, SimFiles
from tests.api.resp_node import OK
from tests.node.cluster import SET, Cluster, Ledger, cluster, dots, run

KEY = b"k"
HOUR_MS = 3_600_000


def spoil(disk: SimFiles, text: bytes, directory: str = "log") -> None:
    """Turn a bit of every copy of ``text`` on the medium."""
    found = 0
    for path in disk.paths():
        if f"/{directory}/" in path and path.endswith(".segment"):
            at = disk.content(path).find(text)
            while at >= 0:
                disk.flip(path, at)
                found += 1
                at = disk.content(path).find(text, at + 1)
    assert found, f"{text!r} is nowhere"


async def loses(one: Cluster, name: str, how: str, last: bytes) -> None:
    """Let a node lose what it has of a key whose last value is ``last``."""
    match how:
        case "rot":
            spoil(one.lives[name].disk, last)
        case "wiped disk":
            one.crash(name)
            await one.restart(name, files=SimFiles())
        case "power cut":
            disk = one.crash(name)
            disk.power_cut(random.Random(1), keep="none")
            await one.restart(name, files=disk)


@pytest.mark.parametrize("how", ["rot", "wiped disk", "power cut"])
def test_z1_a_node_that_lost_its_clock_mints_no_dot_a_second_time(how: str) -> None:
    """riak_kv#679. A writes k three times and loses its copy; its next write is dropped by the replicas as
    known already, and read repair erases it at A. Here it is another actor after every loss.
    """

    async def story() -> None:
        # Each write gets into a segment of its own before it is lost: an interval without a sync.
        async with cluster(3, engine="log", storage={"sync_interval_ms": 3_600_000}) as one:
            ledger = Ledger()
            client = one.connect("n1")
            for number in range(3):
                assert await client.call(b"SET", KEY, b"number %d" % number) == OK
            await one.wait_until(one.equal)
            ledger.look(one)
            await loses(one, "n1", how, b"number 2")
            assert await one.connect("n1").call(b"SET", KEY, b"after the loss") == OK
            ledger.look(one)
            await one.settle()
            ledger.look(one)
            for name in one.names:
                assert one.values(name, KEY)[0] == b"after the loss"
                assert set(one.values(name, KEY)) <= {b"after the loss", b"number 2"}
            for name in one.names:
                assert (await one.get(name, KEY, r=3)).value == b"after the loss"

    run(story())


@pytest.mark.parametrize("how", ["rot", "wiped disk"])
def test_z2_what_a_fallback_restores_does_not_bring_an_old_clock_back(how: str) -> None:
    """kv679_fb. A's first write is on fallbacks, its next two on the other primaries; A loses the key, a read
    restores the first write from the fallbacks, and A mints its second dot once more.
    """

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            ledger = Ledger()
            a, b, c, d, e = one.preference(KEY)
            await one.isolate(b)
            one.cut(c)
            await one.wait_until(lambda: not one.sees(a, c) and not one.sees(a, b))
            assert (await one.set(a, KEY, b"first", w=3)).ok
            ledger.look(one)
            assert one.kept(d, KEY)
            assert one.kept(e, KEY)
            for name in (d, e):
                one.cut(name)
            one.network.heal()
            for name in (d, e):
                one.cut(name)
            await one.wait_until(
                lambda: one.sees(a, b) and one.sees(a, c) and not one.sees(a, d) and not one.sees(a, e)
            )
            for value in (b"second", b"third"):
                assert (await one.set(a, KEY, value, w=3)).ok
            ledger.look(one)
            # A loses it, and sees only the fallbacks.
            if how == "rot":
                spoil(one.lives[a].disk, b"third")
            else:
                one.crash(a)
            one.network.heal()
            for name in (b, c):
                one.cut(name)
            if how == "wiped disk":
                await one.restart(a, files=SimFiles(), agreed=False)
            await one.wait_until(
                lambda: one.sees(a, d) and one.sees(a, e) and not one.sees(a, b) and not one.sees(a, c)
            )
            record = await one.read(a, KEY)
            if not isinstance(record, Exception):
                assert record.payload in (b"first", b"")
            error = await one.update(a, KEY, lambda record: record.put(b"fourth"))
            assert error is None
            ledger.look(one)
            await one.settle()
            ledger.look(one)
            for name in (a, b, c):
                assert one.values(name, KEY) == [b"fourth", b"third"]

    run(story())


def test_z3_a_merge_that_meets_a_read_error_does_not_take_it_for_nothing() -> None:
    """kv679_fb2. Even with an actor a run: a replicated write finds the local record unreadable, is stored as
    if nothing had been there, and the next local write claims to have seen what was lost.
    """

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            ledger = Ledger()
            a, b, _ = one.preference(KEY)
            await one.isolate(a)
            # On B and C alone.
            assert (await one.set(b, KEY, b"acknowledged")).ok
            ledger.look(one)
            spoil(one.lives[b].disk, b"acknowledged")
            before = one.node(b).vnodes.actor
            # A's write reaches B alone: a merge, not a write of B's own.
            assert (await one.set(a, KEY, b"from a", w=1)).ok
            (item,) = [
                (digest, _name(one, KEY), stored)
                for digest, stored in one.holdings(a).items()
                if digest == one.digest(KEY)
            ]
            merging = one.node(b).vnodes.merge_items([item])
            assert one.node(b).vnodes.actor != before
            assert merging.error is None
            # The next write at B does not replace what B has not seen.
            assert (await one.set(b, KEY, b"from b")).ok
            assert one.node(b).vnodes.actor in {actor for actor, _ in dots(one.holds(b, KEY))}
            await one.settle()
            ledger.look(one)
            for name in one.names:
                found = one.values(name, KEY)
                assert found[0] == b"from b"
                assert b"acknowledged" in found

    run(story())


def _name(one: Cluster, key: bytes) -> bytes:
    return one.node("n1").vnodes.records([(one.node("n1").buckets.get(b"0"), key)])[b"0", key].name


def test_z4_a_tombstone_that_a_fallback_hands_over_late_leaves_the_new_value_alone() -> None:
    """The doomstone. A delete is kept for a primary that is down; the key is written anew, and then the
    tombstone comes. It has a dot of its own and hides what it has seen, nothing else.
    """

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            ledger = Ledger()
            first, _, third, stand_in, _ = one.preference(KEY)
            assert (await one.set(first, KEY, b"created", w=3)).ok
            one.crash(third)
            await one.wait_until(one.is_agreed)
            assert await one.update(first, KEY, lambda record: record.delete()) is None
            await one.wait_until(lambda: bool(one.kept(stand_in, KEY)))
            tombstone = one.kept(stand_in, KEY)
            assert versions.is_dead(tombstone)
            # The stand-in is away while the key is written anew, and hands over when it is back.
            await one.isolate(stand_in, *[name for name in one.lives if name != stand_in])
            assert (await one.set(first, KEY, b"new")).ok
            await one.restart(third, agreed=False)
            await one.wait_until(lambda: one.sees(first, third))
            assert (await one.set(first, KEY, b"newer", w=3)).ok
            ledger.look(one)
            await one.settle()
            ledger.look(one)
            for name in one.preference(KEY)[:3]:
                assert one.values(name, KEY) == [b"newer"]
            assert (await one.get(third, KEY, r=3)).value == b"newer"

    run(story())


def test_z4_a_tombstone_is_not_handed_over_once_its_delete_may_be_forgotten() -> None:
    """The second doomstone. The primaries have reaped the key; what a fallback still keeps of the delete is
    older than a hint may be, and goes; and a copy of it that comes all the same hides nothing new.
    """

    async def story() -> None:
        limits = {"horizon_ms": 6 * HOUR_MS}
        async with cluster(5, engine="log", limits=limits) as one:
            first, second, third, stand_in, _ = one.preference(KEY)
            assert (await one.set(first, KEY, b"created", w=3)).ok
            one.crash(third)
            await one.wait_until(one.is_agreed)
            assert await one.update(first, KEY, lambda record: record.delete()) is None
            await one.wait_until(lambda: bool(one.kept(stand_in, KEY)))
            tombstone = one.kept(stand_in, KEY)
            await one.wait_until(lambda: bool(one.holds(second, KEY)))
            for life in one.lives.values():
                life.clock.offset_ms = 7 * HOUR_MS
            for name in (first, second):
                node = one.node(name)
                await one.wait_until(lambda node=node: not node._collect(), within_s=200)
                assert one.holds(name, KEY) == b"", "reaped"
            assert (await one.set(first, KEY, b"new")).ok
            # The primary was away for longer than deletes are remembered: its old data may not come back.
            with pytest.raises(WrongFormat, match="away"):
                await one.restart(third, offset_ms=7 * HOUR_MS)
            await one.restart(third, files=SimFiles(), offset_ms=7 * HOUR_MS)
            await one.settle()
            assert one.node(stand_in).hints.statistics().expired == 1
            for name in (first, second, third):
                assert one.values(name, KEY) == [b"new"]
            merging = one.node(third).vnodes.merge_items([(one.digest(KEY), _name(one, KEY), tombstone)])
            assert merging.error is None
            await one.settle()
            for name in (first, second, third):
                assert one.values(name, KEY) == [b"new"]
                assert (await one.get(name, KEY, r=3)).value == b"new"

    run(story())


def test_z5_a_restored_backup_mints_under_another_actor_and_is_brought_up_to_date() -> None:
    """kv679_uid. A copy of a data directory knows less than the node has written since: with the same actor
    it would mint the same dots for other values.
    """

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            ledger = Ledger()
            assert (await one.set("n3", KEY, b"before the backup", w=3)).ok
            backup = one.lives["n3"].disk.fork()
            for number in range(3):
                assert (await one.set("n3", KEY, b"number %d" % number)).ok
            await one.wait_until(one.equal)
            ledger.look(one)
            actor = one.node("n3").vnodes.actor
            one.crash("n3")
            node = await one.restart("n3", files=backup)
            assert node.vnodes.actor != actor
            assert one.values("n3", KEY) == [b"before the backup"]
            assert (await one.set("n3", KEY, b"after", w=1)).ok
            ledger.look(one)
            await one.settle()
            ledger.look(one)
            for name in one.names:
                assert set(one.values(name, KEY)) == {b"number 2", b"after"}

    run(story())


def test_z5_a_cloned_directory_is_refused_beside_the_node_that_it_was_copied_from() -> None:
    """Two processes of one id would answer for each other: the cluster keeps the one that it has, and the
    other one is alone and serves nobody.
    """

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            assert (await one.set("n3", KEY, b"v", w=3)).ok
            one.names.append("clone")
            one.configs["clone"] = replace(one.configs["n3"], peer=Address("127.0.0.1", 7100))
            original = one.node("n3")
            clone = await one.open("clone", files=original_disk(one).fork())
            await one.pass_s(3.0)
            for name in ("n1", "n2"):
                assert one.node(name).members._links[NodeId("n3")].actor == original.vnodes.actor
            assert not any(clone.transport.is_up(NodeId(name)) for name in ("n1", "n2"))
            assert (await one.set("clone", KEY, b"w")).refused
            assert (await one.get("clone", KEY)).refused
            assert not original.members.fault
            assert (await one.set("n3", KEY, b"x", w=3)).ok
            await one.stop("clone")
            one.names.remove("clone")

    run(story())


def original_disk(one: Cluster) -> SimFiles:
    return one.lives["n3"].disk


def test_after_a_failed_sync_a_node_refuses_and_its_next_run_is_another_actor() -> None:
    """What the disk has of before is not known any more: nothing more is acknowledged there, the others go
    on, and the reopened directory mints as somebody else (S6).
    """

    async def story() -> None:
        async with cluster(3, engine="log", storage={"sync": "always"}) as one:
            ledger = Ledger()
            assert (await one.set("n1", KEY, b"before", w=3)).ok
            actor = one.node("n1").vnodes.actor
            one.lives["n1"].disk.inject(Fault("sync", errno.EIO, path="*/log/*", loses=True))
            reply = await one.set("n1", KEY, b"unknown", w=3)
            assert reply.unknown
            ledger.look(one)
            assert not (await one.set("n1", KEY, b"refused")).ok
            assert (await one.set("n2", KEY, b"elsewhere")).ok
            one.lives["n1"].disk.clear_faults()
            disk = one.crash("n1")
            disk.power_cut(random.Random(2), keep="none")
            node = await one.restart("n1", files=disk)
            assert node.vnodes.actor != actor
            assert (await one.set("n1", KEY, b"after")).ok
            await one.settle()
            ledger.look(one)
            assert one.values("n1", KEY)[0] == b"after"

    run(story())


def test_writes_of_one_node_through_all_its_runs_never_share_a_dot() -> None:
    """Clock back, lost tail, wiped disk: none of them is a way to the same actor and stamp again (M3, D1)."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            ledger = Ledger()
            rng = random.Random(5)
            for number in range(12):
                assert (await one.set("n1", KEY, b"%d" % number)).ok
                ledger.look(one)
                disk = one.crash("n1")
                if number % 3 == 0:
                    disk.power_cut(rng)
                files = SimFiles() if number % 5 == 4 else disk
                await one.restart("n1", files=files, offset_ms=-100 * (number % 4))
                await asyncio.sleep(0)
            await one.settle()
            ledger.look(one)
            assert (await one.get("n2", KEY, r=3)).value is not None

    run(story())


def test_an_acknowledged_write_outlives_the_loss_of_its_coordinator_for_ever() -> None:
    """W=2 of three: one disk may burn, any one."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            keys = [b"key-%d" % number for number in range(100)]
            replies = await one.answer(one.submit("n1", [(SET, key, key) for key in keys]))
            assert all(reply.ok for reply in replies)
            one.crash("n1")
            await one.restart("n1", files=SimFiles())
            for key in keys:
                record = await one.read("n1", key, options=Options(r=2))
                assert not isinstance(record, Exception)
                assert record.payload == key
            await one.settle()
            assert len(one.holdings("n1")) == len(keys)

    run(story())
