"""What a coordinator answers: values, contexts, and how a request came about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sadik.errors import SadikError
from sadik.kernels import versions

FAILED: Final = 5
"""Status of an operation of a batch, beside those of ``versions.apply_batch``: ``Answers.errors`` says
why."""


class Answers(NamedTuple):
    """Answers to plain operations, indexed as in their batch; valid while they are handed over.

    Attributes:
        kinds, status: uint8 each.
        values: Payloads read: ``values[value_start[i]:][:value_length[i]]``, int64 each.
        errors: Of operations with status FAILED.
        refused: False where every operation handed over has status OK or NOTHING.
    """

    kinds: bytes | bytearray
    status: bytearray
    values: bytes | bytearray
    value_start: bytearray
    value_length: bytearray
    errors: Mapping[int, SadikError]
    refused: bool


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
