"""D4 and D5: siblings are concurrent, and values are real."""

from __future__ import annotations

from sadik.sim.checkers.oracle import Oracle, Violation, name, names, strange


def siblings_are_exact(oracle: Oracle) -> list[Violation]:
    """D4: no read and no stored set shows a value beside one that is above it, or one write twice.

    So there are never more siblings than concurrent writes. That all of these are there in the end is D2.
    Writes that were sent more than once, and keys whose expiry was set anew, may have one value under
    several dots, and are left out.
    """
    found: list[Violation] = []
    for story in oracle.stories.values():
        for read in story.reads:
            obsolete = story.obsolete(story.shown[read.number])
            if obsolete:
                found.append(
                    Violation(
                        "D4",
                        f"{name(read)} shows {names(story.some(obsolete))} beside what replaced it",
                        (read.number, *(one.number for one in story.some(obsolete))),
                        story.key,
                    )
                )
            if len(read.values) > 1:
                found += _twice(oracle, story.key, [one.value for one in read.values], name(read))
    for where, stored, _ in oracle.sets:
        story_of = oracle.story(stored.key)
        if story_of is None or len(stored.values) < 2:
            continue
        obsolete = story_of.obsolete(story_of.mask_of(stored))
        if obsolete:
            text = f"{where} holds {names(story_of.some(obsolete))} beside what replaced it"
            numbers = tuple(one.number for one in story_of.some(obsolete))
            found.append(Violation("D4", text, numbers, stored.key))
        found += _twice(oracle, stored.key, [one.value for one in stored.values if not one.tombstone], where)
    return found


def _twice(oracle: Oracle, key: bytes, values: list[bytes], where: str) -> list[Violation]:
    story = oracle.story(key)
    if story is None or story.rewritten or len(set(values)) == len(values):
        return []
    found: list[Violation] = []
    for value in dict.fromkeys(values):
        place = story.writer(value)
        if place is None or values.count(value) < 2 or story.writes[place].attempts > 1:
            continue
        write = story.writes[place]
        found.append(Violation("D4", f"{where} shows {name(write)} twice", (write.number,), key))
    return found


def nothing_is_made_up(oracle: Oracle) -> list[Violation]:
    """D5: every value that a read shows, or a node holds, was written to that key before, and is whole."""
    found: list[Violation] = []
    for story in oracle.stories.values():
        for read in story.reads:
            for one in read.values:
                wrong = strange(story, story.key, one.value, read.end_ms)
                if wrong:
                    text = f"{name(read)} shows a value that {wrong}"
                    found.append(Violation("D5", text, (read.number,), story.key))
    for where, stored, at_ms in oracle.sets:
        for kept in stored.values:
            wrong = (
                None if kept.tombstone else strange(oracle.story(stored.key), stored.key, kept.value, at_ms)
            )
            if wrong:
                found.append(Violation("D5", f"{where} holds a value that {wrong}", (), stored.key))
    return found
