"""What the HTTP face asks of a node: the coordinator as it is called from here, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sadik.node.buckets import BucketProperties
    from sadik.node.coordinator.options import Options
    from sadik.node.coordinator.outcomes import Explanation, KeyPage, ReadOutcome, WriteOutcome


class Coordinator(Protocol):
    """Every method raises the errors of ``sadik.errors``; ``problems.py`` says which status each becomes."""

    async def read(self, bucket: bytes, key: bytes, options: Options) -> ReadOutcome: ...

    async def write(
        self,
        bucket: bytes,
        key: bytes,
        payload: bytes,
        *,
        context: bytes | None,
        metadata: bytes,
        options: Options,
    ) -> WriteOutcome:
        """Store a value that replaces what ``context`` saw; None or ``b""`` covers nothing, so it becomes a
        sibling.
        """
        ...

    async def delete(
        self, bucket: bytes, key: bytes, *, context: bytes | None, options: Options
    ) -> WriteOutcome: ...

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage: ...

    def properties(self, bucket: bytes) -> BucketProperties: ...

    async def set_properties(self, bucket: bytes, properties: BucketProperties) -> None: ...

    def buckets(self) -> list[bytes]: ...

    async def explain(self, bucket: bytes, key: bytes) -> Explanation: ...

    def status(self) -> dict[str, object]:
        """Facts of this node: JSON values, possibly nested."""
        ...

    def ready(self) -> bool:
        """Default quorums can be met."""
        ...

    def was_ready(self) -> bool:
        """They can, or could before."""
        ...
