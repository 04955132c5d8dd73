"""Hints: what nodes that are down have missed, kept until they have durably taken it.

Two kinds. Where a fallback stands in for a primary it keeps the whole version set, apart from its own data.
Where none is left (three nodes, N=3) a primary keeps the key only, and sends its own set as it is when the
owner is back: a million writes to one key are one small hint.

* Nothing is evicted. A full store refuses, and says so before a write is begun (``full``).
* Every hint ends once: delivered, expired or, when the disk has damaged it, dropped and reported as a range
  to compare (``hint_accounts.py``).
* A hint goes when its owner has durably taken it; one that was added to meanwhile stays.
* A hint lives ``age_ms`` at most: an older one could bring back what was deleted, and whose delete is
  forgotten.

Source: Dynamo 4.6.
"""

from __future__ import annotations

import logging
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from sadik.env.clock import Clock
from sadik.errors import CorruptRecord, LimitReached, StorageError, StorageFull
from sadik.ids import NodeId
from sadik.kernels import hints as kernel
from sadik.kernels import versions
from sadik.kernels.buffers import Buffer
from sadik.node.items import Item
from sadik.node.repair.hint_accounts import (
    FOOTPRINT_BYTES,
    LAST_PLACE,
    NEVER_MS,
    Accounts,
    Change,
    Ending,
    Gone,
    HintStatistics,
    OnLost,
    Owner,
    OwnerStatistics,
)
from sadik.node.repair.hint_format import (
    KEY,
    LEDGER_PLACE,
    LEDGER_SPACE,
    PREFIX_BYTES,
    SET,
    Content,
    decode,
)
from sadik.storage.engine import ABSENT, DIGEST_BYTES, STORED, Engine, Entry, ReadBatch

log = logging.getLogger("sadik.hints")

_READ_BYTES_MAX: Final = 16 * 1024 * 1024
_PAGE_HINTS: Final = 256
_FREE_SHARE: Final = 16
"""A store that has refused is full until a sixteenth is free: not one write in and the next one refused."""

_LEDGER_SPACE: Final = array("I", (LEDGER_SPACE,))


class Hint(NamedTuple):
    """One hint, taken for delivery.

    Attributes:
        place: The engine's digest.
        set: What the owner missed; None when only the key is known.
        local: This node's own set, as it is now, belongs to it too; always where ``set`` is None.
    """

    owner: NodeId
    place: bytes
    digest: bytes
    name: bytes
    set: bytes | None
    local: bool
    stored_ms: int


class Page(NamedTuple):
    """Hints, and where the next ``take`` goes on; ``more`` is False at the end."""

    hints: list[Hint]
    after: bytes
    more: bool


class _Draft(NamedTuple):
    """A hint as it is to be, in the place of ``old``."""

    name: bytes
    content: Content
    old: Content | None


def _ignore_loss(owner: str, prefix: bytes) -> None:
    """For stores whose losses nobody repairs."""


def _ignore() -> None:
    """For stores that nobody mints in."""


