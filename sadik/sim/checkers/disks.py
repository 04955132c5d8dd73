"""S4 to S7: what a node answers when its disk fails it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.sim.checkers.oracle import Oracle, Violation, name
from sadik.sim.checkers.quorum import is_strict, starved
from sadik.sim.checkers.reach import Reach
from sadik.sim.history import FaultKind, Operation, decode_value

UNREAD: Final[tuple[FaultKind, ...]] = ("eio", "flip")
FULL: Final = ("OOM", "StorageFull")
"""How an answer says that a disk is full: the code that clients see, or the class."""


def rot_is_not_served(oracle: Oracle) -> list[Violation]:
    """S4: a value that is damaged is in no answer and in no other node's set, and at the end every record
    can be read again.

    That valid records after a bad one are kept, and that every flipped bit is noticed, is tested at the
    engine; what may be lost by it at all is D2.
    """
    found: list[Violation] = []
    for story in oracle.stories.values():
        for read in story.reads:
            for one in read.values:
                if story.writer(one.value) is None and decode_value(one.value) is None:
                    text = f"{name(read)} shows a value that is damaged: {one.value[:60]!r}"
                    found.append(Violation("S4", text, (read.number,), story.key))
    for where, stored, _ in oracle.sets:
        story_of = oracle.story(stored.key)
        for kept in stored.values:
            issued = story_of is not None and story_of.writer(kept.value) is not None
            if not kept.tombstone and not issued and decode_value(kept.value) is None:
                found.append(Violation("S4", f"{where} holds a damaged value as a sound one", (), stored.key))
    for node, sets in oracle.held.items():
        for stored in sets.values():
            if not stored.readable:
                found.append(
                    Violation("S4", f"{node} at the end cannot read a record: not repaired", (), stored.key)
                )
    return found


def errors_are_not_absence(oracle: Oracle) -> list[Violation]:
    """S5: while records of at most N - W nodes cannot be read a strict quorum still shows each acknowledged
    write, as an error counts for no answer.

    Judged by the first request for the key since. It, or a repair on its behalf, puts what another replica
    has into the place of what cannot be read; what that one did not have either is then lost there, as from
    an empty disk, and a quorum that counts on it may miss it. That it is not lost for good is D2; that no
    clock starts anew on an error, D1.
    """
    found: list[Violation] = []
    for one in oracle.stale:
        faults = list(oracle.overlapping(one.write.start_ms, one.read.end_ms, UNREAD))
        nodes = sorted({node for fault in faults for node in fault.nodes})
        few = len(nodes) <= oracle.n - (one.write.w or min(oracle.setup.w, oracle.n))
        if nodes and few and is_strict(oracle, one.write, one.read, despite=UNREAD):
            if _was_asked_before(oracle, one.write, one.read, min(fault.start_ms for fault in faults)):
                continue
            text = f"{name(one.read)} takes an error of {', '.join(nodes)} for absence of {name(one.write)}"
            found.append(Violation("S5", text, (one.read.number, one.write.number), one.story.key))
    return found


def _was_asked_before(oracle: Oracle, write: Operation, read: Operation, since_ms: float) -> bool:
    """Whether another request for the key may have reached nodes from ``since_ms`` to the read's end."""
    return any(
        one.key == read.key
        and one.number not in (write.number, read.number)
        and one.start_ms <= read.end_ms
        and (one.outcome == "unknown" or one.end_ms >= since_ms)
        for one in oracle.history.operations
    )


def no_acknowledgement_after_a_failed_sync(oracle: Oracle) -> list[Violation]:
    """S6: from a failed sync until its engine is opened anew a node acknowledges no write.

    Judged by the nodes that acknowledgements name, and by whether enough others were there.
    """
    return _refusing(oracle, "S6", "sync_failed", "", ("data", "hints"), "after a sync had failed there")


def a_full_disk_refuses(oracle: Oracle) -> list[Violation]:
    """S7: a node whose disk has no room for a byte acknowledges no write; reads of it go on; and
    ``answer_within_ms`` after there is room nothing is refused for want of it.

    That short writes are rolled back, and that compaction has its reserve, is tested at the engine.
    """
    found = _refusing(oracle, "S7", "full", "0", ("0", "0"), "whose disk was full")
    full = [fault for fault in oracle.history.faults if fault.kind == "full"]
    for one in oracle.history.operations:
        if one.outcome == "done" or not any(word in one.reason for word in FULL):
            continue
        if not one.writes:
            text = f"{name(one)} was not answered because a disk was full: {one.reason}"
            found.append(Violation("S7", text, (one.number,), one.key))
        elif not any(
            fault.start_ms <= one.end_ms and one.start_ms <= fault.until_ms + oracle.setup.answer_within_ms
            for fault in full
        ):
            text = f"{name(one)} was not done though there was room: {one.reason}"
            found.append(Violation("S7", text, (one.number,), one.key))
        elif len(oracle.setup.nodes) == 1 and one.outcome == "unknown":
            text = f"{name(one)} met a full disk, and was not plainly refused: {one.reason}"
            found.append(Violation("S7", text, (one.number,), one.key))
    return found


def _refusing(
    oracle: Oracle, invariant: str, kind: FaultKind, whole: str, parts: tuple[str, str], what: str
) -> list[Violation]:
    """Acknowledgements by nodes that could make none.

    Args:
        whole: The fault's detail where it is of all that a node writes.
        parts: Where it is of primaries' data alone, and of hints alone.
    """
    found: list[Violation] = []
    if not any(fault.kind == kind for fault in oracle.history.faults):
        return found
    for one in oracle.history.operations:
        if one.outcome == "done" and one.writes and (one.primaries or one.fallbacks):
            reach = Reach(oracle, one)
            guilty = _both(one.primaries, reach.failing(kind, whole, parts[0]))
            guilty += _both(one.fallbacks, reach.failing(kind, whole, parts[1]))
            if guilty:
                text = f"{name(one)} was acknowledged by {', '.join(guilty)}, {what}"
                found.append(Violation(invariant, text, (one.number,), one.key))
    for one, could in starved(oracle, kind, whole, parts):
        text = f"{name(one)} was acknowledged, and only {could} nodes were not of those {what}"
        found.append(Violation(invariant, text, (one.number,), one.key))
    return found


def _both(told: Sequence[str], failing: set[str]) -> list[str]:
    return [node for node in told if node in failing]
