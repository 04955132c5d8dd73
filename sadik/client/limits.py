"""Every limit and time of a client, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sadik.errors import InvalidRequest

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in milliseconds; all positive.

    Attributes:
        timeout_ms: One call, all its attempts together. Longer than what a node gives a request by default,
            so that the node's answer ("refused", "unknown") arrives rather than nothing.
        attempt_timeout_ms: A read whose node says nothing at all for so long is tried at another one. A write
            never is: it may have been applied.
        connect_timeout_ms: To open a connection, hello included.
        refresh_interval_ms: Age at which the layout is asked for again (Dynamo 6.4).
        connections_max: Connections to one node. A node answers the requests of a connection one after
            another, so this is how many of them wait for other nodes at a time.
        in_flight_max: Requests to one node that are not answered yet; further ones wait their turn.
        unsent_bytes_max: Bytes that one connection holds for a node that does not read; further requests
            wait.
        session_keys_max: Keys of which a session remembers what it has seen; of the one not used for the
            longest it knows nothing any more.
        value_bytes_max: A longer value is refused here: beyond a node's own limit on what it reads, it would
            only cost the connection.
        reply_bytes_max: A longer reply ends its connection. All siblings of a key have at most 64 MiB, unless
            the nodes are configured otherwise.
    """

    timeout_ms: int = 10_000
    attempt_timeout_ms: int = 1_000
    connect_timeout_ms: int = 1_000
    refresh_interval_ms: int = 10_000
    connections_max: int = 8
    in_flight_max: int = 1_024
    unsent_bytes_max: int = 4 * MIB
    session_keys_max: int = 10_000
    value_bytes_max: int = 64 * MIB
    reply_bytes_max: int = 128 * MIB

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) is not int or value < 1:
                raise InvalidRequest(f"{item.name} must be a positive whole number, not {value!r}")
