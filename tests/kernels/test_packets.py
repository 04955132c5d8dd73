"""Packets between nodes: what goes in comes out, bytes are pinned, damage is always told, twins agree."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sadik.errors import ProtocolError
from sadik.kernels.native import digest
from sadik.kernels.native import packets as native
from sadik.kernels.reference import packets as reference

TWINS = [pytest.param(native, id="native"), pytest.param(reference, id="reference")]

addresses = st.lists(
    st.tuples(
        st.sampled_from([b"0", b"1", b"bucket"]), st.binary(min_size=1, max_size=20), st.binary(max_size=40)
    ),
    min_size=1,
    max_size=12,
)


def spans_of(items: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, int]]:
    spans: list[tuple[bytes, int]] = []
    for bucket, _, _ in items:
        if spans and spans[-1][0] == bucket:
            spans[-1] = (bucket, spans[-1][1] + 1)
        else:
            spans.append((bucket, 1))
    return spans


def packed(items: list[tuple[bytes, bytes, bytes]]) -> dict[str, Any]:
    names = [digest.address_name(bucket, key) for bucket, key, _ in items]
    starts, offsets = [0], [0]
    for name, (_, _, content) in zip(names, items, strict=True):
        starts.append(starts[-1] + len(name))
        offsets.append(offsets[-1] + len(content))
    return {
        "spans": spans_of(items),
        "count": len(items),
        "digests": b"".join(map(digest.digest, names)),
        "names": b"".join(names),
        "name_starts": array("q", starts[:-1]),
        "name_lengths": array("q", map(len, names)),
        "sets": b"".join(content for _, _, content in items),
        "set_offsets": array("q", offsets),
    }


def operations(items: list[tuple[bytes, bytes, bytes]]) -> dict[str, Any]:
    """The same as operations: an empty content is a read."""
    parts = packed(items)
    data = parts["names"] + parts["sets"]
    offsets = [len(parts["names"]) + offset for offset in parts["set_offsets"]]
    return {
        "spans": parts["spans"],
        "count": parts["count"],
        "kinds": bytes(1 if content else 0 for _, _, content in items),
        "digests": parts["digests"],
        "data": data,
        "name_starts": parts["name_starts"],
        "name_lengths": parts["name_lengths"],
        "payload_starts": array("q", offsets[:-1]),
        "payload_lengths": array("q", (len(content) for _, _, content in items)),
        "ttl_ms": array("q", range(-1, len(items) - 1)),
        "timeout_ms": 5000,
        "layout": 1 << 40,
    }


def slices(data: Any, starts: Any, lengths: Any) -> list[bytes]:
    first, size = memoryview(starts).cast("q"), memoryview(lengths).cast("q")
    return [bytes(data[at : at + length]) for at, length in zip(first, size, strict=True)]


@pytest.mark.parametrize("twin", TWINS)
@settings(deadline=None)
@given(items=addresses, more=addresses)
def test_sets_come_out_as_they_went_in(twin, items, more):
    """Several packets are one batch; operations without a set are left out."""
    first, index = twin.encode_sets(2, b"owner", **packed(items))
    second, _ = twin.encode_sets(0, b"", **packed(more))
    chosen = [i for i, item in enumerate(items) if item[2]]
    assert array("i", index).tolist() == chosen
    sent = [items[i] for i in chosen] + [item for item in more if item[2]]
    if not chosen or not any(item[2] for item in more):
        # A packet of nothing is none.
        with pytest.raises(ProtocolError):
            twin.decode_sets([first, second])
        return
    sets = twin.decode_sets([first, second])
    assert sets.total == len(sent)
    assert slices(sets.data, sets.set_starts, sets.set_lengths) == [content for _, _, content in sent]
    names = slices(sets.data, sets.name_starts, sets.name_lengths)
    assert names == [digest.address_name(bucket, key) for bucket, key, _ in sent]
    assert bytes(sets.digests) == b"".join(map(digest.digest, names))
    assert [bucket for bucket, start, stop in sets.spans for _ in range(start, stop)] == [
        bucket for bucket, _, _ in sent
    ]
    assert sets.stops == [len(chosen), len(sent)]
    assert (sets.reasons, sets.owners) == ([2, 0], [b"owner", b""])


@pytest.mark.parametrize("twin", TWINS)
@settings(deadline=None)
@given(items=addresses)
def test_operations_come_out_as_they_went_in(twin, items):
    """Kinds, names, payloads and times to live of a forwarded batch."""
    given_ = operations(items)
    found = twin.decode_operations(twin.encode_operations(**given_))
    assert (found.total, found.timeout_ms, found.layout) == (len(items), 5000, 1 << 40)
    assert bytes(found.kinds) == given_["kinds"]
    assert bytes(found.digests) == given_["digests"]
    assert bytes(found.ttl_ms) == bytes(given_["ttl_ms"])
    assert slices(found.data, found.payload_starts, found.payload_lengths) == [item[2] for item in items]
    assert slices(found.data, found.name_starts, found.name_lengths) == [
        digest.address_name(bucket, key) for bucket, key, _ in items
    ]


def outcome(function: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return function(*arguments, **named)
    except (ProtocolError, ValueError, OverflowError) as error:
        return type(error)


@settings(deadline=None)
@given(items=addresses, marks=st.binary(min_size=12, max_size=12))
def test_twins_write_the_same_bytes(items, marks):
    """Two nodes may run different twins."""
    select = bytes(mark & 1 for mark in marks)
    assert native.encode_sets(1, b"x", **packed(items), select=select) == reference.encode_sets(
        1, b"x", **packed(items), select=select
    )
    assert native.encode_operations(**operations(items)) == reference.encode_operations(**operations(items))


@settings(deadline=None)
@given(items=addresses, at=st.integers(min_value=0), byte=st.integers(0, 255), cut=st.integers(0, 3))
def test_damage_is_told_alike(items, at, byte, cut):
    """A changed or cut packet gives the same on both twins: an error, or another valid packet, never a
    crash."""
    for packet, decode_native, decode_reference in (
        (
            native.encode_sets(0, b"", **packed(items))[0],
            lambda data: native.decode_sets([data]),
            lambda data: reference.decode_sets([data]),
        ),
        (
            native.encode_operations(**operations(items)),
            native.decode_operations,
            reference.decode_operations,
        ),
    ):
        changed = bytearray(packet)
        changed[at % len(changed)] = byte
        data = bytes(changed[: len(changed) - cut])
        assert outcome(decode_native, data) == outcome(decode_reference, data)


@pytest.mark.parametrize("twin", TWINS)
def test_announced_counts_take_no_memory(twin):
    """Four bytes that announce 16 million operations are refused for what came with them."""
    huge = (1 << 24).to_bytes(4, "little")
    with pytest.raises(ProtocolError, match="count does not fit"):
        twin.decode_sets([huge + bytes(100)])
    with pytest.raises(ProtocolError, match="count does not fit"):
        twin.decode_operations(huge + bytes(100))
    with pytest.raises(ProtocolError, match="shorter than its header"):
        twin.decode_sets([b"abc"])
    with pytest.raises(ValueError, match="no packets"):
        twin.decode_sets([])


@pytest.mark.parametrize("twin", TWINS)
def test_bytes_are_pinned(twin):
    """Nodes of different versions speak these bytes: they do not change within a protocol version."""
    items = [(b"0", b"k", b"SET")]
    packet, _ = twin.encode_sets(3, b"n1", **packed(items))
    key = digest.address_digest(b"0", b"k").hex()
    assert packet.hex() == (
        "01000000"
        "0100"
        "03"
        "02"
        "00000000" + b"n1".hex() + "01000000"
        "01"
        "30" + key + "05000000"
        "03000000"
        "0130"
        "0001"
        "6b" + b"SET".hex()
    )
    forward = twin.encode_operations(**operations(items))
    assert forward.hex() == (
        "01000000"
        "0100"
        "0000"
        "88130000"
        "0000000000010000"
        "01000000"
        "01"
        "30"
        "01" + key + "ffffffffffffffff"
        "05000000"
        "03000000"
        "0130"
        "0001"
        "6b" + b"SET".hex()
    )


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(
    "change",
    [
        {"digests": b""},
        {"name_starts": array("q", [-1])},
        {"name_lengths": array("q", [1 << 40])},
        {"set_offsets": array("q", [0, 99])},
        {"set_offsets": array("q", [3, 0])},
        {"spans": [(b"0", 2)]},
        {"spans": [(b"", 1)]},
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read(twin, change):
    """Slices outside their buffers would be read outside their buffers."""
    with pytest.raises(ValueError, match=r"."):
        twin.encode_sets(0, b"", **(packed([(b"0", b"k", b"SET")]) | change))
