"""The command handlers over a dict of version sets, without socket, loop or clock; and a real Redis.

``Harness`` does for each command what the server does around a handler (admission, records, undoing what
failed), one command at a time.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sadik.api.resp import admission
from sadik.api.resp.admin import default_settings
from sadik.api.resp.call import Call, CommandError, Session
from sadik.api.resp.replies import error
from sadik.errors import InvalidContext, InvalidRequest, SadikError
from sadik.kernels.reference import digest, versions
from sadik.node.buckets import BucketProperties
from sadik.node.coordinator.options import Options
from sadik.node.coordinator.outcomes import Explanation, KeyPage, ReplicaView
from sadik.node.records import Record

REDIS_SERVER = shutil.which("redis-server")
ACTOR = 0xA5A5
PASSWORD = b"open sesame"


class Mint:
    """Stamps that rise from the wall clock it is shown."""

    actor = ACTOR
    horizon = 0

    def __init__(self) -> None:
        self.last = 0

    def stamp_above(self, stamp: int) -> int:
        self.last = max(self.last, stamp) + 1
        return self.last


class MemoryStore:
    """``call.Store`` on a dict."""

    def __init__(self) -> None:
        self.sets: dict[tuple[bytes, bytes], bytes] = {}
        self.floors: dict[bytes, int] = {}
        self.bucket_properties: dict[bytes, BucketProperties] = {}
        self.unreadable: set[bytes] = set()
        self.mint = Mint()
        self.now_ms = 1_800_000_000_000

    def record(self, bucket: bytes, key: bytes) -> Record:
        name = digest.address_name(bucket, key)
        return Record(
            bucket=bucket,
            key=key,
            name=name,
            digest=digest.digest(name),
            stored=self.sets.get((bucket, key), b""),
            base=self.sets.get((bucket, key), b""),
            readable=key not in self.unreadable,
            floor=self.floors.get(bucket, 0),
            now_ms=self.now_ms,
            mint=self.mint,
        )

    def _keys(self, bucket: bytes) -> list[tuple[int, bytes]]:
        """Existing keys with their places, which are the top 63 bits of their digests plus one."""
        found = []
        for own_bucket, key in self.sets:
            if own_bucket == bucket and self.record(bucket, key).exists:
                place = int.from_bytes(digest.address_digest(bucket, key)[:8], "big") >> 1
                found.append((min(place + 1, 2**63 - 1), key))
        return sorted(found)

    async def count(self, bucket: bytes) -> int:
        return len(self._keys(bucket))

    async def scan(self, bucket: bytes, cursor: int, count: int) -> KeyPage:
        rest = [(place, key) for place, key in self._keys(bucket) if place > cursor]
        page = rest[:count]
        return KeyPage([key for _, key in page], page[-1][0] if len(rest) > count else 0)

    async def random_key(self, bucket: bytes) -> bytes | None:
        keys = self._keys(bucket)
        return keys[0][1] if keys else None

    async def flush(self, buckets: Sequence[bytes]) -> None:
        for bucket in buckets:
            self.floors[bucket] = self.mint.stamp_above(0)

    def buckets(self) -> list[bytes]:
        return sorted({bucket for bucket, _ in self.sets})

    def properties(self, bucket: bytes) -> BucketProperties:
        if not 1 <= len(bucket) <= 255:
            raise InvalidRequest(f"a bucket name is 1 to 255 bytes, not {len(bucket)}")
        return self.bucket_properties.get(bucket, BucketProperties())

    async def explain(self, bucket: bytes, key: bytes) -> Explanation:
        record = self.record(bucket, key)
        view = ReplicaView(
            node="here",
            role="primary",
            up=True,
            state="stored" if record.stored else "absent",
            entries=list(record.context()),
            siblings=len(record.siblings()),
            bytes=len(record.stored),
        )
        return Explanation(bucket, key, record.digest.hex(), 2**64 - 1, 7, 1, 1, 1, [view])

    def client_layout(self) -> dict[str, object]:
        return {"version": 1, "partitions": 4}

    def check_options(self, bucket: bytes, options: Options) -> None:
        for name in ("r", "w", "pr", "pw"):
            if (getattr(options, name) or 0) > 1:
                raise InvalidRequest(f"{name} is more than the 1 replica there is")

    def encode_context(self, record: Record) -> bytes:
        entries = record.context()
        if not entries:
            return b""
        return base64.b64encode(record.digest + versions.encode(entries, []))

    def decode_context(self, context: bytes, record: Record) -> Sequence[tuple[int, int]]:
        try:
            raw = base64.b64decode(context, validate=True)
            if raw[:16] != record.digest:
                raise InvalidContext("the context is of another key")
            return versions.decode(raw[16:])[0]
        except (ValueError, SadikError) as failure:
            raise InvalidContext("the context is damaged or of another key") from failure


class Harness:
    """``call.Server`` on a memory store, with as many sessions as are opened."""

    def __init__(self, *, password: bytes = b"", value_bytes_max: int = 16 << 20) -> None:
        self.store = MemoryStore()
        self.settings = default_settings() | {
            "value_bytes_max": str(value_bytes_max),
            "appendonly": "yes",
            "port": "7379",
        }
        self.password = password
        self.opened: list[Session] = []
        self.killed: list[int] = []
        self.resets = 0
        self.open()

    # What commands ask of the server.

    def sessions(self) -> list[Session]:
        return [session for session in self.opened if session.id not in self.killed]

    def kill(self, session_id: int) -> None:
        self.killed.append(session_id)

    @property
    def password_required(self) -> bool:
        return bool(self.password)

    def authenticate(self, user: bytes, password: bytes) -> bool:
        return user == b"default" and password == self.password

    def information(self) -> dict[str, dict[str, str | int]]:
        return {
            "Server": {"redis_version": "7.2.4", "tcp_port": 7379},
            "Keyspace": {},
            "Sadik": {"sadik_version": "0.1.0"},
        }

    def reset_statistics(self) -> None:
        self.resets += 1

    async def execute(self, session: Session, commands: Sequence[list[bytes]]) -> list[bytes]:
        return [self.run(session, arguments) for arguments in commands]

    # What tests ask of it.

    def open(self) -> Session:
        """A new connection."""
        session = Session(
            id=len(self.opened) + 1,
            address=f"127.0.0.1:{40001 + len(self.opened)}",
            local_address="127.0.0.1:7379",
            created_ms=self.store.now_ms,
            authenticated=not self.password,
        )
        self.opened.append(session)
        return session

    def run(self, session: Session, arguments: list[bytes]) -> bytes:
        """One command as the server runs it: a failed one leaves its records as they were."""
        admitted = admission.admit(session, arguments)
        if isinstance(admitted, bytes):
            return admitted
        records = {key: self.store.record(session.bucket, key) for key in admitted.keys}
        bucket = session.bucket
        call = Call(
            arguments=arguments,
            session=session,
            server=self,
            now_ms=self.store.now_ms,
            records=[records[key] for key in admitted.keys],
            options=admitted.options,
        )
        command = admitted.command
        try:
            self.store.check_options(bucket, admitted.options)
            if command.awaited is not None:
                reply = finished(command.awaited(call))
            else:
                assert command.handler is not None
                reply = command.handler(call)
        except CommandError as failure:
            return error(str(failure))
        except SadikError as failure:
            return error(f"{failure.code} {failure}")
        for key, record in records.items():
            if record.changed:
                self.store.sets[bucket, key] = record.stored
        return reply

    def __call__(self, *words: bytes | str | int) -> bytes:
        """Run a command on the first connection."""
        return self.run(self.opened[0], encode_words(words))


def finished(work: Awaitable[bytes]) -> bytes:
    """What a coroutine returns that has nothing to wait for."""
    try:
        work.__await__().send(None)
    except StopIteration as end:
        reply: bytes = end.value
        return reply
    raise AssertionError("the store of these tests never waits")


def encode_words(words: Sequence[bytes | str | int]) -> list[bytes]:
    """Arguments as bytes; text is latin-1, so that any byte can be written."""
    return [word if isinstance(word, bytes) else str(word).encode("latin-1") for word in words]


class Redis:
    """A connection to a real Redis that gives replies as the bytes they are."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._input = self._socket.makefile("rb")

    def pipeline(self, commands: Sequence[Sequence[bytes]]) -> list[bytes]:
        """Send all commands at once; one reply each."""
        self._socket.sendall(b"".join(_encode(command) for command in commands))
        return [self.reply() for _ in commands]

    def __call__(self, *words: bytes | str | int) -> bytes:
        return self.pipeline([encode_words(words)])[0]

    def reply(self) -> bytes:
        """The bytes of the next reply."""
        line = self._input.readline()
        kind, text = line[:1], line[1:-2]
        if kind in b"$=" and text != b"-1":
            return line + self._input.read(int(text) + 2)
        if kind in b"*~%" and text != b"-1":
            items = int(text) * (2 if kind == b"%" else 1)
            return line + b"".join(self.reply() for _ in range(items))
        assert kind in b"+-:_$*", line
        return line

    def close(self) -> None:
        self._input.close()
        self._socket.close()


