"""What Sadik's commands do beyond Redis' replies: versions, tombstones, limits, refusals, sessions."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.api.resp import refused, table
from sadik.api.resp.admin import INERT
from sadik.api.resp.call import CommandError
from sadik.api.resp.glob import matcher
from sadik.api.resp.keys import SCAN_COUNT_MAX
from sadik.kernels import versions
from sadik.node.buckets import BucketProperties
from tests.api.resp_harness import Harness, decode

OK = b"+OK\r\n"
NIL = b"$-1\r\n"


@pytest.fixture
def sadik() -> Harness:
    return Harness()


def values_of(sadik: Harness, key: bytes, bucket: bytes = b"0") -> list[versions.Value]:
    """Every value stored for a key, tombstones among them."""
    return versions.decode(sadik.store.sets[bucket, key])[1]


# Writes and versions.


def test_set_replaces_every_sibling(sadik: Harness) -> None:
    """RESP clients without contexts see one value, so their SET covers what the node holds."""
    for payload in ("one", "two", "three"):
        sadik("SADIK.PUT", "k", "", payload)
    assert len(decode(sadik("SADIK.GET", "k"))[1]) == 3
    assert sadik("SET", "k", "four") == OK
    assert [value.payload for value in values_of(sadik, b"k")] == [b"four"]


@pytest.mark.parametrize(
    "command",
    [
        ("DEL", "k"),
        ("UNLINK", "k"),
        ("GETDEL", "k"),
        ("EXPIRE", "k", -1),
        ("PEXPIREAT", "k", 1),
        ("PEXPIREAT", "k", -(2**63)),
        ("GETEX", "k", "PXAT", 1),
        ("SET", "k", "v", "PXAT", 1),
    ],
)
def test_every_way_to_remove_a_key_writes_a_tombstone(sadik: Harness, command: tuple[str | int, ...]) -> None:
    """A key that merely vanished here would come back from another replica."""
    sadik("SET", "k", "v")
    assert not sadik(*command).startswith(b"-")
    assert sadik("EXISTS", "k") == b":0\r\n"
    assert [value.flags for value in values_of(sadik, b"k")] == [versions.TOMBSTONE]


@pytest.mark.parametrize("command", [("DEL", "k"), ("GETDEL", "k"), ("EXPIRE", "k", -1), ("PERSIST", "k")])
def test_commands_on_a_missing_key_write_nothing(sadik: Harness, command: tuple[str | int, ...]) -> None:
    """Tombstones of keys that never were would fill the store."""
    sadik(*command)
    assert sadik.store.sets == {}


def test_expired_values_are_gone_without_a_write(sadik: Harness) -> None:
    """Expiry is part of the version: the same on every replica, with no message."""
    sadik("SET", "k", "v", "PX", 100)
    stored = dict(sadik.store.sets)
    sadik.store.now_ms += 100
    assert sadik("GET", "k") == NIL
    assert sadik("TTL", "k") == b":-2\r\n"
    assert sadik.store.sets == stored


def test_changing_the_expiry_keeps_metadata_and_set_drops_it(sadik: Harness) -> None:
    """The content type given over HTTP belongs to the value, not to the time it has left."""
    record = sadik.store.record(b"0", b"k")
    record.put(b"v", metadata=b"type")
    sadik.store.sets[b"0", b"k"] = record.stored
    for command in (("EXPIRE", "k", 100), ("PERSIST", "k"), ("APPEND", "k", "w"), ("GETEX", "k", "EX", 9)):
        sadik(*command)
        assert values_of(sadik, b"k")[0].metadata == b"type"
    sadik("SET", "k", "v")
    assert values_of(sadik, b"k")[0].metadata == b""


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "k", "v"),
        ("SET", "k", "v", "KEEPTTL"),
        ("SETNX", "k", "v"),
        ("GETSET", "k", "v"),
        ("MSET", "k", "v"),
        ("APPEND", "k", "v"),
        ("SETRANGE", "k", 0, "v"),
        ("SADIK.PUT", "k", "", "v"),
    ],
)
def test_values_without_a_time_to_live_get_that_of_the_bucket(
    sadik: Harness, command: tuple[str | int, ...]
) -> None:
    """Whichever command first writes the value."""
    sadik.store.bucket_properties[b"0"] = BucketProperties(ttl_ms=5000)
    sadik(*command)
    assert sadik("PTTL", "k") == b":5000\r\n"


def test_a_time_of_its_own_or_persist_wins_over_that_of_the_bucket(sadik: Harness) -> None:
    """The bucket's is a default, not a limit."""
    sadik.store.bucket_properties[b"0"] = BucketProperties(ttl_ms=5000)
    sadik("SET", "k", "v", "PX", 9000)
    sadik.store.now_ms += 1
    sadik("SET", "k", "w", "KEEPTTL")
    assert sadik("PTTL", "k") == b":8999\r\n"
    sadik("PERSIST", "k")
    assert sadik("PTTL", "k") == b":-1\r\n"
    sadik("APPEND", "k", "x")
    assert sadik("PTTL", "k") == b":-1\r\n"


