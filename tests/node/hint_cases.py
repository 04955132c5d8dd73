"""What the tests of hints share: a clock, keys, version sets, stores on any engine."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sadik.ids import NodeId
from sadik.kernels import digest, versions
from sadik.node.items import Item
from sadik.node.repair.hints import Hint, HintStore
from sadik.sim.files import SimFiles
from sadik.storage.engine import Engine
from sadik.storage.log_engine import LogEngine

NOON = 1_700_000_000_000
AGE_MS = 3 * 3600 * 1000
B, C = NodeId("b"), NodeId("c")


class Wall:
    """A clock that shows what the test says."""

    def __init__(self) -> None:
        self.now_ms = NOON

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ms * 1_000_000


class Seeded:
    """Entropy of a test."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def open_log(files: SimFiles, wall: Wall, seed: int = 1, *, segment_bytes: int = 1 << 20) -> LogEngine:
    """A log engine on a simulated disk."""
    return LogEngine.open(
        "/hints",
        files=files,
        clock=wall,
        entropy=Seeded(seed),
        partitions=1024,
        segment_bytes_max=segment_bytes,
        reserve_bytes=0,
    )


def store_on(
    engine: Engine,
    wall: Wall,
    *,
    bytes_max: int = 1 << 30,
    lost: list[tuple[str, bytes]] | None = None,
) -> HintStore:
    """A store; what it reports as lost goes to ``lost``."""

    def note(owner: str, prefix: bytes) -> None:
        if lost is not None:
            lost.append((owner, prefix))

    return HintStore(engine, wall, bytes_max=bytes_max, age_ms=AGE_MS, on_lost=note)


def name_of(number: int) -> bytes:
    return digest.address_name(b"default", b"key:%d" % number)


def key_of(number: int) -> bytes:
    return digest.digest(name_of(number))


def set_of(number: int, *, actor: int = 1, stamp: int = 1) -> bytes:
    """A version set of one value; sets of several actors are siblings."""
    payload = b"value %d of %d" % (number, actor)
    return versions.event(b"", (), actor, stamp, payload=payload)


def item_of(number: int, *, actor: int = 1, stamp: int = 1) -> Item:
    return key_of(number), name_of(number), set_of(number, actor=actor, stamp=stamp)


def add_keys(store: HintStore, owner: NodeId, numbers: Sequence[int]) -> int:
    """As the coordinator does: names as slices of what clients sent."""
    names = [name_of(number) for number in numbers]
    starts, at = [], 3
    for name in names:
        starts.append(at)
        at += len(name) + 2
    arena = b"///" + b"".join(name + b"\r\n" for name in names)
    return store.add_keys(
        owner,
        len(numbers),
        b"".join(key_of(number) for number in numbers),
        arena,
        b"".join(start.to_bytes(8, "little") for start in starts),
        b"".join(len(name).to_bytes(8, "little") for name in names),
    )


def take_all(store: HintStore, owner: NodeId, *, page: int = 3) -> list[Hint]:
    """A whole walk over an owner's hints."""
    hints: list[Hint] = []
    after = b""
    while True:
        found = store.take(owner, after, page, 1 << 30)
        if not found.more:
            return hints
        hints += found.hints
        after = found.after


def balance(store: HintStore) -> int:
    """Hints of which nobody can say what became of them; the law is that there are none."""
    totals = store.statistics()
    return totals.stored - totals.delivered - totals.expired - totals.dropped - totals.present
