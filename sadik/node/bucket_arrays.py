"""What buckets say of each operation of a batch, in arrays for the kernels.

Almost all batches are in one bucket, and in the one of the batch before: the arrays are filled whole, and
then found done.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sadik.env.clock import Clock
from sadik.kernels import resp
from sadik.node.buckets import Bucket
from sadik.node.operations import Operations, Span


class BucketArrays:
    """Room for a batch; what it says is valid until the next one.

    Attributes:
        floors: uint64 each. spaces: uint32 each. newest_only: uint8 each, 1 where the bucket is ``lww``.
        expires: int64 each: Unix milliseconds, -1 for never.
        zeros, all_sets: uint8 each, 0 and ``resp.SET``.
    """

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._reserve(capacity)

    def _reserve(self, count: int) -> None:
        self._capacity = count
        # The kernels take the bytes; the views on them are for filling.
        self.floors = bytearray(8 * count)
        self.spaces = bytearray(4 * count)
        self.newest_only = bytearray(count)
        self.expires = bytearray(8 * count)
        self.zeros = bytes(count)
        self.all_sets = bytes((resp.SET,)) * count
        self._floors = np.frombuffer(self.floors, dtype=np.uint64)
        self._spaces = np.frombuffer(self.spaces, dtype=np.uint32)
        self._newest_only = np.frombuffer(self.newest_only, dtype=np.uint8)
        self._expires = np.frombuffer(self.expires, dtype=np.int64)
        self._filled_with: tuple[int, int, bool] | None = None
        self._never_expire = False

    def by_spans(self, count: int, spans: Sequence[Span]) -> None:
        """Lay out all but ``expires`` for ``count`` operations."""
        if count > self._capacity:
            self._reserve(count)
        if len(spans) == 1:
            bucket = spans[0].bucket
            wanted = (bucket.space, bucket.floor, bucket.properties.lww)
            if self._filled_with != wanted:
                self._fill(slice(None), bucket)
                self._filled_with = wanted
            return
        for first, stop, bucket in spans:
            self._fill(slice(first, stop), bucket)
        self._filled_with = None

    def by_operations(self, operations: Operations) -> None:
        """Lay out all."""
        count, spans = operations.count, operations.spans
        self.by_spans(count, spans)
        # A TTL of -1 is eight bytes of 255, and nothing else is: counting them costs less than any
        # arithmetic.
        expiring = operations.ttl_ms.count(255, 0, 8 * count) < 8 * count
        for span in spans:
            if span.bucket.properties.ttl_ms is not None:
                expiring = True
        if expiring:
            self._fill_expiry(operations)
        elif not self._never_expire:
            self._expires.fill(-1)
            self._never_expire = True

    def _fill(self, part: slice, bucket: Bucket) -> None:
        self._floors[part] = bucket.floor
        self._spaces[part] = bucket.space
        self._newest_only[part] = bucket.properties.lww

    def _fill_expiry(self, operations: Operations) -> None:
        count = operations.count
        self._never_expire = False
        times = np.frombuffer(operations.ttl_ms, dtype=np.int64)[:count].copy()
        for span in operations.spans:
            if span.bucket.properties.ttl_ms is not None:
                part = times[span.first : span.stop]
                part[part < 0] = span.bucket.properties.ttl_ms
        expires = self._expires[:count]
        np.add(times, self._clock.wall_ms(), out=expires)
        expires[times < 0] = -1
