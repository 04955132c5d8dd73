"""What nodes say to each other and what they hold, in words: the paper's ``[Sx:2 Sy:1]`` for a clock.

A dot is shown as its node and a number: ``Sy:1`` is the first write of a key that Sy has coordinated. An
apostrophe marks another life of a node, which mints under another actor: ``Sx':1`` comes after ``Sx`` was
restarted. An asterisk marks what a node mints as a stand-in for primaries: ``Sd*:1``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from sadik.comms.messages import REPLY, Failure, Kind
from sadik.errors import ProtocolError
from sadik.kernels import digest, packets, resp, versions
from sadik.kernels.buffers import Buffer
from sadik.node.coordinator.requests import CallRequest
from sadik.node.repair.exchange.messages import decode_question
from sadik.sim.witness import BUCKET, address_of

QUIET: Final = frozenset(
    {
        *(Kind.CHALLENGE, Kind.HELLO, Kind.WELCOME, Kind.REFUSE, Kind.PING, Kind.PONG),
        *(Kind.GOSSIP, Kind.GOSSIP | REPLY, Kind.EXCHANGE, Kind.EXCHANGE | REPLY),
    }
)
"""Kinds that come and go whatever happens; a story tells them only when asked to."""

_REASONS: Final = ("", " (read repair)", " (hint)", " (exchange)")
_STATUSES: Final = ("merged", "known", "invalid", "beyond the limits", "clock", "not stored")
_SHOWN: Final = 40


class Names:
    """Names of nodes, clients and dots.

    Attributes:
        nodes: As the story calls them, by node id.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self._actors: dict[int, str] = {}
        self._lives: Counter[str] = Counter()
        self._stamps: dict[tuple[int, bytes], list[int]] = {}
        self._keys: dict[bytes, bytes] = {}

    def node(self, node: str) -> str:
        """What the story calls a node, or whoever else it is."""
        return self.nodes.get(node, node)

    def meet(self, node: str, actor: int, mark: str = "") -> None:
        """A node mints under this actor."""
        if actor not in self._actors:
            lives = self._lives[node + mark]
            self._lives[node + mark] = lives + 1
            self._actors[actor] = self.node(node) + "'" * lives + mark

    def learn(self, key: bytes) -> None:
        """A key that occurs: frames may carry no more of it than its digest."""
        self._keys[bytes(digest.address_digest(BUCKET, key))] = key

    def key_at(self, place: bytes) -> str:
        """The key with a digest."""
        return text(self._keys.get(place, place))

    def clock(self, key: bytes, entries: Sequence[tuple[int, int]]) -> str:
        """``[Sx:2 Sy:1]``."""
        return f"[{' '.join(sorted(self._dot(key, *entry) for entry in entries))}]"

    def version_set(self, key: bytes, encoded: Buffer) -> str:
        """Its clock, and its values; each with its dot, if there are several."""
        if not memoryview(encoded).nbytes:
            return "nothing"
        entries, values = versions.decode(encoded)
        for one in values:
            self.mint(key, one.actor, one.stamp)
        shown = []
        for one in values:
            word = "(deleted)" if one.flags & versions.TOMBSTONE else text(bytes(one.payload))
            dot = f" ({self._dot(key, one.actor, one.stamp)})" if len(values) > 1 else ""
            shown.append((self._dot(key, one.actor, one.stamp), word + dot))
        return f"{self.clock(key, entries)} {' | '.join(word for _, word in sorted(shown))}".rstrip()

    def mint(self, key: bytes, actor: int, stamp: int) -> None:
        """A dot exists."""
        stamps = self._stamps.setdefault((actor, key), [])
        place = bisect_left(stamps, stamp)
        if place == len(stamps) or stamps[place] != stamp:
            insort(stamps, stamp)

    def _dot(self, key: bytes, actor: int, stamp: int) -> str:
        number = bisect_right(self._stamps.get((actor, key), ()), stamp)
        return f"{self._actors.get(actor, '?')}:{number}"


