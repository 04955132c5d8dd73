"""Commands that need Python: records of a group read in one batch, handlers in order, changes written in
one batch.

A group is commands with keys that came together; those on the same key share one record, so the second sees
what the first did. A handler that fails has changed nothing. Commands of different connections have no order
among them; ``begin_in_order`` runs commands of one connection one behind the other, together as far as they
can be.

A write whose key another node coordinates is forwarded to it whole; one with several keys is split. What
waits for other nodes in its own way (SCAN, FLUSHDB, EXEC, what is forwarded) is a task each, and so ends with
the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sadik.api.resp import admission
from sadik.api.resp.admission import Admitted
from sadik.api.resp.arguments import VALUE_BYTES_MAX_SETTING
from sadik.api.resp.call import DEFAULT, Call, Server, Session
from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.pairs import Pairs, PairWrites
from sadik.api.resp.refusals import UNKNOWN, refusal, refusal_of_parts
from sadik.env.clock import Clock
from sadik.errors import InternalError, LimitReached, SadikError
from sadik.ids import NodeId
from sadik.node.coordinator.options import Options
from sadik.node.records import Record

log = logging.getLogger("sadik.resp")

Item = tuple[Session, Admitted | bytes]
"""A command to run, or the reply that stands for it already."""


@dataclass(slots=True)
class Room:
    """What the replies of one EXEC may still take: its array is in memory whole, and a thousand GETs of one
    big value queue cheaply.
    """

    bytes_left: int


class Job(NamedTuple):
    """One command under way.

    Attributes:
        finish: Called once, with the reply.
        local: It runs here, whoever coordinates its keys: another node has forwarded it.
    """

    session: Session
    item: Admitted
    finish: Callable[[bytes], None]
    room: Room | None = None
    local: bool = False


class Execution:
    """Runs admitted commands against one coordinator, for one server.

    Args:
        timeout_ms: How long another node may take for a forwarded command that does not say.
        batch_operations_max, batch_bytes_max: Of several MSETs that run together: keys, and bytes of names
            and values.
    """

    def __init__(
        self,
        server: Server,
        coordinator: Coordinator,
        instruments: RespInstruments,
        *,
        clock: Clock,
        timeout_ms: int,
        batch_operations_max: int,
        batch_bytes_max: int,
    ) -> None:
        self._server = server
        self._coordinator = coordinator
        self._pairs = PairWrites(coordinator, operations_max=batch_operations_max, bytes_max=batch_bytes_max)
        self._instruments = instruments
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, items: Sequence[Item], finish: Callable[[int, bytes], None]) -> None:
        """Run commands of different connections.

        Args:
            finish: Called once for each command, with its number and its reply, before this returns or later.
        """
        groups: dict[tuple[Options, bool], list[Job]] = {}
        pairs: list[Job] = []
        for number, (session, item) in enumerate(items):
            if isinstance(item, bytes):
                finish(number, item)
                continue
            job = Job(session, item, partial(finish, number))
            if item.command.pairs and self._coordinator.has_others:
                pairs.append(job)
            elif self._begin(job):
                groups.setdefault((item.options, item.blind), []).append(job)
        if pairs:
            self._run_pairs(pairs)
        for (options, blind), jobs in groups.items():
            self._run_group(jobs, options, blind, self._run_apart)

    def begin_in_order(
        self,
        session: Session,
        commands: Sequence[list[bytes]],
        done: Callable[[list[bytes]], None],
    ) -> None:
        """Run commands of one connection in order, in a task, and hand over their replies."""

        async def run() -> None:
            done(await self.run_in_order(session, commands))

        self._spawn(run())

    async def run_in_order(
        self, session: Session, commands: Sequence[list[bytes]], reply_bytes_max: int | None = None
    ) -> list[bytes]:
        """Replies of commands that run in order; each sees what those before it did.

        Args:
            reply_bytes_max: Commands for whose replies there is no room are not run, and their replies say
                so.
        """
        room = None if reply_bytes_max is None else Room(reply_bytes_max)
        replies: list[bytes] = [b""] * len(commands)
        together: list[Job] = []
        for number, arguments in enumerate(commands):
            item = admission.admit(session, arguments)
            finish = partial(replies.__setitem__, number)
            if isinstance(item, bytes):
                finish(item)
                continue
            job = Job(session, item, finish, room)
            if not item.alone and self._is_here(job):
                together.append(job)
                continue
            await self._run_together(together)
            together = []
            finish(await self._run_alone(job))
        await self._run_together(together)
        return replies

    async def run_forwarded(self, session: Session, arguments: list[bytes]) -> bytes:
        """Run a command that another node has forwarded here; it goes no further."""
        item = admission.admit(session, arguments)
        if isinstance(item, bytes):
            return item
        return await self._run_alone(Job(session, item, _ignore, local=True))

    async def stop(self) -> None:
        """End what still runs; its clients are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # One command.

    def _begin(self, job: Job) -> bool:
        """Start a command that goes its own way; True for one that is to run in a group."""
        item = job.item
        if item.options is not DEFAULT:
            try:
                self._coordinator.check_options(job.session.bucket, item.options)
            except SadikError as failure:
                self._finish(job, refusal(failure))
                return False
        if item.command.awaited is not None:
            self._spawn(self._run_awaited(job))
            return False
        if not item.keys:
            self._finish(job, self._run_handler(job, {}))
            return False
        if not self._is_here(job):
            self._spawn(self._run_elsewhere(job))
            return False
        return True

    def _is_here(self, job: Job) -> bool:
        """Whether this node runs the command by itself."""
        item, bucket = job.item, job.session.bucket
        if job.local or not item.writes:
            return True
        return all(self._coordinator.route(bucket, key) is None for key in item.keys)

    async def _run_alone(self, job: Job) -> bytes:
        """The reply of one command."""
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def finish(data: bytes) -> None:
            # The server's end may have cancelled who waits.
            if not reply.done():
                reply.set_result(data)

        job = job._replace(finish=finish)
        if self._begin(job):
            self._run_apart([job])
        return await reply

    def _run_handler(self, job: Job, records: dict[tuple[bytes, bytes], Record]) -> bytes:
        command, session = job.item.command, job.session
        call = Call(
            arguments=job.item.arguments,
            session=session,
            server=self._server,
            now_ms=self._clock.wall_ms(),
            records=[records[(session.bucket, key)] for key in job.item.keys],
            options=job.item.options,
        )
        kept = [(record, record.state()) for record in call.records]
        self._instruments.command(command.name)
        assert command.handler is not None, f"{command.name} was admitted without a handler"
        try:
            _check_room(job)
            reply = command.handler(call)
            for record in call.records:
                if record.changed:
                    self._coordinator.check_limits(record)
        except SadikError as failure:
            for record, state in kept:
                record.restore(state)
            reply = refusal(failure)
        except Exception as bug:  # noqa: BLE001  The others of the group are not to suffer from it.
            for record, state in kept:
                record.restore(state)
            reply = _bug(command.name, bug)
        if job.room is not None:
            job.room.bytes_left -= len(reply)
        return reply

    def _finish(self, job: Job, reply: bytes) -> None:
        self._instruments.replied(ok=not reply.startswith(b"-"))
        job.finish(reply)

    # Groups.

    def _run_pairs(self, jobs: Sequence[Job]) -> None:
        """MSETs as plain SETs; those that cannot be, as any other command."""

        def done(number: int, reply: bytes | None) -> None:
            job = jobs[number]
            if reply is not None:
                self._instruments.command(job.item.command.name)
                self._finish(job, reply)
            elif self._begin(job):
                self._run_apart([job])

        self._pairs.run(
            [Pairs(job.session.bucket, job.item.arguments) for job in jobs],
            int(self._server.settings[VALUE_BYTES_MAX_SETTING]),
            done,
        )

    def _run_apart(self, jobs: Sequence[Job]) -> None:
        """One command's fault is not the others': each on its own."""
        for job in jobs:
            self._run_group([job], job.item.options, job.item.blind, self._run_apart)

    def _run_group(
        self, jobs: Sequence[Job], options: Options, blind: bool, apart: Callable[[Sequence[Job]], None]
    ) -> None:
        """Read, run, store.

        Args:
            apart: What becomes of several commands whose keys cannot be read together.
        """
        addresses = [(job.session.bucket, key) for job in jobs for key in job.item.keys]
        if not addresses:
            self._run_on(jobs, {}, options)
            return

        def ready(found: dict[tuple[bytes, bytes], Record] | SadikError) -> None:
            if not isinstance(found, SadikError):
                self._run_on(jobs, found, options)
            elif len(jobs) > 1:
                apart(jobs)
            else:
                self._finish(jobs[0], refusal(found))

        self._coordinator.read_records(addresses, options, ready, quorum=not blind)

    def _run_on(
        self, jobs: Sequence[Job], records: dict[tuple[bytes, bytes], Record], options: Options
    ) -> None:
        """Handlers in order, then one commit. Nothing in between may wait."""
        wrote: list[tuple[Job, bytes]] = []
        saw: list[tuple[Job, bytes]] = []
        rest: list[tuple[Job, bytes]] = []
        for job in jobs:
            own = [records[(job.session.bucket, key)] for key in job.item.keys]
            stored = [record.stored for record in own]
            reply = self._run_handler(job, records)
            if any(record.stored is not old for record, old in zip(own, stored, strict=True)):
                wrote.append((job, reply))
            elif any(record.changed for record in own):
                saw.append((job, reply))
            else:
                rest.append((job, reply))
        if wrote:
            changed = [record for record in records.values() if record.changed]
            self._coordinator.commit(changed, options, partial(self._on_commit, wrote, saw))
        for job, reply in rest:
            self._finish(job, reply)

    def _on_commit(
        self, wrote: list[tuple[Job, bytes]], saw: list[tuple[Job, bytes]], failure: SadikError | None
    ) -> None:
        for job, reply in wrote:
            self._finish(job, reply if failure is None else refusal(failure))
        for job, reply in saw:
            if failure is None or getattr(failure, "maybe_applied", False):
                self._finish(job, reply)
            else:
                # Who saw what was not stored in the end looks again.
                self._run_apart([job])

    async def _run_together(self, jobs: Sequence[Job]) -> None:
        """Run commands of one connection as a group, in order; one by one where that cannot be."""
        if not jobs:
            return
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        left = len(jobs)

        def end(together: bool) -> None:
            if not ended.done():
                ended.set_result(together)

        def finish(own: Callable[[bytes], None], reply: bytes) -> None:
            nonlocal left
            own(reply)
            left -= 1
            if not left:
                end(True)

        group = [job._replace(finish=partial(finish, job.finish)) for job in jobs]
        self._run_group(group, DEFAULT, False, lambda _: end(False))
        if not await ended:
            for job in jobs:
                job.finish(await self._run_alone(job))

    # Tasks.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_awaited(self, job: Job) -> None:
        command = job.item.command
        assert command.awaited is not None
        self._instruments.command(command.name)
        call = Call(
            arguments=job.item.arguments,
            session=job.session,
            server=self._server,
            now_ms=self._clock.wall_ms(),
            options=job.item.options,
        )
        try:
            _check_room(job)
            reply = await command.awaited(call)
        except SadikError as failure:
            reply = refusal(failure)
        except Exception as bug:  # noqa: BLE001  Whatever it meets, its client is answered.
            reply = _bug(command.name, bug)
        if job.room is not None:
            job.room.bytes_left -= len(reply)
        self._finish(job, reply)

    async def _run_elsewhere(self, job: Job) -> None:
        """Let the nodes that coordinate a write's keys run it, each its part."""
        item = job.item
        self._instruments.command(item.command.name)
        try:
            reply = await self._forward(job)
        except Exception as bug:  # noqa: BLE001  Whatever it meets, its client is answered.
            reply = _bug(item.command.name, bug)
        if job.room is not None:
            job.room.bytes_left -= len(reply)
        self._finish(job, reply)

    async def _forward(self, job: Job) -> bytes:
        item, bucket = job.item, job.session.bucket
        parts: dict[NodeId | None, list[int]] = {}
        for number, key in enumerate(item.keys):
            parts.setdefault(self._coordinator.route(bucket, key), []).append(number)
        if len(parts) == 1:
            (node,) = parts
            return await self._forward_to(node, job, item.arguments)
        combine = item.command.combine
        assert combine is not None, f"{item.command.name} has several keys and cannot be split"
        replies = await asyncio.gather(
            *(self._forward_to(node, job, item.part(numbers)) for node, numbers in parts.items())
        )
        failed = [reply for reply in replies if reply.startswith(b"-")]
        if failed:
            return refusal_of_parts(failed, whole=len(failed) == len(replies))
        return combine(replies)

    async def _forward_to(self, node: NodeId | None, job: Job, arguments: list[bytes]) -> bytes:
        session = job.session
        if node is None:
            return await self.run_forwarded(session, arguments)
        timeout_ms = job.item.options.timeout_ms or self._timeout_ms
        try:
            return await self._coordinator.forward_command(
                node, session.bucket, session.protocol, arguments, timeout_ms
            )
        except SadikError as failure:
            return refusal(failure)


def _bug(name: str, bug: Exception) -> bytes:
    log.error("%s failed: %s", name, bug, exc_info=bug)
    return refusal(InternalError(f"an internal error; it {UNKNOWN}"))


def _check_room(job: Job) -> None:
    if job.room is not None and job.room.bytes_left <= 0:
        raise LimitReached("not run: the replies of this batch exceed the output limit")


def _ignore(reply: bytes) -> None: ...
