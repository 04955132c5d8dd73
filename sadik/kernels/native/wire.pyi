"""What goes over a simulated connection, and when it arrives.

``sim/network.py`` says what a path is like, and ``sim/stream.py`` makes a transport of an end: a class that
has one, and these as well::

    close()           as asyncio has it
    _tell_reset()     answer the other end: there is no such connection
    _on_heard()       the other side has taken something that was waited for
"""

from collections.abc import Callable
from typing import Any, Final

WINDOW_BYTES: Final = 131072
"""What a host takes from a process without hearing from the other side."""

class Path:
    """One direction between two hosts.

    Args:
        weather: ``network.Weather``. random: From 0 up to 1.

    Attributes:
        weather: May be replaced at any time.
        closed: How many faults keep it closed. clogged_until_s: Nothing arrives before.
    """

    weather: Any
    closed: int
    clogged_until_s: float

    def __init__(self, weather: Any, random: Callable[[], float]) -> None: ...
    def latency_s(self) -> float:
        """Of the next packet."""

    def arrival_s(self, now_s: float, length: int) -> float:
        """When bytes that are sent now arrive."""

class End:
    """One end of a connection: what was written, and what has come.

    Attributes:
        process: Whose end it is.
        other: The other end.
        is_gone: This end knows nothing of the connection any more.
    """

    process: Any
    other: Any
    is_gone: bool
    _network: Any
    _loop: Any
    _path: Path
    _sender: str
    _receiver: str
    _number: int
    _peers: bool
    _protocol: Any
    _arrival: Any
    _flight: list[tuple[float, bytes]]
    _unheard_bytes: int
    _high: int
    _paused_writing: bool
    _reading: bool
    _closing: bool
    _fin_sent: bool

    def __init__(self, network: Any, process: Any, path: Path) -> None: ...
    def write(self, data: Any) -> None:
        """Bytes go on their way, whole or in two pieces."""

    def write_eof(self) -> None:
        """Nothing more will be written."""

    def arrive(self) -> None:
        """Hand over what has come from the other end: what the loop runs when it is time."""
