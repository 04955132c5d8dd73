"""S1 to S7: what nodes have, and answer, after their disks failed them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from sadik.sim.checkers import judge
from sadik.sim.history import (
    Collected,
    Fault,
    FaultKind,
    History,
    Operation,
    Recovery,
    Run,
    Seen,
    Setup,
    StoredSet,
    StoredValue,
    encode_value,
)
from tests.sim.checkers.model_store import KEY, ModelStore, found, spoil_sets

Durability = Literal["always", "interval", "never", "memory"]


def recovered(
    durability: Durability = "always", cause: FaultKind = "power_cut", later_ms: float = 100
) -> tuple[History, Operation, Recovery]:
    """n1 acknowledged a write, and went down ``later_ms`` after; it has everything still."""
    store = ModelStore(Setup(durability=durability))
    write = store.write()
    since_ms = write.end_ms + later_ms
    stored = StoredSet.decode(KEY, store.sets[KEY].encoded)
    recovery = Recovery("n1", since_ms + 10, cause, since_ms, [stored])
    store.history.add(recovery)
    assert judge(store.history) == []
    return store.history, write, recovery


# S1.


@pytest.mark.parametrize(
    ("durability", "cause", "later_ms", "wrong"),
    [
        ("always", "power_cut", 0, True),
        ("always", "crash", 0, True),
        ("interval", "power_cut", 1000, False),
        ("interval", "power_cut", 1100, True),
        ("interval", "crash", 0, True),
        ("never", "power_cut", 1e6, False),
        ("never", "crash", 0, True),
        ("memory", "crash", 0, False),
        ("always", "wiped", 0, False),
    ],
)
def test_a_loss_against_the_modes_promise_is_reported(
    durability: Durability, cause: FaultKind, later_ms: float, wrong: bool
) -> None:
    history, write, recovery = recovered(durability, cause, later_ms)
    recovery.sets = []
    assert [one.operations for one in found(history, "S1")] == [(write.number,)] * wrong


@pytest.mark.parametrize(
    "change",
    [
        lambda write: StoredSet(KEY, write.dots),
        lambda write: StoredSet(KEY, (), (StoredValue((9, 9), write.value),)),
    ],
)
def test_what_is_known_or_shown_is_not_lost(change: Any) -> None:
    """It may have been replaced since."""
    history, write, recovery = recovered()
    recovery.sets = [change(write)]
    assert found(history, "S1") == []


def test_an_older_version_and_an_unreadable_record_are_losses() -> None:
    for stored in (StoredSet(KEY, ((1, 1),)), StoredSet(KEY, readable=False)):
        history, _, recovery = recovered()
        recovery.sets = [stored]
        assert found(history, "S1")


def test_nothing_is_owed_of_what_was_not_acknowledged_there_or_is_gone_for_a_reason() -> None:
    history, write, recovery = recovered()
    recovery.sets = []
    assert found(history, "S1")
    write.primaries = ("n2", "n3")
    assert found(history, "S1") == []
    write.primaries = ("n1", "n2")
    for reason in (
        Fault("wiped", write.end_ms + 1, nodes=("n1",)),
        Fault("flip", write.end_ms + 1, nodes=("n1",)),
        Collected(KEY, write.end_ms + 1),
    ):
        history, _, recovery = recovered()
        recovery.sets = []
        history.add(reason)
        assert found(history, "S1") == []


def test_what_an_earlier_power_cut_may_have_taken_is_not_owed_at_the_next() -> None:
    history, write, recovery = recovered("interval", later_ms=500)
    recovery.sets = []
    assert found(history, "S1") == []
    history.add(replace(recovery, at_ms=recovery.at_ms + 1e5, since_ms=recovery.since_ms + 1e5))
    assert found(history, "S1") == []
    assert write.outcome == "done"


# S2 and S3.


@pytest.mark.parametrize(
    "stored",
    [
        StoredSet(b""),
        StoredSet(KEY),
        StoredSet(KEY, ((1, 1),), (StoredValue((1, 1), b"torn"),)),
        StoredSet(KEY, ((1, 1),), (StoredValue((1, 1), encode_value(7, 7, KEY)),)),
    ],
)
def test_a_recovery_that_makes_things_up_is_reported(stored: StoredSet) -> None:
    history, _, recovery = recovered()
    recovery.sets.append(stored)
    assert found(history, "S2")


def test_a_derived_file_that_changes_an_answer_is_reported() -> None:
    history, _, recovery = recovered(cause="derived")
    recovery.before = list(recovery.sets)
    assert found(history, "S3") == []
    recovery.sets = [replace(recovery.sets[0], entries=())]
    assert found(history, "S3")
    recovery.sets = []
    assert found(history, "S3")


# S4 and S5.


def test_rot_that_is_served_held_or_left_is_reported() -> None:
    store = ModelStore()
    write = store.write()
    history = store.finish()
    rotten = (write.value or b"")[:-1] + b"~"
    assert judge(history) == []
    history.operations[-1].values = (Seen(rotten),)
    assert found(history, "S4")
    history.operations[-1].values = (Seen(write.value or b""),)
    spoil_sets(history, "n2", lambda _: StoredSet(KEY, write.dots, (StoredValue(write.dots[0], rotten),)))
    assert found(history, "S4")
    spoil_sets(history, "n2", lambda _: StoredSet(KEY, readable=False))
    (one,) = found(history, "S4")
    assert "not repaired" in one.text


@pytest.mark.parametrize(
    ("kind", "nodes", "wrong"),
    [
        ("eio", ("n1",), True),
        ("flip", ("n1",), True),
        ("eio", ("n1", "n2"), False),
        ("split", ("n1",), False),
    ],
)
def test_an_error_that_is_taken_for_absence_is_reported(
    kind: FaultKind, nodes: tuple[str, ...], wrong: bool
) -> None:
    store = ModelStore()
    write = store.write()
    read = store.read()
    store.history.add(Fault(kind, write.start_ms, read.end_ms, nodes))
    assert found(store.history, "S5") == []
    read.values, read.context = (), b""
    assert bool(found(store.history, "S5")) is wrong


def test_what_was_put_into_the_place_of_a_rotten_record_is_not_laid_to_the_error() -> None:
    """The first request has n1 repaired from a replica that did not have the write either."""
    store = ModelStore()
    write = store.write()
    first = store.read()
    read = store.read()
    store.history.add(Fault("flip", write.end_ms, read.end_ms, ("n1",)))
    read.values, read.context = (), b""
    assert found(store.history, "S5") == []
    first.end_ms = write.end_ms - 1
    assert found(store.history, "S5")


# S6 and S7.


def acknowledged(kind: FaultKind, nodes: tuple[str, ...], detail: str = "") -> tuple[History, Operation]:
    """A write by n1 and n2 amid a fault of some disks."""
    store = ModelStore()
    write = store.write()
    store.history.add(Fault(kind, write.start_ms - 1, write.end_ms + 1, nodes, detail=detail))
    return store.history, write


@pytest.mark.parametrize(("invariant", "kind", "detail"), [("S6", "sync_failed", ""), ("S7", "full", "0")])
def test_an_acknowledgement_by_a_disk_that_cannot_is_reported(
    invariant: str, kind: FaultKind, detail: str
) -> None:
    history, write = acknowledged(kind, ("n1",), detail)
    assert found(history, invariant)
    write.primaries = ("n2", "n3")
    assert found(history, invariant) == []
    write.primaries, write.fallbacks = ("n2",), ("n1",)
    assert found(history, invariant)
    write.outcome = "refused"
    assert found(history, invariant) == []


def test_an_acknowledgement_is_laid_to_the_engine_that_made_it() -> None:
    """Primaries store in the data's engine, fallbacks in that of the hints."""
    history, write = acknowledged("sync_failed", ("n1",), "hints")
    assert found(history, "S6") == []
    write.primaries, write.fallbacks = ("n2",), ("n1",)
    assert found(history, "S6")


