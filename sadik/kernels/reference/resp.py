"""Plain twin of the ``resp`` kernel: keeps the command under way and parses it again from its start."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sadik.errors import ProtocolError
from sadik.kernels.buffers import Buffer

NEED_INPUT = 0
COMMAND = 1
BATCH_FULL = 2
ASIDE = 3

GET = 0
SET = 1

OK = 0
NOTHING = 1

LINE_BYTES_MAX = 65536
KEY_BYTES_MAX = 65535
TTL_MS_MAX = 2**48
STRANGER_ELEMENTS_MAX = 10
STRANGER_BULK_BYTES_MAX = 16384

INTEGER = re.compile(rb"0|-?[1-9][0-9]*")
# A word of a line is bare bytes and perhaps one quoted part, which a space or the line's end must follow.
BARE = re.compile(rb"""[^ \t\r\n"']*""")
QUOTED = re.compile(rb"""(?:"((?:\\.|[^"\\])*+)"|'((?:\\'|[^'])*+)')(?=[ \t\r\n\v\f]|\Z)""", re.DOTALL)
ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
CONTROL = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


class Operation(NamedTuple):
    kind: int
    key: bytes
    value: bytes = b""
    ttl_ms: int = -1


class Batch:
    def __init__(self, capacity: int, arena_bytes: int) -> None:
        if not 1 <= capacity < 2**31:
            raise ValueError(f"capacity must be 1 to {2**31 - 1}, not {capacity}")
        if arena_bytes < 1:
            raise ValueError(f"arena_bytes must be at least 1, not {arena_bytes}")
        self.capacity = capacity
        self.arena_bytes = arena_bytes
        self.count = self.used = self.sets = self.longest = 0
        self.data = bytearray(arena_bytes)
        self.kinds = bytearray(capacity)
        self.name_starts = bytearray(8 * capacity)
        self.name_lengths = bytearray(8 * capacity)
        self.payload_starts = bytearray(8 * capacity)
        self.payload_lengths = bytearray(8 * capacity)
        self.ttl_ms = bytearray(8 * capacity)

    def append(self, kind: int, name: Buffer, payload: Buffer = b"", ttl_ms: int = -1) -> bool:
        if kind not in (GET, SET):
            raise ValueError(f"kind must be GET or SET, not {kind}")
        if ttl_ms != -1 and (ttl_ms < 1 or kind != SET):
            raise ValueError(f"ttl_ms must be -1, or positive for a SET, not {ttl_ms}")
        name, payload = bytes(memoryview(name)), bytes(memoryview(payload))
        if kind == GET and payload:
            raise ValueError("a GET has no payload")
        start = self.used
        middle = start + len(name)
        stop = middle + len(payload)
        if self.count == self.capacity or stop > self.arena_bytes:
            return False
        self.data[start:stop] = name + payload
        self.kinds[self.count] = kind
        for array_, number in (
            (self.name_starts, start),
            (self.name_lengths, len(name)),
            (self.payload_starts, middle if kind == SET else 0),
            (self.payload_lengths, len(payload)),
            (self.ttl_ms, ttl_ms),
        ):
            struct.pack_into("<q", array_, 8 * self.count, number)
        self.count += 1
        self.used = stop
        self.sets += kind
        self.longest = max(self.longest, len(payload))
        return True

    def clear(self) -> None:
        self.count = self.used = self.sets = self.longest = 0

    def keep(self) -> Kept:
        kept = Kept()
        for i in range(self.count):
            name, payload = (
                bytes(self.data[start : start + length])
                for start, length in (
                    (item(self.name_starts, i), item(self.name_lengths, i)),
                    (item(self.payload_starts, i), item(self.payload_lengths, i)),
                )
            )
            kept.names.append(name)
            kept.operations.append(Operation(self.kinds[i], b"", payload, item(self.ttl_ms, i)))
        return kept


def item(array_: bytearray, index: int) -> int:
    number: int
    (number,) = struct.unpack_from("<q", array_, 8 * index)
    return number


class Kept:
    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.operations: list[Operation] = []

    def __len__(self) -> int:
        values = (len(operation.value) for operation in self.operations)
        return 41 * len(self.operations) + sum(map(len, self.names)) + sum(values)

    def command(self, index: int) -> list[bytes]:
        if not 0 <= index < len(self.operations):
            raise IndexError(f"there is no operation {index} of {len(self.operations)}")
        name, operation = self.names[index], self.operations[index]
        before = 1 + name[0] + 2 if name else 0
        if not 0 < before <= len(name):
            raise ValueError(f"operation {index} has no address for its name")
        if operation.kind == GET:
            return [b"GET", name[before:]]
        words = [b"SET", name[before:], operation.value]
        return words if operation.ttl_ms < 0 else [*words, b"PX", b"%d" % operation.ttl_ms]


