"""Contexts: bound to address and cluster, bounded, and every damage named."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.causality import context as module
from sadik.causality.context import ENTRIES_MAX, TEXT_BYTES_MAX, context_key, decode_context, encode_context
from sadik.errors import InvalidContext
from sadik.kernels import versions

KEY = context_key("0123456789abcdef0123456789abcdef")
DIGEST = bytes(range(16))
ENTRIES = [(7, 3), (2**64 - 1, 2**63)]

numbers = st.integers(1, 2**64 - 1)
histories = st.dictionaries(numbers, numbers, min_size=1, max_size=8).map(lambda seen: sorted(seen.items()))


def test_bytes_are_pinned() -> None:
    """Clients keep contexts across our restarts and upgrades."""
    assert KEY.hex() == "7cbe395694c122597e1364b2c3cfa931ba01ad9379d70b6cc2c2c6545d9ce837"
    assert encode_context([(7, 3)], DIGEST, KEY) == b"AQAHAAAAAAAAAAMAAAAAAAAASUw2KVt5Hjo"
    assert (
        encode_context(ENTRIES, DIGEST, KEY, hint=9)
        == b"AQEJAAAAAAAAAAcAAAAAAAAAAwAAAAAAAAD__________wAAAAAAAACAmelyuRve9BY"
    )
    assert ENTRIES_MAX == versions.ENTRIES_MAX


@given(histories, st.binary(min_size=16, max_size=16), st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_decode_inverts_encode(entries: list[tuple[int, int]], digest: bytes, hint: int | None) -> None:
    """As bytes (RESP) and as text (HTTP), with or without the hint."""
    text = encode_context(entries, digest, KEY, hint=hint)
    assert decode_context(text, digest, KEY) == entries
    assert decode_context(text.decode(), digest, KEY) == entries
    assert len(text) <= TEXT_BYTES_MAX


def test_no_history_is_the_empty_text() -> None:
    """ "Empty context means none", on both sides."""
    assert encode_context([], DIGEST, KEY) == b""
    assert decode_context(b"", DIGEST, KEY) == []
    assert decode_context("", DIGEST, KEY) == []


def test_context_of_another_key_or_cluster_is_refused() -> None:
    """Taken as true it would cover values its client never saw."""
    text = encode_context(ENTRIES, DIGEST, KEY)
    for digest, key in ((bytes(16), KEY), (DIGEST, context_key("another"))):
        with pytest.raises(InvalidContext, match="another key or cluster"):
            decode_context(text, digest, key)


def test_every_flipped_bit_and_every_truncation_is_refused() -> None:
    """The check covers all bytes, its own included, and text has one spelling."""
    for hint in (None, 5):
        text = encode_context(ENTRIES, DIGEST, KEY, hint=hint)
        for length in range(1, len(text)):
            with pytest.raises(InvalidContext):
                decode_context(text[:length], DIGEST, KEY)
        for bit in range(8 * len(text)):
            damaged = bytearray(text)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(InvalidContext):
                decode_context(bytes(damaged), DIGEST, KEY)


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80)))
def test_noise_is_refused(noise: bytes | str) -> None:
    """Whatever a client sends, the answer is this one error."""
    if noise:
        with pytest.raises(InvalidContext):
            decode_context(noise, DIGEST, KEY)


def test_other_spellings_of_base64_are_refused() -> None:
    """One context, one text: it serves as an entity tag too."""
    text = encode_context([(2**64 - 1, 2**64 - 1)], DIGEST, KEY)
    raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    for other in (base64.b64encode(raw), text + b"=", text + b"\n", b" " + text, text.replace(b"_", b"/")):
        if other != text:
            with pytest.raises(InvalidContext):
                decode_context(other, DIGEST, KEY)


def test_newer_format_says_so() -> None:
    """After a downgrade the message must tell what happened."""
    raw = bytes([2]) + bytes(40)
    with pytest.raises(InvalidContext, match="format 2"):
        decode_context(module.to_text(raw), DIGEST, KEY)


@pytest.mark.parametrize(
    "body",
    [
        b"\x01\x02" + bytes(15) + b"\x01" + bytes(7) + b"\x01",
        b"\x01\x01" + bytes(8) + bytes(8),
        b"\x01\x00" + bytes(17),
        b"\x01\x00" + (7).to_bytes(8, "little") + bytes(8),
        b"\x01\x00" + b"".join(module.ENTRY.pack(actor, 1) for actor in (2, 1)),
        b"\x01\x00" + b"".join(module.ENTRY.pack(actor, 1) for actor in (1, 1)),
    ],
    ids=["unknown flag", "hint alone", "broken entry", "stamp 0", "unsorted", "twice"],
)
def test_forged_context_still_has_to_be_a_history(body: bytes) -> None:
    """The key is derived from a public id: a forger gets past the check, never past the rules."""
    forged = module.to_text(body + module.mac(body, DIGEST, KEY))
    with pytest.raises(InvalidContext):
        decode_context(forged, DIGEST, KEY)


def test_size_is_bounded_and_a_read_never_fails_for_it() -> None:
    """Beyond the limit a context covers less, which is safe, instead of growing or failing."""
    many = [(actor, 1000 - actor) for actor in range(1, 200)]
    text = encode_context(many, DIGEST, KEY, hint=1)
    assert len(text) == TEXT_BYTES_MAX
    assert decode_context(text, DIGEST, KEY) == many[:ENTRIES_MAX]
    with pytest.raises(InvalidContext, match="longer"):
        decode_context(text + b"A", DIGEST, KEY)
