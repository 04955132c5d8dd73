"""A node's view of its cluster as metric families: links, membership, hints, repair, requests under way.

Everything is read at scrape time from statistics that the parts keep anyway. The only labels that follow the
cluster are node ids; their number is bounded here or by whoever keeps the statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sadik.comms.messages import BULK, DATA
from sadik.metrics.instruments import CHILDREN_MAX
from sadik.metrics.registry import Registry
from sadik.node.node import Node

LINKS_MAX: Final = CHILDREN_MAX
"""Links that are exported, a lane each: the first by node id."""

_LANES: Final = {DATA: "data", BULK: "bulk"}


def export_cluster(registry: Registry, node: Node) -> None:
    """Declare the metrics of everything that has to do with other nodes, but the coordinator's own."""
    for families in (_links, _calls, _members, _hints, _replay, _trees, _exchange, _flights, _siblings):
        registry.collector(partial(families, node))


def _links(node: Node) -> Iterator[Metric]:
    labels = ("peer", "lane")
    up = GaugeMetricFamily("sadik_link_up", "1 while frames can be sent to the node.", labels=labels)
    queued = GaugeMetricFamily(
        "sadik_link_queued_bytes", "Bytes that wait for the link's socket.", labels=labels
    )
    round_trip = GaugeMetricFamily(
        "sadik_link_round_trip_seconds",
        "Smoothed round trip of handshakes and heartbeats (the bulk lane's only while it is used).",
        labels=labels,
    )
    reconnects = CounterMetricFamily(
        "sadik_link_reconnects_total", "Times the link came up again.", labels=labels
    )
    refused = CounterMetricFamily(
        "sadik_link_refused_full_total", "Frames not taken because the link's queue was full.", labels=labels
    )
    frames = CounterMetricFamily(
        "sadik_link_frames_total", "Frames sent and received.", labels=(*labels, "direction")
    )
    volume = CounterMetricFamily(
        "sadik_link_bytes_total", "Bytes of frames sent and received.", labels=(*labels, "direction")
    )
    for link in node.transport.statistics()[:LINKS_MAX]:
        at = (link.node, _LANES[link.lane])
        up.add_metric(at, int(link.up))
        queued.add_metric(at, link.queued_bytes)
        if link.round_trip_ns:
            round_trip.add_metric(at, link.round_trip_ns / 1e9)
        reconnects.add_metric(at, link.reconnects)
        refused.add_metric(at, link.refused_full)
        frames.add_metric((*at, "out"), link.frames_out)
        frames.add_metric((*at, "in"), link.frames_in)
        volume.add_metric((*at, "out"), link.bytes_out)
        volume.add_metric((*at, "in"), link.bytes_in)
    yield from (up, queued, round_trip, reconnects, refused, frames, volume)
    port = node.transport.port_statistics()
    strangers = CounterMetricFamily(
        "sadik_port_connections_total",
        "Connections to the port for nodes, by fate: accepted is all of them, the others are what became of "
        "them.",
        labels=("fate",),
    )
    for fate in ("accepted", "welcomed", "refused", "broken", "timed_out", "displaced"):
        strangers.add_metric((fate,), getattr(port, fate))
    yield strangers


def _calls(node: Node) -> Iterator[Metric]:
    calls = node.peers.statistics()
    yield _counter("sadik_calls_total", "Control requests to other nodes.", calls.calls)
    yield _counter(
        "sadik_calls_failed_total", "Control requests to other nodes that ended with an error.", calls.failed
    )
    yield _gauge(
        "sadik_calls_waiting", "Control requests to other nodes that wait for their reply.", calls.waiting
    )
    yield _counter("sadik_calls_served_total", "Control requests of other nodes.", calls.served)
    yield _gauge("sadik_calls_serving", "Control requests of other nodes being answered.", calls.serving)
    yield _counter(
        "sadik_calls_overloaded_total",
        "Control requests of other nodes refused because too many were being answered.",
        calls.overloaded,
    )
    yield _counter(
        "sadik_frames_unasked_total",
        "Replies that nobody waited for any more, and frames of unknown kinds.",
        calls.unasked,
    )


