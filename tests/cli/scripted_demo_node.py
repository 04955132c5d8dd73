"""What ``sadik demo`` runs in the place of a node in tests: a ready line, the admin routes, an end at
SIGTERM.

Files in the node's directory make it misbehave: ``fail`` (it does not start), ``stubborn`` (SIGTERM does
nothing), ``refuse`` (the first layout cannot be changed), ``broken`` (a commit closes the connection).
``asked`` lists what was posted; ``layout`` survives a restart.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OPTIONS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
DATA = Path(OPTIONS["--data"])
STAGED: list[str] = []


def layout() -> dict[str, Any]:
    stored = DATA / "layout"
    names = json.loads(stored.read_text()) if stored.exists() else [OPTIONS["--node-id"]]
    return {"version": 2 if stored.exists() else 1, "nodes": [{"node": name} for name in names]}


def plan() -> dict[str, Any]:
    return {"version": 2, "refusal": "partition 1 holds data" if (DATA / "refuse").exists() else None}


class Handler(BaseHTTPRequestHandler):
    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command != "GET":
            with open(DATA / "asked", "a") as file:
                file.write(f"{self.command} {self.path} {body.decode()}\n")
        document: dict[str, Any] = {"status": "ready"}
        match self.command, self.path:
            case "GET", "/v1/layout":
                document = layout()
            case "GET", "/v1/members":
                names = sorted(path.name for path in DATA.parent.iterdir())
                document = {"members": [{"node": name, "state": "alive"} for name in names]}
            case "POST", "/v1/layout/stage":
                STAGED.append(json.loads(body)["node"])
                document = plan()
            case "POST", "/v1/layout/commit" if (DATA / "broken").exists():
                self.close_connection = True
                return
            case "POST", "/v1/layout/commit":
                (DATA / "layout").write_text(json.dumps([OPTIONS["--node-id"], *STAGED]))
                document = layout()
        answer = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


def main() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    if (DATA / "fail").exists():
        print("sadik-node: address is taken", file=sys.stderr)
        sys.exit(5)
    stop = signal.SIG_IGN if (DATA / "stubborn").exists() else lambda number, frame: os._exit(0)
    signal.signal(signal.SIGTERM, stop)
    host, port = OPTIONS["--http"].split(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    seen = sorted(name for name in os.environ if name.startswith("SADIK_"))
    print(f"variables: {seen}", file=sys.stderr)
    print(f"sadik-node 0 ready: node={OPTIONS['--node-id']}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
