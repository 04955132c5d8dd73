"""Commands of ``sadik`` that look at a cluster and steer it: what they ask, and what people see."""

from __future__ import annotations

import json

import pytest

from sadik.cli import tables
from tests.cli.scripted_node import (
    EMPTY_PLAN,
    HINTS,
    LAYOUT,
    MEMBERS,
    NOW_MS,
    PLAN,
    REPAIRED,
    problem,
)


def rows(text):
    """Lines as words."""
    return [line.split() for line in text.splitlines()]


def test_status_is_a_line_a_fact(sadik, scripted):
    """Nested facts and bytes are readable; nothing that a node sends is left out."""
    scripted.on(
        "GET", "/v1/status", {"node": "n1", "ready": False, "stored_bytes": 3 << 20, "log": {"age_ms": None}}
    )
    assert rows(sadik("status").out) == [
        ["node", "n1"],
        ["ready", "no"],
        ["stored_bytes", "3.0", "MiB"],
        ["log.age_ms", "-"],
    ]


def test_members_shows_state_and_addresses(sadik, scripted):
    """A dead member is still there: a failure is never a departure."""
    scripted.on("GET", "/v1/members", MEMBERS)
    head, *lines = rows(sadik("members").out)
    assert head[:3] == ["node", "state", "layout"]
    assert lines[1][:6] == ["n2", "alive", "yes", "default", "n2", "127.0.0.1:7389/7390/7391"]
    # Addresses on several hosts are given one by one.
    assert lines[2][:3] == ["n3", "dead", "no"]
    assert "10.0.0.3:7379" in lines[2]


def test_ring_shows_load_against_capacity(sadik, scripted):
    """What a node holds of all replicas, and what its capacity asks for, stand side by side."""
    scripted.on("GET", "/v1/layout", LAYOUT)
    lines = sadik("ring").out.splitlines()
    assert lines[0] == "layout 2: 4 partitions, each on 2 of 3 nodes"
    words = rows("\n".join(lines))
    assert words[2][:9] == ["n1", "yes", "default", "n1", "100", "3", "2", "37.5%", "25.0%"]
    assert words[4][:2] == ["n3", "no"]
    assert lines[5] == "staged: weight n1: capacity 50"


def test_layout_of_an_older_node_is_shown(sadik, scripted):
    """A member that is not sent is shown as missing, never as an error."""
    layout = {"version": 1, "partitions": 64, "nodes": [{"node": "amber", "partitions": 64}]}
    scripted.on("GET", "/v1/layout", layout)
    ran = sadik("ring")
    assert ran.code == 0
    assert "amber" in ran.out


def test_ring_of_a_partition_names_its_nodes_in_order(sadik, scripted):
    """The order is the preference list's, not the table's."""
    scripted.on("GET", "/v1/layout", LAYOUT)
    assert [line[:3] for line in rows(sadik("ring", "--partition", "3").out)[1:]] == [
        ["1", "n3", "no"],
        ["2", "n2", "yes"],
    ]
    ran = sadik("ring", "--partition", "4")
    assert (ran.code, "the layout has partitions 0 to 3" in ran.err) == (2, True)


def test_plan_shows_before_after_bytes_and_what_is_not_met(sadik, scripted):
    """All that an operator decides on, and the command that does it."""
    scripted.on("GET", "/v1/layout/plan", PLAN)
    ran = sadik("plan")
    lines = ran.out.splitlines()
    assert lines[:2] == ["staged: join n4", "staged: replace n3 with n5"]
    words = rows(ran.out)
    assert ["n1", "3", "2", "-1", "0", "0", "B"] in words
    assert ["n4", "0", "4", "+4", "4", "3.0", "MiB"] in words
    assert "not met: 2 replicas of a partition may be on only 1 zones, of 2 there are" in lines
    assert lines[-1] == "4 replicas to move, 3.0 MiB. Commit it: sadik commit 3"


def test_plan_that_cannot_be_committed_says_why(sadik, scripted):
    """The refusal stands where the command would be."""
    scripted.on("GET", "/v1/layout/plan", {**PLAN, "refusal": "partition 17 holds data"})
    last = sadik("plan").out.splitlines()[-1]
    assert last == "4 replicas to move, 3.0 MiB. It cannot be committed: partition 17 holds data"


