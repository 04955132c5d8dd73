"""Claims of the Dynamo paper about versions (4.4), and where dotted version vectors do better."""

from __future__ import annotations

import random

from sadik.causality import VectorClock, VersionSet

SX, SY, SZ = 1, 2, 3


def test_figure_3_evolution_of_an_object() -> None:
    """4.4, Figure 3: D1 to D5, who descends from whom, and what a node may forget."""
    d1 = VectorClock().increment("Sx")
    d2 = d1.increment("Sx")
    d3, d4 = d2.increment("Sy"), d2.increment("Sz")
    assert d2 == VectorClock({"Sx": 2})
    assert d3 == VectorClock({"Sx": 2, "Sy": 1})
    assert d4 == VectorClock({"Sx": 2, "Sz": 1})
    # A node that has D1 and D2 and receives D4 may forget them; one that has D3 keeps both.
    assert d4.descends(d1)
    assert d4.descends(d2)
    assert d3.compare(d4) == "concurrent"
    context = d3.merge(d4)
    assert context == VectorClock({"Sx": 2, "Sy": 1, "Sz": 1})
    d5 = context.increment("Sx")
    assert d5 == VectorClock({"Sx": 3, "Sy": 1, "Sz": 1})
    assert d5.descends(d3)
    assert d5.descends(d4)


def test_figure_3_with_version_sets() -> None:
    """4.4, Figure 3, as the store keeps it: the read returns the leaves, the merged write replaces them."""
    d2 = VersionSet().event(actor=SX, stamp=1, payload=b"D1").event(actor=SX, stamp=2, payload=b"D2")
    d3 = d2.event(actor=SY, stamp=3, payload=b"D3")
    d4 = d2.event(actor=SZ, stamp=3, payload=b"D4")
    assert d2 | d4 == d4
    read = d3 | d4
    assert [value.payload for value in read.values] == [b"D3", b"D4"]
    assert read.context == [(SX, 2), (SY, 3), (SZ, 3)]
    d5 = read.event(actor=SX, stamp=4, payload=b"D5", covers=read.context)
    assert d5.context == [(SX, 4), (SY, 3), (SZ, 3)]
    assert d3 | d5 == d4 | d5 == d5
    assert [value.payload for value in d5.values] == [b"D5"]


def test_oldest_pair_goes_when_the_clock_is_too_long() -> None:
    """4.4: at a threshold the pair whose update is longest ago is removed."""
    clock = VectorClock()
    for turn in range(11):
        clock = clock.increment(f"S{turn}", now_ms=100 + turn)
    clock = clock.increment("S0", now_ms=200)
    truncated = clock.truncate()
    assert len(truncated) == 10
    assert "S1" not in truncated
    assert truncated.counter("S0") == 2
    assert truncated.truncate() is truncated


def test_truncation_costs_the_relation_to_a_descendant() -> None:
    """4.4 admits it: a descendant whose old pairs are gone looks concurrent to its own ancestor."""
    ancestor = VectorClock({"old": 1}, now_ms=1)
    descendant = ancestor
    for turn in range(10):
        descendant = descendant.increment(f"S{turn}", now_ms=2 + turn)
    assert descendant.descends(ancestor)
    assert descendant.truncate().compare(ancestor) == "concurrent"


def test_equal_times_are_truncated_alike_everywhere() -> None:
    """Not in the paper: which of two equally old pairs goes must not depend on the order they came in."""
    names = [f"S{number:02}" for number in range(14)]
    kept = set()
    for seed in range(5):
        random.Random(seed).shuffle(names)
        clock = VectorClock()
        for name in names:
            clock = clock.increment(name, now_ms=7)
        kept.add(clock.truncate(4).items())
    assert kept == {(("S10", 1), ("S11", 1), ("S12", 1), ("S13", 1))}


def test_deleted_items_can_resurface_in_a_merged_cart() -> None:
    """4.4: "add to cart" is never lost; merging branches may bring a removed item back."""
    cart = VersionSet().event(actor=SX, stamp=1, payload=b"milk,eggs")
    removed = cart.event(actor=SX, stamp=2, payload=b"eggs", covers=cart.context)
    added = cart.event(actor=SY, stamp=3, payload=b"milk,eggs,tea", covers=cart.context)
    branches = [value.payload for value in (removed | added).values]
    assert branches == [b"eggs", b"milk,eggs,tea"]
    assert {item for branch in branches for item in branch.split(b",")} == {b"milk", b"eggs", b"tea"}


def test_clock_of_server_ids_loses_a_concurrent_write_or_keeps_everything() -> None:
    """Why the store has dots: two clients that read one version and write through one server.

    With one vector clock per version the second write looks like a descendant of the first, which its client
    never saw. A version set keeps both, and retires exactly the one that a later writer read.
    """
    read = VectorClock({"Sx": 1})
    first = read.increment("Sx")
    second = first.increment("Sx")
    assert second.descends(first)
    base = VersionSet().event(actor=SX, stamp=1, payload=b"base")
    one = base.event(actor=SX, stamp=2, payload=b"one", covers=base.context)
    two = one.event(actor=SX, stamp=3, payload=b"two", covers=base.context)
    assert [value.payload for value in two.values] == [b"one", b"two"]
    three = two.event(actor=SX, stamp=4, payload=b"three", covers=one.context)
    assert [value.payload for value in three.values] == [b"two", b"three"]


def test_worked_examples_of_dotted_version_vector_sets() -> None:
    """Dotted Version Vector Sets: blind writes, a merged write against a stale replica, and a bare entry."""
    v1 = VersionSet().event(actor=1, stamp=1, payload=b"v1")
    v2 = v1.event(actor=1, stamp=2, payload=b"v2", covers=())
    v3 = v2.event(actor=1, stamp=3, payload=b"v3", covers=[(1, 1)])
    assert [value.payload for value in v3.values] == [b"v2", b"v3"]
    assert v3.context == [(1, 3)]
    v4 = v3.event(actor=1, stamp=4, payload=b"v4", covers=v3.context)
    assert [value.payload for value in v4.values] == [b"v4"]

    stale = VersionSet().event(actor=1, stamp=1, payload=b"x")
    y = stale.event(actor=1, stamp=2, payload=b"y")
    z = stale.event(actor=2, stamp=1 + 1, payload=b"z")
    assert [value.payload for value in (y | z).values] == [b"y", b"z"]
    merged = (y | z).event(actor=2, stamp=3, payload=b"m")
    assert merged | stale == merged

    assert VersionSet.of([(1, 1)]) | v2 == VersionSet.of([(1, 2)], v2.values[1:])
