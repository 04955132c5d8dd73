"""An exchange makes two replicas equal, costs a vector of roots when they are, and trusts nothing a peer
says.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.comms.messages import encode
from sadik.errors import ProtocolError
from sadik.kernels import versions
from sadik.node.repair.exchange import comparison, messages
from sadik.node.repair.exchange.messages import Begin, Keys, Nodes, Roots, Sets
from tests.node.exchange_sides import STAMP, Side, Talk, address, name_of, one, value

KEYS = 24


def deleted(actor: int, stamp: int) -> bytes:
    return versions.encode([(actor, STAMP + stamp)], [value(actor, stamp, b"", flags=versions.TOMBSTONE)])


def seen_only(actor: int, stamp: int) -> bytes:
    """What collection leaves of a value that has expired: it was here, and is not any more."""
    return versions.encode([(actor, STAMP + stamp)], [])


events = st.tuples(
    st.sampled_from(["left", "right", "both"]),
    st.sampled_from([b"two", b"three"]),
    st.integers(0, KEYS - 1),
    st.integers(1, 3),
    st.sampled_from([one, deleted, seen_only]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=40))
def test_two_stores_with_differences_converge_in_one_exchange(story: list[tuple[Any, ...]]) -> None:
    """Whatever each of them missed: values, deletes, siblings, and the memory of what was collected."""
    left, right = Side(1), Side(2)
    for stamp, (where, bucket, key, actor, make) in enumerate(story, start=1):
        stored = make(actor, stamp)
        for side in (left, right) if where == "both" else (left,) if where == "left" else (right,):
            side.put(key, stored, bucket)
    before = [
        (left.get(key, bucket), right.get(key, bucket))
        for bucket in (b"two", b"three")
        for key in range(KEYS)
    ]
    progress = Talk(left, right).run()
    after = [
        (left.get(key, bucket), right.get(key, bucket))
        for bucket in (b"two", b"three")
        for key in range(KEYS)
    ]
    assert left.contents() == right.contents()
    for (mine, theirs), (my_end, their_end) in zip(before, after, strict=True):
        merged = versions.merge(mine or b"", theirs or b"")
        expected = versions.fingerprint(bytes(16), merged)
        assert [versions.fingerprint(bytes(16), end or b"") for end in (my_end, their_end)] == [expected] * 2
    assert (left.roots(2), left.roots(3)) == (right.roots(2), right.roots(3))
    assert progress.keys_moving == progress.keys_refused == 0
    again = Talk(right, left)
    assert again.run().keys_repaired == 0
    assert not again.pauses


def test_equal_stores_exchange_one_vector() -> None:
    """Q=1024: two bytes and a root for each partition there, a flag back. With 1 M keys it is the same: all
    leaves are behind the roots.
    """
    left, right = Side(1, partition_bits=10), Side(2, partition_bits=10)
    for side in (left, right):
        side.fill(range(5000))
    talk = Talk(left, right)
    progress = talk.run()
    assert progress.partitions_total == progress.partitions_done == 1024
    assert progress.keys_compared == progress.keys_repaired == talk.pauses == 0
    assert len(talk.payloads) == 2 * (1 + 1024 // messages.PARTITIONS_MAX)
    assert 1024 * 19 < talk.wire_bytes < 1024 * 19 + 512 < 64 * 1024


def test_empty_stores_have_nothing_to_compare() -> None:
    talk = Talk(Side(1), Side(2))
    assert talk.run().partitions_total == 0
    assert len(talk.payloads) == 2


def test_wiped_replica_is_refilled_by_either_side() -> None:
    """It has no trees of any N: the other one says which there are."""
    for wiped_asks in (True, False):
        full, wiped = Side(1), Side(2)
        full.fill(range(3000))
        asker, asked = (wiped, full) if wiped_asks else (full, wiped)
        progress = Talk(asker, asked).run()
        assert wiped.contents() == full.contents()
        assert progress.keys_repaired == progress.keys_compared == 3000
        assert wiped.roots() == full.roots()


def test_only_what_differs_moves() -> None:
    """The descent names the keys: 3 of 3000 differ, and no more are looked at than lie in their leaves."""
    left, right = Side(1), Side(2)
    for side in (left, right):
        side.fill(range(3000))
    left.put(5, one(2, 9000))
    right.put(6, one(3, 9000))
    left.lose(7)
    talk = Talk(left, right)
    progress = talk.run()
    assert progress.keys_repaired == 3
    assert progress.keys_compared < 20
    assert left.contents() == right.contents()
    assert talk.pushed == [address(5)]
    assert talk.pauses == 2


def test_write_on_its_way_is_not_repaired() -> None:
    """It differs at the first look, and has arrived at the second: of roots as of keys."""
    for pause in (0, 1):
        left, right = Side(1), Side(2)
        left.put(1, one(1, 1))

        def arrive(count: int, right: Side = right, pause: int = pause) -> None:
            if count == pause:
                right.put(1, one(1, 1))

        talk = Talk(left, right)
        talk.on_pause = arrive
        progress = talk.run()
        assert progress.keys_repaired == 0
        assert not talk.pushed
        assert progress.keys_compared == pause


def test_key_that_both_sides_write_is_left_alone_and_one_that_lags_is_not() -> None:
    """A side that is behind stands still, however busy the other one is."""
    left, right = Side(1), Side(2)
    for key in (1, 2, 3):
        left.put(key, one(1, 1))

    def busy(count: int) -> None:
        if count == 1:
            left.put(1, one(1, 3))
            right.put(1, one(1, 2))
            left.put(2, one(1, 3))
            right.put(3, one(2, 3))

    talk = Talk(left, right)
    talk.on_pause = busy
    progress = talk.run()
    assert (progress.keys_moving, progress.keys_repaired) == (1, 2)
    assert left.get(1) != right.get(1)
    assert left.get(2) == right.get(2) == one(1, 3)
    assert left.get(3) == right.get(3) == versions.merge(one(1, 1), one(2, 3))


def test_unreadable_record_is_asked_from_the_peer_and_never_sent() -> None:
    """FACTS Z23: a rotten value over good ones. Whichever side it is on; with no good one it stays as it
    is.
    """
    left, right = Side(1), Side(2)
    for side in (left, right):
        side.fill(range(50))
    left.engine.rotten = {address(1), address(3)}
    right.engine.rotten = {address(2), address(3)}
    for side in (left, right):
        side.trees.rebuild()
        side.build()
    progress = Talk(left, right).run()
    assert [(left.get(key), right.get(key)) for key in (1, 2, 3)] == [
        (one(1, 1), one(1, 1)),
        (one(1, 2), one(1, 2)),
        (None, None),
    ]
    assert progress.keys_repaired == 2


def test_record_that_rots_unseen_differs_from_nothing_and_harms_nothing() -> None:
    """The trees still count it, so roots are equal; a look at its leaf, for another key, makes the trees
    right.
    """
    left, right = Side(1, partition_bits=0), Side(2, partition_bits=0)
    for side in (left, right):
        side.fill(range(20_000))
    left.engine.rotten = {address(1)}
    assert Talk(left, right).run().keys_compared == 0
    leaf = int.from_bytes(address(1), "big") >> (128 - 10)
    neighbour = next(
        key for key in range(2, 20_000) if int.from_bytes(address(key), "big") >> (128 - 10) == leaf
    )
    right.put(neighbour, one(5, 50_000))
    assert Talk(left, right).run().keys_repaired == 2
    assert left.get(1) == right.get(1)
    assert left.get(neighbour) == right.get(neighbour)


def test_unbuilt_partitions_are_skipped_and_reported() -> None:
    """A half built tree looks like a replica that lost its keys."""
    for unbuilt_asks in (True, False):
        left, right = Side(1), Side(2)
        left.fill(range(100))
        unbuilt = left if unbuilt_asks else right
        unbuilt.trees.rebuild()
        unbuilt.trees.update(3, 0, b"", b"", b"")
        progress = Talk(left, right).run()
        assert (progress.unbuilt, progress.partitions_done, progress.partitions_total) == (8, 8, 8)
        assert progress.keys_compared == 0
        unbuilt.build()
        assert Talk(left, right).run().keys_repaired == 100


def test_trees_forgotten_in_between_end_the_descent_there() -> None:
    """Of either side: what is left over differs again in the next exchange."""
    for index in range(2):
        sides = Side(1), Side(2)
        sides[0].fill(range(300))
        replies = 0

        def forget(reply: bytes, sides: tuple[Side, Side] = sides, index: int = index) -> bytes:
            nonlocal replies
            replies += 1
            if replies == 3:
                sides[index].trees.rebuild()
            return reply

        talk = Talk(*sides)
        talk.distort = forget
        assert talk.run().keys_compared == 0
        sides[index].build()
        assert Talk(*sides).run().keys_repaired == 300


def test_different_layouts_or_buckets_are_not_compared() -> None:
    """They settle by gossip in a moment; until then partitions or Ns would be others."""
    for change in ("layout", "facts"):
        left, right = Side(1), Side(2)
        left.fill(range(10))
        setattr(right, change, 8 if change == "layout" else b"others")
        talk = Talk(left, right)
        talk.run()
        assert "different" in talk.refusal
        assert not right.contents()


def test_layout_that_changes_in_between_ends_the_exchange() -> None:
    left, right = Side(1), Side(2)
    left.fill(range(10))
    talk = Talk(left, right)

    def change(reply: bytes) -> bytes:
        right.layout += 1
        return reply

    talk.distort = change
    talk.run()
    assert "layouts" in talk.refusal
    assert not right.contents()


def test_only_shared_partitions_are_compared() -> None:
    left, right = Side(1), Side(2)
    left.fill(range(200))
    talk = Talk(left, right)
    talk.shared = lambda n: [2, 5] if n == 3 else []
    talk.run()
    assert {key[0] >> 5 for key in right.contents()} == {2, 5}


def test_wrong_trees_are_put_right_by_a_look_at_the_keys() -> None:
    """As after a flush, whose records writes still see as what was there before: nothing moves, and it
    costs once.
    """
    left, right = Side(1), Side(2)
    for side in (left, right):
        side.fill(range(300))
    right_roots = left.roots()
    for key in range(0, 300, 3):
        right.trees.update(3, 1, address(key), array("Q", [77]), array("Q", [0]))
    progress = Talk(left, right).run()
    assert (progress.keys_repaired, progress.keys_compared > 0) == (0, True)
    assert right.trees.statistics().corrected > 0
    assert left.roots() == right.roots() == right_roots
    assert Talk(left, right).run().keys_compared == 0


def test_what_everybody_may_collect_is_not_brought_back() -> None:
    """Otherwise one node's collector and the other's exchange could play ball with an old tombstone for
    ever.
    """
    left, right = Side(1), Side(2)
    old = deleted(1, 1)
    left.put(1, old)
    left.put(2, versions.merge(old, one(2, 2)))
    right.put(2, one(2, 2))

    def settle(name: bytes, stored: bytes) -> bytes:
        entries, values = versions.decode(stored)
        kept = [found for found in values if not found.flags & versions.TOMBSTONE]
        return versions.encode([entry for entry in entries if entry[0] != 1], kept) if kept else b""

    left.settle = right.settle = settle
    assert Talk(left, right).run().keys_repaired == 0
    assert Talk(right, left).run().keys_repaired == 0
    assert right.get(1) == b""
    assert right.get(2) == one(2, 2)


def test_messages_are_bounded() -> None:
    """Keys, nodes and bytes of each: all 6000 keys differ, in all partitions."""
    left, right = Side(1, partition_bits=6), Side(2, partition_bits=6)
    left.fill(range(3000))
    right.fill(range(3000, 6000))
    talk = Talk(left, right)
    talk.run()
    assert left.contents() == right.contents()
    assert len(left.contents()) == 6000
    largest = max(len(payload) for payload in talk.payloads)
    children = messages.NODES_MAX * 32 * 8
    assert 0.9 * children < largest < children + 64


def test_great_values_travel_in_bounded_packets() -> None:
    """A packet ends before the set that would exceed it; a greater set travels alone."""
    left, right = Side(1), Side(2)
    big, huge = bytes(300_000), bytes(2_000_000)
    for key in range(10):
        left.put(key, one(1, 1, big))
        right.put(key + 20, one(1, 1, big))
    left.put(11, one(1, 1, huge))
    right.put(31, one(1, 1, huge))
    talk = Talk(left, right)
    talk.run()
    assert left.contents() == right.contents()
    assert len(left.contents()) == 22
    sizes = sorted(len(payload) for payload in talk.payloads)
    assert [size for size in sizes if size > messages.PAGE_BYTES_MAX + 64] == sizes[-2:]
    assert sizes[-1] < len(huge) + 128


def test_gathered_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond, they are mended before more are listed."""
    monkeypatch.setattr(comparison, "CANDIDATES_MAX", 100)
    left, right = Side(1), Side(2)
    left.fill(range(2000))
    talk = Talk(left, right)
    assert talk.run().keys_repaired == 2000
    assert talk.pauses > 3


