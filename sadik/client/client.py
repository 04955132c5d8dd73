"""The client: a session, and the connections that it and further sessions share."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from sadik.client.cluster import Cluster, Statistics
from sadik.client.connection import Greeting
from sadik.client.limits import Limits
from sadik.client.session import Session
from sadik.env.entropy import Entropy, SystemEntropy
from sadik.errors import InvalidRequest
from sadik.settings import Address

_BUCKET_BYTES_MAX: Final = 255


class Client(Session):
    """A cluster, to read and write one of its buckets; itself a session.

        async with Client(["127.0.0.1:7379"]) as client:
            await client.put("greeting", b"hello")

    Args:
        addresses: ``HOST:PORT`` of the Redis protocol of some nodes; the others are found through them.
        bucket: 1 to 255 bytes; text stands for its UTF-8. The Redis database ``n`` is bucket ``n``.
        secret: What the nodes want from their clients.
        monotonic: Whether a read that shows less than its session has seen before is an error (StaleRead).
        entropy: Where chance comes from: which node to ask for the layout, how long to wait.
    Raises:
        InvalidRequest: No address, or a malformed one.
    """

    def __init__(
        self,
        addresses: Iterable[str | Address],
        *,
        bucket: bytes | str = b"0",
        secret: bytes | str | None = None,
        monotonic: bool = True,
        limits: Limits | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        if isinstance(addresses, str):
            raise InvalidRequest("addresses are a list, even of one")
        seeds = [one if isinstance(one, Address) else Address.parse(one) for one in addresses]
        if not seeds:
            raise InvalidRequest("at least one address of a node is needed")
        name = bucket.encode() if isinstance(bucket, str) else bucket
        if not 1 <= len(name) <= _BUCKET_BYTES_MAX:
            raise InvalidRequest(f"a bucket has 1 to {_BUCKET_BYTES_MAX} bytes, not {len(name)}")
        greeting = Greeting(name, secret.encode() if isinstance(secret, str) else secret)
        cluster = Cluster(seeds, greeting, limits or Limits(), entropy or SystemEntropy())
        super().__init__(cluster, name, monotonic=monotonic)

    async def open(self) -> Self:
        """Find the cluster; what ``async with`` does at its begin.

        Raises:
            Unavailable: No node answers.
            InvalidRequest: The secret or the bucket is refused.
        """
        await self._cluster.open()
        return self

    async def close(self) -> None:
        """End all connections; what ``async with`` does at its end. Calls under way are ``Unavailable``."""
        await self._cluster.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def session(self, *, monotonic: bool | None = None) -> Session:
        """Another session on the same connections, which has seen nothing yet. It ends with the client."""
        asked = self._monotonic if monotonic is None else monotonic
        return Session(self._cluster, self._bucket, monotonic=asked)

    def statistics(self) -> Statistics:
        return self._cluster.statistics()
