"""One round: clients work on keys of its own and the nemesis does harm; then all is healed, read, judged."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sadik.kernels import digest
from sadik.settings import Address
from sadik.sim.checkers import Violation, judge
from sadik.sim.client import Journal, SimClient
from sadik.sim.history import (
    Bound,
    End,
    Hints,
    History,
    MemberSeen,
    NodeEnd,
    Owners,
    Phase,
    Setup,
    StoredSet,
    encode_line,
)
from sadik.sim.plan import Step
from sadik.sim.trace import Trace
from sadik.sim.workload import WORKLOADS
from tests.system.cluster_harness import Cluster, ClusterNode, wait_until
from tests.system.torture import disks
from tests.system.torture.nemesis import Nemesis, Temper
from tests.system.torture.network import Network

CLIENTS: Final = 3
"""Of each workload; all ask for the same keys."""
ERA_S: Final = 15.0
"""After so long every workload goes on to new keys: what a checker does grows with the square of a key's
writes."""
RATE: Final = 12.0
"""Operations a second of one client."""
REQUEST_TIMEOUT_MS: Final = 2000
EQUAL_S: Final = 90.0
READY_S: Final = 60.0
SKEW_MS: Final = 20
"""All nodes have one clock, which they look at a little earlier or later than the harness."""
MEMORY_MIB_MAX: Final = 512
FILES_MAX: Final = 512
_KEYS: Final = 100
"""Numbers of keys that one workload may use in one era."""
_LOOKS_FIRST: Final = 0.9
_READS: Final = 8
_POLL_S: Final = 0.3

OPTIONS: Final = (
    *("--insecure", "--request-timeout-ms", str(REQUEST_TIMEOUT_MS)),
    *("--exchange-interval-ms", "3000", "--segment-bytes-max", "1MiB", "--partitions", "64"),
    *("--value-bytes-max", "64KiB", "--set-bytes-max", "512KiB"),
)
"""Of every node: exchange comes soon, and files are many."""


@dataclass
class Result:
    """What came of a round.

    Attributes:
        faults: By kind. outcomes: Of operations.
        equal_s: From the end of the last fault until all replicas were equal; -1 for never.
    """

    number: int
    violations: list[Violation]
    faults: Counter[str]
    outcomes: Counter[str]
    equal_s: float
    seconds: float
    history: History = field(repr=False)

    def save(self, path: Path) -> None:
        """The history as lines of JSON, the violations above it as they are told to people."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for record in self.history.records():
                file.write(encode_line(record))
        told = "".join(f"{one.invariant}  {one.key!r}  {one.text}\n" for one in self.violations)
        path.with_suffix(".txt").write_text(told)


def now_ms() -> float:
    """Unix time."""
    return time.time() * 1000


class Client(SimClient):
    """Asks another node where it knows that the one it wants is down, most of the time."""

    def __init__(
        self, number: int, journal: Journal, nodes: Sequence[ClusterNode], rng: random.Random
    ) -> None:
        super().__init__(
            number,
            asyncio.get_running_loop(),
            journal,
            [(node.name, Address(node.host, node.resp_port)) for node in nodes],
            patience_s=2.5 * REQUEST_TIMEOUT_MS / 1000,
        )
        self._nodes = nodes
        self._rng = rng

    async def take(self, step: Step) -> None:
        """As any client, but for its choice of a node."""
        if self._rng.random() < _LOOKS_FIRST:
            order = [(step.node + further) % len(self._nodes) for further in range(len(self._nodes))]
            up = [number for number in order if self._nodes[number].serves]
            step = replace(step, node=up[0] if up else step.node)
        await super().take(step)

    def close(self) -> None:
        """Its connections are gone."""
        for connection in self._connections.values():
            connection.abort("the round is over")


