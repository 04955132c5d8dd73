"""What clients know of the order of writes: the ground on which all other checkers judge.

For each key there is a graph of its writes, deletes among them. Write b is *above* write a if the client that
issued b had received a in the answer whose context it passed, or if b was blind and what its coordinator held
is known to include a; and by transitivity. Nothing else is known for certain. Where nobody can tell what a
blind write covered, it is *perhaps* above everything that was under way before it ended: so absence is
judged by what is perhaps so, presence by what is certain.

Writes of a key are bits, by start, so a set of writes is an integer and a question about one is a few
operations.

Limits: server clocks are not looked at, but to say whether a blind write's coordinator held a value, by its
dot. A context of more entries than fit (64) is taken for one of all.

Source: Harry (Cassandra) for values that name their writer; Dynamo 4.4 for what a context covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from sadik.client.contexts import Seen as Entries
from sadik.client.contexts import seen_by
from sadik.sim.history import (
    Dot,
    Fault,
    FaultKind,
    History,
    Operation,
    Recovery,
    Seen,
    StoredSet,
    decode_value,
)

FOREVER = float("inf")

ENDS: tuple[FaultKind, ...] = ("crash", "power_cut")
"""A node is down from the start of these to their end."""


class Violation(NamedTuple):
    """A promise that was not kept.

    Attributes:
        invariant: Its name, as in ``sadik.sim.checkers``.
        text: What happened, for people; it names operations by ``#number``.
        operations: Their numbers.
    """

    invariant: str
    text: str
    operations: tuple[int, ...] = ()
    key: bytes = b""


class Stale(NamedTuple):
    """A read that did not show ``write``, which had been acknowledged before, nor anything above it."""

    story: KeyStory
    read: Operation
    write: Operation


def bits(mask: int) -> Iterator[int]:
    """Places of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def until(operation: Operation) -> float:
    """When an operation could last take effect: what was not answered, or is unknown, may at any time."""
    return FOREVER if operation.outcome == "unknown" or operation.end_ms < 0 else operation.end_ms


def name(operation: Operation) -> str:
    """``#12 write k7 by client 3 at n2``."""
    key = operation.key.decode("ascii", "backslashreplace")
    return f"#{operation.number} {operation.kind} {key} by client {operation.client} at {operation.node}"


def names(operations: Sequence[Operation]) -> str:
    return ", ".join(name(one) for one in operations)


