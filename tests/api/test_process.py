"""A process that cannot start gives everything back before it says so."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from sadik.api import process
from sadik.config import HttpConfig, LogConfig, NodeConfig, RespConfig
from sadik.errors import DirectoryLocked
from sadik.settings import Address


def configuration(directory: str, http_port: int = 0) -> NodeConfig:
    return NodeConfig(
        data_directory=directory,
        resp=RespConfig(listen=Address("127.0.0.1", 0)),
        http=HttpConfig(listen=Address("127.0.0.1", http_port)),
        log=LogConfig(level="error"),
    )


def workers() -> int:
    return sum(thread.name == "sadik-sync" for thread in threading.enumerate())


def test_start_that_fails_leaves_no_thread_and_no_lock(tmp_path) -> None:
    """Cause: the thread for syncs is there before the node, and a node that could not be opened left it
    behind. Cure: what was begun is ended in reverse, from the first step on.
    """
    before = workers()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = configuration(str(tmp_path / "data"), taken.getsockname()[1])
        # Twice: the first start has given the directory back.
        for _ in range(2):
            with pytest.raises(OSError, match="in use"):
                asyncio.run(process.serve(config))
            assert workers() == before


def test_directory_in_use_leaves_no_thread(tmp_path, monkeypatch) -> None:
    """The same where the very first step fails."""
    before = workers()

    def locked(*_: object, **__: object) -> None:
        raise DirectoryLocked("in use by another process")

    monkeypatch.setattr(process.Node, "open", locked)
    with pytest.raises(DirectoryLocked):
        asyncio.run(process.serve(configuration(str(tmp_path / "data"))))
    assert workers() == before
