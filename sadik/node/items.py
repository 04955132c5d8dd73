"""Single keys on their way between nodes: an address with its digest, and the packet of a few version
sets."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from sadik.kernels import digest, packets
from sadik.node.buckets import Bucket

Item = tuple[bytes, bytes, bytes]
"""(digest, name, set) of one key."""


class Named(NamedTuple):
    """An address with its name and digest."""

    bucket: Bucket
    key: bytes
    name: bytes
    digest: bytes

    @classmethod
    def of(cls, bucket: Bucket, key: bytes) -> Named:
        """Raises ``InvalidRequest`` for a key that is not 1 to 65535 bytes."""
        name = digest.address_name(bucket.name, key)
        return cls(bucket, key, name, digest.digest(name))


def encode_items(items: Sequence[Item], reason: int, owner: bytes = b"") -> bytes:
    """A packet of (digest, name, set) of each; there is at least one, and no set is empty."""
    starts, lengths, offsets = [0], [], [0]
    spans: list[tuple[bytes, int]] = []
    for _, name, one in items:
        lengths.append(len(name))
        starts.append(starts[-1] + len(name))
        offsets.append(offsets[-1] + len(one))
        bucket = name[1 : 1 + name[0]]
        if spans and spans[-1][0] == bucket:
            spans[-1] = (bucket, spans[-1][1] + 1)
        else:
            spans.append((bucket, 1))
    packet, _ = packets.encode_sets(
        reason,
        owner,
        spans,
        len(items),
        b"".join(item[0] for item in items),
        b"".join(item[1] for item in items),
        array("q", starts),
        array("q", lengths),
        b"".join(item[2] for item in items),
        array("q", offsets),
    )
    return packet
