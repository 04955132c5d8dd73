"""Administration of the cluster over HTTP: what is ordered arrives as it was meant, or is refused whole."""

from __future__ import annotations

import json

import pytest

from sadik.api.http.cluster import WAIT_MS_DEFAULT, ClusterRoutes
from sadik.errors import InvalidRequest, QuorumMissed, Unavailable
from tests.api.http_harness import Answer, Harness, run

JSON = {"Content-Type": "application/json"}


async def order(http: Harness, path: str, document: object) -> Answer:
    return await http.request("POST", path, JSON, json.dumps(document).encode())


def test_layout_is_staged_planned_and_committed() -> None:
    """The three steps of a change, and the way back."""

    async def test(http: Harness) -> None:
        change = {"action": "join", "node": "n2", "capacity": 50}
        plan = (await order(http, "/v1/layout/stage", change)).json()
        assert plan["changes"] == [change]
        assert (await http.request("GET", "/v1/layout/plan")).json() == plan
        assert (await http.request("DELETE", "/v1/layout/stage")).json()["changes"] == []
        replacing = {"action": "replace", "node": "n1", "with": "n3"}
        await order(http, "/v1/layout/stage", replacing)
        layout = (await order(http, "/v1/layout/commit", {"version": plan["version"]})).json()
        assert layout["version"] == plan["version"]
        assert http.cluster.orders == [
            ("stage", change),
            ("revert",),
            ("stage", replacing),
            ("commit", 2, False),
        ]

    run(test)


def test_commit_that_the_cluster_forbids_is_a_conflict() -> None:
    """409 says that looking again helps; a majority that was not reached is 503, with who said what."""

    async def test(http: Harness) -> None:
        answer = await order(http, "/v1/layout/commit", {"version": 7, "force": True})
        assert (answer.status, answer.json()["code"]) == (409, "CONFLICT")
        assert answer.json()["detail"] == "the plan is of version 2 now"
        assert answer.json()["outcome"] == "refused"
        http.cluster.fault = QuorumMissed("no majority", required=2, received=1, reasons=(("n2", "down"),))
        answer = await order(http, "/v1/layout/commit", {"version": 2})
        assert answer.status == 503
        assert answer.json()["replicas"] == [{"node": "n2", "reason": "down"}]
        http.cluster.fault = InvalidRequest("the layout has this node")
        assert (await order(http, "/v1/leave", {})).status == 409

    run(test)


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/layout/stage", {}),
        ("/v1/layout/stage", {"action": "dance", "node": "n2"}),
        ("/v1/layout/stage", {"action": "join", "node": ""}),
        ("/v1/layout/stage", {"action": "weight", "node": "n2", "capacity": 0}),
        ("/v1/layout/stage", {"action": "join", "node": "n2", "zone": "a"}),
        ("/v1/layout/stage", {"action": "join", "node": "nobody"}),
        ("/v1/layout/stage", []),
        ("/v1/layout/commit", {"version": "2"}),
        ("/v1/layout/commit", {"version": 0}),
        ("/v1/layout/commit", {"force": True}),
        ("/v1/hints/wait", {"timeout_ms": 0}),
        ("/v1/hints/wait", {"timeout_ms": 1 << 40}),
        ("/v1/repair", {"partition": -1}),
        ("/v1/leave", {"node": "n2"}),
    ],
)
def test_orders_that_make_no_sense_are_refused(path: str, document: object) -> None:
    """A member that is misspelt would otherwise be an order for something else."""

    async def test(http: Harness) -> None:
        assert (await order(http, path, document)).status == 400
        assert all(name == "stage" for name, *_ in http.cluster.orders)

    run(test)


def test_hints_and_repair_are_told_and_ordered() -> None:
    """An empty body asks for what is usual."""

    async def test(http: Harness) -> None:
        assert (await http.request("GET", "/v1/members")).json() == http.cluster.members()
        assert (await http.request("GET", "/v1/hints")).json()["owners"][0]["owner"] == "n2"
        assert (await http.request("POST", "/v1/hints/wait", JSON, b"")).status == 200
        assert (await order(http, "/v1/hints/wait", {"timeout_ms": 5})).json()["delivered"] == 3
        assert (await order(http, "/v1/repair", {"partition": 1})).json()["running"] is True
        assert (await order(http, "/v1/repair", {})).status == 200
        assert (await http.request("GET", "/v1/repair")).json()["errors"] == ["n2: timed out"]
        assert http.cluster.orders == [
            ("wait_hints", WAIT_MS_DEFAULT),
            ("wait_hints", 5),
            ("repair", 1),
            ("repair", None),
        ]
        http.cluster.fault = Unavailable("not all hints are delivered after 5 ms")
        assert (await order(http, "/v1/hints/wait", {"timeout_ms": 5})).status == 503

    run(test)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_foreign_web_page_cannot_give_orders(kind: str | None) -> None:
    """A page may make its reader's browser post these types to any address; JSON it may not, unasked."""

    async def test(http: Harness) -> None:
        headers = {} if kind is None else {"Content-Type": kind}
        for path in ("/v1/leave", "/v1/layout/stage", "/v1/repair"):
            assert (await http.request("POST", path, headers, b"{}")).status == 415
        assert http.cluster.orders == []

    run(test)


def test_orders_want_the_secret_and_do_not_wait_for_readiness() -> None:
    """A cluster whose quorums cannot be met is the one that needs its operator."""
    secret = b"correct horse battery"

    async def test(http: Harness) -> None:
        http.coordinator.is_ready = False
        assert (await order(http, "/v1/leave", {})).status == 401
        assert http.cluster.orders == []
        headers = {**JSON, "Authorization": "Bearer " + secret.decode()}
        assert (await http.request("POST", "/v1/leave", headers, b"{}")).status == 200
        assert (await http.request("GET", "/v1/layout", headers)).status == 200

    run(test, secret=secret)


def test_server_without_a_cluster_says_so() -> None:
    """404, and the rest is served."""

    async def test(http: Harness) -> None:
        http.server.application._cluster = ClusterRoutes(None)
        answer = await http.request("GET", "/v1/members")
        assert (answer.status, answer.json()["code"]) == (404, "NOCLUSTER")
        assert (await http.request("GET", "/v1/status")).status == 200

    run(test)
