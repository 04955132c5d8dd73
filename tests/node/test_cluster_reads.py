"""Reads over replicas that differ: what is answered, and that whoever was behind is brought up to date
(Dynamo 5, read repair)."""

from __future__ import annotations

import pytest

from sadik.errors import CorruptRecord, QuorumMissed
from sadik.kernels import versions
from sadik.node.coordinator.options import Options
from tests.node.cluster import GET, SET, Cluster, cluster, payloads, run

KEY = b"k"


async def two_versions(one: Cluster) -> tuple[bytes, bytes]:
    """Write a key twice; its version set after each."""
    assert (await one.set("n1", KEY, b"old")).ok
    await one.wait_until(lambda: one.equal() and bool(one.holds("n3", KEY)))
    old = one.holds("n1", KEY)
    assert (await one.set("n1", KEY, b"new")).ok
    await one.wait_until(lambda: one.equal() and one.holds("n3", KEY) != old)
    return old, one.holds("n1", KEY)


@pytest.mark.parametrize("behind", ["stale", "missing", "unreadable"])
def test_a_read_repairs_a_replica_that_is_behind(behind: str) -> None:
    """A replica that missed a write would miss it for ever if nobody told it: whoever reads finds out."""

    async def story() -> None:
        async with cluster(3) as one:
            old, new = await two_versions(one)
            if behind == "unreadable":
                one.engines["n3"].spoil(one.digest(KEY))
            else:
                one.put("n3", KEY, old if behind == "stale" else b"")
            repaired = one.node("n1").instruments.repaired[behind]
            before = repaired.value
            assert (await one.get("n1", KEY)).value == b"new"
            await one.wait_until(lambda: one.holds("n3", KEY) == new)
            assert repaired.value == before + 1
            assert (await one.get("n1", KEY)).value == b"new"
            await one.pass_s(0.1)
            assert repaired.value == before + 1, "equal replicas are not repaired"

    run(story())


@pytest.mark.parametrize("behind", ["stale", "missing"])
def test_a_coordinator_that_is_behind_answers_what_the_others_know_and_takes_it_over(behind: str) -> None:
    """Its own copy is one of R, not the truth."""

    async def story() -> None:
        async with cluster(3) as one:
            old, new = await two_versions(one)
            one.put("n1", KEY, old if behind == "stale" else b"")
            assert (await one.get("n1", KEY)).value == b"new"
            await one.wait_until(lambda: one.holds("n1", KEY) == new)
            assert one.node("n1").instruments.repaired["own"].value == 1

    run(story())


def test_replicas_with_different_siblings_come_to_have_all_of_them() -> None:
    """Writes on two sides of a cut are both true: a read joins them, and neither is lost."""

    async def story() -> None:
        async with cluster(3) as one:
            await two_versions(one)
            await one.isolate("n3")
            assert (await one.set("n1", KEY, b"here")).ok
            assert (await one.set("n3", KEY, b"there", w=1)).ok
            await one.heal()
            record = await one.read("n2", KEY, options=Options(r=3))
            assert not isinstance(record, Exception)
            assert sorted(value.payload for value in record.siblings()) == [b"here", b"there"]
            await one.wait_until(one.equal)
            assert sorted(one.values("n3", KEY)) == [b"here", b"there"]

    run(story())


def test_a_read_error_at_a_replica_neither_counts_nor_is_it_not_found() -> None:
    """An unreadable record may be anything: taken for "nothing" it would hide an acknowledged write (S5)."""

    async def story() -> None:
        async with cluster(3) as one:
            await two_versions(one)
            for name in ("n2", "n3"):
                one.engines[name].spoil(one.digest(KEY))
            reply = await one.get("n1", KEY)
            assert isinstance(reply.error, QuorumMissed)
            assert (reply.error.required, reply.error.received) == (2, 1)
            assert sorted(reply.error.reasons) == [
                ("n2", "cannot read its record"),
                ("n3", "cannot read its record"),
            ]
            assert not reply.error.maybe_applied
            # It was a read, and what can be read goes to those that cannot.
            await one.wait_until(
                lambda: (one.values("n2", KEY), one.values("n3", KEY)) == ([b"new"], [b"new"])
            )
            assert (await one.get("n1", KEY, r=3)).value == b"new"

    run(story())


