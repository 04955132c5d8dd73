"""A cluster that is broken while it is written to: what it promises meanwhile, how soon it is whole again.

Each story has a short form, and one with the numbers of its bar (`make torture`). Nobody reads the keys that
are compared in the end, so read repair mends none of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sadik.kernels import versions
from sadik.storage import LogEngine
from tests.system.cluster_harness import Cluster, ClusterNode, wait_until
from tests.system.cluster_load import LOST, Load, Request, missing, sample

pytestmark = pytest.mark.slow

RETURN_S = 10.0
"""How long after a node's return the replicas may differ."""
SETTLE_S = 3.0
"""How long after a fault the others may be slow."""
RATE = 1000.0
"""Writes a second where the nodes are to start at the same time, on a machine of few cores."""
NO_EXCHANGE = ("--exchange-interval-ms", "0")
"""So that what is mended is mended by hints."""
MAYBE = b"may have been applied"


def whole(cluster: Cluster) -> None:
    """All nodes run and see each other, whatever a test left behind."""
    for node in cluster.nodes:
        if node.running:
            node.resume()
    cluster.start()
    cluster.wait_ready()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes on which every test brings its own keys."""
    with Cluster.form(tmp_path_factory.mktemp("trio"), 3, options=NO_EXCHANGE) as cluster:
        yield cluster


@pytest.fixture
def cluster(trio: Cluster) -> Iterator[Cluster]:
    """The three nodes, whole before and after."""
    whole(trio)
    yield trio
    whole(trio)


def assert_only_in_flight(failed: list[Request], *, until_s: float, depth: int) -> None:
    """Nothing failed but what had been sent before a node was gone, and each says that nobody knows of it."""
    late = [request for request in failed if request.began_s > until_s]
    assert not late, f"{len(late)} requests failed that were sent later: {late[:3]}"
    certain = [request for request in failed if request.reply != LOST and MAYBE not in request.reply]
    assert not certain, f"refused instead of tried elsewhere: {certain[:3]}"
    assert len(failed) <= depth, f"more failed than were in flight: {Counter(one.reply for one in failed)}"


def wait_equal(cluster: Cluster, keys: list[bytes], timeout_s: float = RETURN_S) -> float:
    """Until no hint is left and the replicas of some keys are equal; the seconds that it took."""
    began_s = time.monotonic()
    wait_until(lambda: cluster.hints() == 0, timeout_s, "all hints are delivered")
    left_s = began_s + timeout_s - time.monotonic()
    wait_until(lambda: cluster.difference(keys) == "", left_s, "the replicas are equal")
    return time.monotonic() - began_s


def repair_all(cluster: Cluster) -> int:
    """Every node compares all that it has with the others; the number of keys that were mended."""
    mended = 0

    def compared(node: ClusterNode) -> bool:
        nonlocal mended
        status = node.repair()
        mended += status["keys_repaired"]
        # A node that has just started builds its trees first, and compares as far as they are.
        return not (status["partitions_unbuilt"] or status["errors"] or status["keys_compared"])

    for node in cluster.running():
        wait_until(lambda node=node: compared(node), 30, f"{node.name} finds everything equal", every_s=0.2)
    return mended


def assert_nothing_to_repair(cluster: Cluster) -> None:
    """The replicas are equal already, in all that there is."""
    assert repair_all(cluster) == 0


def stored(node: ClusterNode) -> dict[bytes, int]:
    """What a stopped node has on its disk: the fingerprint of each key's versions."""
    engine = LogEngine.open(str(node.directory / "log"))
    try:
        found: dict[bytes, int] = {}
        after = b""
        while page := engine.scan(after, b"\xff" * 16, 1000):
            after = page[-1].digest
            for entry in page:
                assert entry.value is not None, f"{node.name} cannot read {entry.digest.hex()}"
                # Length and bytes of the bucket, length and bytes of the key.
                key = entry.name[1 + entry.name[0] + 2 :]
                found[key] = versions.fingerprint(entry.digest, entry.value)
        return found
    finally:
        engine.close()


def differing_on_disk(cluster: Cluster) -> tuple[set[bytes], int]:
    """Stop all, and read what each node has stored: keys that not all have alike, and the number of keys."""
    for node in cluster.running():
        assert node.stop() == 0, node.log_tail()
    held = [stored(node) for node in cluster.nodes]
    keys = set().union(*held)
    return {key for key in keys if len({one.get(key) for one in held}) > 1}, len(keys)


