"""What the HTTP face counts. Labels have fixed values: routes, known methods, and classes of status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from sadik.api.http.paths import Route
from sadik.metrics import SECONDS, Registry

_METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE")
_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")


class HttpInstruments:
    """Declares the instruments of one HTTP server in a node's registry.

    Args:
        connections: The number of open connections, asked for at every scrape.
    """

    def __init__(
        self, registry: Registry, connections: Callable[[], int], transfer_bytes: Callable[[], int]
    ) -> None:
        self._requests = registry.counter(
            "sadik_http_requests_total", "HTTP requests answered.", ("route", "method", "status")
        )
        self._seconds = registry.histogram(
            "sadik_http_request_seconds",
            "Time from a request's head to its answer, sending apart.",
            SECONDS,
            ("route",),
        )
        self.received_bytes = registry.counter(
            "sadik_http_received_bytes_total", "Bytes of request bodies taken."
        ).child
        self.sent_bytes = registry.counter("sadik_http_sent_bytes_total", "Bytes of response bodies.").child
        self.refused = registry.counter(
            "sadik_http_connections_refused_total", "Connections closed at once because all were in use."
        ).child
        self.late = registry.counter(
            "sadik_http_late_heads_total", "Connections closed because a request's head came too slowly."
        ).child
        self.malformed = registry.counter("sadik_http_malformed_total", "Requests that were not HTTP.").child
        self.cut_off = registry.counter(
            "sadik_http_answers_cut_off_total", "Answers whose client went away or did not read in time."
        ).child
        registry.gauge_function(
            "sadik_http_connections", "Open HTTP connections.", lambda: float(connections())
        )
        registry.gauge_function(
            "sadik_http_transfer_bytes",
            "Bytes of bodies being received or sent.",
            lambda: float(transfer_bytes()),
        )

    def count(self, route: Route | None, method: str, response: web.Response, seconds: float) -> None:
        """Count one answer."""
        name = "unknown" if route is None else route.name.lower()
        known = method if method in _METHODS else "other"
        self._requests.labels(name, known, _CLASSES[response.status // 100 - 1]).add()
        self._seconds.labels(name).observe(seconds)
        if method != "HEAD" and isinstance(response.body, bytes | bytearray):
            self.sent_bytes.add(len(response.body))
