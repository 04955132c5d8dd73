"""What is meant to happen in a run, as plain data: so it can be drawn from a seed, kept, and made smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from sadik.sim.history import FaultKind
from sadik.sim.network import Weather
from sadik.sim.shape import Shape

Verb = Literal["read", "get", "mget", "put", "rmw", "forge", "delete", "set", "mset", "del", "expire"]
"""What a client does:

``read`` all values with their context, ``get`` and ``mget`` the newest; ``put`` and ``delete`` with the
context that this client received last, ``rmw`` with one that it reads first, ``forge`` with none; ``set``,
``mset``, ``del`` blindly; ``expire`` sets the expiry of what is there.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a client, or a read and a write.

    Attributes:
        pause_s: Before it.
        keys: Numbers of keys.
        node: Which node is asked, by number, where the client may choose.
        ttl_ms: Of what is written; 0 for none.
        size: Bytes of a value, at least.
    """

    client: int
    pause_s: float
    verb: Verb
    keys: tuple[int, ...]
    node: int = 0
    ttl_ms: int = 0
    size: int = 0

    @property
    def operations(self) -> int:
        """How many it is, at most."""
        return 2 if self.verb == "rmw" else len(self.keys)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One fault.

    Attributes:
        kind: As in the history.
        at_s: Since the begin of the first phase. lasts_s: Until it is over.
        nodes, others: By number, counted from 0.
        amount: Whatever the kind needs: a seed, milliseconds of a clock, bytes of a disk.
    """

    kind: FaultKind
    at_s: float
    lasts_s: float
    nodes: tuple[int, ...]
    others: tuple[int, ...] = ()
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A run.

    Attributes:
        seed: Of all that is not said here: delays, turns, dots.
        profile: Where it comes from.
        clients: How many.
        horizon_s: Length of the first phase.
        sync_s: Mean time that a sync takes.
        skew_ms: No clock is further off.
        sessions: So many clients, the first ones, use the Python client's sessions.
        lost: Nodes, by number, that never come back when all else is healed.
    """

    seed: int
    profile: str
    shape: Shape
    weather: Weather
    steps: tuple[Step, ...]
    disturbances: tuple[Disturbance, ...]
    clients: int = 5
    horizon_s: float = 3.0
    sync_s: float = 0.002
    skew_ms: int = 0
    sessions: int = 0
    lost: tuple[int, ...] = ()


def encode_plan(plan: Plan) -> bytes:
    """As JSON, to keep a plan that is not drawn from a seed any more."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1)


def decode_plan(data: bytes) -> Plan:
    """The other way.

    Raises:
        ValueError: These are not the bytes of a plan.
    """
    return msgspec.json.decode(data, type=Plan)
