"""The RESP parser and its plain twin: the same cases on both."""

from __future__ import annotations

import array
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.errors import ProtocolError
from sadik.kernels.native import resp as native
from sadik.kernels.reference import resp as reference
from tests.kernels.fuzz_resp import PREFIX, ROOMS, Limits, command, operations, run

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])

MIB = 1 << 20
ROOMY = Limits(bulk_bytes_max=512 * MIB, request_bytes_max=1024 * MIB, arguments_max=MIB)

# Every kind of thing that can be sent, twice over in places so that state left behind would show.
CONVERSATION = (
    command(b"SET", b"key", b"value")
    + command(b"get", b"key")
    + b"*0\r\n*-1\r\n\r\n"
    + command(b"PING")
    + b'SET line "a\\x00\\r\\n b" eX 9\r\n'
    + command(b"MSET", *(b"%d" % i for i in range(30)))
    + b"*3\rX$3\rXSETXX$1\rXkXX$0\rXXX"
    + command(b"SET", b"key", b"\r\n$5\r\n*3\r\n", b"PX", b"1500")
    + command(b"", b"")
    + b"  ping\t'it\\'s'\n"
    + command(b"SET", b"k" * 300, bytes(range(256)))
    + command(b"SET", b"k", b"v", b"XX")
    + command(b"GET", b"key")
)
SAID = [
    (1, PREFIX + b"\0\3key", b"value", -1),
    (0, PREFIX + b"\0\3key", b"", -1),
    [b"PING"],
    (1, PREFIX + b"\0\4line", b"a\0\r\n b", 9000),
    [b"MSET", *(b"%d" % i for i in range(30))],
    (1, PREFIX + b"\0\1k", b"", -1),
    (1, PREFIX + b"\0\3key", b"\r\n$5\r\n*3\r\n", 1500),
    [b"", b""],
    [b"ping", b"it's"],
    (1, PREFIX + b"\1\x2c" + b"k" * 300, bytes(range(256)), -1),
    [b"SET", b"k", b"v", b"XX"],
    (0, PREFIX + b"\0\3key", b"", -1),
    0,
]


@TWINS
def test_conversation_is_understood_in_one_piece(twin: Any) -> None:
    assert run(twin, ROOMY, [CONVERSATION]) == SAID


@TWINS
def test_any_single_cut_changes_nothing(twin: Any) -> None:
    """TCP cuts anywhere, also inside a CRLF, a number, or the bytes skipped after a bulk string."""
    for at in range(len(CONVERSATION) + 1):
        assert run(twin, ROOMY, [CONVERSATION[:at], CONVERSATION[at:]]) == SAID, at


@TWINS
def test_byte_by_byte_changes_nothing(twin: Any) -> None:
    assert run(twin, ROOMY, [bytes([byte]) for byte in CONVERSATION]) == SAID


@TWINS
def test_other_buffers_are_copied(twin: Any) -> None:
    """The owner may reuse its receive buffer as soon as ``feed`` returns."""
    parser, batch = twin.Parser(100, 1000), twin.Batch(4, 100)
    buffer = bytearray(command(b"PING", b"abc"))
    for data in (buffer, memoryview(buffer), array.array("b", buffer)):
        parser.feed(data)
        memoryview(data).cast("B")[:] = bytes(len(buffer))
        assert parser.pull(batch, PREFIX, 1) == twin.COMMAND
        assert parser.arguments == [b"PING", b"abc"]
        buffer[:] = command(b"PING", b"abc")


@given(
    st.lists(st.integers(0, len(CONVERSATION)), max_size=6),
    st.lists(st.sampled_from(ROOMS), min_size=1, max_size=5),
)
def test_cuts_and_room_change_nothing(cuts: list[int], rooms: list[int]) -> None:
    """However input and batches are cut, operations and commands come out in the order sent."""
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    pieces = [CONVERSATION[start:stop] for start, stop in pairwise(edges)]
    small = ROOMY._replace(capacity=2, arena_bytes=600)
    for twin in (native, reference):
        turns = iter(rooms * 1000)
        assert run(twin, small, pieces, lambda turns=turns: next(turns)) == SAID


