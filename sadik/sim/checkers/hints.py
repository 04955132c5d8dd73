"""H1: no hint goes without an account of it."""

from __future__ import annotations

from sadik.sim.checkers.oracle import ENDS, Oracle, Violation
from sadik.sim.history import Fault, Hints, NodeEnd


def hints_are_accounted_for(oracle: Oracle) -> list[Violation]:
    """H1: of the hints of each node, as many were stored as were delivered, expired, were dropped or lie
    there. At the end none lies there, unless for a node that never came back; none expired in a run shorter
    than a hint's life; none was dropped unless a disk was damaged or full, or a node left.

    That they reached their right owners is C1 and D2; that they reached nobody else is judged here: with a
    layout that stays a node holds keys of its own alone.
    """
    end = oracle.history.end
    found = [] if any(fault.kind == "layout" for fault in oracle.history.faults) else _strays(oracle)
    for node in [] if end is None else end.nodes:
        if node.hints is not None:
            found += [Violation("H1", f"{node.node}: {text}") for text in _wrong(oracle, node, node.hints)]
    return found


def _strays(oracle: Oracle) -> list[Violation]:
    return [
        Violation("H1", f"{node} holds {key!r}, of which it is no primary", (), key)
        for node, sets in oracle.held.items()
        for key in sets
        if node not in oracle.owners.get(key, (node,))
    ]


def _wrong(oracle: Oracle, node: NodeEnd, hints: Hints) -> list[str]:
    found: list[str] = []
    if min(hints) < 0 or hints.stored != hints.delivered + hints.expired + hints.dropped + hints.present:
        found.append(f"the accounts of hints do not add up: {hints}")
    if hints.present and not any(fault.kind in ENDS and fault.end_ms < 0 for fault in oracle.history.faults):
        found.append(f"{hints.present} hints are not delivered though all nodes are back")
    if hints.expired and not _may_expire(oracle):
        found.append(f"{hints.expired} hints expired before their time")
    if (
        hints.dropped
        and not oracle.history.removed
        and not any(_damages(one, node.node) for one in oracle.history.faults)
    ):
        found.append(f"{hints.dropped} hints were dropped, and the disk was never damaged or full")
    return found


def _may_expire(oracle: Oracle) -> bool:
    starts = [one.start_ms for one in oracle.history.operations]
    lasted_ms = oracle.end_ms - min(starts, default=oracle.end_ms)
    return lasted_ms + 2 * oracle.setup.skew_ms >= oracle.setup.hint_life_ms


def _damages(fault: Fault, node: str) -> bool:
    # On a full disk hints go, and their accounts may not be written before the node dies.
    kinds = ("full", "flip", "torn", "eio", "sync_failed", "power_cut", "restored", "copied")
    return fault.kind == "layout" or (fault.kind in kinds and node in fault.nodes)
