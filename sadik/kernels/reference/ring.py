"""Plain twin of the ring kernel: bisection, one whole turn of the ring, the placing rule as it is said."""

from __future__ import annotations

import operator
import struct
import sys
from bisect import bisect_left
from typing import Final

from sadik.kernels.buffers import Buffer

NO_NODE: Final = 0xFFFFFFFF
LIST_MAX: Final = 1 << 20


def _items(source: Buffer, letter: str, name: str, *, least: int = 0) -> list[int]:
    data = bytes(memoryview(source))
    size = struct.calcsize(letter)
    if len(data) % size or len(data) < least * size:
        raise ValueError(f"{name} has {len(data)} bytes")
    return list(struct.unpack(f"<{len(data) // size}{letter}", data))


def _number(value: int, low: int, high: int, name: str) -> int:
    value = operator.index(value)
    if abs(value) > sys.maxsize:
        raise OverflowError(f"{name} is out of range")
    if not low <= value <= high:
        raise ValueError(f"{name} is {low} to {high}, not {value}")
    return value


class Ring:
    def __init__(
        self, tokens: Buffer, owners: Buffer, hosts: Buffer, zones: Buffer, partition_bits: int = 64
    ) -> None:
        self._partition_bits = _number(partition_bits, 0, 64, "partition_bits")
        self._tokens = _items(tokens, "Q", "tokens", least=1)
        self._owners = _items(owners, "I", "owners", least=1)
        self._hosts = _items(hosts, "I", "hosts", least=1)
        self._zones = _items(zones, "I", "zones", least=1)
        if len(self._tokens) != len(self._owners) or len(self._hosts) != len(self._zones):
            raise ValueError("lengths do not match")
        if any(left >= right for left, right in zip(self._tokens, self._tokens[1:], strict=False)):
            raise ValueError("tokens must be strictly increasing")
        if any(owner >= len(self._hosts) for owner in self._owners):
            raise ValueError("an owner is not a node")
        self.token_count = len(self._tokens)
        self.node_count = len(self._hosts)

    def position(self, token: int, /) -> int:
        token = operator.index(token)
        if not 0 <= token < 2**64:
            raise OverflowError("token is out of range")
        width = 2 ** (64 - self._partition_bits)
        end = (token // width + 1) * width - 1
        return bisect_left(self._tokens, end) % self.token_count

    def owner(self, token: int, /) -> int:
        return self._owners[self.position(token)]

    def owner_many(self, count: int, tokens: Buffer, out: Buffer) -> None:
        batch = self._batch(count, tokens)
        self._put(out, count, 0, [])
        for i, token in enumerate(batch):
            self._put(out, count, i, [self.owner(token)])

    def preference(self, token: int, n: int, up: Buffer | None = None) -> tuple[int, ...]:
        position = self.position(token)
        n = _number(n, 1, LIST_MAX, "n")
        alive = self._alive(up)
        return tuple(node for node in self._order(position) if alive[node])[:n]

    def preference_many(
        self, count: int, tokens: Buffer, n: int, out: Buffer, up: Buffer | None = None
    ) -> None:
        batch = self._batch(count, tokens)
        n = _number(n, 1, LIST_MAX, "n")
        self._put(out, count * n, 0, [])
        self._alive(up)
        for i, token in enumerate(batch):
            nodes = self.preference(token, n, up)
            self._put(out, count * n, i * n, [*nodes, *[NO_NODE] * (n - len(nodes))])

    def _order(self, position: int) -> list[int]:
        clockwise = self._owners[position:] + self._owners[:position]
        waiting = list(dict.fromkeys(clockwise))
        order: list[int] = []
        while waiting:
            hosts = [self._hosts[node] for node in order]
            zones = [self._zones[node] for node in order]
            # min gives the first of equals, which is the nearest clockwise.
            best = min(
                waiting, key=lambda node: (hosts.count(self._hosts[node]), zones.count(self._zones[node]))
            )
            waiting.remove(best)
            order.append(best)
        return order

    def _alive(self, up: Buffer | None) -> list[bool]:
        if up is None:
            return [True] * self.node_count
        flags = bytes(memoryview(up))
        if len(flags) < self.node_count:
            raise ValueError(f"up has {len(flags)} bytes, {self.node_count} are needed")
        return [flag != 0 for flag in flags]

    def _batch(self, count: int, tokens: Buffer) -> list[int]:
        count = _number(count, 0, 1 << 40, "count")
        data = bytes(memoryview(tokens))
        if len(data) < 8 * count:
            raise ValueError(f"tokens has {len(data)} bytes, {8 * count} are needed")
        return list(struct.unpack(f"<{count}Q", data[: 8 * count]))

    @staticmethod
    def _put(out: Buffer, need: int, index: int, nodes: list[int]) -> None:
        view = memoryview(out)
        if view.readonly:
            raise BufferError("out is read-only")
        if view.nbytes < 4 * need:
            raise ValueError(f"out has {view.nbytes} bytes, {4 * need} are needed")
        # An empty array cannot be cast, and need not be.
        if nodes:
            struct.pack_into(f"<{len(nodes)}I", view.cast("B"), 4 * index, *nodes)