def test_a_read_error_of_the_coordinator_itself_does_not_count_either() -> None:
    """Its own disk is no better than another's: R others have to answer, and they do."""

    async def story() -> None:
        async with cluster(3) as one:
            await two_versions(one)
            one.engines["n1"].spoil(one.digest(KEY))
            # The plain way gives it up to the one that can wait for others.
            assert (await one.get("n1", KEY)).status == versions.UNREADABLE
            record = await one.read("n1", KEY, options=Options(r=2))
            assert not isinstance(record, Exception)
            assert record.payload == b"new"
            one.engines["n1"].spoil(one.digest(KEY))
            assert isinstance(await one.read("n1", KEY, options=Options(r=3)), QuorumMissed)
            assert await one.connect("n1").call(b"GET", KEY) == b"$3\r\nnew\r\n"

    run(story())


def test_what_nobody_can_read_is_an_error_for_every_kind_of_request() -> None:
    """GET would say "not there", and a DEL "0", of what is there and only cannot be read."""

    async def story() -> None:
        async with cluster(3) as one:
            await two_versions(one)
            client = one.connect("n1")
            for words in ((b"GET", KEY), (b"DEL", KEY), (b"APPEND", KEY, b"x"), (b"EXISTS", KEY)):
                for name in one.names:
                    one.engines[name].spoil(one.digest(KEY))
                assert (await client.call(*words)).startswith(b"-"), words
            record = await one.read("n1", KEY)
            assert isinstance(record, (QuorumMissed, CorruptRecord))

    run(story())


def test_a_read_asks_with_a_fingerprint_and_equal_replicas_send_no_value_back() -> None:
    """Ten thousand times "the same" must not cost ten thousand values on the wire."""

    async def story() -> None:
        async with cluster(3) as one:
            keys = [b"key-%d" % number for number in range(100)]
            await one.answer(one.submit("n1", [(SET, key, bytes(10_000)) for key in keys]))
            await one.wait_until(one.equal)
            before = received(one, "n1")
            replies = await one.answer(one.submit("n1", [(GET, key, b"") for key in keys]))
            assert all(reply.value == bytes(10_000) for reply in replies)
            await one.wait_until(lambda: not len(one.node("n1").core.flights))
            assert received(one, "n1") - before < 10_000

    run(story())


def received(one: Cluster, name: str) -> int:
    return sum(link.bytes_in for link in one.node(name).transport.statistics())


def test_operations_of_one_batch_on_a_key_take_effect_in_their_order_on_every_replica() -> None:
    """Cause: replicas merge the writes of a batch before they compare its reads, so every read that a later
    write of the same batch had overtaken showed that write: a pipeline saw its own future. Cure: such a read
    is compared after the last write, and shows what was there at its place.
    """

    async def story() -> None:
        async with cluster(3) as one:
            operations = [(GET, KEY, b"")]
            for number in range(10):
                operations += [(SET, KEY, b"%d" % number), (GET, KEY, b"")]
            replies = await one.answer(one.submit("n1", operations))
            assert [reply.value for reply in replies[::2]] == [None] + [
                b"%d" % number for number in range(10)
            ]
            await one.wait_until(one.equal)
            assert one.values("n3", KEY) == [b"9"]
            await one.wait_until(lambda: not len(one.node("n1").core.flights))
            assert not any(counter.value for counter in one.node("n1").instruments.repaired.values())
            (first, *_) = await one.answer(one.submit("n2", [(GET, KEY, b""), (SET, KEY, b"x")]))
            assert first.value == b"9"

    run(story())


def test_a_read_that_its_batch_overtakes_still_shows_what_only_others_know() -> None:
    """The own future is left out, not what others wrote before: R and W overlap for these reads too."""

    async def story() -> None:
        async with cluster(3) as one:
            _, new = await two_versions(one)
            (later,) = await one.answer(one.submit("n2", [(SET, KEY, b"newer")]))
            assert later.ok
            await one.wait_until(one.equal)
            one.put("n1", KEY, new)
            replies = await one.answer(one.submit("n1", [(GET, KEY, b""), (SET, KEY, b"x"), (GET, KEY, b"")]))
            assert [reply.value for reply in replies] == [b"newer", None, b"x"]
            one.lose("n1", KEY)
            replies = await one.answer(one.submit("n1", [(GET, KEY, b""), (SET, KEY, b"y"), (GET, KEY, b"")]))
            assert [reply.value for reply in replies] == [b"x", None, b"y"]

    run(story())


def test_reads_that_differ_late_still_repair() -> None:
    """It answers at R and lingers for N: the slowest replica is the one most likely to be behind."""

    async def story() -> None:
        async with cluster(3) as one:
            old, _ = await two_versions(one)
            one.put("n3", KEY, old)
            one.network.cut_one_way("n3", "n1")
            reply = await one.get("n1", KEY)
            assert reply.value == b"new"
            one.network.heal()
            await one.wait_until(lambda: payloads(one.holds("n3", KEY)) == [b"new"])

    run(story())
