"""Simulated connections: both twins on generated stories, and each rule by itself."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.kernels.native import wire as native
from sadik.kernels.reference import wire as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
CALM = SimpleNamespace(latency_s=0.5, slow=0.0, bytes_per_s=1000.0, torn=0.0)
WEATHERS = (
    CALM,
    SimpleNamespace(latency_s=0.5, slow=0.3, bytes_per_s=100.0, torn=0.7),
    SimpleNamespace(latency_s=2, slow=0, bytes_per_s=1e9, torn=1),
)


class Network:
    """What ends see of it: it is also the loop, the trace and both protocols, and writes everything down."""

    def __init__(self, twin: Any, weather: Any, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = self.trace = self
        self.now_s = 10.0
        self.log: list[Any] = []
        self.posted: list[tuple[float, Any]] = []
        self.paths = [twin.Path(weather, self.rng.random) for _ in range(2)]
        self.ends = [self.make(twin, number) for number in range(2)]
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]

    def make(self, twin: Any, number: int) -> Any:
        log = self.log

        class End(twin.End):  # type: ignore[misc]
            def close(self) -> None:
                log.append((number, "close"))
                self._closing = True
                self.write_eof()

            def _tell_reset(self) -> None:
                log.append((number, "tell reset"))

            def _on_heard(self) -> None:
                log.append((number, "heard", self._unheard_bytes))
                self._paused_writing = False

        end = End(self, SimpleNamespace(alive=True), self.paths[number])
        end._arrival = end.arrive
        end._sender, end._receiver, end._number, end._peers = "a", "b", 1 - 2 * number, bool(number)
        end._protocol = SimpleNamespace(
            data_received=lambda data: log.append((number, "data", data, self.now_s)),
            eof_received=lambda: log.append((number, "eof")),
            pause_writing=lambda: log.append((number, "pause", end._unheard_bytes)),
        )
        return end

    def sent(self, *facts: Any, peers: bool) -> None:
        self.log.append(("sent", facts, peers))

    def drop(self, end: Any) -> None:
        self.log.append(("drop", self.ends.index(end)))

    def post_again(self, process: Any, when: float, due: Any) -> None:
        assert process is self.ends[0].process or process is self.ends[1].process
        self.posted.append((when, due))

    def advance(self, seconds: float) -> None:
        """Time goes on, and what is due arrives."""
        until_s = self.now_s + seconds
        while due := [one for one in self.posted if one[0] <= until_s]:
            first = min(due, key=lambda one: one[0])
            self.posted.remove(first)
            self.now_s = max(self.now_s, first[0])
            first[1]()
        self.now_s = until_s


ENDS = st.integers(0, 1)
ACTS = st.one_of(
    st.tuples(st.just("write"), ENDS, st.sampled_from([b"", b"x", b"hello", bytearray(500), bytes(150_000)])),
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 1.0, 30.0])),
    st.tuples(st.sampled_from(["eof", "close", "gone", "dead", "deaf"]), ENDS),
    st.tuples(st.just("path"), ENDS, st.integers(0, 1), st.sampled_from([0.0, 13.0])),
    st.tuples(st.just("weather"), ENDS, st.sampled_from(WEATHERS)),
    st.tuples(st.just("reading"), ENDS, st.booleans()),
)


def story(twin: Any, acts: list[Any], weather: Any, seed: int) -> list[Any]:
    network = Network(twin, weather, seed)
    for kind, *facts in [*acts, ("advance", 1000.0)]:
        if kind == "advance":
            network.advance(facts[0])
            continue
        end, path = network.ends[facts[0]], network.paths[facts[0]]
        if kind == "write":
            end.write(facts[1])
        elif kind == "eof":
            end.write_eof()
        elif kind == "close":
            end.close()
        elif kind == "gone":
            end.is_gone = True
        elif kind == "dead":
            end.process.alive = False
        elif kind == "deaf":
            end._protocol = None
        elif kind == "path":
            path.closed, path.clogged_until_s = facts[1:]
        elif kind == "weather":
            path.weather = facts[1]
        elif kind == "reading":
            end._reading = facts[1]
    for end in network.ends:
        network.log.append((end._unheard_bytes, end._flight, end._paused_writing, end._fin_sent))
    network.log.append((network.now_s, network.rng.random(), [path.latency_s() for path in network.paths]))
    return network.log


@given(acts=st.lists(ACTS, max_size=25), weather=st.sampled_from(WEATHERS), seed=st.integers(0, 3))
def test_twins_tell_the_same_story(acts: list[Any], weather: Any, seed: int) -> None:
    assert story(native, acts, weather, seed) == story(reference, acts, weather, seed)


@TWINS
def test_bytes_arrive_once_and_in_order_then_the_end(twin: Any) -> None:
    network = Network(twin, WEATHERS[1], 1)
    sent = [bytes([number]) * (1 + number % 7) for number in range(200)]
    for data in sent:
        network.ends[0].write(data)
    network.ends[0].write_eof()
    network.ends[0].write(b"too late")
    network.advance(10_000)
    heard = [entry for entry in network.log if entry[0] == 1]
    assert b"".join(entry[2] for entry in heard if entry[1] == "data") == b"".join(sent)
    assert [entry[1] for entry in heard][-2:] == ["eof", "close"]
    assert network.ends[0]._unheard_bytes == 0


@TWINS
def test_writing_is_paused_beyond_the_window_and_what_may_wait(twin: Any) -> None:
    network = Network(twin, CALM, 1)
    end = network.ends[0]
    end.write(bytes(twin.WINDOW_BYTES + end._high))
    assert not end._paused_writing
    end.write(b"x")
    assert end._paused_writing
    assert network.log[-1] == (0, "pause", twin.WINDOW_BYTES + end._high + 1)


@TWINS
def test_a_path_takes_its_bandwidth_and_delivers_nothing_while_clogged(twin: Any) -> None:
    path = twin.Path(CALM, lambda: 0.0)
    assert [path.arrival_s(10.0, 500), path.arrival_s(10.0, 500), path.arrival_s(20.0, 0)] == [
        10.5,
        11.0,
        20.0,
    ]
    path.clogged_until_s = 25.0
    assert path.arrival_s(20.0, 0) == 25.0


@TWINS
def test_bytes_for_a_connection_that_is_gone_are_answered(twin: Any) -> None:
    network = Network(twin, CALM, 1)
    network.ends[0].write(b"hello")
    network.ends[1].is_gone = True
    network.advance(100)
    assert network.log[-1] == (1, "tell reset")