class Parser:
    authenticated: bool

    def __init__(self, bulk_bytes_max: int, request_bytes_max: int, arguments_max: int = 1048576) -> None:
        if bulk_bytes_max < 1 or request_bytes_max < 1 or not 1 <= arguments_max < 2**31:
            raise ValueError("a limit of the parser is out of range")
        self.bulk_bytes_max = bulk_bytes_max
        self.request_bytes_max = request_bytes_max
        self.arguments_max = arguments_max
        self.arguments: list[bytes] = []
        self.authenticated = True
        self._input = bytearray()
        self._failure: str | None = None

    def feed(self, data: Buffer) -> None:
        if self._failure is None:
            self._input += memoryview(data).cast("B")

    def buffered(self) -> int:
        return len(self._input)

    def pull(self, batch: Batch | None, prefix: bytes, room: int) -> int:
        if batch is not None:
            if not 2 <= len(prefix) <= 256 or prefix[0] != len(prefix) - 1:
                raise ValueError("prefix is not a bucket after its length")
            if room < 0:
                raise ValueError(f"room must not be negative: {room}")
        if self._failure is not None:
            raise ProtocolError(self._failure)
        self.arguments = []
        try:
            return self._pull(batch, prefix, room)
        except ProtocolError as error:
            self._failure = str(error)
            self._input = bytearray()
            raise

    def _pull(self, batch: Batch | None, prefix: bytes, room: int) -> int:
        while (command := self._command()) is not None:
            words, stop = command
            operation = plain(words) if batch is not None else None
            if batch is not None and operation is not None:
                name = prefix + len(operation.key).to_bytes(2, "big") + operation.key
                if len(name) + len(operation.value) <= batch.arena_bytes:
                    if room == 0 or not batch.append(operation.kind, name, operation.value, operation.ttl_ms):
                        return BATCH_FULL
                    room -= 1
                    del self._input[:stop]
                    continue
            del self._input[:stop]
            if words and words[0].lower() in (b"post", b"host:"):
                raise ProtocolError("")
            if words:
                self.arguments = words
                return COMMAND
        return NEED_INPUT

    def _command(self) -> tuple[list[bytes], int] | None:
        """The first command, perhaps without words, and where it ends; None when it has not all come."""
        if not self._input:
            return None
        return self._multibulk() if self._input[:1] == b"*" else self._inline()

    def _inline(self) -> tuple[list[bytes], int] | None:
        stop = self._line_end(0, b"\n", "too big inline request")
        if stop is None:
            return None
        if stop + 1 > self.request_bytes_max:
            raise ProtocolError("Protocol error: too big request")
        line = bytes(self._input[:stop])
        words = split_line(line[:-1] if line.endswith(b"\r") else line)
        if words is None:
            raise ProtocolError("Protocol error: unbalanced quotes in request")
        return words, stop + 1

    def _multibulk(self) -> tuple[list[bytes], int] | None:
        words: list[bytes] = []
        stop = self._number_end(0, "mbulk")
        if stop is None:
            return None
        count = integer(bytes(self._input[1:stop]))
        if count is None or count > self.arguments_max:
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > STRANGER_ELEMENTS_MAX and not self.authenticated:
            raise ProtocolError("Protocol error: unauthenticated multibulk length")
        start = stop + 2
        while len(words) < count:
            stop = self._number_end(start, "bulk")
            if stop is None:
                return None
            if self._input[start] != ord("$"):
                shown = chr(self._input[start]).replace("\r", " ").replace("\n", " ")
                raise ProtocolError(f"Protocol error: expected '$', got '{shown}'")
            length = integer(bytes(self._input[start + 1 : stop]))
            if length is None or not 0 <= length <= self.bulk_bytes_max:
                raise ProtocolError("Protocol error: invalid bulk length")
            if length > STRANGER_BULK_BYTES_MAX and not self.authenticated:
                raise ProtocolError("Protocol error: unauthenticated bulk length")
            start = stop + 2
            stop = start + length
            if stop + 2 > self.request_bytes_max:
                raise ProtocolError("Protocol error: too big request")
            if len(self._input) < stop + 2:
                return None
            words.append(bytes(self._input[start:stop]))
            start = stop + 2
        return words, start

    def _number_end(self, start: int, name: str) -> int | None:
        stop = self._line_end(start, b"\r", f"too big {name} count string")
        # The byte after the CR has to be there, and is not looked at.
        return None if stop is None or len(self._input) < stop + 2 else stop

    def _line_end(self, start: int, mark: bytes, too_big: str) -> int | None:
        stop = self._input.find(mark, start, start + LINE_BYTES_MAX + 1)
        if stop < 0 and len(self._input) - start > LINE_BYTES_MAX:
            raise ProtocolError(f"Protocol error: {too_big}")
        return None if stop < 0 else stop


