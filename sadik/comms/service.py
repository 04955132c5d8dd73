"""Requests, replies and events between nodes, on top of any ``Transport``.

Data path: all frames of one kind that a turn of the event loop has brought are handed to one handler in one
call (``on_batch``). Control path: ``call`` and ``serve``, one coroutine or call per request.

Nothing is retried. A call ends with the peer's reply, with the peer's error, or with ``Unavailable``, which
says whether the request may have been carried out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sadik.comms.failure import decode_failure, encode_failure
from sadik.comms.messages import BULK, DATA, REPLY, Kind
from sadik.comms.throttle import Throttle
from sadik.comms.transport import Frame, Identity, Transport
from sadik.env.clock import Clock
from sadik.errors import InternalError, InvalidRequest, Overloaded, SadikError, Unavailable
from sadik.ids import NodeId
from sadik.kernels import frames

log = logging.getLogger("sadik.comms")

BatchHandler = Callable[[list[tuple[NodeId, Frame]]], None]
CallHandler = Callable[[NodeId, bytes], bytes | Awaitable[bytes]]

CALLS_MAX: Final = 1024
"""Calls of other nodes answered at once, and own calls waited for at once: control requests, each short."""

_UINT64: Final = 2**64
_BUG: Final = "the node failed to answer; its log says why"


@dataclass(frozen=True, slots=True)
class PeersStatistics:
    """Since the start of the process.

    Attributes:
        calls: Made here. failed: Those that ended with an error. waiting: Those without an end yet.
        served: Calls of other nodes. serving: Those being answered. overloaded: Those refused for their
        number.
        unasked: Replies nobody waited for any more, and frames of kinds that have no handler.
    """

    calls: int
    failed: int
    waiting: int
    served: int
    serving: int
    overloaded: int
    unasked: int


class _Call:
    """A call that waits for its reply."""

    __slots__ = ("future", "kind", "lane", "node")

    def __init__(self, node: NodeId, lane: int, kind: int, future: asyncio.Future[bytes]) -> None:
        self.node = node
        self.lane = lane
        self.kind = kind
        self.future = future


class Peers:
    """The other nodes. Everything here is called on the event loop.

    Args:
        transport: Gets this object as its receiver.
        clock: Bounds the log lines that other nodes can cause.
        calls_max: Calls served at once; as many may be waited for.
    Attributes:
        admission: Why a node that shakes hands is not let in, or ``""``.
    """

    def __init__(self, transport: Transport, *, clock: Clock, calls_max: int = CALLS_MAX) -> None:
        self.admission: Callable[[Identity], str] = _anybody
        self._transport = transport
        self._calls_max = calls_max
        self._throttle = Throttle(clock)
        # Replies to an earlier run of this node must not pass for replies to this one.
        self._request = transport.identity.actor % _UINT64
        self._batches: dict[int, list[tuple[NodeId, Frame]]] = {}
        self._handlers: dict[int, BatchHandler] = {}
        # Kinds whose batches are not empty.
        self._arrived: list[int] = []
        self._served_kinds: dict[int, CallHandler] = {}
        self._requests: list[tuple[NodeId, int, Frame]] = []
        self._watchers: list[tuple[Callable[[Identity], None], Callable[[NodeId, str], None]]] = []
        self._waiting: dict[int, _Call] = {}
        self._serving: set[asyncio.Future[bytes]] = set()
        self._scheduled = False
        self._stopped = False
        self._calls = 0
        self._failed = 0
        self._served = 0
        self._overloaded = 0
        self._unasked = 0
        transport.set_receiver(self)

    async def stop(self) -> None:
        """Answer no more calls; those being answered are cancelled, and what waits for replies fails."""
        self._stopped = True
        for call in list(self._waiting.values()):
            _fail(call, Unavailable("this node stops", maybe_applied=True))
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Frames.

    def on_batch(self, kind: int, handler: BatchHandler) -> None:
        """Hand ``handler`` all frames of a kind, of requests or of replies (``kind | REPLY``), that a turn
        has brought.

        One call, in the order they came. Kinds come in ascending order: requests before replies.
        """
        if kind in self._batches or kind in self._served_kinds:
            raise ValueError(f"kind {kind} has a handler already")
        self._batches[kind] = []
        self._handlers[kind] = handler

    def send(self, node: NodeId, frame: bytes, lane: int = DATA) -> bool:
        """Queue an encoded frame; see ``Transport.send``."""
        return self._transport.send(node, frame, lane)

    def hold(self) -> None:
        """What the caller sends leaves together, once it calls ``flush``."""
        self._transport.hold()

    def flush(self) -> None:
        """Send what is held."""
        self._transport.flush()

    def next_request(self) -> int:
        """A request id no other request of this run has: uint64, never 0."""
        self._request = (self._request + 1) % _UINT64 or 1
        return self._request

    # Calls.

    def serve(self, kind: int, handler: CallHandler) -> None:
        """Answer requests of a kind with what ``handler`` gives, or with the error that it raises.

        Args:
            handler: Takes the sender and the payload; returns the reply's payload, or an awaitable of it.
        """
        if kind in self._batches or kind in self._served_kinds:
            raise ValueError(f"kind {kind} has a handler already")
        self._served_kinds[kind] = handler

    async def call(
        self, node: NodeId, kind: int, payload: bytes, *, timeout_ms: int, lane: int = DATA
    ) -> bytes:
        """Ask a node; returns the payload of its reply.

        Raises:
            Overloaded, Unavailable: Nothing was sent (``maybe_applied`` False), or the link was lost or the
            time was up
                after sending (True).
            SadikError: What the node answered instead of a reply, as the class it had there.
        """
        self._calls += 1
        try:
            return await self._call(node, kind, payload, timeout_ms, lane)
        except SadikError:
            self._failed += 1
            raise

    async def _call(self, node: NodeId, kind: int, payload: bytes, timeout_ms: int, lane: int) -> bytes:
        if len(self._waiting) >= self._calls_max:
            raise Overloaded(f"{self._calls_max} calls to other nodes wait for their replies")
        if self._stopped:
            raise Unavailable("this node stops")
        request = self.next_request()
        if not self._transport.send(node, frames.encode(kind, request, (payload,)), lane):
            if self._transport.is_up(node, lane):
                raise Overloaded(f"the queue to node {node} is full")
            raise Unavailable(f"node {node} cannot be reached")
        loop = asyncio.get_running_loop()
        call = _Call(node, lane, kind, loop.create_future())
        self._waiting[request] = call
        timer = loop.call_later(timeout_ms / 1000, _fail_late, call, timeout_ms)
        try:
            return await call.future
        finally:
            timer.cancel()
            del self._waiting[request]

    # Links.

    def is_up(self, node: NodeId) -> bool:
        return self._transport.is_up(node)

    def watch(self, on_up: Callable[[Identity], None], on_down: Callable[[NodeId, str], None]) -> None:
        """Call with every link that comes up and goes down from now on; frames that came before it went down
        are delivered first.
        """
        self._watchers.append((on_up, on_down))

    def statistics(self) -> PeersStatistics:
        return PeersStatistics(
            calls=self._calls,
            failed=self._failed,
            waiting=len(self._waiting),
            served=self._served,
            serving=len(self._serving),
            overloaded=self._overloaded,
            unasked=self._unasked,
        )

    # What the transport calls.

    def on_frames(self, peer: NodeId, lane: int, arrived: Sequence[Frame]) -> None:
        batches = self._batches
        for frame in arrived:
            batch = batches.get(frame[0])
            if batch is not None:
                if not batch:
                    self._arrived.append(frame[0])
                batch.append((peer, frame))
            else:
                self._requests.append((peer, lane, frame))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def on_link_up(self, peer: Identity) -> None:
        for on_up, _ in self._watchers:
            on_up(peer)

    def on_link_down(self, peer: NodeId, reason: str) -> None:
        self._deliver()
        self._fail_calls(peer, DATA, reason)
        for _, on_down in self._watchers:
            on_down(peer, reason)

    def on_bulk_down(self, peer: NodeId, reason: str) -> None:
        self._deliver()
        self._fail_calls(peer, BULK, reason)

    def admit(self, peer: Identity) -> str:
        return self.admission(peer)

    # Delivery.

    def _deliver(self) -> None:
        """Hand out what has come, in ascending order of kinds; what is sent meanwhile leaves together."""
        self._scheduled = False
        self._transport.hold()
        try:
            self._hand_out()
        finally:
            self._transport.flush()

    def _hand_out(self) -> None:
        arrived = self._arrived
        arrived.sort(reverse=True)
        while arrived:
            kind = arrived.pop()
            batch, self._batches[kind] = self._batches[kind], []
            try:
                self._handlers[kind](batch)
            except Exception:
                # The other kinds' frames are other requests; whoever waits for these has a deadline.
                if self._throttle.admit("bug") is not None:
                    log.exception("the handler of frames of kind %d failed", kind)
        if self._requests:
            requests, self._requests = self._requests, []
            for peer, lane, frame in requests:
                self._take(peer, lane, frame)

    def _take(self, peer: NodeId, lane: int, frame: Frame) -> None:
        """A request to be served, or a reply to a call."""
        handler = self._served_kinds.get(frame.kind)
        if handler is not None:
            self._serve(handler, peer, lane, frame)
            return
        call = self._waiting.get(frame.request)
        if call is not None and call.node == peer and not call.future.done():
            if frame.kind == call.kind | REPLY:
                call.future.set_result(frame.payload)
                return
            if frame.kind == Kind.ERROR:
                call.future.set_exception(decode_failure(frame.payload, peer))
                return
        self._unasked += 1
        if call is None and frame.kind < REPLY and frame.kind != Kind.ERROR:
            error = InvalidRequest(f"there is no request of kind {frame.kind} here")
            self._answer_error(peer, lane, frame.request, error)

    def _serve(self, handler: CallHandler, peer: NodeId, lane: int, frame: Frame) -> None:
        self._served += 1
        if len(self._serving) >= self._calls_max or self._stopped:
            self._overloaded += 1
            error = Overloaded(f"node {self._transport.identity.node} answers as many calls as it may")
            self._answer_error(peer, lane, frame.request, error)
            return
        try:
            answer = handler(peer, frame.payload)
        except SadikError as error:
            self._answer_error(peer, lane, frame.request, error)
            return
        except Exception:
            if self._throttle.admit("bug") is not None:
                log.exception("the handler of requests of kind %d failed", frame.kind)
            self._answer_error(peer, lane, frame.request, InternalError(_BUG))
            return
        if isinstance(answer, bytes):
            self._answer(peer, lane, frame, answer)
            return
        task = asyncio.ensure_future(answer)
        self._serving.add(task)
        task.add_done_callback(partial(self._served_one, peer, lane, frame))

    def _served_one(self, peer: NodeId, lane: int, frame: Frame, task: asyncio.Future[bytes]) -> None:
        self._serving.discard(task)
        if task.cancelled():
            # This node stops: the end of the link tells the caller.
            return
        error = task.exception()
        if error is None:
            self._answer(peer, lane, frame, task.result())
        elif isinstance(error, SadikError):
            self._answer_error(peer, lane, frame.request, error)
        else:
            if self._throttle.admit("bug") is not None:
                log.error("the handler of requests of kind %d failed", frame.kind, exc_info=error)
            self._answer_error(peer, lane, frame.request, InternalError(_BUG))

    def _answer(self, peer: NodeId, lane: int, frame: Frame, payload: bytes) -> None:
        # A reply that cannot be sent is lost as on a broken link: the caller has a deadline.
        self._transport.send(peer, frames.encode(frame.kind | REPLY, frame.request, (payload,)), lane)

    def _answer_error(self, peer: NodeId, lane: int, request: int, error: SadikError) -> None:
        self._transport.send(peer, frames.encode(Kind.ERROR, request, (encode_failure(error),)), lane)

    def _fail_calls(self, peer: NodeId, lane: int, reason: str) -> None:
        error = f"the link to node {peer} broke: {reason}"
        for call in list(self._waiting.values()):
            if call.node == peer and call.lane == lane:
                _fail(call, Unavailable(error, maybe_applied=True))


def _fail(call: _Call, error: SadikError) -> None:
    if not call.future.done():
        call.future.set_exception(error)


def _fail_late(call: _Call, timeout_ms: int) -> None:
    error = f"node {call.node} did not answer within {timeout_ms} ms"
    _fail(call, Unavailable(error, maybe_applied=True))


def _anybody(identity: Identity) -> str:
    """Until membership has its say."""
    return ""
