"""What goes over a simulated connection, and when it arrives, checked by eye."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, cast

WINDOW_BYTES = 128 * 1024


class Path:
    def __init__(self, weather: Any, random: Callable[[], float]) -> None:
        self.weather = weather
        self.closed = 0
        self.clogged_until_s = 0.0
        self.free_s = 0.0
        self.random = random

    def latency_s(self) -> float:
        mean: float = self.weather.latency_s
        if self.weather.slow and self.random() < self.weather.slow:
            mean *= 100
        # Exponential.
        return -mean * log(1.0 - self.random())

    def arrival_s(self, now_s: float, length: int) -> float:
        start_s = self.free_s if self.free_s > now_s else now_s
        self.free_s = start_s = start_s + length / self.weather.bytes_per_s
        if self.clogged_until_s > start_s:
            start_s = self.clogged_until_s
        return start_s + self.latency_s()

    def is_torn(self) -> bool:
        torn: float = self.weather.torn
        return torn > 0 and self.random() < torn


class End:
    def __init__(self, network: Any, process: Any, path: Path) -> None:
        self._network = network
        self._loop = network.loop
        self.process = process
        self.other: Any = self
        self.is_gone = False
        self._path = path
        self._sender = self._receiver = ""
        self._number = 0
        self._peers = False
        self._protocol: Any = None
        self._arrival: Any = None
        self._flight: list[tuple[float, bytes]] = []
        self._unheard_bytes = 0
        self.last_arrival_s = 0.0
        self._high = 64 * 1024
        self._paused_writing = False
        self._reading = True
        self._closing = False
        self._fin_sent = False
        self.fin_seen = False

    def write(self, data: Any) -> None:
        if self._closing or self._fin_sent or not self.process.alive or not data:
            return
        raw = bytes(data)
        self._network.trace.sent(self._sender, self._receiver, self._number, raw, peers=self._peers)
        self._unheard_bytes += len(raw)
        if len(raw) > 1 and self._path.is_torn():
            cut = 1 + int(self._network.rng.random() * (len(raw) - 1))
            self.send(raw[:cut])
            raw = raw[cut:]
        self.send(raw)
        if not self._paused_writing and self._unheard_bytes > WINDOW_BYTES + self._high:
            self._paused_writing = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if not self._fin_sent and not self.is_gone:
            self._fin_sent = True
            self.send(b"")

    def send(self, data: bytes) -> None:
        if self.is_gone:
            return
        arrival_s = self._path.arrival_s(self._loop.now_s, len(data))
        if arrival_s < self.last_arrival_s:
            arrival_s = self.last_arrival_s
        self.last_arrival_s = arrival_s
        self._flight.append((arrival_s, data))
        self._loop.post_again(self.other.process, arrival_s, self.other._arrival)

    def arrive(self) -> None:
        other = self.other
        flight = other._flight
        hooks = cast("Any", self)
        if self.is_gone:
            # Bytes for a connection that is not known here.
            if flight and not other.is_gone:
                hooks._tell_reset()
            return
        if self._protocol is None or not self._reading or other._path.closed:
            return
        now_s = self._loop.now_s
        pieces: list[bytes] = []
        ended = False
        while flight and flight[0][0] <= now_s:
            data = flight.pop(0)[1]
            if data:
                pieces.append(data)
            else:
                ended = True
        if pieces:
            data = b"".join(pieces)
            other._unheard_bytes -= len(data)
            if other._paused_writing or other._closing:
                other._on_heard()
            if self._closing:
                hooks._tell_reset()
                return
            self._protocol.data_received(data)
        if ended and not self.fin_seen:
            self.fin_seen = True
            if other._closing:
                self._network.drop(other)
            if not self._closing and not self._protocol.eof_received():
                hooks.close()
