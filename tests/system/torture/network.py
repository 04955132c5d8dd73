"""A network of its own for the nodes of one run, whose paths can be cut one way.

Each node lives in a network namespace behind a router, which is the namespace that the harness itself runs
in; what it drops is silence on both sides, as on a cut cable. All namespaces end with the harness, and with
them every process.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ISOLATED: Final = "TORTURE_ISOLATED"
"""This variable tells a process that it may make namespaces of its own."""

_APART: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
_PROBE: Final = "mount -t tmpfs none /run && ip link set lo up && ip netns add probe && ip rule add blackhole"


def isolation() -> list[str] | None:
    """What a command is to be started with so that ``Network`` works in it; None where this machine allows no
    namespaces.
    """
    command = [*_APART, *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]
    try:
        probe = subprocess.run([*command, "sh", "-c", _PROBE], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return command if probe.returncode == 0 else None


class Network:
    """Hosts, counted from 0, that reach each other through this process's namespace.

    Attributes:
        can_split: Whether paths can be cut. If not, all hosts are this machine's loopback.
    """

    def __init__(self, count: int) -> None:
        self.can_split = ISOLATED in os.environ
        self._count = count
        self._cut: set[tuple[int, int]] = set()
        if self.can_split:
            self._build()

    def host(self, number: int) -> str:
        """Its address."""
        return f"10.77.{number}.2" if self.can_split else "127.0.0.1"

    def launcher(self, number: int) -> list[str]:
        """What starts a command on it; the process keeps its number."""
        return ["ip", "netns", "exec", f"host{number}"] if self.can_split else []

    def cut(self, paths: Iterable[tuple[int, int]]) -> None:
        """From now on nothing goes from the first to the second of a pair."""
        for path in paths:
            if path not in self._cut:
                self._rule("add", path)
                self._cut.add(path)

    def mend(self, paths: Iterable[tuple[int, int]] | None = None) -> None:
        """These paths are open again, or all."""
        for path in list(self._cut if paths is None else paths):
            if path in self._cut:
                self._rule("del", path)
                self._cut.remove(path)

    def _rule(self, verb: str, path: tuple[int, int]) -> None:
        sender, receiver = map(self.host, path)
        _run("ip", "rule", verb, "from", sender, "to", receiver, "blackhole")

    def _build(self) -> None:
        if not os.path.ismount("/run"):
            _run("mount", "-t", "tmpfs", "none", "/run")
        _run("ip", "link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for number in range(self._count):
            space, port, router = f"host{number}", f"port{number}", f"10.77.{number}.1"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "addr", "add", f"{router}/24", "dev", port)
            _run("ip", "link", "set", port, "up")
            _run("ip", "-n", space, "addr", "add", f"{self.host(number)}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                _run("ip", "-n", space, "link", "set", link, "up")
            _run("ip", "-n", space, "route", "add", "default", "via", router)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)
