"""G1 to G4: sessions of the Python client."""

from __future__ import annotations

from sadik.sim.checkers import judge
from sadik.sim.history import Operation, Setup
from tests.sim.checkers.model_store import ModelStore, found


def opened(setup: Setup | None = None) -> ModelStore:
    store = ModelStore(setup)
    store.session(1)
    return store


def as_was(read: Operation, earlier: Operation) -> None:
    """A read that shows what an earlier one showed."""
    read.values, read.context = earlier.values, earlier.context


def test_a_session_that_keeps_its_promises_is_not_reported() -> None:
    store = opened()
    first = store.write()
    store.write(after=first, context_of=-1)
    store.write(client=2)
    store.write(after=store.read(), context_of=-1)
    store.read()
    assert judge(store.finish()) == []


def test_a_read_without_the_sessions_own_write_is_reported() -> None:
    store = opened()
    empty = store.read()
    write = store.write(after=empty, context_of=-1)
    read = store.read()
    assert judge(store.history) == []
    as_was(read, empty)
    assert [one.operations for one in found(store.history, "G1")] == [(read.number, write.number)] * 2


def test_a_read_whose_context_falls_short_is_reported_though_its_values_are_right() -> None:
    store = opened()
    write = store.write()
    read = store.read()
    read.context = b""
    (one,) = found(store.history, "G1")
    assert one.operations == (read.number, write.number)


def test_a_read_that_shows_less_than_one_before_is_reported() -> None:
    store = opened()
    store.write(client=2)
    before = store.read()
    store.write(client=2, after=before)
    seen = store.read()
    again = store.read()
    assert judge(store.history) == []
    as_was(again, before)
    assert (again.number, seen.number) in [one.operations for one in found(store.history, "G2")]


def test_an_error_instead_of_an_older_value_is_no_violation() -> None:
    store = opened()
    store.write()
    read = store.read(outcome="refused", reason="StaleRead", context=b"", values=())
    assert read.outcome == "refused"
    assert judge(store.history) == []


def test_a_write_that_does_not_replace_the_one_before_is_reported() -> None:
    store = opened()
    first = store.write()
    second = store.write()
    assert {one.operations for one in found(store.history, "G3")} == {(second.number, first.number)}
    second.context_of = first.number
    assert found(store.history, "G3") == []


def test_a_write_after_one_that_left_siblings_promises_nothing() -> None:
    """It gave no context, so both stay until the session reads."""
    store = opened()
    store.write(client=2)
    beside = store.write()
    assert beside.context == b""
    store.write()
    assert judge(store.history) == []


def test_a_write_that_does_not_replace_what_its_session_read_is_reported() -> None:
    store = opened()
    other = store.write(client=2)
    read = store.read()
    write = store.write()
    assert {one.operations for one in found(store.history, "G4")} == {
        (write.number, other.number),
        (write.number, read.number),
    }


def test_sessions_without_guarantees_and_other_sessions_writes_are_not_judged() -> None:
    store = ModelStore()
    empty = store.read()
    store.write()
    as_was(store.read(), empty)
    assert [one for name in ("G1", "G2", "G3", "G4") for one in found(store.history, name)] == []
    store.session(2)
    as_was(store.read(client=2), empty)
    assert found(store.history, "G1") == []


def test_one_node_alone_is_not_judged_by_contexts() -> None:
    """It forgets entries of its former runs, and nothing is missing."""
    store = opened(Setup(nodes=("n1",)))
    store.write()
    store.read().context = b""
    assert judge(store.history) == []