def test_revert_forgets_what_is_staged(sadik, scripted):
    scripted.on("DELETE", "/v1/layout/stage", EMPTY_PLAN)
    assert sadik("plan", "--revert").out.startswith("Nothing is staged.")


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (["join", "n4"], {"action": "join", "node": "n4"}),
        (["join", "n4", "--capacity", "50"], {"action": "join", "node": "n4", "capacity": 50}),
        (["join", "n4", "--replaces", "n3"], {"action": "replace", "node": "n3", "with": "n4"}),
        (["leave", "n3"], {"action": "leave", "node": "n3"}),
        (["weight", "n3", "250"], {"action": "weight", "node": "n3", "capacity": 250}),
    ],
)
def test_staging_sends_the_change_and_shows_the_plan(sadik, scripted, arguments, change):
    """Nothing is staged unseen."""
    scripted.on("POST", "/v1/layout/stage", PLAN)
    ran = sadik(*arguments)
    assert scripted.asked[0].json() == change
    assert ran.out.splitlines()[-1].endswith("sadik commit 3")


def test_commit_names_the_version_that_was_looked_at(sadik, scripted):
    """A plan that changed since must not be committed by one who saw another."""
    scripted.on("POST", "/v1/layout/commit", LAYOUT, problem(409, "ERR", "the next version is 4"))
    ran = sadik("commit", "2")
    assert scripted.asked[0].json() == {"version": 2, "force": False}
    assert ran.out.startswith("layout 2:")
    assert ran.err == ""
    assert sadik("commit", "2") == (1, "", "sadik: the next version is 4\n")


def test_force_warns(sadik, scripted):
    """It is done all the same: whoever forces has read the help."""
    scripted.on("POST", "/v1/layout/commit", LAYOUT)
    ran = sadik("commit", "2", "--force")
    assert scripted.asked[0].json() == {"version": 2, "force": True}
    assert ran.err == "warning: committing without asking for a majority\n"


def test_final_leave_is_for_the_asked_node(sadik, scripted):
    scripted.on("POST", "/v1/leave", MEMBERS)
    ran = sadik("leave", "--final")
    assert (ran.code, scripted.asked[0].json()) == (0, {})
    assert "n2" in ran.out


def test_hints_shows_who_is_waited_for(sadik, scripted):
    """And the account that must add up: stored = delivered + expired + dropped + present."""
    scripted.on("GET", "/v1/hints", HINTS)
    ran = sadik("hints")
    assert rows(ran.out)[1][:4] == ["n3", "1,200", "337.6", "KiB"]
    last = "1,200 hints now; since ever: 1,500 stored, 299 delivered, 1 expired, 0 dropped"
    assert ran.out.splitlines()[-1] == last


def test_waiting_for_hints_returns_when_none_is_left(sadik, scripted):
    """Or fails, so that a script can rely on it."""
    done = {**HINTS, "owners": [], "delivered": 1499}
    scripted.on("POST", "/v1/hints/wait", done, problem(503, "UNAVAILABLE", "not all", outcome="refused"))
    ran = sadik("hints", "--wait", "--timeout-ms", "5000")
    assert scripted.asked[0].json() == {"timeout_ms": 5000}
    assert (ran.code, ran.out.startswith("no hints now;")) == (0, True)
    assert sadik("hints", "--wait") == (1, "", "sadik: not all\n")


def test_repair_follows_to_the_end(sadik, scripted):
    """It returns when the comparison is over, with what came of it."""
    running = {**REPAIRED, "running": True, "partitions_done": 3}
    scripted.on("POST", "/v1/repair", running)
    scripted.on("GET", "/v1/repair", {**running, "partitions_done": 500}, REPAIRED)
    ran = sadik("repair")
    assert [(asked.method, asked.body) for asked in scripted.asked] == [
        ("POST", b'{"partition": null}'),
        ("GET", b""),
        ("GET", b""),
    ]
    told = "1,024 of 1,024 partitions compared: 1,000,000 keys looked at, 17 repaired, 63.5 KiB sent\n"
    assert ran == (0, told, "")


def test_repair_of_one_partition_with_errors_is_code_1(sadik, scripted):
    """What could not be compared is not called repaired."""
    failed = {**REPAIRED, "errors": ["n2: the link broke"], "partitions_unbuilt": 3}
    scripted.on("POST", "/v1/repair", failed)
    ran = sadik("repair", "--partition", "7", "--json")
    assert scripted.asked[0].json() == {"partition": 7}
    assert (ran.code, json.loads(ran.out)) == (1, failed)
    assert sadik("repair").out.splitlines()[1:] == [
        "3 partitions not compared: their trees are not built yet",
        "error: n2: the link broke",
    ]


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1000, "1s"),
        (200_000, "3m 20s"),
        (7_260_000, "2h 1m"),
        (90_000_000, "1d 1h"),
    ],
)
def test_durations_have_two_units(ms, text):
    assert tables.duration(ms) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_have_a_unit(count, text):
    assert tables.size(count) == text


def test_time_in_the_future_is_now():
    """Another machine's clock may be ahead."""
    assert tables.ago(NOW_MS, NOW_MS + 5000) == "0ms ago"
