"""S1 to S3: what a node still has when it opens its disk again."""

from __future__ import annotations

from collections.abc import Iterator

from sadik.sim.checkers.oracle import KeyStory, Oracle, Violation, name, recovered, strange
from sadik.sim.history import Operation, Recovery, StoredSet


def acknowledged_is_durable(oracle: Oracle) -> list[Violation]:
    """S1: after a crash or a power cut a node has all that it acknowledged, as its mode promises: in
    ``always`` everything, in ``interval`` all but the acknowledgements of the last interval and one stalled
    sync, in ``never`` all unless the power was cut. ``memory`` promises nothing.

    Judged where the recovery was recorded, by the primaries that acknowledgements name and the dots of their
    writes. What the cluster makes of it as a whole is D2.
    """
    found: list[Violation] = []
    for recovery in oracle.history.recoveries:
        if recovery.cause not in ("crash", "power_cut", "sync_failed") or oracle.setup.durability == "memory":
            continue
        kept_ms = recovery.since_ms
        if recovery.cause != "crash":
            kept_ms = oracle.synced_before(recovery.since_ms)
        held = {stored.key: stored for stored in recovery.sets}
        for story, write in _promised(oracle, recovery, kept_ms):
            if not _has(story, held.get(story.key), write, recovery):
                text = f"{recovered(recovery)} has not {name(write)}, which it acknowledged before"
                found.append(Violation("S1", text, (write.number,), story.key))
    return found


def _promised(oracle: Oracle, recovery: Recovery, kept_ms: float) -> Iterator[tuple[KeyStory, Operation]]:
    """Writes that a node must still have."""
    # What an earlier end may have taken is not there to be lost, nor is what was replaced or rots.
    since_ms = 0.0
    for fault in oracle.history.faults:
        if recovery.node in fault.nodes and fault.start_ms <= recovery.at_ms:
            if fault.kind in ("wiped", "restored", "copied"):
                since_ms = max(since_ms, fault.start_ms)
            elif fault.kind in ("flip", "torn"):
                return
    earlier = [
        (oracle.synced_before(one.since_ms), one.since_ms)
        for one in oracle.history.recoveries
        if one.node == recovery.node and one.at_ms < recovery.at_ms and one.cause != "crash"
    ]
    collected = {one.key for one in oracle.history.collected if one.at_ms <= recovery.at_ms}
    for story in oracle.stories.values():
        if story.key in collected:
            continue
        for place in range(len(story.writes)):
            write = story.writes[place]
            acked = write.outcome == "done" and recovery.node in write.primaries and write.end_ms <= kept_ms
            if not acked or write.start_ms < since_ms or not story.dots[place] or write.kind == "expire":
                continue
            if not any(synced < write.end_ms <= end for synced, end in earlier):
                yield story, write


def _has(story: KeyStory, stored: StoredSet | None, write: Operation, recovery: Recovery) -> bool:
    if stored is None:
        return bool(story.gone(recovery.at_ms) >> story.bit[write.number] & 1)
    if not stored.readable:
        return False
    entries = dict(stored.entries)
    if any(entries.get(actor, 0) >= stamp for actor, stamp in story.dots[story.bit[write.number]]):
        return True
    shown = story.explained(story.mask_of(stored), recovery.at_ms)
    return bool(shown >> story.bit[write.number] & 1)


def recovery_is_legal(oracle: Oracle) -> list[Violation]:
    """S2: what a node has after opening is keys with names, each once, with values that were written there.

    That every prefix, torn end and flipped bit of a segment opens so is tested at the engine.
    """
    found: list[Violation] = []
    for recovery in oracle.history.recoveries:
        where = recovered(recovery)
        known: set[bytes] = set()
        for stored in recovery.sets:
            if not stored.key:
                found.append(Violation("S2", f"{where} has a record with an empty key"))
            if stored.key in known:
                found.append(Violation("S2", f"{where} has a key twice", (), stored.key))
            known.add(stored.key)
            for one in stored.values:
                story = oracle.story(stored.key)
                wrong = None if one.tombstone else strange(story, stored.key, one.value, recovery.at_ms)
                if wrong:
                    found.append(Violation("S2", f"{where} has a value that {wrong}", (), stored.key))
    return found


def derived_files_are_not_trusted(oracle: Oracle) -> list[Violation]:
    """S3: with any file damaged or gone that can be made anew from others, a node has after opening exactly
    what it had before.
    """
    found: list[Violation] = []
    for recovery in oracle.history.recoveries:
        if recovery.cause != "derived" or recovery.before is None:
            continue
        before = {one.key: (one.readable, one.entries, one.values) for one in recovery.before}
        after = {one.key: (one.readable, one.entries, one.values) for one in recovery.sets}
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                text = f"{recovered(recovery)} has something else than before"
                found.append(Violation("S3", text, (), key))
    return found
