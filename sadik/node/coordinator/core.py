"""What every kind of request shares: the view it takes, what it needs, who is asked, and the own replica's
part.

Where none of a key's primaries can be reached, the own replica is the store of hints (``apply_as_fallback``,
``keep_records``): what is written there waits for its owners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sadik.comms.service import Peers
from sadik.config import NodeConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.errors import LimitReached, Overloaded, QuorumMissed, SadikError, StorageError
from sadik.ids import NodeId
from sadik.kernels import replica, resp, versions
from sadik.members.view import NOBODY, View
from sadik.node.buckets import Bucket, BucketRegistry
from sadik.node.coordinator.flight import Flights
from sadik.node.coordinator.instruments import CoordinatorInstruments
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import FAILED
from sadik.node.coordinator.quorum import Needs, Uniform, needs_of
from sadik.node.coordinator.under_way import Flight, Local
from sadik.node.coordinator.uniforms import Uniforms
from sadik.node.items import Item, Named
from sadik.node.operations import DIGEST_BYTES, Operations
from sadik.node.records import Record
from sadik.node.repair.hints import HintStore
from sadik.node.vnode import Applied, Vnodes
from sadik.storage.engine import ABSENT, STORED, ReadBatch
from sadik.storage.service import SyncService


class Targets(NamedTuple):
    """Who has to do with each operation of a batch, as node numbers of the view.

    Attributes:
        primaries: uint16, shape (count, n).
        reachable: The same with stand-ins for those that are down, NOBODY where there is none.
        coordinators: uint16, shape (count,).
    """

    primaries: npt.NDArray[np.uint16]
    reachable: npt.NDArray[np.uint16]
    coordinators: npt.NDArray[np.uint16]

    def of(self, chosen: npt.NDArray[np.intp]) -> Targets:
        """Those of some of the operations."""
        return Targets(self.primaries[chosen], self.reachable[chosen], self.coordinators[chosen])


class FallbackMint:
    """Mints for records of keys that this node keeps for others (``records.Mint``)."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def actor(self) -> int:
        return self._core.fallback_actor

    @property
    def horizon(self) -> int:
        return self._core.vnodes.horizon

    def stamp_above(self, stamp: int) -> int:
        return self._core.vnodes.stamp_above(stamp)


