"""How many hints there are, for whom, and what became of the others: ``stored = delivered + expired + dropped
+ present``, over restarts too.

The totals are one record, the ledger, in the hints' own engine. It is written with each batch of hints, as
its last record, and before hints are removed: a process that dies at any moment leaves at most more hints
than were counted, and those are counted then. Fewer mean that a damaged disk took some: they count as
dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from sadik.errors import CorruptRecord, LimitReached
from sadik.ids import NodeId
from sadik.node.repair.hint_format import (
    LEDGER_PLACE,
    LEDGER_SPACE,
    PREFIX_BYTES,
    Layout,
    Ledger,
    OwnerLine,
    decode,
    decode_ledger,
    encode_ledger,
)
from sadik.storage.engine import DIGEST_BYTES, Engine
from sadik.storage.log_engine import LogEngine

log = logging.getLogger("sadik.hints")

OWNERS_MAX: Final = 1000
"""Nodes that hints are kept for at a time: the ledger names them all in every batch."""
FOOTPRINT_BYTES: Final = 96
"""What a hint takes beside its name and value: header in the log, slot in the index."""
NEVER_MS: Final = (1 << 62) - 1
LAST_PLACE: Final = b"\xff" * DIGEST_BYTES
_PAGE_HINTS: Final = 512
_PAGE_BYTES: Final = 16 * 1024 * 1024

Ending = Literal["delivered", "expired", "dropped"]
OnLost = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class OwnerStatistics:
    """Hints of one owner, ``sets`` of them with a version set. ``bytes``: about what they take.
    ``oldest_ms``: Unix time, no hint is older.
    """

    hints: int
    sets: int
    bytes: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class HintStatistics:
    """Totals since the first start of the node, and what is there now, as in ``OwnerStatistics``."""

    stored: int
    delivered: int
    expired: int
    dropped: int
    present: int
    sets: int
    bytes: int
    bytes_max: int


class Gone(NamedTuple):
    """A hint that goes, and about what it took."""

    place: bytes
    is_set: bool
    size: int


class Change(NamedTuple):
    """What happens to the accounts of one owner; ``oldest_ms`` is the least time among hints that come."""

    keys: int = 0
    sets: int = 0
    size: int = 0
    stored: int = 0
    delivered: int = 0
    expired: int = 0
    dropped: int = 0
    oldest_ms: int = NEVER_MS

    @classmethod
    def of(cls, gone: Sequence[Gone], ending: Ending) -> Change:
        """These have ended so."""
        sets = sum(one.is_set for one in gone)
        size = sum(one.size for one in gone)
        return cls(keys=sets - len(gone), sets=-sets, size=-size)._replace(**{ending: len(gone)})


class Owner:
    """One node that hints are here for.

    Attributes:
        keys, sets: Hints that name a key only, and those with a version set.
        bytes: About what they take.
        oldest_ms: No hint was stored earlier (Unix time).
        young_ms: The least time among hints that came since somebody set this to ``NEVER_MS``.
        taken: Places of hints under delivery, and whether they were added to since.
    """

    __slots__ = ("bytes", "keys", "layout", "node", "oldest_ms", "sets", "taken", "young_ms")

    def __init__(self, node: NodeId) -> None:
        """Raises ``InvalidRequest`` for a name that is not 1 to 255 bytes."""
        self.node = node
        self.layout = Layout(node)
        self.keys = 0
        self.sets = 0
        self.bytes = 0
        self.oldest_ms = NEVER_MS
        self.young_ms = NEVER_MS
        self.taken: dict[bytes, bool] = {}

    @property
    def present(self) -> int:
        return self.keys + self.sets

    def size(self, name: bytes, one: bytes) -> int:
        """About what a hint takes, with this set or an empty one."""
        return FOOTPRINT_BYTES + len(name) + self.layout.key_bytes + len(one)


class Accounts:
    """The owners and the totals of one store.

    Attributes:
        owners: Those that hints are here for.
        stored, delivered, expired, dropped: Since the first start.
        present, sets, bytes: Of all owners together.
    """

    def __init__(self, engine: Engine, on_lost: OnLost) -> None:
        """Raises ``StorageError`` when the engine cannot be read."""
        self.owners: dict[NodeId, Owner] = {}
        self.stored = self.delivered = self.expired = self.dropped = 0
        self.present = self.sets = self.bytes = 0
        self._of_space: dict[int, Owner] = {}
        self._engine = engine
        self._on_lost = on_lost
        self._load()

    def owner(self, node: NodeId) -> Owner:
        """One who is known, or a new one: that has no hints yet, and is not listed before it has.

        Raises:
            LimitReached: ``OWNERS_MAX`` nodes have hints.
            InvalidRequest: As ``Owner``.
        """
        found = self.owners.get(node)
        if found is None:
            if len(self.owners) >= OWNERS_MAX:
                raise LimitReached(f"hints are kept for {OWNERS_MAX} nodes at most")
            found = Owner(node)
            if self.of_space(found.layout.key_space) is not None:
                raise LimitReached(f"hints for {node} cannot be told from those of another node")
        return found

    def of_space(self, space: int) -> Owner | None:
        """Whose hints lie in a space of the engine."""
        return self._of_space.get(space & ~1)

    def ledger(self, owner: Owner, change: Change) -> bytes:
        """The ledger as it is after a change."""
        return encode_ledger(
            Ledger(
                self.stored + change.stored,
                self.delivered + change.delivered,
                self.expired + change.expired,
                self.dropped + change.dropped,
                [
                    *(
                        OwnerLine(other.node, other.bytes, other.oldest_ms)
                        for other in self.owners.values()
                        if other is not owner
                    ),
                    OwnerLine(owner.node, owner.bytes + change.size, min(owner.oldest_ms, change.oldest_ms)),
                ],
            )
        )

    def apply(self, owner: Owner, change: Change) -> None:
        """The change has happened."""
        self.stored += change.stored
        self.delivered += change.delivered
        self.expired += change.expired
        self.dropped += change.dropped
        owner.keys += change.keys
        owner.sets += change.sets
        owner.oldest_ms = min(owner.oldest_ms, change.oldest_ms)
        owner.young_ms = min(owner.young_ms, change.oldest_ms)
        # Sizes of what was unreadable are guesses, so they end with the owner's last hint.
        size = max(change.size, -owner.bytes) if owner.present else -owner.bytes
        owner.bytes += size
        self.present += change.keys + change.sets
        self.sets += change.sets
        self.bytes += size
        if owner.present:
            self.owners[owner.node] = self._of_space[owner.layout.key_space] = owner
        else:
            self.owners.pop(owner.node, None)
            self._of_space.pop(owner.layout.key_space, None)

    def owner_statistics(self) -> dict[NodeId, OwnerStatistics]:
        """By node id, in order."""
        return {
            node: OwnerStatistics(owner.present, owner.sets, owner.bytes, owner.oldest_ms)
            for node, owner in sorted(self.owners.items())
        }

    def statistics(self, bytes_max: int) -> HintStatistics:
        return HintStatistics(
            stored=self.stored,
            delivered=self.delivered,
            expired=self.expired,
            dropped=self.dropped,
            present=self.present,
            sets=self.sets,
            bytes=self.bytes,
            bytes_max=bytes_max,
        )

    # The start

    def _load(self) -> None:
        engine = self._engine
        if isinstance(engine, LogEngine) and engine.losses:
            # In doubt about a region every hint would be unreadable. What is left is delivered, the rest is
            # found by comparison.
            engine.accept_loss()
        ledger = self._read_ledger()
        lines = {line.node: line for line in ledger.owners}
        spaces = {Layout(NodeId(node)).key_space for node in lines}
        if any(space & ~1 not in spaces for space in engine.spaces() if space != LEDGER_SPACE):
            lines = self._walk()
        for line in lines.values():
            owner = Owner(NodeId(line.node))
            change = Change(
                keys=engine.count(owner.layout.key_space),
                sets=engine.count(owner.layout.set_space),
                size=line.bytes,
                oldest_ms=line.oldest_ms,
            )
            self.apply(owner, change)
        self.stored, self.delivered = ledger.stored, ledger.delivered
        self.expired, self.dropped = ledger.expired, ledger.dropped
        self._reconcile()

    def _reconcile(self) -> None:
        missing = self.stored - self.delivered - self.expired - self.dropped - self.present
        if missing > 0:
            self.dropped += missing
            log.warning("%d hints are lost, as the disk took them; replicas need a comparison", missing)
            self._on_lost("", b"")
        else:
            self.stored -= missing

    def _read_ledger(self) -> Ledger:
        try:
            data = self._engine.get(LEDGER_PLACE)
            return Ledger() if data is None else decode_ledger(data)
        except CorruptRecord as error:
            log.warning("totals of hints begin anew: %s", error)
            return Ledger()

    def _walk(self) -> dict[str, OwnerLine]:
        """Owners as their hints name them. Hints of which nobody can tell the owner are removed."""
        lines: dict[str, OwnerLine] = {}
        strays: list[tuple[bytes, int]] = []
        after = b""
        while page := self._engine.scan(after, LAST_PLACE, _PAGE_HINTS, _PAGE_BYTES):
            after = page[-1].digest
            for entry in page:
                if entry.space == LEDGER_SPACE:
                    continue
                try:
                    content = decode(entry.value or b"")
                    node = content.owner.decode()
                except (CorruptRecord, UnicodeDecodeError):
                    strays.append((entry.digest, entry.space))
                    continue
                size = FOOTPRINT_BYTES + len(entry.name) + len(entry.value or b"")
                line = lines.get(node) or OwnerLine(node, 0, NEVER_MS)
                lines[node] = OwnerLine(node, line.bytes + size, min(line.oldest_ms, content.stored_ms))
        spaces = {Layout(NodeId(node)).key_space for node in lines}
        for place, space in strays:
            if space & ~1 not in spaces:
                log.warning("a hint is unreadable and removed; nobody can tell whose it was")
                self._engine.remove(place)
                self._on_lost("", place[1 : 1 + PREFIX_BYTES])
        return lines