def integer(text: bytes) -> int | None:
    """A canonical int64, or None."""
    # Python refuses to convert thousands of digits, and 20 characters hold every int64.
    if len(text) > 20 or not INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def plain(words: list[bytes]) -> Operation | None:
    """The operation that a command is, or None when it is not plain."""
    if len(words) < 2 or not 1 <= len(words[1]) <= KEY_BYTES_MAX:
        return None
    match [words[0].lower(), *words[1:]]:
        case [b"get", key]:
            return Operation(GET, key)
        case [b"set", key, value]:
            return Operation(SET, key, value)
        case [b"set", key, value, unit, amount]:
            number = integer(amount)
            milliseconds = {b"ex": 1000, b"px": 1}.get(unit.lower())
            if number is None or number < 1 or milliseconds is None or number * milliseconds > TTL_MS_MAX:
                return None
            return Operation(SET, key, value, number * milliseconds)
        case _:
            return None


def split_line(line: bytes) -> list[bytes] | None:
    """Words of an inline command as a shell would split them; None when quotes are unbalanced."""
    words = []
    # bytes.lstrip takes the same six characters for space as C does.
    while line := line.lstrip():
        bare = BARE.match(line)
        assert bare is not None
        word, line = bare[0], line[bare.end() :]
        if line[:1] in (b'"', b"'"):
            quoted = QUOTED.match(line)
            if quoted is None:
                return None
            if quoted[1] is not None:
                word += ESCAPE.sub(unescape, quoted[1])
            else:
                word += quoted[2].replace(b"\\'", b"'")
            line = line[quoted.end() :]
        words.append(word)
    return words


def unescape(escape: re.Match[bytes]) -> bytes:
    if escape[1] is not None:
        return bytes.fromhex(escape[1].decode())
    return CONTROL.get(escape[2], escape[2])


def items_of(source: Buffer, format_: str, count: int) -> list[int]:
    """The first ``count`` numbers of a raw array."""
    data = memoryview(source).cast("B")
    if len(data) < count * struct.calcsize(format_):
        raise ValueError(f"an array has {len(data)} bytes, too few for {count} items")
    return list(struct.unpack_from(f"<{count}{format_}", data))


