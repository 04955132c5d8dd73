"""What a session promises, on three real nodes with quorums that promise nothing (R = W = 1)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from sadik.client import Client, Session
from sadik.errors import Unavailable
from tests.system.cluster_harness import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Each test has a bucket of its own, and leaves the nodes as it found them."""
    with Cluster.form(tmp_path_factory.mktemp("sessions"), 3) as cluster:
        yield cluster


def addresses(cluster: Cluster) -> list[str]:
    return [f"127.0.0.1:{node.resp_port}" for node in cluster.nodes]


def test_session_reads_its_writes_where_quorums_do_not(cluster):
    """Each read is asked of any primary, at once after the write, while a node comes and goes."""

    async def write_and_read(session: Session, key: str, over: asyncio.Event) -> int:
        shown = number = 0
        while not over.is_set():
            number += 1
            value = b"%d" % number
            try:
                if await session.put(key, value, w=1, timeout_ms=2000) is None:
                    # A write of unknown outcome has left a sibling: reading it settles that.
                    await session.get(key, r=1, timeout_ms=2000)
                    continue
                reply = await session.get(key, r=1, timeout_ms=2000)
            except Unavailable:
                # Unknown, or not to be had now: honest. Less than before, without a word, would not be.
                continue
            assert value in reply.values
            shown += 1
        return shown

    async def story() -> None:
        async with Client(addresses(cluster), bucket="weak") as client:
            over = asyncio.Event()
            work = [
                asyncio.create_task(write_and_read(client.session(), f"k{number}", over))
                for number in range(10)
            ]
            await asyncio.to_thread(cluster[1].kill)
            await asyncio.to_thread(cluster[1].start)
            over.set()
            shown = await asyncio.gather(*work)
            # Where replicas lag behind for a moment, some reads are repeated: a few in a hundred here.
            assert min(shown) > 10, client.statistics()

    asyncio.run(story())


def test_stopped_node_holds_up_nobody_but_what_it_was_sent(cluster):
    """SIGSTOP: reads go elsewhere after one time-out; later writes do not wait for it."""

    async def story() -> None:
        async with Client(addresses(cluster), bucket="stopped") as client:
            keys = [f"k{number}" for number in range(100)]
            await client.put_many(dict.fromkeys(keys, b"before"))
            cluster[1].pause()
            try:
                found = await client.get_many(keys)
                assert {reply.value for reply in found.values()} == {b"before"}
                # By now the client knows; whether the others do is their matter.
                await client.put_many(dict.fromkeys(keys, b"meanwhile"))
                found = await client.get_many(keys)
                assert {reply.value for reply in found.values()} == {b"meanwhile"}
                assert client.statistics().unknown == 0
            finally:
                cluster[1].resume()

    asyncio.run(story())
