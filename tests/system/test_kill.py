"""kill -9 of a real node under load: every acknowledged write is there after the restart.

Several connections keep pipelines of SET, DEL and GET in flight, each on keys of its own, so the order of a
key's states is known; now and then all pause and the database is flushed. The smallest segments make the
node rotate, write snapshots and compact meanwhile. At a random moment the process is killed.

After the restart each key must be in the state of its last acknowledged write, or of a later one that was on
its way; nothing may be unreadable or called damaged. The death of a process loses nothing that was handed to
the operating system, so this holds for ``interval`` as for ``always``.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import socket
import time
import urllib.request
from dataclasses import dataclass, field

import pytest

from tests.system.conftest import NodeStarter
from tests.system.harness import NodeProcess, encode, read_reply

pytestmark = pytest.mark.slow

CONNECTIONS = 6
KEYS_EACH = 150
DEPTH = 32
SMALL = (
    *("--segment-bytes-max", str(1 << 20), "--value-bytes-max", "65536", "--set-bytes-max", str(256 << 10)),
    *("--compaction-bytes-per-second", str(1 << 30), "--sync-interval-ms", "50"),
)

State = bytes | None


@dataclass
class Key:
    """States of one key since the last restart, in order, and which of them was acknowledged last."""

    states: list[State]
    acknowledged: int = 0


@dataclass
class Load:
    """What clients do to a node between its start and its death."""

    rng: random.Random
    keys: dict[bytes, Key] = field(default_factory=dict)
    written: int = 0
    acknowledged: int = 0
    flushes: int = 0

    def __post_init__(self) -> None:
        self.keys = {
            b"%d:%d" % (owner, number): Key([None])
            for owner in range(CONNECTIONS)
            for number in range(KEYS_EACH)
        }

    def run(self, node: NodeProcess, duration_s: float) -> None:
        """Load the node, and kill it in the middle after ``duration_s``."""
        connections = [_Connection(self, owner, node.connect()) for owner in range(CONNECTIONS)]
        selector = selectors.DefaultSelector()
        for connection in connections:
            connection.socket.setblocking(False)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        end = time.monotonic() + duration_s
        flush_at = time.monotonic() + self.rng.uniform(0.3, 1.5) * duration_s
        pausing = flushed = False
        while (now := time.monotonic()) < end:
            if now > flush_at:
                # Everybody waits, before and after it: between connections there is no order to rely on.
                flush_at, pausing, flushed = end, True, False
            if pausing and not any(connection.waiting for connection in connections):
                if flushed:
                    pausing = False
                else:
                    self._flush(connections[0])
                    flushed = True
            for chosen, _ in selector.select(0.02):
                chosen.data.receive()
            for connection in connections:
                if not pausing and len(connection.waiting) <= DEPTH // 2:
                    connection.send()
        node.kill()
        for connection in connections:
            connection.drain()
        selector.close()

    def _flush(self, connection: _Connection) -> None:
        """FLUSHDB while nothing else is on its way: the next state of every key is None."""
        for key in self.keys.values():
            key.states.append(None)
        connection.waiting.append([(name, len(key.states) - 1) for name, key in self.keys.items()])
        connection.socket.sendall(encode(b"FLUSHDB"))
        self.flushes += 1

    def check(self, node: NodeProcess) -> None:
        """Read every key back; what is found is where the next round begins."""
        with node.connect() as client:
            stream = client.makefile("rb")
            names = list(self.keys)
            client.sendall(b"".join(encode(b"GET", name) for name in names) + encode(b"DBSIZE"))
            alive = 0
            for name in names:
                line = stream.readline()
                assert line[:1] == b"$", f"{name!r}: {line!r}"
                found = None if line == b"$-1\r\n" else stream.read(int(line[1:]) + 2)[:-2]
                key = self.keys[name]
                may_be = key.states[key.acknowledged :]
                assert found in may_be, (
                    f"{name!r} is {found and found[:20]!r}; of {len(key.states)} states number "
                    f"{key.acknowledged} was acknowledged: {[state and state[:20] for state in may_be[:3]]}"
                )
                alive += found is not None
                self.keys[name] = Key([found])
            assert read_reply(stream) == b":%d" % alive
        status = status_of(node)
        assert status["corrupt_records"] == 0
        assert status["quarantined_segments"] == 0


class _Connection:
    """One client: what it has sent, and the states of its keys that wait for an acknowledgement."""

    def __init__(self, load: Load, owner: int, connected: socket.socket) -> None:
        self.load = load
        self.owner = owner
        self.socket = connected
        self.waiting: list[list[tuple[bytes, int]]] = []
        self.input = b""

    def send(self) -> None:
        """Fill the pipeline up to its depth."""
        rng, load = self.load.rng, self.load
        data = []
        for _ in range(DEPTH - len(self.waiting)):
            # Some keys are written all the time and others hardly ever, so that segments keep a live rest.
            name = b"%d:%d" % (self.owner, int(KEYS_EACH * rng.random() ** 4))
            states = load.keys[name].states
            kind = rng.random()
            if kind < 0.1:
                data.append(encode(b"GET", name))
                self.waiting.append([])
                continue
            if kind < 0.2:
                data.append(encode(b"DEL", name))
                states.append(None)
            else:
                load.written += 1
                value = b"%d:" % load.written + b"x" * rng.choice((0, 50, 100, 1000, 5000))
                data.append(encode(b"SET", name, value))
                states.append(value)
            self.waiting.append([(name, len(states) - 1)])
        self.socket.setblocking(True)
        self.socket.sendall(b"".join(data))
        self.socket.setblocking(False)

    def receive(self) -> bool:
        """Take what has come; False at the end."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.input += data
        while (end := self.input.find(b"\r\n")) >= 0:
            line = self.input[:end]
            assert not line.startswith(b"-"), line
            end += 2
            if line[:1] == b"$" and line != b"$-1":
                end += int(line[1:]) + 2
                if end > len(self.input):
                    break
            self.input = self.input[end:]
            made = self.waiting.pop(0)
            self.load.acknowledged += bool(made)
            for name, index in made:
                key = self.load.keys[name]
                key.acknowledged = max(key.acknowledged, index)
        return bool(data)

    def drain(self) -> None:
        """After the death: what was sent before it still comes, and counts."""
        self.socket.setblocking(True)
        while self.receive():
            pass
        self.socket.close()


