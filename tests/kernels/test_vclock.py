"""The vector clock kernel and its plain twin: same cases on both, laws, bytes, hostile input."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import CorruptRecord, InvalidRequest
from sadik.kernels.native import vclock as native
from sadik.kernels.reference import vclock as reference

TWINS = pytest.mark.parametrize(
    "clock", [native.VectorClock, reference.VectorClock], ids=["native", "reference"]
)
UINT64_MAX = 2**64 - 1

# Names that share their first eight bytes, hold NUL, or lie beyond ASCII: where order by prefix goes wrong.
actors = st.one_of(
    st.sampled_from(["", "a", "a\0", "ab", "node-0001", "node-0002", "node-000", "é", "\U0001f600", "￿"]),
    st.sampled_from([0, 1, 2, 97, UINT64_MAX]),
    st.text(max_size=10),
)
counters = st.one_of(st.integers(1, 4), st.just(UINT64_MAX))
times = st.integers(0, 3)
pairs = st.dictionaries(actors, st.tuples(counters, times), max_size=6).map(
    lambda drawn: [(actor, *pair) for actor, pair in drawn.items()]
)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives in comparable form, or the class of what it raises."""
    try:
        result = call()
    except (CorruptRecord, InvalidRequest, TypeError) as error:
        return type(error)
    return result.pairs() if hasattr(result, "pairs") else result


def both(*drawn: list[tuple[Any, int, int]]) -> list[list[Any]]:
    """Each list of pairs as a native and as a plain clock."""
    return [
        [kind.from_pairs(items) for items in drawn] for kind in (native.VectorClock, reference.VectorClock)
    ]


@settings(max_examples=60)
@given(pairs, pairs, actors, times, st.integers(0, 7))
def test_twins_agree(left: Any, right: Any, actor: Any, now_ms: int, pairs_max: int) -> None:
    """Every operation, on clocks whose actors half overlap."""
    calls: list[Callable[[Any, Any], Any]] = [
        lambda one, two: one.merge(two),
        lambda one, two: one.compare(two),
        lambda one, two: one.descends(two),
        lambda one, two: (one == two, one != two, one <= two, one < two, one >= two, one > two),
        lambda one, two: one.increment(actor, now_ms),
        lambda one, two: one.counter(actor),
        lambda one, two: actor in one,
        lambda one, two: one.truncate(pairs_max),
        lambda one, two: (list(one), one.items(), len(one), repr(one)),
        lambda one, two: one.encode(),
        lambda one, two: type(one).decode(one.encode()),
    ]
    for call in calls:
        results = [outcome(lambda call=call, twin=twin: call(*twin)) for twin in both(left, right)]
        assert results[0] == results[1]


@settings(max_examples=60)
@given(pairs, pairs, pairs)
def test_merge_is_a_join(one: Any, two: Any, three: Any) -> None:
    """Commutes, associates, is idempotent, times included; the least clock that descends from both."""
    a, b, c = both(one, two, three)[0]
    merged = a.merge(b)
    assert merged.pairs() == b.merge(a).pairs()
    assert a.merge(b).merge(c).pairs() == a.merge(b.merge(c)).pairs()
    assert merged.merge(a).pairs() == merged.pairs() == (a | b).pairs()
    assert merged.descends(a)
    assert merged >= b
    assert hash(a.merge(b)) == hash(b.merge(a))
    assert not (c >= a and c >= b) or c >= merged


@settings(max_examples=60)
@given(pairs, pairs)
def test_compare_is_the_order_of_every_counter(left: Any, right: Any) -> None:
    """A <= B on every node makes A an ancestor (Dynamo 4.4)."""
    one, two = both(left, right)[0]
    names = {actor for actor, _, _ in left + right}
    below = all(one.counter(name) <= two.counter(name) for name in names)
    above = all(one.counter(name) >= two.counter(name) for name in names)
    expected = {
        (True, True): "equal",
        (True, False): "before",
        (False, True): "after",
        (False, False): "concurrent",
    }[below, above]
    assert one.compare(two) == expected
    assert (one == two) == (expected == "equal")


@TWINS
def test_bytes_are_pinned(clock: Any) -> None:
    """Clocks that users stored must stay readable."""
    value = clock.from_pairs([("é", 3, 5), (258, 1, 0)])
    expected = bytes.fromhex(
        "01 02000000"
        "0100000000000000 0000000000000000 00 0201000000000000"
        "0300000000000000 0500000000000000 01 0200 c3a9"
    )
    assert value.encode() == expected
    assert clock.decode(expected).pairs() == ((258, 1, 0), ("é", 3, 5))
    assert clock().encode() == bytes.fromhex("01 00000000")


@TWINS
def test_every_damage_is_reported_or_harmless(clock: Any) -> None:
    """Truncated or flipped bytes raise, or are another clock in canonical form."""
    encoded = clock.from_pairs([(7, 1, 2), ("a", 2, 1), ("node-0001", 9, 9), ("node-0002", 1, 1)]).encode()
    for length in range(len(encoded)):
        with pytest.raises(CorruptRecord):
            clock.decode(encoded[:length])
    with pytest.raises(CorruptRecord):
        clock.decode(encoded + b"\0")
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = clock.decode(damaged)
        except CorruptRecord:
            continue
        assert found.encode() == damaged


