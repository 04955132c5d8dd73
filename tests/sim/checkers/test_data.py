"""D1 to D6, T1, T2 and T4: a history without fault, one thing spoiled, and the checker that must see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sadik.kernels import versions
from sadik.sim.checkers import Oracle, judge
from sadik.sim.checkers.dots import merge_is_a_join
from sadik.sim.history import (
    Collected,
    Fault,
    History,
    Operation,
    Owners,
    Recovery,
    Seen,
    Setup,
    StoredSet,
    StoredValue,
    encode_value,
)
from tests.sim.checkers.model_store import KEY, NODES, ModelStore, found, invariants, spoil_sets
from tests.sim.checkers.test_oracle import STEP, run


def settled(*names: str) -> tuple[ModelStore, History, dict[str, Operation]]:
    """A store in which v1 was replaced by v2, beside a concurrent v3; finished."""
    store = ModelStore()
    first = store.write()
    read = store.read()
    second = store.write(after=read)
    third = store.write(after=read, client=2)
    history = store.finish()
    assert judge(history) == []
    return store, history, {"v1": first, "v2": second, "v3": third, "read": read}


def held(*operations: Operation, entries: tuple[tuple[int, int], ...] = ()) -> StoredSet:
    """A stored set with the values of writes."""
    values = [StoredValue(one.dots[0], one.value or b"", one.deletes) for one in operations]
    return StoredSet(KEY, entries or tuple(sorted({one.dot for one in values})), tuple(values))


def everywhere(history: History, stored: StoredSet) -> None:
    """All nodes hold this of the key, and all final reads show it."""
    for node in NODES:
        spoil_sets(history, node, lambda _: replace(stored))
    for read in history.operations:
        if read.session == 99:
            read.values = tuple(Seen(one.value) for one in stored.values if not one.tombstone)


# D1.


def test_one_dot_for_two_acknowledged_writes_is_reported() -> None:
    _, history, at = settled()
    at["v3"].dots = at["v2"].dots
    (one, *_) = found(history, "D1")
    assert one.operations == (at["v2"].number, at["v3"].number)


def test_a_dot_that_stands_for_another_value_at_some_node_is_reported() -> None:
    """A copied disk mints dots again; the two need not both be acknowledged."""
    _, history, at = settled()
    wrong = StoredValue(at["v1"].dots[0], encode_value(9, 9, KEY))
    stored = StoredSet(KEY, (at["v1"].dots[0],), (wrong,))
    history.add(Recovery("n2", 0.0, "copied", 0.0, [stored]))
    assert found(history, "D1")


def test_dots_are_taken_from_the_contexts_of_acknowledgements() -> None:
    """Real nodes tell no dot: the newest entry of the context that a write gives is its own."""
    _, history, at = settled()
    at["v1"].dots = at["v2"].dots = ()
    at["v2"].context = at["v1"].context
    assert at["v1"].context
    assert found(history, "D1")


# D2.


def test_an_acknowledged_write_that_no_replica_has_is_lost() -> None:
    _, history, at = settled()
    everywhere(history, held(at["v3"]))
    assert {one.operations[0] for one in found(history, "D2")} == {at["v1"].number, at["v2"].number} - {
        at["v1"].number  # v3 is above it
    }


def test_a_write_that_one_replica_has_not_is_lost_there() -> None:
    """Each primary must have it, or the next failure takes it."""
    _, history, at = settled()
    spoil_sets(history, "n2", lambda _: held(at["v3"]))
    (one,) = found(history, "D2")
    assert "n2 at the end" in one.text
    assert one.operations == (at["v2"].number,)


def test_a_write_that_a_last_read_does_not_show_is_lost() -> None:
    """A harness of real processes need not look into nodes."""
    _, history, _ = settled()
    history.end = None
    assert judge(history) == []
    read = history.operations[-1]
    read.values = read.values[:1]
    assert found(history, "D2")


def test_a_key_that_is_nowhere_is_lost() -> None:
    _, history, _ = settled()
    for node in NODES:
        spoil_sets(history, node, lambda _: None)
    assert found(history, "D2")


def test_a_write_of_unknown_outcome_may_be_gone_but_what_it_covered_may_not() -> None:
    """Nobody knows whether it happened; if it replaced something it is there."""
    store = ModelStore()
    first = store.write()
    second = store.write(after=first)
    second.outcome, second.context = "unknown", b""
    history = store.finish()
    assert judge(history) == []
    everywhere(history, held(first))
    assert found(history, "D2") == []
    everywhere(history, StoredSet(KEY))
    (one, *_) = found(history, "D2")
    assert one.operations[0] == first.number


def test_what_was_deleted_or_has_expired_is_not_lost() -> None:
    store = ModelStore()
    store.delete(after=store.write())
    store.write(b"mortal", ttl_ms=50.0)
    assert found(store.finish(), "D2") == []


def test_a_value_whose_time_has_not_come_is_lost() -> None:
    store = ModelStore()
    store.write(ttl_ms=1e7)
    history = store.finish()
    everywhere(history, StoredSet(KEY))
    assert found(history, "D2")


@pytest.mark.parametrize(
    ("faults", "excused"),
    [
        ([Fault("wiped", 2e12, nodes=("n1",))], False),
        ([Fault("wiped", 2e12, nodes=("n1", "n2"))], True),
        ([Fault("wiped", 0, 1, nodes=("n1", "n2"))], False),
        ([Fault("wiped", 2e12, nodes=("n1", "n3"))], False),
        ([Fault("restored", 2e12, nodes=("n1", "n2"), detail="0")], True),
        ([Fault("restored", 2e12, nodes=("n1", "n2"), detail="1900000000000")], False),
        ([Fault("power_cut", 2e12, 2e12 + 1, nodes=NODES)], False),
        ([Fault("power_cut", 2e12, nodes=NODES)], True),
    ],
)
def test_only_the_loss_of_all_who_acknowledged_is_an_excuse(faults: list[Fault], excused: bool) -> None:
    """v2 was acknowledged by n1 and n2."""
    _, history, at = settled()
    everywhere(history, held(at["v3"]))
    for fault in faults:
        history.add(fault)
    assert (found(history, "D2") == []) is excused


@pytest.mark.parametrize(("later_ms", "excused"), [(500, True), (1099, True), (1200, False)])
def test_a_power_cut_takes_only_what_the_sync_interval_lets_it_take(later_ms: float, excused: bool) -> None:
    _, history, at = settled()
    history.setup = replace(history.setup, durability="interval")
    everywhere(history, held(at["v3"]))
    cut_ms = at["v2"].end_ms + later_ms
    history.add(Fault("power_cut", cut_ms, cut_ms + 10, nodes=NODES))
    assert (found(history, "D2") == []) is excused


def test_replicas_that_never_became_equal_are_judged_together() -> None:
    """That they differ is C1; what one of them has is not lost."""
    _, history, at = settled()
    assert history.end
    history.end.equal_ms = -1
    spoil_sets(history, "n2", lambda _: held(at["v3"]))
    assert found(history, "D2") == []
    assert found(history, "C1")


# D3.


def test_a_refused_write_that_is_read_or_held_is_reported() -> None:
    store = ModelStore()
    first = store.write()
    refused = store.refused()
    read = store.read()
    history = store.finish()
    assert judge(history) == []
    read.values += (Seen(refused.value or b""),)
    (one,) = found(history, "D3")
    assert one.operations == (refused.number, read.number)
    read.values = read.values[:1]
    refused.dots = ((3, 77),)
    spoil_sets(history, "n1", lambda _: held(first, refused))
    assert "n1 at the end" in found(history, "D3")[0].text


# D4.


def test_a_value_beside_one_that_replaced_it_is_reported() -> None:
    _, history, at = settled()
    read = history.operations[-1]
    read.values += (Seen(at["v1"].value or b""),)
    (one,) = found(history, "D4")
    assert one.operations == (read.number, at["v1"].number)


def test_a_stored_set_with_a_value_that_was_replaced_is_reported() -> None:
    _, history, at = settled()
    spoil_sets(history, "n1", lambda _: held(at["v1"], at["v2"], at["v3"]))
    assert found(history, "D4")


def test_one_write_as_two_siblings_is_reported_unless_it_was_sent_twice() -> None:
    """Two coordinators did it (Riak, kv#1046)."""
    _, history, at = settled()
    read = history.operations[-1]
    read.values += read.values[:1]
    assert found(history, "D4")
    at["v2"].attempts = at["v3"].attempts = 2
    assert found(history, "D4") == []


def test_siblings_that_pile_up_under_two_writers_are_reported() -> None:
    """Interleaved read-modify-write with clocks of servers alone."""
    store = ModelStore()
    writes = [store.write()]
    for _ in range(5):
        writes.append(store.write(after=store.read()))
    read = store.read()
    read.values = tuple(Seen(one.value or b"") for one in writes)
    assert found(store.history, "D4")


# D5.


@pytest.mark.parametrize(
    "value",
    [
        encode_value(8, 8, KEY),
        encode_value(1, 1, b"other"),
        b"rubbish",
        encode_value(1, 1, KEY, 40)[:-1] + b"g",
    ],
)
def test_a_value_that_nobody_wrote_there_is_reported(value: bytes) -> None:
    _, history, _ = settled()
    history.operations[-1].values += (Seen(value),)
    assert found(history, "D5")
    _, history, _ = settled()
    spoil_sets(history, "n1", lambda _: StoredSet(KEY, ((1, 5),), (StoredValue((1, 5), value),)))
    assert found(history, "D5")


def test_a_value_that_is_read_before_it_was_written_is_reported() -> None:
    _, history, at = settled()
    at["v1"].start_ms = at["read"].end_ms + 1
    assert found(history, "D5")


# D6.


def test_a_replica_with_less_than_all_that_was_seen_is_reported() -> None:
    store, history, _ = settled()
    more = store.sets[KEY].event(actor=7, stamp=2 << 60, payload=b"more", covers=())
    history.add(Recovery("n1", 0.0, "crash", 0.0, [StoredSet.decode(KEY, more.encoded)]))
    assert found(history, "D6")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("power_cut", 1.0, nodes=("n1",)),
        Fault("flip", 1.0, 2.0, nodes=("n1",)),
        Fault("wiped", 1.0, 1.0, nodes=("n1",)),
    ],
    ids=lambda fault: fault.kind,
)
def test_what_one_disk_had_and_lost_need_not_be_there_at_the_end(fault: Fault) -> None:
    """Where nobody acknowledged it. The loss of another disk is no excuse."""
    store, history, _ = settled()
    more = store.sets[KEY].event(actor=7, stamp=2 << 60, payload=b"more", covers=())
    history.add(Recovery("n1", 0.0, "crash", 0.0, [StoredSet.decode(KEY, more.encoded)]))
    history.add(fault)
    assert not found(history, "D6")
    history.faults[-1] = replace(fault, nodes=("n2",))
    assert found(history, "D6")