def test_refused_sets_are_counted_and_stop_nothing() -> None:
    """A stamp from the future is merged nowhere; the other keys are."""
    left, right = Side(1), Side(2)
    left.put(1, one(1, 1))
    future = versions.encode([(1, STAMP << 2)], [value(1, 0)._replace(stamp=STAMP << 2)])
    left.engine.put(address(2), name_of(2), future, left.buckets.get(b"three").space)
    left.trees.rebuild()
    left.build()
    assert Talk(left, right).run().keys_refused == 1
    assert Talk(right, left).run().keys_refused == 1
    assert (right.get(1), right.get(2)) == (one(1, 1), b"")


# What a peer may say.

Distortion = Callable[[bytes], bytes]

junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.sampled_from(["", "text"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def mutations(reply: bytes, draw: st.DataObject) -> bytes:
    """Bytes that are no reply, one of another shape, or nearly the right one."""
    kind = draw.draw(st.sampled_from(["bytes", "shape", "flip", "cut", "fields"]))
    if kind == "bytes":
        return draw.draw(st.binary(max_size=60))
    if kind == "shape":
        return msgspec.msgpack.encode(draw.draw(junk))
    if kind == "cut":
        return reply[: draw.draw(st.integers(0, len(reply)))]
    if kind == "flip":
        at = draw.draw(st.integers(0, len(reply) - 1))
        return reply[:at] + bytes((draw.draw(st.integers(0, 255)),)) + reply[at + 1 :]
    fields = msgspec.msgpack.decode(reply)
    at = draw.draw(st.integers(0, len(fields) - 1))
    old = fields[at]
    if isinstance(old, bytes) and old:
        cut = draw.draw(st.integers(0, len(old)))
        fields[at] = draw.draw(
            st.sampled_from([old[cut:], old + old, old[cut:] + old[:cut], bytes(len(old))])
        )
    else:
        fields[at] = draw.draw(junk)
    return msgspec.msgpack.encode(fields)


def varied() -> tuple[Side, Side]:
    """Two sides that differ in every way, so that an exchange takes all its steps."""
    left, right = Side(1, partition_bits=1), Side(2, partition_bits=1)
    for side in (left, right):
        side.fill(range(20))
    left.put(1, one(2, 50))
    right.put(1, one(3, 50))
    right.put(2, deleted(2, 50))
    right.put(30, one(1, 30))
    left.put(31, one(1, 31))
    right.put(32, seen_only(1, 32))
    left.put(32, one(1, 32))
    right.engine.rotten = {address(3)}
    right.trees.rebuild()
    right.build()
    return left, right


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 9), st.data())
def test_garbage_in_a_reply_is_a_protocol_error_and_nothing_else(at: int, data: st.DataObject) -> None:
    left, right = varied()
    talk = Talk(left, right)
    replies = 0

    def distort(reply: bytes) -> bytes:
        nonlocal replies
        replies += 1
        return mutations(reply, data) if replies == at + 1 else reply

    talk.distort = distort
    with contextlib.suppress(ProtocolError):
        talk.run()
    # Nothing was taken in that is not well formed, and the next exchange mends the rest.
    left.build()
    right.build()
    Talk(left, right).run()
    assert left.contents() == right.contents()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_garbage_in_a_question_is_a_protocol_error_and_nothing_else(data: st.DataObject) -> None:
    left, right = varied()
    talk = Talk(left, right)
    talk.run()
    left, right = varied()
    question = data.draw(st.sampled_from(talk.questions))
    with contextlib.suppress(ProtocolError):
        right.answers.answer(mutations(question, data))
    assert right.get(3) is None


