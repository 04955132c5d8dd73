"""T1 and T4: what is gone stays gone, and what has a time keeps it."""

from __future__ import annotations

from collections.abc import Iterator

from sadik.sim.checkers.oracle import KeyStory, Oracle, Violation, bits, name
from sadik.sim.history import Operation


def nothing_rises_again(oracle: Oracle) -> list[Violation]:
    """T1: once all is quiet, and from the collection of its tombstone on, what an acknowledged delete covered
    is neither read nor held.

    Before that a read from replicas that missed the delete may show it (Q2). Excused as D2 is, for the
    delete; keys whose expiry is set anew after the delete was sent may have the value under another dot.
    """
    found: list[Violation] = []
    for story in oracle.stories.values():
        deletes = [one for one in story.some(story.deletes & story.done) if not _rewritten_since(story, one)]
        if not deletes:
            continue
        collected = [one.at_ms for one in oracle.history.collected if one.key == story.key]
        for delete in deletes:
            covered = story.below[story.bit[delete.number]] & ~(1 << story.bit[delete.number])
            if not covered or oracle.excused(delete):
                continue
            late_ms = min((at for at in collected if at >= delete.end_ms), default=float("inf"))
            for where, shown, numbers in _sightings(oracle, story, late_ms, delete):
                for write in story.some(covered & shown):
                    text = f"{where} shows {name(write)}, which {name(delete)} had covered"
                    found.append(Violation("T1", text, (write.number, delete.number, *numbers), story.key))
    return found


def _rewritten_since(story: KeyStory, delete: Operation) -> bool:
    return story.rewritten and any(
        one.kind == "expire" and (one.outcome == "unknown" or one.end_ms > delete.start_ms)
        for one in story.some(story.done | ~story.refused & ((1 << len(story.writes)) - 1))
    )


def _sightings(
    oracle: Oracle, story: KeyStory, late_ms: float, delete: Operation
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    for read in story.reads:
        if (oracle.is_final(read) or read.start_ms >= late_ms) and read.start_ms > delete.end_ms:
            yield name(read), story.shown[read.number], (read.number,)
    if oracle.settled or late_ms <= oracle.end_ms:
        for node, stored in oracle.replicas(story.key).items():
            yield f"{node} at the end", story.mask_of(stored), ()


def expiry_keeps_its_time(oracle: Oracle) -> list[Violation]:
    """T4: a value has the expiry that was asked for, up to the skew of clocks, and always the same; it is not
    shown when that has passed by more than the skew. One that is gone before is lost (D2, Q1, G1).

    What has its expiry set anew is judged by what reads tell alone.
    """
    skew_ms = oracle.setup.skew_ms
    found: list[Violation] = []
    for story in oracle.stories.values():
        told: dict[int, tuple[int, Operation]] = {}
        for read in story.reads:
            for one in read.values:
                place = story.writer(one.value)
                if place is None:
                    continue
                write = story.writes[place]
                numbers = (read.number, write.number)
                # The request was on its way until the reading node looked at its clock.
                if one.expires_at_ms >= 0 and read.start_ms > one.expires_at_ms + skew_ms:
                    over_ms = read.start_ms - one.expires_at_ms
                    text = f"{name(read)} shows {name(write)}, which was to expire {over_ms:.0f} ms before"
                    found.append(Violation("T4", text, numbers, story.key))
                if story.rewritten or read.newest_only:
                    continue
                wrong = _wrong_expiry(write, one.expires_at_ms, skew_ms)
                if wrong:
                    text = f"{name(read)} shows {name(write)} {wrong}"
                    found.append(Violation("T4", text, numbers, story.key))
                before = told.setdefault(place, (one.expires_at_ms, read))
                if before[0] != one.expires_at_ms and write.attempts == 1:
                    was = f"{before[0]} in #{before[1].number}"
                    text = f"the expiry of {name(write)} is {was}, {one.expires_at_ms} in #{read.number}"
                    found.append(Violation("T4", text, (*numbers, before[1].number), story.key))
            if not story.rewritten:
                found += _too_late(story, read, skew_ms)
    return found


def _too_late(story: KeyStory, read: Operation, skew_ms: float) -> Iterator[Violation]:
    """Where no expiry is told, by what was asked for."""
    for place in bits(story.shown[read.number]):
        write = story.writes[place]
        if write.ttl_ms < 0 or write.outcome != "done":
            continue
        over_ms = read.start_ms - (write.end_ms + write.ttl_ms)
        if over_ms > 2 * skew_ms:
            text = f"{name(read)} shows {name(write)}, whose time was over {over_ms:.0f} ms before"
            yield Violation("T4", text, (read.number, write.number), story.key)


def _wrong_expiry(write: Operation, told_ms: int, skew_ms: float) -> str | None:
    if write.ttl_ms < 0:
        return None if told_ms < 0 else "with an expiry, and none was asked for"
    if told_ms < 0:
        return "without an expiry"
    early_ms = write.start_ms + write.ttl_ms - skew_ms - 1 - told_ms
    if early_ms > 0:
        return f"to expire {early_ms:.0f} ms earlier than asked for"
    if write.outcome == "done":
        late_ms = told_ms - (write.end_ms + write.ttl_ms + skew_ms + 1)
        if late_ms > 0:
            return f"to expire {late_ms:.0f} ms later than asked for"
    return None