def _encode(command: Sequence[bytes]) -> bytes:
    head = b"*%d\r\n" % len(command)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in command)


@contextmanager
def running_redis(directory: str) -> Iterator[int]:
    """The port of a Redis that keeps nothing, started for the tests and ended with them."""
    assert REDIS_SERVER is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [REDIS_SERVER, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"], stdout=nowhere, stderr=nowhere
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < deadline, "redis-server does not answer"
        yield port
    finally:
        process.terminate()
        process.wait(20)


def integer(reply: bytes) -> int | None:
    """The number of an integer reply, None for another one."""
    return int(reply[1:-2]) if reply[:1] == b":" else None


def decode(reply: bytes) -> Any:
    """A reply as Python values: maps as dicts, sets as lists, errors as ``CommandError``."""
    value, rest = _decode(reply)
    assert rest == b"", "bytes after the reply"
    return value


def _decode(data: bytes) -> tuple[Any, bytes]:
    line, rest = data.split(b"\r\n", 1)
    kind, text = line[:1], line[1:]
    if kind in b"+-":
        return text if kind == b"+" else CommandError(text.decode("latin-1")), rest
    if kind == b":":
        return int(text), rest
    if kind == b"_" or text == b"-1":
        return None, rest
    if kind in b"$=":
        length = int(text)
        assert rest[length : length + 2] == b"\r\n"
        value = rest[:length]
        if kind == b"=":
            assert value[:4] == b"txt:"
            value = value[4:]
        return value, rest[length + 2 :]
    assert kind in b"*~%", data
    items = []
    for _ in range(int(text) * (2 if kind == b"%" else 1)):
        item, rest = _decode(rest)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == b"%" else items), rest
