"""A cluster of real node processes for tests: form it, break it, look at it.

with Cluster.form(tmp_path, 3) as cluster:
    cluster[0].command(b"SET", b"key", b"value")
    cluster[2].kill()
    ...
    cluster[2].start()
    wait_until(lambda: cluster.difference([b"key"]) == "", 10, "the replicas are equal")

A node keeps its ports over restarts, so the others find it again. Its log goes to a file, which nobody has to
read for the node to go on.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

from tests.system.harness import encode, read_reply

READY_TIMEOUT_S = 30.0
START_TIMEOUT_S = 120.0
"""A start is a second of work, of which a machine that does much else may make a minute."""
FORM_TIMEOUT_S = 30.0
HTTP_TIMEOUT_S = 60.0

Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found], timeout_s: float, what: str, *, every_s: float = 0.05
) -> Found:
    """Poll until ``condition`` gives something true, which is returned.

    What it raises as AssertionError, HttpProblem or OSError counts as not yet.

    Raises:
        AssertionError: Not within ``timeout_s``; names ``what`` and the last look.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last: object
        try:
            last = found = condition()
            if found:
                return found
        except (AssertionError, HttpProblem, OSError, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last seen: {last!r}")
        time.sleep(every_s)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now.

    They are not the system's to hand out for port 0, and each process of a test run looks in a range of its
    own, so that they stay free while a node is down.
    """
    first = 10_000 + os.getpid() % 100 * 200
    found: list[int] = []
    for port in [*range(first, first + 200), *range(30_000, 32_000)]:
        if port in _taken:
            continue
        try:
            with ExitStack() as stack:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            _taken.update(found)
            return found
    raise AssertionError(f"no {count} free ports")


_taken: set[int] = set()
"""Ports of clusters of this process: a node that is down keeps its own."""


class HttpProblem(Exception):
    """An answer of 400 or more."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        super().__init__(f"{status}: {document}")
        self.status = status
        self.document = document


@dataclass
class ClusterNode:
    """One ``sadik-node`` of a cluster.

    Attributes:
        host: Where it listens. launcher: What its command is an argument of.
        seeds: Peers' addresses.
    """

    name: str
    directory: Path
    resp_port: int
    http_port: int
    peer_port: int
    zone: str = "default"
    host: str = "127.0.0.1"
    seeds: Sequence[str] = ()
    options: list[str] = field(default_factory=list)
    launcher: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    life_start: int = 0
    """Where in the log the last start begins."""
    _listens_as: subprocess.Popen[bytes] | None = None
    """The process whose ready line has been seen."""

    @property
    def log(self) -> Path:
        """What all its lives wrote to standard error."""
        return self.directory.with_name(f"{self.name}.log")

    @property
    def peer_address(self) -> str:
        return f"{self.host}:{self.peer_port}"

    def arguments(self) -> list[str]:
        given = ["--node-id", self.name, "--host-label", self.name, "--zone", self.zone]
        given += ["--data", str(self.directory), "--resp", f"{self.host}:{self.resp_port}"]
        given += ["--http", f"{self.host}:{self.http_port}", "--peer", self.peer_address]
        for address in self.seeds:
            given += ["--seed-node", address]
        return [*given, *self.options]

    def start(self, *, wait: bool = True) -> ClusterNode:
        """Start the process, again too; returns once its ready line is there unless ``wait`` is False."""
        assert not self.running, f"{self.name} runs already"
        environment = {name: text for name, text in os.environ.items() if not name.startswith("SADIK_")}
        if "SADIK_KERNELS" in os.environ:
            environment["SADIK_KERNELS"] = os.environ["SADIK_KERNELS"]
        command = [*self.launcher, sys.executable, "-m", "sadik.cli.node", *self.arguments()]
        with open(self.log, "ab") as log:
            self.life_start = log.tell()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        if wait:
            self.wait_ready_line()
        return self

    def wait_ready_line(self) -> None:
        """Until it has said that it listens."""

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.log_tail()}")
            return self.serves

        try:
            wait_until(ready, START_TIMEOUT_S, f"{self.name} has its ready line")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    @property
    def serves(self) -> bool:
        """Whether it runs and has said that it listens."""
        if self._listens_as != self.process:
            with open(self.log, "rb") as log:
                log.seek(self.life_start)
                if b" ready: " not in log.read():
                    return False
            self._listens_as = self.process
        return self.running

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9: nothing of the program runs any more."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Lose the disk; the node must not run. It will start as a stranger with the same name."""
        assert not self.running
        shutil.rmtree(self.directory)

    def restart(self) -> ClusterNode:
        """kill -9 and start again."""
        self.kill()
        return self.start()

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # RESP.

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """A connection to the Redis port."""
        client = socket.create_connection((self.host, self.resp_port), timeout=timeout_s)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def command(self, *arguments: bytes) -> bytes:
        """One command on a connection of its own; its reply as ``read_reply`` gives it."""
        with self.connect() as client, client.makefile("rb") as stream:
            client.sendall(encode(*arguments))
            return read_reply(stream)

    def pipeline(self, commands: Iterable[Sequence[bytes]], *, depth: int = 1000) -> list[bytes]:
        """Many commands on one connection, ``depth`` at a time; their replies in order."""
        replies: list[bytes] = []
        waiting = list(commands)
        with self.connect(60.0) as client, client.makefile("rb") as stream:
            for start in range(0, len(waiting), depth):
                part = waiting[start : start + depth]
                client.sendall(b"".join(encode(*arguments) for arguments in part))
                replies += [read_reply(stream) for _ in part]
        return replies

    # HTTP.

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = HTTP_TIMEOUT_S,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, and body of one request."""
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=timeout_s)
        with closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, response.read()

    def document(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        """A JSON document, asked for with another one. Raises HttpProblem."""
        body = None if document is None else json.dumps(document).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        status, _, content = self.request(method, path, body=body, headers=headers)
        found: dict[str, Any] = json.loads(content)
        if status >= 400:
            raise HttpProblem(status, found)
        return found

    def ready(self) -> bool:
        """Default quorums can be met, as it sees it."""
        return self.running and self.request("GET", "/ready")[0] == 200

    def members(self) -> dict[str, str]:
        """State of each member, as it sees it."""
        found = self.document("GET", "/v1/members")["members"]
        return {member["node"]: member["state"] for member in found}

    def layout(self) -> dict[str, Any]:
        return self.document("GET", "/v1/layout")

    def hints(self) -> int:
        """Hints that it keeps now."""
        return sum(owner["hints"] for owner in self.document("GET", "/v1/hints")["owners"])

    def wait_hints(self, timeout_ms: int) -> dict[str, Any]:
        """As ``sadik hints --wait``."""
        return self.document("POST", "/v1/hints/wait", {"timeout_ms": timeout_ms})

    def repair(self, partition: int | None = None, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Compare with the other replicas now; the status at the end. No key repaired: they were equal."""
        self.document("POST", "/v1/repair", {"partition": partition})

        def finished() -> dict[str, Any] | None:
            status = self.document("GET", "/v1/repair")
            return None if status["running"] else status

        found = wait_until(finished, timeout_s, f"the repair by {self.name} is over")
        assert found is not None
        return found

    def explain(self, keys: Iterable[bytes], bucket: bytes = b"0") -> list[dict[str, Any]]:
        """Of each key where it lives and which replica has which version, on one connection."""
        found: list[dict[str, Any]] = []
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=HTTP_TIMEOUT_S)
        with closing(connection):
            for key in keys:
                connection.request("GET", f"/v1/kv/{quote(bucket, safe='')}/{quote(key, safe='')}?explain=1")
                response = connection.getresponse()
                document = json.loads(response.read())
                if response.status >= 400:
                    raise HttpProblem(response.status, document)
                found.append(document)
        return found

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample by name and sorted labels."""
        text = self.request("GET", "/metrics")[2].decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name that have at least these labels; 0.0 where there is none."""
        return sum(
            value
            for (sample, found), value in self.metrics().items()
            if sample == name and labels.items() <= dict(found).items()
        )

    def resident_bytes(self) -> int:
        """Memory of the process (VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


class Cluster:
    """Some nodes; killed at the end of the ``with``, whatever they are doing.

    Args:
        directory: Data and logs.
        count: Nodes, called n1, n2, ...
        zones: Of each node; those behind the last have it again from the first on.
        options: Further options of every node.
    """

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        *,
        zones: Sequence[str] = ("default",),
        options: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.zones = zones
        self.options = list(options)
        self.nodes: list[ClusterNode] = []
        for _ in range(count):
            self.add()

    @classmethod
    def form(
        cls,
        directory: Path,
        count: int = 3,
        *,
        zones: Sequence[str] = ("default",),
        options: Sequence[str] = (),
    ) -> Cluster:
        """Started, joined, committed and ready."""
        cluster = cls(directory, count, zones=zones, options=options)
        try:
            cluster.start()
            cluster.join(cluster.nodes[1:])
        except BaseException:
            cluster.close()
            raise
        return cluster

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for node in self.nodes:
                # pytest shows it below the failure: what a node wrote is half of the story.
                print(f"--- {node.name}\n{node.log_tail() if node.log.exists() else ''}")
        self.close()

    def __getitem__(self, number: int) -> ClusterNode:
        return self.nodes[number]

    def __len__(self) -> int:
        return len(self.nodes)

    def named(self, name: str) -> ClusterNode:
        return next(node for node in self.nodes if node.name == name)

    def add(self) -> ClusterNode:
        """One more node, not started."""
        number = len(self.nodes)
        resp, web, peer = free_ports(3)
        # The first node founds the cluster. Were it wiped, it would have to find the others: ``seed_from``.
        seeds = [self.nodes[0].peer_address] if self.nodes else []
        name = f"n{number + 1}"
        node = ClusterNode(
            name=name,
            directory=self.directory / name,
            resp_port=resp,
            http_port=web,
            peer_port=peer,
            zone=self.zones[number % len(self.zones)],
            seeds=seeds,
            options=list(self.options),
        )
        self.nodes.append(node)
        return node

    def seed_from(self, node: ClusterNode, *others: ClusterNode) -> None:
        """Let ``node`` join by ``others`` at its next start; a founder that was wiped needs it."""
        node.seeds = [other.peer_address for other in others]

    def start(self) -> None:
        """Start all that do not run, at once."""
        started = [node.start(wait=False) for node in self.nodes if not node.running]
        for node in started:
            node.wait_ready_line()

    def join(self, nodes: Sequence[ClusterNode]) -> None:
        """Bring nodes into the layout by one commit, and wait until every node has it and serves."""
        first = next(node for node in self.nodes if node.running)
        names = {node.name for node in nodes}

        def met() -> bool:
            states = first.members()
            return all(states.get(name) == "alive" for name in names)

        wait_until(met, FORM_TIMEOUT_S, f"{first.name} knows {sorted(names)}")
        plan: dict[str, Any] = {}
        for node in nodes:
            plan = first.document("POST", "/v1/layout/stage", {"action": "join", "node": node.name})
        if plan:
            assert not plan["refusal"], plan["refusal"]
            self.commit(plan["version"], by=first)
        self.wait_ready()

    def commit(self, version: int, *, by: ClusterNode | None = None, force: bool = False) -> None:
        """Commit what is staged, and wait until all running nodes have it."""
        (by or self.nodes[0]).document("POST", "/v1/layout/commit", {"version": version, "force": force})
        wait_until(
            lambda: all(node.layout()["version"] >= version for node in self.running()),
            FORM_TIMEOUT_S,
            f"layout {version} is everywhere",
        )

    def running(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.running]

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until every running node sees every other one alive, and serves."""

        def settled() -> bool:
            running = self.running()
            names = {node.name for node in running}
            return all(
                node.ready() and all(node.members().get(name) == "alive" for name in names)
                for node in running
            )

        wait_until(settled, timeout_s, "all nodes see each other and are ready")

    def hints(self) -> int:
        """Hints on all running nodes."""
        return sum(node.hints() for node in self.running())

    def difference(
        self, keys: Iterable[bytes], bucket: bytes = b"0", *, by: ClusterNode | None = None
    ) -> str:
        """The first key whose primaries do not all have the same versions, with what they have; or empty.

        It asks every primary for each key: some thousand keys take seconds. ``repair`` compares all there is.
        """
        for document in (by or self.running()[0]).explain(keys, bucket):
            primaries = [replica for replica in document["replicas"] if replica["role"] == "primary"]
            seen = {
                replica["node"]: (replica["up"], replica["state"], sorted(map(_dot, replica["entries"])))
                for replica in primaries
            }
            same = len({repr(facts) for facts in seen.values()}) == 1
            if not same or not all(up and state != "error" for up, state, _ in seen.values()):
                return f"{document['key']}: {seen}"
        return ""

    def owners(self, key: bytes, bucket: bytes = b"0") -> list[ClusterNode]:
        """Primaries of a key, first choice first."""
        (document,) = self.running()[0].explain([key], bucket)
        return [
            self.named(replica["node"]) for replica in document["replicas"] if replica["role"] == "primary"
        ]

    def assignment(self) -> list[list[str]]:
        """Primaries of every partition, first choice first."""
        layout = self.running()[0].layout()
        names, width = [node["node"] for node in layout["nodes"]], layout["width"]
        numbers = memoryview(base64.b64decode(layout["assignment"])).cast("H")
        return [
            [names[numbers[width * partition + place]] for place in range(width)]
            for partition in range(layout["partitions"])
        ]

    def close(self) -> None:
        """kill -9 for all; a stopped process dies of it too."""
        for node in self.nodes:
            if node.running:
                node.kill()
        for node in self.nodes:
            _taken.difference_update((node.resp_port, node.http_port, node.peer_port))


def _dot(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["actor"], entry["stamp"]
