"""How much faster than a plain loop over dicts is the merge of two vector clocks of three pairs, called
from Python?

Measured: merge, compare and increment of clocks with three actors each, two of them shared, neither clock
    descending from the other;
the dict loop does counters only, the clocks carry times too. Also clocks of 64 actors with long, similar
names. Not measured: encoding, truncation. The bar of the project is 3x on the small merge.
"""

from __future__ import annotations

from typing import Any

import pytest

from sadik.kernels.native.vclock import VectorClock as Native
from sadik.kernels.reference.vclock import VectorClock as Reference

SMALL = ({"n1": 3, "n2": 5, "n3": 1}, {"n2": 6, "n3": 1, "n4": 2})
LARGE = tuple(
    {f"datacentre-east-node-{i:04}": i % 7 + 1 + side for i in range(32 * side, 32 * side + 64)}
    for side in (0, 1)
)
SIZES = pytest.mark.parametrize("clocks", [SMALL, LARGE], ids=["3+3", "64+64"])
KINDS = pytest.mark.parametrize("kind", [Native, Reference], ids=["native", "reference"])


def merge_dicts(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    """The obvious code."""
    out = dict(a)
    for k, v in b.items():
        if v > out.get(k, 0):
            out[k] = v
    return out


def measure(benchmark: Any, call: Any, *arguments: Any) -> Any:
    result = benchmark.pedantic(call, args=arguments, rounds=100, iterations=1000, warmup_rounds=3)
    benchmark.extra_info["checksum"] = repr(result)[-40:]
    return result


@SIZES
def test_merge_of_dicts(benchmark: Any, clocks: Any) -> None:
    measure(benchmark, merge_dicts, *clocks)


@SIZES
@KINDS
def test_merge(benchmark: Any, clocks: Any, kind: Any) -> None:
    left, right = (kind(counters) for counters in clocks)
    if kind is Reference:
        result = benchmark.pedantic(left.merge, args=(right,), rounds=5, iterations=10)
    else:
        result = measure(benchmark, left.merge, right)
    assert dict(result.items()) == merge_dicts(*clocks)


@SIZES
def test_compare(benchmark: Any, clocks: Any) -> None:
    left, right = (Native(counters) for counters in clocks)
    assert measure(benchmark, left.compare, right) == "concurrent"


@SIZES
def test_increment(benchmark: Any, clocks: Any) -> None:
    clock = Native(clocks[0])
    actor = next(iter(clock))
    assert measure(benchmark, clock.increment, actor, 5).counter(actor) == clock.counter(actor) + 1
