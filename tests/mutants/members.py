"""Bugs of membership."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sadik.members.own_record import OwnRecord
from sadik.members.state import Member, MemberTable
from tests.mutants.mutant import mutant, replaced


@mutant("Z26", caught_by=("M3",), profiles=("crashes",), fast=True)
def older_records_are_believed() -> Iterator[None]:
    """A stale ring. Who was away tells what it knew of others then, and those who hear it take it over: a
    member's incarnation that is over comes back."""
    begin, join = OwnRecord.__init__, MemberTable._join

    def know_oneself(self: OwnRecord, facts: Any, table: Any, *rest: Any) -> None:
        table.me = facts.node
        begin(self, facts, table, *rest)

    def take(self: Any, records: Iterable[Member]) -> bool:
        told = list(records)
        changed = join(self, told)
        for record in told:
            if record.node != getattr(self, "me", record.node) and self._records[record.node] != record:
                self._records[record.node] = record
                self._export = self._digest = b""
                changed = True
        return changed

    with replaced(OwnRecord, "__init__", know_oneself), replaced(MemberTable, "_join", take):
        yield


MUTANTS = [value for value in globals().values() if type(value).__name__ == "Mutant"]
