"""Commands on the connection itself: who is there, which protocol, which bucket.

A password makes everything but AUTH, HELLO, QUIT and RESET (flag ``no_auth``) wait for it. SELECT n
takes bucket ``n``; other buckets are reached by SADIK.USE.
"""

from __future__ import annotations

from typing import Final

from sadik.api.resp import batch
from sadik.api.resp.arguments import SYNTAX_ERROR, option_word, parse_integer, shown
from sadik.api.resp.call import Call, Command, CommandError, Session
from sadik.api.resp.keys import NUMBERED_BUCKETS
from sadik.api.resp.lookup import wrong_arity_error
from sadik.api.resp.replies import EMPTY_ARRAY, OK, PONG, bulk, integer, mapping, simple, text

REDIS_VERSION: Final = "7.2.4"
"""What clients are told: their gates ask for 7.0 and more, and this is the last version before the
licence changed.
"""

_INT32_MIN: Final = -(1 << 31)
_INT32_MAX: Final = (1 << 31) - 1


def ping(call: Call) -> bytes:
    """PING [message]."""
    if len(call.arguments) > 2:
        raise wrong_arity_error("ping")
    return PONG if len(call.arguments) == 1 else bulk(call.arguments[1])


def echo(call: Call) -> bytes:
    """ECHO message."""
    return bulk(call.arguments[1])


def quit_(call: Call) -> bytes:
    """QUIT: what comes after it is not read."""
    call.session.close_after_reply = True
    return OK


def reset(call: Call) -> bytes:
    """RESET: the connection as it was after connecting, apart from the library's name."""
    session = call.session
    batch.forget(session)
    session.protocol = 2
    session.bucket = b"0"
    session.name = b""
    session.reply_mode = "on"
    session.authenticated = not call.server.password_required
    return simple("RESET")


def select(call: Call) -> bytes:
    """SELECT number."""
    number = parse_integer(call.arguments[1])
    if not _INT32_MIN <= number <= _INT32_MAX:
        raise CommandError(f"ERR value is out of range, value must between {_INT32_MIN} and {_INT32_MAX}")
    if not 0 <= number < NUMBERED_BUCKETS:
        raise CommandError("ERR DB index is out of range")
    call.session.bucket = b"%d" % number
    return OK


def auth(call: Call) -> bytes:
    """AUTH [user] password."""
    if len(call.arguments) > 3:
        raise CommandError(SYNTAX_ERROR)
    if len(call.arguments) == 2 and not call.server.password_required:
        raise CommandError(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    user = call.arguments[1] if len(call.arguments) == 3 else b"default"
    _authenticate(call, user, call.arguments[-1])
    return OK


def _authenticate(call: Call, user: bytes, password: bytes) -> None:
    # Where no password is set, the one user there is may show any.
    welcome = user == b"default" and not call.server.password_required
    if not welcome and not call.server.authenticate(user, password):
        raise CommandError("WRONGPASS invalid username-password pair or user is disabled.")
    call.session.authenticated = True


def hello(call: Call) -> bytes:
    """HELLO [2 | 3 [AUTH user password] [SETNAME name]]: all or nothing."""
    session = call.session
    protocol = session.protocol
    if len(call.arguments) > 1:
        protocol = parse_integer(call.arguments[1], "ERR Protocol version is not an integer or out of range")
        if protocol not in (2, 3):
            raise CommandError("NOPROTO unsupported protocol version")
    credentials, name = _hello_options(call.arguments[2:])
    if credentials is not None:
        _authenticate(call, *credentials)
    if not session.authenticated:
        raise CommandError(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> "
            "AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol "
            "version at the same time"
        )
    if name is not None:
        session.name = name
    session.protocol = protocol
    return _greeting(session)


def _hello_options(arguments: list[bytes]) -> tuple[tuple[bytes, bytes] | None, bytes | None]:
    credentials: tuple[bytes, bytes] | None = None
    name: bytes | None = None
    at = 0
    while at < len(arguments):
        word, operands = option_word(arguments[at]), arguments[at + 1 : at + 3]
        if word == b"AUTH" and len(operands) == 2:
            credentials = (operands[0], operands[1])
            at += 3
        elif word == b"SETNAME" and operands:
            name = check_client_name(operands[0])
            at += 2
        else:
            raise CommandError(f"ERR Syntax error in HELLO option '{shown(arguments[at])}'")
    return credentials, name


def is_printable(value: bytes) -> bool:
    """Whether a value may stand in CLIENT LIST: no space, no control character, ASCII."""
    return all(0x21 <= byte <= 0x7E for byte in value)


def check_client_name(name: bytes) -> bytes:
    """The name, or CommandError where it would break the lines of CLIENT LIST."""
    if not is_printable(name):
        raise CommandError("ERR Client names cannot contain spaces, newlines or special characters.")
    return name


def _greeting(session: Session) -> bytes:
    fields = {
        "server": text("redis"),
        "version": text(REDIS_VERSION),
        "proto": integer(session.protocol),
        "id": integer(session.id),
        "mode": text("standalone"),
        "role": text("master"),
        "modules": EMPTY_ARRAY,
    }
    return mapping([(text(name), value) for name, value in fields.items()], session.protocol)


_STRANGER: Final = ("noscript", "loading", "stale", "fast", "no_auth")
_ANYONE: Final = ("loading", "stale", "fast")
_GROUP: Final = "connection"

ROWS: Final = (
    Command("ping", -1, ("fast",), 0, 0, 0, _GROUP, "1.0.0", "Answers PONG, or the message.", ping),
    Command("echo", 2, _ANYONE, 0, 0, 0, _GROUP, "1.0.0", "Answers the message.", echo),
    Command("quit", -1, _STRANGER, 0, 0, 0, _GROUP, "1.0.0", "Closes the connection.", quit_),
    Command("reset", 1, _STRANGER, 0, 0, 0, _GROUP, "6.2.0", "Forgets the connection's settings.", reset),
    Command("select", 2, _ANYONE, 0, 0, 0, _GROUP, "1.0.0", "Uses the bucket of that number.", select),
    Command("auth", -2, _STRANGER, 0, 0, 0, _GROUP, "1.0.0", "Shows a password.", auth),
    Command("hello", -1, _STRANGER, 0, 0, 0, _GROUP, "6.0.0", "Chooses the protocol.", hello),
)
