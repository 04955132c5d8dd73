"""A perfect store, one version set per key, that records a history: what checkers must find nothing wrong
with, until a test spoils it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sadik.causality import VersionSet
from sadik.causality.context import context_key, encode_context
from sadik.kernels import digest
from sadik.sim.checkers import CHECKERS, Oracle, Violation
from sadik.sim.history import (
    End,
    Hints,
    History,
    NodeEnd,
    Operation,
    Owners,
    Phase,
    Root,
    Run,
    Seen,
    Session,
    Setup,
    StoredSet,
    encode_value,
)

NODES = ("n1", "n2", "n3")
CONTEXT_KEY = context_key("c")
WALL_MS = 1_800_000_000_000
STEP_MS = 10
KEY = b"k"


class ModelStore:
    """Operations one after another, each ``STEP_MS`` long; sessions are clients.

    Attributes:
        sets: The version set of each key.
        now_ms: When the next operation starts.
    """

    def __init__(self, setup: Setup | None = None) -> None:
        self.history = History(setup or Setup(nodes=NODES, detect_within_ms=1000))
        self.sets: dict[bytes, VersionSet] = {}
        self.now_ms = float(WALL_MS)
        self._stamp = WALL_MS << 16
        self._seqs: dict[int, int] = {}

    def read(self, key: bytes = KEY, **fields: Any) -> Operation:
        """A read of all values."""
        operation = self._operation(key, "read", fields)
        one = self.sets.get(key, VersionSet())
        operation.values = tuple(
            Seen(value.payload, value.stamp >> 16, value.expires_at_ms)
            for value in one.siblings(int(operation.start_ms))
        )
        operation.context = self._context(key, one)
        return self._done(operation, fields)

    def write(self, key: bytes = KEY, after: Operation | None = None, **fields: Any) -> Operation:
        """A write with the context of an earlier answer, or with none."""
        return self._write(key, "write", after, fields)

    def delete(self, key: bytes = KEY, after: Operation | None = None, **fields: Any) -> Operation:
        return self._write(key, "delete", after, fields)

    def blind(self, key: bytes = KEY, **fields: Any) -> Operation:
        """A write that replaces all that is there, and tells what that was."""
        return self._write(key, "blind", None, fields)

    def blind_delete(self, key: bytes = KEY, **fields: Any) -> Operation:
        return self._write(key, "blind_delete", None, fields)

    def refused(self, key: bytes = KEY, **fields: Any) -> Operation:
        """A write that does not happen."""
        operation = self._operation(key, "write", fields)
        operation.value = self._value(operation)
        operation.outcome, operation.reason = "refused", "UNAVAILABLE"
        return self._done(operation, fields)

    def finish(self, *, reads: bool = True) -> History:
        """The history, after a last read of every key."""
        healed_ms = self.now_ms
        self.now_ms += 1000
        self.history.add(Phase("final", self.now_ms, nodes=self.nodes))
        if reads:
            for key in self.sets:
                self.read(key, client=99, session=99)
        stored = [StoredSet.decode(key, one.encoded) for key, one in self.sets.items()]
        primaries = self.nodes[: self.history.setup.n]
        self.history.runs = [
            Run(node, WALL_MS - 1000, actors=(number,)) for number, node in enumerate(self.nodes, 1)
        ]
        self.history.end = End(
            healed_ms=healed_ms,
            equal_ms=healed_ms + 500,
            agreed_ms=healed_ms + 100,
            changed_ms=healed_ms,
            nodes=[
                NodeEnd(
                    *(node, [replace(one) for one in stored if node in primaries], "d" * 16, 2, self.nodes),
                    roots=(Root("0", 5, 5),),
                    hints=Hints(3, 3, 0, 0, 0),
                )
                for node in self.nodes
            ],
            owners=[Owners(key, primaries) for key in self.sets],
            partitions=[Owners(b"0", primaries)],
        )
        return self.history

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.history.setup.nodes

    def session(self, session: int) -> None:
        """What is done in this session has its guarantees."""
        self.history.add(Session(session))

    def _operation(self, key: bytes, kind: Any, fields: dict[str, Any]) -> Operation:
        client = fields.pop("client", 1)
        session = fields.pop("session", client)
        seq = self._seqs[client] = self._seqs.get(client, 0) + 1
        start_ms = fields.pop("start_ms", self.now_ms)
        end_ms = start_ms + STEP_MS / 2
        number = len(self.history.operations)
        operation = Operation(
            number, client, session, seq, key, kind, self.nodes[number % len(self.nodes)], start_ms, end_ms
        )
        operation.outcome = "done"
        self.now_ms = max(self.now_ms, start_ms + STEP_MS)
        return operation

    def _done(self, operation: Operation, fields: dict[str, Any]) -> Operation:
        for name, value in fields.items():
            setattr(operation, name, value)
        self.history.add(operation)
        return operation

    def _write(self, key: bytes, kind: Any, after: Operation | None, fields: dict[str, Any]) -> Operation:
        operation = self._operation(key, kind, fields)
        one = self.sets.get(key, VersionSet())
        self._stamp = max(self._stamp + 1, int(operation.start_ms) << 16)
        number = operation.number % len(self.nodes) + 1
        covers: Any = ()
        if operation.blind:
            operation.covered = tuple(one.entries)
            covers = None
        elif after is not None:
            covers = ENTRIES[after.context] if after.context else ()
            operation.context_given = after.context
            operation.context_of = fields.pop("context_of", after.number)
        if not operation.deletes:
            operation.value = self._value(operation)
        ttl_ms = fields.get("ttl_ms", -1)
        made = self.sets[key] = one.event(
            actor=number,
            stamp=self._stamp,
            payload=operation.value or b"",
            covers=covers,
            deleted=operation.deletes,
            expires_at_ms=-1 if ttl_ms < 0 else int(operation.start_ms + ttl_ms),
        )
        operation.dots = ((number, self._stamp),)
        operation.primaries = self.nodes[:2]
        live = made.siblings(int(operation.start_ms))
        if not operation.blind and len(live) <= (0 if operation.deletes else 1):
            operation.context = self._context(key, made)
        return self._done(operation, fields)

    def _value(self, operation: Operation) -> bytes:
        return encode_value(operation.client, operation.seq, operation.key, 40)

    def _context(self, key: bytes, one: VersionSet) -> bytes:
        text = encode_context(one.context, digest.digest(key), CONTEXT_KEY)
        ENTRIES[text] = one.context
        return text


ENTRIES: dict[bytes, Any] = {}
"""What the contexts made here stand for."""


def found(history: History, invariant: str) -> list[Violation]:
    """What the checker of an invariant finds."""
    checker = CHECKERS["G1-G4" if invariant in ("G1", "G2", "G3", "G4") else invariant]
    return [one for one in checker(Oracle(history)) if one.invariant == invariant]


def invariants(violations: Iterable[Violation]) -> list[str]:
    return sorted({one.invariant for one in violations})


def spoil_sets(history: History, node: str, change: Callable[[StoredSet], StoredSet | None]) -> None:
    """Change, or take away, what a node holds at the end."""
    assert history.end is not None
    for one in history.end.nodes:
        if one.node == node:
            one.sets = [new for new in map(change, one.sets) if new is not None]
