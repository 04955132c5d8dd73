"""What the RESP face asks of a node: the coordinator as it is called from here, and nothing more.

Nothing here waits on its own. What takes other nodes ends in a call of ``done``: before the method returns
where this node alone decides, in a later turn of the event loop otherwise. What is rare is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from sadik.api.resp.call import Store
from sadik.errors import SadikError
from sadik.ids import NodeId
from sadik.kernels import resp
from sadik.node.buckets import Bucket
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Answers
from sadik.node.operations import Span
from sadik.node.records import Record

Address = tuple[bytes, bytes]
"""Bucket and key."""
RunCommand = Callable[[bytes, int, list[bytes]], Awaitable[bytes]]
"""(bucket, protocol, arguments) of a command that another node has forwarded -> its encoded reply."""


class Coordinator(Store, Protocol):
    """Attributes:
    run_command: Set by the RESP server; runs what other nodes forward.
    """

    run_command: RunCommand

    @property
    def has_others(self) -> bool:
        """Batches go to other nodes too, so a few large ones cost less than many small ones."""
        ...

    def bucket(self, name: bytes) -> Bucket:
        """The bucket as the data path uses it; nothing is recorded."""
        ...

    def bucket_for_write(self, name: bytes) -> Bucket:
        """The same, recorded before its first data. Raises StorageError."""
        ...

    def submit(
        self,
        batch: resp.Batch,
        stops: Sequence[int],
        spans: Sequence[Span],
        options: Options | None = None,
        *,
        done: Callable[[Answers, Sequence[int]], None],
    ) -> int:
        """Run plain operations; returns how many were taken, from the first on and at least one.

        ``batch`` and its arrays belong to the caller again once this returns. A GET that would show what a
        refused SET of the same batch wrote has neither status OK nor NOTHING: it is tried once more.

        Args:
            stops: Run k is operations ``stops[k - 1]`` <= i < ``stops[k]``: what one connection sent.
            done: Called with answers and the numbers of runs that are decided, every run that was taken, if
                only in part, exactly once. ``len(answers.status)`` is the number of operations taken.
        """
        ...

    def read_records(
        self,
        addresses: Sequence[Address],
        options: Options,
        done: Callable[[dict[Address, Record] | SadikError], None],
        *,
        quorum: bool = True,
    ) -> None:
        """Read keys; what ``done`` does with the records until it calls ``commit`` is not interleaved with
        anything else.

        Args:
            quorum: False reads here alone, for writes that do not look at the old value.
        """
        ...

    def check_limits(self, record: Record) -> None:
        """Raise ``LimitReached`` when a changed record has more bytes, or more siblings, than a client may
        leave.
        """
        ...

    def commit(
        self, records: Sequence[Record], options: Options, done: Callable[[SadikError | None], None]
    ) -> None:
        """Store the records that changed; ``done`` is called once they are acknowledged, or with why not."""
        ...

    def route(self, bucket: bytes, key: bytes) -> NodeId | None:
        """The node that coordinates writes to a key, None for this one."""
        ...

    async def forward_command(
        self,
        node: NodeId,
        bucket: bytes,
        protocol: int,
        arguments: list[bytes],
        timeout_ms: int,
    ) -> bytes:
        """Let another node run a command; its encoded reply. Raises Unavailable."""
        ...

    def keys_here(self, bucket: bytes) -> int:
        """Keys of a bucket that this node stores."""
        ...

    def expiring(self, bucket: bytes) -> int:
        """Those of them with a time to live, as last counted."""
        ...

    def status(self) -> Mapping[str, object]:
        """One node's state for people and programs."""
        ...

    def ready(self) -> bool:
        """Default quorums can be met."""
        ...

    def was_ready(self) -> bool:
        """They can, or could before."""
        ...
