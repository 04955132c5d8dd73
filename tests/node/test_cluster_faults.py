"""Whole clusters under seeded faults, and what must hold however they fall (FACTS 4.1).

Broken: every answer is honest. Healed: every acknowledged write is there or was knowingly replaced (D2), what
was surely refused is nowhere (D3), all replicas are equal (C1), and no dot stands for two values (D1).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import NamedTuple

import pytest

from sadik.errors import InvalidRequest, SadikError
from sadik.ids import NodeId
from sadik.node.coordinator.options import Options
from sadik.sim.files import SimFiles
from tests.node.cluster import (
    GET,
    SET,
    Cluster,
    Ledger,
    Life,
    Operation,
    Request,
    cluster,
    run,
)


def test_what_a_coordinator_killed_between_its_sends_leaves_undone_one_exchange_does() -> None:
    """One replica has the write and the other has not, nobody has a hint, and nobody may ever read the key:
    the exchange is what finds it.
    """

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            rng = random.Random(1)
            reached = 0
            for number in range(100):
                coordinator, other, missed = rng.sample(one.names, 3)
                one.network.cut_one_way(NodeId(coordinator), NodeId(missed))
                request = one.submit(coordinator, [(SET, b"key-%d" % number, b"v%d" % number)])
                for _ in range(20):
                    if one.holds(other, b"key-%d" % number):
                        reached += 1
                        break
                    await one.turns(1)
                disk = one.crash(coordinator)
                assert not one.holds(missed, b"key-%d" % number)
                assert not request.done or request.replies[0] is not None
                one.network.heal()
                await one.restart(coordinator, files=disk)
            assert reached == 100
            await one.wait_until(one.no_hints)
            assert len(one.differences()) > 50
            for name in one.names:
                await one.repair(name)
                if name == "n1":
                    repaired = one.node(name).exchange.statistics().total.keys_repaired
                    assert repaired > 0
            assert one.equal(), one.differences()
            for name in one.names:
                assert len(one.holdings(name)) == 100

    run(story())


def test_the_exchange_on_its_timer_makes_replicas_equal_within_a_cycle() -> None:
    """Nobody asks for it: what neither hints nor reads reach is closed in the time of a cycle or two."""

    async def story() -> None:
        async with cluster(3, engine="log", exchange_interval_ms=2000) as one:
            keys = [b"key-%d" % number for number in range(200)]
            await one.answer(one.submit("n1", [(SET, key, b"v") for key in keys]))
            one.crash("n2")
            await one.restart("n2", files=SimFiles())
            assert one.holdings("n2") == {}
            await one.wait_until(one.equal, "all are equal", within_s=10.0)
            assert len(one.holdings("n2")) == 200
            # At rest it repairs nothing.
            before = [one.node(name).exchange.statistics().total.keys_repaired for name in one.names]
            await one.pass_s(6.0)
            after = [one.node(name).exchange.statistics() for name in one.names]
            assert [statistics.total.keys_repaired for statistics in after] == before
            assert sum(statistics.rounds for statistics in after) > 3

    run(story())


def test_a_lost_hint_store_is_made_good_by_the_exchange() -> None:
    """Hints are a shortcut: without them the owner learns later, not never."""

    async def story() -> None:
        async with cluster(3, engine="log") as one:
            one.crash("n3")
            await one.wait_until(one.is_agreed)
            keys = [b"key-%d" % number for number in range(100)]
            assert all(
                reply.ok for reply in await one.answer(one.submit("n1", [(SET, k, b"v") for k in keys]))
            )
            disk = one.crash("n1")
            for path in disk.paths():
                if "/hints/" in path:
                    disk.remove(path)
            await one.restart("n1", files=disk)
            assert one.hints("n1") == {}
            await one.restart("n3")
            await one.pass_s(1.0)
            assert one.holdings("n3") == {}
            await one.settle()
            assert len(one.holdings("n3")) == 100

    run(story())


# Seeded histories.


class Written(NamedTuple):
    """What a client wrote: what it was told, and which values it had seen when it wrote."""

    outcome: str
    replaced: frozenset[bytes]
    is_delete: bool = False


class History:
    """All writes by key and value: each value is written once, deletes have a name in its place.

    Attributes:
        outcomes: How often each.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._writes: dict[bytes, dict[bytes, Written]] = {}

    def note(self, key: bytes, value: bytes, written: Written) -> None:
        self._writes.setdefault(key, {})[value] = written
        self.outcomes[written.outcome] += 1

    def _covered(self, writes: dict[bytes, Written], present: set[bytes]) -> set[bytes]:
        """Values that are there, or that something there has replaced, directly or through others."""
        found: set[bytes] = set()
        waiting = sorted(present)
        waiting += [value for value, one in writes.items() if one.is_delete and one.outcome != "refused"]
        while waiting:
            value = waiting.pop()
            if value not in found:
                found.add(value)
                waiting += sorted(writes[value].replaced) if value in writes else []
        return found

    def check(self, key: bytes, present: set[bytes], *, exact: bool) -> None:
        """The values of a key, at rest.

        Args:
            exact: What was replaced is known exactly, so nothing that was may be there.
        """
        writes = self._writes.get(key, {})
        assert present <= set(writes), f"{key!r}: never written: {present - set(writes)}"
        refused = {value for value in present if writes[value].outcome == "refused"}
        assert not refused, f"{key!r}: refused, and there: {refused}"
        acknowledged = {value for value, one in writes.items() if one.outcome == "ok"}
        lost = acknowledged - self._covered(writes, present)
        assert not lost, f"{key!r}: acknowledged, and lost: {sorted(lost)}; there are {sorted(present)}"
        if exact:
            gone = {old for value in acknowledged for old in writes[value].replaced}
            assert not gone & present, f"{key!r}: replaced, and there again: {sorted(gone & present)}"


