"""Errors as replies, and what they say of the write they were met by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sadik.api.resp.call import CommandError
from sadik.api.resp.replies import error
from sadik.errors import SadikError

UNKNOWN: Final = "may have been applied"
"""What every error says after which a write may have happened; clients look for it before they try again."""


def refusal(failure: SadikError) -> bytes:
    """The error reply of a failure: a command's own words, or the code of its class in front.

    After an error that may have happened nevertheless it says so.
    """
    if isinstance(failure, CommandError):
        return error(str(failure))
    text = str(failure)
    if getattr(failure, "maybe_applied", False) and UNKNOWN not in text:
        text += f"; it {UNKNOWN}"
    return error(f"{failure.code} {text}")


def refusal_of_parts(failed: Iterable[bytes], *, whole: bool) -> bytes:
    """One error for those that parts of a command met, at least one.

    Args:
        whole: Every part met one; else others were done, and the error says that too.
    """
    # What surely did not happen is less than what nobody knows.
    worst = min(failed, key=lambda reply: UNKNOWN.encode() not in reply)
    known = worst[:-2].decode("latin-1")
    return worst if whole or UNKNOWN in known else error(f"{known[1:]}; other keys of it {UNKNOWN}")
