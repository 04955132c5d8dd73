"""The waiting face: the same calls, from any thread."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sadik.client import Client, Limits, Session, SyncClient, SyncSession
from sadik.errors import InvalidRequest, Unavailable
from tests.client.fake_nodes import SILENCE, FakeNode, bulk, context_of, until, values

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def running(node: FakeNode) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """The node in a loop of its own, and a way to call things there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(holds: Callable[[], bool]) -> None:
        asyncio.run_coroutine_threadsafe(until(holds), loop).result(20)

    asyncio.run_coroutine_threadsafe(node.start(), loop).result(20)
    try:
        yield wait_for
    finally:
        asyncio.run_coroutine_threadsafe(node.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def script(command: list[bytes]) -> bytes:
    key = command[1]
    context = context_of(key, (1, 5))
    return values(context, b"value of " + key) if command[0] == b"SADIK.GET" else bulk(context)


def test_both_faces_have_the_same_calls():
    """Names, parameters and defaults: who knows one knows the other."""
    for waiting, plain in ((SyncSession, Session), (SyncClient, Client)):
        for name, method in inspect.getmembers(plain, inspect.isfunction):
            if not name.startswith("_"):
                own = inspect.signature(getattr(waiting, name)).parameters
                assert list(own.values()) == list(inspect.signature(method).parameters.values()), name
    assert set(inspect.signature(Client).parameters) - set(inspect.signature(SyncClient).parameters) == {
        "entropy"
    }


def test_calls_wait_for_their_answers():
    """Each of them once, through a session of its own too."""
    node = FakeNode(script)
    with running(node), SyncClient([node.address]) as client:
        context = context_of(b"key", (1, 5))
        assert client.get("key").value == b"value of key"
        assert client.put("key", b"x") == context
        assert client.delete("key") == context
        assert client.get_many(["a", "b"])["b"].value == b"value of b"
        assert client.put_many({"a": b"1"}) == {"a": context_of(b"a", (1, 5))}
        client.forget("key")
        assert client.session().put("key", b"x") == context
        assert [command[2] for command in node.commands if command[0] != b"SADIK.GET"] == [
            context,
            context,
            context_of(b"a", (1, 5)),
            b"",
        ]
        assert client.statistics().requests == 7


def test_threads_share_a_client():
    """Their calls run side by side."""
    node = FakeNode(script)
    with running(node), SyncClient([node.address]) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: client.session().get(f"k{number}").value, range(200)))
        assert found == [b"value of k%d" % number for number in range(200)]


def test_closing_ends_the_calls_of_other_threads():
    """They are unavailable, and the thread of the loop is gone."""
    node = FakeNode(lambda _: SILENCE)
    with running(node) as wait_for, ThreadPoolExecutor(1) as threads:
        client = SyncClient([node.address]).open()
        waiting = threads.submit(client.put, "key", b"x")
        wait_for(lambda: bool(node.commands))
        client.close()
        with pytest.raises(Unavailable, match="may have been applied"):
            waiting.result(20)
        assert "sadik-client" not in [thread.name for thread in threading.enumerate()]
        with pytest.raises(InvalidRequest, match="not open"):
            client.get("key")
        client.close()


def test_client_opens_once_and_may_open_again():
    """A second opening while it is open would lose the first one's thread."""
    node = FakeNode(script)
    with running(node):
        client = SyncClient([node.address])
        with pytest.raises(InvalidRequest, match="not open"):
            client.get("key")
        for _ in range(2):
            with client:
                assert client.get("key").value
                with pytest.raises(InvalidRequest, match="open already"):
                    client.open()


def test_failed_opening_leaves_no_thread():
    """Nobody would end it."""
    node = FakeNode(script)
    with running(node):
        pass
    with pytest.raises(Unavailable):
        SyncClient([node.address], limits=Limits(timeout_ms=50)).open()
    assert "sadik-client" not in [thread.name for thread in threading.enumerate()]


def test_client_pulls_in_no_server():
    """It is a library of its own."""
    code = "from sadik.client import Client, SyncClient\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(result.stdout.split())
    servers = {
        f"sadik.{name}" for name in ("comms", "storage", "members", "metrics", "node", "api", "sim", "cli")
    }
    assert not loaded & (servers | {"aiohttp", "uvloop", "prometheus_client", "click", "rich"})
