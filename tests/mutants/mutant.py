"""What a mutant is: a historic bug, planted in the shipped code for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from sadik.sim.profiles import PROFILES


@dataclass(frozen=True, slots=True)
class Mutant:
    """Attributes:
    rows: Historic bugs by their numbers (``catalogue.ROWS``), or invariants where no such bug is known by
        name.
    name: What is wrong, in a few words.
    story: The bug in its history, and what stands for it here.
    caught_by: Invariants, any of which tells that it was found; others do not count.
    profiles: Campaign profiles under which it can do harm, tried in turn.
    planted: The shipped code has the bug as long as this context lasts.
    fast: It is found within seconds, so every test run plants it.
    """

    rows: tuple[str, ...]
    name: str
    story: str
    caught_by: tuple[str, ...]
    profiles: tuple[str, ...]
    planted: Callable[[], AbstractContextManager[None]]
    fast: bool = False


Planting = Callable[[], Iterator[None]]


def mutant(
    *rows: str,
    caught_by: tuple[str, ...],
    profiles: tuple[str, ...] = ("default",),
    fast: bool = False,
) -> Callable[[Planting], Mutant]:
    """Make a mutant of a generator that plants it, yields once, and takes it out again.

    The function's name and docstring are the mutant's.
    """
    assert set(profiles) <= set(PROFILES), f"there are no profiles {profiles}"

    def make(planting: Planting) -> Mutant:
        return Mutant(
            rows,
            planting.__name__.replace("_", " "),
            " ".join((planting.__doc__ or "").split()),
            caught_by,
            profiles,
            contextmanager(planting),
            fast,
        )

    return make


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """``owner.name`` is ``new`` for a while. The name must be there, so a mutant cannot outlive what it
    changes.
    """
    before = owner.__dict__[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Shim:
    """A module with some of its functions replaced, for one of the modules that use it."""

    def __init__(self, module: Any, **functions: Any) -> None:
        self.__dict__.update(vars(module))
        self.__dict__.update(functions)