@TWINS
@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"* 1\r\n", "invalid multibulk length"),
        (b"*1\n$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*-9223372036854775809\r\n", "invalid multibulk length"),
        (b"*18446744073709551617\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*" + b"1" * 65535 + b"\r\n", "invalid multibulk length"),
        (b"*" + b"1" * 65536, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 65536, "too big bulk count string"),
        (b"*1\r\nx\r\n", "expected '$', got 'x'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n\xe9\r\n", "expected '$', got '\xe9'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$01\r\n", "invalid bulk length"),
        (b"*1\r\n$4 \r\n", "invalid bulk length"),
        (b"*2\r\n$4\r\nECHO\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775808\r\n", "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0x1\r\nv\r\n", "invalid bulk length"),
        (b"A" * 65537, "too big inline request"),
        (b'ECHO "a"b\r\n', "unbalanced quotes in request"),
        (b"ECHO 'a\r\n", "unbalanced quotes in request"),
        (b'ECHO "a\\"\r\n', "unbalanced quotes in request"),
        (b"ECHO \"a'\r\n", "unbalanced quotes in request"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_malformed_input_is_refused_in_redis_words(twin: Any, sent: bytes, text: str) -> None:
    """What came before the error stays valid, what follows it is dropped, and cuts change nothing."""
    before = command(b"SET", b"k", b"v") + command(b"PING")
    expected = [(1, PREFIX + b"\0\1k", b"v", -1), [b"PING"], f"Protocol error: {text}"]
    assert run(twin, ROOMY, [before + sent + command(b"PING")]) == expected
    if len(sent) < 1000:
        assert run(twin, ROOMY, [bytes([byte]) for byte in before + sent]) == expected


@TWINS
def test_after_an_error_nothing_is_parsed(twin: Any) -> None:
    parser, batch = twin.Parser(100, 1000), twin.Batch(4, 100)
    parser.feed(b"*x\r\n")
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r"^Protocol error: invalid multibulk length$"):
            parser.pull(batch, PREFIX, 1)
        parser.feed(command(b"PING"))
        assert parser.buffered() == 0
    assert batch.count == 0


@TWINS
@pytest.mark.parametrize(
    "sent",
    [b"POST / HTTP/1.1\r\n", b"hOsT: x\r\n", command(b"post"), command(b"HOST:", b"x"), b"\r\nPost\n"],
)
def test_a_browser_is_cut_off_without_a_word(twin: Any, sent: bytes) -> None:
    """A page can make a browser post to this port: what follows such a line in the body must never run."""
    assert run(twin, ROOMY, [sent + command(b"SET", b"k", b"v")]) == [""]


@TWINS
@pytest.mark.parametrize(
    "sent", [b"POSTS\r\n", b"Host\r\n", command(b"GET", b"POST"), command(b"ECHO", b"Host:")]
)
def test_only_those_two_words_cut_off(twin: Any, sent: bytes) -> None:
    assert run(twin, ROOMY._replace(batched=False), [sent])[-1] == 0


@TWINS
def test_stranger_is_held_to_smaller_limits(twin: Any) -> None:
    """Before AUTH a connection must not be able to make the node hold much."""
    stranger = ROOMY._replace(authenticated=False, batched=False)
    ten, eleven = command(*[b"x"] * 10), command(*[b"x"] * 11)
    assert run(twin, stranger, [ten]) == [[b"x"] * 10, 0]
    assert run(twin, stranger, [eleven]) == ["Protocol error: unauthenticated multibulk length"]
    assert run(twin, stranger, [b"*1048577\r\n"]) == ["Protocol error: invalid multibulk length"]
    fits, too_long = command(b"AUTH", b"p" * 16384), command(b"AUTH", b"p" * 16385)
    assert run(twin, stranger, [fits]) == [[b"AUTH", b"p" * 16384], 0]
    assert run(twin, stranger, [too_long]) == ["Protocol error: unauthenticated bulk length"]
    assert run(twin, stranger, [too_long[:30]]) == ["Protocol error: unauthenticated bulk length"]
    assert run(twin, ROOMY, [eleven + too_long])[-1] == 0


@TWINS
def test_authentication_counts_from_the_next_command(twin: Any) -> None:
    """AUTH and what needs it may come in one piece: the command after it is held to the new limits."""
    parser = twin.Parser(MIB, MIB)
    parser.authenticated = False
    assert parser.authenticated is False
    parser.feed(command(b"AUTH", b"p") + command(*[b"x"] * 11))
    assert parser.pull(None, b"", 0) == twin.COMMAND
    parser.authenticated = True
    assert parser.pull(None, b"", 0) == twin.COMMAND
    assert parser.arguments == [b"x"] * 11


