"""File descriptors: every connection takes one, and storage must never be short of them.

A flood of connections that uses up the process's descriptors would stop the log too: its next segment could
not be opened. So the limit is raised as far as the system allows, and where that is not enough for the
connections configured, fewer are accepted.
"""

from __future__ import annotations

import dataclasses
import logging
import resource
from typing import Final

from sadik.config import NodeConfig

log = logging.getLogger("sadik.descriptors")

RESERVE: Final = 64
"""For all that is no connection: segments being written, synced and compacted, listeners, the event loop."""


def raise_limit(config: NodeConfig) -> NodeConfig:
    """Raise the soft limit to what ``config`` needs; returns ``config`` with as many connections as fit."""
    needed = config.resp.connections_max + config.http.connections_max + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return config
    granted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    return fit(config, granted)


def fit(config: NodeConfig, descriptors: int) -> NodeConfig:
    """``config`` with no more connections than ``descriptors`` leave; an eighth of them are for HTTP."""
    room = descriptors - RESERVE
    if config.resp.connections_max + config.http.connections_max <= room:
        return config
    http = max(1, min(config.http.connections_max, room // 8))
    resp = max(1, min(config.resp.connections_max, room - http))
    log.warning(
        "the system allows %d open files: at most %d Redis and %d HTTP connections", descriptors, resp, http
    )
    return dataclasses.replace(
        config,
        resp=dataclasses.replace(config.resp, connections_max=resp),
        http=dataclasses.replace(config.http, connections_max=http),
    )
