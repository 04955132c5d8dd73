"""What an option is: a setting with its kind, range and help; an address; a dataclass made of settings.

``sadik.config`` is written in these words. Pure data, as there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar, cast

from sadik.errors import InvalidRequest

_HOST_PATTERN: Final = r"[A-Za-z0-9._-]{1,253}"

Kind = Literal[
    "address", "addresses", "bytes", "choice", "count", "flag", "milliseconds", "path", "secret", "text"
]
_Value = TypeVar("_Value")

UNITLESS: Final[Mapping[str, int]] = {"": 1}
UNITS: Final[Mapping[str, Mapping[str, int]]] = {
    "bytes": {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
    "milliseconds": {"": 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000},
}
"""What may follow a number, by kind; ascending."""


class Address(NamedTuple):
    """Where to listen or connect; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    @lru_cache(maxsize=1024)  # Members and clients read the few addresses of a cluster again and again.
    def parse(cls, text: str) -> Address:
        """``HOST:PORT``, with an IPv6 host in brackets: ``[::1]:7379``.

        Raises:
            InvalidRequest: Anything else; the message says what is wrong.
        """
        bracketed = text.startswith("[")
        host, separator, port = text[1:].partition("]:") if bracketed else text.rpartition(":")
        if not separator:
            raise InvalidRequest(f"must be HOST:PORT, not {text!r}")
        if bracketed:
            if not isinstance(_ip(host), ipaddress.IPv6Address):
                raise InvalidRequest(f"has no IPv6 address between its brackets: {text!r}")
        elif ":" in host:
            raise InvalidRequest(f"needs brackets around an IPv6 address, as in [::1]:7379, not {text!r}")
        elif not re.fullmatch(_HOST_PATTERN, host):
            raise InvalidRequest(f"must be HOST:PORT, not {text!r}")
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise InvalidRequest(f"has a port that is not 0 to 65535: {text!r}")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach it.

        A host name other than ``localhost`` is not resolved, and counts as reachable from elsewhere.
        """
        ip = _ip(self.host)
        if ip is None:
            return self.host.lower() == "localhost"
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return (mapped or ip).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Setting:
    """One option."""

    kind: Kind
    help: str
    """One or two sentences: what it does, and why the default is what it is."""
    low: int = 0
    """Least number, or least length of a secret; ``high`` likewise the greatest."""
    high: int = 0
    choices: tuple[str, ...] = ()
    pattern: str = ""
    default: Any = None
    name: str = ""
    """With underscores: the TOML key. The flag and the variable follow from it."""
    component: str = ""
    """Attribute of ``NodeConfig`` that holds it, or empty for its own fields."""
    field: str = ""
    group: str = ""

    def check(self, value: object) -> None:
        """Accept a legal value of the right type; None only where it is the default.

        Raises:
            InvalidRequest: "must be ...", without the name in front: the caller knows how it was spelled.
        """
        if value is None and self.default is None:
            return
        match self.kind:
            case "bytes" | "milliseconds" | "count":
                legal = type(value) is int and self.low <= value <= self.high
            case "choice":
                legal = value in self.choices
            case "text":
                legal = isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
            case "path":
                legal = isinstance(value, str) and value != "" and "\0" not in value
            case "flag":
                legal = type(value) is bool
            case "address":
                legal = isinstance(value, Address)
            case "addresses":
                legal = isinstance(value, tuple) and all(isinstance(item, Address) for item in value)
            case "secret":
                legal = isinstance(value, bytes) and self.low <= len(value) <= self.high
        if not legal:
            # A secret never appears in a message, not even a wrong one.
            shown = repr(value) if isinstance(value, str) else self.spell(value)
            found = "" if self.kind == "secret" else f", not {shown}"
            raise InvalidRequest(f"must be {self.expected()}{found}")

    def expected(self) -> str:
        """What a legal value is, for messages and help."""
        match self.kind:
            case "bytes" | "milliseconds" | "count":
                unit = "" if self.kind == "count" else f" ({self.kind})"
                return f"{self.spell(self.low)} to {self.spell(self.high)}{unit}"
            case "choice":
                return f"one of {', '.join(self.choices)}"
            case "text":
                return f"text that matches {self.pattern}"
            case "path":
                return "a path"
            case "flag":
                return "true or false"
            case "address":
                return "HOST:PORT"
            case "addresses":
                return "a list of HOST:PORT"
            case "secret":
                return f"a secret of {self.low} to {self.high} bytes"

    def spell(self, value: object) -> str:
        """A value as an operator writes it: numbers with the largest unit that is exact."""
        if type(value) is not int:
            return str(value)
        units = UNITS.get(self.kind, UNITLESS)
        unit = max(
            (unit for unit in units if value and value % units[unit] == 0), key=units.__getitem__, default=""
        )
        return f"{value // units[unit]}{unit}"


def setting(default: _Value, kind: Kind, help: str, *, repr: bool = True, **more: Any) -> _Value:
    """A dataclass field that is an option; ``more`` are further fields of ``Setting``."""
    option = Setting(kind, help, default=default, **more)
    return field(default=default, repr=repr, metadata={"setting": option})


class Component:
    """Base of every configuration dataclass: its settings are checked when it is made."""

    __slots__ = ()
    PREFIX: ClassVar[str] = ""
    """In front of each field's name, where the field gives no name of its own."""
    GROUP: ClassVar[str] = ""
    """Heading in ``--help``."""

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            try:
                item.check(getattr(self, item.field))
            except InvalidRequest as error:
                raise InvalidRequest(f"{item.name} {error}") from None


def settings_of(component: type[Component], attribute: str = "") -> Iterator[Setting]:
    """The options of one dataclass in order, named; ``attribute`` is its place in ``NodeConfig``."""
    for item in fields(cast("Any", component)):
        if option := item.metadata.get("setting"):
            name = option.name or f"{component.PREFIX}{item.name}"
            yield replace(option, name=name, component=attribute, field=item.name, group=component.GROUP)