# One node dies.


@dataclass(frozen=True)
class Death:
    """kill -9 of a node under load, and its return.

    Attributes:
        load: Which has ended.
        in_flight: Keys of requests that had been sent and not answered when the node was gone. Of these any
            replica may have missed something, and no other one know of it: they are left to reads and to
            exchange. There are at most ``in_flight_max``.
        returned_s: When the node had its ready line again.
    """

    load: Load
    in_flight: set[bytes]
    in_flight_max: int
    returned_s: float


def kill_one_under_load(cluster: Cluster, prefix: bytes, count: int, *, depth: int) -> Death:
    """The last node dies, and comes back after ``count`` keys."""
    victim = cluster[2]
    with Load(cluster.nodes, prefix, connections=2, depth=depth) as load:
        load.wait_for(500)
        killed_s = time.monotonic()
        victim.kill()
        dead_s = time.monotonic()
        load.wait_for(count, 300)
    assert_only_in_flight(load.failed(), until_s=dead_s, depth=6 * depth)
    assert cluster.hints() > 0
    victim.start()
    # A reply that the kernel still brought may have been read a little later than the death.
    in_flight = {one.key for one in load.requests if one.began_s <= dead_s and one.ended_s >= killed_s}
    return Death(load, in_flight, 6 * depth, time.monotonic())


