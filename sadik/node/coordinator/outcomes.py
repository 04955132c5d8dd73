"""What a coordinator answers: values, contexts, and how a request came about."""

from __future__ import annotations

from typing import NamedTuple

from sadik.kernels import versions


class ReadOutcome(NamedTuple):
    """Live siblings, newest first, and the context a following write hands back.

    ``context`` is text-safe bytes; ``b""`` only when nothing at all is known of the key. A deleted key has
    no siblings but a context.
    """

    siblings: list[versions.Value]
    context: bytes


class WriteOutcome(NamedTuple):
    """The context of what was written; None where siblings remain that the client has not seen."""

    context: bytes | None


class KeyPage(NamedTuple):
    """A page of a bucket's keys in digest order; ``cursor`` is 0 at the end (and to start)."""

    keys: list[bytes]
    cursor: int


class ReplicaView(NamedTuple):
    """What one replica says of a key, for explain."""

    node: str
    role: str
    """``primary`` or ``fallback``."""
    up: bool
    state: str
    """``stored``, ``absent`` or ``error``."""
    entries: list[tuple[int, int]]
    siblings: int
    bytes: int


class Explanation(NamedTuple):
    """Where a key lives and who has which version."""

    bucket: bytes
    key: bytes
    digest: str
    token: int
    partition: int
    n: int
    r: int
    w: int
    replicas: list[ReplicaView]
