"""``docs/protocol.md`` says what is on the wire: its bytes and its table are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sadik.comms.failure import encode_failure
from sadik.comms.handshake import GREETING_BYTES_MAX, Dialled, Dialling, key_of, refuse
from sadik.comms.link import CONTROL_KINDS_MAX
from sadik.comms.links import STRANGERS_MAX
from sadik.comms.messages import (
    DATA,
    LINKED,
    MESSAGE_CHARACTERS_MAX,
    PROTOCOL_VERSION,
    REPLY,
    Kind,
    Refuse,
)
from sadik.comms.transport import Frame, Identity
from sadik.errors import Unavailable
from sadik.ids import NodeId
from sadik.kernels import frames

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
CLUSTER_ID = "00112233445566778899aabbccddeeff"
N1 = Identity("sadik", CLUSTER_ID, NodeId("n1"), 0x1111111111111111, 0x2222222222222222)
N2 = Identity("sadik", CLUSTER_ID, NodeId("n2"), 0x3333333333333333, 0x4444444444444444)
KEY = key_of(b"0123456789abcdef")


class Fixed:
    """Draws one byte again and again."""

    def __init__(self, byte: int) -> None:
        self.byte = byte

    def random_bytes(self, count: int) -> bytes:
        return bytes([self.byte]) * count


def example(title: str) -> bytes:
    """Bytes of an example of the document."""
    block = TEXT.split("## Examples")[1].split("```")[1]
    found = re.search(rf"^{re.escape(title)}.*\n((?:[0-9a-f]+\n)+)", block, re.MULTILINE)
    assert found, title
    return bytes.fromhex(found[1].replace("\n", ""))


def opened(data: bytes) -> Frame:
    (frame,) = frames.Reader(GREETING_BYTES_MAX).feed(data)
    return frame


def test_handshake_is_that_of_the_document() -> None:
    """A node that is a version older or newer must shake hands with this one."""
    dialled = Dialled(N1, KEY, Fixed(0xAA))
    dialling = Dialling(N2, KEY, Fixed(0xBB), lane=DATA, wanted="n1")
    assert example("key") == KEY
    assert dialled.challenge() == example("CHALLENGE")
    assert dialling.on_challenge(opened(example("CHALLENGE"))) == example("HELLO")
    dialled.on_hello(opened(example("HELLO")))
    assert dialled.welcome() == example("WELCOME")
    assert dialling.on_answer(opened(example("WELCOME"))) == N1


def test_other_frames_are_those_of_the_document() -> None:
    assert refuse(Refuse(LINKED, "no", "n1")) == example("REFUSE")
    assert frames.encode(Kind.PING, 1, ()) == example("PING")
    assert frames.encode(Kind.PONG, 1, ()) == example("PONG")
    error = encode_failure(Unavailable("no", maybe_applied=True))
    assert frames.encode(Kind.ERROR, 9, (error,)) == example("ERROR")


def test_table_names_every_kind() -> None:
    table = TEXT.split("## Kinds")[1].split("## Examples")[0]
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", table, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(kind.value, kind.name) for kind in Kind]


def test_kinds_leave_room_for_their_replies() -> None:
    """A reply is the kind with one bit more, and no reply may look like a link's own frame."""
    assert all(0 < kind < REPLY for kind in Kind)
    assert {kind for kind in Kind if kind <= CONTROL_KINDS_MAX} == {
        *(Kind.CHALLENGE, Kind.HELLO, Kind.WELCOME, Kind.REFUSE, Kind.PING, Kind.PONG)
    }


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (PROTOCOL_VERSION, "Protocol version {}"),
        (frames.HEADER_BYTES, "its {} bytes are there"),
        (GREETING_BYTES_MAX, "at most {} bytes"),
        (STRANGERS_MAX, "At most {} strangers"),
        (MESSAGE_CHARACTERS_MAX, "at most {} characters"),
        (REPLY, "plus {}"),
    ],
)
def test_numbers_are_those_of_the_document(number: int, words: str) -> None:
    assert words.format(number) in " ".join(TEXT.split())


def test_kernel_and_protocol_have_one_version() -> None:
    assert frames.VERSION == PROTOCOL_VERSION
