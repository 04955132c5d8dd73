"""How far the stamps on this disk may reach: what a wall clock that went back between two runs must not hide.

FLUSHDB hides what has a stamp up to its own. If the wall clock reads less than in the run before, a stamp
of now may lie below stored ones, and the flush would answer OK and hide nothing. So an upper bound of all
stamps minted here is kept in the engine's system table, extended a little ahead before the write that needs
it: in the same log, in the same order. A flush mints above the bound that its run found, or says why it
cannot.
"""

from __future__ import annotations

from sadik.ids import STAMP_LOGIC_BITS
from sadik.storage.engine import Engine

_NAME = b"stamp-bound"


class StampBound:
    """Attributes:
    at_start: Greater than every stamp that earlier runs have minted; 0 on a new directory.
    """

    def __init__(self, engine: Engine, ahead_ms: int) -> None:
        self._engine = engine
        self._ahead = ahead_ms << STAMP_LOGIC_BITS
        self.at_start = next(
            (int.from_bytes(value, "big") for name, value in engine.system_items() if name == _NAME), 0
        )
        self._bound = self.at_start

    def cover(self, stamp: int) -> None:
        """Make sure that ``stamp`` is below the bound that the next run will find.

        Cost: a comparison; one small record each ``ahead_ms`` while there are writes.

        Raises:
            StorageError: The engine does not take it; the write must not happen either.
        """
        if stamp < self._bound:
            return
        bound = min(stamp + self._ahead, (1 << 64) - 1)
        self._engine.system_put(_NAME, bound.to_bytes(8, "big"))
        self._bound = bound
