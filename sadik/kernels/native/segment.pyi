"""Bytes of the log engine's segments: record encode, check, scan and copy, CRC-32C. Pure: buffers in, buffers
out.

``docs/segment-format.md`` gives the bytes. A record carries: sequence number, 16-byte digest, space (u32),
flags (u8), name, value. Its header has a CRC of its own, so that a damaged value still tells whose it was;
both CRCs also depend on the segment's 16-byte random salt and the record's offset, so nothing inside a user's
value, nor a record copied from elsewhere, can pass for a record.

An *entry* is one record as an index lists it, 40 bytes little-endian: digest, sequence number u64, offset
u32, length u32 (of the whole record), space u32, flags u8, three zero bytes.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sadik.kernels.buffers import Buffer

PATHS: Final[tuple[str, ...]]
"""Ways to compute a CRC that this processor has, the best first."""
RECORD_HEADER_BYTES: Final[int]
INDEX_ENTRY_BYTES: Final[int]
SEQ_MAX: Final[int]
"""Greatest sequence number, 2**48 - 1; the least is 1."""
FLAG_REMOVED: Final[int]
"""The record says: no value any more. The engine's tombstone; its value is empty."""
FLAG_DEAD: Final[int]
"""The caller says: no live value inside (all siblings are tombstones). Kept, but not counted as a key."""
FLAG_SYSTEM: Final[int]
"""The engine's own small table (``Engine.system_put``); not part of the keydir."""
FLAG_UNREADABLE: Final[int]
"""In entries only: the header is sound and the body is not."""
FLAG_MARK: Final[int]
"""How far the file is durable; never an entry."""
FLAG_FOOTER: Final[int]
"""Last record of a sealed segment; never an entry."""
END: Final[int]
MORE: Final[int]
BROKEN: Final[int]

class Scan(NamedTuple):
    """Records that follow one another without a gap.

    Attributes:
        entries: Of all but marks and footers, in file order; of records with a bad body too, flagged
            ``FLAG_UNREADABLE``.
        stop: Offset behind the last record.
        reason: ``END``: all was read. ``MORE``: give at least ``need`` bytes from ``stop`` on. ``BROKEN``: no
            sound header at ``stop``.
        durable: Greatest durable offset that a mark states, 0 when there is no mark.
        footer: Offset of the footer, -1 when there is none.
        seq_first: Sequence number of the first record, 0 when there is no record.
        seq_next: One more than that of the last record; that of the last one itself when it is a mark or
            footer.
    """

    entries: bytes
    stop: int
    reason: int
    need: int
    durable: int
    footer: int
    seq_first: int
    seq_next: int

class Record(NamedTuple):
    """One record, decoded."""

    seq: int
    digest: bytes
    space: int
    flags: int
    name: bytes
    value: bytes

def use_path(name: str) -> None:
    """Compute CRCs of this module by one of ``PATHS``; for tests. ValueError when it is not there."""

def crc32c(data: Buffer, seed: int = 0) -> int:
    """CRC-32C (Castagnoli) of ``data``, continuing from ``seed``, the CRC of what came before.

    Cost: about 8 bytes a nanosecond with the processor's instruction, 1 without.
    """

class Codec:
    """Reads and writes the records of one segment, known by its salt of 16 bytes (more are ignored)."""

    def __init__(self, salt: Buffer) -> None: ...
    def encode(
        self,
        offset: int,
        seq: int,
        digest: Buffer,
        name: Buffer,
        value: Buffer,
        space: int = 0,
        flags: int = 0,
    ) -> bytes:
        """One record for ``offset``.

        Raises:
            ValueError: A length or the sequence number is out of range.
            OverflowError: The record would reach beyond 4 GiB, or a number does not fit its field.
        Cost: about 0.15 us and 0.2 us per KiB.
        """

    def encode_many(
        self, offset: int, seq: int, items: Sequence[tuple[bytes, bytes, bytes]], space: int = 0
    ) -> bytes:
        """Records of (digest, name, value) one after another, with rising sequence numbers. Raises as
        ``encode``; TypeError unless all are bytes.
        """

    def encode_batch(
        self,
        offset: int,
        seq: int,
        count: int,
        digests: Buffer,
        names: Buffer,
        name_starts: Buffer,
        name_lengths: Buffer,
        values: Buffer,
        value_offsets: Buffer,
        spaces: Buffer,
        flags: Buffer,
    ) -> bytes:
        """Records of the operations whose value is not empty, with rising sequence numbers; arguments as
        ``Engine.write_batch``.

        Raises:
            ValueError: An array is short, a slice lies outside of its buffer, a flag is not the caller's, or
                as ``encode``.
        Cost: about 50 ns an operation of 100 bytes.
        """

    def scan(self, data: Buffer, base: int, end: int) -> Scan:
        """Read records from the start of ``data``, which lies at offset ``base`` of a segment whose records
        end at ``end``.

        Every check is made, the body's too. A sound header whose body reaches beyond ``end`` is an unreadable
        record to the end.

        Raises:
            ValueError: ``data`` reaches beyond ``end``, or ``end`` beyond 4 GiB.
        Cost: about 40 ns a record of 160 bytes.
        """

    def find(self, data: Buffer, base: int, start: int) -> int:
        """Offset of the first sound record header at or behind ``start`` that lies whole in ``data``, -1 when
        there is none.

        Cost: a search for one byte of the salt, about 0.1 ns a byte in ordinary data; 10 ns a byte at worst.
        """

    def decode(self, data: Buffer, base: int, offset: int) -> Record:
        """The record at ``offset``.

        Raises:
            CorruptRecord: It is not one, or fails a check.
            ValueError: ``offset`` is outside of the data.
        """

    def recode(
        self, source: Codec, data: Buffer, base: int, entries: Buffer, mask: Buffer, offset: int
    ) -> tuple[bytes, int, int, int]:
        """Copies of a source segment's records as records of this one, from ``offset`` on: new place, same
        number, same body.

        Args:
            data: The source's bytes at ``base``, as given to ``scan``; ``entries`` what it found.
            mask: A byte for each entry; not zero means copy.
        Returns:
            The records, how many, their smallest and greatest sequence numbers (``SEQ_MAX`` and 0 when none).
        Raises:
            CorruptRecord: The data no longer has a sound header there.
            ValueError: An entry lies outside of the data.
        """
