"""Plain reads and replacements of one batch, in arrays: what the data path carries from a client to the
engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sadik.kernels import digest, packets, resp
from sadik.node.buckets import Bucket

DIGEST_BYTES = 16


class Span(NamedTuple):
    """Operations ``first`` <= i < ``stop`` of a batch that share a bucket."""

    first: int
    stop: int
    bucket: Bucket


@dataclass(slots=True)
class Operations:
    """``count`` operations; arrays may be longer.

    Attributes:
        kinds: uint8 each: ``resp.GET`` or ``resp.SET``.
        data: Names and payloads lie in it, within its first ``used`` bytes.
        name_starts, name_lengths, payload_starts, payload_lengths, ttl_ms: int64 each; a ttl of -1 is none.
        digests: 16 bytes each.
        spans: In order, without gaps.
    """

    count: int
    kinds: bytes | bytearray
    data: bytes | bytearray
    used: int
    name_starts: bytes | bytearray
    name_lengths: bytes | bytearray
    payload_starts: bytes | bytearray
    payload_lengths: bytes | bytearray
    ttl_ms: bytes | bytearray
    digests: bytes | bytearray
    spans: Sequence[Span]

    def pick(self, chosen: npt.NDArray[np.intp]) -> Operations:
        """Some of the operations, in order; names and payloads stay where they are."""
        stops = np.searchsorted(chosen, [span.stop for span in self.spans])
        spans, first = [], 0
        for span, stop in zip(self.spans, stops.tolist(), strict=True):
            if stop > first:
                spans.append(Span(first, stop, span.bucket))
            first = stop
        return Operations(
            len(chosen),
            np.frombuffer(self.kinds, np.uint8)[chosen].tobytes(),
            self.data,
            self.used,
            np.frombuffer(self.name_starts, np.int64)[chosen].tobytes(),
            np.frombuffer(self.name_lengths, np.int64)[chosen].tobytes(),
            np.frombuffer(self.payload_starts, np.int64)[chosen].tobytes(),
            np.frombuffer(self.payload_lengths, np.int64)[chosen].tobytes(),
            np.frombuffer(self.ttl_ms, np.int64)[chosen].tobytes(),
            np.frombuffer(self.digests, np.uint8, DIGEST_BYTES * self.count)
            .reshape(-1, DIGEST_BYTES)[chosen]
            .tobytes(),
            spans,
        )


def named_spans(spans: Sequence[Span]) -> list[tuple[bytes, int]]:
    """(bucket, operations) of each span, as packets list them."""
    return [(bucket.name, stop - first) for first, stop, bucket in spans]


def of_batch(batch: resp.Batch, spans: Sequence[Span]) -> Operations:
    """The operations of a turn, hashed; its arrays are used where they are."""
    count = batch.count
    digests = bytearray(DIGEST_BYTES * count)
    digest.digest_many(count, batch.data, batch.name_starts, batch.name_lengths, digests)
    return Operations(
        count,
        batch.kinds,
        batch.data,
        batch.used,
        batch.name_starts,
        batch.name_lengths,
        batch.payload_starts,
        batch.payload_lengths,
        batch.ttl_ms,
        digests,
        spans,
    )


def of_packet(packet: packets.Operations, spans: Sequence[Span]) -> Operations:
    """Operations that another node has forwarded."""
    return Operations(
        packet.total,
        packet.kinds,
        packet.data,
        len(packet.data),
        packet.name_starts,
        packet.name_lengths,
        packet.payload_starts,
        packet.payload_lengths,
        packet.ttl_ms,
        packet.digests,
        spans,
    )
