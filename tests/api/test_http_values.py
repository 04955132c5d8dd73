"""Reading, writing and deleting values over a socket, on both event loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
import uvloop

from sadik.api.http.problems import Problem
from sadik.errors import (
    ClockError,
    CorruptRecord,
    InternalError,
    InvalidRequest,
    LimitReached,
    Overloaded,
    QuorumMissed,
    StorageFailed,
    StorageFull,
)
from sadik.node.coordinator.options import Options
from tests.api.fake_coordinator import WALL_MS
from tests.api.http_harness import Harness, run

CONTEXT = "X-Sadik-Context"
Loop = Callable[[], asyncio.AbstractEventLoop]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_write_read_replace_delete(loop: Loop) -> None:
    """One key through its life, on one connection, handing each context on."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        written = await client.request("PUT", "/v1/kv/b/k", {"Content-Type": "text/plain"}, b"one")
        assert (written.status, written.body) == (204, b"")
        read = await client.request("GET", "/v1/kv/b/k")
        assert (read.status, read.body, read.headers["content-type"]) == (200, b"one", "text/plain")
        assert read.headers["x-sadik-context"] == written.headers["x-sadik-context"]
        assert int(read.headers["x-sadik-stamp-ms"]) > WALL_MS
        assert "x-sadik-expires-at-ms" not in read.headers
        context = {CONTEXT: read.headers["x-sadik-context"]}
        written = await client.request("PUT", "/v1/kv/b/k?ttl_ms=5000", context, b"two")
        read = await client.request("GET", "/v1/kv/b/k")
        assert (read.status, read.body) == (200, b"two")
        assert read.headers["content-type"] == "application/octet-stream"
        assert read.headers["x-sadik-expires-at-ms"] == str(WALL_MS + 5000)
        deleted = await client.request("DELETE", "/v1/kv/b/k", {CONTEXT: written.headers["x-sadik-context"]})
        assert deleted.status == 204
        missing = await client.request("GET", "/v1/kv/b/k")
        assert missing.status == 404
        assert missing.headers["x-sadik-context"] == deleted.headers["x-sadik-context"]
        assert missing.json()["context"] == deleted.headers["x-sadik-context"]
        assert missing.json()["siblings"] == []

    run(test, loop_factory=loop)


def test_write_without_context_makes_a_sibling_and_gives_no_context() -> None:
    """Its client has not seen the other value, so it gets nothing that would cover it."""

    async def test(http: Harness) -> None:
        await http.request("PUT", "/v1/kv/b/k", {"Content-Type": "text/a", "X-Sadik-Meta-Who": "ann"}, b"1")
        second = await http.request("PUT", "/v1/kv/b/k", {"Content-Type": "text/b"}, b"2")
        assert second.status == 204
        assert "x-sadik-context" not in second.headers
        both = await http.request("GET", "/v1/kv/b/k")
        assert both.status == 300
        assert both.headers["content-type"].startswith("multipart/mixed; boundary=")
        assert both.body.index(b"text/b") < both.body.index(b"text/a")
        assert b"X-Sadik-Meta-who: ann" in both.body
        as_json = await http.request("GET", "/v1/kv/b/k", {"Accept": "application/json"})
        assert as_json.status == 300
        assert [s["content_type"] for s in as_json.json()["siblings"]] == ["text/b", "text/a"]
        assert as_json.json()["context"] == as_json.headers["x-sadik-context"]
        resolved = await http.request("PUT", "/v1/kv/b/k", {CONTEXT: as_json.json()["context"]}, b"3")
        assert "x-sadik-context" in resolved.headers
        assert (await http.request("GET", "/v1/kv/b/k")).body == b"3"

    run(test)


