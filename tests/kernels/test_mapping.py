"""Maps of files: they reach beyond the end, follow what is written, and outlive their file's handle."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from sadik.kernels.native import mapping as native
from sadik.kernels.reference import mapping as reference

TWINS = pytest.mark.parametrize("twin", [native, reference], ids=["native", "reference"])


@TWINS
def test_map_shows_what_is_written_later_and_outlives_the_handle(twin: ModuleType, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"first", 0)
    view = memoryview(twin.map_file(fd, 1 << 20))
    assert (len(view), view.readonly, bytes(view[:5])) == (1 << 20, True, b"first")
    os.pwrite(fd, b"later", 5000)
    assert bytes(view[5000:5005]) == b"later"
    os.close(fd)
    assert bytes(view[:5]) == b"first"


@TWINS
def test_what_cannot_be_mapped_raises(twin: ModuleType, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for length in (0, -1):
        with pytest.raises(ValueError, match="map"):
            twin.map_file(fd, length)
    os.close(fd)
    with pytest.raises(OSError, match=r".") as raised:
        twin.map_file(fd, 100)
    assert raised.value.errno is not None


@TWINS
def test_maps_are_given_back(twin: ModuleType, tmp_path: Path) -> None:
    """A thousand maps of a GiB: kept, they would use up the address space."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for _ in range(1000):
        twin.map_file(fd, 1 << 30)
    named = sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())
    os.close(fd)
    assert named <= 1
