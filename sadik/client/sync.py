"""The client for programs without an event loop: the same calls, which wait.

One thread, a daemon, runs the event loop of a ``SyncClient``. Any thread may call; the calls run side by side
in that loop. What was said of sessions holds for threads too: each takes its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from sadik.client.answers import Key, Reply
from sadik.client.client import Client
from sadik.client.cluster import Statistics
from sadik.client.limits import Limits
from sadik.client.session import Session
from sadik.errors import InvalidRequest
from sadik.settings import Address

_Result = TypeVar("_Result")


class SyncSession:
    """``Session``, waiting. Made by ``SyncClient``; calls raise what those of ``Session`` raise."""

    def __init__(self, session: Session, thread: _LoopThread) -> None:
        self._session = session
        self._thread = thread

    def get(
        self, key: Key, *, r: int | None = None, pr: int | None = None, timeout_ms: int | None = None
    ) -> Reply:
        return self._thread.run(self._session.get(key, r=r, pr=pr, timeout_ms=timeout_ms))

    def get_many(
        self,
        keys: Iterable[Key],
        *,
        r: int | None = None,
        pr: int | None = None,
        timeout_ms: int | None = None,
    ) -> dict[Key, Reply]:
        return self._thread.run(self._session.get_many(keys, r=r, pr=pr, timeout_ms=timeout_ms))

    def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        context: bytes | None = None,
        ttl_ms: int | None = None,
        w: int | None = None,
        pw: int | None = None,
        timeout_ms: int | None = None,
    ) -> bytes | None:
        return self._thread.run(
            self._session.put(key, value, context=context, ttl_ms=ttl_ms, w=w, pw=pw, timeout_ms=timeout_ms)
        )

    def put_many(
        self,
        values: Mapping[Key, bytes | str],
        *,
        contexts: Mapping[Key, bytes] | None = None,
        ttl_ms: int | None = None,
        w: int | None = None,
        pw: int | None = None,
        timeout_ms: int | None = None,
    ) -> dict[Key, bytes | None]:
        return self._thread.run(
            self._session.put_many(
                values, contexts=contexts, ttl_ms=ttl_ms, w=w, pw=pw, timeout_ms=timeout_ms
            )
        )

    def delete(
        self,
        key: Key,
        *,
        context: bytes | None = None,
        w: int | None = None,
        pw: int | None = None,
        timeout_ms: int | None = None,
    ) -> bytes | None:
        return self._thread.run(self._session.delete(key, context=context, w=w, pw=pw, timeout_ms=timeout_ms))

    def forget(self, key: Key | None = None) -> None:
        async def forget() -> None:
            self._session.forget(key)

        self._thread.run(forget())


class SyncClient(SyncSession):
    """``Client``, waiting.

        with SyncClient(["127.0.0.1:7379"]) as client:
            client.put("greeting", b"hello")

    Args and errors are those of ``Client``.
    """

    def __init__(
        self,
        addresses: Iterable[str | Address],
        *,
        bucket: bytes | str = b"0",
        secret: bytes | str | None = None,
        monotonic: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._client = Client(addresses, bucket=bucket, secret=secret, monotonic=monotonic, limits=limits)
        super().__init__(self._client, _LoopThread())

    def open(self) -> Self:
        """As ``Client.open``; a client that was closed may open again."""
        self._thread.start()
        try:
            self._thread.run(self._client.open())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def close(self) -> None:
        """Calls of other threads that are under way end with ``Unavailable``."""
        if self._thread.is_running:
            self._thread.run(self._client.close())
            self._thread.stop()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def session(self, *, monotonic: bool | None = None) -> SyncSession:
        return SyncSession(self._client.session(monotonic=monotonic), self._thread)

    def statistics(self) -> Statistics:
        async def statistics() -> Statistics:
            return self._client.statistics()

        return self._thread.run(statistics())


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held while work is handed over, so that none is handed to a loop that has ended."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        return self._loop is not None

    def start(self) -> None:
        if self._loop is not None:
            raise InvalidRequest("the client is open already")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sadik-client", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        # Calls of other threads have been answered, and may need a turn to say so.
        asyncio.run_coroutine_threadsafe(_settle(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of ``work``; when the waiting thread is interrupted, it is cancelled."""
        with self._lock:
            if self._loop is None:
                work.close()
                raise InvalidRequest("the client is not open; use `with`, or `open`")
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except BaseException:
            waiting.cancel()
            raise


async def _settle() -> None:
    """Let every other task of the loop end."""
    own = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not own]
    if others:
        await asyncio.wait(others)
