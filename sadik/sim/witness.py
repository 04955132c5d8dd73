"""Who minted which dot, as seen from outside: between a node and its storage engine.

A plain write's acknowledgement does not tell its dot, nor what its coordinator held and so replaced. Both can
be seen when the coordinator stores the new set: the value names its writer, and the set's entries are what it
covers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sadik.kernels import versions
from sadik.kernels.buffers import Buffer
from sadik.sim.history import Dot

BUCKET: Final = b"0"
"""Where all keys are."""


class Minted(NamedTuple):
    """A dot at its birth.

    Attributes:
        covered: What the coordinator held of the key before, as (actor, highest stamp).
        siblings: Live values beside it.
    """

    at_ms: float
    node: str
    key: bytes
    dot: Dot
    value: bytes
    tombstone: bool
    covered: tuple[Dot, ...]
    siblings: int


def address_of(name: bytes) -> tuple[bytes, bytes]:
    """Bucket and key of a stored record's name: the lengths of both come before each."""
    start = 1 + name[0]
    return name[1:start], name[start + 2 :]


class Witness:
    """Looks at every set that a node stores.

    Attributes:
        minted: Every dot that was seen to be minted, in order.
        by_value: The same by value, tombstones left out.
    """

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.minted: list[Minted] = []
        self.by_value: dict[bytes, list[Minted]] = {}
        self.siblings_max = 0
        self._now_ms = now_ms
        self._newest: dict[int, int] = {}

    def look(self, node: str, actor: int, key: bytes, encoded: Buffer) -> None:
        """A node whose actor is ``actor`` stores a set."""
        entries, values = versions.decode(encoded)
        self.siblings_max = max(self.siblings_max, len(values))
        newest = self._newest.get(actor, 0)
        mints = [one for one in values if one.actor == actor and one.stamp > newest]
        for one in mints:
            covered = tuple((who, one.stamp - 1 if who == actor else stamp) for who, stamp in entries)
            minted = Minted(
                self._now_ms(),
                node,
                key,
                (actor, one.stamp),
                bytes(one.payload),
                bool(one.flags & versions.TOMBSTONE),
                covered,
                len(values) - 1,
            )
            self.minted.append(minted)
            if not minted.tombstone:
                self.by_value.setdefault(minted.value, []).append(minted)
        if mints:
            self._newest[actor] = max(one.stamp for one in mints)


class WitnessedEngine:
    """An engine that is looked at; all else is its own."""

    def __init__(self, engine: Any, see: Callable[[bytes, Buffer], None]) -> None:
        self._engine = engine
        self._see = see
        # The methods of the data path, without a look-up each time.
        self.read_batch = engine.read_batch
        self.get_many = engine.get_many

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def write_batch(
        self,
        count: int,
        digests: Buffer,
        names: Buffer,
        name_starts: Buffer,
        name_lengths: Buffer,
        values: Buffer,
        value_offsets: Buffer,
        *rest: Buffer,
    ) -> int:
        ticket: int = self._engine.write_batch(
            count, digests, names, name_starts, name_lengths, values, value_offsets, *rest
        )
        offsets = memoryview(value_offsets).cast("B").cast("q")
        starts, lengths = (
            memoryview(name_starts).cast("B").cast("q"),
            memoryview(name_lengths).cast("B").cast("q"),
        )
        data, text = memoryview(values).cast("B"), memoryview(names).cast("B")
        for index in range(count):
            if offsets[index] < offsets[index + 1]:
                start = starts[index]
                name = bytes(text[start : start + lengths[index]])
                self._see(name, data[offsets[index] : offsets[index + 1]])
        return ticket
