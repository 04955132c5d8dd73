"""Bugs of quorums, forwards and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sadik.errors import QuorumMissed
from sadik.node.coordinator import core, under_way
from sadik.node.coordinator.outcomes import Answers
from sadik.node.coordinator.plain import PlainRequests
from sadik.node.coordinator.quorum import Needs
from sadik.node.coordinator.turn import Part
from sadik.node.operations import Operations
from tests.mutants.mutant import mutant, replaced


@mutant("Z7", caught_by=("D4", "D1"), profiles=("fallbacks",))
def a_lost_forward_is_coordinated_again() -> Iterator[None]:
    """riak_kv#1046. A forward whose answer does not come is coordinated a second time, by another node: one
    write has two dots, and is its own sibling."""
    forward, give_up = PlainRequests._forward, PlainRequests._give_up

    def remember(self: PlainRequests, operations: Operations, chosen: Any, *rest: Any) -> None:
        known: Any = self
        part = operations.pick(chosen)
        part.data = bytes(part.data)
        before = set(self._forwards)
        forward(self, operations, chosen, *rest)
        known.parts = getattr(known, "parts", {}) | dict.fromkeys(set(self._forwards) - before, part)

    def repeat(self: PlainRequests, request: int, reason: str) -> None:
        known: Any = self
        part = known.parts.pop(request)
        lost = self._forwards[request]

        def done(answers: Answers, runs: Any) -> None:
            parts = answers.status, answers.values, answers.value_start, answers.value_length
            lost.turn.fill(lost.chosen, Part(*parts, answers.errors))

        if len(part.spans) == 1 and not self._core.view.alone:
            del self._forwards[request]
            now_ns = self._core.clock.monotonic_ns()
            self._run(part, [part.count], done, None, now_ns, self._core.deadline(None))
        else:
            give_up(self, request, reason)

    with replaced(PlainRequests, "_forward", remember), replaced(PlainRequests, "_give_up", repeat):
        yield


@mutant("Z22", caught_by=("D3",), profiles=("network", "three"), fast=True)
def a_timeout_is_called_a_failure() -> Iterator[None]:
    """Aerospike's in-doubt writes. A write that some replicas may have, and W did not confirm in time, is
    reported as one that was not done."""

    def definite(text: str, *, maybe_applied: bool, **named: Any) -> QuorumMissed:
        return QuorumMissed(text.replace("may have been applied", "nothing was done"), **named)

    with replaced(under_way, "QuorumMissed", definite):
        yield


@mutant("Q1", caught_by=("Q1", "S5"), profiles=("strict",))
def a_read_is_answered_too_early() -> Iterator[None]:
    """The first answer to a read is taken for the answer: R is not waited for."""
    with _needs(lambda need: need._replace(r=1)):
        yield


@mutant("Q1", "D2", caught_by=("Q1", "D2", "S5"), profiles=("strict",), fast=True)
def a_write_is_acknowledged_too_early() -> Iterator[None]:
    """The coordinator's own replica is enough: the others' are counted when their frames leave."""
    with _needs(lambda need: need._replace(w=1)):
        yield


def _needs(change: Any) -> Any:
    needs_of = core.needs_of

    def changed(*arguments: Any) -> Needs:
        return change(needs_of(*arguments))

    return replaced(core, "needs_of", changed)


MUTANTS = [value for value in globals().values() if type(value).__name__ == "Mutant"]
