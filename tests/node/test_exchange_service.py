"""Exchanges of whole nodes: who asks whom, on the timer and on request, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from sadik.comms.messages import BULK, Kind
from sadik.errors import ProtocolError, SadikError, StorageFull, Unavailable
from sadik.ids import NodeId
from sadik.members.layout import Layout
from sadik.members.view import View
from sadik.node.items import Item
from sadik.node.repair.exchange.service import ERRORS_KEPT, REQUESTS_MAX, ExchangeService, shared_partitions
from tests.members.layouts import layout_of, nodes_of
from tests.node.exchange_sides import Seeded, Side, Wall, one

Handler = Callable[[NodeId, bytes], bytes | Awaitable[bytes]]


class Line:
    """One node's end of the wire between all nodes of a test."""

    def __init__(self, cluster: Cluster, node: NodeId) -> None:
        self._cluster = cluster
        self._node = node

    def serve(self, kind: int, handler: Handler) -> None:
        assert kind == Kind.EXCHANGE
        self._cluster.handlers[self._node] = handler

    async def call(self, node: NodeId, kind: int, payload: bytes, *, timeout_ms: int, lane: int) -> bytes:
        assert (kind, lane) == (Kind.EXCHANGE, BULK)
        assert timeout_ms > 0
        await asyncio.sleep(0)
        self._cluster.calls.append((self._node, node))
        self._cluster.on_call(node)
        answer = self._cluster.handlers[node](self._node, payload)
        return answer if isinstance(answer, bytes) else await answer


class Cluster:
    """Nodes with a store and an exchange each.

    Attributes:
        calls: (asker, asked) of each EXCHANGE call.
        on_call: Called before each is answered, with the asked node; what it raises is the call's outcome.
    """

    def __init__(self, count: int = 3, *, interval_ms: int = 0, **options: Any) -> None:
        self.layout = layout_of(nodes_of(count), partitions=8)
        self.names = self.layout.names
        self.handlers: dict[NodeId, Handler] = {}
        self.calls: list[tuple[NodeId, NodeId]] = []
        self.on_call: Callable[[NodeId], None] = lambda node: None
        self.sides = {name: Side(number) for number, name in enumerate(self.names)}
        self.services: dict[NodeId, ExchangeService] = {}
        for number, (name, side) in enumerate(self.sides.items()):
            self.services[name] = ExchangeService(
                me=name,
                trees=side.trees,
                engine=side.engine,
                buckets=side.buckets.get,
                merge_items=side.merge,
                push=self._push,
                peers=Line(self, name),
                clock=Wall(),
                entropy=Seeded(number),
                interval_ms=interval_ms,
                pause_ms=0,
                **options,
            )
        self.show(self.layout, self.names)

    def show(self, layout: Layout, up: Collection[NodeId]) -> None:
        for name, service in self.services.items():
            service.on_view(View(layout.version, layout, name, up))

    async def _push(self, node: NodeId, items: Sequence[Item], reason: str) -> bytes:
        assert reason == "exchange"
        await asyncio.sleep(0)
        return bytes(0 if status < 2 else status for status in self.sides[node].merge(items))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            # What is waited for has no event of its own.
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def stop(self) -> None:
        for service in self.services.values():
            await service.stop()

    async def repair(self, name: NodeId, partition: int | None = None) -> None:
        """Ask one node for a repair, and wait for its end."""
        service = self.services[name]
        service.repair(partition)
        assert service.statistics().running
        await self.until(lambda: not service.statistics().running)


