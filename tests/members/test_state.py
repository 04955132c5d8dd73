"""Member records: a join, so that tables that met are equal, and leaving is for good."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.errors import InvalidRequest, ProtocolError
from sadik.ids import NodeId
from sadik.members.state import (
    DEAD_AFTER_MS,
    FORMER_MAX,
    MEMBERS_MAX,
    Member,
    MemberTable,
    departed,
    presence,
    raised,
    refusal,
)


def member(name: str = "amber", **facts: object) -> Member:
    given_facts = {"directory": 1, "incarnation": 1, "actor": 7, "host": "h1", "zone": "z1", **facts}
    return Member(NodeId(name), **given_facts)  # type: ignore[arg-type]


MEMBERS = st.builds(
    member,
    st.sampled_from(["amber", "birch", "cedar"]),
    directory=st.integers(0, 3),
    incarnation=st.integers(1, 4),
    actor=st.integers(0, 3),
    state=st.sampled_from(["alive", "left"]),
    changed_ms=st.integers(0, 3),
)
TABLES = st.lists(MEMBERS, max_size=8).map(MemberTable)


def merged(*tables: MemberTable) -> bytes:
    whole = MemberTable()
    for table in tables:
        whole.merge(table.export())
    return whole.export()


@given(TABLES, TABLES, TABLES)
def test_merge_is_a_join(one: MemberTable, other: MemberTable, third: MemberTable) -> None:
    """Whatever order gossip brings records in, and however often, all come to the same."""
    assert merged(one, other) == merged(other, one)
    assert merged(one, one) == merged(one)
    left, right = MemberTable(), MemberTable()
    left.merge(merged(one, other))
    left.merge(third.export())
    right.merge(merged(other, third))
    right.merge(one.export())
    assert left.export() == right.export()
    assert left.digest() == right.digest()


@given(TABLES, TABLES)
def test_merge_says_whether_it_changed_anything(one: MemberTable, other: MemberTable) -> None:
    """What calls itself news is kept and spread; an endless "changed" would never be still."""
    before = one.digest()
    changed = one.merge(other.export())
    assert changed == (one.digest() != before)
    assert one.merge(other.export()) is False


def test_the_higher_incarnation_wins_and_left_beats_alive() -> None:
    """The node itself decides by its incarnation; at the same one it can only have left since."""
    table = MemberTable([member(incarnation=2, actor=1)])
    assert not table.put(member(incarnation=1, actor=99))
    assert table.put(member(incarnation=2, actor=0, state="left"))
    assert not table.put(member(incarnation=2, actor=99))
    assert table.put(member(incarnation=3, actor=0))


def test_what_left_with_a_directory_does_not_come_back_with_it() -> None:
    """M3, Z26: the directory may be a back-up, started any number of times with its old incarnation."""
    alive = member(incarnation=5)
    gone = departed(alive, 9)
    table = MemberTable([gone])
    restarted = alive
    for _ in range(1000):
        restarted = msgspec.structs.replace(restarted, incarnation=restarted.incarnation + 1)
    assert not table.put(restarted)
    assert "left the cluster" in refusal(gone, alive.directory)


def test_an_id_comes_back_on_a_new_directory_only_and_its_older_lives_never() -> None:
    """Z5, M4: after a disk was replaced, the old disk must not speak for the node any more."""
    gone = departed(member(directory=1), 9)
    assert refusal(gone, 2) == ""
    back = raised(member(directory=2), gone)
    assert MemberTable([gone]).put(back)
    assert back.former == (1,)
    assert "older life" in refusal(back, 1)
    assert refusal(back, 2) == refusal(back, 3) == ""
    assert refusal(None, 1) == ""


def test_raising_over_the_own_directory_makes_it_no_former_one() -> None:
    """An ordinary restart is the same life."""
    again = raised(member(actor=8), member(incarnation=4, former=(3,)))
    assert (again.incarnation, again.former, again.actor) == (5, (3,), 8)


def test_former_directories_are_bounded() -> None:
    """A node that loses its disk every day must not grow its record for ever."""
    record = member(directory=0)
    for directory in range(1, FORMER_MAX + 10):
        record = raised(member(directory=directory), record)
    assert len(record.former) == FORMER_MAX
    assert record.former[-1] == record.directory - 1
    MemberTable([record])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"incarnation": 0}, {"incarnation": 1 << 63}, {"directory": -1}, {"actor": 1 << 64}),
        *({"host": ""}, {"zone": "a b"}, {"peer": "nowhere"}, {"capacity": 0}, {"changed_ms": -1}),
        {"former": tuple(range(FORMER_MAX + 1))},
    ],
)
def test_a_record_out_of_range_is_refused_whole(wrong: dict[str, object]) -> None:
    """One bad record from elsewhere must not be half a table here."""
    table = MemberTable()
    with pytest.raises(InvalidRequest):
        table.put(member(**wrong))
    if all(abs(number) < 1 << 63 for number in wrong.values() if isinstance(number, int)):
        export = msgspec.msgpack.encode([member("birch"), member(**wrong)])
        with pytest.raises(ProtocolError):
            table.merge(export)
    assert table.records() == []


@given(st.binary(max_size=64))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    """What another node sends is never trusted to be what it should."""
    table = MemberTable([member()])
    before = table.export()
    try:
        table.merge(data)
    except ProtocolError:
        assert table.export() == before


def test_members_are_bounded() -> None:
    """Ids are made by whoever joins; a table that anyone can grow would not stay in memory."""
    table = MemberTable(member(f"n{number}") for number in range(MEMBERS_MAX))
    assert table.is_full
    assert table.put(member("n1", incarnation=2))
    with pytest.raises(InvalidRequest, match="at most"):
        table.put(member("one-more"))
    with pytest.raises(ProtocolError, match="more than"):
        table.merge(MemberTable([member("one-more")]).export())
    assert len(table) == MEMBERS_MAX


def test_presence_is_what_links_say_and_never_a_departure() -> None:
    """Dynamo 4.8.1: an outage is no reason to take a node out, however long it lasts."""
    record = member()
    assert presence(record, up=True, down_ms=1 << 40) == "alive"
    assert presence(record, up=False, down_ms=DEAD_AFTER_MS - 1) == "suspect"
    assert presence(record, up=False, down_ms=1 << 40) == "dead"
    assert presence(departed(record, 0), up=True, down_ms=0) == "left"
