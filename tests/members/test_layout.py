"""The layout, its encoding, and what nodes agree on when they stage and commit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import InvalidRequest, LimitReached, ProtocolError, Unavailable
from sadik.ids import NodeId
from sadik.members.layout import (
    CAPACITY_MAX,
    NODES_MAX,
    PARTITIONS_MAX,
    REPLICAS_MAX,
    STAGED_MAX,
    Change,
    Layout,
    LayoutNode,
    LayoutState,
    changed_nodes,
    vote,
)
from tests.members.layouts import changed, clusters, layout_of, nodes_of

A, B, C, D = (NodeId(name) for name in ("amber", "birch", "cedar", "dogwood"))


def founded(partitions: int = 16) -> Layout:
    return Layout.founded(LayoutNode(A), partitions)


def join(node: NodeId, **more: object) -> Change:
    return msgspec.structs.replace(Change("join", node), **more)


# ---- the value ----


def test_founded_cluster_is_its_founder_alone() -> None:
    """A node without seeds serves at once, as version 1 of a layout of itself."""
    layout = founded()
    assert (layout.version, layout.width, layout.names) == (1, 1, (A,))
    assert layout.assignment.tolist() == [[0]] * 16
    assert layout.majority == 1


def test_empty_layout_is_below_every_other() -> None:
    """A node that joins knows none yet, and takes the first it hears of."""
    empty = Layout.empty(16)
    state = LayoutState(empty)
    assert empty.version == 0
    assert empty.order.shape == (16, 0)
    assert empty.number_of(A) == -1
    with pytest.raises(Unavailable):
        state.stage(join(B))
    assert state.merge(LayoutState(founded()).export())
    assert state.layout == founded()


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from([1, 2, 64]), st.integers(1, 4))
def test_decode_inverts_encode(nodes: tuple[LayoutNode, ...], partitions: int, replicas: int) -> None:
    """The same layout has the same bytes and so the same digest everywhere."""
    layout = layout_of(nodes, partitions, replicas)
    twin = Layout.decode(layout.encoded)
    assert twin == layout
    assert hash(twin) == hash(layout)
    assert twin.digest == layout.digest
    assert (twin.assignment == layout.assignment).all()
    assert Layout.from_document(layout.as_document()) == layout


def test_encoding_is_pinned() -> None:
    """Nodes of two releases hold one layout: its bytes and their digest are for ever."""
    layout = Layout(
        7,
        2,
        3,
        (LayoutNode(A, "h1", "z1", 100), LayoutNode(B, "", "", 250)),
        np.array([[0, 1], [1, 0]], np.uint16),
    )
    assert layout.encoded.hex() == (
        "96010702039294a5616d626572a26831a27a316494a56269726368a0a0ccfac4080000010001000000"
    )


def test_damaged_bytes_are_never_taken_for_the_layout() -> None:
    """Each prefix, and each flipped byte: refused, or another layout with a digest of its own."""
    layout = layout_of(nodes_of(4, hosts=2), 8)
    data = layout.encoded
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            Layout.decode(data[:length])
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            found = Layout.decode(flipped)
        except ProtocolError:
            continue
        assert found.digest != layout.digest


def test_second_encoding_of_a_layout_is_refused() -> None:
    """Two byte strings for one layout would be two digests, and gossip would never end."""
    data = founded().encoded
    fields = msgspec.msgpack.decode(data)
    with pytest.raises(ProtocolError):
        Layout.decode(data.replace(bytes([fields[1]]), b"\xcc\x01", 1))
    with pytest.raises(ProtocolError):
        Layout.decode(msgspec.msgpack.encode([2, *fields[1:]]))


def make(**facts: object) -> Layout:
    usual = {
        "version": 1,
        "partitions": 2,
        "replicas": 3,
        "nodes": (LayoutNode(A), LayoutNode(B)),
        "assignment": np.array([[0, 1], [1, 0]], np.uint16),
    }
    return Layout(**{**usual, **facts})


@pytest.mark.parametrize(
    "facts",
    [
        {"version": -1},
        {"partitions": 3},
        {"partitions": 2 * PARTITIONS_MAX},
        {"replicas": 0},
        {"replicas": REPLICAS_MAX + 1},
        {"nodes": (LayoutNode(B), LayoutNode(A))},
        {"nodes": (LayoutNode(A), LayoutNode(A))},
        {"nodes": (LayoutNode(A), LayoutNode(NodeId("no name")))},
        {"nodes": (LayoutNode(A), LayoutNode(B, host="a/b"))},
        {"nodes": (LayoutNode(A), LayoutNode(B, zone="x" * 65))},
        {"nodes": (LayoutNode(A), LayoutNode(B, capacity=0))},
        {"nodes": (LayoutNode(A), LayoutNode(B, capacity=CAPACITY_MAX + 1))},
        {"assignment": np.array([[0, 0], [1, 0]], np.uint16)},
        {"assignment": np.array([[0, 2], [1, 0]], np.uint16)},
        {"assignment": np.array([[0], [1]], np.uint16)},
        {"assignment": np.array([[0, 1], [1, 0]], np.int64)},
    ],
    ids=str,
)
def test_layout_checks_what_it_is_made_of(facts: dict[str, object]) -> None:
    """Whatever made it, a layout that exists can be used without another look."""
    make()
    with pytest.raises(InvalidRequest):
        make(**facts)


def test_layout_has_at_most_so_many_nodes() -> None:
    """A full layout works; the node after it is refused when it is staged."""
    layout = layout_of(nodes_of(NODES_MAX), 2)
    assert layout.order.shape == (2, NODES_MAX)
    with pytest.raises(LimitReached):
        LayoutState(layout).stage(join(A))
    with pytest.raises(LimitReached):
        Layout(1, 2, 3, nodes_of(NODES_MAX + 1), layout.assignment)


def test_layout_never_changes() -> None:
    """Requests keep the one they began with: neither its maker nor its users can write into it."""
    rows = np.array([[0, 1], [1, 0]], np.uint16)
    layout = make(assignment=rows)
    rows[0] = 1
    assert layout.assignment.tolist() == [[0, 1], [1, 0]]
    for array in (layout.assignment, layout.order):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_document_tells_load_and_share() -> None:
    """What `sadik ring` shows, and what a client routes by."""
    document = layout_of(nodes_of(2), 4, 1).as_document()
    assert [(node["partitions"], node["first"], node["share"]) for node in document["nodes"]] == [
        (2, 2, 0.5),
        (2, 2, 0.5),
    ]
    assert document["width"] == 1
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


@pytest.mark.parametrize("damage", ["nodes", "assignment", "replicas", "version", "partitions"])
def test_document_that_is_none_is_refused(damage: str) -> None:
    """A client's surprise is an error, not a wrong route."""
    document = layout_of(nodes_of(4), 4).as_document()
    for wrong in (None, -1, "x", [{}]):
        with pytest.raises(ProtocolError):
            Layout.from_document({**document, damage: wrong})


