"""The hybrid clock against a wall clock that stands still, jumps, and lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.causality.clock import CLOCK_OFFSET_MAX_MS, WALL_MS_MAX, HybridClock
from sadik.errors import ClockError
from sadik.ids import stamp_at, stamp_ms

NOON = 1_700_000_000_000


class Wall:
    """A wall clock that shows what the test says."""

    def __init__(self, now_ms: int = NOON) -> None:
        self.now_ms = now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        raise AssertionError("a stamp has nothing to do with monotonic time")


def clock_on(wall: Wall) -> HybridClock:
    return HybridClock(wall, node="alpha")


def test_stamp_is_the_wall_clock_where_that_moves_on() -> None:
    """Stamps are ages too: expiry, horizon and FLUSHDB read milliseconds from them."""
    wall = Wall()
    clock = clock_on(wall)
    assert clock.reserve(1) == stamp_at(NOON)
    wall.now_ms += 5
    assert clock.reserve(1) == stamp_at(NOON + 5)
    assert clock.ahead_ms() == 0


def test_reserved_stamps_belong_to_one_caller() -> None:
    """Two batches in one millisecond share no stamp."""
    clock = clock_on(Wall())
    first = clock.reserve(100)
    assert clock.reserve(3) == first + 100
    assert clock.mint() == first + 103
    assert clock.last == first + 103


def test_full_logic_carries_into_the_milliseconds() -> None:
    """More than 65536 events in a millisecond go on in the next one."""
    clock = clock_on(Wall())
    clock.reserve(1 << 16)
    assert clock.reserve(1) == stamp_at(NOON + 1)
    assert clock.ahead_ms() == 1


def test_wall_clock_that_goes_back_takes_no_stamp_back() -> None:
    """Monotonic whatever NTP does: up to the allowed offset writes go on, counted in logic."""
    wall = Wall()
    clock = clock_on(wall)
    last = clock.mint()
    wall.now_ms -= CLOCK_OFFSET_MAX_MS
    assert clock.mint() == last + 1
    wall.now_ms -= 1
    with pytest.raises(ClockError, match="node alpha"):
        clock.mint()
    assert clock.last == last + 1
    # Reads need stamps reserved, not minted: they must go on.
    first = clock.reserve(10)
    assert first > clock.limit()
    wall.now_ms += 1000
    assert clock.mint() == stamp_at(wall.now_ms)


def test_stamp_from_the_future_is_refused_with_the_name_of_the_node() -> None:
    """A node with a wrong clock must not drag the others along."""
    clock = clock_on(Wall())
    limit = clock.limit()
    assert stamp_ms(limit) == NOON + CLOCK_OFFSET_MAX_MS
    clock.observe(limit)
    assert clock.last == limit
    with pytest.raises(ClockError, match=r"alpha.*501 ms"):
        clock.observe(limit + 1)
    with pytest.raises(ClockError):
        clock.mint()
    assert clock.last == limit


def test_mint_answers_what_it_has_seen() -> None:
    """A dot's stamp is above the local set and the context it answers."""
    clock = clock_on(Wall())
    ahead = stamp_at(NOON + 100) + 7
    assert clock.mint(ahead) == ahead + 1
    assert clock.mint() == ahead + 2
    with pytest.raises(ClockError):
        clock.mint(stamp_at(NOON + 10_000))


@pytest.mark.parametrize("now_ms", [-1, 0, WALL_MS_MAX, WALL_MS_MAX + 1, 2**70])
def test_absurd_wall_clock_still_makes_uint64_stamps(now_ms: int) -> None:
    """A machine without a battery wakes up in 1970, or worse."""
    clock = clock_on(Wall(now_ms))
    assert 0 < clock.reserve(1) <= clock.limit() < 2**64


def test_no_stamps_is_no_reservation() -> None:
    """A batch has operations."""
    with pytest.raises(ValueError, match="count"):
        clock_on(Wall()).reserve(0)


@given(st.lists(st.one_of(st.integers(-600, 600), st.tuples(st.integers(1, 70_000)), st.none()), max_size=30))
def test_no_stamp_comes_twice_and_none_is_minted_too_far_ahead(steps: list[object]) -> None:
    """The clock's two promises, under any jumps of the wall."""
    wall = Wall()
    clock = clock_on(wall)
    given_out = 0
    for step in steps:
        if isinstance(step, int):
            wall.now_ms += step
        elif isinstance(step, tuple):
            first = clock.reserve(step[0])
            assert first > given_out
            given_out = first + step[0] - 1
        else:
            try:
                stamp = clock.mint()
            except ClockError:
                assert given_out >= clock.limit()
                continue
            assert given_out < stamp <= clock.limit()
            given_out = stamp


def test_stamps_minted_below_a_limit_are_taken_over_even_when_the_wall_clock_goes_back() -> None:
    """A batch asks for the limit, mints, and only then tells: what is out must never be minted again."""
    wall = Wall()
    clock = clock_on(wall)
    limit = clock.limit()
    wall.now_ms -= 60_000
    clock.advance(limit)
    assert clock.reserve(1) == limit + 1
    with pytest.raises(ClockError):
        clock.mint()
