"""The replica's part in other nodes' requests: version sets to merge, reads to compare, hints to keep.

All frames of one kind that a turn of the event loop has brought are one batch. A reply says that a set is as
durable as the node's mode promises; in mode ``always`` it waits for the sync.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sadik.comms.messages import DATA, REPLY, Kind
from sadik.comms.transport import Frame
from sadik.errors import LimitReached, ProtocolError, StorageError, StorageFailed
from sadik.ids import NodeId
from sadik.kernels import frames, packets, replica, versions
from sadik.node.coordinator.differences import READS_HEADER, encode_differences
from sadik.node.coordinator.instruments import CoordinatorInstruments
from sadik.node.items import Item
from sadik.node.operations import DIGEST_BYTES
from sadik.node.vnode import NOT_STORED, Vnodes
from sadik.storage.service import SyncService

log = logging.getLogger("sadik.replica")

_SETS_REPLY = Kind.SETS | REPLY
_READS_REPLY = Kind.READS | REPLY
_HINTED_REPLY = Kind.HINTED | REPLY


class Links(Protocol):
    """What is asked of ``comms.service.Peers``."""

    def send(self, node: NodeId, frame: bytes, lane: int = DATA) -> bool: ...


class HintKeeper(Protocol):
    """What is asked of the store of hints."""

    def add_sets(self, owner: NodeId, items: Sequence[Item]) -> int: ...

    def sets_for(self, digests: Sequence[bytes]) -> list[bytes]: ...

    @property
    def has_sets(self) -> bool:
        """Whether it holds whole version sets, so that reads must look there too."""
        ...


class Replica:
    """Answers SETS, READS and HINTED."""

    def __init__(
        self,
        *,
        links: Links,
        vnodes: Vnodes,
        sync: SyncService,
        hints: HintKeeper,
        hint_sync: SyncService,
        instruments: CoordinatorInstruments,
    ) -> None:
        self._links = links
        self._vnodes = vnodes
        self._sync = sync
        self._hints = hints
        self._hint_sync = hint_sync
        self._instruments = instruments

    def on_sets(self, batch: list[tuple[NodeId, Frame]]) -> None:
        """Merge version sets; replies, small as they are, all take the data lane."""
        try:
            sets = packets.decode_sets([frame.payload for _, frame in batch])
        except ProtocolError as error:
            if len(batch) > 1:
                # One node's malformed packet is not the others'.
                for one in batch:
                    self.on_sets([one])
                return
            node, frame = batch[0]
            log.warning("node %s sent a malformed packet of version sets: %s", node, error)
            self._reply(node, _SETS_REPLY, frame.request, bytes((replica.INVALID,)))
            return
        try:
            merging = self._vnodes.merge(sets)
        except StorageError as error:
            log.warning("version sets from other nodes are not stored: %s", error)
            status, ticket = bytearray((NOT_STORED,)) * sets.total, 0
        else:
            status, ticket = merging.status, merging.ticket
            if replica.KNOWN in status:
                # What is known need not be durable yet.
                ticket = self._vnodes.ticket_last
            if merging.error is not None:
                log.warning("version sets from other nodes are not stored: %s", merging.error)
        first = 0
        replies: list[tuple[NodeId, int, bytes]] = []
        fine = max(status) <= replica.KNOWN
        for (node, frame), stop, reason in zip(batch, sets.stops, sets.reasons, strict=True):
            self._instruments.received[min(reason, 3)].value += stop - first
            part = b"" if fine else bytes(status[first:stop])
            replies.append((node, frame.request, b"" if not part or max(part) <= replica.KNOWN else part))
            first = stop
        self._send(_SETS_REPLY, replies, self._sync, ticket)

    def on_reads(self, batch: list[tuple[NodeId, Frame]]) -> None:
        """Compare our sets with the fingerprints that coordinators sent."""
        for node, frame in batch:
            payload = frame.payload
            size = len(payload) - READS_HEADER.size
            count = READS_HEADER.unpack_from(payload)[0] if size >= 0 else 0
            if size < 0 or count == 0 or size != count * (DIGEST_BYTES + 8):
                # No answer that could be mistaken for one: the reader's deadline, or its other replicas,
                # decide.
                log.warning("node %s sent a malformed read of %d bytes", node, len(payload))
                continue
            view = memoryview(payload)[READS_HEADER.size :]
            digests, prints = view[: DIGEST_BYTES * count], view[DIGEST_BYTES * count :]
            self._instruments.reads_served.value += count
            if self._hints.has_sets:
                reply = self._compare_with_hints(bytes(digests), bytes(prints))
            else:
                reply = encode_differences(self._vnodes.compare(count, digests, prints))
            self._reply(node, _READS_REPLY, frame.request, reply)

    def on_hinted(self, batch: list[tuple[NodeId, Frame]]) -> None:
        """Keep version sets for nodes that are down."""
        for node, frame in batch:
            try:
                sets = packets.decode_sets([frame.payload])
            except ProtocolError as error:
                log.warning("node %s sent a malformed packet of hints: %s", node, error)
                self._reply(node, _HINTED_REPLY, frame.request, bytes((replica.INVALID,)))
                continue
            self._instruments.received[2].value += sets.total
            reply, ticket = b"", 0
            try:
                ticket = self._hints.add_sets(NodeId(sets.owners[0].decode()), items_of(sets))
            except (LimitReached, StorageError, UnicodeDecodeError) as error:
                log.warning("hints from node %s are not kept: %s", node, error)
                reply = bytes((NOT_STORED,)) * sets.total
            self._send(_HINTED_REPLY, [(node, frame.request, reply)], self._hint_sync, ticket)

    def _compare_with_hints(self, digests: bytes, prints: bytes) -> bytes:
        """The same where we also hold whole sets in the place of others."""
        keys = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
        theirs = np.frombuffer(prints, np.uint64).tolist()
        status, sets, lengths = bytearray(), bytearray(), []
        for key, mine, kept, wanted in zip(
            keys, self._vnodes.sets(keys), self._hints.sets_for(keys), theirs, strict=True
        ):
            held = versions.merge(mine or b"", kept)
            if mine is None and not kept:
                status.append(replica.UNREADABLE)
                held = b""
            elif versions.fingerprint(key, held) == wanted:
                status.append(replica.SAME)
                held = b""
            else:
                status.append(replica.DIFFERENT)
            sets += held
            lengths.append(len(held))
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        return encode_differences(
            replica.Compared(status, sets, bytearray(offsets.astype(np.int64).tobytes()))
        )

    def _send(
        self, kind: int, replies: list[tuple[NodeId, int, bytes]], sync: SyncService, ticket: int
    ) -> None:
        """Reply now, or once ``ticket`` is durable; a failed sync makes what was fine a failure."""
        if not ticket or not sync.pending(ticket):
            for node, request, payload in replies:
                self._reply(node, kind, request, payload)
            return

        def finished(error: StorageFailed | None) -> None:
            if error is not None:
                # What the sets were is not known any more; no answer is "unknown", which is the truth.
                return
            for node, request, payload in replies:
                self._reply(node, kind, request, payload)

        sync.wait(ticket, finished)

    def _reply(self, node: NodeId, kind: int, request: int, payload: bytes) -> None:
        # Lost with its link it may be: whoever waits for it has a deadline.
        self._links.send(node, frames.encode(kind, request, (payload,)))


def items_of(sets: packets.Sets) -> list[Item]:
    """A packet's version sets one by one."""
    starts = memoryview(sets.name_starts).cast("q")
    lengths = memoryview(sets.name_lengths).cast("q")
    set_starts = memoryview(sets.set_starts).cast("q")
    set_lengths = memoryview(sets.set_lengths).cast("q")
    return [
        (
            bytes(sets.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)]),
            sets.data[starts[i] : starts[i] + lengths[i]],
            sets.data[set_starts[i] : set_starts[i] + set_lengths[i]],
        )
        for i in range(sets.total)
    ]
