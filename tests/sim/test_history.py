"""Histories survive as text, and values name their writers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.causality import VersionSet
from sadik.sim.history import (
    Bound,
    Collected,
    End,
    Fault,
    Hints,
    History,
    MemberSeen,
    NodeEnd,
    Operation,
    Owners,
    Phase,
    Record,
    Recovery,
    Removed,
    Root,
    Run,
    Seen,
    Session,
    Setup,
    StoredSet,
    StoredValue,
    Suspicion,
    Writer,
    decode_lines,
    decode_value,
    encode_line,
    encode_value,
)

GREATEST = (1 << 64) - 1
SET = (
    VersionSet()
    .event(actor=1, stamp=9, deleted=True)
    .event(actor=GREATEST, stamp=GREATEST, payload=b"v\xff", covers=())
)
STORED = StoredSet.decode(b"k\x00", SET.encoded)
OPERATION = Operation(
    *(0, 1, 2, 3, b"k\xff", "blind", "n1", 1.25, 2.5, "done"),
    value=b"\x00",
    values=(Seen(b"\xfe", 4, 5),),
    dots=((GREATEST, GREATEST),),
    covered=(),
)
RECORDS: tuple[Record, ...] = (
    Setup(seed=7, nodes=("n1",), skew_ms=0.5),
    OPERATION,
    Session(2),
    Fault("split", 1.0, nodes=("n1",), others=("n2",)),
    Run("n1", 0.0, actors=(GREATEST,)),
    Suspicion("n1", "n2", 3.0),
    MemberSeen("n1", "n2", 3.0, 2),
    Removed("n3", 4.0),
    Recovery("n1", 5.0, "power_cut", 4.0, [STORED], before=[StoredSet(b"x", readable=False)]),
    Collected(b"k", 6.0),
    Phase("final", 7.0, nodes=("n1",)),
    Bound("tasks", 5, 100, "n1"),
    End(
        8.0,
        nodes=[NodeEnd("n1", [STORED], roots=(Root("0", GREATEST),), hints=Hints(2, 1, 1, 0, 0))],
        owners=[Owners(b"k", ("n1",))],
    ),
)


def test_every_record_survives_as_a_line() -> None:
    """Simulator and real processes are judged by the same checkers, the latter from a file."""
    history = History()
    for record in RECORDS:
        history.add(record)
    assert tuple(history.records()) == RECORDS
    assert decode_lines(map(encode_line, RECORDS)) == history


def test_an_operation_sent_and_never_answered_is_unknown_and_the_last_line_counts() -> None:
    """A harness writes an operation when it sends it, and again when it is answered."""
    sent = Operation(0, 1, 1, 1, b"k", "write", "n1", 1.0)
    done = Operation(0, 1, 1, 1, b"k", "write", "n1", 1.0, 2.0, "done")
    assert [one.outcome for one in decode_lines([encode_line(sent)]).operations] == ["unknown"]
    assert decode_lines([encode_line(sent), encode_line(done)]).operations == [done]


def test_a_line_cut_short_by_death_is_left_out_and_a_damaged_one_is_an_error() -> None:
    """A run that dies leaves a history; a file that rotted is not taken for one."""
    line = encode_line(OPERATION)
    assert decode_lines([line, line[:-5]]).operations == [OPERATION]
    for damaged in (b'["Operation",{"number":1}]\n', b'["Nobody",{}]\n', line[:30] + b"\n"):
        with pytest.raises(ValueError, match="line 2 is not a record"):
            decode_lines([line, damaged])


def test_a_stored_set_is_shown_with_its_dots_and_tombstones() -> None:
    """What replicas hold is judged by its parts."""
    assert STORED.entries == ((1, 9), (GREATEST, GREATEST))
    assert STORED.values == (
        StoredValue((1, 9), b"", tombstone=True),
        StoredValue((GREATEST, GREATEST), b"v\xff"),
    )
    assert not StoredSet.decode(b"k", None).readable


@given(st.integers(0), st.integers(0), st.binary(min_size=1, max_size=40), st.integers(0, 200))
def test_a_value_names_its_writer(client: int, seq: int, key: bytes, bytes_min: int) -> None:
    value = encode_value(client, seq, key, bytes_min)
    assert decode_value(value) == Writer(client, seq, key)
    assert len(value) >= bytes_min


@given(st.data())
def test_a_damaged_value_names_nobody(data: st.DataObject) -> None:
    """A checker must tell rot from a value."""
    value = bytearray(encode_value(3, 4, b"a key", 40))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert decode_value(bytes(value)) is None
    assert decode_value(bytes(value[: data.draw(st.integers(0, len(value)))])) is None
