"""What clients do: each workload is a way to draw steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sadik.sim.plan import Step, Verb


@dataclass(frozen=True, slots=True)
class Workload:
    """Attributes:
    verbs: What is done, with weights.
    keys: How many there are.
    skew: Of Zipf's distribution over them; 0 for an even one.
    batch: Most keys of one ``mset`` or ``mget``.
    ttl_ms: Between these, for the share ``mortal`` of writes.
    loyal: Share of requests that a client sends to the node that it always asks.
    """

    verbs: tuple[tuple[Verb, int], ...]
    keys: int = 8
    skew: float = 0.0
    batch: int = 6
    ttl_ms: tuple[int, int] = (0, 0)
    mortal: float = 0.0
    loyal: float = 0.5
    size_max: int = 0

    def draw(
        self, rng: random.Random, count: int, *, clients: int, nodes: int, horizon_s: float
    ) -> tuple[Step, ...]:
        """Steps of ``count`` operations, spread over the horizon: a read and a write are two, and each key
        of a batch is one.
        """
        verbs = [verb for verb, _ in self.verbs]
        weights = [weight for _, weight in self.verbs]
        choose = _chooser(rng, self.keys, self.skew)
        pause_s = horizon_s * clients / count
        found: list[Step] = []
        left = count
        while left > 0:
            step = self._step(rng, rng.choices(verbs, weights)[0], choose, clients, nodes, pause_s)
            found.append(step)
            left -= step.operations
        return tuple(found)

    def _step(
        self,
        rng: random.Random,
        verb: Verb,
        choose: Callable[[], int],
        clients: int,
        nodes: int,
        pause_s: float,
    ) -> Step:
        client = rng.randrange(clients)
        many = rng.randint(2, self.batch) if verb in ("mset", "mget") else 1
        keys = tuple(dict.fromkeys(choose() for _ in range(many)))
        ttl_ms = 0
        if (verb == "expire" or rng.random() < self.mortal) and self.ttl_ms[1]:
            ttl_ms = rng.randint(*self.ttl_ms)
        return Step(
            client=client,
            # Some come in bursts.
            pause_s=len(keys) * rng.expovariate(1 / pause_s) * rng.choice((0.05, 1, 1, 1)),
            verb=verb,
            keys=keys,
            node=client % nodes if rng.random() < self.loyal else rng.randrange(nodes),
            ttl_ms=ttl_ms,
            size=rng.randint(0, self.size_max) if self.size_max and rng.random() < 0.3 else 0,
        )


def _chooser(rng: random.Random, keys: int, skew: float) -> Callable[[], int]:
    """Draws numbers of keys, small ones more often by Zipf's law."""
    if not skew:
        return lambda: rng.randrange(keys)
    total, bounds = 0.0, []
    for rank in range(1, keys + 1):
        total += rank**-skew
        bounds.append(total)
    numbers: Sequence[int] = range(keys)
    return lambda: rng.choices(numbers, cum_weights=bounds)[0]


REGISTER: Final = Workload((("read", 3), ("rmw", 4), ("put", 2), ("delete", 1)), keys=6)
"""Every write hands back a context."""
BLIND: Final = Workload((("set", 5), ("get", 3), ("read", 2)), keys=6)
"""Plain SET and GET, as most Redis clients do."""
OVERWRITES: Final = Workload((("set", 1),), keys=3)
"""Nothing but SET: no read mends what is wrong before the next write comes."""
CONTENTION: Final = Workload((("rmw", 8), ("forge", 1), ("read", 2)), keys=2)
"""Clients read, think and write the same key, so siblings come and go."""
RECREATION: Final = Workload((("set", 3), ("rmw", 2), ("del", 2), ("delete", 3), ("read", 3)), keys=4)
"""Keys are deleted and made again."""
EXPIRY: Final = Workload(
    (("set", 3), ("rmw", 2), ("expire", 2), ("read", 3), ("get", 1)), keys=5, ttl_ms=(200, 3000), mortal=0.6
)
"""Values that are to go by themselves."""
SKEWED: Final = Workload((("set", 4), ("get", 4), ("rmw", 1), ("read", 1)), keys=30, skew=1.1, size_max=2000)
"""Many keys, few of which get most requests."""
BATCHES: Final = Workload((("mset", 4), ("mget", 3), ("set", 2), ("rmw", 1), ("read", 1)), keys=24)
"""MSET and MGET over partitions of several nodes."""
MIXED: Final = Workload(
    (
        *(("set", 4), ("get", 2), ("read", 3), ("rmw", 4), ("put", 2), ("forge", 1)),
        *(("del", 1), ("delete", 1), ("mset", 1), ("mget", 1)),
    ),
    keys=8,
    skew=0.7,
)
"""Everything but expiry."""

WORKLOADS: Final[dict[str, Workload]] = {
    "register": REGISTER,
    "blind": BLIND,
    "contention": CONTENTION,
    "recreation": RECREATION,
    "expiry": EXPIRY,
    "skewed": SKEWED,
    "batches": BATCHES,
    "mixed": MIXED,
    "overwrites": OVERWRITES,
}
USUAL: Final = tuple(name for name in WORKLOADS if name != "overwrites")
"""Those that a profile draws from unless it names some."""
