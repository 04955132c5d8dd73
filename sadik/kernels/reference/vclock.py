"""Vector clocks in plain Python: one dict of actor to (counter, time). Contract: ``native/vclock.pyi``."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from typing import Any, Final, Literal, final

from sadik.errors import CorruptRecord, InvalidRequest
from sadik.kernels.buffers import Buffer

Actor = int | str
Order = Literal["before", "after", "equal", "concurrent"]

PAIRS_MAX: Final = 10
NAME_BYTES_MAX: Final = 65535
HEADER = struct.Struct("<BI")
PAIR = struct.Struct("<QQB")


def checked_actor(actor: Actor) -> Actor:
    if isinstance(actor, str):
        try:
            size = len(actor.encode())
        except UnicodeEncodeError:
            raise InvalidRequest("an actor's name cannot be encoded as UTF-8") from None
        if size > NAME_BYTES_MAX:
            raise InvalidRequest(f"an actor's name is longer than {NAME_BYTES_MAX} bytes")
        return str.__str__(actor)
    if not isinstance(actor, int):
        raise TypeError(f"an actor is an int or a str, not {type(actor).__name__}")
    return checked(actor, 2**64, "an actor")


def checked(number: int, stop: int, name: str) -> int:
    number = int(index(number))
    if not 0 <= number < stop:
        raise InvalidRequest(f"{name} must be 0 to {stop - 1}")
    return number


def rank(actor: Actor) -> tuple[bool, Any]:
    return isinstance(actor, str), actor


@final
class VectorClock:
    def __init__(self, counters: Mapping[Any, int] | tuple[()] = (), now_ms: int = 0) -> None:
        if hasattr(self, "_pairs"):
            raise TypeError("a VectorClock is immutable")
        checked(now_ms, 2**63, "a time")
        self._pairs: dict[Actor, tuple[int, int]] = {}
        if counters:
            self._fill((actor, counter, now_ms) for actor, counter in counters.items())

    def _fill(self, triples: Iterable[tuple[Actor, int, int]]) -> None:
        for actor, counter, time_ms in triples:
            pair = checked(counter, 2**64, "a counter"), checked(time_ms, 2**63, "a time")
            actor = checked_actor(actor)
            if counter and actor in self._pairs:
                raise InvalidRequest("an actor occurs twice")
            if counter:
                self._pairs[actor] = pair

    @staticmethod
    def from_pairs(pairs: Iterable[tuple[Actor, int, int]]) -> VectorClock:
        clock = VectorClock()
        clock._fill(pairs)
        return clock

    @staticmethod
    def decode(data: Buffer) -> VectorClock:
        return decode(data)

    def encode(self) -> bytes:
        parts = [HEADER.pack(1, len(self._pairs))]
        for actor, counter, time_ms in self.pairs():
            parts.append(PAIR.pack(counter, time_ms, isinstance(actor, str)))
            if isinstance(actor, str):
                name = actor.encode()
                parts.append(struct.pack("<H", len(name)) + name)
            else:
                parts.append(struct.pack("<Q", actor))
        return b"".join(parts)

    def increment(self, actor: Actor, now_ms: int = 0) -> VectorClock:
        checked(now_ms, 2**63, "a time")
        counter, time_ms = self._pairs.get(checked_actor(actor), (0, 0))
        if counter == 2**64 - 1:
            raise InvalidRequest("the counter has reached its greatest value")
        changed = {**self._pairs, actor: (counter + 1, max(time_ms, now_ms))}
        return VectorClock.from_pairs((name, *pair) for name, pair in changed.items())

    def merge(self, other: VectorClock) -> VectorClock:
        check_clock(other)
        actors = self._pairs.keys() | other._pairs.keys()
        nothing = (0, 0)
        return VectorClock.from_pairs(
            (actor, *max(self._pairs.get(actor, nothing), other._pairs.get(actor, nothing)))
            for actor in sorted(actors, key=rank)
        )

    def compare(self, other: VectorClock) -> Order:
        if self.descends(other):
            return "equal" if other.descends(self) else "after"
        return "before" if other.descends(self) else "concurrent"

    def descends(self, other: VectorClock) -> bool:
        check_clock(other)
        return all(self.counter(actor) >= counter for actor, counter in other.items())

    def truncate(self, pairs_max: int = PAIRS_MAX) -> VectorClock:
        if index(pairs_max) < 1:
            raise InvalidRequest("pairs_max must be at least 1")
        oldest_first = sorted(self.pairs(), key=lambda pair: pair[2])
        return VectorClock.from_pairs(oldest_first[-pairs_max:])

    def counter(self, actor: Actor) -> int:
        return self._pairs.get(checked_actor(actor), (0, 0))[0]

    def items(self) -> tuple[tuple[Actor, int], ...]:
        return tuple((actor, counter) for actor, counter, _ in self.pairs())

    def pairs(self) -> tuple[tuple[Actor, int, int], ...]:
        return tuple((actor, *self._pairs[actor]) for actor in sorted(self._pairs, key=rank))

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, actor: object) -> bool:
        return isinstance(actor, int | str) and self.counter(actor) > 0

    def __iter__(self) -> Iterator[Actor]:
        return iter([actor for actor, _ in self.items()])

    def __hash__(self) -> int:
        return hash(self.items())

    def __eq__(self, other: object) -> bool:
        return self.items() == other.items() if isinstance(other, VectorClock) else NotImplemented

    def __le__(self, other: VectorClock) -> bool:
        return other.descends(self) if isinstance(other, VectorClock) else NotImplemented

    def __lt__(self, other: VectorClock) -> bool:
        return self.compare(other) == "before" if isinstance(other, VectorClock) else NotImplemented

    def __ge__(self, other: VectorClock) -> bool:
        return self.descends(other) if isinstance(other, VectorClock) else NotImplemented

    def __gt__(self, other: VectorClock) -> bool:
        return self.compare(other) == "after" if isinstance(other, VectorClock) else NotImplemented

    def __or__(self, other: VectorClock) -> VectorClock:
        return self.merge(other) if isinstance(other, VectorClock) else NotImplemented

    def __repr__(self) -> str:
        return f"VectorClock({dict(self.items())!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return decode, (self.encode(),)


def check_clock(other: object) -> None:
    if not isinstance(other, VectorClock):
        raise TypeError(f"a VectorClock is needed, not {type(other).__name__}")


def decode(data: Buffer) -> VectorClock:
    raw = bytes(data)
    triples: list[tuple[Actor, int, int]] = []
    try:
        version, count = HEADER.unpack_from(raw)
        at = HEADER.size
        for _ in range(count):
            counter, time_ms, kind = PAIR.unpack_from(raw, at)
            at += PAIR.size
            actor: Actor
            if kind == 1:
                (size,) = struct.unpack_from("<H", raw, at)
                at += 2
                name = raw[at : at + size]
                if len(name) < size:
                    raise CorruptRecord("not a vector clock: it is shorter than it declares")
                actor = name.decode()
                at += size
            elif kind == 0:
                (actor,) = struct.unpack_from("<Q", raw, at)
                at += 8
            else:
                raise CorruptRecord("not a vector clock: it holds an actor of unknown kind")
            triples.append((actor, counter, time_ms))
        clock = VectorClock.from_pairs(triples)
    except (struct.error, UnicodeDecodeError, InvalidRequest):
        raise CorruptRecord("not a vector clock: it is damaged") from None
    if version != 1 or at != len(raw) or clock.encode() != raw:
        raise CorruptRecord("not a vector clock: it is not in canonical form")
    return clock
