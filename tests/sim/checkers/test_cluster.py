"""C1 to C3, Q1 to Q3, H1, M1 to M4 and L1: one thing spoiled, and the checker that must see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sadik.kernels import versions
from sadik.sim.checkers import Oracle, Staleness, judge, staleness
from sadik.sim.history import (
    Bound,
    Fault,
    FaultKind,
    Hints,
    History,
    MemberSeen,
    NodeEnd,
    Operation,
    Owners,
    Phase,
    Removed,
    Root,
    Run,
    Setup,
    StoredSet,
    Suspicion,
)
from tests.sim.checkers.model_store import KEY, NODES, WALL_MS, ModelStore, found, spoil_sets

FIVE = Setup(nodes=("n1", "n2", "n3", "n4", "n5"), detect_within_ms=1000)
LATER_MS = WALL_MS + 5000


def settled(setup: Setup | None = None) -> History:
    store = ModelStore(setup)
    store.write(after=store.write())
    history = store.finish()
    assert judge(history) == []
    return history


def node_of(history: History, name: str) -> NodeEnd:
    assert history.end
    (one,) = [one for one in history.end.nodes if one.node == name]
    return one


# C1.


@pytest.mark.parametrize(
    "change",
    [
        lambda one: None,
        lambda one: StoredSet(KEY, readable=False),
        lambda one: replace(one, values=(one.values[0]._replace(dot=(9, 9)),)),
        lambda one: replace(one, values=(one.values[0]._replace(expires_at_ms=5),)),
        lambda one: replace(one, values=(one.values[0]._replace(tombstone=True),)),
        lambda one: replace(one, values=(one.values[0]._replace(value=b"x"),)),
    ],
)
def test_a_replica_that_holds_something_else_is_reported(change: Any) -> None:
    history = settled()
    spoil_sets(history, "n3", change)
    (one,) = found(history, "C1")
    assert one.key == KEY


def test_what_is_merely_known_to_be_obsolete_may_differ() -> None:
    """A node may forget it."""
    history = settled()
    spoil_sets(history, "n3", lambda one: replace(one, entries=(*one.entries, (9, 9))))
    assert found(history, "C1") == []


def taken_out(one: StoredSet) -> StoredSet:
    """Without what has a time to live, as collection leaves it."""
    left = [value for value in one.values if value.expires_at_ms < 0]
    return replace(one, values=tuple(left), encoded=versions.encode(one.entries, []) if not left else b"")


@pytest.mark.parametrize(("ttl_ms", "same"), [(100, True), (3_600_000, False)])
def test_what_has_expired_may_differ(ttl_ms: int, same: bool) -> None:
    """Each node takes it out in its own time."""
    store = ModelStore()
    store.write(ttl_ms=ttl_ms)
    history = store.finish()
    spoil_sets(history, "n3", taken_out)
    assert [found(history, name) == [] for name in ("C1", "D6")] == [same, same]


@pytest.mark.parametrize(("mortal_first", "same"), [(True, True), (False, False)])
def test_what_has_expired_may_not_differ_where_it_hides_a_value(mortal_first: bool, same: bool) -> None:
    """GET shows nothing where it is, and the older value where it is not."""
    store = ModelStore()
    for ttl_ms in (100, -1) if mortal_first else (-1, 100):
        store.write(ttl_ms=ttl_ms)
    history = store.finish()
    spoil_sets(history, "n3", taken_out)
    assert (found(history, "C1") == []) is same


def test_replicas_are_looked_at_when_the_last_phase_ends() -> None:
    """What expires between the last read and then may be gone at one of them."""
    store = ModelStore()
    write = store.write(ttl_ms=5000)
    history = store.finish()
    spoil_sets(history, "n3", taken_out)
    assert found(history, "C1")
    history.phases[-1].end_ms = write.start_ms + 6000
    assert found(history, "C1") == []


def test_replicas_that_take_too_long_or_for_ever_are_reported() -> None:
    history = settled()
    assert history.end
    history.end.equal_ms = history.end.healed_ms + history.setup.converge_within_ms + 1
    assert "took" in found(history, "C1")[0].text
    history.end.equal_ms = -1
    assert "still different" in found(history, "C1")[0].text


def test_merkle_roots_that_differ_are_reported() -> None:
    history = settled()
    node_of(history, "n2").roots = (Root("0", 6, 6),)
    assert found(history, "C1")


# C2.


def core(outcome: Any = "done", late_ms: float = 0) -> tuple[ModelStore, Operation, Operation]:
    """Two nodes of five are gone for ever; a read and a write of what is left."""
    store = ModelStore(FIVE)
    store.write()
    store.history.add(Fault("crash", store.now_ms, nodes=("n4", "n5")))
    store.history.add(Phase("core", store.now_ms, nodes=("n1", "n2", "n3")))
    store.now_ms += late_ms
    read = store.read(node="n1", outcome=outcome)
    if outcome == "refused":
        return store, read, store.refused(node="n2")
    return store, read, store.write(after=read, node="n2", outcome=outcome)


def test_a_core_that_answers_is_not_reported() -> None:
    store, *_ = core()
    assert found(store.history, "C2") == []


def test_a_core_that_never_answers_is_reported_for_each_key_and_kind() -> None:
    store, *_ = core(outcome="unknown")
    assert len(found(store.history, "C2")) == 2


def test_a_core_that_answers_in_time_may_have_refused_before() -> None:
    store, *_ = core(outcome="refused")
    store.write(after=store.read(node="n1"), node="n1")
    assert found(store.history, "C2") == []


def test_a_core_that_stops_answering_is_reported() -> None:
    store, *_ = core()
    store.now_ms += FIVE.answer_within_ms
    store.read(node="n1", outcome="unknown")
    assert found(store.history, "C2")


def test_a_core_without_what_it_acknowledged_is_reported() -> None:
    store, read, _ = core()
    read.values = ()
    (one,) = found(store.history, "C2")
    assert one.operations == (read.number, 0)
    store.history.operations[0].primaries = ("n4", "n5")
    assert found(store.history, "C2") == []


def test_a_core_that_nobody_asks_is_reported() -> None:
    """The checker would be idle."""
    history = History(FIVE)
    history.add(Phase("core", 0, nodes=("n1",)))
    assert found(history, "C2")


# C3.


def test_repair_of_equal_replicas_and_a_root_that_is_not_the_datas_are_reported() -> None:
    history = settled()
    node_of(history, "n1").repairs = 1
    assert found(history, "C3")
    history = settled()
    node_of(history, "n1").roots = (Root("0", 5, 7),)
    assert found(history, "C3")
    node_of(history, "n1").roots = (Root("0", 5),)
    assert found(history, "C3") == []


# Q1 and Q2.


def stale(setup: Setup | None = None, **fields: Any) -> tuple[ModelStore, Operation, Operation]:
    """A read that shows nothing of what was acknowledged before."""
    store = ModelStore(setup)
    write = store.write(**{name: fields[name] for name in ("w", "pw") if name in fields})
    read = store.read(**{name: fields[name] for name in ("r", "pr") if name in fields})
    assert found(store.history, "Q1") == []
    read.values, read.context = (), b""
    return store, write, read


def test_a_stale_read_by_strict_quorums_is_reported() -> None:
    store, write, read = stale()
    (one,) = found(store.history, "Q1")
    assert one.operations == (read.number, write.number)
    assert staleness(Oracle(store.history)).stale == 0


@pytest.mark.parametrize(
    ("setup", "fields", "strict"),
    [
        (None, {"r": 1}, False),
        (None, {"r": 1, "w": 3}, True),
        (None, {"w": 1}, False),
        (FIVE, {}, True),
        (FIVE, {"pr": 2, "pw": 2}, True),
        (FIVE, {"pr": 1, "pw": 2, "r": 1}, False),
    ],
)
def test_quorums_that_need_not_meet_promise_nothing(setup: Setup | None, fields: Any, strict: bool) -> None:
    store, _, _ = stale(setup, **fields)
    assert bool(found(store.history, "Q1")) is strict
    assert staleness(Oracle(store.history)) == Staleness(int(not strict), int(not strict))


@pytest.mark.parametrize(
    ("kind", "setup", "fields", "strict"),
    [
        ("split", None, {}, True),
        ("split", FIVE, {}, False),
        ("split", FIVE, {"pr": 2, "pw": 2}, True),
        ("crash", FIVE, {"pr": 2, "pw": 2}, True),
        ("wiped", FIVE, {"pr": 2, "pw": 2}, False),
        ("layout", None, {}, False),
        ("restored", None, {}, False),
        ("power_cut", None, {}, True),
        ("power_cut", Setup(durability="interval"), {}, False),
        ("crash", Setup(durability="memory"), {}, False),
        ("eio", None, {}, True),
    ],
)
def test_faults_loosen_what_they_touch(
    kind: FaultKind, setup: Setup | None, fields: Any, strict: bool
) -> None:
    """Fallbacks acknowledge for primaries that are away, unless PW asks for these or there is no fallback."""
    store, write, read = stale(setup, **fields)
    store.history.add(Fault(kind, write.start_ms, read.end_ms, ("n1",), ("n2",)))
    assert bool(found(store.history, "Q1")) is strict


def test_a_node_that_is_taken_for_down_loosens_quorums_too() -> None:
    store, write, _ = stale(FIVE)
    store.history.add(Suspicion("n1", "n2", write.start_ms, write.end_ms))
    assert found(store.history, "Q1") == []


def test_a_read_that_shows_what_replaced_the_write_is_not_stale() -> None:
    store = ModelStore()
    store.write(after=store.write())
    store.read()
    store.blind()
    store.read()
    assert found(store.history, "Q1") == []


def test_a_read_of_the_newest_value_alone_is_stale_if_that_was_replaced() -> None:
    """What else there is it does not tell."""
    store = ModelStore()
    first = store.read(newest_only=True)
    store.write()
    one = store.read(newest_only=True)
    store.write(client=2)
    assert len(store.read(newest_only=True).values) == 2
    store.history.operations[-1].values = one.values
    assert found(store.history, "Q1") == []
    store.write(after=store.read())
    late = store.read(newest_only=True)
    late.values = one.values
    assert [found_one.operations[0] for found_one in found(store.history, "Q1")] == [late.number]
    late.values = first.values
    assert late.number in {found_one.operations[0] for found_one in found(store.history, "Q1")}


def test_to_a_read_of_the_newest_value_alone_a_newer_delete_hides_what_it_has_not_seen() -> None:
    """GET shows nothing where the newest is a tombstone; SADIK.GET would show the sibling."""
    store = ModelStore()
    first = store.write()
    store.write(client=2)
    store.delete(after=first)
    late = store.read(newest_only=True)
    late.values = ()
    assert found(store.history, "Q1") == []
    late.newest_only = False
    assert found(store.history, "Q1")


def test_to_a_read_of_the_newest_value_alone_one_that_has_expired_hides_what_it_has_not_seen() -> None:
    """As a delete at that time would."""
    store = ModelStore()
    store.write()
    mortal = store.write(client=2, ttl_ms=5)
    late = store.read(newest_only=True)
    late.values = ()
    late.start_ms, late.end_ms = mortal.end_ms + 10, mortal.end_ms + 12
    assert found(store.history, "Q1") == []
    mortal.ttl_ms = 1000
    assert found(store.history, "Q1")


# Q3.


def strictly(**fields: Any) -> tuple[History, Operation]:
    store = ModelStore(FIVE)
    write = store.write(pw=2, node="n4", **fields)
    history = store.finish()
    assert judge(history) == []
    return history, write


def test_fallbacks_that_count_as_primaries_are_reported() -> None:
    history, write = strictly()
    write.primaries, write.fallbacks = ("n1",), ("n4",)
    assert found(history, "Q3")
    write.primaries, write.fallbacks = ("n1", "n4"), ()
    assert found(history, "Q3")


EARLY_MS = WALL_MS - 500
"""Nodes run, and nobody has asked for anything."""


@pytest.mark.parametrize(
    ("faults", "wrong"),
    [
        ([Fault("crash", EARLY_MS, nodes=("n1",))], False),
        ([Fault("crash", EARLY_MS, nodes=("n1",)), Fault("pause", EARLY_MS, nodes=("n2",))], True),
        (
            [
                Fault("crash", EARLY_MS, nodes=("n1",)),
                Fault("crash", EARLY_MS, WALL_MS, nodes=("n2",)),
            ],
            False,
        ),
        ([Fault("split", EARLY_MS, nodes=("n4", "n1"), others=("n2", "n3", "n5"))], True),
        ([Fault("split", EARLY_MS, nodes=("n2", "n3", "n5"), others=("n1", "n4"))], True),
        ([Fault("split", EARLY_MS, nodes=("n4",), others=("n1", "n2"))], False),
    ],
)
def test_more_primaries_than_were_in_reach_are_reported(faults: list[Fault], wrong: bool) -> None:
    """Where an acknowledgement names nobody; a fourth node may hand on to a third that reaches two."""
    history, write = strictly()
    write.primaries = ()
    for fault in faults:
        history.add(fault)
    assert bool(found(history, "Q3")) is wrong


# H1.


@pytest.mark.parametrize(
    "hints",
    [
        Hints(3, 2, 0, 0, 0),
        Hints(3, 4, 0, 0, -1),
        Hints(3, 2, 0, 0, 1),
        Hints(3, 2, 1, 0, 0),
        Hints(3, 2, 0, 1, 0),
    ],
)
def test_hints_that_went_another_way_are_reported(hints: Hints) -> None:
    history = settled()
    node_of(history, "n1").hints = hints
    assert found(history, "H1")


def test_a_full_disk_may_lose_the_account_of_a_hint() -> None:
    """It goes when it is delivered, and that cannot be written down."""
    history = settled()
    node_of(history, "n1").hints = Hints(3, 2, 0, 1, 0)
    assert found(history, "H1")
    history.add(Fault("full", 0, 0, nodes=("n1",)))
    assert found(history, "H1") == []


def test_hints_may_end_otherwise_for_a_reason() -> None:
    history = settled()
    node_of(history, "n1").hints = Hints(3, 1, 0, 1, 1)
    history.add(Fault("flip", 0, 0, nodes=("n1",)))
    history.add(Fault("crash", 0, nodes=("n9",)))
    assert found(history, "H1") == []
    history = settled(replace(ModelStore().history.setup, hint_life_ms=500))
    node_of(history, "n1").hints = Hints(3, 2, 1, 0, 0)
    assert found(history, "H1") == []


# M1.


def test_nodes_of_different_layouts_or_of_one_too_late_are_reported() -> None:
    history = settled()
    node_of(history, "n2").layout_digest = "other"
    assert found(history, "M1")
    for agreed_ms in (-1, 1e15):
        history = settled()
        assert history.end
        history.end.agreed_ms = agreed_ms
        assert found(history, "M1")


@pytest.mark.parametrize(
    "primaries", [("n1", "n2"), ("n1", "n2", "n2"), ("n1", "n2", "n9"), ("n1", "n2", "n3", "n4")]
)
def test_a_partition_without_its_primaries_is_reported(primaries: tuple[str, ...]) -> None:
    history = settled()
    assert history.end
    history.end.partitions = [Owners(b"7", primaries)]
    assert found(history, "M1")


# M2.


def test_a_suspicion_without_reason_is_reported_from_the_number_on_that_is_allowed() -> None:
    history = settled()
    history.add(Suspicion("n1", "n2", LATER_MS, LATER_MS + 10))
    assert found(history, "M2")
    history.setup.false_suspicions_max = 1
    assert found(history, "M2") == []
    history.setup.false_suspicions_max = 0
    history.suspicions[0].end_ms = LATER_MS
    assert found(history, "M2") == []
    history.suspicions[0].end_ms = LATER_MS + 10
    history.add(Fault("slow", LATER_MS - 500, LATER_MS - 400, ("n3",), ("n2",)))
    assert found(history, "M2") == []


def test_a_node_that_is_down_and_not_noticed_is_reported() -> None:
    history = settled()
    down = Fault("crash", WALL_MS - 5000, WALL_MS - 1000, nodes=("n3",))
    history.add(down)
    history.runs = []
    assert len(found(history, "M2")) == 2
    for by in ("n1", "n2"):
        history.add(Suspicion(by, "n3", down.start_ms + 500, down.end_ms))
    assert found(history, "M2") == []
    history.suspicions[0].end_ms = down.start_ms + 600
    assert len(found(history, "M2")) == 1


def test_a_crash_that_waits_for_its_moment_is_none_before() -> None:
    history = settled()
    planned = Fault("crash", WALL_MS - 5000, WALL_MS - 1000, nodes=("n3",))
    history.add(planned)
    wall_ms = WALL_MS - 9000
    history.runs = [Run("n1", wall_ms), Run("n2", wall_ms), Run("n3", wall_ms, planned.start_ms)]
    assert len(found(history, "M2")) == 2
    history.runs[2].end_ms = planned.start_ms + 10
    assert found(history, "M2") == []


def test_who_is_started_again_is_stopped_no_more() -> None:
    history = settled()
    history.add(stopped := Fault("pause", WALL_MS - 5000, WALL_MS - 1000, nodes=("n3",)))
    wall_ms = WALL_MS - 9000
    history.runs = [Run("n1", wall_ms), Run("n2", wall_ms), Run("n3", wall_ms)]
    assert len(found(history, "M2")) == 2
    history.runs[2].end_ms = stopped.start_ms + 400
    assert len(found(history, "M2")) == 2
    history.runs.append(Run("n3", stopped.start_ms + 500))
    assert found(history, "M2") == []


def test_what_a_slow_path_has_taken_arrives_long_after() -> None:
    history = settled()
    history.add(Fault("slow", WALL_MS - 9000, WALL_MS - 8000, ("n1",), ("n2",)))
    history.add(Suspicion("n2", "n1", LATER_MS, LATER_MS + 10))
    history.add(Fault("pause", WALL_MS - 5000, WALL_MS - 1000, nodes=("n1",)))
    history.add(Suspicion("n3", "n1", WALL_MS - 4500, WALL_MS - 1000))
    assert found(history, "M2") == []


# M3.


def test_an_incarnation_that_falls_is_reported_unless_a_disk_was_replaced() -> None:
    history = settled()
    history.add(MemberSeen("n1", "n2", 10, 5))
    history.add(MemberSeen("n1", "n2", 20, 5))
    assert found(history, "M3") == []
    history.add(MemberSeen("n1", "n2", 30, 4))
    assert found(history, "M3")
    history.add(Fault("restored", 25, 25, nodes=("n1",)))
    assert found(history, "M3") == []


@pytest.mark.parametrize(("node", "excused"), [("n1", True), ("n2", False)])
def test_what_a_node_learned_of_others_may_be_lost_with_its_power(node: str, excused: bool) -> None:
    history = settled()
    history.add(MemberSeen("n1", "n2", 10, 5))
    history.add(Fault("power_cut", 15, 15, nodes=(node,)))
    history.add(MemberSeen("n1", "n2", 20, 4))
    assert (found(history, "M3") == []) is excused


def test_a_node_that_left_and_is_back_is_reported() -> None:
    history = settled()
    history.add(Removed("n3", 0))
    (one, _) = found(history, "M3")
    assert "n1" in one.text
    for node in ("n1", "n2"):
        node_of(history, node).members = ("n1", "n2")
    assert found(history, "M3") == []
    history.add(MemberSeen("n1", "n3", history.setup.agree_within_ms + 1, 1))
    assert found(history, "M3")


# M4.


def test_an_actor_of_two_runs_and_two_runs_at_once_are_reported() -> None:
    history = settled()
    history.runs[1].actors = history.runs[0].actors
    assert found(history, "M4")
    history = settled()
    history.add(Run("n1", WALL_MS, actors=(77,)))
    assert found(history, "M4")
    history.runs[-1].member = False
    assert found(history, "M4") == []
    history.runs[-1].member, history.runs[0].end_ms = True, WALL_MS - 1
    assert found(history, "M4") == []


# L1.


def test_a_quantity_above_its_limit_is_reported() -> None:
    history = settled()
    history.add(Bound("tasks", 100, 100, "n1"))
    assert found(history, "L1") == []
    history.add(Bound("queue", 101, 100))
    (one,) = found(history, "L1")
    assert one.text == "queue reached 101, the limit is 100"


def test_nodes_are_the_default_ones() -> None:
    """The parametrisations above rely on it."""
    assert Setup().nodes == NODES
