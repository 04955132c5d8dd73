"""What a recorded history must show: one small function for each promise, none of which knows the cluster.

Every checker takes an ``Oracle`` (``Oracle(history)``: the history, and the order of writes as clients know
it) and gives what it finds wrong. ``judge`` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sadik.sim.checkers.bounds import limits_hold
from sadik.sim.checkers.convergence import replicas_become_equal, rest_is_rest, the_core_works
from sadik.sim.checkers.deletion import expiry_keeps_its_time, nothing_rises_again
from sadik.sim.checkers.disks import (
    a_full_disk_refuses,
    errors_are_not_absence,
    no_acknowledgement_after_a_failed_sync,
    rot_is_not_served,
)
from sadik.sim.checkers.dots import dots_are_unique, merge_is_a_join
from sadik.sim.checkers.durability import (
    acknowledged_is_durable,
    derived_files_are_not_trusted,
    recovery_is_legal,
)
from sadik.sim.checkers.hints import hints_are_accounted_for
from sadik.sim.checkers.loss import no_tombstone_outlives_its_turn, nothing_is_lost, verdicts_are_true
from sadik.sim.checkers.membership import (
    failures_are_told_from_health,
    names_are_unique,
    nobody_comes_back_older,
    the_layout_is_agreed,
)
from sadik.sim.checkers.oracle import Oracle, Violation
from sadik.sim.checkers.quorum import (
    Staleness,
    fallbacks_do_not_count_as_primaries,
    staleness,
    strict_quorums_show_the_last_write,
)
from sadik.sim.checkers.sessions import sessions_keep_their_promises
from sadik.sim.checkers.siblings import nothing_is_made_up, siblings_are_exact
from sadik.sim.history import History

__all__ = ["CHECKERS", "Oracle", "Staleness", "Violation", "examine", "judge", "staleness"]

Checker = Callable[[Oracle], list[Violation]]

CHECKERS: Final[dict[str, Checker]] = {
    "D1": dots_are_unique,
    "D2": nothing_is_lost,
    "D3": verdicts_are_true,
    "D4": siblings_are_exact,
    "D5": nothing_is_made_up,
    "D6": merge_is_a_join,
    "C1": replicas_become_equal,
    "C2": the_core_works,
    "C3": rest_is_rest,
    "Q1": strict_quorums_show_the_last_write,
    "Q3": fallbacks_do_not_count_as_primaries,
    "G1-G4": sessions_keep_their_promises,
    "H1": hints_are_accounted_for,
    "M1": the_layout_is_agreed,
    "M2": failures_are_told_from_health,
    "M3": nobody_comes_back_older,
    "M4": names_are_unique,
    "S1": acknowledged_is_durable,
    "S2": recovery_is_legal,
    "S3": derived_files_are_not_trusted,
    "S4": rot_is_not_served,
    "S5": errors_are_not_absence,
    "S6": no_acknowledgement_after_a_failed_sync,
    "S7": a_full_disk_refuses,
    "T1": nothing_rises_again,
    "T2": no_tombstone_outlives_its_turn,
    "T4": expiry_keeps_its_time,
    "L1": limits_hold,
}
"""Q2 is not a matter of one history: ``staleness`` counts, and a campaign judges."""


def judge(history: History) -> list[Violation]:
    """Everything that is wrong with a history, in the order of ``CHECKERS``."""
    return examine(Oracle(history))


def examine(oracle: Oracle) -> list[Violation]:
    """The same, for whoever has more to ask."""
    return [violation for checker in CHECKERS.values() for violation in checker(oracle)]