def test_an_unreadable_record_is_an_error_until_it_is_overwritten(sadik: Harness) -> None:
    """Not found would be a lie; a blind SET loses nothing that could still be read."""
    sadik.store.unreadable.add(b"k")
    for command in (("GET", "k"), ("DEL", "k"), ("SETNX", "k", "v"), ("TTL", "k"), ("MGET", "j", "k")):
        assert sadik(*command).startswith(b"-CORRUPT "), command
    assert sadik("SET", "k", "v") == OK


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "k", "x" * 9),
        ("SETNX", "n", "x" * 9),
        ("SETEX", "k", 10, "x" * 9),
        ("GETSET", "k", "x" * 9),
        ("MSET", "j", "v", "k", "x" * 9),
        ("APPEND", "k", "xxxx"),
        ("SETRANGE", "k", 8, "x"),
        ("SADIK.PUT", "k", "", "x" * 9),
    ],
)
def test_values_over_the_limit_are_refused_before_any_effect(command: tuple[str | int, ...]) -> None:
    """Also where the command only makes a value longer, and all of MSET or nothing."""
    sadik = Harness(value_bytes_max=8)
    sadik("SET", "k", "12345")
    before = dict(sadik.store.sets)
    assert sadik(*command).startswith(b"-LIMIT a value of ")
    assert sadik.store.sets == before


@pytest.mark.parametrize("key", [b"", b"k" * 65536])
@pytest.mark.parametrize("command", ["GET", "SET", "DEL", "MGET", "SADIK.GET", "SADIK.PUT", "MEMORY"])
def test_keys_that_cannot_be_stored_are_refused(sadik: Harness, command: str, key: bytes) -> None:
    """The same answer from every command that takes one."""
    arguments = {"SET": (key, "v"), "SADIK.PUT": (key, "", "v"), "MEMORY": ("USAGE", key)}.get(
        command, (key,)
    )
    assert sadik(command, *arguments) == b"-ERR key must be 1 to 65535 bytes\r\n"


# SADIK.*


def test_put_with_the_context_of_a_read_replaces_what_it_saw(sadik: Harness) -> None:
    """And nothing else: the write that came between stays as a sibling."""
    sadik("SADIK.PUT", "k", "", "one")
    context, _ = decode(sadik("SADIK.GET", "k"))
    assert decode(sadik("SADIK.PUT", "k", context, "two")) not in (None, b"")
    assert sadik("SADIK.PUT", "k", context, "three") == NIL
    newer, found = decode(sadik("SADIK.GET", "k"))
    assert [value for value, _, _ in found] == [b"three", b"two"]
    assert decode(sadik("SADIK.PUT", "k", newer, "four")) is not None
    assert [value for value, _, _ in decode(sadik("SADIK.GET", "k"))[1]] == [b"four"]


def test_delete_with_a_stale_context_leaves_what_it_had_not_seen(sadik: Harness) -> None:
    """A delete is a write like any other."""
    stale = decode(sadik("SADIK.PUT", "k", "", "one"))
    sadik("SADIK.PUT", "k", stale, "two")
    assert sadik("SADIK.DEL", "k", stale) == NIL
    context, found = decode(sadik("SADIK.GET", "k"))
    assert [value for value, _, _ in found] == [b"two"]
    # The tombstone is newer than the value that it had not seen, and RESP shows the newest.
    assert sadik("GET", "k") == NIL
    assert decode(sadik("SADIK.DEL", "k", context)) is not None
    assert decode(sadik("SADIK.GET", "k"))[1] == []