@pytest.mark.parametrize(
    "merge", [lambda one, other: one or other, lambda one, other: versions.merge(one, other) if one else b""]
)
def test_a_merge_that_is_no_join_is_reported(merge: Callable[[bytes, bytes], bytes]) -> None:
    """One that keeps the first, and one that loses."""
    store, history, _ = settled()
    assert merge_is_a_join(Oracle(history)) == []
    more = store.sets[KEY].event(actor=7, stamp=2 << 60, payload=b"more", covers=())
    history.add(Recovery("n1", 0.0, "crash", 0.0, [StoredSet.decode(KEY, more.encoded)]))
    assert merge_is_a_join(Oracle(history), merge)


# T1.


def deleted() -> tuple[History, Operation, Operation]:
    store = ModelStore()
    first = store.write()
    delete = store.delete(after=store.read())
    history = store.finish()
    assert judge(history) == []
    return history, first, delete


def test_a_deleted_value_that_is_there_at_the_end_is_reported() -> None:
    history, first, delete = deleted()
    spoil_sets(history, "n3", lambda _: held(first))
    (one,) = found(history, "T1")
    assert one.operations == (first.number, delete.number)


def test_a_deleted_value_that_is_read_after_the_collection_is_reported() -> None:
    """Before it a stale read may show it; a node that slept through the horizon may not bring it back."""
    store = ModelStore()
    first = store.write()
    delete = store.delete(after=first)
    stale = store.read()
    stale.values = (Seen(first.value or b""),)
    history = store.finish()
    assert found(history, "T1") == []
    history.add(Collected(KEY, stale.start_ms))
    (one,) = found(history, "T1")
    assert one.operations == (first.number, delete.number, stale.number)