class Line:
    def __init__(self, first: Callable[[], object], complete: Callable[[], object]) -> None:
        self._first = first
        self._complete = complete
        self._lanes: list[Lane] = []
        self._expected: list[Lane] = []

    @property
    def missing(self) -> int:
        return len(self._expected)

    def __len__(self) -> int:
        return len(self._lanes)

    def expect(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            if lane not in self._lanes and lane not in self._expected:
                self._expected.append(lane)

    def forget(self) -> None:
        self._expected = []

    def take(self) -> list[Lane]:
        taken, self._lanes, self._expected = self._lanes, [], []
        return taken

    def enter(self, lane: Lane) -> None:
        if lane in self._lanes:
            return
        self._lanes.append(lane)
        expected = lane in self._expected
        if expected:
            self._expected.remove(lane)
        if len(self._lanes) == 1:
            self._first()
        elif expected and not self._expected:
            self._complete()


class Lane(Parser):
    prefix: bytes

    def __init__(self, bulk_bytes_max: int, request_bytes_max: int, arguments_max: int = 1048576) -> None:
        super().__init__(bulk_bytes_max, request_bytes_max, arguments_max)
        self.owner: Any = None
        self.plain = self.waiting = self.stirred = self.deaf = self.dropped = False
        self.prefix = b""
        self.resp3 = False
        self.transport: Any = None
        self.descriptor = -1
        self.queued = False
        self.received = 0
        self._counted = 0
        self._line: Line | None = None

    def attach(self, owner: Any, line: Line) -> None:
        self.owner = owner
        self._line = line

    def receive(self, data: Buffer) -> None:
        if self.deaf:
            self.dropped = True
            return
        self.feed(data)
        self.received += len(memoryview(data))
        self.enlist()

    def enlist(self) -> None:
        if self._line is not None:
            self._line.enter(self)

    def wait(self) -> None:
        self.waiting = True
        self.stirred = not self.plain
        self.plain = False

    def push(self, data: bytes) -> int:
        if self.descriptor < 0 or self.transport.is_closing():
            return 0
        self.queued = self.queued and self.transport.get_write_buffer_size() > 0
        if self.queued:
            return 0
        try:
            return write_now(self.descriptor, data)
        except OSError:
            return 0


def write_now(descriptor: int, data: bytes) -> int:
    """Write what goes without waiting; Python keeps SIGPIPE ignored."""
    blocking = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    try:
        return os.write(descriptor, data)
    finally:
        os.set_blocking(descriptor, blocking)


class Runs:
    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.stops: list[int] = []
        self.bounds: list[int] = []

    def add(self, lane: Lane, stop: int) -> None:
        if not self.lanes or self.lanes[-1].prefix != lane.prefix:
            self.bounds.append(len(self.lanes))
        self.lanes.append(lane)
        self.stops.append(stop)

    def wait(self) -> None:
        for lane in self.lanes:
            lane.wait()

    def answer(
        self,
        numbers: Sequence[int],
        kinds: Buffer,
        status: Buffer,
        values: Buffer,
        value_starts: Buffer,
        value_lengths: Buffer,
    ) -> tuple[int, int, list[tuple[Any, bytes]], list[Any]]:
        if not all(0 <= number < len(self.lanes) for number in numbers):
            raise ValueError("there is no such run")
        arrays = (kinds, status, values, value_starts, value_lengths)
        last = self.stops[-1] if self.stops else 0
        if not 0 <= last < 2**31:
            raise ValueError(f"a run of operations cannot end at {last}")
        for array_, format_, count in zip(arrays, "BBBqq", (last, last, 0, last, last), strict=True):
            items_of(array_, format_, count)
        spans = [(self.stops[number - 1] if number else 0, self.stops[number]) for number in numbers]
        if any(stop > last for _, stop in spans):
            raise ValueError("the last run is not the last")
        replies = [
            encode_run(*span, *arrays, self.lanes[number].resp3)
            for number, span in zip(numbers, spans, strict=True)
        ]
        sent = 0
        rest, stirred = [], []
        for number, data in zip(numbers, replies, strict=True):
            lane = self.lanes[number]
            taken = lane.push(data)
            sent += taken
            if taken < len(data):
                rest.append((lane.owner, data[taken:]))
            if lane.waiting and lane.stirred:
                stirred.append(lane.owner)
            elif lane.waiting:
                lane.waiting, lane.plain = False, True
        return sum(stop - first for first, stop in spans), sent, rest, stirred


def take_plain(
    lanes: list[Lane], batch: Batch, room: int, runs: Runs
) -> tuple[list[tuple[Any, int | ProtocolError]], int]:
    others: list[tuple[Any, int | ProtocolError]] = []
    received = 0
    for lane in lanes:
        received += lane.received - lane._counted
        lane._counted = lane.received
        result: int | ProtocolError = ASIDE
        if lane.plain:
            before = batch.count
            try:
                result = lane.pull(batch, lane.prefix, room)
            except ProtocolError as error:
                result = error
            if batch.count > before:
                runs.add(lane, batch.count)
        if result != NEED_INPUT:
            others.append((lane.owner, result))
    return others, received


def encode_run(
    first: int,
    stop: int,
    kinds: Buffer,
    status: Buffer,
    values: Buffer,
    value_starts: Buffer,
    value_lengths: Buffer,
    resp3: bool,
) -> bytes:
    if not 0 <= first <= stop < 2**31:
        raise ValueError(f"{first} to {stop} is not a run of operations")
    kind_of, status_of = items_of(kinds, "B", stop), items_of(status, "B", stop)
    starts, lengths = items_of(value_starts, "q", stop), items_of(value_lengths, "q", stop)
    data = memoryview(values).cast("B")
    replies = []
    for i in range(first, stop):
        operation = (kind_of[i], status_of[i])
        if operation == (SET, OK):
            replies.append(b"+OK\r\n")
        elif operation == (GET, NOTHING):
            replies.append(b"_\r\n" if resp3 else b"$-1\r\n")
        elif operation == (GET, OK):
            if starts[i] < 0 or lengths[i] < 0 or starts[i] + lengths[i] > len(data):
                raise ValueError("a value lies outside of values")
            replies.append(bulk(data[starts[i] : starts[i] + lengths[i]]))
        else:
            raise ValueError(f"kind and status {operation} have no reply here")
    return b"".join(replies)


def chain(count: int, kinds: Buffer, digests: Buffer, previous: Buffer) -> None:
    if not 0 <= count < 2**31:
        raise ValueError(f"count must be 0 to {2**31 - 1}, not {count}")
    kind_of = items_of(kinds, "B", count)
    digest_bytes = bytes(memoryview(digests).cast("B"))
    out = memoryview(previous).cast("B")
    if len(digest_bytes) < 16 * count or len(out) < 4 * count:
        raise ValueError(f"digests or previous are too short for {count} operations")
    if any(kind not in (GET, SET) for kind in kind_of):
        raise ValueError("a kind is neither GET nor SET")
    latest: dict[bytes, int] = {}
    for i in range(count):
        digest = digest_bytes[16 * i : 16 * i + 16]
        struct.pack_into("<i", out, 4 * i, latest.get(digest, -1))
        if kind_of[i] == SET:
            latest[digest] = i


def bulk(value: Buffer) -> bytes:
    data = bytes(memoryview(value))
    return b"$%d\r\n%b\r\n" % (len(data), data)


def array(items: Sequence[Buffer]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)