def test_a_deleted_key_has_a_context_and_an_unknown_one_has_none(sadik: Harness) -> None:
    """The next write after a delete can say that it has seen it."""
    assert decode(sadik("SADIK.GET", "k")) == [b"", []]
    sadik("SET", "k", "v")
    sadik("DEL", "k")
    context, found = decode(sadik("SADIK.GET", "k"))
    assert (bool(context), found) == (True, [])


def test_native_values_tell_stamp_and_expiry(sadik: Harness) -> None:
    """Milliseconds both, -1 for never."""
    now_ms = sadik.store.now_ms
    sadik.store.mint.last = now_ms << 16
    sadik("SADIK.PUT", "k", "", "v", "ttl_ms", 250)
    assert decode(sadik("SADIK.GET", "k", "R", 1, "pr", 1, "TIMEOUT_MS", 50))[1] == [
        [b"v", now_ms, now_ms + 250]
    ]
    sadik("SET", "k", "v")
    assert decode(sadik("SADIK.GET", "k"))[1] == [[b"v", now_ms, -1]]


def test_contexts_are_bound_to_their_key(sadik: Harness) -> None:
    """A foreign or damaged context is refused; it may cover what its client never saw."""
    context = decode(sadik("SADIK.PUT", "k", "", "v"))
    before = dict(sadik.store.sets)
    for command in (
        ("SADIK.PUT", "j", context, "v"),
        ("SADIK.DEL", "j", context),
        ("SADIK.PUT", "k", "x", "v"),
    ):
        assert sadik(*command).startswith(b"-BADCONTEXT "), command
    assert sadik.store.sets == before


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("SADIK.GET", "k", "R"), "option 'R' has no value"),
        (("SADIK.GET", "k", "W", 1), "option w means nothing here; options are pr, r, timeout_ms"),
        (("SADIK.GET", "k", "R", 2), "r is more than the 1 replica there is"),
        (("SADIK.GET", "k", "R", 0), "option r must be 1 to"),
        (("SADIK.GET", "k", "R", "x"), "option r must be a positive whole number"),
        (("SADIK.GET", "k", "R", 1, "r", 1), "option r is given twice"),
        (("SADIK.PUT", "k", "", "v", "R", 1), "option r means nothing here"),
        (("SADIK.PUT", "k", "", "v", "Q\r\n", 1), "unknown option 'Q\\r\\n'"),
        (("SADIK.DEL", "k", "", "TTL_MS", 1), "option ttl_ms means nothing here"),
    ],
)
def test_native_options_are_checked_before_any_effect(
    sadik: Harness, command: tuple[str | int, ...], reason: str
) -> None:
    """An option that would be ignored is a mistake of the caller."""
    reply = sadik(*command)
    assert reply.startswith(f"-ERR {reason}".encode()), reply
    assert sadik.store.sets == {}


def test_use_and_select_choose_the_bucket(sadik: Harness) -> None:
    """One key in two buckets is two keys."""
    assert sadik("SADIK.USE", "users \xff") == OK
    sadik("SET", "k", "there")
    assert sadik("SELECT", 0) == OK
    assert sadik("GET", "k") == NIL
    assert sadik("SADIK.USE", "users \xff") == OK
    assert decode(sadik("GET", "k")) == b"there"
    for bucket in ("", "b" * 256):
        assert sadik("SADIK.USE", bucket).startswith(b"-ERR a bucket name is 1 to 255 bytes")
    assert decode(sadik("GET", "k")) == b"there"


@pytest.mark.parametrize("protocol", [2, 3])
def test_explain_is_a_map_of_what_each_replica_has(sadik: Harness, protocol: int) -> None:
    """Actors and tokens are uint64 and go as text, because RESP integers are signed."""
    sadik("HELLO", protocol)
    sadik("SADIK.PUT", "k", "", "one")
    sadik("SADIK.PUT", "k", "", "two")
    reply = decode(sadik("SADIK.EXPLAIN", "k"))
    fields = reply if protocol == 3 else dict(zip(reply[::2], reply[1::2], strict=True))
    assert fields[b"token"] == str(2**64 - 1).encode()
    assert (fields[b"bucket"], fields[b"key"], fields[b"n"]) == (b"0", b"k", 1)
    replica = fields[b"replicas"][0]
    replica = replica if protocol == 3 else dict(zip(replica[::2], replica[1::2], strict=True))
    assert (replica[b"siblings"], replica[b"state"], replica[b"up"]) == (2, b"stored", 1)
    assert replica[b"entries"] == [[b"000000000000a5a5", 2]]


