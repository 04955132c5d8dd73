"""The reply parser: every type, cut anywhere, and bytes that are no replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.api.resp import replies as server
from sadik.client.replies import DEPTH_MAX, LINE_BYTES_MAX, ErrorReply, Parser, encode
from sadik.errors import ProtocolError
from tests.api.resp_harness import decode

ROOM = 1 << 20

CASES = [
    (b"+OK\r\n", b"OK"),
    (b"-UNAVAILABLE no quorum\r\n", ErrorReply("UNAVAILABLE no quorum")),
    (b"!8\r\nERR a\r\nb\r\n", ErrorReply("ERR a\r\nb")),
    (b":-42\r\n", -42),
    (b"(123456789012345678901234567890\r\n", 123456789012345678901234567890),
    (b",1.5\r\n", 1.5),
    (b",inf\r\n", float("inf")),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b"_\r\n", None),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$5\r\n\r\n\xff\x00+\r\n", b"\r\n\xff\x00+"),
    (b"=8\r\ntxt:text\r\n", b"text"),
    (b"*0\r\n", []),
    (b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n_\r\n", [b"a", [1, None]]),
    (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
    (b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n+c\r\n", {b"a": 1, b"b": [b"c"]}),
    (b"%0\r\n", {}),
]


@pytest.mark.parametrize(("data", "value"), CASES)
def test_each_type_is_what_it_is_in_python(data, value):
    """Whole, and byte by byte."""
    assert Parser(ROOM).feed(data) == [value]
    parser = Parser(ROOM)
    assert [reply for byte in data for reply in parser.feed(bytes((byte,)))] == [value]


@given(st.lists(st.sampled_from(CASES), max_size=8), st.lists(st.integers(0, 200), max_size=8))
def test_replies_do_not_depend_on_how_they_are_cut(cases, cuts):
    """The network cuts where it likes."""
    data = b"".join(case[0] for case in cases)
    parser, found, last = Parser(ROOM), [], 0
    for cut in [*sorted(cut for cut in cuts if cut <= len(data)), len(data)]:
        found += parser.feed(data[last:cut])
        last = cut
    assert found == [case[1] for case in cases]


def test_pushes_and_attributes_are_dropped():
    """Nobody asked for them; they are no answer to a request, nor an item of one."""
    push, attribute = b">2\r\n+invalidate\r\n*1\r\n+key\r\n", b"|1\r\n+ttl\r\n:3\r\n"
    data = push + attribute + b"*2\r\n" + attribute + b":1\r\n:2\r\n>0\r\n|0\r\n+OK\r\n"
    assert Parser(ROOM).feed(data) == [[1, 2], b"OK"]


def test_what_our_servers_encode_is_read():
    """The two ends of the protocol agree, in both versions."""
    made = [
        server.array([server.bulk(b"context"), server.array([server.bulk(b"value"), server.integer(-1)])]),
        server.mapping([(server.text("a"), server.integer(1))], 3),
        server.unordered([server.text("a")], 3),
        server.verbatim("text", 3),
        server.null(2),
        server.null(3),
        server.error("BUSY try\r\nlater"),
    ]
    found = Parser(ROOM).feed(b"".join(made))
    assert found[-1] == ErrorReply("BUSY try  later")
    assert found[:-1] == [decode(one) for one in made[:-1]]


def test_error_has_a_code_and_a_message():
    """The code decides; the message is for people."""
    error = ErrorReply("BUSY try again later")
    assert (error.code, error.message) == ("BUSY", "try again later")
    assert (ErrorReply("BUSY").code, ErrorReply("BUSY").message) == ("BUSY", "")


@pytest.mark.parametrize(
    "data",
    [
        *(b"\r\n", b"hello\r\n", b":\r\n", b":1x\r\n", b":1_0\r\n", b": 1\r\n", b"_x\r\n", b"#x\r\n"),
        *(b"$x\r\n", b"$-2\r\n", b"*-3\r\n", b"$1\r\nab\r\n", b"*?\r\n", b",one\r\n", b"%1\r\n*0\r\n:1\r\n"),
        b":" + b"9" * 401 + b"\r\n",
    ],
)
def test_what_is_no_reply_is_an_error(data):
    """A connection that has lost its place must end, not guess."""
    with pytest.raises(ProtocolError):
        Parser(ROOM).feed(data)


def test_nesting_is_bounded():
    """A reply cannot use up the stack or the memory by its heads alone."""
    assert Parser(ROOM).feed(b"*1\r\n" * DEPTH_MAX + b":1\r\n")
    with pytest.raises(ProtocolError, match="deep"):
        Parser(ROOM).feed(b"*1\r\n" * (DEPTH_MAX + 1))


def test_line_is_bounded():
    """Text without an end is not collected for ever."""
    parser = Parser(ROOM)
    assert parser.feed(b"+" + b"x" * (LINE_BYTES_MAX - 1)) == []
    assert parser.feed(b"\r\n") == [b"x" * (LINE_BYTES_MAX - 1)]
    with pytest.raises(ProtocolError, match="line"):
        Parser(ROOM).feed(b"+" + b"x" * (LINE_BYTES_MAX + 1))


def test_reply_is_bounded_before_it_arrives():
    """A length alone takes no memory; many small items count with what they cost."""
    with pytest.raises(ProtocolError, match="more than 1000"):
        Parser(1000).feed(b"$1001\r\n")
    with pytest.raises(ProtocolError, match="more than 1000"):
        Parser(1000).feed(b"*1000000000\r\n" + b":1\r\n" * 100)
    parser = Parser(1000)
    for _ in range(100):
        assert parser.feed(b"$500\r\n" + b"x" * 500 + b"\r\n") == [b"x" * 500]


def test_big_string_in_small_pieces_is_not_searched_again():
    """Each byte is looked at once: otherwise 4 MiB in pieces of 1 KiB would take minutes."""
    parser, piece = Parser(8 << 20), b"\r" * 1024
    parser.feed(b"$%d\r\n" % (4 << 20))
    for _ in range(4096):
        assert parser.feed(piece) == []
    assert parser.feed(b"\r\n") == [piece * 4096]


def test_command_is_an_array_of_bulk_strings():
    """As nodes read it."""
    assert encode([b"GET", b"", b"\r\n"]) == b"*3\r\n$3\r\nGET\r\n$0\r\n\r\n$2\r\n\r\n\r\n"
