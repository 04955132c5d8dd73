"""A turn's batch whose operations go different ways: some are coordinated here, some by other nodes, some
are refused.

``Turn`` gathers the answers and hands over each client's run as soon as all of it is decided.
``encode_answers`` and ``decode_answers`` are the bytes in which another node's answers come back (FORWARD's
reply).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from sadik import errors
from sadik.errors import ProtocolError, QuorumMissed, SadikError, StorageError, Unavailable
from sadik.kernels import versions
from sadik.node.coordinator.outcomes import FAILED, Answers

_HEADER = struct.Struct("<IIQ")
Indices = npt.NDArray[np.intp]


class Part(NamedTuple):
    """Answers to some operations of a turn, in their order; arrays as in ``Answers``."""

    status: bytes | bytearray
    values: bytes | bytearray
    value_start: bytes | bytearray
    value_length: bytes | bytearray
    errors: Mapping[int, SadikError]


class Turn:
    """A batch in parts.

    Args:
        kinds: uint8 each; copied.
        stops: Behind the last operation of each client's run.
        done: Called with answers and run numbers, each run once.
    """

    def __init__(
        self,
        kinds: bytes | bytearray,
        count: int,
        stops: Sequence[int],
        done: Callable[[Answers, Sequence[int]], None],
    ) -> None:
        self._kinds = bytes(kinds[:count])
        self._stops = stops
        self._done = done
        self._status = np.full(count, FAILED, np.uint8)
        self._start = np.zeros(count, np.int64)
        self._length = np.zeros(count, np.int64)
        self._values = bytearray()
        self._errors: dict[int, SadikError] = {}
        self._decided = np.zeros(count, bool)
        self._runs = list(range(len(stops)))

    def fill(self, chosen: Indices, part: Part) -> None:
        """Take over the answers to the operations ``chosen``."""
        count = len(chosen)
        self._status[chosen] = np.frombuffer(part.status, np.uint8, count)
        self._start[chosen] = np.frombuffer(part.value_start, np.int64, count) + len(self._values)
        self._length[chosen] = np.frombuffer(part.value_length, np.int64, count)
        self._values += part.values
        for index, error in part.errors.items():
            self._errors[int(chosen[index])] = error
        self._settle(chosen)

    def fail(self, chosen: Indices, error_of: Callable[[int], SadikError]) -> None:
        """Give up the operations ``chosen``; ``error_of`` makes the error of each."""
        self._status[chosen] = FAILED
        for index in chosen.tolist():
            self._errors[index] = error_of(index)
        self._settle(chosen)

    def kind(self, index: int) -> int:
        return self._kinds[index]

    def _settle(self, chosen: Indices) -> None:
        self._decided[chosen] = True
        ready: list[int] = []
        rest: list[int] = []
        for run in self._runs:
            first = self._stops[run - 1] if run else 0
            (ready if self._decided[first : self._stops[run]].all() else rest).append(run)
        self._runs = rest
        if not ready:
            return
        answers = Answers(
            self._kinds,
            bytearray(self._status.tobytes()),
            self._values,
            bytearray(self._start.tobytes()),
            bytearray(self._length.tobytes()),
            self._errors,
            bool((self._status[self._decided] > versions.NOTHING).any()),
        )
        self._done(answers, ready)


class _Failure(msgspec.Struct, array_like=True):
    """An error on its way between nodes."""

    index: int
    code: str
    text: str
    maybe_applied: bool = False
    required: int = 0
    received: int = 0
    reasons: tuple[tuple[str, str], ...] = ()


def encode_answers(part: Part) -> bytes:
    """count u32, bytes of the failures u32, bytes of the values u64; statuses u8, starts and lengths i64,
    failures (MessagePack), values.
    """
    failures = msgspec.msgpack.encode(
        [
            _Failure(
                index,
                type(error).__name__,
                str(error),
                getattr(error, "maybe_applied", False),
                getattr(error, "required", 0),
                getattr(error, "received", 0),
                getattr(error, "reasons", ()),
            )
            for index, error in part.errors.items()
        ]
    )
    count = len(part.status)
    return b"".join(
        (
            _HEADER.pack(count, len(failures), len(part.values)),
            part.status,
            part.value_start[: 8 * count],
            part.value_length[: 8 * count],
            failures,
            part.values,
        )
    )


def decode_answers(payload: bytes, count: int) -> Part:
    """The inverse, checked.

    Raises:
        ProtocolError: It does not answer ``count`` operations.
    """
    if len(payload) < _HEADER.size:
        raise ProtocolError("an answer to a forward is too short")
    found, failure_bytes, value_bytes = _HEADER.unpack_from(payload)
    if found != count or len(payload) != _HEADER.size + 17 * count + failure_bytes + value_bytes:
        raise ProtocolError("an answer to a forward does not fit its lengths")
    at = _HEADER.size
    status = payload[at : at + count]
    at += count
    starts, lengths = payload[at : at + 8 * count], payload[at + 8 * count : at + 16 * count]
    at += 16 * count
    try:
        failures = msgspec.msgpack.decode(payload[at : at + failure_bytes], type=list[_Failure])
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"an answer to a forward cannot be read: {error}") from error
    values = payload[at + failure_bytes :]
    first, size = np.frombuffer(starts, np.int64), np.frombuffer(lengths, np.int64)
    if count and (
        int(first.min()) < 0
        or int(size.min()) < 0
        or max(int(first.max()), int(size.max())) > value_bytes
        or int((first + size).max()) > value_bytes
        or max(status) > FAILED
    ):
        raise ProtocolError("an answer to a forward does not fit its values")
    told = {failure.index: _error_of(failure) for failure in failures if 0 <= failure.index < count}
    for index, one in enumerate(status):
        if one == FAILED and index not in told:
            told[index] = Unavailable("the coordinator failed without a reason", maybe_applied=True)
    return Part(status, values, starts, lengths, told)


def _error_of(failure: _Failure) -> SadikError:
    kind = getattr(errors, failure.code, Unavailable)
    if not (isinstance(kind, type) and issubclass(kind, SadikError)):
        kind = Unavailable
    if issubclass(kind, QuorumMissed):
        return QuorumMissed(
            failure.text,
            maybe_applied=failure.maybe_applied,
            required=failure.required,
            received=failure.received,
            reasons=failure.reasons,
        )
    if issubclass(kind, (Unavailable, StorageError)):
        return kind(failure.text, maybe_applied=failure.maybe_applied)
    return kind(failure.text)
