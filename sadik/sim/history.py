"""What happened in a run, as those outside saw it: what clients asked and were told, which faults struck, and
how the nodes looked at the end. The simulator and a harness of real processes fill in the same records, and
``sadik.sim.checkers`` judges them.

A history is one ``Setup``, any number of records of the other classes in any order, and at most one ``End``.
As text it is a line of JSON each, ``["Operation", {...}]``, so that a harness can append while it runs, and a
run that dies leaves a history all the same.

Times are milliseconds of one clock, that of the world outside the nodes: Unix time without anybody's skew.
What a node's own clock made (expiry) is off by at most ``Setup.skew_ms``. -1 stands for a time that never
came.

Every value names its writer (``encode_value``), so a reader can tell whose write it sees, and whether it is
whole and under the key it was written to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args
from zlib import crc32

import msgspec

from sadik.kernels import versions

NEVER: Final = -1

Dot = tuple[int, int]
"""(actor, stamp): one write event."""

Kind = Literal["read", "write", "blind", "delete", "blind_delete", "expire"]
Outcome = Literal["done", "refused", "unknown"]
NetworkFault = Literal["split", "slow", "clog", "reset"]
ProcessFault = Literal["crash", "pause", "clock", "layout"]
DiskFault = Literal["power_cut", "sync_failed", "full", "eio", "flip", "torn"]
Replaced = Literal["derived", "wiped", "restored", "copied"]
FaultKind = NetworkFault | ProcessFault | DiskFault | Replaced


@dataclass(slots=True)
class Setup:
    """What a run was, and what it promises.

    Attributes:
        nodes: Names of all nodes in the layout at first.
        n, r, w: Of the bucket, for operations that name none.
        durability: How the log is synced; in ``interval`` every ``sync_interval_ms``, and a sync takes no
            longer than ``sync_stall_ms``. ``memory``: nothing outlives the process.
        skew_ms: No node's wall clock is ever further from the true time.
        converge_within_ms: After healing, until all replicas are equal.
        agree_within_ms: After the last change of the layout or the members, until all know it.
        answer_within_ms: After healing, or the end of a full disk, until requests succeed again.
        detect_within_ms: Until a node that is silent is taken for down; 0 where suspicions are not recorded.
        false_suspicions_max: How often nodes that no fault touches may be taken for down.
    """

    seed: int = 0
    profile: str = ""
    nodes: tuple[str, ...] = ("n1", "n2", "n3")
    n: int = 3
    r: int = 2
    w: int = 2
    durability: Literal["always", "interval", "never", "memory"] = "always"
    sync_interval_ms: float = 1000
    sync_stall_ms: float = 100
    skew_ms: float = 0
    hint_life_ms: float = 3 * 3600 * 1000
    converge_within_ms: float = 60_000
    agree_within_ms: float = 10_000
    answer_within_ms: float = 10_000
    detect_within_ms: float = 0
    false_suspicions_max: int = 0


class Seen(NamedTuple):
    """One value in the answer to a read; ``expires_at_ms``, the node's word, is -1 for never, and where the
    protocol does not tell it."""

    value: bytes
    stamp_ms: int = NEVER
    expires_at_ms: int = NEVER


@dataclass(slots=True)
class Operation:
    """One request about one key by one client. Made when it is sent, filled in when it is answered; what was
    never answered stays ``unknown``.

    Attributes:
        number: Counts the operations of a run from 0.
        session: One line of work, whose operations follow each other. ``Session`` says what it promises.
        seq: Counts what the client has written; (client, seq) names a value.
        kind: ``write`` and ``delete`` replace what ``context_given`` stands for; nothing if that is empty.
            ``blind`` (SET) and ``blind_delete`` (DEL) replace what their coordinator holds. ``expire`` writes
            the newest value anew with another expiry.
        node: Who was asked; ``coordinator`` who did it, where that is told.
        value: What was written.
        ttl_ms: The life asked for, -1 for none.
        context_of: The number of the operation whose answer gave ``context_given``; -1 where a client's own
            session chose it, or where it is empty.
        context: Received; empty for none. Of a write that left siblings there is none.
        values: Received, by a read; at most one if ``newest_only`` (GET).
        dots: Of this write, one for each time that it was done (retries). As the answer tells, else as the
            world outside has seen; empty where nobody knows.
        covered: Of a blind operation: all that its coordinator held, as (actor, highest stamp); None where
            nobody knows.
        r, w, pr, pw: 0 for the bucket's.
        primaries, fallbacks: Nodes whose acknowledgements an answer counted, where that is told.
        batch: Operations sent as one have the same number; -1 for one alone.
        attempts: How often it was sent; a write sent twice may be there twice.
    """

    number: int
    client: int
    session: int
    seq: int
    key: bytes
    kind: Kind
    node: str
    start_ms: float
    end_ms: float = NEVER
    outcome: Outcome = "unknown"
    reason: str = ""
    value: bytes | None = None
    ttl_ms: float = NEVER
    context_given: bytes = b""
    context_of: int = NEVER
    context: bytes = b""
    values: tuple[Seen, ...] = ()
    newest_only: bool = False
    dots: tuple[Dot, ...] = ()
    covered: tuple[Dot, ...] | None = None
    r: int = 0
    w: int = 0
    pr: int = 0
    pw: int = 0
    coordinator: str = ""
    primaries: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    batch: int = NEVER
    attempts: int = 1

    @property
    def writes(self) -> bool:
        return self.kind != "read"

    @property
    def deletes(self) -> bool:
        return self.kind in ("delete", "blind_delete")

    @property
    def blind(self) -> bool:
        """Whether it replaces what no client may have seen."""
        return self.kind in ("blind", "blind_delete", "expire")


@dataclass(slots=True)
class Session:
    """A session that guarantees G1 to G4 for its client: the Python client's, ``monotonic``."""

    session: int


