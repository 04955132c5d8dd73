"""Metadata survives storage byte for byte, and siblings survive every form they are sent in."""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.api.http import bodies
from sadik.api.http.limits import METADATA_BYTES_MAX
from sadik.errors import CorruptRecord, InvalidRequest, LimitReached
from sadik.ids import stamp_at
from sadik.kernels import versions

token = st.text("abcXYZ09-_.!~", min_size=1, max_size=12)
text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in [*range(32), 127]]),
    max_size=30,
)
fields = st.dictionaries(token.map(str.lower), text, max_size=5)


def value(
    payload: bytes, metadata: bytes = b"", *, actor: int = 7, ms: int = 1000, expires: int = -1
) -> versions.Value:
    return versions.Value(actor, stamp_at(ms), 0, 0, expires, metadata, payload)


@given(st.builds("{}/{}".format, token, token), fields)
def test_metadata_round_trip(content_type: str, given_fields: dict[str, str]) -> None:
    """What was sent with a value comes back with it."""
    encoded = bodies.encode_metadata(content_type, given_fields.items())
    assert bodies.decode_metadata(encoded) == bodies.Metadata(content_type, given_fields)


def test_metadata_bytes_are_pinned() -> None:
    """These bytes are on disks; they may never mean something else."""
    encoded = bodies.encode_metadata("text/plain; charset=utf-8", [("Owner", "ann"), ("b", "")])
    assert encoded == b"\x92\xb9text/plain; charset=utf-8\x82\xa1b\xa0\xa5owner\xa3ann"


def test_metadata_of_a_later_version_is_read() -> None:
    """Elements appended later do not hide the ones known now."""
    later = b"\x93\xaatext/plain\x81\xa1a\xa11\xc3"
    assert bodies.decode_metadata(later) == bodies.Metadata("text/plain", {"a": "1"})


def test_defaults_take_no_bytes() -> None:
    """Values written through RESP have no metadata; the default over HTTP must be the same value."""
    assert bodies.encode_metadata(None, []) == b""
    assert bodies.encode_metadata("application/octet-stream", []) == b""
    assert bodies.decode_metadata(b"") == bodies.Metadata("application/octet-stream", {})


@pytest.mark.parametrize(
    ("content_type", "given_fields"),
    [
        ("text", []),
        ("", []),
        ("text/pl ain", []),
        ("text/plain\r\nX: y", []),
        ("text/plain; a=\x01", []),
        ("text/" + "x" * 300, []),
        ("text/plain", [("", "x")]),
        ("text/plain", [("a b", "x")]),
        ("text/plain", [("ä", "x")]),
        ("text/plain", [("a", "x\ny")]),
        ("text/plain", [("a", "\udcff")]),
        ("text/plain", [("a", "\x7f")]),
        ("text/plain", [("a", "1"), ("A", "2")]),
    ],
)
def test_what_could_not_be_sent_back_is_refused(
    content_type: str, given_fields: list[tuple[str, str]]
) -> None:
    """Stored line ends would be headers of somebody else's answer."""
    with pytest.raises(InvalidRequest):
        bodies.encode_metadata(content_type, given_fields)


def test_metadata_has_a_size_limit() -> None:
    """The last byte that fits is taken, the next refused."""
    fits = METADATA_BYTES_MAX - len(bodies.encode_metadata("text/plain", [("a", "x" * 4096)])) + 4096
    assert len(bodies.encode_metadata("text/plain", [("a", "x" * fits)])) == METADATA_BYTES_MAX
    with pytest.raises(LimitReached):
        bodies.encode_metadata("text/plain", [("a", "x" * (fits + 1))])


@pytest.mark.parametrize(
    "stored",
    [
        b"\x00",
        b"\xff" * 9,
        b"\x92\xaatext/plain",
        b"\x92\xaatext/plain\x81\xa1a\xa2\r\n",
        b"\x92\xa4text\x80",
        b"\x92\xaatext/plain\x81\xa1:\xa1x",
        b"\x92\xaatext/pla\xff\xff\x80",
    ],
)
def test_damaged_metadata_is_reported_not_sent(stored: bytes) -> None:
    """Bytes from disk or another node are checked before they become headers."""
    with pytest.raises(CorruptRecord):
        bodies.decode_metadata(stored)


@given(st.binary(max_size=60))
def test_any_stored_bytes_are_metadata_or_corrupt(stored: bytes) -> None:
    """Damage never shows as another exception."""
    with contextlib.suppress(CorruptRecord):
        bodies.decode_metadata(stored)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.binary(max_size=80), fields), min_size=2, max_size=5))
def test_multipart_gives_back_every_sibling(siblings: list[tuple[bytes, dict[str, str]]]) -> None:
    """An independent parser finds each value, in order, with its own headers."""
    values = [
        value(
            payload,
            bodies.encode_metadata(
                "text/x-a", {k: v.strip() for k, v in meta.items() if v.isascii()}.items()
            ),
            ms=i + 1,
        )
        for i, (payload, meta) in enumerate(siblings)
    ]
    body, boundary = bodies.siblings_multipart(values)
    assert body == bodies.siblings_multipart(values)[0]
    head = f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n'.encode()
    parts = body.split(b"--" + boundary.encode())[1:]
    assert parts.pop() == b"--\r\n"
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    assert [part["X-Sadik-Stamp-Ms"] for part in parsed.iter_parts()] == [
        str(i + 1) for i in range(len(values))
    ]
    for part, sent in zip(parts, values, strict=True):
        fields_of_part, _, content = part.partition(b"\r\n\r\n")
        assert content == sent.payload + b"\r\n"
        assert f"Content-Length: {len(sent.payload)}".encode() in fields_of_part


def test_boundary_avoids_values_that_contain_it() -> None:
    """A value made of another answer's text does not end its part early."""
    first = bodies.siblings_multipart([value(b""), value(b"", ms=2)])[1]
    quoted = [value(b"--" + first.encode() + b"--"), value(b"", ms=2)]
    body, boundary = bodies.siblings_multipart(quoted)
    assert boundary != first
    assert body.count(b"--" + boundary.encode()) == 3


def test_json_shape() -> None:
    """Exactly the members that are documented; metadata only where there is some."""
    plain = value(b"\xff\x00", ms=5)
    rich = value(b"hi", bodies.encode_metadata("text/plain", [("Owner", "ann")]), ms=6, expires=99)
    assert json.loads(bodies.siblings_json([rich, plain], b"ctx")) == {
        "context": "ctx",
        "siblings": [
            {
                "value": base64.b64encode(b"hi").decode(),
                "content_type": "text/plain",
                "stamp_ms": 6,
                "expires_at_ms": 99,
                "metadata": {"owner": "ann"},
            },
            {
                "value": base64.b64encode(b"\xff\x00").decode(),
                "content_type": "application/octet-stream",
                "stamp_ms": 5,
                "expires_at_ms": None,
            },
        ],
    }


def test_entity_tags_name_dots_and_form() -> None:
    """Another event, another order or another form is another tag; the same is the same."""
    one, two = value(b"a", ms=1), value(b"a", ms=2)
    sets = [[one], [two], [one, two], [two, one], [one._replace(actor=8)]]
    tags = [bodies.entity_tag(values, form) for values in sets for form in ("one", "json")]
    assert len(set(tags)) == len(tags)
    assert bodies.entity_tag([one], "one") == bodies.entity_tag([one._replace(payload=b"")], "one")
