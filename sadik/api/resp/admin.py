"""Commands on the server: what it is and does, and the settings that Redis clients look for.

CONFIG knows two kinds of names. *Inert* ones are Redis settings without a counterpart here: they are
kept and shown, and change nothing. *Real* ones are shown as they are; they are set when the node starts,
so setting one to another value is refused.
"""

from __future__ import annotations

from typing import Final

from sadik.api.resp.arguments import (
    SYNTAX_ERROR,
    VALUE_BYTES_MAX_SETTING,
    option_word,
    parse_integer,
    shown,
)
from sadik.api.resp.call import Call, Command, CommandError
from sadik.api.resp.containers import container
from sadik.api.resp.glob import matcher
from sadik.api.resp.replies import (
    EMPTY_ARRAY,
    OK,
    ZERO,
    bulk,
    bulk_array,
    integer,
    mapping,
    null,
    verbatim,
)

SETTING_BYTES_MAX: Final = 1024
"""Longest value an inert setting keeps, so that settings cannot fill the memory."""

_RECORD_BYTES: Final = 40
"""A key's share of the index, as MEMORY USAGE counts it."""

INERT: Final = {
    "activedefrag": "no",
    "activerehashing": "yes",
    "auto-aof-rewrite-min-size": "67108864",
    "auto-aof-rewrite-percentage": "100",
    "client-query-buffer-limit": "1073741824",
    "dynamic-hz": "yes",
    "hash-max-listpack-entries": "512",
    "hash-max-listpack-value": "64",
    "hash-max-ziplist-entries": "512",
    "hash-max-ziplist-value": "64",
    "hz": "10",
    "latency-monitor-threshold": "0",
    "latency-tracking": "yes",
    "lazyfree-lazy-eviction": "no",
    "lazyfree-lazy-expire": "no",
    "lazyfree-lazy-server-del": "no",
    "lazyfree-lazy-user-del": "no",
    "lazyfree-lazy-user-flush": "no",
    "lfu-decay-time": "1",
    "lfu-log-factor": "10",
    "list-compress-depth": "0",
    "list-max-listpack-size": "-2",
    "list-max-ziplist-size": "-2",
    "loglevel": "notice",
    "maxmemory": "0",
    "maxmemory-clients": "0",
    "maxmemory-policy": "noeviction",
    "maxmemory-samples": "5",
    "min-replicas-max-lag": "10",
    "min-replicas-to-write": "0",
    "notify-keyspace-events": "",
    "rdbcompression": "yes",
    "save": "3600 1 300 100 60 10000",
    "set-max-intset-entries": "512",
    "set-max-listpack-entries": "128",
    "set-max-listpack-value": "64",
    "slowlog-log-slower-than": "10000",
    "slowlog-max-len": "128",
    "stop-writes-on-bgsave-error": "yes",
    "stream-node-max-bytes": "4096",
    "stream-node-max-entries": "100",
    "tcp-keepalive": "300",
    "tracking-table-max-keys": "1000000",
    "zset-max-listpack-entries": "128",
    "zset-max-listpack-value": "64",
    "zset-max-ziplist-entries": "128",
    "zset-max-ziplist-value": "64",
}
"""Inert names with Redis' defaults."""


def default_settings() -> dict[str, str]:
    """Settings for a server to start with: the inert ones, and ``value_bytes_max`` (for the owner to
    replace).
    """
    return INERT | {VALUE_BYTES_MAX_SETTING: str(16 << 20)}


def info(call: Call) -> bytes:
    """INFO [section ...]: all sections without one, or with ``all``, ``default`` or ``everything``."""
    wanted = {option_word(argument) for argument in call.arguments[1:]}
    everything = not wanted or wanted & {b"ALL", b"DEFAULT", b"EVERYTHING"}
    sections = [
        f"# {name}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in fields.items())
        for name, fields in call.server.information().items()
        if everything or name.upper().encode() in wanted
    ]
    return verbatim("\r\n".join(sections), call.session.protocol)


def config_get(call: Call) -> bytes:
    """CONFIG GET pattern [pattern ...]: sorted by name."""
    patterns = [matcher(pattern, ignore_case=True) for pattern in call.arguments[2:]]
    found = [
        (bulk(name.encode()), bulk(value.encode("utf-8", "surrogateescape")))
        for name, value in sorted(call.server.settings.items())
        if any(matches(name.encode()) for matches in patterns)
    ]
    return mapping(found, call.session.protocol)


