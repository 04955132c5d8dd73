"""Lanes: many connections' input taken in one call, the RESP kernel and its plain twin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.errors import ProtocolError
from sadik.kernels.native import resp as native
from sadik.kernels.reference import resp as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
PREFIX = b"\x010"


class Station:
    """A line of lanes, and how often it called for a turn."""

    def __init__(self, twin: Any, count: int) -> None:
        self.twin = twin
        self.line = twin.Line(self.on_first, self.on_complete)
        self.wakes = 0
        self.completions = 0
        self.batch = twin.Batch(64, 4096)
        self.lanes = [twin.Lane(1 << 20, 1 << 20) for _ in range(count)]
        for number, lane in enumerate(self.lanes):
            lane.attach(number, self.line)
            lane.prefix = PREFIX
            lane.plain = True

    def on_first(self) -> None:
        self.wakes += 1

    def on_complete(self) -> None:
        self.completions += 1

    def take(self, room: int = 10) -> Any:
        """What a round gives, in comparable form."""
        self.batch.clear()
        runs = self.twin.Runs()
        others, received = self.twin.take_plain(self.line.take(), self.batch, room, runs)
        shown = [
            (owner, str(result) if isinstance(result, ProtocolError) else result) for owner, result in others
        ]
        return [lane.owner for lane in runs.lanes], runs.stops, shown, received


@TWINS
def test_lanes_with_input_stand_in_line_once_and_wake_once(twin: Any) -> None:
    """However many pieces arrive, one turn is due and every lane is met once."""
    station = Station(twin, 3)
    station.lanes[2].receive(b"GET a\r\n")
    station.lanes[0].receive(b"SET a ")
    station.lanes[0].receive(b"1\r\nGET a\r\n")
    assert station.wakes == 1
    assert station.take() == ([2, 0], [1, 3], [], 23)
    assert len(station.line) == 0
    station.lanes[1].receive(b"GET b\r\nPING\r\n")
    assert station.wakes == 2
    assert station.take() == ([1], [1], [(1, twin.COMMAND)], 13)
    assert station.lanes[1].arguments == [b"PING"]


@TWINS
def test_a_lane_that_is_not_plain_is_left_to_its_owner(twin: Any) -> None:
    """In MULTI, before AUTH, while blocked: nothing is pulled."""
    station = Station(twin, 2)
    station.lanes[0].plain = False
    for lane in station.lanes:
        lane.receive(b"GET a\r\n")
    assert station.take() == ([1], [1], [(0, twin.ASIDE)], 14)
    assert station.lanes[0].buffered() == 7


@TWINS
def test_one_lane_s_error_is_not_another_s(twin: Any) -> None:
    """What came before the error is in the batch, and so is what others sent."""
    station = Station(twin, 3)
    station.lanes[0].receive(b"GET a\r\n*x\r\n")
    station.lanes[1].receive(b"*1\r\n$4\r\nPI")
    station.lanes[2].receive(b"GET b\r\n" * 3)
    owners, stops, others, _ = station.take(room=2)
    assert (owners, stops) == ([0, 2], [1, 3])
    assert others == [(0, "Protocol error: invalid multibulk length"), (2, twin.BATCH_FULL)]


@TWINS
def test_a_deaf_lane_drops_and_says_so(twin: Any) -> None:
    """After a protocol error what the client still sends costs nothing."""
    station = Station(twin, 1)
    lane = station.lanes[0]
    lane.deaf = True
    lane.receive(b"GET a\r\n")
    assert (lane.dropped, lane.buffered(), len(station.line), station.wakes) == (True, 0, 0, 0)


pieces = st.sampled_from(
    [
        b"GET a\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nb\r\n",
        b"PING\r\n",
        b"*3\r\n$3\r\nSE",
        b"T\r\n",
        b"*x\r\n",
        b"SET k v\r\n",
    ]
)


@given(
    st.lists(st.tuples(st.integers(0, 3), pieces), max_size=20), st.sets(st.integers(0, 3)), st.integers(0, 3)
)
def test_twins_take_alike(sent: list[tuple[int, bytes]], aside: set[int], room: int) -> None:
    stations = [Station(native, 4), Station(reference, 4)]
    for station in stations:
        for number in aside:
            station.lanes[number].plain = False
        for number, piece in sent:
            station.lanes[number].receive(piece)
    for _ in range(3):
        assert stations[0].take(room) == stations[1].take(room)
        for station in stations:
            for lane in station.lanes:
                lane.enlist()
    assert stations[0].wakes == stations[1].wakes


@TWINS
def test_a_line_tells_when_the_last_lane_missing_has_come(twin: Any) -> None:
    """A turn waits for those who are about to speak, and not a moment longer."""
    station = Station(twin, 4)
    station.lanes[0].receive(b"GET a\r\n")
    station.line.expect(station.lanes[:3])
    station.line.expect(station.lanes[2:3])
    assert station.line.missing == 2
    station.lanes[3].receive(b"GET a\r\n")
    station.lanes[2].receive(b"GET a\r\n")
    assert (station.line.missing, station.completions) == (1, 0)
    station.lanes[1].receive(b"GET a\r\n")
    assert (station.line.missing, station.completions, len(station.line)) == (0, 1, 4)


@TWINS
def test_the_only_lane_expected_is_told_of_once(twin: Any) -> None:
    """As the first of its turn: nothing was waiting for it."""
    station = Station(twin, 1)
    station.line.expect(station.lanes)
    station.lanes[0].receive(b"GET a\r\n")
    assert (station.wakes, station.completions, station.line.missing) == (1, 0, 0)


@TWINS
def test_a_turn_expects_nobody_whom_the_one_before_expected(twin: Any) -> None:
    station = Station(twin, 3)
    station.line.expect(station.lanes[:2])
    station.lanes[2].receive(b"GET a\r\n")
    assert station.line.take() == station.lanes[2:]
    assert station.line.missing == 0
    station.lanes[2].receive(b"GET a\r\n")
    station.lanes[0].receive(b"GET a\r\n")
    assert (station.line.missing, station.completions) == (0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["expect", "enlist", "take", "forget"]), st.integers(0, 3)), max_size=30
    )
)
def test_twins_expect_alike(steps: list[tuple[str, int]]) -> None:
    stations = [Station(native, 4), Station(reference, 4)]
    for step, number in steps:
        for station in stations:
            if step == "expect":
                station.line.expect(station.lanes[number:])
            elif step == "enlist":
                station.lanes[number].enlist()
            elif step == "take":
                station.line.take()
            else:
                station.line.forget()
        seen = [(one.line.missing, len(one.line), one.wakes, one.completions) for one in stations]
        assert seen[0] == seen[1]


@TWINS
def test_a_line_holds_lanes_only(twin: Any) -> None:
    """Checked before anything is read as a lane."""
    with pytest.raises((TypeError, AttributeError)):
        twin.take_plain([object()], twin.Batch(1, 1), 1, twin.Runs())


def test_a_native_line_expects_lanes_only() -> None:
    lanes: Any = [object()]
    with pytest.raises(TypeError):
        native.Line(int, int).expect(lanes)
    with pytest.raises(TypeError):
        native.Lane(1 << 20, 1 << 20).attach(0, lanes)
