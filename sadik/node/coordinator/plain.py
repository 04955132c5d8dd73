"""Plain reads and writes: a turn's batch over the replicas, and the operations that other nodes forward.

One batch takes one of three ways: on a one-node cluster it is done at once; where every node is a primary of
every key it is one flight; else each operation goes to its coordinator, and the turn gathers the answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from sadik.comms.messages import REPLY, Kind
from sadik.comms.transport import Frame
from sadik.errors import Overloaded, ProtocolError, SadikError, StorageFailed, Unavailable
from sadik.ids import NodeId
from sadik.kernels import frames, packets, resp, versions
from sadik.members.view import NOBODY
from sadik.node.buckets import Bucket
from sadik.node.coordinator.core import Core, Targets, is_refused, mark_refused, needed
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.coordinator.quorum import Needs
from sadik.node.coordinator.turn import Part, Turn, decode_answers, encode_answers
from sadik.node.coordinator.under_way import Flight
from sadik.node.operations import Operations, Span, named_spans, of_batch, of_packet
from sadik.node.vnode import Applied

log = logging.getLogger("sadik.coordinator")

Done = Callable[[Answers, Sequence[int]], None]
Indices = npt.NDArray[np.intp]


class Forwarded:
    """Operations that another node coordinates."""

    __slots__ = ("chosen", "deadline_ns", "node", "turn")

    def __init__(self, turn: Turn, chosen: Indices, node: NodeId, deadline_ns: int) -> None:
        self.turn = turn
        self.chosen = chosen
        self.node = node
        self.deadline_ns = deadline_ns


class PlainRequests:
    """Runs batches of plain operations."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._forwards: dict[int, Forwarded] = {}
        core.peers.on_batch(Kind.FORWARD, self._on_forward)
        core.peers.on_batch(Kind.FORWARD | REPLY, self._on_forward_reply)

    def submit(
        self,
        batch: resp.Batch,
        stops: Sequence[int],
        spans: Sequence[Span],
        done: Done,
        options: Options | None = None,
    ) -> int:
        """Run a turn's plain operations.

        Args:
            stops: Behind the last operation of each client's run.
            spans: Over the whole batch, in order.
            done: Called with answers and the numbers of the runs they are complete for: once or more, perhaps
                before this returns, each run once.
        Returns:
            How many operations were taken, at least one. The last run taken may be cut short.
        """
        started_ns = self._core.clock.monotonic_ns()
        deadline_ns = started_ns + self._core.timeout_ms(options) * 1_000_000
        self._core.peers.hold()
        try:
            return self._run(of_batch(batch, spans), stops, done, options, started_ns, deadline_ns)
        finally:
            self._core.peers.flush()

    def _run(
        self,
        operations: Operations,
        stops: Sequence[int],
        done: Done,
        options: Options | None,
        started_ns: int,
        deadline_ns: int,
        *,
        forwarded: bool = False,
    ) -> int:
        core = self._core
        if core.view.alone:
            applied = core.vnodes.apply(operations)
            self._finish_alone(operations, applied, _cut(stops, applied.taken), done)
            return applied.taken
        uniform = core.uniform(operations, options)
        if uniform is None or not uniform.here:
            needs = [core.needs(span.bucket, options) for span in operations.spans]
            turn = Turn(operations.kinds, operations.count, stops, done)
            self._split(operations, needs, turn, deadline_ns, forwarded=forwarded)
            return operations.count
        applied = core.vnodes.apply(operations)
        taken = applied.taken
        if taken < operations.count:
            operations.count = taken
            operations.spans = _cut_spans(operations.spans, taken)
            stops = _cut(stops, taken)
        sink = partial(self._answer, done, range(len(stops)))
        flight = Flight(operations, core.local(operations, applied), sink, started_ns, deadline_ns)
        core.flights.launch_uniform(flight, uniform)
        return taken

    def _answer(self, done: Done, runs: Sequence[int], flight: Flight) -> None:
        local = flight.local
        values = self._core.patched(flight)
        start, length = local.value_start, local.value_length
        done(Answers(flight.kinds, local.status, values, start, length, local.errors, local.refused), runs)

    def _finish_alone(
        self, operations: Operations, applied: Applied, stops: Sequence[int], done: Done
    ) -> None:
        result = applied.result
        errors = mark_refused(operations, applied) if is_refused(applied) else {}
        if not (applied.ticket and self._core.sync.pending(applied.ticket)):
            done(_answers_of(operations.kinds, result, errors), range(len(stops)))
            return
        kinds = bytes(operations.kinds[: applied.taken])
        starts = [0, *stops]
        writing: list[int] = []
        reading: list[int] = []
        for number, stop in enumerate(stops):
            (writing if kinds.find(resp.SET, starts[number], stop) >= 0 else reading).append(number)
        # Nothing but a write waits for the disk.
        if reading:
            done(_answers_of(kinds, result, errors), reading)

        def finish(error: StorageFailed | None) -> None:
            if error is not None:
                for index in range(applied.taken):
                    if kinds[index] == resp.SET and result.status[index] == versions.OK:
                        result.status[index] = FAILED
                        errors[index] = error
            done(_answers_of(kinds, result, errors), writing)

        self._core.sync.wait(applied.ticket, finish)

    def _split(
        self,
        operations: Operations,
        needs: list[Needs],
        turn: Turn,
        deadline_ns: int,
        *,
        forwarded: bool,
    ) -> None:
        """Operations whose replicas differ: each to its coordinator, or an early refusal."""
        view, count = self._core.view, operations.count
        overloaded = self._core.overloaded()
        if overloaded is not None:
            self._core.instruments.refused.value += count
            turn.fail(np.arange(count), lambda index: overloaded)
            return
        targets = self._core.targets(operations)
        primaries, reachable, coordinators = targets
        need, need_primary = needed(operations, needs)
        live = (reachable != NOBODY).sum(axis=1)
        live_primaries = ((reachable == primaries) & (reachable != NOBODY)).sum(axis=1)
        short = (live < need) | (live_primaries < need_primary) | (coordinators == NOBODY)
        if self._core.hints.full:
            kinds = np.frombuffer(operations.kinds, np.uint8, count)
            short |= ((reachable != primaries).any(axis=1)) & (kinds == resp.SET)
        missed = np.flatnonzero(short)
        if len(missed):
            self._core.instruments.refused.value += len(missed)
            turn.fail(missed, partial(self._core.refusal, targets, need, need_primary))
        here = (coordinators == view.me) & ~short
        elsewhere = ~here & ~short
        if forwarded and elsewhere.any():
            wrong = Unavailable(
                f"node {self._core.node} does not coordinate this key by layout {view.layout.version}; "
                "nothing was done"
            )
            turn.fail(np.flatnonzero(elsewhere), lambda index: wrong)
        else:
            for number in np.unique(coordinators[elsewhere]).tolist():
                self._forward(
                    operations,
                    np.flatnonzero(elsewhere & (coordinators == number)),
                    view.nodes[number],
                    turn,
                    deadline_ns,
                )
        own = (primaries == view.me).any(axis=1)
        for fallback in (False, True):
            chosen = np.flatnonzero(here & (own != fallback))
            if len(chosen):
                self._coordinate(operations, chosen, needs, targets, turn, deadline_ns, fallback=fallback)

    def _coordinate(
        self,
        operations: Operations,
        chosen: Indices,
        needs: list[Needs],
        targets: Targets,
        turn: Turn,
        deadline_ns: int,
        *,
        fallback: bool,
    ) -> None:
        started_ns = self._core.clock.monotonic_ns()
        part = operations.pick(chosen)
        left = [
            need
            for need, span in zip(needs, operations.spans, strict=True)
            if ((chosen >= span.first) & (chosen < span.stop)).any()
        ]
        mine = targets.of(chosen)
        if fallback:
            local = self._core.apply_as_fallback(part, mine)
        else:
            applied = self._core.vnodes.apply(part)
            if applied.taken < part.count:
                # Their values are too much for one batch: the API runs them again one by one.
                rest = chosen[applied.taken :]
                turn.fill(rest, _again(len(rest)))
                chosen = chosen[: applied.taken]
                part = part.pick(np.arange(applied.taken))
                left = left[: len(part.spans)]
                mine = targets.of(chosen)
            local = self._core.local(part, applied)

        def sink(flight: Flight) -> None:
            values = self._core.patched(flight)
            done = flight.local
            turn.fill(chosen, Part(done.status, values, done.value_start, done.value_length, done.errors))

        flight = Flight(part, local, sink, started_ns, deadline_ns)
        self._core.flights.launch(flight, self._core.view, left, mine[:2], fallback=fallback)

    def _forward(
        self, operations: Operations, chosen: Indices, node: NodeId, turn: Turn, deadline_ns: int
    ) -> None:
        part = operations.pick(chosen)
        request = self._core.peers.next_request()
        left_ms = max(1, (deadline_ns - self._core.clock.monotonic_ns()) // 1_000_000)
        packet = packets.encode_operations(
            named_spans(part.spans),
            part.count,
            part.kinds,
            part.digests,
            part.data,
            part.name_starts,
            part.name_lengths,
            part.payload_starts,
            part.payload_lengths,
            part.ttl_ms,
            min(left_ms, 0xFFFFFFFF),
            self._core.view.layout.version,
        )
        self._core.instruments.forwarded_out.value += part.count
        if self._core.peers.send(node, frames.encode(Kind.FORWARD, request, (packet,))):
            self._forwards[request] = Forwarded(turn, chosen, node, deadline_ns)
            return
        error = Overloaded(f"the queue to node {node} is full; nothing was done")
        turn.fail(chosen, lambda index: error)

    def on_link_down(self, node: NodeId, reason: str) -> None:
        """What that node was to coordinate is unknown."""
        for request, forwarded in list(self._forwards.items()):
            if forwarded.node == node:
                self._give_up(request, f"the link to node {node} broke: {reason}")

    def on_tick(self, now_ns: int) -> None:
        """Give up what is past its deadline."""
        for request, forwarded in list(self._forwards.items()):
            if forwarded.deadline_ns <= now_ns:
                self._give_up(request, f"node {forwarded.node} did not answer in time")

    def _give_up(self, request: int, reason: str) -> None:
        forwarded = self._forwards.pop(request)
        turn = forwarded.turn
        # A second coordinator might do it twice: what may have been applied stays unknown.
        unknown = Unavailable(f"{reason}; may have been applied", maybe_applied=True)
        unread = Unavailable(f"{reason}; nothing was read")
        turn.fail(forwarded.chosen, lambda index: unknown if turn.kind(index) == resp.SET else unread)

    def _on_forward_reply(self, batch: list[tuple[NodeId, Frame]]) -> None:
        for node, frame in batch:
            forwarded = self._forwards.get(frame.request)
            if forwarded is None or forwarded.node != node:
                continue
            try:
                part = decode_answers(frame.payload, len(forwarded.chosen))
            except ProtocolError as error:
                self._give_up(frame.request, f"node {node}: {error}")
                continue
            del self._forwards[frame.request]
            forwarded.turn.fill(forwarded.chosen, part)

    def _on_forward(self, batch: list[tuple[NodeId, Frame]]) -> None:
        for node, frame in batch:
            try:
                packet = packets.decode_operations(frame.payload)
            except ProtocolError as error:
                # Without a count there is no answer that fits; the sender's deadline decides.
                log.warning("node %s forwarded a malformed packet: %s", node, error)
                continue
            self._core.instruments.forwarded_in.value += packet.total
            answer = partial(self._reply_forward, node, frame.request, packet.total)
            if packet.layout > self._core.view.layout.version:
                # By an older one W may be fewer nodes, and other ones.
                behind = Unavailable(
                    f"node {self._core.node} does not know layout {packet.layout} yet; nothing was done"
                )
                answer(_all_failed(packet.total, behind), (0,))
                continue
            try:
                spans = [
                    Span(first, stop, self._span_bucket(name, packet.kinds, first, stop))
                    for name, first, stop in packet.spans
                ]
            except SadikError as failure:
                answer(_all_failed(packet.total, failure), (0,))
                continue
            started_ns = self._core.clock.monotonic_ns()
            deadline_ns = started_ns + packet.timeout_ms * 1_000_000
            stops = [packet.total]
            operations = of_packet(packet, spans)
            taken = self._run(operations, stops, answer, None, started_ns, deadline_ns, forwarded=True)
            assert taken or not packet.total, "a batch takes at least one operation"

    def _span_bucket(self, name: bytes, kinds: bytearray, first: int, stop: int) -> Bucket:
        writes = kinds.find(resp.SET, first, stop) >= 0
        return self._core.buckets.for_write(name) if writes else self._core.buckets.get(name)

    def _reply_forward(
        self, node: NodeId, request: int, count: int, answers: Answers, runs: Sequence[int]
    ) -> None:
        taken = len(answers.status)
        part = Part(answers.status, answers.values, answers.value_start, answers.value_length, answers.errors)
        if taken < count:
            # Too much for one batch: the client's node runs the rest again one by one.
            rest = _again(count - taken)
            part = Part(
                bytes(part.status) + bytes(rest.status),
                part.values,
                bytes(part.value_start[: 8 * taken]) + bytes(rest.value_start),
                bytes(part.value_length[: 8 * taken]) + bytes(rest.value_length),
                part.errors,
            )
        reply = frames.encode(Kind.FORWARD | REPLY, request, (encode_answers(part),))
        # Lost with its link it may be: the node that waits has a deadline.
        self._core.peers.send(node, reply)


def _answers_of(kinds: bytes | bytearray, result: versions.Applied, errors: dict[int, SadikError]) -> Answers:
    return Answers(
        kinds,
        result.status,
        result.values,
        result.value_start,
        result.value_length,
        errors,
        max(result.status) > versions.NOTHING,
    )


def _cut(stops: Sequence[int], taken: int) -> Sequence[int]:
    """The runs within the first ``taken`` operations."""
    if stops[-1] <= taken:
        return stops
    kept = [stop for stop in stops if stop < taken]
    return [*kept, taken]


def _cut_spans(spans: Sequence[Span], taken: int) -> list[Span]:
    return [Span(span.first, min(span.stop, taken), span.bucket) for span in spans if span.first < taken]


def _again(count: int) -> Part:
    """Operations that are to be run again one by one."""
    return Part(bytes((versions.UNREADABLE,)) * count, b"", bytes(8 * count), bytes(8 * count), {})


def _all_failed(count: int, error: SadikError) -> Answers:
    return Answers(
        bytes(count),
        bytearray((FAILED,)) * count,
        b"",
        bytearray(8 * count),
        bytearray(8 * count),
        dict.fromkeys(range(count), error),
        True,
    )
