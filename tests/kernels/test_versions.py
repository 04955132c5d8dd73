"""The versions kernel and its plain twin: same cases on both, laws of the merge, hostile bytes."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sadik.errors import CorruptRecord, InvalidRequest, LimitReached
from sadik.kernels.native import versions as native
from sadik.kernels.reference import versions as reference
from tests.kernels.version_cases import (
    TWINS,
    UINT64_MAX,
    Value,
    actors,
    content,
    covers,
    floors,
    parts,
    same,
    sets,
    stamps,
    times,
)

# ---- the format
# ----------------------------------------------------------------------------------------------------


@TWINS
def test_bytes_are_pinned(twin: Any) -> None:
    """These bytes lie on disks: they may never change for version 1."""
    values = [
        Value(1, 2, 0, 0, -1, b"", b"ab"),
        Value(UINT64_MAX, 0x0102030405060708, 1, 5, 9, b"\xff", b""),
    ]
    entries = [(1, 3), (7, 1), (UINT64_MAX, 0x0102030405060708)]
    expected = bytes.fromhex(
        "0100 0300 0200"
        "0100000000000000 0300000000000000  0700000000000000 0100000000000000"
        "ffffffffffffffff 0807060504030201"
        "0100000000000000 0200000000000000 ffffffffffffffff 02000000 0000 00 00"
        "ffffffffffffffff 0807060504030201 0900000000000000 00000000 0100 01 05"
        "6162 ff"
    )
    assert twin.encode(entries, values) == expected
    assert twin.decode(expected) == (entries, values)
    assert twin.fingerprint(bytes(range(16)), expected) == 0x27C4352451A4F2CC


@TWINS
def test_nothing_known_is_the_empty_string(twin: Any) -> None:
    """A key never written and a set with nothing left in it are one state."""
    assert twin.encode([], []) == b""
    assert twin.decode(b"") == ([], [])
    assert twin.stamp_max(b"") == 0
    assert twin.fingerprint(bytes(16), b"") == 0
    assert twin.is_dead(b"")
    assert twin.merge(b"", b"") == b""
    assert twin.discard(b"", ()) == b""


@given(parts())
def test_decode_inverts_encode(pair: tuple[list[tuple[int, int]], list[Any]]) -> None:
    """No field is lost or bent, whatever its size."""
    encoded = same("encode", *pair)
    assert same("decode", encoded) == pair
    for kind in (bytearray, memoryview):
        assert native.decode(kind(encoded)) == pair


@TWINS
@pytest.mark.parametrize(
    ("entries", "values"),
    [
        ([(2, 1), (1, 1)], []),
        ([(1, 1), (1, 2)], []),
        ([(1, 0)], []),
        ([(-1, 1)], []),
        ([(1, 2**64)], []),
        ([], [Value(1, 1, 0, 0, -1, b"", b"")]),
        ([(1, 1)], [Value(1, 2, 0, 0, -1, b"", b"")]),
        ([(1, 1)], [Value(2, 1, 0, 0, -1, b"", b"")]),
        ([(1, 1)], [Value(1, 0, 0, 0, -1, b"", b"")]),
        ([(1, 2)], [Value(1, 2, 0, 0, -1, b"", b""), Value(1, 1, 0, 0, -1, b"", b"")]),
        ([(1, 2)], [Value(1, 2, 0, 0, -1, b"", b""), Value(1, 2, 0, 0, -1, b"", b"")]),
        ([(1, 1)], [Value(1, 1, 2, 0, -1, b"", b"")]),
        ([(1, 1)], [Value(1, 1, 1, 0, -1, b"", b"x")]),
        ([(1, 1)], [Value(1, 1, 0, 256, -1, b"", b"")]),
        ([(1, 1)], [Value(1, 1, 0, 0, -2, b"", b"")]),
        ([(1, 1)], [Value(1, 1, 0, 0, 2**63, b"", b"")]),
        ([(1, 1)], [Value(1, 1, 0, 0, -1, bytes(65536), b"")]),
    ],
)
def test_encode_refuses_what_is_no_set(twin: Any, entries: list[Any], values: list[Any]) -> None:
    """Each invariant of the format is checked where a set is made, not when it is found broken on a disk."""
    with pytest.raises(InvalidRequest):
        twin.encode(entries, values)


@TWINS
def test_every_damage_is_reported_or_harmless(twin: Any) -> None:
    """Truncated or flipped bytes either raise or are another valid set in canonical form; nothing crashes."""
    encoded = native.encode([(1, 5), (3, 9)], [content(1, 4), content(1, 5), content(3, 7)])
    for length in range(1, len(encoded)):
        with pytest.raises(CorruptRecord):
            twin.validate(encoded[:length])
    with pytest.raises(CorruptRecord):
        twin.validate(encoded + b"\0")
    refused = 0
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            twin.validate(damaged)
        except CorruptRecord:
            refused += 1
            for call in ("decode", "context", "stamp_max", "is_dead", "keep_newest"):
                with pytest.raises(CorruptRecord):
                    getattr(twin, call)(damaged)
        else:
            assert twin.encode(*twin.decode(damaged)) == damaged
    assert refused > 8 * 30


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3))
@example(b"", 1, 0)
def test_twins_agree_on_any_bytes(noise: bytes, entries: int, values: int) -> None:
    """Bytes behind a plausible header reach the checks that pure noise never would."""
    for data in (noise, struct.pack("<BBHH", 1, 0, entries, values) + noise):
        same("decode", data)
        same("merge", data, b"")
        same("discard", data, [(1, 1)])


# ---- views
# ---------------------------------------------------------------------------------------------------------


@given(sets, floors, times)
def test_twins_agree_on_views(data: bytes, floor: int, now_ms: int) -> None:
    """Views are where a wrong value would be served."""
    live = same("siblings", data, floor, now_ms)
    shown = same("newest", data, floor, now_ms)
    assert shown is None or shown == live[0]
    assert [value[1::-1] for value in live] == sorted((value[1::-1] for value in live), reverse=True)
    same("context", data)
    same("stamp_max", data)
    same("is_dead", data)


@TWINS
def test_newer_tombstone_hides_older_sibling_from_the_single_view(twin: Any) -> None:
    """RESP GET shows one answer: the delete that came last; HTTP still shows the sibling it did not see."""
    written = twin.event(b"", None, 1, 10, payload=b"kept")
    deleted = twin.event(written, (), 2, 20, flags=twin.TOMBSTONE)
    assert twin.newest(deleted, 0, 0) is None
    assert [value.payload for value in twin.siblings(deleted, 0, 0)] == [b"kept"]
    assert not twin.is_dead(deleted)
    assert twin.is_dead(twin.event(deleted, None, 2, 30, flags=twin.TOMBSTONE))


@TWINS
def test_value_lives_until_the_millisecond_it_expires(twin: Any) -> None:
    """Expiry is part of the version, so every replica draws the same line."""
    data = twin.event(b"", None, 1, 1, expires_at_ms=1000, payload=b"x")
    assert [twin.newest(data, 0, now) is not None for now in (0, 999, 1000, 1001)] == [
        True,
        True,
        False,
        False,
    ]
    assert not twin.is_dead(data)


@TWINS
def test_floor_hides_what_is_not_above_it(twin: Any) -> None:
    """FLUSHDB: a stamp at the floor is gone, the next one is not."""
    data = twin.event(twin.event(b"", None, 1, 10, payload=b"old"), (), 1, 11, payload=b"new")
    assert [len(twin.siblings(data, floor, 0)) for floor in (9, 10, 11)] == [2, 1, 0]
    assert twin.newest(data, 10, 0).payload == b"new"
    assert twin.newest(data, 11, 0) is None


@TWINS
def test_equal_stamps_are_ordered_by_actor(twin: Any) -> None:
    """Every replica shows the same winner."""
    data = twin.merge(
        twin.event(b"", None, 9, 5, payload=b"nine"), twin.event(b"", None, 2, 5, payload=b"two")
    )
    assert twin.newest(data, 0, 0).payload == b"nine"
    assert [value.actor for value in twin.siblings(data, 0, 0)] == [9, 2]
    assert [value.actor for value in twin.decode(twin.keep_newest(data))[1]] == [9]


@given(sets, sets, st.binary(min_size=16, max_size=16))
def test_fingerprint_covers_dots_and_not_entries(left: bytes, right: bytes, digest: bytes) -> None:
    """A replica that pruned its entries must not look different to the Merkle exchange."""
    fingerprint = same("fingerprint", digest, left)
    assert (fingerprint == 0) == (not native.decode(left)[1])
    dots = [[value[:2] for value in native.decode(data)[1]] for data in (left, right)]
    assert (fingerprint == native.fingerprint(digest, right)) == (dots[0] == dots[1])
    if dots[0]:
        assert fingerprint != native.fingerprint(bytes([digest[0] ^ 1]) + digest[1:], left)


# ---- changes
# -------------------------------------------------------------------------------------------------------


@given(sets, st.one_of(st.none(), covers), actors, stamps, st.binary(max_size=20), st.integers(-1, 2))
def test_event_is_discard_and_a_new_dot(
    data: bytes, seen: Any, actor: int, stamp: int, payload: bytes, flags: int
) -> None:
    """A write replaces exactly what its writer saw (Dotted Version Vector Sets, ``update``)."""
    result = same("event", data, seen, actor, stamp, flags, 0, -1, b"m", payload)
    if isinstance(result, type):
        return
    remaining = native.discard(data, native.context(data) if seen is None else seen)
    dotted = native.encode([(actor, stamp)], [Value(actor, stamp, flags, 0, -1, b"m", payload)])
    entries, values = native.decode(remaining)
    assert native.decode(result)[1] == sorted([*values, *native.decode(dotted)[1]])
    assert dict(native.context(result)) == {**dict(entries), actor: stamp}
    # What was there before adds nothing to what came after.
    if seen is None or dict(native.context(data)).items() <= dict(seen).items():
        assert native.merge(data, result) == result


@given(sets, covers)
def test_twins_agree_on_discard(data: bytes, seen: list[tuple[int, int]]) -> None:
    """Discards are prefixes: nothing with a stamp above the context's goes."""
    result = same("discard", data, seen)
    kept = [value for value in native.decode(data)[1] if value.stamp > dict(seen).get(value.actor, 0)]
    assert native.decode(result)[1] == kept


