"""Question: what does a quorum cost? Three Sadik nodes beside redis-server with two replicas, on this
machine, now.

Sadik keeps three replicas and answers when two have a write (N=3, R=2, W=2); all nodes take requests. Redis
answers alone and sends to its replicas afterwards (plain SET), or waits for one of them (SET + WAIT 1), which
is the nearest to a W of two that it has. Same durability on both sides: Sadik ``--sync interval`` (1 s)
against ``appendonly yes, appendfsync everysec`` on all three. 100-byte values, 16-byte keys, 100,000 of them,
50 connections; those to Sadik are spread over its nodes.

All six servers are up all the time, idle but for those under load. A round is one run of each load, in turn;
ratios are those of one round, and their median counts (single figures on a shared machine do not). Then an
open loop: SETs come at half of the lower peak whatever the servers do, and the ratio of the 99th percentiles
counts.

Not measured: a network, many cores (the servers and the load generator share them all), big values, failures.

    python benchmarks/compare/redis_cluster.py [--rounds 5] [--seconds 3] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).resolve().parent
CONNECTIONS = 50
VALUE_BYTES = 100
KEYS = 100_000
NODES = 3
DEPTHS = (1, 16)
START_TIMEOUT_S = 60.0
REDIS_PORT = 16_390
SADIK_PORT = 17_379

# What Sadik must reach of Redis' figure, by (our load, theirs, depth); for latency what it must not pass.
BARS = {
    ("set", "set", 1): 0.8,
    ("set", "set", 16): 0.8,
    ("set", "setwait", 1): 1.2,
    ("set", "setwait", 16): 2.0,
    ("get", "get", 1): 0.45,
    ("get", "get", 16): 0.45,
}
P99_BAR = 1.0
IDLE_BYTES_MAX = 80 << 20

Figures = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """One line of the result.

    Attributes:
        ours, theirs: Medians, in ``unit``.
        ratio: Median of the rounds' ratios, ours by theirs.
        bar: What the ratio must reach, or must not pass where ``most`` is True.
    """

    what: str
    depth: int
    unit: str
    ours: float
    theirs: float
    ratio: float
    bar: float
    most: bool = False

    @property
    def met(self) -> bool:
        return self.ratio <= self.bar if self.most else self.ratio >= self.bar


class Loads:
    """Runs the load generator."""

    def __init__(self, directory: str, seconds: float) -> None:
        self._program = f"{directory}/respbench"
        self._seconds = seconds
        source = str(HERE.parent / "load" / "respbench.c")
        subprocess.run(["cc", "-O2", "-o", self._program, source], check=True)

    def run(self, ports: list[int], mode: str, depth: int, *, rate: float = 0.0) -> Figures:
        """One run; requests a second of an open loop in ``rate``, or 0 for as many as it can."""
        command = [self._program, ",".join(map(str, ports)), str(CONNECTIONS), str(self._seconds)]
        command += [str(depth), str(VALUE_BYTES), str(KEYS), mode]
        environment = {name: text for name, text in os.environ.items() if name not in ("RATE", "PROTO")}
        if rate:
            environment["RATE"] = f"{rate:.0f}"
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode != 0 or not result.stdout:
            raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
        figures: Figures = json.loads(result.stdout)
        return figures


def wait_for(what: str, condition: object) -> None:
    """Poll until it is true, or give up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():  # type: ignore[operator]
                return
        time.sleep(0.05)
    raise SystemExit(f"{what}: not within {START_TIMEOUT_S:.0f} s")


@contextlib.contextmanager
def redis(directory: str) -> Iterator[list[int]]:
    """A redis-server and two replicas that follow it; gives the ports to load."""
    servers = []
    try:
        for number in range(NODES):
            data = Path(directory, f"redis{number}")
            data.mkdir()
            command = f"redis-server --port {REDIS_PORT + number} --daemonize no --appendonly yes".split()
            command += ["--appendfsync", "everysec", "--save", "", "--dir", str(data)]
            command += ["--repl-diskless-sync-delay", "0"]
            if number:
                command += ["--replicaof", "127.0.0.1", str(REDIS_PORT)]
            with open(data / "log", "wb") as log:
                servers.append(subprocess.Popen(command, stdout=log, stderr=log))
            wait_for("redis-server answers", lambda port=REDIS_PORT + number: _info(port))
        wait_for(
            "both replicas follow",
            lambda: sum(b"state=online" in line for line in _info(REDIS_PORT).split(b"\n")) == NODES - 1,
        )
        yield [REDIS_PORT]
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(30)


def _info(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"INFO replication\r\nPING\r\n")
        text = b""
        while b"+PONG" not in text:
            if not (piece := client.recv(65536)):
                return b""
            text += piece
        return text


@contextlib.contextmanager
def sadik(directory: str) -> Iterator[tuple[list[int], list[int]]]:
    """Three nodes of one cluster; gives the ports to load and the processes."""
    log = Path(directory, "sadik.log")
    command = [sys.executable, "-m", "sadik.cli.main", "demo", "--nodes", str(NODES)]
    command += ["--base-port", str(SADIK_PORT), "--data", f"{directory}/sadik", "--sync", "interval"]
    with open(log, "wb") as file:
        demo = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        for number in range(NODES):
            wait_for(
                f"node {number + 1} serves", lambda port=SADIK_PORT + 10 * number + 1: _ready(demo, log, port)
            )
        # Its own children are the nodes.
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        yield [SADIK_PORT + 10 * number for number in range(NODES)], [int(child) for child in children]
    finally:
        demo.terminate()
        demo.wait(60)


