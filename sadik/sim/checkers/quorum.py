"""Q1 to Q3: what quorums promise, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sadik.sim.checkers.oracle import Oracle, Violation, name
from sadik.sim.checkers.reach import Reach
from sadik.sim.history import FaultKind, Operation

LOSING: Final[tuple[FaultKind, ...]] = ("wiped", "restored", "copied", "flip", "torn", "layout")
"""After these a primary may know less than it acknowledged, or others are the primaries."""


class Staleness(NamedTuple):
    """``reads`` that could have been stale, since fallbacks may have acknowledged for primaries, and how many
    of them were.
    """

    reads: int
    stale: int


def strict_quorums_show_the_last_write(oracle: Oracle) -> list[Violation]:
    """Q1: with R + W > N, replicas that are primaries, and a layout and disks that stay, a read shows each
    write that was acknowledged before it was sent, or one above it.

    Primaries only is: PR and PW ask for it; or there is no node but the primaries; or nothing at all was
    wrong, and nobody taken for down, from the write to the end of the read.
    """
    return [
        Violation(
            "Q1",
            f"{name(one.read)} does not show {name(one.write)}, acknowledged before, by strict quorums",
            (one.read.number, one.write.number),
            one.story.key,
        )
        for one in oracle.stale
        if is_strict(oracle, one.write, one.read)
    ]


def is_strict(
    oracle: Oracle, write: Operation, read: Operation, *, despite: tuple[FaultKind, ...] = ()
) -> bool:
    """Whether the quorums of a write and a later read surely met, and what they met on was still there;
    faults of kinds ``despite`` are taken for none that lose it.
    """
    n, setup = oracle.n, oracle.setup
    losing = tuple(kind for kind in LOSING if kind not in despite)
    if setup.durability != "always":
        losing = (*losing, "power_cut", "sync_failed")
    if setup.durability == "memory":
        losing = (*losing, "crash")
    if any(True for _ in oracle.overlapping(write.start_ms, read.end_ms, losing)):
        return False
    if read.pr + write.pw > n:
        return True
    r = max(read.r or min(setup.r, n), read.pr)
    w = max(write.w or min(setup.w, n), write.pw)
    if r + w <= n:
        return False
    return len(setup.nodes) <= setup.n or _is_quiet(oracle, write.start_ms, read.end_ms)


def _is_quiet(oracle: Oracle, start_ms: float, end_ms: float) -> bool:
    """Whether every primary was up and seen to be so by all."""
    # Who was just healed is not seen by everybody at once.
    if any(True for _ in oracle.overlapping(start_ms - oracle.setup.answer_within_ms, end_ms)):
        return False
    return not any(
        one.start_ms <= end_ms and (one.end_ms < 0 or one.end_ms >= start_ms)
        for one in oracle.history.suspicions
    )


def staleness(oracle: Oracle) -> Staleness:
    """Q2: how often reads were stale where that may be. A campaign in which it never happens has not tried
    sloppy quorums (``sometimes.py``); that nothing is lost by it is D2.
    """
    stale = {one.read.number for one in oracle.stale if not is_strict(oracle, one.write, one.read)}
    reads = 0
    for story in oracle.stories.values():
        acked = [one for one in story.writes if one.outcome == "done" and one.value is not None]
        first = min(acked, key=lambda one: one.end_ms, default=None)
        if first is not None:
            reads += sum(
                read.start_ms > first.end_ms and not is_strict(oracle, first, read) for read in story.reads
            )
    return Staleness(reads, len(stale))


def fallbacks_do_not_count_as_primaries(oracle: Oracle) -> list[Violation]:
    """Q3: what asks for PR or PW answers of primaries succeeds only with so many.

    Judged by the nodes that an acknowledgement names, where it does, and by how many primaries anybody could
    have reached.
    """
    found: list[Violation] = []
    for one in oracle.history.operations:
        need = one.pw if one.writes else one.pr
        if not need or one.outcome != "done":
            continue
        if (one.primaries or one.fallbacks) and len(one.primaries) < need:
            text = (
                f"{name(one)} asked for {need} primaries, and {', '.join(one.primaries) or 'none'} answered"
            )
            found.append(Violation("Q3", text, (one.number,), one.key))
            continue
        strangers = [node for node in one.primaries if node not in oracle.owners.get(one.key, one.primaries)]
        if strangers and not _moves(oracle):
            text = f"{name(one)} counts {', '.join(strangers)} as primaries, which they are not"
            found.append(Violation("Q3", text, (one.number,), one.key))
            continue
        reached = _primaries_in_reach(oracle, one)
        if reached is not None and reached < need:
            text = f"{name(one)} succeeded with {need} primaries, of which {reached} were in reach"
            found.append(Violation("Q3", text, (one.number,), one.key))
    return found


def _primaries_in_reach(oracle: Oracle, one: Operation) -> int | None:
    """None where the primaries are not known."""
    owners = oracle.owners.get(one.key)
    if not owners or _moves(oracle):
        return None
    return Reach(oracle, one).most(owners, oracle.setup.nodes)


def _moves(oracle: Oracle) -> bool:
    return any(fault.kind == "layout" for fault in oracle.history.faults)


def starved(
    oracle: Oracle, kind: FaultKind, whole: str, parts: tuple[str, str]
) -> Iterator[tuple[Operation, int]]:
    """Acknowledged writes for which too few nodes were free of a fault of their disk all the while, with how
    many could have stored them.

    Args:
        whole: The fault's detail where it is of all that a node writes.
        parts: Where it is of primaries' data alone, and of hints alone.
    """
    if not any(fault.kind == kind for fault in oracle.history.faults) or _moves(oracle):
        return
    for one in oracle.history.operations:
        if not one.writes or one.outcome != "done":
            continue
        reach = Reach(oracle, one)
        failing = reach.failing(kind, whole)
        if one.key in oracle.owners:
            owners = set(oracle.owners[one.key])
            failing |= reach.failing(kind, parts[0]) & owners
            failing |= reach.failing(kind, parts[1]) - owners
        if failing:
            sound = [node for node in oracle.setup.nodes if node not in failing]
            could = reach.most(sound, oracle.setup.nodes)
            if could < (max(one.w, one.pw) or min(oracle.setup.w, oracle.n)):
                yield one, could
