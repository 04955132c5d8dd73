"""MSETs of one turn: one batch of plain SETs, with an answer for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, cast

import pytest

from sadik.api.resp.coordinator import Coordinator
from sadik.api.resp.pairs import Pairs, PairWrites
from sadik.errors import SadikError, StorageFull, Unavailable
from sadik.kernels import digest, resp, versions
from sadik.node.coordinator.outcomes import FAILED, Answers
from sadik.node.operations import Span
from tests.api.alone import running_told
from tests.api.resp_node import OK, array, bulk, command, configuration


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


class _Bucket:
    def __init__(self, name: bytes) -> None:
        self.name = name


class Told:
    """A coordinator that gives each key the status it is told; ``done`` is called by ``answer``."""

    def __init__(self) -> None:
        self.status: dict[bytes, int | SadikError] = {}
        self.taken: int | None = None
        self.unrecorded: set[bytes] = set()
        self.batches: list[list[tuple[bytes, bytes]]] = []
        self.spans: list[list[tuple[bytes, int, int]]] = []

    def bucket_for_write(self, name: bytes) -> _Bucket:
        if name in self.unrecorded:
            raise StorageFull("the disk is full")
        return _Bucket(name)

    def submit(self, batch: resp.Batch, stops: Sequence[int], spans: Sequence[Span], *, done: Any) -> int:
        starts, lengths = (memoryview(a).cast("q") for a in (batch.name_starts, batch.name_lengths))
        payloads, sizes = (memoryview(a).cast("q") for a in (batch.payload_starts, batch.payload_lengths))
        names = [bytes(batch.data[s : s + n]) for s, n in zip(starts, lengths, strict=True)]
        values = [bytes(batch.data[s : s + n]) for s, n in zip(payloads, sizes, strict=True)]
        assert bytes(batch.kinds) == bytes((resp.SET,)) * batch.count
        assert set(memoryview(batch.ttl_ms).cast("q")) == {-1}
        self.batches.append(list(zip(names, values, strict=True)))
        self.spans.append([(span.bucket.name, span.first, span.stop) for span in spans])
        taken = batch.count if self.taken is None else self.taken
        told = [self.status.get(name[3 + name[0] :], versions.OK) for name in names[:taken]]
        errors = {at: one for at, one in enumerate(told) if isinstance(one, SadikError)}
        status = bytearray(FAILED if isinstance(one, SadikError) else one for one in told)
        runs = [number for number in range(len(stops)) if not number or stops[number - 1] < taken]
        nothing = bytearray(8 * taken)
        refused = any(one > versions.NOTHING for one in status)
        done(Answers(batch.kinds, status, b"", nothing, nothing, errors, refused), runs)
        return taken


def answers(
    told: Told, *writes: tuple[bytes, ...], operations_max: int = 8, bytes_max: int = 1000
) -> list[Any]:
    """The reply of each write, all of them in bucket "0", in order."""
    return answers_of(told, [Pairs(b"0", [b"MSET", *words]) for words in writes], operations_max, bytes_max)


def answers_of(told: Told, writes: Sequence[Pairs], operations_max: int, bytes_max: int) -> list[Any]:
    found: dict[int, bytes | None] = {}

    def done(number: int, reply: bytes | None) -> None:
        assert number not in found, "each is answered once"
        found[number] = reply

    pairs = PairWrites(cast(Coordinator, told), operations_max=operations_max, bytes_max=bytes_max)
    pairs.run(writes, 100, done)
    return [found[number] for number in range(len(writes))]


def test_writes_of_one_turn_are_one_batch() -> None:
    told = Told()
    assert answers(told, (b"a", b"1", b"b", b""), (b"c", b"3")) == [OK, OK]
    names = [digest.address_name(b"0", key) for key in (b"a", b"b", b"c")]
    assert told.batches == [list(zip(names, (b"1", b"", b"3"), strict=True))]
    assert told.spans == [[(b"0", 0, 3)]]


def test_buckets_are_spans() -> None:
    told = Told()
    writes = [Pairs(name, [b"MSET", b"k", b"v", b"l", b"w"]) for name in (b"x", b"yy", b"yy", b"x")]
    assert answers_of(told, writes, 8, 1000) == [OK] * 4
    assert told.spans == [[(b"x", 0, 2), (b"yy", 2, 6), (b"x", 6, 8)]]


@pytest.mark.parametrize(
    ("operations_max", "bytes_max", "last", "sizes"),
    [
        (4, 24, OK, [4]),
        (3, 24, OK, [2, 2]),
        (4, 23, OK, [2, 2]),
        (2, 12, OK, [2, 2]),
        (1, 24, None, [1, 1]),
        (4, 11, None, [1, 1]),
    ],
)
def test_batches_are_bounded(
    operations_max: int, bytes_max: int, last: bytes | None, sizes: list[int]
) -> None:
    """By keys and by bytes: a key and a value of one byte each take six. What fits into none is a command."""
    told = Told()
    writes = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3", b"d", b"4")]
    found = answers(told, *writes, operations_max=operations_max, bytes_max=bytes_max)
    assert found == [OK, OK, last]
    assert [len(batch) for batch in told.batches] == sizes


def test_error_is_that_of_its_own_write() -> None:
    """What was not done at all says so; where other keys were done, or may have been, that is said."""
    told = Told()
    refused = Unavailable("no link; nothing was done")
    unknown = Unavailable("the link broke", maybe_applied=True)
    told.status = {b"r": refused, b"s": refused, b"u": unknown}
    assert answers(told, (b"r", b"1"), (b"a", b"1"), (b"r", b"1", b"s", b"2")) == [
        b"-UNAVAILABLE no link; nothing was done\r\n",
        OK,
        b"-UNAVAILABLE no link; nothing was done\r\n",
    ]
    assert answers(told, (b"r", b"1", b"a", b"2"), (b"r", b"1", b"u", b"2", b"a", b"3")) == [
        b"-UNAVAILABLE no link; nothing was done; other keys of it may have been applied\r\n",
        b"-UNAVAILABLE the link broke; it may have been applied\r\n",
    ]


def test_what_a_batch_cannot_do_is_a_command() -> None:
    """Sets that cannot be read, values that are too long, buckets that cannot be recorded, what was cut."""
    told = Told()
    told.status = {b"torn": versions.UNREADABLE}
    told.unrecorded = {b"new"}
    assert answers(told, (b"a", b"1", b"torn", b"2"), (b"b", b"3"), (b"c", b"x" * 101)) == [None, OK, None]
    assert answers_of(told, [Pairs(b"new", [b"MSET", b"a", b"1"])], 8, 1000) == [None]
    told.taken = 1
    assert answers(told, (b"a", b"1"), (b"b", b"2")) == [OK, None]
    assert answers(told, (b"a", b"1", b"b", b"2"), (b"c", b"3")) == [None, None]


def test_clients_meet_in_one_batch_and_each_has_its_answer() -> None:
    async def story() -> None:
        async with running_told(configuration(limits={"value_bytes_max": 1000})) as world:
            coordinator = world.coordinator
            coordinator.has_others = coordinator.holds = True
            clients = [world.connect() for _ in range(3)]
            for number, client in enumerate(clients):
                client.send(command(b"MSET", b"k%d" % number, b"1", b"l%d" % number, b"2"))
            await world.settle()
            assert coordinator.submitted == [6]
            assert [client.replies() for client in clients] == [[], [], []]
            coordinator.holds = False
            coordinator.release_all()
            await world.settle()
            assert [client.replies() for client in clients] == [[OK], [OK], [OK]]
            assert await clients[0].call(b"MGET", b"k0", b"l1", b"l2") == array(
                [bulk(b"1"), bulk(b"2"), bulk(b"2")]
            )
            # None of it is done.
            reply = await clients[0].call(b"MSET", b"n", b"1", b"k0", b"x" * 1001)
            assert reply.startswith(b"-LIMIT a value of 1001 bytes")
            assert await clients[1].call(b"EXISTS", b"n") == b":0\r\n"

    run(story())
