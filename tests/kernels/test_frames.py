"""The frames kernel against its twin: bytes, streams cut anywhere, and what is refused."""

from __future__ import annotations

import array
import itertools
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import ProtocolError
from sadik.kernels.native import frames as native
from sadik.kernels.reference import frames as reference

MAX = 4096


@pytest.fixture(params=[native, reference], ids=["native", "reference"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


# Bytes as they are on the wire between nodes: these may never change within protocol version 1.
VECTORS = [
    (5, 1, [b""], "00000000" + "01" + "05" + "0000" + "0100000000000000" + "daf653fb"),
    (
        16,
        0x0102030405060708,
        [b"a", b"", b"bc"],
        "03000000" + "01" + "10" + "0000" + "0807060504030201" + "ba22baa8" + "616263",
    ),
    (
        255,
        2**64 - 1,
        [b"\0" * 4],
        "04000000" + "01" + "ff" + "0000" + "ffffffffffffffff" + "de1af625" + "00000000",
    ),
]


@pytest.mark.parametrize(("kind", "request_id", "parts", "data"), VECTORS, ids=range(len(VECTORS)))
def test_bytes_of_a_frame_never_change(
    twin: ModuleType, kind: int, request_id: int, parts: list[bytes], data: str
) -> None:
    """Nodes of one protocol version must understand each other whatever else is new in them."""
    assert twin.encode(kind, request_id, parts).hex() == data
    assert twin.Reader(MAX).feed(bytes.fromhex(data)) == [(kind, request_id, b"".join(parts))]


frame_fields = st.tuples(
    st.integers(1, 255),
    st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63, 2**64 - 1])),
    st.lists(st.binary(max_size=200), max_size=4),
)


@given(fields=frame_fields)
def test_twins_encode_alike(fields: tuple[int, int, list[bytes]]) -> None:
    assert native.encode(*fields) == reference.encode(*fields)


@given(sent=st.lists(frame_fields, max_size=6), cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sent: list[tuple[int, int, list[bytes]]], cuts: list[int]
) -> None:
    """TCP keeps bytes in order and nothing else: any cut may fall into a header or a payload."""
    stream = b"".join(native.encode(*fields) for fields in sent)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(edges)]
    expected = [(kind, number, b"".join(parts)) for kind, number, parts in sent]
    for module in (native, reference):
        reader = module.Reader(MAX)
        assert [frame for piece in pieces for frame in reader.feed(piece)] == expected
        assert reader.held_bytes == 0


def outcome(module: ModuleType, arguments: tuple[int, ...], pieces: list[bytes]) -> list[object]:
    reader = module.Reader(*arguments)
    result: list[object] = []
    for piece in pieces:
        try:
            result.append([tuple(frame) for frame in reader.feed(piece)])
        except ProtocolError as error:
            result.append(str(error))
    return result


@given(
    sent=st.lists(frame_fields, min_size=1, max_size=4),
    damage=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=2),
    cut=st.integers(0, 3000),
    limits=st.tuples(st.integers(0, 300), st.integers(0, 3), st.integers(0, 300)),
)
@settings(max_examples=300)
def test_twins_judge_damaged_streams_alike(
    sent: list[tuple[int, int, list[bytes]]],
    damage: list[tuple[int, int]],
    cut: int,
    limits: tuple[int, int, int],
) -> None:
    stream = bytearray(b"".join(native.encode(*fields) for fields in sent))
    for place, bits in damage:
        stream[place % len(stream)] ^= bits
    cut %= len(stream)
    pieces = [bytes(stream[:cut]), bytes(stream[cut:]), b"more"]
    assert outcome(native, limits, pieces) == outcome(reference, limits, pieces)


@given(data=st.binary(max_size=100))
def test_twins_judge_garbage_alike(data: bytes) -> None:
    assert outcome(native, (MAX,), [data]) == outcome(reference, (MAX,), [data])


def test_every_flipped_byte_is_reported(twin: ModuleType) -> None:
    """TCP's own checksum is made anew by every proxy, over whatever its memory has made of the bytes."""
    frame = twin.encode(16, 7, (b"payload",))
    for place in range(len(frame)):
        damaged = bytearray(frame)
        damaged[place] ^= 0x10
        reader = twin.Reader(MAX)
        # A greater length is found out by the frame behind.
        with pytest.raises(ProtocolError):
            reader.feed(bytes(damaged) + frame + bytes(MAX))