def config_set(call: Call) -> bytes:
    """CONFIG SET name value [name value ...]: all or nothing."""
    settings = call.server.settings
    names, values = call.arguments[2::2], call.arguments[3::2]
    if len(names) != len(values):
        raise CommandError(SYNTAX_ERROR)
    changes: dict[str, str] = {}
    for argument, given in zip(names, values, strict=True):
        name, value = shown(argument).lower(), given.decode("utf-8", "surrogateescape")
        if name not in settings:
            raise CommandError(
                f"ERR Unknown option or number of arguments for CONFIG SET - '{shown(argument)}'"
            )
        if name in changes:
            raise _not_set(argument, "duplicate parameter")
        if name not in INERT and value != settings[name]:
            raise _not_set(argument, "it is fixed while the node runs; set it when the node starts")
        if len(given) > SETTING_BYTES_MAX:
            raise _not_set(argument, f"longer than {SETTING_BYTES_MAX} bytes")
        changes[name] = value
    settings.update(changes)
    return OK


def _not_set(argument: bytes, reason: str) -> CommandError:
    return CommandError(
        f"ERR CONFIG SET failed (possibly related to argument '{shown(argument)}') - {reason}"
    )


def config_reset_statistics(call: Call) -> bytes:
    """CONFIG RESETSTAT."""
    call.server.reset_statistics()
    return OK


def config_rewrite(call: Call) -> bytes:
    """CONFIG REWRITE: settings are never written back, so this says what Redis says without a file."""
    raise CommandError("ERR The server is running without a config file")


def time(call: Call) -> bytes:
    """TIME: Unix seconds, and microseconds within the second (known to the millisecond)."""
    seconds, milliseconds = divmod(call.now_ms, 1000)
    return bulk_array([b"%d" % seconds, b"%d" % (milliseconds * 1000)])


def wait(call: Call) -> bytes:
    """WAIT replicas timeout: 0 at once.

    How many replicas a write waits for is decided with the write (its W), and its reply says whether
    they were reached. Beyond that nothing is known to be acknowledged, and waiting would not change it.
    """
    parse_integer(call.arguments[1])
    timeout = parse_integer(call.arguments[2], "ERR timeout is not an integer or out of range")
    if timeout < 0:
        raise CommandError("ERR timeout is negative")
    return ZERO


def script_exists(call: Call) -> bytes:
    """SCRIPT EXISTS digest [digest ...]: none does."""
    return b"*%d\r\n" % (len(call.arguments) - 2) + ZERO * (len(call.arguments) - 2)


def script_flush(call: Call) -> bytes:
    """SCRIPT FLUSH [ASYNC | SYNC]: there are none, so all are gone."""
    return _flush_nothing(call, "ERR SCRIPT FLUSH only support SYNC|ASYNC option")


def function_flush(call: Call) -> bytes:
    """FUNCTION FLUSH [ASYNC | SYNC], likewise."""
    return _flush_nothing(call, "ERR FUNCTION FLUSH only supports SYNC|ASYNC option")


def _flush_nothing(call: Call, refusal: str) -> bytes:
    modes = [option_word(argument) for argument in call.arguments[2:]]
    if modes not in ([], [b"ASYNC"], [b"SYNC"]):
        raise CommandError(refusal)
    return OK


def slowlog_get(call: Call) -> bytes:
    """SLOWLOG GET [count]: Sadik's slow requests are in its histograms, so this log stays empty."""
    if len(call.arguments) > 3:
        name = shown(call.arguments[1])
        raise CommandError(
            f"ERR unknown subcommand or wrong number of arguments for '{name}'. Try SLOWLOG HELP."
        )
    if len(call.arguments) == 3:
        refusal = "ERR count should be greater than or equal to -1"
        if parse_integer(call.arguments[2], refusal) < -1:
            raise CommandError(refusal)
    return EMPTY_ARRAY


def empty_list(call: Call) -> bytes:
    """LATENCY LATEST and HISTORY: latencies are in the metrics."""
    return EMPTY_ARRAY


def empty_map(call: Call) -> bytes:
    """LATENCY HISTOGRAM [command ...]."""
    return mapping((), call.session.protocol)


def zero(call: Call) -> bytes:
    """SLOWLOG LEN and LATENCY RESET."""
    return ZERO


