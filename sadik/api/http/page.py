"""The page a person sees who opens the node's address in a browser: what it is, how it does, where to go
on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 "
    "1rem;color:#222;background:#fff}"
    "h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}"
    "td{padding:.15rem .6rem .15rem 0;border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}"
    "td:first-child{color:#666;white-space:nowrap}code,pre{background:#f3f3f3;padding:.1rem .3rem}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td{border-color:#333}"
    "code,pre{background:#262626}a{color:#8bf}}"
)

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""Content-Security-Policy of the page: it loads nothing and runs nothing."""


def render(version: str, ready: bool, status: Mapping[str, object]) -> bytes:
    """The page as UTF-8; every fact is escaped."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in _flatten(status)
    )
    state = "ready" if ready else "starting"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sadik</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><h1>Sadik {escape(version)}: this node is {state}</h1>"
        '<p><a href="/v1/status">status</a> · <a href="/v1/members">members</a> · '
        '<a href="/v1/layout">layout</a> · <a href="/v1/buckets">buckets</a> · '
        '<a href="/metrics">metrics</a> · <a href="/openapi.json">OpenAPI document</a></p>'
        "<pre>curl -X PUT --data-binary hello http://HOST:PORT/v1/kv/demo/greeting\n"
        "curl -i http://HOST:PORT/v1/kv/demo/greeting</pre>"
        f"<table>{rows}</table></body></html>\n"
    ).encode()


def _flatten(facts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, fact in facts.items():
        if isinstance(fact, Mapping):
            yield from _flatten(fact, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(fact)
