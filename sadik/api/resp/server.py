"""The RESP server: whatever one turn of the event loop has read from all sockets is one batch.

A turn goes in rounds. In each round every connection contributes the plain GETs and SETs at the head of its
input to one shared batch (parsed by the kernel, no Python per operation; ``plain.py``), and then at most one
other command (``execution.py``). What cannot be answered at once is *in flight*, and its connection waits:
it contributes nothing more until the answer has left. So each connection's order is kept; between connections
there is no order to keep.
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
from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.execution import Execution, Item
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.plain import Plain, Runs
from sadik.api.resp.replies import error as error_reply
from sadik.config import NodeConfig
from sadik.env.clock import Clock
from sadik.errors import ProtocolError
from sadik.kernels import resp
from sadik.settings import Address

log = logging.getLogger("sadik.resp")

_ROUNDS_PER_TURN = 8
_TICK_S = 1.0
_GATHER_S = 0.001
"""A turn costs every node of a cluster much more than an operation does, so one of many operations is better
than many of one. What arrives while a batch is on its way to other nodes waits for it, and then for the next
requests of those whom it answered; but for either no longer than this.
"""
_PAUSE_NS = 10_000_000
"""Who has not come back after so long is not waited for when somebody else comes."""
_IMPATIENT_MAX = 255
"""Batches after which nobody is waited for, once that was in vain: twice as many each time, up to this."""
_LOADING = error_reply(admission.LOADING)
_PEER = "a node"

_NEED_INPUT = resp.NEED_INPUT
_COMMAND = resp.COMMAND
_ASIDE = resp.ASIDE


class RespServer:
    """Serves Redis clients from one coordinator.

    Attributes:
        store: What commands reach beyond their records.
        settings: CONFIG names and values.
        in_flight_max: Plain operations of one connection that may be in flight.
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
        self._secret = config.secret
        self._clock = clock
        self._instruments = instruments
        self.bytes_in = instruments.bytes_in
        self.bytes_out = instruments.bytes_out
        self._facts = facts
        self._batch = resp.Batch(config.resp.batch_operations_max, config.resp.batch_bytes_max)
        self._connections: dict[int, Connection] = {}
        self._line = resp.Line(self._on_first, self._on_complete)
        self._execution = Execution(
            self,
            coordinator,
            instruments,
            clock=clock,
            timeout_ms=config.limits.request_timeout_ms,
            batch_operations_max=config.resp.batch_operations_max,
            batch_bytes_max=config.resp.batch_bytes_max,
        )
        self._plain = Plain(
            self,
            coordinator,
            self._execution,
            instruments,
            clock=clock,
            value_bytes_max=config.limits.value_bytes_max,
            batch_bytes_max=config.resp.batch_bytes_max,
        )
        coordinator.run_command = self.run_forwarded
        self._served = False
        self._arrived_ns = 0
        self._gathering = False
        self._gathered_at_s = 0.0
        self._gather_timer: asyncio.TimerHandle | None = None
        self._landed_ns = 0
        self._impatient = 0
        self._impatient_next = 1
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
        """Accept and run nothing more, send what is owed, close; cut off who does not read, or whose request
        is not answered, within ``grace_s``.
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
        await self._execution.stop()

    # What connections call.

    def new_lane(self, connection: Connection) -> resp.Lane:
        """A connection's input, with the configured limits."""
        limits = self._config
        lane = resp.Lane(limits.bulk_bytes_max, limits.request_bytes_max, limits.arguments_max)
        lane.attach(connection, self._line)
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
        if not self._connections:
            self._emptied.set()

    def _on_first(self) -> None:
        """The first of a turn's input has come."""
        self._arrived_ns = self._clock.monotonic_ns()
        assert self._loop is not None, "a connection before the start"
        if self._line.missing and self._arrived_ns - self._landed_ns > _PAUSE_NS:
            self._line.forget()
        if (self._plain.in_flight or self._line.missing) and self._coordinator.has_others:
            self._gather()
        else:
            self._loop.call_soon(self._turn)

    def _on_complete(self) -> None:
        """Everybody has come who was waited for."""
        self._impatient_next = max(self._impatient_next // 2, 1)
        self._gathered()

    def landed(self, answered: list[resp.Lane], now_ns: int) -> None:
        """No batch is on its way any more: what came meanwhile is the next one, with what comes at once from
        those who are answered.
        """
        if self._impatient:
            self._impatient -= 1
        elif self._coordinator.has_others:
            self._landed_ns = now_ns
            self._line.expect(answered)
        if not self._line.missing:
            self._gathered()
        elif self._gathering:
            self._gather()

    def _gather(self) -> None:
        """Let the next turn wait, from now on no longer than the limit."""
        assert self._loop is not None, "an answer before the start"
        self._gathering = True
        self._gathered_at_s = self._loop.time() + _GATHER_S
        if self._gather_timer is None:
            self._gather_timer = self._loop.call_later(_GATHER_S, self._on_gather_timer)

    def _on_gather_timer(self) -> None:
        """Set once for many turns: where it comes too early for this one, it is set again."""
        assert self._loop is not None, "a timer before the start"
        self._gather_timer = None
        if not self._gathering:
            return
        rest_s = self._gathered_at_s - self._loop.time()
        # Timers know milliseconds: less than half of one would be none.
        if rest_s > _GATHER_S / 2:
            self._gather_timer = self._loop.call_later(rest_s, self._on_gather_timer)
        else:
            self._turn()

    def _gathered(self) -> None:
        if self._gathering:
            self._gathering = False
            assert self._loop is not None, "an answer before the start"
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
        self._gathering = False
        if self._line.missing:
            # Clients that take their time must not cost the others theirs.
            self._impatient = self._impatient_next
            self._impatient_next = min(2 * self._impatient_next, _IMPATIENT_MAX)
        taken = self._line.take()
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
        self._batch.clear()
        runs = Runs(self._batch, arrived_ns)
        others, received = resp.take_plain(lanes, self._batch, self.in_flight_max, runs)
        self.bytes_in.value += received
        if others:
            return self._run_mixed(runs, others, arrived_ns)
        if runs.lanes:
            self._run_plain(runs)
        return []

    def _run_plain(self, runs: Runs) -> bool:
        """True where anything is in flight, or given back."""
        if not self._served and self._is_loading():
            self._plain.refuse(runs, _LOADING)
            return False
        return self._plain.run(self._batch, runs)

    def _run_mixed(
        self, runs: Runs, others: list[tuple[Connection, int | ProtocolError]], arrived_ns: int
    ) -> list[resp.Lane]:
        """A round in which connections have more to be looked at than plain operations."""
        commands: list[tuple[Connection, list[bytes]]] = []
        again: list[resp.Lane] = []
        ended: list[tuple[Connection, str]] = []
        for connection, outcome in others:
            result = outcome
            if result == _ASIDE:
                if connection.lane.waiting:
                    connection.lane.stirred = True
                    connection.limit_backlog()
                    continue
                if connection.closing or connection.blocked:
                    continue
                if connection.pending:
                    commands.append((connection, connection.pending.popleft()))
                    again.append(connection.lane)
                    continue
                result = self._pull(connection, runs)
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
        if runs.lanes and self._run_plain(runs):
            commands = self._hold_back(runs, commands)
        if commands:
            self._run_commands(commands, arrived_ns)
        for connection, text in ended:
            if connection.pending or connection.lane.waiting:
                # What it sent before comes first; then the parser will say the same again.
                connection.finishing = True
                connection.settle_lane()
                again.append(connection.lane)
            else:
                self._end(connection, text, arrived_ns)
        return again

    def _pull(self, connection: Connection, runs: Runs) -> int | ProtocolError:
        """Take from a lane that is not plain; a client in MULTI, say, sends commands alone."""
        batch, lane = self._batch, connection.lane
        before = batch.count
        try:
            result: int | ProtocolError = lane.pull(
                batch if connection.fast else None, lane.prefix, self.in_flight_max
            )
        except ProtocolError as error:
            result = error
        if batch.count > before:
            runs.add(lane, batch.count)
        return result

    def _end(self, connection: Connection, text: str, arrived_ns: int) -> None:
        """Close, after the text of a protocol error where there is one."""
        if not text:
            connection.close_after_replies()
            return
        self._instruments.protocol_errors.value += 1
        if connection.session.reply_mode == "on":
            connection.send(error_reply(f"ERR {text}"))
            self.observe(arrived_ns, 1)
        connection.linger_after_replies()

    def _is_loading(self) -> bool:
        """Whether default quorums could never be met so far; later a missed one is each request's outcome."""
        if not self._served:
            self._served = self._coordinator.was_ready()
        return not self._served

    def _hold_back(
        self, runs: Runs, commands: list[tuple[Connection, list[bytes]]]
    ) -> list[tuple[Connection, list[bytes]]]:
        """Commands that came behind operations that are in flight, or were given back, wait; the others."""
        behind = {lane.owner.session.id for lane in runs.lanes if lane.waiting or lane.owner.pending}
        now = []
        for connection, arguments in commands:
            if connection.session.id in behind:
                connection.defer([arguments])
            else:
                now.append((connection, arguments))
        return now

    # Commands.

    def _run_commands(self, commands: Sequence[tuple[Connection, list[bytes]]], arrived_ns: int) -> None:
        items: list[Item] = []
        modes: list[str] = []
        left: dict[int, None] = {}
        parked = False
        now_ms = self._clock.wall_ms()
        loading = self._is_loading()
        for number, (connection, arguments) in enumerate(commands):
            session = connection.session
            session.last_command_ms = now_ms
            modes.append(session.reply_mode)
            item = admission.admit(session, arguments, self._config.request_bytes_max, loading=loading)
            items.append((session, item))
            left[number] = None

        def finish(number: int, reply: bytes) -> None:
            connection = commands[number][0]
            if _is_spoken(connection.session, modes[number]):
                connection.send(reply)
            del left[number]
            if parked:
                self.observe(arrived_ns, 1)
                connection.lane.waiting = False
            connection.refresh()
            if connection.session.close_after_reply:
                connection.close_after_replies()
            elif parked:
                connection.resume()

        self._execution.run(items, finish)
        parked = True
        if len(left) < len(items):
            self.observe(arrived_ns, len(items) - len(left))
        for number in left:
            commands[number][0].lane.wait()

    async def execute(self, session: Session, commands: Sequence[list[bytes]]) -> list[bytes]:
        """Run queued commands in order, without isolation, and return their encoded replies (EXEC)."""
        return await self._execution.run_in_order(session, commands, self.output_bytes_max)

    async def run_forwarded(self, bucket: bytes, protocol: int, arguments: list[bytes]) -> bytes:
        """Run a command of another node's client; its reply."""
        session = Session(
            id=0,
            address=_PEER,
            local_address=_PEER,
            created_ms=self._clock.wall_ms(),
            authenticated=True,
            protocol=protocol,
            bucket=bucket,
        )
        return await self._execution.run_forwarded(session, arguments)

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
            self._facts,
            self._instruments,
            self._coordinator,
            len(self._connections),
            self._clock,
            loading=self._is_loading(),
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
