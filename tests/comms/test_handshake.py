"""The handshake's two machines, without a network: who comes to trust whom, and who does not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.comms.handshake import (
    GREETING_BYTES_MAX,
    Dialled,
    Dialling,
    Greeted,
    key_of,
    refuse,
)
from sadik.comms.messages import (
    DATA,
    MESSAGE_CHARACTERS_MAX,
    NOT_ADMITTED,
    Challenge,
    Hello,
    Kind,
    Refuse,
    Welcome,
    encode,
)
from sadik.comms.transport import Frame, Identity
from sadik.env.entropy import SystemEntropy
from sadik.errors import ProtocolError
from sadik.ids import NodeId
from sadik.kernels import frames
from tests.comms.worlds import CLUSTER_ID, SECRET, identity

US = Identity("c", CLUSTER_ID, NodeId("a"), 11, 12)
THEM = Identity("c", CLUSTER_ID, NodeId("b"), 21, 22)


def opened(data: bytes) -> Frame:
    (frame,) = frames.Reader(GREETING_BYTES_MAX).feed(data)
    return frame


def sides(
    us: Identity = US,
    them: Identity = THEM,
    *,
    secret: bytes | None = SECRET,
    theirs: bytes | None = SECRET,
    wanted: str = "a",
) -> tuple[Dialled, Dialling]:
    """The dialled side, us, and the dialling one."""
    entropy = SystemEntropy()
    return (
        Dialled(us, key_of(secret), entropy),
        Dialling(them, key_of(theirs), entropy, lane=DATA, wanted=wanted),
    )


@pytest.mark.parametrize("secret", [SECRET, None])
def test_both_sides_know_each_other_afterwards(secret: bytes | None) -> None:
    us, them = sides(secret=secret, theirs=secret)
    assert not them.has_greeted
    hello = them.on_challenge(opened(us.challenge()))
    assert them.has_greeted
    assert us.on_hello(opened(hello)) == Greeted(THEM, DATA, "a")
    assert them.on_answer(opened(us.welcome())) == US


@pytest.mark.parametrize(
    ("secret", "theirs"), [(SECRET, b"another secret!!"), (SECRET, None), (None, SECRET)]
)
def test_side_without_the_secret_is_refused(secret: bytes | None, theirs: bytes | None) -> None:
    us, them = sides(secret=secret, theirs=theirs)
    assert isinstance(us.on_hello(opened(them.on_challenge(opened(us.challenge())))), Refuse)


@pytest.mark.parametrize("secret", [b"another secret!!", None])
def test_dialled_side_must_know_the_secret_too(secret: bytes | None) -> None:
    """Else anyone at a node's old address would be given the cluster's writes."""
    us, them = sides()
    hello = opened(them.on_challenge(opened(us.challenge())))
    us.on_hello(hello)
    impostor, _ = sides(secret=secret)
    impostor._theirs = us._theirs
    answer = them.on_answer(opened(impostor.welcome()))
    assert isinstance(answer, Refuse)
    assert "secret" in answer.reason


def test_proof_cannot_be_sent_back_to_its_maker() -> None:
    """Both sides use one key: what one has proven must not serve the other."""
    us, them = sides()
    hello = msgspec.msgpack.decode(opened(them.on_challenge(opened(us.challenge()))).payload, type=Hello)
    echo = Welcome(hello.cluster, hello.cluster_id, "a", hello.actor, hello.directory, hello.proof)
    assert isinstance(them.on_answer(Frame(Kind.WELCOME, 0, encode(echo))), Refuse)


@pytest.mark.parametrize(
    "field", ["nonce", "lane", "wanted", "cluster", "cluster_id", "node", "actor", "directory", "proof"]
)
def test_every_field_of_a_hello_is_proven(field: str) -> None:
    """What is changed on the way is found out."""
    us, them = sides(Identity("c", "", NodeId("a"), 1, 2), Identity("c", "", NodeId("b"), 21, 22), wanted="")
    hello = msgspec.msgpack.decode(opened(them.on_challenge(opened(us.challenge()))).payload, type=Hello)
    changes = {
        "nonce": bytes(16),
        "lane": 1,
        "wanted": "a",
        "cluster": "",
        "cluster_id": CLUSTER_ID,
        "node": "d",
        "actor": 1,
        "directory": 1,
        "proof": bytes(32),
    }
    forged = msgspec.structs.replace(hello, **{field: changes[field]})
    answer = us.on_hello(Frame(Kind.HELLO, 0, encode(forged)))
    assert isinstance(answer, Refuse)
    assert "same secret" in answer.reason


@pytest.mark.parametrize("field", ["cluster", "cluster_id", "node", "actor", "directory", "proof"])
def test_every_field_of_a_welcome_is_proven(field: str) -> None:
    us, them = sides(Identity("c", "", NodeId("a"), 1, 2), Identity("c", "", NodeId("b"), 21, 22), wanted="")
    us.on_hello(opened(them.on_challenge(opened(us.challenge()))))
    welcome = msgspec.msgpack.decode(opened(us.welcome()).payload, type=Welcome)
    changes = {
        "cluster": "",
        "cluster_id": CLUSTER_ID,
        "node": "d",
        "actor": 77,
        "directory": 77,
        "proof": bytes(32),
    }
    forged = msgspec.structs.replace(welcome, **{field: changes[field]})
    answer = them.on_answer(Frame(Kind.WELCOME, 0, encode(forged)))
    assert isinstance(answer, Refuse)
    assert "same secret" in answer.reason


CLUSTERS = [
    (identity("a"), identity("b", cluster="d"), False),
    (identity("a"), identity("b", cluster_id="f" * 32), False),
    (identity("a"), identity("b", cluster_id=""), True),
    (identity("a"), identity("b", cluster="", cluster_id=""), True),
    (identity("a"), identity("b", cluster="d", cluster_id=""), False),
    (identity("a", cluster="", cluster_id=""), identity("b"), True),
]


@pytest.mark.parametrize(("us", "them", "same"), CLUSTERS)
def test_clusters_do_not_mix(us: Identity, them: Identity, same: bool) -> None:
    """A node that is not born yet has no cluster, and may still have been told which one it is to join."""
    dialled, dialling = sides(us, them)
    answer = dialled.on_hello(opened(dialling.on_challenge(opened(dialled.challenge()))))
    assert isinstance(answer, Greeted if same else Refuse)


def test_who_is_not_wanted_is_told_so() -> None:
    us, them = sides(wanted="z")
    answer = us.on_hello(opened(them.on_challenge(opened(us.challenge()))))
    assert answer == Refuse(NOT_ADMITTED, "this is node a, not z")


@given(payload=st.binary(max_size=100), kind=st.integers(1, 6))
def test_no_frame_harms_either_side(payload: bytes, kind: int) -> None:
    """An answer, or a ProtocolError: nothing else may come out."""
    frame = Frame(kind, 0, payload)
    us, them = sides()
    for take in (us.on_hello, them.on_challenge, them.on_answer):
        try:
            take(frame)
        except ProtocolError:
            continue


BAD_NAMES = ["", "x" * 65, "a b", "a\n", "ä", "../etc"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_no_node_can_have_are_no_greeting(name: str) -> None:
    """They would end up in logs, in metrics and in other nodes' tables."""
    hello = Hello(bytes(16), 0, "", "c", CLUSTER_ID, name, 1, 2, b"")
    us, _ = sides(secret=None)
    with pytest.raises(ProtocolError):
        us.on_hello(Frame(Kind.HELLO, 0, encode(hello)))


