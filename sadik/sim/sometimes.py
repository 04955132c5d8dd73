"""Rare states, counted: a campaign that never reached one of them has not tested it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

RARE: Final[Mapping[str, str]] = {
    "three siblings": "a read showed three values or more",
    "hint during restart": "a node was killed while it kept hints for others",
    "torn tail": "a node found a torn end in its log",
    "forwarded write after a split": "a node that does not hold a key passed a write on, after a split",
    "hint kept": "a write was kept for a node that was away",
    "hint delivered": "it was brought there",
    "read repaired": "a read found replicas that differed",
    "exchange repaired": "Merkle trees found what differed",
    "unknown outcome": "a client was told that a write may have been applied",
    "refused": "a client was told that nothing was done",
    "sloppy quorum": "a fallback counted in a quorum",
    "stale by a sloppy quorum": "a read missed an acknowledged write, which sloppy quorums let be (Q2)",
    "crash in a disk operation": "a node died in the middle of a write or sync",
    "expired": "a value was not there any more when it was read",
    "tombstone read": "a read showed a deleted key's context",
    "new actor after a loss": "a node that had lost something went on under another actor",
    "damaged disk refused": "a node would not start on a damaged disk, and got an empty one",
    "resurrection tried": "a wiped, old or copied disk joined again",
    "connection broken in flight": "a request was under way when its connection broke",
    "node lost for good": "a node never came back, and the others went on",
    "stale read noticed": "a session was shown less than it had seen, and asked again or said so",
    "clock behind": "a node's clock was behind what it had stamped",
}
"""What a campaign must reach, by name, with what it means."""


class Sometimes:
    """Counts what one run, or many, have reached."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def see(self, name: str, times: int = 1) -> None:
        """It was reached. A name that is neither in RARE nor of a fault is an error."""
        assert name in RARE or name.startswith("fault "), f"{name!r} is not declared"
        if times:
            self.counts[name] += times

    def add(self, other: Mapping[str, int]) -> None:
        """Take in what another run has counted."""
        self.counts.update(other)

    def missing(self) -> list[str]:
        """Names in RARE that were never reached, in their order."""
        return [name for name in RARE if not self.counts[name]]
