"""What strangers and broken peers may do on the peer port: each limit, reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.comms import links, throttle
from sadik.comms.handshake import GREETING_BYTES_MAX, Dialling, key_of
from sadik.comms.messages import DATA, REPLY, Kind, Refuse, encode
from sadik.config import ClusterConfig
from sadik.env.entropy import SystemEntropy
from sadik.ids import NodeId
from sadik.kernels import frames
from tests.comms.worlds import PAYLOAD_BYTES_MAX, SECRET, Node, Stranger, TcpWorld, identity

QUICK = ClusterConfig(heartbeat_interval_ms=20, peer_timeout_ms=300)


def run(story: Callable[[TcpWorld, Node], Awaitable[None]], config: ClusterConfig | None = None) -> None:
    async def in_world() -> None:
        world = TcpWorld()
        try:
            await story(world, await world.node("a", config=config))
        finally:
            await world.close()

    asyncio.run(in_world())


HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\n\r\n"
TLS = bytes.fromhex("160301020001000001fc0303") + bytes(64)
REDIS = b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n"
PACKETS = {
    "HTTP": HTTP,
    "TLS": TLS,
    "Redis": REDIS,
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "kind 0": b"\0\0\0\0\x01\0\0\0" + bytes(12),
    "a huge length": b"\xff\xff\xff\x7f\x01\x02\0\0" + bytes(12),
    "longer than a greeting": (GREETING_BYTES_MAX + 1).to_bytes(4, "little") + b"\x01\x02\0\0" + bytes(12),
    "another version": b"\x10\0\0\0\x02\x02\0\0" + bytes(12),
    "a frame with a wrong checksum": frames.encode(Kind.HELLO, 0, (b"x",))[:-1] + b"y",
    "data before the handshake": frames.encode(Kind.SETS, 1, (b"x",)),
    "a HELLO that is none": frames.encode(Kind.HELLO, 0, (b"\xc1",)),
    "a HELLO with too little": frames.encode(Kind.HELLO, 0, (b"\x91\xc4\x10" + bytes(16),)),
    "a WELCOME to the listener": frames.encode(Kind.WELCOME, 0, (b"\x90",)),
    "a PING": frames.encode(Kind.PING, 1, ()),
}


@pytest.mark.parametrize("case", PACKETS)
def test_what_is_not_a_greeting_ends_the_connection(case: str) -> None:
    """At once: the port is looked at by scanners, browsers and misdirected clients."""

    async def story(world: TcpWorld, a: Node) -> None:
        stranger = await Stranger.connect(a.address)
        stranger.writer.write(PACKETS[case])
        assert await stranger.ended()
        assert a.transport.port_statistics().broken == 1
        assert a.recorder.events == a.recorder.frames == []
        await stranger.close()

    run(story)


@given(packets=st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_no_bytes_harm_the_listener(packets: list[bytes]) -> None:
    """Whatever a stranger sends, the next node is welcome."""

    async def story(world: TcpWorld, a: Node) -> None:
        for packet in packets:
            stranger = await Stranger.connect(a.address)
            stranger.writer.write(packet)
            await stranger.close()
        friend = await Stranger.linked(a.address, identity("b"))
        await friend.close()

    run(story)


def test_stranger_learns_a_nonce_and_nothing_else() -> None:
    async def story(world: TcpWorld, a: Node) -> None:
        stranger = await Stranger.connect(a.address)
        challenge = await stranger.read()
        assert challenge.kind == Kind.CHALLENGE
        assert len(challenge.payload) == 19
        answer = await Dialler(stranger, challenge).hello(b"not the secret at all")
        assert answer.kind == Kind.REFUSE
        assert b"127.0.0.1" not in answer.payload
        assert SECRET not in answer.payload
        assert await stranger.ended()
        await stranger.close()

    run(story)


class Dialler:
    """A stranger that has read its challenge."""

    def __init__(self, stranger: Stranger, challenge: frames.Frame) -> None:
        self.stranger = stranger
        self.challenge = challenge

    def frame(self, secret: bytes | None, name: str = "b", lane: int = DATA) -> bytes:
        dialling = Dialling(identity(name), key_of(secret), SystemEntropy(), lane=lane, wanted="")
        return dialling.on_challenge(self.challenge)

    async def hello(self, secret: bytes | None, name: str = "b", lane: int = DATA) -> frames.Frame:
        self.stranger.writer.write(self.frame(secret, name, lane))
        return await self.stranger.read()


def test_greeting_of_another_connection_opens_none() -> None:
    """Whoever has recorded a handshake cannot play it again: every challenge is new."""

    async def story(world: TcpWorld, a: Node) -> None:
        first = await Stranger.connect(a.address)
        recorded = Dialler(first, await first.read()).frame(SECRET)
        second = await Stranger.connect(a.address)
        await second.read()
        second.writer.write(recorded)
        answer = await second.read()
        assert answer.kind == Kind.REFUSE
        assert b"same secret" in answer.payload
        await first.close()
        await second.close()

    run(story)


def test_lane_that_does_not_exist_is_refused() -> None:
    async def story(world: TcpWorld, a: Node) -> None:
        stranger = await Stranger.connect(a.address)
        answer = await Dialler(stranger, await stranger.read()).hello(SECRET, lane=7)
        assert answer.kind == Kind.REFUSE
        assert b"no lane 7" in answer.payload
        await stranger.close()

    run(story)


def test_frames_behind_a_hello_without_an_answer_end_the_connection() -> None:
    """Nothing is taken from who is not let in yet."""

    async def story(world: TcpWorld, a: Node) -> None:
        stranger = await Stranger.connect(a.address)
        hello = Dialler(stranger, await stranger.read()).frame(SECRET)
        stranger.writer.write(hello + frames.encode(Kind.SETS, 1, (b"x",)))
        assert await stranger.ended()
        assert a.recorder.events == a.recorder.frames == []
        await stranger.close()

    run(story)


@pytest.mark.parametrize("sends", [b"", b"\x10\0\0\0\x01"], ids=["nothing", "half a header"])
def test_stranger_that_takes_too_long_is_closed(sends: bytes) -> None:
    async def story(world: TcpWorld, a: Node) -> None:
        stranger = await Stranger.connect(a.address)
        stranger.writer.write(sends)
        assert await stranger.ended()
        assert a.transport.port_statistics().timed_out == 1
        await stranger.close()

    run(story, QUICK)


def test_slow_bytes_do_not_extend_the_handshake() -> None:
    """One byte now and then would keep a connection for ever."""

    async def story(world: TcpWorld, a: Node) -> None:
        stranger = await Stranger.connect(a.address)
        hello = Dialler(stranger, await stranger.read()).frame(SECRET)
        for byte in hello[:-1]:
            if stranger.reader.at_eof():
                break
            stranger.writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        assert await stranger.ended()
        assert a.transport.port_statistics().timed_out == 1
        await stranger.close()

    run(story, QUICK)


def test_flood_of_strangers_is_bounded_and_lets_nodes_in() -> None:
    """The oldest makes room: a node's own handshake takes a round trip, a flood's connections wait."""

    async def story(world: TcpWorld, a: Node) -> None:
        strangers = [await Stranger.connect(a.address) for _ in range(links.STRANGERS_MAX + 40)]
        friend = await Stranger.linked(a.address, identity("b"))
        await world.until(lambda: a.transport.port_statistics().accepted == links.STRANGERS_MAX + 41)
        assert a.transport.port_statistics().displaced in (40, 41)
        assert len(a.transport._strangers) <= links.STRANGERS_MAX
        assert a.transport.is_up(NodeId("b"))
        for stranger in [*strangers, friend]:
            await stranger.close()

    run(story)


def test_log_lines_that_strangers_cause_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: TcpWorld, a: Node) -> None:
        for _ in range(5 * throttle.LINES_MAX):
            stranger = await Stranger.connect(a.address)
            stranger.writer.write(HTTP)
            assert await stranger.ended()
            await stranger.close()
        assert a.transport.port_statistics().broken == 5 * throttle.LINES_MAX

    run(story)
    lines = [record.getMessage() for record in caplog.records if "does not speak" in record.getMessage()]
    assert 1 <= len(lines) <= 2 * throttle.LINES_MAX
    assert max(map(len, lines)) < 300


BROKEN = {
    "a damaged frame": frames.encode(Kind.SETS, 1, (b"text",))[:-1] + b"T",
    "longer than allowed": (PAYLOAD_BYTES_MAX + 1).to_bytes(4, "little") + b"\x01\x10\0\0" + bytes(12),
    "a second HELLO": frames.encode(Kind.HELLO, 0, (b"",)),
    "garbage": HTTP,
}


@pytest.mark.parametrize("case", BROKEN)
def test_link_ends_at_the_first_byte_that_is_not_the_protocol(case: str) -> None:
    """Behind it nothing can be trusted to be a frame; the frames before it were whole."""

    async def story(world: TcpWorld, a: Node) -> None:
        peer = await Stranger.linked(a.address, identity("b"))
        peer.send(Kind.SETS, b"before")
        await world.until(lambda: a.texts() == [b"before"])
        peer.writer.write(BROKEN[case])
        assert await peer.ended()
        await world.until(lambda: len(a.recorder.downs()) == 1)
        assert a.texts() == [b"before"]
        await peer.close()

    run(story)


def test_memory_for_a_frame_is_taken_as_it_comes() -> None:
    """A header that claims the longest payload costs twenty bytes."""

    async def story(world: TcpWorld, a: Node) -> None:
        peer = await Stranger.linked(a.address, identity("b"))
        peer.writer.write(PAYLOAD_BYTES_MAX.to_bytes(4, "little") + b"\x01\x10\0\0" + bytes(12))
        link = a.transport._up[DATA][NodeId("b")]
        await world.until(lambda: link._reader.held_bytes >= 20)
        assert link._reader.held_bytes < 100
        await peer.close()

    run(story)


def test_peer_that_falls_silent_is_given_up() -> None:
    """Its process is stopped, its sockets are open: heartbeats tell."""

    async def story(world: TcpWorld, a: Node) -> None:
        peer = await Stranger.linked(a.address, identity("b"))
        await world.until(lambda: a.recorder.downs())
        assert a.recorder.downs() == ["silent"]
        assert not a.transport.is_up(NodeId("b"))
        await peer.close()

    run(story, QUICK)


def test_peer_that_sends_and_does_not_read_is_given_up() -> None:
    """Its queue here would stay full for ever, and it would look alive."""

    async def story(world: TcpWorld, a: Node) -> None:
        peer = await Stranger.linked(a.address, identity("b"))
        # StreamReader stops reading the socket once its own buffer is full.
        text = b"x" * 500_000
        while a.transport.queued_bytes(NodeId("b"), DATA) < 1 << 20:
            a.transport.send(NodeId("b"), frames.encode(Kind.SETS, 1, (text,)))
            peer.send(Kind.PING)
            await asyncio.sleep(0)
        while not a.recorder.downs():
            peer.send(Kind.PING)
            await asyncio.sleep(0.02)
        # Linux itself finds out too, in about the same time.
        assert a.recorder.downs()[0] in ("it takes nothing", "[Errno 110] Connection timed out")
        await peer.close()

    run(story, QUICK)


def test_answers_nobody_reads_are_not_piled_up() -> None:
    """A flood of PINGs behind a full queue gets no PONGs."""

    async def story(world: TcpWorld, a: Node) -> None:
        peer = await Stranger.linked(a.address, identity("b"))
        while a.transport.queued_bytes(NodeId("b"), DATA) < 1 << 20:
            a.transport.send(NodeId("b"), frames.encode(Kind.SETS, 1, (b"x" * 500_000,)))
            await asyncio.sleep(0)
        queued = a.transport.queued_bytes(NodeId("b"), DATA)
        before = a.transport.statistics()[0].bytes_in
        for _ in range(1000):
            peer.send(Kind.PING)
        await world.until(lambda: a.transport.statistics()[0].bytes_in >= before + 20_000)
        # The node's own signs of life are in it.
        assert a.transport.queued_bytes(NodeId("b"), DATA) < queued + 5000
        await peer.close()

    run(story)


def test_pings_are_answered_and_answers_nobody_asked_for_ignored() -> None:
    async def story(world: TcpWorld, a: Node) -> None:
        peer = await Stranger.linked(a.address, identity("b"))
        measured = a.transport.statistics()[0].round_trip_ns
        peer.send(Kind.PONG)
        peer.send(Kind.PONG, request=2**64 - 1)
        peer.send(Kind.PING, request=77)
        peer.send(Kind.SETS | REPLY, b"text")
        while (frame := await peer.read()).kind != Kind.PONG:
            assert frame.kind == Kind.PING
        assert frame.request == 77
        await world.until(lambda: a.texts() == [b"text"])
        assert a.transport.statistics()[0].round_trip_ns == measured
        await peer.close()

    run(story)


def test_sockets_of_links_are_not_left_to_the_kernels_patience() -> None:
    """Half-open connections take a quarter of an hour by default."""

    async def story(world: TcpWorld, a: Node) -> None:
        b = await world.node("b")
        a.knows(b)
        await world.until(lambda: a.transport.is_up(b.name) and b.transport.is_up(a.name))
        for one, other in ((a, b), (b, a)):
            stream = one.transport._up[DATA][other.name].wire._transport.get_extra_info("socket")
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(story)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (HTTP, "speaks protocol version 47"),
        (frames.encode(Kind.WELCOME, 0, (b"",)), "instead of a CHALLENGE"),
        (frames.encode(Kind.CHALLENGE, 0, (b"",)), "that is not one"),
        (frames.encode(Kind.REFUSE, 0, (encode(Refuse(0, "come back tomorrow")),)), "come back tomorrow"),
        (b"", "the other side"),
    ],
)
def test_dialling_node_says_what_it_found_instead_of_a_node(
    packet: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An address of something else, or of a node of another version, is the operator's to correct."""

    async def story(world: TcpWorld, a: Node) -> None:
        calls: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls.append(writer)
            writer.write(packet)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = links.Address("127.0.0.1", server.sockets[0].getsockname()[1])
        a.transport.introduce(address)
        await world.until(lambda: len(calls) >= 3)
        server.close()
        await server.wait_closed()
        assert a.recorder.events == []

    run(story)
    assert any(reason in record.getMessage() for record in caplog.records), caplog.text


def test_host_name_that_is_none_is_an_attempt_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    """Addresses come from other nodes' records."""

    async def story(world: TcpWorld, a: Node) -> None:
        a.transport.connect(NodeId("b"), links.Address("x" * 100, 1))
        await world.until(lambda: "node b at" in caplog.text)

    run(story)
