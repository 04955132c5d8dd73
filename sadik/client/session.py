"""One thread of reads and writes: what it has seen of each key goes along with it.

A write hands back the context of the last read of its key, so it replaces what that read saw and nothing
else; a value that somebody else wrote meanwhile stays beside it. A read that shows less than the session has
seen is tried again at other nodes, and reported as ``StaleRead`` if that does not help in time.

A session is for one line of work at a time: of two tasks that read, think and write in one session, the
second would hand back what the first one saw. They take a session each (``Client.session``), which costs
nothing, or pass the context of their own read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from sadik.causality.context import decode_hint
from sadik.client.answers import Key, ManyFailed, Reply, StaleRead, read_reply, write_reply
from sadik.client.cluster import Cluster, Operation
from sadik.client.contexts import Contexts, Seen, covers
from sadik.client.replies import encode
from sadik.errors import InvalidRequest, LimitReached, ProtocolError, SadikError, Unavailable
from sadik.kernels import digest

_Answer = TypeVar("_Answer")

_PAUSE_S: Final = 0.02
_PAUSE_MAX_S: Final = 0.5
_OPTION_MAX: Final = 1 << 48


class Session:
    """Made by ``Client``, or by its ``session`` method.

    Keys are bytes or text (its UTF-8), 1 to 65535 bytes; values likewise. Options of a call: ``r``, ``w``,
    ``pr``, ``pw`` replace the bucket's quorums; ``ttl_ms`` is how long a value lives; ``timeout_ms`` is how
    long the call may take, all attempts together.

    Every call raises:
        InvalidRequest: The caller's fault (``InvalidContext``, ``LimitReached``); nothing was changed.
        Unavailable: The cluster cannot do it now; ``maybe_applied`` tells a write that surely did not happen
            from one that nobody knows of.
        SadikError: Anything else a node reports, as the class of its code.
    """

    def __init__(self, cluster: Cluster, bucket: bytes, *, monotonic: bool) -> None:
        """``monotonic``: whether reads that show less than was seen before are errors."""
        self._cluster = cluster
        self._bucket = bucket
        self._monotonic = monotonic
        self._contexts = Contexts(cluster.limits.session_keys_max)

    # Reads.

    async def get(
        self, key: Key, *, r: int | None = None, pr: int | None = None, timeout_ms: int | None = None
    ) -> Reply:
        """All values of a key and their context.

        Raises:
            StaleRead: The cluster shows less than this session has seen.
        """
        return _only(await self._read([key], {"R": r, "PR": pr}, timeout_ms))

    async def get_many(
        self,
        keys: Iterable[Key],
        *,
        r: int | None = None,
        pr: int | None = None,
        timeout_ms: int | None = None,
    ) -> dict[Key, Reply]:
        """The same for many keys at once, each asked of one of its own nodes; in the order given.

        Raises:
            ManyFailed: Some keys failed; it holds the others' replies.
        """
        return _all(await self._read(list(dict.fromkeys(keys)), {"R": r, "PR": pr}, timeout_ms))

    async def _read(
        self, keys: Sequence[Key], options: Mapping[str, int | None], timeout_ms: int | None
    ) -> dict[Key, Reply | SadikError]:
        until = self._deadline(timeout_ms)
        names = [_bytes(key, "a key") for key in keys]
        extra = _options(options)
        operations = [
            Operation(self._digest(name), encode([b"SADIK.GET", name, *extra]), writes=False)
            for name in names
        ]
        # What is seen while a read is under way, by others of this session, it need not show.
        floors = [self._contexts.seen(name) for name in names]
        found: list[Reply | SadikError] = [_NOT_RUN] * len(names)
        left = list(range(len(names)))
        pause = _PAUSE_S
        while True:
            await self._cluster.run([operations[number] for number in left], until)
            for number in left:
                found[number] = self._judge(operations[number], floors[number])
            left = [number for number in left if isinstance(found[number], StaleRead)]
            loop = asyncio.get_running_loop()
            if not left or loop.time() + pause >= until or not self._cluster.is_open:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)
        for name, one in zip(names, found, strict=True):
            if isinstance(one, Reply):
                keep = self._contexts.on_read if self._compares else self._contexts.replace
                keep(name, one.context)
        return dict(zip(keys, found, strict=True))

    @property
    def _compares(self) -> bool:
        return self._monotonic and not self._cluster.alone

    def _judge(self, operation: Operation, floor: Seen) -> Reply | SadikError:
        """What a read has come to; ``StaleRead`` for one that shows less than ``floor``."""
        if operation.failure is not None:
            return operation.failure
        try:
            reply = read_reply(operation.reply)
        except ProtocolError as error:
            return error
        if self._compares and not covers(reply.context, floor):
            self._cluster.stale += 1
            return StaleRead("the cluster shows less of this key than this session has seen before", reply)
        return reply

    # Writes.

    async def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        context: bytes | None = None,
        ttl_ms: int | None = None,
        w: int | None = None,
        pw: int | None = None,
        timeout_ms: int | None = None,
    ) -> bytes | None:
        """Write a value in the place of what ``context`` has seen; the new context, or None where siblings
        remain.

        Args:
            context: Of a ``Reply`` or an earlier write; by default of the last answer about this key in this
                session. ``b""``, and a key of which the session has seen nothing, replaces nothing: a value
                that is there becomes a sibling.
        """
        options = {"W": w, "PW": pw, "TTL_MS": ttl_ms}
        contexts = {} if context is None else {key: context}
        return _only(await self._write({key: value}, contexts, options, timeout_ms))

    async def put_many(
        self,
        values: Mapping[Key, bytes | str],
        *,
        contexts: Mapping[Key, bytes] | None = None,
        ttl_ms: int | None = None,
        w: int | None = None,
        pw: int | None = None,
        timeout_ms: int | None = None,
    ) -> dict[Key, bytes | None]:
        """The same for many keys at once. Each is a write of its own: no order, no all or nothing.

        Raises:
            ManyFailed: Some keys failed; it says which, and holds what the others gave.
        """
        options = {"W": w, "PW": pw, "TTL_MS": ttl_ms}
        return _all(await self._write(values, contexts or {}, options, timeout_ms))

    async def delete(
        self,
        key: Key,
        *,
        context: bytes | None = None,
        w: int | None = None,
        pw: int | None = None,
        timeout_ms: int | None = None,
    ) -> bytes | None:
        """Delete what ``context`` has seen, as ``put`` replaces it; the new context, or None where siblings
        remain.
        """
        contexts = {} if context is None else {key: context}
        return _only(await self._write({key: None}, contexts, {"W": w, "PW": pw}, timeout_ms))

    async def _write(
        self,
        values: Mapping[Key, bytes | str | None],
        contexts: Mapping[Key, bytes],
        options: Mapping[str, int | None],
        timeout_ms: int | None,
    ) -> dict[Key, bytes | SadikError | None]:
        until = self._deadline(timeout_ms)
        names = [_bytes(key, "a key") for key in values]
        if len(set(names)) < len(names):
            raise InvalidRequest("a key is given twice, as text and as bytes")
        if strangers := [key for key in contexts if key not in values]:
            raise InvalidRequest(f"a context is given for {strangers[0]!r}, which is not written")
        extra = _options(options)
        operations = [
            self._write_operation(name, value, contexts.get(key), extra)
            for name, (key, value) in zip(names, values.items(), strict=True)
        ]
        await self._cluster.run(operations, until)
        found: dict[Key, bytes | SadikError | None] = {}
        for key, name, operation in zip(values, names, operations, strict=True):
            found[key] = self._written(name, operation)
        return found

    def _write_operation(
        self, name: bytes, value: bytes | str | None, context: bytes | None, extra: Sequence[bytes]
    ) -> Operation:
        """SADIK.PUT, or SADIK.DEL for None."""
        address = self._digest(name)
        covered = self._contexts.context(name) if context is None else context
        if value is None:
            arguments = [b"SADIK.DEL", name, covered]
        else:
            payload = _bytes(value, "a value")
            if len(payload) > self._cluster.limits.value_bytes_max:
                raise LimitReached(f"a value has at most {self._cluster.limits.value_bytes_max} bytes")
            arguments = [b"SADIK.PUT", name, covered, payload]
        hint = decode_hint(covered) if covered else None
        return Operation(address, encode([*arguments, *extra]), writes=True, hint=hint)

    def _written(self, name: bytes, operation: Operation) -> bytes | SadikError | None:
        if operation.failure is not None:
            return operation.failure
        try:
            context = write_reply(operation.reply)
        except ProtocolError as error:
            return error
        if self._compares:
            self._contexts.on_write(name, context)
        elif context is not None:
            self._contexts.replace(name, context)
        return context

    # What is remembered.

    def forget(self, key: Key | None = None) -> None:
        """Forget what this session has seen of ``key``, or of all keys."""
        self._contexts.forget(None if key is None else _bytes(key, "a key"))

    def _digest(self, name: bytes) -> bytes:
        return digest.address_digest(self._bucket, name)

    def _deadline(self, timeout_ms: int | None) -> float:
        length_ms = self._cluster.limits.timeout_ms if timeout_ms is None else timeout_ms
        if length_ms < 1:
            raise InvalidRequest(f"timeout_ms must be positive, not {length_ms}")
        return asyncio.get_running_loop().time() + length_ms / 1000


_NOT_RUN: Final = Unavailable("not run")


def _bytes(text: bytes | str, what: str) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise InvalidRequest(f"{what} is bytes or text, not {type(text).__name__}")


def _options(options: Mapping[str, int | None]) -> list[bytes]:
    """As pairs of arguments."""
    found: list[bytes] = []
    for name, number in options.items():
        if number is None:
            continue
        if type(number) is not int or not 1 <= number <= _OPTION_MAX:
            raise InvalidRequest(f"{name.lower()} must be a positive whole number, not {number!r}")
        found += (name.encode(), b"%d" % number)
    return found


def _only(found: Mapping[Key, _Answer | SadikError]) -> _Answer:
    (answer,) = found.values()
    if isinstance(answer, SadikError):
        raise answer
    return answer


def _all(found: Mapping[Key, _Answer | SadikError]) -> dict[Key, _Answer]:
    done: dict[Key, _Answer] = {}
    failed: dict[Key, SadikError] = {}
    for key, answer in found.items():
        if isinstance(answer, SadikError):
            failed[key] = answer
        else:
            done[key] = answer
    if failed:
        raise ManyFailed(failed, done)
    return done
