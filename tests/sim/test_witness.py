"""What is seen between a node and its engine: that counts which was stored."""

from __future__ import annotations

import pytest

from sadik.errors import StorageFailed, StorageFull
from sadik.kernels import versions
from sadik.sim.witness import Witness

ACTOR = 7


def look(witness: Witness, value: bytes, stamp: int) -> None:
    one = versions.Value(ACTOR, stamp, 0, 0, -1, b"", value)
    encoded = versions.encode([(ACTOR, stamp)], [one])
    witness.look("n1", ACTOR, b"k", encoded, lambda: None)


def refused(witness: Witness, value: bytes, stamp: int, error: Exception) -> None:
    with witness.attempt():
        look(witness, value, stamp)
        raise error


def test_what_a_full_disk_refuses_was_never_minted() -> None:
    """A refused EXPIRE would have written the same value under a new dot: nothing could ever cover that."""
    witness = Witness(lambda: 0.0)
    with witness.attempt():
        look(witness, b"v", 1)
    with pytest.raises(StorageFull):
        refused(witness, b"v", 2, StorageFull("no room"))
    assert [one.dot for one in witness.by_value[b"v"]] == [one.dot for one in witness.minted] == [(ACTOR, 1)]
    with witness.attempt():
        look(witness, b"w", 2)
    assert [one.dot for one in witness.by_value[b"w"]] == [(ACTOR, 2)]


def test_what_fails_otherwise_may_be_there_after_the_next_start() -> None:
    witness = Witness(lambda: 0.0)
    with pytest.raises(StorageFailed):
        refused(witness, b"v", 1, StorageFailed("a sync failed"))
    assert [one.dot for one in witness.by_value[b"v"]] == [(ACTOR, 1)]
