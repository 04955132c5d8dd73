"""The asking side of an exchange: a generator of steps, given back what each of them brought.

For each N that either node has keys of::

    roots of the shared partitions  ->  different ones      all that happens between equal replicas
    a pause, and once more
    nodes, level by level           ->  leaves              32 partitions at a time
    keys in these leaves            ->  digests that differ
    a pause, and once more
    version sets of these digests   ->  merged here, and what is newer here pushed there

Each look is repeated after a pause because writes are on their way between two replicas all the time: what
differs at one moment is mostly a write that the other one has a millisecond later. A key is mended when it
differs both times
and one side at least has stood still: a side that is behind does not move, and two that both move are being
written.

Everything is bounded, and nothing is kept from one exchange to the next: what is left over differs again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from sadik.comms.messages import encode
from sadik.errors import ProtocolError
from sadik.hashing.merkle import Descent
from sadik.kernels import replica, versions
from sadik.node.items import Item
from sadik.node.repair.exchange import messages, replies
from sadik.node.repair.exchange.holdings import Held, Holdings
from sadik.node.repair.exchange.messages import (
    Begin,
    Begun,
    Children,
    Flags,
    Items,
    Keys,
    Listing,
    Nodes,
    Roots,
)
from sadik.node.repair.exchange.replies import Theirs
from sadik.storage.engine import DIGEST_BYTES

CANDIDATES_MAX: Final = 32768
"""Keys that differ, gathered before the pause: 5 MiB of memory; a replica of 1 M keys is refilled in 31
pauses.
"""

_LAST: Final = b"\xff" * DIGEST_BYTES


class Ask(NamedTuple):
    """Send this EXCHANGE call; give back the reply's payload."""

    payload: bytes


class Pause(NamedTuple):
    """Wait for as long as a write may be on its way; give back ``b""``."""


class Push(NamedTuple):
    """Have the peer merge these version sets; give back a status for each, 0 where it has the set durably."""

    items: list[Item]


Step: TypeAlias = Ask | Pause | Push
Steps: TypeAlias = Generator[Step, bytes, None]


@dataclass(slots=True)
class Progress:
    """What exchanges have done; counts, and bytes of payloads.

    Attributes:
        partitions_total: To compare, for each N anew.
        partitions_done: Compared, those that were ``unbuilt`` at either side and so left out among them.
        keys_compared: Listed on either side, in leaves that differ.
        keys_moving: Differed, and were being written to.
        keys_repaired: Changed here or there.
        keys_unreadable: Could be read at neither side that has them.
        keys_refused: The merge was refused.
    """

    partitions_total: int = 0
    partitions_done: int = 0
    unbuilt: int = 0
    keys_compared: int = 0
    keys_moving: int = 0
    keys_repaired: int = 0
    keys_unreadable: int = 0
    keys_refused: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class _Candidate(NamedTuple):
    """A key that differs, with both sides' fingerprints as listed."""

    digest: bytes
    ours: int
    theirs: int


