"""Real node processes for tests: start, wait for the ready line, talk, kill, start again."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field

READY_TIMEOUT_S = 30


@dataclass
class NodeProcess:
    """One ``sadik-node``; ``start`` returns once it serves."""

    directory: str
    options: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    resp_port: int = 0
    http_port: int = 0
    ready_line: str = ""

    def start(self) -> NodeProcess:
        command = [sys.executable, "-m", "sadik.cli.node", "--data", self.directory]
        for listener in ("--resp", "--http", "--peer"):
            command += [listener, "127.0.0.1:0"]
        command += self.options
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        text = b""
        while b" ready: " not in text or not text.endswith(b"\n"):
            readable, _, _ = select.select([self.process.stderr], [], [], READY_TIMEOUT_S)
            piece = os.read(self.process.stderr.fileno(), 65536) if readable else b""
            if not piece:
                self.process.kill()
                raise AssertionError(f"the node did not become ready: {text.decode(errors='replace')}")
            text += piece
        self.ready_line = next(line for line in text.decode().splitlines() if " ready: " in line)
        words = dict(word.split("=", 1) for word in self.ready_line.split() if "=" in word)
        self.resp_port = int(words["resp"].rpartition(":")[2])
        self.http_port = int(words["http"].rpartition(":")[2])
        return self

    def kill(self) -> None:
        """kill -9: nothing of the program runs any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._drain()

    def stop(self) -> tuple[int, str]:
        """SIGTERM and wait; the exit code and what it still wrote to standard error."""
        assert self.process is not None
        self.process.terminate()
        _, text = self.process.communicate(timeout=30)
        return self.process.returncode, text.decode()

    def connect(self) -> socket.socket:
        """A connection to the Redis port."""
        client = socket.create_connection(("127.0.0.1", self.resp_port), timeout=10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def command(self, *arguments: bytes) -> bytes:
        """One command on a connection of its own; the raw reply up to the end of its first line or bulk
        string.
        """
        with self.connect() as client:
            client.sendall(encode(*arguments))
            return read_reply(client.makefile("rb"))

    def _drain(self) -> None:
        assert self.process is not None
        if self.process.stderr is not None:
            self.process.stderr.close()


def encode(*arguments: bytes) -> bytes:
    """A command as RESP."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def read_reply(stream: object) -> bytes:
    """One simple, error, integer or bulk reply, raw, without its last line end; b"" at the end of the
    stream.
    """
    line: bytes = stream.readline()  # type: ignore[attr-defined]
    if line[:1] == b"$" and line[:2] != b"$-":
        length = int(line[1:])
        body: bytes = stream.read(length + 2)  # type: ignore[attr-defined]
        return body[:-2]
    return line.removesuffix(b"\r\n")
