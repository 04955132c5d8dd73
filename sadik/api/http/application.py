"""From a parsed request to an answer: routing, authorisation, the coordinator, and what is counted.

Decisions a client can see:

* ``/health`` and ``/ready`` are open; all else, ``/metrics`` too, wants the node's secret where it has one
  (``Authorization: Bearer secret``, or Basic with any user name).
* ``Accept: application/json`` always gives the JSON shape, for one value as for siblings. Without it one
  value is 200 with its own type, several are 300 ``multipart/mixed``. Nothing is 404, a problem document that
  also has ``siblings: []`` and the ``context`` of a tombstone.
* Preconditions on writes (``If-Match`` and its kind) are refused: an eventually consistent store cannot keep
  what they promise; a context says what a write replaces. ``If-None-Match`` of a read is honoured.
* Parameters that are not known are refused, except on ``/health``, ``/ready`` and ``/metrics``, whose callers
  add their own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web

from sadik import __version__
from sadik.api.http import bodies, openapi, page, problems
from sadik.api.http.cluster import Cluster, ClusterRoutes
from sadik.api.http.connection import Connection
from sadik.api.http.coordinator import Coordinator
from sadik.api.http.instruments import HttpInstruments
from sadik.api.http.limits import METADATA_BYTES_MAX, HttpLimits
from sadik.api.http.paths import Route, Target, escape, parse_query, resolve
from sadik.api.http.problems import Problem
from sadik.api.http.transfers import ByteBudget, Reservation, read_body, send
from sadik.env.clock import Clock
from sadik.errors import InvalidContext, InvalidRequest, LimitReached
from sadik.metrics import Registry, expose
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options, parse_options

if TYPE_CHECKING:
    from sadik.kernels import versions
    from sadik.node.coordinator.outcomes import Explanation

_log = logging.getLogger("sadik.http")

_JSON: Final = "application/json"
_OPEN: Final = (Route.HEALTH, Route.READY)
_ANY_QUERY: Final = (*_OPEN, Route.METRICS)
_NEEDS_READY: Final = (Route.VALUE, Route.KEYS, Route.BUCKETS, Route.BUCKET)
_PRECONDITIONS: Final = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_KEYS_DEFAULT: Final = 100
_KEYS_MAX: Final = 1000
_KEYS_STEP: Final = 64
"""Keys looked at between two turns of the event loop."""
_PAGE_BYTES_MAX: Final = 1 << 20
"""A page of keys ends early beyond this: keys may be 64 KiB each."""
_FALSE: Final = ("0", "false")
_TRUE: Final = ("", "1", "true")


class Asked(NamedTuple):
    """One request on its way to an answer."""

    request: web.BaseRequest
    target: Target
    reservation: Reservation


class Application:
    """Answers the requests of all connections; holds no state of its own but the budget of bytes in
    transfer.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        cluster: Cluster | None,
        *,
        registry: Registry,
        instruments: HttpInstruments,
        clock: Clock,
        limits: HttpLimits,
        secret: bytes | None,
    ) -> None:
        self._coordinator = coordinator
        self._cluster = ClusterRoutes(cluster)
        self._registry = registry
        self._instruments = instruments
        self._clock = clock
        self._limits = limits
        self._secret = secret
        self._served = False
        self.budget = ByteBudget(limits.transfer_bytes_max)
        self._handlers: dict[Route, Callable[[Asked], Awaitable[web.Response]]] = {
            Route.INDEX: self._index,
            Route.HEALTH: self._health,
            Route.READY: self._ready,
            Route.METRICS: self._metrics,
            Route.OPENAPI: self._openapi,
            Route.STATUS: self._status,
            **dict.fromkeys(self._cluster.routes, self._administration),
            Route.BUCKETS: self._buckets,
            Route.BUCKET: self._bucket,
            Route.KEYS: self._keys,
            Route.VALUE: self._value,
        }
        self._document = msgspec.json.encode(openapi.document(limits))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; the only entry."""
        connection = cast(Connection, request.protocol)
        connection.on_request_start()
        started_ns = self._clock.monotonic_ns()
        route: Route | None = None
        try:
            with self.budget.reserve() as reservation:
                try:
                    _check_version(request)
                    target = resolve(request.raw_path.encode(errors="surrogateescape"))
                    route = target.route
                    response = await self._answer(Asked(request, target, reservation))
                except Exception as error:  # noqa: BLE001  Whatever a request meets, its client gets an answer.
                    response = problems.render(self._problem(request, error))
                response.headers["Server"] = "sadik"
                response.headers["X-Content-Type-Options"] = "nosniff"
                seconds = (self._clock.monotonic_ns() - started_ns) / 1e9
                self._instruments.count(route, request.method, response, seconds)
                if not await send(request, response, reservation, self._limits):
                    self._instruments.cut_off.add()
        finally:
            connection.on_request_end()
        return response

    def _problem(self, request: web.BaseRequest, error: Exception) -> Problem:
        problem = problems.from_error(error, writing=request.method not in ("GET", "HEAD"))
        if problem.status == 500:
            _log.error("%s failed: %s", request.method, problem.detail, exc_info=error)
        return problem

    async def _answer(self, asked: Asked) -> web.Response:
        request, target, _ = asked
        route = target.route
        if route not in _OPEN and self._secret is not None and not self._authorized(request):
            challenge = {"WWW-Authenticate": 'Bearer realm="sadik", Basic realm="sadik"'}
            raise Problem(401, "NOAUTH", "this node wants its secret", headers=challenge, close=True)
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            detail = f"{route.template} takes {allowed}"
            raise Problem(405, "METHOD", detail, headers={"Allow": allowed}, close=request.can_read_body)
        if route in _NEEDS_READY and not self._served:
            # Asked until the first yes: later a missed quorum is an outcome of each request.
            self._served = self._coordinator.was_ready()
            if not self._served:
                raise problems.loading()
        if route not in _ANY_QUERY and route not in (Route.VALUE, Route.KEYS) and target.query:
            raise InvalidRequest(f"{route.template} takes no query parameters")
        return await self._handlers[route](asked)

    def _authorized(self, request: web.BaseRequest) -> bool:
        assert self._secret is not None
        offered = request.headers.getall("Authorization", [])
        if len(offered) != 1:
            return False
        scheme, _, credentials = offered[0].strip().partition(" ")
        given = credentials.strip().encode(errors="surrogateescape")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        # Takes the same time whatever was guessed right.
        return hmac.compare_digest(given, self._secret)

    async def _value(self, asked: Asked) -> web.Response:
        request, target, reservation = asked
        pairs = parse_query(target.query)
        explain = _flag([value for name, value in pairs if name.lower() == "explain"], "explain")
        options = parse_options(pair for pair in pairs if pair[0].lower() != "explain")
        if request.method in ("GET", "HEAD"):
            if explain:
                return _json(_explanation(await self._coordinator.explain(target.bucket, target.key)))
            return await self._read(request, target, options)
        if explain:
            raise InvalidRequest("explain goes with GET")
        for name in _PRECONDITIONS:
            if name in request.headers:
                raise InvalidRequest(
                    f"{name} cannot be promised here; hand back {bodies.CONTEXT_HEADER} instead"
                )
        context = _context(request)
        if request.method == "PUT":
            metadata = _metadata(request)
            payload = await read_body(request, self._limits.value_bytes_max, reservation, self._limits)
            self._instruments.received_bytes.add(len(payload))
            written = await self._coordinator.write(
                target.bucket, target.key, payload, context=context, metadata=metadata, options=options
            )
        else:
            written = await self._coordinator.delete(
                target.bucket, target.key, context=context, options=options
            )
        response = web.Response(status=204)
        if written.context:
            response.headers[bodies.CONTEXT_HEADER] = written.context.decode("ascii")
        return response

    async def _read(self, request: web.BaseRequest, target: Target, options: Options) -> web.Response:
        siblings, context = await self._coordinator.read(target.bucket, target.key, options)
        headers = {"Vary": "Accept", "Cache-Control": "no-cache"}
        if context:
            headers[bodies.CONTEXT_HEADER] = context.decode("ascii")
        if not siblings:
            members = {"context": context.decode("ascii"), "siblings": []}
            raise Problem(404, "NOTFOUND", "the key has no value", members=members, headers=headers)
        as_json = _wants_json(request)
        form = "json" if as_json else "one" if len(siblings) == 1 else "multipart"
        headers["ETag"] = bodies.entity_tag(siblings, form)
        if _unchanged(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        # What users store is never a document of this node: a browser must not run it with the node's rights.
        headers["Content-Security-Policy"] = "sandbox"
        body, described = _represent(siblings, context, form)
        return web.Response(
            status=200 if len(siblings) == 1 else 300, body=body, headers={**headers, **described}
        )

    async def _keys(self, asked: Asked) -> web.Response:
        target = asked.target
        given: dict[str, int] = {"cursor": 0, "count": _KEYS_DEFAULT}
        seen: set[str] = set()
        for name, text in parse_query(target.query):
            if name not in given or name in seen:
                raise InvalidRequest("keys are listed with cursor and count, each at most once")
            if not (text.isascii() and text.isdigit()) or len(text) > 19:
                raise InvalidRequest(f"{name} is a number, or the cursor of the page before")
            seen.add(name)
            given[name] = int(text)
        if not 1 <= given["count"] <= _KEYS_MAX:
            raise InvalidRequest(f"count must be 1 to {_KEYS_MAX}, not {given['count']}")
        keys: list[str] = []
        size = 0
        cursor = given["cursor"]
        left = given["count"]
        while True:
            page_of_keys = await self._coordinator.scan(target.bucket, cursor, min(left, _KEYS_STEP))
            keys += map(escape, page_of_keys.keys)
            size += sum(map(len, page_of_keys.keys))
            cursor = page_of_keys.cursor
            left -= _KEYS_STEP
            if cursor == 0 or left <= 0 or size >= _PAGE_BYTES_MAX:
                break
            # A page of a thousand keys is many reads of the engine: let other requests in between.
            await asyncio.sleep(0)
        return _json({"keys": keys, "cursor": str(cursor) if cursor else None})

    async def _buckets(self, asked: Asked) -> web.Response:
        return _json({"buckets": [escape(name) for name in self._coordinator.buckets()]})

    async def _bucket(self, asked: Asked) -> web.Response:
        request, target, reservation = asked
        if request.method == "PUT":
            body = await read_body(request, self._limits.document_bytes_max, reservation, self._limits)
            self._instruments.received_bytes.add(len(body))
            try:
                properties = msgspec.json.decode(body, type=BucketProperties)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidRequest(f"these are no bucket properties: {error}") from None
            await self._coordinator.set_properties(target.bucket, properties)
        return _json(self._coordinator.properties(target.bucket))

    async def _status(self, asked: Asked) -> web.Response:
        return _json(self._coordinator.status())

    async def _administration(self, asked: Asked) -> web.Response:
        request, target, reservation = asked
        body = b""
        if request.method == "POST":
            if request.content_type != _JSON:
                raise Problem(
                    415, "ERR", f"{target.route.template} takes {_JSON}", close=request.can_read_body
                )
            body = await read_body(request, self._limits.document_bytes_max, reservation, self._limits)
            self._instruments.received_bytes.add(len(body))
        return _json(await self._cluster.answer(target.route, request.method, body))

    async def _health(self, asked: Asked) -> web.Response:
        return _json({"status": "ok"})

    async def _ready(self, asked: Asked) -> web.Response:
        if not self._coordinator.ready():
            raise problems.loading()
        return _json({"status": "ready"})

    async def _metrics(self, asked: Asked) -> web.Response:
        body, content_type = expose(self._registry, ",".join(asked.request.headers.getall("Accept", [])))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _openapi(self, asked: Asked) -> web.Response:
        return web.Response(body=self._document, headers={"Content-Type": _JSON})

    async def _index(self, asked: Asked) -> web.Response:
        body = page.render(__version__, self._coordinator.ready(), self._coordinator.status())
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": page.POLICY}
        return web.Response(body=body, headers=headers)


def _check_version(request: web.BaseRequest) -> None:
    """Refuse what the parser also takes: HTTP/0.9, which has no status line, and 2.0, which is no text."""
    if request._version not in (HttpVersion10, HttpVersion11):
        # aiohttp answers in the request's version, at the first look at it: the refusal must not claim to be
        # either.
        request._version = HttpVersion11
        raise Problem(505, "ERR", "this server speaks HTTP/1.0 and HTTP/1.1", close=True)


def _json(document: object) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, headers={"Content-Type": _JSON, "Cache-Control": "no-cache"})


def _represent(siblings: list[versions.Value], context: bytes, form: str) -> tuple[bytes, dict[str, str]]:
    """The body of an answer in one of the three forms, and the headers that describe it."""
    if form == "json":
        return bodies.siblings_json(siblings, context), {"Content-Type": _JSON}
    if form == "one":
        return siblings[0].payload, bodies.value_headers(siblings[0])
    body, boundary = bodies.siblings_multipart(siblings)
    return body, {"Content-Type": f"multipart/mixed; boundary={boundary}"}


def _context(request: web.BaseRequest) -> bytes | None:
    given = request.headers.getall(bodies.CONTEXT_HEADER, [])
    if len(given) > 1:
        raise InvalidRequest(f"{bodies.CONTEXT_HEADER} is given twice")
    if not given:
        return None
    if not given[0].isascii():
        raise InvalidContext("a context is ASCII text as an answer gave it")
    return given[0].encode("ascii")


def _metadata(request: web.BaseRequest) -> bytes:
    prefix = bodies.METADATA_PREFIX.lower()
    fields = [
        (name[len(prefix) :], text)
        for name, text in request.headers.items()
        if len(name) >= len(prefix) and name[: len(prefix)].lower() == prefix
    ]
    # Measured before encoding, so that what could never fit is not even copied.
    if sum(len(name) + len(text) for name, text in fields) > 2 * METADATA_BYTES_MAX:
        raise LimitReached(f"content type and metadata take at most {METADATA_BYTES_MAX} bytes")
    return bodies.encode_metadata(request.headers.get("Content-Type"), fields)


def _flag(given: list[str], name: str) -> bool:
    if len(given) > 1 or (given and given[0].lower() not in (*_TRUE, *_FALSE)):
        raise InvalidRequest(f"{name} is 1 or 0, and given once")
    return bool(given) and given[0].lower() in _TRUE


def _wants_json(request: web.BaseRequest) -> bool:
    """Whether ``Accept`` names JSON, and does not prefer multipart to it."""
    weights = {_JSON: 0.0, "multipart/mixed": 0.0}
    for item in ",".join(request.headers.getall("Accept", [])).split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        if kind in weights:
            texts = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
            try:
                weights[kind] = min(1.0, float(texts[0])) if texts else 1.0
            except ValueError:
                weights[kind] = 0.0
    return weights[_JSON] > 0.0 and weights[_JSON] >= weights["multipart/mixed"]


def _unchanged(request: web.BaseRequest, tag: str) -> bool:
    """Whether ``If-None-Match`` holds the tag; weak comparison, as RFC 9110 wants for it."""
    tags = [item.strip() for item in ",".join(request.headers.getall("If-None-Match", [])).split(",")]
    return "*" in tags or tag in [item.removeprefix("W/") for item in tags]


def _explanation(explanation: Explanation) -> dict[str, object]:
    """As JSON. Ids and stamps are uint64, which JSON numbers do not carry everywhere: they are hexadecimal
    text.
    """
    document: dict[str, object] = explanation._asdict()
    document["bucket"] = escape(explanation.bucket)
    document["key"] = escape(explanation.key)
    document["token"] = f"{explanation.token:016x}"
    document["replicas"] = [
        {
            **replica._asdict(),
            "entries": [
                {"actor": f"{actor:016x}", "stamp": f"{stamp:016x}"} for actor, stamp in replica.entries
            ],
        }
        for replica in explanation.replicas
    ]
    return document
