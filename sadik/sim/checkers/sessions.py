"""G1 to G4: what the Python client's sessions promise, key by key.

Each is judged twice. By what was seen: what a session has written or read is there, or something above it, or
it says that it cannot tell. By contexts: what answers show, and what writes hand back, reaches as far as what
the session had. A write that left siblings gave no context, and one of unknown outcome gave none either:
nothing is promised of these.

Where there is one node alone, contexts may reach less far and nothing is missing: then only what was seen
counts.

Source: Terry et al., "Session guarantees for weakly consistent replicated data" (1994).
"""

from __future__ import annotations

from collections.abc import Iterator

from sadik.client.contexts import covers, seen_by
from sadik.sim.checkers.oracle import KeyStory, Oracle, Violation, bits, name
from sadik.sim.history import Operation


class _Floor:
    """What one session has of one key: what it wrote and saw, as masks, and whose contexts it has last."""

    def __init__(self) -> None:
        self.written = 0
        self.seen = 0
        self.write: Operation | None = None
        self.read: Operation | None = None
        self.after_ms = 0.0


def sessions_keep_their_promises(oracle: Oracle) -> list[Violation]:
    """G1 read your writes, G2 monotonic reads, G3 monotonic writes, G4 writes follow reads."""
    sessions = {one.session for one in oracle.history.sessions}
    if not sessions:
        return []
    alone = len(oracle.setup.nodes) < 2
    floors: dict[tuple[int, bytes], _Floor] = {}
    found: list[Violation] = []
    for one in sorted(oracle.history.operations, key=lambda one: (one.start_ms, one.number)):
        if one.session not in sessions:
            continue
        story = oracle.stories[one.key]
        floor = floors.setdefault((one.session, one.key), _Floor())
        if floor.after_ms <= one.start_ms:
            judge = _judge_write if one.writes else _judge_read
            found += [
                Violation(invariant, text, tuple(numbers), one.key)
                for invariant, text, *numbers in judge(story, floor, one, alone)
            ]
        _advance(story, floor, one)
    return found


def _advance(story: KeyStory, floor: _Floor, one: Operation) -> None:
    floor.after_ms = max(floor.after_ms, one.end_ms)
    if one.outcome != "done" or one.newest_only:
        return
    if not one.writes:
        floor.seen |= story.shown[one.number]
        floor.read = one
    elif one.context:
        if one.value is not None:
            floor.written |= 1 << story.bit[one.number]
        floor.write = one


def _judge_read(
    story: KeyStory, floor: _Floor, read: Operation, alone: bool
) -> Iterator[tuple[str, str, int, int]]:
    if read.outcome != "done" or read.newest_only:
        return
    missing = ~story.explained(story.shown[read.number], read.end_ms)
    for write in story.some(floor.written & missing):
        yield "G1", f"{name(read)} does not show {name(write)} of its session", read.number, write.number
    for write in story.some(floor.seen & missing & ~floor.written):
        text = f"{name(read)} does not show {name(write)}, which its session has read before"
        yield "G2", text, read.number, write.number
    if alone:
        return
    for invariant, before in (("G1", floor.write), ("G2", floor.read)):
        if before is not None and not covers(read.context, seen_by(before.context)):
            text = f"the context of {name(read)} falls short of that of {name(before)}"
            yield invariant, text, read.number, before.number


def _covered(story: KeyStory, some: int, write: Operation) -> int:
    """Of some writes those whose events the context handed back names, though the answer that gave it may not
    have shown them: a delete came between."""
    held = seen_by(write.context_given)
    return sum(
        1 << place
        for place in bits(some)
        if story.dots[place] and all(held.get(actor, 0) >= stamp for actor, stamp in story.dots[place])
    )


def _judge_write(
    story: KeyStory, floor: _Floor, write: Operation, alone: bool
) -> Iterator[tuple[str, str, int, int]]:
    # The caller's own choice of a context is not the session's promise.
    if write.context_of >= 0 or write.blind or write.outcome == "refused":
        return
    below = story.maybe_below[story.bit[write.number]] | _covered(story, floor.written | floor.seen, write)
    for other in story.some(floor.written & ~below):
        text = f"{name(write)} does not replace {name(other)}, which its session wrote before"
        yield "G3", text, write.number, other.number
    for other in story.some(floor.seen & ~below & ~floor.written):
        text = f"{name(write)} does not replace {name(other)}, which its session had read"
        yield "G4", text, write.number, other.number
    if alone:
        return
    for invariant, before in (("G3", floor.write), ("G4", floor.read)):
        if before is not None and not covers(write.context_given, seen_by(before.context)):
            text = f"{name(write)} hands back less than {name(before)} gave"
            yield invariant, text, write.number, before.number