@given(sets, floors)
def test_twins_agree_on_prune_and_keep_newest(data: bytes, horizon: int) -> None:
    """Pruning forgets tombstones and bare entries, never a value."""
    pruned = same("prune", data, horizon)
    values = [value for value in native.decode(data)[1] if not value.flags]
    assert [value for value in native.decode(pruned)[1] if not value.flags] == values
    assert all(stamp >= horizon for _, stamp in native.context(pruned)) or values
    newest = same("keep_newest", data)
    assert native.context(newest) == native.context(data)
    assert len(native.decode(newest)[1]) == min(1, len(native.decode(data)[1]))


@TWINS
def test_prune_of_an_old_delete_leaves_nothing(twin: Any) -> None:
    """The end of a deleted key's life."""
    data = twin.event(twin.event(b"", None, 1, 5, payload=b"x"), None, 2, 9, flags=twin.TOMBSTONE)
    assert twin.prune(data, 9) == twin.event(b"", None, 2, 9, flags=twin.TOMBSTONE)
    assert twin.prune(data, 10) == b""


@given(sets, floors)
def test_forgetting_drops_bare_entries_and_nothing_else(data: bytes, horizon: int) -> None:
    """Values and tombstones stay with the entries they need; whatever was forgotten was old and bare."""
    forgotten = same("forget", data, horizon)
    entries, values = native.decode(data)
    left = native.context(forgotten)
    assert native.decode(forgotten)[1] == values
    assert set(left) <= set(entries)
    valued = {value.actor for value in values}
    assert set(entries) - set(left) == {
        (actor, seen) for actor, seen in entries if actor not in valued and seen < horizon
    }
    assert native.forget(forgotten, horizon) == forgotten
    # Pruning is forgetting, and letting go of old tombstones before it.
    assert native.forget(native.prune(data, horizon), horizon) == native.prune(data, horizon)


