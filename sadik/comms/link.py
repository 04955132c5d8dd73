"""One connection between two nodes, from its first byte to its end: handshake, frames, heartbeats, silence.

Pure: it is given bytes and the time, and writes to a ``Wire``. What it means for the node that a link comes
up or breaks is its ``Owner``'s (``links.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sadik.comms.handshake import GREETING_BYTES_MAX, Dialled, Dialling, Greeted
from sadik.comms.messages import BULK, DATA, Kind, Refuse
from sadik.comms.transport import Frame, Identity
from sadik.env.clock import Clock
from sadik.errors import ProtocolError
from sadik.ids import NodeId
from sadik.kernels import frames

CONTROL_KINDS_MAX: Final = 15
"""Kinds up to this one are the link's own."""

MEASURED_EVERY: Final = 8
"""Heartbeats: one of so many is a PING even on a busy link, whose round trip would not be known otherwise."""

SILENT: Final = "silent"
"""Why a link is given up on which nothing comes."""


class Wire(Protocol):
    """A connection as a link sees it: bytes out, and its end."""

    def write(self, data: bytes) -> None:
        """Take bytes in order; what the network does not take yet is queued without limit."""
        ...

    def write_at_once(self, data: bytes) -> None:
        """Take bytes in order, few and seldom, without waiting for more that could leave together."""
        ...

    def queued_bytes(self) -> int: ...

    def close(self) -> None:
        """Send what is queued, then end; tells the link when it has ended."""
        ...

    def abort(self) -> None:
        """End now; tells the link so, but not before the caller is done."""
        ...

    def peer(self) -> str:
        """The other end's address, for people."""
        ...


@dataclass(slots=True)
class Counters:
    """Of one lane to one node, over all its links."""

    frames_out: int = 0
    frames_in: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    round_trip_ns: int = 0
    refused_full: int = 0
    links: int = 0


class Owner(Protocol):
    """Whom a link asks and tells. Called from ``Link``'s methods; may end the link within."""

    def on_greeted(self, link: Link, greeted: Greeted) -> Refuse | None:
        """Someone dialled this node and says who it is: why it is not let in, or None."""
        ...

    def on_welcomed(self, link: Link, greeted: Greeted) -> Refuse | None:
        """A node that was dialled lets us in: why we do not want that, or None."""
        ...

    def on_up(self, link: Link) -> None:
        """The handshake is done."""
        ...

    def on_refused(self, link: Link, refusal: Refuse) -> None:
        """The other side does not let us in, or we do not go on with it."""
        ...

    def on_broken(self, link: Link, reason: str, *, protocol: bool) -> None:
        """The link cannot go on. ``protocol``: the other side sent what is not the protocol."""
        ...


