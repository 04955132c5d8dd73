"""Whom a read repairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sadik.ids import NodeId
from sadik.kernels import versions
from sadik.node.coordinator.differences import find_stale

OTHER = NodeId("n2")
SET = versions.event(b"", (), 7, 1 << 20, 0, 0, -1, b"", b"value")


def asked(*operations: int, primary: bool) -> tuple[NodeId, Any]:
    return OTHER, SimpleNamespace(operations=lambda: np.array(operations), primary=primary)


@pytest.mark.parametrize("last", [0, 1])
def test_a_stand_in_is_not_repaired_for_keys_that_it_is_asked_for_in_anothers_place(last: int) -> None:
    """Found by the simulator (flapping/1, H1): one node was asked as a primary of one key and as a stand-in
    for another, and the list of what it had been asked was kept by node alone. So a read left a copy with a
    node that is no primary, or did not repair one that is."""
    two = [asked(0, primary=True), asked(1, primary=False)]
    flight: Any = SimpleNamespace(
        theirs={OTHER: {0: b"", 1: b""}},
        merged={},
        own=None,
        read_from=[two[1 - last], two[last]],
        digest=lambda index: bytes([index]) * 16,
        name=lambda index: b"k%d" % index,
        known=lambda index: SET,
    )
    counted = {what: SimpleNamespace(value=0) for what in ("unreadable", "stale", "missing", "own")}
    own, stale = find_stale(flight, counted)  # type: ignore[arg-type]
    assert own == []
    assert [name for _, name, _ in stale[OTHER]] == [b"k0"]
    assert counted["missing"].value == 1
