"""All mutants, and what of FACTS 4.2 has none yet."""

from __future__ import annotations

from typing import Final

from tests.mutants import causality, coordination, disks, repair
from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    *causality.MUTANTS,
    *coordination.MUTANTS,
    *disks.MUTANTS,
    *repair.MUTANTS,
)