# ---- changes ----


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (join(A), "already"),
        (Change("leave", C), "not in the layout"),
        (Change("weight", C, 50), "not in the layout"),
        (Change("weight", A, 0), "capacity"),
        (Change("weight", A, CAPACITY_MAX + 1), "capacity"),
        (Change("replace", C, other=D), "not in the layout"),
        (Change("replace", A, other=B), "twice"),
        (Change("replace", A, other=A), "twice"),
        (Change("replace", A), "name"),
        (join(NodeId("no name")), "name"),
        (join(C, zone="a/b"), "zone"),
        (Change("revert", A), "a join"),
    ],
    ids=str,
)
def test_change_that_does_not_fit_is_refused_when_staged(change: Change, reason: str) -> None:
    """The administrator hears at once, and nothing is staged."""
    state = LayoutState(changed(founded(), join(B)))
    with pytest.raises(InvalidRequest, match=reason):
        state.stage(change)
    assert state.staged == ()


def test_changes_that_contradict_each_other_are_refused() -> None:
    """One newcomer cannot take two places, and somebody must stay."""
    state = LayoutState(changed(founded(), join(B)))
    state.stage(join(C))
    with pytest.raises(InvalidRequest, match="twice"):
        state.stage(Change("replace", A, other=C))
    state.stage(Change("leave", A))
    state.revert()
    state.stage(Change("leave", A))
    with pytest.raises(InvalidRequest, match="last node"):
        state.stage(Change("leave", B))


