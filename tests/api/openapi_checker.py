"""A small judge of answers by an OpenAPI document: the part of JSON Schema that it uses, and no more.

A keyword it does not know fails the test, so that the document cannot outgrow it in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"description", "contentEncoding", "default"}


class Checker:
    """Holds a document and judges values and answers by it."""

    def __init__(self, document: Json) -> None:
        self.document = document

    def resolve(self, node: Json) -> Json:
        """The node itself, or what its ``$ref`` points to."""
        while "$ref" in node:
            found: Any = self.document
            for name in node["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            node = found
        return node

    def references(self) -> Iterator[str]:
        """Every ``$ref`` in the document."""

        def walk(node: Any) -> Iterator[str]:
            if isinstance(node, dict):
                if "$ref" in node:
                    yield node["$ref"]
                for child in node.values():
                    yield from walk(child)
            elif isinstance(node, list):
                for child in node:
                    yield from walk(child)

        return walk(self.document)

    def fits(self, value: Any, schema: Json) -> bool:
        """Whether a JSON value fits a schema."""
        schema = self.resolve(schema)
        kinds = schema.get("type")
        if kinds is not None:
            kinds = [kinds] if isinstance(kinds, str) else kinds
            if not any(
                isinstance(value, _TYPES[k]) and (k == "boolean" or not isinstance(value, bool))
                for k in kinds
            ):
                return False
        return all(
            self._keyword(name, operand, value, schema) for name, operand in schema.items() if name != "type"
        )

    def _keyword(self, name: str, operand: Any, value: Any, schema: Json) -> bool:
        match name:
            case "properties":
                return all(self.fits(value[key], child) for key, child in operand.items() if key in value)
            case "required":
                return set(operand) <= set(value)
            case "additionalProperties":
                extra = set(value) - set(schema.get("properties", {}))
                if isinstance(operand, dict):
                    return all(self.fits(value[key], operand) for key in extra)
                return operand or not extra
            case "items":
                return all(self.fits(item, operand) for item in value)
            case "enum":
                return value in operand
            case "anyOf":
                return any(self.fits(value, child) for child in operand)
            case "pattern":
                return re.search(operand, value) is not None
            case "minLength" | "minItems":
                return len(value) >= operand
            case "maxItems":
                return len(value) <= operand
            case "minimum":
                return value is None or value >= operand
            case "maximum":
                return value is None or value <= operand
        assert name in _NOTES, f"the checker does not know the keyword {name}"
        return True
