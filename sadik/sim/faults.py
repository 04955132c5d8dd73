"""Faults of the simulated disk as values, and the script that brings them about where they are meant to
be."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

COUNTED: Final = frozenset(
    ("create", "write", "truncate", "sync", "make_directory", "rename", "remove", "sync_directory", "lock")
)
"""Kinds of operation that change something or sync it: a crash at each of these is a different story."""

KINDS: Final = COUNTED | {"open", "read", "map", "size", "names", "free_bytes"}


class CrashPoint(BaseException):
    """The process died here. Not an ``Exception``: no error handling of the code under test may catch it.

    Attributes:
        taken: Bytes of the interrupted write that were still handed over.
    """

    def __init__(self, taken: int = 0) -> None:
        super().__init__("simulated death of the process")
        self.taken = taken


class Operation(NamedTuple):
    """One counted operation; ``kind`` as in ``Fault``."""

    kind: str
    path: str


@dataclass
class Fault:
    """Makes matching operations fail.

    Attributes:
        kind: ``open``, ``create``, ``read``, ``write``, ``truncate``, ``sync``, ``map``, ``size``, ``names``,
            ``make_directory``, ``rename`` (by its source), ``remove``, ``sync_directory``, ``lock`` or
            ``free_bytes``.
        code: The errno raised; 0 raises nothing, which makes sense with ``taken`` and ``loses``.
        path: A pattern (``fnmatch``) for the whole path.
        skip: Matching operations that pass first.
        times: Matching operations that fail after those.
        taken: Of a ``write``: bytes written all the same. With ``code`` 0 the write is short, as real systems
            answer first.
        loses: Of a ``sync``: what was to be synced never reaches the disk, though reads show it until the
            next power cut, and later syncs succeed. With EIO this is what Linux does ("fsyncgate"), with
            ``code`` 0 a disk that lies.
    """

    kind: str
    code: int = errno.EIO
    path: str = "*"
    skip: int = 0
    times: int = 1
    taken: int = 0
    loses: bool = False


class Script:
    """Counts operations, and says what goes wrong with each.

    Attributes:
        trace: The operations counted so far.
        on_operation: Called with kind, path and size of each of them, where somebody keeps a log.
        on_crash: Called in the instant of a crash. on_fault: Called with each fault that strikes.
    """

    def __init__(self) -> None:
        self.trace: list[Operation] = []
        self.on_operation: Callable[[str, str, int], None] | None = None
        self.on_crash: Callable[[], None] = _nothing
        self.on_fault: Callable[[Fault], None] = _ignore
        self._faults: list[Fault] = []
        self._crash_number = -1
        self._crash_taken = 0
        self._dead = False

    def inject(self, fault: Fault) -> None:
        if fault.kind not in KINDS:
            raise ValueError(f"there is no operation {fault.kind!r} to fail")
        self._faults.append(fault)

    def clear_faults(self) -> None:
        self._faults.clear()

    def crash_before(self, number: int, taken: int) -> None:
        if number < len(self.trace):
            raise ValueError(f"operation {number} has run; {len(self.trace)} is the next one")
        self._crash_number, self._crash_taken = number, taken

    def revive(self) -> None:
        """The process is started again; a crash that did not come to pass is off."""
        self._crash_number = -1
        self._dead = False

    def check_alive(self) -> None:
        """Raises CrashPoint when the process is dead and neither ``kill`` nor ``power_cut`` has buried it."""
        if self._dead:
            raise CrashPoint

    def begin(self, kind: str, path: str, size: int = 0) -> Fault | None:
        """Count an operation, on ``size`` bytes; returns the fault that hits it.

        Raises:
            CrashPoint: The process dies here, or is dead.
        """
        self.check_alive()
        if kind in COUNTED:
            if len(self.trace) == self._crash_number:
                self._dead = True
                self.on_crash()
                raise CrashPoint(self._crash_taken if kind == "write" else 0)
            self.trace.append(Operation(kind, path))
            if self.on_operation is not None:
                self.on_operation(kind, path, size)
        for fault in self._faults:
            if fault.kind == kind and fault.times > 0 and fnmatchcase(path, fault.path):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                self.on_fault(fault)
                return fault
        return None


def _nothing() -> None:
    """Nobody waits for it."""


def _ignore(fault: Fault) -> None:
    """Nobody waits for it."""
