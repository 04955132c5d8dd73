"""The event log of a run: who sent what to whom, what was done to which file, what clients asked and heard.

Two runs of one seed have the same log, and so the same hash; that is how determinism is checked. A log that
is kept as text is for people.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from zlib import crc32

from sadik.errors import ProtocolError
from sadik.kernels import frames
from sadik.sim.words import Captions, Names

_LENGTHS = re.compile(rb"[*$%]\d+\r\n")
_KEY_BYTES_MAX = 64
"""Of words that may be keys: longer ones are values."""
_CLIENTS = "127.9.0."
_PAYLOAD_BYTES_MAX = 1 << 30
_SHOWN_BYTES = 60
_UNHASHED_BYTES_MAX = 64 << 10
_SENT = Struct("<dqII")


class Trace:
    """Args:
    now: The time, in seconds. sink: Called with each line, where somebody reads along.

    Attributes:
        events: Counted so far. stopped: The run is over.
    """

    def __init__(self, now: Callable[[], float], sink: Callable[[str], None] | None = None) -> None:
        self.events = 0
        self._now = now
        self._sink = sink
        self._hash = blake2b(digest_size=16)
        self._unhashed = bytearray()
        self._began_s = now()
        self.stopped = False
        self._readers: dict[int, frames.Reader] = {}
        self._names = Names()
        self._captions = Captions(self._names)

    @property
    def is_read(self) -> bool:
        """Whether lines are kept: what is only for people need not be made otherwise."""
        return self._sink is not None

    def meet(self, node: str, actor: int, mark: str = "") -> None:
        """A node mints under this actor; see ``words.Names``."""
        self._names.meet(node, actor, mark)

    def stop(self) -> None:
        """Nothing that happens from now on belongs to the run."""
        self.stopped = True

    def hexdigest(self) -> str:
        """The hash of all events so far, 32 hexadecimal digits."""
        self._flush()
        return self._hash.hexdigest()

    def note(self, kind: str, *facts: object) -> None:
        """Something happened."""
        if self.stopped:
            return
        self.events += 1
        self._unhashed += repr((self._now(), kind, facts)).encode()
        if self._sink is not None:
            self._line(kind, _operation(*facts) if kind == "client" else " ".join(map(_shown, facts)))

    def tell(self, kind: str, text: str) -> None:
        """Something for readers alone, which the hash does not know of."""
        if self._sink is not None and not self.stopped:
            self._line(kind, text)

    def sent(self, sender: str, receiver: str, connection: int, data: bytes, *, peers: bool) -> None:
        """Bytes are on their way. ``peers``: between nodes, as frames; else a client's.

        The number of a connection stands for both ends, its sign for the direction.
        """
        if self.stopped:
            return
        self.events += 1
        self._unhashed += _SENT.pack(self._now(), connection, len(data), crc32(data))
        if len(self._unhashed) > _UNHASHED_BYTES_MAX:
            self._flush()
        if self._sink is not None:
            what = self._frames(sender, receiver, connection, data) if peers else self._command(data)
            self._line("send", f"{_who(sender)} > {_who(receiver)}  {what}")

    def _flush(self) -> None:
        self._hash.update(self._unhashed)
        self._unhashed.clear()

    def _line(self, kind: str, text: str) -> None:
        assert self._sink is not None
        self._sink(f"{self._now() - self._began_s:10.6f}  {kind:8} {text}")

    def _frames(self, sender: str, receiver: str, connection: int, data: bytes) -> str:
        reader = self._readers.get(connection)
        if reader is None:
            reader = self._readers[connection] = frames.Reader(_PAYLOAD_BYTES_MAX, 0, _PAYLOAD_BYTES_MAX)
        try:
            found = reader.feed(data)
        except ProtocolError as error:
            return f"{len(data)} bytes: {error}"
        if not found:
            return f"{len(data)} bytes"
        return " + ".join(
            self._captions.caption(sender, receiver, frame.kind, frame.request, bytes(frame.payload))
            for frame in found
        )

    def _command(self, data: bytes) -> str:
        """A client's command or its reply, without the lengths of its words."""
        words = _LENGTHS.sub(b"", data)
        for word in words.split(b"\r\n")[1:]:
            if 0 < len(word) < _KEY_BYTES_MAX:
                self._names.learn(word)
        return _text(words).strip()


def _who(host: str) -> str:
    """A client by its number, a node by its name."""
    return f"c{int(host[len(_CLIENTS) :]) - 1}" if host.startswith(_CLIENTS) else host


def _operation(number: object, client: object, kind: object, key: object, node: object, *rest: object) -> str:
    """What a client was told."""
    outcome, reason, *values = map(_shown, rest)
    answer = f": {reason}" if reason else "".join(f" | {value}" for value in values)
    return f"c{client} #{number} {kind} {_shown(key)} at {node}: {outcome}{answer}"


def _text(data: bytes) -> str:
    shown = data[:_SHOWN_BYTES].replace(b"\r\n", b" ").decode("ascii", "backslashreplace")
    return shown + ("..." if len(data) > _SHOWN_BYTES else "")


def _shown(fact: object) -> str:
    return _text(fact) if isinstance(fact, bytes) else str(fact)
