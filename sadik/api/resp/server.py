"""The RESP server: whatever one turn of the event loop has read from all sockets is one batch.

A turn goes in rounds. In each round every connection contributes the plain GETs and SETs at the head of its
input to one shared batch (parsed by the kernel, no Python per operation), and then at most one other command.
The batch runs first, the commands after it (``execution.py``), so each connection's order is kept; between
connections there is no order to keep. Replies of a connection leave in the order of its requests.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence

from sadik.api.resp import admission, information
from sadik.api.resp.arguments import VALUE_BYTES_MAX_SETTING
from sadik.api.resp.call import Session, Store
from sadik.api.resp.connection import Connection
from sadik.api.resp.execution import Execution, Item, refusal
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.replies import error as error_reply
from sadik.config import NodeConfig
from sadik.env.clock import Clock
from sadik.errors import ProtocolError, SadikError, StorageFailed
from sadik.kernels import resp, sockets, versions
from sadik.node.coordinator.service import Coordinator
from sadik.node.vnode import Applied, Span
from sadik.settings import Address

log = logging.getLogger("sadik.resp")

_ROUNDS_PER_TURN = 8
_TICK_S = 1.0
Run = tuple[Connection, int, int]
"""Operations ``first`` <= i < ``stop`` of the batch, which one connection sent."""

_NEED_INPUT = resp.NEED_INPUT
_COMMAND = resp.COMMAND
_ASIDE = resp.ASIDE
_OK = versions.OK
_NOTHING = versions.NOTHING


class RespServer:
    """Serves Redis clients from one coordinator.

    Attributes:
        store: What commands reach beyond their records.
        settings: CONFIG names and values.
        in_flight_max: Operations of one connection whose replies may be held.
        output_bytes_max: Unsent bytes at which a client is cut off.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        config: NodeConfig,
        *,
        clock: Clock,
        instruments: RespInstruments,
        facts: information.Facts,
    ) -> None:
        self.store: Store = coordinator
        self.settings = information.settings(config) | {
            VALUE_BYTES_MAX_SETTING: str(config.limits.value_bytes_max)
        }
        self.in_flight_max = config.resp.pipeline_operations_max
        self.output_bytes_max = config.resp.output_bytes_max
        self._coordinator = coordinator
        self._config = config.resp
        # Values longer than this may come in a batch, but must be refused one by one; None: none can.
        values_max = config.limits.value_bytes_max
        self._plain_bytes_max = values_max if values_max < config.resp.batch_bytes_max else None
        self._secret = config.secret
        self._clock = clock
        self._instruments = instruments
        self.bytes_in = instruments.bytes_in
        self.bytes_out = instruments.bytes_out
        self._facts = facts
        self._batch = resp.Batch(config.resp.batch_operations_max, config.resp.batch_bytes_max)
        self._connections: dict[int, Connection] = {}
        self._line: list[resp.Lane] = []
        self._held: dict[int, Connection] = {}
        self._deferred: set[int] = set()
        self._execution = Execution(self, coordinator, instruments)
        self._arrived_ns = 0
        self._next_id = 0
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._stopping = False

    # Life.

    async def start(self) -> Address:
        """Listen; returns the bound address. Raises OSError when that is not possible."""
        self._loop = asyncio.get_running_loop()
        listen = self._config.listen
        self._listener = await self._loop.create_server(
            lambda: Connection(self), listen.host, listen.port, backlog=1024
        )
        self._ticker = self._loop.call_later(_TICK_S, self._tick)
        host, port = self._listener.sockets[0].getsockname()[:2]
        self._facts.resp_port = port
        return Address(host, port)

    async def stop(self, grace_s: float) -> None:
        """Accept and run nothing more, send what is owed, close; cut off who does not read within
        ``grace_s``.
        """
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in list(self._connections.values()):
            connection.close_after_replies()
        if self._connections:
            self._emptied.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
            except TimeoutError:
                for connection in list(self._connections.values()):
                    connection.transport.abort()

    # What connections call.

    def new_lane(self, connection: Connection) -> resp.Lane:
        """A connection's input, with the configured limits."""
        limits = self._config
        lane = resp.Lane(limits.bulk_bytes_max, limits.request_bytes_max, limits.arguments_max)
        lane.attach(connection, self._line, self._schedule)
        return lane

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        self._next_id += 1
        session = Session(
            id=self._next_id,
            address=_name(connection.transport.get_extra_info("peername")),
            local_address=_name(connection.transport.get_extra_info("sockname")),
            created_ms=self._clock.wall_ms(),
            authenticated=self._secret is None,
        )
        connection.session = session
        self._connections[session.id] = connection
        self._instruments.accepted.value += 1
        connection.active_ns = self._clock.monotonic_ns()
        connection.refresh()
        if len(self._connections) > self._config.connections_max or self._stopping:
            self._instruments.refused.value += 1
            connection.write(error_reply("ERR max number of clients reached"))
            connection.close_after_replies()

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.pop(connection.session.id, None)
        self._held.pop(connection.session.id, None)
        if not self._connections:
            self._emptied.set()

    def _schedule(self) -> None:
        """The first of a turn's input has come."""
        self._arrived_ns = self._clock.monotonic_ns()
        assert self._loop is not None, "a connection before the start"
        self._loop.call_soon(self._turn)

    def cut_off(self, connection: Connection, why: str) -> None:
        """Close at once, owing replies."""
        self._instruments.cut_off.value += 1
        log.warning("client %s is cut off: %s", connection.session.address, why)
        connection.closing = True
        connection.settle_lane()
        connection.transport.abort()

    def observe(self, arrived_ns: int, replies: int) -> None:
        """Replies that arrived as requests at ``arrived_ns`` have been sent now."""
        self._instruments.latency.observe((self._clock.monotonic_ns() - arrived_ns) / 1e9, replies)

    # A turn.

    def _turn(self) -> None:
        taken = resp.take_line(self._line)
        arrived_ns = self._arrived_ns
        lanes = taken
        try:
            for _ in range(_ROUNDS_PER_TURN):
                lanes = self._round(lanes, arrived_ns)
                if not lanes:
                    return
        except BaseException:
            # Our bug. Some of these clients would wait for ever, or take one reply for another's: a closed
            # connection says "unknown", which is the truth.
            for lane in taken:
                self.cut_off(lane.owner, "an internal error")
            raise
        # Fairness: a deep pipeline goes on in the next turn, after everybody's new input has been read. Its
        # own is not read meanwhile, or it could send faster than it is served.
        for lane in lanes:
            lane.owner.limit_backlog()
            lane.owner.wake()

    def _round(self, lanes: list[resp.Lane], arrived_ns: int) -> list[resp.Lane]:
        """Run one round; returns the lanes that may have more."""
        batch = self._batch
        batch.clear()
        owners: list[Connection] = []
        stops: list[int] = []
        commands: list[tuple[Connection, list[bytes]]] = []
        again: list[resp.Lane] = []
        ended: list[tuple[Connection, str]] = []
        others, received = resp.take_plain(lanes, batch, self.in_flight_max, owners, stops)
        self.bytes_in.value += received
        for connection, outcome in others:
            result = outcome
            if result == _ASIDE:
                if connection.closing or connection.blocked:
                    continue
                if connection.pending:
                    commands.append((connection, connection.pending.popleft()))
                    again.append(connection.lane)
                    continue
                result = self._pull(connection, owners, stops)
                if result == _NEED_INPUT:
                    if connection.backlogged:
                        connection.end_backlog()
                    if connection.finishing:
                        ended.append((connection, ""))
                    continue
            if isinstance(result, ProtocolError):
                ended.append((connection, str(result)))
                continue
            again.append(connection.lane)
            if result == _COMMAND:
                commands.append((connection, connection.lane.arguments))
        if owners:
            self._run_batch(list(zip(owners, [0, *stops], stops, strict=False)), arrived_ns)
            if self._deferred:
                commands = self._defer_commands(commands)
        if commands:
            self._run_commands(commands, arrived_ns)
        for connection, text in ended:
            if connection.pending:
                # What it sent before comes first; the parser will say the same again.
                again.append(connection.lane)
            else:
                self._end(connection, text, arrived_ns)
        return again

    def _pull(
        self, connection: Connection, owners: list[Connection], stops: list[int]
    ) -> int | ProtocolError:
        """Take from a lane that is not plain; a client in MULTI, say, sends commands alone."""
        batch, lane = self._batch, connection.lane
        before = batch.count
        room = self.in_flight_max - connection.in_flight
        try:
            result: int | ProtocolError = lane.pull(batch if connection.fast else None, lane.prefix, room)
        except ProtocolError as error:
            result = error
        if batch.count > before:
            owners.append(connection)
            stops.append(batch.count)
        return result

    def _end(self, connection: Connection, text: str, arrived_ns: int) -> None:
        """Close, after the text of a protocol error where there is one."""
        if not text:
            connection.close_after_replies()
            return
        self._instruments.protocol_errors.value += 1
        if connection.session.reply_mode == "on":
            connection.send(error_reply(f"ERR {text}"), 1, 0, arrived_ns)
        connection.linger_after_replies()

    # Plain reads and writes.

    def _run_batch(self, runs: list[Run], arrived_ns: int) -> None:
        batch = self._batch
        count = batch.count
        writes = batch.kinds.find(resp.SET, 0, count) >= 0
        if writes and self._plain_bytes_max is not None and self._longest(count) > self._plain_bytes_max:
            self._defer(runs)
            return
        try:
            spans = self._spans(runs)
        except SadikError:
            # A new bucket that cannot be recorded, for example on a full disk: as commands, each write gets
            # its error and each read its answer.
            self._defer(runs)
            return
        vnodes = self._coordinator.vnodes
        vnodes.prepare(batch, spans)
        applied = vnodes.apply(batch, 0, count)
        self._answer(runs, 0, applied, arrived_ns)
        start = applied.taken
        while start < count and (runs := self._defer_blocked(runs, start)):
            start = runs[0][1]
            applied = vnodes.apply(batch, start, count)
            self._answer(runs, start, applied, arrived_ns)
            start += applied.taken

    def _spans(self, runs: list[Run]) -> list[Span]:
        """Neighbouring runs in the same bucket, as one."""
        spans: list[Span] = []
        name = runs[0][0].session.bucket
        begin = 0
        for connection, first, _ in runs:
            if connection.session.bucket != name:
                spans.append(self._span(begin, first, name))
                name, begin = connection.session.bucket, first
        spans.append(self._span(begin, runs[-1][2], name))
        return spans

    def _span(self, first: int, stop: int, name: bytes) -> Span:
        # A bucket that is only read from is not recorded: names that nobody writes to must not grow anything.
        writes = self._batch.kinds.find(resp.SET, first, stop) >= 0
        find = self._coordinator.bucket_for_write if writes else self._coordinator.bucket
        return Span(first, stop, find(name))

    def _defer_blocked(self, runs: list[Run], start: int) -> list[Run]:
        """Big values cut the batch: whoever does not take its replies gets its rest back as commands for
        later.
        """
        left = [(connection, max(first, start), stop) for connection, first, stop in runs if stop > start]
        for number, (connection, _, _) in enumerate(left):
            if not connection.blocked and not connection.closing:
                self._defer(left[:number])
                return left[number:]
        self._defer(left)
        return []

    def _defer(self, runs: list[Run]) -> None:
        """Give operations back to their connections, as commands that run one at a time."""
        for connection, first, stop in runs:
            connection.defer(self._arguments(index) for index in range(first, stop))
            self._deferred.add(connection.session.id)

    def _defer_commands(
        self, commands: list[tuple[Connection, list[bytes]]]
    ) -> list[tuple[Connection, list[bytes]]]:
        """Commands that came behind operations that were deferred in this round wait for them; the others."""
        deferred, self._deferred = self._deferred, set()
        now = []
        for connection, arguments in commands:
            if connection.session.id in deferred:
                connection.defer([arguments])
            else:
                now.append((connection, arguments))
        return now

    def _longest(self, count: int) -> int:
        """Length of the longest value in the batch."""
        return max(memoryview(self._batch.payload_lengths).cast("q")[:count])

    def _arguments(self, index: int) -> list[bytes]:
        """Operation ``index`` of the batch as the command it was."""
        batch = self._batch
        name_start, name_length = _int64(batch.name_starts, index), _int64(batch.name_lengths, index)
        name = bytes(batch.data[name_start : name_start + name_length])
        key = name[1 + name[0] + 2 :]
        if batch.kinds[index] == resp.GET:
            return [b"GET", key]
        start, length = _int64(batch.payload_starts, index), _int64(batch.payload_lengths, index)
        arguments = [b"SET", key, bytes(batch.data[start : start + length])]
        ttl_ms = _int64(batch.ttl_ms, index)
        return arguments if ttl_ms < 0 else [*arguments, b"PX", b"%d" % ttl_ms]

    def _answer(self, runs: list[Run], start: int, applied: Applied, arrived_ns: int) -> None:
        """Encode and send the replies of operations ``start`` to ``start + applied.taken``."""
        result, count = applied.result, applied.taken
        refused = count - result.status.count(_OK) - result.status.count(_NOTHING)
        if applied.error is not None:
            refused = max(refused, applied.writes)
        self._instruments.batch(count, applied.writes, refused)
        kinds = self._batch.kinds if not start else self._batch.kinds[start:]
        pending = applied.ticket if applied.writes and self._coordinator.sync.pending(applied.ticket) else 0
        stop = start + count
        if start or refused or pending or runs[-1][2] > stop:
            self._answer_one_by_one(runs, start, kinds, applied, refused, pending, arrived_ns)
            return
        protocols = [connection.session.protocol for connection, _, _ in runs]
        stops = [run[2] for run in runs]
        replies = resp.encode_runs(
            stops, protocols, kinds, result.status, result.values, result.value_start, result.value_length
        )
        direct: list[Connection] = []
        descriptors: list[int] = []
        parts: list[bytes] = []
        for (connection, first, last), data in zip(runs, replies, strict=True):
            if connection.is_direct():
                direct.append(connection)
                descriptors.append(connection.descriptor)
                parts.append(data)
            else:
                connection.send(data, last - first, 0, arrived_ns)
        for index, taken in sockets.send_many(descriptors, parts):
            direct[index].write_rest(parts[index], taken)
        self.bytes_out.value += sum(map(len, parts))
        self.observe(arrived_ns, count)

    def _answer_one_by_one(
        self,
        runs: list[Run],
        start: int,
        kinds: bytearray,
        applied: Applied,
        refused: int,
        pending: int,
        arrived_ns: int,
    ) -> None:
        """The same where some operations have errors, or wait for durability, or the batch was cut."""
        result = applied.result
        arrays = (result.status, result.values, result.value_start, result.value_length)
        sent = 0
        for connection, run_first, run_stop in runs:
            first, last = max(run_first - start, 0), min(run_stop - start, applied.taken)
            if first >= last:
                continue
            wait = pending if pending and kinds.find(resp.SET, first, last) >= 0 else 0
            if refused:
                data, ticket = self._encode_refused(first, last, start, kinds, applied, connection.session)
                wait = max(wait, ticket)
            else:
                data = resp.encode_run(first, last, kinds, *arrays, connection.session.protocol == 3)
            if not wait and not connection.held:
                sent += last - first
            connection.send(data, last - first, wait, arrived_ns)
            if wait:
                self._hold(connection, wait)
        if sent:
            self.observe(arrived_ns, sent)

    def _encode_refused(
        self, first: int, last: int, start: int, kinds: bytearray, applied: Applied, session: Session
    ) -> tuple[bytes, int]:
        """Replies of one run operation by operation, and the ticket of what was written on the way.

        What the batch could not do (an unreadable record, a full version set) is tried once more as a
        command: a record knows how to replace what cannot be read, and how to forget actors that are no
        more. A GET behind a SET that was not stored has seen something else than the store now holds, so it
        is done again too.
        """
        result = applied.result
        arrays = (result.status, result.values, result.value_start, result.value_length)
        vnodes = self._coordinator.vnodes
        before = vnodes.ticket_last
        replies = []
        for index in range(first, last):
            if applied.error is not None and kinds[index] == resp.SET:
                replies.append(refusal(applied.error))
                continue
            write = vnodes.follows(start + index) - start
            stale = write >= 0 and (applied.error is not None or result.status[write] != _OK)
            if result.status[index] in (_OK, _NOTHING) and not stale:
                replies.append(resp.encode_run(index, index + 1, kinds, *arrays, session.protocol == 3))
            else:
                replies += self.execute(session, [self._arguments(start + index)])
        written = vnodes.ticket_last
        waits = written != before and self._coordinator.sync.pending(written)
        return b"".join(replies), written if waits else 0

    def _hold(self, connection: Connection, ticket: int) -> None:
        """Remember who waits; the first one asks for a sync."""
        first = not self._held
        self._held[connection.session.id] = connection
        if first:
            # Last: after a failed sync it answers at once.
            self._coordinator.sync.wait(ticket, self._released)

    def _released(self, error: StorageFailed | None) -> None:
        held, self._held = self._held, {}
        durable = self._coordinator.vnodes.engine.durable_ticket
        last = 0
        for connection in held.values():
            if error is not None:
                connection.fail_held(refusal(error))
                continue
            connection.release(durable)
            if connection.held:
                self._held[connection.session.id] = connection
                # Not the last one's: a read behind a write waits without a ticket of its own.
                last = max(last, max(item.ticket for item in connection.held))
        if self._held:
            self._coordinator.sync.wait(last, self._released)

    # Commands.

    def _run_commands(self, commands: Sequence[tuple[Connection, list[bytes]]], arrived_ns: int) -> None:
        calls: list[Item] = []
        modes: list[str] = []
        now_ms = self._clock.wall_ms()
        for connection, arguments in commands:
            session = connection.session
            session.last_command_ms = now_ms
            modes.append(session.reply_mode)
            calls.append((session, admission.admit(session, arguments, self._config.request_bytes_max)))
        replies, tickets = self._execution.run(calls, now_ms)
        for (connection, _), mode, reply, ticket in zip(commands, modes, replies, tickets, strict=True):
            if _is_spoken(connection.session, mode):
                wait = ticket if ticket and self._coordinator.sync.pending(ticket) else 0
                connection.send(reply, 1, wait, arrived_ns)
                if wait:
                    self._hold(connection, wait)
            connection.refresh()
            if connection.session.close_after_reply:
                connection.close_after_replies()
        self.observe(arrived_ns, len(calls))

    def execute(self, session: Session, commands: Sequence[list[bytes]]) -> list[bytes]:
        """Run queued commands in order, without isolation, and return their encoded replies (EXEC)."""
        admitted = [(session, admission.admit(session, arguments)) for arguments in commands]
        return self._execution.run_within(admitted, self._clock.wall_ms(), self.output_bytes_max)

    # What commands ask of the server.

    def sessions(self) -> list[Session]:
        return [connection.session for connection in self._connections.values()]

    def kill(self, session_id: int) -> None:
        connection = self._connections.get(session_id)
        if connection is not None:
            connection.close_after_replies()

    @property
    def password_required(self) -> bool:
        return self._secret is not None

    def authenticate(self, user: bytes, password: bytes) -> bool:
        return self._secret is not None and user == b"default" and hmac.compare_digest(self._secret, password)

    def information(self) -> dict[str, dict[str, str | int]]:
        return information.sections(
            self._facts, self._instruments, self._coordinator, len(self._connections), self._clock
        )

    def reset_statistics(self) -> None:
        self._instruments.reset()

    # Once a second.

    def _tick(self) -> None:
        assert self._loop is not None, "a tick before the start"
        self._ticker = self._loop.call_later(_TICK_S, self._tick)
        now_ns = self._clock.monotonic_ns()
        idle_ns = self._config.idle_timeout_ms * 1_000_000
        soft_ns = self._config.output_soft_ms * 1_000_000
        for connection in list(self._connections.values()):
            unsent = connection.transport.get_write_buffer_size()
            if unsent > self._config.output_soft_bytes_max or (unsent and connection.closing):
                connection.over_soft_since_ns = connection.over_soft_since_ns or now_ns
                if now_ns - connection.over_soft_since_ns > soft_ns:
                    self.cut_off(
                        connection,
                        "it does not take its last replies"
                        if connection.closing
                        else "its replies exceed the soft output limit for too long",
                    )
                continue
            connection.over_soft_since_ns = 0
            if connection.received != connection.lane.received:
                connection.received, connection.active_ns = connection.lane.received, now_ns
            if connection.lingering:
                connection.linger_tick()
            elif idle_ns and now_ns - connection.active_ns > idle_ns:
                connection.close_after_replies()


def _is_spoken(session: Session, mode_before: str) -> bool:
    """Whether a command's reply is sent (CLIENT REPLY); a skip is used up by it."""
    if mode_before == "skip" and session.reply_mode == "skip":
        session.reply_mode = "on"
        return False
    return session.reply_mode == "on"


def _name(address: object) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)


def _int64(array: bytearray, index: int) -> int:
    return int.from_bytes(array[8 * index : 8 * index + 8], "little", signed=True)
