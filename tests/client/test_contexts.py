"""What a session has seen, and what a later read must include."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sadik.client.contexts import NOTHING, Contexts, covers, seen_by
from sadik.kernels.reference import versions
from tests.client.fake_nodes import context_of

KEY = b"key"
entries = st.dictionaries(st.integers(1, 6), st.integers(1, 9), max_size=5)


def made(seen: dict[int, int]) -> bytes:
    return context_of(KEY, *sorted(seen.items()))


@given(entries, entries)
def test_covering_is_what_merging_says(one, other):
    """A read includes an earlier one exactly when merging the earlier one into it changes nothing."""
    left, right = (versions.encode(sorted(it.items()), ()) if it else b"" for it in (one, other))
    includes = versions.merge(left, right) == left
    assert covers(made(one), seen_by(made(other))) is includes


def test_entries_are_found_with_and_without_a_hint():
    """The hint is not part of what was seen."""
    assert seen_by(context_of(KEY, (1, 2), (3, 4))) == {1: 2, 3: 4}
    assert seen_by(context_of(KEY, (1, 2), (3, 4), hint=7)) == {1: 2, 3: 4}
    assert seen_by(b"") == NOTHING


def test_context_of_another_form_proves_nothing():
    """Nodes may be newer than their clients; reads go on, unchecked."""
    for strange in (b"!", b"AgAA", b"AQ", context_of(KEY, (1, 2))[:-3], b"AQ" + b"_" * 30):
        assert covers(strange, {1: 2}) is True
        assert seen_by(strange) == NOTHING


def test_empty_context_covers_nothing_that_was_seen():
    """A replica that knows nothing of a key is as far behind as can be."""
    assert covers(b"", {1: 1}) is False
    assert covers(b"", NOTHING) is True


def test_full_context_may_lack_the_oldest_only():
    """Nodes leave out the oldest of more than 64 entries; that is not a stale read. A newer one is."""
    full = made({actor: 1000 + actor for actor in range(1, 65)})
    assert covers(full, {99: 1000}) is True
    assert covers(full, {99: 1002}) is False
    assert covers(full, {5: 1006}) is False
    assert covers(made({1: 1001}), {99: 1000}) is False


def test_write_adds_its_own_event_to_what_was_seen():
    """Read your writes: the next read must reach the new context, and what was read before."""
    contexts = Contexts(10)
    contexts.on_read(KEY, made({1: 5, 2: 3}))
    contexts.on_write(KEY, made({1: 9}))
    assert contexts.context(KEY) == made({1: 9})
    assert contexts.seen(KEY) == {1: 9, 2: 3}


def test_write_that_left_siblings_adds_nothing():
    """Its answer names no context; what the session hands back still covers what it has read."""
    contexts = Contexts(10)
    contexts.on_read(KEY, made({1: 5}))
    contexts.on_write(KEY, None)
    assert contexts.context(KEY) == made({1: 5})


def test_older_answer_does_not_take_anything_back():
    """Two reads of one session may overtake each other."""
    contexts = Contexts(10)
    contexts.on_read(KEY, made({1: 5}))
    contexts.on_read(KEY, made({1: 4}))
    assert contexts.context(KEY) == made({1: 5})


def test_replaced_and_forgotten_keys_start_anew():
    """Where a session does not compare, or is told not to."""
    contexts = Contexts(10)
    contexts.on_read(KEY, made({1: 5}))
    contexts.on_read(b"other", made({1: 5}))
    contexts.replace(KEY, made({2: 1}))
    assert contexts.seen(KEY) == {2: 1}
    contexts.forget(KEY)
    contexts.forget(b"never seen")
    assert (contexts.context(KEY), len(contexts)) == (b"", 1)
    contexts.forget()
    assert len(contexts) == 0


def test_memory_is_bounded_and_keeps_what_is_used():
    """At the limit the key goes that was not used for the longest."""
    contexts = Contexts(3)
    for number in range(3):
        contexts.on_read(b"%d" % number, made({1: 1}))
    assert contexts.context(b"0")
    contexts.on_read(b"3", made({1: 1}))
    assert [bool(contexts.context(b"%d" % number)) for number in range(4)] == [True, False, True, True]


def test_what_was_seen_of_one_key_is_bounded():
    """Runs of nodes come and go; the newest 64 are compared."""
    contexts = Contexts(3)
    for actor in range(1, 200):
        contexts.on_write(KEY, made({actor: actor}))
    assert contexts.seen(KEY) == {actor: actor for actor in range(136, 200)}
