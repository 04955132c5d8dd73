"""This node's own record: written at every start, defended while the node runs; and who else is let in.

Whoever else writes the record is a past life of the node, known to others and not (any more) to itself: it is
outbid once. Or it is a second process of the same id, which outbids in turn. Where that goes on, the process
with the greater actor stops: both decide alike, without asking each other.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from sadik.comms.transport import Identity
from sadik.env.clock import Clock
from sadik.errors import WrongFormat
from sadik.members.bootstrap import NodeFacts
from sadik.members.state import Member, MemberTable, departed, raised, refusal

log = logging.getLogger("sadik.members")

RIVALS_MAX: Final = 3
"""So often another run may outbid this one before it counts as living."""


class OwnRecord:
    """The record in the table that only this node writes.

    Attributes:
        record: As it is now.
        fault: Why this node must stop, or empty.
        rivals: How often another run had written the record.
    Raises:
        WrongFormat: The node left the cluster with this directory, or has lived on another one since.
    """

    def __init__(self, facts: NodeFacts, table: MemberTable, clock: Clock) -> None:
        self.fault = ""
        self.rivals = 0
        self._facts = facts
        self._table = table
        self._clock = clock
        self._outbid: dict[int, int] = {}
        self.record = Member(
            facts.node,
            facts.directory,
            1,
            facts.actor,
            host=facts.host,
            zone=facts.zone,
            capacity=facts.capacity,
            changed_ms=self._now_ms(),
        )
        if known := table.get(facts.node):
            if reason := refusal(known, facts.directory):
                raise WrongFormat(reason)
            self.record = raised(self.record, known)
        table.put(self.record)

    def move(self, *, peer: str, resp: str, http: str) -> None:
        """Say at which addresses the node is reached; the same as before change nothing."""
        moved = msgspec.structs.replace(self.record, peer=peer, resp=resp, http=http)
        if moved != self.record:
            self._write(
                msgspec.structs.replace(
                    moved, incarnation=self.record.incarnation + 1, changed_ms=self._now_ms()
                )
            )

    def depart(self) -> None:
        """Say that the node leaves for good."""
        if self.record.state != "left":
            self._write(departed(self.record, self._now_ms()))

    def defend(self) -> None:
        """Outbid whoever else has written the record; or set ``fault``."""
        known = self._table.get(self._facts.node)
        if known is None or known == self.record or self.fault:
            return
        self.rivals += 1
        self.fault = refusal(known, self._facts.directory) or self._duplicate(known.actor)
        if not self.fault:
            self._write(raised(self.record, known))
            log.warning(
                "there was another record of this node; its incarnation is now %d", known.incarnation + 1
            )

    def _duplicate(self, actor: int) -> str:
        # A past life cannot outbid what this run wrote, but for records that others show one after another.
        self._outbid[actor] = self._outbid.get(actor, 0) + 1
        if self._outbid[actor] > RIVALS_MAX and actor < self._facts.actor:
            return f"duplicate: another process runs as node {self._facts.node}"
        return ""

    def _write(self, record: Member) -> None:
        self.record = record
        self._table.put(record)

    def _now_ms(self) -> int:
        return max(0, self._clock.wall_ms())


def admission(identity: Identity, facts: NodeFacts, table: MemberTable, linked: Identity | None) -> str:
    """Why a node that shakes hands is not let in, or ``""``.

    Args:
        identity: Of a node that is not born yet, without a cluster id, or of one of this cluster.
        linked: Who is linked under its id already.
    """
    node = identity.node
    if identity.cluster_id not in ("", facts.cluster_id):
        return f"this is cluster {facts.cluster} with id {facts.cluster_id}, not {identity.cluster_id}"
    if identity.cluster not in ("", facts.cluster):
        return f"this is cluster {facts.cluster}, not {identity.cluster}"
    if node == facts.node:
        return f"duplicate: {node} is this node's own id"
    if linked is not None and linked.actor != identity.actor:
        return f"duplicate: node {node} is already here, as another process"
    if not identity.cluster_id:
        return ""
    known = table.get(node)
    if known is None and table.is_full:
        return "the cluster has as many members as it can have"
    return refusal(known, identity.directory)
