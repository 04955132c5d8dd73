"""The package as a library: what it exports, what it does not import, and the face of version sets."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import sadik.causality
from sadik.causality import VersionSet, vclock, versions
from sadik.errors import CorruptRecord


def test_package_loads_no_server_code() -> None:
    """A library user pays for clocks only."""
    code = (
        "import sys, sadik.causality as c\n"
        "for name in c.__all__: getattr(c, name)\n"
        "bad = {'asyncio', 'aiohttp', 'uvloop', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_every_exported_name_exists() -> None:
    """Lazy names are only found wrong when used: so use them."""
    for name in sadik.causality.__all__:
        assert getattr(sadik.causality, name) is not None
    assert set(sadik.causality.__all__) <= set(dir(sadik.causality))
    with pytest.raises(AttributeError):
        _ = sadik.causality.nothing_of_this_name


@pytest.mark.parametrize("module", [vclock, versions], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module: object) -> None:
    """They are what a reader tries first."""
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert (result.failed, result.attempted > 3) == (0, True)


def test_version_set_shows_its_life() -> None:
    """Two clients, a delete that saw one of them, and the horizon."""
    milk = VersionSet().event(actor=1, stamp=10, payload=b"milk")
    eggs = VersionSet().event(actor=2, stamp=11, payload=b"eggs")
    both = milk | eggs
    assert both == eggs.merge(milk)
    assert both.entries == both.context == [(1, 10), (2, 11)]
    assert [value.payload for value in both.siblings(0)] == [b"eggs", b"milk"]
    assert both.descends(milk)
    assert not milk.descends(both)
    deleted = both.event(actor=1, stamp=20, covers=milk.context, deleted=True)
    assert [value.payload for value in deleted.siblings(0)] == [b"eggs"]
    assert deleted.newest(0) is None
    gone = deleted.discard(eggs.context)
    assert gone.prune(21) == VersionSet()
    assert both.keep_newest().newest(0, floor=11) is None
    assert VersionSet.of(both.entries, both.values) == both
    assert "eggs" in repr(both)
    with pytest.raises(CorruptRecord):
        VersionSet(b"\x02")
