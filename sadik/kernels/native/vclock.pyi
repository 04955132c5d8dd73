"""Vector clocks: what happened before what, for standalone use and study (Dynamo 4.4).

A clock is an immutable set of pairs (actor, counter), each with the time of its last update. Actors are
``str`` or ``int`` (0 to 2**64 - 1), mixed at will; ints sort before strs, strs by code point. An absent
actor counts as 0. Times serve truncation alone: they take no part in ``==``, ``hash`` or ``compare``.

The bytes, little-endian, pinned by test vectors::

    0  version, 1        u8
    1  pairs             u32
    5  pairs, by actor:  counter u64 (>= 1) | time_ms u64 (< 2**63) | kind u8 | actor
       kind 0, int:      u64
       kind 1, str:      length u16 | UTF-8

A clock of server ids cannot tell two clients apart that write through the same server: the store itself uses
version sets (``versions``), which can. Tests show the difference.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, final

from sadik.kernels.buffers import Buffer

Actor = int | str
Order = Literal["before", "after", "equal", "concurrent"]

PAIRS_MAX: Final[int]
"""10: Dynamo's "say 10", the default of ``truncate``."""

@final
class VectorClock:
    """An immutable vector clock.

    ``a <= b`` reads "b has seen all of a", ``a < b`` "and more"; concurrent clocks are neither way. ``a |
    b`` is ``a.merge(b)``. Hashable; pickles; ``len``, ``in`` and iteration are over actors in order.

    Args:
        counters: Counter of each actor, 1 to 2**64 - 1; 0 leaves the actor out.
        now_ms: Time given to every pair, 0 <= now_ms < 2**63.
    Raises:
        InvalidRequest: A number out of range, or a name of more than 65535 bytes or not encodable as UTF-8.
        TypeError: An actor that is neither ``int`` nor ``str``.
    """

    def __init__(
        self,
        # A Mapping is invariant in its key, so the three spellings.
        counters: Mapping[Actor, int] | Mapping[str, int] | Mapping[int, int] = ...,
        now_ms: int = 0,
    ) -> None: ...
    @staticmethod
    def from_pairs(pairs: Iterable[tuple[Actor, int, int]]) -> VectorClock:
        """A clock of (actor, counter, time_ms) in any order. Raises as the class and on a repeated actor."""

    @staticmethod
    def decode(data: Buffer) -> VectorClock:
        """The inverse of ``encode``.

        Raises:
            CorruptRecord: Not the bytes of a clock.
        """

    def encode(self) -> bytes:
        """The clock's canonical bytes, times included."""

    def increment(self, actor: Actor, now_ms: int = 0) -> VectorClock:
        """This clock after an event of ``actor``: its counter one higher, its time ``now_ms`` or the later
        one it had.

        Raises:
            InvalidRequest: The counter is 2**64 - 1 already. Otherwise as the class.
        """

    def merge(self, other: VectorClock) -> VectorClock:
        """Least upper bound: the greater counter of each actor with its time; of equal counters the later
        time.

        Returns one of the two objects when it is the result. Cost: O(pairs of both); tens of nanoseconds
        for a few.
        """

    def compare(self, other: VectorClock) -> Order:
        """How this clock stands to ``other``: "before", "after", "equal" or "concurrent"."""

    def descends(self, other: VectorClock) -> bool:
        """True when this clock has seen all of ``other``: what carries ``other`` is an ancestor and may be
        forgotten.
        """

    def truncate(self, pairs_max: int = ...) -> VectorClock:
        """Drop the pairs with the oldest times until ``pairs_max`` >= 1 are left; of equal times the first
        actor goes first.

        Afterwards a descendant may look concurrent: a false sibling, the price the paper admits.
        """

    def counter(self, actor: Actor) -> int:
        """Events of ``actor`` known here; 0 when none."""

    def items(self) -> tuple[tuple[Actor, int], ...]:
        """(actor, counter), by actor."""

    def pairs(self) -> tuple[tuple[Actor, int, int], ...]:
        """(actor, counter, time_ms), by actor."""

    def __len__(self) -> int: ...
    def __contains__(self, actor: object) -> bool: ...
    def __iter__(self) -> Iterator[Actor]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __le__(self, other: VectorClock) -> bool: ...
    def __lt__(self, other: VectorClock) -> bool: ...
    def __ge__(self, other: VectorClock) -> bool: ...
    def __gt__(self, other: VectorClock) -> bool: ...
    def __or__(self, other: VectorClock) -> VectorClock: ...
