"""What a coordinator answers and keeps when a batch is uneven: repeated keys, big values, nodes that hold no
replica, and disks that have not synced yet."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from sadik.errors import LimitReached, QuorumMissed, SadikError
from sadik.ids import NodeId
from sadik.kernels import replica, versions
from sadik.members.layout import Layout
from sadik.members.view import View
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from sadik.node.items import Item
from tests.node.cluster import BUCKET, GET, SET, Cluster, cluster, payloads, run


def forget_hints(one: Cluster, *names: str) -> None:
    """As if they had been lost: nobody is told what it has missed."""
    for name in names:
        hints = one.node(name).hints
        for owner in list(hints.owners()):
            hints.delivered(hints.take(owner, b"", 1000, 1 << 20).hints)


def test_a_read_before_a_write_of_the_same_batch_has_the_value_before_it() -> None:
    """Replicas merge a turn's writes before they compare its reads, and so answer with what comes later."""

    async def story() -> None:
        for nodes in (3, 4):
            async with cluster(nodes) as one:
                (key,) = one.keys_of(["n1"])
                assert (await one.set("n1", key, b"old")).ok
                get = (GET, key, b"")
                batch = [get, (SET, key, b"1"), get, (SET, key, b"2"), get]
                replies = await one.answer(one.submit("n1", batch))
                assert [reply.value for reply in replies] == [b"old", None, b"1", None, b"2"]
                (fresh,) = one.keys_of(["n1"], 2)[1:]
                replies = await one.answer(one.submit("n1", [(GET, fresh, b""), (SET, fresh, b"1")]))
                assert replies[0].ok
                assert replies[0].value is None

    run(story())


def test_a_read_before_a_write_of_the_same_batch_still_sees_what_others_wrote() -> None:
    """What this node missed is newer than what it has, and not what its own later write replaced."""

    async def story() -> None:
        async with cluster(3) as one:
            await one.isolate("n1")
            assert (await one.set("n2", b"k", b"theirs")).ok
            forget_hints(one, "n2")
            await one.heal()
            assert one.values("n1", b"k") == []
            replies = await one.answer(one.submit("n1", [(GET, b"k", b""), (SET, b"k", b"mine")]))
            assert replies[0].value == b"theirs"

    run(story())


def test_a_batch_of_reads_beyond_the_read_limit_is_answered_in_parts() -> None:
    """The first part is a whole batch of its own: what is left out must not be in its packet."""

    async def story() -> None:
        async with cluster(3) as one:
            keys = [b"k%d" % number for number in range(5)]
            for key in keys:
                assert (await one.set("n1", key, key * 500_000)).ok
            one.node("n1").vnodes.read_bytes_max = 2 << 20
            request = one.submit("n1", [(GET, key, b"") for key in keys])
            replies = await one.answer(request)
            assert [reply.value for reply in replies] == [key * 500_000 for key in keys]

    run(story())


def test_a_node_that_is_no_replica_does_not_become_one_by_reading() -> None:
    """Its copy would never hear of later writes, nor of deletes, and would keep the partition occupied."""

    async def story() -> None:
        async with cluster(4) as one:
            (key,) = one.keys_of(["n1", "n2", "n3"])
            assert (await one.set("n1", key, b"v")).ok
            record = await one.read("n4", key)
            assert not isinstance(record, SadikError)
            assert record.payload == b"v"
            await one.pass_s(0.2)
            assert one.holds("n4", key) == b""

    run(story())


def test_a_set_that_is_known_counts_as_durable_only_once_it_is() -> None:
    """In mode ``always`` a replica that has merged a set and not synced it yet has nothing to promise."""

    async def story() -> None:
        async with cluster(3, engine="log", storage={"sync": "always"}) as one:
            assert (await one.set("n1", b"k", b"v")).ok
            await one.pass_s(0.2)
            stored = one.holds("n1", b"k")
            actor, stamp = versions.decode(stored)[0][0]
            newer = versions.event(stored, [(actor, stamp)], actor, stamp + 1, 0, 0, -1, b"", b"newer")
            item = (one.digest(b"k"), b"\x010\x00\x01k", newer)
            two = one.node("n2")
            one.lives["n2"].worker.delay_s = 0.5
            two.vnodes.merge_items([item])
            assert two.sync.pending(two.vnodes.ticket_last)
            assert await one.node("n1").pushes.push("n2", [item], "exchange") == b"\0"
            assert not two.sync.pending(two.vnodes.ticket_last)

    run(story())


def test_what_fails_after_a_read_was_answered_is_not_answered_again() -> None:
    """Who takes the records may fail with an error of ours; a second call would run its commands twice."""

    async def story() -> None:
        async with cluster(1) as one:
            calls: list[object] = []

            def done(found: object) -> None:
                calls.append(found)
                raise LimitReached("as a command may")

            coordinator = one.node("n1").coordinator
            with pytest.raises(LimitReached):
                coordinator.read_records([(BUCKET, b"k")], Options(), done)
            assert len(calls) == 1

    run(story())


