"""Where a node's options come from: flags, then ``SADIK_*`` variables, then a TOML file, then the defaults.

One set of names: ``--resp``, ``SADIK_RESP`` and ``resp = "..."`` are one option of ``sadik.config``. A name
that nobody knows is refused wherever it stands: a misspelt limit would be a limit that is not there.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from sadik.config import SETTINGS
from sadik.errors import InvalidRequest
from sadik.settings import UNITLESS, UNITS, Address, Setting

_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")

_NOT_OPTIONS: Final = frozenset({"SADIK_BUILD", "SADIK_DEBUG", "SADIK_KERNELS", "SADIK_NODE"})
"""Variables of the build, of the kernels' choice, and of the `sadik` command."""

# Kubernetes gives every container such variables for a service that is called sadik or sadik-something.
_SERVICE_NAME: Final = re.compile(
    r"SADIK_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT_NAME: Final = re.compile(r"SADIK_(\w+_)?PORT")
_SERVICE_PORT_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


def flag_of(name: str) -> str:
    """``resp_connections_max`` as a flag."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """``resp_connections_max`` as an environment variable."""
    return "SADIK_" + name.upper()


def parse(option: Setting, text: str) -> object:
    """The value that a flag or variable spells.

    Bytes and milliseconds may carry a unit: ``16MiB``, ``10s``. A secret is read from the file named.

    Raises:
        InvalidRequest: "must be ...", without the option's name.
    """
    match option.kind:
        case "bytes" | "milliseconds" | "count":
            found = re.fullmatch(r"([0-9]{1,19})([A-Za-z]*)", text.strip())
            units = {unit.lower(): size for unit, size in UNITS.get(option.kind, UNITLESS).items()}
            if not found or found[2].lower() not in units:
                raise InvalidRequest(f"must be {option.expected()}, not {text!r}")
            return int(found[1]) * units[found[2].lower()]
        case "flag":
            if text.lower() not in _TRUE + _FALSE:
                raise InvalidRequest(f"must be true or false, not {text!r}")
            return text.lower() in _TRUE
        case "address":
            return Address.parse(text)
        case "addresses":
            return tuple(Address.parse(item.strip()) for item in text.split(",") if item.strip())
        case "path":
            return os.path.expanduser(text)
        case "secret":
            return read_secret(os.path.expanduser(text))
        case _:
            return text


def read_secret(path: str) -> bytes:
    """The content of a file without one line end after it."""
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise InvalidRequest(f"names a file that cannot be read: {path}: {error.strerror}") from None


def collect(flags: Mapping[str, Any], environment: Mapping[str, str], file: str | None) -> dict[str, object]:
    """Values by option name, each from the first source that gives it.

    Args:
        flags: Text, list of texts (addresses) or bool by option name; only what was given.
        file: Path of the TOML file, or None.
    Raises:
        InvalidRequest: An unknown name or an illegal value; one line that says where it stands.
    """
    values: dict[str, object] = {}
    if file is not None:
        values |= from_toml(file)
    values |= from_environment(environment)
    for name, value in flags.items():
        text = ",".join(value) if isinstance(value, list | tuple) else value
        values[name] = _value(SETTINGS[name], text, flag_of(name))
    return values


def from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """Values from ``SADIK_*`` variables; an empty one counts as not set."""
    values: dict[str, object] = {}
    known = {variable_of(name): option for name, option in SETTINGS.items()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith("SADIK_") or variable in _NOT_OPTIONS or variable == "SADIK_CONFIG":
            continue
        if variable in known:
            if text:
                values[known[variable].name] = _value(known[variable], text, variable)
        elif not _is_service(variable, text):
            raise InvalidRequest(f"unknown environment variable {variable}{_nearest(variable, known)}")
    return values


def from_toml(path: str) -> dict[str, object]:
    """Values from a TOML file: flat keys, with underscores or hyphens."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise InvalidRequest(f"--config: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--config: {path} is not TOML: {error}") from None
    values: dict[str, object] = {}
    for key, raw in document.items():
        name = key.replace("-", "_")
        if name not in SETTINGS:
            raise InvalidRequest(f"unknown key {key!r} in {path}{_nearest(name, SETTINGS)}")
        if name in values:
            raise InvalidRequest(f"key {key!r} stands twice in {path}")
        values[name] = _value(SETTINGS[name], raw, f"{key} in {path}")
    return values


def _value(option: Setting, raw: object, origin: str) -> object:
    """A checked value; text is parsed, anything else must have the right type already."""
    try:
        if isinstance(raw, list) and option.kind == "addresses":
            raw = ",".join(str(item) for item in raw)
        value = parse(option, raw) if isinstance(raw, str) else raw
        option.check(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{origin} {error}") from None
    return value


def _is_service(variable: str, text: str) -> bool:
    if _SERVICE_NAME.fullmatch(variable):
        return True
    # By its value too, or SADIK_RESP_PORT=7000, a likely slip, would be passed over in silence.
    return bool(_SERVICE_PORT_NAME.fullmatch(variable) and _SERVICE_PORT_VALUE.match(text))


def _nearest(name: str, known: Iterable[str]) -> str:
    # What all have in common says nothing about nearness.
    bare = {item.removeprefix("SADIK_"): item for item in known}
    near = get_close_matches(name.removeprefix("SADIK_"), bare, n=1, cutoff=0.6)
    return f"; did you mean {bare[near[0]]}?" if near else ""
