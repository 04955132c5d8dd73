"""What does the hash of an address cost, alone and in a batch, on each code path?

Measured: one call and batches of 1000 names of 24 bytes (one block), 100 bytes (two) and 1000 bytes, and one
long input; against the blake3 package, which is also the reference twin, and hashlib's blake2b. All in cache.
Not measured: making the names (the protocol parsers write them), inputs that must come from memory.
Each benchmark tells a checksum of its digests: paths and package must agree on it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from sadik.kernels.native import digest as native
from sadik.kernels.reference import digest as reference

COUNT = 1000
LENGTHS = pytest.mark.parametrize("length", [24, 100, 1000])
PATHS = pytest.mark.parametrize("path", native.PATHS)
DATA = np.random.default_rng(5).integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()


def batch(length: int) -> tuple[int, bytes, Any, Any, bytearray]:
    starts = np.arange(COUNT, dtype=np.int64) * length
    return COUNT, DATA, starts, np.full(COUNT, length, np.int64), bytearray(16 * COUNT)


def checksum(digests: bytes | bytearray) -> str:
    return hashlib.sha256(digests).hexdigest()[:16]


@LENGTHS
@PATHS
def test_batch(benchmark: Any, path: str, length: int) -> None:
    arguments = batch(length)
    native.use_path(path)
    try:
        benchmark(native.digest_many, *arguments)
    finally:
        native.use_path(native.PATHS[0])
    benchmark.extra_info["checksum"] = checksum(arguments[-1])


@LENGTHS
def test_batch_by_the_package(benchmark: Any, length: int) -> None:
    """The obvious way: a loop over slices."""
    names = [DATA[i * length : (i + 1) * length] for i in range(COUNT)]
    digests = benchmark(lambda: b"".join([blake3(name).digest(length=16) for name in names]))
    benchmark.extra_info["checksum"] = checksum(digests)


@LENGTHS
def test_batch_by_hashlib_blake2b(benchmark: Any, length: int) -> None:
    names = [DATA[i * length : (i + 1) * length] for i in range(COUNT)]
    blake2b = hashlib.blake2b
    digests = benchmark(lambda: b"".join([blake2b(name, digest_size=16).digest() for name in names]))
    benchmark.extra_info["checksum"] = checksum(digests)


def test_batch_by_the_reference(benchmark: Any) -> None:
    arguments = batch(24)
    benchmark(reference.digest_many, *arguments)
    benchmark.extra_info["checksum"] = checksum(arguments[-1])


@PATHS
def test_one_call(benchmark: Any, path: str) -> None:
    native.use_path(path)
    try:
        digest = benchmark(native.digest, DATA[:24])
    finally:
        native.use_path(native.PATHS[0])
    benchmark.extra_info["checksum"] = checksum(digest)


def test_one_call_of_the_package(benchmark: Any) -> None:
    digest = benchmark(lambda: blake3(DATA[:24]).digest(length=16))
    benchmark.extra_info["checksum"] = checksum(digest)


def test_one_address(benchmark: Any) -> None:
    digest = benchmark(native.address_digest, b"0", DATA[:20])
    benchmark.extra_info["checksum"] = checksum(digest)


@PATHS
def test_one_mebibyte(benchmark: Any, path: str) -> None:
    native.use_path(path)
    try:
        digest = benchmark(native.digest, DATA)
    finally:
        native.use_path(native.PATHS[0])
    benchmark.extra_info["checksum"] = checksum(digest)


def test_one_mebibyte_by_the_package(benchmark: Any) -> None:
    digest = benchmark(lambda: blake3(DATA).digest(length=16))
    benchmark.extra_info["checksum"] = checksum(digest)
