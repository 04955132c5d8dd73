"""``sadik get``, ``put``, ``delete`` and ``explain``: bytes, contexts, siblings."""

from __future__ import annotations

import base64
import io
import json
import os
import sys

import pytest

from sadik.cli import tables
from sadik.cli.main import main
from tests.cli.scripted_node import EXPLANATION, Answer, problem, sibling, values


def done(context="NEW"):
    return Answer(204, headers={"X-Sadik-Context": context} if context else {})


def test_get_gives_the_value_as_it_is(scripted, capsysbinary):
    """Bytes in, bytes out: a shell's redirection must get exactly what was stored."""
    scripted.on("GET", "/v1/kv/0/key", values(b"\x00\xff\r\nend"))
    assert main(["--node", scripted.address, "get", "key"]) == 0
    assert capsysbinary.readouterr() == (b"\x00\xff\r\nend", b"context: CTX\n")


def test_get_can_write_a_file(sadik, scripted, tmp_path):
    scripted.on("GET", "/v1/kv/0/key", values(b"\x00\xff"))
    file = tmp_path / "value"
    ran = sadik("get", "key", "--file", str(file))
    assert (ran.code, ran.out, file.read_bytes()) == (0, "", b"\x00\xff")


def test_siblings_are_a_table_with_their_context(sadik, scripted):
    """All of them are shown, and what a write must give back to replace them."""
    scripted.on("GET", "/v1/kv/0/key", values(b"one", b"\x1b[31mtwo\n", context="BOTH"))
    ran = sadik("get", "key")
    assert ran.code == 0
    assert ran.out.startswith("2 siblings")
    assert "one" in ran.out
    assert "\\x1b[31mtwo\\n" in ran.out
    assert ran.err == "context: BOTH\n"


def test_siblings_do_not_go_into_a_file(sadik, scripted, tmp_path):
    """One of them alone would pass for the value."""
    scripted.on("GET", "/v1/kv/0/key", values(b"one", b"two"))
    ran = sadik("get", "key", "--file", str(tmp_path / "value"))
    assert (ran.code, list(tmp_path.iterdir())) == (1, [])
    assert ran.err == "sadik: key has siblings, and a file takes one value: see --json\n"


def test_get_in_json_is_the_documents_own_shape(sadik, scripted):
    """One value or many, a program sees the same."""
    scripted.on("GET", "/v1/kv/0/key", values(b"one"))
    document = json.loads(sadik("get", "key", "--json").out)
    assert [base64.b64decode(item["value"]) for item in document["siblings"]] == [b"one"]
    assert scripted.asked[0].headers["accept"] == "application/json"


def test_key_without_value_is_code_1_with_its_context(sadik, scripted):
    """A deleted key's context is what the next write gives back."""
    scripted.on(
        "GET",
        "/v1/kv/0/key",
        problem(404, "NOTFOUND", "the key has no value", context="TOMB", siblings=[]),
    )
    assert sadik("get", "key") == (1, "", "context: TOMB\nsadik: the key has no value\n")
    assert json.loads(sadik("get", "key", "--json").out)["context"] == "TOMB"


def test_put_prints_the_context_alone(sadik, scripted):
    """So that a shell can keep it: C=$(sadik put key value)."""
    scripted.on("PUT", "/v1/kv/0/key", done("NEW"))
    assert sadik("put", "key", "value", "--context", "OLD") == (0, "NEW\n", "")
    (asked,) = scripted.asked
    assert (asked.headers["x-sadik-context"], asked.body) == ("OLD", b"value")
    assert json.loads(sadik("put", "key", "value", "--json").out) == {"context": "NEW"}


def test_put_beside_siblings_prints_no_context(sadik, scripted):
    """A context that covered values nobody saw would lose them (Dynamo 4.4)."""
    scripted.on("PUT", "/v1/kv/0/key", done(""))
    ran = sadik("put", "key", "value")
    assert (ran.code, ran.out) == (0, "")
    assert "siblings remain" in ran.err
    assert json.loads(sadik("put", "key", "value", "--json").out) == {"context": None}


