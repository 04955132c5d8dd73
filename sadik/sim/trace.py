"""The event log of a run: who sent what to whom, what was done to which file, what clients asked and heard.

Two runs of one seed have the same log, and so the same hash; that is how determinism is checked. A log that
is kept as text is for people.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from zlib import crc32

from sadik.comms.messages import Kind
from sadik.errors import ProtocolError
from sadik.kernels import frames

_KINDS = {int(kind): kind.name for kind in Kind}
_PAYLOAD_BYTES_MAX = 1 << 30
_SHOWN_BYTES = 60
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
        self._began_s = now()
        self.stopped = False
        self._readers: dict[int, frames.Reader] = {}

    @property
    def is_read(self) -> bool:
        """Whether lines are kept: what is only for people need not be made otherwise."""
        return self._sink is not None

    def stop(self) -> None:
        """Nothing that happens from now on belongs to the run."""
        self.stopped = True

    def hexdigest(self) -> str:
        """The hash of all events so far, 32 hexadecimal digits."""
        return self._hash.hexdigest()

    def note(self, kind: str, *facts: object) -> None:
        """Something happened."""
        if self.stopped:
            return
        self.events += 1
        self._hash.update(repr((self._now(), kind, facts)).encode())
        if self._sink is not None:
            self._line(kind, " ".join(map(_shown, facts)))

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
        self._hash.update(_SENT.pack(self._now(), connection, len(data), crc32(data)))
        if self._sink is not None:
            what = self._frames(sender, connection, data) if peers else _text(data)
            self._line("send", f"{sender} -> {receiver}  {what}")

    def _line(self, kind: str, text: str) -> None:
        assert self._sink is not None
        self._sink(f"{self._now() - self._began_s:10.6f}  {kind:8} {text}")

    def _frames(self, sender: str, connection: int, data: bytes) -> str:
        reader = self._readers.get(connection)
        if reader is None:
            reader = self._readers[connection] = frames.Reader(_PAYLOAD_BYTES_MAX, 0, _PAYLOAD_BYTES_MAX)
        try:
            found = reader.feed(data)
        except ProtocolError as error:
            return f"{len(data)} bytes: {error}"
        if not found:
            return f"{len(data)} bytes"
        return ", ".join(
            f"{_KINDS.get(frame.kind, frame.kind)}#{frame.request} {len(frame.payload)} B" for frame in found
        )


def _text(data: bytes) -> str:
    shown = data[:_SHOWN_BYTES].replace(b"\r\n", b" ").decode("ascii", "backslashreplace")
    return shown + ("..." if len(data) > _SHOWN_BYTES else "")


def _shown(fact: object) -> str:
    return _text(fact) if isinstance(fact, bytes) else str(fact)
