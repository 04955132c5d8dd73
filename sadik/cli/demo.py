"""``sadik demo``: a local cluster in one command, in the foreground.

One ``sadik-node`` process per node, fully described by its arguments, so that each can also be started by
hand. Node i has RESP on base + 10 i, HTTP one above, and its peers' port two above. The death of a node is
told, and no more: nobody starts it again, and the others go on; that is what there is to see. SIGINT, SIGTERM
and SIGHUP stop all. The system kills them when this process dies in any other way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
from rich.text import Text

from sadik.cli import tables
from sadik.cli.remote import Document, Remote, RemoteError
from sadik.cli.session import PROGRAM, people
from sadik.config import SETTINGS
from sadik.errors import SadikError
from sadik.settings import Address

HOST: Final = "127.0.0.1"
STRIDE: Final = 10
"""Between the ports of two nodes."""
NODES_MAX: Final = 32

READY_TIMEOUT_S: Final = 60.0
FORM_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 15.0
"""Longer than a node waits for requests in flight (--drain-timeout-ms)."""
_POLL_S: Final = 0.1
_LINE_BYTES_MAX: Final = 1 << 16

NODE_PROGRAM: Final = (sys.executable, "-m", "sadik.cli.node")
_PR_SET_PDEATHSIG: Final = 1


class DemoError(SadikError):
    """The demo could not be brought up."""


@dataclass
class DemoNode:
    """One node and its process.

    Attributes:
        number: From 0 on.
        ready: Its ready line has come.
        code: How it ended, as ``subprocess`` has it; None while it runs.
    """

    number: int
    base_port: int
    data: str
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    code: int | None = None

    @property
    def name(self) -> str:
        return f"n{self.number + 1}"

    def address(self, offset: int) -> Address:
        """Offset 0: RESP, 1: HTTP, 2: peers."""
        return Address(HOST, self.base_port + STRIDE * self.number + offset)

    def arguments(self, sync: str, more: Sequence[str]) -> list[str]:
        """All that its process is told."""
        given = ["--node-id", self.name, "--host-label", self.name, "--data", self.data]
        for offset, flag in enumerate(("--resp", "--http", "--peer")):
            given += [flag, str(self.address(offset))]
        if self.number:
            given += ["--seed-node", str(Address(HOST, self.base_port + 2))]
        return [*given, "--sync", sync, *more]


@dataclass
class Demo:
    """A cluster of processes.

    Args:
        data: Directory; each node has one of its own in it.
        sync: As the nodes' option.
        more: Further options of every node.
        program: What runs a node, before its options.
    """

    count: int
    data: str
    base_port: int
    sync: str
    more: Sequence[str] = ()
    program: Sequence[str] = NODE_PROGRAM
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def __post_init__(self) -> None:
        names = range(self.count)
        self.nodes = [
            DemoNode(number, self.base_port, os.path.join(self.data, f"n{number + 1}")) for number in names
        ]
        self._changed = asyncio.Event()
        self._stops = 0
        self._told = False
        self._out, self._err = people(), people(stderr=True)
        self._libc = ctypes.CDLL(None, use_errno=True)

    async def run(self) -> int:
        """Until a signal, or the last node's death; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        code = 0
        async with asyncio.TaskGroup() as group:
            try:
                for node in self.nodes:
                    self._start(node)
                    group.create_task(self._watch(node))
                await self._come_up(group)
            except DemoError as error:
                self._say(f"{PROGRAM}: {error}", style="red")
                code = 1
            else:
                await self._until(lambda: self._stops > 0 or not self._running())
                if not self._stops:
                    self._say(f"{PROGRAM}: no node is left", style="red")
                    code = 1
            finally:
                await self._stop()
        return code

    def command(self, node: DemoNode) -> list[str]:
        """What starts a node, by hand too."""
        return [*self.program, *node.arguments(self.sync, self.more)]

    def _start(self, node: DemoNode) -> None:
        parent = os.getpid()

        def die_with_parent() -> None:
            # SIGKILL, as a node that is stopped (SIGSTOP) would not end by anything else. It loses nothing
            # that was acknowledged: the system has it, and the log is made for that.
            self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        # Its variables would be options that the arguments do not show.
        environment = {
            name: text
            for name, text in self.environment.items()
            if not name.startswith("SADIK_") or name == "SADIK_KERNELS"
        }
        # A session of its own: Ctrl-C reaches this process only, and stops the nodes in one way.
        node.process = subprocess.Popen(
            self.command(node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    async def _watch(self, node: DemoNode) -> None:
        """Pass on what a node writes, and tell of its end."""
        process = node.process
        assert process is not None
        assert process.stderr is not None
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        handle = os.pidfd_open(process.pid)
        loop.add_reader(handle, ended.set)
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stderr
        )
        try:
            rest = b""
            while piece := await reader.read(_LINE_BYTES_MAX):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE_BYTES_MAX:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._on_line(node, line.decode(errors="replace"))
            if rest:
                self._on_line(node, rest.decode(errors="replace"))
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
            transport.close()
        node.code = process.wait()
        if node.ready and not self._stops:
            self._say(
                f"{PROGRAM}: node {node.name} has died ({_ending(node.code)}); the others go on. "
                f"Start it again:\n"
                f"  {shlex.join(self.command(node))}",
                style="yellow",
            )
        self._changed.set()

    def _on_line(self, node: DemoNode, line: str) -> None:
        if " ready: " in line and not node.ready:
            node.ready = True
            self._changed.set()
        self._err.print(Text.assemble((f"{node.name} ", "cyan"), line), soft_wrap=True)

    async def _come_up(self, group: asyncio.TaskGroup) -> None:
        """Wait for all nodes, make them a cluster, and say where it is. Raises DemoError."""
        up = await self._until(
            lambda: self._stops > 0 or self._fallen() is not None or all(node.ready for node in self.nodes),
            READY_TIMEOUT_S,
        )
        if self._stops:
            return
        if (fallen := self._fallen()) is not None:
            raise DemoError(f"node {fallen.name} did not start ({_ending(fallen.code)})")
        if not up:
            late = ", ".join(node.name for node in self.nodes if not node.ready)
            raise DemoError(f"{late} did not become ready within {READY_TIMEOUT_S:.0f} s")
        forming = group.create_task(self._form_or_fail())
        forming.add_done_callback(lambda task: self._changed.set())
        await self._until(lambda: self._stops > 0 or forming.done() or not self._running())
        if not forming.done():
            forming.cancel()
        elif isinstance(notes := forming.result(), SadikError):
            raise DemoError(f"the cluster could not be formed: {notes}")
        else:
            self._introduce(notes)

    async def _form_or_fail(self) -> list[str] | SadikError:
        # As a value: raised, it would end the whole group of tasks, and nobody would stop the nodes in order.
        try:
            return await self._form()
        except SadikError as error:
            return error

    async def _form(self) -> list[str]:
        """All nodes into the layout of a new cluster; notes for people about what is not as it should be.

        A layout that was ever changed is left alone: it is its operator's.
        """
        remote = Remote(self.nodes[0].address(1))
        layout = await asyncio.to_thread(remote.get, "/v1/layout")
        names = [node.name for node in self.nodes]
        held = {item["node"] for item in layout["nodes"]}
        missing = [name for name in names if name not in held]
        notes: list[str] = []
        if missing and layout["version"] == 1:
            await self._all_known(remote, names)
            plan: Document = {}
            for name in missing:
                change = {"action": "join", "node": name}
                plan = await asyncio.to_thread(remote.post, "/v1/layout/stage", change)
            if plan.get("refusal"):
                await asyncio.to_thread(remote.delete, "/v1/layout/stage")
                notes.append(f"{', '.join(missing)} cannot join: {plan['refusal']}")
            else:
                wanted = {"version": plan["version"], "force": False}
                await asyncio.to_thread(remote.post, "/v1/layout/commit", wanted)
        elif missing:
            notes.append(f"{', '.join(missing)} are not in the layout: see sadik join, plan and commit")
        if not await self._all_serve():
            notes.append("not every node is ready yet: see sadik members")
        return notes

    async def _all_known(self, remote: Remote, names: Sequence[str]) -> None:
        """Until gossip has brought every node to the first one."""
        for _ in range(int(FORM_TIMEOUT_S / _POLL_S)):
            document = await asyncio.to_thread(remote.get, "/v1/members")
            known = {item["node"] for item in document["members"] if item["state"] == "alive"}
            if known.issuperset(names):
                return
            await asyncio.sleep(_POLL_S)
        raise DemoError(f"not all nodes have met within {FORM_TIMEOUT_S:.0f} s: see sadik members")

    async def _all_serve(self) -> bool:
        for node in self.nodes:
            remote = Remote(node.address(1))
            for _ in range(int(FORM_TIMEOUT_S / _POLL_S)):
                with contextlib.suppress(RemoteError):
                    await asyncio.to_thread(remote.get, "/ready")
                    break
                await asyncio.sleep(_POLL_S)
            else:
                return False
        return True

    def _introduce(self, notes: Sequence[str]) -> None:
        rows = tables.table("node", "RESP", "HTTP", "peers", "pid", "data")
        for node in self.nodes:
            assert node.process is not None
            addresses = [str(node.address(offset)) for offset in range(3)]
            rows.add_row(node.name, *addresses, str(node.process.pid), node.data)
        first, last = self.nodes[0], self.nodes[-1]
        tour = [
            f"redis-cli -p {first.address(0).port} set greeting hello",
            f"redis-cli -p {last.address(0).port} get greeting",
            f"curl -i http://{last.address(1)}/v1/kv/0/greeting",
            f"sadik --node {first.address(1)} explain greeting",
            f"sadik --node {first.address(1)} members",
        ]
        if self.count > 1:
            assert last.process is not None
            tour.append(f"kill -9 {last.process.pid}    # then: sadik --node {first.address(1)} hints")
        self._out.print()
        self._out.print(rows)
        self._out.print(Text("\nTry, in another terminal:\n" + "".join(f"  {line}\n" for line in tour)))
        for note in notes:
            self._say(note, style="yellow")
        self._out.print("Ctrl-C stops all nodes.")
        # Whoever reads a pipe waits for this.
        self._out.file.flush()

    async def _stop(self) -> None:
        """SIGTERM to all that run, and SIGKILL to those that do not heed it or at a second signal."""
        for node in self._running():
            assert node.process is not None
            node.process.terminate()
            # One that is stopped would take the other signal only afterwards.
            node.process.send_signal(signal.SIGCONT)
        asked = self._stops
        await self._until(lambda: not self._running() or self._stops > max(asked, 1), STOP_TIMEOUT_S)
        for node in self._running():
            assert node.process is not None
            self._say(f"{PROGRAM}: node {node.name} is killed", style="yellow")
            node.process.kill()

    async def _until(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Whether it came true in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _on_signal(self) -> None:
        self._stops += 1
        self._changed.set()

    def _running(self) -> list[DemoNode]:
        return [node for node in self.nodes if node.process is not None and node.code is None]

    def _fallen(self) -> DemoNode | None:
        return next((node for node in self.nodes if node.code is not None), None)

    def _say(self, text: str, style: str = "") -> None:
        self._err.print(Text(text, style=style), soft_wrap=True)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


@click.command()
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_MAX),
    default=3,
    metavar="N",
    help="How many.  [default: 3]",
)
@click.option(
    "--data",
    default="./sadik-data",
    metavar="DIR",
    help="Where each node has a directory of its own.  [default: ./sadik-data]",
)
@click.option(
    "--base-port",
    type=click.IntRange(1, 65_535),
    default=7379,
    metavar="PORT",
    help="Node i has RESP on PORT+10i, HTTP and peers on the next two.  [default: 7379]",
)
@click.option(
    "--sync",
    type=click.Choice(SETTINGS["sync"].choices),
    default=SETTINGS["sync"].default,
    metavar="MODE",
    help="always, interval or never, as sadik-node has it.  [default: interval]",
)
@click.argument("node_options", nargs=-1, type=click.UNPROCESSED)
def demo(nodes: int, data: str, base_port: int, sync: str, node_options: tuple[str, ...]) -> int:
    """Run a local cluster until Ctrl-C.

    A new cluster's nodes are joined and committed by themselves. NODE_OPTIONS after -- go to every node.
    """
    if base_port + STRIDE * (nodes - 1) + 2 > 65_535:
        raise click.UsageError(f"{nodes} nodes do not fit above port {base_port}")
    from sadik.node.birth import FILE_NAME

    if os.path.exists(os.path.join(data, FILE_NAME)):
        raise click.UsageError(f"--data {data} is the directory of a single node")
    return asyncio.run(Demo(nodes, data, base_port, sync, node_options).run())
