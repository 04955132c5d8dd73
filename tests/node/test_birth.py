"""The birth record keeps a node off directories that are not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sadik.env.clock import SystemClock
from sadik.env.entropy import SystemEntropy
from sadik.env.files import SystemFiles
from sadik.errors import InvalidRequest, WrongFormat
from sadik.node.birth import BirthRecord, check_partitions, read_or_found


def born(directory: Path, **wanted: object) -> BirthRecord:
    facts: dict[str, object] = {"cluster": None, "node_id": None, "partitions": None, "engine": "log"}
    return read_or_found(
        SystemFiles(), str(directory), clock=SystemClock(), entropy=SystemEntropy(), **{**facts, **wanted}
    )  # type: ignore[arg-type]


def test_an_empty_directory_founds_a_cluster_and_keeps_its_facts(tmp_path: Path) -> None:
    """Defaults are drawn once: a second start finds the same node."""
    first = born(tmp_path)
    assert first.partitions == 1024
    assert first.cluster == "sadik"
    assert born(tmp_path) == first


@pytest.mark.parametrize(
    ("fact", "value"), [("cluster", "other"), ("node_id", "other"), ("partitions", 512), ("engine", "lmdb")]
)
def test_a_fact_that_does_not_match_is_refused_by_name(tmp_path: Path, fact: str, value: object) -> None:
    """Another cluster's, node's or layout's data must never be taken for our own."""
    before = born(tmp_path, cluster="mine", node_id="a")
    with pytest.raises(WrongFormat, match=fact.replace("_", "-")):
        born(tmp_path, **{fact: value})
    assert born(tmp_path) == before


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A node started in the wrong place must not litter it."""
    (tmp_path / "photos").mkdir()
    with pytest.raises(WrongFormat, match="not a Sadik data directory"):
        born(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_newer_format_is_refused_politely(tmp_path: Path) -> None:
    """A downgrade says so and changes nothing."""
    text = '{"format": 2, "whatever": true}'
    (tmp_path / "BIRTH").write_text(text)
    with pytest.raises(WrongFormat, match="format 2"):
        born(tmp_path)
    assert (tmp_path / "BIRTH").read_text() == text


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    """Half a record is not a reason to found a new cluster over old data."""
    born(tmp_path)
    path = tmp_path / "BIRTH"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WrongFormat, match="cannot be read"):
        born(tmp_path)


def test_a_crash_while_founding_leaves_a_directory_that_can_be_founded(tmp_path: Path) -> None:
    """The temporary file of an interrupted founding is no stranger."""
    (tmp_path / "BIRTH.new").write_text("half")
    (tmp_path / "LOCK").touch()
    assert born(tmp_path).format == 1


@pytest.mark.parametrize("partitions", [0, -1, 3, 1000, 32768])
def test_partitions_must_be_a_power_of_two(partitions: int) -> None:
    """Equal partitions are cut by the token's top bits."""
    with pytest.raises(InvalidRequest, match="power of two"):
        check_partitions(partitions)
