"""Where replicas differ: the bytes in which they say so (READS and its reply), and what each lacks (Dynamo
5).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sadik.errors import ProtocolError
from sadik.ids import NodeId
from sadik.kernels import replica, versions
from sadik.metrics.instruments import CounterChild
from sadik.node.coordinator.under_way import Flight
from sadik.node.items import Item

READS_HEADER = struct.Struct("<II")
"""Of READS: how many, and zero; digests and fingerprints follow."""


def encode_differences(compared: replica.Compared) -> bytes:
    """The reply to READS: ``b""`` when all is the same, else statuses (u8), lengths (u32) and sets."""
    status = compared.status
    if status.count(replica.SAME) == len(status):
        return b""
    lengths = np.diff(np.frombuffer(compared.set_offsets, np.int64)).astype("<u4")
    return bytes(status) + lengths.tobytes() + compared.sets


def decode_differences(payload: bytes, count: int) -> tuple[npt.NDArray[np.uint8], list[bytes]]:
    """Statuses, to be changed at will, and sets.

    Raises:
        ProtocolError: It does not answer ``count`` reads.
    """
    if len(payload) < 5 * count:
        raise ProtocolError("an answer to reads is too short")
    status = np.frombuffer(payload, np.uint8, count).copy()
    stops = 5 * count + np.cumsum(np.frombuffer(payload, "<u4", count, count).astype(np.int64))
    if int(status.max(initial=0)) > replica.UNREADABLE or (count and int(stops[-1]) != len(payload)):
        raise ProtocolError("an answer to reads does not fit its lengths")
    sets, start = [], 5 * count
    for stop in stops.tolist():
        sets.append(payload[start:stop])
        start = stop
    return status, sets


def find_stale(
    flight: Flight, repaired: Mapping[str, CounterChild]
) -> tuple[list[Item], dict[NodeId, list[Item]]]:
    """What this node, and each other replica that answered, lacks of what all of them together know.

    Args:
        repaired: Counts what is found, by what is wrong.
    """
    stale: dict[NodeId, list[Item]] = {}
    own: list[Item] = []
    touched = sorted({index for theirs in flight.theirs.values() for index in theirs})
    # A node may be asked twice, as a primary of some keys and in another's place for the rest.
    primaries = [(node, set(sent.operations().tolist())) for node, sent in flight.read_from if sent.primary]
    for index in touched:
        digest = flight.digest(index)
        base = flight.known(index)
        merged = flight.merged.get(index, base)
        if not merged:
            continue
        item = (digest, flight.name(index), merged)
        wanted = versions.fingerprint(digest, merged)
        mine = flight.own is None or flight.own[index]
        # A copy here that is no replica's would never hear of what comes later.
        if mine and versions.fingerprint(digest, base) != wanted:
            own.append(item)
        for node, asked in primaries:
            if index not in asked:
                continue
            theirs = flight.theirs.get(node, {}).get(index, base)
            if theirs is None:
                repaired["unreadable"].value += 1
            elif versions.fingerprint(digest, theirs) == wanted:
                continue
            else:
                repaired["stale" if theirs else "missing"].value += 1
            stale.setdefault(node, []).append(item)
    repaired["own"].value += len(own)
    return own, stale
