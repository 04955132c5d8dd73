"""The part of the OpenAPI document that describes the cluster's administration."""

from __future__ import annotations

from typing import Final

from sadik.api.http.cluster import WAIT_MS_DEFAULT, WAIT_MS_MAX
from sadik.api.http.paths import Route

Json = dict[str, object]

_JSON: Final = "application/json"
_TEXT: Final[Json] = {"type": "string"}
_INTEGER: Final[Json] = {"type": "integer"}
_NUMBER: Final[Json] = {"type": "number"}
_YES_OR_NO: Final[Json] = {"type": "boolean"}
_READ_ERRORS: Final = ("400", "401", "404", "405", "500", "503")
_WRITE_ERRORS: Final = (*_READ_ERRORS, "408", "413", "415", "417")


def paths() -> Json:
    """Routes of administration, by path."""
    layout = _read("readLayout", "Which node holds what, and what is staged", "Layout")
    commit = _order(
        "commitLayout",
        "Make the plan the layout",
        "CommitOrder",
        "Layout",
        "409",
        note="`version` names the plan that was looked at. Needs a majority of the current layout's nodes, "
        "or `force`.",
    )
    revert: Json = {
        "operationId": "revertLayout",
        "summary": "Take back what is staged",
        "responses": _responses("The plan without it.", "Plan", *_READ_ERRORS),
    }
    wait = _order(
        "waitForHints",
        "Wait until the hints of now are delivered",
        "WaitOrder",
        "Hints",
        note="503 when the time is over and some are not.",
    )
    return {
        Route.MEMBERS.template: _read("readMembers", "Everybody the cluster knows of", "Members"),
        Route.LAYOUT.template: layout,
        Route.PLAN.template: _read("readPlan", "What a commit would do now", "Plan"),
        Route.STAGE.template: {
            "post": _order("stageChange", "Stage a change of the layout", "Change", "Plan"),
            "delete": revert,
        },
        Route.COMMIT.template: {"post": commit},
        Route.HINTS.template: _read("readHints", "Hints that this node keeps for others", "Hints"),
        Route.HINTS_WAIT.template: {"post": wait},
        Route.REPAIR.template: {
            **_read("readRepair", "How far the comparison with other replicas is", "RepairStatus"),
            "post": _order(
                "repair", "Compare with the other replicas now, and repair", "RepairOrder", "RepairStatus"
            ),
        },
        Route.LEAVE.template: {
            "post": _order(
                "leave",
                "Leave the cluster for good",
                "Nothing",
                "Members",
                "409",
                note="The layout must not have this node any more.",
            )
        },
    }


def schemas() -> Json:
    """Documents of administration; later versions may add members to what is answered."""
    maybe_integer: Json = {"type": ["integer", "null"]}
    change: Json = {
        "action": {"enum": ["join", "leave", "weight", "replace"]},
        "node": _TEXT,
        "capacity": {"type": "integer", "minimum": 1},
        "with": {"type": "string", "description": "The node that takes the other's place."},
    }
    return {
        "Members": _told({"members": _many("Member")}),
        "Member": _told(
            {
                "node": _TEXT,
                "state": {"enum": ["alive", "suspect", "dead", "left"]},
                "in_layout": _YES_OR_NO,
                "incarnation": _INTEGER,
                "actor": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
                **dict.fromkeys(("peer", "resp", "http", "zone", "host"), _TEXT),
                "capacity": _INTEGER,
                "since_ms": _INTEGER,
                "round_trip_ms": _NUMBER,
            }
        ),
        "Layout": _told(
            {
                **dict.fromkeys(("version", "partitions", "replicas", "width"), _INTEGER),
                "nodes": _many("LayoutNode"),
                "assignment": {
                    "type": "string",
                    "contentEncoding": "base64",
                    "description": "Numbers of nodes, uint16 little-endian, `width` for each partition.",
                },
                "staged": _many("StagedChange"),
            }
        ),
        "LayoutNode": _told(
            {
                **dict.fromkeys(("node", "host", "zone", "peer", "resp", "http"), _TEXT),
                "capacity": _INTEGER,
                "up": _YES_OR_NO,
                "partitions": _INTEGER,
                "first": _INTEGER,
                "share": _NUMBER,
            }
        ),
        "StagedChange": _told(change, required=["action", "node"]),
        "Plan": _told(
            {
                "version": _INTEGER,
                "base_version": _INTEGER,
                "changes": _many("StagedChange"),
                "nodes": _many("PlanNode"),
                "moves": _INTEGER,
                "bytes": _INTEGER,
                "violations": {"type": "array", "items": _TEXT},
                "refusal": {"type": ["string", "null"]},
            }
        ),
        "PlanNode": _told(
            {"node": _TEXT, **dict.fromkeys(("before", "after", "receives", "bytes"), _INTEGER)}
        ),
        "Hints": _told(
            {
                "owners": _many("HintOwner"),
                **dict.fromkeys(("stored", "delivered", "expired", "dropped", "bytes"), _INTEGER),
            }
        ),
        "HintOwner": _told({"owner": _TEXT, **dict.fromkeys(("hints", "bytes", "oldest_ms"), maybe_integer)}),
        "RepairStatus": _told(
            {
                "running": _YES_OR_NO,
                **dict.fromkeys(
                    ("partitions_total", "partitions_done", "keys_compared", "keys_repaired", "bytes"),
                    _INTEGER,
                ),
                "errors": {"type": "array", "items": _TEXT},
            }
        ),
        "Change": _asked(change, "action", "node"),
        "CommitOrder": _asked(
            {"version": {"type": "integer", "minimum": 1}, "force": {"type": "boolean", "default": False}},
            "version",
        ),
        "WaitOrder": _asked(
            {
                "timeout_ms": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": WAIT_MS_MAX,
                    "default": WAIT_MS_DEFAULT,
                }
            }
        ),
        "RepairOrder": _asked({"partition": {"type": ["integer", "null"], "minimum": 0}}),
        "Nothing": _asked({}),
    }


def _told(properties: Json, *, required: list[str] | None = None) -> Json:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": True}


def _asked(properties: Json, *required: str) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _many(schema: str) -> Json:
    return {"type": "array", "items": _reference(schema)}


def _reference(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _responses(description: str, schema: str, *errors: str) -> Json:
    good: Json = {"description": description, "content": {_JSON: {"schema": _reference(schema)}}}
    problems = {status: {"$ref": "#/components/responses/Problem"} for status in errors}
    return {"200": good, **problems}


def _read(operation: str, summary: str, schema: str) -> Json:
    read: Json = {"summary": summary, "responses": _responses(summary, schema, *_READ_ERRORS)}
    return {"get": {"operationId": operation, **read}, "head": {"operationId": operation + "Head", **read}}


def _order(operation: str, summary: str, taken: str, schema: str, *more_errors: str, note: str = "") -> Json:
    order: Json = {
        "operationId": operation,
        "summary": summary,
        "requestBody": {"content": {_JSON: {"schema": _reference(taken)}}},
        "responses": _responses(summary, schema, *_WRITE_ERRORS, *more_errors),
    }
    return {**order, "description": note} if note else order
