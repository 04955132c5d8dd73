"""Values on the wire: metadata, and the three shapes of an answer (one value, multipart siblings, JSON).

A stored value carries its content type and user metadata as a few bytes (``Value.metadata``). They go to disk
and to other
nodes: the encoding is msgpack ``[content type, {name: value}]``, later versions may only append elements, and
    the empty
string stands for the default content type without metadata, which is what values written through RESP have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from sadik.api.http.limits import METADATA_BYTES_MAX
from sadik.errors import CorruptRecord, InvalidRequest, LimitReached
from sadik.ids import stamp_ms

if TYPE_CHECKING:
    from sadik.kernels import versions

CONTENT_TYPE_DEFAULT: Final = "application/octet-stream"
CONTEXT_HEADER: Final = "X-Sadik-Context"
STAMP_HEADER: Final = "X-Sadik-Stamp-Ms"
EXPIRES_HEADER: Final = "X-Sadik-Expires-At-Ms"
METADATA_PREFIX: Final = "X-Sadik-Meta-"

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}(?:[ \t]*;[\t\x20-\x7e]*)?\Z")
_NAME: Final = re.compile(rf"{_TOKEN}\Z")
# What a header may hold: no control characters but the tab, and no half of a surrogate pair (which stands for
# bytes that are not UTF-8). Checked on the way in and again on the way out, because metadata also comes from
# disk and other nodes.
_TEXT: Final = re.compile("[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*\\Z")
_CONTENT_TYPE_BYTES_MAX: Final = 255


class Metadata(msgspec.Struct, array_like=True, frozen=True):
    """Content type and user metadata of one value; names are lower case and sorted."""

    content_type: str = CONTENT_TYPE_DEFAULT
    fields: dict[str, str] = {}


class Sibling(msgspec.Struct, frozen=True):
    """One value in JSON. ``value`` becomes base64; ``metadata`` is there only when the value has some."""

    value: bytes
    content_type: str
    stamp_ms: int
    expires_at_ms: int | None
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class Siblings(msgspec.Struct, frozen=True):
    """All live values of a key in JSON, newest first, and the context that covers them."""

    context: str
    siblings: list[Sibling]


_decoder: Final = msgspec.msgpack.Decoder(Metadata)


def encode_metadata(content_type: str | None, fields: Iterable[tuple[str, str]]) -> bytes:
    """Bytes to store for a request's ``Content-Type`` and its metadata headers, names without their prefix.

    Raises:
        InvalidRequest: A content type or a field that could not be sent back in a header, or a repeated name.
        LimitReached: More than ``METADATA_BYTES_MAX`` once encoded.
    """
    kind = CONTENT_TYPE_DEFAULT if content_type is None else content_type
    if len(kind) > _CONTENT_TYPE_BYTES_MAX or not _MEDIA_TYPE.match(kind):
        raise InvalidRequest(f"Content-Type must be a media type of at most {_CONTENT_TYPE_BYTES_MAX} bytes")
    found: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        if not _NAME.match(lower):
            raise InvalidRequest(f"{METADATA_PREFIX} must be followed by a name")
        if not _TEXT.match(value):
            raise InvalidRequest(
                f"{METADATA_PREFIX}{name[:64]} must be UTF-8 text without control characters"
            )
        if lower in found:
            raise InvalidRequest(f"{METADATA_PREFIX}{name[:64]} is given twice")
        found[lower] = value
    if not found and kind == CONTENT_TYPE_DEFAULT:
        return b""
    encoded = msgspec.msgpack.encode(Metadata(kind, dict(sorted(found.items()))))
    if len(encoded) > METADATA_BYTES_MAX:
        raise LimitReached(f"content type and metadata take {len(encoded)} of {METADATA_BYTES_MAX} bytes")
    return encoded


def decode_metadata(data: bytes) -> Metadata:
    """The inverse of ``encode_metadata``.

    Raises:
        CorruptRecord: Bytes that it never makes.
    """
    if not data:
        return Metadata()
    try:
        metadata = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptRecord(f"metadata of a stored value cannot be read: {error}") from None
    fine = _MEDIA_TYPE.match(metadata.content_type) and all(
        _NAME.match(name) and _TEXT.match(value) for name, value in metadata.fields.items()
    )
    if not fine:
        raise CorruptRecord("metadata of a stored value cannot be sent in headers")
    return metadata


def value_headers(value: versions.Value) -> dict[str, str]:
    """Headers that describe one value, of an answer or of a part: content type, stamp, expiry, metadata."""
    metadata = decode_metadata(value.metadata)
    headers = {"Content-Type": metadata.content_type, STAMP_HEADER: str(stamp_ms(value.stamp))}
    if value.expires_at_ms >= 0:
        headers[EXPIRES_HEADER] = str(value.expires_at_ms)
    for name, text in metadata.fields.items():
        headers[METADATA_PREFIX + name] = text
    return headers


def entity_tag(values: Sequence[versions.Value], form: str) -> str:
    """A strong entity tag: the same dots in the same form have the same bytes, anything else has another
    tag.
    """
    dots = b"".join(value.actor.to_bytes(8, "big") + value.stamp.to_bytes(8, "big") for value in values)
    return f'"{hashlib.blake2b(dots, digest_size=16, person=form.encode()).hexdigest()}"'


def siblings_json(values: Sequence[versions.Value], context: bytes) -> bytes:
    """The JSON shape, for one value and for many."""
    siblings = []
    for value in values:
        metadata = decode_metadata(value.metadata)
        siblings.append(
            Sibling(
                value=value.payload,
                content_type=metadata.content_type,
                stamp_ms=stamp_ms(value.stamp),
                expires_at_ms=value.expires_at_ms if value.expires_at_ms >= 0 else None,
                metadata=metadata.fields or msgspec.UNSET,
            )
        )
    return msgspec.json.encode(Siblings(context.decode("ascii"), siblings))


def siblings_multipart(values: Sequence[versions.Value]) -> tuple[bytes, str]:
    """A ``multipart/mixed`` body, newest first, and its boundary. The same values always give the same
    bytes.
    """
    headers = [value_headers(value) for value in values]
    # A boundary must not occur in any part. It follows from the values' dots, whose actors are random, so
    # nobody can have put it into a value by plan; it is looked for all the same.
    stem = entity_tag(values, "boundary").strip('"')
    boundary = next(
        boundary
        for boundary in (f"sadik-{stem}-{attempt}" for attempt in range(1 << 30))
        if not any(boundary.encode() in value.payload for value in values)
    )
    pieces: list[bytes] = []
    for value, fields in zip(values, headers, strict=True):
        head = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
        length = f"Content-Length: {len(value.payload)}\r\n"
        pieces += [f"--{boundary}\r\n{head}{length}\r\n".encode(), value.payload, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), boundary
