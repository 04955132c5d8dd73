"""Batches that need the same for all of their operations, against what each operation needs alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.ids import NodeId
from sadik.members.layout import LayoutNode
from sadik.members.view import NOBODY, View
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.quorum import Uniform, needs_of
from sadik.node.coordinator.uniforms import OPERATIONS_MAX, Uniforms
from sadik.node.operations import Span
from tests.members.layouts import clusters, layout_of, nodes_of

PARTITIONS = 16
DIGESTS = [bytes((partition << 4,)) + bytes(15) for partition in range(PARTITIONS)]
OPTIONS = [None, Options(), Options(r=1, w=1), Options(r=3, w=3), Options(pr=2, pw=2), Options(r=3, pw=3)]


def bucket(properties: BucketProperties) -> Any:
    return SimpleNamespace(name=b"b", properties=properties)


def of_one(
    view: View, partition: int, properties: BucketProperties, options: Options | None
) -> Uniform | None:
    """What one operation needs, as the rules read."""
    n = view.effective_n(properties.n)
    needs, targets = needs_of(properties, options, n), view.targets(n)
    primaries, asked = targets.primaries[partition].tolist(), targets.reachable[partition].tolist()
    if not n or any(stand_in not in (own, NOBODY) for own, stand_in in zip(primaries, asked, strict=True)):
        return None
    live = [own for own, stand_in in zip(primaries, asked, strict=True) if stand_in != NOBODY]
    if len(live) < needs.read:
        return None
    return Uniform(
        view.me in live,
        needs.read,
        needs.write,
        len(live) >= needs.write,
        tuple(view.nodes[number] for number in sorted(live) if number != view.me),
        tuple(view.nodes[number] for number in sorted(set(primaries) - set(live))),
    )


@settings(max_examples=100, deadline=None)
@given(clusters(), st.integers(1, 4), st.data())
def test_a_batch_has_what_each_of_its_operations_has_or_nothing(
    nodes: tuple[LayoutNode, ...], n: int, data: st.DataObject
) -> None:
    """Never more than they have in common: an operation that needs another replica, or a stand-in, is routed
    alone."""
    layout = layout_of(nodes, PARTITIONS, min(3, len(nodes)))
    me = data.draw(st.sampled_from([*layout.names, NodeId("stranger")]))
    up = data.draw(st.sets(st.sampled_from(layout.names)))
    view = View(1, layout, me, up)
    uniforms = Uniforms(view)
    for _ in range(4):
        options = data.draw(st.sampled_from(OPTIONS))
        partitions = data.draw(st.lists(st.integers(0, PARTITIONS - 1), min_size=1, max_size=4))
        cut = data.draw(st.integers(0, len(partitions)))
        both = BucketProperties(n=n), BucketProperties(n=data.draw(st.sampled_from([n, 2])))
        spans = [
            Span(first, stop, bucket(properties))
            for first, stop, properties in ((0, cut, both[0]), (cut, len(partitions), both[1]))
            if stop > first
        ]
        wanted = {
            of_one(view, partitions[index], span.bucket.properties, options)
            for span in spans
            for index in range(span.first, span.stop)
        }
        digests = b"".join(DIGESTS[partition] for partition in partitions)
        found = uniforms.of(len(partitions), spans, digests, options)
        assert found == (wanted.pop() if len(wanted) == 1 else None)


def test_big_batches_are_not_looked_through() -> None:
    """Where there are several sets of replicas; where there is one, size does not count."""
    span = [Span(0, OPERATIONS_MAX + 1, bucket(BucketProperties()))]
    digests = DIGESTS[0] * (OPERATIONS_MAX + 1)
    for nodes, fits in ((5, False), (3, True)):
        layout = layout_of(nodes_of(nodes), PARTITIONS)
        uniforms = Uniforms(View(1, layout, layout.names[0], layout.names))
        assert (uniforms.of(OPERATIONS_MAX + 1, span, digests, None) is not None) == fits
        assert uniforms.of(OPERATIONS_MAX, span, digests, None) is not None
