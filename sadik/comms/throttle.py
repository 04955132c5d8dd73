"""Bounds the log lines that others can cause: some of each topic in a while, and a count of the rest."""

from __future__ import annotations

from typing import Final

from sadik.env.clock import Clock

LINES_MAX: Final = 10
INTERVAL_MS: Final = 10_000
"""At most ``LINES_MAX`` lines of a topic begin in one of these intervals."""


class Throttle:
    """Topics are a few fixed words, never what a peer sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._topics: dict[str, tuple[int, int]] = {}
        self._dropped: dict[str, int] = {}

    def admit(self, topic: str) -> int | None:
        """Lines of this topic dropped since the last one that was let through; None: drop this one too."""
        now_ms = self._clock.monotonic_ns() // 1_000_000
        began_ms, lines = self._topics.get(topic, (now_ms, 0))
        if now_ms - began_ms >= INTERVAL_MS:
            began_ms, lines = now_ms, 0
        if lines >= LINES_MAX:
            self._dropped[topic] = self._dropped.get(topic, 0) + 1
            return None
        self._topics[topic] = (began_ms, lines + 1)
        return self._dropped.pop(topic, 0)
