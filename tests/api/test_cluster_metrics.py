"""What a scrape says of a cluster: each figure moves with what it names, and no label grows without bound."""

from __future__ import annotations

import dataclasses

from prometheus_client.parser import text_string_to_metric_families as parse_text

from sadik.api.cluster_metrics import LINKS_MAX
from sadik.api.node_metrics import export_node
from sadik.metrics import Registry, expose
from tests.node.cluster import Cluster, cluster, run

Samples = dict[tuple[str, ...], float]
"""Values by name and label values, these in the order of their names."""


def scraped(nodes: Cluster, name: str = "n1") -> Samples:
    """All figures of a node but the coordinator's own counters, which are declared where it is made."""
    registry = Registry(process=False)
    export_node(registry, nodes.node(name))
    found = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse_text(expose(registry, "")[0].decode())
        for sample in family.samples
    }
    assert found["sadik_scrape_errors_total",] == 0
    return found


def test_links_membership_and_layout_are_seen() -> None:
    """Who is linked and how far away, how old the news is, and which layout is in use."""

    async def story() -> None:
        async with cluster(3) as nodes:
            nodes.delay = lambda: 0.001
            links = nodes.node("n1").transport.statistics
            await nodes.wait_until(lambda: all(link.round_trip_ns for link in links()), "beats")
            members = nodes.node("n1").members
            await nodes.wait_until(lambda: members.statistics().rounds > 0, "gossip")
            found = scraped(nodes)
            for peer in ("n2", "n3"):
                for lane in ("data", "bulk"):
                    assert found["sadik_link_up", lane, peer] == 1
                    assert found["sadik_link_queued_bytes", lane, peer] == 0
                    assert 0 < found["sadik_link_round_trip_seconds", lane, peer] < 1
                assert found["sadik_link_frames_total", "in", "data", peer] > 0
                assert found["sadik_link_bytes_total", "out", "data", peer] > 0
            assert ("sadik_link_up", "data", "n1") not in found
            assert found["sadik_members",] == found["sadik_members_live",] == 3
            assert found["sadik_layout_nodes",] == found["sadik_layout_live_nodes",] == 3
            assert found["sadik_layout_version",] == 2
            assert found["sadik_gossip_rounds_total",] > 0
            assert found["sadik_gossip_bytes_total", "in"] > 0
            assert 0 <= found["sadik_gossip_age_seconds",] < 5
            assert found["sadik_calls_total",] >= found["sadik_gossip_rounds_total",]
            nodes.crash("n3")
            await nodes.wait_until(lambda: not all(link.up for link in links()), "n3 is missed")
            later = scraped(nodes)
            assert not later["sadik_link_up", "data", "n3"]
            assert later["sadik_members",] == 3, "a failure is no departure"
            assert later["sadik_members_live",] == later["sadik_layout_live_nodes",] == 2
            assert later["sadik_view",] > found["sadik_view",]

    run(story())


def test_reads_and_writes_are_timed_apart() -> None:
    """Time to R and time to W, each once per operation; a quorum that is out of reach counts as refused."""

    async def story() -> None:
        async with cluster(3) as nodes:
            instruments = nodes.node("n1").instruments
            for number in range(3):
                assert (await nodes.set("n1", b"%d" % number, b"x")).ok
            assert (await nodes.get("n1", b"0")).ok
            assert sum(instruments.write_seconds.counts) == 3
            assert sum(instruments.read_seconds.counts) == 1
            assert instruments.write_seconds.sum >= 0
            assert (instruments.done.value, instruments.missed.value) == (4, 0)
            await kill(nodes, "n2", "n3")
            assert (await nodes.get("n1", b"0")).refused
            assert instruments.refused.value == 1
            assert sum(instruments.read_seconds.counts) == 1

    run(story())


async def kill(nodes: Cluster, *names: str) -> None:
    for name in names:
        nodes.crash(name)
    await nodes.wait_until(lambda: sum(nodes.node("n1").core.view.up) == 1, "they are missed")


def test_hints_are_counted_by_owner_until_they_are_delivered() -> None:
    """A growing number says that a node is away, and for how long; at the end the totals agree (H1)."""

    async def story() -> None:
        async with cluster(3) as nodes:
            disk = nodes.crash("n3")
            await nodes.wait_until(lambda: sum(nodes.node("n1").core.view.up) == 2, "n3 is missed")
            for number in range(5):
                assert (await nodes.set("n1", b"%d" % number, b"x")).ok
            found = scraped(nodes)
            assert found["sadik_hints",] == found["sadik_hints_waiting", "n3"] == 5
            assert found["sadik_hints_stored_total",] == 5
            assert 0 <= found["sadik_hints_age_seconds", "n3"] < 60
            assert 0 < found["sadik_hints_bytes",] < found["sadik_hints_bytes_max",]
            await nodes.restart("n3", files=disk)
            await nodes.wait_until(nodes.no_hints, "hints are delivered")
            found = scraped(nodes)
            assert found["sadik_hints_delivered_total",] == 5
            assert ("sadik_hints_waiting", "n3") not in found
            assert found["sadik_hint_replay_items_total",] >= 5
            assert found["sadik_hint_replay_bytes_total",] > 0
            assert found["sadik_hints_stored_total",] == sum(
                found[f"sadik_hints_{end}_total",] for end in ("delivered", "expired", "dropped")
            )

    run(story())


def test_comparisons_are_counted() -> None:
    """What a round compared and repaired, and how many trees there are to compare."""

    async def story() -> None:
        async with cluster(2) as nodes:
            assert (await nodes.set("n1", b"a", b"x")).ok
            for name in nodes.names:
                trees = nodes.node(name).trees
                await nodes.wait_until(lambda trees=trees: trees.statistics().built == 16, "trees are built")
            before = scraped(nodes)
            exchange = nodes.node("n1").exchange
            exchange.repair(None)
            await nodes.wait_until(lambda: exchange.statistics().rounds == 1, "a round")
            found = scraped(nodes)
            assert before["sadik_exchange_peers_total",] == 0
            assert found["sadik_exchange_peers_total",] == 1
            assert found["sadik_exchange_partitions_total",] == 16
            assert found["sadik_exchange_keys_repaired_total",] == 0
            assert found["sadik_exchange_bytes_total", "out"] > 0

    run(story())


def test_more_links_than_are_shown_do_not_make_a_scrape_grow() -> None:
    """A label that follows the number of nodes has a bound, as every label has."""

    async def story() -> None:
        async with cluster(2) as nodes:
            node = nodes.node("n1")
            one = node.transport.statistics()[0]
            many = [dataclasses.replace(one, node=f"n{number:05d}") for number in range(LINKS_MAX + 1)]
            node.transport.statistics = lambda: many  # type: ignore[method-assign]
            up = [labels for labels in scraped(nodes) if labels[0] == "sadik_link_up"]
            assert len(up) == LINKS_MAX

    run(story())
