"""CLIENT: the names connections give themselves, the list of them, and closing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote_from_bytes

from sadik.api.resp.arguments import INT64_MAX, SYNTAX_ERROR, option_word, parse_integer, shown
from sadik.api.resp.call import Call, Command, CommandError, Session
from sadik.api.resp.connection_commands import check_client_name, is_printable
from sadik.api.resp.containers import container
from sadik.api.resp.keys import NUMBERED_BUCKETS
from sadik.api.resp.replies import NOTHING, OK, bulk, integer, null, verbatim

_NUMBERED: Final = frozenset(b"%d" % number for number in range(NUMBERED_BUCKETS))
_TYPES: Final = (b"NORMAL", b"MASTER", b"SLAVE", b"REPLICA", b"PUBSUB")


def client_id(call: Call) -> bytes:
    """CLIENT ID."""
    return integer(call.session.id)


def get_name(call: Call) -> bytes:
    """CLIENT GETNAME."""
    return bulk(call.session.name) if call.session.name else null(call.session.protocol)


def set_name(call: Call) -> bytes:
    """CLIENT SETNAME name; an empty name takes it away."""
    call.session.name = check_client_name(call.arguments[2])
    return OK


def set_library(call: Call) -> bytes:
    """CLIENT SETINFO LIB-NAME | LIB-VER value."""
    option, value = option_word(call.arguments[2]), call.arguments[3]
    if option not in (b"LIB-NAME", b"LIB-VER"):
        raise CommandError(f"ERR Unrecognized option '{shown(call.arguments[2])}'")
    if not is_printable(value):
        raise CommandError(
            f"ERR {option.decode().lower()} cannot contain spaces, newlines or special characters."
        )
    if option == b"LIB-NAME":
        call.session.library_name = value
    else:
        call.session.library_version = value
    return OK


def info(call: Call) -> bytes:
    """CLIENT INFO: this connection's line of CLIENT LIST."""
    return verbatim(_line(call.session, call.now_ms), call.session.protocol)


def list_(call: Call) -> bytes:
    """CLIENT LIST [TYPE type | ID id [id ...]]."""
    arguments = call.arguments[2:]
    sessions = sorted(call.server.sessions(), key=lambda session: session.id)
    word = option_word(arguments[0]) if arguments else b""
    if word == b"TYPE" and len(arguments) == 2:
        if _client_type(arguments[1]) != b"NORMAL":
            sessions = []
    elif word == b"ID" and len(arguments) > 1:
        wanted = {parse_integer(argument, "ERR Invalid client ID") for argument in arguments[1:]}
        sessions = [session for session in sessions if session.id in wanted]
    elif arguments:
        raise CommandError(SYNTAX_ERROR)
    lines = "".join(_line(session, call.now_ms) for session in sessions)
    return verbatim(lines, call.session.protocol)


def _line(session: Session, now_ms: int) -> str:
    """One line of CLIENT LIST. Readers expect every field of Redis; what Sadik does not count is 0."""
    queued = -1 if session.queue is None else len(session.queue)
    fields: dict[str, str | int] = {
        "id": session.id,
        "addr": session.address,
        "laddr": session.local_address,
        "fd": -1,
        "name": session.name.decode("latin-1"),
        "age": (now_ms - session.created_ms) // 1000,
        "idle": (now_ms - (session.last_command_ms or session.created_ms)) // 1000,
        "flags": "N" if session.queue is None else "x",
        "db": int(session.bucket) if session.bucket in _NUMBERED else -1,
        "sub": 0,
        "psub": 0,
        "ssub": 0,
        "multi": queued,
        "qbuf": 0,
        "qbuf-free": 0,
        "argv-mem": 0,
        "multi-mem": 0,
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": 0,
        "omem": 0,
        "tot-mem": 0,
        "events": "r",
        "cmd": quote_from_bytes(session.last_command.lower(), safe="|.-_") or "NULL",
        "user": "default",
        "redir": -1,
        "resp": session.protocol,
        "lib-name": session.library_name.decode("latin-1"),
        "lib-ver": session.library_version.decode("latin-1"),
        "bucket": quote_from_bytes(session.bucket),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()) + "\n"


def _client_type(argument: bytes) -> bytes:
    word = option_word(argument)
    if word not in _TYPES:
        raise CommandError(f"ERR Unknown client type '{shown(argument)}'")
    return word