@pytest.mark.parametrize(("nodes", "wrong"), [(("n1",), False), (("n1", "n3"), True)])
def test_an_acknowledgement_that_too_few_nodes_can_have_made_is_reported(
    nodes: tuple[str, ...], wrong: bool
) -> None:
    """Where it names nobody."""
    cases: list[tuple[str, FaultKind, str]] = [("S6", "sync_failed", ""), ("S7", "full", "0")]
    for invariant, kind, detail in cases:
        history, write = acknowledged(kind, nodes, detail)
        write.primaries = ()
        assert bool(found(history, invariant)) is wrong


@pytest.mark.parametrize(("detail", "wrong"), [("data", True), ("hints", False)])
def test_primaries_store_in_the_engine_of_the_data_alone(detail: str, wrong: bool) -> None:
    """Where the acknowledgement names nobody, and where the key lies is known."""
    store = ModelStore()
    write = store.write()
    write.primaries = ()
    fault = Fault("sync_failed", write.start_ms - 1, write.end_ms + 1, ("n1", "n3"), detail=detail)
    store.history.add(fault)
    history = store.finish()
    assert bool(found(history, "S6")) is wrong


@pytest.mark.parametrize(("kind", "wrong"), [("sync_failed", False), ("full", True)])
def test_a_node_that_was_started_again_has_its_engine_opened_anew(kind: FaultKind, wrong: bool) -> None:
    """By the end of another fault; a full disk stays full."""
    history, write = acknowledged(kind, ("n1", "n3"), "" if kind == "sync_failed" else "0")
    write.primaries = ()
    invariant = "S6" if kind == "sync_failed" else "S7"
    assert found(history, invariant)
    history.add(Run("n3", write.start_ms - 0.5))
    assert bool(found(history, invariant)) is wrong