class Pending(NamedTuple):
    """A batch that was submitted, with (key, value) of its writes."""

    life: Life
    request: Request
    operations: list[Operation]
    notes: list[tuple[bytes, bytes]]


class Campaign:
    """Random requests and faults on one cluster.

    One node at a time dies: its process (``kill``), its machine (``power``, where what was not synced is kept
    or lost at random), or once its disk too (``wipe``).

    Some keys are written by plain SETs, which replace what their coordinator holds, whatever that is; others
    as by HTTP, where a write replaces exactly what its context has seen.
    """

    def __init__(self, one: Cluster, seed: int, death: str) -> None:
        self.one = one
        self.death = death
        self.rng = random.Random(seed)
        self.history = History()
        self.ledger = Ledger()
        self.plain = [b"plain-%d" % number for number in range(4)]
        self.exact = [b"exact-%d" % number for number in range(4)]
        self._open: list[Pending] = []
        self._clients: list[asyncio.Task[None]] = []
        self._begun: dict[bytes, list[bytes]] = {}
        self._number = 0
        self._down = ""

    def _value(self) -> bytes:
        self._number += 1
        return b"value %d" % self._number

    # Requests.

    def submit(self, name: str) -> None:
        """Plain SETs and GETs in one batch."""
        operations: list[Operation] = []
        notes = []
        for key in self.rng.choices(self.plain, k=self.rng.randint(1, 4)):
            if self.rng.random() < 0.4:
                operations.append((GET, key, b""))
                continue
            value = self._value()
            operations.append((SET, key, value))
            notes.append((key, value))
            self._begun.setdefault(key, []).append(value)
        self._open.append(Pending(self.one.lives[name], self.one.submit(name, operations), operations, notes))

    def _begin(self, name: str, key: bytes, *, blind: float = 0.4) -> None:
        story = self.client(self.one.lives[name], key, blind)
        self._clients.append(self.one.loop.create_task(story))

    async def client(self, life: Life, key: bytes, blind: float) -> None:
        """Read, but for a share of ``blind``, and write with the context."""
        value = self._value()
        coordinator, options = life.node.coordinator, Options(timeout_ms=600)
        choice = self.rng.random()
        written = Written("unknown", frozenset(), is_delete=choice < 0.15)
        context: bytes | None = None
        try:
            if choice < 1 - blind:
                read = await coordinator.read(b"0", key, options)
                context = read.context or None
                written = written._replace(replaced=frozenset(one.payload for one in read.siblings))
        except (SadikError, OSError):
            return
        try:
            if written.is_delete:
                await coordinator.delete(b"0", key, context=context, options=options)
            else:
                await coordinator.write(b"0", key, value, context=context, metadata=b"", options=options)
            outcome = "ok"
        except (SadikError, OSError) as error:
            outcome = "unknown" if getattr(error, "maybe_applied", True) else "refused"
            if isinstance(error, InvalidRequest):
                outcome = "refused"
        if life.files.dead:
            outcome = "unknown"
        self.history.note(key, value, written._replace(outcome=outcome))

    def collect(self) -> None:
        """Note the outcomes of what is answered; of a node that died, that they are unknown."""
        left = []
        for pending in self._open:
            if not pending.request.done and not pending.life.files.dead:
                left.append(pending)
                continue
            replies = [
                reply
                for (kind, _, _), reply in zip(pending.operations, pending.request.replies, strict=True)
                if kind == SET
            ]
            for (key, value), reply in zip(pending.notes, replies, strict=True):
                # It replaced what its coordinator held: that may be whatever was begun before its end.
                replaced = frozenset(self._begun[key]) - {value}
                outcome = "unknown"
                if reply is not None and not reply.unknown:
                    outcome = "ok" if reply.ok else "refused"
                self.history.note(key, value, Written(outcome, replaced))
        self._open = left
        for task in [task for task in self._clients if task.done()]:
            self._clients.remove(task)
            task.result()

    # Faults.

    async def fault(self) -> None:
        """One more fault, or the end of one."""
        one, rng = self.one, self.rng
        kind = rng.random()
        if kind < 0.25:
            first, second = (NodeId(name) for name in rng.sample(one.names, 2))
            one.network.cut_one_way(first, second)
            if rng.random() < 0.5:
                one.network.cut_one_way(second, first)
        elif kind < 0.5:
            one.network.heal()
        elif not self._down:
            self._down = rng.choice(one.names)
            disk = one.crash(self._down)
            if self.death == "power":
                disk.power_cut(rng)
        else:
            name, self._down = self._down, ""
            files = None
            if self.death == "wipe":
                self.death, files = "kill", SimFiles()
            await one.restart(name, files=files, agreed=False, offset_ms=rng.choice((0, 0, -150, 150)))
            # What a node does while it may lack what it once had is what goes wrong, where anything does.
            patience = rng.choice((0, 60))
            while patience and not any(one.sees(name, other) for other in one.names if other != name):
                patience -= 1
                await one.pass_s(0.01)
            for key in self.exact:
                self._begin(name, key, blind=0.8)

    # The story.

    async def run(self, steps: int) -> None:
        one, rng = self.one, self.rng
        one.delay = lambda: rng.choice((0.0, 0.0002, 0.001, 0.005))
        for _ in range(steps):
            live = sorted(one.lives)
            for _ in range(rng.randint(1, 3)):
                self.submit(rng.choice(live))
            for _ in range(rng.randint(0, 3)):
                self._begin(rng.choice(live), rng.choice(self.exact))
            if rng.random() < 0.3:
                await self.fault()
            await one.pass_s(rng.choice((0.0, 0.002, 0.01, 0.1, 0.4)))
            self.collect()
            self.ledger.look(one)
        await self.end()

    async def end(self) -> None:
        """Heal, wait for all that is open, and look."""
        one = self.one
        one.delay = None
        one.network.heal()
        if self._down:
            await one.restart(self._down, agreed=False)
        await one.wait_until(lambda: all(task.done() for task in self._clients))
        await one.wait_until(
            lambda: all(pending.request.done or pending.life.files.dead for pending in self._open)
        )
        self.collect()
        await one.settle()
        self.ledger.look(one)
        for key in self.plain + self.exact:
            for name in one.preference(key)[:3]:
                self.history.check(key, set(one.values(name, key)), exact=key in self.exact)
            record = await one.read(self.rng.choice(one.names), key, options=Options(r=3))
            assert not isinstance(record, SadikError)
            found = {value.payload for value in record.siblings()}
            self.history.check(key, found, exact=key in self.exact)


async def campaign(nodes: int, seed: int, death: str, steps: int) -> None:
    storage = {"sync": "always" if death == "power" else "interval"}
    async with cluster(nodes, engine="log", seed=seed, partitions=8, storage=storage) as one:
        made = Campaign(one, seed, death)
        await made.run(steps)
        assert made.history.outcomes["ok"] > steps // 2, made.history.outcomes


@pytest.mark.parametrize("death", ["kill", "power", "wipe"])
@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_acknowledged_writes_survive_cuts_and_crashes_in_any_order(nodes: int, death: str, seed: int) -> None:
    """One node at a time may die, links break as they like: no answer is false, and all agree afterwards."""
    run(campaign(nodes, seed, death, 30))


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 300))
def test_acknowledged_writes_survive_cuts_and_crashes_over_many_seeds(seed: int) -> None:
    """The same, for as many stories as patience allows."""
    run(campaign(3 + seed % 4, seed, ("kill", "power", "wipe")[seed % 3], 120))
