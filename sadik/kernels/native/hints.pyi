"""Where hints lie in their engine, and as which bytes; the loops that add hints which name a key only.

A *place* is the engine's digest of a hint: a byte of the owner, then the first 15 bytes of the key's digest,
the last eight of them mixed with more of the owner (``h`` is the hash of its name)::

    0   h[0]                           all hints of an owner are one range of the engine
    1   digest[0:7]                    evenly spread, in the order of the ring
    8   digest[7:15] xor h[1:9]        the same key has another place for each owner

A longer prefix would put all hints into one run of the log engine's index, which wants digests that are
evenly spread in their first eight bytes.

A *value*, little-endian, version 1 for ever (pinned by test vectors)::

    0   version, 1                     u8
    1   KEY, SET or both               u8
    2   owner's length                 u8
    3   zero                           u8
    4   first stored, Unix ms          u64
    12  digest of the key              16 bytes
    28  owner, UTF-8
    ..  version set                    to the end, empty without SET
"""

from typing import Final, NamedTuple

from sadik.kernels.buffers import Buffer

KEY: Final = 1
"""The owner lacks what this node itself stores under the key: its set as of the delivery is sent."""
SET: Final = 2
"""The owner lacks the version set that follows."""
HEADER_BYTES: Final = 28

class Sifted(NamedTuple):
    """Which of the keys get a new hint, laid out for ``Engine.write_batch``.

    Attributes:
        added: How many.
        places: 16 bytes each.
        name_starts, name_lengths: int64 each.
        name_bytes: Sum of the lengths.
        values: One after another.
        value_offsets: int64, added + 1.
        unreadable: Index of each key where something is that cannot be read; it is among the new ones.
        others: Index of each key where something else is than a hint for it that has no set.
    """

    added: int
    places: bytearray
    name_starts: bytearray
    name_lengths: bytearray
    name_bytes: int
    values: bytearray
    value_offsets: bytearray
    unreadable: list[int]
    others: list[int]

def places(count: int, digests: Buffer, owner_hash: Buffer) -> bytearray:
    """The places of ``count`` hints of one owner.

    Args:
        digests: 16 bytes each.
        owner_hash: At least 9 bytes.
    Raises:
        ValueError: A buffer is too short, or ``count`` < 0.
    Cost: 2 ns each.
    """

def sift(
    count: int,
    digests: Buffer,
    places: Buffer,
    stored_status: Buffer,
    stored: Buffer,
    stored_offsets: Buffer,
    key_value: Buffer,
    name_starts: Buffer,
    name_lengths: Buffer,
) -> Sifted:
    """Tell keys that have a hint from those that need one, and make those.

    Of a key that comes more than once the first counts.

    Args:
        places: Of the digests.
        stored_status, stored, stored_offsets: What is at the places, as the engines' ``read_batch`` gives it.
        key_value: The value of a hint of this owner for any key, without a set: at least HEADER_BYTES and one
        more.
        name_starts, name_lengths: int64 each, copied for those chosen.
    Raises:
        ValueError: A buffer is too short, offsets that do not ascend or lie outside, or ``count`` < 0.
    Cost: 20 to 40 ns each.
    """
