"""Version sets sent for repair: awaited one packet at a time, on the bulk lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sadik.comms.messages import BULK, REPLY, Kind
from sadik.comms.service import Peers
from sadik.comms.transport import Frame
from sadik.errors import InvalidRequest, Unavailable
from sadik.ids import NodeId
from sadik.kernels import frames, replica
from sadik.node.items import Item, encode_items

REASONS: Final = {"hint": 2, "exchange": 3}
"""Why sets are pushed, as packets name it (``coordinator/under_way.py``)."""
TIMEOUT_S: Final = 5.0

Batch = list[tuple[NodeId, Frame]]


class Pushes:
    """Sends sets to other replicas and waits until they have taken them.

    Args:
        others: Takes the replies to SETS that nobody awaits here: the coordinator's.
    """

    def __init__(self, peers: Peers, others: Callable[[Sequence[tuple[NodeId, Frame]]], None]) -> None:
        self._peers = peers
        self._others = others
        self._waiting: dict[int, tuple[NodeId, asyncio.Future[bytes]]] = {}
        peers.on_batch(Kind.SETS | REPLY, self._on_replies)

    async def push(self, node: NodeId, items: Sequence[Item], reason: str) -> bytes:
        """Send sets; a status for each: 0 when the node has it as durably as it promises.

        Raises:
            InvalidRequest: Nothing to send.
            Unavailable: Not sent, or not answered.
        """
        if not items:
            raise InvalidRequest("nothing to push")
        request = self._peers.next_request()
        packet = encode_items(items, REASONS[reason])
        if not self._peers.send(node, frames.encode(Kind.SETS, request, (packet,)), BULK):
            raise Unavailable(f"node {node} cannot be reached, or its bulk queue is full")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[request] = (node, answer)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                payload = await answer
        except TimeoutError as error:
            raise Unavailable(f"node {node} did not take version sets in time", maybe_applied=True) from error
        finally:
            del self._waiting[request]
        if not payload:
            return bytes(len(items))
        statuses = payload if len(payload) == len(items) else bytes((replica.INVALID,)) * len(items)
        # Known already is as good as stored.
        return bytes(0 if status <= replica.KNOWN else status for status in statuses)

    def on_link_down(self, node: NodeId, reason: str) -> None:
        """Nobody answers from there any more."""
        for peer, answer in list(self._waiting.values()):
            if peer == node and not answer.done():
                answer.set_exception(Unavailable(f"the link to {node} broke: {reason}", maybe_applied=True))

    def _on_replies(self, batch: Batch) -> None:
        if not self._waiting:
            self._others(batch)
            return
        rest: Batch = []
        for node, frame in batch:
            waiting = self._waiting.get(frame.request)
            if waiting is None or waiting[0] != node:
                rest.append((node, frame))
            elif not waiting[1].done():
                waiting[1].set_result(frame.payload)
        if rest:
            self._others(rest)
