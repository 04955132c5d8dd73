"""What everything above the network sees of it: bring this frame to that node, and who can be reached.

A transport may delay frames, and lose them when a link breaks; within one link and lane they arrive whole,
once and in order. It retries nothing: request ids, deadlines and retries live above. Two transports pass the
same tests: ``tcp.py`` and ``memory.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from sadik.ids import NodeId
from sadik.kernels import frames
from sadik.settings import Address

Frame: TypeAlias = frames.Frame
"""One received frame; ``payload`` is the receiver's to keep."""


class Identity(NamedTuple):
    """What a node says of itself in a handshake.

    Attributes:
        cluster: The cluster's name. cluster_id: Its id, 32 hex digits; empty for a node that is not born yet.
        actor: This run of the node. directory: Its data directory, a random uint64 drawn when that was born.
    """

    cluster: str
    cluster_id: str
    node: NodeId
    actor: int
    directory: int


class Receiver(Protocol):
    """Who hears of frames and links; called on the event loop, never from within ``send``."""

    def on_frames(self, peer: NodeId, lane: int, frames: Sequence[Frame]) -> None:
        """Frames that one read of a link's socket has completed, in order."""
        ...

    def on_link_up(self, peer: Identity) -> None:
        """The data lane to a node can be used."""
        ...

    def on_link_down(self, peer: NodeId, reason: str) -> None:
        """It cannot any more; frames sent before may or may not have arrived."""
        ...

    def on_bulk_down(self, peer: NodeId, reason: str) -> None:
        """The same of the bulk lane, while the data lane may be up. Nobody is told when it comes up."""
        ...

    def admit(self, peer: Identity) -> str:
        """Asked in a handshake, after cluster and secret agree: why this node is not let in, or ``""``."""
        ...


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """One lane to one node. Bytes and counts since the start of the process; ``round_trip_ns`` is smoothed
    over handshakes and heartbeats, 0 before the first one.
    """

    node: NodeId
    lane: int
    up: bool
    queued_bytes: int
    frames_out: int
    frames_in: int
    bytes_out: int
    bytes_in: int
    round_trip_ns: int
    refused_full: int
    reconnects: int


@dataclass(frozen=True, slots=True)
class PortStatistics:
    """What has come to the listener since the start of the process.

    Attributes:
        accepted: Connections. welcomed: Those of them that became links.
        refused: Strangers that were told why not. broken: Streams that were not the protocol, links among
        them.
        timed_out: Strangers that took too long. displaced: Strangers that had to make room for newer ones.
    """

    accepted: int
    welcomed: int
    refused: int
    broken: int
    timed_out: int
    displaced: int


class Transport(Protocol):
    """Links to other nodes."""

    identity: Identity
    """Who this node is in handshakes."""

    def set_receiver(self, receiver: Receiver) -> None:
        """Who hears of everything; before ``start``."""
        ...

    async def start(self) -> Address:
        """Listen; returns the bound address. Raises OSError."""
        ...

    async def stop(self) -> None:
        """Listen and dial no more, and close every link once what is queued is sent, or does not get sent."""
        ...

    def connect(self, node: NodeId, address: Address) -> None:
        """Keep a link to this node from now on, with backoff and jitter; a new address replaces the old
        one."""
        ...

    def forget(self, node: NodeId) -> None:
        """Close the links to a node and dial it no more."""
        ...

    def introduce(self, address: Address) -> None:
        """Dial an address whose node is not known yet (a seed), until its node is linked; ``connect`` takes
        over."""
        ...

    def is_up(self, node: NodeId, lane: int = 0) -> bool: ...

    def send(self, node: NodeId, frame: bytes, lane: int = 0) -> bool:
        """Queue an encoded frame (``frames.encode``). False, and nothing queued, when the link is down or
        its queue is full; what is queued may still be lost with the link.
        """
        ...

    def hold(self) -> None:
        """What is sent from now on leaves together, once the caller calls ``flush``."""
        ...

    def flush(self) -> None:
        """Send what is held; within the same step of the event loop."""
        ...

    def queued_bytes(self, node: NodeId, lane: int) -> int:
        """What waits for the socket; bulk senders wait while it is above their window."""
        ...

    def statistics(self) -> list[LinkStatistics]:
        """Of every node and lane that was ever linked and is not forgotten, sorted by both."""
        ...

    def port_statistics(self) -> PortStatistics: ...
