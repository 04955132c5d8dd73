"""The OpenAPI 3.1 document of the HTTP face, as ``/openapi.json`` serves it. A test holds every answer
against it.
"""

from __future__ import annotations

from typing import Final

from sadik import __version__
from sadik.api.http import bodies, openapi_cluster, problems
from sadik.api.http.limits import HttpLimits
from sadik.api.http.paths import Route

Json = dict[str, object]

_JSON: Final = "application/json"
_NAME_NOTE: Final = "Any bytes, percent-encoded. "


def document(limits: HttpLimits) -> Json:
    """The whole document, ready to be encoded."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sadik",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": (
                "An eventually consistent key-value store. A read gives every concurrent value (sibling) of "
                "a key and a "
                "context; a write that hands the context back replaces exactly what that read saw, and a "
                "write without "
                "one becomes a sibling. Buckets and keys are any bytes, percent-encoded in paths and in "
                "JSON. Errors are "
                "problem documents (RFC 9457)."
            ),
        },
        "security": [{"bearer": []}, {"basic": []}, {}],
        "paths": {
            Route.VALUE.template: _value(limits),
            Route.KEYS.template: _keys(),
            Route.BUCKETS.template: _simple("List buckets", "BucketList", loading=True),
            Route.BUCKET.template: _bucket(),
            Route.STATUS.template: _simple("Facts of this node", "Facts"),
            **openapi_cluster.paths(),
            Route.HEALTH.template: _simple(
                "Whether the process lives; always open", "State", open_to_all=True
            ),
            Route.READY.template: _simple(
                "Whether requests can be served; always open", "State", loading=True, open_to_all=True
            ),
            Route.METRICS.template: _text(
                "Metrics for Prometheus; `Accept` chooses its text format or OpenMetrics",
                "text/plain",
                "application/openmetrics-text",
            ),
            Route.OPENAPI.template: _simple("This document", "Facts"),
            Route.INDEX.template: _text(
                "A page for people", "text/html", errors=("400", "401", "405", "500")
            ),
        },
        "components": {
            "schemas": _schemas() | openapi_cluster.schemas(),
            "parameters": _parameters(),
            "headers": _headers(),
            "responses": {
                "Problem": {
                    "description": "What is wrong, whose fault it is, and whether anything was changed.",
                    "content": {problems.MEDIA_TYPE: {"schema": _schema("Problem")}},
                }
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The node's secret."},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Any user name; the secret as password.",
                },
            },
        },
    }


def _value(limits: HttpLimits) -> Json:
    read_errors = ("400", "401", "404", "405", "500", "503")
    write_errors = ("400", "401", "405", "417", "422", "500", "503", "507")
    read: Json = {
        "summary": "Read a key",
        "description": (
            "One value: 200 with the value as it was written. Siblings: 300 `multipart/mixed`, newest first. "
            "With "
            "`Accept: application/json` always the JSON shape. Nothing: 404 with the context of a delete, if "
            "there was "
            "one. With `explain=1`: where the key lives and which node has which version."
        ),
        "parameters": [
            *_option_parameters("r", "pr", "timeout_ms"),
            _parameter("explain"),
            _parameter("if_none_match"),
        ],
        "responses": {
            "200": {
                "description": "The one value, or with `explain` where it lives.",
                "headers": _header_references("context", "stamp", "expires", "etag"),
                "content": {
                    "*/*": {"schema": {"description": "The value's bytes, with its own content type."}},
                    _JSON: {"schema": {"anyOf": [_schema("Siblings"), _schema("Explanation")]}},
                },
            },
            "300": {
                "description": "Siblings: concurrent values, none of which has seen another.",
                "headers": _header_references("context", "etag"),
                "content": {
                    "multipart/mixed": {
                        "schema": {
                            "description": "One part per value, with its content type and headers of its own."
                        }
                    },
                    _JSON: {"schema": _schema("Siblings")},
                },
            },
            "304": {
                "description": "Unchanged since the entity tag.",
                "headers": _header_references("context", "etag"),
            },
            **_problems(*read_errors),
        },
    }
    written: Json = {"description": "Done.", "headers": _header_references("context")}
    return {
        "parameters": [_parameter("bucket"), _parameter("key")],
        "get": {"operationId": "readValue", **read},
        "head": {"operationId": "readValueHead", **read},
        "put": {
            "operationId": "writeValue",
            "summary": "Write a key",
            "description": (
                f"Replaces what the context in `{bodies.CONTEXT_HEADER}` saw; without one the value becomes "
                f"a sibling of "
                "what is there. The answer has the new context, but not where siblings remain that the "
                "context did not "
                f"cover. Headers `{bodies.METADATA_PREFIX}*` are kept with the value."
            ),
            "parameters": [_parameter("context"), *_option_parameters("w", "pw", "timeout_ms", "ttl_ms")],
            "requestBody": {
                "description": f"The value, at most {limits.value_bytes_max} bytes, of any content type.",
                "content": {"*/*": {"schema": {}}},
            },
            "responses": _with_problems({"204": written}, *write_errors, "408", "413", "415"),
        },
        "delete": {
            "operationId": "deleteValue",
            "summary": "Delete a key",
            "description": "Records a delete of what the context saw; without one, a delete beside what is "
            "there.",
            "parameters": [_parameter("context"), *_option_parameters("w", "pw", "timeout_ms")],
            "responses": _with_problems({"204": written}, *(e for e in write_errors if e != "417")),
        },
    }


def _keys() -> Json:
    read = _read("List keys of a bucket", _JSON, "KeyPage", errors=("400", "401", "405", "500", "503"))
    read["description"] = (
        "Keys in digest order. `count` is how many are looked at: a page may have fewer, even none, and is "
        "the last only when "
        "its cursor is null. Keys that are there all the time are listed exactly once."
    )
    read["parameters"] = [_parameter("cursor"), _parameter("count")]
    return {"parameters": [_parameter("bucket")], **_get_and_head("listKeys", read)}


def _bucket() -> Json:
    read = _read(
        "Properties of a bucket", _JSON, "BucketProperties", errors=("400", "401", "405", "500", "503")
    )
    return {
        "parameters": [_parameter("bucket")],
        **_get_and_head("readProperties", read),
        "put": {
            "operationId": "writeProperties",
            "summary": "Replace the properties of a bucket",
            "description": "The whole document: what is left out takes its default. Unknown members are "
            "refused.",
            "requestBody": {"required": True, "content": {_JSON: {"schema": _schema("BucketProperties")}}},
            "responses": {
                "200": {
                    "description": "The properties as they are now.",
                    "content": {_JSON: {"schema": _schema("BucketProperties")}},
                },
                **_problems("400", "401", "405", "408", "413", "415", "417", "422", "500", "503", "507"),
            },
        },
    }


def _simple(summary: str, schema: str, *, loading: bool = False, open_to_all: bool = False) -> Json:
    errors = ["400", "405", "500"] if not open_to_all else ["405", "500"]
    errors += ["503"] if loading else []
    errors += [] if open_to_all else ["401"]
    read = _read(summary, _JSON, schema, errors=tuple(sorted(errors)))
    if open_to_all:
        read["security"] = [{}]
    return _get_and_head(schema[0].lower() + schema[1:] + "Of" + _slug(summary), read)


def _text(summary: str, *media_types: str, errors: tuple[str, ...] = ("401", "405", "500")) -> Json:
    content = {kind: {"schema": {"type": "string"}} for kind in media_types}
    good: Json = {"description": summary, "content": content}
    read: Json = {"summary": summary, "responses": {"200": good, **_problems(*errors)}}
    return _get_and_head("text" + _slug(summary), read)


def _read(summary: str, media_type: str, schema: str, *, errors: tuple[str, ...]) -> Json:
    good: Json = {"description": summary, "content": {media_type: {"schema": _schema(schema)}}}
    responses: Json = {"200": good, **_problems(*errors)}
    return {"summary": summary, "responses": responses}


def _get_and_head(operation: str, read: Json) -> Json:
    return {"get": {"operationId": operation, **read}, "head": {"operationId": operation + "Head", **read}}


def _slug(summary: str) -> str:
    return "".join(word.capitalize() for word in summary.split(";")[0].split() if word.isalpha())


def _problems(*statuses: str) -> dict[str, object]:
    return {status: {"$ref": "#/components/responses/Problem"} for status in statuses}


def _with_problems(responses: Json, *statuses: str) -> Json:
    return {**responses, **_problems(*statuses)}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _option_parameters(*names: str) -> list[Json]:
    return [_parameter(name) for name in names]


def _header_references(*names: str) -> Json:
    titles = {
        "context": bodies.CONTEXT_HEADER,
        "stamp": bodies.STAMP_HEADER,
        "expires": bodies.EXPIRES_HEADER,
        "etag": "ETag",
    }
    return {titles[name]: {"$ref": f"#/components/headers/{name}"} for name in names}


def _headers() -> Json:
    return {
        "context": {
            "description": "Opaque; hand it back with the write that follows.",
            "schema": {"type": "string"},
        },
        "stamp": {
            "description": "When the value was written, Unix milliseconds.",
            "schema": {"type": "integer"},
        },
        "expires": {
            "description": "When it ends, Unix milliseconds; absent: never.",
            "schema": {"type": "integer"},
        },
        "etag": {"description": "Names these values in this form.", "schema": {"type": "string"}},
    }


def _parameters() -> Json:
    positive: Json = {"type": "integer", "minimum": 1}

    def query(name: str, description: str, schema: Json) -> Json:
        return {"name": name, "in": "query", "description": description, "schema": schema}

    def path(name: str, description: str) -> Json:
        return {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": {"type": "string", "minLength": 1},
        }

    def header(name: str, description: str) -> Json:
        return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}

    return {
        "bucket": path("bucket", _NAME_NOTE + "1 to 255 bytes."),
        "key": path("key", _NAME_NOTE + "1 to 65535 bytes; a bare slash is part of the key."),
        "r": query("r", "Replies a read waits for; at most the replicas there are.", positive),
        "w": query("w", "Acknowledgements a write waits for.", positive),
        "pr": query("pr", "The same as r, counting primaries only.", positive),
        "pw": query("pw", "The same as w, counting primaries only.", positive),
        "timeout_ms": query("timeout_ms", "After this time the answer is 503.", positive),
        "ttl_ms": query("ttl_ms", "Time to live of the value.", positive),
        "explain": query(
            "explain", "Where the key lives, instead of its value.", {"enum": ["", "1", "true", "0", "false"]}
        ),
        "cursor": query("cursor", "The cursor of the page before; left out to start.", {"type": "string"}),
        "count": query(
            "count", "Keys to look at.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
        ),
        "context": header(bodies.CONTEXT_HEADER, "The context of the read this write follows."),
        "if_none_match": header("If-None-Match", "Entity tags for which 304 is answered."),
    }


def _object(properties: Json, *, required: list[str] | None = None, extra: bool = False) -> Json:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": extra}


def _schemas() -> Json:
    text: Json = {"type": "string"}
    integer: Json = {"type": "integer"}
    hexadecimal: Json = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    names: Json = {"type": "array", "items": {"type": "string", "minLength": 1}}
    maybe_integer: Json = {"type": ["integer", "null"]}
    sibling = _object(
        {
            "value": {"type": "string", "contentEncoding": "base64"},
            "content_type": text,
            "stamp_ms": integer,
            "expires_at_ms": maybe_integer,
            "metadata": {"type": "object", "additionalProperties": text},
        },
        required=["value", "content_type", "stamp_ms", "expires_at_ms"],
    )
    replica = _object(
        {
            "node": text,
            "role": {"enum": ["primary", "fallback"]},
            "up": {"type": "boolean"},
            "state": {
                "enum": ["stored", "absent", "error", "hinted", "unknown"],
                "description": "Hinted: kept for another node. Unknown: the node does not answer.",
            },
            "entries": {"type": "array", "items": _object({"actor": hexadecimal, "stamp": hexadecimal})},
            "siblings": integer,
            "bytes": integer,
        }
    )
    return {
        "Sibling": sibling,
        "Siblings": _object(
            {"context": text, "siblings": {"type": "array", "items": _schema("Sibling"), "minItems": 1}}
        ),
        "Replica": replica,
        "Explanation": _object(
            {
                "bucket": text,
                "key": text,
                "digest": text,
                "token": hexadecimal,
                **dict.fromkeys(("partition", "n", "r", "w"), integer),
                "replicas": {"type": "array", "items": _schema("Replica")},
            }
        ),
        "KeyPage": _object({"keys": names, "cursor": {"type": ["string", "null"]}}),
        "BucketList": _object({"buckets": names}),
        "BucketProperties": _object(
            {
                "n": {"type": "integer", "minimum": 1, "maximum": 16},
                **dict.fromkeys(("r", "w", "pr", "pw", "ttl_ms"), maybe_integer),
                "lww": {"type": "boolean"},
                "siblings_max": {"type": "integer", "minimum": 1, "maximum": 64},
            },
            required=[],
        ),
        "Facts": {"type": "object"},
        "State": _object({"status": {"enum": ["ok", "ready"]}}),
        "Problem": _object(
            {
                "type": text,
                "title": text,
                "status": integer,
                "detail": text,
                "code": {"type": "string", "description": "Stable; for programs."},
                "outcome": {
                    "enum": ["refused", "unknown"],
                    "description": "Refused: nothing was changed. Unknown: a write may have been applied.",
                },
                "required": integer,
                "received": integer,
                "replicas": {
                    "type": "array",
                    "description": "Of each replica that did not count, why.",
                    "items": _object({"node": text, "reason": text}),
                },
                "context": text,
                "siblings": {"type": "array", "maxItems": 0},
            },
            required=["type", "title", "status", "detail", "code"],
        ),
    }