class HintStore:
    """The hints of one node, in an engine of their own that somebody else opens, syncs and maintains.

    Attributes:
        whole_taken_away: Called after hints with version sets were removed, or cannot be read: what this node
            has minted as a fallback may be in none of its stores any more.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        bytes_max: int,
        age_ms: int,
        on_lost: OnLost = _ignore_loss,
    ) -> None:
        """
        Args:
            engine: A log engine with many tables (``partitions=65536``): an owner has a 256th of them.
            bytes_max: Hints are refused beyond it.
            age_ms: A hint is not delivered any more when it is that old.
            on_lost: Called, by the constructor too, with the owner and the first seven bytes of the key's
                digest of each hint that was dropped, empty where not known: a range to compare.
        Raises:
            StorageError: The engine cannot be read.
        """
        self._engine = engine
        self._clock = clock
        self._bytes_max = bytes_max
        self._age_ms = age_ms
        self._on_lost = on_lost
        self.whole_taken_away: Callable[[], None] = _ignore
        self._refused = False
        self._ticket = 0
        self._expire_after = b""
        self._expire_oldest: dict[bytes, int] = {}
        self._accounts = Accounts(engine, on_lost)

    # Adding

    def add_keys(
        self,
        owner: NodeId,
        count: int,
        digests: Buffer,
        names: Buffer,
        name_starts: Buffer,
        name_lengths: Buffer,
    ) -> int:
        """Remember that ``owner`` lacks what this node itself stores under some keys.

        A key that is remembered already costs a look, and no write.

        Args:
            digests: 16 bytes each.
            names, name_starts, name_lengths: Slices; int64 each.
        Returns:
            A ticket: all these hints, those that were there before too, are durable with it.
        Raises:
            LimitReached: The store is full; what it has stays.
            StorageError: The engine did not take them.
        Cost: 30 us, and 0.4 us a key; a fifth of that where all are there.
        """
        if not count:
            return self._ticket
        keeper = self._accounts.owner(owner)
        keys = memoryview(digests).cast("B")
        starts, lengths = memoryview(name_starts).cast("B"), memoryview(name_lengths).cast("B")
        places = kernel.places(count, keys, keeper.layout.hash)
        if keeper.taken:
            packed = bytes(places)
            _touch(keeper, [packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES)])
        while count:
            taken = self._add_keys(keeper, count, keys, places, names, starts, lengths)
            count -= taken
            if count:
                keys, places = keys[DIGEST_BYTES * taken :], places[DIGEST_BYTES * taken :]
                starts, lengths = starts[8 * taken :], lengths[8 * taken :]
        return self._ticket

    def _add_keys(
        self,
        owner: Owner,
        count: int,
        keys: memoryview,
        places: bytearray,
        names: Buffer,
        starts: memoryview,
        lengths: memoryview,
    ) -> int:
        """Add the first ones, as many as could be looked at; returns how many."""
        stored = self._engine.read_batch(count, places, _READ_BYTES_MAX)
        layout = owner.layout
        now_ms = self._clock.wall_ms()
        key_value = layout.encode(KEY, now_ms, bytes(DIGEST_BYTES), b"")
        new = kernel.sift(
            stored.taken, keys, places, stored.status, stored.data, stored.offsets, key_value, starts, lengths
        )
        if new.others:
            self._add_to(owner, new.others, keys, stored, names, starts, lengths)
        if new.unreadable:
            # What they were for is covered by the new ones.
            self._drop(owner, [layout.place(_digest_at(keys, index)) for index in new.unreadable])
        if not new.added:
            return stored.taken
        size = new.name_bytes + new.added * (layout.key_bytes + FOOTPRINT_BYTES)
        change = Change(keys=new.added, size=size, stored=new.added, oldest_ms=now_ms)
        self._check_room(size)
        ledger = self._accounts.ledger(owner, change)
        self._ticket = self._engine.write_batch(
            new.added + 1,
            new.places + LEDGER_PLACE,
            names,
            new.name_starts + bytes(8),
            new.name_lengths + bytes(8),
            new.values + ledger,
            new.value_offsets + (len(new.values) + len(ledger)).to_bytes(8, sys.byteorder),
            array("I", (layout.key_space,)) * new.added + _LEDGER_SPACE,
            bytes(new.added + 1),
        )
        self._accounts.apply(owner, change)
        return stored.taken

    def _add_to(
        self,
        owner: Owner,
        others: Sequence[int],
        keys: memoryview,
        stored: ReadBatch,
        names: Buffer,
        starts: memoryview,
        lengths: memoryview,
    ) -> None:
        """The same where something is stored that is not just a hint for the key: a version set, mostly."""
        offsets = memoryview(stored.offsets).cast("q")
        drafts: dict[bytes, _Draft] = {}
        for index in others:
            key = _digest_at(keys, index)
            place = owner.layout.place(key)
            old = _decoded(owner, stored.data[offsets[index] : offsets[index + 1]])
            if old is None:
                self._drop(owner, [place])
            elif not _is_for(old, owner, key):
                # Not kept, and as honest as it gets: 2**60 hashes are the price of making this happen.
                self._accounts.apply(owner, Change(stored=1, dropped=1))
                self._on_lost(owner.node, key[:PREFIX_BYTES])
                continue
            if old is None or not old.flags & KEY:
                start = starts.cast("q")[index]
                name = bytes(memoryview(names)[start : start + lengths.cast("q")[index]])
                drafts[place] = _Draft(name, self._with(owner, key, old, KEY, b""), old)
        self._store(owner, drafts)

    def add_sets(self, owner: NodeId, items: Sequence[Item]) -> int:
        """Keep version sets for ``owner``, merged with those that are kept already. All or none.

        Returns:
            A ticket: all of it is durable with it.
        Raises:
            LimitReached: The store is full, or a merged set exceeds what the format holds.
            CorruptRecord: An item's set is none.
            StorageError: The engine did not take them.
        Cost: some 5 us an item.
        """
        keeper = self._accounts.owner(owner)
        places = [keeper.layout.place(item[0]) for item in items]
        _touch(keeper, places)
        distinct = list(dict.fromkeys(places))
        known: dict[bytes, Content] = {}
        for index, content in self._contents(keeper, len(distinct), b"".join(distinct)):
            if content is None:
                self._drop(keeper, [distinct[index]])
            else:
                known[distinct[index]] = content
        drafts: dict[bytes, _Draft] = {}
        for place, (digest, name, one) in zip(places, items, strict=True):
            old = known.get(place)
            before = drafts[place].content if place in drafts else old
            if before is not None and not _is_for(before, keeper, digest):
                raise LimitReached("a hint for another key has the place of this one")
            after = self._with(keeper, digest, before, SET, one)
            if after != before:
                drafts[place] = _Draft(name, after, old)
        self._store(keeper, drafts)
        return self._ticket

    def _with(self, owner: Owner, digest: bytes, old: Content | None, flag: int, one: bytes) -> Content:
        """A hint with something added."""
        if flag == SET and not one:
            raise CorruptRecord("an empty version set")
        if old is None:
            old = Content(0, self._clock.wall_ms(), digest, owner.layout.owner, b"")
        merged = versions.merge(old.set, one) if flag == SET else old.set
        return old._replace(flags=old.flags | flag, set=merged)

    def _store(self, owner: Owner, drafts: Mapping[bytes, _Draft]) -> None:
        """Write hints as they are to be, as one batch."""
        if not drafts:
            return
        layout = owner.layout
        values, names, spaces, keys, sets, size = [], [], [], 0, 0, 0
        oldest_ms = NEVER_MS
        for name, content, old in drafts.values():
            is_set = bool(content.flags & SET)
            values.append(layout.encode(content.flags, content.stored_ms, content.digest, content.set))
            names.append(name)
            spaces.append(layout.set_space if is_set else layout.key_space)
            sets += is_set - bool(old and old.flags & SET)
            keys += (not is_set) - bool(old and not old.flags & SET)
            size += len(content.set) - len(old.set) if old else owner.size(name, content.set)
            oldest_ms = min(oldest_ms, content.stored_ms)
        new = sum(draft.old is None for draft in drafts.values())
        change = Change(keys=keys, sets=sets, size=size, stored=new, oldest_ms=oldest_ms)
        self._check_room(size)
        values.append(self._accounts.ledger(owner, change))
        names.append(b"")
        self._ticket = self._engine.write_batch(
            len(values),
            b"".join(drafts) + LEDGER_PLACE,
            b"".join(names),
            _offsets(names)[:-1],
            array("q", map(len, names)),
            b"".join(values),
            _offsets(values),
            array("I", spaces) + _LEDGER_SPACE,
            bytes(len(values)),
        )
        self._accounts.apply(owner, change)

    def _check_room(self, size: int) -> None:
        if size > 0 and self._accounts.bytes + size > self._bytes_max:
            self._refused = True
            raise LimitReached(f"hints fill the {self._bytes_max} bytes they may have")

    # Reading

    def sets_for(self, digests: Sequence[bytes]) -> list[bytes]:
        """The readable version sets that are kept for others, merged over all owners; ``b""`` for none.

        Cost: 0.2 us a digest for each owner with version sets, and 3 us where there is one.
        """
        found = [b""] * len(digests)
        packed = b"".join(digests)
        for owner in [owner for owner in self._accounts.owners.values() if owner.sets]:
            places = kernel.places(len(digests), packed, owner.layout.hash)
            for index, content in self._contents(owner, len(digests), places):
                if content is None:
                    try:
                        self._drop(owner, [_digest_at(memoryview(places), index)])
                    except StorageError as error:
                        # Who reads wants no write: it stays until the engine takes one.
                        log.warning("an unreadable hint for %s cannot be dropped: %s", owner.node, error)
                        self.whole_taken_away()
                elif content.flags & SET and _is_for(content, owner, digests[index]):
                    found[index] = versions.merge(found[index], content.set)
        return found

    def _contents(self, owner: Owner, count: int, places: Buffer) -> Iterator[tuple[int, Content | None]]:
        """(index, content) of what is stored at these places, None where it cannot be read."""
        view = memoryview(places)
        first = 0
        while first < count:
            stored = self._engine.read_batch(count - first, view[DIGEST_BYTES * first :], _READ_BYTES_MAX)
            if stored.status.count(ABSENT) < stored.taken:
                offsets = memoryview(stored.offsets).cast("q")
                for index in range(stored.taken):
                    if stored.status[index] == ABSENT:
                        continue
                    is_stored = stored.status[index] == STORED
                    value = stored.data[offsets[index] : offsets[index + 1]] if is_stored else None
                    yield first + index, _decoded(owner, value)
            first += stored.taken

    @property
    def has_sets(self) -> bool:
        """Whether version sets are kept for anybody, so that reads must look here too."""
        return self._accounts.sets > 0

    @property
    def full(self) -> bool:
        """Whether new hints would be refused."""
        return self._refused or self._accounts.bytes >= self._bytes_max

    def owners(self) -> dict[NodeId, OwnerStatistics]:
        """Whom hints are here for, by node id in order."""
        return self._accounts.owner_statistics()

    def statistics(self) -> HintStatistics:
        return self._accounts.statistics(self._bytes_max)

    # Delivery

    def take(self, owner: NodeId, after: bytes, count: int, bytes_max: int) -> Page:
        """Hints for delivery, in the order of their places, ``after=b""`` first; they stay until
        ``delivered``.

        A hint that is taken already is not given again before it is given back (``release``, ``delivered``).
        Those that are too old expire on the way, those that are unreadable are dropped.

        Args:
            count: Most hints to look at.
            bytes_max: Ends with the hint that brings their version sets to so much.
        Raises:
            StorageError: The engine did not remove what is too old or unreadable.
        """
        keeper = self._accounts.owners.get(owner)
        if keeper is None:
            return Page([], after, False)
        layout = keeper.layout
        entries = self._engine.scan(max(after, layout.first), layout.last, count, bytes_max)
        due_ms = self._clock.wall_ms() - self._age_ms
        hints: list[Hint] = []
        old: list[Gone] = []
        for entry, content in self._readable(entries):
            if content.owner != keeper.layout.owner or entry.digest in keeper.taken:
                continue
            if content.stored_ms <= due_ms:
                old.append(_gone(keeper, entry, content))
                continue
            is_set = bool(content.flags & SET)
            hints.append(
                Hint(
                    owner,
                    entry.digest,
                    content.digest,
                    entry.name,
                    content.set if is_set else None,
                    bool(content.flags & KEY),
                    content.stored_ms,
                )
            )
        self._end(keeper, old, "expired")
        keeper.taken.update((hint.place, False) for hint in hints)
        return Page(hints, entries[-1].digest if entries else after, bool(entries))

    def release(self, hints: Sequence[Hint]) -> None:
        """They were not delivered, and may be taken again."""
        for hint in hints:
            keeper = self._accounts.owners.get(hint.owner)
            if keeper is not None:
                keeper.taken.pop(hint.place, None)

    def delivered(self, hints: Sequence[Hint]) -> int:
        """Their owner has durably taken them: those that were not added to meanwhile go. Returns how many.

        Raises:
            StorageError: The engine did not remove them all; the rest stays, and may be taken again.
        Cost: some 6 us a hint, as the log removes one at a time: give a few hundred.
        """
        gone: dict[NodeId, list[Gone]] = {}
        for hint in hints:
            keeper = self._accounts.owners.get(hint.owner)
            if keeper is not None and keeper.taken.pop(hint.place, True) is False:
                size = keeper.size(hint.name, hint.set or b"")
                gone.setdefault(hint.owner, []).append(Gone(hint.place, hint.set is not None, size))
        return sum(self._end(self._accounts.owners[owner], some, "delivered") for owner, some in gone.items())

    def expire(self) -> bool:
        """Remove what is too old, a page at a time; False when there is nothing to do, or a round is over.

        Idle as long as nothing can have come of age. Hints under delivery are left alone.
        """
        due_ms = self._clock.wall_ms() - self._age_ms
        owners = self._accounts.owners
        if not self._expire_after:
            if all(owner.oldest_ms > due_ms for owner in owners.values()):
                return False
            self._expire_oldest = {}
            for owner in owners.values():
                owner.young_ms = NEVER_MS
        entries = self._engine.scan(self._expire_after, LAST_PLACE, _PAGE_HINTS, _READ_BYTES_MAX)
        if not entries:
            self._expire_after = b""
            for owner in owners.values():
                # Of hints met in this round and of those that came meanwhile: all there are.
                owner.oldest_ms = min(self._expire_oldest.get(owner.layout.owner, NEVER_MS), owner.young_ms)
            return False
        self._expire_after = entries[-1].digest
        old: dict[NodeId, list[Gone]] = {}
        for entry, content in self._readable(entries):
            keeper = self._accounts.of_space(entry.space)
            if keeper is None:
                continue
            if content.stored_ms <= due_ms and entry.digest not in keeper.taken:
                old.setdefault(keeper.node, []).append(_gone(keeper, entry, content))
            else:
                oldest_ms = self._expire_oldest.get(content.owner, NEVER_MS)
                self._expire_oldest[content.owner] = min(oldest_ms, content.stored_ms)
        for node, some in old.items():
            self._end(owners[node], some, "expired")
        return True

    def _readable(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Content]]:
        """Entries that are hints, decoded; those that cannot be are dropped."""
        for entry in entries:
            owner = self._accounts.of_space(entry.space)
            if owner is None or entry.space == LEDGER_SPACE:
                continue
            content = _decoded(owner, entry.value)
            if content is None:
                self._drop(owner, [entry.digest])
            else:
                yield entry, content

    # Ending

    def _end(self, owner: Owner, gone: Sequence[Gone], ending: Ending) -> int:
        """Remove hints; returns how many. The ledger goes first: see ``hint_accounts``."""
        if not gone:
            return 0
        self._write_ledger(owner, Change.of(gone, ending))
        done = 0
        try:
            for one in gone:
                self._engine.remove(one.place)
                done += 1
        finally:
            change = Change.of(gone[:done], ending)
            self._accounts.apply(owner, change)
            self._note_room(change.sets != 0)
        return done

    def _drop(self, owner: Owner, places: Sequence[bytes]) -> None:
        """Remove hints that cannot be read, and report what they may have been for."""
        accounts, layout = self._accounts, owner.layout
        guess = owner.bytes // max(1, owner.present)
        self._write_ledger(owner, Change(dropped=len(places), size=-guess * len(places)))
        for place in places:
            log.warning("a hint for %s is unreadable and dropped", owner.node)
            self._engine.remove(place)
            owner.taken.pop(place, None)
            # Only the engine knows which kind it was.
            keys = self._engine.count(layout.key_space) - owner.keys
            sets = self._engine.count(layout.set_space) - owner.sets
            accounts.apply(owner, Change(keys=keys, sets=sets, size=-guess, dropped=-keys - sets))
            self._note_room(sets != 0)
            self._on_lost(owner.node, place[1 : 1 + PREFIX_BYTES])

    def _note_room(self, whole: bool) -> None:
        """Hints have gone, version sets among them when ``whole``."""
        if self._refused and self._accounts.bytes <= self._bytes_max - self._bytes_max // _FREE_SHARE:
            self._refused = False
        if whole:
            self.whole_taken_away()

    def _write_ledger(self, owner: Owner, change: Change) -> None:
        try:
            self._engine.put(LEDGER_PLACE, b"", self._accounts.ledger(owner, change), LEDGER_SPACE)
        except StorageFull as error:
            # Removals are what makes room, and go on. Should the process die before the next hint is written,
            # these count as dropped at the start.
            log.info("totals of hints are not written: %s", error)


def _touch(owner: Owner, places: Sequence[bytes]) -> None:
    """Something is added at these places: those under delivery stay."""
    taken = owner.taken
    if taken:
        for place in places:
            if place in taken:
                taken[place] = True


def _digest_at(keys: memoryview, index: int) -> bytes:
    return bytes(keys[DIGEST_BYTES * index : DIGEST_BYTES * (index + 1)])


def _decoded(owner: Owner, value: bytes | bytearray | None) -> Content | None:
    """The content of a value; None when there is none, or no making sense of it."""
    if value is not None:
        try:
            return decode(value)
        except CorruptRecord as error:
            log.warning("a hint for %s makes no sense: %s", owner.node, error)
    return None


def _is_for(content: Content, owner: Owner, digest: bytes) -> bool:
    return content.digest == digest and content.owner == owner.layout.owner


def _gone(owner: Owner, entry: Entry, content: Content) -> Gone:
    return Gone(entry.digest, bool(content.flags & SET), owner.size(entry.name, content.set))


def _offsets(parts: Sequence[bytes]) -> array[int]:
    """int64: where each begins, and where the last one ends."""
    return array("q", accumulate(map(len, parts), initial=0))
