"""A closer look at a record that could not be read: is it rotten, or was the index wrong about its place?"""

from __future__ import annotations

from sadik.kernels import segment
from sadik.storage.log_files import Damage, Log, close_quietly
from sadik.storage.segment_file import DATA_START, Reader, Run, Segment, walk


def inspect(log: Log, digest: bytes) -> bool:
    """A record cannot be read. If its place came from a snapshot, believe the data instead; else remember
    and report it.

    Returns:
        Whether another try can succeed.
    """
    found = log.index.find(digest)
    if found is None or found.flags & segment.FLAG_UNREADABLE or found.seq < log.index.doubt_below:
        return False
    made = log.segments[found.segment]
    if made.trusted:
        made.trusted = False
        if _relocate(log, made) and log.index.find(digest) != found:
            return True
    log.index.flag_unreadable(digest)
    made.damaged = True
    log.damage(Damage(made.number, found.offset, 0, "a read failed its check"))
    return False


def _relocate(log: Log, made: Segment) -> int:
    """Correct the places of a segment's keys by its data; returns how many were wrong."""
    try:
        file = log.files.open(made.path)
    except OSError:
        return 0
    corrected = 0
    try:
        for piece in walk(Reader(file), made.codec, DATA_START, made.end):
            if isinstance(piece, Run):
                corrected += log.index.relocate(made.handle, piece.scan.entries)
    finally:
        close_quietly(file)
    return corrected
