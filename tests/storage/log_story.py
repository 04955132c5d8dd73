"""A seeded story of a log engine on a simulated disk, and what must hold after its process or its machine
died in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from sadik.errors import StorageError, StorageFailed
from sadik.sim.files import CrashPoint, SimFiles
from sadik.storage.log_engine import LogEngine

DIRECTORY = "/data/log"
SEGMENT_BYTES = 4096
KEYS = 24


class Counting:
    """Entropy that is the same in every run and never repeats."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)


class StillClock:
    """A clock that stands."""

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic_ns(self) -> int:
        return 0


def open_log(
    files: SimFiles, *, seed: int = 0, segment_bytes: int = SEGMENT_BYTES, reserve: int = 0
) -> LogEngine:
    """The engine on the simulated disk, with small segments."""
    return LogEngine.open(
        DIRECTORY,
        files=files,
        clock=StillClock(),
        entropy=Counting(seed),
        partitions=4,
        segment_bytes_max=segment_bytes,
        reserve_bytes=reserve,
    )


def digest(number: int) -> bytes:
    """Evenly spread digests, the same every time."""
    return random.Random(number).randbytes(16)


def contents(engine: LogEngine) -> dict[bytes, bytes | None]:
    """Everything a scan gives; a value is None where it could not be read."""
    return {entry.digest: entry.value for entry in engine.scan(b"", b"\xff" * 16, 10_000)}


@dataclass
class Story:
    """Runs random operations and remembers, for each key, every state it went through.

    Attributes:
        written: For each key its states in order, None for absent; the last one is the newest handed over.
        durable: For each key, how many of these are known to be durable.
        unsure: For each key, a state whose write did not return: it may be there or not.
    """

    files: SimFiles
    seed: int
    engine: LogEngine | None = None
    written: dict[bytes, list[bytes | None]] = field(default_factory=dict)
    durable: dict[bytes, int] = field(default_factory=dict)
    unsure: dict[bytes, bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.number = 0

    def open(self) -> LogEngine:
        """Open the engine; what a death left open is settled by looking."""
        self.engine = open_log(self.files, seed=self.seed * 1000 + self.number)
        self.number += 1
        return self.engine

    def note_durable(self) -> None:
        """Everything handed over so far survives a power cut."""
        self.durable = {key: len(states) for key, states in self.written.items()}

    def run(self, steps: int) -> None:
        """Random operations on an open engine."""
        assert self.engine is not None, "open first"
        for _ in range(steps):
            self._step(self.engine)

    def _step(self, engine: LogEngine) -> None:
        choice = self.rng.random()
        if choice < 0.55:
            keys = [digest(self.rng.randrange(KEYS))]
            values = [self.rng.randbytes(self.rng.choice((0, 5, 60, 200)))]
            self._write(keys, values, lambda: engine.put(keys[0], b"name", values[0] or b""))
        elif choice < 0.65:
            keys = sorted({digest(self.rng.randrange(KEYS)) for _ in range(4)})
            values = [self.rng.randbytes(50) for _ in keys]
            items = [(key, b"name", value) for key, value in zip(keys, values, strict=True)]
            self._write(keys, values, lambda: engine.put_many(items))
        elif choice < 0.75:
            key = digest(self.rng.randrange(KEYS))
            self._write([key], [None], lambda: engine.remove(key))
        elif choice < 0.85:
            engine.sync()
            self.note_durable()
        elif choice < 0.99:
            engine.maintain(2000)
        else:
            engine.close()
            self.note_durable()
            self.open()

    def _write(self, keys: list[bytes], values: list[bytes] | list[None], call: Callable[[], int]) -> None:
        self.unsure = dict(zip(keys, values, strict=True))
        try:
            call()
        except StorageFailed:
            raise
        except StorageError:
            # Refused: nothing of it may be there.
            self.unsure = {}
            raise
        for key, value in self.unsure.items():
            self.written.setdefault(key, [None]).append(value)
        self.unsure = {}

    def check(self, engine: LogEngine, *, power_cut: bool) -> None:
        """Every key has a state it may have, by every way of reading; nothing is reported as damaged."""
        found = contents(engine)
        assert engine.losses == 0, engine.damages
        for number in range(KEYS):
            key = digest(number)
            states = self.written.get(key, [None])
            first = self.durable.get(key, 1) - 1 if power_cut else len(states) - 1
            allowed = states[first:] + ([self.unsure[key]] if key in self.unsure else [])
            assert found.get(key) in allowed, f"key {number}: {found.get(key)!r} is none of {allowed!r}"
            assert engine.get(key) == found.get(key)
        assert set(found) <= set(map(digest, range(KEYS)))
        self.written = {key: [value] for key, value in found.items()}
        self.written = {digest(n): [found.get(digest(n))] for n in range(KEYS)}
        self.durable = {}
        self.unsure = {}
        self.note_durable()


def run_until_death(story: Story, steps: int) -> bool:
    """Run; True when the process died on the way, False when it came to the end. The engine is left as it
    is.
    """
    with suppress(CrashPoint):
        story.open()
        story.run(steps)
        return False
    return True