class Core:
    """Attributes:
    view: The layout and who is up.
    fallback_actor: Mints where this node coordinates as none of the primaries.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        config: NodeConfig,
        vnodes: Vnodes,
        buckets: BucketRegistry,
        sync: SyncService,
        peers: Peers,
        view: View,
        hints: HintStore,
        hint_sync: SyncService,
        clock: Clock,
        entropy: Entropy,
        instruments: CoordinatorInstruments,
    ) -> None:
        self.node = node
        self.vnodes = vnodes
        self.buckets = buckets
        self.sync = sync
        self.peers = peers
        self.hints = hints
        self.hint_sync = hint_sync
        self.clock = clock
        self.instruments = instruments
        self.config = config
        self._entropy = entropy
        self.fallback_actor = random_uint64(entropy)
        self._fallback_mint = FallbackMint(self)
        hints.whole_taken_away = self._redraw_fallback_actor
        self.flights = Flights(
            links=peers,
            hints=hints,
            vnodes=vnodes,
            wait_for_disk=sync.wait,
            wait_for_hints=hint_sync.wait,
            clock=clock,
            instruments=instruments,
        )
        self.on_view(view)

    def on_view(self, view: View) -> None:
        """The layout, or who is up, has changed."""
        self.view = view
        self._uniforms = Uniforms(view)

    def _redraw_fallback_actor(self) -> None:
        # It may have minted in what is gone now (DESIGN 3).
        self.fallback_actor = random_uint64(self._entropy)

    def needs(self, bucket: Bucket, options: Options | None) -> Needs:
        return needs_of(bucket.properties, options, self.view.effective_n(bucket.properties.n))

    def uniform(self, operations: Operations, options: Options | None) -> Uniform | None:
        """What a batch needs, where all of its operations need the same of the same replicas, and can get it
        now; else None.
        """
        found = self._uniforms.of(operations.count, operations.spans, operations.digests, options)
        if found is None or self.flights.bytes_held > self.config.peers.in_flight_bytes_max:
            return None
        if (found.down and self.hints.full) or not found.writable:
            writing = operations.kinds.find(resp.SET, 0, operations.count) >= 0
            return None if writing else found
        return found

    def deadline(self, options: Options | None) -> int:
        return self.clock.monotonic_ns() + self.timeout_ms(options) * 1_000_000

    def timeout_ms(self, options: Options | None) -> int:
        asked = None if options is None else options.timeout_ms
        return self.config.limits.request_timeout_ms if asked is None else asked

    def targets(self, operations: Operations) -> Targets:
        """Primaries and who is asked in their place (count, n), and the coordinator, of each operation."""
        view, count = self.view, operations.count
        partitions = view.partitions_of(count, operations.digests)
        tables = [view.targets(span.bucket.properties.n) for span in operations.spans]
        if len(tables) == 1:
            one = tables[0]
            return Targets(one.primaries[partitions], one.reachable[partitions], one.coordinator[partitions])
        width = max(table.n for table in tables)
        primaries = np.full((count, width), NOBODY, np.uint16)
        reachable = np.full((count, width), NOBODY, np.uint16)
        coordinators = np.full(count, NOBODY, np.uint16)
        for span, table in zip(operations.spans, tables, strict=True):
            rows = partitions[span.first : span.stop]
            primaries[span.first : span.stop, : table.n] = table.primaries[rows]
            reachable[span.first : span.stop, : table.n] = table.reachable[rows]
            coordinators[span.first : span.stop] = table.coordinator[rows]
        return Targets(primaries, reachable, coordinators)

    def refusal(
        self,
        targets: Targets,
        need: npt.NDArray[np.int16],
        need_primary: npt.NDArray[np.int16],
        index: int,
    ) -> QuorumMissed:
        """Why operation ``index`` cannot be done now."""
        view = self.view
        row, stand_ins = targets.primaries[index].tolist(), targets.reachable[index].tolist()
        live = sum(number != NOBODY for number in stand_ins)
        reasons = tuple(
            (str(view.nodes[number]), "down")
            for number, stand_in in zip(row, stand_ins, strict=True)
            if number not in (NOBODY, stand_in)
        )
        required, what = int(need[index]), "replicas"
        own = sum(number == stand_in != NOBODY for number, stand_in in zip(row, stand_ins, strict=True))
        if live >= required and own < need_primary[index]:
            live, required, what = own, int(need_primary[index]), "primaries"
        why = "; hints are full" if live >= required and self.hints.full else ""
        return QuorumMissed(
            f"{live} of {required} {what} can be reached{why}; nothing was done",
            required=required,
            received=0,
            reasons=reasons,
        )

    def record(self, bucket: bytes, key: bytes) -> Record:
        """What this node holds of one address."""
        (record,) = self.records([(self.buckets.get(bucket), key)], {}).values()
        return record

    def records(
        self, wanted: Sequence[tuple[Bucket, bytes]], others: Mapping[bytes, bytes]
    ) -> dict[tuple[bytes, bytes], Record]:
        """What this node holds, merged with ``others`` (sets by digest); as ``Vnodes.records``.

        Where it is none of the primaries that is also what it keeps for them: a write that did not see it
        would drop it as seen. And the write is minted by the fallback's actor, as what it adds to is.
        """
        if self.view.alone:
            return self.vnodes.records(wanted, others)
        strange = self._not_ours(wanted)
        if strange and self.hints.has_sets:
            kept = zip(strange, self.hints.sets_for(list(strange)), strict=True)
            others = dict(others)
            others.update({key: versions.merge(others.get(key, b""), one) for key, one in kept if one})
        records = self.vnodes.records(wanted, others)
        for record in records.values() if strange else ():
            if record.digest in strange:
                record.mint = self._fallback_mint
        return records

    def _not_ours(self, wanted: Sequence[tuple[Bucket, bytes]]) -> dict[bytes, None]:
        """Digests of those that this node is no primary of."""
        view = self.view
        if all(view.me >= 0 and view.targets(bucket.properties.n).everywhere for bucket, _ in wanted):
            return {}
        found: dict[bytes, None] = {}
        for bucket, key in wanted:
            named = Named.of(bucket, key)
            primaries = view.targets(bucket.properties.n).primaries[view.partition_of(named.digest)]
            if not (primaries == view.me).any():
                found[named.digest] = None
        return found

    def overloaded(self) -> Overloaded | None:
        """The refusal of new requests while too many wait for other nodes."""
        if self.flights.bytes_held <= self.config.peers.in_flight_bytes_max:
            return None
        return Overloaded("too many requests wait for other nodes; try again later")

    def local(self, operations: Operations, applied: Applied) -> Local:
        """What our replica did, as a flight wants it."""
        prints = self.vnodes.fingerprints(operations, applied)
        ticket = applied.ticket
        if ticket and not self.sync.pending(ticket):
            ticket = 0
        return _local(operations, applied, prints.after, ticket)

    def patched(self, flight: Flight) -> bytes | bytearray:
        """Values, with those of reads that other replicas changed in the place of our own."""
        local = flight.local
        if not flight.merged:
            return local.values
        values = bytearray(local.values)
        now_ms = self.clock.wall_ms()
        for index, merged in flight.merged.items():
            if local.status[index] > versions.NOTHING:
                continue
            bucket = next(span.bucket for span in flight.spans if index < span.stop)
            if index in flight.overtaken:
                value = self._newest_before(flight.base(index), merged, bucket.floor, now_ms)
            else:
                value = versions.newest(merged, bucket.floor, now_ms)
            local.status[index] = versions.NOTHING if value is None else versions.OK
            if value is not None:
                at = slice(8 * index, 8 * index + 8)
                local.value_start[at] = len(values).to_bytes(8, "little")
                local.value_length[at] = len(value.payload).to_bytes(8, "little")
                values += value.payload
        return values

    def _newest_before(self, base: bytes, merged: bytes, floor: int, now_ms: int) -> versions.Value | None:
        """What a read shows that later writes of its batch have overtaken at other replicas: the newest of
        what it saw here and what others wrote. A client's pipeline does not see its own future.
        """
        ours = (self.vnodes.actor, self.fallback_actor)
        latest = versions.stamp_max(base)
        entries, values = versions.decode(merged)
        # Deletes by others too: a tombstone hides what it is newer than.
        seen = {
            (value.actor, value.stamp): value
            for value in [*versions.decode(base)[1], *values]
            if value.actor not in ours or value.stamp <= latest
        }
        before = versions.encode(entries, [seen[dot] for dot in sorted(seen)])
        return versions.newest(before, floor, now_ms)

    def apply_as_fallback(self, operations: Operations, targets: Targets) -> Local:
        """The same on what this node keeps for others: none of the primaries can be reached.

        What is written are hints, minted under an actor of its own.
        """
        count = operations.count
        digests = [operations.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)] for i in range(count)]
        previous = bytearray(4 * count)
        resp.chain(count, operations.kinds, operations.digests, previous)
        held = self.hints.sets_for([bytes(one) for one in digests])
        offsets = np.concatenate(([0], np.cumsum([len(one) for one in held], dtype=np.int64))).tobytes()
        stored = ReadBatch(
            count,
            bytearray(STORED if one else ABSENT for one in held),
            b"".join(held),
            bytearray(offsets),
        )
        expires, floors = self.vnodes.lay_out(operations)
        result = versions.apply_batch(
            count,
            operations.kinds,
            previous,
            stored.status,
            stored.data,
            stored.offsets,
            operations.data,
            operations.payload_starts,
            operations.payload_lengths,
            expires,
            floors,
            self.fallback_actor,
            self.vnodes.hybrid.reserve(count),
            self.vnodes.hybrid.limit(),
            self.clock.wall_ms(),
        )
        applied = Applied(count, result, 0, None, stored, previous)
        ticket = 0
        if result.stamp_last:
            self.vnodes.hybrid.advance(result.stamp_last)
            try:
                ticket = self._keep_as_hints(operations, result, targets)
            except StorageError as error:
                applied = applied._replace(error=error)
        prints = replica.fingerprints(
            count,
            operations.digests,
            previous,
            stored.status,
            stored.data,
            stored.offsets,
            result.sets,
            result.set_offsets,
        )
        pending = ticket if ticket and self.hint_sync.pending(ticket) else 0
        return _local(operations, applied, prints.after, pending)

    def _keep_as_hints(
        self,
        operations: Operations,
        result: versions.Applied,
        targets: Targets,
    ) -> int:
        offsets = memoryview(result.set_offsets).cast("q")
        starts = memoryview(operations.name_starts).cast("B").cast("q")
        lengths = memoryview(operations.name_lengths).cast("B").cast("q")
        data = memoryview(operations.data)
        made = [
            (
                row,
                (
                    bytes(operations.digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)]),
                    bytes(data[starts[row] : starts[row] + lengths[row]]),
                    bytes(result.sets[offsets[row] : offsets[row + 1]]),
                ),
            )
            for row in range(operations.count)
            if offsets[row + 1] > offsets[row]
        ]
        return self._keep(made, targets)

    def keep_records(self, records: list[Record], targets: Targets) -> int:
        """Records written here in the place of their primaries, as hints.

        Raises:
            StorageError: Not all of them; ``maybe_applied`` where some are.
        """
        made = [(row, (record.digest, record.name, record.stored)) for row, record in enumerate(records)]
        ticket = self._keep(made, targets)
        for record in records:
            record.changed = False
        return ticket

    def _keep(self, made: list[tuple[int, Item]], targets: Targets) -> int:
        """Keep sets, each with its row of ``targets``, for those in whose place this node is asked."""
        ticket = 0
        for row, item in made:
            owners, stand_ins = targets.primaries[row].tolist(), targets.reachable[row].tolist()
            mine = [one for one, number in zip(owners, stand_ins, strict=True) if number == self.view.me]
            for owner in mine or owners[:1]:
                try:
                    ticket = max(ticket, self.hints.add_sets(self.view.nodes[owner], [item]))
                except (StorageError, LimitReached) as error:
                    failed = error if isinstance(error, StorageError) else StorageError(str(error))
                    # What is kept will be delivered.
                    failed.maybe_applied |= bool(ticket)
                    raise failed from None
        return ticket


def _local(operations: Operations, applied: Applied, after: bytearray, pending: int) -> Local:
    result = applied.result
    local = Local(
        result.status,
        result.values,
        result.value_start,
        result.value_length,
        applied.stored,
        applied.previous,
        result.sets,
        result.set_offsets,
        after,
        pending,
    )
    if is_refused(applied):
        local.refused = True
        local.errors = mark_refused(operations, applied)
        if applied.error is not None:
            local.sets, local.set_offsets = b"", bytes(8 * (applied.taken + 1))
    return local


def is_refused(applied: Applied) -> bool:
    status = applied.result.status
    fine = status.count(versions.OK) + status.count(versions.NOTHING)
    return fine < len(status) or applied.error is not None


def mark_refused(operations: Operations, applied: Applied) -> dict[int, SadikError]:
    """Writes that were not stored fail; reads that saw them look again."""
    status = applied.result.status
    links = memoryview(applied.previous).cast("i")
    errors: dict[int, SadikError] = {}
    for index in range(applied.taken):
        if operations.kinds[index] == resp.SET:
            if applied.error is not None:
                status[index] = FAILED
                errors[index] = applied.error
        elif links[index] >= 0 and status[links[index]] != versions.OK:
            status[index] = versions.UNREADABLE
    return errors


def needed(operations: Operations, needs: list[Needs]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Replies needed by each operation, and how many of them from primaries."""
    counts = [span.stop - span.first for span in operations.spans]
    writes = np.frombuffer(operations.kinds, np.uint8, operations.count) == resp.SET

    def each(pairs: list[tuple[int, int]]) -> npt.NDArray[np.int16]:
        of_write = np.repeat(np.array([pair[0] for pair in pairs], np.int16), counts)
        return np.where(writes, of_write, np.repeat(np.array([pair[1] for pair in pairs], np.int16), counts))

    return each([(need.w, need.r) for need in needs]), each([(need.pw, need.pr) for need in needs])
