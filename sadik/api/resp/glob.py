"""Redis' glob patterns (KEYS, SCAN MATCH, CONFIG GET, COMMAND LIST), compiled to one regular expression.

``*`` any bytes, ``?`` one byte, ``[a-z]`` and ``[^a-z]`` one byte in or not in a set, ``\\`` takes the
next byte as it is. The oddities are Redis' too: ``]`` always ends a set, so ``[]`` matches nothing; a
set that is never closed ends with the pattern; a range may be given either way round. One differs: Redis
compares range ends as signed bytes, here they are unsigned.

Backtracking is what makes patterns with many stars slow. Between two stars stands a run of fixed length,
so the leftmost place where it fits is as good as any later one: each run but the last is an atomic
group, found once. Matching costs O(pattern * key) at worst.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sadik.api.resp.call import CommandError

PATTERN_BYTES_MAX: Final = 1024
"""Longer patterns are refused: compiling takes up to 30 us a byte, and nobody else is served meanwhile."""

_ANY: Final = rb"[\x00-\xff]"
_NONE: Final = rb"[^\x00-\xff]"


def matcher(pattern: bytes, *, ignore_case: bool = False) -> Callable[[bytes], object]:
    """A function whose result is true for the names that ``pattern`` matches.

    Raises:
        CommandError: A pattern longer than PATTERN_BYTES_MAX.
    """
    if len(pattern) > PATTERN_BYTES_MAX:
        raise CommandError(f"ERR pattern is longer than {PATTERN_BYTES_MAX} bytes")
    first, *later = [b"".join(run) for run in _runs(pattern, ignore_case)]
    if not later:
        return re.compile(first).fullmatch
    *middle, last = later
    found = b"".join(rb"(?>[\x00-\xff]*?%b)" % run for run in middle if run)
    return re.compile(rb"%b%b[\x00-\xff]*%b" % (first, found, last)).fullmatch


def _runs(pattern: bytes, ignore_case: bool) -> list[list[bytes]]:
    """The pattern split at its stars; each item of a run is an expression for exactly one byte."""
    runs: list[list[bytes]] = [[]]
    at = 0
    while at < len(pattern):
        mark = pattern[at : at + 1]
        at += 1
        if mark == b"*":
            runs.append([])
        elif mark == b"?":
            runs[-1].append(_ANY)
        elif mark == b"[":
            expression, at = _set(pattern, at, ignore_case)
            runs[-1].append(expression)
        else:
            if mark == b"\\" and at < len(pattern):
                mark = pattern[at : at + 1]
                at += 1
            runs[-1].append(_one_of(_folded({mark[0]}, ignore_case)))
    return runs


def _set(pattern: bytes, at: int, ignore_case: bool) -> tuple[bytes, int]:
    """The set whose inside starts at ``at``, and where the pattern goes on."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern):
        rest = len(pattern) - at
        if rest >= 2 and pattern[at] == ord("\\"):
            members |= {pattern[at + 1]}
            at += 2
        elif pattern[at] == ord("]"):
            at += 1
            break
        elif rest >= 3 and pattern[at + 1] == ord("-"):
            low, high = sorted((pattern[at], pattern[at + 2]))
            if ignore_case:
                low, high = sorted((_lower(low), _lower(high)))
            members |= set(range(low, high + 1))
            at += 3
        else:
            members |= {pattern[at]}
            at += 1
    members = _folded(members, ignore_case)
    return _one_of(set(range(256)) - members if negated else members), at


def _lower(byte: int) -> int:
    return byte + 32 if 65 <= byte <= 90 else byte


def _folded(members: set[int], ignore_case: bool) -> set[int]:
    """Every byte that equals a member when case is ignored."""
    if not ignore_case:
        return members
    lower = {_lower(byte) for byte in members}
    return {byte for byte in range(256) if _lower(byte) in lower}


def _one_of(members: set[int]) -> bytes:
    """An expression for one byte of ``members``, as short as its contiguous ranges allow."""
    if not members:
        return _NONE
    if len(members) == 1:
        return re.escape(bytes(members))
    starts = sorted(byte for byte in members if byte - 1 not in members)
    ends = sorted(byte for byte in members if byte + 1 not in members)
    return b"[%b]" % b"".join(b"\\x%02x-\\x%02x" % ends_of for ends_of in zip(starts, ends, strict=True))