@TWINS
def test_limits_are_inclusive(twin: Any) -> None:
    at_limit = command(b"ECHO", b"x" * 100)
    limits = ROOMY._replace(bulk_bytes_max=100, request_bytes_max=len(at_limit), arguments_max=2)
    assert run(twin, limits, [at_limit]) == [[b"ECHO", b"x" * 100], 0]
    assert run(twin, limits, [command(b"x" * 101)]) == ["Protocol error: invalid bulk length"]
    assert run(twin, limits, [command(b"a", b"b", b"c")]) == ["Protocol error: invalid multibulk length"]
    assert run(twin, limits, [command(b"ECHO1", b"x" * 100)]) == ["Protocol error: too big request"]
    assert run(twin, limits, [b"*2\r\n$5\r\nECHO1\r\n$100\r\n"]) == ["Protocol error: too big request"]
    assert run(twin, limits, [b"*1\r\n$004", b"\r\n"]) == ["Protocol error: invalid bulk length"]
    line = b"x" * (len(at_limit) - 1)
    assert run(twin, limits, [line + b"\n"]) == [[line], 0]
    assert run(twin, limits, [line + b"x\n"]) == ["Protocol error: too big request"]


@TWINS
def test_line_may_have_65536_bytes_before_its_end(twin: Any) -> None:
    line = b"ECHO " + b"x" * 65531
    assert run(twin, ROOMY, [line + b"\n"]) == [[b"ECHO", b"x" * 65531], 0]
    assert run(twin, ROOMY, [line, b"\n"]) == [[b"ECHO", b"x" * 65531], 0]
    assert run(twin, ROOMY, [line]) == [65536]
    assert run(twin, ROOMY, [line + b"\r\n"]) == ["Protocol error: too big inline request"]


@TWINS
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"a b", [b"a", b"b"]),
        (b" \t\x0b\x0c a\x0bb ", [b"a\x0bb"]),
        (b"a\rb", [b"a", b"b"]),
        (b"a ''", [b"a", b""]),
        (b'a ""', [b"a", b""]),
        (b'a"b c"', [b"ab c"]),
        (b"a'b c' d", [b"ab c", b"d"]),
        (b'"a"\x0bb', [b"a", b"b"]),
        (b'"\\n\\r\\t\\b\\a\\"\\\\\\q"', [b'\n\r\t\b\a"\\q']),
        (b'"\\x41\\xfF\\x4\\xg1"', [b"A\xffx4xg1"]),
        (b"'\\n\\'\\x41'", [b"\\n'\\x41"]),
        (b"\\x41 \\", [b"\\x41", b"\\"]),
        (b"a\0b \xff", [b"a\0b", b"\xff"]),
        (b"$3", [b"$3"]),
    ],
    ids=repr,
)
def test_lines_are_split_like_a_shell(twin: Any, line: bytes, words: list[bytes]) -> None:
    for end in (b"\n", b"\r\n"):
        assert run(twin, ROOMY, [line + end]) == [words, 0]


@given(st.binary(max_size=40).filter(lambda line: b"\n" not in line))
def test_twins_split_any_line_alike(line: bytes) -> None:
    for text in (b'"' + line, b"'" + line + b"'", line):
        assert run(native, ROOMY, [text + b"\n"]) == run(reference, ROOMY, [text + b"\n"])


@TWINS
@pytest.mark.parametrize(
    "words",
    [
        (b"GET",),
        (b"GET", b"k", b"x"),
        (b"GET", b""),
        (b"GET", b"k" * 65536),
        (b"SET", b"k"),
        (b"SET", b"", b"v"),
        (b"SET", b"k" * 65536, b"v"),
        (b"SET", b"k", b"v", b"NX"),
        (b"SET", b"k", b"v", b"EX", b"0"),
        (b"SET", b"k", b"v", b"EX", b"-1"),
        (b"SET", b"k", b"v", b"EX", b"+1"),
        (b"SET", b"k", b"v", b"EX", b"01"),
        (b"SET", b"k", b"v", b"EX", b""),
        (b"SET", b"k", b"v", b"EX", b"281474976711"),
        (b"SET", b"k", b"v", b"PX", b"281474976710657"),
        (b"SET", b"k", b"v", b"EX", b"9223372036854775807"),
        (b"SET", b"k", b"v", b"EXAT", b"1"),
        (b"SET", b"k", b"v", b"EX", b"1", b"NX"),
        (b"SETT", b"k", b"v"),
        (b"MGET", b"k"),
        (b"G\xc5T", b"k"),
    ],
    ids=lambda words: repr(words)[:40],
)
def test_other_commands_come_out_as_arguments(twin: Any, words: tuple[bytes, ...]) -> None:
    """Python gives them their meaning or the right error; the batch must not guess."""
    assert run(twin, ROOMY._replace(arena_bytes=MIB), [command(*words)]) == [list(words), 0]


