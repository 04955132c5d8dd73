"""Lines that others can cause."""

from __future__ import annotations

from sadik.comms.throttle import INTERVAL_MS, LINES_MAX, Throttle
from tests.comms.worlds import FakeClock


def test_lines_of_a_topic_are_bounded_in_each_interval() -> None:
    """And what was dropped is counted in the next line, so nothing is hidden."""
    clock = FakeClock()
    throttle = Throttle(clock)
    assert [throttle.admit("a") for _ in range(LINES_MAX + 3)] == [0] * LINES_MAX + [None] * 3
    assert throttle.admit("b") == 0
    clock.now_ns += INTERVAL_MS * 1_000_000 - 1
    assert throttle.admit("a") is None
    clock.now_ns += 1
    assert [throttle.admit("a"), throttle.admit("a")] == [4, 0]