@pytest.mark.parametrize(("ended_ms", "wrong"), [(-2, True), (1, False)])
def test_a_crash_that_came_later_took_nobody_out_of_reach(ended_ms: float, wrong: bool) -> None:
    """n1 cannot store, and n3 is down, unless it died later, in the middle of an operation on its disk."""
    history, write = acknowledged("sync_failed", ("n1",))
    write.primaries = ()
    history.add(Fault("crash", write.start_ms - 3, write.end_ms + 5, ("n3",)))
    history.add(Run("n3", write.start_ms - 9, write.start_ms + ended_ms))
    assert bool(found(history, "S6")) is wrong


def test_a_full_disk_with_room_for_a_little_may_acknowledge() -> None:
    """What it acknowledges and does not keep is lost (S1, D2)."""
    history, _ = acknowledged("full", ("n1",), "100")
    assert found(history, "S7") == []


def test_a_write_that_was_under_way_when_the_sync_failed_may_be_acknowledged() -> None:
    history, write = acknowledged("sync_failed", ("n1",))
    history.faults[0].start_ms = write.start_ms + 1
    assert found(history, "S6") == []


def test_a_full_disk_that_stops_reads_or_goes_on_when_there_is_room_is_reported() -> None:
    store = ModelStore()
    read = store.read(outcome="refused", reason="OOM the disk is full")
    store.history.add(Fault("full", read.start_ms - 1, read.end_ms + 1, ("n1",)))
    assert found(store.history, "S7")
    read.outcome = "done"
    write = store.refused(reason="StorageFull")
    assert found(store.history, "S7") == []
    write.start_ms += store.history.setup.answer_within_ms + 10
    assert found(store.history, "S7")
    store.history.faults.clear()
    assert found(store.history, "S7")


def test_a_node_alone_with_a_full_disk_refuses_plainly() -> None:
    store = ModelStore(Setup(nodes=("n1",)))
    write = store.refused(reason="OOM")
    store.history.add(Fault("full", write.start_ms - 1, write.end_ms + 1, ("n1",)))
    assert found(store.history, "S7") == []
    write.outcome = "unknown"
    assert found(store.history, "S7")
