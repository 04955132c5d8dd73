"""Runs: what many connections sent to one batch is answered in one call; the RESP kernel and its twin."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import resp as native
from sadik.kernels.reference import resp as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
OK = b"+OK\r\n"
Pairs = list[tuple[socket.socket, socket.socket]]


class Transport:
    """What a lane asks of one."""

    def __init__(self) -> None:
        self.closing = False
        self.unsent = 0

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def lanes_of(twin: Any, count: int, pairs: Pairs | None = None) -> list[Any]:
    """Lanes that wait, numbered; with sockets where there are some."""
    line = twin.Line(int, int)
    lanes = [twin.Lane(1 << 20, 1 << 20) for _ in range(count)]
    for number, lane in enumerate(lanes):
        lane.attach(number, line)
        lane.plain = True
        lane.wait()
        lane.transport = Transport()
        if pairs:
            lane.descriptor = pairs[number][0].fileno()
    return lanes


def runs_of(twin: Any, lanes: list[Any], stops: list[int]) -> Any:
    runs = twin.Runs()
    for lane, stop in zip(lanes, stops, strict=True):
        runs.add(lane, stop)
    return runs


def packed(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


def writes(count: int) -> tuple[bytes, ...]:
    """The answers to as many SETs that went well."""
    return bytes([1] * count), bytes(count), b"", bytes(8 * count), bytes(8 * count)


def reads(values: list[bytes]) -> tuple[bytes, ...]:
    """The answers to GETs."""
    starts = [sum(map(len, values[:number])) for number in range(len(values))]
    lengths = packed([len(value) for value in values])
    return bytes(len(values)), bytes(len(values)), b"".join(values), packed(starts), lengths


@TWINS
def test_each_run_goes_to_its_socket_and_its_lane_goes_on(twin: Any, pairs: Pairs) -> None:
    """All replies of a turn in one call, and no call more for the connections that answered them."""
    lanes = lanes_of(twin, 3, pairs)
    lanes[1].resp3 = True
    runs = runs_of(twin, lanes, [1, 3, 4])
    arrays = (bytes([1, 0, 0, 0]), bytes([0, 0, 1, 1]), b"abc", packed([0] * 4), packed([0, 3, 0, 0]))
    assert runs.answer(range(3), *arrays) == (4, 5 + 12 + 5, [], [])
    assert [end.recv(100) for _, end in pairs] == [OK, b"$3\r\nabc\r\n_\r\n", b"$-1\r\n"]
    assert [(lane.plain, lane.waiting) for lane in lanes] == [(True, False)] * 3


@TWINS
def test_some_runs_are_answered_and_the_others_wait(twin: Any, pairs: Pairs) -> None:
    lanes = lanes_of(twin, 3, pairs)
    runs = runs_of(twin, lanes, [1, 3, 4])
    assert runs.answer([1], *writes(4)) == (2, 10, [], [])
    assert pairs[1][1].recv(100) == OK * 2
    assert [lane.waiting for lane in lanes] == [True, False, True]
    assert runs.answer((2, 0), *writes(4)) == (2, 10, [], [])
    assert [pairs[number][1].recv(100) for number in (0, 2)] == [OK, OK]


@TWINS
def test_a_lane_that_is_stirred_is_its_owner_s(twin: Any, pairs: Pairs) -> None:
    """It may have to close, or has more to run: it is answered, and then looked at."""
    lanes = lanes_of(twin, 3, pairs)
    lanes[1].stirred = True
    assert runs_of(twin, lanes, [1, 2, 3]).answer(range(3), *writes(3)) == (3, 15, [], [1])
    assert [(lane.plain, lane.waiting) for lane in lanes] == [(True, False), (False, True), (True, False)]
    assert pairs[1][1].recv(100) == OK


@TWINS
def test_a_lane_that_does_not_wait_stays_as_it_is(twin: Any) -> None:
    """Answered within its turn; a lane that was not plain, of a client in MULTI, does not become so."""
    lanes = lanes_of(twin, 2)
    lanes[0].waiting = lanes[1].waiting = False
    lanes[1].plain = True
    runs_of(twin, lanes, [1, 2]).answer(range(2), *writes(2))
    assert [(lane.plain, lane.waiting) for lane in lanes] == [(False, False), (True, False)]


@TWINS
def test_waiting_stirs_lanes_that_were_not_plain(twin: Any) -> None:
    lanes = lanes_of(twin, 2)
    lanes[0].plain, lanes[1].plain = True, False
    runs_of(twin, lanes, [1, 2]).wait()
    assert [(lane.plain, lane.waiting, lane.stirred) for lane in lanes] == [
        (False, True, False),
        (False, True, True),
    ]


@TWINS
def test_without_a_straight_way_the_owner_sends(twin: Any, pairs: Pairs) -> None:
    """A transport without a socket, one that is closing, and one that still holds bytes sent before."""
    lanes = lanes_of(twin, 3, pairs)
    lanes[0].descriptor = -1
    lanes[1].transport.closing = True
    lanes[2].queued, lanes[2].transport.unsent = True, 1
    runs = runs_of(twin, lanes, [1, 2, 3])
    assert runs.answer(range(3), *writes(3)) == (3, 0, [(0, OK), (1, OK), (2, OK)], [])
    lanes[2].transport.unsent = 0
    assert runs.answer([2], *writes(3)) == (1, 5, [], [])
    assert not lanes[2].queued


@TWINS
def test_a_socket_without_room_takes_a_part_and_never_blocks(twin: Any, pairs: Pairs) -> None:
    """A client that does not read must not stop the others, blocking socket or not."""
    lanes = lanes_of(twin, 3, pairs)
    big = bytes(1 << 22)
    replies = [b"$1\r\na\r\n", b"$%d\r\n%b\r\n" % (len(big), big), b"$1\r\nc\r\n"]
    runs, arrays = runs_of(twin, lanes, [1, 2, 3]), reads([b"a", big, b"c"])
    operations, sent, ((owner, rest),), _ = runs.answer(range(3), *arrays)
    assert (operations, owner) == (3, 1)
    assert 0 < len(rest) < len(big)
    assert sent + len(rest) == sum(map(len, replies))
    assert replies[1].endswith(rest)
    assert pairs[2][1].recv(100) == replies[2]
    # Full by now: nothing more is taken.
    assert runs.answer([1], *arrays) == (1, 0, [(1, replies[1])], [])


@TWINS
def test_a_socket_that_is_gone_is_reported_and_raises_no_signal(twin: Any, pairs: Pairs) -> None:
    """The transport meets the error again when it sends the rest."""
    lanes = lanes_of(twin, 3, pairs)
    pairs[0][1].close()
    pairs[1][0].close()
    runs = runs_of(twin, lanes, [1, 2, 3])
    assert runs.answer(range(3), *writes(3)) == (3, 5, [(0, OK), (1, OK)], [])
    assert pairs[2][1].recv(100) == OK


@TWINS
@pytest.mark.parametrize("size", [16373, 16374, 16375, 16376, 1 << 17])
def test_replies_of_any_length_are_whole(twin: Any, size: int, pairs: Pairs) -> None:
    """Around what the kernel writes on its stack."""
    lanes = lanes_of(twin, 2, pairs[:2])
    lanes[1].descriptor = -1
    value = bytes(range(256)) * (size // 256 + 1)
    reply = b"$%d\r\n%b\r\n" % (size, value[:size])
    runs, arrays = runs_of(twin, lanes, [1, 2]), reads([value[:size], value[:size]])
    _, sent, rest, _ = runs.answer(range(2), *arrays)
    assert (sent, rest) == (len(reply), [(1, reply)])
    received = b""
    while len(received) < sent:
        received += pairs[0][1].recv(1 << 20)
    assert received == reply


@TWINS
def test_bad_answers_are_refused_before_anything_is_sent(twin: Any, pairs: Pairs) -> None:
    """The first lanes have not been answered when the last one cannot be."""
    lanes = lanes_of(twin, 3, pairs)
    runs = runs_of(twin, lanes, [1, 2, 3])
    good = writes(3)
    wrong_status = (good[0], bytes([0, 0, 2]), *good[2:])
    outside = (bytes(3), bytes(3), b"", packed([0] * 3), packed([0, 0, 1]))
    for arrays in (wrong_status, outside, (good[0], good[1][:2], *good[2:]), (*good[:3], bytes(23), good[4])):
        with pytest.raises(ValueError, match=r"."):
            runs.answer(range(3), *arrays)
    for numbers in ([3], [0, -1]):
        with pytest.raises(ValueError, match="run"):
            runs.answer(numbers, *good)
    with pytest.raises(TypeError):
        runs.answer(range(3), None, *good[1:])
    with pytest.raises(ValueError, match="run"):
        runs_of(twin, lanes, [2, 1, 3]).answer(range(3), *good)
    assert all(lane.waiting for lane in lanes)
    for _, end in pairs:
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            end.recv(1)
    assert twin.Runs().answer([], b"", b"", b"", b"", b"") == (0, 0, [], [])


def test_native_runs_hold_lanes_only() -> None:
    wrong: Any = object()
    for lane in (wrong, None):
        with pytest.raises(TypeError):
            native.Runs().add(lane, 1)


items = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 1, 2]),
        st.sampled_from([0, 0, 0, 1, 2]),
        st.integers(-2, 12),
        st.integers(-2, 12),
    ),
    max_size=12,
)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return call()
    except (ValueError, TypeError, OverflowError) as error:
        return type(error)


@given(
    items,
    st.binary(max_size=12),
    st.lists(st.tuples(st.integers(-1, 12), st.booleans(), st.booleans()), max_size=4),
    st.data(),
)
def test_twins_answer_alike(
    operations: list[tuple[int, int, int, int]],
    values: bytes,
    spans: list[tuple[int, bool, bool]],
    data: st.DataObject,
) -> None:
    """Whatever a batch holds, and whichever of its runs are answered."""
    numbers = data.draw(st.lists(st.integers(-1, len(spans)), unique=True) | st.just(range(len(spans))))
    kinds, status = (bytes(item[place] for item in operations) for place in (0, 1))
    starts, lengths = (packed([item[place] for item in operations]) for place in (2, 3))
    seen = []
    for twin in (native, reference):
        lanes = lanes_of(twin, len(spans))
        for lane, (_, resp3, stirred) in zip(lanes, spans, strict=True):
            lane.resp3, lane.stirred = resp3, stirred
        runs = runs_of(twin, lanes, [stop for stop, _, _ in spans])
        given_ = outcome(lambda: runs.answer(numbers, kinds, status, values, starts, lengths))  # noqa: B023
        seen.append((given_, [(lane.plain, lane.waiting) for lane in lanes]))
    assert seen[0] == seen[1]


@TWINS
def test_runs_know_where_the_bucket_changes(twin: Any) -> None:
    """Equal prefixes are one bucket, also where they are different objects."""
    lanes = lanes_of(twin, 5)
    for lane, bucket in zip(lanes, (b"0", b"0", b"a", b"a", b"0"), strict=True):
        lane.prefix = b"\x01" + bucket
    assert runs_of(twin, lanes, [1, 2, 3, 4, 5]).bounds == [0, 2, 4]
    assert twin.Runs().bounds == []


# What is kept of a batch.


@TWINS
def test_a_batch_counts_its_writes_and_knows_its_longest_value(twin: Any) -> None:
    batch = twin.Batch(4, 100)
    batch.append(twin.SET, b"\x010\x00\x01k", b"12345")
    batch.append(twin.GET, b"\x010\x00\x01k")
    batch.append(twin.SET, b"\x010\x00\x01k", b"1")
    assert not batch.append(twin.SET, b"k", bytes(100))
    assert (batch.count, batch.sets, batch.longest) == (3, 2, 5)
    batch.clear()
    assert (batch.count, batch.sets, batch.longest) == (0, 0, 0)


@TWINS
def test_kept_operations_are_the_commands_they_were(twin: Any) -> None:
    """Also after the batch is used for others; in no more bytes than they took."""
    batch, parser = twin.Batch(8, 1000), twin.Parser(1 << 20, 1 << 20)
    sent = b"GET k\r\nSET key value\r\nSET k '' PX 7\r\nSET k v EX 2\r\n"
    parser.feed(sent)
    parser.pull(batch, b"\x03one", 8)
    kept = batch.keep()
    batch.clear()
    batch.append(twin.SET, b"\x010\x00\x01k", bytes(500))
    assert [kept.command(index) for index in range(4)] == [
        [b"GET", b"k"],
        [b"SET", b"key", b"value"],
        [b"SET", b"k", b"", b"PX", b"7"],
        [b"SET", b"k", b"v", b"PX", b"2000"],
    ]
    assert len(kept) == 4 * 41 + 4 * 6 + len(b"kkeyvaluekkv")
    for index in (-1, 4):
        with pytest.raises(IndexError):
            kept.command(index)


@TWINS
@pytest.mark.parametrize("name", [b"", b"\x00", b"\x01a", b"\x01a\x00", b"\xffa\x00\x01k"])
def test_a_name_that_is_no_address_is_no_command(twin: Any, name: bytes) -> None:
    """Read as one, it would reach into what lies behind."""
    batch = twin.Batch(2, 100)
    batch.append(twin.GET, name)
    with pytest.raises(ValueError, match="address"):
        batch.keep().command(0)