@pytest.mark.parametrize(
    ("accept", "as_json"),
    [
        ("application/json", True),
        ("Application/JSON;q=0.1", True),
        ("text/html, application/json, */*", True),
        ("multipart/mixed;q=0.5, application/json", True),
        ("multipart/mixed, application/json;q=0.5", False),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("*/*", False),
        ("application/jsonl", False),
    ],
)
def test_accept_chooses_the_form(accept: str, as_json: bool) -> None:
    """JSON where it is named; one value has the JSON shape too, so that a program needs one parser."""

    async def test(http: Harness) -> None:
        await http.request("PUT", "/v1/kv/b/k", {}, b"1")
        one = await http.request("GET", "/v1/kv/b/k", {"Accept": accept})
        assert one.status == 200
        assert one.headers["vary"] == "Accept"
        assert (one.headers["content-type"] == "application/json") is as_json
        assert one.body == b"1" or one.json()["siblings"][0]["value"] == "MQ=="

    run(test)


def test_head_is_get_without_its_body() -> None:
    """Same status and headers, for a value, for siblings, for nothing."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        await client.request("PUT", "/v1/kv/b/one", {}, b"1")
        for _ in range(2):
            await client.request("PUT", "/v1/kv/b/two", {}, b"2")
        for key, status in (("one", 200), ("two", 300), ("none", 404)):
            get = await client.request("GET", f"/v1/kv/b/{key}")
            head = await client.request("HEAD", f"/v1/kv/b/{key}")
            assert (get.status, head.status) == (status, status)
            for headers in (get.headers, head.headers):
                headers.pop("date")
            assert head.headers == get.headers

    run(test)


def test_entity_tag_saves_the_body() -> None:
    """A client that has the value gets 304 until it changes; a tag stands for one form only."""

    async def test(http: Harness) -> None:
        await http.request("PUT", "/v1/kv/b/k", {}, b"1")
        first = await http.request("GET", "/v1/kv/b/k")
        tag = first.headers["etag"]
        for condition in (tag, f'"x", W/{tag}', "*"):
            same = await http.request("GET", "/v1/kv/b/k", {"If-None-Match": condition})
            assert (same.status, same.headers["etag"]) == (304, tag)
            assert same.headers["x-sadik-context"] == first.headers["x-sadik-context"]
        as_json = {"If-None-Match": tag, "Accept": "application/json"}
        assert (await http.request("GET", "/v1/kv/b/k", as_json)).status == 200
        await http.request("PUT", "/v1/kv/b/k", {CONTEXT: first.headers["x-sadik-context"]}, b"2")
        changed = await http.request("GET", "/v1/kv/b/k", {"If-None-Match": tag})
        assert (changed.status, changed.body) == (200, b"2")

    run(test)


def test_every_byte_may_be_in_a_key_and_a_value() -> None:
    """Neither aiohttp's URL library nor ours loses or joins any of them."""

    async def test(http: Harness) -> None:
        client = await http.connect()
        every = bytes(range(256))
        target = "/v1/kv/" + "%2F%00%FF" + "/" + "".join(f"%{byte:02X}" for byte in every)
        assert (await client.request("PUT", target, {}, every)).status == 204
        assert list(http.coordinator.held) == [(b"/\x00\xff", every)]
        assert (await client.request("GET", target)).body == every
        listed = await client.request("GET", "/v1/kv/%2f%00%ff")
        assert (await client.request("GET", f"/v1/kv/%2F%00%FF/{listed.json()['keys'][0]}")).body == every

    run(test)


def test_longest_names_context_and_metadata_fit() -> None:
    """All at their limits: every byte of the key escaped, 4 KiB of context, 8 KiB of metadata."""

    async def test(http: Harness) -> None:
        target = "/v1/kv/" + "%FE" * 255 + "/" + "%FF" * 65535
        client = await http.connect()
        metadata = {f"X-Sadik-Meta-{i}": "m" * 1990 for i in range(4)}
        assert (await client.request("PUT", target, metadata, b"v")).status == 204
        read = await client.request("GET", target)
        assert read.body == b"v"
        assert read.headers["x-sadik-meta-3"] == "m" * 1990
        refused = await client.request("PUT", target, {CONTEXT: "A" * 4096}, b"v")
        assert (refused.status, refused.json()["code"]) == (400, "BADCONTEXT")

    run(test)


