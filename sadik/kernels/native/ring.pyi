"""The ring: which nodes hold a token, by search over sorted tokens.

A node is a number here, 0 to ``node_count - 1``; so are the labels of its host and its zone. A key at token
t belongs to the first position whose token is >= t, and past the last one to the first: a node owns
(predecessor, self] (Dynamo 4.2).

The *preference list* of a position is an order of all nodes that own a token, the same everywhere: the
nearest clockwise comes first, and each further place goes to the node whose host stands in the list least
often, then whose zone does, then which is nearest clockwise. So no node is listed twice; hosts are distinct
as long as there are any new ones, and zones as far as that leaves a choice; and a list of n is the
beginning of any longer one: N primaries, then fallbacks (Dynamo 4.3, 4.6).
"""

from typing import Final

from sadik.kernels.buffers import Buffer

NO_NODE: Final = 0xFFFFFFFF
"""Fills the places of a preference list for which there is no node."""

class Ring:
    """A ring that never changes. Arrays given are copied.

    Lists are found at the first lookup of a position and kept, the first 8 nodes each.

    Args:
        tokens: uint64, shape (T,), strictly increasing, T >= 1.
        owners: uint32, shape (T,): the node of each token.
        hosts: uint32, shape (nodes,): any number for each node; equal means the same host.
        zones: uint32, shape (nodes,).
        partition_bits: The token space is cut in 2**partition_bits equal partitions and every token is
            looked up as the end of its partition (Dynamo 6.2, strategy 2); 64: every token as it is. 0 to
            64.
    Raises:
        ValueError: Lengths do not match, tokens are not increasing, or an owner is not a node.
    Cost: 8 + 4 + 32 bytes a token and 16 to 32 bytes for the index; building is O(T + nodes).
    """

    token_count: Final[int]
    node_count: Final[int]

    def __init__(
        self, tokens: Buffer, owners: Buffer, hosts: Buffer, zones: Buffer, partition_bits: int = 64
    ) -> None: ...
    def position(self, token: int, /) -> int:
        """Index of the ring position that a token belongs to. Tokens are 0 to 2**64 - 1, else
        ``OverflowError``.
        """

    def owner(self, token: int, /) -> int:
        """The node that owns a token: the first of its preference list."""

    def owner_many(self, count: int, tokens: Buffer, out: Buffer) -> None:
        """Owners of ``count`` tokens.

        Args:
            tokens: uint64, at least ``count`` long.
            out: Writable uint32, at least ``count`` long.
        Raises:
            ValueError: A buffer is too short, or ``count`` < 0.
        Cost: about 10 ns each on a ring in cache.
        """

    def preference(self, token: int, n: int, up: Buffer | None = None) -> tuple[int, ...]:
        """The first ``n`` nodes of a token's preference list; fewer when there are not so many.

        Args:
            n: 1 to 2**20.
            up: uint8 (or bool) for each node: nodes with 0 are left out, the others keep their order.
        """

    def preference_many(
        self, count: int, tokens: Buffer, n: int, out: Buffer, up: Buffer | None = None
    ) -> None:
        """The first ``n`` nodes for each of ``count`` tokens, one list after another.

        Args:
            tokens: uint64, at least ``count`` long.
            n: 1 to 2**20.
            out: Writable uint32, at least ``count * n`` long; ends of lists without a node are ``NO_NODE``.
            up: As in ``preference``.
        Raises:
            ValueError: A buffer is too short, ``count`` < 0, or ``n`` out of range.
        Cost: about 15 ns each once a position's list is known. The first lookup of a position walks:
            O(steps) with one host for each node, else O(n * nodes + steps). Beyond 8 nodes, or when too few
            of those are up, every lookup walks.
        """