def _members(node: Node) -> Iterator[Metric]:
    gossip = node.members.statistics()
    view = node.members.view
    yield _gauge("sadik_members", "Nodes that are members of the cluster.", gossip.members)
    yield _gauge(
        "sadik_members_live", "Members that are up as seen from here, this node included.", gossip.live
    )
    yield _gauge(
        "sadik_gossip_age_seconds",
        "Time since the last exchange of gossip with anybody; 0 while there is nobody else.",
        gossip.gossip_age_ms / 1000,
    )
    yield _counter("sadik_gossip_rounds_total", "Exchanges of gossip begun here.", gossip.rounds)
    yield _counter("sadik_gossip_failures_total", "Exchanges of gossip without an answer.", gossip.failed)
    yield _counter(
        "sadik_gossip_changes_total", "Messages of gossip that brought something new.", gossip.changes
    )
    yield _counter(
        "sadik_gossip_rejected_total",
        "Parts of messages of gossip that could not be merged.",
        gossip.rejected,
    )
    volume = CounterMetricFamily(
        "sadik_gossip_bytes_total", "Bytes of gossip sent and received.", labels=("direction",)
    )
    volume.add_metric(("out",), gossip.bytes_out)
    volume.add_metric(("in",), gossip.bytes_in)
    yield volume
    yield _counter(
        "sadik_member_rivals_total", "Times another run had written this node's record.", gossip.rivals
    )
    yield _gauge("sadik_layout_version", "Version of the layout in use.", view.layout.version)
    yield _gauge("sadik_layout_nodes", "Nodes of the layout in use.", len(view.nodes))
    yield _gauge(
        "sadik_layout_live_nodes", "Nodes of the layout that are up as seen from here.", sum(view.up)
    )
    yield _gauge(
        "sadik_view", "Number of the view: it rises whenever the layout, or who is up, changes.", view.number
    )


def _hints(node: Node) -> Iterator[Metric]:
    hints = node.hints.statistics()
    for name, help_text, value in (
        (
            "stored",
            "Hints stored since the first start: all others together, and those present.",
            hints.stored,
        ),
        ("delivered", "Hints that their owner has taken since the first start.", hints.delivered),
        ("expired", "Hints that became too old since the first start.", hints.expired),
        ("dropped", "Hints that were lost or unreadable since the first start.", hints.dropped),
    ):
        yield _counter(f"sadik_hints_{name}_total", help_text, value)
    yield _gauge("sadik_hints", "Hints present.", hints.present)
    yield _gauge("sadik_hints_with_set", "Hints present that carry a version set.", hints.sets)
    yield _gauge("sadik_hints_bytes", "What the hints present take, about.", hints.bytes)
    yield _gauge("sadik_hints_bytes_max", "Where no more hints are taken.", hints.bytes_max)
    count = GaugeMetricFamily("sadik_hints_waiting", "Hints present, by owner.", labels=("owner",))
    age = GaugeMetricFamily(
        "sadik_hints_age_seconds", "At least the age of the oldest hint, by owner.", labels=("owner",)
    )
    now_ms = node.clock.wall_ms()
    for owner, share in node.hints.owners().items():
        count.add_metric((owner,), share.hints)
        age.add_metric((owner,), max(0, now_ms - share.oldest_ms) / 1000)
    yield from (count, age)
    engine = node.hint_engine.statistics()
    yield _gauge("sadik_hints_stored_bytes", "Bytes of the files of hints.", engine.stored_bytes)


