"""Question: how does the log engine compare with the embedded stores a Python program would take instead?

LMDB through py-lmdb (sync off, one transaction per put or per hundred) and RocksDB through rocksdict
(defaults, its log not synced). All get the same 16-byte digests as keys and 100-byte values, 1 M of them,
in random order; rounds of the contenders alternate in one process, and ratios are of medians. A checksum of
what was read is compared.

Not measured: durability (nobody syncs), big values, ranges, data larger than memory.

    python benchmarks/compare/engines.py [--keys 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import lmdb
from rich.console import Console
from rich.table import Table
from rocksdict import Options, Rdict

from sadik.kernels import digest
from sadik.storage import LogEngine

VALUE = bytes(range(100))
MAP_BYTES = 8 << 30
SLICE = 20_000

OPEN = """
import resource, sys, time
from sadik.storage import LogEngine

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

before, began = rss(), time.perf_counter()
engine = LogEngine.open(sys.argv[1])
took = time.perf_counter() - began
print(took, rss() - before, engine.statistics().keys)
"""


def names_and_digests(count: int) -> tuple[list[bytes], list[bytes]]:
    names = [digest.address_name(b"0", b"key:%012d" % number) for number in range(count)]
    return names, [digest.digest(name) for name in names]


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


class Figures:
    """Nanoseconds per operation of each contender, round by round."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, list[float]]] = {}

    def add(self, what: str, who: str, seconds: float, operations: int) -> None:
        self.rows.setdefault(what, {}).setdefault(who, []).append(seconds / operations * 1e9)

    def show(self) -> None:
        table = Table(title="ns per operation, medians; ratio: how many times as fast the log engine is")
        for column in ("what", "log engine", "other", "other's", "ratio"):
            table.add_column(column, justify="left" if column in ("what", "other") else "right")
        for what, figures in self.rows.items():
            ours = statistics.median(figures["log"])
            for who, values in figures.items():
                if who != "log":
                    other = statistics.median(values)
                    table.add_row(what, f"{ours:,.0f}", who, f"{other:,.0f}", f"{other / ours:.2f}")
        Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="the log engine beside LMDB and RocksDB")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names, digests = names_and_digests(options.keys)
    order = list(range(options.keys))
    random.Random(1).shuffle(order)
    figures = Figures()
    with tempfile.TemporaryDirectory() as directory:
        engine = LogEngine.open(f"{directory}/log")
        environments = {
            "lmdb": lmdb.open(f"{directory}/lmdb", map_size=MAP_BYTES, sync=False, metasync=False),
            "lmdb writemap": lmdb.open(
                f"{directory}/lmdb-w",
                map_size=MAP_BYTES,
                sync=False,
                metasync=False,
                writemap=True,
                map_async=True,
            ),
        }
        rocks = Rdict(f"{directory}/rocks", Options(raw_mode=True))
        fill(engine, environments, rocks, names, digests, order)
        gc.disable()
        for number in range(options.rounds):
            chosen = [order[(number * SLICE + i) % len(order)] for i in range(SLICE)]
            measure_puts(
                figures, engine, environments, rocks, [(digests[i], names[i], VALUE) for i in chosen]
            )
            measure_gets(figures, engine, environments, rocks, [digests[i] for i in chosen])
        gc.enable()
        engine.close()
        figures.show()
        measure_open(f"{directory}/log", options.keys)


def fill(
    engine: LogEngine,
    environments: dict[str, lmdb.Environment],
    rocks: Rdict,
    names: list[bytes],
    digests: list[bytes],
    order: list[int],
) -> None:
    for first in range(0, len(order), 10_000):
        part = order[first : first + 10_000]
        engine.put_many([(digests[i], names[i], VALUE) for i in part])
        for environment in environments.values():
            with environment.begin(write=True) as transaction:
                for i in part:
                    transaction.put(digests[i], VALUE)
        for i in part:
            rocks[digests[i]] = VALUE


def measure_puts(
    figures: Figures,
    engine: LogEngine,
    environments: dict[str, lmdb.Environment],
    rocks: Rdict,
    items: list[tuple[bytes, bytes, bytes]],
) -> None:
    def ours() -> None:
        for key, name, value in items:
            engine.put(key, name, value)

    def ours_hundreds() -> None:
        for first in range(0, len(items), 100):
            engine.put_many(items[first : first + 100])

    def rocks_one() -> None:
        for key, _, value in items:
            rocks[key] = value

    figures.add("put, one at a time", "log", timed(ours), len(items))
    figures.add("put, in hundreds", "log", timed(ours_hundreds), len(items))
    for who, environment in environments.items():

        def one(environment: lmdb.Environment = environment) -> None:
            for key, _, value in items:
                with environment.begin(write=True) as transaction:
                    transaction.put(key, value)

        def hundreds(environment: lmdb.Environment = environment) -> None:
            for first in range(0, len(items), 100):
                with environment.begin(write=True) as transaction:
                    for key, _, value in items[first : first + 100]:
                        transaction.put(key, value)

        figures.add("put, one at a time", who, timed(one), len(items))
        figures.add("put, in hundreds", who, timed(hundreds), len(items))
    figures.add("put, one at a time", "rocksdict", timed(rocks_one), len(items))


def measure_gets(
    figures: Figures,
    engine: LogEngine,
    environments: dict[str, lmdb.Environment],
    rocks: Rdict,
    keys: list[bytes],
) -> None:
    sums: dict[str, int] = {}

    def run(what: str, who: str, get: Callable[[], list[bytes | None]]) -> None:
        values: list[bytes | None] = []
        figures.add(what, who, timed(lambda: values.extend(get())), len(keys))
        total = 0
        for value in values:
            total = zlib.crc32(value or b"missing", total)
        sums[f"{what} {who}"] = total

    def in_hundreds() -> list[bytes | None]:
        found: list[bytes | None] = []
        for first in range(0, len(keys), 100):
            found += engine.get_many(keys[first : first + 100])
        return found

    get = engine.get
    run("get, one at a time", "log", lambda: [get(key) for key in keys])
    run("get, in hundreds", "log", in_hundreds)
    for who, environment in environments.items():
        with environment.begin() as transaction:
            fetch = transaction.get
            for what in ("get, one at a time", "get, in hundreds"):
                run(what, who, lambda fetch=fetch: [fetch(key) for key in keys])  # type: ignore[misc]
    run("get, one at a time", "rocksdict", lambda: [rocks.get(key) for key in keys])
    if len(set(sums.values())) != 1:
        raise SystemExit(f"the stores do not agree: {sums}")


def measure_open(directory: str, keys: int) -> None:
    table = Table(title=f"open of {keys:,} keys in a fresh process")
    for column in ("snapshots", "seconds", "growth in resident memory, bytes per key", "keys found"):
        table.add_column(column, justify="right")
    for with_snapshots in (True, False):
        runs = []
        for _ in range(3):
            if not with_snapshots:
                for path in Path(directory).rglob("*.keydir"):
                    path.unlink()
            result = subprocess.run(
                [sys.executable, "-c", OPEN, directory],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ,
            )
            runs.append([float(word) for word in result.stdout.split()])
        took, grown, found = (statistics.median(run[i] for run in runs) for i in range(3))
        table.add_row(
            "yes" if with_snapshots else "no", f"{took:.2f}", f"{grown / keys:.1f}", f"{found:,.0f}"
        )
    Console().print(table)
    print(json.dumps({"python": sys.version.split()[0], "lmdb": lmdb.version(), "keys": keys}))


if __name__ == "__main__":
    main()
