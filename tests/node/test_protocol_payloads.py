"""``docs/protocol.md`` says what payloads hold: its tables and examples are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sadik.comms.messages import Kind
from sadik.errors import Overloaded
from sadik.kernels import digest, packets, replica, resp
from sadik.members import bootstrap, gossip, layout, state, voting
from sadik.node import administration, buckets
from sadik.node.coordinator import requests
from sadik.node.coordinator.differences import READS_HEADER, encode_differences
from sadik.node.coordinator.outcomes import FAILED
from sadik.node.coordinator.turn import Part, decode_answers, encode_answers
from sadik.node.coordinator.under_way import EXCHANGE, HINT, READ_REPAIR, WRITE
from sadik.node.items import encode_items
from sadik.node.repair.exchange import messages
from sadik.node.vnode import NOT_STORED

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
CONTROL = TEXT.split("## Control payloads")[1].split("\n## ")[0]
DIGESTS = (b"\xaa" * 16, b"\xbb" * 16)
PRINTS = np.array([0x1111111111111111, 0x2222222222222222], "<u8").tobytes()
NAMES = (digest.address_name(b"0", b"a"), digest.address_name(b"0", b"bc"))
SETS = (b"\0\1\2", b"\3")

ANSWERED = {
    Kind.WRITE: (requests.WriteRequest, requests.WriteReply),
    Kind.SCAN: (requests.ScanRequest, requests.ScanReply),
    Kind.COUNT: (requests.CountRequest, requests.CountReply),
    Kind.EXPLAIN: (requests.ExplainRequest, requests.ExplainReply),
    Kind.TRUNCATE: (requests.TruncateRequest, requests.TruncateReply),
    Kind.GOSSIP: (gossip.GossipMessage, gossip.GossipMessage),
    Kind.JOIN: (bootstrap.JoinRequest, bootstrap.JoinAnswer),
    Kind.VOTE: (voting.VoteRequest, voting.VoteAnswer),
}
QUESTIONS = {
    messages.Begin: messages.Begun,
    messages.Roots: messages.Flags,
    messages.Nodes: messages.Children,
    messages.Keys: messages.Listing,
    messages.Sets: messages.Items,
}


def fields(struct: type[msgspec.Struct]) -> str:
    assert struct.__struct_config__.array_like
    return ", ".join(struct.__struct_fields__)


def example(title: str) -> bytes:
    """Bytes of an example of the document."""
    block = TEXT.split("## Packed examples")[1].split("```")[1]
    found = re.search(rf"^{re.escape(title)}$\n((?:[0-9a-f]+\n)+)", block, re.MULTILINE)
    assert found, title
    return bytes.fromhex(found[1].replace("\n", ""))


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.name)
def test_control_payloads_have_the_fields_of_the_document(kind: Kind) -> None:
    """Fields in order: a node of another language finds each where the table says."""
    request, reply = ANSWERED[kind]
    assert f"| {kind.name} | {fields(request)} | {fields(reply)} |" in CONTROL


def test_payloads_without_a_struct_on_one_side() -> None:
    assert f"| CALL | {fields(requests.CallRequest)} | the encoded RESP reply itself |" in CONTROL
    assert f"| OCCUPIED | nothing | {fields(administration.OccupiedReply)} |" in CONTROL


def test_exports_have_the_fields_of_the_document() -> None:
    assert f"| members | an array of records: {fields(state.Member)} |" in CONTROL
    assert f"(an array: {fields(layout._Stored)})" in CONTROL
    assert f"(arrays: {fields(layout.Change)})" in CONTROL
    assert f"| buckets | an array of: {fields(buckets._Shared)} (" in CONTROL


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_questions_of_an_exchange_have_the_fields_of_the_document(question: type[msgspec.Struct]) -> None:
    number, answer = question.__struct_config__.tag, fields(QUESTIONS[question])
    assert f"| {number} | {question.__name__} | {fields(question)} | {answer} |" in CONTROL
    assert messages.EQUAL == 0
    assert messages.DIFFERENT == 1
    assert messages.UNBUILT == messages.MOVED == 2
    assert messages.UNREADABLE == 3


def test_version_sets_are_packed_as_in_the_document() -> None:
    assert (WRITE, READ_REPAIR, HINT, EXCHANGE) == (0, 1, 2, 3)
    items = list(zip(DIGESTS, NAMES, SETS, strict=True))
    assert encode_items(items, WRITE) == example("SETS, a write")
    assert encode_items(items[1:], HINT, b"n3") == example("HINTED, of the second key for n3")
    assert packets.decode_sets([example("HINTED, of the second key for n3")]).owners == [b"n3"]
    assert bytes((replica.MERGED, NOT_STORED)) == example("reply, the second one not stored")
    statuses = (replica.MERGED, replica.KNOWN, replica.INVALID, replica.LIMIT, replica.CLOCK, NOT_STORED)
    assert statuses == tuple(range(6))


def test_reads_are_packed_as_in_the_document() -> None:
    assert READS_HEADER.pack(2, 0) + b"".join(DIGESTS) + PRINTS == example("READS")
    offsets = np.array([0, 0, 1], np.int64).tobytes()
    compared = replica.Compared(
        bytearray((replica.SAME, replica.DIFFERENT)), bytearray(SETS[1]), bytearray(offsets)
    )
    assert encode_differences(compared) == example("reply, the first one the same")
    assert (replica.SAME, replica.DIFFERENT, replica.UNREADABLE) == (0, 1, 2)


def test_forwards_are_packed_as_in_the_document() -> None:
    """GET a, and SET bc to xyz for a minute."""
    data = b"".join(NAMES) + b"xyz"
    numbers = {"name_starts": (0, 5), "name_lengths": (5, 6), "starts": (11, 11), "lengths": (0, 3)}
    arrays = {name: np.array(pair, np.int64).tobytes() for name, pair in numbers.items()}
    packet = packets.encode_operations(
        [(b"0", 2)],
        2,
        bytes((resp.GET, resp.SET)),
        b"".join(DIGESTS),
        data,
        *arrays.values(),
        np.array((-1, 60_000), np.int64).tobytes(),
        2500,
        7,
    )
    assert packet == example("FORWARD, GET and SET, 2500 ms left, layout 7")
    part = Part(
        bytes((0, FAILED)),
        b"old",
        np.array((0, 0), np.int64).tobytes(),
        np.array((3, 0), np.int64).tobytes(),
        {1: Overloaded("full")},
    )
    assert encode_answers(part) == example("reply, a value, and a refusal")
    told = decode_answers(example("reply, a value, and a refusal"), 2)
    assert isinstance(told.errors[1], Overloaded)
