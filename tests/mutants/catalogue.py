"""All mutants, and the bugs that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.mutants import causality, coordination, disks, members, repair
from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    *causality.MUTANTS,
    *coordination.MUTANTS,
    *disks.MUTANTS,
    *repair.MUTANTS,
    *members.MUTANTS,
)

ROWS: Final = tuple(f"Z{number}" for number in range(1, 27))
"""Historic bugs, as the list of them numbers them (``docs/simulation.md``)."""

WITHOUT: Final[dict[str, str]] = {
    "Z6": "riak_kv#1754, a PUT forwarded twice because nodes disagree on the ring. Not yet: layouts do not "
    "change while clients work, so who forwards sends to a primary, which coordinates. That a forward by "
    "another layout is refused is tested in tests/node.",
    "Z8": "riak_kv#1850, a delete not forwarded during a transfer of ownership. Not yet: partitions do not "
    "move, a layout change that would move data is refused.",
    "Z12": "bitcask#82, a partial merge that drops a tombstone. Not in a run, which is shorter than the days "
    "after which a key is removed from an engine: tests/storage/test_log_history.py has it.",
    "Z17": "Scylla#20558, hints to a node that is being decommissioned. Not yet: a node that holds data "
    "cannot leave in good order.",
    "Z18": "Scylla#4122, a hint file read from its middle without its dictionary. Does not apply: a hint is "
    "a record with all that it needs, found by its own digest.",
    "Z25": "Valkey CVE-2026-21863, a packet whose length passes its buffer. Not for the simulator, in which "
    "nodes send what nodes send: tests/kernels and tests/comms feed decoders and links what no node would.",
}
"""Why a row has no mutant."""


def by_name(name: str) -> Mutant:
    """The mutant of this name.

    Raises:
        KeyError: There is none.
    """
    return {one.name: one for one in MUTANTS}[name]


def chosen(words: Sequence[str]) -> list[Mutant]:
    """Mutants by their names or rows, in the order of the catalogue; all for no words.

    Raises:
        KeyError: A word is neither.
    """
    for word in words:
        if not any(word in (one.name, *one.rows) for one in MUTANTS):
            raise KeyError(word)
    return [one for one in MUTANTS if not words or {one.name, *one.rows} & set(words)]
