"""A node that answers what a test tells it to: an HTTP server in a thread, and the documents of a small
cluster.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What to send: a document, or raw bytes and headers; ``cut`` closes the connection in its place."""

    status: int = 200
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False


Script = Callable[[Asked], Answer]


class ScriptedNode:
    """Answers by method and path without its query; a list is used up one by one, and its last one stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[tuple[str, str], list[Answer] | Script] = {}
        node = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                node.asked.append(asked)
                answer = node.answer(asked)
                self.close_connection = True
                if answer.cut:
                    return
                body = answer.body if answer.document is None else json.dumps(answer.document).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: the test looks at ``asked``."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def on(self, method: str, path: str, *answers: Answer | Any) -> None:
        """Script a path; what is no ``Answer`` is a document."""
        self.answers[method, path] = [
            answer if isinstance(answer, Answer) else Answer(document=answer) for answer in answers
        ]

    def answer(self, asked: Asked) -> Answer:
        script = self.answers.get((asked.method, asked.path.partition("?")[0]))
        if script is None:
            return problem(404, "NOROUTE", "nothing lives at this path")
        if callable(script):
            return script(asked)
        return script.pop(0) if len(script) > 1 else script[0]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def problem(status: int, code: str, detail: str, **members: Any) -> Answer:
    """A problem document as a node sends it."""
    document = {"type": "about:blank", "title": "?", "status": status, "detail": detail, "code": code}
    return Answer(status, {**document, **members}, {"Content-Type": "application/problem+json"})


NOW_MS = 1_760_000_000_000


def member(number: int, **other: Any) -> dict[str, Any]:
    port = 7379 + 10 * number
    return {
        "node": f"n{number + 1}",
        "state": "alive",
        "in_layout": True,
        "incarnation": 1,
        "actor": f"{number:016x}",
        "peer": f"127.0.0.1:{port + 2}",
        "resp": f"127.0.0.1:{port}",
        "http": f"127.0.0.1:{port + 1}",
        "zone": "default",
        "host": f"n{number + 1}",
        "capacity": 100,
        "since_ms": NOW_MS - 200_000,
        "round_trip_ms": 0.213,
        **other,
    }


MEMBERS = {
    "members": [
        member(0, round_trip_ms=0),
        member(1),
        member(2, state="dead", in_layout=False, resp="10.0.0.3:7379", since_ms=None, round_trip_ms=None),
    ]
}

LAYOUT = {
    "version": 2,
    "partitions": 4,
    "replicas": 3,
    "width": 2,
    "nodes": [
        {**member(0), "up": True, "partitions": 3, "first": 2, "share": 0.375},
        {**member(1, capacity=200), "up": True, "partitions": 4, "first": 1, "share": 0.5},
        {**member(2), "up": False, "partitions": 1, "first": 1, "share": 0.125},
    ],
    "assignment": base64.b64encode(
        b"".join(node.to_bytes(2, "little") for node in (0, 1, 0, 1, 1, 0, 2, 1))
    ).decode(),
    "staged": [{"action": "weight", "node": "n1", "capacity": 50}],
}

PLAN = {
    "version": 3,
    "base_version": 2,
    "changes": [{"action": "join", "node": "n4"}, {"action": "replace", "node": "n3", "with": "n5"}],
    "nodes": [
        {"node": "n1", "before": 3, "after": 2, "receives": 0, "bytes": 0},
        {"node": "n2", "before": 4, "after": 2, "receives": 0, "bytes": 0},
        {"node": "n4", "before": 0, "after": 4, "receives": 4, "bytes": 3 << 20},
    ],
    "moves": 4,
    "bytes": 3 << 20,
    "violations": ["2 replicas of a partition may be on only 1 zones, of 2 there are"],
    "refusal": None,
}

EMPTY_PLAN = {
    **PLAN,
    "changes": [],
    "nodes": [],
    "moves": 0,
    "bytes": 0,
    "violations": [],
}

HINTS = {
    "owners": [{"owner": "n3", "hints": 1200, "bytes": 345_678, "oldest_ms": NOW_MS - 61_000}],
    "stored": 1500,
    "delivered": 299,
    "expired": 1,
    "dropped": 0,
    "bytes": 345_678,
}

REPAIRED = {
    "running": False,
    "partitions_total": 1024,
    "partitions_done": 1024,
    "keys_compared": 1_000_000,
    "keys_repaired": 17,
    "bytes": 65_000,
    "errors": [],
}

EXPLANATION = {
    "bucket": "0",
    "key": "greeting",
    "digest": "0123456789abcdef0123456789abcdef",
    "token": "0123456789abcdef",
    "partition": 4,
    "n": 3,
    "r": 2,
    "w": 2,
    "replicas": [
        {
            "node": "n1",
            "role": "primary",
            "up": True,
            "state": "stored",
            "entries": [{"actor": "00000000000000aa", "stamp": f"{NOW_MS << 16:016x}"}],
            "siblings": 1,
            "bytes": 87,
        },
        {
            "node": "n2",
            "role": "primary",
            "up": True,
            "state": "absent",
            "entries": [],
            "siblings": 0,
            "bytes": 0,
        },
        {
            "node": "n3",
            "role": "primary",
            "up": False,
            "state": "error",
            "entries": [],
            "siblings": 0,
            "bytes": 0,
        },
    ],
}


def sibling(value: bytes, **other: Any) -> dict[str, Any]:
    return {
        "value": base64.b64encode(value).decode(),
        "content_type": "application/octet-stream",
        "stamp_ms": NOW_MS - 5000,
        "expires_at_ms": None,
        **other,
    }


def values(*payloads: bytes, context: str = "CTX") -> Answer:
    """The answer of a read."""
    document = {"context": context, "siblings": [sibling(payload) for payload in payloads]}
    return Answer(200 if len(payloads) == 1 else 300, document, {"X-Sadik-Context": context})