def run(story: Callable[[Cluster], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        cluster = Cluster(**options)
        for service in cluster.services.values():
            service.start()
        try:
            await story(cluster)
        finally:
            await cluster.stop()

    asyncio.run(main())


def test_rounds_make_all_replicas_equal() -> None:
    """A coordinator that died between two sends, a lost tail, a wiped node: one round of each node later it
    is as if nothing had been.
    """

    async def story(cluster: Cluster) -> None:
        first, second, third = cluster.names
        cluster.sides[first].fill(range(100))
        cluster.sides[second].fill(range(50, 150))
        cluster.sides[third].put(7, one(9, 9))

        def done() -> bool:
            return all(service.statistics().rounds >= 2 for service in cluster.services.values())

        await cluster.until(done)
        contents = [cluster.sides[name].contents() for name in cluster.names]
        assert contents[0] == contents[1] == contents[2]
        assert len(contents[0]) == 150
        totals = [service.statistics().total for service in cluster.services.values()]
        assert sum(total.keys_repaired for total in totals) >= 200

    run(story, interval_ms=1)


def test_pair_compares_once_in_a_round_by_the_smaller_id() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.until(lambda: len(cluster.calls) > 20)
        assert all(asker < asked for asker, asked in cluster.calls)
        assert len(set(cluster.calls)) == 3

    run(story, interval_ms=1)


def test_node_that_is_caught_up_by_hints_is_left_alone_by_the_timer() -> None:
    """Its hints bring the same sets; an operator's repair does not wait for them."""

    async def story(cluster: Cluster) -> None:
        first, second, third = cluster.names
        await cluster.until(lambda: cluster.services[first].statistics().rounds > 3)
        assert (first, second) not in cluster.calls
        assert (first, third) in cluster.calls
        await cluster.repair(first)
        assert (first, second) in cluster.calls

    run(story, interval_ms=1, is_catching_up=lambda node: node == "n001")


def test_without_an_interval_nothing_happens_by_itself() -> None:
    async def story(cluster: Cluster) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        assert not cluster.calls

    run(story)


def test_repair_compares_with_everybody_and_shows_what_it_did() -> None:
    """Also with those of smaller ids, from the node that an operator asked."""

    async def story(cluster: Cluster) -> None:
        first, second, third = cluster.names
        cluster.sides[first].fill(range(60))
        await cluster.repair(third)
        assert {asked for _, asked in cluster.calls} == {first, second}
        assert cluster.sides[third].contents() == cluster.sides[first].contents()
        status = cluster.services[third].status()
        # Twice: second has nothing, and by then third has what it pulled from first.
        assert (status["keys_repaired"], status["keys_compared"]) == (120, 120)
        assert (status["partitions_done"], status["partitions_total"]) == (16, 16)
        assert (status["running"], status["errors"], status["partitions_unbuilt"]) == (False, [], 0)
        assert status["bytes"] > 120 * 30
        await cluster.repair(third)
        assert cluster.services[third].status()["keys_compared"] == 0
        assert cluster.services[third].statistics().total.keys_repaired == 120

    run(story)


def test_repair_of_one_partition_leaves_the_others() -> None:
    async def story(cluster: Cluster) -> None:
        first, second, _ = cluster.names
        cluster.sides[first].fill(range(100))
        await cluster.repair(first, 5)
        assert {key[0] >> 5 for key in cluster.sides[second].contents()} == {5}

    run(story)


def test_waiting_repairs_are_bounded() -> None:
    """Too many single partitions become one repair of all."""

    async def main() -> None:
        cluster = Cluster()
        service = cluster.services[cluster.names[0]]
        cluster.sides[cluster.names[0]].fill(range(100))
        for partition in range(REQUESTS_MAX + 1):
            service.repair(partition)
        service.start()
        await cluster.until(lambda: not service.statistics().running)
        assert service.statistics().rounds == 1
        assert len(cluster.sides[cluster.names[1]].contents()) == 100
        await cluster.stop()

    asyncio.run(main())


def test_exchange_that_breaks_off_is_told_and_the_next_one_goes_on() -> None:
    """A node down, a link lost, an engine full, or a peer that talks nonsense: the others are still
    compared.
    """
    faults: list[SadikError] = [Unavailable("link lost"), StorageFull("no room"), ProtocolError("nonsense")]

    async def story(cluster: Cluster) -> None:
        first, second, third = cluster.names
        cluster.sides[first].fill(range(30))
        for fault in faults:

            def fail(node: NodeId, fault: SadikError = fault, failing: NodeId = second) -> None:
                if node == failing:
                    raise fault

            cluster.on_call = fail
            await cluster.repair(first)
            assert cluster.services[first].status()["errors"] == [f"{second}: {fault}"]
        assert cluster.services[first].statistics().failures == len(faults)
        assert len(cluster.sides[third].contents()) == 30
        cluster.on_call = lambda node: None
        cluster.show(cluster.layout, [first, third])
        await cluster.repair(first)
        assert cluster.services[first].status()["errors"] == [f"{second}: is down"]
        cluster.show(cluster.layout, cluster.names)
        await cluster.repair(first)
        assert len(cluster.sides[second].contents()) == 30
        assert cluster.services[first].status()["errors"] == []

    run(story)


def test_bug_in_an_exchange_does_not_end_the_timer() -> None:
    async def story(cluster: Cluster) -> None:
        first = cluster.names[0]

        def fail(node: NodeId) -> None:
            raise RuntimeError("a bug")

        cluster.on_call = fail
        await cluster.until(lambda: cluster.services[first].statistics().failures > 3)
        cluster.on_call = lambda node: None
        failures = cluster.services[first].statistics().failures
        rounds = cluster.services[first].statistics().rounds
        await cluster.until(lambda: cluster.services[first].statistics().rounds > rounds + 2)
        assert cluster.services[first].statistics().failures <= failures + 1

    run(story, interval_ms=1)


def test_errors_kept_are_bounded() -> None:
    async def story(cluster: Cluster) -> None:
        first = cluster.names[0]
        cluster.show(cluster.layout, [first])
        await cluster.repair(first)
        assert len(cluster.services[first].status()["errors"]) == ERRORS_KEPT < len(cluster.names) - 1

    run(story, count=12)


def test_layout_that_changes_ends_exchanges_on_the_old_one() -> None:
    async def story(cluster: Cluster) -> None:
        first = cluster.names[0]
        cluster.sides[first].fill(range(30))
        old = cluster.layout
        newer = Layout(old.version + 1, old.partitions, old.replicas, old.nodes, old.assignment)

        def change(node: NodeId) -> None:
            if len(cluster.calls) == 2:
                cluster.services[first].on_view(View(9, newer, first, cluster.names))

        cluster.on_call = change
        await cluster.repair(first)
        errors = cluster.services[first].status()["errors"]
        assert "layout" in errors[0]
        assert not cluster.sides[cluster.names[1]].contents()

    run(story)


def test_node_outside_the_layout_compares_with_nobody() -> None:
    async def story(cluster: Cluster) -> None:
        first = cluster.names[0]
        others = layout_of(nodes_of(4)[1:], partitions=8)
        cluster.show(others, cluster.names)
        await cluster.repair(first)
        assert not cluster.calls

    run(story)


def test_stop_in_the_middle_is_prompt() -> None:
    async def story(cluster: Cluster) -> None:
        first = cluster.names[0]
        cluster.sides[first].fill(range(3000))
        cluster.services[first].repair(None)
        await cluster.until(lambda: len(cluster.calls) > 3)
        await cluster.services[first].stop()
        calls = len(cluster.calls)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(cluster.calls) == calls
        assert cluster.services[first].statistics().peer == ""

    run(story)


def test_shared_partitions_are_those_where_both_are_primaries() -> None:
    """For n=1 nobody shares, for n >= nodes everything."""
    layout = layout_of(nodes_of(5), partitions=64)
    first, second = layout.names[:2]
    view = View(1, layout, first, layout.names)
    assert shared_partitions(view, second, 1) == []
    assert shared_partitions(view, second, 7) == list(range(64))
    shared = shared_partitions(view, second, 3)
    assert shared == [
        partition for partition in range(64) if {first, second} <= set(view.preference(partition, 3))
    ]
    assert 0 < len(shared) < 64
    assert shared_partitions(view, second, 3, only=shared[1]) == [shared[1]]
    assert shared_partitions(view, second, 1, only=3) == []
