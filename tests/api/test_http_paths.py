"""Targets become routes and names without losing a byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.api.http.limits import BUCKET_BYTES_MAX, KEY_BYTES_MAX
from sadik.api.http.paths import Route, escape, parse_query, resolve, unescape
from sadik.api.http.problems import Problem
from sadik.errors import InvalidRequest

buckets = st.binary(min_size=1, max_size=BUCKET_BYTES_MAX)
keys = st.binary(min_size=1, max_size=600)


@given(st.binary())
def test_escape_is_one_segment_that_unescape_gives_back(name: bytes) -> None:
    """A name in JSON can be pasted into a path as it is."""
    escaped = escape(name)
    assert unescape(escaped.encode("ascii")) == name
    assert not set(escaped) & set("/?#+ ")


@given(buckets, keys)
def test_every_bucket_and_key_has_a_path(bucket: bytes, key: bytes) -> None:
    """Names are any bytes: NUL, slashes, percent signs and broken UTF-8 among them."""
    target = resolve(f"/v1/kv/{escape(bucket)}/{escape(key)}?r=1".encode())
    assert target == (Route.VALUE, bucket, key, b"r=1")
    every_byte_escaped = "".join(f"%{byte:02x}" for byte in key)
    assert resolve(f"/v1/kv/{escape(bucket)}/{every_byte_escaped}".encode()).key == key


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (b"/v1/kv/b/a%2Fb", b"a/b"),
        (b"/v1/kv/b/a/b", b"a/b"),
        (b"/v1/kv/b//", b"/"),
        (b"/v1/kv/b/a%252Fb", b"a%2Fb"),
        (b"/v1/kv/b/a+b%20c", b"a+b c"),
        (b"/v1/kv/b/..", b".."),
        (b"/v1/kv/b/../x", b"../x"),
        (b"/v1/kv/b/%00%ff", b"\x00\xff"),
        (b"/v1/kv/b/\xc3\xa4\xff", b"\xc3\xa4\xff"),
        (b"/v1/kv/b/%3F?", b"?"),
    ],
)
def test_keys_are_decoded_once_and_never_normalised(target: bytes, key: bytes) -> None:
    """Decoding twice, or resolving dots, would make distinct keys one."""
    assert resolve(target)[:3] == (Route.VALUE, b"b", key)


@pytest.mark.parametrize("route", [route for route in Route if "{" not in route.template])
@pytest.mark.parametrize("prefix", [b"", b"http://127.0.0.1:7380", b"HTTPS://node"])
def test_fixed_routes_are_found_in_origin_and_absolute_form(route: Route, prefix: bytes) -> None:
    """Proxies may send the absolute form; servers must take it."""
    assert resolve(prefix + route.template.encode() + b"?a=b") == (route, b"", b"", b"a=b")


def test_absolute_form_without_a_path_is_the_index() -> None:
    """RFC 9112 3.2.2: an empty path means the root."""
    assert resolve(b"http://node").route is Route.INDEX
    assert resolve(b"http://node?x").query == b"x"


@pytest.mark.parametrize(
    "target",
    [
        b"/v1",
        b"/v1/kv",
        b"/v1/kv/",
        b"/v1/buckets/",
        b"/v1/buckets/a/b",
        b"/v2/kv/b/k",
        b"/Metrics",
        b"/%6detrics",
        b"//metrics",
        b"*",
        b"node:7380",
        b"",
    ],
)
def test_other_targets_are_not_found(target: bytes) -> None:
    """What is no route must not fall into one."""
    with pytest.raises(Problem) as caught:
        resolve(target)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/kv/b/%",
        b"/v1/kv/b/%2",
        b"/v1/kv/b/%zz",
        b"/v1/kv/b/%%20",
        b"/v1/kv/%/k",
        b"/v1/kv/b/a#b",
        b"/v1/kv/b/",
        b"/v1/kv//k",
        b"/v1/kv/" + b"x" * (BUCKET_BYTES_MAX + 1),
        b"/v1/kv/b/" + b"%41" * (KEY_BYTES_MAX + 1),
    ],
)
def test_bad_names_are_refused(target: bytes) -> None:
    """A broken escape is an error, not a literal percent sign: guessing would store under another key."""
    with pytest.raises(InvalidRequest):
        resolve(target)


def test_longest_names_are_taken() -> None:
    """The limits themselves are allowed."""
    target = b"/v1/kv/" + b"%41" * BUCKET_BYTES_MAX + b"/" + b"%ff" * KEY_BYTES_MAX
    found = resolve(target)
    assert (found.bucket, found.key) == (b"A" * BUCKET_BYTES_MAX, b"\xff" * KEY_BYTES_MAX)


def test_query_is_split_and_decoded() -> None:
    """Order is kept, empty parts vanish, a missing value is empty."""
    assert parse_query(b"a=1&&b&c=%3D=&%C3%A4=%26") == [("a", "1"), ("b", ""), ("c", "=="), ("ä", "&")]
    assert parse_query(b"") == []


@pytest.mark.parametrize("query", [b"a=%zz", b"%ff=1", b"a=%c3", b"&".join([b"a=1"] * 17)])
def test_bad_queries_are_refused(query: bytes) -> None:
    """Parameters are text, and few."""
    with pytest.raises(InvalidRequest):
        parse_query(query)


@given(st.binary(max_size=300))
def test_any_target_is_answered_or_refused(target: bytes) -> None:
    """No byte string brings out an exception that is not an answer."""
    try:
        found = resolve(target)
        parse_query(found.query)
    except (Problem, InvalidRequest):
        return
    assert len(found.bucket) <= BUCKET_BYTES_MAX