@TWINS
def test_key_written_by_a_thousand_runs_stays_small_where_that_is_safe(twin: Any) -> None:
    """Each run is an actor; without forgetting the 65th could not write any more."""
    data = b""
    for run in range(1, 1001):
        covered = twin.discard(data, twin.context(data))
        data = twin.event(twin.forget(covered, UINT64_MAX), (), run, run, payload=b"x")
    assert twin.context(data) == [(1000, 1000)]


@TWINS
def test_event_needs_a_stamp_above_all_it_knows(twin: Any) -> None:
    """A dot that could exist already must never be minted: the one rule whose breach loses writes (Riak
    679).
    """
    data = twin.event(b"", None, 1, 10)
    for seen, stamp in ((None, 10), (None, 9), ((), 10), ([(2, 30)], 30), ((), 0)):
        with pytest.raises(InvalidRequest):
            twin.event(data, seen, 3, stamp)
    with pytest.raises(InvalidRequest):
        twin.event(b"", None, 3, 0)
    with pytest.raises(InvalidRequest):
        twin.event(data, None, 3, 11, flags=twin.TOMBSTONE, payload=b"x")
    with pytest.raises(TypeError):
        twin.event(data, None, 3, 11.0)


@TWINS
def test_client_writes_stop_at_64_siblings_and_64_actors(twin: Any) -> None:
    """A limit that is reached is a clear refusal, and merges pass it."""
    full = b""
    for stamp in range(1, 65):
        full = twin.event(full, (), 1, stamp)
    with pytest.raises(LimitReached):
        twin.event(full, (), 1, 65)
    assert len(twin.decode(twin.event(full, [(1, 1)], 1, 65))[1]) == 64
    assert len(twin.decode(twin.merge(full, twin.event(b"", None, 2, 1)))[1]) == 65
    crowd = twin.encode([(actor, 1) for actor in range(64)], [])
    with pytest.raises(LimitReached):
        twin.event(crowd, None, 64, 2)
    assert len(twin.context(twin.event(crowd, None, 63, 2))) == 64
    assert len(twin.context(twin.merge(crowd, twin.encode([(99, 1)], [])))) == 65


