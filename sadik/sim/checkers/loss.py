"""D2, D3 and T2: what is acknowledged stays, what is refused never was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import NamedTuple

from sadik.sim.checkers.oracle import KeyStory, Oracle, Violation, name
from sadik.sim.history import Operation


class _View(NamedTuple):
    """What somebody showed of a key once all was quiet; ``shown`` as a mask of its writers."""

    where: str
    shown: int
    at_ms: float
    operations: tuple[int, ...] = ()


class _Loss(NamedTuple):
    story: KeyStory
    write: Operation
    view: _View


def nothing_is_lost(oracle: Oracle) -> list[Violation]:
    """D2: at the end each acknowledged write is shown by every live primary and by every read, or one above
    it is, or it was deleted or has expired.

    Excused: what at least W nodes may have lost by faults of their disks or may have taken with them, as far
    as their durability allows (``Oracle.excused``). So in a run within the promised budget nothing is.
    """
    return [
        Violation(
            "D2",
            f"{name(loss.write)} was acknowledged and is lost: {loss.view.where} shows {_listing(loss)}",
            (loss.write.number, *loss.view.operations),
            loss.story.key,
        )
        for loss in _losses(oracle)
    ]


def no_tombstone_outlives_its_turn(oracle: Oracle) -> list[Violation]:
    """T2: a write sent after a delete had been asked for, and not covered by it, is not erased by it.

    These are losses of D2 again, with a delete that may have done it.
    """
    found: list[Violation] = []
    for story, write, view in _losses(oracle):
        bit = 1 << story.bit[write.number]
        for delete in story.some(story.deletes):
            above = story.below[story.bit[delete.number]] & bit
            if not above and delete.start_ms < write.start_ms and not view.shown:
                text = f"{name(write)} is lost from {view.where}, perhaps to the older {name(delete)}"
                found.append(Violation("T2", text, (write.number, delete.number), story.key))
                break
    return found


def verdicts_are_true(oracle: Oracle) -> list[Violation]:
    """D3: a write that was refused is never seen, by clients or in what nodes hold.

    That what was acknowledged is there is D2. Whether an outcome that nobody knows is called so cannot be
    judged: both answers would be true.
    """
    found: list[Violation] = []
    for story in oracle.stories.values():
        if not story.refused:
            continue
        for read in story.reads:
            for write in story.some(story.shown[read.number] & story.refused):
                text = f"{name(write)} was refused ({write.reason}), and {name(read)} shows it"
                found.append(Violation("D3", text, (write.number, read.number), story.key))
    for where, stored, _ in oracle.sets:
        story_of = oracle.story(stored.key)
        if story_of is None or not story_of.refused:
            continue
        dots = {one.dot for one in stored.values}
        shown = story_of.mask_of(stored)
        for write in story_of.some(story_of.refused):
            if shown >> story_of.bit[write.number] & 1 or not dots.isdisjoint(write.dots):
                text = f"{name(write)} was refused ({write.reason}), and {where} holds it"
                found.append(Violation("D3", text, (write.number,), stored.key))
    return found


def _losses(oracle: Oracle) -> Iterator[_Loss]:
    for story in oracle.stories.values():
        wanted = sum(
            1 << place
            for place, one in enumerate(story.writes)
            if one.outcome == "done" and one.value is not None and one.kind != "expire"
        )
        if not wanted:
            continue
        lost_before = 0
        for view in _views(oracle, story):
            lost = wanted & ~story.explained(view.shown, view.at_ms) & ~lost_before
            lost_before |= lost
            for write in story.some(lost):
                if not oracle.excused(write):
                    yield _Loss(story, write, view)


def _views(oracle: Oracle, story: KeyStory) -> Iterator[_View]:
    """What replicas hold at the end, all together where they never became equal, and what reads then show."""
    replicas = {
        node: story.mask_of(stored) for node, stored in oracle.replicas(story.key).items() if stored.readable
    }
    if oracle.settled:
        for node, shown in replicas.items():
            yield _View(f"{node} at the end", shown, oracle.end_ms)
    elif replicas:
        yield _View(f"not one of {', '.join(replicas)}", reduce(or_, replicas.values()), oracle.end_ms)
    for read in story.reads:
        if oracle.is_final(read) and not (read.newest_only and read.values):
            yield _View(name(read), story.shown[read.number], read.end_ms, (read.number,))


def _listing(loss: _Loss) -> str:
    shown = ", ".join(f"#{one.number}" for one in loss.story.some(loss.view.shown))
    return shown or "nothing"