@given(st.binary(max_size=80), st.integers(0, 3))
def test_twins_agree_on_any_bytes(noise: bytes, count: int) -> None:
    """A damaged clock is the same error on either twin."""
    for data in (noise, b"\x01" + count.to_bytes(4, "little") + noise):
        results = [
            outcome(lambda data=data, kind=kind: kind.decode(data))
            for kind in (native.VectorClock, reference.VectorClock)
        ]
        assert results[0] == results[1]


@TWINS
def test_false_count_takes_no_memory(clock: Any) -> None:
    """Four bytes from outside must not order a hundred gigabytes."""
    with pytest.raises(CorruptRecord):
        clock.decode(b"\x01\xff\xff\xff\xff")


@TWINS
@pytest.mark.parametrize(
    ("counters", "now_ms", "error"),
    [
        ({"a": -1}, 0, InvalidRequest),
        ({"a": 2**64}, 0, InvalidRequest),
        ({-1: 1}, 0, InvalidRequest),
        ({2**64: 1}, 0, InvalidRequest),
        ({"\ud800": 1}, 0, InvalidRequest),
        ({"x" * 65536: 1}, 0, InvalidRequest),
        ({"a": 1}, -1, InvalidRequest),
        ({"a": 1}, 2**63, InvalidRequest),
        ({"a": 1.5}, 0, TypeError),
        ({1.5: 1}, 0, TypeError),
        ({None: 1}, 0, TypeError),
        ({b"a": 1}, 0, TypeError),
    ],
)
def test_what_is_no_clock_is_refused(clock: Any, counters: Any, now_ms: int, error: type[Exception]) -> None:
    """Nothing is bent to fit."""
    with pytest.raises(error):
        clock(counters, now_ms)


@TWINS
def test_edges_of_numbers(clock: Any) -> None:
    """Counters stop at 64 bits with an error; 0 is absence; an actor given twice is a mistake."""
    with pytest.raises(InvalidRequest):
        clock({"a": UINT64_MAX}).increment("a")
    assert clock({"a": UINT64_MAX - 1}).increment("a").counter("a") == UINT64_MAX
    assert clock({"a": 0, "b": 1}) == clock({"b": 1})
    assert "a" not in clock({"a": 0})
    assert None not in clock({"a": 1})
    with pytest.raises(InvalidRequest):
        clock.from_pairs([("a", 1, 0), ("a", 2, 0)])
    with pytest.raises(InvalidRequest):
        clock({"a": 1}).truncate(0)
    for call in ("merge", "compare", "descends"):
        with pytest.raises(TypeError):
            getattr(clock(), call)({"a": 1})
    with pytest.raises(TypeError):
        _ = clock() <= {"a": 1}
    assert clock() != {}


@TWINS
def test_int_and_str_actors_differ(clock: Any) -> None:
    """1 and "1" are two actors, ints come first."""
    value = clock({"1": 1, 1: 2, "0": 3})
    assert value.items() == ((1, 2), ("0", 3), ("1", 1))
    assert list(value) == [1, "0", "1"]
    assert repr(value) == "VectorClock({1: 2, '0': 3, '1': 1})"


@TWINS
def test_clocks_are_immutable_values(clock: Any) -> None:
    """Operations make new clocks; equal ones are interchangeable as keys; times do not matter for that."""
    first = clock({"a": 1, 5: 2}, 10)
    second = first.increment("a", 20)
    assert (first.counter("a"), second.counter("a")) == (1, 2)
    with pytest.raises(TypeError):
        first.__init__({"a": 9})
    assert {first: 1}[clock({5: 2, "a": 1}, 99)] == 1
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(second, protocol)).pairs() == second.pairs()
    assert copy.deepcopy(second).pairs() == second.pairs()


@TWINS
def test_time_of_a_pair_never_falls(clock: Any) -> None:
    """A wall clock that went back must not make the newest pair the oldest."""
    value = clock().increment("a", 50).increment("a", 20)
    assert value.pairs() == (("a", 2, 50),)


def test_names_are_counted_right() -> None:
    """A name is kept alive by each clock that holds it, and by none afterwards."""
    name = "a-name-of-its-own-" + str(id(object()))
    before = sys.getrefcount(name)
    clocks = [native.VectorClock({name: 1, "b": 1})]
    clocks += [
        clocks[0].increment(name),
        clocks[0].increment("c"),
        clocks[0].merge(native.VectorClock({"d": 1})),
    ]
    clocks += [clocks[1].merge(clocks[2]), clocks[1].truncate(1)]
    assert sys.getrefcount(name) > before
    assert clocks[0].counter(name) == 1
    assert name in clocks[0]
    for data in (clocks[0].encode()[:-1], b"\x01"):
        with pytest.raises(CorruptRecord):
            native.VectorClock.decode(data)
    with pytest.raises(InvalidRequest):
        native.VectorClock.from_pairs([(name, 1, 0), (name, 2, 0)])
    with pytest.raises(InvalidRequest):
        native.VectorClock({name: UINT64_MAX}).increment(name)
    clocks.clear()
    assert sys.getrefcount(name) == before


def test_merge_gives_back_the_side_that_already_is_the_result() -> None:
    """Merging with an ancestor makes nothing."""
    old = native.VectorClock({"a": 1, "b": 2})
    new = old.increment("b")
    assert old.merge(new) is new
    assert new.merge(old) is new
    assert new.merge(native.VectorClock()) is new
