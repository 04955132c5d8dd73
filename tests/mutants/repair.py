"""Bugs of hints, exchange and collection."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from sadik.ids import NodeId
from sadik.members.view import View
from sadik.node import collection
from sadik.node.items import Item
from sadik.node.repair.exchange.comparison import Comparison
from sadik.node.repair.hint_accounts import LEDGER_SPACE, Owner
from sadik.node.repair.hint_format import Content, decode
from sadik.node.repair.hints import HintStore
from sadik.node.repair.replay.service import HintReplay
from sadik.storage.engine import Entry
from tests.mutants.mutant import mutant, replaced

_AAE_TIMER_NS = 15 * 60 * 1_000_000_000


@mutant("Z9", caught_by=("H1", "C1"), profiles=("fallbacks", "crashes"))
def hints_of_an_earlier_run_stay() -> Iterator[None]:
    """riak_core#154, riak_kv#847. A node starts again with data that it kept for others; handoff begins only
    for what comes in later. So there is a replica less than all believe, and much later old data is handed
    over."""
    start, due = HintReplay.start, HintReplay._due

    def remember(self: Any) -> None:
        self.earlier = set(self._store.owners())
        start(self)

    def later(self: Any) -> list[NodeId]:
        return [owner for owner in due(self) if owner not in self.earlier]

    with replaced(HintReplay, "start", remember), replaced(HintReplay, "_due", later):
        yield


@mutant("Z10", caught_by=("H1", "C1", "C2"), profiles=("fallbacks", "crashes"), fast=True)
def hints_wait_for_the_exchange_timer() -> Iterator[None]:
    """riak_kv#1706. Handoff of hints is held up by the timer of active anti-entropy, for a quarter of an
    hour."""
    reachable, on_view = HintReplay._is_reachable, HintReplay.on_view

    def note(self: Any, view: View) -> None:
        before = self._up
        on_view(self, view)
        now_ns = self._clock.monotonic_ns()
        self.since = getattr(self, "since", {}) | dict.fromkeys(self._up - before, now_ns)

    def late(self: Any, owner: NodeId) -> bool:
        since_ns = getattr(self, "since", {}).get(owner, 0)
        return reachable(self, owner) and self._clock.monotonic_ns() - since_ns > _AAE_TIMER_NS

    with replaced(HintReplay, "on_view", note), replaced(HintReplay, "_is_reachable", late):
        yield


@mutant("Z16", caught_by=("H1", "C1"), profiles=("hints",))
def a_corrupt_hint_is_tried_for_ever() -> Iterator[None]:
    """Scylla#4364. What cannot be read among hints is neither dropped nor reported: every round begins with
    it, and fails again."""

    def keep(self: Any, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Content]]:
        for entry in entries:
            owner = self._accounts.of_space(entry.space)
            if owner is not None and entry.space != LEDGER_SPACE and entry.value is not None:
                yield entry, decode(entry.value)

    with replaced(HintStore, "_readable", keep):
        yield


@mutant("Z16", caught_by=("H1",), profiles=("hints",))
def a_corrupt_hint_goes_without_an_account() -> Iterator[None]:
    """Scylla#31602. The flag that said "corrupt" is overwritten: hints that could not be read are
    gone without an account, and nobody compares what they were for."""
    drop = HintStore._drop

    def forget(self: Any, owner: Owner, places: Sequence[bytes]) -> None:
        dropped, lost = self._accounts.dropped, self._on_lost
        self._on_lost = lambda node, prefix: None
        drop(self, owner, places)
        self._on_lost, self._accounts.dropped = lost, dropped

    with replaced(HintStore, "_drop", forget):
        yield


@mutant("H1", caught_by=("H1", "D2", "C1", "T1"), profiles=("flapping", "fallbacks"))
def hints_go_without_an_answer() -> Iterator[None]:
    """A hint is removed when it has been sent, not when its owner has it durably."""
    ask = HintReplay._ask

    async def sent(self: Any, walk: Any, node: NodeId, items: list[Item]) -> bytes:
        await ask(self, walk, node, items)
        walk.failed = ""
        return bytes(len(items))

    with replaced(HintReplay, "_ask", sent):
        yield


@mutant("H1", caught_by=("H1", "D2", "C1", "T1"), profiles=("fallbacks",))
def hints_go_to_the_wrong_node() -> Iterator[None]:
    """A hint is delivered to whoever is next in the layout, not to whom it was kept for."""
    ask = HintReplay._ask

    async def next_one(self: Any, walk: Any, node: NodeId, items: list[Item]) -> bytes:
        names = sorted(self._layout)
        other = names[(names.index(node) + 1) % len(names)]
        return await ask(self, walk, other, items)

    with replaced(HintReplay, "_ask", next_one):
        yield


@mutant("Z19", caught_by=("T1", "D2"), profiles=("absence",))
def tombstones_go_at_once() -> Iterator[None]:
    """Cassandra's gc_grace. A tombstone is collected before every replica has it; a node that was away comes
    back with what was deleted."""
    collect = collection.collect

    def eager(*arguments: Any, **named: Any) -> bytes:
        named["tombstone_horizon"] = named["entry_horizon"] = (1 << 63) - 1
        return collect(*arguments, **named)

    with replaced(collection, "collect", eager):
        yield


@mutant("C1", caught_by=("C1",), profiles=("disks", "crashes"))
def exchange_skips_a_leaf() -> Iterator[None]:
    """An error by one at the bottom of the tree: of the leaves that differ the first is never listed."""
    descend = Comparison._descend

    def skipping(self: Comparison, *arguments: Any) -> Generator[Any, bytes, list[int]]:
        leaves = yield from descend(self, *arguments)
        return leaves[1:]

    with replaced(Comparison, "_descend", skipping):
        yield


MUTANTS = [value for value in globals().values() if type(value).__name__ == "Mutant"]
