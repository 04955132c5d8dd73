"""SADIK.*: what Redis' commands cannot say. All siblings of a key, contexts, quorums, other buckets.

A context is what a reader has seen; a write that brings it back replaces exactly that, and leaves as
siblings what its reader had not seen. The empty context covers nothing. A write answers with the context
of the new state, or null where siblings remain: a context that covered values its client never saw would
let it lose them (Dynamo 4.4).
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from sadik.api.resp.arguments import check_value_bytes, default_expiry_ms, shown
from sadik.api.resp.call import DEFAULT, Call, Command
from sadik.api.resp.replies import OK, array, bulk, integer, mapping, null, text
from sadik.errors import InvalidRequest
from sadik.ids import stamp_ms
from sadik.kernels import versions
from sadik.node.coordinator.options import Options, parse_options
from sadik.node.coordinator.outcomes import Explanation, ReplicaView

_READ_OPTIONS: Final = frozenset({"r", "pr", "timeout_ms"})
_DELETE_OPTIONS: Final = frozenset({"w", "pw", "timeout_ms"})
_WRITE_OPTIONS: Final = _DELETE_OPTIONS | {"ttl_ms"}


def _options(first: int, allowed: frozenset[str], arguments: list[bytes]) -> Options:
    """The option pairs from argument ``first`` on."""
    words = [shown(argument) for argument in arguments[first:]]
    if not words:
        return DEFAULT
    if len(words) % 2:
        raise InvalidRequest(f"option {words[-1][:40]!r} has no value")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    options = parse_options(pairs)
    for name, _ in pairs:
        if name.lower() not in allowed:
            known = ", ".join(sorted(allowed))
            raise InvalidRequest(f"option {name.lower()} means nothing here; options are {known}")
    return options


def get(call: Call) -> bytes:
    """SADIK.GET key [R n] [PR n] [TIMEOUT_MS n]: ``[context, [[value, stamp_ms, expires_at_ms or -1],
    ...]]``, newest first.

    A deleted key has no values but a context; a key that nothing is known of has an empty context.
    """
    record = call.records[0]
    values = [
        array([bulk(value.payload), integer(stamp_ms(value.stamp)), integer(value.expires_at_ms)])
        for value in record.siblings()
    ]
    return array([bulk(call.server.store.encode_context(record)), array(values)])


def put(call: Call) -> bytes:
    """SADIK.PUT key context value [W n] [PW n] [TIMEOUT_MS n] [TTL_MS n]: the new context, or null where
    siblings remain.
    """
    ttl_ms = call.options.ttl_ms
    payload = call.arguments[3]
    check_value_bytes(call, len(payload))
    when = default_expiry_ms(call) if ttl_ms is None else call.now_ms + ttl_ms
    record = call.records[0]
    record.put(payload, when, covers=_covers(call))
    return _written(call, siblings=len(record.siblings()) - 1)


def delete(call: Call) -> bytes:
    """SADIK.DEL key context [W n] [PW n] [TIMEOUT_MS n]: the new context, or null where siblings remain."""
    record = call.records[0]
    record.delete(covers=_covers(call))
    return _written(call, siblings=len(record.siblings()))


def _covers(call: Call) -> versions.Entries:
    """What the context given with a write has seen; nothing for the empty one."""
    context = call.arguments[2]
    return call.server.store.decode_context(context, call.records[0]) if context else ()


def _written(call: Call, *, siblings: int) -> bytes:
    """The reply to a write that left ``siblings`` live values beside its own."""
    return (
        null(call.session.protocol) if siblings else bulk(call.server.store.encode_context(call.records[0]))
    )


async def explain(call: Call) -> bytes:
    """SADIK.EXPLAIN key: where it lives, and who has which version."""
    key = call.arguments[1]
    explanation = await call.server.store.explain(call.session.bucket, key)
    return _explanation(explanation, call.session.protocol)


def _explanation(explanation: Explanation, protocol: int) -> bytes:
    fields = {
        "bucket": bulk(explanation.bucket),
        "key": bulk(explanation.key),
        "digest": text(explanation.digest),
        # Tokens and actors are uint64, and RESP integers are signed.
        "token": text(str(explanation.token)),
        "partition": integer(explanation.partition),
        "n": integer(explanation.n),
        "r": integer(explanation.r),
        "w": integer(explanation.w),
        "replicas": array([_replica(view, protocol) for view in explanation.replicas]),
    }
    return mapping([(text(name), value) for name, value in fields.items()], protocol)


def _replica(view: ReplicaView, protocol: int) -> bytes:
    fields = {
        "node": text(view.node),
        "role": text(view.role),
        "up": integer(view.up),
        "state": text(view.state),
        "entries": array([array([text(f"{actor:016x}"), integer(stamp)]) for actor, stamp in view.entries]),
        "siblings": integer(view.siblings),
        "bytes": integer(view.bytes),
    }
    return mapping([(text(name), value) for name, value in fields.items()], protocol)


def use(call: Call) -> bytes:
    """SADIK.USE bucket: what the connection's commands are about from now on; 1 to 255 bytes."""
    bucket = call.arguments[1]
    # Asking for the properties checks the name, and makes nothing.
    call.server.store.properties(bucket)
    call.session.bucket = bucket
    return OK


def layout(call: Call) -> bytes:
    """SADIK.LAYOUT: who holds which partition, as JSON, for clients that go straight to a key's nodes."""
    return bulk(msgspec.json.encode(call.server.store.client_layout()))


def _is_blind(arguments: list[bytes]) -> bool:
    """A write says itself what it replaces: the context's values."""
    return True


_READ: Final = ("readonly", "fast")
_WRITE: Final = ("write", "denyoom", "fast")
_GROUP: Final = "sadik"

ROWS: Final = (
    Command(
        *("sadik.get", -2, _READ, 1, 1, 1, _GROUP, "0.1.0", "All values, and their context.", get),
        options=partial(_options, 2, _READ_OPTIONS),
    ),
    Command(
        *("sadik.put", -4, _WRITE, 1, 1, 1, _GROUP, "0.1.0", "Writes with a context.", put),
        options=partial(_options, 4, _WRITE_OPTIONS),
        blind=_is_blind,
    ),
    Command(
        *("sadik.del", -3, _WRITE, 1, 1, 1, _GROUP, "0.1.0", "Deletes with a context.", delete),
        options=partial(_options, 3, _DELETE_OPTIONS),
        blind=_is_blind,
    ),
    Command(
        *("sadik.explain", 2, ("readonly",), 1, 1, 1, _GROUP, "0.1.0", "Where a key lives."),
        awaited=explain,
    ),
    Command(
        *("sadik.layout", 1, ("loading", "stale"), 0, 0, 0, _GROUP, "0.3.0", "Who holds what.", layout),
    ),
    Command(
        "sadik.use", 2, ("loading", "stale", "fast"), 0, 0, 0, _GROUP, "0.1.0", "Uses another bucket.", use
    ),
)
