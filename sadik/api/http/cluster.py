"""The cluster's administration over HTTP: members, layout, hints and repair, as documents of JSON.

Everything here is for operators and their programs; it works before the node is ready to serve data. A body
must say that it is JSON: a web page somewhere else can make a browser send any other body to this node, but
not that one without asking first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

import msgspec

from sadik.api.http.paths import Route
from sadik.api.http.problems import Problem
from sadik.errors import InvalidRequest

Document = Mapping[str, Any]

WAIT_MS_DEFAULT: Final = 60_000
WAIT_MS_MAX: Final = 24 * 3600 * 1000


class Cluster(Protocol):
    """The cluster as its operator sees it from one node; every method raises the errors of ``sadik.errors``.

    Documents hold plain values; ``openapi_cluster`` says which.
    """

    def members(self) -> Document:
        """Everybody the cluster knows of."""
        ...

    def layout(self) -> Document:
        """Who owns what, and what is staged."""
        ...

    async def plan(self) -> Document:
        """What a commit would do now."""
        ...

    async def stage(self, change: Mapping[str, Any]) -> Document:
        """Stage ``{"action", "node", "capacity"?, "with"?}``; the plan with it. Raises InvalidRequest."""
        ...

    async def revert(self) -> Document:
        """Take back what is staged; the plan without it."""
        ...

    async def commit(self, version: int, *, force: bool) -> Document:
        """Make the plan of that version the layout.

        Raises:
            InvalidRequest: It is another plan now, or it would move data.
            Unavailable: Too few nodes agree.
        """
        ...

    def hints(self) -> Document:
        """Hints that this node keeps."""
        ...

    async def wait_hints(self, timeout_ms: int) -> Document:
        """Return once every hint of now is delivered or expired. Raises Unavailable."""
        ...

    def repair(self, partition: int | None) -> Document:
        """Compare with the other replicas now. Raises InvalidRequest for a partition that is not there."""
        ...

    def repair_status(self) -> Document:
        """How far that is."""
        ...

    async def leave(self) -> Document:
        """Leave the cluster for good. Raises InvalidRequest while the layout has this node."""
        ...


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is posted; a member that is not known is refused, for it would be ignored otherwise."""


class Change(_Asked, frozen=True):
    """One change to stage."""

    action: Literal["join", "leave", "weight", "replace"]
    node: Annotated[str, msgspec.Meta(min_length=1)]
    capacity: Annotated[int, msgspec.Meta(ge=1)] | None = None
    with_: str | None = msgspec.field(name="with", default=None)

    def given(self) -> dict[str, Any]:
        """Without what was not said."""
        found = {"action": self.action, "node": self.node, "capacity": self.capacity, "with": self.with_}
        return {name: value for name, value in found.items() if value is not None}


class CommitOrder(_Asked, frozen=True):
    version: Annotated[int, msgspec.Meta(ge=1)]
    force: bool = False


class WaitOrder(_Asked, frozen=True):
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=WAIT_MS_MAX)] = WAIT_MS_DEFAULT


class RepairOrder(_Asked, frozen=True):
    partition: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Nothing(_Asked, frozen=True):
    """No members at all."""


_AskedT = TypeVar("_AskedT", bound=_Asked)


class ClusterRoutes:
    """Answers the routes of administration; without a cluster each of them is 404."""

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._answers: Mapping[tuple[Route, str], Callable[[Cluster, bytes], Awaitable[Document]]] = {
            (Route.MEMBERS, "GET"): _members,
            (Route.LAYOUT, "GET"): _layout,
            (Route.PLAN, "GET"): _plan,
            (Route.STAGE, "POST"): _stage,
            (Route.STAGE, "DELETE"): _revert,
            (Route.COMMIT, "POST"): _commit,
            (Route.HINTS, "GET"): _hints,
            (Route.HINTS_WAIT, "POST"): _wait_hints,
            (Route.REPAIR, "GET"): _repair_status,
            (Route.REPAIR, "POST"): _repair,
            (Route.LEAVE, "POST"): _leave,
        }

    @property
    def routes(self) -> frozenset[Route]:
        """What is answered here."""
        return frozenset(route for route, _ in self._answers)

    async def answer(self, route: Route, method: str, body: bytes) -> Document:
        """The document of one request.

        Raises:
            Problem: 404 without a cluster, 409 for an order that the state of the cluster forbids.
            InvalidRequest: A body that is not what the route takes.
        """
        if self._cluster is None:
            raise Problem(404, "NOCLUSTER", "this server knows nothing of a cluster")
        return await self._answers[route, "GET" if method == "HEAD" else method](self._cluster, body)


async def _members(cluster: Cluster, body: bytes) -> Document:
    return cluster.members()


async def _layout(cluster: Cluster, body: bytes) -> Document:
    return cluster.layout()


async def _plan(cluster: Cluster, body: bytes) -> Document:
    return await cluster.plan()


async def _stage(cluster: Cluster, body: bytes) -> Document:
    return await cluster.stage(_read(body, Change).given())


async def _revert(cluster: Cluster, body: bytes) -> Document:
    return await cluster.revert()


async def _commit(cluster: Cluster, body: bytes) -> Document:
    order = _read(body, CommitOrder)
    try:
        return await cluster.commit(order.version, force=order.force)
    except InvalidRequest as refused:
        raise _conflict(refused) from refused


async def _hints(cluster: Cluster, body: bytes) -> Document:
    return cluster.hints()


async def _wait_hints(cluster: Cluster, body: bytes) -> Document:
    return await cluster.wait_hints(_read(body, WaitOrder).timeout_ms)


async def _repair(cluster: Cluster, body: bytes) -> Document:
    return cluster.repair(_read(body, RepairOrder).partition)


async def _repair_status(cluster: Cluster, body: bytes) -> Document:
    return cluster.repair_status()


async def _leave(cluster: Cluster, body: bytes) -> Document:
    _read(body, Nothing)
    try:
        return await cluster.leave()
    except InvalidRequest as refused:
        raise _conflict(refused) from refused


def _read(body: bytes, kind: type[_AskedT]) -> _AskedT:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"this is not what is taken here: {error}") from None


def _conflict(refused: InvalidRequest) -> Problem:
    """The order is well-formed, and the cluster is in another state than it supposes."""
    return Problem(409, "CONFLICT", str(refused), members={"outcome": "refused"})
