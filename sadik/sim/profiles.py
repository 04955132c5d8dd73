"""Named mixes of sizes, workloads and faults, from which a seed draws its plan.

Swarm: a third of the runs have one kind of fault, a third two, and in the last third each kind is there with
one half; some have none. Only a part of all faults at a time finds what all together would hide.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sadik.config import SyncMode
from sadik.sim.history import FaultKind
from sadik.sim.network import Weather
from sadik.sim.plan import Disturbance, Plan
from sadik.sim.shape import Shape, shipped
from sadik.sim.workload import USUAL, WORKLOADS

NETWORK: Final[tuple[FaultKind, ...]] = ("split", "slow", "clog", "reset")
PROCESS: Final[tuple[FaultKind, ...]] = ("crash", "pause", "clock", "derived")
DISK: Final[tuple[FaultKind, ...]] = ("power_cut", "sync_failed", "full", "eio")
LOSSES: Final[tuple[FaultKind, ...]] = ("flip", "wiped", "restored")
"""A disk loses what it had acknowledged. One node's may, in a run: W of N have every write."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Attributes:
    faults: Kinds that there may be.
    sync: Durability modes, one of which is drawn.
    shape: Sizes and times.
    workloads: Names of those that may be drawn.
    losses: Whether one node's disk may lose what it had acknowledged.
    calm: Share of runs without any fault.
    zones: Whether nodes may be in zones. sessions: Whether clients may use sessions.
    core: Share of runs in which a node never comes back.
    everybody: Share of power cuts that strike all nodes at once, where every acknowledgement is durable.
    partial: Share of cuts in the network beside which some node still sees both sides.
    camp: Numbers of the machines that are cut off together, from all others; none for whoever is drawn.
    flaps: How often a split comes, between the same nodes. rots: How often the disk that rots does.
    """

    faults: tuple[FaultKind, ...] = (*NETWORK, *PROCESS, *DISK, *LOSSES)
    sync: tuple[SyncMode, ...] = ("always", "always", "interval")
    shape: Shape = field(default_factory=Shape)
    workloads: tuple[str, ...] = USUAL
    calm: float = 0.05
    horizon_s: float = 2.0
    clients: int = 5
    zones: bool = True
    sessions: bool = True
    core: float = 0.1
    everybody: float = 0.2
    partial: float = 0.0
    camp: tuple[int, ...] = ()
    flaps: int = 1
    rots: int = 1


PROFILES: Final[dict[str, Profile]] = {
    "default": Profile(),
    "calm": Profile(faults=(), calm=1.0),
    "light": Profile(faults=(), calm=1.0, shape=shipped(), horizon_s=60.0),
    "network": Profile(faults=NETWORK, partial=0.3),
    "crashes": Profile(faults=(*PROCESS, "power_cut")),
    "disks": Profile(faults=(*DISK, *LOSSES, "crash")),
    "clocks": Profile(faults=("clock", "crash", "split"), workloads=("expiry", "mixed", "recreation")),
    "siblings": Profile(faults=("split", "slow", "crash"), workloads=("contention", "register")),
    "deletes": Profile(faults=("split", "crash", "power_cut", "pause"), workloads=("recreation",)),
    "fallbacks": Profile(
        faults=("split", "crash", "pause"),
        workloads=("blind", "register", "recreation", "mixed"),
        zones=False,
    ),
    "hints": Profile(
        faults=("split", "flip"), workloads=("blind", "skewed", "batches"), zones=False, calm=0.0, flaps=3
    ),
    "powercuts": Profile(faults=("power_cut", "crash"), sync=("always",), everybody=0.6),
    "syncs": Profile(
        faults=("sync_failed", "crash", "split"), sync=("always",), shape=Shape(nodes=3), zones=False
    ),
    "rot": Profile(
        faults=("flip", "split"),
        # Two of the three do not see each other, and what each has written is mended late.
        shape=Shape(nodes=3, exchange_interval_ms=3000),
        sync=("always",),
        workloads=("overwrites", "overwrites", "blind", "contention"),
        calm=0.0,
        zones=False,
        partial=0.7,
        flaps=3,
        rots=8,
    ),
    "strict": Profile(faults=(*NETWORK, "crash", "pause"), shape=Shape(nodes=3), zones=False),
    "flapping": Profile(
        faults=("split", "crash"),
        shape=Shape(heartbeat_interval_ms=60, peer_timeout_ms=200, gossip_interval_ms=200),
        workloads=("batches", "skewed", "blind"),
        horizon_s=3.0,
        calm=0.0,
        zones=False,
        partial=0.3,
        flaps=4,
    ),
    "sloppy": Profile(
        # All keys are of n1, n3 and n5, which the other two do not see again and again.
        faults=("split",),
        shape=Shape(partitions=1, heartbeat_interval_ms=100, peer_timeout_ms=300),
        workloads=("batches", "skewed", "blind"),
        horizon_s=3.0,
        calm=0.0,
        zones=False,
        camp=(1, 3),
        flaps=4,
    ),
    "absence": Profile(
        faults=("crash", "split", "pause"),
        shape=Shape(
            nodes=3,
            heartbeat_interval_ms=2000,
            peer_timeout_ms=6000,
            gossip_interval_ms=3000,
            exchange_interval_ms=5000,
        ),
        workloads=("recreation",),
        horizon_s=100.0,
        calm=0.0,
        zones=False,
    ),
    "restarts": Profile(
        faults=("crash", "power_cut", "derived"), sync=("always",), shape=Shape(nodes=3), zones=False
    ),
    "three": Profile(shape=Shape(nodes=3), zones=False),
}


def draw_plan(
    seed: int,
    profile: str = "default",
    *,
    nodes: int | None = None,
    operations: int = 100,
    faults: bool = True,
) -> Plan:
    """What run ``seed`` of a profile is.

    Args:
        nodes: In the place of the profile's.
        operations: Steps of all clients together.
    Raises:
        KeyError: There is no such profile.
    """
    chosen = PROFILES[profile]
    rng = random.Random(f"{profile}/{seed}")
    shape = replace(
        chosen.shape,
        nodes=nodes or chosen.shape.nodes,
        sync=rng.choice(chosen.sync),
        zones=3 if chosen.zones and rng.random() < 0.2 else 0,
    )
    workload = WORKLOADS[rng.choice(chosen.workloads)]
    calm = not faults or rng.random() < chosen.calm
    skew_ms = 100 if "clock" in chosen.faults and not calm else 0
    steps = workload.draw(
        rng, operations, clients=chosen.clients, nodes=shape.nodes, horizon_s=chosen.horizon_s
    )
    # What loses acknowledged data strikes one node only: this one.
    unlucky = rng.randrange(shape.nodes)
    disturbances: tuple[Disturbance, ...] = ()
    if not calm:
        disturbances = _disturbances(rng, chosen, shape, unlucky, skew_ms)
    sessions = rng.choice((0, 1, 2, chosen.clients)) if chosen.sessions else 0
    lost = (unlucky,) if not calm and "crash" in chosen.faults and rng.random() < chosen.core else ()
    return Plan(
        seed=seed,
        profile=profile,
        shape=shape,
        weather=_weather(rng, calm),
        steps=steps,
        disturbances=disturbances,
        clients=chosen.clients,
        horizon_s=chosen.horizon_s,
        sync_s=rng.choice((0.0005, 0.002, 0.01)),
        skew_ms=skew_ms if any(one.kind == "clock" for one in disturbances) else 0,
        sessions=sessions,
        lost=lost,
    )


def _weather(rng: random.Random, calm: bool) -> Weather:
    return Weather(
        latency_s=rng.choice((0.0002, 0.0005, 0.002, 0.008)),
        slow=0.0 if calm else rng.choice((0.0, 0.0, 0.001, 0.01)),
        bytes_per_s=rng.choice((1e9, 1e8, 1e7)),
        torn=rng.choice((0.0, 0.02, 0.2)),
    )


def _disturbances(
    rng: random.Random, profile: Profile, shape: Shape, unlucky: int, skew_ms: int
) -> tuple[Disturbance, ...]:
    kinds = _swarm(rng, profile.faults)
    found: list[Disturbance] = []
    for kind in kinds:
        for _ in range(rng.choice((1, 1, 2, 3))):
            if kind in LOSSES and any(one.kind in LOSSES for one in found):
                continue
            one = _draw(rng, kind, profile, shape, unlucky, skew_ms)
            found += [one, *_flaps(rng, one, profile)]
    return tuple(sorted(found, key=lambda one: one.at_s))


def _swarm(rng: random.Random, kinds: Sequence[FaultKind]) -> list[FaultKind]:
    if not kinds:
        return []
    way = rng.randrange(3)
    if way < 2:
        return rng.sample(kinds, min(way + 1, len(kinds)))
    return [kind for kind in kinds if rng.random() < 0.5]


def _draw(
    rng: random.Random, kind: FaultKind, profile: Profile, shape: Shape, unlucky: int, skew_ms: int
) -> Disturbance:
    at_s = rng.uniform(0.05, profile.horizon_s * 0.9)
    lasts_s = rng.choice((0.1, 0.5, 1.0, 1.5)) * rng.uniform(0.5, 1.5)
    if kind == "flip":
        # Bits turn when it begins and when it ends.
        at_s /= min(3, profile.rots)
        lasts_s /= profile.rots
    if profile.horizon_s > 10:
        lasts_s *= profile.horizon_s / 2
    lasts_s = min(lasts_s, profile.horizon_s * 1.2 - at_s)
    everybody = list(range(shape.nodes))
    nodes: tuple[int, ...] = (rng.randrange(shape.nodes),)
    others: tuple[int, ...] = ()
    amount = rng.getrandbits(30)
    if kind in NETWORK:
        nodes, others = _sides(rng, everybody, profile)
    elif kind == "clock":
        # As far as clocks may be off, some node's; then forth and back again.
        amount = rng.choice((-1, 1)) * rng.randint(1, skew_ms)
    elif kind in LOSSES or (kind == "power_cut" and shape.sync != "always"):
        nodes = (unlucky,)
    elif kind == "power_cut" and rng.random() < profile.everybody:
        nodes = tuple(everybody)
    return Disturbance(kind, at_s, lasts_s, nodes, others, amount)


def _flaps(rng: random.Random, one: Disturbance, profile: Profile) -> Iterator[Disturbance]:
    """The same again, a short while after the one before was over."""
    times = {"split": profile.flaps, "flip": profile.rots}.get(one.kind, 1)
    for _ in range(times - 1):
        at_s = one.at_s + one.lasts_s + rng.uniform(0.02, 0.5 if one.kind == "split" else 0.15)
        if at_s >= profile.horizon_s:
            return
        one = replace(one, at_s=at_s, amount=rng.getrandbits(30))
        yield one


def _sides(
    rng: random.Random, everybody: list[int], profile: Profile
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Whose packets to whom: one way between two, between one and all others, or between two camps; of a
    partial cut some node is on neither side.
    """
    if profile.camp:
        return profile.camp, tuple(number for number in everybody if number not in profile.camp)
    shuffled = rng.sample(everybody, len(everybody))
    if profile.partial and rng.random() < profile.partial:
        shuffled = shuffled[: max(2, len(shuffled) - 1)]
    way = rng.randrange(3)
    if way == 0 or len(everybody) < 3:
        return (shuffled[0],), (shuffled[1],)
    size = 1 if way == 1 else rng.randint(1, len(shuffled) // 2)
    return tuple(shuffled[:size]), tuple(shuffled[size:])
