"""The order of writes as clients know it, and histories without a fault."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sadik.sim.checkers import Oracle, judge
from sadik.sim.checkers.oracle import KeyStory, bits
from sadik.sim.history import Operation
from tests.sim.checkers.model_store import KEY, ModelStore


def story_of(store: ModelStore) -> KeyStory:
    return Oracle(store.history).stories[KEY]


def below(story: KeyStory, write: Operation) -> list[int]:
    return [story.writes[place].number for place in bits(story.below[story.bit[write.number]])]


def test_a_write_is_above_what_its_context_has_shown_and_what_that_was_above() -> None:
    """The edges are what clients received, and paths count."""
    store = ModelStore()
    first = store.write()
    other = store.write(client=2)
    second = store.write(after=store.read())
    third = store.write(after=second)
    story = story_of(store)
    assert below(story, first) == below(story, other) == []
    assert below(story, second) == [first.number, other.number]
    assert below(story, third) == [first.number, other.number, second.number]


def test_a_context_is_recognised_by_its_text_where_nobody_says_whose_it_is() -> None:
    """A session of the client hands contexts back by itself."""
    store = ModelStore()
    first = store.write()
    second = store.write(after=store.read(), context_of=-1)
    assert below(story_of(store), second) == [first.number]


def test_a_blind_write_is_above_what_its_coordinator_held() -> None:
    """Its acknowledgement tells what that was; a value that it did not hold stays beside it."""
    store = ModelStore()
    first = store.write()
    blind = store.blind()
    blind.covered = ()
    assert below(story_of(store), blind) == []
    blind.covered = first.dots
    assert below(story_of(store), blind) == [first.number]


def test_a_blind_write_that_tells_nothing_may_be_above_all_before_its_end() -> None:
    """Absence is judged by what may be, presence by what is certain."""
    store = ModelStore()
    first = store.write()
    blind = store.blind(outcome="unknown")
    blind.covered = None
    later = store.write()
    story = story_of(store)
    assert below(story, blind) == []
    assert (
        story.maybe_below[story.bit[blind.number]]
        == 1 << story.bit[first.number] | 1 << story.bit[later.number]
    )
    blind.outcome = "done"
    story = story_of(store)
    assert story.maybe_below[story.bit[blind.number]] == 1 << story.bit[first.number]


def test_a_refused_write_is_above_nothing() -> None:
    store = ModelStore()
    store.write()
    refused = store.write(after=store.read(), outcome="refused")
    assert below(story_of(store), refused) == []


STEP = st.tuples(
    st.sampled_from(
        ["read", "write", "update", "stale", "blind", "delete", "blind_delete", "refused", "mortal"]
    ),
    st.integers(1, 3),
    st.sampled_from([b"a", b"b"]),
)


def run(store: ModelStore, steps: list[tuple[str, int, bytes]]) -> None:
    """Clients that read, think and write, some on what is no longer there."""
    seen: dict[tuple[int, bytes], Operation] = {}
    actions: dict[str, Callable[[int, bytes], Operation]] = {
        "read": lambda client, key: store.read(key, client=client),
        "write": lambda client, key: store.write(key, client=client),
        "mortal": lambda client, key: store.write(key, client=client, ttl_ms=100.0),
        "blind": lambda client, key: store.blind(key, client=client),
        "blind_delete": lambda client, key: store.blind_delete(key, client=client),
        "refused": lambda client, key: store.refused(key, client=client),
        "update": lambda client, key: store.write(key, store.read(key, client=client), client=client),
        "stale": lambda client, key: store.write(key, seen.get((client, key)), client=client),
        "delete": lambda client, key: store.delete(key, seen.get((client, key)), client=client),
    }
    for action, client, key in steps:
        operation = actions[action](client, key)
        if operation.context:
            seen[client, key] = operation


@given(st.lists(STEP, max_size=40))
def test_nothing_is_wrong_with_a_perfect_store(steps: list[tuple[str, int, bytes]]) -> None:
    """A checker that finds faults where there are none is of no use."""
    store = ModelStore()
    run(store, steps)
    assert judge(store.finish()) == []


@given(st.lists(STEP, max_size=40), st.data())
def test_nothing_is_wrong_where_outcomes_are_unknown_and_nothing_is_told(
    steps: list[tuple[str, int, bytes]], data: st.DataObject
) -> None:
    """What servers may leave unsaid makes checkers lenient, and never wrong."""
    store = ModelStore()
    run(store, steps)
    history = store.finish()
    for operation in history.operations:
        if operation.writes and operation.outcome == "done" and data.draw(st.booleans()):
            operation.outcome, operation.context = "unknown", b""
        if data.draw(st.booleans()):
            operation.dots, operation.covered, operation.primaries = (), None, ()
            operation.context_of = -1
    assert judge(history) == []