def status_of(node: NodeProcess) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/v1/status", timeout=10) as reply:
        found: dict[str, int] = json.load(reply)
    return found


def run_rounds(start_node: NodeStarter, mode: str, seed: int, rounds: int) -> Load:
    """Kill and restart ``rounds`` times on one directory, then stop in order and look once more."""
    load = Load(random.Random(seed))
    node = start_node("--sync", mode, *SMALL)
    # Once long enough for compaction to be in the middle of its work.
    load.run(node, 2)
    node.start()
    load.check(node)
    for number in range(1, rounds):
        load.run(node, load.rng.uniform(0.05, 0.6))
        node.start()
        try:
            load.check(node)
        except AssertionError as failure:
            failure.add_note(f"sync={mode}, seed {seed}, round {number}")
            raise
    code, text = node.stop()
    assert code == 0, text
    node.start()
    load.check(node)
    return load


@pytest.mark.parametrize("mode", ["always", "interval"])
def test_kill_loses_nothing_acknowledged(start_node: NodeStarter, mode: str) -> None:
    """Three deaths under load; rotation, snapshots and compaction are under way."""
    load = run_rounds(start_node, mode, seed=1, rounds=3)
    assert load.acknowledged > 1000


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["always", "interval"])
def test_two_hundred_kills(start_node: NodeStarter, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar of this promise."""
    rounds = int(os.environ.get("TEST_KILLS", "200"))
    load = run_rounds(start_node, mode, seed=2, rounds=rounds)
    with capsys.disabled():
        print(
            f"\n{mode}: {rounds} kills, {load.acknowledged} acknowledged writes, {load.flushes} flushes: "
            f"none lost"
        )