def accept(call: Call) -> bytes:
    """SLOWLOG RESET."""
    return OK


def memory_usage(call: Call) -> bytes:
    """MEMORY USAGE key [SAMPLES count]: bytes of the key's record and index entry, siblings among them."""
    options = call.arguments[3:]
    if options and (option_word(options[0]) != b"SAMPLES" or len(options) != 2):
        raise CommandError(SYNTAX_ERROR)
    if options and parse_integer(options[1]) < 0:
        raise CommandError(SYNTAX_ERROR)
    record = call.records[0]
    if not record.exists:
        return null(call.session.protocol)
    return integer(len(record.name) + len(record.stored) + _RECORD_BYTES)


_OPEN: Final = ("loading", "stale")
_ADMIN: Final = ("admin", "noscript", "loading", "stale")
_SLOW_ADMIN: Final = ("admin", "loading", "stale")
_SERVER: Final = "server"
_SCRIPTING: Final = "scripting"

_CONFIG: Final = (
    Command("config|get", -3, _ADMIN, 0, 0, 0, _SERVER, "2.0.0", "Settings that match.", config_get),
    Command("config|set", -4, _ADMIN, 0, 0, 0, _SERVER, "2.0.0", "Changes inert settings.", config_set),
    Command(
        "config|resetstat", 2, _ADMIN, 0, 0, 0, _SERVER, "2.0.0", "Zeroes counters.", config_reset_statistics
    ),
    Command("config|rewrite", 2, _ADMIN, 0, 0, 0, _SERVER, "2.8.0", "Always refused.", config_rewrite),
)
_SCRIPT: Final = (
    Command("script|exists", -3, ("noscript",), 0, 0, 0, _SCRIPTING, "2.6.0", "None does.", script_exists),
    Command("script|flush", -2, ("noscript",), 0, 0, 0, _SCRIPTING, "2.6.0", "Without effect.", script_flush),
)
_FUNCTION: Final = (
    Command(
        "function|flush", -2, ("noscript",), 0, 0, 0, _SCRIPTING, "7.0.0", "Without effect.", function_flush
    ),
)
_SLOWLOG: Final = (
    Command("slowlog|get", -2, _SLOW_ADMIN, 0, 0, 0, _SERVER, "2.2.12", "Always empty.", slowlog_get),
    Command("slowlog|len", 2, _SLOW_ADMIN, 0, 0, 0, _SERVER, "2.2.12", "Always 0.", zero),
    Command("slowlog|reset", 2, _SLOW_ADMIN, 0, 0, 0, _SERVER, "2.2.12", "Without effect.", accept),
)
_LATENCY: Final = (
    Command("latency|latest", 2, _ADMIN, 0, 0, 0, _SERVER, "2.8.13", "Always empty.", empty_list),
    Command("latency|history", 3, _ADMIN, 0, 0, 0, _SERVER, "2.8.13", "Always empty.", empty_list),
    Command("latency|histogram", -2, _ADMIN, 0, 0, 0, _SERVER, "7.0.0", "Always empty.", empty_map),
    Command("latency|reset", -2, _ADMIN, 0, 0, 0, _SERVER, "2.8.13", "Always 0.", zero),
)
_MEMORY: Final = (
    Command("memory|usage", -3, ("readonly",), 2, 2, 1, _SERVER, "4.0.0", "Bytes a key takes.", memory_usage),
)

ROWS: Final = (
    Command("info", -1, _OPEN, 0, 0, 0, _SERVER, "1.0.0", "What the node is and does.", info),
    Command("time", 1, ("loading", "stale", "fast"), 0, 0, 0, _SERVER, "2.6.0", "The node's time.", time),
    Command("wait", 3, ("noscript",), 0, 0, 0, "generic", "3.0.0", "Always 0: see W.", wait),
    container("config", _SERVER, "2.0.0", "Settings.", _CONFIG),
    container("script", _SCRIPTING, "2.6.0", "Scripts, of which there are none.", _SCRIPT),
    container("function", _SCRIPTING, "7.0.0", "Functions, of which there are none.", _FUNCTION),
    container("slowlog", _SERVER, "2.2.12", "Slow commands: see the metrics.", _SLOWLOG),
    container("latency", _SERVER, "2.8.13", "Latencies: see the metrics.", _LATENCY),
    container("memory", _SERVER, "4.0.0", "Memory of a key.", _MEMORY),
)
