"""Commands that need Python: records of a group read in one batch, handlers in order, changes written in
one batch.

A group is a stretch of commands with keys; commands on the same key share one record, so the second sees
what the first did. A command that touches the store without keys (FLUSHDB, SCAN, EXEC, ...) is a barrier:
what came before it is stored first, what comes after is read later. A handler that fails has changed
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sadik.api.resp import admission
from sadik.api.resp.call import Call, Command, CommandError, Server, Session
from sadik.api.resp.instruments import RespInstruments
from sadik.api.resp.replies import error
from sadik.errors import LimitReached, SadikError, StorageError
from sadik.node.coordinator.service import Coordinator

Item = tuple[Session, admission.Admitted | bytes]
"""A command to run, or the reply that stands for it already."""


class Execution:
    """Runs admitted commands against one coordinator, for one server."""

    def __init__(self, server: Server, coordinator: Coordinator, instruments: RespInstruments) -> None:
        self._server = server
        self._coordinator = coordinator
        self._instruments = instruments
        self._reply_room: int | None = None

    def run_within(self, items: Sequence[Item], now_ms: int, reply_bytes_max: int) -> list[bytes]:
        """``run``, but commands for whose replies there is no room are not run, and their replies say so.

        What EXEC makes is in memory whole, and a thousand GETs of one big value queue cheaply.
        """
        self._reply_room = reply_bytes_max
        try:
            return self.run(items, now_ms)[0]
        finally:
            self._reply_room = None

    def run(self, items: Sequence[Item], now_ms: int) -> tuple[list[bytes], list[int]]:
        """Replies and tickets of commands, in order; a ticket of 0 means that nothing was written."""
        replies: list[bytes] = []
        tickets: list[int] = []
        group: list[Item] = []
        for session, item in items:
            if isinstance(item, bytes) or not item.barrier:
                group.append((session, item))
                continue
            self._run_group(group, now_ms, replies, tickets)
            group = []
            self._run_group([(session, item)], now_ms, replies, tickets)
        self._run_group(group, now_ms, replies, tickets)
        return replies, tickets

    def _run_group(
        self,
        group: Sequence[Item],
        now_ms: int,
        replies: list[bytes],
        tickets: list[int],
    ) -> None:
        addresses = [
            (session.bucket, key)
            for session, item in group
            if not isinstance(item, bytes)
            for key in item.keys
        ]
        try:
            records = self._coordinator.records(addresses)
        except SadikError as failure:
            if len(group) > 1:
                # One command's fault is not the others': each on its own.
                for one in group:
                    self._run_group([one], now_ms, replies, tickets)
                return
            self._instruments.replied(ok=False)
            replies.append(refusal(failure))
            tickets.append(0)
            return
        wrote: list[int] = []
        saw: list[tuple[int, Item]] = []
        for session, item in group:
            if isinstance(item, bytes):
                replies.append(item)
                tickets.append(0)
                continue
            call = Call(
                arguments=item.arguments,
                session=session,
                server=self._server,
                now_ms=now_ms,
                records=[records[(session.bucket, key)] for key in item.keys],
            )
            before = self._coordinator.vnodes.ticket_last
            stored = [record.stored for record in call.records]
            reply = self._run_one(item.command, call)
            after = self._coordinator.vnodes.ticket_last
            if any(record.changed for record in call.records):
                if any(record.stored is not old for record, old in zip(call.records, stored, strict=True)):
                    wrote.append(len(replies))
                else:
                    saw.append((len(replies), (session, item)))
            replies.append(reply)
            tickets.append(after if after != before else 0)
        if not wrote:
            return
        try:
            ticket = self._coordinator.commit(records.values())
        except StorageError as failure:
            for index in wrote:
                replies[index] = refusal(failure)
            # Who saw what was not stored in the end looks again.
            for index, one in saw:
                again: tuple[list[bytes], list[int]] = ([], [])
                self._run_group([one], now_ms, *again)
                replies[index], tickets[index] = again[0][0], again[1][0]
            return
        for index in [*wrote, *(index for index, _ in saw)]:
            tickets[index] = ticket

    def _run_one(self, command: Command, call: Call) -> bytes:
        kept = [(record, record.state()) for record in call.records]
        self._instruments.command(command.name)
        assert command.handler is not None, f"{command.name} was admitted without a handler"
        try:
            if self._reply_room is not None and self._reply_room <= 0:
                raise LimitReached("not run: the replies of this batch exceed the output limit")
            reply = command.handler(call)
            for record in call.records:
                if record.changed:
                    self._coordinator.check_limits(record)
        except SadikError as failure:
            for record, state in kept:
                record.restore(state)
            reply = refusal(failure)
        self._instruments.replied(ok=not reply.startswith(b"-"))
        if self._reply_room is not None:
            self._reply_room -= len(reply)
        return reply


def refusal(failure: SadikError) -> bytes:
    """The error reply of a failure: a command's own words, or the code of its class in front."""
    return error(str(failure) if isinstance(failure, CommandError) else f"{failure.code} {failure}")