# The keys of a bucket.


def test_scan_walks_every_key_once_from_any_cursor(sadik: Harness) -> None:
    """The cursor is the whole state, so a restart in between changes nothing."""
    names = [b"key%d" % number for number in range(60)]
    for name in names:
        sadik("SET", name, "v")
    sadik("SET", "gone", "v")
    sadik("DEL", "gone")
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, page = decode(sadik("SCAN", cursor, "COUNT", 7))
        found += page
        if cursor == b"0":
            break
    assert sorted(found) == sorted(names)
    assert sorted(decode(sadik("KEYS", "key1*"))) == sorted(
        name for name in names if name.startswith(b"key1")
    )


def test_scan_of_another_type_goes_on_with_empty_pages(sadik: Harness) -> None:
    """The cursor must still reach the end."""
    for number in range(12):
        sadik("SET", number, "v")
    cursor, page = decode(sadik("SCAN", 0, "TYPE", "hash"))
    assert (cursor != b"0", page) == (True, [])
    assert decode(sadik("SCAN", cursor, "TYPE", "hash")) == [b"0", []]


@pytest.mark.parametrize("cursor", ["9223372036854775808", "-1", "", "1 ", "+1", "x", "1" * 30])
def test_cursors_that_are_none_are_refused(sadik: Harness, cursor: str) -> None:
    """Redis' own words, because clients look for them."""
    assert sadik("SCAN", cursor) == b"-ERR invalid cursor\r\n"