def test_options_reach_the_coordinator() -> None:
    """Query parameters are the request's options; explain is not one of them."""

    async def test(http: Harness) -> None:
        await http.request("GET", "/v1/kv/b/k?r=1&PR=2&timeout_ms=30&explain=0")
        await http.request("PUT", "/v1/kv/b/k?w=1&pw=2&ttl_ms=9", {}, b"")
        assert http.coordinator.calls[0] == ("read", b"b", b"k", Options(r=1, pr=2, timeout_ms=30))
        assert http.coordinator.calls[1] == (
            "write",
            b"b",
            b"k",
            b"",
            None,
            b"",
            Options(w=1, pw=2, ttl_ms=9),
        )

    run(test)


@pytest.mark.parametrize(
    ("method", "query", "headers"),
    [
        ("GET", "r=0", {}),
        ("GET", "r=-1", {}),
        ("GET", "r=1&r=2", {}),
        ("GET", "q=1", {}),
        ("GET", "r=%zz", {}),
        ("GET", "explain=2", {}),
        ("GET", "explain=1&explain=1", {}),
        ("PUT", "explain=1", {}),
        ("DELETE", "explain", {}),
        ("PUT", "", {"If-Match": '"x"'}),
        ("PUT", "", {"If-None-Match": "*"}),
        ("DELETE", "", {"If-Unmodified-Since": "Mon, 23 Nov 2026 03:49:52 GMT"}),
        ("PUT", "", {"Content-Type": "nonsense"}),
        ("PUT", "", {"X-Sadik-Meta-": "x"}),
        ("PUT", "", {"X-Sadik-Meta-a": "1", "x-sadik-meta-A": "2"}),
        ("PUT", "", {CONTEXT: "x", CONTEXT.lower(): "y"}),
        ("PUT", "", {CONTEXT: "bad context"}),
        ("PUT", "", {CONTEXT: "ä"}),
        ("DELETE", "", {CONTEXT: "WyJ4Il0="}),
    ],
)
def test_bad_requests_change_nothing(method: str, query: str, headers: dict[str, str]) -> None:
    """400, a problem document, and no side effect."""

    async def test(http: Harness) -> None:
        answer = await http.request(method, f"/v1/kv/b/k?{query}", headers, b"" if method == "PUT" else None)
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in ("ERR", "BADCONTEXT")
        assert not http.coordinator.held

    run(test)


def test_context_of_another_key_is_refused() -> None:
    """A context is bound to its address; using it elsewhere would drop values unseen."""

    async def test(http: Harness) -> None:
        written = await http.request("PUT", "/v1/kv/b/k", {}, b"1")
        context = {CONTEXT: written.headers["x-sadik-context"]}
        refused = await http.request("PUT", "/v1/kv/b/other", context, b"2")
        assert (refused.status, refused.json()["code"]) == (400, "BADCONTEXT")
        empty = await http.request("PUT", "/v1/kv/b/other", {CONTEXT: ""}, b"2")
        assert empty.status == 204

    run(test)


def missed_quorum(maybe_applied: bool) -> QuorumMissed:
    return QuorumMissed(
        "2 of 3 did not answer",
        maybe_applied=maybe_applied,
        required=2,
        received=1,
        reasons=(("n2", "timed out"), ("n3", "down")),
    )


REASONS = [{"node": "n2", "reason": "timed out"}, {"node": "n3", "reason": "down"}]