@TWINS
def test_plain_operations_reach_their_limits(twin: Any) -> None:
    longest = b"k" * 65535
    said = run(
        twin,
        ROOMY._replace(arena_bytes=MIB),
        [
            command(b"gEt", longest)
            + command(b"SeT", b"k", b"", b"eX", b"281474976710")
            + command(b"set", b"k", b"v", b"Px", b"281474976710656")
        ],
    )
    assert said == [
        (0, PREFIX + b"\xff\xff" + longest, b"", -1),
        (1, PREFIX + b"\0\1k", b"", 281474976710000),
        (1, PREFIX + b"\0\1k", b"v", 2**48),
        0,
    ]


@TWINS
def test_without_a_batch_everything_is_a_command(twin: Any) -> None:
    """In MULTI a GET is queued, before AUTH it is refused: both are Python's."""
    sent = command(b"GET", b"k") + command(b"SET", b"k", b"v")
    assert run(twin, ROOMY._replace(batched=False), [sent]) == [[b"GET", b"k"], [b"SET", b"k", b"v"], 0]


@TWINS
def test_full_batch_keeps_the_operation_for_the_next_pull(twin: Any) -> None:
    """Full by count, by bytes or by room: nothing is taken, nothing is lost."""
    sent = command(b"SET", b"k", b"v" * 10)
    size = len(PREFIX) + 3 + 10
    for capacity, arena_bytes, room in ((1, 100, 9), (9, 2 * size - 1, 9), (9, 100, 1)):
        for pieces in ([sent + sent], [sent + sent[:20], sent[20:]]):
            parser, batch = twin.Parser(MIB, MIB), twin.Batch(capacity, arena_bytes)
            for piece in pieces:
                parser.feed(piece)
                result = parser.pull(batch, PREFIX, room - batch.count)
            assert result == twin.BATCH_FULL
            assert (batch.count, batch.used) == (1, size)
            assert parser.pull(batch, PREFIX, room - 1) == twin.BATCH_FULL
            assert parser.buffered() == len(sent)
            batch.clear()
            assert (batch.count, batch.used) == (0, 0)
            assert parser.pull(batch, PREFIX, 0) == twin.BATCH_FULL
            assert parser.pull(batch, PREFIX, room) == twin.NEED_INPUT
            assert operations(twin, batch) == [(1, PREFIX + b"\0\1k", b"v" * 10, -1)]


@TWINS
def test_used_up_room_does_not_hide_what_needs_none(twin: Any) -> None:
    """A run that ends with the room ends with the input, without another round."""
    parser, batch = twin.Parser(MIB, MIB), twin.Batch(4, 100)
    parser.feed(command(b"GET", b"k"))
    assert parser.pull(batch, PREFIX, 1) == twin.NEED_INPUT
    parser.feed(command(b"PING"))
    assert parser.pull(batch, PREFIX, 0) == twin.COMMAND


@TWINS
def test_value_that_fits_no_batch_is_a_command(twin: Any) -> None:
    name_bytes = len(PREFIX) + 3
    limits = ROOMY._replace(arena_bytes=name_bytes + 10)
    for pieces in (1, 2):
        for size, plain in ((10, True), (11, False)):
            sent = command(b"GET", b"k") + command(b"SET", b"k", b"v" * size)
            said = run(twin, limits, [sent] if pieces == 1 else [sent[:-5], sent[-5:]])
            expected = (1, PREFIX + b"\0\1k", b"v" * size, -1) if plain else [b"SET", b"k", b"v" * size]
            assert said == [(0, PREFIX + b"\0\1k", b"", -1), expected, 0]


@TWINS
def test_prefix_is_checked(twin: Any) -> None:
    parser, batch = twin.Parser(MIB, MIB), twin.Batch(1, 1000)
    parser.feed(command(b"GET", b"k"))
    for prefix in (b"", b"\0", b"\1", b"\1ab", b"\2a", bytes([255]) + b"b" * 256):
        with pytest.raises(ValueError, match="prefix"):
            parser.pull(batch, prefix, 1)
    with pytest.raises(ValueError, match="room"):
        parser.pull(batch, PREFIX, -1)
    longest = bytes([255]) + b"b" * 255
    assert parser.pull(batch, longest, 1) == twin.NEED_INPUT
    assert bytes(batch.data[: batch.used]) == longest + b"\0\1k"


