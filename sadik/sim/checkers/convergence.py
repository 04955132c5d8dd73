"""C1, C2 and C3: replicas become equal, what is left of a cluster works, and rest is rest."""

from __future__ import annotations

from sadik.sim.checkers.oracle import Oracle, Violation, missed, name, names
from sadik.sim.history import Operation, Phase, StoredSet


def replicas_become_equal(oracle: Oracle) -> list[Violation]:
    """C1: within ``converge_within_ms`` of the end of the last fault all live primaries of each key hold the
    same dots, values, tombstones and expiries, and their Merkle roots of a place are equal.

    What a node merely knows to be obsolete may differ, as one may have forgotten it; and what has expired,
    which each takes out in its own time (``StoredSet.lasting``).
    """
    end = oracle.history.end
    if end is None:
        return []
    found: list[Violation] = []
    within_ms = oracle.setup.converge_within_ms
    if end.equal_ms < 0:
        found.append(
            Violation("C1", f"replicas were still different {oracle.end_ms - end.healed_ms:.0f} ms on")
        )
    elif end.equal_ms - end.healed_ms > within_ms:
        text = (
            f"replicas took {end.equal_ms - end.healed_ms:.0f} ms to become equal, {within_ms:.0f} were given"
        )
        found.append(Violation("C1", text))
    for key in oracle.owners:
        held = {node: _content(oracle, stored) for node, stored in oracle.replicas(key).items()}
        if len(set(held.values())) > 1:
            text = "primaries hold different sets: " + "; ".join(
                f"{node} {_shown(content)}" for node, content in held.items()
            )
            found.append(Violation("C1", text, (), key))
    roots: dict[str, dict[int, str]] = {}
    for one in end.nodes:
        for root in one.roots:
            roots.setdefault(root.place, {}).setdefault(root.kept, one.node)
    for place, nodes in roots.items():
        if len(nodes) > 1:
            text = f"the Merkle roots of {place} differ between {', '.join(nodes.values())}"
            found.append(Violation("C1", text))
    return found


def _content(oracle: Oracle, stored: StoredSet) -> tuple[object, ...]:
    return (stored.readable, *stored.lasting(oracle.end_ms + oracle.setup.skew_ms))


def _shown(content: tuple[object, ...]) -> str:
    return "unreadable" if not content[0] else f"{len(content) - 1} values"


def the_core_works(oracle: Oracle) -> list[Violation]:
    """C2: when all nodes but a core are down for ever, which has a quorum for each key and is sound, reads
    and writes of each key that is asked for succeed within ``answer_within_ms``, and go on to; what had been
    written there with acknowledgements that reach the core is shown.
    """
    found: list[Violation] = []
    for phase in oracle.history.phases:
        if phase.name == "core":
            found += _core(oracle, phase)
    return found


def _core(oracle: Oracle, phase: Phase) -> list[Violation]:
    found: list[Violation] = []
    limit_ms = phase.start_ms + oracle.setup.answer_within_ms
    until_ms = float("inf") if phase.end_ms < 0 else phase.end_ms
    asked = [one for one in oracle.history.operations if phase.start_ms <= one.start_ms < until_ms]
    if not asked:
        found.append(Violation("C2", "nobody asked the core for anything"))
    last: dict[tuple[bytes, bool], Operation] = {}
    for one in asked:
        if one.node in phase.nodes:
            last[one.key, one.writes] = one
            if one.start_ms > limit_ms and one.outcome != "done":
                text = f"{name(one)} was {one.outcome} by the core {one.start_ms - phase.start_ms:.0f} ms on"
                found.append(Violation("C2", f"{text}: {one.reason}", (one.number,), one.key))
    for (key, writes), one in last.items():
        if one.outcome != "done" and one.start_ms <= limit_ms:
            what = "write" if writes else "read"
            text = f"no {what} was seen to succeed in time; the last was {name(one)}: {one.reason}"
            found.append(Violation("C2", text, (one.number,), key))
        elif one.outcome == "done" and not writes:
            found += _core_shows(oracle, phase, one)
    return found


def _core_shows(oracle: Oracle, phase: Phase, read: Operation) -> list[Violation]:
    story = oracle.stories[read.key]
    wanted = 0
    for place, write in enumerate(story.writes):
        told = write.primaries + write.fallbacks
        reaches = write.start_ms >= phase.start_ms or any(node in phase.nodes for node in told)
        keeps = write.outcome == "done" and write.value is not None and write.kind != "expire"
        if keeps and reaches and write.end_ms < read.start_ms and not oracle.excused(write):
            wanted |= 1 << place
    lost = story.some(missed(story, read, wanted))
    if not lost:
        return []
    numbers = (read.number, *(one.number for one in lost))
    return [Violation("C2", f"{name(read)} of the core does not show {names(lost)}", numbers, read.key)]


def rest_is_rest(oracle: Oracle) -> list[Violation]:
    """C3: once replicas are equal exchange sends nothing, and a Merkle root that was kept along with the
    writes is the one that a walk through the data gives.
    """
    found: list[Violation] = []
    for node in [] if oracle.history.end is None else oracle.history.end.nodes:
        if node.repairs:
            text = f"{node.node} repaired {node.repairs} sets after all replicas were equal"
            found.append(Violation("C3", text))
        for root in node.roots:
            if root.rebuilt not in (-1, root.kept):
                text = (
                    f"{node.node}'s Merkle root of {root.place} is {root.kept:#x}, rebuilt {root.rebuilt:#x}"
                )
                found.append(Violation("C3", text))
    return found