class KeyStory:
    """One key.

    Attributes:
        writes: All but refused ones take part in the order; ``bit`` gives places by number.
        reads: Those that were answered, by start.
        below: For each write the writes that it is certainly above. ``maybe_below``: perhaps.
        done, refused, deletes: Masks of writes; of ``deletes`` those that may have happened.
        rewritten: Whether a value may have been written anew under another event (``expire``).
    """

    def __init__(self, key: bytes, operations: Sequence[Operation], skew_ms: float) -> None:
        self.key = key
        self.writes = sorted((one for one in operations if one.writes), key=_start)
        self.reads = sorted(
            (one for one in operations if not one.writes and one.outcome == "done"), key=_start
        )
        self.bit = {one.number: place for place, one in enumerate(self.writes)}
        self._of_value = {one.value: place for place, one in enumerate(self.writes) if one.value is not None}
        self._skew_ms = skew_ms
        self.done = self.refused = self.deletes = self._retried = 0
        self.rewritten = False
        self._mortal: list[int] = []
        for place, one in enumerate(self.writes):
            bit = 1 << place
            if one.outcome == "refused":
                self.refused |= bit
                continue
            if one.outcome == "done":
                self.done |= bit
            if one.deletes:
                self.deletes |= bit
            if one.attempts > 1:
                self._retried |= bit
            if one.ttl_ms >= 0:
                self._mortal.append(place)
            self.rewritten |= one.kind == "expire"
        self.shown = {read.number: self.mask(read.values) for read in self.reads}
        self.dots = [self._dots(one) for one in self.writes]
        certain, perhaps = self._edges(operations)
        self.below = _closed(certain)
        self.maybe_below = self.below
        if any(perhaps):
            self.maybe_below = _closed([one | other for one, other in zip(certain, perhaps, strict=True)])

    def mask(self, values: Sequence[Seen]) -> int:
        """The writers of values that a read received; what nobody wrote is left out."""
        found = 0
        for one in values:
            place = self._of_value.get(one.value)
            if place is not None:
                found |= 1 << place
        return found

    def mask_of(self, stored: StoredSet) -> int:
        """The writers of live values in a stored set."""
        found = 0
        for one in stored.values:
            if not one.tombstone:
                place = self._of_value.get(one.value)
                if place is not None:
                    found |= 1 << place
        return found

    def writer(self, value: bytes) -> int | None:
        """The place of the write that issued a value."""
        return self._of_value.get(value)

    def some(self, mask: int) -> list[Operation]:
        return [self.writes[place] for place in bits(mask)]

    def explained(self, shown: int, at_ms: float) -> int:
        """All writes whose absence from an answer is in order, if it was given at ``at_ms`` and shows
        ``shown``: those shown, those below them, and those that a delete or their expiry may have ended.
        """
        good = shown | self.gone(at_ms)
        for place in bits(self.deletes):
            if self.writes[place].start_ms <= at_ms:
                good |= 1 << place
        if self.rewritten and shown:
            # Whatever has expiry set anew shows the value that another wrote.
            good |= sum(1 << place for place, one in enumerate(self.writes) if one.kind == "expire")
        found = good
        for place in bits(good):
            found |= self.maybe_below[place]
        return found

    def gone(self, at_ms: float) -> int:
        """Writes that may have expired by ``at_ms``, with clocks of writer and reader off as is allowed."""
        found = 0
        for place in self._mortal:
            one = self.writes[place]
            if one.start_ms + one.ttl_ms - 2 * self._skew_ms <= at_ms:
                found |= 1 << place
        return found

    def obsolete(self, shown: int) -> int:
        """Of writes shown side by side, those that another of them is certainly above.

        What was sent twice, or written anew with another expiry, may be there under another event.
        """
        if not shown & (shown - 1) or self.rewritten:
            return 0
        found = 0
        for place in bits(shown):
            found |= self.below[place] & ~(1 << place)
        return found & shown & ~self._retried

    def _dots(self, one: Operation) -> tuple[Dot, ...]:
        """The events of a write: as recorded, else the newest of its answer's context, which is its own."""
        if one.dots or one.outcome != "done" or one.blind or not one.context:
            return one.dots
        entries = seen_by(one.context)
        return (max(entries.items(), key=lambda entry: entry[1]),) if entries else ()

    def _edges(self, operations: Sequence[Operation]) -> tuple[list[int], list[int]]:
        """For each write the writes directly below it: for certain, and perhaps."""
        certain = [0] * len(self.writes)
        perhaps = [0] * len(self.writes)
        answers: dict[bytes, list[Operation]] = {}
        for one in operations:
            if one.context and one.outcome == "done":
                answers.setdefault(one.context, []).append(one)
        for place, one in enumerate(self.writes):
            if one.outcome == "refused":
                continue
            if one.blind:
                certain[place], perhaps[place] = self._blind_edges(place)
            elif one.context_given:
                source = _source(one, answers.get(one.context_given, ()))
                if source is None:
                    perhaps[place] = self._under_way(place)
                elif source.writes:
                    certain[place] = 1 << self.bit[source.number]
                else:
                    certain[place] = self.shown[source.number]
                    # What was shown may be the work of whoever set its expiry anew, and dropped its siblings.
                    perhaps[place] = self._rewrites(source.end_ms)
        return certain, perhaps

    def _rewrites(self, at_ms: float) -> int:
        """Settings of expiry that may have taken place by then."""
        if not self.rewritten:
            return 0
        return sum(
            1 << place
            for place, one in enumerate(self.writes)
            if one.kind == "expire" and one.outcome != "refused" and one.start_ms <= at_ms
        )

    def _blind_edges(self, place: int) -> tuple[int, int]:
        one = self.writes[place]
        before = self._under_way(place)
        if one.covered is None or one.kind == "expire":
            return 0, before
        held = dict(one.covered)
        certain = perhaps = 0
        for other in bits(before):
            dots = self.dots[other]
            if not dots:
                perhaps |= 1 << other
            elif all(held.get(actor, 0) >= stamp for actor, stamp in dots):
                certain |= 1 << other
        return certain, perhaps

    def _under_way(self, place: int) -> int:
        """Writes that may have happened before this one did."""
        end = until(self.writes[place])
        found = 0
        for other, one in enumerate(self.writes):
            if one.start_ms >= end:
                break
            found |= 1 << other
        return found & ~self.refused & ~(1 << place)


