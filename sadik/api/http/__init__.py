"""The HTTP face of a node."""

from __future__ import annotations

from sadik.api.http.limits import HttpLimits
from sadik.api.http.server import HttpServer

__all__ = ["HttpLimits", "HttpServer"]
