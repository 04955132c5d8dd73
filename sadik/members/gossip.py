"""Gossip: what every node should know is brought together pair by pair, push and pull in one exchange.

    asks      digests of all that is shared; what it knows the other to lack
    answers   digests after merging that; all of what still differs
    asks      only if needed: what the answer showed the other to lack

Each thing shared is a join-semilattice whose ``merge`` takes everything another node knows of it, so rounds
may be lost, repeated or overlap. Equal nodes exchange digests only, some 100 bytes. Here are the messages and
their meaning; whom to ask, and when, is ``service.py``.

Source: Dynamo 4.8.1; Demers et al., "Epidemic algorithms" (1987). Differs from Scuttlebutt: a thing that
differs is sent whole. Layout, members and buckets are small and change by an operator's hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from sadik.comms.messages import Packed, encode
from sadik.errors import ProtocolError, StorageError

EXPORT_BYTES_MAX: Final = 4 * 1024 * 1024
"""All exports of one message, unless a single one is larger: some ten thousand buckets, or every member."""


class Shared(Protocol):
    """Something that all nodes of the cluster come to agree on."""

    @property
    def name(self) -> str:
        """What it is called in messages; never changes."""
        ...

    def digest(self) -> bytes:
        """16 bytes, equal where everything known is equal. Asked often: keep it."""
        ...

    def export(self) -> bytes:
        """Everything known."""
        ...

    def merge(self, data: bytes) -> bool:
        """Join with another node's export; whether that changed anything.

        Raises:
            ProtocolError: Not such bytes; nothing is changed.
            StorageError: It cannot be kept; what was merged is.
        """
        ...


class GossipMessage(Packed, frozen=True):
    """Request and reply of GOSSIP.

    Attributes:
        digests: Of everything the sender shares, by name.
        exports: What the receiver seems to lack, by name.
    """

    digests: dict[str, bytes]
    exports: dict[str, bytes] = {}  # noqa: RUF012 - msgspec copies it


_DECODER: Final = msgspec.msgpack.Decoder(GossipMessage)


class Learned(NamedTuple):
    """What a message brought.

    Attributes:
        changed: Names of what is not as before.
        theirs: The sender's digests, by name.
        rejected: What could not be merged, and why.
    """

    changed: tuple[str, ...]
    theirs: Mapping[str, bytes]
    rejected: tuple[str, ...]


class Gossip:
    """Makes and takes messages; pure. Request and reply are alike, so both sides do the same.

    Args:
        shared: Sent and merged in this order: first what must not wait.
    """

    def __init__(self, shared: Sequence[Shared]) -> None:
        self._shared = tuple(shared)
        names = [item.name for item in self._shared]
        assert len(set(names)) == len(names), "each thing is shared once"

    def message(self, theirs: Mapping[str, bytes]) -> bytes:
        """A request or reply, and what differs from ``theirs``: the receiver's digests as last known.

        What does not fit beside the first export waits for the next message, so that something large, which
        may find no room on the way, never holds up the rest.
        """
        exports: dict[str, bytes] = {}
        room = EXPORT_BYTES_MAX
        for item in self._differing(theirs):
            data = item.export()
            if not exports or len(data) <= room:
                exports[item.name] = data
                room -= len(data)
        return encode(GossipMessage({item.name: item.digest() for item in self._shared}, exports))

    def learn(self, message: bytes) -> Learned:
        """Merge what another node sent.

        Raises:
            ProtocolError: Not a gossip message; nothing is changed.
        """
        try:
            decoded = _DECODER.decode(message)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"not a gossip message: {error}") from None
        changed, rejected = [], []
        for item in self._shared:
            if (data := decoded.exports.get(item.name)) is None:
                continue
            try:
                if item.merge(data):
                    changed.append(item.name)
            except (ProtocolError, StorageError) as error:
                # The others may be sound, and agreement on them must not hang on this one.
                rejected.append(f"{item.name}: {error}")
        return Learned(tuple(changed), decoded.digests, tuple(rejected))

    def agrees(self, theirs: Mapping[str, bytes]) -> bool:
        """Whether a node with these digests knows what this one knows."""
        return not self._differing(theirs)

    def _differing(self, theirs: Mapping[str, bytes]) -> list[Shared]:
        # What the other node does not name it does not share, or nothing is known of it: it asks.
        return [item for item in self._shared if theirs.get(item.name, item.digest()) != item.digest()]
