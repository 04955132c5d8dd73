"""What is sent for hints: a parcel of version sets, bounded in bytes.

A hint that names a key only is delivered as this node's set of now: whatever the owner missed is in it, and
whatever came later too. Where the set cannot be read the hint stays; where nothing is stored any more,
nothing is owed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sadik.errors import CorruptRecord, LimitReached
from sadik.kernels import versions
from sadik.node.items import Item
from sadik.node.repair.hints import Hint

log = logging.getLogger("sadik.replay")

LocalSets = Callable[[Sequence[bytes], int], list[bytes | None]]
"""(digests, bytes_max) -> this node's sets, ``b""`` where nothing is stored, None where it cannot be read. It
may answer fewer than asked for, but not none: it ends with the one that brings them to ``bytes_max``.
"""


class Parcel(NamedTuple):
    """Some hints as they are sent.

    Attributes:
        hints, items: One item a hint.
        settled: Hints that nothing is left of to send.
        unreadable: Hints that cannot be sent now.
        rest: Hints for the next parcel.
    """

    hints: list[Hint]
    items: list[Item]
    settled: list[Hint]
    unreadable: list[Hint]
    rest: list[Hint]


def pack(hints: Sequence[Hint], local_sets: LocalSets, bytes_max: int) -> Parcel:
    """Make a parcel of the first hints, as many as ``bytes_max`` allows: at least one."""
    parcel = Parcel([], [], [], [], [])
    wanted = [hint.digest for hint in hints if hint.local]
    found = iter(local_sets(wanted, bytes_max) if wanted else ())
    size = 0
    for index, hint in enumerate(hints):
        one: bytes | None = b""
        if hint.local:
            try:
                one = next(found)
            except StopIteration:
                parcel.rest.extend(hints[index:])
                break
        if one is not None and hint.set is not None:
            one = _merged(one, hint.set)
        if one is None:
            parcel.unreadable.append(hint)
        elif not one:
            parcel.settled.append(hint)
        else:
            parcel.hints.append(hint)
            parcel.items.append((hint.digest, hint.name, one))
            size += len(one)
        if size >= bytes_max:
            parcel.rest.extend(hints[index + 1 :])
            break
    return parcel


def _merged(mine: bytes, kept: bytes) -> bytes | None:
    try:
        return versions.merge(mine, kept)
    except (CorruptRecord, LimitReached) as error:
        log.warning("a hint cannot be sent with what is stored here: %s", error)
        return None
