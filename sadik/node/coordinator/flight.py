"""Batches under way to other replicas: frames out, replies in, answers as soon as quorums are there.

A *flight* is one batch that this node coordinates. It is answered once every operation is decided, and goes
on until every replica has answered or is given up: then what reads found stale is repaired, and what writes
could not deliver is kept as hints. Per batch there are a few objects; per operation there are array elements.

On the usual path (all operations need the same of the same replicas) two integers count the replies.
Anything uneven, a lost replica or a refusal, turns them into a ``Tally``.

Pure of the event loop: called with replies, lost links, finished syncs and ticks. Each of these works on the
counts of the same batch and may be the one that decides it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from sadik.comms.messages import BULK, DATA, Kind
from sadik.comms.transport import Frame
from sadik.env.clock import Clock
from sadik.errors import LimitReached, ProtocolError, SadikError, StorageError, StorageFailed
from sadik.ids import NodeId
from sadik.kernels import frames, packets, replica, resp, versions
from sadik.kernels.buffers import Buffer
from sadik.members.view import View
from sadik.node.coordinator.differences import READS_HEADER, decode_differences, find_stale
from sadik.node.coordinator.instruments import CoordinatorInstruments
from sadik.node.coordinator.quorum import Needs, Tally, Uniform
from sadik.node.coordinator.under_way import HINT, READ_REPAIR, WRITE, Flight, Indices, Sent
from sadik.node.items import Item, encode_items
from sadik.node.operations import DIGEST_BYTES, named_spans
from sadik.node.vnode import Vnodes

log = logging.getLogger("sadik.coordinator")

NOBODY = 0xFFFF
_READ_STATUS = {replica.UNREADABLE: "cannot read its record"}
_WRITE_STATUS = {
    replica.INVALID: "took the version set for invalid",
    replica.LIMIT: "would exceed the limit of a version set",
    replica.CLOCK: "its clock is too far behind the stamp",
    5: "its storage failed",
}

_NEVER: Final = 1 << 63


class Links(Protocol):
    """What is asked of ``comms.service.Peers``."""

    def send(self, node: NodeId, frame: bytes, lane: int = DATA) -> bool: ...

    def next_request(self) -> int: ...


class Hints(Protocol):
    """What is asked of the store of hints."""

    def add_keys(
        self,
        owner: NodeId,
        count: int,
        digests: bytes,
        names: bytes,
        name_starts: bytes,
        name_lengths: bytes,
    ) -> int: ...

    def add_sets(self, owner: NodeId, items: Sequence[Item]) -> int: ...


class Flights:
    """All flights of a node.

    Attributes:
        bytes_held: What they hold in memory, about.
    """

    def __init__(
        self,
        *,
        links: Links,
        hints: Hints,
        vnodes: Vnodes,
        wait_for_disk: Callable[[int, Callable[[StorageFailed | None], None]], None],
        wait_for_hints: Callable[[int, Callable[[StorageFailed | None], None]], None],
        clock: Clock,
        instruments: CoordinatorInstruments,
    ) -> None:
        self._links = links
        self._hints = hints
        self._vnodes = vnodes
        self._wait_for_disk = wait_for_disk
        self._wait_for_hints = wait_for_hints
        self._clock = clock
        self._instruments = instruments
        self._pending: dict[int, Sent] = {}
        self._flying: dict[Flight, None] = {}
        # No flight is past its deadline before; it may be that of one that has ended.
        self._due_ns = _NEVER
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._flying)

    # Out.

    def launch_uniform(self, flight: Flight, uniform: Uniform) -> None:
        """Send a batch whose operations have the same primaries: the same frames to all of them, hints for
        those that are down.
        """
        local, count, kinds = flight.local, flight.count, flight.kinds
        flight.uniform = uniform
        if not uniform.here:
            flight.own = np.zeros(count, bool)
        self._opened(flight)
        read: bytes | None = None
        reading = kinds.find(resp.GET) >= 0
        if reading and local.sets:
            flight.find_overtaken()
        if reading and (local.refused or kinds.find(resp.SET) >= 0):
            read = np.flatnonzero(flight.reads).astype(np.int32).tobytes()
            reading = bool(read)
        # Before anything is sent: what cannot be sent at once turns these into a tally.
        if reading:
            flight.r_left = uniform.read - uniform.here
        if local.sets:
            flight.w_left = uniform.write - (0 if local.pending else 1)
            packet, index = packets.encode_sets(
                WRITE,
                b"",
                named_spans(flight.spans),
                count,
                flight.digests,
                flight.names,
                flight.name_starts,
                flight.name_lengths,
                local.sets,
                local.set_offsets,
            )
            some = None if len(index) == 4 * count else index
            self._send(flight, Kind.SETS, (packet,), some, uniform.others)
            for owner in uniform.down:
                self._hint(flight, owner, np.frombuffer(index, np.int32).astype(np.intp))
        if reading:
            if read is None:
                asked = READS_HEADER.pack(count, 0), flight.digests, local.after
            else:
                asked = self._reads(flight, np.frombuffer(read, np.int32).astype(np.intp))
            self._send(flight, Kind.READS, asked, read, uniform.others)
        if local.pending:
            self._await_disk(flight)
        self._check(flight)

    def launch(
        self,
        flight: Flight,
        view: View,
        needs: Sequence[Needs],
        targets: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]],
        *,
        fallback: bool = False,
    ) -> None:
        """Send a batch whose operations have replicas and needs of their own.

        Args:
            needs: Per span.
            targets: Primaries and who is asked in their place, uint16 (count, n), NOBODY where nobody is.
            fallback: This node is none of the primaries; what it wrote are hints.
        """
        flight.fallback = fallback
        self._opened(flight)
        primaries, reachable = targets
        writes, reads = flight.writes, flight.reads
        if reads.any() and writes.any():
            flight.find_overtaken()
        counts = [stop - first for first, stop, _ in flight.spans]
        tally = Tally(
            np.where(
                writes,
                np.repeat(np.array([need.w for need in needs], np.int16), counts),
                np.where(reads, np.repeat(np.array([need.r for need in needs], np.int16), counts), 0),
            ).astype(np.int16),
            np.where(
                writes,
                np.repeat(np.array([need.pw for need in needs], np.int16), counts),
                np.where(reads, np.repeat(np.array([need.pr for need in needs], np.int16), counts), 0),
            ).astype(np.int16),
        )
        flight.tally = tally
        readable = reads & (np.frombuffer(flight.local.stored.status, np.uint8, flight.count) <= 1)
        own = (primaries == view.me).any(axis=1)
        flight.own = own
        stands_in = np.ones(flight.count, bool) if fallback else (reachable == view.me).any(axis=1)
        tally.count(np.flatnonzero(readable & own), primary=True)
        tally.count(np.flatnonzero(readable & stands_in & ~own), primary=False)
        written = np.flatnonzero(writes)
        if flight.local.pending:
            tally.expect(written, primary=not fallback)
        else:
            tally.count(written, primary=not fallback)
        for number in np.unique(reachable).tolist():
            if number in (view.me, NOBODY):
                continue
            asked = reachable == number
            self._ask(flight, view, number, asked & (primaries == number), primaries, None)
            stand_in = asked & (primaries != number)
            for owner in np.unique(primaries[stand_in]).tolist():
                self._ask(flight, view, number, stand_in & (primaries == owner), primaries, view.nodes[owner])
        nobody = (reachable == NOBODY) & writes[:, None]
        for owner in np.unique(primaries[nobody]).tolist():
            if owner not in (view.me, NOBODY):
                self._hint(
                    flight, view.nodes[owner], np.flatnonzero((nobody & (primaries == owner)).any(axis=1))
                )
        if flight.waits_for_disk:
            self._await_disk(flight)
        self._check(flight)

    def _ask(
        self,
        flight: Flight,
        view: View,
        number: int,
        rows: npt.NDArray[np.bool_],
        primaries: npt.NDArray[np.uint16],
        owner: NodeId | None,
    ) -> None:
        """The frames to one node for the operations in ``rows``, as a primary or in the place of
        ``owner``."""
        mine = rows.any(axis=1)
        node = view.nodes[number]
        primary = owner is None
        written = mine & flight.writes
        if written.any():
            chosen = np.flatnonzero(written)
            packet, index = packets.encode_sets(
                WRITE if primary else HINT,
                b"" if owner is None else owner.encode(),
                named_spans(flight.spans),
                flight.count,
                flight.digests,
                flight.names,
                flight.name_starts,
                flight.name_lengths,
                flight.local.sets,
                flight.local.set_offsets,
                written.astype(np.uint8).tobytes(),
            )
            kind = Kind.SETS if primary else Kind.HINTED
            self._send(flight, kind, (packet,), index, (node,), primary, owner)
            if not primary:
                self._instruments.sloppy.value += len(chosen)
        read = np.flatnonzero(mine & flight.reads)
        if len(read):
            self._send(
                flight,
                Kind.READS,
                self._reads(flight, read),
                read.astype(np.int32).tobytes(),
                (node,),
                primary,
                owner,
            )

    def _reads(self, flight: Flight, chosen: Indices) -> tuple[bytes, bytes, bytes]:
        digests = np.frombuffer(flight.digests, np.uint8, DIGEST_BYTES * flight.count)
        prints = np.frombuffer(flight.local.after, np.uint64, flight.count)
        states = chosen
        if flight.overtaken:
            states = np.array([flight.overtaken.get(index, index) for index in chosen.tolist()], np.intp)
        return (
            READS_HEADER.pack(len(chosen), 0),
            digests.reshape(-1, DIGEST_BYTES)[chosen].tobytes(),
            prints[states].tobytes(),
        )

    def _send(
        self,
        flight: Flight,
        kind: Kind,
        payload: Sequence[Buffer],
        index: bytes | None,
        nodes: Sequence[NodeId],
        primary: bool = True,
        owner: NodeId | None = None,
    ) -> None:
        if not nodes:
            return
        request = self._links.next_request()
        frame = frames.encode(kind, request, payload)
        sent = Sent(flight, request, kind, index, list(nodes), primary, owner)
        flight.sent.append(sent)
        flight.open += 1
        self._pending[request] = sent
        if flight.tally is not None:
            for _ in nodes:
                flight.tally.expect(sent.operations(), primary=primary)
        for node in nodes:
            if not self._links.send(node, frame):
                self._lose(sent, node, "its queue is full, or its link is down")

    def _opened(self, flight: Flight) -> None:
        self._flying[flight] = None
        self.bytes_held += flight.size
        if flight.local.pending:
            flight.waits_for_disk = True
        if flight.deadline_ns < self._due_ns:
            self._due_ns = flight.deadline_ns

    def _await_disk(self, flight: Flight) -> None:
        wait = self._wait_for_hints if flight.fallback else self._wait_for_disk
        wait(flight.local.pending, lambda error: self._on_disk(flight, error))

    # In.

    def on_sets(self, replies: Sequence[tuple[NodeId, Frame]]) -> None:
        """Replies to SETS and HINTED of one turn: empty where all is well, else a status each."""
        for node, (_, request, payload) in replies:
            sent = self._pending.get(request)
            if sent is None or node not in sent.waiting:
                continue
            flight = sent.flight
            if payload:
                self._on_statuses(sent, node, payload)
            elif flight.tally is None:
                flight.w_left -= 1
            else:
                flight.tally.settle(sent.operations(), True, primary=sent.primary)
            self._close(sent, node)
            self._check(flight)

    def _on_statuses(self, sent: Sent, node: NodeId, payload: bytes) -> None:
        chosen = sent.operations()
        if len(payload) != len(chosen):
            log.warning("node %s answered %d sets with %d statuses", node, len(chosen), len(payload))
            payload = bytes((replica.INVALID,)) * len(chosen)
        status = np.frombuffer(payload, np.uint8)
        done = status <= replica.KNOWN
        sent.flight.uneven().settle(chosen, done, primary=sent.primary)
        worst = int(status[~done].max()) if not done.all() else 0
        sent.flight.reasons.append((node, _WRITE_STATUS.get(worst, "refused the write")))
        self._hint(sent.flight, sent.owner or node, chosen[~done])

    def on_reads(self, replies: Sequence[tuple[NodeId, Frame]]) -> None:
        """Replies to READS of one turn: empty where all is the same."""
        for node, (_, request, payload) in replies:
            sent = self._pending.get(request)
            if sent is None or node not in sent.waiting:
                continue
            flight = sent.flight
            if payload:
                self._on_differences(sent, node, payload)
            else:
                if flight.tally is None:
                    flight.r_left -= 1
                else:
                    flight.tally.settle(sent.operations(), True, primary=sent.primary)
                flight.read_from.append((node, sent))
            self._close(sent, node)
            self._check(flight)

    def _on_differences(self, sent: Sent, node: NodeId, payload: bytes) -> None:
        flight = sent.flight
        chosen = sent.operations()
        try:
            status, sets = decode_differences(payload, len(chosen))
        except ProtocolError as error:
            log.warning("node %s: %s", node, error)
            flight.uneven().settle(chosen, False, primary=sent.primary)
            flight.reasons.append((node, "its answer is malformed"))
            return
        theirs: dict[int, bytes | None] = {}
        for place in np.flatnonzero(status != replica.SAME).tolist():
            index = int(chosen[place])
            theirs[index] = None
            if status[place] == replica.UNREADABLE:
                continue
            try:
                mine = flight.merged.get(index)
                flight.merged[index] = versions.merge(
                    flight.known(index) if mine is None else mine, sets[place]
                )
                # As for sets that are merged here: a write that follows the read must be newer.
                stamp = versions.stamp_max(sets[place])
                if stamp <= self._vnodes.hybrid.limit():
                    self._vnodes.hybrid.advance(stamp)
            except SadikError as error:
                log.warning("node %s sent a version set that cannot be merged: %s", node, error)
                status[place] = replica.UNREADABLE
                continue
            theirs[index] = sets[place]
        unreadable = status == replica.UNREADABLE
        if unreadable.any():
            flight.reasons.append((node, _READ_STATUS[replica.UNREADABLE]))
        if flight.tally is not None or unreadable.any():
            flight.uneven().settle(chosen, ~unreadable, primary=sent.primary)
        else:
            flight.r_left -= 1
        if theirs:
            flight.theirs.setdefault(node, {}).update(theirs)
        flight.read_from.append((node, sent))

    def on_link_down(self, node: NodeId, reason: str) -> None:
        """Nobody will answer from there: what was sent may have arrived."""
        for sent in list(self._pending.values()):
            if node in sent.waiting:
                self._lose(sent, node, f"its link broke: {reason}")
                self._check(sent.flight)

    def on_tick(self, now_ns: int) -> None:
        """Give up what is past its deadline."""
        if now_ns < self._due_ns:
            return
        late = [flight for flight in self._flying if flight.deadline_ns <= now_ns]
        for flight in late:
            for sent in flight.sent:
                for node in list(sent.waiting):
                    self._lose(sent, node, "it did not answer in time")
            if flight.waits_for_disk and not flight.answered:
                flight.uneven()
                self._answer(flight, "the own disk did not finish in time")
            self._check(flight)
        # A flight that is late, and answered, may go on to wait for the disk.
        self._due_ns = min(
            (flight.deadline_ns for flight in self._flying if flight.deadline_ns > now_ns), default=_NEVER
        )

    def _on_disk(self, flight: Flight, error: StorageFailed | None) -> None:
        flight.waits_for_disk = False
        if flight.tally is None and error is None:
            flight.w_left -= 1
        else:
            if error is not None:
                flight.reasons.append(("this node", str(error)))
            tally = flight.uneven(disk=True)
            tally.settle(np.flatnonzero(flight.writes), error is None, primary=not flight.fallback)
        self._check(flight)

    def _lose(self, sent: Sent, node: NodeId, reason: str) -> None:
        flight = sent.flight
        if not flight.answered:
            flight.reasons.append((node, reason))
            flight.uneven().settle(sent.operations(), False, primary=sent.primary)
        self._close(sent, node)
        if sent.kind in (Kind.SETS, Kind.HINTED):
            self._hint(flight, sent.owner or node, sent.operations())

    def _close(self, sent: Sent, node: NodeId) -> None:
        sent.waiting.remove(node)
        if not sent.waiting:
            del self._pending[sent.request]
            sent.flight.open -= 1

    # What follows.

    def _check(self, flight: Flight) -> None:
        """Answer when everything is decided; end when everybody has answered."""
        if not flight.answered:
            if flight.tally is None:
                if flight.w_left <= 0 and flight.r_left <= 0:
                    self._answer(flight, "")
            elif flight.tally.decided().all():
                self._answer(flight, "")
        if not flight.open and flight.answered and not flight.waits_for_disk:
            self._end(flight)

    def _answer(self, flight: Flight, reason: str) -> None:
        flight.answered = True
        local = flight.local
        if flight.tally is not None:
            missed = np.flatnonzero(~flight.tally.reached())
            if len(missed):
                flight.fail(missed, reason)
        seconds = (self._clock.monotonic_ns() - flight.started_ns) / 1e9
        reads = flight.kinds.count(resp.GET)
        self._instruments.decided(seconds, reads, flight.count - reads, len(local.errors))
        try:
            flight.sink(flight)
        except Exception:
            # Other batches' replies, and waiters for the disk, come in the same turn.
            log.exception("the answer to a batch was not taken")
        # Only the answer needed them; a flight may wait for its last replica for long.
        local.values = b""

    def _end(self, flight: Flight) -> None:
        if flight not in self._flying:
            return
        del self._flying[flight]
        self.bytes_held -= flight.size
        if flight.theirs:
            self._repair(flight)
        # A flight and its frames know each other: without this, only the garbage collector could free them.
        flight.sent.clear()
        flight.read_from.clear()

    def _repair(self, flight: Flight) -> None:
        """Bring every replica that answered to what all of them together know."""
        own, stale = find_stale(flight, self._instruments.repaired)
        if own:
            try:
                self._vnodes.merge_items(own)
            except StorageError as error:
                log.warning("%d own records are behind and cannot be repaired: %s", len(own), error)
        for node, items in stale.items():
            frame = frames.encode(Kind.SETS, self._links.next_request(), (encode_items(items, READ_REPAIR),))
            # Lost with its link it is: the next read, or exchange, finds the same again.
            self._links.send(node, frame, BULK)

    def _hint(self, flight: Flight, owner: NodeId, chosen: Indices) -> None:
        """Remember that ``owner`` lacks what these operations wrote."""
        if not len(chosen):
            return
        names = bytes(flight.names)
        try:
            if flight.fallback:
                offsets = memoryview(flight.local.set_offsets).cast("q")
                self._hints.add_sets(
                    owner,
                    [
                        (
                            flight.digest(index),
                            flight.name(index),
                            bytes(flight.local.sets[offsets[index] : offsets[index + 1]]),
                        )
                        for index in chosen.tolist()
                    ],
                )
            elif len(chosen) == flight.count:
                self._hints.add_keys(
                    owner,
                    flight.count,
                    bytes(flight.digests),
                    names,
                    bytes(flight.name_starts),
                    bytes(flight.name_lengths),
                )
            else:
                digests = np.frombuffer(flight.digests, np.uint8, DIGEST_BYTES * flight.count)
                self._hints.add_keys(
                    owner,
                    len(chosen),
                    digests.reshape(-1, DIGEST_BYTES)[chosen].tobytes(),
                    names,
                    np.frombuffer(flight.name_starts, np.int64)[chosen].tobytes(),
                    np.frombuffer(flight.name_lengths, np.int64)[chosen].tobytes(),
                )
        except (LimitReached, StorageError) as error:
            # It was acknowledged by others, or its client is told "unknown"; exchange finds what is missing.
            self._instruments.hints_lost.value += len(chosen)
            log.warning("%d hints for %s are not kept: %s", len(chosen), owner, error)
