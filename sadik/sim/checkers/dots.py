"""D1 and D6: a dot names one event, and merging is a join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from sadik.kernels import versions
from sadik.sim.checkers.oracle import Oracle, Violation
from sadik.sim.checkers.quorum import LOSING
from sadik.sim.history import Dot, FaultKind

Merge = Callable[[bytes, bytes], bytes]

_LOSSES: Final[tuple[FaultKind, ...]] = (*LOSING, "power_cut", "sync_failed")


def dots_are_unique(oracle: Oracle) -> list[Violation]:
    """D1: no two writes of a key share a dot.

    Judged by the dots of acknowledgements, and by every stored set that was seen: there a dot must always
    stand for the same value.
    """
    known: dict[tuple[bytes, Dot], tuple[bytes | None, str, tuple[int, ...]]] = {}
    found: list[Violation] = []
    for key, dot, value, where, numbers in _dots(oracle):
        before = known.setdefault((key, dot), (value, where, numbers))
        if before[0] != value:
            text = f"the dot {dot} stands for {before[1]} and for {where}"
            found.append(Violation("D1", text, before[2] + numbers, key))
    return found


def _dots(oracle: Oracle) -> Iterator[tuple[bytes, Dot, bytes | None, str, tuple[int, ...]]]:
    """(key, dot, what it stands for or None for a delete, where, operations)."""
    for key, story in oracle.stories.items():
        for place, write in enumerate(story.writes):
            if write.kind == "expire":
                continue
            for dot in story.dots[place]:
                yield key, dot, write.value, f"#{write.number}", (write.number,)
    for where, stored, _ in oracle.sets:
        for one in stored.values:
            yield stored.key, one.dot, None if one.tombstone else one.value, f"a value held by {where}", ()


def merge_is_a_join(oracle: Oracle, merge: Merge = versions.merge) -> list[Violation]:
    """D6: in whatever order the sets of a key that were seen are merged, the result is the same, and merging
    it again changes nothing; a replica at the end has nothing less than what no disk has lost since,
    but for what has expired.

    The laws themselves are property tests of the kernel; this is them, on what a run has made.
    """
    by_key: dict[bytes, dict[bytes, str]] = {}
    for where, stored, _ in oracle.sets:
        if stored.encoded:
            by_key.setdefault(stored.key, {}).setdefault(stored.encoded, where)
    found: list[Violation] = []
    for key, sets in by_key.items():
        one = b""
        for encoded in sets:
            one = merge(one, encoded)
        other = b""
        for encoded in reversed(sets):
            other = merge(encoded, other)
        if one != other:
            text = f"the sets of {', '.join(sets.values())} merge to different sets in different orders"
            found.append(Violation("D6", text, (), key))
        for encoded, where in sets.items():
            if merge(one, encoded) != one or merge(encoded, one) != one:
                found.append(Violation("D6", f"the merge of all has not what {where} has", (), key))
        if not oracle.settled:
            continue
        kept = b""
        for encoded in _kept(oracle, key):
            kept = merge(kept, encoded)
        for node, stored in oracle.replicas(key).items():
            encoded = stored.encoded
            if encoded and merge(encoded, kept) != encoded and _live(oracle, encoded) != _live(oracle, kept):
                found.append(Violation("D6", f"{node} at the end has less than all that was seen", (), key))
    return found


def _kept(oracle: Oracle, key: bytes) -> Iterator[bytes]:
    """Sets of a key that were seen, but for those whose disk has lost something since: it may have been alone
    with a write that nobody acknowledged. What was acknowledged is D2's.
    """
    for stored in oracle.replicas(key).values():
        yield stored.encoded
    for recovery in oracle.history.recoveries:
        if not any(
            recovery.node in fault.nodes and (fault.kind in _LOSSES or fault.end_ms < 0)
            for fault in oracle.overlapping(recovery.at_ms, oracle.end_ms)
        ):
            yield from (one.encoded for one in recovery.sets if one.key == key and one.encoded)


def _live(oracle: Oracle, encoded: bytes) -> list[versions.Value]:
    """The values of a set that have not expired; what is merely known to be obsolete may be forgotten."""
    now_ms = oracle.end_ms + oracle.setup.skew_ms
    return [one for one in versions.decode(encoded)[1] if not 0 <= one.expires_at_ms <= now_ms]
