"""What one request may ask for: quorum sizes, deadline, time to live. The same for RESP and HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sadik.errors import InvalidRequest

_NAMES = ("r", "w", "pr", "pw", "timeout_ms", "ttl_ms")
_TTL_MS_MAX = 1 << 48


@dataclass(frozen=True, slots=True)
class Options:
    """None means the bucket's property, and then the default.

    Attributes:
        r, w: Replies needed by a read, acknowledgements needed by a write.
        pr, pw: The same, counting primaries only.
        timeout_ms: Length of time after which the answer is "unknown".
        ttl_ms: Time to live of the value written.
    """

    r: int | None = None
    w: int | None = None
    pr: int | None = None
    pw: int | None = None
    timeout_ms: int | None = None
    ttl_ms: int | None = None


def parse_options(pairs: Iterable[tuple[str, str]]) -> Options:
    """Options from (name, decimal text) pairs; names in any case.

    Raises:
        InvalidRequest: An unknown or repeated name, or a number that is not positive or out of range.
    """
    found: dict[str, int] = {}
    for name, text in pairs:
        lower = name.lower()
        if lower not in _NAMES:
            raise InvalidRequest(f"unknown option {name!r}; options are {', '.join(_NAMES)}")
        if lower in found:
            raise InvalidRequest(f"option {lower} is given twice")
        if not (text.isascii() and text.isdigit()) or len(text) > 15:
            raise InvalidRequest(f"option {lower} must be a positive whole number, not {text[:40]!r}")
        number = int(text)
        if number < 1 or number > _TTL_MS_MAX:
            raise InvalidRequest(f"option {lower} must be 1 to {_TTL_MS_MAX}, not {number}")
        found[lower] = number
    return Options(**found)
