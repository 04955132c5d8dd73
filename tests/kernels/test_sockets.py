"""Sending to many sockets at once: the kernel and its plain twin."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sadik.kernels.native import sockets as native
from sadik.kernels.reference import sockets as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


@TWINS
def test_each_part_goes_to_its_socket(twin: Any, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """One reply each, in one call."""
    parts = [b"one", b"two\x00", b"three"]
    assert twin.send_many([left.fileno() for left, _ in pairs], parts) == []
    assert [right.recv(100) for _, right in pairs] == parts
    assert twin.send_many([], []) == []


@TWINS
def test_a_socket_without_room_takes_a_part_and_never_blocks(
    twin: Any, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    """A client that does not read must not stop the others, blocking socket or not."""
    descriptors = [left.fileno() for left, _ in pairs]
    big = bytes(1 << 22)
    ((index, sent),) = twin.send_many(descriptors, [b"a", big, b"c"])
    assert index == 1
    assert 0 < sent < len(big)
    # Full by now: nothing more is taken.
    assert twin.send_many(descriptors[1:2], [b"more"]) == [(0, 0)]
    assert pairs[2][1].recv(10) == b"c"


@TWINS
def test_a_socket_that_is_gone_is_reported_and_raises_no_signal(
    twin: Any, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    """The transport meets the error again when it sends the rest."""
    pairs[0][1].close()
    descriptors = [left.fileno() for left, _ in pairs]
    assert twin.send_many(descriptors, [b"x", b"y", b"z"]) == [(0, 0)]
    pairs[1][0].close()
    assert twin.send_many([descriptors[1]], [b"x"]) == [(0, 0)]


@TWINS
def test_bad_arguments_are_refused(twin: Any) -> None:
    with pytest.raises(ValueError, match="descriptors"):
        twin.send_many([1], [])
    for part in (None, "text", bytearray(b"x")):
        with pytest.raises(TypeError):
            twin.send_many([-1], [part])