BAD_HEADERS = {
    "another version": (4, 2, "speaks protocol version 2"),
    "kind 0": (5, 0, "no frame"),
    "zero bytes that are not": (6, 1, "no frame"),
    "second of them": (7, 1, "no frame"),
    "too long": (2, 1, "at most 4096"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_header_is_judged_before_its_payload_comes(twin: ModuleType, case: str) -> None:
    """Else a stranger could make a node wait for, and keep, what it will refuse anyway."""
    place, value, text = BAD_HEADERS[case]
    header = bytearray(twin.encode(16, 7, (b"x" * 100,))[:20])
    header[place] = value
    reader = twin.Reader(MAX)
    assert reader.feed(bytes(header[:19])) == []
    with pytest.raises(ProtocolError, match=text):
        reader.feed(bytes(header[19:]))


def test_stream_that_failed_goes_on_failing(twin: ModuleType) -> None:
    """Where the next frame begins is not known any more."""
    reader = twin.Reader(MAX)
    with pytest.raises(ProtocolError):
        reader.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ProtocolError):
        reader.feed(twin.encode(16, 7, (b"",)))
    assert reader.held_bytes == 0


def test_longest_payload_is_taken_and_one_byte_more_is_not(twin: ModuleType) -> None:
    assert twin.Reader(10).feed(twin.encode(16, 7, (b"x" * 10,))) == [(16, 7, b"x" * 10)]
    with pytest.raises(ProtocolError, match="11 bytes where at most 10"):
        twin.Reader(10).feed(twin.encode(16, 7, (b"x" * 11,)))


def test_greetings_have_a_limit_of_their_own(twin: ModuleType) -> None:
    """Who is not known yet may send little, and the first frame behind the greetings is any frame."""
    hello, long = twin.encode(2, 0, (b"x" * 10,)), twin.encode(16, 7, (b"x" * 1000,))
    reader = twin.Reader(MAX, 2, 10)
    assert [frame.kind for frame in reader.feed(hello + hello + long)] == [2, 2, 16]
    reader = twin.Reader(MAX, 2, 10)
    reader.feed(hello)
    with pytest.raises(ProtocolError, match="at most 10"):
        reader.feed(long[:20])


def test_reader_holds_about_what_has_arrived() -> None:
    """Whatever length a header claims, memory is taken as the bytes come."""
    length = 64 << 20
    reader = native.Reader(length)
    header = native.encode(16, 7, (b"",))[4:]
    reader.feed(length.to_bytes(4, "little") + header)
    assert reader.held_bytes <= 64
    arrived = 0
    for size in (1, 100, 5000, 1 << 20, 1 << 20):
        reader.feed(bytes(size))
        arrived += size
        assert arrived <= reader.held_bytes <= 2 * arrived + 8192


def test_long_payload_in_many_pieces(twin: ModuleType) -> None:
    payload = bytes(range(256)) * 100
    frame = twin.encode(16, 7, (payload,))
    reader = twin.Reader(len(payload))
    pieces = [frame[start : start + 999] for start in range(0, len(frame), 999)]
    assert [got for piece in pieces for got in reader.feed(piece)] == [(16, 7, payload)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_buffer_is_taken(twin: ModuleType, kind: type) -> None:
    frame = twin.encode(16, 7, [kind(b"abc"), kind(b"")])
    assert frame == twin.encode(16, 7, (b"abc",))
    assert twin.Reader(MAX).feed(kind(frame)) == [(16, 7, b"abc")]


def test_payload_is_the_receivers_own(twin: ModuleType) -> None:
    data = bytearray(twin.encode(16, 7, (b"abc",)))
    (frame,) = twin.Reader(MAX).feed(data)
    data[:] = bytes(len(data))
    assert frame.payload == b"abc"
    assert type(frame.payload) is bytes


BAD_FRAMES = {
    "kind 0": (0, 1, (b"",), ValueError),
    "kind 256": (256, 1, (b"",), ValueError),
    "negative request": (1, -1, (b"",), OverflowError),
    "request beyond uint64": (1, 2**64, (b"",), OverflowError),
    "payload beyond uint32": (1, 1, (bytes(1 << 20),) * 4096, ValueError),
    "a part that is text": (1, 1, ("abc",), TypeError),
    "no parts": (1, 1, None, TypeError),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_what_fits_in_no_frame_is_refused(twin: ModuleType, case: str) -> None:
    kind, request_id, parts, error = BAD_FRAMES[case]
    with pytest.raises(error):
        twin.encode(kind, request_id, parts)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((-1,), OverflowError), ((2**32,), ValueError), ((1, -1), ValueError), ((1, 1, 2**32), ValueError)],
)
def test_limits_out_of_range_are_refused(
    twin: ModuleType, arguments: tuple[int, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        twin.Reader(*arguments)


def test_frames_are_named_tuples(twin: ModuleType) -> None:
    """Handlers take them apart or read fields, as is clearer."""
    (frame,) = twin.Reader(MAX).feed(twin.encode(16, 7, (b"abc",)))
    assert isinstance(frame, twin.Frame)
    assert frame == twin.Frame(16, 7, b"abc") == (16, 7, b"abc")
    assert (frame.kind, frame.request, frame.payload) == tuple(frame)
    assert twin.Reader(12).payload_bytes_max == 12