class Round:
    """Round ``number`` of a seed on a cluster that is whole."""

    def __init__(
        self, cluster: Cluster, network: Network, seed: int, number: int, *, temper: Temper, durability: str
    ) -> None:
        self.cluster = cluster
        self.number = number
        self.history = History()
        self.found: list[Violation] = []
        self._rng = random.Random(f"{seed}/{number}")
        self._journal = Journal(self.history, Trace(time.time), now_ms)
        self._seed = seed
        self._durability = durability
        self._bounds: dict[tuple[str, str], Bound] = {}
        self._log_starts = {node.name: node.log.stat().st_size for node in cluster.nodes}
        self._nemesis = Nemesis(
            cluster, network, self.history, self._rng, temper, now_ms, self._keys_asked_for
        )

    async def run(self, seconds: float) -> Result:
        """Live through it; disturbed for ``seconds``."""
        began_s = time.monotonic()
        self.history.add(self._setup())
        await self._look_at_members()
        working = asyncio.create_task(self._work(seconds))
        watching = asyncio.create_task(self._watch())
        await self._nemesis.run(seconds)
        await working
        watching.cancel()
        end = End(now_ms(), changed_ms=now_ms())
        if await self._heal(end):
            await self._settle(end)
            await self._read_everything()
            await self._look(end)
        self._nemesis.close()
        self._read_logs()
        self.found += [Violation(invariant, text) for invariant, text in self._nemesis.found]
        violations = self.found + await asyncio.to_thread(judge, self.history)
        return Result(
            self.number,
            violations,
            self._nemesis.counts,
            Counter(operation.outcome for operation in self.history.operations),
            -1 if end.equal_ms < 0 else (end.equal_ms - end.healed_ms) / 1000,
            time.monotonic() - began_s,
            self.history,
        )

    def _setup(self) -> Setup:
        names = tuple(node.name for node in self.cluster.nodes)
        return Setup(
            seed=self._seed,
            profile=f"torture {self.number}",
            nodes=names,
            durability="always" if self._durability == "always" else "interval",
            skew_ms=SKEW_MS,
            converge_within_ms=1000 * EQUAL_S,
            agree_within_ms=1000 * READY_S,
        )

    # Clients.

    def _client(self, number: int) -> Client:
        return Client(number, self._journal, self.cluster.nodes, self._rng)

    async def _work(self, seconds: float) -> None:
        """Several workloads side by side, era after era."""
        loop, rng = asyncio.get_running_loop(), self._rng
        until_s = loop.time() + seconds
        names = rng.sample(sorted(WORKLOADS), 5)
        clients = [self._client(number) for number in range(CLIENTS * len(names))]
        era = 0
        while (left_s := until_s - loop.time()) > 0.5:
            era_s = min(ERA_S, left_s)
            works = []
            for place, name in enumerate(names):
                first_key = (1000 * self.number + era * len(names) + place) * _KEYS
                count = int(era_s * RATE * CLIENTS)
                steps = WORKLOADS[name].draw(
                    rng, count, clients=CLIENTS, nodes=len(self.cluster), horizon_s=era_s
                )
                for one in range(CLIENTS):
                    own = [
                        replace(step, keys=tuple(first_key + key for key in step.keys))
                        for step in steps
                        if step.client == one
                    ]
                    works.append(clients[place * CLIENTS + one].run(own, loop.time() + era_s))
            await asyncio.gather(*works)
            era += 1
        for client in clients:
            client.close()

    def _keys_asked_for(self) -> list[bytes]:
        return sorted({operation.key for operation in self.history.operations})

    # The end.

    async def _heal(self, end: End) -> bool:
        """All is well again; False if it does not become so."""
        cluster = self.cluster
        for node in cluster.nodes:
            if not node.running:
                self.found.append(Violation("X", f"{node.name} is down at the end: {node.log_tail()}"))
                return False
        try:
            await asyncio.to_thread(cluster.wait_ready, READY_S)
        except AssertionError as error:
            self.found.append(Violation("C2", f"the cluster does not become whole: {error}"))
            return False
        end.agreed_ms = now_ms()
        return True

    async def _settle(self, end: End) -> None:
        """Wait until all primaries have the same."""
        keys = self._keys_asked_for()
        assignment = await asyncio.to_thread(self.cluster.assignment)
        bits = len(assignment).bit_length() - 1
        for key in keys:
            partition = int.from_bytes(digest.address_digest(disks.BUCKET, key)[:2], "big") >> (16 - bits)
            end.owners.append(Owners(key, tuple(assignment[partition])))
        if await self._equal(end, EQUAL_S):
            end.equal_ms = now_ms()

    async def _equal(self, end: End, within_s: float) -> bool:
        owners = dict(end.owners)

        def equal() -> bool:
            if self.cluster.hints():
                return False
            sets = {node.name: disks.held(node, list(owners)) for node in self.cluster.nodes}
            found = disks.differences(sets, owners, now_ms())
            assert not found, f"{len(found)} keys, such as {found[:5]}"
            return True

        try:
            await asyncio.to_thread(wait_until, equal, within_s, "replicas are equal", every_s=_POLL_S)
        except AssertionError as error:
            self.found.append(Violation("C1", str(error)))
            return False
        return True

    async def _read_everything(self) -> None:
        """Every key from all its replicas, and through each node in turn as an ordinary read."""
        phase = Phase("final", now_ms())
        self.history.add(phase)
        reader = self._client(CLIENTS * len(WORKLOADS))
        count = len(self.cluster)
        for number, key in enumerate(self._keys_asked_for()):
            for node in range(count):
                await self._read(reader, key, (number + node) % count, primaries=3 if node == 0 else 0)
        reader.close()
        phase.end_ms = now_ms()

    async def _read(self, reader: SimClient, key: bytes, node: int, primaries: int) -> None:
        for attempt in range(_READS):
            read = await reader.read((node + attempt) % len(self.cluster), key, primaries=primaries)
            if read.outcome == "done":
                return
            await asyncio.sleep(_POLL_S)
        self.found.append(
            Violation("C2", f"{key!r} could not be read after everything was healed: {read.reason}", (), key)
        )

    async def _look(self, end: End) -> None:
        """What all have at the end, on disk."""
        # What a read has found rotten is repaired behind its answer.
        await self._equal(end, EQUAL_S)
        keys = [owner.key for owner in end.owners]
        for node in self.cluster.nodes:
            end.nodes.append(await asyncio.to_thread(self._node_end, node, keys))
        await self._look_at_members()
        self.history.add(end)

    def _node_end(self, node: ClusterNode, keys: list[bytes]) -> NodeEnd:
        layout = node.layout()
        sets = [_unexpired(one) for one in disks.held(node, keys)]
        figures = node.metrics()
        names = ("stored_total", "delivered_total", "expired_total", "dropped_total")
        hints = [int(figures[f"sadik_hints_{name}", ()]) for name in names]
        return NodeEnd(
            node.name,
            sets,
            layout_digest=str(layout["assignment"]),
            layout_version=layout["version"],
            members=tuple(one["node"] for one in layout["nodes"]),
            hints=Hints(*hints, present=int(figures["sadik_hints", ()])),
        )

    async def _look_at_members(self) -> None:
        for node in self.cluster.nodes:
            document = await asyncio.to_thread(node.document, "GET", "/v1/members")
            for one in document["members"]:
                seen = MemberSeen(node.name, one["node"], now_ms(), one["incarnation"], one["state"])
                self.history.add(seen)

    # What nodes take and say.

    async def _watch(self) -> None:
        """Once a second: memory and open files of every node."""
        while True:
            for node in self.cluster.nodes:
                if node.running:
                    self._measure(node)
            await asyncio.sleep(1)

    def _measure(self, node: ClusterNode) -> None:
        try:
            figures = {
                ("resident MiB", MEMORY_MIB_MAX): node.resident_bytes() / 2**20,
                ("open files", FILES_MAX): len(list(Path(f"/proc/{node.pid}/fd").iterdir())),
            }
        except (OSError, AssertionError):
            # It has just died.
            return
        for (name, limit), value in figures.items():
            bound = self._bounds.get((name, node.name))
            if bound is None:
                bound = self._bounds[name, node.name] = Bound(name, 0, limit, node.name)
                self.history.add(bound)
            bound.value = max(bound.value, value)

    def _read_logs(self) -> None:
        """No node has met an error that it does not know."""
        for node in self.cluster.nodes:
            text = node.log.read_bytes()[self._log_starts[node.name] :]
            at = text.find(b"Traceback (most recent call last)")
            if at >= 0:
                shown = text[at : at + 2000].decode(errors="replace")
                self.found.append(Violation("X", f"{node.name} logged an exception: {shown}"))


def _unexpired(stored: StoredSet) -> StoredSet:
    """Without values whose time is over: each node takes them out in its own time."""
    at_ms = now_ms()
    values = tuple(one for one in stored.values if not 0 <= one.expires_at_ms <= at_ms)
    return StoredSet(stored.key, stored.entries, values, stored.encoded, stored.readable)
