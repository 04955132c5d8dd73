"""The digest kernel against its twin, on every code path this processor has."""

from __future__ import annotations

import array
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import InvalidRequest
from sadik.kernels.native import digest as native
from sadik.kernels.reference import digest as reference
from tests import strategies

TWINS = [*((native, path) for path in native.PATHS), (reference, reference.PATHS[0])]


@pytest.fixture(params=TWINS, ids=lambda twin: twin[1])
def twin(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    module, path = request.param
    module.use_path(path)
    yield module
    module.use_path(module.PATHS[0])


def pattern(length: int) -> bytes:
    """Bytes that repeat only after 251: no block equals its neighbour."""
    return bytes(i % 251 for i in range(min(length, 251))) * (length // 251 + 1)


# Names and digests of addresses as they lie on disks and in messages: these may never change.
VECTORS = [
    (b"0", b"k", "0130" + "0001" + "6b", "26566b229db5ecfaacdb285c05253f06"),
    (b"users", b"alice", "057573657273" + "0005" + "616c696365", "5416a1919cdc967283823b6761187325"),
    (b"\x00", b"\xff\x00\r\n", "0100" + "0004" + "ff000d0a", "2af0a17b6552680d5aa386a1d5264258"),
    (b"b" * 255, b"k" * 256, "ff" + "62" * 255 + "0100" + "6b" * 256, "fcff5fc65c0174b201680ae9adcc8f52"),
    (b"bucket", b"k" * 65535, "066275636b6574" + "ffff" + "6b" * 65535, "804239b40317b7e3843269509511342c"),
]
# The first 16 bytes of BLAKE3 of ``pattern(length)``, as published with the function for its test input.
PUBLISHED = {
    0: "af1349b9f5f9a1a6a0404dea36dcc949",
    1: "2d3adedff11b61f14c886e35afa03673",
    1023: "10108970eeda3eb932baac1428c7a216",
    1024: "42214739f095a406f3fc83deb889744a",
    1025: "d00278ae47eb27b34faecf67b4fe263f",
    2048: "e776b6028c7cd22a4d0ba182a8bf6220",
    2049: "5f4d72f40d7a5f82b15ca2b2e44b1de3",
    31744: "62b6960e1a44bcc1eb1a611a8d6235b6",
    102400: "bc3e3d41a1146b069abffad3c0d44860",
}


@pytest.mark.parametrize(("bucket", "key", "name", "digest"), VECTORS, ids=range(len(VECTORS)))
def test_names_and_digests_of_addresses_never_change(
    twin: ModuleType, bucket: bytes, key: bytes, name: str, digest: str
) -> None:
    """Data already stored is found by them, and partitions are cut by them."""
    assert twin.address_name(bucket, key).hex() == name
    assert twin.address_digest(bucket, key).hex() == digest


@pytest.mark.parametrize("length", PUBLISHED)
def test_digest_of_the_published_input(twin: ModuleType, length: int) -> None:
    assert twin.digest(pattern(length)[:length]).hex() == PUBLISHED[length]


# Around a block, a chunk, eight chunks side by side, and wherever the tree gains a level.
BORDERS = sorted(
    {
        max(0, edge + step)
        for edge in (
            0,
            64,
            128,
            960,
            *(1024 * count for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33)),
        )
        for step in (-1, 0, 1)
    }
)


@pytest.mark.parametrize("path", native.PATHS)
def test_every_path_agrees_with_the_package_around_block_chunk_and_tree_borders(path: str) -> None:
    data = pattern(max(BORDERS))
    native.use_path(path)
    try:
        for length in BORDERS:
            assert native.digest(data[:length]) == reference.digest(data[:length]), length
    finally:
        native.use_path(native.PATHS[0])


@pytest.mark.parametrize("path", native.PATHS)
@given(data=st.binary(max_size=5000), repeats=st.integers(1, 12))
@settings(max_examples=60)
def test_every_path_agrees_with_the_package_on_any_input(path: str, data: bytes, repeats: int) -> None:
    native.use_path(path)
    try:
        assert native.digest(data * repeats) == reference.digest(data * repeats)
    finally:
        native.use_path(native.PATHS[0])


@pytest.mark.parametrize("path", native.PATHS)
@given(
    data=st.binary(max_size=1500),
    cuts=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1200)), max_size=40),
)
@settings(max_examples=60)
def test_batch_is_the_single_digest_of_each_slice(
    path: str, data: bytes, cuts: list[tuple[int, int]]
) -> None:
    """Short slices go eight at a time, long ones alone, and the last ones must not read beyond the buffer."""
    starts = array.array("q", [min(start, len(data)) for start, _ in cuts])
    lengths = array.array(
        "q", [min(length, len(data) - start) for start, (_, length) in zip(starts, cuts, strict=True)]
    )
    out = bytearray(16 * len(cuts))
    native.use_path(path)
    try:
        native.digest_many(len(cuts), data, starts, lengths, out)
    finally:
        native.use_path(native.PATHS[0])
    expected = [
        reference.digest(data[start : start + length]) for start, length in zip(starts, lengths, strict=True)
    ]
    assert bytes(out) == b"".join(expected)


@given(address=strategies.addresses)
def test_twins_agree_on_names(address: tuple[bytes, bytes]) -> None:
    assert native.address_name(*address) == reference.address_name(*address)
    assert native.address_digest(*address) == reference.address_digest(*address)