def test_scan_counts_are_bounded(sadik: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """COUNT is a hint: one client cannot hold the loop with a large one."""
    seen: list[int] = []
    inner = sadik.store.scan
    monkeypatch.setattr(
        sadik.store, "scan", lambda bucket, cursor, count: seen.append(count) or inner(bucket, cursor, count)
    )
    assert not sadik("SCAN", 0, "COUNT", 2**62).startswith(b"-")
    assert seen == [SCAN_COUNT_MAX]


def test_flushes_hide_everything_and_only_what_was_there(sadik: Harness) -> None:
    """FLUSHDB the bucket in use, FLUSHALL those that SELECT reaches, none of the others."""
    for bucket in ("0", "7", "named"):
        sadik("SADIK.USE", bucket)
        sadik("SET", "k", "v")
    sadik("SELECT", 0)
    assert sadik("FLUSHDB") == OK
    assert sadik("DBSIZE") == b":0\r\n"
    sadik("SET", "k", "w")
    assert decode(sadik("GET", "k")) == b"w"
    assert sadik("FLUSHALL", "ASYNC") == OK
    counts = []
    for bucket in ("0", "7", "named"):
        sadik("SADIK.USE", bucket)
        counts.append(decode(sadik("DBSIZE")))
    assert counts == [0, 0, 1]


def test_patterns_with_many_stars_do_not_backtrack() -> None:
    """The naive matcher takes exponential time here, and everyone waits."""
    matches = matcher(b"*a" * 400 + b"*b")
    started = time.process_time()
    assert not matches(b"a" * 65535)
    assert matches(b"a" * 65534 + b"b")
    assert time.process_time() - started < 2


# Batches.


def test_errors_inside_a_batch_do_not_stop_it(sadik: Harness) -> None:
    """As in Redis: EXEC answers each command on its own."""
    sadik("MULTI")
    for command in (("SET", "k", "v"), ("EXPIRE", "k", "x"), ("SET", "j", "w", "PX", 0), ("MGET", "k", "j")):
        assert sadik(*command) == b"+QUEUED\r\n"
    first, second, third, fourth = decode(sadik("EXEC"))
    assert (first, fourth) == (b"OK", [b"v", None])
    assert str(second) == "ERR value is not an integer or out of range"
    assert str(third) == "ERR invalid expire time in 'set' command"


@pytest.mark.parametrize(
    "command", [("NOSUCH",), ("GET",), ("WATCH", "k"), ("INCR", "k"), ("CLIENT", "NOSUCH")]
)
def test_what_is_refused_while_queueing_aborts_the_batch(sadik: Harness, command: tuple[str, ...]) -> None:
    """Half of a batch is not what its client meant; the connection goes on after it."""
    sadik("MULTI")
    sadik("SET", "k", "v")
    assert sadik(*command).startswith(b"-ERR ")
    assert sadik("EXEC") == b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    assert sadik("GET", "k") == NIL


# Refusals.


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (("WATCH", "k"), "WATCH is not supported: no linearizable compare-and-set"),
        (("msetnx", "k", "v"), "MSETNX is not supported: no atomic write of several keys"),
        (("EVAL", "return 1", "0"), "EVAL is not supported: no scripts, which need one executor"),
        (("SCRIPT", "load", "x"), "SCRIPT LOAD is not supported: no scripts, which need one executor"),
        (("BLPOP", "k", 0), "BLPOP is not supported: no blocking pops, which need one owner of each element"),
        (("LPUSH", "k", "v"), "LPUSH is not supported: no lists, which need one order of pushes and pops"),
        (("XADD", "k"), "XADD is not supported: no streams, which need one order of entries"),
        (("SUBSCRIBE", "c"), "SUBSCRIBE is not supported yet: no publish and subscribe so far"),
        (("HSET", "k", "f", "v"), "HSET is not supported yet: no hashes so far"),
        (("SADD", "k", "m"), "SADD is not supported yet: no sets so far"),
        (("CLIENT", "Tracking", "ON"), "CLIENT TRACKING is not supported: no client-side caching"),
        (
            ("CLIENT", "MAINT_NOTIFICATIONS", "ON"),
            "CLIENT MAINT_NOTIFICATIONS is not supported: no notice of maintenance",
        ),
        (("CLUSTER", "SLOTS"), "This instance has cluster support disabled"),
        (("DEBUG", "SLEEP", 1), "DEBUG is not supported: no debugging of a running node"),
    ],
)
def test_what_redis_has_and_sadik_has_not_is_refused_with_its_reason(
    sadik: Harness, command: tuple[str | int, ...], reply: str
) -> None:
    """Always -ERR, and the connection stays: other answers make clients retry, load scripts or give up."""
    assert sadik(*command) == f"-ERR {reply}\r\n".encode()
    assert sadik("PING") == b"+PONG\r\n"


def test_no_command_is_both_there_and_refused() -> None:
    """A name that is added to the table must leave the refusals."""
    rows = [row for command in table.COMMANDS.values() for row in (command, *command.subcommands)]
    assert [row.name for row in rows if refused.refusal(row.name.encode().split(b"|")[:2])] == []


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_any_command_gets_one_well_formed_reply(arguments: list[bytes]) -> None:
    """Names and arguments of any bytes, echoed in errors or not, never break the protocol."""
    reply = Harness().run(Harness().opened[0], arguments)
    assert reply.endswith(b"\r\n")
    decode(reply)


def test_every_container_lists_its_subcommands(sadik: Harness) -> None:
    """The error for an unknown subcommand points to HELP."""
    containers = [command for command in table.COMMANDS.values() if command.subcommands]
    assert {command.name for command in containers} >= {"client", "config", "command", "script", "memory"}
    for command in containers:
        lines = decode(sadik(command.name, "HELP"))
        for row in command.subcommands:
            assert row.name.partition("|")[2].upper().encode() in lines


# Sessions.


def test_a_password_opens_the_connection() -> None:
    """Before it only what needs none runs; RESET closes it again."""
    sadik = Harness(password=b"secret")
    assert sadik("GET", "k") == b"-NOAUTH Authentication required.\r\n"
    assert sadik("HELLO", 3).startswith(b"-NOAUTH HELLO must be called")
    assert sadik("AUTH", "wrong") == b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    assert sadik("HELLO", 3, "AUTH", "default", "wrong", "SETNAME", "x").startswith(b"-WRONGPASS")
    assert sadik.opened[0].protocol == 2
    assert decode(sadik("HELLO", 3, "AUTH", "default", "secret", "SETNAME", "x"))[b"proto"] == 3
    assert decode(sadik("CLIENT", "GETNAME")) == b"x"
    assert sadik("GET", "k") == b"_\r\n"
    assert sadik("RESET") == b"+RESET\r\n"
    assert sadik("GET", "k") == b"-NOAUTH Authentication required.\r\n"
    assert sadik("AUTH", "secret") == OK
    assert sadik("GET", "k") == NIL


