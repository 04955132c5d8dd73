"""What does an operation on a version set cost, alone and in a batch?

Measured: ``apply_batch`` reading and replacing 100-byte values of one actor in batches of 1, 16 and 1000
    (fresh keys, and keys
with a stored set), the native kernel and the plain twin; event, merge and fingerprint of single sets. The
stored sets of 1000 keys are 154 KB: in the second-level cache. Not measured: storage, parsing, hashing of
addresses.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from sadik.kernels.native import versions as native
from sadik.kernels.reference import versions as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])
PAYLOAD = bytes(100)


def arguments(count: int, kind: int, stored: bytes) -> list[Any]:
    """``count`` operations on distinct keys that all hold ``stored``."""
    status = native.STORED if stored else native.ABSENT
    return [
        count,
        bytes([kind]) * count,
        struct.pack(f"<{count}i", *[-1] * count),
        bytes([status]) * count,
        stored * count,
        struct.pack(f"<{count + 1}q", *(i * len(stored) for i in range(count + 1))),
        PAYLOAD * count,
        struct.pack(f"<{count}q", *(i * len(PAYLOAD) for i in range(count))),
        struct.pack(f"<{count}q", *[len(PAYLOAD)] * count),
        struct.pack(f"<{count}q", *[-1] * count),
        bytes(8 * count),
        7,
        1 << 40,
        1 << 60,
        0,
    ]


@TWINS
@pytest.mark.parametrize("count", [1, 16, 1000])
@pytest.mark.parametrize("operation", ["read", "replace", "create"])
def test_apply_batch(benchmark: Any, twin: Any, count: int, operation: str) -> None:
    stored = b"" if operation == "create" else native.event(b"", None, 7, 5, payload=PAYLOAD)
    kind = native.READ if operation == "read" else native.REPLACE
    batch = arguments(count, kind, stored)
    rounds, iterations = (50, max(1, 20_000 // count)) if twin is native else (5, max(1, 200 // count))
    result = benchmark.pedantic(
        twin.apply_batch, args=batch, rounds=rounds, iterations=iterations, warmup_rounds=1
    )

    assert bytes(result.status) == bytes(count)
    benchmark.extra_info["checksum"] = len(result.sets) + len(result.values) + result.stamp_last


OLD = native.event(b"", None, 7, 5, payload=PAYLOAD)
NEW = native.event(OLD, None, 7, 6, payload=PAYLOAD)
LEFT = native.event(OLD, None, 8, 7, payload=PAYLOAD)
RIGHT = native.event(OLD, None, 9, 8, payload=PAYLOAD)


@TWINS
@pytest.mark.parametrize(
    ("left", "right"),
    [(NEW, bytes(bytearray(NEW))), (OLD, NEW), (LEFT, RIGHT)],
    ids=["equal", "newer", "concurrent"],
)
def test_merge(benchmark: Any, twin: Any, left: bytes, right: bytes) -> None:
    result = benchmark.pedantic(twin.merge, args=(left, right), rounds=50, iterations=500, warmup_rounds=2)
    benchmark.extra_info["checksum"] = len(result)


@TWINS
def test_event(benchmark: Any, twin: Any) -> None:
    result = benchmark.pedantic(
        twin.event,
        args=(LEFT, [(7, 5), (8, 7)], 7, 9),
        kwargs={"payload": PAYLOAD},
        rounds=50,
        iterations=500,
        warmup_rounds=2,
    )
    benchmark.extra_info["checksum"] = len(result)


@TWINS
def test_fingerprint(benchmark: Any, twin: Any) -> None:
    digest = bytes(range(16))
    result = benchmark.pedantic(
        twin.fingerprint, args=(digest, NEW), rounds=50, iterations=500, warmup_rounds=2
    )
    benchmark.extra_info["checksum"] = result
