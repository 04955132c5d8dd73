"""Plays a scenario: its nodes run in virtual time, and each command's output says what happened.

==================================  ===================================================================
``cluster A B C [for KEY] [o=v]``   nodes, the first command. ``for KEY``: named so that A is the first
                                    node to hold that key, B the second, and so on. Options are fields of
                                    ``Shape``: ``sync=always``, ``exchange_interval=2s``.
``alice@A> SET cart milk``          a client sends a command to a node. ``CONTEXT`` stands for what it
                                    received last for the key, ``""`` for nothing.
``split A | B C``, ``split A > B``  nothing passes between two sides; or from A to B, one way
``heal``                            all of the network is well again
``kill A``, ``start A``             kill -9; a start on the same disk
``kill A at SETS 2``                as soon as A is about to send its second SETS frame
``power-cut A``, ``wipe A``         what was not synced is gone; the disk of a node that is down is empty
``pause A``, ``resume A``           SIGSTOP, SIGCONT
``clock A +300``                    A's wall clock is wrong by milliseconds
``wait 2s``                         time passes
``settle``                          until all know who is up, hints are delivered and replicas are equal
``show KEY``                        what each node holds
``hints``                           who keeps hints for whom
``listen exchange``, ``gossip``     frames of repair or of membership are told, too; ``listen requests``
                                    tells them no more
==================================  ===================================================================

A line of output is a message, with milliseconds since the command, or what a client was answered. A message
that is cut off by a split is marked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import shlex
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import fields
from math import exp
from typing import Any, Final, TypeVar

from sadik.causality.context import context_key, decode_context
from sadik.client.connection import Connection, Greeting, Lost, NotReached
from sadik.client.limits import Limits
from sadik.client.replies import ErrorReply, encode
from sadik.comms.messages import REPLY, Kind
from sadik.errors import InvalidContext, InvalidRequest
from sadik.kernels import digest, frames
from sadik.kernels.buffers import Buffer
from sadik.settings import UNITS
from sadik.sim.cluster import FORMED_S, N, NotInTime, SimCluster, formed_disks
from sadik.sim.files import SimFiles
from sadik.sim.loop import Process, VirtualLoop
from sadik.sim.loop import run as run_loop
from sadik.sim.network import Weather
from sadik.sim.node import SimNode
from sadik.sim.scenario import Command, Scenario, ScenarioError
from sadik.sim.shape import Shape
from sadik.sim.trace import Trace
from sadik.sim.witness import BUCKET
from sadik.sim.words import QUIET, Captions, Names, text

T = TypeVar("T")

LATENCY_S: Final = 0.001
NODES_MAX: Final = 9
AFTERMATH_S: Final = 0.05
"""After an answer, for what its request has still set going."""
PATIENCE_S: Final = 5.0
SETTLE_S: Final = 60.0
_POLL_S: Final = 0.01
_HOUR_MS: Final = 3_600_000
_PAYLOAD_BYTES_MAX: Final = 1 << 30
_CLIENT: Final = re.compile(r"([A-Za-z][\w-]*)@([\w-]+)>\s+(.+)")
_CONTEXT_VERBS: Final = (b"SADIK.PUT", b"SADIK.DEL")
_LISTEN: Final = {
    "requests": frozenset[int](),
    "exchange": frozenset({int(Kind.EXCHANGE), Kind.EXCHANGE | REPLY}),
    "gossip": frozenset({int(Kind.GOSSIP), Kind.GOSSIP | REPLY}),
}


def play(scenario: Scenario) -> list[list[str]]:
    """The output of each command.

    Raises:
        ScenarioError: A command cannot be carried out.
    """
    commands = scenario.commands
    if not commands or not commands[0].text.startswith("cluster "):
        raise ScenarioError(commands[0].line if commands else 1, "a scenario begins with: cluster NODE...")
    first, *rest = commands
    loop = VirtualLoop(_Mean(0))
    loop.now_s += FORMED_S
    try:
        stage = Stage(loop, first.text.split()[1:])
    except InvalidRequest as error:
        loop.close()
        raise ScenarioError(first.line, str(error)) from None
    with _no_logs():
        return run_loop(_play(stage, rest), lambda: loop)


async def _play(stage: Stage, commands: list[Command]) -> list[list[str]]:
    await stage.begin()
    return [[], *[await _perform(stage, command) for command in commands]]


async def _perform(stage: Stage, command: Command) -> list[str]:
    try:
        return await stage.perform(command.text)
    except (InvalidRequest, NotInTime) as error:
        raise ScenarioError(command.line, str(error)) from None


@contextmanager
def _no_logs() -> Iterator[None]:
    """What nodes log is no part of a story."""
    logger = logging.getLogger("sadik")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Mean(random.Random):
    """Chance that is always middling: an exponential delay is its mean."""

    def random(self) -> float:
        return 1 - exp(-1)


class _Listener(Trace):
    """Hears every frame between nodes.

    Attributes:
        on_frame: Called with sender, receiver, kind, request and payload, before the frame is sent.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.on_frame: Callable[[str, str, int, int, bytes], None] = lambda *frame: None
        self._streams: dict[int, frames.Reader] = {}

    def note(self, kind: str, *facts: object) -> None:
        """Nobody reads it."""

    def sent(self, sender: str, receiver: str, connection: int, data: bytes, *, peers: bool) -> None:
        if peers:
            reader = self._streams.setdefault(
                connection, frames.Reader(_PAYLOAD_BYTES_MAX, 0, _PAYLOAD_BYTES_MAX)
            )
            for frame in reader.feed(data):
                self.on_frame(sender, receiver, frame.kind, frame.request, bytes(frame.payload))


