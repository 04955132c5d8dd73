"""Plain GETs and SETs: a turn's batch goes to the coordinator, and its replies to the sockets.

What one connection sent to a batch is a *run*. The coordinator answers runs, all at once or as they are
decided, before ``submit`` returns or in a later turn. On the usual path all runs of a batch are answered in
one call, without an error: one kernel call encodes them, another sends them. Nothing here makes a task, a
future or a timer; only what the batch could not do is tried once more as commands, in a task of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from sadik.api.resp.connection import Connection
from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.execution import Execution
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.refusals import refusal
from sadik.errors import SadikError
from sadik.kernels import resp, sockets, versions
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.operations import Span

if TYPE_CHECKING:
    from sadik.api.resp.server import RespServer

_NOTHING: Final = versions.NOTHING


class Kept(NamedTuple):
    """What is needed of a batch once its arrays are used for the next one; fields as in ``resp.Batch``."""

    kinds: bytes
    data: bytes
    name_starts: bytes
    name_lengths: bytes
    payload_starts: bytes
    payload_lengths: bytes
    ttl_ms: bytes


class Runs:
    """The runs of one batch, until the last one is answered.

    Attributes:
        owners, stops: Run k is operations ``stops[k - 1]`` <= i < ``stops[k]``, which ``owners[k]`` sent.
        source: Where the operations are.
        open: Numbers of the runs that are not answered; None while none is.
        parked: Their connections wait: the batch could not be answered within its turn.
    """

    __slots__ = ("arrived_ns", "open", "owners", "parked", "source", "stops")

    def __init__(
        self, owners: list[Connection], stops: list[int], source: resp.Batch, arrived_ns: int
    ) -> None:
        self.owners = owners
        self.stops = stops
        self.source: resp.Batch | Kept = source
        self.arrived_ns = arrived_ns
        self.open: dict[int, None] | None = None
        self.parked = False

    def first(self, number: int) -> int:
        """The first operation of a run."""
        return self.stops[number - 1] if number else 0

    def close(self, numbers: Iterable[int]) -> None:
        """Some are answered, or will not be."""
        if self.open is None:
            self.open = dict.fromkeys(range(len(self.owners)))
        for number in numbers:
            del self.open[number]

    def drop_from(self, taken: int) -> None:
        """Runs of which no operation was taken do not count."""
        numbers = range(len(self.owners)) if self.open is None else list(self.open)
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
        value_bytes_max: int,
        batch_bytes_max: int,
    ) -> None:
        self.in_flight = 0
        self._server = server
        self._coordinator = coordinator
        self._execution = execution
        self._instruments = instruments
        # Values longer than this may come in a batch, but must be refused one by one; None: none can.
        self._bytes_max = value_bytes_max if value_bytes_max < batch_bytes_max else None

    def run(self, batch: resp.Batch, owners: list[Connection], stops: list[int], arrived_ns: int) -> bool:
        """Answer a batch, or see to it that it will be; connections with a run in flight *wait* then.

        Operations that cannot go on as a batch are given back to their connections as commands. True where
        anything is in flight or given back.
        """
        count = batch.count
        writes = batch.kinds.find(resp.SET, 0, count) >= 0
        runs = Runs(owners, stops, batch, arrived_ns)
        if writes and self._bytes_max is not None and _longest(batch) > self._bytes_max:
            return self._defer(runs, batch, 0)
        try:
            spans = self._spans(batch, owners, stops)
        except SadikError:
            # A new bucket that cannot be recorded, for example on a full disk: as commands, each write gets
            # its error and each read its answer.
            return self._defer(runs, batch, 0)
        taken = self._coordinator.submit(batch, stops, spans, done=partial(self._answer, runs))
        self._instruments.submitted(taken, batch.kinds.count(resp.SET, 0, taken) if writes else 0)
        if taken < count:
            runs.drop_from(taken)
        parked = runs.open is None or bool(runs.open)
        if parked:
            self._park(runs, batch, taken)
        return self._defer(runs, batch, taken) if taken < count else parked

    def refuse(self, owners: list[Connection], stops: list[int], error: bytes) -> None:
        """Answer every operation of a batch with an error."""
        start = 0
        for connection, stop in zip(owners, stops, strict=True):
            connection.send(error * (stop - start))
            start = stop
        self._instruments.submitted(start, 0)
        self._instruments.answered(start, start)

    # Out.

    def _spans(self, batch: resp.Batch, owners: list[Connection], stops: list[int]) -> list[Span]:
        """Neighbouring runs in the same bucket, as one."""
        spans: list[Span] = []
        name = owners[0].session.bucket
        begin = first = 0
        for connection, stop in zip(owners, stops, strict=True):
            if connection.session.bucket != name:
                spans.append(self._span(batch, begin, first, name))
                name, begin = connection.session.bucket, first
            first = stop
        spans.append(self._span(batch, begin, first, name))
        return spans

    def _span(self, batch: resp.Batch, first: int, stop: int, name: bytes) -> Span:
        # A bucket that is only read from is not recorded: names that nobody writes to must not grow anything.
        writes = batch.kinds.find(resp.SET, first, stop) >= 0
        find = self._coordinator.bucket_for_write if writes else self._coordinator.bucket
        return Span(first, stop, find(name))

    def _park(self, runs: Runs, batch: resp.Batch, taken: int) -> None:
        """Keep what a later turn needs, and let the connections wait."""
        runs.parked = True
        self.in_flight += 1
        # Names and values as bytes of their own: the arena is the next batch's.
        runs.source = Kept(
            bytes(memoryview(batch.kinds)[:taken]),
            bytes(memoryview(batch.data)[: batch.used]),
            bytes(memoryview(batch.name_starts)[: 8 * taken]),
            bytes(memoryview(batch.name_lengths)[: 8 * taken]),
            bytes(memoryview(batch.payload_starts)[: 8 * taken]),
            bytes(memoryview(batch.payload_lengths)[: 8 * taken]),
            bytes(memoryview(batch.ttl_ms)[: 8 * taken]),
        )
        if runs.open is None:
            for connection in runs.owners:
                connection.wait()
        else:
            for number in runs.open:
                runs.owners[number].wait()

    def _defer(self, runs: Runs, batch: resp.Batch, start: int) -> bool:
        """Give the operations from ``start`` on back to their connections, as commands that run one at a
        time; True.
        """
        first = 0
        for connection, stop in zip(runs.owners, runs.stops, strict=True):
            if stop > start:
                connection.defer(arguments(batch, index) for index in range(max(first, start), stop))
            first = stop
        return True

    # In.

    def _answer(self, runs: Runs, answers: Answers, numbers: Sequence[int]) -> None:
        """Send the replies of some runs."""
        try:
            count = len(answers.status)
            if answers.refused or count < runs.stops[-1]:
                self._answer_one_by_one(runs, answers, numbers)
                return
            owners = runs.owners
            arrays = answers[:5]
            if len(numbers) == len(owners):
                protocols = [connection.session.protocol for connection in owners]
                self._send(owners, resp.encode_runs(runs.stops, protocols, *arrays))
                operations = count
            else:
                replies = [
                    resp.encode_run(
                        runs.first(number),
                        runs.stops[number],
                        *arrays,
                        owners[number].session.protocol == 3,
                    )
                    for number in numbers
                ]
                owners = [owners[number] for number in numbers]
                self._send(owners, replies)
                operations = sum(runs.stops[number] - runs.first(number) for number in numbers)
            self._instruments.answered(operations, 0)
            self._server.observe(runs.arrived_ns, operations)
            self._close(runs, numbers)
        except BaseException:
            # Our bug. These clients would wait for ever, or take one reply for another's.
            for number in numbers:
                self._server.cut_off(runs.owners[number], "an internal error")
            raise

    def _close(self, runs: Runs, numbers: Sequence[int]) -> None:
        """Runs are answered."""
        owners = runs.owners
        if len(numbers) == len(owners):
            runs.open = {}
            if runs.parked:
                self._land(owners)
                for connection in owners:
                    if connection.stirred:
                        connection.resume()
                    else:
                        connection.waiting = False
                        connection.lane.plain = True
            return
        runs.close(numbers)
        if not runs.parked:
            return
        for number in numbers:
            owners[number].resume()
        if not runs.open:
            self._land([owners[number] for number in numbers])

    def _land(self, answered: Sequence[Connection]) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._server.landed(answered)

    def _send(self, connections: Sequence[Connection], replies: list[bytes]) -> None:
        direct: list[Connection] = []
        descriptors: list[int] = []
        parts: list[bytes] = []
        for connection, data in zip(connections, replies, strict=True):
            if connection.is_direct():
                direct.append(connection)
                descriptors.append(connection.descriptor)
                parts.append(data)
            else:
                connection.send(data)
        for index, taken in sockets.send_many(descriptors, parts):
            direct[index].write_rest(parts[index], taken)
        self._server.bytes_out.value += sum(map(len, parts))

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
        resp3 = runs.owners[number].session.protocol == 3
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
                again.append((len(parts), arguments(runs.source, index)))
                parts.append(b"")
        if not again:
            self._finish_run(runs, number, b"".join(parts), stop - first, failed)
            return

        def done(replies: list[bytes]) -> None:
            for (place, _), reply in zip(again, replies, strict=True):
                parts[place] = reply
            self._finish_run(runs, number, b"".join(parts), stop - first - len(again), failed)

        self._execution.begin_in_order(runs.owners[number].session, [words for _, words in again], done)

    def _finish_run(self, runs: Runs, number: int, data: bytes, operations: int, failed: int) -> None:
        runs.owners[number].send(data)
        self._instruments.answered(operations, failed)
        self._server.observe(runs.arrived_ns, operations)
        self._close(runs, (number,))


def arguments(source: resp.Batch | Kept, index: int) -> list[bytes]:
    """Operation ``index`` of a batch as the command it was."""
    name_start, name_length = _int64(source.name_starts, index), _int64(source.name_lengths, index)
    name = bytes(source.data[name_start : name_start + name_length])
    key = name[1 + name[0] + 2 :]
    if source.kinds[index] == resp.GET:
        return [b"GET", key]
    start, length = _int64(source.payload_starts, index), _int64(source.payload_lengths, index)
    words = [b"SET", key, bytes(source.data[start : start + length])]
    ttl_ms = _int64(source.ttl_ms, index)
    return words if ttl_ms < 0 else [*words, b"PX", b"%d" % ttl_ms]


def _longest(batch: resp.Batch) -> int:
    """Length of the longest value in the batch."""
    return max(memoryview(batch.payload_lengths).cast("q")[: batch.count])


def _int64(array: bytes | bytearray, index: int) -> int:
    return int.from_bytes(array[8 * index : 8 * index + 8], "little", signed=True)
