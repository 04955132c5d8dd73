"""What do the bytes of a record cost: encoding, checking, searching, and the CRC alone?

Records of 16-byte names and 100-byte values as the engine writes them, and a CRC of a large value. Against
the obvious ways: struct and zlib's crc32 for a record, zlib's crc32 alone for the CRC (it is another
polynomial). Not measured: files.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import pytest

from sadik.kernels.native import segment as native
from sadik.kernels.reference import segment as reference

SALT = bytes(range(16))
HUNDRED = [
    (random.Random(n).randbytes(16), random.Random(n + 1).randbytes(16), bytes(100)) for n in range(100)
]
LAID = native.Codec(SALT).encode_many(0, 1, HUNDRED * 100)


def test_encode_one(benchmark: Any) -> None:
    codec = native.Codec(SALT)
    digest, name, value = HUNDRED[0]
    record = benchmark(codec.encode, 128, 1, digest, name, value, 1, 0)
    benchmark.extra_info["checksum"] = zlib.crc32(record)


def test_encode_one_with_struct_and_zlib(benchmark: Any) -> None:
    """The same fields and two checks, as one would write it in Python."""
    packer = struct.Struct("<IIIIQ16sII")
    digest, name, value = HUNDRED[0]

    def encode() -> bytes:
        body = zlib.crc32(value, zlib.crc32(name))
        head = packer.pack(0, 0, body, len(value), 1, digest, 1, len(name))
        return struct.pack("<I", zlib.crc32(head)) + head[4:] + name + value

    benchmark(encode)


@pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
def test_encode_hundred(benchmark: Any, twin: Any) -> None:
    codec = twin.Codec(SALT)
    records = benchmark(codec.encode_many, 128, 1, HUNDRED)
    benchmark.extra_info["checksum"] = zlib.crc32(records)


def test_scan_ten_thousand(benchmark: Any) -> None:
    scan = benchmark(native.Codec(SALT).scan, LAID, 0, len(LAID))
    assert scan.stop == len(LAID)


def test_search_a_mebibyte_without_a_record(benchmark: Any) -> None:
    data = random.Random(1).randbytes(1 << 20)
    assert benchmark(native.Codec(SALT).find, data, 0, 0) == -1


@pytest.mark.parametrize("length", [100, 1 << 20])
def test_crc(benchmark: Any, length: int) -> None:
    benchmark.extra_info["checksum"] = benchmark(native.crc32c, random.Random(1).randbytes(length))


@pytest.mark.parametrize("length", [100, 1 << 20])
def test_crc_of_zlib(benchmark: Any, length: int) -> None:
    benchmark(zlib.crc32, random.Random(1).randbytes(length))
