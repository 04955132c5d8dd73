"""The program ``sadik`` as a whole: where it asks, how it fails, and its exit codes."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

import sadik as package
from sadik.cli.main import main
from sadik.cli.remote import Remote, RemoteError
from sadik.settings import Address
from tests.cli.scripted_node import MEMBERS, Answer, problem


def is_one_line(text):
    return text.startswith("sadik: ") and text.count("\n") == 1


def test_node_is_taken_from_the_nearest_place(sadik, scripted, monkeypatch):
    """Behind the command beats before it beats the variable: what is nearest was meant last."""
    scripted.on("GET", "/v1/status", {"node": "n1"})
    assert sadik("status").code == 0
    monkeypatch.setenv("SADIK_NODE", "127.0.0.1:1")
    assert sadik("status").code == 1
    assert sadik("--node", scripted.address, "status").code == 0
    assert sadik("--node", "127.0.0.1:2", "status", "--node", scripted.address).code == 0


def test_tables_for_people_and_json_for_programs(sadik, scripted):
    """--json gives the node's own document, wherever it stands."""
    scripted.on("GET", "/v1/members", MEMBERS)
    assert json.loads(sadik("--json", "members").out) == MEMBERS
    assert json.loads(sadik("members", "--json").out) == MEMBERS
    assert "alive" in sadik("members").out


