"""Generators shared by the property tests: plain values that shrink to the simplest case."""

from __future__ import annotations

from hypothesis import strategies as st

UINT64_MAX = 2**64 - 1

buckets = st.binary(min_size=1, max_size=255)
"""Buckets of an address."""

keys = st.binary(min_size=1, max_size=300)
"""Keys of an address; long ones up to 65535 bytes are cases of their own."""

addresses = st.tuples(buckets, keys)

digests = st.binary(min_size=16, max_size=16)

tokens = st.one_of(
    st.integers(0, UINT64_MAX),
    # Near each other and near the ends: where comparing as float64 or wrapping goes wrong.
    st.integers(0, 8),
    st.integers(UINT64_MAX - 8, UINT64_MAX),
    st.integers(2**63 - 4, 2**63 + 4),
)
"""Positions on the ring."""


@st.composite
def rings(
    draw: st.DrawFn, *, tokens_max: int = 40, nodes_max: int = 8
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, their owners, and each node's host and zone. Nodes may own nothing and share labels."""
    positions = sorted(draw(st.sets(tokens, min_size=1, max_size=tokens_max)))
    nodes = draw(st.integers(1, nodes_max))
    node = st.integers(0, nodes - 1)
    owners = draw(st.lists(node, min_size=len(positions), max_size=len(positions)))
    hosts = draw(st.one_of(st.just(list(range(nodes))), st.lists(node, min_size=nodes, max_size=nodes)))
    zones = draw(st.one_of(st.just([0] * nodes), st.lists(st.integers(0, 3), min_size=nodes, max_size=nodes)))
    return positions, owners, hosts, zones
