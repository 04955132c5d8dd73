"""From the bytes of a request's target to a route, a bucket and a key; and names back to text.

Buckets and keys are any bytes. The target is taken as it came in, split at ``/`` first and percent-decoded
once after, so that ``%2F``, ``%00`` and ``%FF`` arrive as the bytes they stand for (a path decoded by a
library loses them). Everything behind ``/v1/kv/{bucket}/`` is the key: a bare ``/`` in it is part of the key,
``+`` is a plus sign, and nothing is normalised. In JSON, names appear percent-encoded, ready to be put into a
path.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sadik.api.http.limits import BUCKET_BYTES_MAX, KEY_BYTES_MAX
from sadik.api.http.problems import Problem
from sadik.errors import InvalidRequest

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_PARAMETERS_MAX: Final = 16
_READ: Final = ("GET", "HEAD")


class Route(Enum):
    """What can be asked for: the path as the OpenAPI document writes it, and the methods it takes."""

    INDEX = ("/", _READ)
    HEALTH = ("/health", _READ)
    READY = ("/ready", _READ)
    METRICS = ("/metrics", _READ)
    OPENAPI = ("/openapi.json", _READ)
    STATUS = ("/v1/status", _READ)
    MEMBERS = ("/v1/members", _READ)
    LAYOUT = ("/v1/layout", _READ)
    PLAN = ("/v1/layout/plan", _READ)
    STAGE = ("/v1/layout/stage", ("POST", "DELETE"))
    COMMIT = ("/v1/layout/commit", ("POST",))
    HINTS = ("/v1/hints", _READ)
    HINTS_WAIT = ("/v1/hints/wait", ("POST",))
    REPAIR = ("/v1/repair", (*_READ, "POST"))
    LEAVE = ("/v1/leave", ("POST",))
    BUCKETS = ("/v1/buckets", _READ)
    BUCKET = ("/v1/buckets/{bucket}", (*_READ, "PUT"))
    KEYS = ("/v1/kv/{bucket}", _READ)
    VALUE = ("/v1/kv/{bucket}/{key}", (*_READ, "PUT", "DELETE"))

    def __init__(self, template: str, methods: tuple[str, ...]) -> None:
        self.template = template
        self.methods = methods


class Target(NamedTuple):
    """A resolved request target; ``bucket`` and ``key`` are empty where the route has none."""

    route: Route
    bucket: bytes
    key: bytes
    query: bytes


_FIXED: Final = {route.template.encode(): route for route in Route if "{" not in route.template}
_BUCKETS: Final = b"/v1/buckets/"
_VALUES: Final = b"/v1/kv/"


def resolve(target: bytes) -> Target:
    """Find the route of a request target, in origin form or absolute form.

    Raises:
        Problem: 404, nothing lives there.
        InvalidRequest: A broken percent-escape, a fragment, or a name of a length that is not allowed.
    """
    if (absolute := _ABSOLUTE.match(target)) is not None:
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise InvalidRequest("a '#' in a request target must be escaped as %23")
    path, _, query = target.partition(b"?")
    if (route := _FIXED.get(path)) is not None:
        return Target(route, b"", b"", query)
    if path.startswith(_VALUES):
        raw_bucket, slash, raw_key = path[len(_VALUES) :].partition(b"/")
        if raw_bucket or slash:
            bucket = _name(raw_bucket, "bucket", BUCKET_BYTES_MAX)
            if not slash:
                return Target(Route.KEYS, bucket, b"", query)
            return Target(Route.VALUE, bucket, _name(raw_key, "key", KEY_BYTES_MAX), query)
    elif path.startswith(_BUCKETS):
        raw_bucket = path[len(_BUCKETS) :]
        if raw_bucket and b"/" not in raw_bucket:
            return Target(Route.BUCKET, _name(raw_bucket, "bucket", BUCKET_BYTES_MAX), b"", query)
    raise Problem(404, "NOROUTE", "nothing lives at this path; /openapi.json lists what does")


def unescape(raw: bytes) -> bytes:
    """Percent-decode once.

    Raises:
        InvalidRequest: A ``%`` without two hexadecimal digits.
    """
    if b"%" not in raw:
        return raw
    if (bad := _BAD_ESCAPE.search(raw)) is not None:
        raise InvalidRequest(f"broken percent-escape at byte {bad.start()} of a name or parameter")
    return unquote_to_bytes(raw)


def escape(name: bytes) -> str:
    """A name as one path segment: every byte but unreserved characters escaped; ``unescape`` gives it
    back.
    """
    return quote_from_bytes(name, safe="")


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """Name and value of each parameter, in order; one without ``=`` has an empty value.

    Raises:
        InvalidRequest: A broken escape, text that is not UTF-8, or too many parameters.
    """
    parts = [part for part in query.split(b"&") if part]
    if len(parts) > _PARAMETERS_MAX:
        raise InvalidRequest(f"more than {_PARAMETERS_MAX} query parameters")
    pairs: list[tuple[str, str]] = []
    for part in parts:
        name, _, value = part.partition(b"=")
        try:
            pairs.append((unescape(name).decode(), unescape(value).decode()))
        except UnicodeDecodeError:
            raise InvalidRequest("a query parameter is not UTF-8") from None
    return pairs


def _name(raw: bytes, what: str, bytes_max: int) -> bytes:
    name = unescape(raw)
    if not 1 <= len(name) <= bytes_max:
        raise InvalidRequest(f"a {what} is 1 to {bytes_max} bytes, not {len(name)}")
    return name
