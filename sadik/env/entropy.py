"""Randomness as an argument: the protocol, and the real source. Nothing else in Sadik draws random bytes."""

from __future__ import annotations

import os
from typing import Protocol


class Entropy(Protocol):
    """A source of random bytes; the simulator's is seeded."""

    def random_bytes(self, count: int) -> bytes:
        """``count`` independent random bytes."""
        ...


class SystemEntropy:
    """The operating system's random source."""

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)


def random_uint64(entropy: Entropy) -> int:
    """A uniform integer, 0 <= value < 2**64."""
    return int.from_bytes(entropy.random_bytes(8), "big")
