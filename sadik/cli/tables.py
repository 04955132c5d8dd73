"""Documents of a node as tables: what people see where programs take ``--json``.

Every function takes a document as the HTTP interface gives it and returns what to print, in order. A member
that an older or newer node does not send is shown as missing, never as an error.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sadik.cli.remote import Document
from sadik.ids import stamp_ms

_NOTHING: Final = "-"
_STYLES: Final = {
    "alive": "green",
    "suspect": "yellow",
    "dead": "red",
    "left": "dim",
    "stored": "green",
    "absent": "yellow",
    "error": "red",
    "unknown": "dim",
}
_BAR_CELLS: Final = 20
_PREVIEW: Final = 60
"""Characters of a sibling that a table shows."""


def status(document: Document) -> list[RenderableType]:
    """Facts of one node, a line each."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, fact in _flat(document):
        text = size(fact) if name.endswith("bytes") and isinstance(fact, int) else shown(fact)
        rows.add_row(name, Text(text, style="yellow" if fact is False else ""))
    return [rows]


def members(document: Document, now_ms: int) -> list[RenderableType]:
    """Who belongs to the cluster, as the asked node sees it."""
    rows = table("node", "state", "layout", "zone", "host", "RESP / HTTP / peer")
    for name in ("capacity", "ping ms", "since"):
        rows.add_column(name, justify="right")
    for member in document["members"]:
        since = member.get("since_ms")
        trip = member.get("round_trip_ms")
        rows.add_row(
            shown(member.get("node")),
            _colored(shown(member.get("state"))),
            "yes" if member.get("in_layout") else "no",
            shown(member.get("zone")),
            shown(member.get("host")),
            _addresses(member),
            shown(member.get("capacity")),
            f"{trip:.1f}" if trip else _NOTHING,
            _NOTHING if since is None else duration(max(0, now_ms - int(since))),
        )
    return [rows]


def ring(document: Document) -> list[RenderableType]:
    """Who holds how much, against what its capacity asks for; and what is staged."""
    nodes = document["nodes"]
    held = sum(node.get("partitions") or 0 for node in nodes) or 1
    capacity = sum(node.get("capacity") or 0 for node in nodes) or 1
    rows = table("node", "up", "zone", "host")
    for name in ("capacity", "replicas", "first", "share", "asked"):
        rows.add_column(name, justify="right")
    rows.add_column("")
    for node in nodes:
        share = (node.get("partitions") or 0) / held
        up = node.get("up", True)
        rows.add_row(
            shown(node.get("node")),
            Text("yes" if up else "no", style="green" if up else "red"),
            shown(node.get("zone")),
            shown(node.get("host")),
            shown(node.get("capacity")),
            shown(node.get("partitions")),
            shown(node.get("first")),
            f"{share:.1%}",
            f"{(node.get('capacity') or 0) / capacity:.1%}",
            Text("█" * round(share * _BAR_CELLS), style="cyan"),
        )
    width = document.get("width") or min(len(nodes), document.get("replicas") or 1)
    head = (
        f"layout {shown(document.get('version'))}: {shown(document.get('partitions'))} partitions, "
        f"each on {width} of {counted(len(nodes), 'node')}"
    )
    return [Text(head), rows, *_staged(document.get("staged") or [])]


