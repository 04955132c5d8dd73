"""Bugs of clocks, actors and siblings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sadik.comms.transport import Frame
from sadik.ids import NodeId
from sadik.kernels import packets, replica, segment, versions
from sadik.node import records, vnode
from sadik.node.coordinator.core import Core
from sadik.node.coordinator.flight import HINT
from sadik.node.records import Record
from sadik.node.replica import Replica, items_of
from sadik.node.vnode import Vnodes
from sadik.storage.engine import ABSENT, ERROR
from sadik.storage.log_engine import LogEngine
from tests.mutants.mutant import Shim, mutant, replaced


@mutant("Z1", caught_by=("D1", "D2"), profiles=("rot",))
def actor_kept_after_a_loss() -> Iterator[None]:
    """riak_kv#679, the lost clock. A vnode whose copy of a key is gone, by rot here, coordinates the next
    write under the same actor. What it minted before looks dominated to all others, who drop it."""
    with replaced(Vnodes, "_redraw_actor", _note_losses):
        yield


def _note_losses(vnodes: Vnodes) -> None:
    vnodes._losses_known = vnodes.engine.losses
    if vnodes.trees is not None:
        vnodes.trees.rebuild()


@mutant("Z2", caught_by=("D1", "D2"), profiles=("sloppy",))
def fallback_forgets_what_it_minted() -> Iterator[None]:
    """kv679, the flavour of fallbacks. A fallback hands its hints over and forgets them, clock and all; the
    next write that it coordinates, under the same actor, seems to have seen it."""
    with replaced(Core, "_redraw_fallback_actor", lambda self: None):
        yield


@mutant("Z3", caught_by=("D1", "D2", "S5"), profiles=("rot",))
def merge_takes_an_error_for_absence() -> Iterator[None]:
    """kv679_fb2. A write that another node coordinates, or a handoff, meets a record that cannot be read and
    takes it for absent; no loss is noted, and the actor stays. The next write coordinated here covers what
    was lost. Riak had it even with actor epochs."""
    merge = Vnodes._merge

    def blind(self: Vnodes, *arguments: Any) -> Any:
        with replaced(Vnodes, "_redraw_actor", _note_losses):
            return merge(self, *arguments)

    with replaced(Vnodes, "_merge", blind):
        yield


@mutant("S5", caught_by=("S5", "Q1", "D1", "D2", "T1"), profiles=("rot", "disks"))
def errors_are_answered_as_absence() -> Iterator[None]:
    """What Riak's kv679 and CORDS have in common: a read that fails is answered by "not found". It counts
    towards R, and no loss is noted."""
    read = LogEngine.read_batch

    def absent(self: LogEngine, *arguments: Any) -> Any:
        losses = self._log.losses
        batch = read(self, *arguments)
        self._log.losses = losses
        for index, status in enumerate(batch.status):
            if status == ERROR:
                batch.status[index] = ABSENT
        return batch

    with replaced(LogEngine, "read_batch", absent):
        yield


@mutant("Z4", caught_by=("D2", "T2"), profiles=("deletes", "fallbacks"))
def the_tombstone_of_a_fallback_wins() -> Iterator[None]:
    """The doomstone. A delete reaches a fallback while primaries are away; the key is written again; then the
    fallback hands its tombstone over, and it erases the new value."""
    on_sets = Replica.on_sets

    def erase(self: Replica, batch: list[tuple[NodeId, Frame]]) -> None:
        on_sets(self, batch)
        for _, frame in batch:
            sets = packets.decode_sets([frame.payload])
            if HINT in sets.reasons:
                for key, name, one in items_of(sets):
                    if versions.is_dead(one):
                        _bury(self._vnodes, key, name)

    with replaced(Replica, "on_sets", erase):
        yield


def _bury(vnodes: Vnodes, key: bytes, name: bytes) -> None:
    mine = vnodes.sets([key])[0]
    if not mine or versions.is_dead(mine):
        return
    entries, values = versions.decode(mine)
    left = versions.encode(entries, [value for value in values if value.flags & versions.TOMBSTONE])
    bucket = vnodes.buckets.get(name[1 : 1 + name[0]])
    vnodes.engine.put(key, name, left, bucket.space, segment.FLAG_DEAD)
    vnodes._note(bucket, key, mine, left)


@mutant("Z5", caught_by=("D1", "M4"), profiles=("disks", "crashes"), fast=True)
def actor_kept_on_disk() -> Iterator[None]:
    """kv679_uid. The actor's id lies in the data directory, so a restored backup or a copied disk writes
    under an id that has been used further already."""
    begin = Vnodes.__init__

    def reuse(self: Vnodes, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        known = dict(self.engine.system_items()).get(b"actor")
        if known:
            self.actor = int.from_bytes(known, "little")
        else:
            self.engine.system_put(b"actor", self.actor.to_bytes(8, "little"))

    with replaced(Vnodes, "__init__", reuse):
        yield


@mutant("Z11", caught_by=("D4",), profiles=("siblings",), fast=True)
def plain_version_vectors() -> Iterator[None]:
    """Sibling explosion. With one clock for all siblings a write replaces them only if its context has seen
    all of it: two clients that read, think and write in turns leave more siblings each time."""
    discard = versions.discard

    def whole(current: bytes, covers: versions.Entries) -> bytes:
        seen = dict(covers)
        known = versions.decode(current)[0] if current else ()
        return discard(current, covers) if all(seen.get(who, 0) >= at for who, at in known) else current

    with replaced(records, "versions", Shim(versions, discard=whole)):
        yield


@mutant("D2", caught_by=("D2", "D4", "Q1"), profiles=("siblings",), fast=True)
def contexts_are_ignored() -> Iterator[None]:
    """The lost update that Dynamo 4.4 is there to prevent: a write replaces what its coordinator holds, not
    what its client has read."""
    write = Record._write

    def everything(self: Record, covers: versions.Entries | None, *rest: Any) -> None:
        write(self, None, *rest)

    with replaced(Record, "_write", everything):
        yield


@mutant("D2", caught_by=("D2", "D4", "Q1"), profiles=("siblings",), fast=True)
def the_last_writer_wins() -> Iterator[None]:
    """What Cassandra does by design: of concurrent values a merge keeps the one with the newest stamp, and
    clocks decide whose acknowledged write is lost."""
    merge = replica.merge_batch

    def newest_only(count: int, *arguments: Any) -> Any:
        before, limit = arguments[:8], arguments[9]
        return merge(count, *before, bytes((1,)) * count, limit)

    with replaced(vnode, "replica", Shim(replica, merge_batch=newest_only)):
        yield


@mutant("T4", caught_by=("T4",), profiles=("clocks",), fast=True)
def expiry_is_not_looked_at() -> Iterator[None]:
    """A value whose time is over is shown until some background job has taken it out."""
    siblings = versions.siblings

    def immortal(stored: bytes, floor: int, now_ms: int) -> Any:
        return siblings(stored, floor, 0)

    with replaced(records, "versions", Shim(versions, siblings=immortal)):
        yield


MUTANTS = [value for value in globals().values() if type(value).__name__ == "Mutant"]
