"""A turn in parts: each run is answered once, when all of it is decided; answers survive the way between
nodes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import (
    ClockError,
    Overloaded,
    ProtocolError,
    QuorumMissed,
    StorageFull,
    Unavailable,
)
from sadik.node.coordinator.outcomes import FAILED
from sadik.node.coordinator.turn import Part, Turn, decode_answers, encode_answers


def part(values: list[bytes | None], errors: dict[int, Any] | None = None) -> Part:
    """OK with a value, NOTHING without one; FAILED where there is an error."""
    errors = errors or {}
    status = bytes(FAILED if i in errors else value is None for i, value in enumerate(values))
    starts, at = [], 0
    for value in values:
        starts.append(at)
        at += len(value or b"")
    count = len(values)
    return Part(
        status,
        b"".join(value or b"" for value in values),
        struct.pack(f"={count}q", *starts),
        struct.pack(f"={count}q", *(len(value or b"") for value in values)),
        errors,
    )


def value_of(answers: Any, index: int) -> bytes:
    start = struct.unpack_from("=q", answers.value_start, 8 * index)[0]
    length = struct.unpack_from("=q", answers.value_length, 8 * index)[0]
    return bytes(answers.values[start : start + length])


@settings(deadline=None)
@given(data=st.data())
def test_every_run_is_answered_once_with_its_own_values(data):
    """Whatever way the operations go and in whatever order the parts come back."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    stops = np.cumsum(sizes).tolist()
    count = stops[-1]
    way = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    groups = data.draw(st.permutations(sorted(set(way))))
    told: dict[int, list[bytes]] = {}

    def done(answers: Any, runs: Any) -> None:
        for run in runs:
            assert run not in told, "a run is answered twice"
            first = stops[run - 1] if run else 0
            told[run] = [value_of(answers, index) for index in range(first, stops[run])]

    turn = Turn(bytes(count), count, stops, done)
    for number, group in enumerate(groups):
        chosen = np.flatnonzero(np.array(way) == group)
        turn.fill(chosen, part([b"%d" % index for index in chosen]))
        waiting = {index for index in range(count) if way[index] in groups[number + 1 :]}
        for run, stop in enumerate(stops):
            first = stops[run - 1] if run else 0
            assert (run in told) is not any(index in waiting for index in range(first, stop))
    assert told == {
        run: [b"%d" % index for index in range(stops[run - 1] if run else 0, stop)]
        for run, stop in enumerate(stops)
    }


def test_failure_is_told_to_its_run():
    """A run with a failed operation comes with its error; others do not wait for it."""
    told = []
    turn = Turn(b"\1\1\1", 3, [1, 3], lambda answers, runs: told.append((dict(answers.errors), list(runs))))
    error = Unavailable("gone", maybe_applied=True)
    turn.fail(np.array([1]), lambda index: error)
    turn.fill(np.array([0, 2]), part([b"", b""]))
    assert told == [({1: error}, [0, 1])]


ERRORS = [
    QuorumMissed("1 of 2", maybe_applied=True, required=2, received=1, reasons=(("n2", "down"),)),
    Overloaded("queue full"),
    ClockError("ahead"),
    StorageFull("no room", maybe_applied=False),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_answers_survive_the_way_between_nodes(error):
    """Values, and errors with all that a client is told."""
    found = decode_answers(encode_answers(part([b"a", None, b"ccc"], {1: error})), 3)
    assert bytes(found.status) == bytes((0, FAILED, 0))
    assert found.values == b"accc"
    (told,) = found.errors.values()
    assert type(told) is type(error)
    assert (str(told), vars(told)) == (str(error), vars(error))


@settings(deadline=None)
@given(data=st.binary(max_size=80), count=st.integers(0, 4))
def test_garbage_is_no_answer(data, count):
    """Whatever a node sends instead of an answer is told, never read beyond."""
    with pytest.raises(ProtocolError):
        decode_answers(data, count + 100)
    good = encode_answers(part([b"x"] * count))
    with pytest.raises(ProtocolError):
        decode_answers(good + b"x", count)
    with pytest.raises(ProtocolError):
        decode_answers(good, count + 1)


def test_values_outside_the_answer_are_refused():
    """A length beyond what came would read another client's bytes."""
    bad = part([b"abc"])._replace(value_length=struct.pack("=q", 4))
    with pytest.raises(ProtocolError, match="values"):
        decode_answers(encode_answers(bad), 1)


def test_start_that_overflows_with_its_length_is_refused():
    """Cause: start and length were added first, and the sum of numbers that are too great is negative."""
    bad = part([b"abc"])._replace(value_start=struct.pack("=q", (1 << 63) - 1))
    with pytest.raises(ProtocolError, match="values"):
        decode_answers(encode_answers(bad), 1)


def test_failed_without_a_reason_is_unknown():
    """A coordinator that says FAILED and not why may have applied it."""
    bad = part([b""])._replace(status=bytes((FAILED,)))
    error = decode_answers(encode_answers(bad), 1).errors[0]
    assert isinstance(error, Unavailable)
    assert error.maybe_applied
