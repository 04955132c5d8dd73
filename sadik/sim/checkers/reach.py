"""Which nodes could have answered an operation, by the timeline of faults: an upper bound.

A node could not if it was down, or out of reach, from before the operation was sent until after it was
answered. A fault may be planned to end later than its node is started again, by the end of another fault, and
a crash to come at some later moment: runs tell, where they are known. Requests make one hop to a coordinator,
and from there one to each replica.
"""

from __future__ import annotations

from collections.abc import Sequence

from sadik.sim.checkers.oracle import ENDS, Oracle
from sadik.sim.history import Fault, FaultKind, Operation


class Reach:
    """Who could take part in one operation."""

    def __init__(self, oracle: Oracle, operation: Operation) -> None:
        covering = [
            fault
            for fault in oracle.history.faults
            if fault.start_ms < operation.start_ms and fault.until_ms > operation.end_ms
        ]
        self.covering = covering
        self._runs = oracle.history.runs
        self._start_ms, self._end_ms = operation.start_ms, operation.end_ms
        self.down = {
            node
            for fault in covering
            if fault.kind in (*ENDS, "pause")
            for node in fault.nodes
            if self._suffers(fault, node)
        }
        self._cut = {
            (one, other)
            for fault in covering
            if fault.kind == "split"
            for one in fault.nodes
            for other in fault.others
        }
        self._asked = operation.node

    def linked(self, one: str, other: str) -> bool:
        """Whether a question and its answer could pass."""
        return one == other or not ((one, other) in self._cut or (other, one) in self._cut)

    def most(self, nodes: Sequence[str], all_nodes: Sequence[str]) -> int:
        """How many of ``nodes`` any one coordinator could hear from."""
        live = [node for node in all_nodes if node not in self.down]
        coordinators = [node for node in live if self.linked(self._asked, node)]
        return max(
            (sum(node not in self.down and self.linked(one, node) for node in nodes) for one in coordinators),
            default=0,
        )

    def failing(self, kind: FaultKind, *details: str) -> set[str]:
        """Nodes that suffered a fault with one of ``details`` all the time."""
        return {
            node
            for fault in self.covering
            if fault.kind == kind and fault.detail in details
            for node in fault.nodes
            if self._suffers(fault, node)
        }

    def _suffers(self, fault: Fault, node: str) -> bool:
        """Whether a node still did when the operation was over."""
        for run in self._runs:
            if run.node != node or run.start_ms > self._end_ms:
                continue
            began_anew = run.start_ms > fault.start_ms and fault.kind != "full"
            died_later = fault.kind in ENDS and run.end_ms > self._start_ms
            if began_anew or died_later:
                return False
        return True