def _ready(demo: subprocess.Popen[bytes], log: Path, port: int) -> bool:
    if demo.poll() is not None:
        raise SystemExit(f"the cluster did not start:\n{log.read_text()}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/layout")
        layout = json.loads(connection.getresponse().read())
        connection.request("GET", "/ready")
        return len(layout["nodes"]) == NODES and connection.getresponse().status == 200


def resident_bytes(pid: int) -> int:
    """Memory of a process (VmRSS)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) * 1024


def measure(rounds: int, seconds: float, progress: Progress) -> tuple[list[Comparison], int]:
    """All comparisons, and the memory of the largest idle node in bytes."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        loads = Loads(directory, seconds)
        theirs = stack.enter_context(redis(directory))
        ours, processes = stack.enter_context(sadik(directory))
        idle = max(map(resident_bytes, processes))
        steps = progress.add_task("rounds", total=rounds * (len(DEPTHS) * 5 + 2))
        fill(loads, theirs)
        fill(loads, ours)
        # (who, mode, depth) -> one entry a round
        found: dict[tuple[str, str, int], list[Figures]] = {}
        for number in range(rounds):
            for depth in DEPTHS:
                runs = [("redis", "set"), ("sadik", "set"), ("redis", "setwait"), ("redis", "get")]
                runs.append(("sadik", "get"))
                # Every other round in reverse: what one run leaves to the next (dirty pages) cancels out.
                for who, mode in runs if number % 2 == 0 else reversed(runs):
                    figures = loads.run(ours if who == "sadik" else theirs, mode, depth)
                    found.setdefault((who, mode, depth), []).append(figures)
                    progress.advance(steps)
        results = [throughput(found, *case, bar) for case, bar in BARS.items()]
        depth = max(DEPTHS)
        rate = 0.5 * min(median(found["sadik", "set", depth]), median(found["redis", "setwait", depth]))
        pairs = []
        for number in range(rounds):
            pair = {}
            for who, mode in (("sadik", "set"), ("redis", "setwait"))[:: 1 if number % 2 else -1]:
                pair[who] = loads.run(ours if who == "sadik" else theirs, mode, depth, rate=rate)
                progress.advance(steps)
            pairs.append(pair)
        results.append(latency(pairs, depth, rate))
    return results, idle


def fill(loads: Loads, ports: list[int]) -> None:
    """Write until nearly every key is there: drawn at random, five times as many draws miss one in 150."""
    written = 0.0
    while written < 5 * KEYS:
        written += loads.run(ports, "set", max(DEPTHS))["ops"]


def median(runs: list[Figures]) -> float:
    return statistics.median(run["ops_per_s"] for run in runs)


def throughput(
    found: dict[tuple[str, str, int], list[Figures]], mode: str, other: str, depth: int, bar: float
) -> Comparison:
    ours, theirs = found["sadik", mode, depth], found["redis", other, depth]
    ratios = [one["ops_per_s"] / two["ops_per_s"] for one, two in zip(ours, theirs, strict=True)]
    names = {"set": "SET", "get": "GET", "setwait": "SET + WAIT 1"}
    what = f"{names[mode]} against {names[other]}"
    return Comparison(what, depth, "ops/s", median(ours), median(theirs), statistics.median(ratios), bar)


def latency(pairs: list[dict[str, Figures]], depth: int, rate: float) -> Comparison:
    ours = [pair["sadik"]["p99"] for pair in pairs]
    theirs = [pair["redis"]["p99"] for pair in pairs]
    ratios = [one / two for one, two in zip(ours, theirs, strict=True)]
    what = f"p99 of SET against SET + WAIT 1, open loop of {rate:,.0f}/s"
    medians = statistics.median(ours), statistics.median(theirs)
    return Comparison(what, depth, "ms", *medians, statistics.median(ratios), P99_BAR, most=True)


def show(results: list[Comparison], idle: int, rounds: int) -> None:
    table = Table(title=f"three nodes (3,2,2) and redis-server with two replicas, medians of {rounds} rounds")
    table.add_column("load")
    for column in ("depth", "Sadik", "Redis", "unit", "ratio", "bar", "met"):
        table.add_column(column, justify="right")
    for result in results:
        digits = 0 if result.unit == "ops/s" else 2
        table.add_row(
            result.what,
            str(result.depth),
            f"{result.ours:,.{digits}f}",
            f"{result.theirs:,.{digits}f}",
            result.unit,
            f"{result.ratio:.2f}",
            f"{'at most' if result.most else 'at least'} {result.bar:g}",
            "yes" if result.met else "NO",
        )
    table.add_row(
        "memory of an idle node (largest of three)",
        "",
        f"{idle / (1 << 20):.0f}",
        "",
        "MiB",
        "",
        f"at most {IDLE_BYTES_MAX >> 20}",
        "yes" if idle <= IDLE_BYTES_MAX else "NO",
    )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Three Sadik nodes beside redis-server with two replicas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    options = parser.parse_args()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results, idle = measure(options.rounds, options.seconds, progress)
    if options.json:
        lines = [{**asdict(result), "met": result.met} for result in results]
        print(json.dumps({"comparisons": lines, "idle_bytes": idle}, indent=2))
        return
    show(results, idle, options.rounds)


if __name__ == "__main__":
    main()