def test_reset_makes_the_connection_as_new(sadik: Harness) -> None:
    """Pools hand connections on after it."""
    for command in (
        ("HELLO", 3, "SETNAME", "x"),
        ("SELECT", 3),
        ("CLIENT", "SETINFO", "lib-name", "y"),
        ("MULTI",),
    ):
        sadik(*command)
    sadik("RESET")
    session = sadik.opened[0]
    assert (session.protocol, session.bucket, session.name, session.queue) == (2, b"0", b"", None)
    assert session.library_name == b"y"


def test_client_list_has_the_fields_that_clients_read(sadik: Harness) -> None:
    """One line a connection; names that would break a line are refused."""
    other = sadik.open()
    sadik.run(other, [b"SADIK.USE", b"my bucket"])
    sadik("CLIENT", "SETNAME", "worker")
    assert sadik("CLIENT", "SETINFO", "LIB-NAME", "redis-py") == OK
    assert sadik("CLIENT", "SETINFO", "lib-ver", "8.1") == OK
    assert sadik("CLIENT", "SETINFO", "lib-name", "a b").startswith(b"-ERR lib-name cannot contain spaces")
    assert sadik("CLIENT", "SETINFO", "color", "b") == b"-ERR Unrecognized option 'color'\r\n"
    lines = decode(sadik("CLIENT", "LIST")).decode().splitlines()
    first, second = (dict(field.split("=", 1) for field in line.split(" ")) for line in lines)
    assert (first["name"], first["lib-name"], first["lib-ver"], first["db"]) == (
        "worker",
        "redis-py",
        "8.1",
        "0",
    )
    assert (second["db"], second["bucket"], second["id"]) == ("-1", "my%20bucket", "2")
    assert first["cmd"] == "client|list"
    assert decode(sadik("CLIENT", "LIST", "ID", 2, 9)).decode().splitlines() == lines[1:]
    needed = "id addr laddr fd name age idle flags db sub psub multi qbuf qbuf-free argv-mem obl oll omem cmd"
    assert set(needed.split()) <= set(first)


def test_client_kill_spares_the_caller_unless_told(sadik: Harness) -> None:
    """The filter form by default; the old form with an address never."""
    sadik.open()
    sadik.open()
    assert sadik("CLIENT", "KILL", "TYPE", "normal") == b":2\r\n"
    assert sadik.killed == [2, 3]
    assert sadik("CLIENT", "KILL", "ID", 1, "SKIPME", "no") == b":1\r\n"
    assert (sadik.opened[0].close_after_reply, sadik.killed) == (True, [2, 3])
    third = sadik.open()
    assert sadik("CLIENT", "KILL", third.address) == OK
    assert sadik.killed == [2, 3, third.id]


def test_replies_off_is_not_answered(sadik: Harness) -> None:
    """Only ON is; and SKIP while off changes nothing."""
    assert sadik("CLIENT", "REPLY", "SKIP") == b""
    assert sadik.opened[0].reply_mode == "skip"
    assert sadik("CLIENT", "REPLY", "OFF") == b""
    assert sadik("CLIENT", "REPLY", "SKIP") == b""
    assert sadik.opened[0].reply_mode == "off"
    assert sadik("CLIENT", "REPLY", "ON") == OK


# The server.


@pytest.mark.parametrize("protocol", [2, 3])
def test_info_gives_whole_sections(sadik: Harness, protocol: int) -> None:
    """Verbatim text in RESP3; unknown sections are empty, as in Redis."""
    sadik("HELLO", protocol)
    reply = sadik("INFO")
    assert reply[:1] == (b"=" if protocol == 3 else b"$")
    assert decode(reply) == (
        b"# Server\r\nredis_version:7.2.4\r\ntcp_port:7379\r\n\r\n"
        b"# Keyspace\r\n\r\n# Sadik\r\nsadik_version:0.1.0\r\n"
    )
    assert decode(sadik("INFO", "sadik")) == b"# Sadik\r\nsadik_version:0.1.0\r\n"
    assert decode(sadik("INFO", "keyspace", "all")) == decode(reply)
    assert decode(sadik("INFO", "nosuch")) == b""