@TWINS
def test_merge_beyond_the_format_is_refused(twin: Any) -> None:
    """Counts have 16 bits; they must not wrap."""
    half = native.COUNT_MAX // 2 + 1
    left = native.encode([(actor, 1) for actor in range(half)], [])
    right = native.encode([(half + actor, 1) for actor in range(half)], [])
    with pytest.raises(LimitReached):
        twin.merge(left, right)
    assert len(twin.context(twin.merge(left, left))) == half


# ---- merge
# ---------------------------------------------------------------------------------------------------------


@given(sets, sets)
def test_merge_commutes_and_is_idempotent(left: bytes, right: bytes) -> None:
    """Replicas end equal whatever order messages come in, and however often."""
    merged = same("merge", left, right)
    assert native.merge(right, left) == merged
    assert native.merge(merged, left) == merged == native.merge(right, merged)
    assert native.merge(left, bytes(bytearray(left))) == left
    assert native.merge(left, b"") == left


@settings(max_examples=60)
@given(sets, sets, sets)
def test_merge_associates(one: bytes, two: bytes, three: bytes) -> None:
    """So does the grouping of messages."""
    assert native.merge(native.merge(one, two), three) == native.merge(one, native.merge(two, three))


@given(parts(), parts())
def test_merge_loses_nothing_that_nobody_covered(
    left: tuple[list[tuple[int, int]], list[Any]], right: tuple[list[tuple[int, int]], list[Any]]
) -> None:
    """The definition of the merge, on explicit sets of dots."""

    def dots(values: list[Any]) -> set[tuple[int, int]]:
        return {value[:2] for value in values}

    def unseen(values: list[Any], entries: list[tuple[int, int]]) -> set[tuple[int, int]]:
        return {dot for dot in dots(values) if dot[1] > dict(entries).get(dot[0], 0)}

    entries, values = native.decode(native.merge(native.encode(*left), native.encode(*right)))
    assert dots(values) == (
        dots(left[1]) & dots(right[1]) | unseen(left[1], right[0]) | unseen(right[1], left[0])
    )
    assert values == [content(*dot) for dot in sorted(dots(values))]
    known = {*dict(left[0]), *dict(right[0])}
    assert entries == [
        (actor, max(dict(left[0]).get(actor, 0), dict(right[0]).get(actor, 0))) for actor in sorted(known)
    ]


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 2), st.binary(max_size=2), st.integers(-1, 3)), min_size=1, max_size=3
        ),
        min_size=3,
        max_size=3,
    )
)
def test_replicas_converge_even_if_a_dot_stands_for_two_values(
    drawn: list[list[tuple[int, bytes, int]]],
) -> None:
    """An actor that breaks its promise costs a value, never the agreement of the replicas."""
    one, two, three = (
        native.encode(
            [(0, 9), (1, 9), (2, 9)],
            [
                Value(actor, 5, 0, 0, expiry, b"", payload)
                for actor, payload, expiry in sorted({item[0]: item for item in items}.values())
            ],
        )
        for items in drawn
    )
    assert same("merge", one, two) == same("merge", two, one)
    assert native.merge(native.merge(one, two), three) == native.merge(one, native.merge(two, three))


