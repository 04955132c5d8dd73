"""The ring kernel and its plain twin: the same cases on both, and both compared on generated rings."""

from __future__ import annotations

import array
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.kernels.native import ring as native
from sadik.kernels.reference import ring as reference
from tests import strategies

LAST = 2**64 - 1


@pytest.fixture(params=[native, reference], ids=["native", "reference"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def longs(*values: int) -> array.array[int]:
    return array.array("Q", values)


def words(*values: int) -> array.array[int]:
    return array.array("I", values)


def ring_of(
    twin: ModuleType, tokens: list[int], owners: list[int], hosts: list[int], zones: list[int], **more: int
) -> Any:
    return twin.Ring(longs(*tokens), words(*owners), words(*hosts), words(*zones), **more)


def plain(twin: ModuleType, tokens: list[int], owners: list[int], **more: int) -> Any:
    """A ring without labels: each node on a host of its own, all in one zone."""
    nodes = max(owners) + 1
    return ring_of(twin, tokens, owners, list(range(nodes)), [0] * nodes, **more)


@pytest.mark.parametrize(
    ("token", "position"),
    [(0, 0), (9, 0), (10, 0), (11, 1), (20, 1), (21, 2), (30, 2), (31, 0), (LAST, 0)],
)
def test_position_is_the_first_token_not_below_and_wraps(twin: ModuleType, token: int, position: int) -> None:
    """A node owns (predecessor, self]: its own token is still its own."""
    ring = plain(twin, [10, 20, 30], [2, 0, 1])
    assert ring.position(token) == position
    assert ring.owner(token) == [2, 0, 1][position]


def test_near_tokens_at_the_top_are_told_apart(twin: ModuleType) -> None:
    """As float64 these three tokens are one number."""
    ring = plain(twin, [LAST - 2, LAST - 1, LAST], [0, 1, 2])
    assert [ring.owner(LAST - 3 + step) for step in range(4)] == [0, 0, 1, 2]


def test_crowded_tokens_are_found(twin: ModuleType) -> None:
    """All in one bucket of the index, where a linear walk would be slow."""
    tokens = [2**40 + 3 * i for i in range(300)]
    ring = plain(twin, tokens, [i % 7 for i in range(300)])
    for i in range(1, 300):
        assert ring.position(tokens[i] - 2) == ring.position(tokens[i]) == i


def test_list_skips_nodes_already_listed(twin: ModuleType) -> None:
    """Dynamo 4.3: the list holds distinct physical nodes only."""
    ring = plain(twin, [10, 20, 30, 40, 50], [0, 0, 1, 0, 2])
    assert ring.preference(5, 3) == (0, 1, 2)
    assert ring.preference(25, 2) == (1, 0)


def test_list_is_short_when_nodes_are_few(twin: ModuleType) -> None:
    ring = plain(twin, [10, 20], [1, 0])
    assert ring.preference(15, 5) == (0, 1)
    out = words(*[7] * 5)
    ring.preference_many(1, longs(15), 5, out)
    assert list(out) == [0, 1, twin.NO_NODE, twin.NO_NODE, twin.NO_NODE]


def test_node_without_token_is_in_no_list(twin: ModuleType) -> None:
    """A node that drains keeps its number but gets no data."""
    ring = ring_of(twin, [10, 20], [2, 0], [0, 1, 2], [0, 0, 0])
    assert ring.preference(0, 3) == (2, 0)


SPREAD = {
    # nodes clockwise from the token are 0, 1, 2, ...: hosts, zones, expected order
    "hosts first": ([0, 0, 1, 1], [0, 0, 0, 0], (0, 2, 1, 3)),
    "zones within fresh hosts": ([0, 1, 2, 3], [0, 0, 1, 1], (0, 2, 1, 3)),
    "zones used up evenly": ([0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2], (0, 4, 5, 1, 2, 3)),
    "fresh host before fresh zone": ([0, 1, 1, 2], [0, 1, 1, 1], (0, 1, 3, 2)),
    "host beats zone balance": ([0, 1, 2, 3, 3], [0, 0, 0, 1, 1], (0, 3, 1, 2, 4)),
    "one of all": ([5, 5, 5], [9, 9, 9], (0, 1, 2)),
    "a host in two zones": ([0, 0, 1], [0, 1, 0], (0, 2, 1)),
}


@pytest.mark.parametrize("case", SPREAD)
def test_list_spreads_over_hosts_and_then_zones(twin: ModuleType, case: str) -> None:
    hosts, zones, expected = SPREAD[case]
    ring = ring_of(twin, list(range(10, 10 + len(hosts))), list(range(len(hosts))), hosts, zones)
    assert ring.preference(0, len(hosts)) == expected


def test_nodes_that_are_down_are_passed_over_in_the_agreed_order(twin: ModuleType) -> None:
    """Dynamo 4.5: the first N healthy nodes; who is up changes nobody else's place."""
    ring = plain(twin, list(range(12)), list(range(12)))
    up = bytearray([1] * 12)
    up[0] = up[2] = 0
    assert ring.preference(0, 3, up) == (1, 3, 4)
    assert ring.preference(0, 12, up) == (1, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert ring.preference(0, 3, bytes(12)) == ()
    assert ring.preference(0, 1, bytes([0] * 11 + [1])) == (11,)


def test_partition_is_looked_up_at_its_end(twin: ModuleType) -> None:
    """Dynamo 6.2, strategy 2: walk clockwise from the end of the partition."""
    half = 2**63
    ring = plain(twin, [5, half - 1, half + 5], [0, 1, 2], partition_bits=1)
    assert [ring.owner(token) for token in (0, 5, half - 1)] == [1, 1, 1]
    assert [ring.owner(token) for token in (half, half + 5, LAST)] == [0, 0, 0]
    whole = plain(twin, [5, half - 1, half + 5], [0, 1, 2], partition_bits=0)
    assert {whole.owner(token) for token in (0, half, LAST)} == {0}


@given(
    ring=strategies.rings(),
    tokens=st.lists(strategies.tokens, max_size=20),
    n=st.integers(1, 12),
    bits=st.one_of(st.just(64), st.integers(0, 64)),
    down=st.none() | st.sets(st.integers(0, 7)),
)
@settings(max_examples=120)
def test_twins_agree(
    ring: tuple[list[int], ...], tokens: list[int], n: int, bits: int, down: set[int] | None
) -> None:
    nodes = len(ring[2])
    up = None if down is None else bytes(node not in down for node in range(nodes))
    answers = []
    for module in (native, reference):
        one = ring_of(module, *ring, partition_bits=bits)
        owners = words(*[0] * len(tokens))
        lists = words(*[0] * (n * len(tokens)))
        one.owner_many(len(tokens), longs(*tokens), owners)
        one.preference_many(len(tokens), longs(*tokens), n, lists, up)
        singly = [(one.position(token), one.owner(token), one.preference(token, n, up)) for token in tokens]
        answers.append((list(owners), list(lists), singly))
    assert answers[0] == answers[1]


@given(seed=st.integers(0, 2**32), zones=st.integers(1, 4), hosts=st.integers(3, 30))
@settings(max_examples=15)
def test_twins_agree_on_rings_wider_than_a_kept_row(seed: int, zones: int, hosts: int) -> None:
    """Lists beyond the eight nodes kept for each position are walked anew, from another place in the code."""
    tokens = sorted({(seed * 2654435761 + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(120)})
    owners = [(token >> 7) % 30 for token in tokens]
    labels = ([node % hosts for node in range(30)], [node % zones for node in range(30)])
    fast = ring_of(native, tokens, owners, *labels)
    slow = ring_of(reference, tokens, owners, *labels)
    up = bytes((node * 7 + seed) % 3 != 0 for node in range(30))
    for token in tokens[:10]:
        for n in (1, 8, 9, 30, 40):
            assert fast.preference(token, n) == slow.preference(token, n)
            assert fast.preference(token, n, up) == slow.preference(token, n, up)


@given(ring=strategies.rings(), token=strategies.tokens)
def test_list_is_the_beginning_of_any_longer_one(ring: tuple[list[int], ...], token: int) -> None:
    """Primaries of N = 2 are among those of N = 3, so N may be raised without moving data."""
    one = ring_of(native, *ring)
    full = one.preference(token, 2**20)
    assert sorted(full) == sorted(set(ring[1]))
    for n in range(1, len(full) + 1):
        assert one.preference(token, n) == full[:n]


GOOD = (longs(1, 2), words(0, 1), words(0, 1), words(0, 0))
BAD_RINGS = {
    "no token": ((b"", b"", *GOOD[2:]), ValueError),
    "no node": ((*GOOD[:2], b"", b""), ValueError),
    "tokens equal": ((longs(2, 2), *GOOD[1:]), ValueError),
    "tokens falling": ((longs(3, 2), *GOOD[1:]), ValueError),
    "owners short": ((GOOD[0], words(0), *GOOD[2:]), ValueError),
    "owners long": ((GOOD[0], words(0, 1, 1), *GOOD[2:]), ValueError),
    "owner no node": ((GOOD[0], words(0, 2), *GOOD[2:]), ValueError),
    "tokens not whole": ((bytes(15), *GOOD[1:]), ValueError),
    "zones short": ((*GOOD[:3], words(0)), ValueError),
    "hosts not whole": ((*GOOD[:2], bytes(7), GOOD[3]), ValueError),
    "bits negative": ((*GOOD, -1), ValueError),
    "bits beyond": ((*GOOD, 65), ValueError),
    "tokens no buffer": (([1, 2], *GOOD[1:]), TypeError),
}


@pytest.mark.parametrize("case", BAD_RINGS)
def test_malformed_ring_is_refused(twin: ModuleType, case: str) -> None:
    arguments, error = BAD_RINGS[case]
    with pytest.raises(error):
        twin.Ring(*arguments)


BAD_CALLS = {
    "token negative": ("owner", (-1,), OverflowError),
    "token beyond": ("position", (2**64,), OverflowError),
    "token no integer": ("owner", (1.5,), TypeError),
    "empty list": ("preference", (1, 0), ValueError),
    "long list": ("preference", (1, 2**20 + 1), ValueError),
    "up short": ("preference", (1, 1, bytes(1)), ValueError),
    "owner tokens short": ("owner_many", (2, longs(1), words(0, 0)), ValueError),
    "owner out short": ("owner_many", (2, longs(1, 1), words(0)), ValueError),
    "owner out read-only": ("owner_many", (1, longs(1), bytes(4)), BufferError),
    "owner count negative": ("owner_many", (-1, longs(1), words(0)), ValueError),
    "owner count overflows": ("owner_many", (2**62, longs(1), words(0)), ValueError),
    "tokens short": ("preference_many", (2, longs(1), 1, words(0, 0)), ValueError),
    "out short": ("preference_many", (2, longs(1, 1), 2, words(0, 0, 0)), ValueError),
    "out read-only": ("preference_many", (1, longs(1), 1, bytes(4)), BufferError),
    "many up short": ("preference_many", (1, longs(1), 1, words(0), bytes(1)), ValueError),
    "many empty list": ("preference_many", (1, longs(1), 0, words(0)), ValueError),
    "many count overflows": ("preference_many", (2**60, longs(1), 2**20, words(0)), ValueError),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_malformed_call_is_refused(twin: ModuleType, case: str) -> None:
    method, arguments, error = BAD_CALLS[case]
    with pytest.raises(error):
        getattr(twin.Ring(*GOOD), method)(*arguments)


def test_unaligned_arrays_are_taken(twin: ModuleType) -> None:
    """Slices of a frame start anywhere."""
    ring = plain(twin, [10, 20, 30], [2, 0, 1])
    tokens = memoryview(b"x" + longs(15, 25).tobytes())[1:]
    out = bytearray(1 + 16)
    ring.preference_many(2, tokens, 2, memoryview(out)[1:])
    assert out[1:] == words(0, 1, 1, 2).tobytes()