def words(*numbers: int) -> bytes:
    return messages.pack(numbers, 4)


@pytest.mark.parametrize(
    "question",
    [
        Roots(7, 0, messages.pack([0], 2), bytes(16)),
        Roots(7, 17, messages.pack([0], 2), bytes(16)),
        Roots(7, 3, b"", b""),
        Roots(7, 3, messages.pack([8], 2), bytes(16)),
        Roots(7, 3, messages.pack([1, 0], 2), bytes(32)),
        Roots(7, 3, messages.pack([0], 2), bytes(17)),
        Roots(7, 3, b"\0", bytes(16)),
        Nodes(3, -1, words(0)),
        Nodes(3, 2, words(0)),
        Nodes(3, 0, words(8)),
        Nodes(3, 0, b""),
        Keys(3, words(8 * 1024), b""),
        Keys(3, words(1, 1), b""),
        Keys(3, b"", b""),
        Keys(3, words(1), bytes(15)),
        Sets(b"", b"", b""),
        Sets(bytes(16), bytes(8), bytes(16)),
        Sets(bytes(15), bytes(8), bytes(8)),
    ],
)
def test_question_beyond_what_there_is_is_refused(question: messages.Question) -> None:
    with pytest.raises(ProtocolError):
        Side(1).answers.answer(encode(question))