def test_merge_gives_back_the_side_that_already_is_the_result() -> None:
    """The common case of replication builds nothing and costs no memory."""
    old = native.event(b"", None, 1, 1, payload=b"x")
    new = native.event(old, None, 1, 2, payload=b"y")
    assert native.merge(old, new) is new
    assert native.merge(new, old) is new
    assert native.merge(bytearray(new), old) == new
    assert type(native.merge(bytearray(new), old)) is bytes
    assert native.prune(new, 0) is new
    assert native.forget(new, 0) is new
    assert native.keep_newest(new) is new


@pytest.mark.parametrize(
    "name", ["SIBLINGS_MAX", "ENTRIES_MAX", "COUNT_MAX", "TOMBSTONE", "READ", "REPLACE", "ERROR"]
)
def test_twins_name_the_same_numbers(name: str) -> None:
    """Callers compare with these; a twin that numbers them otherwise would be another contract."""
    assert getattr(native, name) == getattr(reference, name)
    assert native.Value._fields == reference.Value._fields
    assert native.Applied._fields == reference.Applied._fields


# ---- the point of it all
# -------------------------------------------------------------------------------------------


@TWINS
@pytest.mark.parametrize("blind", [True, False])
def test_interleaved_writers_do_not_pile_up_siblings(twin: Any, blind: bool) -> None:
    """Writes of two clients through one server leave two siblings; vector clocks leave a hundred."""
    state, most = b"", 0
    seen: list[Any] = [(), ()]
    for turn in range(101):
        client, stamp = turn % 2, turn + 1
        covers_of = () if blind and client else seen[client]
        state = twin.event(state, covers_of, 1, stamp, payload=b"%d" % turn)
        seen[client] = twin.context(state)
        most = max(most, len(twin.decode(state)[1]))
    assert most <= 3
    assert len(twin.decode(state)[1]) == 2
