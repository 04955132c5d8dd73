"""Requests, replies and batches, over the transport in memory with a real event loop's turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sadik.comms.memory import MemoryNetwork, MemoryTransport
from sadik.comms.messages import BULK, DATA, LANES, REPLY, Kind
from sadik.comms.service import Peers
from sadik.comms.transport import Frame
from sadik.config import ClusterConfig
from sadik.env.entropy import SystemEntropy
from sadik.errors import (
    CorruptRecord,
    InternalError,
    InvalidRequest,
    LimitReached,
    Overloaded,
    ProtocolError,
    QuorumMissed,
    SadikError,
    Unavailable,
)
from sadik.ids import NodeId
from sadik.kernels import frames
from tests.comms.worlds import ANY_PORT, PAYLOAD_BYTES_MAX, FakeClock, identity

A, B = NodeId("a"), NodeId("b")


class Two:
    """Nodes a and b, linked; time stands still unless told."""

    def __init__(self, **options: int) -> None:
        self.clock = FakeClock()
        self.network = MemoryNetwork(asyncio.get_running_loop().call_soon)
        self.transports = [self._transport(name) for name in "ab"]
        self.a, self.b = (Peers(transport, clock=self.clock, **options) for transport in self.transports)
        self.events: list[tuple[str, ...]] = []
        self.a.watch(
            lambda who: self.events.append(("up", who.node)),
            lambda node, reason: self.events.append(("down", node, reason)),
        )

    def _transport(self, name: str, actor: int = 0) -> MemoryTransport:
        return MemoryTransport(
            self.network,
            ANY_PORT,
            identity(name, actor=actor),
            None,
            ClusterConfig(),
            clock=self.clock,
            entropy=SystemEntropy(),
            payload_bytes_max=PAYLOAD_BYTES_MAX,
        )

    async def link(self) -> None:
        addresses = [await transport.start() for transport in self.transports]
        self.transports[0].connect(B, addresses[1])
        await until(
            lambda: all(
                self.a._transport.is_up(B, lane) and self.b._transport.is_up(A, lane) for lane in LANES
            )
        )

    def run_ms(self, milliseconds: int) -> None:
        for _ in range(milliseconds // 50):
            self.clock.now_ns += 50_000_000
            self.network.tick()

    def send(self, kind: int, text: bytes, lane: int = DATA) -> bool:
        return self.a.send(B, frames.encode(kind, self.a.next_request(), (text,)), lane)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def run(story: Callable[[Two], Awaitable[None]], **options: int) -> None:
    async def whole() -> None:
        two = Two(**options)
        await two.link()
        await story(two)
        await two.a.stop()
        await two.b.stop()
        for transport in two.transports:
            await transport.stop()
        await until(lambda: not any(transport.is_parting for transport in two.transports))

    asyncio.run(whole())


def test_frames_of_a_turn_are_one_batch_per_kind_in_order() -> None:
    """Per frame Python costs as much as all the rest: the batch is the unit of work."""

    async def story(two: Two) -> None:
        calls: list[tuple[int, list[tuple[NodeId, Frame]]]] = []
        for kind in (Kind.READS | REPLY, Kind.READS, Kind.SETS, Kind.SETS | REPLY):
            two.b.on_batch(kind, lambda batch, kind=kind: calls.append((kind, batch)))
        for number in range(3):
            for kind in (Kind.SETS | REPLY, Kind.READS, Kind.SETS):
                two.send(kind, b"%d" % number)
        two.send(Kind.SETS, b"bulk", BULK)
        await until(lambda: len(calls) >= 3)
        assert [kind for kind, _ in calls] == [Kind.SETS, Kind.READS, Kind.SETS | REPLY]
        for kind, batch in calls:
            expected = [b"0", b"1", b"2"] + [b"bulk"] * (kind == Kind.SETS)
            assert [(node, frame.kind, frame.payload) for node, frame in batch] == [
                (A, kind, text) for text in expected
            ]

    run(story)


def test_handler_that_fails_does_not_keep_other_kinds_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    async def story(two: Two) -> None:
        calls: list[int] = []

        def fail(batch: list[tuple[NodeId, Frame]]) -> None:
            raise ZeroDivisionError

        two.b.on_batch(Kind.SETS, fail)
        two.b.on_batch(Kind.READS, lambda batch: calls.append(len(batch)))
        for _ in range(50):
            two.send(Kind.SETS, b"")
            two.send(Kind.READS, b"")
            before = len(calls)
            await until(lambda: len(calls) > before)  # noqa: B023
        assert sum(calls) == 50

    run(story)
    lines = [record for record in caplog.records if "failed" in record.getMessage()]
    assert 1 <= len(lines) <= 10


def test_call_gets_what_the_handler_gives() -> None:
    async def story(two: Two) -> None:
        async def later(node: NodeId, payload: bytes) -> bytes:
            await asyncio.sleep(0)
            return b"later %s %s" % (node.encode(), payload)

        two.b.serve(Kind.SCAN, lambda node, payload: b"now %s %s" % (node.encode(), payload))
        two.b.serve(Kind.COUNT, later)
        assert await two.a.call(B, Kind.SCAN, b"x", timeout_ms=1000) == b"now a x"
        assert await two.a.call(B, Kind.COUNT, b"y", timeout_ms=1000, lane=BULK) == b"later a y"
        answers = await asyncio.gather(
            *(two.a.call(B, Kind.COUNT, b"%d" % number, timeout_ms=1000) for number in range(20))
        )
        assert answers == [b"later a %d" % number for number in range(20)]
        assert two.a.statistics().calls == 22
        assert two.b.statistics().served == 22
        assert two.a.statistics().failed == two.a.statistics().waiting == two.b.statistics().serving == 0

    run(story)


ERRORS = [
    InvalidRequest("a bad one"),
    LimitReached("too many"),
    Unavailable("not now"),
    Unavailable("perhaps", maybe_applied=True),
    Overloaded("too busy"),
    CorruptRecord("unreadable", maybe_applied=True),
    ProtocolError("not the protocol"),
    QuorumMissed("2 of 3", maybe_applied=True, required=2, received=1, reasons=(("c", "is down"),)),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_async", [False, True])
def test_error_of_the_other_node_is_raised_as_it_was_there(error: SadikError, is_async: bool) -> None:
    """Whose fault it is and whether it may have happened must survive the way."""

    async def story(two: Two) -> None:
        async def fail_later(node: NodeId, payload: bytes) -> bytes:
            raise error

        def fail(node: NodeId, payload: bytes) -> bytes:
            raise error

        two.b.serve(Kind.WRITE, fail_later if is_async else fail)
        with pytest.raises(type(error)) as caught:
            await two.a.call(B, Kind.WRITE, b"", timeout_ms=1000)
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
        assert vars(caught.value) == vars(error)
        assert two.a.statistics().failed == 1

    run(story)


@pytest.mark.parametrize("is_async", [False, True])
def test_bug_in_a_handler_is_an_internal_error_without_its_insides(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(two: Two) -> None:
        async def fail_later(node: NodeId, payload: bytes) -> bytes:
            raise KeyError("an inner thing")

        def fail(node: NodeId, payload: bytes) -> bytes:
            raise KeyError("an inner thing")

        two.b.serve(Kind.WRITE, fail_later if is_async else fail)
        with pytest.raises(InternalError) as caught:
            await two.a.call(B, Kind.WRITE, b"", timeout_ms=1000)
        assert "inner" not in str(caught.value)

    run(story)
    assert "an inner thing" in caplog.text


def test_kind_nobody_serves_is_an_error_at_once() -> None:
    """A newer node asks what this one does not know: waiting would help nobody."""

    async def story(two: Two) -> None:
        with pytest.raises(InvalidRequest, match="no request of kind 36"):
            await two.a.call(B, Kind.EXPLAIN, b"", timeout_ms=60_000)
        assert two.b.statistics().unasked == 1

    run(story)


def test_call_that_was_not_sent_was_surely_not_carried_out() -> None:
    async def story(two: Two) -> None:
        with pytest.raises(Unavailable, match="node c cannot be reached") as caught:
            await two.a.call(NodeId("c"), Kind.COUNT, b"", timeout_ms=1000)
        assert not caught.value.maybe_applied
        with pytest.raises(Overloaded, match="queue to node b is full") as caught:
            await two.a.call(B, Kind.COUNT, bytes(PAYLOAD_BYTES_MAX + 1), timeout_ms=1000)
        assert not caught.value.maybe_applied

    run(story)


def test_call_without_an_answer_in_time_may_have_been_carried_out() -> None:
    async def story(two: Two) -> None:
        asked: list[bytes] = []
        release = asyncio.get_running_loop().create_future()

        async def slow(node: NodeId, payload: bytes) -> bytes:
            asked.append(payload)
            await release
            return b"too late"

        two.b.serve(Kind.WRITE, slow)
        with pytest.raises(Unavailable, match="within 5 ms") as caught:
            await two.a.call(B, Kind.WRITE, b"", timeout_ms=5)
        assert caught.value.maybe_applied
        assert asked == [b""]
        release.set_result(None)
        await until(lambda: two.a.statistics().unasked == 1)
        assert two.a.statistics().waiting == 0

    run(story)


@pytest.mark.parametrize("lane", LANES)
def test_call_ends_when_its_link_breaks(lane: int) -> None:
    """Not only after its timeout, and as unknown: the request may have arrived."""

    async def story(two: Two) -> None:
        asked: list[bytes] = []

        async def never(node: NodeId, payload: bytes) -> bytes:
            asked.append(payload)
            await asyncio.get_running_loop().create_future()
            return b""

        two.b.serve(Kind.WRITE, never)
        call = asyncio.ensure_future(two.a.call(B, Kind.WRITE, b"", timeout_ms=60_000, lane=lane))
        await until(lambda: asked)
        two.transports[1].forget(A)
        with pytest.raises(Unavailable, match="link to node b broke") as caught:
            await call
        assert caught.value.maybe_applied
        # The other side learns that it has worked in vain, and ends with its node.
        assert two.b.statistics().serving == 1

    run(story)


def test_cancelled_call_leaves_nothing_behind() -> None:
    async def story(two: Two) -> None:
        call = asyncio.ensure_future(two.a.call(B, Kind.WRITE, b"", timeout_ms=60_000))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert two.a.statistics().waiting == 0

    run(story)


def test_calls_served_at_once_are_bounded() -> None:
    """Beyond it callers hear so, rather than wait in a queue without end."""

    async def story(two: Two) -> None:
        release = asyncio.get_running_loop().create_future()

        async def slow(node: NodeId, payload: bytes) -> bytes:
            await asyncio.shield(release)
            return b"done"

        two.b.serve(Kind.COUNT, slow)
        # The bound of calls waited for is a's own, of the same number.
        two.a._calls_max = 100
        calls = [asyncio.ensure_future(two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000)) for _ in range(5)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        release.set_result(None)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [bytes] * 3 + [Overloaded] * 2
        assert two.b.statistics().overloaded == 2
        assert await two.a.call(B, Kind.COUNT, b"", timeout_ms=1000) == b"done"

    run(story, calls_max=3)


def test_calls_waited_for_at_once_are_bounded() -> None:
    async def story(two: Two) -> None:
        async def never(node: NodeId, payload: bytes) -> bytes:
            await asyncio.get_running_loop().create_future()
            return b""

        two.b.serve(Kind.COUNT, never)
        calls = [asyncio.ensure_future(two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000)
        assert not caught.value.maybe_applied
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    run(story, calls_max=3)


def test_stop_ends_what_waits_and_what_is_answered() -> None:
    async def story(two: Two) -> None:
        began: list[str] = []
        ended: list[str] = []

        async def slow(node: NodeId, payload: bytes) -> bytes:
            began.append("served")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("served")
            return b""

        two.b.serve(Kind.COUNT, slow)
        call = asyncio.ensure_future(two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000))
        await until(lambda: began)
        await two.b.stop()
        assert ended == ["served"]
        await two.a.stop()
        with pytest.raises(Unavailable, match="stops") as caught:
            await call
        assert caught.value.maybe_applied
        with pytest.raises(Unavailable) as caught:
            await two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000)
        assert not caught.value.maybe_applied

    run(story)


def test_call_that_was_not_begun_when_the_node_stopped_is_none() -> None:
    async def story(two: Two) -> None:
        async def slow(node: NodeId, payload: bytes) -> bytes:
            raise AssertionError

        two.b.serve(Kind.COUNT, slow)
        call = asyncio.ensure_future(two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000))
        await until(lambda: two.b.statistics().serving)
        await two.b.stop()
        two.transports[1].forget(A)
        with pytest.raises(Unavailable, match="broke"):
            await call

    run(story)


def test_reply_of_a_node_that_was_not_asked_counts_for_nothing() -> None:
    """Request ids can be guessed."""

    async def story(two: Two) -> None:
        third = two._transport("c")
        peers = Peers(third, clock=two.clock)
        two.transports[0].connect(NodeId("c"), await third.start())
        await until(lambda: two.a.is_up(NodeId("c")))
        asked: list[int] = []
        two.b.on_batch(Kind.COUNT, lambda batch: asked.extend(frame.request for _, frame in batch))
        call = asyncio.ensure_future(two.a.call(B, Kind.COUNT, b"", timeout_ms=60_000))
        await until(lambda: asked)
        peers.send(A, frames.encode(Kind.COUNT | REPLY, asked[0], (b"forged",)))
        await until(lambda: two.a.statistics().unasked == 1)
        two.b.send(A, frames.encode(Kind.COUNT | REPLY, asked[0], (b"true",)))
        assert await call == b"true"
        await third.stop()

    run(story)


def test_request_ids_are_unique_and_not_those_of_an_earlier_run() -> None:
    """A reply to the node's last run, on a link of this one, must find nobody who waits for it."""

    async def story(two: Two) -> None:
        ids = [two.a.next_request() for _ in range(1000)]
        assert len({*ids}) == 1000
        again = Peers(two._transport("a", actor=2**64 - 2), clock=two.clock)
        more = [again.next_request() for _ in range(4)]
        assert not {*ids} & {*more}
        assert more == [2**64 - 1, 1, 2, 3]

    run(story)