@dataclass(slots=True)
class Fault:
    """Something that was wrong for a while, or happened at ``start_ms``.

    Attributes:
        kind: ``split``: nothing goes from ``nodes`` to ``others`` (one way). ``slow``, ``clog``, ``reset``:
            the same path delays, holds back, breaks its connections. Of ``nodes`` alone: ``crash`` (down
            until ``end_ms``), ``pause``, ``clock`` (off by ``detail`` ms), ``power_cut`` (down, and what was
            not synced may be gone), ``sync_failed`` (from when the engine was told until it is opened anew;
            ``detail`` ``data`` or ``hints``, empty for both), ``full`` (``detail`` ``0``: not one byte can
            be written), ``eio`` (reads fail), ``flip`` and ``torn`` (bytes rot), ``derived`` (a file that can
            be made anew is damaged),
            ``wiped`` (starts again with nothing), ``restored`` (starts again with the disk as it was at
            ``detail``), ``copied`` (starts with a copy of ``others[0]``'s disk). ``layout``: the layout
            changes, until all moved data has arrived.
        end_ms: -1 while it lasts to the end.
    """

    kind: FaultKind
    start_ms: float
    end_ms: float = NEVER
    nodes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    detail: str = ""

    @property
    def until_ms(self) -> float:
        return float("inf") if self.end_ms < 0 else self.end_ms


@dataclass(slots=True)
class Run:
    """One run of a node, from its start to its end.

    Attributes:
        actors: All that it minted under.
        member: Whether the others took it in; a second node under an id that lives must be refused.
    """

    node: str
    start_ms: float
    end_ms: float = NEVER
    actors: tuple[int, ...] = ()
    member: bool = True


@dataclass(slots=True)
class Suspicion:
    """``node`` was down in the eyes of ``by``."""

    by: str
    node: str
    start_ms: float
    end_ms: float = NEVER


@dataclass(slots=True)
class MemberSeen:
    """What ``by`` knew of a member when it looked at it."""

    by: str
    node: str
    at_ms: float
    incarnation: int
    state: str = "alive"


@dataclass(slots=True)
class Removed:
    """A node has left the cluster for good."""

    node: str
    at_ms: float


class StoredValue(NamedTuple):
    """One value in a version set, a tombstone (with empty ``value``) or a live one."""

    dot: Dot
    value: bytes
    tombstone: bool = False
    expires_at_ms: int = NEVER