def test_a_value_that_a_blind_delete_is_known_to_have_covered_does_not_rise() -> None:
    store = ModelStore()
    first = store.write()
    store.blind_delete()
    history = store.finish()
    spoil_sets(history, "n3", lambda _: held(first))
    assert found(history, "T1")


def test_a_value_whose_expiry_was_set_anew_beside_the_delete_may_be_there() -> None:
    """It was written again, under another dot."""
    history, first, delete = deleted()
    spoil_sets(history, "n3", lambda _: held(first))
    again = replace(delete, number=99, kind="expire", covered=None, context_given=b"", dots=(), seq=99)
    history.operations.append(again)
    assert found(history, "T1") == []


# T2.


def test_a_write_that_an_older_delete_erased_is_reported() -> None:
    """The doomstone: a tombstone handed over late."""
    store = ModelStore()
    first = store.write()
    delete = store.delete(after=first)
    again = store.write(client=2)
    history = store.finish()
    assert judge(history) == []
    everywhere(history, held(delete))
    assert "T2" in invariants(judge(history))
    (one, *_) = found(history, "T2")
    assert one.operations == (again.number, delete.number)


# T4.


def mortal(ttl_ms: float = 1000.0, skew_ms: float = 0.0) -> tuple[ModelStore, Operation, Operation]:
    store = ModelStore(Setup(nodes=NODES, skew_ms=skew_ms))
    write = store.write(ttl_ms=ttl_ms)
    read = store.read()
    assert judge(store.history) == []
    return store, write, read


