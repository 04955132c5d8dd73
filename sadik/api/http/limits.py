"""Every limit of the HTTP face, with its reason. Reaching one is an answer, never a crash or a growing "
"queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sadik.config import NodeConfig

BUCKET_BYTES_MAX: Final = 255
KEY_BYTES_MAX: Final = 65535
METADATA_BYTES_MAX: Final = 8 << 10
"""Content type and user metadata of one value, encoded: stored and sent with every replica of the value."""

HEADERS_MAX: Final = 64

PIPELINE_MAX: Final = 4
"""Requests parsed ahead of the one being answered, per connection. Each may hold the longest key, escaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one HTTP server allows.

    Attributes:
        connections_max: Open connections; one more is answered 503 and closed.
        line_bytes_max, field_bytes_max: The request line; one header field.
        value_bytes_max: Body of a PUT of a value.
        document_bytes_max: Body of any other request.
        transfer_bytes_max: Bodies being received or sent, all connections together; beyond it requests are
            answered 503. One body is always let through, so a limit below ``value_bytes_max`` still works.
        request_timeout_s: From the first byte of a request to the end of its head; and the same again, plus
            the body's size at ``transfer_bytes_s_min``, for a body in either direction. So a client that
            trickles is cut off, and a big value on a slow line is not.
        idle_timeout_s: Without a request in progress.
        linger_s: How long what a refused client still sends is read and dropped, so that it can read the
            answer.
    """

    connections_max: int = 1024
    line_bytes_max: int = 256 << 10
    field_bytes_max: int = 16 << 10
    value_bytes_max: int = 16 << 20
    document_bytes_max: int = 64 << 10
    transfer_bytes_max: int = 256 << 20
    request_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    transfer_bytes_s_min: int = 64 << 10
    linger_s: float = 2.0

    @property
    def head_bytes_max(self) -> int:
        """A request's line and headers together."""
        return self.line_bytes_max + 4 * self.field_bytes_max

    @classmethod
    def of(cls, config: NodeConfig) -> HttpLimits:
        """The limits that an operator has set; the rest as above."""
        http = config.http
        return cls(
            connections_max=http.connections_max,
            line_bytes_max=http.line_bytes_max,
            field_bytes_max=http.header_bytes_max,
            value_bytes_max=config.limits.value_bytes_max,
            request_timeout_s=http.request_timeout_ms / 1000,
            idle_timeout_s=http.idle_timeout_ms / 1000,
        )