def test_put_takes_a_file_or_standard_input(sadik, scripted, tmp_path, monkeypatch):
    """Values are any bytes, and may be long."""
    scripted.on("PUT", "/v1/kv/0/key", done())
    payload = bytes(range(256)) * 5000
    file = tmp_path / "value"
    file.write_bytes(payload)
    assert sadik("put", "key", "--file", str(file), "--type", "image/png").code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(payload)))
    assert sadik("put", "key", "--file", "-").code == 0
    assert [asked.body == payload for asked in scripted.asked] == [True, True]
    assert scripted.asked[0].headers["content-type"] == "image/png"


def test_names_are_any_bytes(sadik, scripted):
    """What a shell gives is bytes; slashes and what is no UTF-8 arrive as they are."""
    scripted.on("PUT", "/v1/kv/a%2Fb/%FF%20%2F", done())
    assert sadik("put", os.fsdecode(b"\xff /"), os.fsdecode(b"\xfe"), "--bucket", "a/b").code == 0
    assert scripted.asked[0].body == b"\xfe"


def test_options_of_a_request_go_along(sadik, scripted):
    """By the names that the node knows them by."""
    scripted.on("PUT", "/v1/kv/0/key", done())
    scripted.on("GET", "/v1/kv/0/key", values(b""))
    scripted.on("DELETE", "/v1/kv/0/key", done())
    given = ["-w", "3", "--pw", "2", "--timeout-ms", "50", "--ttl-ms", "9"]
    assert sadik("put", "key", "", *given).code == 0
    assert sadik("get", "key", "-r", "1", "--pr", "1").code == 0
    assert sadik("delete", "key", "-w", "2", "-c", "CTX").code == 0
    assert [asked.path.partition("?")[2] for asked in scripted.asked] == [
        "w=3&pw=2&timeout_ms=50&ttl_ms=9",
        "r=1&pr=1",
        "w=2",
    ]
    assert scripted.asked[2].headers["x-sadik-context"] == "CTX"


def test_option_that_means_nothing_here_is_refused(sadik):
    """A read has no W."""
    assert sadik("get", "key", "-w", "2").code == 2


def test_explain_tells_who_is_behind(sadik, scripted):
    """Against all that any replica knows: one that has nothing is behind, one that is down is not judged."""
    scripted.on("GET", "/v1/kv/0/greeting", EXPLANATION)
    ran = sadik("explain", "greeting")
    lines = [line.split()[:5] for line in ran.out.splitlines()[2:]]
    assert lines == [
        ["n1", "primary", "yes", "stored", "current"],
        ["n2", "primary", "yes", "absent", "behind"],
        ["n3", "primary", "no", "error", "-"],
    ]
    assert ran.out.startswith("partition 4, digest 0123456789abcdef0123456789abcdef; N=3 R=2 W=2")
    assert scripted.asked[0].path.endswith("?explain=1")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"plain", "plain"),
        ("gr\u00fcn".encode(), "gr\u00fcn"),
        (b"\x00\n\xff", "\\x00\\n\\xff"),
        ("\u202etxt".encode(), "\\u202etxt"),
        (b"x" * 60, "x" * 60),
        (b"x" * 61, "x" * 59 + "\u2026"),
        (b"x" * 1_000_000, "x" * 59 + "\u2026"),
    ],
)
def test_preview_is_one_line_that_no_terminal_obeys(payload, text):
    """A stored value must not be able to drive the operator's terminal."""
    assert tables.preview(payload) == text


def test_expiry_is_shown_where_there_is_one(sadik, scripted):
    document = {"context": "C", "siblings": [sibling(b"a"), sibling(b"b", expires_at_ms=1)]}
    scripted.on("GET", "/v1/kv/0/key", Answer(300, document))
    out = sadik("get", "key").out
    assert "never" in out
    assert "0ms" in out
