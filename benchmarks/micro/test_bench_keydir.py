"""How fast are look-ups and inserts of the index, in and out of cache, and how much memory does a key take?

Random existing keys, 100-byte values in memory behind the index (reads include both checks and the copy).
10,000 keys stay in the second-level cache, a million do not. Against a dict from digest to value, the fastest
thing Python has (it checks nothing, copies nothing, and takes about five times the memory). Not measured:
files, page faults.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from sadik.kernels.native import keydir as native
from sadik.kernels.native import segment
from sadik.kernels.reference import keydir as reference

SALT = bytes(range(16))
VALUE = bytes(range(100))
SIZES = pytest.mark.parametrize("thousands", [10, 1000])


def filled(twin: Any, count: int) -> tuple[Any, list[bytes]]:
    """A keydir over one segment in memory, and its keys."""
    rng = random.Random(1)
    names = [rng.randbytes(16) for _ in range(count)]
    data = segment.Codec(SALT).encode_many(0, 1, [(name, name, VALUE) for name in names])
    keydir = twin.Keydir(1024)
    handle = keydir.attach(data, SALT, len(data))
    keydir.put(handle, 0, data)
    return keydir, names


def keys_of(benchmark: Any, thousands: int) -> int:
    """The size asked for when benchmarks are measured; small when this file only has to run."""
    return thousands * 1000 if benchmark.enabled else 2000


@SIZES
def test_read_thousand_one_by_one(benchmark: Any, thousands: int) -> None:
    keydir, names = filled(native, keys_of(benchmark, thousands))
    asked = random.Random(2).choices(names, k=200_000)
    turns = iter(range(10**9))

    def read() -> None:
        start = next(turns) * 1000 % 200_000
        for name in asked[start : start + 1000]:
            keydir.read(name)

    benchmark(read)
    benchmark.extra_info["bytes_per_key"] = keydir.bytes_used() / len(keydir)


@SIZES
def test_read_thousand_from_a_dict(benchmark: Any, thousands: int) -> None:
    rng = random.Random(1)
    found = {rng.randbytes(16): bytes(100) for _ in range(keys_of(benchmark, thousands))}
    asked = random.Random(2).choices(list(found), k=200_000)
    turns = iter(range(10**9))

    def read() -> None:
        start = next(turns) * 1000 % 200_000
        for name in asked[start : start + 1000]:
            found.get(name)

    benchmark(read)


@SIZES
def test_read_batch_of_hundred(benchmark: Any, thousands: int) -> None:
    keydir, names = filled(native, keys_of(benchmark, thousands))
    batches = [b"".join(random.Random(n).choices(names, k=100)) for n in range(2000)]
    turns = iter(range(10**9))

    def read() -> Any:
        return keydir.read_batch(100, batches[next(turns) % 2000], 1 << 30)

    assert benchmark(read)[2] == VALUE * 100


@SIZES
def test_put_hundred_existing(benchmark: Any, thousands: int) -> None:
    keydir, names = filled(native, keys_of(benchmark, thousands))
    handle = keydir.attach(bytearray(1 << 20), SALT, 0)
    rng = random.Random(3)
    codec = segment.Codec(SALT)
    batches = [
        codec.encode_many(0, 10**7 + 100 * n, [(name, b"", VALUE) for name in rng.choices(names, k=100)])
        for n in range(1000)
    ]
    turns = iter(range(10**9))
    benchmark(lambda: keydir.put(handle, 0, batches[next(turns) % 1000]))


def test_read_batch_of_hundred_reference(benchmark: Any) -> None:
    keydir, names = filled(reference, 2000)
    batch = b"".join(names[:100])
    benchmark(lambda: keydir.read_batch(100, batch, 1 << 30))