class _Client:
    """Attributes:
    received: The last context, by key.
    """

    def __init__(self, name: str, number: int, loop: VirtualLoop) -> None:
        self.process = Process(name, f"127.9.0.{number + 1}")
        self.received: dict[bytes, bytes] = {}
        self._loop = loop
        self._connections: dict[str, Connection] = {}

    async def connect(self, node: SimNode) -> Connection | None:
        """A connection to a node, None where it cannot be reached."""
        connection = self._connections.get(node.name)
        if connection is None or connection.closed:
            try:
                connection = await Connection.open(
                    node.address, Greeting(b"0", None), Limits(connect_timeout_ms=300), lambda closed: None
                )
            except (NotReached, InvalidRequest):
                return None
            self._connections[node.name] = connection
        return connection

    async def ask(self, connection: Connection, words: list[bytes]) -> object:
        """The reply, ``Lost`` for none."""
        answer = connection.ask(encode(words))
        done, _ = await asyncio.wait([answer], timeout=PATIENCE_S)
        return answer.result() if done else Lost(f"no answer within {PATIENCE_S:g} s", sent=True)


class Stage:
    """The nodes of one scenario.

    Args:
        words: What follows ``cluster``.
    Raises:
        InvalidRequest: No such option; too many nodes, or two of one name.
    """

    def __init__(self, loop: VirtualLoop, words: list[str]) -> None:
        self._loop = loop
        self._names = Names()
        names, self._order, options = _cluster(words)
        quiet: dict[str, Any] = {"nodes": len(names), "exchange_interval_ms": _HOUR_MS, "sync": "interval"}
        shape = Shape(**(quiet | options))
        self._aliases = names
        self._trace = _Listener(loop.time)
        self._trace.on_frame = self._on_frame
        weather = Weather(latency_s=LATENCY_S, bytes_per_s=1e12, torn=0.0)
        self._cluster = SimCluster(
            shape, loop, self._trace, "scenario", weather=weather, disks=formed_disks(shape), sync_s=0.0
        )
        self._cluster.network.rng = _Mean(0)
        self._cluster.witness.look = self._on_stored  # type: ignore[assignment]
        self._captions = Captions(self._names)
        self._clients: dict[str, _Client] = {}
        self._heard: frozenset[int] = frozenset()
        self._lines: list[str] = []
        self._began_s = loop.now_s
        self._dies_at: dict[str, tuple[int, int]] = {}
        loop.set_exception_handler(self._on_exception)

    async def begin(self) -> None:
        """Start the nodes, and wait until they serve."""
        self._cluster.start()
        await self._cluster.wait_until(self._cluster.is_ready, "all nodes serve", SETTLE_S)
        order = list(self._cluster.nodes)
        if self._order:
            order = self._cluster.preference(self._order.encode())
        self._names.nodes.update(zip(order, self._aliases, strict=True))
        self._meet_all()

    async def perform(self, line: str) -> list[str]:
        """Carry a command out.

        Raises:
            InvalidRequest: It cannot be understood, or does not fit.
        """
        self._lines = []
        self._began_s = self._loop.now_s
        if found := _CLIENT.fullmatch(line):
            await self._ask(found[1], self._node(found[2]), _split(found[3]))
            return self._lines
        verb, *words = line.split()
        act = getattr(self, f"_do_{verb.replace('-', '_')}", None)
        if act is None:
            raise InvalidRequest(f"there is no command {verb!r}")
        waits: Coroutine[Any, Any, None] | None = act(words)
        if waits is not None:
            await waits
        return self._lines

    # What is heard.

    def _say(self, what: str, *, timed: bool = True) -> None:
        if timed:
            what = f"{1000 * (self._loop.now_s - self._began_s):6.1f}  {what}"
        self._lines.append(what)

    def _meet_all(self) -> None:
        """Learn under whom nodes mint."""
        for node in self._cluster.up():
            self._names.meet(node.name, node.node.vnodes.actor)
            self._names.meet(node.name, node.node.core.fallback_actor, "*")

    def _on_stored(self, node: str, actor: int, key: bytes, encoded: Buffer, *rest: Any) -> None:
        self._meet_all()
        self._names.version_set(key, encoded)

    def _on_frame(self, sender: str, receiver: str, kind: int, request: int, payload: bytes) -> None:
        if self._is_last(sender, receiver, kind) or not self._names.nodes:
            return
        if kind in QUIET and kind not in self._heard:
            return
        self._meet_all()
        caption = self._captions.caption(sender, receiver, kind, request, payload)
        path = self._cluster.network.path(
            self._cluster.nodes[sender].host, self._cluster.nodes[receiver].host
        )
        cut = "  (cut off)" if path.closed else ""
        self._say(f"{self._names.node(sender)} > {self._names.node(receiver)}  {caption}{cut}")

    def _is_last(self, sender: str, receiver: str, kind: int) -> bool:
        """Whether a node is to die before it can send this frame. It lives on until what it has sent before
        has arrived, and hears no answer.
        """
        wanted, left = self._dies_at.get(sender, (-1, 0))
        if kind != wanted:
            return False
        self._dies_at[sender] = (wanted, left - 1)
        if left > 1:
            return False
        del self._dies_at[sender]
        node, host = self._cluster.nodes[sender], self._cluster.nodes[receiver].host
        network = self._cluster.network
        network.close_path(node.host, host)

        def die() -> None:
            network.open_path(node.host, host)
            node.kill()
            self._say(f"{self._names.node(sender)} is killed")

        self._loop.post(self._loop.harness, self._loop.now_s + 1.5 * LATENCY_S, die)
        return True

    def _on_exception(self, loop: Any, context: dict[str, Any]) -> None:
        self._say(f"{context['message']}: {context.get('exception')!r}")

    # Clients.

    async def _ask(self, name: str, node: SimNode, words: list[bytes]) -> None:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(name, len(self._clients), self._loop)
        key = words[1] if len(words) > 1 else b""
        for one in filter(None, words[1:]):
            self._names.learn(one)
        words = [client.received.get(key, b"") if one == b"CONTEXT" else one for one in words]
        connection = await self._within(client, client.connect(node))
        self._began_s = self._loop.now_s
        if connection is None:
            self._say(f"{name}: {self._names.node(node.name)} cannot be reached")
            return
        reply = await self._within(client, client.ask(connection, words))
        self._say(f"{name}: {self._reply(client, words[0].upper(), key, reply)}")
        await asyncio.sleep(AFTERMATH_S)

    async def _within(self, client: _Client, work: Coroutine[Any, Any, T]) -> T:
        """Work as a task of a client's process."""
        task = self._loop.spawn(client.process, work, client.process.name)
        await asyncio.wait([task])
        return task.result()

    def _reply(self, client: _Client, verb: bytes, key: bytes, reply: object) -> str:
        if verb == b"SADIK.GET" and isinstance(reply, list) and len(reply) == 2:
            client.received[key] = reply[0]
            values = " | ".join(text(one[0]) for one in reply[1])
            return f"{self._clock(key, reply[0])} {values or '(nothing)'}"
        if verb in _CONTEXT_VERBS and isinstance(reply, bytes):
            client.received[key] = reply
            return self._clock(key, reply)
        if verb in _CONTEXT_VERBS and reply is None:
            return "done; siblings remain"
        return _shown(reply)

    def _clock(self, key: bytes, context: bytes) -> str:
        node = self._cluster.up()[0].node
        try:
            entries = decode_context(
                context, digest.address_digest(BUCKET, key), context_key(node.birth.cluster_id)
            )
        except InvalidContext as error:
            return f"({error})"
        return self._names.clock(key, entries)

    # Commands.

    def _do_split(self, words: list[str]) -> None:
        mark = next((one for one in ("|", ">") if one in words), "")
        if not mark:
            raise InvalidRequest("split A | B, or split A > B")
        place = words.index(mark)
        for one in self._some(words[:place]):
            for other in self._some(words[place + 1 :]):
                self._cluster.network.close_path(one.host, other.host)
                if mark == "|":
                    self._cluster.network.close_path(other.host, one.host)

    def _do_heal(self, words: list[str]) -> None:
        nodes = self._cluster.nodes.values()
        for one in nodes:
            for other in nodes:
                while self._cluster.network.path(one.host, other.host).closed:
                    self._cluster.network.open_path(one.host, other.host)

    def _do_kill(self, words: list[str]) -> None:
        if len(words) == 4 and words[1] == "at":
            node = self._node(words[0])
            if words[2] not in Kind.__members__ or not words[3].isdigit():
                raise InvalidRequest("kill A at KIND NUMBER, as in: kill A at SETS 2")
            self._dies_at[node.name] = (Kind[words[2]], int(words[3]))
            return
        for node in self._some(words, up=True):
            node.kill()

    def _do_power_cut(self, words: list[str]) -> None:
        for node in self._some(words, up=True):
            node.power_cut(random.Random(0))

    async def _do_start(self, words: list[str]) -> None:
        nodes = self._some(words, up=False)
        for node in nodes:
            node.start()
        await self._cluster.wait_until(
            lambda: all(node.up or node.failure for node in nodes), "the start", SETTLE_S
        )
        for node in nodes:
            if node.failure:
                self._say(f"{self._names.node(node.name)} does not start: {node.failure}")

    def _do_wipe(self, words: list[str]) -> None:
        for node in self._some(words, up=False):
            node.adopt_disk(SimFiles())

    def _do_pause(self, words: list[str]) -> None:
        for node in self._some(words, up=True):
            node.pause()

    def _do_resume(self, words: list[str]) -> None:
        for node in self._some(words, up=True):
            node.resume()

    def _do_clock(self, words: list[str]) -> None:
        if len(words) != 2 or not re.fullmatch(r"[+-]\d+", words[1]):
            raise InvalidRequest("clock A +MILLISECONDS")
        self._node(words[0]).clock.offset_ms += int(words[1])

    async def _do_wait(self, words: list[str]) -> None:
        await asyncio.sleep(_milliseconds("wait", " ".join(words)) / 1000)

    async def _do_settle(self, words: list[str]) -> None:
        def is_settled() -> bool:
            cluster = self._cluster
            return cluster.is_agreed() and not cluster.hints() and not cluster.differences(rot=True)

        await self._cluster.wait_until(is_settled, "the replicas are equal", SETTLE_S)
        await asyncio.sleep(AFTERMATH_S)

    def _do_listen(self, words: list[str]) -> None:
        if not words or any(word not in _LISTEN for word in words):
            raise InvalidRequest(f"listen to {', '.join(_LISTEN)}")
        self._heard = frozenset().union(*(_LISTEN[word] for word in words))

    def _do_show(self, words: list[str]) -> None:
        for word in words:
            key = word.encode()
            primaries = self._cluster.preference(key)[:N]
            for name in sorted(
                self._cluster.nodes, key=lambda name: self._aliases.index(self._names.node(name))
            ):
                node = self._cluster.nodes[name]
                held = self._cluster.holdings(node.node) if node.up else {}
                if name in primaries or key in held:
                    what = self._held(key, held.get(key, b"")) if node.up else "down"
                    of = f" {word}" if len(words) > 1 else ""
                    self._say(f"{self._names.node(name)}{of}  {what}", timed=False)

    def _held(self, key: bytes, encoded: bytes | None) -> str:
        return "unreadable" if encoded is None else self._names.version_set(key, encoded)

    def _do_hints(self, words: list[str]) -> None:
        for node in self._cluster.up():
            for owner, share in node.node.hints.owners().items():
                if share.hints:
                    noun = "hint" if share.hints == 1 else "hints"
                    keeper, other = self._names.node(node.name), self._names.node(str(owner))
                    self._say(f"{keeper} keeps {share.hints} {noun} for {other}", timed=False)
        if not self._lines:
            self._say("no hints", timed=False)

    # Who is meant.

    def _node(self, alias: str) -> SimNode:
        for name, known in self._names.nodes.items():
            if known == alias:
                return self._cluster.nodes[name]
        raise InvalidRequest(f"there is no node {alias!r}")

    def _some(self, aliases: list[str], up: bool | None = None) -> list[SimNode]:
        if not aliases:
            raise InvalidRequest("name a node")
        found = [self._node(alias) for alias in aliases]
        for alias, node in zip(aliases, found, strict=True):
            if up is not None and node.alive is not up:
                raise InvalidRequest(f"{alias} is {'down' if up else 'up'}")
        return found