def kill(call: Call) -> bytes:
    """CLIENT KILL address, which spares nobody, or CLIENT KILL filter value [filter value ...], which
    spares the caller.
    """
    if len(call.arguments) == 3:
        address = shown(call.arguments[2])
        victims = [session for session in call.server.sessions() if session.address == address]
        if not victims:
            raise CommandError("ERR No such client")
        _close(call, victims)
        return OK
    victims = _filtered(call, call.arguments[2:])
    _close(call, victims)
    return integer(len(victims))


def _filtered(call: Call, arguments: list[bytes]) -> list[Session]:
    if len(arguments) % 2:
        raise CommandError(SYNTAX_ERROR)
    victims = sorted(call.server.sessions(), key=lambda session: session.id)
    skip_me = True
    for option, operand in zip(arguments[::2], arguments[1::2], strict=True):
        word, value = option_word(option), shown(operand)
        if word == b"ID":
            number = parse_integer(operand, "ERR client-id should be greater than 0")
            if not 1 <= number <= INT64_MAX:
                raise CommandError("ERR client-id should be greater than 0")
            victims = [session for session in victims if session.id == number]
        elif word == b"TYPE":
            victims = victims if _client_type(operand) == b"NORMAL" else []
        elif word == b"ADDR":
            victims = [session for session in victims if session.address == value]
        elif word == b"LADDR":
            victims = [session for session in victims if session.local_address == value]
        elif word == b"USER":
            if value != "default":
                raise CommandError(f"ERR No such user '{value}'")
        elif word == b"SKIPME" and option_word(operand) in (b"YES", b"NO"):
            skip_me = option_word(operand) == b"YES"
        else:
            raise CommandError(SYNTAX_ERROR)
    return [session for session in victims if not (skip_me and session.id == call.session.id)]


def _close(call: Call, victims: Sequence[Session]) -> None:
    for session in victims:
        if session.id == call.session.id:
            call.session.close_after_reply = True
        else:
            call.server.kill(session.id)


def reply(call: Call) -> bytes:
    """CLIENT REPLY ON | OFF | SKIP: OFF and SKIP are not answered themselves."""
    word = option_word(call.arguments[2])
    if word not in (b"ON", b"OFF", b"SKIP"):
        raise CommandError(SYNTAX_ERROR)
    # SKIP while replies are off changes nothing: only ON switches them on again.
    if word != b"SKIP" or call.session.reply_mode != "off":
        call.session.reply_mode = word.decode().lower()
    return OK if word == b"ON" else NOTHING


def accept_switch(call: Call) -> bytes:
    """CLIENT NO-EVICT and NO-TOUCH ON | OFF: nothing is ever evicted here, so there is nothing to switch."""
    if option_word(call.arguments[2]) not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX_ERROR)
    return OK


_PLAIN: Final = ("noscript", "loading", "stale")
_ADMIN: Final = ("admin", *_PLAIN)
_ALONE: Final = (*_PLAIN, "no_multi")
"""A reply that is not given would leave a hole in EXEC's."""
_GROUP: Final = "connection"

ROWS: Final = (
    container(
        "client",
        _GROUP,
        "2.4.0",
        "Commands on connections.",
        (
            Command("client|id", 2, _PLAIN, 0, 0, 0, _GROUP, "5.0.0", "Its number.", client_id),
            Command("client|getname", 2, _PLAIN, 0, 0, 0, _GROUP, "2.6.9", "Its name.", get_name),
            Command(
                "client|setname", 3, _PLAIN, 0, 0, 0, _GROUP, "2.6.9", "Names this connection.", set_name
            ),
            Command("client|setinfo", 4, _PLAIN, 0, 0, 0, _GROUP, "7.2.0", "Names the library.", set_library),
            Command("client|info", 2, _PLAIN, 0, 0, 0, _GROUP, "6.2.0", "A line on this connection.", info),
            Command("client|list", -2, _ADMIN, 0, 0, 0, _GROUP, "2.4.0", "A line on each connection.", list_),
            Command("client|kill", -3, _ADMIN, 0, 0, 0, _GROUP, "2.4.0", "Closes connections.", kill),
            Command("client|reply", 3, _ALONE, 0, 0, 0, _GROUP, "3.2.0", "Replies or silence.", reply),
            Command("client|no-evict", 3, _ADMIN, 0, 0, 0, _GROUP, "7.0.0", "Without effect.", accept_switch),
            Command("client|no-touch", 3, _PLAIN, 0, 0, 0, _GROUP, "7.2.0", "Without effect.", accept_switch),
        ),
    ),
)
