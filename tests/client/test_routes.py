"""The layout as a client reads it."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from sadik.client.routes import Routes, node_hint
from sadik.errors import ProtocolError
from sadik.kernels import digest
from sadik.members.layout import Layout, LayoutNode
from sadik.members.view import View
from sadik.node.coordinator.service import node_hint as node_hint_of_nodes
from sadik.settings import Address


def document(**changes: Any) -> bytes:
    whole: dict[str, Any] = {
        "version": 3,
        "partitions": 4,
        "replicas": 3,
        "width": 2,
        "nodes": [
            {"node": "amber", "resp": "127.0.0.1:7379", "up": True},
            {"node": "birch", "resp": "[::1]:7389", "up": False, "zone": "not known here"},
            {"node": "cedar", "resp": None},
        ],
        "assignment": base64.b64encode(np.array([0, 1, 1, 2, 2, 0, 0, 2], "<u2").tobytes()).decode(),
        "note": "what else there is, is left alone",
    }
    return json.dumps(whole | changes).encode()


def test_partition_is_the_top_bits_of_the_digest():
    """The same rule as the nodes' own; a client that differs would send every request the long way."""
    routes = Routes.decode(document())
    rows = [list(routes.primaries(bytes((first, *range(15))))) for first in (0x00, 0x7F, 0x80, 0xFF)]
    assert rows == [[0, 1], [1, 2], [2, 0], [0, 2]]


def test_clients_and_nodes_agree_on_every_key():
    """Routes of a real layout's document against the nodes' view of it."""
    nodes = tuple(LayoutNode(name) for name in ("amber", "birch", "cedar", "dune"))
    rows = np.array([[(p + i) % 4 for i in range(3)] for p in range(64)], np.uint16)
    layout = Layout(5, 64, 3, nodes, rows)
    view = View(1, layout, nodes[0].node, frozenset(layout.names))
    found = layout.as_document()
    for node in found["nodes"]:
        node["resp"] = "127.0.0.1:1"
    routes = Routes.decode(json.dumps(found).encode())
    for number in range(500):
        name = digest.address_digest(b"0", b"%d" % number)
        assert list(routes.primaries(name)) == rows[view.partition_of(name)].tolist()


def test_places_say_where_and_whether():
    """An address that is missing or unusable is None: the node is reached through the others."""
    routes = Routes.decode(document())
    assert [place.address for place in routes.places] == [
        Address("127.0.0.1", 7379),
        Address("::1", 7389),
        None,
    ]
    assert [place.up for place in routes.places] == [True, False, True]
    nodes = [{"node": "a", "resp": text} for text in ("", "nonsense", "127.0.0.1:0", "127.0.0.1:99999")]
    strange = Routes.decode(document(nodes=nodes))
    assert [place.address for place in strange.places] == [None] * 4


def test_cluster_without_nodes_has_no_primaries():
    """A node that has not heard of its layout yet."""
    routes = Routes.decode(document(version=0, nodes=[], width=0, assignment=""))
    assert list(routes.primaries(bytes(16))) == []


def test_one_partition_takes_every_key():
    """No bit of the digest decides then."""
    assignment = base64.b64encode(b"\x02\x00").decode()
    routes = Routes.decode(document(partitions=1, width=1, assignment=assignment))
    assert list(routes.primaries(b"\xff" * 16)) == [2]


def test_hint_is_that_of_the_nodes():
    """A context names the node that answered by this number."""
    assert node_hint("amber") == node_hint_of_nodes("amber")


@pytest.mark.parametrize(
    "changes",
    [
        {"partitions": 3},
        {"partitions": 0},
        {"partitions": 1 << 17},
        {"width": -1},
        {"width": 3},
        {"assignment": "AAA"},
        {"assignment": base64.b64encode(bytes(14)).decode()},
        {"assignment": base64.b64encode(np.full(8, 3, "<u2").tobytes()).decode()},
        {"nodes": {}},
        {"version": "3"},
    ],
)
def test_what_is_no_layout_is_an_error(changes):
    """A client keeps what it has then."""
    with pytest.raises(ProtocolError):
        Routes.decode(document(**changes))


@pytest.mark.parametrize("answer", [None, 1, b"", b"{", b"[]", {b"a": 1}])
def test_what_is_no_document_is_an_error(answer):
    """Not even JSON."""
    with pytest.raises(ProtocolError):
        Routes.decode(answer)