def test_reads_of_many_big_values_at_once_are_refused_before_they_are_in_memory() -> None:
    """One MGET can name more than the memory there is."""

    async def story() -> None:
        async with cluster(3) as one:
            keys = [b"k%d" % number for number in range(5)]
            for key in keys:
                assert (await one.set("n1", key, key * 500_000)).ok
            node = one.node("n1")
            node.vnodes.read_bytes_max = 2 << 20
            before = one.node("n2").instruments.reads_served.value
            found: list[object] = []
            node.coordinator.read_records([(BUCKET, key) for key in keys], Options(), found.append)
            await one.wait_until(lambda: bool(found))
            assert isinstance(found[0], LimitReached)
            assert one.node("n2").instruments.reads_served.value == before

    run(story())


def test_what_reads_hold_while_others_have_not_answered_counts() -> None:
    """A node that has stopped to answer must not fill the memory of those that read with it."""

    async def story() -> None:
        async with cluster(3) as one:
            assert (await one.set("n1", b"k", b"v" * 1_000_000)).ok
            one.cut("n1", "n3")
            assert (await one.get("n1", b"k")).ok
            assert one.node("n1").core.flights.bytes_held > 1_000_000
            await one.heal()
            await one.pass_s(2.0)
            assert one.node("n1").core.flights.bytes_held == 0

    run(story())


def test_a_write_after_a_read_is_newer_than_what_was_read() -> None:
    """Also where the read value is of a node whose clock is ahead, and a third one has not answered yet."""

    async def story() -> None:
        async with cluster(3) as one:
            one.lives["n2"].clock.offset_ms = 300
            await one.isolate("n1", "n2")
            assert (await one.set("n2", b"k", b"ahead")).ok
            forget_hints(one, "n2")
            await one.heal()
            assert one.values("n1", b"k") == []
            one.cut("n1", "n3")
            assert (await one.get("n1", b"k")).value == b"ahead"
            assert (await one.set("n1", b"k", b"after")).ok
            assert (await one.get("n1", b"k")).value == b"after"
            await one.heal()

    run(story())


def test_one_client_that_fails_does_not_keep_the_others_from_their_answers() -> None:
    """Replies of many batches come in one turn."""

    async def story() -> None:
        async with cluster(3) as one:
            ended: list[str] = []

            def broken(found: object) -> None:
                ended.append("broken")
                raise ValueError("a bug")

            coordinator = one.node("n1").coordinator
            coordinator.read_records([(BUCKET, b"a")], Options(), broken)
            coordinator.read_records([(BUCKET, b"b")], Options(), lambda found: ended.append("fine"))
            await one.pass_s(0.1)
            assert ended == ["broken", "fine"]
            assert not len(one.node("n1").core.flights)

    run(story())


def test_a_record_in_a_last_writer_wins_bucket_has_one_value() -> None:
    """What a read puts together is what a merge would leave."""

    async def story() -> None:
        async with cluster(3) as one:
            await one.node("n1").coordinator.set_properties(b"w", BucketProperties(lww=True))
            await one.pass_s(0.5)
            await one.isolate("n1")
            first = await one.update("n2", b"k", lambda record: record.put(b"first", covers=()), bucket=b"w")
            lone = Options(r=1, w=1)
            second = await one.update(
                "n1", b"k", lambda record: record.put(b"second", covers=()), bucket=b"w", options=lone
            )
            assert first is None
            assert second is None
            forget_hints(one, "n1", "n2", "n3")
            await one.heal()
            record = await one.read("n1", b"k", bucket=b"w")
            assert not isinstance(record, SadikError)
            assert payloads(record.stored) == [b"second"]

    run(story())


def test_a_read_before_a_write_of_the_same_batch_sees_what_others_deleted() -> None:
    """A delete that was acknowledged elsewhere counts, though the write behind the read stands beside it."""

    async def story() -> None:
        async with cluster(3) as one:
            assert (await one.set("n1", b"k", b"old")).ok
            await one.pass_s(0.1)
            await one.isolate("n1")
            assert await one.update("n2", b"k", lambda record: record.delete()) is None
            forget_hints(one, "n2")
            await one.heal()
            assert one.values("n1", b"k") == [b"old"]
            replies = await one.answer(one.submit("n1", [(GET, b"k", b""), (SET, b"k", b"mine")]))
            assert replies[0].ok
            assert replies[0].value is None

    run(story())


