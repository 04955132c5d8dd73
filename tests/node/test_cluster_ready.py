"""When a node serves, and what it says while it cannot."""

from __future__ import annotations

from tests.node.cluster import Cluster, cluster, run


async def lose(nodes: Cluster, *names: str) -> None:
    for name in names:
        nodes.crash(name)
    core = nodes.node("n1").core
    await nodes.wait_until(lambda: sum(core.view.up) == 1, "they are missed")


def test_a_node_that_could_serve_is_not_starting_any_more() -> None:
    """Cause: whether the node was ever ready was asked at each server's first request. One that came after
    the loss of a majority was told that the node is starting, and never what was required and received.
    """

    async def story() -> None:
        async with cluster(3) as nodes:
            coordinator = nodes.node("n1").coordinator
            await lose(nodes, "n2", "n3")
            assert not coordinator.ready()
            assert coordinator.was_ready()
            reply = await nodes.connect("n1").call(b"GET", b"key")
            assert reply.startswith(b"-UNAVAILABLE 1 of 2 replicas can be reached")

    run(story())


def test_a_node_that_never_could_is_starting() -> None:
    """A restart without the others: clients wait and ask again by themselves."""

    async def story() -> None:
        async with cluster(3, engine="log") as nodes:
            disk = nodes.crash("n1")
            nodes.crash("n2")
            nodes.crash("n3")
            node = await nodes.restart("n1", files=disk, agreed=False)
            assert not node.coordinator.was_ready()
            await nodes.restart("n2", agreed=False)
            await nodes.wait_until(node.coordinator.ready, "a majority is back")
            assert node.coordinator.was_ready()

    run(story())