def test_last_change_of_a_node_counts() -> None:
    """Who stages a second time has changed their mind."""
    state = LayoutState(changed(founded(), join(B)))
    state.stage(Change("leave", B))
    state.stage(Change("weight", B, 50))
    assert [(change.action, change.capacity) for change in state.staged] == [("weight", 50)]


def test_capacity_and_labels_of_those_that_come_in() -> None:
    """A replacement has the old one's capacity unless it says another; a newcomer the default."""
    layout = changed(founded(), join(B, capacity=300, host="h1", zone="north"), join(C))
    assert layout.nodes[1:] == (LayoutNode(B, "h1", "north", 300), LayoutNode(C, "", "", 100))
    after = changed(layout, Change("replace", B, other=D, host="h2"), Change("leave", C))
    assert after.nodes == (LayoutNode(A), LayoutNode(D, "h2", "", 300))


def test_revert_takes_back_what_other_nodes_staged() -> None:
    """It is a change of its own, above those it takes back, so gossip cannot bring them again."""
    one, other = LayoutState(founded()), LayoutState(founded())
    one.stage(join(B))
    other.merge(one.export())
    other.stage(join(C))
    other.revert()
    assert other.staged == ()
    assert one.merge(other.export())
    assert one.staged == ()
    assert not other.merge(one.export())
    one.stage(join(B))
    other.merge(one.export())
    assert [change.node for change in other.staged] == [B]


def test_staged_changes_have_a_limit() -> None:
    """Staging and taking back for ever does not grow what is gossiped."""
    state = LayoutState(founded(2))
    for number in range(STAGED_MAX):
        state.stage(join(NodeId(f"n{number}")))
        state.revert()
    with pytest.raises(LimitReached):
        state.stage(join(B))
    state.stage(join(NodeId("n7")))
    assert len(state.staged) == 1


# ---- agreement ----


def test_commit_makes_the_next_version_and_clears_what_is_staged() -> None:
    """Stage, plan, commit: the way of every change."""
    state = LayoutState(founded())
    state.stage(join(B))
    plan = state.plan()
    layout = state.committed(plan)
    assert (layout.version, layout.names, state.staged) == (2, (A, B), ())
    assert state.layout is layout


def test_change_staged_after_the_plan_stays_staged() -> None:
    """The commit does what its plan showed, and nothing is lost."""
    state = LayoutState(founded())
    state.stage(join(B))
    plan = state.plan()
    state.stage(join(C))
    assert state.committed(plan).names == (A, B)
    assert [change.node for change in state.staged] == [C]


def test_plan_on_an_old_version_is_refused() -> None:
    """What it showed is not what would happen any more."""
    one, other = LayoutState(founded()), LayoutState(founded())
    for state, node in ((one, B), (other, C)):
        state.stage(join(node))
    plan = one.plan()
    other.committed(other.plan())
    one.merge(other.export())
    with pytest.raises(InvalidRequest, match="version 2"):
        one.committed(plan)
    assert one.layout.names == (A, C)


def test_plan_without_changes_cannot_be_committed() -> None:
    """A version that changes nothing would only hide the one before."""
    state = LayoutState(founded())
    with pytest.raises(InvalidRequest, match="nothing is staged"):
        state.committed(state.plan())


def test_same_changes_make_the_same_layout_on_every_node() -> None:
    """Placement is deterministic: two administrators who commit the same do not disagree."""
    base = layout_of(nodes_of(9, hosts=5, zones=2))
    states = [LayoutState(Layout.decode(base.encoded)) for _ in range(2)]
    changes = [join(A, zone="z0"), Change("leave", NodeId("n003")), Change("weight", NodeId("n005"), 10)]
    for state, order in zip(states, (changes, changes[::-1]), strict=True):
        for change in order:
            state.stage(change)
        state.committed(state.plan())
    assert states[0].layout == states[1].layout


def test_two_commits_of_one_version_resolve_the_same_everywhere() -> None:
    """The larger digest wins, whoever hears what first."""
    states = [LayoutState(founded()) for _ in range(4)]
    for state, node in zip(states, (B, C), strict=False):
        state.stage(join(node))
        state.committed(state.plan())
    one, other = (state.export() for state in states[:2])
    for state, order in zip(states, ((other,), (one,), (one, other), (other, one)), strict=True):
        for data in order:
            state.merge(data)
    winner = max(states[0].layout, states[1].layout, key=lambda layout: layout.digest)
    assert all(state.layout == winner for state in states)
    assert len({state.digest() for state in states}) == 1


