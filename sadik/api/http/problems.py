"""What an error looks like to an HTTP client: a status, and a problem document (RFC 9457).

Members beyond the standard's: ``code``, the stable word of the error; for requests that reached the cluster
``outcome`` (``refused``: surely nothing was changed; ``unknown``: a write may have been applied), and where a
quorum was missed ``required``, ``received`` and ``replicas`` (each replica's reason).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from sadik.errors import (
    CorruptRecord,
    InternalError,
    InvalidRequest,
    LimitReached,
    Overloaded,
    QuorumMissed,
    SadikError,
    StorageError,
    StorageFull,
    Unavailable,
)

MEDIA_TYPE: Final = "application/problem+json"

_RETRY_S: Final = 1
"""What ``Retry-After`` says: overload and start-up pass in about this time, and less could not be said in
seconds.
"""

# By the most derived class first. Everything else is our bug.
_STATUS: Final[tuple[tuple[type[SadikError], int], ...]] = (
    (LimitReached, 422),
    (InvalidRequest, 400),
    (Unavailable, 503),
    (StorageFull, 507),
    (CorruptRecord, 500),
    (StorageError, 503),
)


class Problem(SadikError):
    """An error that has its HTTP status already.

    Attributes:
        members: Further members of the document.
        headers: Further headers of the answer.
        close: The connection cannot go on, for example because the body was not read.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        members: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.members = dict(members or {})
        self.headers = dict(headers or {})
        self.close = close


def loading() -> Problem:
    """The node has started and cannot serve data yet."""
    return Problem(503, "LOADING", "the node is starting and cannot serve data yet", headers=_retry())


def busy(detail: str, *, close: bool = False) -> Problem:
    """A limit over all connections is reached; nothing was done."""
    return Problem(
        503, Overloaded.code, detail, members={"outcome": "refused"}, headers=_retry(), close=close
    )


def from_error(error: BaseException, *, writing: bool) -> Problem:
    """The problem that stands for an exception of a coordinator, or of our own code.

    Args:
        writing: The request was a write, so an error nobody foresaw leaves its outcome unknown.
    """
    if isinstance(error, Problem):
        return error
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if not isinstance(error, SadikError) or isinstance(error, InternalError):
        # The text of a bug may show a user's data or a path; it goes to the log only.
        outcome = "unknown" if writing else "refused"
        detail = "an internal error; the node's log has more"
        return Problem(500, InternalError.code, detail, members={"outcome": outcome})
    members: dict[str, object] = {}
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable | StorageError):
        members["outcome"] = "unknown" if error.maybe_applied else "refused"
    if isinstance(error, QuorumMissed):
        members["required"], members["received"] = error.required, error.received
        members["replicas"] = [{"node": node, "reason": reason} for node, reason in error.reasons]
    if isinstance(error, Overloaded):
        headers = _retry()
    return Problem(status, error.code, str(error), members=members, headers=headers)


def document(problem: Problem) -> bytes:
    """The problem document."""
    members = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        # Bytes of a request that are no text come as lone surrogates, which JSON cannot hold.
        "detail": problem.detail.encode(errors="backslashreplace").decode(),
        "code": problem.code,
        **problem.members,
    }
    return msgspec.json.encode(members, enc_hook=str)


def render(problem: Problem) -> web.Response:
    """The answer that carries a problem."""
    headers = {"Content-Type": MEDIA_TYPE, **problem.headers}
    response = web.Response(status=problem.status, body=document(problem), headers=headers)
    if problem.close:
        response.force_close()
    return response


def _retry() -> dict[str, str]:
    return {"Retry-After": str(_RETRY_S)}
