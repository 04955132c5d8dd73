"""A connection after a protocol error: the error arrives, and the socket is not kept for ever."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sadik.api.resp.connection import Connection
from sadik.api.resp.server import RespServer
from sadik.kernels import resp

TICKS_MAX = 30


class Transport(asyncio.Transport):
    """Keeps in order what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return "close" in self.done

    def write(self, data: Any) -> None:
        self.done.append(bytes(data))

    def write_eof(self) -> None:
        if "eof" not in self.done:
            self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")


class Counter:
    value = 0


class Server:
    """As much of a server as a connection without input needs."""

    def __init__(self) -> None:
        self.bytes_out = Counter()
        self.line = resp.Line(lambda: None, lambda: None)

    def new_lane(self, connection: Connection) -> resp.Lane:
        lane = resp.Lane(1 << 20, 1 << 20)
        lane.attach(connection, self.line)
        return lane

    def opened(self, connection: Connection) -> None: ...


@pytest.fixture
def connection() -> Connection:
    connection = Connection(cast("RespServer", Server()))
    connection.connection_made(Transport())
    return connection


def done(connection: Connection) -> list[Any]:
    return cast("Transport", connection.transport).done


def test_input_after_the_error_is_dropped_until_the_client_ends(connection: Connection) -> None:
    """Closing with unread input resets the connection; the reset would overtake the error."""
    connection.send(b"-ERR\r\n")
    connection.linger_after_replies()
    for _ in range(3):
        connection.data_received(b"x" * 65536)
    assert done(connection) == [b"-ERR\r\n", "eof"]
    assert len(cast("Server", connection.server).line) == 0
    assert connection.lane.received == connection.lane.buffered() == 0
    # False makes the event loop close the transport.
    assert connection.eof_received() is False


def test_reply_in_flight_comes_before_the_end(connection: Connection) -> None:
    """A connection that is closed by others meanwhile is owed the answer all the same."""
    connection.lane.wait()
    connection.close_after_replies()
    assert done(connection) == []
    connection.send(b"+OK\r\n")
    connection.resume()
    assert done(connection) == [b"+OK\r\n", "close"]


def test_lingering_ends_with_the_first_tick_without_input(connection: Connection) -> None:
    """The error may fall just before a tick, so that one does not count."""
    connection.linger_after_replies()
    connection.linger_tick()
    connection.data_received(b"x")
    connection.linger_tick()
    assert done(connection) == ["eof"]
    connection.linger_tick()
    assert done(connection) == ["eof", "close"]


def test_client_that_never_stops_sending_is_closed(connection: Connection) -> None:
    """A hostile client keeps a socket for half a minute, and no memory."""
    connection.linger_after_replies()
    for tick in range(TICKS_MAX):
        assert "close" not in done(connection), tick
        connection.data_received(b"x")
        connection.linger_tick()
    assert done(connection) == ["eof", "close"]


def test_stopping_node_does_not_wait_for_it(connection: Connection) -> None:
    """A drain closes what lingers as it closes everyone."""
    connection.linger_after_replies()
    connection.close_after_replies()
    assert done(connection) == ["eof", "close"]
