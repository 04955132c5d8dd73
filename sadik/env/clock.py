"""Time as an argument: the protocol, and the real clock. Nothing else in Sadik reads a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for people and stamps, monotonic time for waiting and measuring."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds; may jump."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some start; never goes back."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # Read several times a batch: the function itself, without a frame of ours around it.
    monotonic_ns = staticmethod(time.monotonic_ns)