def test_a_fallback_that_kept_a_write_in_part_does_not_say_that_nothing_was_done() -> None:
    """What it keeps will be delivered, though another hint of the same batch was refused."""

    async def story() -> None:
        async with cluster(5) as one:
            key = b"k"
            order = one.preference(key)
            other = next(
                name
                for name in (b"o%d" % number for number in range(10_000))
                if set(one.preference(name)[:3]) == set(order[:3]) and one.preference(name)[3] == order[3]
            )
            for name in order[:3]:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            hints = one.node(order[3]).hints
            add_sets, calls = hints.add_sets, 0

            def refuse_second(owner: NodeId, items: Sequence[Item]) -> int:
                nonlocal calls
                calls += 1
                if calls == 2:
                    raise LimitReached("full")
                return add_sets(owner, items)

            hints.add_sets = refuse_second  # type: ignore[method-assign]
            batch = [(SET, key, b"1"), (SET, other, b"2")]
            replies = await one.answer(one.submit(order[3], batch, options=Options(w=1)))
            assert [reply.unknown for reply in replies] == [True, True]
            assert payloads(one.kept(order[3], key)) == [b"1"]
            calls = 1
            replies = await one.answer(one.submit(order[3], batch, options=Options(w=1)))
            assert [reply.refused for reply in replies] == [True, True]

    run(story())


def test_a_replica_compares_more_than_it_may_read_at_once() -> None:
    """Its sets may be larger than the coordinator's, by what the same batch has just written, say."""

    async def story() -> None:
        async with cluster(3) as one:
            keys = [b"k%d" % number for number in range(5)]
            for key in keys:
                assert (await one.set("n1", key, key * 500_000)).ok
            await one.pass_s(0.1)
            for name in ("n2", "n3"):
                one.node(name).vnodes.read_bytes_max = 2 << 20
            replies = await one.answer(one.submit("n1", [(GET, key, b"") for key in keys]))
            assert [reply.value for reply in replies] == [key * 500_000 for key in keys]
            digests = b"".join(one.digest(key) for key in keys)
            found = one.node("n2").vnodes.compare(5, digests, bytes(40))
            # What differs is answered within the limit, and what one more read brings.
            assert found.status == bytes((replica.DIFFERENT,) * 4 + (replica.UNREADABLE,))
            offsets = memoryview(found.set_offsets).cast("q")
            sets = [bytes(found.sets[offsets[index] : offsets[index + 1]]) for index in range(5)]
            assert sets == [one.holds("n2", key) for key in keys[:4]] + [b""]

    run(story())


def test_a_forward_by_a_newer_layout_is_not_coordinated_by_an_older_one() -> None:
    """A founder that has not heard of its cluster yet would acknowledge alone what W nodes are to have."""

    async def story() -> None:
        async with cluster(4) as one:
            (key,) = one.keys_of(["n1", "n2", "n3"])
            view = one.node("n1").members.view
            old = Layout.founded(view.layout.nodes[0], view.layout.partitions, view.layout.replicas)
            one.node("n1").coordinator.on_view(View(view.number + 1, old, NodeId("n1"), ()))
            reply = await one.set("n4", key, b"v")
            assert reply.refused
            assert one.holds("n1", key) == b""
            one.node("n1").coordinator.on_view(view)
            assert (await one.set("n4", key, b"v")).ok

    run(story())


def test_a_node_that_knows_no_layout_reads_nothing_instead_of_not_found() -> None:
    """With no replicas known, none of them need to answer: that is no answer."""

    async def story() -> None:
        async with cluster(3) as one:
            coordinator = one.node("n3").coordinator
            view = coordinator.view
            coordinator.on_view(View(view.number + 1, Layout.empty(view.layout.partitions), NodeId("n3"), ()))
            assert isinstance(await one.read("n3", b"k"), QuorumMissed)
            assert (await one.get("n3", b"k")).refused
            coordinator.on_view(view)

    run(story())


def test_a_page_of_a_listing_ends_with_the_bytes_one_turn_may_read() -> None:
    """Ten thousand keys of a megabyte each must not hold up everybody else for as long as that takes."""

    async def story() -> None:
        async with cluster(1) as one:
            keys = [b"k%d" % number for number in range(40)]
            for key in keys:
                assert (await one.set("n1", key, key * 400_000)).ok
            coordinator = one.node("n1").coordinator
            page = await coordinator.scan(BUCKET, 0, 10_000)
            found, pages = page.keys, 1
            assert len(found) < len(keys)
            while page.cursor:
                page = await coordinator.scan(BUCKET, page.cursor, 10_000)
                found += page.keys
                pages += 1
            assert sorted(found) == sorted(keys)
            assert pages < 10

    run(story())


def test_a_founder_does_not_forget_its_cluster_in_a_power_cut() -> None:
    """With the layout of its first day it would serve alone, and keep what no replica ever hears of."""

    async def story() -> None:
        async with cluster(3, engine="log", storage={"sync": "never"}) as one:
            await one.pass_s(0.1)
            one.crash("n1").power_cut(random.Random(1))
            node = await one.restart("n1", agreed=False)
            assert node.members.view.layout.version == 2
            await one.wait_until(one.is_agreed)

    run(story())
