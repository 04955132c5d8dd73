"""Vector clocks as Dynamo 4.4 describes them, for study and standalone use.

    >>> from sadik.causality import VectorClock
    >>> first = VectorClock().increment("Sx")
    >>> left, right = first.increment("Sy"), first.increment("Sz")
    >>> left.compare(right)
    'concurrent'
    >>> left.merge(right).increment("Sx")
    VectorClock({'Sx': 2, 'Sy': 1, 'Sz': 1})

The class is the kernel's own, so that a merge costs no more than it must. The store does not use it: a
clock of server ids cannot keep apart two clients that write through one server; see ``VersionSet``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from sadik.kernels import vclock

Actor: TypeAlias = int | str
Order: TypeAlias = Literal["before", "after", "equal", "concurrent"]

if TYPE_CHECKING:
    from sadik.kernels.native.vclock import VectorClock
else:
    VectorClock = vclock.VectorClock

PAIRS_MAX = vclock.PAIRS_MAX

__all__ = ["PAIRS_MAX", "Actor", "Order", "VectorClock"]