class Oracle:
    """A history with the questions that several checkers ask."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.setup = history.setup
        operations: dict[bytes, list[Operation]] = {}
        for one in history.operations:
            operations.setdefault(one.key, []).append(one)
        self.stories = {
            key: KeyStory(key, some, self.setup.skew_ms) for key, some in sorted(operations.items())
        }
        self.finals = [phase for phase in history.phases if phase.name == "final"]

    def story(self, key: bytes) -> KeyStory | None:
        return self.stories.get(key)

    def is_final(self, operation: Operation) -> bool:
        """Whether it was sent after all faults were over and replicas had had time to become equal."""
        return any(phase.start_ms <= operation.start_ms for phase in self.finals)

    @cached_property
    def n(self) -> int:
        """Replicas of a key."""
        return min(self.setup.n, len(self.setup.nodes))

    @cached_property
    def owners(self) -> dict[bytes, tuple[str, ...]]:
        """Primaries by key, as far as they are known."""
        return {} if self.history.end is None else dict(self.history.end.owners)

    @cached_property
    def held(self) -> dict[str, dict[bytes, StoredSet]]:
        """What live nodes hold at the end, by node and key."""
        nodes = [] if self.history.end is None else self.history.end.nodes
        return {one.node: {stored.key: stored for stored in one.sets} for one in nodes}

    def replicas(self, key: bytes) -> dict[str, StoredSet]:
        """What the live primaries of a key hold of it at the end."""
        return {
            node: self.held[node].get(key) or StoredSet(key)
            for node in self.owners.get(key, ())
            if node in self.held
        }

    @cached_property
    def end_ms(self) -> float:
        """When the state at the end was looked at, at the latest."""
        ends = [one.end_ms for one in self.history.operations] + [one.end_ms for one in self.finals]
        end = self.history.end
        return max([*ends, 0 if end is None else max(end.healed_ms, end.equal_ms)])

    @cached_property
    def settled(self) -> bool:
        """Whether replicas became equal, so that one speaks for all."""
        return self.history.end is not None and self.history.end.equal_ms >= 0

    @cached_property
    def sets(self) -> list[tuple[str, StoredSet, float]]:
        """All stored sets that were seen, with where and when."""
        found = [
            (f"{node} at the end", one, self.end_ms) for node in self.held for one in self.held[node].values()
        ]
        for recovery in self.history.recoveries:
            found += [(recovered(recovery), one, recovery.at_ms) for one in recovery.sets]
        return found

    @cached_property
    def stale(self) -> list[Stale]:
        """Reads that did not show a write acknowledged before they were sent."""
        found: list[Stale] = []
        for story in self.stories.values():
            acked = sorted(
                (one.end_ms, 1 << place)
                for place, one in enumerate(story.writes)
                if one.outcome == "done" and one.kind != "expire" and not one.deletes
            )
            before, upto = 0, 0
            for read in story.reads:
                while upto < len(acked) and acked[upto][0] < read.start_ms:
                    before |= acked[upto][1]
                    upto += 1
                missing = missed(story, read, before)
                found += [Stale(story, read, one) for one in story.some(missing)]
        return found

    def overlapping(
        self, start_ms: float, end_ms: float, kinds: Sequence[FaultKind] | None = None
    ) -> Iterator[Fault]:
        """Faults (of some kinds) that lasted at any time between two."""
        for fault in self.history.faults:
            if (
                fault.start_ms <= end_ms
                and fault.until_ms >= start_ms
                and (kinds is None or fault.kind in kinds)
            ):
                yield fault

    def losers(self, write: Operation) -> dict[str, Fault]:
        """Nodes of which a fault may have taken a write that was acknowledged: their disk lost it as its mode
        allows, was replaced or rots, or they never come back.
        """
        found: dict[str, Fault] = {}
        for fault in self.history.faults:
            if self._may_take(fault, write):
                for node in fault.nodes:
                    found.setdefault(node, fault)
        return found

    def _may_take(self, fault: Fault, write: Operation) -> bool:
        mode = self.setup.durability
        if fault.kind in ("flip", "torn"):
            return fault.until_ms >= write.start_ms
        if fault.start_ms < write.start_ms:
            return False
        if fault.kind == "wiped" or (fault.kind in ENDS and (fault.end_ms < 0 or mode == "memory")):
            return True
        if fault.kind in ("restored", "copied"):
            return float(fault.detail or 0) < until(write)
        return fault.kind in ("power_cut", "sync_failed") and until(write) > self.synced_before(
            fault.start_ms
        )

    def synced_before(self, at_ms: float) -> float:
        """What was acknowledged up to this time is on disk at ``at_ms``."""
        mode = self.setup.durability
        if mode == "always":
            return at_ms
        if mode == "interval":
            return at_ms - self.setup.sync_interval_ms - self.setup.sync_stall_ms
        return -FOREVER

    def excused(self, write: Operation) -> bool:
        """Whether more disks failed, or nodes died for good, than a write that W nodes took can bear."""
        losers = self.losers(write)
        if not losers:
            return False
        told = write.primaries + write.fallbacks
        if told:
            return all(node in losers for node in told)
        return len(losers) >= (max(write.w, write.pw) or self.setup.w)


def recovered(recovery: Recovery) -> str:
    return f"{recovery.node} after {recovery.cause}"


def missed(story: KeyStory, read: Operation, wanted: int) -> int:
    """Of ``wanted``, the writes whose absence from an answer is not in order.

    Of an answer with the newest value alone only these are judged: nothing at all, and a value that a wanted
    write replaced.
    """
    shown = story.shown[read.number]
    if read.newest_only and shown:
        return sum(
            1 << place
            for place in bits(wanted & ~shown)
            if story.below[place] & shown and not story.rewritten
        )
    if read.newest_only:
        # A delete that is newer than every value hides them here, those too that it has not seen; so does
        # the newest value once it has expired.
        hiding = story.gone(read.end_ms)
        hiding |= sum(1 << one for one in bits(story.deletes) if story.writes[one].start_ms <= read.end_ms)
        wanted = sum(1 << one for one in bits(wanted) if not hiding & ~story.below[one])
    return wanted & ~story.explained(shown, read.end_ms)


def entries_of(context: bytes) -> Entries:
    """Stamp by actor, as far as a context can be read."""
    return seen_by(context)


def strange(story: KeyStory | None, key: bytes, value: bytes, at_ms: float) -> str | None:
    """What is wrong with a value that was found under a key: not one that a client wrote there by then."""
    place = None if story is None else story.writer(value)
    if story is not None and place is not None:
        write = story.writes[place]
        return f"is of {name(write)}, sent later" if write.start_ms > at_ms else None
    writer = decode_value(value)
    if writer is None:
        return f"is damaged, or none that was ever written ({value[:60]!r})"
    if writer.key != key:
        return f"was written to {writer.key!r}"
    return f"names client {writer.client}, seq {writer.seq}, which did not write it"


def _start(operation: Operation) -> tuple[float, int]:
    return operation.start_ms, operation.number


def _source(write: Operation, answers: Sequence[Operation]) -> Operation | None:
    """Whose answer gave the context of a write."""
    best: Operation | None = None
    for one in answers:
        if one.number == write.context_of:
            return one
        if one.end_ms <= write.start_ms and (best is None or one.session == write.session):
            best = one
    return best


def _closed(direct: list[int]) -> list[int]:
    """The transitive closure (Warshall): cycles may be there, of writes that may each be above the other."""
    found = direct[:]
    for place, mine in enumerate(found):
        if not mine:
            continue
        bit = 1 << place
        for other, mask in enumerate(found):
            if mask & bit:
                found[other] = mask | mine
    return found
