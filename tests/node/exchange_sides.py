"""Two nodes of an exchange without a network: stores that can rot, and a talk between them that a test
listens to.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from sadik.causality.clock import HybridClock
from sadik.kernels import digest, versions
from sadik.node.buckets import BucketProperties, BucketRegistry
from sadik.node.items import Item
from sadik.node.repair.exchange.answers import Answers
from sadik.node.repair.exchange.comparison import Ask, Comparison, Pause, Progress
from sadik.node.repair.exchange.holdings import Holdings
from sadik.node.repair.trees import Trees
from sadik.node.vnode import Vnodes
from sadik.storage.engine import Entry
from sadik.storage.memory_engine import MemoryEngine
from sadik.storage.record_engine import Record, Unreadable

NOON = 1_700_000_000_000
STAMP = NOON << 16
BUCKET = b"three"
LAST = b"\xff" * 16


class Wall:
    """A clock that stands still."""

    def wall_ms(self) -> int:
        return NOON

    def monotonic_ns(self) -> int:
        return 0


class Seeded:
    """Entropy of a test."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class Disk(MemoryEngine):
    """A memory engine in which records can rot; writing one anew heals it."""

    def __init__(self) -> None:
        super().__init__()
        self.rotten: set[bytes] = set()

    def _fetch(self, digests: Iterable[bytes]) -> Iterator[Record | Unreadable | None]:
        keys = list(digests)
        for key, record in zip(keys, super()._fetch(keys), strict=True):
            yield Unreadable("rotten") if key in self.rotten else record

    def _walk(self, after: bytes, stop: bytes, count: int, bytes_max: int) -> list[Entry]:
        return [
            entry._replace(name=b"", value=None) if entry.digest in self.rotten else entry
            for entry in super()._walk(after, stop, count, bytes_max)
        ]

    def _apply(self, changes: Sequence[tuple[bytes, Record | None]]) -> None:
        super()._apply(changes)
        self.rotten.difference_update(key for key, _ in changes)


def address(key: int, bucket: bytes = BUCKET) -> bytes:
    return digest.digest(name_of(key, bucket))


def name_of(key: int, bucket: bytes = BUCKET) -> bytes:
    return digest.address_name(bucket, b"key %d" % key)


def value(actor: int, stamp: int, payload: bytes = b"x", *, flags: int = 0) -> versions.Value:
    return versions.Value(actor, STAMP + stamp, flags, 0, -1, b"", payload)


def one(actor: int, stamp: int, payload: bytes = b"x") -> bytes:
    """A version set of one value."""
    return versions.encode([(actor, STAMP + stamp)], [value(actor, stamp, payload)])


class Side:
    """One node: its store, its trees, and both halves of an exchange. Buckets "two" and "three" have that
    n.
    """

    def __init__(self, seed: int = 0, *, partition_bits: int = 3) -> None:
        self.engine = Disk()
        self.buckets = BucketRegistry(self.engine)
        for name, n in ((b"two", 2), (b"three", 3)):
            self.buckets.for_write(name).properties = BucketProperties(n=n)
        wall = Wall()
        self.vnodes = Vnodes(
            self.engine,
            self.buckets,
            clock=wall,
            hybrid=HybridClock(wall, node="a"),
            entropy=Seeded(seed),
            batch_capacity=16,
            read_bytes_max=1 << 20,
            horizon=0,
            clock_offset_max_ms=500,
        )
        self.trees = Trees(partition_bits)
        self.vnodes.trees = self.trees
        self.layout = 7
        self.facts = b"facts"
        self.settle: Callable[[bytes, bytes], bytes] = lambda name, stored: stored
        self.holdings = Holdings(
            self.engine,
            self.buckets.get,
            self.trees,
            self.merge,
            lambda name, stored: self.settle(name, stored),
        )
        self.answers = Answers(self.holdings, lambda: self.layout, lambda: self.facts)
        self.build()

    def build(self) -> None:
        while self.trees.build_step(self.engine, self.buckets.get):
            pass

    def merge(self, items: Sequence[Item]) -> bytes:
        return bytes(self.vnodes.merge_items(items).status)

    def put(self, key: int, stored: bytes, bucket: bytes = BUCKET) -> None:
        """Merge a version set into what is there, as a write from elsewhere does."""
        self.merge([(address(key, bucket), name_of(key, bucket), stored)])

    def fill(self, keys: Iterable[int], payload: bytes = b"x") -> None:
        """The same first write of each key on every side."""
        numbers = list(keys)
        for at in range(0, len(numbers), 1000):
            part = numbers[at : at + 1000]
            self.merge([(address(key), name_of(key), one(1, key, payload)) for key in part])

    def lose(self, key: int) -> None:
        """The record is gone, and the trees know: as after a lost tail and a start."""
        stored = self.engine.get(address(key)) or b""
        self.engine.remove(address(key))
        self.trees.update(
            3, 1, address(key), array("Q", [versions.fingerprint(address(key), stored)]), array("Q", [0])
        )

    def get(self, key: int, bucket: bytes = BUCKET) -> bytes | None:
        """What is stored; None when it cannot be read."""
        if address(key, bucket) in self.engine.rotten:
            return None
        return self.engine.get(address(key, bucket)) or b""

    def contents(self) -> dict[bytes, int]:
        """Fingerprint of each key; those of nothing visible left out."""
        found = {
            entry.digest: versions.fingerprint(entry.digest, entry.value or b"")
            for entry in self.engine.scan(b"", LAST, 1 << 30)
        }
        return {key: fingerprint for key, fingerprint in found.items() if fingerprint}

    def roots(self, n: int = 3) -> bytes:
        return self.trees.roots(n, array("I", range(self.trees.partitions)))


class Talk:
    """An exchange from ``asker`` to ``asked``.

    Attributes:
        payloads: All that went over the wire, in order; the questions alone are in questions.
        on_pause: Called at each pause, with how many there were before.
        distort: What becomes of each reply on its way.
        pushed: Keys that the asker pushed.
    """

    def __init__(self, asker: Side, asked: Side) -> None:
        self.asker = asker
        self.asked = asked
        self.payloads: list[bytes] = []
        self.questions: list[bytes] = []
        self.pauses = 0
        self.pushed: list[bytes] = []
        self.progress = Progress()
        self.on_pause: Callable[[int], None] = lambda count: None
        self.distort: Callable[[bytes], bytes] = lambda reply: reply
        self.shared: Callable[[int], Sequence[int]] = lambda n: range(asker.trees.partitions)

    def run(self) -> Progress:
        comparison = Comparison(
            self.asker.holdings,
            layout=self.asker.layout,
            facts=self.asker.facts,
            shared=lambda n: self.shared(n),
            progress=self.progress,
        )
        steps = comparison.steps()
        given: bytes | None = None
        while True:
            try:
                step = next(steps) if given is None else steps.send(given)
            except StopIteration:
                self.refusal = comparison.refusal
                return self.progress
            if isinstance(step, Ask):
                reply = self.asked.answers.answer(step.payload)
                self.questions.append(step.payload)
                self.payloads += [step.payload, reply]
                given = self.distort(reply)
            elif isinstance(step, Pause):
                self.on_pause(self.pauses)
                self.pauses += 1
                given = b""
            else:
                self.pushed += [key for key, _, _ in step.items]
                self.payloads.append(b"".join(name + stored for _, name, stored in step.items))
                given = bytes(0 if status < 2 else status for status in self.asked.merge(step.items))

    @property
    def wire_bytes(self) -> int:
        return sum(len(payload) for payload in self.payloads)
