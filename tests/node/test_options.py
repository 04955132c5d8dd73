"""Request options: the same names, ranges and errors on every way in."""

from __future__ import annotations

import pytest

from sadik.errors import InvalidRequest
from sadik.node.coordinator.options import Options, parse_options


def test_names_are_taken_in_any_case() -> None:
    """RESP clients shout, HTTP clients do not."""
    assert parse_options([("R", "2"), ("timeout_MS", "50")]) == Options(r=2, timeout_ms=50)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("n", "3")], "unknown option"),
        ([("r", "1"), ("R", "1")], "given twice"),
        ([("r", "0")], "must be 1"),
        ([("r", "-1")], "positive whole number"),
        ([("r", "1.5")], "positive whole number"),
        ([("r", "")], "positive whole number"),
        ([("r", "٣")], "positive whole number"),
        ([("ttl_ms", "9" * 15)], "must be 1"),
        ([("ttl_ms", "9" * 4000)], "positive whole number"),
    ],
)
def test_anything_else_is_refused_by_name(pairs: list[tuple[str, str]], message: str) -> None:
    """A misspelt quorum must not become the default in silence."""
    with pytest.raises(InvalidRequest, match=message):
        parse_options(pairs)