def test_contradiction_that_gossip_brings_about_is_a_refusal() -> None:
    """Each change fitted where it was staged; together they do not, and the plan says so until one goes."""
    one, other = (LayoutState(changed(founded(), join(B))) for _ in range(2))
    one.stage(Change("leave", A))
    other.stage(Change("leave", B))
    one.merge(other.export())
    assert "contradict" in one.plan().refusal
    assert one.plan().moves == []
    one.revert()
    one.stage(Change("leave", B))
    assert one.plan().refusal == ""


def test_vote_agrees_to_the_next_version_of_the_same_layout_only() -> None:
    """A majority of such votes means that no other layout of that version has one, but for the same base."""
    state = LayoutState(founded())
    state.stage(join(B))
    plan = state.plan()
    behind = LayoutState(Layout.empty(16))
    rival = LayoutState(Layout.founded(LayoutNode(C), 16))
    assert vote(state, 2, plan.before.digest) == ""
    assert "version 0" in vote(behind, 2, plan.before.digest)
    assert "another layout of version 1" in vote(rival, 2, plan.before.digest)
    state.committed(plan)
    assert "version 2" in vote(state, 2, plan.before.digest)


def test_restarted_node_knows_what_it_knew() -> None:
    """The export is also what is kept on disk."""
    state = LayoutState(founded())
    state.stage(join(B))
    again = LayoutState(Layout.empty(16))
    again.merge(state.export())
    assert again.digest() == state.digest()
    assert again.staged == state.staged


def test_garbage_changes_nothing() -> None:
    """A peer's mistake is its own."""
    state = LayoutState(founded())
    state.stage(join(B))
    before = state.export()
    foreign = LayoutState(founded(32)).export()
    for data in (b"", b"\xc1", before[:-1], before + b"\0", foreign, msgspec.msgpack.encode([b"", []])):
        with pytest.raises(ProtocolError):
            state.merge(data)
    assert state.export() == before


BASES = [
    founded(),
    changed(founded(), join(B)),
    changed(founded(), join(C)),
    changed(changed(founded(), join(B)), join(D)),
]


@st.composite
def states(draw: st.DrawFn) -> bytes:
    """Exports as nodes may have them: any layout, any changes staged, with equal stamps too."""
    state = LayoutState(draw(st.sampled_from(BASES)))
    changes = draw(
        st.lists(
            st.builds(
                Change,
                st.sampled_from(["join", "leave", "weight", "revert"]),
                st.sampled_from([A, B, C, D]),
                st.integers(1, 2),
                stamp=st.integers(1, 3),
            ),
            max_size=4,
        )
    )
    by_node = {change.node: change for change in changes}
    staged = [by_node[node] for node in sorted(by_node)]
    data: bytes = msgspec.msgpack.encode([state.layout.encoded, staged])
    return data


def merged(*exports: bytes) -> bytes:
    state = LayoutState(Layout.empty(16))
    for data in exports:
        state.merge(data)
    return state.export()


@settings(max_examples=200, deadline=None)
@given(states(), states(), states())
def test_merge_is_a_join(one: bytes, two: bytes, three: bytes) -> None:
    """Commutative, associative, idempotent: gossip in any order, as often as it likes, ends the same."""
    assert merged(one, two) == merged(two, one)
    assert merged(merged(one, two), three) == merged(one, merged(two, three))
    assert merged(one, two, one, two) == merged(one, two)


@settings(max_examples=100, deadline=None)
@given(states(), states())
def test_merge_says_whether_it_changed_anything(one: bytes, two: bytes) -> None:
    """Gossip stops when nothing is new, and goes on while something is."""
    state = LayoutState(Layout.empty(16))
    state.merge(one)
    before = state.digest()
    assert state.merge(two) == (state.digest() != before)
    assert not state.merge(two)


def test_order_of_changes_does_not_matter() -> None:
    """Nodes hear of them in different orders."""
    layout = BASES[3]
    changes = [Change("leave", A), Change("weight", B, 7), join(C)]
    assert changed_nodes(layout, changes) == changed_nodes(layout, changes[::-1])