@TWINS
def test_arguments_belong_to_their_command(twin: Any) -> None:
    """The server may keep a list (MULTI queues it): no later pull touches it, nor keeps it alive."""
    parser = twin.Parser(MIB, MIB)
    parser.feed(command(b"PING", b"1") + command(b"PING", b"2") + command(b"PING", *[b"3"] * 9))
    lists = []
    while parser.pull(None, b"", 0) == twin.COMMAND:
        lists.append(parser.arguments)
    assert lists == [[b"PING", b"1"], [b"PING", b"2"], [b"PING", *[b"3"] * 9]]
    assert parser.arguments == []


@TWINS
def test_buffered_counts_what_is_not_pulled(twin: Any) -> None:
    parser = twin.Parser(MIB, MIB)
    sent = command(b"ECHO", b"x" * 50000) + command(b"PING")
    fed = 0
    for i in range(0, len(sent), 7000):
        parser.feed(sent[i : i + 7000])
        fed += len(sent[i : i + 7000])
        assert parser.buffered() == fed
        if fed < 50000:
            assert parser.pull(None, b"", 0) == twin.NEED_INPUT
            assert parser.buffered() == fed
    assert parser.pull(None, b"", 0) == twin.COMMAND
    assert parser.buffered() == len(command(b"PING"))
    assert parser.pull(None, b"", 0) == twin.COMMAND
    assert parser.buffered() == 0


@TWINS
def test_input_fed_while_pulling_keeps_its_order(twin: Any) -> None:
    """Unread input moves within the parser when more comes: nothing may be lost or doubled."""
    rng = random.Random(5)
    parser = twin.Parser(MIB, MIB)
    sent = pulled = 0
    for _ in range(3000):
        for _ in range(rng.randrange(4)):
            parser.feed(command(b"PING", b"%d" % sent, b"x" * rng.randrange(60)))
            sent += 1
        for _ in range(rng.randrange(5)):
            if parser.pull(None, b"", 0) == twin.NEED_INPUT:
                assert pulled == sent
                break
            assert parser.arguments[1] == b"%d" % pulled
            pulled += 1


@TWINS
@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 40000])
@pytest.mark.parametrize("tail", [0, 1, 2])
def test_long_values_are_collected_whole(twin: Any, size: int, tail: int) -> None:
    """Cut right around the end of a value, where the two bytes after it may be missing."""
    value = random.Random(size).randbytes(size)
    sent = command(b"ECHO", value, b"after")
    end = sent.index(value) + size
    for cuts in ([end + tail], [end - size // 2, end + tail], [end - size, end - 1, end + tail]):
        edges = [0, *cuts, len(sent)]
        pieces = [sent[start:stop] for start, stop in pairwise(edges)]
        assert run(twin, ROOMY, pieces) == [[b"ECHO", value, b"after"], 0]


@TWINS
@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (1, 0), (2**31, 1)])
def test_batch_refuses_sizes_out_of_range(twin: Any, arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"capacity|arena_bytes"):
        twin.Batch(*arguments)


@TWINS
@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 1, 0), (1, 1, 2**31), (-1, 1)])
def test_parser_refuses_limits_out_of_range(twin: Any, arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        twin.Parser(*arguments)


@TWINS
def test_batch_takes_operations_from_elsewhere(twin: Any) -> None:
    batch = twin.Batch(2, 20)
    assert batch.append(twin.SET, b"\1b\0\1k", bytearray(b"value"), 7) is True
    assert batch.append(twin.GET, b"x" * 11) is False
    assert batch.append(twin.SET, b"x" * 8, b"v" * 3) is False
    assert batch.append(twin.GET, b"\1b\0\1l") is True
    assert batch.append(twin.GET, b"") is False
    assert operations(twin, batch) == [(1, b"\1b\0\1k", b"value", 7), (0, b"\1b\0\1l", b"", -1)]
    batch.clear()
    for arguments in (
        (2, b"n"),
        (-1, b"n"),
        (0, b"n", b"v"),
        (0, b"n", b"", 1),
        (1, b"n", b"v", 0),
        (1, b"n", b"v", -2),
    ):
        with pytest.raises(ValueError, match=r"kind|payload|ttl_ms"):
            batch.append(*arguments)
    assert batch.count == 0


def test_batch_arrays_cannot_be_moved() -> None:
    """The kernel writes through pointers it took once: a resize would leave them dangling."""
    batch = native.Batch(4, 100)
    for array_ in (batch.data, batch.kinds, batch.name_starts, batch.name_lengths):
        with pytest.raises(BufferError):
            array_.append(0)
    with pytest.raises(AttributeError):
        setattr(batch, "count", 1)  # noqa: B010
