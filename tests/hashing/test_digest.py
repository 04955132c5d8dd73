"""The hash interface: every hash keeps its promises, and no name ever changes its meaning."""

from __future__ import annotations

import array

import pytest

from sadik.errors import InvalidRequest
from sadik.hashing import HASHES, HashFunction, hash_function, token_of

# First 16 bytes of each hash of b"sadik"; a cluster's data is placed by them.
PINNED = {
    "blake3": "840cae4d3a31cc2505f8653f23531e6c",
    "blake2b-128": "34e406066da3fbfce9c49220198317cf",
    "md5": "970bd627f415e0a127210d2cecf2311f",
}


@pytest.fixture(params=list(HASHES))
def function(request: pytest.FixtureRequest) -> HashFunction:
    return hash_function(request.param)


def integers(*values: int) -> array.array[int]:
    return array.array("q", values)


def test_hash_never_changes_its_meaning(function: HashFunction) -> None:
    assert function.digest(b"sadik").hex() == PINNED[function.name]


def test_batch_is_the_single_digest_of_each_slice(function: HashFunction) -> None:
    out = bytearray(48)
    function.hash_many(3, b"the quick brown fox", integers(0, 4, 4), integers(3, 5, 0), out)
    assert bytes(out) == b"".join(function.digest(part) for part in (b"the", b"quick", b""))


def test_empty_batch_touches_nothing(function: HashFunction) -> None:
    out = bytearray(b"kept")
    function.hash_many(0, b"", b"", b"", out)
    assert out == b"kept"


@pytest.mark.parametrize("arguments", [
    (1, b"abc", integers(1), integers(3), bytearray(16)),
    (1, b"abc", integers(-1), integers(1), bytearray(16)),
    (1, b"abc", integers(0), integers(-1), bytearray(16)),
    (2, b"abc", integers(0), integers(0, 0), bytearray(32)),
    (2, b"abc", integers(0, 0), integers(0), bytearray(32)),
    (2, b"abc", integers(0, 0), integers(0, 0), bytearray(31)),
    (-1, b"abc", integers(0), integers(0), bytearray(16)),
])  # fmt: skip
def test_malformed_batch_is_refused(function: HashFunction, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"."):
        function.hash_many(*arguments)  # type: ignore[arg-type]


def test_read_only_output_is_refused(function: HashFunction) -> None:
    with pytest.raises(BufferError):
        function.hash_many(1, b"abc", integers(0), integers(3), bytes(16))


def test_names_are_those_of_the_registry() -> None:
    assert all(function.name == name for name, function in HASHES.items())
    assert next(iter(HASHES)) == "blake3"


def test_unknown_hash_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidRequest, match="blake2b-128"):
        hash_function("crc32")


def test_token_is_the_high_half_so_digests_sort_in_ring_order() -> None:
    assert token_of(bytes(range(16))) == 0x0001020304050607
    assert token_of(b"\xff" * 16) == 2**64 - 1