@pytest.mark.parametrize(
    ("error", "status", "code", "members"),
    [
        (InvalidRequest("r=3 exceeds the 1 replica"), 400, "ERR", {}),
        (LimitReached("65 siblings"), 422, "LIMIT", {}),
        (Overloaded("queue full"), 503, "BUSY", {"outcome": "refused"}),
        (
            missed_quorum(True),
            503,
            "UNAVAILABLE",
            {"outcome": "unknown", "required": 2, "received": 1, "replicas": REASONS},
        ),
        (missed_quorum(False), 503, "UNAVAILABLE", {"outcome": "refused", "required": 2}),
        (ClockError("n1 is ahead"), 503, "CLOCK", {"outcome": "refused"}),
        (StorageFull("no room"), 507, "OOM", {"outcome": "refused"}),
        (StorageFailed("sync failed", maybe_applied=True), 503, "STORAGE", {"outcome": "unknown"}),
        (CorruptRecord("crc"), 500, "CORRUPT", {"outcome": "refused"}),
        (InternalError("secret state"), 500, "INTERNAL", {"outcome": "unknown"}),
        (ZeroDivisionError("secret state"), 500, "INTERNAL", {"outcome": "unknown"}),
        (TimeoutError("secret state"), 500, "INTERNAL", {"outcome": "unknown"}),
    ],
)
def test_errors_say_whose_fault_and_what_happened(
    error: Exception, status: int, code: str, members: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """Each error has one status, a stable word and its outcome; the text of a bug stays in the log."""

    async def test(http: Harness) -> None:
        http.coordinator.fault = error
        answer = await http.request("PUT", "/v1/kv/b/k", {}, b"1")
        document = answer.json()
        assert (answer.status, document["status"], document["code"]) == (status, status, code)
        assert members.items() <= document.items()
        assert ("retry-after" in answer.headers) == (code == "BUSY")
        assert "secret state" not in answer.body.decode()
        read = (await http.request("GET", "/v1/kv/b/k")).json()
        assert read["code"] == code
        if code == "INTERNAL":
            assert read["outcome"] == "refused"
            assert "secret state" in caplog.text

    run(test)


def test_a_browser_never_runs_a_stored_value() -> None:
    """Somebody's stored page must not act with the rights of the node's origin."""

    async def test(http: Harness) -> None:
        await http.request("PUT", "/v1/kv/b/k", {"Content-Type": "text/html"}, b"<script>")
        read = await http.request("GET", "/v1/kv/b/k")
        assert read.headers["content-security-policy"] == "sandbox"
        assert read.headers["x-content-type-options"] == "nosniff"

    run(test)


def test_damaged_metadata_is_an_error_and_not_a_header() -> None:
    """What another node or the disk brings is checked before it becomes a header."""

    async def test(http: Harness) -> None:
        await http.coordinator.write(
            b"b", b"k", b"v", context=None, metadata=b"\x92\xa8a/b\r\nX:y\x80", options=Options()
        )
        answer = await http.request("GET", "/v1/kv/b/k")
        assert (answer.status, answer.json()["code"]) == (500, "CORRUPT")

    run(test)


def test_explain_shows_where_a_key_lives() -> None:
    """Ids are uint64 and so text; names are ready for a path."""

    async def test(http: Harness) -> None:
        await http.request("PUT", "/v1/kv/b/a%2Fb", {}, b"1")
        for flag in ("explain", "explain=1", "EXPLAIN=True"):
            shown = (await http.request("GET", f"/v1/kv/b/a%2Fb?{flag}")).json()
            assert (shown["key"], shown["token"]) == ("a%2Fb", "f" * 16)
            assert shown["replicas"][0]["entries"][0]["actor"] == "00000000000a11ce"

    run(test)


def test_problem_text_that_is_not_unicode_is_still_an_answer() -> None:
    """Bytes of a request may come back in an error's text."""

    async def test(http: Harness) -> None:
        http.coordinator.fault = Problem(400, "ERR", "bad \udcff byte")
        answer = await http.request("GET", "/v1/kv/b/k")
        assert json.loads(answer.body)["detail"] == "bad \\udcff byte"

    run(test)
