"""Contexts: what a reader has seen, in a form clients carry without understanding it.

A client hands a context back with its next write, and that write replaces exactly what the read saw. The
text is bound to the address and the cluster by a keyed hash, so a context that is damaged, or was taken
from another key or cluster, is an error and not a silent loss. The hash is a guard against accidents: its
key follows from the cluster's id, which is no secret, and whoever may write a key can at worst forge
contexts for it.

The bytes, little-endian, before they become url-safe base64 without padding (pinned by test vectors)::

    0     version, 1
    1     flags: bit 0, a hint follows; others are refused
    2     hint u64, only with bit 0: the replica that answered the read fastest (Dynamo 5); read over so far
    ...   entries: actor u64, stamp u64; as many as there is room for
    -8    first 8 bytes of BLAKE3, keyed, over the address digest and everything before

No entries, no context: the empty text covers nothing.
"""

from __future__ import annotations

import binascii
import struct
from typing import Final

from blake3 import blake3

from sadik.errors import InvalidContext, InvalidRequest
from sadik.kernels import versions

VERSION: Final = 1
FLAG_HINT: Final = 1
MAC_BYTES: Final = 8
KEY_BYTES: Final = 32
HEADER_BYTES: Final = 2
HINT_BYTES: Final = 8
ENTRY: Final = struct.Struct("<QQ")
ENTRIES_MAX: Final = 64
"""Equal to ``versions.ENTRIES_MAX``: a set of more actors takes no client write."""

BODY_BYTES_MAX: Final = HEADER_BYTES + HINT_BYTES + ENTRIES_MAX * ENTRY.size + MAC_BYTES
TEXT_BYTES_MAX: Final = (BODY_BYTES_MAX * 4 + 2) // 3

# For ever: another text here makes every context out there foreign.
KEY_PURPOSE: Final = "sadik 2025 causal context v1"

TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def context_key(cluster_id: str) -> bytes:
    """The 32-byte key of a cluster's contexts."""
    return blake3(cluster_id.encode(), derive_key_context=KEY_PURPOSE).digest()


def encode_context(entries: versions.Entries, digest: bytes, key: bytes, *, hint: int | None = None) -> bytes:
    """A context as text, ``b""`` for no entries.

    Of more than ENTRIES_MAX entries those of the greatest stamps are kept: covering less can make a
    sibling, but never loses a value, and a read never fails for its context's sake.

    Args:
        entries: Sorted by actor, as ``versions.context`` gives them.
        digest: Of the address, 16 bytes.
        key: From ``context_key``.
        hint: The replica that answered fastest, 0 <= hint < 2**64.
    """
    if not entries:
        return b""
    if len(entries) > ENTRIES_MAX:
        newest = sorted(entries, key=lambda entry: entry[1])[-ENTRIES_MAX:]
        entries = sorted(newest)
    parts = [bytes((VERSION, 0 if hint is None else FLAG_HINT))]
    if hint is not None:
        parts.append(struct.pack("<Q", hint))
    parts += [ENTRY.pack(actor, stamp) for actor, stamp in entries]
    body = b"".join(parts)
    return to_text(body + mac(body, digest, key))


def decode_context(context: str | bytes, digest: bytes, key: bytes) -> list[tuple[int, int]]:
    """The entries of a context that ``encode_context`` made for the same address and key.

    Raises:
        InvalidContext: Too long, damaged, of another address or cluster, or of a newer format.
    """
    if not context:
        return []
    if len(context) > TEXT_BYTES_MAX:
        raise InvalidContext(f"the context is longer than {TEXT_BYTES_MAX} bytes")
    raw = from_text(context)
    if len(raw) < HEADER_BYTES + ENTRY.size + MAC_BYTES:
        raise InvalidContext("the context is damaged: it is too short")
    # The version comes first: another one may have another check.
    if raw[0] != VERSION:
        raise InvalidContext(f"the context is damaged, or of format {raw[0]}; format {VERSION} is known")
    body, check = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    if check != mac(body, digest, key):
        raise InvalidContext("the context is damaged, or was made for another key or cluster")
    flags = body[1]
    first = HEADER_BYTES + (HINT_BYTES if flags & FLAG_HINT else 0)
    if flags & ~FLAG_HINT or len(body) <= first or (len(body) - first) % ENTRY.size:
        raise InvalidContext("the context has a form this node does not know")
    entries = list(ENTRY.iter_unpack(body[first:]))
    try:
        versions.encode(entries, ())
    except InvalidRequest as error:
        raise InvalidContext(f"the context does not hold a history: {error}") from None
    return entries


def decode_hint(context: str | bytes) -> int | None:
    """The replica that answered the read fastest, as a context says; None when it says nothing, or is
    damaged.

    Only a preference: it is not checked.
    """
    try:
        raw = from_text(context[:TEXT_BYTES_MAX])
    except InvalidContext:
        return None
    if len(raw) < HEADER_BYTES + HINT_BYTES + MAC_BYTES or raw[0] != VERSION or not raw[1] & FLAG_HINT:
        return None
    return int(struct.unpack_from("<Q", raw, HEADER_BYTES)[0])


def mac(body: bytes, digest: bytes, key: bytes) -> bytes:
    """The check of a context's body for one address."""
    return blake3(digest + body, key=key).digest(length=MAC_BYTES)


def to_text(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(TO_URL_SAFE).rstrip(b"=")


def from_text(text: str | bytes) -> bytes:
    """The inverse of ``to_text``, which alone makes valid text: no padding, no other alphabet, no spare
    bits.
    """
    try:
        encoded = text.encode("ascii") if isinstance(text, str) else bytes(text)
        padded = encoded.translate(TO_STANDARD) + b"=" * (-len(encoded) % 4)
        raw = binascii.a2b_base64(padded, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidContext("the context is damaged: it is not url-safe base64") from None
    if to_text(raw) != encoded:
        raise InvalidContext("the context is damaged: it is not url-safe base64")
    return raw