def test_death_of_one_of_three_fails_only_what_was_in_flight_and_hints_mend_it(cluster: Cluster) -> None:
    """Hints alone make the three replicas equal, within seconds of the node's return."""
    death = kill_one_under_load(cluster, b"killed", 5000, depth=4)
    keys = death.load.acknowledged()
    wait_equal(cluster, sample([key for key in keys if key not in death.in_flight], 300))
    # Each of them may differ at two of the three pairs, and is counted there.
    assert repair_all(cluster) <= 2 * death.in_flight_max
    for node in cluster.nodes:
        assert missing(node, sample(keys, 2000)) == []
        statistics = node.document("GET", "/v1/hints")
        assert statistics["stored"] == statistics["delivered"]


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_hundred_thousand_keys_written_while_one_is_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar: equal within ten seconds of the ready line, by every way to look at it."""
    with Cluster.form(tmp_path / "cluster", 3, options=NO_EXCHANGE) as cluster:
        death = kill_one_under_load(cluster, b"killed", 100_000, depth=64)
        keys = death.load.acknowledged()
        certain = [key for key in keys if key not in death.in_flight]
        wait_equal(cluster, sample(certain, 1000), RETURN_S - (time.monotonic() - death.returned_s))
        took_s = time.monotonic() - death.returned_s
        different, count = differing_on_disk(cluster)
        assert different <= death.in_flight
        cluster.start()
        cluster.wait_ready()
        for node in cluster.nodes:
            assert missing(node, keys) == []
        mended = repair_all(cluster)
        assert differing_on_disk(cluster) == (set(), count)
        with capsys.disabled():
            print(
                f"\n{len(keys)} acknowledged, {len(death.load.failed())} failed in flight; hints delivered "
                f"and replicas equal after {took_s:.1f} s; {count} keys on the disks, {len(different)} of "
                f"those in flight differed, and {mended} repairs mended them"
            )


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_deaths_in_any_order_lose_nothing(tmp_path: Path) -> None:
    """A node dies and comes back again and again, each time another one, and the load never pauses."""
    with Cluster.form(tmp_path / "cluster", 3, options=NO_EXCHANGE) as cluster:
        with Load(cluster.nodes, b"again", connections=2, depth=8) as load:
            for number in range(12):
                load.wait_for(2000)
                victim = cluster[number % 3]
                victim.kill()
                load.wait_for(2000)
                victim.start()
                cluster.wait_ready()
        keys = load.acknowledged()
        wait_equal(cluster, sample(keys, 300))
        for node in cluster.nodes:
            assert missing(node, keys) == []
        assert repair_all(cluster) <= 2 * 12 * 6 * 8
        different, count = differing_on_disk(cluster)
        assert not different
        assert count >= len(keys)


def test_rolling_restart_fails_only_what_was_in_flight(cluster: Cluster) -> None:
    """Each node in turn is stopped in order and started again, as for an upgrade, under load."""
    with Load(cluster.nodes, b"rolling", connections=2, depth=4, rate=RATE) as load:
        for node in cluster.nodes:
            load.wait_for(300)
            failed_before = len(load.failed())
            assert node.stop() == 0, node.log_tail()
            stopped_s = time.monotonic()
            load.wait_for(300)
            node.start()
            cluster.wait_ready()
            load.wait_for(300)
            assert_only_in_flight(load.failed()[failed_before:], until_s=stopped_s, depth=24)
    keys = load.acknowledged()
    wait_equal(cluster, sample(keys, 300))
    for node in cluster.nodes:
        assert missing(node, keys) == []


# One node stands still.


def stop_one_under_load(cluster: Cluster, prefix: bytes, pause_s: float) -> tuple[Load, float, float, float]:
    """SIGSTOP one node for ``pause_s``; the load, and when it began, when the node stood still, and when it
    went on.
    """
    *others, victim = cluster.nodes
    began_s = time.monotonic()
    with Load(others, prefix, connections=4, depth=1, rate=500) as load:
        load.wait_for(1000)
        victim.pause()
        paused_s = time.monotonic()
        wait_until(lambda: time.monotonic() > paused_s + pause_s, pause_s + 10, "it has stood long enough")
        victim.resume()
        resumed_s = time.monotonic()
        load.wait_for(500)
    return load, began_s, paused_s, resumed_s


def test_node_that_stands_still_slows_the_others_for_seconds_only(cluster: Cluster) -> None:
    """Its links stay open and nothing answers on them: silence must be enough to route around it."""
    load, began_s, paused_s, resumed_s = stop_one_under_load(cluster, b"stopped", SETTLE_S + 2)
    normal_s = load.p99_s(began_s, paused_s)
    # Twice the normal is the bar's; a busy machine's pauses are not the stopped node's.
    assert load.p99_s(paused_s + SETTLE_S, resumed_s) < max(2 * normal_s, 0.05)
    assert_only_in_flight(load.failed(), until_s=paused_s + SETTLE_S, depth=100)
    keys = load.acknowledged()
    wait_equal(cluster, sample(keys, 300))
    for node in cluster.nodes:
        assert missing(node, keys) == []


@pytest.mark.torture
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [3, 5])
def test_node_that_stands_still_for_thirty_seconds(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar, on a machine that does nothing else. Of five nodes some pass their requests to the one that
    stands still, and know nothing until it counts as down.
    """
    with Cluster.form(tmp_path / "cluster", count, options=NO_EXCHANGE) as cluster:
        load, began_s, paused_s, resumed_s = stop_one_under_load(cluster, b"stopped", 30)
        normal_s = load.p99_s(began_s, paused_s)
        meanwhile_s = load.p99_s(paused_s, paused_s + SETTLE_S)
        later_s = load.p99_s(paused_s + SETTLE_S, resumed_s)
        after_s = load.p99_s(resumed_s, time.monotonic())
        took_s = wait_equal(cluster, sample(load.acknowledged(), 300))
        with capsys.disabled():
            figures = [f"{1000 * one:.1f}" for one in (normal_s, meanwhile_s, later_s, after_s)]
            print(
                f"\n{count} nodes: p99 in ms: normal, first 3 s, then, after it: {', '.join(figures)}; "
                f"{len(load.failed())} failed; equal {took_s:.1f} s after it went on"
            )
        assert_only_in_flight(load.failed(), until_s=paused_s + SETTLE_S, depth=100)
        assert later_s < 2 * normal_s


# Disks and zones.


