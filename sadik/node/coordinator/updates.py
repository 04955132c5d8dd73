"""Records over the replicas: reads with R answers, and commits to W of them, for everything that needs the
old value."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sadik.errors import LimitReached, SadikError, StorageError, Unavailable
from sadik.kernels import resp, versions
from sadik.members.view import NOBODY
from sadik.node.coordinator.core import Core, Targets, needed
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.quorum import Needs, Uniform
from sadik.node.coordinator.under_way import Flight, Local
from sadik.node.items import Named
from sadik.node.operations import DIGEST_BYTES, Operations, Span
from sadik.node.records import Record
from sadik.storage.engine import ABSENT, ERROR, STORED, ReadBatch

Address = tuple[bytes, bytes]
"""(bucket, key)."""


class RecordRequests:
    """Reads and commits records."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def read(
        self,
        addresses: Sequence[Address],
        options: Options,
        done: Callable[[dict[Address, Record] | SadikError], None],
        *,
        quorum: bool = True,
    ) -> None:
        """Read keys with R replies each, merged with what is here at the moment of ``done``.

        Whoever calls ``commit`` from within ``done`` writes on what was read: nothing comes in between.

        Args:
            quorum: False reads here alone, for writes that do not look at the old value. True on a one-node
                cluster is the same.
        """
        try:
            wanted = [(self._core.buckets.get(bucket), key) for bucket, key in addresses]
            here = self._core.records(wanted, {}) if self._core.view.alone or not quorum else None
            named = {(bucket.name, key): Named.of(bucket, key) for bucket, key in wanted if here is None}
        except SadikError as failure:
            done(failure)
            return
        if here is not None:
            done(here)
            return
        if not named:
            done({})
            return
        operations = _operations_of(list(named.values()), resp.GET)

        def sink(flight: Flight) -> None:
            if flight.local.errors:
                done(next(iter(flight.local.errors.values())))
                return
            others = {flight.digest(index): merged for index, merged in flight.merged.items()}
            for index in range(flight.count):
                if flight.local.stored.status[index] == ERROR:
                    # Enough others have answered: what they know is what is known.
                    others.setdefault(flight.digest(index), b"")
            try:
                records = self._core.records(wanted, others)
            except SadikError as failure:
                done(failure)
                return
            done(records)

        self._read(operations, options, self._core.deadline(options), sink, done)

    def _read(
        self,
        operations: Operations,
        options: Options,
        deadline_ns: int,
        sink: Callable[[Flight], None],
        refuse: Callable[[SadikError], None],
    ) -> None:
        """A flight of reads from here, whoever the primaries are."""
        overloaded = self._core.overloaded()
        if overloaded is not None:
            refuse(overloaded)
            return
        started_ns = self._core.clock.monotonic_ns()
        count = operations.count
        uniform = self._core.uniform(operations, options)
        routed = None
        if uniform is not None:
            own = [uniform.here] * count
        else:
            needs, targets = routed = self._routed(operations, options)
            primaries, reachable, coordinators = targets
            need, need_primary = needed(operations, needs)
            live = reachable != NOBODY
            short = (live.sum(axis=1) < need) | ((live & (reachable == primaries)).sum(axis=1) < need_primary)
            # A node without a layout needs nobody's answer, and has none.
            short |= coordinators == NOBODY
            if short.any():
                refuse(self._core.refusal(targets, need, need_primary, int(np.flatnonzero(short)[0])))
                return
            me = self._core.view.me
            own = ((primaries == me) | (reachable == me)).any(axis=1).tolist()
        digests = [bytes(operations.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)]) for i in range(count)]
        sets = self._own_sets(digests) if any(own) else [b""] * count
        if len(sets) < count:
            refuse(self._core.vnodes.too_much())
            return
        # What this node holds of keys that are not its own says nothing.
        held = [one if mine else b"" for one, mine in zip(sets, own, strict=True)]
        status = bytearray(ERROR if one is None else STORED if one else ABSENT for one in held)
        readable = [one or b"" for one in held]
        offsets = np.concatenate(([0], np.cumsum([len(one) for one in readable], dtype=np.int64)))
        stored = ReadBatch(count, status, b"".join(readable), bytearray(offsets.astype(np.int64).tobytes()))
        prints = np.array(
            [versions.fingerprint(key, one) for key, one in zip(digests, readable, strict=True)], np.uint64
        )
        nothing = bytearray(8 * (count + 1))
        local = Local(
            bytearray(count), b"", nothing, nothing, stored, None, b"", nothing, prints.tobytes(), 0
        )
        flight = Flight(operations, local, sink, started_ns, deadline_ns)
        if uniform is not None and ERROR not in status:
            self._core.flights.launch_uniform(flight, uniform)
        else:
            needs, targets = routed or self._routed(operations, options)
            self._core.flights.launch(flight, self._core.view, needs, targets[:2])

    def _routed(self, operations: Operations, options: Options) -> tuple[list[Needs], Targets]:
        """What each span needs, and where each operation goes."""
        needs = [self._core.needs(span.bucket, options) for span in operations.spans]
        return needs, self._core.targets(operations)

    def _own_sets(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """What this node holds, what it keeps for others included; fewer where that is more than may be
        read.
        """
        sets = self._core.vnodes.sets(digests, self._core.vnodes.read_bytes_max)
        if not self._core.hints.has_sets:
            return sets
        return [
            mine if not kept else versions.merge(mine or b"", kept)
            for mine, kept in zip(sets, self._core.hints.sets_for(digests[: len(sets)]), strict=True)
        ]

    def commit(
        self,
        records: Iterable[Record],
        options: Options,
        done: Callable[[SadikError | None], None],
    ) -> None:
        """Store what changed here now; ``done`` once W replicas have it as durably as promised, or with an
        error.

        The keys are coordinated here (``route``). ``done`` is called before this returns where there is
        nothing to wait for.
        """
        changed = [record for record in records if record.changed]
        if not changed:
            done(None)
            return
        if self._core.view.alone:
            self._commit_alone(changed, done)
            return
        named = [
            Named(self._core.buckets.get(record.bucket), record.key, record.name, record.digest)
            for record in changed
        ]
        operations = _operations_of(named, resp.SET)
        uniform = self._core.uniform(operations, options)
        if uniform is not None and uniform.here:
            self._commit_uniform(changed, operations, uniform, self._core.deadline(options), done)
            return
        needs, targets = self._routed(operations, options)
        refusal = self._commit_refusal(operations, needs, targets)
        if refusal is not None:
            done(refusal)
            return
        own = (targets.primaries == self._core.view.me).any(axis=1)
        deadline_ns = self._core.deadline(options)
        # Held by this method itself until everything is launched.
        waiting = 1
        launched = False
        worst: SadikError | None = None

        def settle(errors: Iterable[SadikError]) -> None:
            nonlocal waiting, worst
            for error in errors:
                if worst is None or not getattr(worst, "maybe_applied", False):
                    worst = error
            waiting -= 1
            if not waiting:
                done(worst)

        for fallback, chosen in enumerate((np.flatnonzero(own), np.flatnonzero(~own))):
            if not len(chosen):
                continue
            waiting += 1
            mine = [changed[index] for index in chosen.tolist()]
            started_ns = self._core.clock.monotonic_ns()
            try:
                if fallback:
                    ticket = self._core.keep_records(mine, targets.of(chosen))
                    pending = ticket if ticket and self._core.hint_sync.pending(ticket) else 0
                else:
                    ticket = self._core.vnodes.commit(mine)
                    pending = ticket if self._core.sync.pending(ticket) else 0
            except (StorageError, LimitReached) as error:
                # What was done before stands, if anything was: the answer is about the whole.
                if launched and isinstance(error, StorageError):
                    error.maybe_applied = True
                settle((error,))
                continue
            part = operations.pick(chosen)
            flight = Flight(
                part,
                _written(mine, pending),
                lambda flight: settle(flight.local.errors.values()),
                started_ns,
                deadline_ns,
            )
            launched = True
            left = [
                need
                for need, span in zip(needs, operations.spans, strict=True)
                if ((chosen >= span.first) & (chosen < span.stop)).any()
            ]
            self._core.flights.launch(
                flight,
                self._core.view,
                left,
                targets.of(chosen)[:2],
                fallback=bool(fallback),
            )
        settle(())

    def _commit_uniform(
        self,
        changed: list[Record],
        operations: Operations,
        uniform: Uniform,
        deadline_ns: int,
        done: Callable[[SadikError | None], None],
    ) -> None:
        """Here first, then to the other primaries."""
        started_ns = self._core.clock.monotonic_ns()
        try:
            ticket = self._core.vnodes.commit(changed)
        except StorageError as error:
            done(error)
            return

        def sink(flight: Flight) -> None:
            # The worst: one that says that something may have been applied.
            failed = sorted(
                flight.local.errors.values(), key=lambda error: not getattr(error, "maybe_applied", False)
            )
            done(failed[0] if failed else None)

        pending = ticket if self._core.sync.pending(ticket) else 0
        flight = Flight(operations, _written(changed, pending), sink, started_ns, deadline_ns)
        self._core.flights.launch_uniform(flight, uniform)

    def _commit_alone(self, changed: list[Record], done: Callable[[SadikError | None], None]) -> None:
        try:
            ticket = self._core.vnodes.commit(changed)
        except StorageError as error:
            done(error)
            return
        if self._core.sync.pending(ticket):
            self._core.sync.wait(ticket, done)
        else:
            done(None)

    def _commit_refusal(
        self,
        operations: Operations,
        needs: list[Needs],
        targets: Targets,
    ) -> SadikError | None:
        """Why nothing may be written, None when it may."""
        overloaded = self._core.overloaded()
        if overloaded is not None:
            return overloaded
        primaries, reachable, coordinators = targets
        need, need_primary = needed(operations, needs)
        live = reachable != NOBODY
        short = (live.sum(axis=1) < need) | ((live & (reachable == primaries)).sum(axis=1) < need_primary)
        if self._core.hints.full:
            short |= (reachable != primaries).any(axis=1)
        if short.any():
            return self._core.refusal(targets, need, need_primary, int(np.flatnonzero(short)[0]))
        if (coordinators != self._core.view.me).any():
            return Unavailable("the layout, or who is up, has just changed; nothing was done, try again")
        return None


def _operations_of(named: Sequence[Named], kind: int) -> Operations:
    """Reads, or writes whose sets come from elsewhere, of single addresses."""
    lengths = [len(one.name) for one in named]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    data = b"".join(one.name for one in named)
    spans: list[Span] = []
    for index, one in enumerate(named):
        if spans and spans[-1].bucket.name == one.bucket.name:
            spans[-1] = spans[-1]._replace(stop=index + 1)
        else:
            spans.append(Span(index, index + 1, one.bucket))
    nothing = bytes(8 * len(named))
    return Operations(
        len(named),
        bytes((kind,)) * len(named),
        data,
        len(data),
        array("q", starts[:-1]).tobytes(),
        array("q", lengths).tobytes(),
        nothing,
        nothing,
        b"\xff" * (8 * len(named)),
        b"".join(one.digest for one in named),
        spans,
    )


def _written(records: Sequence[Record], pending: int) -> Local:
    """Records just stored here, as a flight wants them."""
    count = len(records)
    offsets = [0]
    for record in records:
        offsets.append(offsets[-1] + len(record.stored))
    nothing = bytearray(8 * (count + 1))
    return Local(
        bytearray(count),
        b"",
        nothing,
        nothing,
        ReadBatch(count, bytearray((ABSENT,)) * count, b"", nothing),
        None,
        b"".join(record.stored for record in records),
        array("q", offsets).tobytes(),
        bytes(8 * count),
        pending,
    )
