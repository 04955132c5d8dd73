"""Who belongs to the cluster: one record per node id, joined by a total order.

Each node alone writes its own record and raises its *incarnation* whenever it does. Of two records of one id
the greater ``(incarnation, left, bytes)`` wins everywhere, so tables that met, in whatever order, are equal.

    birth, start          incarnation + 1, a new actor
    meets another record  of its own id (a past life): above that one's incarnation
    leaves                incarnation + 2**32, state ``left``

The leap makes leaving final: a node that is started again on the directory it left with, or on a back-up of
it, counts up from an old incarnation and stays below. An id may come back on a new directory only, whose
record then lists the former ones; whoever comes with one of those is an older life and refused.

Whether a node is up is not in here. A failure is never a departure (Dynamo 4.8.1): up, suspect and dead are
what one node sees of its own links (``presence``). Times are for people; no decision depends on a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal

import msgspec

from sadik.comms.messages import Packed
from sadik.errors import InvalidRequest, ProtocolError
from sadik.hashing.digest import BLAKE3
from sadik.ids import NodeId
from sadik.settings import Address

MEMBERS_MAX: Final = 4096
"""Records, of nodes that left too: those stay for ever. Some 150 bytes each."""
FORMER_MAX: Final = 32
"""Directories of past lives that a record remembers; the oldest give way."""
LEAVE_LEAP: Final = 1 << 32
DEAD_AFTER_MS: Final = 30_000
"""From when on a node that is down is shown as dead: a restart or a short fault is over by then."""

_UINT64: Final = 1 << 64
_LABEL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CAPACITY_MAX: Final = 1_000_000

Presence = Literal["alive", "suspect", "dead", "left"]


class Member(Packed, frozen=True):
    """What a node says of itself.

    Attributes:
        directory: Its data directory, the random uint64 drawn when that was born.
        incarnation: Only the node itself raises it.
        actor: The run that wrote this.
        peer, resp, http: Addresses, ``HOST:PORT``, or empty while not known.
        changed_ms: Unix time of this record, for people.
        former: Directories of this id's earlier lives, oldest first.
    """

    node: NodeId
    directory: int
    incarnation: int
    actor: int
    state: Literal["alive", "left"] = "alive"
    peer: str = ""
    resp: str = ""
    http: str = ""
    host: str = ""
    zone: str = ""
    capacity: int = 100
    changed_ms: int = 0
    former: tuple[int, ...] = ()


@lru_cache(maxsize=MEMBERS_MAX)  # Gossip brings the same records again and again.
def check_member(member: Member) -> None:
    """Raise ``InvalidRequest`` naming what is wrong with a record."""
    for name in ("node", "host", "zone"):
        label = getattr(member, name)
        if not _LABEL.fullmatch(label):
            raise InvalidRequest(f"{name} of a member must match {_LABEL.pattern}, not {label[:80]!r}")
    for number in (member.directory, member.actor, *member.former):
        if not 0 <= number < _UINT64:
            raise InvalidRequest(f"directories and actors are uint64, not {number}")
    if not 1 <= member.incarnation < 1 << 63:
        raise InvalidRequest(f"incarnation must be 1 to 2**63 - 1, not {member.incarnation}")
    if len(member.former) > FORMER_MAX:
        raise InvalidRequest(f"at most {FORMER_MAX} former directories, not {len(member.former)}")
    if not 1 <= member.capacity <= _CAPACITY_MAX:
        raise InvalidRequest(f"capacity must be 1 to {_CAPACITY_MAX}, not {member.capacity}")
    if not 0 <= member.changed_ms < 1 << 63:
        raise InvalidRequest(f"changed_ms must be 0 to 2**63 - 1, not {member.changed_ms}")
    for address in (member.peer, member.resp, member.http):
        if address:
            Address.parse(address)


def raised(mine: Member, known: Member) -> Member:
    """``mine`` above ``known``, another record of its id, whose directory is a former one from now on."""
    lives = [it for it in (*known.former, known.directory, *mine.former) if it != mine.directory]
    former = tuple(dict.fromkeys(lives))[-FORMER_MAX:]
    return msgspec.structs.replace(mine, incarnation=known.incarnation + 1, former=former)


def departed(mine: Member, now_ms: int) -> Member:
    """``mine`` as the record of a node that left for good."""
    return msgspec.structs.replace(
        mine, state="left", incarnation=mine.incarnation + LEAVE_LEAP, changed_ms=now_ms
    )


def refusal(known: Member | None, directory: int) -> str:
    """Why a node that comes with this directory is not let in, given what is known of its id, or ``""``."""
    if known is None:
        return ""
    if known.state == "left" and known.directory == directory:
        return f"node {known.node} has left the cluster for good; it may come back on an empty directory"
    if directory in known.former:
        return f"this is an older life of node {known.node}, which has lived on another directory since"
    return ""


def presence(member: Member, *, up: bool, down_ms: int) -> Presence:
    """A member's state for people; ``down_ms``: how long it has not been reached."""
    if member.state == "left":
        return "left"
    if up:
        return "alive"
    return "suspect" if down_ms < DEAD_AFTER_MS else "dead"


_DECODER: Final = msgspec.msgpack.Decoder(list[Member])


class MemberTable:
    """All records that one node knows; shared by gossip."""

    name: Final = "members"

    def __init__(self, records: Iterable[Member] = ()) -> None:
        self._records: dict[NodeId, Member] = {}
        self._export = b""
        self._digest = b""
        for record in records:
            self.put(record)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, node: NodeId) -> Member | None:
        return self._records.get(node)

    def records(self) -> list[Member]:
        """Sorted by node id."""
        return [self._records[node] for node in sorted(self._records)]

    @property
    def is_full(self) -> bool:
        return len(self._records) >= MEMBERS_MAX

    def put(self, record: Member) -> bool:
        """Take over a record if it is above what is known; whether it was.

        Raises:
            InvalidRequest: A field out of range, or a new id when the table is full.
        """
        check_member(record)
        if record.node not in self._records and self.is_full:
            raise InvalidRequest(f"a cluster has at most {MEMBERS_MAX} members, those that left among them")
        return self._join([record])

    def digest(self) -> bytes:
        """16 bytes, equal where all records are."""
        if not self._digest:
            self._digest = BLAKE3.digest(self.export())
        return self._digest

    def export(self) -> bytes:
        """All of it, for ``merge`` on another node, or on this one after a restart."""
        if not self._export:
            self._export = msgspec.msgpack.encode(self.records())
        return self._export

    def merge(self, data: bytes) -> bool:
        """Learn what another node exported; whether that was anything new.

        Raises:
            ProtocolError: Not such bytes, or too many members; nothing is changed.
        """
        try:
            records = _DECODER.decode(data)
            for record in records:
                check_member(record)
        except (msgspec.MsgspecError, InvalidRequest) as error:
            raise ProtocolError(f"not a table of members: {error}") from None
        if len(self._records.keys() | {record.node for record in records}) > MEMBERS_MAX:
            raise ProtocolError(f"more than {MEMBERS_MAX} members")
        return self._join(records)

    def _join(self, records: Iterable[Member]) -> bool:
        changed = False
        for record in records:
            known = self._records.get(record.node)
            if known is None or _rank(record) > _rank(known):
                self._records[record.node] = record
                changed = True
        if changed:
            self._export = self._digest = b""
        return changed


def _rank(record: Member) -> tuple[int, bool, bytes]:
    return record.incarnation, record.state == "left", msgspec.msgpack.encode(record)
