"""Stamps: a hybrid logical clock over the wall clock it is given.

A stamp is 48 bits of Unix milliseconds and 16 bits of logic in one uint64 (``sadik.ids``). It follows the
wall clock where that moves on, counts where it stands still, and never goes back where it does. A full
logic part carries into the milliseconds: both are one number, so minting is an addition.

The clock stays near the wall clock by one rule: a stamp further ahead of it than ``clock_offset_max_ms`` is
neither taken over from elsewhere nor minted. So one node with a wrong clock cannot drag the others into the
future.

Source: Kulkarni et al., "Logical Physical Clocks" (2014), section 3. Different here: stamps are reserved by
the batch, and there is no separate receive event, since a batch mints above what its version sets know.
"""

from __future__ import annotations

from typing import Final

from sadik.env.clock import Clock
from sadik.errors import ClockError
from sadik.ids import STAMP_LOGIC_BITS, Stamp, stamp_ms

CLOCK_OFFSET_MAX_MS: Final = 500
WALL_MS_MAX: Final = (1 << 48) - 1
LOGIC_MAX: Final = (1 << STAMP_LOGIC_BITS) - 1
STAMP_MAX: Final = WALL_MS_MAX << STAMP_LOGIC_BITS | LOGIC_MAX


class HybridClock:
    """The one source of stamps of a node.

    Args:
        clock: Where the wall time comes from.
        node: Id of this node, for error messages.
        clock_offset_max_ms: How far a stamp may lie ahead of the wall clock.
    """

    def __init__(self, clock: Clock, *, node: str, clock_offset_max_ms: int = CLOCK_OFFSET_MAX_MS) -> None:
        self._clock = clock
        self._node = node
        self._offset_max_ms = clock_offset_max_ms
        self._reach = clock_offset_max_ms << STAMP_LOGIC_BITS | LOGIC_MAX
        self._last = 0

    @property
    def last(self) -> Stamp:
        """The greatest stamp reserved, minted or observed so far; 0 at first. Never falls."""
        return Stamp(self._last)

    def reserve(self, count: int) -> Stamp:
        """The first of ``count`` >= 1 consecutive stamps that nobody else on this node gets.

        Reserving is not minting: after the wall clock went back, reserved stamps may lie beyond ``limit``,
        and whoever mints from them checks that (``apply_batch`` does). So a batch of reads goes on while
        writes are refused.
        """
        return Stamp(self.begin(count)[0])

    def begin(self, count: int) -> tuple[int, int, int]:
        """What a batch of ``count`` operations needs, by one look at the wall clock: the first of as many
        stamps (``reserve``), the greatest that may be minted (``limit``), and Unix milliseconds.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        wall_ms = self._wall_ms()
        now = wall_ms << STAMP_LOGIC_BITS
        first = self._last + 1
        if now > first:
            first = now
        self._last = first + count - 1
        limit = now + self._reach
        return first, (limit if limit < STAMP_MAX else STAMP_MAX), wall_ms

    def mint(self, above: int = 0) -> Stamp:
        """One new stamp greater than ``above`` and all before.

        Raises:
            ClockError: It would lie too far ahead of the wall clock; nothing has changed.
        """
        stamp = max(self._last + 1, above + 1, self._wall_ms() << STAMP_LOGIC_BITS)
        self._check(stamp)
        self._last = stamp
        return Stamp(stamp)

    def observe(self, stamp: int) -> None:
        """Never mint at or below ``stamp`` again.

        Raises:
            ClockError: It lies too far ahead of the wall clock; nothing has changed.
        """
        if stamp > self._last:
            self._check(stamp)
            self._last = stamp

    def advance(self, stamp: int) -> None:
        """Take over a stamp that was minted for this node below a ``limit`` asked for before.

        Unlike ``observe`` it never raises: the wall clock may have gone back since, and the stamp is out.
        """
        if stamp > self._last:
            self._last = stamp

    def limit(self) -> Stamp:
        """The greatest stamp that may be minted, stored or merged now."""
        limit = (self._wall_ms() << STAMP_LOGIC_BITS) + self._reach
        return Stamp(limit if limit < STAMP_MAX else STAMP_MAX)

    def ahead_ms(self) -> int:
        """How far the last stamp lies ahead of the wall clock, 0 when it does not."""
        return max(0, stamp_ms(self._last) - self._wall_ms())

    def _wall_ms(self) -> int:
        # A clock that reads before 1970 or after the year 10889 must not make stamps that do not fit.
        wall_ms = self._clock.wall_ms()
        if 0 <= wall_ms <= WALL_MS_MAX:
            return wall_ms
        return 0 if wall_ms < 0 else WALL_MS_MAX

    def _check(self, stamp: int) -> None:
        if stamp > self.limit():
            ahead_ms = stamp_ms(stamp) - self._wall_ms()
            raise ClockError(
                f"node {self._node}: a stamp would be {ahead_ms} ms ahead of its wall clock, "
                f"{self._offset_max_ms} ms are allowed"
            )
