"""Everything beside single values: listings, bucket properties, state, metrics, who may ask."""

from __future__ import annotations

import asyncio
import base64
from urllib.parse import unquote_to_bytes

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sadik.api.http.paths import Route
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import KeyPage
from tests.api.http_harness import Harness, run

SECRET = b"correct horse battery"
READABLE = ["/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/status", "/v1/layout", "/v1/buckets"]


def test_keys_are_listed_in_pages_to_the_end() -> None:
    """Each key once; the cursor of one page opens the next, and the last has none."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        keys = [f"k/{i:04}".encode() + b"\xff" for i in range(300)]
        for key in keys:
            target = b"/v1/kv/b/" + key.replace(b"\xff", b"%FF")
            assert (await client.request("PUT", target, {}, b"")).status == 204
        found: list[bytes] = []
        sizes = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await client.request("GET", f"/v1/kv/b?count=130&cursor={cursor or 0}")).json()
            found += map(unquote_to_bytes, page["keys"])
            sizes.append(len(page["keys"]))
            cursor = page["cursor"]
        assert found == keys
        assert sizes == [130, 130, 40]
        assert all(count <= 64 for name, *_, count in http.coordinator.calls if name == "scan")

    run(test)


def test_other_requests_run_while_keys_are_listed() -> None:
    """A page is many reads of the engine; between them the loop turns."""

    async def test(http: Harness) -> None:
        for number in range(200):
            await http.coordinator.write(
                b"b", b"%d" % number, b"", context=None, metadata=b"", options=Options()
            )
        turns = 0
        turn_of_scan = []
        scan = http.coordinator.scan

        async def watched(bucket: bytes, cursor: int, count: int) -> KeyPage:
            turn_of_scan.append(turns)
            return await scan(bucket, cursor, count)

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        http.coordinator.scan = watched  # type: ignore[method-assign]
        turning = asyncio.create_task(turn())
        assert len((await http.request("GET", "/v1/kv/b?count=1000")).json()["keys"]) == 200
        turning.cancel()
        assert len(turn_of_scan) == len(set(turn_of_scan)) == 4

    run(test)


def test_a_page_of_long_keys_ends_early() -> None:
    """A thousand keys of 64 KiB would be an answer of 192 MiB."""

    async def test(http: Harness) -> None:
        for number in range(130):
            await http.coordinator.write(
                b"b",
                b"%03d" % number + b"\x00" * 20_000,
                b"",
                context=None,
                metadata=b"",
                options=Options(),
            )
        page = (await http.request("GET", "/v1/kv/b?count=1000")).json()
        assert len(page["keys"]) == 64
        rest = (await http.request("GET", f"/v1/kv/b?count=1000&cursor={page['cursor']}")).json()
        assert len(rest["keys"]) == 64

    run(test)


@pytest.mark.parametrize(
    "query",
    ["count=0", "count=1001", "count=x", "count=1&count=1", "cursor=-1", "cursor=", "page=2", "cursor=%zz"],
)
def test_bad_listings_are_refused(query: str) -> None:
    """A cursor is what a page gave, a count is 1 to 1000."""

    async def test(http: Harness) -> None:
        answer = await http.request("GET", f"/v1/kv/b?{query}")
        assert (answer.status, answer.json()["code"]) == (400, "ERR")

    run(test)


def test_bucket_properties_are_replaced_as_a_whole() -> None:
    """What a PUT leaves out takes its default, so that the document says everything."""

    async def test(http: Harness) -> None:
        defaults = (await http.request("GET", "/v1/buckets/a%2Fb")).json()
        assert (defaults["n"], defaults["lww"], defaults["ttl_ms"]) == (3, False, None)
        changed = await http.request("PUT", "/v1/buckets/a%2Fb", {}, b'{"lww": true, "r": 1}')
        assert changed.status == 200
        assert changed.json() == {**defaults, "lww": True, "r": 1}
        again = await http.request("PUT", "/v1/buckets/a%2Fb", {}, b'{"ttl_ms": 5}')
        assert again.json() == {**defaults, "ttl_ms": 5}
        assert (await http.request("GET", "/v1/buckets/a%2Fb")).json() == again.json()
        assert (await http.request("GET", "/v1/buckets")).json() == {"buckets": ["a%2Fb"]}

    run(test)


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{", b'{"n": "3"}', b'{"nn": 3}', b'{"n": 99}', b'{"r": 4}', b"\xff", b'{"n": 3.5}'],
)
def test_bad_properties_change_nothing(document: bytes) -> None:
    """A misspelt property that is silently dropped would be a surprise much later."""

    async def test(http: Harness) -> None:
        answer = await http.request("PUT", "/v1/buckets/b", {}, document)
        assert (answer.status, answer.json()["code"]) == (400, "ERR")
        assert not http.coordinator.bucket_properties

    run(test)


def test_state_is_shown() -> None:
    """Status and layout are what the node says of itself."""

    async def test(http: Harness) -> None:
        assert (await http.request("GET", "/v1/status")).json() == http.coordinator.facts
        assert (await http.request("GET", "/v1/layout")).json() == http.cluster.layout()

    run(test)


def test_a_starting_node_lives_but_serves_no_data() -> None:
    """Health is for who restarts processes, ready for who sends requests."""

    async def test(http: Harness) -> None:
        http.coordinator.is_ready = False
        assert (await http.request("GET", "/health")).status == 200
        for target in ("/ready", "/v1/kv/b/k", "/v1/kv/b", "/v1/buckets", "/v1/buckets/b"):
            answer = await http.request("GET", target)
            assert (answer.status, answer.json()["code"]) == (503, "LOADING")
            assert answer.headers["retry-after"] == "1"
        assert (await http.request("PUT", "/v1/kv/b/k", {}, b"1")).status == 503
        assert not http.coordinator.held
        assert (await http.request("GET", "/v1/status")).status == 200
        assert b"starting" in (await http.request("GET", "/")).body
        http.coordinator.is_ready = True
        assert (await http.request("PUT", "/v1/kv/b/k", {}, b"1")).status == 204
        http.coordinator.is_ready = False
        assert (await http.request("GET", "/ready")).status == 503
        assert (await http.request("GET", "/v1/kv/b/k?r=1")).status == 200

    run(test)


def test_page_for_people_escapes_what_it_shows() -> None:
    """Names in the status are chosen by operators of other nodes."""

    async def test(http: Harness) -> None:
        http.coordinator.facts = {"node_id": "<script>", "engine": {"keys": 3}}
        page = await http.request("GET", "/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert b"&lt;script&gt;" in page.body
        assert b"<script" not in page.body
        assert b"engine.keys" in page.body
        assert "default-src 'none'" in page.headers["content-security-policy"]

    run(test)


@pytest.mark.parametrize("route", list(Route))
def test_other_methods_are_refused_with_what_is_allowed(route: Route) -> None:
    """405 says which methods there are."""

    async def test(http: Harness) -> None:
        target = route.template.replace("{bucket}", "b").replace("{key}", "k")
        for method in ("POST", "PATCH", "OPTIONS", "PUT", "DELETE"):
            if method not in route.methods:
                answer = await http.request(method, target)
                assert answer.status == 405
                assert answer.headers["allow"] == ", ".join(route.methods)

    run(test)


@pytest.mark.parametrize("target", ["/v1/status?x=1", "/v1/buckets?x", "/v1/buckets/b?n=3", "/?a=b"])
def test_unknown_parameters_are_refused(target: str) -> None:
    """Who writes ``?n=3`` expects it to do something."""

    async def test(http: Harness) -> None:
        assert (await http.request("GET", target)).status == 400
        assert (await http.request("GET", "/health?probe=1")).status == 200

    run(test)


def credentials() -> list[tuple[str | None, int]]:
    def basic(text: bytes) -> str:
        return "Basic " + base64.b64encode(text).decode()

    return [
        (None, 401),
        ("Bearer " + SECRET.decode(), 200),
        ("bearer  " + SECRET.decode(), 200),
        (basic(b"anyone:" + SECRET), 200),
        (basic(b":" + SECRET), 200),
        ("Bearer " + SECRET.decode() + "x", 401),
        ("Bearer", 401),
        ("Bearer \u00e4", 401),
        (SECRET.decode(), 401),
        ("Digest " + SECRET.decode(), 401),
        (basic(SECRET), 401),
        (basic(b"anyone:" + SECRET[:-1]), 401),
        ("Basic !!!!", 401),
        ("Basic \u00e4", 401),
    ]


@pytest.mark.parametrize(("authorization", "status"), credentials())
def test_secret_is_wanted_in_either_scheme(authorization: str | None, status: int) -> None:
    """Nothing but the whole secret opens the node."""

    async def test(http: Harness) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await http.request("GET", "/v1/status", headers)
        assert answer.status == status
        if status == 401:
            assert "Bearer" in answer.headers["www-authenticate"]
            assert SECRET not in answer.body

    run(test, secret=SECRET)


def test_only_health_and_ready_are_open() -> None:
    """Metrics and the page tell about the data, so they want the secret too, as writes do."""

    async def test(http: Harness) -> None:
        opened = [target for target in READABLE if (await http.request("GET", target)).status == 200]
        assert opened == ["/health", "/ready"]
        assert (await http.request("PUT", "/v1/kv/b/k", {}, b"1")).status == 401
        assert (await http.request("POST", "/v1/kv/b/k")).status == 401
        assert not http.coordinator.calls

    run(test, secret=SECRET)


def test_requests_are_counted_by_route_method_and_class() -> None:
    """What a user sends never becomes a label."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        await client.request("PUT", "/v1/kv/b/k", {}, b"12345")
        for target in ("/v1/kv/b/k", "/v1/kv/b/k", "/v1/kv/b/none", "/v1/nowhere", "/v1/status"):
            await client.request("GET", target)
        await client.request("PATCH", "/v1/kv/b/k")

        def count(**labels: str) -> float:
            return http.sample("sadik_http_requests_total", **labels)

        assert count(route="value", method="PUT", status="2xx") == 1
        assert count(route="value", method="GET", status="2xx") == 2
        assert count(route="value", method="GET", status="4xx") == 1
        assert count(route="unknown", method="GET", status="4xx") == 1
        assert count(route="value", method="other", status="4xx") == 1
        assert http.sample("sadik_http_received_bytes_total") == 5
        assert http.sample("sadik_http_sent_bytes_total") > 10
        assert http.sample("sadik_http_connections") == 1
        assert http.sample("sadik_http_request_seconds_count", route="value") == 5

    run(test)


def test_metrics_are_served_in_both_formats() -> None:
    """A scrape parses, whichever format its scraper asks for."""

    async def test(http: Harness) -> None:
        await http.request("GET", "/v1/status")
        for accept, parse in (("", parse_text), ("application/openmetrics-text", parse_openmetrics)):
            answer = await http.request("GET", "/metrics?name[]=x", {"Accept": accept})
            assert answer.status == 200
            families = {family.name for family in parse(answer.body.decode())}
            assert {"sadik_http_requests", "sadik_http_request_seconds"} <= families

    run(test)