class Comparison:
    """One exchange with one peer.

    Attributes:
        refusal: Why nothing could be compared, empty when it could.

    Args:
        layout, facts: As in ``Begin``.
        shared: The partitions that both nodes are primaries of, for buckets of property n; ascending.
        progress: Counted up.
    """

    def __init__(
        self,
        holdings: Holdings,
        *,
        layout: int,
        facts: bytes,
        shared: Callable[[int], Sequence[int]],
        progress: Progress,
    ) -> None:
        self.refusal = ""
        self._holdings = holdings
        self._trees = holdings.trees
        self._bits = holdings.trees.partition_bits + holdings.trees.leaf_bits
        self._layout = layout
        self._facts = facts
        self._shared = shared
        self._progress = progress
        self._candidates: list[_Candidate] = []

    def steps(self) -> Steps:
        """Run it.

        Raises:
            ProtocolError: An answer that is none.
            StorageError: The engine refused.
        """
        begun = messages.decode_reply((yield self._ask(Begin(self._layout, self._facts))), Begun)
        self.refusal = begun.refusal
        if any(not 1 <= n <= messages.N_MAX for n in begun.counts):
            raise ProtocolError(f"buckets of {begun.counts} replicas")
        # Both lists: of a node that has lost all there is no tree at all.
        for n in sorted({*self._trees.counts, *begun.counts}) if not self.refusal else []:
            yield from self._compare(n)
            if self.refusal:
                return

    def _compare(self, n: int) -> Steps:
        shared = self._shared(n)
        self._progress.partitions_total += len(shared)
        built = [partition for partition in shared if self._trees.is_built(partition)]
        self._skip(len(shared) - len(built))
        differing = yield from self._different(n, built)
        if differing:
            yield Pause()
            differing = yield from self._different(n, differing)
        for group in _parts(differing, messages.GROUP_PARTITIONS_MAX):
            leaves = yield from self._descend(n, group)
            for part in _parts(leaves, messages.LEAVES_MAX):
                yield from self._list(n, part)
            self._progress.partitions_done += len(group)
        yield from self._mend()

    def _different(self, n: int, partitions: Sequence[int]) -> Generator[Step, bytes, list[int]]:
        """Which of some partitions have another root at the peer; what is equal or unbuilt is done."""
        different: list[int] = []
        for part in _parts(partitions, messages.PARTITIONS_MAX):
            roots = self._trees.roots(n, messages.pack(part, 4))
            question = Roots(self._layout, n, messages.pack(part, 2), roots)
            reply = messages.decode_reply((yield self._ask(question)), Flags)
            if reply.refusal:
                self.refusal = reply.refusal
                return []
            if len(reply.flags) != len(part) or max(reply.flags) > messages.UNBUILT:
                raise ProtocolError(f"no flags of {len(part)} partitions: {reply.flags[:32]!r}")
            found = [p for p, flag in zip(part, reply.flags, strict=True) if flag == messages.DIFFERENT]
            different += found
            self._skip(reply.flags.count(messages.UNBUILT))
            self._progress.partitions_done += reply.flags.count(messages.EQUAL)
        return different

    def _skip(self, unbuilt: int) -> None:
        self._progress.unbuilt += unbuilt
        self._progress.partitions_done += unbuilt

    def _descend(self, n: int, partitions: Sequence[int]) -> Generator[Step, bytes, list[int]]:
        """The leaves in which some partitions differ, numbered over all partitions."""
        descents = {
            partition: Descent(self._trees.tree(n, partition))
            for partition in partitions
            if self._trees.is_built(partition)
        }
        shape = self._trees.tree(n, 0)
        for level in range(shape.depth):
            width = shape.width(level)
            nodes = [
                partition * width + node
                for partition, descent in descents.items()
                for node in messages.unpack(descent.wanted, 4)
            ]
            if not nodes:
                return []
            question = Nodes(n, level, messages.pack(nodes, 4))
            reply = messages.decode_reply((yield self._ask(question)), Children)
            for partition in messages.unpack(reply.unbuilt, 2):
                if descents.pop(partition, None) is None:
                    raise ProtocolError(
                        f"partition {partition}, which nobody asked for, is said to be unbuilt"
                    )
                self._progress.unbuilt += 1
            replies.hand_out(descents, shape, level, reply.hashes)
        return [
            (partition << self._trees.leaf_bits) | leaf
            for partition, descent in descents.items()
            for leaf in descent.leaves
        ]

    def _list(self, n: int, leaves: Sequence[int]) -> Steps:
        """Gather the keys that differ in some leaves."""
        after = b""
        while True:
            question = Keys(n, messages.pack(leaves, 4), after)
            reply = messages.decode_reply((yield self._ask(question)), Listing)
            theirs = replies.read_page(reply, leaves, after, self._bits)
            listing = self._holdings.list_keys(
                n, leaves, after, messages.PAGE_KEYS_MAX, messages.PAGE_BYTES_MAX
            )
            ours = replies.read_listing(listing)
            # Each side lists up to where its page was full: compared is what both have listed.
            last = min(listing.last or _LAST, reply.last or _LAST)
            keys = sorted([key for key in ours.keys() | theirs.keys() if key <= last])
            self._progress.keys_compared += len(keys)
            self._candidates += [
                _Candidate(key, ours.get(key, 0), theirs.get(key, 0))
                for key in keys
                if ours.get(key) != theirs.get(key)
            ]
            if len(self._candidates) >= CANDIDATES_MAX:
                yield from self._mend()
            if not listing.last and not reply.last:
                return
            after = last

    def _mend(self) -> Steps:
        """Look at the gathered keys again, and make both sides equal in those that still differ."""
        if not self._candidates:
            return
        yield Pause()
        candidates, self._candidates = self._candidates, []
        while candidates:
            part = candidates[: messages.SETS_KEYS_MAX]
            ours = [self._holdings.look(candidate.digest) for candidate in part]
            question = messages.Sets(
                b"".join([candidate.digest for candidate in part]),
                messages.pack([_print(c.digest, held.stored) for c, held in zip(part, ours, strict=True)], 8),
                messages.pack([candidate.theirs for candidate in part], 8),
            )
            reply = messages.decode_reply((yield self._ask(question)), Items)
            if not 1 <= len(reply.status) <= len(part):
                raise ProtocolError(f"{len(reply.status)} answers for {len(part)} keys")
            yield from self._reconcile(part[: len(reply.status)], ours, reply)
            candidates = candidates[len(reply.status) :]

    def _reconcile(self, part: Sequence[_Candidate], ours: Sequence[Held], reply: Items) -> Steps:
        """Merge what the peer has of some keys, then push what it has not."""
        keys = [candidate.digest for candidate in part]
        standing: list[tuple[bytes, Theirs]] = []
        for candidate, held, theirs in zip(
            part, ours, replies.read_items(keys, reply, self._holdings.settle), strict=False
        ):
            if theirs is None:
                continue
            if theirs.moved and held.listed != candidate.ours:
                self._progress.keys_moving += 1
            else:
                standing.append((candidate.digest, theirs))
        incoming = [(key, theirs.name, theirs.stored) for key, theirs in standing if theirs.stored]
        repaired: set[bytes] = set()
        if incoming:
            for (key, _, _), status in zip(incoming, self._holdings.merge(incoming), strict=True):
                self._count(key, status, repaired)
        outgoing: list[Item] = []
        for key, theirs in standing:
            held = self._holdings.look(key)
            if held.stored and _print(key, held.stored) != _print(key, theirs.stored):
                outgoing.append((key, held.name, held.stored))
            elif held.stored is None and theirs.stored is None:
                self._progress.keys_unreadable += 1
        for items in _packets(outgoing):
            statuses = yield Push(items)
            for (key, _, _), status in zip(items, statuses, strict=True):
                self._count(key, status, repaired)
        self._progress.keys_repaired += len(repaired)

    def _count(self, key: bytes, status: int, repaired: set[bytes]) -> None:
        if status == replica.MERGED:
            repaired.add(key)
        elif status != replica.KNOWN:
            self._progress.keys_refused += 1

    def _ask(self, question: messages.Question) -> Ask:
        return Ask(encode(question))


def _print(key: bytes, stored: bytes | None) -> int:
    return versions.fingerprint(key, stored or b"")


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(numbers), size):
        yield numbers[at : at + size]


def _packets(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items in packets of bounded bytes; one that is too big goes alone."""
    packet: list[Item] = []
    size = 0
    for item in items:
        if packet and size + len(item[2]) > messages.PAGE_BYTES_MAX:
            yield packet
            packet, size = [], 0
        packet.append(item)
        size += len(item[2])
    if packet:
        yield packet
