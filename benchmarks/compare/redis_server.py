"""Question: how many GETs and SETs a second does one Sadik node serve beside redis-server, on this machine,
now?

Both run at once, idle but for the one under load; rounds alternate between them, and the ratio of each
round's pair is what counts (single figures on a shared machine do not). Same durability on both sides:
Sadik ``--sync interval`` (1 s) against Redis ``appendonly yes, appendfsync everysec``. 100-byte values,
16-byte keys, 100,000 of them, 50 connections.

Not measured: many cores (both use one), big values, a network.

    python benchmarks/compare/redis_server.py [--rounds 5] [--seconds 3] [--sync interval]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).resolve().parent
APPENDFSYNC = {"always": "always", "interval": "everysec", "never": "no"}
CASES = [("set", 1), ("get", 1), ("set", 16), ("get", 16)]


def build_load_generator(directory: str) -> str:
    """Compile the load generator; returns its path."""
    program = f"{directory}/respbench"
    subprocess.run(["cc", "-O2", "-o", program, str(HERE.parent / "load" / "respbench.c")], check=True)
    return program


def start_redis(directory: str, port: int, sync: str) -> subprocess.Popen[bytes]:
    """A redis-server with an append-only file, ready to serve."""
    server = subprocess.Popen(
        [
            *f"redis-server --port {port} --daemonize no --appendonly yes".split(),
            *("--appendfsync", APPENDFSYNC[sync], "--dir", directory, "--save", ""),
        ],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    for line in server.stdout:
        if b"Ready to accept connections" in line:
            return server
    raise SystemExit("redis-server did not start")


def start_sadik(directory: str, sync: str) -> tuple[subprocess.Popen[bytes], int]:
    """A node on a free port; returns it and the port of its ready line."""
    node = subprocess.Popen(
        [
            *(sys.executable, "-m", "sadik.cli.node", "--data", directory),
            *f"--resp 127.0.0.1:0 --http 127.0.0.1:0 --peer 127.0.0.1:0 --sync {sync}".split(),
        ],
        stderr=subprocess.PIPE,
    )
    assert node.stderr is not None
    for line in node.stderr:
        if b" ready: " in line:
            address = next(word for word in line.split() if word.startswith(b"resp="))
            return node, int(address.rpartition(b":")[2])
    raise SystemExit("sadik-node did not start")


def load(program: str, port: int, mode: str, depth: int, seconds: float) -> dict[str, float]:
    """One run; the load generator's figures."""
    command = [program, str(port), "50", str(seconds), str(depth), "100", "100000", mode]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Sadik beside redis-server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--sync", choices=sorted(APPENDFSYNC), default="interval")
    parser.add_argument("--json", action="store_true", help="print figures for programs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program = build_load_generator(directory)
        Path(directory, "redis").mkdir()
        redis = start_redis(f"{directory}/redis", 16390, options.sync)
        node, port = start_sadik(f"{directory}/sadik", options.sync)
        results: dict[tuple[str, int], list[tuple[dict[str, float], dict[str, float]]]] = {}
        try:
            for target in (16390, port):
                load(program, target, "set", 16, 1.0)
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task("rounds", total=options.rounds * len(CASES))
                for _ in range(options.rounds):
                    for mode, depth in CASES:
                        theirs = load(program, 16390, mode, depth, options.seconds)
                        ours = load(program, port, mode, depth, options.seconds)
                        results.setdefault((mode, depth), []).append((ours, theirs))
                        progress.advance(task)
        finally:
            for process in (redis, node):
                process.terminate()
                process.wait(30)
    if options.json:
        print(json.dumps([{"mode": m, "depth": d, "pairs": pairs} for (m, d), pairs in results.items()]))
        return
    table = Table(title=f"50 connections, 100-byte values, sync={options.sync}, medians of {options.rounds}")
    for column in ("load", "depth", "Sadik ops/s", "Redis ops/s", "ratio", "p99 Sadik ms", "p99 Redis ms"):
        table.add_column(column, justify="right")
    for (mode, depth), pairs in results.items():
        table.add_row(
            mode,
            str(depth),
            f"{statistics.median(ours['ops_per_s'] for ours, _ in pairs):,.0f}",
            f"{statistics.median(theirs['ops_per_s'] for _, theirs in pairs):,.0f}",
            f"{statistics.median(ours['ops_per_s'] / theirs['ops_per_s'] for ours, theirs in pairs):.2f}",
            f"{statistics.median(ours['p99'] for ours, _ in pairs):.2f}",
            f"{statistics.median(theirs['p99'] for _, theirs in pairs):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
