"""Errors on the wire: every class comes back as itself."""

from __future__ import annotations

import pytest

from sadik import errors
from sadik.comms.failure import REASON_CHARACTERS_MAX, REASONS_MAX, decode_failure, encode_failure
from sadik.comms.messages import Failure, encode
from sadik.errors import ProtocolError, QuorumMissed, SadikError, Unavailable
from sadik.ids import NodeId

CLASSES = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, SadikError)]
B = NodeId("b")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_its_class(kind: type[SadikError]) -> None:
    """A new class of errors needs nothing here, unless it is made of more than a text."""
    came = decode_failure(encode_failure(kind("text")), B)
    assert type(came) is kind
    assert str(came) == "text"
    assert vars(came) == vars(kind("text"))


def test_class_of_a_newer_version_is_known_by_its_code() -> None:
    came = decode_failure(encode(Failure("UNAVAILABLE", "TooWindy", "text", True)), B)
    assert type(came) is Unavailable
    assert came.maybe_applied
    assert type(decode_failure(encode(Failure("WINDY", "TooWindy", "text")), B)) is SadikError


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x90", encode(Failure("A", "B", "x" * 1001))])
def test_what_is_no_error_is_one_of_the_protocol(payload: bytes) -> None:
    assert type(decode_failure(payload, B)) is ProtocolError


def test_reasons_of_a_quorum_are_bounded() -> None:
    error = QuorumMissed("text", reasons=tuple((f"n{number}", "x" * 5000) for number in range(100)))
    came = decode_failure(encode_failure(error), B)
    assert isinstance(came, QuorumMissed)
    assert len(came.reasons) == REASONS_MAX
    assert came.reasons[0] == ("n0", "x" * REASON_CHARACTERS_MAX)
