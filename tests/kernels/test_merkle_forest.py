"""The forest of Merkle trees and its plain twin: a built partition is what is stored, however it came
about.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.kernels.native import merkle as native
from sadik.kernels.reference import merkle as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])

# Few digests, so that scans and writes meet; some at the ends of partitions.
EDGES = [bytes(16), b"\xff" * 16, b"\x3f" + b"\xff" * 15, b"\x40" + bytes(15), b"\x80" + bytes(14) + b"\1"]
digests = st.sampled_from(EDGES) | st.binary(min_size=1, max_size=1).map(lambda first: first * 16)
fingerprints = st.integers(0, 3) | st.integers(0, 2**64 - 1)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return call()
    except (ValueError, TypeError, OverflowError) as error:
        return type(error)


def partition_of(digest: bytes, bits: int) -> int:
    return int.from_bytes(digest, "big") >> (128 - bits)


def built(twin: Any, partition_bits: int = 2, leaf_bits: int = 6) -> Any:
    forest = twin.Forest(partition_bits, leaf_bits)
    for partition in range(1 << partition_bits):
        forest.begin(partition)
        forest.finish(partition)
    return forest


def update(forest: Any, digest: bytes, before: int, after: int) -> None:
    forest.update_many(1, digest, words(before), words(after))


@TWINS
def test_trees_are_those_of_their_partitions(twin: Any) -> None:
    """A leaf is one range of digests: the bits of the partition, then those of the leaf."""
    forest = built(twin)
    single = twin.Tree(6, 2)
    for digest, fingerprint in ((b"\x40" * 16, 5), (b"\x7f" * 16, 6)):
        update(forest, digest, 0, fingerprint)
        single.update(digest, 0, fingerprint)
    empty = twin.Tree(6, 2).root()
    assert forest.roots(numbers(0, 1, 2, 3)) == empty + single.root() + empty * 2
    assert forest.tree(1).level(2) == single.level(2)
    assert (forest.partition_bits, forest.leaf_bits) == (2, 6)


@TWINS
def test_root_of_what_is_not_built_is_zero(twin: Any) -> None:
    """Which no tree has: a peer tells "cannot compare" from "empty"."""
    forest = twin.Forest(1)
    forest.begin(1)
    assert forest.roots(numbers(0, 1)) == bytes(32)
    forest.finish(1)
    assert forest.roots(numbers(1)) == twin.Tree().root() != bytes(16)
    assert (forest.is_built(0), forest.is_built(1)) == (False, True)


@TWINS
def test_write_before_the_scan_has_come_there_does_not_count(twin: Any) -> None:
    """The scan will find it; counted now, it would be counted twice."""
    forest = twin.Forest(0, 6)
    forest.begin(0)
    forest.extend(0, b"\x40" * 16, 1, b"\x20" * 16, words(7))
    update(forest, b"\x40" * 16, 0, 1)
    update(forest, b"\x41" * 16, 0, 2)
    single = twin.Tree(6, 0)
    single.update(b"\x20" * 16, 0, 7)
    single.update(b"\x40" * 16, 0, 1)
    assert forest.tree(0).root() == single.root()
    forest.finish(0)
    assert forest.roots(numbers(0)) == single.root()


@TWINS
def test_emptied_partition_equals_one_that_never_had_a_key(twin: Any) -> None:
    forest = built(twin)
    update(forest, b"\1" * 16, 0, 9)
    update(forest, b"\1" * 16, 9, 0)
    assert forest.roots(numbers(0)) == built(twin).roots(numbers(0))


@TWINS
def test_forgetting_starts_afresh(twin: Any) -> None:
    forest = built(twin)
    for partition in range(4):
        update(forest, bytes((partition << 6,)) * 16, 0, 9)
    forest.forget(1)
    assert [forest.is_built(partition) for partition in range(4)] == [True, False, True, True]
    update(forest, b"\x40" * 16, 0, 1)
    forest.begin(1)
    forest.finish(1)
    assert forest.roots(numbers(1)) == twin.Tree(6, 2).root()
    forest.forget_all()
    assert forest.roots(numbers(0, 1, 2, 3)) == bytes(64)


@TWINS
def test_leaf_sum_is_what_its_keys_add_up_to(twin: Any) -> None:
    tree = twin.Tree(6, 2)
    tree.update(b"\x41" * 16, 0, 2**64 - 1)
    tree.update(b"\x41" * 15 + b"\0", 0, 3)
    assert tree.leaf_sum(tree.leaf_of(b"\x41" * 16)) == 2
    assert [outcome(lambda: tree.leaf_sum(-1)), outcome(lambda: tree.leaf_sum(64))] == [ValueError] * 2


@TWINS
@pytest.mark.parametrize(
    "call",
    [
        lambda twin, forest: twin.Forest(-1),
        lambda twin, forest: twin.Forest(17),
        lambda twin, forest: twin.Forest(2, 0),
        lambda twin, forest: forest.begin(4),
        lambda twin, forest: forest.begin(-1),
        lambda twin, forest: forest.forget(4),
        lambda twin, forest: forest.is_built(4),
        lambda twin, forest: forest.tree(4),
        lambda twin, forest: forest.finish(0),
        lambda twin, forest: forest.finish(1),
        lambda twin, forest: forest.extend(0, b"\x01" * 16, 0, b"", b""),
        lambda twin, forest: forest.extend(2, b"\xa0" * 16, 0, b"", b""),
        lambda twin, forest: forest.extend(2, b"\xc0" * 16, 0, b"", b""),
        lambda twin, forest: forest.extend(2, b"\xb0" * 15, 0, b"", b""),
        lambda twin, forest: forest.extend(2, b"\xb0" * 16, 1, b"\xa0" * 16, bytes(8)),
        lambda twin, forest: forest.extend(2, b"\xb0" * 16, 1, b"\xb1" * 16, bytes(8)),
        lambda twin, forest: forest.extend(2, b"\xb0" * 16, 1, b"\xa1" * 16, bytes(7)),
        lambda twin, forest: forest.extend(2, b"\xb0" * 16, -1, b"", b""),
        lambda twin, forest: forest.update_many(-1, b"", b"", b""),
        lambda twin, forest: forest.update_many(1, bytes(15), bytes(8), bytes(8)),
        lambda twin, forest: forest.update_many(1, bytes(16), bytes(7), bytes(8)),
        lambda twin, forest: forest.update_many(1, bytes(16), bytes(8), bytes(7)),
        lambda twin, forest: forest.roots(bytes(3)),
        lambda twin, forest: forest.roots(numbers(0, 4)),
    ],
)
def test_arguments_out_of_range_change_nothing(twin: Any, call: Callable[[Any, Any], Any]) -> None:
    """Partition 0 is built, 1 is not, 2 is being built, up to a0.. so far."""
    forest = twin.Forest(2, 6)
    forest.begin(0)
    forest.finish(0)
    forest.begin(2)
    forest.extend(2, b"\xa0" * 16, 1, b"\x90" * 16, words(5))
    before = [forest.tree(partition).root() for partition in range(4)]
    assert outcome(lambda: call(twin, forest)) is ValueError
    assert [forest.tree(partition).root() for partition in range(4)] == before
    assert [forest.is_built(partition) for partition in range(4)] == [True, False, False, False]
    forest.extend(2, b"\xa1" * 16, 0, b"", b"")


steps = st.one_of(
    st.tuples(st.just("write"), st.lists(st.tuples(digests, fingerprints), min_size=1, max_size=4)),
    st.tuples(st.just("page"), st.integers(1, 3)),
    st.tuples(st.just("forget"), st.integers(0, 3)),
    st.tuples(st.just("root"), st.integers(0, 3)),
)


@settings(deadline=None)
@given(st.sampled_from([0, 1, 2]), st.integers(1, 7), st.lists(steps, max_size=25))
def test_built_root_is_that_of_what_is_stored(
    partition_bits: int, leaf_bits: int, story: list[tuple[str, Any]]
) -> None:
    """Whatever the interleaving of writes, pages of the scan, and starts anew (FACTS C3); on both twins."""
    forests = [twin.Forest(partition_bits, leaf_bits) for twin in (native, reference)]
    stored: dict[bytes, int] = {}
    count = 1 << partition_bits
    reached: dict[int, bytes | None] = {}

    def page(partition: int, limit: int) -> None:
        if partition not in reached:
            for forest in forests:
                forest.begin(partition)
            reached[partition] = b""
        after = reached[partition]
        if after is None:
            return
        left = sorted(
            digest
            for digest in stored
            if partition_of(digest, partition_bits) == partition and digest > after
        )
        found = left[:limit]
        for forest in forests:
            if found:
                prints = words(*(stored[digest] for digest in found))
                forest.extend(partition, found[-1], len(found), b"".join(found), prints)
            else:
                forest.finish(partition)
        reached[partition] = found[-1] if found else None

    for number, (kind, detail) in enumerate(story):
        if kind == "write":
            before = []
            for digest, fingerprint in detail:
                before.append(stored.get(digest, 0))
                stored[digest] = fingerprint
            for forest in forests:
                keys = b"".join(digest for digest, _ in detail)
                forest.update_many(len(detail), keys, words(*before), words(*(new for _, new in detail)))
        elif kind == "page":
            page(number % count, detail)
        elif kind == "forget":
            for forest in forests:
                forest.forget(detail % count)
            reached.pop(detail % count, None)
        else:
            wanted = numbers(detail % count)
            assert forests[0].roots(wanted) == forests[1].roots(wanted)
    for partition in range(count):
        while reached.get(partition, b"") is not None:
            page(partition, 3)
        expected = reference.Tree(leaf_bits, partition_bits)
        for digest, fingerprint in stored.items():
            if partition_of(digest, partition_bits) == partition:
                expected.update(digest, 0, fingerprint)
        assert [forest.roots(numbers(partition)) for forest in forests] == [expected.root()] * 2


@given(
    st.sampled_from(["begin", "finish", "forget", "is_built"]),
    st.integers(-2, 5),
    st.binary(max_size=17),
    st.integers(-1, 2),
    st.binary(max_size=33),
)
def test_twins_refuse_the_same_calls(
    name: str, partition: int, last: bytes, count: int, packed: bytes
) -> None:
    fast, plain = built(native), built(reference)
    fast.begin(1)
    plain.begin(1)
    assert outcome(lambda: getattr(fast, name)(partition)) == outcome(lambda: getattr(plain, name)(partition))
    for call, arguments in (
        ("extend", (1, last, count, packed, packed)),
        ("update_many", (count, packed, packed, packed[8:])),
        ("roots", (packed,)),
    ):
        fast_call, plain_call = getattr(fast, call), getattr(plain, call)
        assert outcome(partial(fast_call, *arguments)) == outcome(partial(plain_call, *arguments))