def partition(document: Document, number: int) -> list[RenderableType]:
    """The nodes of one partition, first choice first.

    Raises:
        ValueError: There is no such partition.
    """
    nodes, width = document["nodes"], document["width"]
    if not 0 <= number < document["partitions"]:
        raise ValueError(f"the layout has partitions 0 to {document['partitions'] - 1}")
    row = base64.b64decode(document["assignment"])[2 * width * number :][: 2 * width]
    rows = table("order", "node", "up", "zone", "host", "RESP / HTTP / peer")
    for place in range(len(row) // 2):
        node = nodes[int.from_bytes(row[2 * place :][:2], "little")]
        rows.add_row(
            str(place + 1),
            shown(node.get("node")),
            "yes" if node.get("up", True) else "no",
            shown(node.get("zone")),
            shown(node.get("host")),
            _addresses(node),
        )
    return [rows]


def plan(document: Document) -> list[RenderableType]:
    """What a commit would change, and whether it may be done."""
    changes = document.get("changes") or []
    if not changes:
        return [Text("Nothing is staged. `sadik join NODE` stages a node that is a member already.")]
    rows = table("node")
    for name in ("before", "after", "change", "receives", "to move"):
        rows.add_column(name, justify="right")
    for node in document["nodes"]:
        change = node["after"] - node["before"]
        style = "green" if change > 0 else "yellow" if change < 0 else "dim"
        rows.add_row(
            node["node"],
            str(node["before"]),
            str(node["after"]),
            Text(f"{change:+d}" if change else "0", style=style),
            str(node["receives"]),
            size(node["bytes"]),
        )
    head = f"from layout {shown(document.get('base_version'))} to {document['version']}; partitions held:"
    parts: list[RenderableType] = [*_staged(changes), Text(head), rows]
    parts += [Text(f"not met: {violation}", style="yellow") for violation in document["violations"]]
    moves = f"{counted(document['moves'], 'replica')} to move, {size(document['bytes'])}."
    if document.get("refusal"):
        parts.append(Text(f"{moves} It cannot be committed: {document['refusal']}", style="red"))
    else:
        parts.append(Text(f"{moves} Commit it: sadik commit {document['version']}"))
    return parts


def hints(document: Document, now_ms: int) -> list[RenderableType]:
    """Writes that wait for nodes that are away."""
    present = sum(owner["hints"] for owner in document["owners"])
    parts: list[RenderableType] = []
    if document["owners"]:
        rows = table("waits for")
        for name in ("hints", "bytes", "oldest"):
            rows.add_column(name, justify="right")
        for owner in document["owners"]:
            oldest = owner.get("oldest_ms")
            age = _NOTHING if oldest is None else duration(max(0, now_ms - int(oldest)))
            rows.add_row(owner["owner"], f"{owner['hints']:,}", size(owner["bytes"]), age)
        parts.append(rows)
    figures = ", ".join(
        f"{document[name]:,} {name}" for name in ("stored", "delivered", "expired", "dropped")
    )
    parts.append(Text(f"{counted(present, 'hint') if present else 'no hints'} now; since ever: {figures}"))
    return parts


def repair(document: Document) -> list[RenderableType]:
    """How a repair went."""
    text = Text(
        f"{document['partitions_done']:,} of {counted(document['partitions_total'], 'partition')} compared: "
        f"{counted(document['keys_compared'], 'key')} looked at, {document['keys_repaired']:,} repaired, "
        f"{size(document['bytes'])} sent"
    )
    parts: list[RenderableType] = [text]
    if unbuilt := document.get("partitions_unbuilt"):
        waiting = f"{counted(unbuilt, 'partition')} not compared: their trees are not built yet"
        parts.append(Text(waiting, style="yellow"))
    return [*parts, *(Text(f"error: {error}", style="red") for error in document.get("errors") or ())]


def siblings(document: Document, now_ms: int) -> list[RenderableType]:
    """Concurrent values of a key, newest first."""
    found = document["siblings"]
    rows = table("value")
    for name in ("bytes", "type", "written", "expires in"):
        rows.add_column(name, justify="right" if name != "type" else "left")
    for sibling in found:
        payload = base64.b64decode(sibling["value"])
        expires = sibling.get("expires_at_ms")
        rows.add_row(
            preview(payload),
            str(len(payload)),
            sibling["content_type"],
            ago(now_ms, sibling["stamp_ms"]),
            "never" if expires is None else duration(max(0, expires - now_ms)),
        )
    return [Text(f"{len(found)} siblings; a write with their context replaces them all:"), rows]


def explain(document: Document, now_ms: int) -> list[RenderableType]:
    """Where a key lives, and which replica has which version."""
    replicas = document["replicas"]
    newest: dict[str, int] = {}
    for replica in replicas:
        for entry in replica["entries"]:
            newest[entry["actor"]] = max(newest.get(entry["actor"], 0), int(entry["stamp"], 16))
    rows = table("node", "role", "up", "state", "version")
    for name in ("siblings", "bytes", "newest write"):
        rows.add_column(name, justify="right")
    for replica in replicas:
        entries = {entry["actor"]: int(entry["stamp"], 16) for entry in replica["entries"]}
        current = entries == newest
        version = ("current" if current else "behind") if newest and replica["up"] else _NOTHING
        actor = max(entries, key=entries.__getitem__, default="")
        rows.add_row(
            replica["node"],
            replica["role"],
            Text("yes" if replica["up"] else "no", style="green" if replica["up"] else "red"),
            _colored(replica["state"]),
            Text(version, style={"current": "green", "behind": "yellow"}.get(version, "")),
            str(replica["siblings"]),
            str(replica["bytes"]),
            f"{ago(now_ms, stamp_ms(entries[actor]))} by {actor}" if actor else _NOTHING,
        )
    head = (
        f"partition {document['partition']}, digest {document['digest']}; "
        f"N={document['n']} R={document['r']} W={document['w']}"
    )
    return [Text(head), rows]


def change(document: Mapping[str, Any]) -> str:
    """One staged change in words."""
    match document.get("action"):
        case "replace":
            return f"replace {document.get('node')} with {document.get('with')}"
        case "weight":
            return f"weight {document.get('node')}: capacity {document.get('capacity')}"
        case action:
            capacity = f" with capacity {document['capacity']}" if document.get("capacity") else ""
            return f"{action} {document.get('node')}{capacity}"


def shown(fact: object) -> str:
    """A fact as people write it."""
    if fact is None or fact == "":
        return _NOTHING
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return str(fact)


def size(count: int) -> str:
    """Bytes with a unit: ``1.5 MiB``."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1023.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"


def duration(ms: int) -> str:
    """A length of time in its two largest units: ``3m 20s``."""
    if ms < 1000:
        return f"{ms}ms"
    seconds = ms // 1000
    for name, length, part, lesser in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= length:
            return f"{seconds // length}{name} {seconds % length // lesser}{part}"
    return f"{seconds}s"


def ago(now_ms: int, then_ms: int) -> str:
    """How long ago; clocks differ, so what is said to be in the future is now."""
    return f"{duration(max(0, now_ms - then_ms))} ago"


def counted(count: int, noun: str) -> str:
    """``1 node``, ``2,000 nodes``."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def preview(payload: bytes) -> str:
    """The start of a value as one line that no terminal obeys."""
    # Four bytes are the longest character.
    text = payload[: 4 * _PREVIEW].decode(errors="backslashreplace")
    line = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
    return line if len(line) <= _PREVIEW and len(payload) <= 4 * _PREVIEW else f"{line[: _PREVIEW - 1]}…"


def table(*columns: str) -> Table:
    """An empty table of the one look that all have."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, overflow="fold")
    return made


def _colored(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def _staged(changes: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    return [Text(f"staged: {change(item)}", style="cyan") for item in changes]


def _addresses(node: Mapping[str, Any]) -> str:
    """``127.0.0.1:7379/7380/7381`` where one host serves all three, as is usual."""
    given = [shown(node.get(name)) for name in ("resp", "http", "peer")]
    hosts = {text.rpartition(":")[0] for text in given}
    if len(hosts) == 1 and "" not in hosts:
        return f"{hosts.pop()}:{'/'.join(text.rpartition(':')[2] for text in given)}"
    return " ".join(given)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, fact in facts.items():
        if isinstance(fact, Mapping):
            yield from _flat(fact, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", fact
