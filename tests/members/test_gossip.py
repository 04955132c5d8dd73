"""Gossip as values: agreement in rounds, and what it costs on the wire."""

from __future__ import annotations

import hashlib
import math
import random

import msgspec
import pytest

from sadik.errors import ProtocolError, StorageFull
from sadik.ids import NodeId
from sadik.members.gossip import EXPORT_BYTES_MAX, Gossip
from sadik.members.state import Member, MemberTable, raised

ROUNDS_PER_LOG = 2
"""k: rounds that 50 nodes may take, in units of log2 of their number. One push-pull round more than doubles
who knows of something; the second half is for those whom chance leaves last."""


class Words:
    """A grow-only set of words."""

    def __init__(self, name: str, *words: str) -> None:
        self.name = name
        self.words = set(words)

    def digest(self) -> bytes:
        return hashlib.blake2b(self.export(), digest_size=16).digest()

    def export(self) -> bytes:
        return " ".join(sorted(self.words)).encode()

    def merge(self, data: bytes) -> bool:
        if data == b"full":
            raise StorageFull("no room")
        if not data.isascii():
            raise ProtocolError("not words")
        before = len(self.words)
        self.words |= set(data.decode().split())
        return len(self.words) > before


def meet(asker: Gossip, answerer: Gossip) -> list[int]:
    """One exchange as the service does it; bytes of each message."""
    messages = [asker.message({})]
    messages.append(answerer.message(answerer.learn(messages[0]).theirs))
    theirs = asker.learn(messages[1]).theirs
    if not asker.agrees(theirs):
        messages.append(asker.message(theirs))
        messages.append(answerer.message(answerer.learn(messages[2]).theirs))
    return [len(message) for message in messages]


class Peer:
    """A node that knows itself and the seed."""

    def __init__(self, number: int, seed: Member | None) -> None:
        self.record = Member(NodeId(f"n{number:02}"), number, 1, number, host="h", zone="z")
        self.table = MemberTable([self.record, seed] if seed else [self.record])
        self.gossip = Gossip([self.table])

    def others(self) -> list[str]:
        return [record.node for record in self.table.records() if record.node != self.record.node]


def rounds_until_equal(peers: dict[str, Peer], dice: random.Random) -> int:
    """Each node meets one random node it knows of, round by round."""
    rounds = 0
    while len({peer.table.digest() for peer in peers.values()}) > 1:
        rounds += 1
        for name in sorted(peers, key=lambda _: dice.random()):
            others = peers[name].others()
            if others:
                meet(peers[name].gossip, peers[dice.choice(others)].gossip)
    return rounds


@pytest.mark.parametrize("seed", range(20))
def test_fifty_members_agree_within_two_log_rounds(seed: int) -> None:
    """M1: all join at once through one seed; then one of them changes; then ten of them do."""
    dice = random.Random(seed)
    first = Peer(0, None)
    peers = {first.record.node: first}
    for number in range(1, 50):
        peer = Peer(number, first.record)
        peers[peer.record.node] = peer
    allowed = ROUNDS_PER_LOG * math.ceil(math.log2(len(peers)))
    assert rounds_until_equal(peers, dice) <= allowed
    assert len(first.table) == 50
    for changing in (1, 10):
        for name in dice.sample(sorted(peers), changing):
            peer = peers[name]
            peer.record = raised(peer.record, peer.record)
            peer.table.put(peer.record)
        assert rounds_until_equal(peers, dice) <= allowed


def test_equal_nodes_exchange_digests_only() -> None:
    """A cluster at rest gossips for ever: each round must cost next to nothing."""
    tables = [MemberTable(Peer(number, None).record for number in range(50)) for _ in range(2)]
    sizes = meet(Gossip([tables[0]]), Gossip([tables[1]]))
    assert len(sizes) == 2
    assert max(sizes) < 50


def test_one_exchange_brings_both_sides_to_the_same() -> None:
    """Push and pull: news need not wait for the other's own turn."""
    mine, theirs = Words("words", "a"), Words("words", "b")
    meet(Gossip([mine]), Gossip([theirs]))
    assert mine.words == theirs.words == {"a", "b"}


def test_what_the_other_is_known_to_lack_goes_along_at_once() -> None:
    """A local change takes one message to each node it is told to, not three."""
    mine, theirs = Words("words", "a"), Words("words", "a")
    here, there = Gossip([mine]), Gossip([theirs])
    known = here.learn(there.message({})).theirs
    mine.words.add("b")
    assert there.learn(here.message(known)).changed == ("words",)
    assert theirs.words == {"a", "b"}


def test_things_that_only_one_side_shares_are_left_alone() -> None:
    """A newer version may share more; with an older one it still agrees on the rest."""
    here = Gossip([Words("words", "a"), Words("news", "x")])
    there = Gossip([Words("words", "b")])
    assert len(meet(here, there)) == 4
    assert len(meet(here, there)) == 2


def test_one_thing_that_cannot_be_merged_does_not_stop_the_others() -> None:
    """A bug in one, or a full disk, must not keep members and layout from agreeing."""
    for bad in (b"\xff", b"full"):
        odd, good = Words("odd", "x"), Words("good", "g")
        here = Gossip([odd, good])
        odd.export = lambda bad=bad: bad  # type: ignore[method-assign, misc]
        there = Gossip([Words("odd"), target := Words("good")])
        learned = there.learn(here.message({"odd": b"", "good": b""}))
        assert learned.changed == ("good",)
        assert [text.split(":")[0] for text in learned.rejected] == ["odd"]
        assert target.words == {"g"}


def test_what_is_large_waits_for_what_is_not() -> None:
    """Should a million buckets find no room in a queue, members and layout agree all the same."""
    small, large, late = Words("small", "a"), Words("large", "x" * EXPORT_BYTES_MAX), Words("late", "b")
    here = Gossip([small, large, late])
    there = Gossip([Words("small"), target := Words("large"), Words("late")])
    blank = there.learn(here.message({})).theirs
    known = here.learn(there.message(blank)).theirs
    assert there.learn(here.message(known)).changed == ("small", "late")
    known = here.learn(there.message({})).theirs
    assert there.learn(here.message(known)).changed == ("large",)
    assert target.words == large.words


def test_what_is_no_gossip_changes_nothing() -> None:
    """Bytes of a peer are checked before they mean anything."""
    with pytest.raises(ProtocolError):
        Gossip([Words("words")]).learn(b"\x93garbage")


def test_the_bytes_of_messages_never_change() -> None:
    """Nodes of two versions gossip with each other during an upgrade: fields keep their places, for ever."""
    record = Member(
        NodeId("n"),
        1,
        2,
        3,
        "left",
        "a:1",
        "a:2",
        "a:3",
        host="h",
        zone="z",
        capacity=4,
        changed_ms=5,
        former=(6,),
    )
    table = MemberTable([record])
    export = b"\x91\x9d\xa1n\x01\x02\x03\xa4left\xa3a:1\xa3a:2\xa3a:3\xa1h\xa1z\x04\x05\x91\x06"
    assert table.export() == export
    message = Gossip([table]).message({"members": b""})
    digest = b"\xc4\x10" + table.digest()
    assert message == b"\x92\x81\xa7members" + digest + b"\x81\xa7members\xc4" + bytes([len(export)]) + export


def test_a_newer_version_may_add_fields() -> None:
    """They come last; an older node reads what it knows."""
    longer = msgspec.msgpack.encode([[*("n", 1, 2, 3, "alive", "", "", "", "h", "z", 4, 5), [], "new"]])
    table = MemberTable()
    assert table.merge(longer)
    assert table.records()[0].capacity == 4
