"""How far the stamps on this disk may reach: what a wall clock that went back between two runs must not hide.

FLUSHDB hides what has a stamp up to its own. If the wall clock reads less than in the run before, a stamp
of now may lie below stored ones, and the flush would answer OK and hide nothing. So an upper bound of all
stamps minted here is kept in the engine's system table, extended a little ahead before the write that needs
it: in the same log, in the same order. A flush mints above the bound that its run found, or says why it
cannot.
"""

from __future__ import annotations

from sadik.causality.clock import HybridClock
from sadik.ids import STAMP_LOGIC_BITS
from sadik.storage.engine import Engine

_NAME = b"stamp-bound"


class StampBound:
    """Attributes:
    at_start: Greater than every stamp that earlier runs have minted; 0 on a new directory.
    """

    def __init__(self, engine: Engine, hybrid: HybridClock, clock_offset_max_ms: int) -> None:
        self._engine = engine
        self._hybrid = hybrid
        # Less ahead than a stamp may be, so that a flush right after a restart can mint above it.
        self._ahead = (clock_offset_max_ms << STAMP_LOGIC_BITS) * 4 // 5
        self._margin = (clock_offset_max_ms << STAMP_LOGIC_BITS) // 10
        self.at_start = next(
            (int.from_bytes(value, "big") for name, value in engine.system_items() if name == _NAME), 0
        )
        self._bound = self.at_start

    def cover(self, stamp: int) -> None:
        """Make sure that ``stamp`` is below the bound that the next run will find.

        It stays below what may be minted now, or restarts with a flush each would drive it away from the
        wall clock.

        Cost: a comparison; a few small records a second while there are writes.

        Raises:
            StorageError: The engine does not take it; the write must not happen either.
        """
        if stamp < self._bound:
            return
        bound = max(stamp + 1, min(stamp + self._ahead, self._hybrid.limit() - self._margin))
        self._engine.system_put(_NAME, bound.to_bytes(8, "big"))
        self._bound = bound