def test_longest_messages_fit_into_a_greeting() -> None:
    entropy = SystemEntropy()
    long = Identity("c" * 64, CLUSTER_ID, NodeId("n" * 64), 2**64 - 1, 2**64 - 1)
    us = Dialled(long, key_of(SECRET), entropy)
    them = Dialling(long, key_of(SECRET), entropy, lane=1, wanted="n" * 64)
    hello = opened(them.on_challenge(opened(us.challenge())))
    assert isinstance(us.on_hello(hello), Greeted)
    assert them.on_answer(opened(us.welcome())) == long
    refusal = opened(refuse(Refuse(NOT_ADMITTED, "\U0001f600" * 5000)))
    assert isinstance(them.on_answer(refusal), Refuse)
    assert len(msgspec.msgpack.decode(refusal.payload, type=Refuse).reason) == MESSAGE_CHARACTERS_MAX


def test_newer_fields_are_ignored() -> None:
    """New ones come last: an older node of this version goes on without them."""
    us, them = sides(secret=None, theirs=None)
    challenge = opened(us.challenge())
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(challenge.payload), "new"])
    hello = opened(them.on_challenge(Frame(Kind.CHALLENGE, 0, longer)))
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(hello.payload), {"new": 1}])
    assert us.on_hello(Frame(Kind.HELLO, 0, longer)) == Greeted(THEM, DATA, "a")
    assert msgspec.msgpack.decode(challenge.payload, type=Challenge).nonce
