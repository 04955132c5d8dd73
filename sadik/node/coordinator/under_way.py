"""One batch under way: what our own replica did, what was sent, and who has not answered yet.

Only data, and what can be said of it; ``flight.py`` moves it on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sadik.comms.messages import Kind
from sadik.errors import QuorumMissed, SadikError
from sadik.ids import NodeId
from sadik.kernels import resp, versions
from sadik.node.coordinator.outcomes import FAILED
from sadik.node.coordinator.quorum import Tally, Uniform
from sadik.node.operations import DIGEST_BYTES, Operations
from sadik.storage.engine import STORED, ReadBatch

WRITE, READ_REPAIR, HINT, EXCHANGE = range(4)
"""Why version sets are sent (``packets``: reason)."""

Indices = npt.NDArray[np.intp]


@dataclass(slots=True)
class Local:
    """What the coordinator's own replica did.

    Attributes:
        status, values, value_start, value_length: Answers as ``versions.Applied`` has them.
        stored, previous: What was read, and links between operations on one address (int32; None: there are
        none). sets, set_offsets: New sets; int64, count + 1.
        after: Fingerprint of the set after each operation, uint64 each.
        pending: Ticket to wait for before the own write counts, 0 for none.
        refused: Whether any operation has a status above ``versions.NOTHING``.
        errors: Of operations with status FAILED.
    """

    status: bytearray
    values: bytes | bytearray
    value_start: bytearray
    value_length: bytearray
    stored: ReadBatch
    previous: bytes | bytearray | None
    sets: bytes | bytearray
    set_offsets: bytes | bytearray
    after: bytes | bytearray
    pending: int
    refused: bool = False
    errors: dict[int, SadikError] = field(default_factory=dict)


class Flight:
    """One batch under way.

    Attributes:
        uniform: What all operations need, of all nodes; None where that differs, and ``tally`` counts.
        merged: By operation: what replicas that differed make of the set, together with our own.
        own: By operation, whether this node is one of the primaries; None: of all.
        overtaken: Reads that a later write of the batch follows on the same key, and the last such write.
            Replicas merge a batch's writes first, so they are asked for the state after that write.
    """

    __slots__ = (
        "answered",
        "count",
        "deadline_ns",
        "digests",
        "fallback",
        "kinds",
        "local",
        "merged",
        "name_lengths",
        "name_starts",
        "names",
        "open",
        "overtaken",
        "own",
        "r_left",
        "read_from",
        "reasons",
        "sent",
        "sink",
        "size",
        "spans",
        "started_ns",
        "tally",
        "theirs",
        "uniform",
        "w_left",
        "waits_for_disk",
    )

    def __init__(
        self,
        operations: Operations,
        local: Local,
        sink: Callable[[Flight], None],
        started_ns: int,
        deadline_ns: int,
    ) -> None:
        count = operations.count
        self.count = count
        # The turn's arena is used again by the next one; names are needed for repair and hints.
        self.kinds = operations.kinds[:count]
        self.names = operations.data[: operations.used]
        self.name_starts = operations.name_starts[: 8 * count]
        self.name_lengths = operations.name_lengths[: 8 * count]
        self.digests = operations.digests[: DIGEST_BYTES * count]
        self.spans = operations.spans
        self.local = local
        self.sink = sink
        self.started_ns = started_ns
        self.deadline_ns = deadline_ns
        self.size = operations.used + len(local.sets) + len(local.stored.data) + 64 * count
        self.answered = False
        self.fallback = False
        self.uniform: Uniform | None = None
        self.w_left = 0
        self.r_left = 0
        self.tally: Tally | None = None
        self.waits_for_disk = False
        self.open = 0
        self.sent: list[Sent] = []
        self.merged: dict[int, bytes] = {}
        self.overtaken: dict[int, int] = {}
        self.own: npt.NDArray[np.bool_] | None = None
        self.theirs: dict[NodeId, dict[int, bytes | None]] = {}
        self.read_from: list[tuple[NodeId, Sent]] = []
        self.reasons: list[tuple[str, str]] = []

    @property
    def writes(self) -> npt.NDArray[np.bool_]:
        """Which operations made a set."""
        offsets = np.frombuffer(self.local.set_offsets, np.int64, self.count + 1)
        made: npt.NDArray[np.bool_] = offsets[1:] > offsets[:-1]
        return made

    @property
    def reads(self) -> npt.NDArray[np.bool_]:
        """Which operations are reads that our own replica did not refuse."""
        kinds = np.frombuffer(self.kinds, np.uint8)
        status = np.frombuffer(self.local.status, np.uint8, self.count)
        found: npt.NDArray[np.bool_] = (kinds == resp.GET) & (status <= versions.NOTHING)
        return found

    def base(self, index: int) -> bytes:
        """The set that our own replica has after operation ``index``; ``b""`` when it cannot be read."""
        local = self.local
        offsets = memoryview(local.set_offsets).cast("q")
        links = None if local.previous is None else memoryview(local.previous).cast("i")
        at = index
        while at >= 0:
            if offsets[at + 1] > offsets[at]:
                return bytes(local.sets[offsets[at] : offsets[at + 1]])
            at = -1 if links is None else links[at]
        if local.stored.status[index] != STORED:
            return b""
        places = memoryview(local.stored.offsets).cast("q")
        return bytes(local.stored.data[places[index] : places[index + 1]])

    def known(self, index: int) -> bytes:
        """The set that replicas are asked to compare with for read ``index``."""
        return self.base(self.overtaken.get(index, index))

    def find_overtaken(self) -> None:
        """Fill in ``overtaken``, for a batch of reads and writes. Cost: about 20 us."""
        count = self.count
        digests = np.frombuffer(self.digests, np.uint8, DIGEST_BYTES * count).reshape(count, DIGEST_BYTES)
        links = bytearray(4 * count)
        # Backwards, the latest write before an operation is the next one after it.
        resp.chain(count, self.kinds[::-1], np.ascontiguousarray(digests[::-1]).tobytes(), links)
        following = count - 1 - np.frombuffer(links, np.int32)[::-1]
        followed = following < count
        if not (followed & (np.frombuffer(self.kinds, np.uint8) == resp.GET)).any():
            return
        last = list(range(count))
        for index in np.flatnonzero(followed)[::-1].tolist():
            last[index] = last[following[index]]
            if self.kinds[index] == resp.GET:
                self.overtaken[index] = last[index]

    def uneven(self, *, disk: bool = False) -> Tally:
        """Count per operation from now on; ``disk``: our own write has just stopped to be waited for."""
        if self.tally is not None:
            return self.tally
        writes, reads, needs = self.writes, self.reads, self.uniform
        assert needs is not None, "it has a tally, or the same needs for all"
        need = np.where(writes, needs.write, np.where(reads, needs.read, 0)).astype(np.int16)
        tally = Tally(need, np.zeros_like(need))
        tally.got = np.where(
            writes, needs.write - self.w_left, np.where(reads, needs.read - self.r_left, 0)
        ).astype(np.int16)
        for sent in self.sent:
            for _ in sent.waiting:
                tally.expect(sent.operations(), primary=True)
        if self.waits_for_disk or disk:
            tally.expect(np.flatnonzero(writes), primary=True)
        tally.got_primary = tally.got.copy()
        self.tally = tally
        return tally

    def fail(self, missed: Indices, reason: str) -> None:
        """Operations have no quorum: each gets its error."""
        tally = self.tally
        assert tally is not None, "only a tally can miss"
        reasons = tuple(self.reasons[:16])
        shown: dict[tuple[bool, str, int, int], QuorumMissed] = {}
        for index in missed.tolist():
            write = self.kinds[index] == resp.SET
            who, need, got = "replicas", int(tally.need[index]), int(tally.got[index])
            if got >= need:
                who, need, got = "primaries", int(tally.need_primary[index]), int(tally.got_primary[index])
            error = shown.get((write, who, need, got))
            if error is None:
                what = "may have been applied" if write else "nothing was read"
                error = QuorumMissed(
                    f"{got} of {need} {who} answered{f' ({reason})' if reason else ''}; {what}",
                    maybe_applied=write,
                    required=need,
                    received=got,
                    reasons=reasons,
                )
                shown[(write, who, need, got)] = error
            self.local.errors[index] = error
            self.local.status[index] = FAILED
        self.local.refused = True

    def name(self, index: int) -> bytes:
        start = int.from_bytes(self.name_starts[8 * index : 8 * index + 8], "little")
        length = int.from_bytes(self.name_lengths[8 * index : 8 * index + 8], "little")
        return bytes(self.names[start : start + length])

    def digest(self, index: int) -> bytes:
        return bytes(self.digests[DIGEST_BYTES * index : DIGEST_BYTES * (index + 1)])


class Sent:
    """One frame of a flight, and who has not answered it yet.

    Attributes:
        index: Its operations, int32 each; None: all of them.
        primary: Whether its receivers answer as primaries. owner: Whose hint it is, ``""`` for none.
    """

    __slots__ = ("flight", "index", "kind", "owner", "primary", "request", "waiting")

    def __init__(
        self,
        flight: Flight,
        request: int,
        kind: Kind,
        index: bytes | None,
        waiting: list[NodeId],
        primary: bool,
        owner: NodeId | None,
    ) -> None:
        self.flight = flight
        self.request = request
        self.kind = kind
        self.index = index
        self.waiting = waiting
        self.primary = primary
        self.owner = owner

    def operations(self) -> Indices:
        if self.index is None:
            return np.arange(self.flight.count)
        return np.frombuffer(self.index, np.int32).astype(np.intp)