def test_inert_settings_are_kept_and_shown(sadik: Harness) -> None:
    """All or nothing, bounded, and never a name that Redis does not have."""
    assert sadik("CONFIG", "SET", "MaxMemory", "100", "save", "\xff") == OK
    assert decode(sadik("CONFIG", "GET", "maxmemory", "save")) == [b"maxmemory", b"100", b"save", b"\xff"]
    assert sadik("CONFIG", "SET", "hz", "1", "save", "x" * 1025).endswith(b"longer than 1024 bytes\r\n")
    assert sadik.settings["hz"] == INERT["hz"]
    sadik("HELLO", 3)
    assert decode(sadik("CONFIG", "GET", "SAVE")) == {b"save": b"\xff"}


def test_real_settings_can_only_be_set_to_what_they_are(sadik: Harness) -> None:
    """An OK that changes nothing would be a lie; asking for what is so is none."""
    assert sadik("CONFIG", "SET", "appendonly", "yes") == OK
    assert b"it is fixed while the node runs" in sadik("CONFIG", "SET", "value_bytes_max", "1")
    assert sadik.settings["value_bytes_max"] == str(16 << 20)


def test_redis_benchmark_can_read_what_it_asks(sadik: Harness) -> None:
    """It takes the first two of each of these replies, in RESP2."""
    assert len(decode(sadik("CONFIG", "GET", "save"))) == 2
    assert len(decode(sadik("CONFIG", "GET", "appendonly"))) == 2


@pytest.mark.parametrize("protocol", [2, 3])
def test_command_tells_the_whole_table(sadik: Harness, protocol: int) -> None:
    """Ten fields a row; cluster clients read the third to sixth."""
    sadik("HELLO", protocol)
    rows = decode(sadik("COMMAND"))
    assert decode(sadik("COMMAND", "COUNT")) == len(rows) == len(table.COMMANDS)
    assert sorted(decode(sadik("COMMAND", "LIST"))) == sorted(table.COMMANDS)
    assert all(len(row) == 10 for row in rows)
    by_name = {row[0]: row for row in rows}
    assert by_name[b"mset"][1:6] == [-3, [b"write", b"denyoom"], 1, -1, 2]
    assert [row[0] for row in by_name[b"script"][9]] == [b"script|exists", b"script|flush", b"script|help"]
    docs = decode(sadik("COMMAND", "DOCS", "get", "nosuch"))
    names = list(docs) if protocol == 3 else docs[::2]
    assert names == [b"get"]


def test_keys_of_native_commands_are_known(sadik: Harness) -> None:
    """What COMMAND GETKEYS says is what the server locks, reads and hashes."""
    assert decode(sadik("COMMAND", "GETKEYS", "SADIK.PUT", "k", "", "v")) == [b"k"]
    assert decode(sadik("COMMAND", "GETKEYSANDFLAGS", "DEL", "a", "b")) == [
        [b"a", [b"RW", b"update"]],
        [b"b", [b"RW", b"update"]],
    ]
    assert sadik("COMMAND", "GETKEYS", "SADIK.USE", "b").startswith(b"-ERR The command has no key")


def test_memory_usage_counts_the_record(sadik: Harness) -> None:
    """More for a longer value, and for siblings."""
    sadik("SET", "k", "v" * 1000)
    assert 1000 < decode(sadik("MEMORY", "USAGE", "k")) < 1200
    sadik("SADIK.PUT", "k", "", "v" * 1000)
    assert 2000 < decode(sadik("MEMORY", "USAGE", "k")) < 2300
    assert isinstance(decode(sadik("MEMORY")), CommandError)


def test_time_is_the_time_of_the_command(sadik: Harness) -> None:
    """To the millisecond, which is what the node's clock has."""
    sadik.store.now_ms = 1_800_000_000_123
    assert decode(sadik("TIME")) == [b"1800000000", b"123000"]
