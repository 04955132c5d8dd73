"""What is seen between a node and its engine: that counts which was stored."""

from __future__ import annotations

import pytest

from sadik.errors import StorageFailed, StorageFull
from sadik.kernels import versions
from sadik.sim.witness import Witness

ACTOR = 7


def look(witness: Witness, value: bytes, stamp: int, key: bytes = b"k") -> None:
    one = versions.Value(ACTOR, stamp, 0, 0, -1, b"", value)
    encoded = versions.encode([(ACTOR, stamp)], [one])
    witness.look("n1", ACTOR, key, encoded, lambda: None)


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


def test_stamps_of_two_keys_need_not_be_stored_in_order() -> None:
    """Found by a seed (deletes/1000325): of two requests of one turn the later one was stored first, and the
    dot of the other was not seen."""
    witness = Witness(lambda: 0.0)
    look(witness, b"later", 2, b"a")
    look(witness, b"earlier", 1, b"b")
    assert [one.dot for one in witness.by_value[b"earlier"]] == [(ACTOR, 1)]
    look(witness, b"earlier", 1, b"b")
    assert len(witness.minted) == 2