@pytest.mark.parametrize(
    ("question", "more"),
    [
        (
            lambda count: Roots(7, 3, messages.pack(range(count), 2), bytes(16 * count)),
            messages.PARTITIONS_MAX,
        ),
        (lambda count: Nodes(3, 1, words(*range(count))), messages.NODES_MAX),
        (lambda count: Keys(3, words(*range(count)), b""), messages.LEAVES_MAX),
        (lambda count: Sets(bytes(16 * count), bytes(8 * count), bytes(8 * count)), messages.SETS_KEYS_MAX),
    ],
    ids=["roots", "nodes", "keys", "sets"],
)
def test_question_has_a_limit(question: Callable[[int], messages.Question], more: int) -> None:
    side = Side(1, partition_bits=10)
    assert side.answers.answer(encode(question(more)))
    with pytest.raises(ProtocolError):
        side.answers.answer(encode(question(more + 1)))


def test_listing_has_a_limit_and_goes_on_behind_it() -> None:
    side = Side(1, partition_bits=0)
    side.fill(range(2000))
    after, seen = b"", []
    while True:
        payload = side.answers.answer(encode(Keys(3, words(*range(1024)), after)))
        listing = messages.decode_reply(payload, messages.Listing)
        found = messages.split(listing.digests, 16)
        assert len(found) <= messages.PAGE_KEYS_MAX
        seen += found
        if not listing.last:
            break
        after = listing.last
    assert seen == sorted(side.contents())


def test_messages_are_pinned() -> None:
    """Nodes of different versions say them to each other."""
    assert encode(Begin(7, b"f")).hex() == "930107c40166"
    assert encode(Roots(7, 3, b"p", b"r")).hex() == "95020703c40170c40172"
    assert encode(Nodes(3, 1, b"n")).hex() == "94030301c4016e"
    assert encode(Keys(3, b"l", b"a")).hex() == "940403c4016cc40161"
    assert encode(Sets(b"d", b"o", b"t")).hex() == "9405c40164c4016fc40174"
