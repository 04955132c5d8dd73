"""Plain GETs and SETs: a turn's batch goes to the coordinator, and its replies to the sockets.

What one connection sent to a batch is a *run*. The coordinator answers runs, all at once or as they are
decided, before ``submit`` returns or in a later turn. On the usual path all runs of a batch are answered in
one call, without an error: one kernel call encodes the replies, sends them, and lets the lanes go on. Nothing
here makes a task, a future or a timer; only what the batch could not do is tried once more as commands, in a
task of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from sadik.api.resp.connection import Connection
from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.execution import Execution
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.refusals import refusal
from sadik.env.clock import Clock
from sadik.errors import SadikError
from sadik.kernels import resp, versions
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.operations import Span

if TYPE_CHECKING:
    from sadik.api.resp.server import RespServer

_NOTHING: Final = versions.NOTHING


class Runs(resp.Runs):
    """The runs of one batch, until the last one is answered.

    Attributes:
        open: Numbers of the runs that are not answered; None while none is.
        parked: Their connections wait: the batch could not be answered within its turn.
    """

    __slots__ = ("_batch", "_kept", "arrived_ns", "open", "parked")

    def __init__(self, batch: resp.Batch, arrived_ns: int) -> None:
        super().__init__()
        self.arrived_ns = arrived_ns
        self.open: dict[int, None] | None = None
        self.parked = False
        self._batch = batch
        self._kept: resp.Kept | None = None

    @property
    def kept(self) -> resp.Kept:
        """The operations one by one; first asked for while they are in the batch."""
        if self._kept is None:
            self._kept = self._batch.keep()
        return self._kept

    def park(self) -> None:
        """Keep what a later turn needs, and let the connections wait."""
        self.parked = True
        # Names and values in bytes of their own: the arena is the next batch's.
        self._kept = self._batch.keep()
        if self.open is None:
            self.wait()
        else:
            for number in self.open:
                self.lanes[number].wait()

    def owner(self, number: int) -> Connection:
        """Whose run it is."""
        connection: Connection = self.lanes[number].owner
        return connection

    def lanes_of(self, numbers: Sequence[int]) -> list[resp.Lane]:
        """The lanes of some runs."""
        whole = len(numbers) == len(self.lanes)
        return self.lanes if whole else [self.lanes[number] for number in numbers]

    def first(self, number: int) -> int:
        """The first operation of a run."""
        return self.stops[number - 1] if number else 0

    def close(self, numbers: Sequence[int]) -> None:
        """Some are answered, or will not be."""
        if len(numbers) == len(self.lanes):
            self.open = {}
            return
        if self.open is None:
            self.open = dict.fromkeys(range(len(self.lanes)))
        for number in numbers:
            del self.open[number]

    def drop_from(self, taken: int) -> None:
        """Runs of which no operation was taken do not count."""
        numbers = range(len(self.lanes)) if self.open is None else list(self.open)
        self.close([number for number in numbers if self.first(number) >= taken])


class Plain:
    """Runs the batches of one server."""

    def __init__(
        self,
        server: RespServer,
        coordinator: Coordinator,
        execution: Execution,
        instruments: RespInstruments,
        *,
        clock: Clock,
        value_bytes_max: int,
        batch_bytes_max: int,
    ) -> None:
        self.in_flight = 0
        self._server = server
        self._coordinator = coordinator
        self._execution = execution
        self._instruments = instruments
        self._clock = clock
        # Values longer than this may come in a batch, but must be refused one by one; None: none can.
        self._bytes_max = value_bytes_max if value_bytes_max < batch_bytes_max else None

    def run(self, batch: resp.Batch, runs: Runs) -> bool:
        """Answer a batch, or see to it that it will be; connections with a run in flight *wait* then.

        Operations that cannot go on as a batch are given back to their connections as commands. True where
        anything is in flight or given back.
        """
        if self._bytes_max is not None and batch.longest > self._bytes_max:
            return self._defer(runs, 0)
        try:
            spans = self._spans(batch, runs)
        except SadikError:
            # A new bucket that cannot be recorded, for example on a full disk: as commands, each write gets
            # its error and each read its answer.
            return self._defer(runs, 0)
        count, writes = batch.count, batch.sets
        taken = self._coordinator.submit(batch, runs.stops, spans, done=partial(self._answer, runs))
        if taken < count:
            writes = batch.kinds.count(resp.SET, 0, taken)
            runs.drop_from(taken)
        self._instruments.submitted(taken, writes)
        if runs.open is None or runs.open:
            self.in_flight += 1
            runs.park()
        return self._defer(runs, taken) if taken < count else runs.parked

    def refuse(self, runs: Runs, error: bytes) -> None:
        """Answer every operation of a batch with an error."""
        start = 0
        for lane, stop in zip(runs.lanes, runs.stops, strict=True):
            lane.owner.send(error * (stop - start))
            start = stop
        self._instruments.submitted(start, 0)
        self._instruments.answered(start, start)

    # Out.

    def _spans(self, batch: resp.Batch, runs: Runs) -> list[Span]:
        """Neighbouring runs in the same bucket, as one."""
        spans = []
        first = 0
        for number, after in zip(runs.bounds, [*runs.bounds[1:], len(runs.lanes)], strict=True):
            stop = runs.stops[after - 1]
            # A bucket that is only read from is not recorded: names that nobody writes to must not grow
            # anything.
            writes = batch.kinds.find(resp.SET, first, stop) >= 0
            find = self._coordinator.bucket_for_write if writes else self._coordinator.bucket
            spans.append(Span(first, stop, find(runs.owner(number).session.bucket)))
            first = stop
        return spans

    def _defer(self, runs: Runs, start: int) -> bool:
        """Give the operations from ``start`` on back to their connections, as commands that run one at a
        time; True.
        """
        first = 0
        for lane, stop in zip(runs.lanes, runs.stops, strict=True):
            if stop > start:
                lane.owner.defer(runs.kept.command(index) for index in range(max(first, start), stop))
            first = stop
        return True

    # In.

    def _answer(self, runs: Runs, answers: Answers, numbers: Sequence[int]) -> None:
        """Send the replies of some runs."""
        try:
            if answers.refused or len(answers.status) < runs.stops[-1]:
                self._answer_one_by_one(runs, answers, numbers)
                return
            operations, sent, rest, stirred = runs.answer(numbers, *answers[:5])
            self._server.bytes_out.value += sent
            for connection, data in rest:
                connection.send(data)
            self._close(runs, numbers, operations, 0, stirred)
        except BaseException:
            # Our bug. These clients would wait for ever, or take one reply for another's.
            for number in numbers:
                self._server.cut_off(runs.owner(number), "an internal error")
            raise

    def _close(
        self,
        runs: Runs,
        numbers: Sequence[int],
        operations: int,
        failed: int,
        stirred: Sequence[Connection],
    ) -> None:
        """Runs are answered; those who are stirred, and wait, go on."""
        now_ns = self._clock.monotonic_ns()
        self._instruments.answered(operations, failed)
        self._instruments.latency.observe((now_ns - runs.arrived_ns) / 1e9, operations)
        runs.close(numbers)
        if not runs.parked:
            return
        if not runs.open:
            self.in_flight -= 1
            if not self.in_flight:
                self._server.landed(runs.lanes_of(numbers), now_ns)
        for connection in stirred:
            connection.resume()

    def _answer_one_by_one(self, runs: Runs, answers: Answers, numbers: Sequence[int]) -> None:
        """The same where some operations have errors, or the batch was cut."""
        count = len(answers.status)
        for number in numbers:
            first, stop = runs.first(number), min(runs.stops[number], count)
            if first < stop:
                self._answer_run(runs, answers, number, first, stop)

    def _answer_run(self, runs: Runs, answers: Answers, number: int, first: int, stop: int) -> None:
        """Replies of one run, operation by operation where it has errors.

        What the batch could not do (an unreadable record, a full version set) is tried once more as a
        command: a record knows how to replace what cannot be read, and how to forget actors that are no
        more.
        """
        arrays, status, errors = answers[:5], answers.status, answers.errors
        resp3 = runs.lanes[number].resp3
        if max(memoryview(status)[first:stop]) <= _NOTHING:
            self._finish_run(runs, number, resp.encode_run(first, stop, *arrays, resp3), stop - first, 0)
            return
        parts: list[bytes] = []
        again: list[tuple[int, list[bytes]]] = []
        failed = 0
        for index in range(first, stop):
            if status[index] <= _NOTHING:
                parts.append(resp.encode_run(index, index + 1, *arrays, resp3))
            elif status[index] == FAILED:
                parts.append(refusal(errors[index]))
                failed += 1
            else:
                again.append((len(parts), runs.kept.command(index)))
                parts.append(b"")
        if not again:
            self._finish_run(runs, number, b"".join(parts), stop - first, failed)
            return

        def done(replies: list[bytes]) -> None:
            for (place, _), reply in zip(again, replies, strict=True):
                parts[place] = reply
            self._finish_run(runs, number, b"".join(parts), stop - first - len(again), failed)

        self._execution.begin_in_order(runs.owner(number).session, [words for _, words in again], done)

    def _finish_run(self, runs: Runs, number: int, data: bytes, operations: int, failed: int) -> None:
        connection = runs.owner(number)
        connection.send(data)
        self._close(runs, (number,), operations, failed, (connection,))
