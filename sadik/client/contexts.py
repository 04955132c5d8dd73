"""What a session has seen of each key: the context to hand back, and whether a later read shows no less.

A context names, for each actor, the stamp up to which all its events are known. A read shows no less than an
earlier one exactly when its context reaches as far for every actor. Programs need not know: to them a context
is opaque, and of this form only one version is looked into. A context of a form unknown here proves nothing,
and is taken as it is.

Two cases where a context reaches less far and yet nothing is missing. A node that is alone in its cluster
forgets entries of its former runs at once, as nobody else can hold what they cover: there a session does not
compare (and need not: there is one replica). And a key with more actors than a context has room for keeps
the newest: then an entry that is missing, and older than all that are there, is not counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from sadik.causality import context as format_
from sadik.errors import InvalidContext

Seen = Mapping[int, int]
"""Stamp by actor; never changed once made."""

NOTHING: Final[Seen] = {}


class _Known(NamedTuple):
    context: bytes
    seen: Seen


class Contexts:
    """One session's memory of at most ``keys_max`` keys; the one not used for the longest goes first."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def context(self, key: bytes) -> bytes:
        """What a write of ``key`` hands back: the context of the last answer; ``b""`` before any."""
        known = self._known.get(key)
        if known is None:
            return b""
        self._known.move_to_end(key)
        return known.context

    def seen(self, key: bytes) -> Seen:
        """What a read of ``key`` that starts now must not fall short of."""
        known = self._known.get(key)
        return NOTHING if known is None else known.seen

    def on_read(self, key: bytes, context: bytes) -> None:
        """A read has shown ``context``. One that shows less than is known by now changes nothing."""
        if covers(context, self.seen(key)):
            self._keep(key, context, seen_by(context))

    def on_write(self, key: bytes, context: bytes | None) -> None:
        """A write has answered. None says nothing: siblings remain that nobody here has seen."""
        if context is None:
            return
        seen = dict(self.seen(key))
        for actor, stamp in seen_by(context).items():
            seen[actor] = max(seen.get(actor, 0), stamp)
        newest = sorted(seen.items(), key=lambda entry: entry[1])[-format_.ENTRIES_MAX :]
        self._keep(key, context, dict(newest))

    def replace(self, key: bytes, context: bytes) -> None:
        """Take ``context`` as all there is, whatever was seen before."""
        self._keep(key, context, seen_by(context))

    def forget(self, key: bytes | None = None) -> None:
        """Nothing was seen of ``key``, or of any key."""
        if key is None:
            self._known.clear()
        else:
            self._known.pop(key, None)

    def _keep(self, key: bytes, context: bytes, seen: Seen) -> None:
        self._known[key] = _Known(context, seen)
        self._known.move_to_end(key)
        if len(self._known) > self._keys_max:
            self._known.popitem(last=False)


def covers(context: bytes, seen: Seen) -> bool:
    """Whether what ``context`` stands for includes all of ``seen``."""
    if not seen:
        return True
    known = _entries(context)
    if known is None:
        return True
    # A full context may have left out the oldest.
    floor = min(known.values()) if len(known) >= format_.ENTRIES_MAX else 0
    return all(
        known.get(actor, 0) >= stamp or (actor not in known and stamp < floor)
        for actor, stamp in seen.items()
    )


def seen_by(context: bytes) -> Seen:
    """What a context stands for, as far as this client understands it."""
    return _entries(context) or NOTHING


def _entries(context: bytes) -> Seen | None:
    """Stamp by actor; None for a form that is not known here.

    The check of damage needs the cluster's id: nodes make it.
    """
    if not context:
        return NOTHING
    try:
        raw = format_.from_text(context)
    except InvalidContext:
        return None
    if len(raw) < format_.HEADER_BYTES + format_.MAC_BYTES or raw[0] != format_.VERSION:
        return None
    flags = raw[1]
    first = format_.HEADER_BYTES + (format_.HINT_BYTES if flags & format_.FLAG_HINT else 0)
    body = raw[first : -format_.MAC_BYTES]
    if flags & ~format_.FLAG_HINT or len(body) % format_.ENTRY.size:
        return None
    return dict(format_.ENTRY.iter_unpack(body))