def _replay(node: Node) -> Iterator[Metric]:
    replay = node.replay.statistics()
    yield _gauge(
        "sadik_hint_replay_owners", "Nodes that hints are being delivered to.", len(replay.delivering)
    )
    for name, help_text, value in (
        ("rounds", "Walks over all hints of one owner.", replay.rounds),
        ("items", "Version sets sent for hints.", replay.items),
        ("bytes", "Bytes of version sets sent for hints.", replay.bytes),
        ("failures", "Packets of hints without an answer.", replay.failures),
        ("refused", "Version sets sent for hints and not taken; they are sent again.", replay.refused),
        ("unreadable", "Times a hint stayed because the set it names could not be read.", replay.unreadable),
    ):
        yield _counter(f"sadik_hint_replay_{name}_total", help_text, value)


def _trees(node: Node) -> Iterator[Metric]:
    trees = node.trees.statistics()
    yield _gauge("sadik_trees_partitions", "Partitions of the cluster.", trees.partitions)
    yield _gauge("sadik_trees_built", "Partitions whose Merkle trees can be compared.", trees.built)
    yield _counter("sadik_trees_rebuilds_total", "Times all Merkle trees were begun anew.", trees.rebuilds)
    yield _counter(
        "sadik_trees_corrected_total", "Leaves that said something else than the data.", trees.corrected
    )
    yield _counter(
        "sadik_trees_unreadable_total", "Unreadable records met while building trees.", trees.unreadable
    )


def _exchange(node: Node) -> Iterator[Metric]:
    exchange = node.exchange.statistics()
    total = exchange.total
    yield _gauge("sadik_exchange_running", "1 while replicas are compared.", int(exchange.running))
    for name, help_text, value in (
        ("rounds", "Rounds of comparisons with all nodes that share partitions.", exchange.rounds),
        ("peers", "Comparisons with one node each.", exchange.exchanges),
        ("failures", "Comparisons that broke off.", exchange.failures),
        (
            "partitions",
            "Partitions compared, or left out because a tree is not built.",
            total.partitions_done,
        ),
        ("partitions_unbuilt", "Partitions left out because a tree is not built.", total.unbuilt),
        ("keys_compared", "Keys listed in leaves that differ.", total.keys_compared),
        ("keys_moving", "Keys that differed while they were being written.", total.keys_moving),
        ("keys_repaired", "Keys changed here or there by a comparison begun here.", total.keys_repaired),
        ("keys_unreadable", "Keys that no side could read.", total.keys_unreadable),
        ("keys_refused", "Keys whose merge was refused.", total.keys_refused),
    ):
        yield _counter(f"sadik_exchange_{name}_total", help_text, value)
    volume = CounterMetricFamily(
        "sadik_exchange_bytes_total",
        "Payload bytes of comparisons begun here, version sets included.",
        labels=("direction",),
    )
    volume.add_metric(("out",), total.bytes_sent)
    volume.add_metric(("in",), total.bytes_received)
    yield volume


def _flights(node: Node) -> Iterator[Metric]:
    yield _gauge(
        "sadik_flights", "Batches for which not every replica has answered yet.", len(node.core.flights)
    )
    yield _gauge(
        "sadik_flights_bytes", "What those batches hold in memory, about.", node.core.flights.bytes_held
    )
    yield _gauge(
        "sadik_flights_bytes_max",
        "Where new requests are refused instead.",
        node.config.peers.in_flight_bytes_max,
    )


def _siblings(node: Node) -> Iterator[Metric]:
    collector = node.collector
    yield _gauge(
        "sadik_sibling_keys",
        "Keys held here with more than one live value, in the last whole round of collection.",
        collector.sibling_keys,
    )
    yield _gauge(
        "sadik_siblings_max",
        "Most live values of one of those keys; 0 where there are none.",
        collector.siblings_max,
    )
    yield _counter("sadik_collected_keys_total", "Keys with nothing left, removed.", collector.collected)
    yield _counter("sadik_reduced_sets_total", "Version sets made smaller by collection.", collector.reduced)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)
