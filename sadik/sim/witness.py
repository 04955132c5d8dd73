"""Who minted which dot, as seen from outside: between a node and its storage engine.

A plain write's acknowledgement does not tell its dot, nor what its coordinator held and so replaced. Both can
be seen when the coordinator stores the new set: the value names its writer, and what was stored before is
what it covers. That the set itself says so is not believed: a coordinator that has lost what it minted says
too much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from sadik.errors import StorageFull
from sadik.kernels import versions
from sadik.kernels.buffers import Buffer
from sadik.node.repair import hint_format
from sadik.node.repair.hints import Hint
from sadik.sim.history import Dot
from sadik.storage.engine import DIGEST_BYTES

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

    What is seen within ``attempt`` counts unless a full disk refuses it.

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

    def look(
        self, node: str, actor: int, key: bytes, encoded: Buffer, held: Callable[[], Buffer | None]
    ) -> None:
        """A node stores a set that it may have minted in.

        Args:
            actor: Under which it mints now.
            held: What it has of the key until now; None where nobody knows.
        """
        entries, values = versions.decode(encoded)
        self.siblings_max = max(self.siblings_max, len(values))
        newest = self._newest.get(actor, 0)
        mints = [one for one in values if one.actor == actor and one.stamp > newest]
        if not mints:
            return
        self._newest[actor] = max(one.stamp for one in mints)
        own = self._own(actor, entries, mints, held)
        for one in mints:
            minted = Minted(
                self._now_ms(),
                node,
                key,
                (actor, one.stamp),
                bytes(one.payload),
                bool(one.flags & versions.TOMBSTONE),
                tuple((who, min(own, one.stamp - 1) if who == actor else stamp) for who, stamp in entries),
                len(values) - 1,
            )
            self.minted.append(minted)
            if not minted.tombstone:
                self.by_value.setdefault(minted.value, []).append(minted)

    def _own(
        self,
        actor: int,
        entries: versions.Entries,
        mints: Sequence[versions.Value],
        held: Callable[[], Buffer | None],
    ) -> int:
        """The newest stamp of the minting actor that a write covers. What others have minted the set knows
        from them; of its own actor it may say what it has lost.
        """
        base = None if any(one.flags & versions.TOMBSTONE for one in mints) else held()
        # A delete has read what other replicas hold, too: its set is believed.
        known = entries if base is None else versions.decode(base)[0] if base else ()
        return dict(known).get(actor, 0)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A node writes what it lets the witness see: a full disk has taken nothing of it. What fails
        otherwise may be there after the next start.
        """
        count, newest = len(self.minted), dict(self._newest)
        try:
            yield
        except StorageFull:
            for one in self.minted[count:]:
                if not one.tombstone:
                    self.by_value[one.value].remove(one)
            del self.minted[count:]
            self._newest = newest
            raise


Held = Callable[[], Buffer | None]


def watch_data(
    engine: Any,
    see: Callable[[bytes, Buffer, Held], None],
    attempt: Callable[[], AbstractContextManager[None]],
) -> Any:
    """Have a data engine looked at, in which coordinators mint; all else stays its own."""
    write, read = engine.write_batch, engine.read_batch

    def stored(key: bytes) -> Buffer:
        """What a read shows: nothing, too, where it cannot be read."""
        found: Buffer = read(1, key).data
        return found

    def write_batch(count: int, digests: Buffer, *arrays: Buffer) -> int:
        latest: dict[bytes, Buffer] = {}
        keys = memoryview(digests).cast("B")
        with attempt():
            for index, name, encoded in _written(count, *arrays[:5]):
                key = bytes(keys[DIGEST_BYTES * index : DIGEST_BYTES * (index + 1)])
                # Of two writes of a key the second one replaces the first.
                held = partial(latest.get, key) if key in latest else partial(stored, key)
                see(name, encoded, held)
                latest[key] = encoded
            ticket: int = write(count, digests, *arrays)
        return ticket

    engine.write_batch = write_batch
    return engine


def watch_hints(
    engine: Any,
    see: Callable[[bytes, Buffer, bytes], None],
    attempt: Callable[[], AbstractContextManager[None]],
) -> Any:
    """Have an engine of hints looked at, in which a fallback mints. It stays itself: its store asks which
    engine it has.
    """
    write = engine.write_batch

    def write_batch(count: int, digests: Buffer, *arrays: Buffer) -> int:
        with attempt():
            for _, name, encoded in _written(count, *arrays[:5]):
                # The ledger of hints has no name.
                if name and (hint := hint_format.decode(bytes(encoded))).set:
                    see(name, hint.set, hint.digest)
            ticket: int = write(count, digests, *arrays)
        return ticket

    engine.write_batch = write_batch
    return engine


def watch_deliveries(store: Any, see: Callable[[Sequence[Hint]], None]) -> None:
    """Have hints looked at that are about to go from a ``HintStore``, since their owner has taken them."""
    delivered = store.delivered

    def look(hints: Sequence[Hint]) -> int:
        see(hints)
        gone: int = delivered(hints)
        return gone

    store.delivered = look


def _written(
    count: int,
    names: Buffer,
    name_starts: Buffer,
    name_lengths: Buffer,
    values: Buffer,
    value_offsets: Buffer,
) -> Iterator[tuple[int, bytes, memoryview]]:
    """(index, name, value) of what a batch writes."""
    offsets = memoryview(value_offsets).cast("B").cast("q")
    starts = memoryview(name_starts).cast("B").cast("q")
    lengths = memoryview(name_lengths).cast("B").cast("q")
    data, text = memoryview(values).cast("B"), memoryview(names).cast("B")
    for index in range(count):
        if offsets[index] < offsets[index + 1]:
            start = starts[index]
            name = bytes(text[start : start + lengths[index]])
            yield index, name, data[offsets[index] : offsets[index + 1]]