class Captions:
    """One line for each frame; replies are told from what they answer."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._asked: dict[tuple[str, str, int], list[str]] = {}

    def caption(self, sender: str, receiver: str, kind: int, request: int, payload: bytes) -> str:
        """What a frame says."""
        asked = self._asked.pop((receiver, sender, request), []) if kind & REPLY else []
        try:
            words, keys = self._words(kind, payload, asked)
        except (ProtocolError, msgspec.DecodeError) as error:
            return f"{_name(kind)}: {error}"
        if not kind & REPLY:
            self._asked[sender, receiver, request] = keys
        return words

    def _words(self, kind: int, payload: bytes, asked: list[str]) -> tuple[str, list[str]]:
        match kind:
            case Kind.SETS | Kind.HINTED:
                return self._sets(kind, payload)
            case Kind.READS:
                return self._reads(payload)
            case Kind.FORWARD:
                keys, words = zip(*self._operations(payload), strict=True)
                return f"FORWARD {', '.join(words)}", list(keys)
            case Kind.CALL:
                arguments = msgspec.msgpack.decode(payload, type=CallRequest).arguments
                shown = " ".join(text(one) for one in arguments[:2])
                return f"CALL {shown}", [shown]
            case Kind.EXCHANGE:
                return f"EXCHANGE {type(decode_question(payload)).__name__}", []
            case Kind.ERROR:
                return f"ERROR {msgspec.msgpack.decode(payload, type=Failure).message}", []
        return f"{_name(kind)}{self._answer(kind & ~REPLY, payload, asked)}", []

    def _answer(self, kind: int, payload: bytes, asked: list[str]) -> str:
        """What a reply says of each key that was asked for."""
        if kind in (Kind.SETS, Kind.HINTED):
            words = [_STATUSES[status] for status in payload] or ["stored" for _ in asked]
        elif kind == Kind.READS:
            words = list(self._holdings(payload, asked)) or ["the same" for _ in asked]
        else:
            return f": {', '.join(asked)}" if asked else ""
        return ": " + ", ".join(f"{key} {word}" for key, word in zip(asked, words, strict=False))

    def _sets(self, kind: int, payload: bytes) -> tuple[str, list[str]]:
        sets = packets.decode_sets([payload])
        names, lengths = _numbers(sets.name_starts), _numbers(sets.name_lengths)
        starts, sizes = _numbers(sets.set_starts), _numbers(sets.set_lengths)
        keys, words = [], []
        for index in range(sets.total):
            key = address_of(sets.data[names[index] : names[index] + lengths[index]])[1]
            self._names.learn(key)
            encoded = sets.data[starts[index] : starts[index] + sizes[index]]
            keys.append(text(key))
            words.append(f"{text(key)} {self._names.version_set(key, encoded)}")
        owner = f" for {self._names.node(sets.owners[0].decode())}" if kind == Kind.HINTED else ""
        why = "" if owner else _REASONS[sets.reasons[0]]
        return f"{_name(kind)}{owner} {'; '.join(words)}{why}", keys

    def _reads(self, payload: bytes) -> tuple[str, list[str]]:
        count = int.from_bytes(payload[:4], "little")
        prints = _numbers(payload[8 + 16 * count :])
        keys = [self._names.key_at(payload[8 + 16 * index : 24 + 16 * index]) for index in range(count)]
        own = ["" if prints[index] else " (has nothing)" for index in range(count)]
        return "READS " + ", ".join(key + held for key, held in zip(keys, own, strict=True)), keys

    def _holdings(self, payload: bytes, asked: list[str]) -> Iterator[str]:
        """Of a reply to READS: statuses, lengths, and the sets that are different."""
        count = len(payload) and len(asked)
        at = 5 * count
        for index in range(count):
            size = int.from_bytes(payload[count + 4 * index :][:4], "little")
            encoded = payload[at : at + size]
            at += size
            if payload[index] == 1:
                yield self._names.version_set(asked[index].encode(), encoded)
            else:
                yield ("the same", "", "unreadable")[payload[index]]

    def _operations(self, payload: bytes) -> Iterator[tuple[str, str]]:
        many = packets.decode_operations(payload)
        names, lengths = _numbers(many.name_starts), _numbers(many.name_lengths)
        starts, sizes = _numbers(many.payload_starts), _numbers(many.payload_lengths)
        for index in range(many.total):
            key = address_of(many.data[names[index] : names[index] + lengths[index]])[1]
            self._names.learn(key)
            value = many.data[starts[index] : starts[index] + sizes[index]]
            is_set = many.kinds[index] == resp.SET
            yield text(key), f"SET {text(key)} {text(value)}" if is_set else f"GET {text(key)}"


def text(raw: bytes) -> str:
    """Bytes as one word of a story."""
    shown = raw[:_SHOWN].decode("utf-8", "backslashreplace")
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in shown)
    return (shown + ("..." if len(raw) > _SHOWN else "")) or '""'


def _name(kind: int) -> str:
    known = Kind(kind & ~REPLY).name
    return f"{known} reply" if kind & REPLY else known


def _numbers(data: Buffer) -> memoryview:
    return memoryview(data).cast("B").cast("q")
