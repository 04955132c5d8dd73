"""Logs: one line an event on standard error, for people or as JSON."""

from __future__ import annotations

import datetime
import logging
import sys

import msgspec

from sadik.config import LogConfig


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = _time(record)
        text = " ".join(record.getMessage().splitlines())
        if record.exc_info:
            text += " | " + " | ".join(self.formatException(record.exc_info).splitlines())
        return f"{when} {record.levelname.lower()} {record.name} {text}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event).decode()


def configure_logging(config: LogConfig) -> None:
    """Send everything of ``config.level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if config.format == "json" else _TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    # One line per request would cost more than the request.
    logging.getLogger("aiohttp.access").disabled = True


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