def spoil_expiry(read: Operation, by_ms: int) -> None:
    read.values = tuple(one._replace(expires_at_ms=one.expires_at_ms + by_ms) for one in read.values)


@pytest.mark.parametrize("by_ms", [-100, 100])
def test_an_expiry_other_than_asked_for_is_reported(by_ms: int) -> None:
    store, _, read = mortal()
    spoil_expiry(read, by_ms)
    assert found(store.history, "T4")
    store, _, read = mortal(skew_ms=100)
    spoil_expiry(read, by_ms)
    assert found(store.history, "T4") == []


def test_an_expiry_that_changes_is_reported() -> None:
    store, _, _ = mortal(skew_ms=100)
    spoil_expiry(store.read(), 50)
    assert found(store.history, "T4")


def test_a_value_that_lost_its_expiry_or_got_one_is_reported() -> None:
    store, _, read = mortal()
    read.values = tuple(one._replace(expires_at_ms=-1) for one in read.values)
    assert found(store.history, "T4")
    store = ModelStore()
    store.write()
    read = store.read()
    read.values = tuple(one._replace(expires_at_ms=2 << 40) for one in read.values)
    assert found(store.history, "T4")


@pytest.mark.parametrize(("skew_ms", "wrong"), [(0.0, True), (100.0, False)])
def test_a_value_shown_after_its_time_is_reported(skew_ms: float, wrong: bool) -> None:
    """Told by what the read says of it, and by what was asked for where nothing is said."""
    for told in (True, False):
        store, _, read = mortal(skew_ms=skew_ms)
        store.now_ms += 1000
        late = store.read()
        assert late.values == ()
        late.values = read.values if told else (Seen(read.values[0].value),)
        late.newest_only = not told
        assert bool(found(store.history, "T4")) is wrong


# Everything together.


@given(st.lists(STEP, min_size=1, max_size=30), st.data())
def test_taking_a_live_value_from_one_replica_never_goes_unnoticed(
    steps: list[tuple[str, int, bytes]], data: st.DataObject
) -> None:
    store = ModelStore()
    run(store, steps)
    history = store.finish()
    assert history.end
    places = [
        (node, number)
        for node in history.end.nodes
        for number, stored in enumerate(node.sets)
        if any(not one.tombstone and one.expires_at_ms < 0 for one in stored.values)
    ]
    assume(places)
    node, number = data.draw(st.sampled_from(places))
    stored = node.sets[number]
    live = [one for one in stored.values if not one.tombstone and one.expires_at_ms < 0]
    gone = data.draw(st.sampled_from(live))
    node.sets[number] = replace(
        stored, values=tuple(one for one in stored.values if one != gone), encoded=b""
    )
    assert {"C1", "D2"} <= set(invariants(judge(history)))


@given(st.lists(STEP, min_size=1, max_size=30), st.data())
def test_a_value_under_another_key_never_goes_unnoticed(
    steps: list[tuple[str, int, bytes]], data: st.DataObject
) -> None:
    store = ModelStore()
    run(store, steps)
    history = store.finish()
    reads = [one for one in history.operations if one.values]
    assume(reads)
    read: Any = data.draw(st.sampled_from(reads))
    read.values = (*read.values[1:], Seen(encode_value(1, 1, b"elsewhere")))
    assert "D5" in invariants(judge(history))


def test_owners_of_a_key_alone_are_judged() -> None:
    """A node that is no primary owes nothing, but to hold nothing."""
    _, history, at = settled()
    assert history.end
    history.end.owners = [Owners(KEY, ("n1", "n2"))]
    spoil_sets(history, "n3", lambda _: held(at["v1"]))
    assert invariants(judge(history)) == ["H1"]
    spoil_sets(history, "n3", lambda _: None)
    assert judge(history) == []


def test_what_a_node_held_when_it_was_a_primary_may_lie_there() -> None:
    _, history, at = settled()
    assert history.end
    history.end.owners = [Owners(KEY, ("n1", "n2"))]
    history.add(Fault("layout", 0))
    spoil_sets(history, "n3", lambda _: held(at["v1"]))
    assert not found(history, "H1")