def test_frames_come_before_the_news_that_their_link_broke() -> None:
    """A reply that arrived in time counts."""

    async def story(two: Two) -> None:
        order: list[str] = []
        two.a.on_batch(Kind.SETS | REPLY, lambda batch: order.append("frames"))
        two.a.watch(lambda who: None, lambda node, reason: order.append("down"))
        two.a.on_frames(B, DATA, [frames.Frame(Kind.SETS | REPLY, 1, b"")])
        two.a.on_link_down(B, "gone")
        assert order == ["frames", "down"]
        assert two.events[0] == ("up", B)
        assert two.events[1] == ("down", B, "gone")

    run(story)


def test_admission_is_asked_of_whoever_is_set() -> None:
    async def story(two: Two) -> None:
        two.transports[0].forget(B)
        await until(lambda: len(two.events) == 2)
        two.b.admission = lambda who: f"{who.node} may not"
        two.transports[0].connect(B, two.transports[1]._listen)
        await until(lambda: two.transports[1].port_statistics().refused >= 2)
        assert not two.a.is_up(B)

    run(story)


def test_kind_has_one_handler() -> None:
    async def story(two: Two) -> None:
        two.a.on_batch(Kind.SETS, lambda batch: None)
        two.a.serve(Kind.COUNT, lambda node, payload: b"")
        for kind in (Kind.SETS, Kind.COUNT):
            with pytest.raises(ValueError, match="has a handler already"):
                two.a.serve(kind, lambda node, payload: b"")
            with pytest.raises(ValueError, match="has a handler already"):
                two.a.on_batch(kind, lambda batch: None)

    run(story)


def test_error_that_is_none_is_the_peers_fault() -> None:
    async def story(two: Two) -> None:
        two.b.on_batch(
            Kind.COUNT,
            lambda batch: [
                two.b.send(node, frames.encode(Kind.ERROR, frame.request, (b"\xc1",)))
                for node, frame in batch
            ],
        )
        with pytest.raises(ProtocolError, match="node b sent an error that is none"):
            await two.a.call(B, Kind.COUNT, b"", timeout_ms=1000)

    run(story)


def test_long_message_of_an_error_is_cut() -> None:
    """An answer of ours must not be longer than what the other side takes."""

    async def story(two: Two) -> None:
        def fail(node: NodeId, payload: bytes) -> bytes:
            raise InvalidRequest("x" * 100_000)

        two.b.serve(Kind.COUNT, fail)
        with pytest.raises(InvalidRequest) as caught:
            await two.a.call(B, Kind.COUNT, b"", timeout_ms=1000)
        assert len(str(caught.value)) == 1000

    run(story)