@dataclass(slots=True)
class StoredSet:
    """What a node holds of a key.

    Attributes:
        entries: (actor, highest stamp known), by actor.
        encoded: The set's bytes; empty where only the parts are known.
        readable: False where the record cannot be read: then the rest is empty.
    """

    key: bytes
    entries: tuple[Dot, ...] = ()
    values: tuple[StoredValue, ...] = ()
    encoded: bytes = b""
    readable: bool = True

    @classmethod
    def decode(cls, key: bytes, encoded: bytes | None) -> StoredSet:
        """From a set's bytes, None for a record that cannot be read.

        Raises:
            CorruptRecord: Not the bytes of a set.
        """
        if encoded is None:
            return cls(key, readable=False)
        entries, values = versions.decode(encoded)
        return cls(
            key,
            tuple(entries),
            tuple(
                StoredValue(
                    (one.actor, one.stamp),
                    bytes(one.payload),
                    bool(one.flags & versions.TOMBSTONE),
                    one.expires_at_ms,
                )
                for one in values
            ),
            bytes(encoded),
        )

    def lasting(self, now_ms: float) -> tuple[StoredValue, ...]:
        """The values that replicas must agree on: each node takes out in its own time what has expired,
        unless that is newer than all that has not, and so hides it from who asks for the newest value.

        Args:
            now_ms: What expires by then counts as expired.
        """
        live = [one for one in self.values if not 0 <= one.expires_at_ms <= now_ms]
        if not live:
            return ()
        newest = max(one.dot[::-1] for one in live)
        return tuple(sorted(one for one in self.values if one in live or one.dot[::-1] > newest))


@dataclass(slots=True)
class Recovery:
    """What a node held when it had opened its disk again, before anybody repaired it.

    Attributes:
        cause: Of the end before: a fault's kind.
        since_ms: When the run before ended.
        before: What it held then, where the disk lost nothing that it had to keep (``derived``, ``crash``).
    """

    node: str
    at_ms: float
    cause: FaultKind
    since_ms: float
    sets: list[StoredSet]
    before: list[StoredSet] | None = None


@dataclass(slots=True)
class Collected:
    """A key's tombstone is gone from every node, as it may be when all have had it."""

    key: bytes
    at_ms: float


@dataclass(slots=True)
class Phase:
    """A part of the run.

    Attributes:
        name: ``core``: only ``nodes`` live, all others are down for ever, and every key has a quorum of its
            primaries among them; from ``start_ms`` on nothing is wrong with these. ``final``: all faults are
            over and replicas have had time to become equal; every key is read.
    """

    name: Literal["core", "final"]
    start_ms: float
    end_ms: float = NEVER
    nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class Bound:
    """The highest that a quantity with a limit has been: a queue, tasks, open files, log lines. ``node`` is
    empty for a quantity of the run."""

    name: str
    value: float
    limit: float
    node: str = ""


class Hints(NamedTuple):
    """A node's hint accounts since its first start on this disk; ``present`` lie there now."""

    stored: int
    delivered: int
    expired: int
    dropped: int
    present: int


class Root(NamedTuple):
    """A Merkle root: ``kept`` along with the writes, ``rebuilt`` from what is on disk; -1 where that was not
    done."""

    place: str
    kept: int
    rebuilt: int = NEVER


@dataclass(slots=True)
class NodeEnd:
    """A live node at the end.

    Attributes:
        members: Nodes of the layout it knows.
        repairs: Sets that exchange sent or received while nothing was written any more and after all replicas
            were equal.
    """

    node: str
    sets: list[StoredSet] = field(default_factory=list)
    layout_digest: str = ""
    layout_version: int = 0
    members: tuple[str, ...] = ()
    roots: tuple[Root, ...] = ()
    hints: Hints | None = None
    repairs: int = 0


class Owners(NamedTuple):
    """Primaries of a key, or of a partition (by its number, as text), in order."""

    key: bytes
    primaries: tuple[str, ...]


@dataclass(slots=True)
class End:
    """The state at the end, after healing and quiet.

    Attributes:
        healed_ms: When the last fault ended.
        equal_ms: When all replicas were first found equal; -1 for never.
        agreed_ms: When all had one layout and one list of members; -1 for never. ``changed_ms``: when
            either changed for the last time.
        nodes: All that live, by name.
        owners: Of all keys written. ``partitions``: of all partitions.
    """

    healed_ms: float
    equal_ms: float = NEVER
    changed_ms: float = 0
    agreed_ms: float = NEVER
    nodes: list[NodeEnd] = field(default_factory=list)
    owners: list[Owners] = field(default_factory=list)
    partitions: list[Owners] = field(default_factory=list)