def test_wiped_directory_is_filled_by_exchange(tmp_path: Path) -> None:
    """A node that has lost its disk comes back empty: nobody has hints for it, and nobody reads."""
    interval_s = 4.0
    options = ("--exchange-interval-ms", str(int(1000 * interval_s)))
    with Cluster.form(tmp_path / "cluster", 3, options=options) as cluster:
        with Load(cluster.nodes[:2], b"wiped", depth=16) as load:
            load.wait_for(5000)
        keys = load.acknowledged()
        victim = cluster[2]
        victim.kill()
        victim.wipe()
        victim.start()
        cluster.wait_ready()
        # A cycle is jittered by a quarter, and the trees of the others may have just begun.
        wait_until(
            lambda: cluster.difference(sample(keys, 300)) == "", 30, "the empty node has everything again"
        )
        assert victim.metric("sadik_replica_sets_total", reason="exchange") >= len(keys)
        assert_nothing_to_repair(cluster)
        assert missing(victim, keys) == []
        different, count = differing_on_disk(cluster)
        assert not different
        assert count >= len(keys)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_wiped_directory_of_hundred_thousand_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar: one cycle of thirty seconds."""
    with Cluster.form(tmp_path / "cluster", 3, options=("--exchange-interval-ms", "30000")) as cluster:
        with Load(cluster.nodes, b"wiped", depth=64) as load:
            load.wait_for(100_000, 300)
        keys = load.acknowledged()
        victim = cluster[2]
        victim.kill()
        victim.wipe()
        victim.start()
        returned_s = time.monotonic()
        # A cycle begins within 37.5 s, as it is jittered, and then takes its time.
        wait_until(lambda: victim.document("GET", "/v1/status")["keys"] >= len(keys), 60, "all keys are back")
        took_s = time.monotonic() - returned_s
        wait_until(lambda: cluster.difference(sample(keys, 1000)) == "", 30, "the replicas are equal")
        assert_nothing_to_repair(cluster)
        different, count = differing_on_disk(cluster)
        assert not different
        with capsys.disabled():
            print(f"\n{count} keys are back {took_s:.1f} s after the start of the empty node")


def five(tmp_path: Path) -> Cluster:
    """Five nodes: n1, n3 and n5 in the east, n2 and n4 in the west."""
    return Cluster.form(tmp_path / "cluster", 5, zones=("east", "west"), options=NO_EXCHANGE)


def zone_dies_under_load(
    cluster: Cluster,
    zone: str,
    count: int,
    *,
    depth: int,
    rate: float = 0.0,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Every node of a zone is killed while the others are written to, and comes back."""
    lost = [node for node in cluster.nodes if node.zone == zone]
    left = [node for node in cluster.nodes if node.zone != zone]
    with Load(left, zone.encode(), connections=2, depth=depth, rate=rate) as load:
        load.wait_for(300)
        for node in lost:
            node.kill()
        dead_s = time.monotonic()
        load.wait_for(count, 300)
        sloppy = sum(node.metric("sadik_sloppy_writes_total") for node in left)
    assert_only_in_flight(load.failed(), until_s=dead_s, depth=len(left) * 2 * depth)
    assert sloppy > 0
    keys = load.acknowledged()
    for node in left:
        # What stand-ins took is there to be read as well.
        assert missing(node, sample(keys, 1000)) == []
    cluster.start()
    returned_s = time.monotonic()
    certain = [one.key for one in load.requests if one.done and one.began_s > dead_s]
    wait_equal(cluster, sample(certain, 300))
    took_s = time.monotonic() - returned_s
    cluster.wait_ready()
    mended = repair_all(cluster)
    # What was in flight when the zone died may differ, at each pair of replicas.
    assert mended <= 2 * len(left) * 2 * depth
    report(
        f"zone {zone}: {len(keys)} acknowledged, {len(load.failed())} failed in flight, {sloppy:.0f} sloppy; "
        f"equal {took_s:.1f} s after the return; {mended} repairs of what was in flight"
    )
    for node in cluster.nodes:
        assert missing(node, sample(keys, 2000)) == []


@pytest.mark.timeout(180)
def test_zone_that_dies_stops_no_write_and_is_repaired(tmp_path: Path) -> None:
    """Replicas span both zones, so each key outlives three of five nodes, and stand-ins make up the W."""
    with five(tmp_path) as cluster:
        zone_of = {node.name: node.zone for node in cluster.nodes}
        for partition, owners in enumerate(cluster.assignment()):
            assert {zone_of[owner] for owner in owners} == {"east", "west"}, f"{partition}: {owners}"
        zone_dies_under_load(cluster, "east", 2000, depth=4, rate=RATE)


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zone", ["east", "west"])
def test_zone_that_dies_for_long(tmp_path: Path, zone: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with more keys, and for either zone."""

    def report(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    with five(tmp_path) as cluster:
        zone_dies_under_load(cluster, zone, 50_000, depth=32, report=report)
