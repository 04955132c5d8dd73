"""Quorums as values: what a request needs, and when an operation is decided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.quorum import Needs, Tally, needs_of


@pytest.mark.parametrize(
    ("properties", "options", "n", "needs"),
    [
        (BucketProperties(), None, 3, Needs(2, 2, 0, 0)),
        (BucketProperties(), None, 1, Needs(1, 1, 0, 0)),
        (BucketProperties(n=5), None, 5, Needs(3, 3, 0, 0)),
        (BucketProperties(r=1, w=3, pr=1, pw=2), None, 3, Needs(1, 3, 1, 2)),
        # An option wins over the property, and zero is an answer.
        (BucketProperties(r=1, w=3, pr=1, pw=2), Options(r=3, w=1, pr=2, pw=1), 3, Needs(3, 1, 2, 1)),
        # A cluster of two nodes cannot wait for three.
        (BucketProperties(w=3, pw=3), None, 2, Needs(2, 2, 0, 2)),
    ],
)
def test_needs_come_from_request_bucket_and_cluster(properties, options, n, needs):
    """Options over properties over the majority, never more than there are replicas."""
    assert needs_of(properties, options, n) == needs


events = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6)


@settings(deadline=None)
@given(replies=events, need=st.integers(0, 4), need_primary=st.integers(0, 4))
def test_operation_is_decided_exactly_when_no_reply_can_change_it(replies, need, need_primary):
    """A reply (counts, is a primary's, has come) after the other, against counting by hand."""
    tally = Tally(np.array([need], np.int16), np.array([need_primary], np.int16))
    one = np.array([0])
    for _, primary, _ in replies:
        tally.expect(one, primary=primary)
    got = got_primary = 0
    left, left_primary = len(replies), sum(primary for _, primary, _ in replies)
    for counts, primary, come in replies:
        if not come:
            continue
        tally.settle(one, np.array([counts]), primary=primary)
        got, got_primary = got + counts, got_primary + (counts and primary)
        left, left_primary = left - 1, left_primary - primary
        reached = got >= need and got_primary >= need_primary
        hopeless = got + left < need or got_primary + left_primary < need_primary
        assert bool(tally.reached()[0]) is reached
        assert bool(tally.decided()[0]) is (reached or hopeless)


def test_fallbacks_do_not_count_as_primaries():
    """PW asks for primaries: a stand-in's acknowledgement does not help (FACTS 4, Q3)."""
    tally = Tally(np.array([2, 2], np.int16), np.array([2, 0], np.int16))
    both = np.array([0, 1])
    tally.count(both, primary=True)
    tally.expect(both, primary=False)
    tally.settle(both, True, primary=False)
    assert tally.reached().tolist() == [False, True]
    assert tally.decided().tolist() == [True, True]
