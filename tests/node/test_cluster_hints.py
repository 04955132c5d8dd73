"""Writes while nodes are down: who counts, who keeps what for whom, and that everybody gets it in the end
(Dynamo 4.6)."""

from __future__ import annotations

import asyncio

from sadik.errors import Overloaded, QuorumMissed, SadikError, StorageError, StorageFailed, StorageFull
from sadik.ids import NodeId
from sadik.node.coordinator.options import Options
from sadik.node.repair.hint_format import Layout
from tests.node.cluster import GET, SET, Cluster, cluster, dots, payloads, run

KEYS = [b"key-%d" % number for number in range(200)]


def writes(value: bytes, keys: list[bytes] = KEYS) -> list[tuple[int, bytes, bytes]]:
    return [(SET, key, value) for key in keys]


def fallbacks(one: Cluster, key: bytes) -> tuple[list[str], list[str]]:
    """The primaries of a key and the others, in order."""
    order = one.preference(key)
    return order[:3], order[3:]


def test_with_one_of_three_down_writes_reach_w_and_it_gets_them_when_it_is_back() -> None:
    """A node that is down is what N=3, W=2 is for: nobody is refused, and no write stays on two nodes."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            await one.answer(one.submit("n1", writes(b"before")))
            one.crash("n3")
            await one.wait_until(one.is_agreed, "n3 counts as down")
            for name in ("n1", "n2"):
                replies = await one.answer(one.submit(name, writes(b"after")))
                assert all(reply.ok for reply in replies)
            await one.restart("n3")
            await one.wait_until(one.no_hints, "hints are delivered")
            assert one.equal()
            assert [one.values("n3", key) for key in KEYS] == [[b"after"]] * len(KEYS)

    run(story())


def test_where_no_fallback_exists_a_hint_is_the_key_alone_however_often_it_is_written() -> None:
    """Three nodes, N=3: the set is here anyway; a thousand writes to a key must not fill the hint store."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            for number in range(20):
                await one.set("n1", b"k", b"%d" % number)
            assert one.hints("n1") == {"n3": 1}
            assert one.kept("n1", b"k") == b""
            assert one.hints("n2") == {}
            await one.restart("n3")
            await one.wait_until(one.no_hints)
            assert one.values("n3", b"k") == [b"19"]

    run(story())


