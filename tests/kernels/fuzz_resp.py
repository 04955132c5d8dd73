"""Hostile input for the RESP parser: valid conversations, damaged as breaks parsers, and cut into pieces.

Everything comes from one seeded generator, so a failing input is named by its seed. Lengths, limits and
pieces are small enough that limits are really reached. For ``test_resp_hostile.py``: a thousand inputs in
every test run, a million as a torture test.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from sadik.errors import ProtocolError

PREFIX = b"\x010"
ROOMS = (0, 1, 2, 3, 1000)
TIMES = (
    *(b"1", b"60", b"0", b"-1", b"01", b"281474976710", b"281474976711"),
    *(b"%d" % 2**48, b"%d" % (2**48 + 1), b"9" * 25),
)
ODD_LINES = (b"*0\r\n", b"*-1\r\n", b"\r\n", b"\n", b"  \t\r\n", b"*1\r\n$4\r\nPoSt\r\n", b"HOST: a\r\n")
ODD_BYTES = (b"\r", b"\n", b"\0", b"*", b"$", b"-", b"0", b'"', b"\xff")
LENGTHS = (
    *(b"", b"-", b"-0", b"-1", b"-2", b"00", b"+1", b" 1", b"3 ", b"4", b"10", b"11", b"16385", b"1048577"),
    *(b"999999999", b"2147483648", b"9223372036854775807", b"9223372036854775808", b"1" * 21),
)


class Limits(NamedTuple):
    """How a parser and its batch are made, and who sends."""

    bulk_bytes_max: int = 1 << 20
    request_bytes_max: int = 1 << 21
    arguments_max: int = 1000
    capacity: int = 64
    arena_bytes: int = 4096
    authenticated: bool = True
    batched: bool = True


class Input(NamedTuple):
    limits: Limits
    pieces: list[bytes]


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def run(twin: Any, limits: Limits, pieces: list[bytes], rooms: Callable[[], int] = lambda: 1000) -> list[Any]:
    """All that a parser makes of the pieces, in order: operations, commands, and the error or the bytes left.

    The batch is run (its operations are taken over) after every pull; ``rooms`` says how many that may add.
    """
    parser = twin.Parser(limits.bulk_bytes_max, limits.request_bytes_max, limits.arguments_max)
    parser.authenticated = limits.authenticated
    batch = twin.Batch(limits.capacity, limits.arena_bytes) if limits.batched else None
    events: list[Any] = []
    fed = 0
    for piece in pieces:
        parser.feed(piece)
        fed += len(piece)
        full = 0
        while True:
            before = batch.count if batch is not None else 0
            try:
                result = parser.pull(batch, PREFIX, rooms() if full < 2 else 1000)
            except ProtocolError as error:
                if batch is not None:
                    events += operations(twin, batch)
                assert parser.buffered() == 0
                return [*events, str(error)]
            if batch is not None:
                # A call that takes nothing twice in a row, with room, would never end.
                full = full + 1 if result == twin.BATCH_FULL and batch.count == before else 0
                assert full < 4, "no progress"
                events += operations(twin, batch)
                batch.clear()
            if result == twin.COMMAND:
                events.append(parser.arguments)
            elif result == twin.NEED_INPUT:
                break
        assert 0 <= parser.buffered() <= fed
    return [*events, parser.buffered()]


def operations(twin: Any, batch: Any) -> list[tuple[int, bytes, bytes, int]]:
    """The operations in a batch, each checked to lie where its arrays say, one after another in the arena."""
    found = []
    end = 0
    for i in range(batch.count):
        name, name_bytes, payload, payload_bytes, ttl_ms = (
            memoryview(array).cast("q")[i]
            for array in (
                batch.name_starts,
                batch.name_lengths,
                batch.payload_starts,
                batch.payload_lengths,
                batch.ttl_ms,
            )
        )
        assert name == end
        end = name + name_bytes + payload_bytes
        if batch.kinds[i] == twin.SET:
            assert payload == name + name_bytes
        else:
            assert (payload, payload_bytes, ttl_ms) == (0, 0, -1)
        value = bytes(batch.data[payload : payload + payload_bytes])
        found.append((batch.kinds[i], bytes(batch.data[name : name + name_bytes]), value, ttl_ms))
    assert batch.used == end <= batch.arena_bytes
    return found


def inputs(seed: int, count: int) -> list[Input]:
    """``count`` inputs of one seed."""
    rng = random.Random(seed)
    return [one_input(rng) for _ in range(count)]


def one_input(rng: random.Random) -> Input:
    limits = Limits(
        bulk_bytes_max=rng.choice((10, 1000, 1 << 20, 1 << 20, 1 << 20)),
        request_bytes_max=rng.choice((60, 2000, 1 << 21, 1 << 21, 1 << 21)),
        arguments_max=rng.choice((3, 1000, 1000, 1000)),
        capacity=rng.choice((1, 3, 64)),
        arena_bytes=rng.choice((1, 40, 4096)),
        authenticated=rng.random() < 0.8,
        batched=rng.random() < 0.8,
    )
    data = b"".join(one_command(rng) for _ in range(rng.randrange(1, 8)))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        data = damage(rng, data)
    return Input(limits, cut(rng, data))


def one_command(rng: random.Random) -> bytes:
    key, value = word(rng), word(rng)
    seconds = rng.choice(TIMES) if rng.random() < 0.9 else word(rng)
    unit = mixed_case(rng, rng.choice((b"ex", b"px", b"nx")))
    words = rng.choice(
        (
            (mixed_case(rng, b"get"), key),
            (mixed_case(rng, b"set"), key, value),
            (mixed_case(rng, b"set"), key, value, unit, seconds),
            (b"set", key, value, b"NX"),
            (b"mset", *(word(rng) for _ in range(rng.randrange(12)))),
            (word(rng),),
        )
    )
    kind = rng.random()
    if kind < 0.75:
        return command(*words)
    if kind < 0.9:
        return inline(rng, words)
    return rng.choice(ODD_LINES)


def inline(rng: random.Random, words: tuple[bytes, ...]) -> bytes:
    quoted = []
    for item in words:
        style = rng.randrange(4)
        if style == 0:
            quoted.append(item)
        elif style == 1:
            quoted.append(b'"' + b"".join(b"\\x%02x" % byte for byte in item) + b'"')
        elif style == 2:
            quoted.append(b"'" + item.replace(b"'", b"\\'") + b"'")
        else:
            quoted.append(b'a"' + item.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'\\n\\q"')
    return rng.choice((b" ", b"\t", b"  ", b" \x0b ")).join(quoted) + rng.choice((b"\n", b"\r\n"))


def word(rng: random.Random) -> bytes:
    size = rng.choice((0, 1, 3, 3, 5, 9, 10, 11, 30, 100, rng.randrange(3000)))
    if rng.random() < 0.001:
        size = rng.choice((16383, 16384, 16385, 65535, 65536, 70000))
    return rng.randbytes(size) if rng.random() < 0.5 else bytes(rng.choices(b"ab\r\n*$0 '\"\\x", k=size))


def mixed_case(rng: random.Random, name: bytes) -> bytes:
    return bytes(byte ^ 32 if rng.random() < 0.3 else byte for byte in name)


def damage(rng: random.Random, data: bytes) -> bytes:
    """One flip, deletion, insertion, repetition, truncation, or changed length."""
    if not data:
        return b"*"
    at = rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[at + rng.randrange(1, 4) :]
    if kind == 2:
        return data[:at] + rng.choice(ODD_BYTES) + data[at:]
    if kind == 3:
        stop = at + rng.randrange(40)
        return data[:stop] + data[at:]
    if kind == 4:
        return data[:at]
    mark = rng.choice((b"$", b"*"))
    at = data.find(mark, at)
    end = data.find(b"\r", at)
    if at < 0 or end < 0:
        return data + mark
    number = rng.choice(LENGTHS)
    if rng.random() < 0.02:
        number = b"1" * rng.choice((65535, 65536, 65537))
    return data[: at + 1] + number + data[end:]


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    style = rng.randrange(3)
    if style == 0:
        return [data]
    if style == 1 and len(data) < 2000:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 9)))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
