"""Agreement to a commit: a majority of the current layout's nodes says that it is the one they know.

Two commits of one version do no lasting harm, as all nodes come to the same of the two; but the work of one
administrator would vanish. So a node that agreed to one commit holds its vote for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from sadik.comms.messages import Packed
from sadik.env.clock import Clock
from sadik.errors import ProtocolError, QuorumMissed
from sadik.ids import NodeId
from sadik.members.layout import Layout, LayoutState, vote

VOTE_HOLD_MS: Final = 10_000
"""For so long a node that agreed to a commit agrees to no other node's of the same version."""


class VoteRequest(Packed, frozen=True):
    """VOTE: does the receiver agree that ``version`` be made out of the layout with digest ``base``?

    Attributes:
        layout: The sender's state of the layout, so that nobody says no for having heard too little.
    """

    version: int
    base: bytes
    layout: bytes


class VoteAnswer(Packed, frozen=True):
    """``reason``: why not, or empty for yes."""

    reason: str


class Voter:
    """One node's vote; pure."""

    def __init__(self, state: LayoutState, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._version = 0
        self._holder = NodeId("")
        self._until_ns = 0

    def vote(self, asker: NodeId, version: int, base: bytes) -> str:
        """Why this node does not agree, or ``""``."""
        if reason := vote(self._state, version, base):
            return reason
        now_ns = self._clock.monotonic_ns()
        if version == self._version and asker != self._holder and now_ns < self._until_ns:
            return f"node {self._holder} is about to commit version {version}"
        self._version, self._holder = version, asker
        self._until_ns = now_ns + VOTE_HOLD_MS * 1_000_000
        return ""


def decode_request(data: bytes) -> VoteRequest:
    """Raises ProtocolError."""
    try:
        return msgspec.msgpack.decode(data, type=VoteRequest)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a vote request: {error}") from None


def decode_answer(data: bytes) -> VoteAnswer:
    """Raises ProtocolError."""
    try:
        return msgspec.msgpack.decode(data, type=VoteAnswer)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not an answer to a vote: {error}") from None


def missed(layout: Layout, version: int, reasons: Mapping[NodeId, str]) -> QuorumMissed | None:
    """What a commit fails with, given why each node does not agree; None when enough of them do."""
    against = tuple((node, reason) for node, reason in reasons.items() if reason)
    agreed = len(reasons) - len(against)
    if agreed >= layout.majority:
        return None
    spelled = "; ".join(f"{node}: {reason}" for node, reason in against)
    return QuorumMissed(
        f"{agreed} of {len(reasons)} nodes agree to layout {version}, {layout.majority} must: {spelled}",
        required=layout.majority,
        received=agreed,
        reasons=against,
    )