def test_hints_outlive_the_node_that_keeps_them() -> None:
    """A restart of the coordinator must not make a replica miss a write for good (Z9)."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            await one.answer(one.submit("n1", writes(b"v")))
            one.crash("n1")
            await one.restart("n1")
            assert one.hints("n1") == {"n3": len(KEYS)}
            await one.restart("n3")
            await one.wait_until(one.no_hints)
            assert one.equal()
            assert len(one.holdings("n3")) == len(KEYS)

    run(story())


def test_five_nodes_keep_writing_with_two_primaries_down_and_bring_them_up_to_date() -> None:
    """Sloppy quorum: the first N nodes that can be reached take the write, so W=2 is met by one primary and
    its fallbacks.
    """

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            for name in ("n4", "n5"):
                one.crash(name)
            await one.wait_until(one.is_agreed)
            replies = await one.answer(one.submit("n1", writes(b"v")))
            assert all(reply.ok for reply in replies)
            for name in ("n4", "n5"):
                await one.restart(name, agreed=False)
            await one.wait_until(one.no_hints, "hints are delivered")
            assert one.equal()
            for key in KEYS:
                primaries, others = fallbacks(one, key)
                assert [one.values(name, key) for name in primaries] == [[b"v"]] * 3
                assert [one.holds(name, key) for name in others] == [b""] * 2

    run(story())


def test_a_fallback_keeps_the_whole_set_apart_from_its_own_data() -> None:
    """What it holds for others is owed, not owned: it is no replica, and gives it away."""

    async def story() -> None:
        async with cluster(5) as one:
            key = b"k"
            first, _, third, stand_in, _ = one.preference(key)
            one.crash(third)
            await one.wait_until(one.is_agreed)
            assert (await one.set(first, key, b"v")).ok
            await one.wait_until(lambda: bool(one.kept(stand_in, key)))
            assert payloads(one.kept(stand_in, key)) == [b"v"]
            assert one.holds(stand_in, key) == b""
            assert one.hints(stand_in) == {third: 1}
            assert one.hints(first) == {}
            await one.restart(third)
            await one.wait_until(one.no_hints)
            assert one.values(third, key) == [b"v"]
            assert one.kept(stand_in, key) == one.holds(stand_in, key) == b""

    run(story())


def test_pw_is_not_met_by_fallbacks() -> None:
    """PW asks for primaries because whoever reads with PR looks there (Q3): a stand-in cannot count."""

    async def story() -> None:
        async with cluster(5) as one:
            key = b"k"
            first, second, third, *_ = one.preference(key)
            one.crash(second)
            one.crash(third)
            await one.wait_until(one.is_agreed)
            assert (await one.set(first, key, b"sloppy", w=3)).ok
            reply = await one.set(first, key, b"strict", w=1, pw=2)
            assert reply.refused
            assert isinstance(reply.error, QuorumMissed)
            # Three replicas can be reached, and that is not what is missing.
            assert str(reply.error) == "1 of 2 primaries can be reached; nothing was done"
            assert (reply.error.required, reply.error.received) == (2, 0)
            assert (await one.get(first, key, r=1, pr=2)).refused
            assert (await one.get(first, key, r=3)).value == b"sloppy"

    run(story())


def test_a_fallback_draws_a_new_actor_when_delivered_hints_are_gone() -> None:
    """It minted in what it does not hold any more: the same actor could mint a dot a second time, and a
    replica would take the new value for the old one (DESIGN 3).
    """

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            key = b"k"
            *primaries, stand_in, _ = one.preference(key)
            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            before = one.node(stand_in).core.fallback_actor
            assert (await one.set(stand_in, key, b"v")).ok
            assert [actor for actor, _ in dots(one.kept(stand_in, key))] == [before]
            assert before != one.node(stand_in).vnodes.actor
            for name in primaries:
                await one.restart(name, agreed=False)
            await one.wait_until(one.no_hints, "hints are delivered")
            assert one.node(stand_in).core.fallback_actor != before

    run(story())


def test_with_all_primaries_down_a_fallback_coordinates_and_the_value_is_there_for_all() -> None:
    """An always writeable store: as long as a stand-in can be reached, writes are taken, read, and reach the
    primaries later.
    """

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            key = b"k"
            primaries, others = fallbacks(one, key)
            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            for name in others:
                assert (await one.set(name, key, b"by " + name.encode())).ok
                for reader in others:
                    assert (await one.get(reader, key)).value == b"by " + name.encode()
                    record = await one.read(reader, key)
                    assert not isinstance(record, Exception)
                    assert record.payload == b"by " + name.encode()
            for name in primaries:
                await one.restart(name, agreed=False)
            await one.wait_until(one.no_hints, "hints are delivered")
            # Two stand-ins wrote for three owners; who got none of its own learns by exchange or a read.
            last = b"by " + others[-1].encode()
            for name in primaries:
                assert (await one.get(name, key, r=3)).value == last
            await one.wait_until(one.equal)
            assert one.values(primaries[0], key) == [last]

    run(story())


def test_an_update_through_fallbacks_sees_what_they_keep() -> None:
    """APPEND, DEL and their kind read first: what stand-ins keep is all there is, and must not be missed."""

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            key = b"k"
            *primaries, stand_in, _ = one.preference(key)
            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            assert (await one.set(stand_in, key, b"a")).ok
            assert await one.update(stand_in, key, lambda record: record.put(record.payload + b"b")) is None
            assert (await one.get(one.preference(key)[4], key)).value == b"ab"
            assert payloads(one.kept(stand_in, key)) == [b"ab"]

    run(story())


def test_a_full_hint_store_refuses_before_anything_is_done_and_takes_writes_again_once_it_is_empty() -> None:
    """It evicts nothing: a write that it cannot keep for its owner would be lost there in silence."""

    async def story() -> None:
        async with cluster(3, engine="log", peers={"hint_bytes_max": 1 << 20}) as one:
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            keys = [b"%d" % number + bytes(8000) for number in range(200)]
            taken: list[bytes] = []
            refused = b""
            for first in range(0, len(keys), 20):
                some = keys[first : first + 20]
                replies = await one.answer(one.submit("n1", writes(b"v", some)))
                taken += [key for key, reply in zip(some, replies, strict=True) if reply.ok]
                if one.node("n1").hints.full:
                    (reply,) = await one.answer(one.submit("n1", [(SET, b"one more", b"v")]))
                    assert reply.refused
                    assert "full" in str(reply.error)
                    refused = b"one more"
                    break
            assert refused
            assert one.holds("n1", refused) == one.holds("n2", refused) == b""
            assert (await one.get("n1", taken[0])).value == b"v"
            await one.restart("n3")
            await one.wait_until(one.no_hints)
            # The batch that filled it was taken, and its hints are lost: that is the exchange's to find.
            await one.repair("n1")
            assert one.equal()
            assert (await one.set("n1", b"k", b"v")).ok

    run(story())


def test_too_many_requests_that_wait_for_other_nodes_are_refused_as_busy() -> None:
    """Overload is an early, explicit answer: nothing was done, try again; never a growing queue."""

    async def story() -> None:
        async with cluster(3, peers={"in_flight_bytes_max": 1 << 20}) as one:
            one.cut("n1")
            requests = [one.submit("n1", [(SET, b"k%d" % number, bytes(200_000))]) for number in range(10)]
            found = [request.replies[0] for request in requests]
            busy = [reply for reply in found if reply is not None]
            assert busy
            assert found.count(None) >= 2
            assert all(reply.refused and isinstance(reply.error, Overloaded) for reply in busy)
            assert len(one.holdings("n1")) == found.count(None)
            (read,) = one.submit("n1", [(GET, b"k0", b"")]).replies
            assert read is not None
            assert isinstance(read.error, Overloaded)
            error = await one.update("n1", b"k0", lambda record: record.put(b"v"))
            assert isinstance(error, Overloaded)
            await one.heal()
            await one.wait_until(lambda: not len(one.node("n1").core.flights))
            assert (await one.set("n1", b"k", b"v")).ok

    run(story())


def test_a_missed_quorum_says_whether_anything_was_done() -> None:
    """Refused means that nobody will ever see the value, unknown that somebody may (D3)."""

    async def story() -> None:
        async with cluster(3) as one:
            # Known to be down: refused, and nothing is left of it.
            one.crash("n2")
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            reply = await one.set("n1", b"refused", b"v")
            assert isinstance(reply.error, QuorumMissed)
            assert reply.refused
            assert (reply.error.required, reply.error.received) == (2, 0)
            assert sorted(reply.error.reasons) == [("n2", "down"), ("n3", "down")]
            assert one.holds("n1", b"refused") == b""
            assert (await one.get("n1", b"refused")).refused
            assert (await one.set("n1", b"alone", b"v", w=1)).ok
            error = await one.update("n1", b"refused", lambda record: record.put(b"v"))
            assert isinstance(error, QuorumMissed)
            assert not error.maybe_applied
            # Cut off after it was sent: unknown.
            await one.restart("n2", agreed=False)
            await one.restart("n3")
            one.cut("n1")
            began_s = one.loop.time()
            reply = await one.set("n1", b"unknown", b"v")
            assert isinstance(reply.error, QuorumMissed)
            assert reply.unknown
            assert (reply.error.required, reply.error.received) == (2, 1)
            assert {node for node, _ in reply.error.reasons} == {"n2", "n3"}
            # Told as soon as the silent links are closed, long before the deadline.
            assert one.loop.time() - began_s < 0.6
            assert one.values("n1", b"unknown") == [b"v"]
            await one.heal()
            await one.wait_until(one.no_hints)
            assert one.values("n2", b"unknown") == [b"v"]

    run(story())


def test_a_primary_that_does_not_answer_is_told_as_a_primary() -> None:
    """A stand-in has made W full: "2 of 2 replicas answered" would explain nothing."""

    async def story() -> None:
        async with cluster(5, engine="log", storage={"sync": "always"}) as one:
            key = b"k"
            first, second, third, *_ = one.preference(key)
            one.crash(third)
            await one.wait_until(one.is_agreed)
            one.lives[second].worker.delay_s = 3.0
            reply = await one.set(first, key, b"v", w=2, pw=2, timeout_ms=400)
            assert reply.unknown
            assert isinstance(reply.error, QuorumMissed)
            assert str(reply.error).startswith("1 of 2 primaries answered")
            assert (reply.error.required, reply.error.received) == (2, 1)

    run(story())


def test_a_deadline_ends_what_a_slow_replica_does_not_answer() -> None:
    """A replica whose links live but that answers too late must not hold its client for ever: the answer is
    "unknown", in time, and the value arrives all the same.
    """

    async def story() -> None:
        async with cluster(3, engine="log", storage={"sync": "always"}) as one:
            for name in ("n2", "n3"):
                one.lives[name].worker.delay_s = 3.0
            began_s = one.loop.time()
            reply = await one.set("n1", b"k", b"v", timeout_ms=400)
            assert 0.35 < one.loop.time() - began_s < 0.6
            assert reply.unknown
            assert isinstance(reply.error, QuorumMissed)
            assert ("n2", "it did not answer in time") in reply.error.reasons
            assert (await one.get("n1", b"k")).value == b"v"
            for name in ("n2", "n3"):
                one.lives[name].worker.delay_s = 0.0
            await one.wait_until(one.no_hints)
            assert one.equal()

    run(story())


def test_each_batch_has_its_own_deadline_whatever_their_order() -> None:
    """A short deadline ends its batch though longer ones were begun before and after, and they still end in
    time.
    """

    async def story() -> None:
        async with cluster(3, engine="log", storage={"sync": "always"}) as one:
            for name in ("n2", "n3"):
                one.lives[name].worker.delay_s = 3.0
            began_s = one.loop.time()
            ended_s: dict[int, float] = {}

            async def write(timeout_ms: int) -> None:
                reply = await one.set("n1", b"k%d" % timeout_ms, b"v", timeout_ms=timeout_ms)
                assert reply.unknown
                ended_s[timeout_ms] = one.loop.time() - began_s

            await asyncio.gather(*(write(timeout_ms) for timeout_ms in (800, 300, 1500, 600)))
            assert list(ended_s) == [300, 600, 800, 1500]
            for timeout_ms, taken_s in ended_s.items():
                assert timeout_ms / 1000 <= taken_s < timeout_ms / 1000 + 0.2

    run(story())


def test_sync_always_acknowledges_what_w_disks_have() -> None:
    """In that mode an acknowledgement is a promise about power cuts: the own disk and the others' count only
    when their sync has ended.
    """

    async def story() -> None:
        async with cluster(3, engine="log", storage={"sync": "always"}) as one:
            for name in one.names:
                one.lives[name].worker.delay_s = 0.1
            request = one.submit("n1", [(SET, b"k", b"v")])
            await one.pass_s(0.08)
            assert not request.done
            (reply,) = await one.answer(request)
            assert reply.ok
            one.lives["n1"].worker.delay_s = 5.0
            (reply,) = await one.answer(one.submit("n1", [(SET, b"k", b"w")]))
            assert reply.ok, "two others are W"
            one.lives["n1"].worker.delay_s = 0.0

    run(story())


def test_quorums_of_a_request_win_over_those_of_its_bucket() -> None:
    """R and W are the operator's per bucket, and the client's per request."""

    async def story() -> None:
        async with cluster(3) as one:
            await one.isolate("n3")
            assert (await one.set("n1", b"k", b"v", w=3)).refused
            assert (await one.set("n1", b"k", b"v", w=2)).ok
            assert (await one.set("n3", b"k", b"v")).refused
            assert (await one.set("n3", b"k", b"v", w=1)).ok
            assert (await one.get("n3", b"k", r=2)).refused
            error = await one.update("n1", b"k", lambda record: record.put(b"v"), options=Options(w=3))
            assert isinstance(error, QuorumMissed)
            await one.heal()

    run(story())


def test_writes_without_context_through_a_fallback_are_siblings_however_its_hints_go() -> None:
    """Cause: records were minted by the node's own actor, also where it keeps them for others alone, and did
    not see what it keeps. The next write of that actor said of the first one that it had been seen, and the
    merge dropped it, acknowledged as it was. Cure: the fallback's actor mints, on what is kept.
    """

    async def story() -> None:
        async with cluster(5, engine="log") as one:
            primaries, others = fallbacks(one, b"k")
            stand_in = one.node(others[0])

            async def put(value: bytes) -> None:
                await stand_in.coordinator.write(
                    b"0", b"k", value, context=None, metadata=b"", options=Options()
                )

            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            await put(b"a")
            await put(b"b")
            assert sorted(payloads(one.kept(others[0], b"k"))) == [b"a", b"b"]
            for name in primaries:
                await one.restart(name, agreed=False)
            await one.wait_until(one.no_hints, "hints are delivered")
            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            await put(b"c")
            actors = {actor for actor, _ in dots(one.kept(others[0], b"k"))}
            assert stand_in.vnodes.actor not in actors
            for name in primaries:
                await one.restart(name, agreed=False)
            await one.wait_until(one.no_hints, "hints are delivered")
            await one.repair()
            assert one.equal()
            assert sorted(one.values(primaries[0], b"k")) == [b"a", b"b", b"c"]

    run(story())


def test_an_update_that_is_kept_in_part_is_answered() -> None:
    """Of keys that are partly our own and partly kept for others, the own part is answered at once and the
    other one fails: whoever is last says so, and that it may have been applied.
    """

    async def story() -> None:
        async with cluster(5) as one:
            primaries, others = fallbacks(one, b"k")
            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            me = others[0]
            own = next(key for key in KEYS if me in one.preference(key)[:3])

            def fail(*arguments: object) -> int:
                raise StorageFull("no room for hints")

            one.hint_engines[me].write_batch = fail  # type: ignore[method-assign]
            coordinator = one.node(me).coordinator
            ended: list[SadikError | None] = []

            def change(found: object) -> None:
                assert isinstance(found, dict)
                for record in found.values():
                    record.put(b"v")
                coordinator.commit(found.values(), Options(w=1), ended.append)

            coordinator.read_records([(b"0", own), (b"0", b"k")], Options(r=1), change)
            await one.wait_until(lambda: bool(ended), within_s=5.0)
            (error,) = ended
            assert isinstance(error, StorageError)
            assert error.maybe_applied, "one of the two keys is written"
            assert one.values(me, own) == [b"v"]
            del one.hint_engines[me].write_batch

    run(story())


def test_stamps_from_too_far_ahead_are_taken_by_nobody_and_their_writer_is_told_why() -> None:
    """A node with a wrong clock must not win over all others for as long as it is ahead (DESIGN 3): it can
    keep its write, and gets no acknowledgement for it until the clocks agree.
    """

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            one.lives["n1"].clock.offset_ms = 2000
            reply = await one.set("n1", b"k", b"ahead")
            assert reply.unknown
            assert isinstance(reply.error, QuorumMissed)
            assert set(reply.error.reasons) == {
                ("n2", "its clock is too far behind the stamp"),
                ("n3", "its clock is too far behind the stamp"),
            }
            assert one.holds("n2", b"k") == one.holds("n3", b"k") == b""
            assert (await one.set("n2", b"k", b"right")).ok
            one.lives["n1"].clock.offset_ms = 0
            await one.pass_s(2.5)
            await one.settle()
            assert set(one.values("n2", b"k")) == {b"ahead", b"right"}

    run(story())


def test_hints_that_are_kept_for_some_owners_only_make_the_answer_unknown() -> None:
    """A fallback keeps a batch key by key; when the second one finds no room, the first one will reach its
    owner all the same: told "refused", a client would read what was never written (D3).
    """

    async def story() -> None:
        async with cluster(5) as one:
            primaries, others = fallbacks(one, b"k")
            me = others[0]
            second = next(key for key in KEYS if one.preference(key) == one.preference(b"k"))
            for name in primaries:
                one.crash(name)
            await one.wait_until(one.is_agreed)
            store = one.hint_engines[me]
            write = store.write_batch
            calls: list[int] = []

            def fail_later(count: int, *rest: object) -> int:
                calls.append(count)
                if len(calls) > 1:
                    raise StorageFull("no room for hints")
                return write(count, *rest)

            store.write_batch = fail_later  # type: ignore[method-assign]
            replies = await one.answer(one.submit(me, [(SET, b"k", b"v"), (SET, second, b"v")]))
            assert len(calls) > 1
            assert [reply.unknown for reply in replies] == [True, True]
            (reply,) = await one.answer(one.submit(me, [(SET, b"k", b"w")]))
            assert reply.refused
            del store.write_batch
            assert payloads(one.kept(me, b"k")) == [b"v"]
            for name in primaries:
                await one.restart(name, agreed=False)
            await one.wait_until(one.no_hints)
            assert any(one.values(name, b"k") == [b"v"] for name in primaries)

    run(story())


def test_reads_are_answered_beside_an_unreadable_hint_where_hints_cannot_be_written() -> None:
    """What a stand-in finds unreadable it drops, which is a write. Where that fails, those who read are
    answered all the same, and from the primaries that are left they get the value.
    """

    async def story() -> None:
        async with cluster(5) as one:
            (first, second, down), (me, *_) = fallbacks(one, b"k")
            one.crash(down)
            await one.wait_until(one.is_agreed)
            mine = next(key for key in KEYS if me in one.preference(key)[:3])
            assert (await one.set(first, b"k", b"v", w=3)).ok
            assert payloads(one.kept(me, b"k")) == [b"v"]

            def fail(*rest: object) -> int:
                raise StorageFailed("a sync failed")

            store = one.hint_engines[me]
            store.put = fail  # type: ignore[method-assign]
            store.spoil(Layout(NodeId(down)).place(one.digest(b"k")))
            for name in (first, second, me):
                assert (await one.get(name, b"k", r=3)).value == b"v"
            value = await one.connect(me).call(b"MGET", b"k", mine)
            assert value == b"*2\r\n$1\r\nv\r\n$-1\r\n"
            assert one.node(me).hints.statistics().present == 1

    run(story())


def test_replicas_span_the_zones_and_a_whole_zone_may_go_down_and_come_back() -> None:
    """A zone is what fails together: each key has a replica in the other one, writes go on, and all of it is
    made good afterwards.
    """

    async def story() -> None:
        zones = ["a", "b", "a", "b", "a"]
        async with cluster(5, engine="log", zones=zones, partitions=64) as one:
            zone_of = dict(zip(one.names, zones, strict=True))
            for key in KEYS:
                assert {zone_of[name] for name in one.preference(key)[:3]} == {"a", "b"}
            assert all(reply.ok for reply in await one.answer(one.submit("n1", writes(b"before"))))
            for zone, entry in (("b", "n1"), ("a", "n2")):
                lost = [name for name in one.names if zone_of[name] == zone]
                for name in lost:
                    one.crash(name)
                await one.wait_until(one.is_agreed)
                for value in (b"first", b"second"):
                    replies = await one.answer(one.submit(entry, writes(value + zone.encode())))
                    assert all(reply.ok for reply in replies)
                replies = await one.answer(one.submit(entry, [(GET, key, b"") for key in KEYS]))
                assert [reply.value for reply in replies] == [b"second" + zone.encode()] * len(KEYS)
                for name in lost:
                    await one.restart(name, agreed=False)
                await one.settle()
                for key in KEYS:
                    for name in one.preference(key)[:3]:
                        assert one.values(name, key)[0] == b"second" + zone.encode()

    run(story())


def test_nodes_are_restarted_one_after_the_other_and_no_request_fails_at_the_others() -> None:
    """A rolling upgrade is nothing that clients notice, but for what was in flight to the one that goes."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            written = 0
            for name in one.names:
                await one.stop(name)
                await one.wait_until(one.is_agreed)
                entries = [other for other in one.names if other != name]
                for step in range(10):
                    keys = [b"key-%d" % (written + number) for number in range(5)]
                    written += 5
                    entry = entries[step % 2]
                    assert all(r.ok for r in await one.answer(one.submit(entry, [(SET, k, k) for k in keys])))
                    (reply,) = await one.answer(one.submit(entries[0], [(GET, keys[-1], b"")]))
                    assert reply.value == keys[-1]
                await one.restart(name)
            await one.wait_until(one.no_hints)
            assert one.equal(), one.differences()
            assert len(one.holdings("n1")) == written

    run(story())