def test_secret_goes_along_whatever_its_bytes(sadik, scripted, tmp_path):
    """A secret is a file's bytes; a header that cannot hold them must not change them."""
    secret = b"\xff\x00 colon: and space "
    file = tmp_path / "secret"
    file.write_bytes(secret + b"\n")
    scripted.on("GET", "/v1/status", {})
    assert sadik("status", "--secret-file", str(file)).code == 0
    scheme, _, credentials = scripted.asked[0].headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(credentials).partition(b":")[2]) == ("Basic", secret)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statsu"], "No such command 'statsu'"),
        (["status", "--nod", "x"], "No such option '--nod'"),
        (["status", "--node", "7380"], "--node must be HOST:PORT, not '7380'"),
        (["status", "--node", "127.0.0.1:0"], "--node needs a port that is not 0"),
        (["status", "--secret-file", "/nowhere"], "--secret-file names a file that cannot be read: /nowhere"),
        (["commit"], "Missing argument 'VERSION'"),
        (["commit", "two"], "Invalid value for 'VERSION'"),
        (["weight", "n1", "0"], "Invalid value for 'CAPACITY'"),
        (["repair", "--partition", "-1"], "Invalid value for '--partition'"),
        (["leave"], "name the NODE that gives up its share, or say --final"),
        (["leave", "n1", "--final"], "name the NODE that gives up its share, or say --final"),
        (["join", "n4", "--replaces", "n3", "--capacity", "5"], "--capacity does not go with --replaces"),
        (["put", "key"], "give either a VALUE or --file"),
        (["put", "key", "value", "--file", "x"], "give either a VALUE or --file"),
        (["put", "key", "--file", "/nowhere"], "--file: cannot read /nowhere: No such file"),
        (["put", "key", "value", "-w", "0"], "Invalid value for '-w'"),
        (["put", "key", "value", "-c", "gr\u00fcn"], "a context is what an earlier answer gave"),
        (["get", ""], "a bucket and a key are at least one byte"),
        (["demo", "--nodes", "0"], "Invalid value for '--nodes'"),
        (["demo", "--base-port", "65530"], "3 nodes do not fit above port 65530"),
        (["demo", "--sync", "often"], "Invalid value for '--sync'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2_and_asks_nobody(sadik, scripted, arguments, message):
    """A slip must not reach the cluster."""
    ran = sadik(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert is_one_line(ran.err)
    assert message in ran.err
    assert scripted.asked == []


def test_unreachable_node_is_one_line_and_code_1(sadik):
    """The commonest failure of all says which address it was."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ran = sadik("status", "--node", f"127.0.0.1:{port}")
    assert (ran.code, ran.err) == (1, f"sadik: 127.0.0.1:{port} cannot be reached: Connection refused\n")


def test_unknown_host_is_one_line(sadik):
    """A name that does not resolve is no traceback."""
    ran = sadik("status", "--node", "nowhere.invalid:7380")
    assert ran.code == 1
    assert is_one_line(ran.err)
    assert "nowhere.invalid:7380 cannot be reached" in ran.err


def test_write_without_answer_is_code_3_and_a_read_is_not(sadik, scripted):
    """The connection was lost after the request went out: only a write leaves something unknown."""
    scripted.on("PUT", "/v1/kv/0/key", Answer(cut=True))
    scripted.on("GET", "/v1/kv/0/key", Answer(cut=True))
    scripted.on("POST", "/v1/layout/commit", Answer(cut=True))
    ran = sadik("put", "key", "value")
    assert ran.code == 3
    assert is_one_line(ran.err)
    assert "closed the connection without an answer; what was asked may have been done" in ran.err
    assert sadik("commit", "2").code == 3
    ran = sadik("get", "key")
    assert (ran.code, "may have" in ran.err) == (1, False)


@pytest.mark.parametrize(("outcome", "code"), [("unknown", 3), ("refused", 1)])
def test_missed_quorum_tells_its_outcome_and_reasons(sadik, scripted, outcome, code):
    """Whether to try again depends on what happened, so the code and the line both say it."""
    members = {"required": 2, "received": 1, "replicas": [{"node": "n2", "reason": "node is down"}]}
    answer = problem(503, "UNAVAILABLE", "too few replicas answered", outcome=outcome, **members)
    scripted.on("PUT", "/v1/kv/0/key", answer)
    ran = sadik("put", "key", "value")
    assert ran.code == code
    told = "sadik: too few replicas answered (required 2, received 1; n2: node is down)"
    assert ran.err == told + ("; it may have been applied\n" if outcome == "unknown" else "\n")
    document = json.loads(sadik("--json", "put", "key", "value").out)
    assert (document["outcome"], document["received"]) == (outcome, 1)


def test_failures_are_json_too(sadik):
    """A program that asked for JSON gets it, also where no node could say anything."""
    ran = sadik("status", "--json", "--node", "127.0.0.1:1")
    document = json.loads(ran.out)
    assert (document["code"], document["outcome"]) == ("UNREACHABLE", "refused")
    assert is_one_line(ran.err)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (problem(401, "NOAUTH", "this node wants its secret"), "wants its secret; give --secret-file"),
        (problem(404, "NOROUTE", "nothing lives here"), "does not know this; is it an older version?"),
        (problem(409, "ERR", "the plan has\nchanged \x1b[31m"), "sadik: the plan has changed ?[31m\n"),
        (Answer(200, body=b"<html>"), "does not answer as a Sadik node does"),
        (Answer(200, ["list"]), "does not answer as a Sadik node does"),
        (Answer(403, body=b"proxy says no"), "answers 403 Forbidden"),
    ],
)
def test_refusals_are_one_line_and_code_1(sadik, scripted, answer, message):
    """Whoever answers at that address, the line is one, and no terminal obeys it."""
    scripted.on("GET", "/v1/layout/plan", answer)
    ran = sadik("plan")
    assert ran.code == 1
    assert is_one_line(ran.err)
    assert message in ran.err


def test_error_of_something_between_leaves_a_write_unknown(sadik, scripted):
    """A proxy's 502 does not say whether the node has done it."""
    scripted.on("PUT", "/v1/kv/0/key", Answer(502, body=b"bad gateway"))
    assert sadik("put", "key", "value").code == 3


def test_other_protocols_port_is_named_as_such(sadik):
    """Giving the RESP address is the likeliest slip of all."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(b"-ERR unknown command 'GET'\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    ran = sadik("status", "--node", f"127.0.0.1:{listener.getsockname()[1]}")
    thread.join()
    listener.close()
    assert ran.code == 1
    assert "does not speak HTTP there (--node is its HTTP address)" in ran.err


def test_answer_that_does_not_come_is_given_up(sadik):
    """A node that hangs costs its user a bounded time, and a write's outcome stays open."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = Remote(Address(*silent.getsockname()), timeout_s=0.05)
        with pytest.raises(RemoteError, match=r"did not answer in time$") as read:
            remote.get("/v1/status")
        with pytest.raises(RemoteError, match=r"in time; what was asked may have been done$") as written:
            remote.post("/v1/leave", {})
    assert (read.value.maybe_applied, written.value.maybe_applied) == (False, True)


def test_answer_beyond_the_limit_is_refused(scripted):
    """Whatever answers at that address, its bytes do not fill this program's memory."""
    scripted.on("GET", "/v1/status", Answer(body=b"{" + b" " * 1000 + b"}"))
    host, port = scripted.address.split(":")
    address = Address(host, int(port))
    assert Remote(address, answer_bytes_max=1002).get("/v1/status") == {}
    with pytest.raises(RemoteError, match="sent more than 1001 bytes"):
        Remote(address, answer_bytes_max=1001).get("/v1/status")


def test_early_refusal_of_a_long_body_is_read(sadik, tmp_path):
    """A node may say no before it has read 64 MiB; its reason must not drown in a broken pipe."""
    listener = socket.create_server(("127.0.0.1", 0))
    body = b'{"detail": "a value takes at most 1024 bytes", "code": "LIMIT"}'

    def answer() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1000)
            client.sendall(b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 20):
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    file = tmp_path / "value"
    file.write_bytes(b"x" * (1 << 24))
    ran = sadik("put", "key", "--file", str(file), "--node", f"127.0.0.1:{listener.getsockname()[1]}")
    thread.join()
    listener.close()
    assert (ran.code, ran.err) == (1, "sadik: a value takes at most 1024 bytes\n")


def test_bare_program_shows_its_commands(sadik):
    """The first thing anyone types."""
    ran = sadik()
    assert ran.code == 0
    for name in (
        *("status", "members", "ring", "plan", "commit", "join", "leave", "weight", "get", "put", "delete"),
        *("explain", "hints", "repair", "demo"),
    ):
        assert f"\n  {name} " in ran.out


def test_every_command_has_help(sadik):
    """--help works everywhere, with the shared options where a node is asked."""
    for name in ("status", "get", "repair"):
        ran = sadik(name, "--help")
        assert ran.code == 0
        assert "--node HOST:PORT" in ran.out


def invoke(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SADIK_")}
    command = [sys.executable, "-m", "sadik.cli.main", *arguments]
    return subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_version_is_that_of_the_package():
    result = invoke("--version")
    assert (result.returncode, result.stdout) == (0, f"sadik {package.__version__}\n")


def test_reader_that_has_enough_is_no_error_message(scripted):
    """``sadik members | head -0`` ends in silence."""
    scripted.on("GET", "/v1/members", {"members": MEMBERS["members"] * 3000})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SADIK_")}
    command = [sys.executable, "-m", "sadik.cli.main", "--json", "--node", scripted.address, "members"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_program_does_not_load_the_server():
    """A command line that waits for a server's libraries feels broken."""
    code = (
        "import sys; from sadik.cli.main import main; main(['--version'])\n"
        "print(sorted({'aiohttp', 'uvloop', 'numpy', 'sadik.api', 'sadik.node'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_interrupt_is_one_line(sadik, scripted, monkeypatch):
    """Ctrl-C is no traceback."""

    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(Remote, "get", interrupted)
    ran = sadik("status")
    assert (ran.code, ran.err.strip()) == (130, "sadik: interrupted")
    assert main(["--version"]) == 0
