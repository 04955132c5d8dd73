"""M1 to M4: who belongs to the cluster, who is up, and under which names nodes write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sadik.sim.checkers.oracle import ENDS, Oracle, Violation
from sadik.sim.history import Fault, FaultKind, Run, Suspicion

_REPLACED: Final[tuple[FaultKind, ...]] = ("wiped", "restored", "copied")
_FORGETFUL: Final[tuple[FaultKind, ...]] = ("power_cut", "sync_failed", "full", "eio", "flip", "torn")


def the_layout_is_agreed(oracle: Oracle) -> list[Violation]:
    """M1: within ``agree_within_ms`` of the last change all live nodes have one layout, and each partition
    has min(N, nodes) primaries on distinct nodes of it.
    """
    end = oracle.history.end
    if end is None or not end.nodes:
        return []
    found: list[str] = []
    layouts: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
    for node in end.nodes:
        layout = node.layout_digest, node.layout_version, tuple(sorted(node.members))
        layouts.setdefault(layout, []).append(node.node)
    if len(layouts) > 1:
        shown = "; ".join(
            f"{', '.join(nodes)}: {digest[:8]} of version {version}"
            for (digest, version, _), nodes in layouts.items()
        )
        found.append(f"nodes have different layouts: {shown}")
    if end.agreed_ms < 0:
        found.append("nodes never agreed on one layout")
    elif end.agreed_ms - end.changed_ms > oracle.setup.agree_within_ms:
        found.append(f"nodes agreed on a layout only after {end.agreed_ms - end.changed_ms:.0f} ms")
    members = end.nodes[0].members
    for place, primaries in end.partitions:
        count = min(oracle.setup.n, len(members))
        if len(primaries) != count or len(set(primaries)) != count or not set(primaries) <= set(members):
            found.append(
                f"partition {place.decode()} has the primaries {', '.join(primaries)}, not {count} nodes"
            )
    return [Violation("M1", text) for text in found]


def failures_are_told_from_health(oracle: Oracle) -> list[Violation]:
    """M2: nodes that no fault touches are taken for down at most ``false_suspicions_max`` times; a node that
    is down for longer than ``detect_within_ms`` is taken for down by everyone else who is well.

    How fast a slow node's share of the load falls is measured by benchmarks.
    """
    within_ms = oracle.setup.detect_within_ms
    if not within_ms:
        return []
    false = [one for one in oracle.history.suspicions if not _has_reason(oracle, one, within_ms)]
    found: list[Violation] = []
    if len(false) > oracle.setup.false_suspicions_max:
        shown = ", ".join(f"{one.node} by {one.by} at {one.start_ms:.0f}" for one in false[:5])
        text = f"{len(false)} times a node was taken for down and no fault touched it: {shown}"
        found.append(Violation("M2", text))
    for fault in oracle.history.faults:
        until_ms = fault.start_ms + within_ms
        if fault.until_ms <= until_ms or until_ms > oracle.end_ms:
            continue
        for node in fault.nodes:
            if _is_silent(oracle, fault, node, until_ms):
                found += [
                    Violation("M2", f"{node} was down from {fault.start_ms:.0f}, and {by} took it for up")
                    for by in oracle.setup.nodes
                    if by != node
                    and _is_well(oracle, by, fault.start_ms, until_ms)
                    and not _suspects(oracle, by, node, until_ms)
                ]
    return found


def _has_reason(oracle: Oracle, one: Suspicion, within_ms: float) -> bool:
    # Of two that dial each other one gives its link up for the other's: that takes no time.
    if one.end_ms == one.start_ms:
        return True
    return _is_touched(oracle, {one.by, one.node}, one.start_ms - within_ms, one.start_ms)


def _is_touched(oracle: Oracle, nodes: set[str], start_ms: float, end_ms: float) -> bool:
    """Whether a fault of these nodes lasts at any time between two. What was sent over a slow path may still
    be under way long after, and what comes later on its connection waits for it.
    """
    return any(
        nodes & {*fault.nodes, *fault.others}
        and fault.start_ms <= end_ms
        and (fault.kind == "slow" or fault.until_ms >= start_ms)
        for fault in oracle.history.faults
    )


def _is_silent(oracle: Oracle, fault: Fault, node: str, until_ms: float) -> bool:
    """Whether nothing comes from a node from the begin of its fault on. The node's runs tell: a crash may be
    planned for a later moment, and who is stopped may be killed, and started again, before it is to go on.
    """
    if fault.kind not in (*ENDS, "pause"):
        return False
    runs = [one for one in oracle.history.runs if one.node == node and one.start_ms <= until_ms]
    if fault.kind == "pause":
        return all(one.start_ms <= fault.start_ms for one in runs)
    return all(0 <= one.end_ms <= fault.start_ms for one in runs)


def _suspects(oracle: Oracle, by: str, node: str, at_ms: float) -> bool:
    return any(
        one.by == by
        and one.node == node
        and one.start_ms <= at_ms
        and (one.end_ms < 0 or one.end_ms >= at_ms)
        for one in oracle.history.suspicions
    )


def _is_well(oracle: Oracle, node: str, start_ms: float, end_ms: float) -> bool:
    """Up, and doing what it does, all the time."""
    runs = [one for one in oracle.history.runs if one.node == node]
    covered = not runs or any(
        one.start_ms <= start_ms and (one.end_ms < 0 or one.end_ms >= end_ms) for one in runs
    )
    return covered and not _is_touched(oracle, {node}, start_ms, end_ms)


def nobody_comes_back_older(oracle: Oracle) -> list[Violation]:
    """M3: a node that left is nobody's member again, and what a node knows of a member's incarnation never
    falls, unless its own disk, or the member's, was replaced by an older one or none, or its own may not
    have kept what it had learned: nobody waits for a sync of that, and gossip tells it again.
    """
    found: list[Violation] = []
    known: dict[tuple[str, str], tuple[float, int]] = {}
    replaced = [one for one in oracle.history.faults if one.kind in _REPLACED]
    forgotten = [one for one in oracle.history.faults if one.kind in _FORGETFUL]
    for seen in sorted(oracle.history.members, key=lambda one: one.at_ms):
        before = known.get((seen.by, seen.node))
        excused = before is not None and any(
            _between(fault, node, before[0], seen.at_ms)
            for fault, node in [
                *((one, seen.by) for one in (*replaced, *forgotten)),
                *((one, seen.node) for one in replaced),
            ]
        )
        if before is not None and seen.incarnation < before[1] and not excused:
            text = f"{seen.by} knew incarnation {before[1]} of {seen.node}, and later {seen.incarnation}"
            found.append(Violation("M3", text))
        known[seen.by, seen.node] = seen.at_ms, seen.incarnation
    for gone in oracle.history.removed:
        late_ms = gone.at_ms + oracle.setup.agree_within_ms
        for seen in oracle.history.members:
            if seen.node == gone.node != seen.by and seen.at_ms > late_ms and seen.state != "left":
                text = f"{gone.node} has left, and is {seen.state} for {seen.by} at {seen.at_ms:.0f}"
                found.append(Violation("M3", text))
        for node in [] if oracle.history.end is None else oracle.history.end.nodes:
            if node.node != gone.node and gone.node in node.members:
                found.append(
                    Violation("M3", f"{gone.node} left, and is in the layout of {node.node} at the end")
                )
    return found


def _between(fault: Fault, node: str, start_ms: float, end_ms: float) -> bool:
    return node in fault.nodes and fault.start_ms <= end_ms and fault.until_ms >= start_ms


def names_are_unique(oracle: Oracle) -> list[Violation]:
    """M4: no two runs write under one actor, and of two runs of one node at one time only one is a member."""
    found: list[Violation] = []
    actors: dict[int, Run] = {}
    for run in oracle.history.runs:
        for actor in dict.fromkeys(run.actors):
            other = actors.setdefault(actor, run)
            if other is not run:
                found.append(Violation("M4", f"actor {actor:#x} is of {_shown(other)} and of {_shown(run)}"))
    for one, other in _twins(oracle.history.runs):
        found.append(Violation("M4", f"{_shown(one)} and {_shown(other)} are members at one time"))
    return found


def _twins(runs: list[Run]) -> Iterator[tuple[Run, Run]]:
    members = sorted((run for run in runs if run.member), key=lambda run: (run.node, run.start_ms))
    for place, one in enumerate(members):
        for other in members[place + 1 :]:
            if other.node != one.node:
                break
            if one.end_ms < 0 or other.start_ms < one.end_ms:
                yield one, other


def _shown(run: Run) -> str:
    return f"the run of {run.node} from {run.start_ms:.0f}"