class Link:
    """Attributes:
    identity, lane: Of the other node, from the handshake on.
    dialled_by_us: Who dialled.
    up: The handshake is done, and the link is not broken.
    ended: Nothing more is taken from it or told of it.
    congested: The wire says that much is queued.
    resting: A bulk link that nobody uses: no sign of life is sent, and none expected.
    heard: Something came since the last tick. heard_ns: About when something last came.
    opened_ns, up_ns: When the connection and the link came up.
    """

    __slots__ = (
        "_ask_ns",
        "_awake_ns",
        "_clock",
        "_greeting",
        "_on_frames",
        "_owner",
        "_pinged_ns",
        "_pings",
        "_reader",
        "_sent",
        "_sent_ns",
        "_signs",
        "_taken_bytes",
        "_taken_ns",
        "_used",
        "_used_ns",
        "congested",
        "counters",
        "dialled_by_us",
        "ended",
        "heard",
        "heard_ns",
        "identity",
        "lane",
        "opened_ns",
        "resting",
        "up",
        "up_ns",
        "wire",
        "write",
    )

    def __init__(
        self,
        owner: Owner,
        wire: Wire,
        greeting: Dialled | Dialling,
        *,
        payload_bytes_max: int,
        clock: Clock,
    ) -> None:
        now_ns = clock.monotonic_ns()
        self._owner = owner
        self._clock = clock
        self._greeting = greeting
        # The dialling side hears a challenge and an answer before it knows who speaks, the other side a
        # HELLO.
        greetings = 2 if isinstance(greeting, Dialling) else 1
        self._reader = frames.Reader(payload_bytes_max, greetings, GREETING_BYTES_MAX)
        self._on_frames: Callable[[NodeId, int, Sequence[Frame]], None] = _nobody
        self._pings = 0
        # Of the question that measures the round trip; 0: none is under way.
        self._ask_ns = 0
        self._pinged_ns = now_ns
        # As of the last tick: frames sent, and frames of its users in either direction; and when they grew.
        self._sent = 0
        self._sent_ns = now_ns
        self._used = 0
        self._used_ns = now_ns
        # PINGs and PONGs sent, which are no use of it; and when it last began to be awake.
        self._signs = 0
        self._awake_ns = now_ns
        self._taken_bytes = 0
        self._taken_ns = now_ns
        self.wire = wire
        self.write: Callable[[bytes], None] = wire.write
        self.dialled_by_us = isinstance(greeting, Dialling)
        self.identity = Identity("", "", NodeId(""), 0, 0)
        self.lane = DATA
        self.counters = Counters()
        self.up = False
        self.ended = False
        self.congested = False
        self.resting = False
        self.heard = True
        self.heard_ns = now_ns
        self.opened_ns = now_ns
        self.up_ns = 0

    @property
    def has_greeted(self) -> bool:
        """We dialled, and the other side may have let us in by now."""
        return isinstance(self._greeting, Dialling) and self._greeting.has_greeted

    def begin(self) -> None:
        """The connection is there."""
        if isinstance(self._greeting, Dialled):
            self._ask_ns = self.opened_ns
            self.wire.write_at_once(self._greeting.challenge())

    def send(self, frame: bytes) -> None:
        """Write a frame of a link that is up. The caller has looked at the queue."""
        counters = self.counters
        counters.frames_out += 1
        counters.bytes_out += len(frame)
        self.write(frame)

    def receive(self, data: bytes) -> None:
        """Bytes from the other side."""
        if self.ended:
            return
        self.heard = True
        try:
            arrived = self._reader.feed(data)
            self.counters.bytes_in += len(data)
            if not arrived:
                return
            if not self.up:
                arrived = self._greet(arrived)
            for frame in arrived:
                if frame.kind <= CONTROL_KINDS_MAX:
                    arrived = self._take_control(arrived)
                    break
        except ProtocolError as error:
            self._owner.on_broken(self, str(error), protocol=True)
            return
        if arrived and not self.ended:
            self.counters.frames_in += len(arrived)
            self._on_frames(self.identity.node, self.lane, arrived)

    def set_up(self, on_frames: Callable[[NodeId, int, Sequence[Frame]], None], counters: Counters) -> None:
        """The owner agrees: from here on frames go to ``on_frames``, and are counted in ``counters``."""
        self._on_frames = on_frames
        now_ns = self._clock.monotonic_ns()
        self.counters = counters
        self.up = True
        self.up_ns = self._sent_ns = self._pinged_ns = now_ns
        self._sent = counters.frames_out
        self._used = counters.frames_in + counters.frames_out
        self.resting = self.lane == BULK
        self._measure(now_ns)

    def tick(self, now_ns: int, *, heartbeat_ns: int, timeout_ns: int) -> str:
        """Send a sign of life if one is due. Why the link has to be given up, or ``""``."""
        if self.heard:
            self.heard = False
            self.heard_ns = now_ns
        if not self.up:
            return "the handshake took too long" if now_ns - self.opened_ns >= timeout_ns else ""
        if self.lane == BULK:
            self._look_at_use(now_ns)
            if self.resting:
                return ""
        if now_ns - self.heard_ns >= timeout_ns and now_ns - self._awake_ns >= timeout_ns:
            return SILENT
        taken = self.counters.bytes_out
        if taken != self._taken_bytes:
            taken -= self.wire.queued_bytes()
        if taken != self._taken_bytes or taken == self.counters.bytes_out:
            self._taken_bytes = taken
            self._taken_ns = now_ns
        elif now_ns - self._taken_ns >= timeout_ns:
            return "it takes nothing"
        if self.counters.frames_out != self._sent:
            self._sent = self.counters.frames_out
            self._sent_ns = now_ns
        unmeasured_ns = now_ns - self._pinged_ns
        if now_ns - self._sent_ns >= heartbeat_ns or unmeasured_ns >= MEASURED_EVERY * heartbeat_ns:
            self._ping(now_ns)
        return ""

    def forgive(self, pause_ns: int) -> None:
        """This process itself stood still for so long: the other side's silence meanwhile says nothing."""
        self.heard_ns += pause_ns
        self.opened_ns += pause_ns
        self._taken_ns += pause_ns
        self._awake_ns += pause_ns

    def wake(self, now_ns: int) -> None:
        """A link that rests shows from now on whether it still works."""
        if self.resting:
            self.resting = False
            self._awake_ns = self._used_ns = self._taken_ns = now_ns

    def end(self, *, gently: bool = False) -> None:
        """Take and tell nothing more; close the connection, gently once what is queued is sent."""
        self.up = False
        self.ended = True
        if gently:
            self.wire.close()
        else:
            self.wire.abort()

    def lost(self, reason: str) -> None:
        """The connection has ended, on its own or because it was told to."""
        self._owner.on_broken(self, reason, protocol=False)

    def _look_at_use(self, now_ns: int) -> None:
        """Wake with the first use, and rest once a PING or PONG has come after the last one."""
        counters = self.counters
        used = counters.frames_in + counters.frames_out - self._signs
        if used != self._used:
            self._used = used
            self.wake(now_ns)
            self._used_ns = now_ns
        elif self.heard_ns > self._used_ns and counters.bytes_out == self._taken_bytes:
            self.resting = True

    def _ping(self, now_ns: int) -> None:
        self._pings += 1
        self._ask_ns = self._pinged_ns = now_ns
        self._send_signs([frames.encode(Kind.PING, self._pings, ())])
        self._sent = self.counters.frames_out
        self._sent_ns = now_ns

    def _send_signs(self, signs: list[bytes]) -> None:
        data = b"".join(signs)
        self._signs += len(signs)
        self.counters.frames_out += len(signs)
        self.counters.bytes_out += len(data)
        self.wire.write_at_once(data)

    def _greet(self, arrived: list[Frame]) -> list[Frame]:
        """Go on with the handshake; returns frames that came behind its end."""
        if isinstance(self._greeting, Dialled):
            self._greet_dialled(self._greeting, arrived)
            return []
        for index, frame in enumerate(arrived):
            if self._greet_dialling(self._greeting, frame):
                return arrived[index + 1 :]
            if self.ended:
                break
        return []

    def _greet_dialled(self, greeting: Dialled, arrived: list[Frame]) -> None:
        if len(arrived) > 1:
            raise ProtocolError("frames behind a HELLO that has no answer yet")
        greeted = greeting.on_hello(arrived[0])
        if isinstance(greeted, Refuse):
            self._owner.on_refused(self, greeted)
            return
        self.identity, self.lane = greeted.identity, greeted.lane
        if refusal := self._owner.on_greeted(self, greeted):
            self._owner.on_refused(self, refusal)
            return
        self.wire.write_at_once(greeting.welcome())
        self._owner.on_up(self)

    def _greet_dialling(self, greeting: Dialling, frame: Frame) -> bool:
        if not greeting.has_greeted and frame.kind != Kind.REFUSE:
            self._ask_ns = self._clock.monotonic_ns()
            self.wire.write_at_once(greeting.on_challenge(frame))
            return False
        answer = greeting.on_answer(frame)
        if isinstance(answer, Refuse):
            self._owner.on_refused(self, answer)
            return False
        self.identity, self.lane = answer, greeting.lane
        if refusal := self._owner.on_welcomed(self, Greeted(answer, greeting.lane, "")):
            self._owner.on_refused(self, refusal)
            return False
        self._owner.on_up(self)
        return True

    def _take_control(self, arrived: list[Frame]) -> list[Frame]:
        """Handle the link's own frames; returns the others."""
        pongs: list[bytes] = []
        for frame in arrived:
            if frame.kind == Kind.PING:
                pongs.append(frames.encode(Kind.PONG, frame.request, ()))
            elif frame.kind == Kind.PONG:
                if frame.request == self._pings and self._ask_ns:
                    self._measure(self._clock.monotonic_ns())
            elif frame.kind <= CONTROL_KINDS_MAX:
                raise ProtocolError(f"a frame of kind {frame.kind} on a link that is up")
        # A peer that asks and does not read the answers must not fill our memory with them.
        if pongs and not self.congested:
            self._send_signs(pongs)
        return [frame for frame in arrived if frame.kind > CONTROL_KINDS_MAX]

    def _measure(self, now_ns: int) -> None:
        """The answer to a PING or in the handshake measures the way there and back; smoothed over some
        eight.
        """
        # Never 0, which says that nothing was measured.
        sample_ns, before_ns = max(now_ns - self._ask_ns, 1), self.counters.round_trip_ns
        self._ask_ns = 0
        self.counters.round_trip_ns = before_ns + (sample_ns - before_ns) // 8 if before_ns else sample_ns


def _nobody(peer: NodeId, lane: int, arrived: Sequence[Frame]) -> None:
    """A link that is not up has no receiver."""