def _cluster(words: list[str]) -> tuple[list[str], str, dict[str, Any]]:
    """Names of nodes, the key by which they are ordered or nothing, and fields of the shape."""
    names: list[str] = []
    order = ""
    options: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if equals:
            options.update([_option(name, value)])
        elif word == "for":
            order = next(rest, "")
        else:
            names.append(word)
    if not 1 <= len(names) <= NODES_MAX or len(set(names)) < len(names):
        raise InvalidRequest(f"a cluster has 1 to {NODES_MAX} nodes, each with a name of its own")
    return names, order, options


def _option(name: str, value: str) -> tuple[str, object]:
    known = {one.name for one in fields(Shape)} - {"nodes", "spares"}
    if f"{name}_ms" in known:
        return f"{name}_ms", _milliseconds(name, value)
    if name not in known:
        raise InvalidRequest(f"there is no option {name!r}")
    return name, int(value) if value.isdigit() else value


def _milliseconds(what: str, value: str) -> int:
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", value)
    if not found:
        raise InvalidRequest(f"{what} takes a time such as 500ms, 2s or 1h, not {value!r}")
    return int(found[1]) * UNITS["milliseconds"][found[2]]


def _split(line: str) -> list[bytes]:
    try:
        return [word.encode() for word in shlex.split(line)]
    except ValueError as error:
        raise InvalidRequest(f"{error}: {line}") from None


def _shown(reply: object) -> str:
    """A reply as people write it."""
    match reply:
        case None:
            return "nil"
        case bytes():
            return text(reply)
        case ErrorReply():
            return f"error: {reply.text}"
        case Lost():
            return f"{reply.reason} ({'unknown' if reply.sent else 'not sent'})"
        case list():
            return f"[{', '.join(map(_shown, reply))}]"
    return str(reply)