@given(left=strategies.addresses, right=strategies.addresses)
def test_name_is_injective(left: tuple[bytes, bytes], right: tuple[bytes, bytes]) -> None:
    """Else two addresses would be one stored key."""
    assert (native.address_name(*left) == native.address_name(*right)) == (left == right)


def test_moving_a_byte_from_bucket_to_key_gives_another_name(twin: ModuleType) -> None:
    assert twin.address_name(b"ab", b"c") != twin.address_name(b"a", b"bc")
    assert twin.address_digest(b"ab", b"c") != twin.address_digest(b"a", b"bc")


@pytest.mark.parametrize("length", [1020, 1021, 1022, 1023, 4096, 65535])
def test_digest_of_a_long_address_is_that_of_its_name(twin: ModuleType, length: int) -> None:
    """Long names are put together elsewhere than short ones."""
    key = pattern(length)[:length]
    assert twin.address_digest(b"a", key) == reference.digest(twin.address_name(b"a", key))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_buffer_is_taken(twin: ModuleType, kind: type) -> None:
    assert twin.digest(kind(b"abc")) == twin.digest(b"abc")
    assert (
        twin.address_name(kind(b"abc"), b"d") == twin.address_name(b"abc", kind(b"d")) == b"\x03abc\x00\x01d"
    )
    assert twin.address_digest(kind(b"abc"), kind(b"d")) == twin.address_digest(b"abc", b"d")


@pytest.mark.parametrize(
    ("bucket", "key"), [(b"", b"k"), (b"b" * 256, b"k"), (b"b", b""), (b"b", b"k" * 65536)]
)
def test_address_out_of_range_is_refused(twin: ModuleType, bucket: bytes, key: bytes) -> None:
    for function in (twin.address_name, twin.address_digest):
        with pytest.raises(InvalidRequest):
            function(bucket, key)
        with pytest.raises(InvalidRequest):
            function(bytearray(bucket), memoryview(key))


@given(digests=st.lists(strategies.digests, max_size=20))
def test_tokens_are_the_high_halves_in_ring_order(digests: list[bytes]) -> None:
    for module in (native, reference):
        out = array.array("Q", bytes(8 * len(digests)))
        module.tokens(len(digests), b"".join(digests), out)
        assert list(out) == [int.from_bytes(digest[:8], "big") for digest in digests]
        assert sorted(out) == [int.from_bytes(digest[:8], "big") for digest in sorted(digests)]


def integers(*values: int) -> bytes:
    return array.array("q", values).tobytes()


BAD_BATCHES = {
    "negative start": (1, b"abc", integers(-1), integers(1), bytearray(16), ValueError),
    "negative length": (1, b"abc", integers(1), integers(-1), bytearray(16), ValueError),
    "end beyond data": (1, b"abc", integers(1), integers(3), bytearray(16), ValueError),
    "sum overflows": (1, b"abc", integers(2**63 - 1), integers(2**63 - 1), bytearray(16), ValueError),
    "last of many": (9, b"abc", integers(*[0] * 9), integers(*[3] * 8, 4), bytearray(144), ValueError),
    "starts too short": (2, b"abc", integers(0), integers(0, 0), bytearray(32), ValueError),
    "lengths too short": (2, b"abc", integers(0, 0), integers(0), bytearray(32), ValueError),
    "out too short": (2, b"abc", integers(0, 0), integers(0, 0), bytearray(31), ValueError),
    "out read-only": (1, b"abc", integers(0), integers(0), bytes(16), BufferError),
    "negative count": (-1, b"abc", b"", b"", bytearray(), ValueError),
    "count times item overflows": (2**61, b"abc", integers(0), integers(0), bytearray(16), ValueError),
    "count beyond the machine": (2**70, b"abc", integers(0), integers(0), bytearray(16), OverflowError),
    "count no integer": ("1", b"abc", integers(0), integers(0), bytearray(16), TypeError),
    "data no buffer": (1, "abc", integers(0), integers(0), bytearray(16), TypeError),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_malformed_batch_is_refused(twin: ModuleType, case: str) -> None:
    count, data, starts, lengths, out, error = BAD_BATCHES[case]
    with pytest.raises(error):
        twin.digest_many(count, data, starts, lengths, out)


def test_output_over_its_own_offsets_stays_within_bounds(twin: ModuleType) -> None:
    """A digest written over later offsets makes them wild: they are checked when used, not before."""
    shared = bytearray(integers(*[0] * 64))
    with pytest.raises(ValueError, match="outside data"):
        twin.digest_many(32, b"abc", shared, bytes(512), shared)


def test_malformed_token_batches_are_refused(twin: ModuleType) -> None:
    for count, digests, out in [
        (2, bytes(31), bytearray(16)),
        (2, bytes(32), bytearray(15)),
        (-1, b"", bytearray()),
    ]:
        with pytest.raises(ValueError, match=r"bytes|count"):
            twin.tokens(count, digests, out)


def test_unknown_path_is_refused(twin: ModuleType) -> None:
    with pytest.raises(ValueError, match="mmx"):
        twin.use_path("mmx")


def test_no_argument_is_no_buffer(twin: ModuleType) -> None:
    with pytest.raises(TypeError):
        twin.digest("abc")
    with pytest.raises(TypeError):
        twin.address_digest("b", b"k")