Record = (
    Setup
    | Operation
    | Session
    | Fault
    | Run
    | Suspicion
    | MemberSeen
    | Removed
    | Recovery
    | Collected
    | Phase
    | Bound
    | End
)
RECORDS: Final[dict[str, type[Record]]] = {one.__name__: one for one in get_args(Record)}


@dataclass(slots=True)
class History:
    """All records of a run; each list in the order in which they were added."""

    setup: Setup = field(default_factory=Setup)
    operations: list[Operation] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    suspicions: list[Suspicion] = field(default_factory=list)
    members: list[MemberSeen] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    collected: list[Collected] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    end: End | None = None

    def add(self, record: Record) -> None:
        """Take in a record; a second ``Setup`` or ``End`` replaces the first."""
        if isinstance(record, Setup):
            self.setup = record
        elif isinstance(record, End):
            self.end = record
        else:
            getattr(self, _PLACES[type(record)]).append(record)

    def records(self) -> Iterator[Record]:
        """All of them, ``setup`` first and ``end`` last."""
        yield self.setup
        for place in _PLACES.values():
            yield from getattr(self, place)
        if self.end is not None:
            yield self.end


_PLACES: Final[dict[type, str]] = {
    Operation: "operations",
    Session: "sessions",
    Fault: "faults",
    Run: "runs",
    Suspicion: "suspicions",
    MemberSeen: "members",
    Removed: "removed",
    Recovery: "recoveries",
    Collected: "collected",
    Phase: "phases",
    Bound: "bounds",
}

_encoder: Final = msgspec.json.Encoder()
_line: Final = msgspec.json.Decoder(tuple[str, msgspec.Raw])
_decoders: Final = {name: msgspec.json.Decoder(kind) for name, kind in RECORDS.items()}


def encode_line(record: Record) -> bytes:
    """A record as a line of JSON, with its newline; byte strings are base64."""
    return _encoder.encode((type(record).__name__, record)) + b"\n"


def decode_lines(lines: Iterable[bytes]) -> History:
    """The history from its lines.

    A last line without a newline is left out: whoever wrote it died in it. An operation that is there more
    than once (when sent, when answered) is what its last line says.

    Raises:
        ValueError: A line is not a record.
    """
    history = History()
    operations: dict[int, Operation] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            continue
        try:
            name, raw = _line.decode(line)
            record = _decoders[name].decode(raw)
        except (msgspec.DecodeError, KeyError) as error:
            raise ValueError(f"line {number} is not a record of a history: {error}") from error
        if isinstance(record, Operation):
            operations[record.number] = record
        else:
            history.add(record)
    history.operations = [operations[number] for number in sorted(operations)]
    return history


class Writer(NamedTuple):
    """What a value says of itself."""

    client: int
    seq: int
    key: bytes


_MARK: Final = b"v1"
_CHECK_BYTES: Final = 9


def encode_value(client: int, seq: int, key: bytes, bytes_min: int = 0) -> bytes:
    """A value that names its writer, padded to at least ``bytes_min`` bytes: text but for the key, with a
    CRC-32 over all before it."""
    head = b"%b %d %d %d %b " % (_MARK, client, seq, len(key), key)
    body = head + b"." * max(0, bytes_min - len(head) - _CHECK_BYTES)
    return b"%b %08x" % (body, crc32(body))


def decode_value(value: bytes) -> Writer | None:
    """The writer; None for what ``encode_value`` did not make, such as a value with a flipped bit."""
    body, check = value[:-_CHECK_BYTES], value[-_CHECK_BYTES:]
    if check != b" %08x" % crc32(body):
        return None
    parts = body.split(b" ", 4)
    if len(parts) < 5 or parts[0] != _MARK:
        return None
    try:
        client, seq, length = int(parts[1]), int(parts[2]), int(parts[3])
    except ValueError:
        return None
    return Writer(client, seq, parts[4][:length])
