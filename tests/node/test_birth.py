"""The birth record keeps a node off directories that are not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sadik.env.clock import SystemClock
from sadik.env.entropy import SystemEntropy
from sadik.env.files import SystemFiles
from sadik.errors import InvalidRequest, WrongFormat
from sadik.node.birth import (
    HASH,
    BirthRecord,
    check_absence,
    check_partitions,
    joined,
    read,
    read_or_found,
)


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


def test_each_directory_has_a_number_of_its_own(tmp_path: Path) -> None:
    """It tells a wiped node, and an older life of one, from the node that the cluster knows."""
    numbers = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        record = born(tmp_path / name, node_id="n1")
        assert 0 <= record.directory_id < 1 << 64
        assert born(tmp_path / name).directory_id == record.directory_id
        numbers.add(record.directory_id)
    assert len(numbers) == 2


def test_a_record_from_before_directories_had_numbers_has_one_all_the_same(tmp_path: Path) -> None:
    """An upgrade in place: the number follows from what names the directory, the same at every start."""
    born(tmp_path)
    path = tmp_path / "BIRTH"
    old = {
        name: it for name, it in json.loads(path.read_text()).items() if name not in ("directory", "founder")
    }
    path.write_text(json.dumps({**old, "cluster_id": "c" * 32, "node_id": "n1", "created_ms": 1}))
    text = path.read_text()
    record = born(tmp_path)
    assert record.founder
    assert f"{record.directory_id:016x}" == "ef5a82239e4f7e5a"
    assert path.read_text() == text


def test_a_directory_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """Whoever edits the record by hand is told at the start, not in the middle of a handshake."""
    born(tmp_path)
    path = tmp_path / "BIRTH"
    path.write_text(json.dumps({**json.loads(path.read_text()), "directory": "mine"}))
    with pytest.raises(WrongFormat, match="16 hex digits"):
        born(tmp_path)


def join(directory: Path, **facts: object) -> BirthRecord:
    """What the seeds' cluster makes of a directory that is not born yet."""
    (directory / "elsewhere").mkdir()
    record = born(directory / "elsewhere", node_id="n9")
    asked = {"wanted_cluster": None, "wanted_partitions": None, "hash": HASH, **facts}
    return joined(record, cluster="theirs", cluster_id="f" * 32, partitions=64, **asked)  # type: ignore[arg-type]


def test_a_node_that_joins_is_born_with_the_facts_of_the_cluster(tmp_path: Path) -> None:
    """It keeps its name and its number, and founds nothing: its layout is the cluster's."""
    record = join(tmp_path, wanted_cluster="theirs", wanted_partitions=64)
    assert (record.cluster, record.cluster_id, record.partitions) == ("theirs", "f" * 32, 64)
    assert record.node_id == "n9"
    assert not record.founder
    home = tmp_path / "home"
    home.mkdir()
    facts = {"cluster": None, "node_id": None, "partitions": None, "engine": "log"}
    assert read(SystemFiles(), str(home), **facts) is None  # type: ignore[arg-type]
    assert born(home, fresh=record) == record
    assert born(home) == record
    # Who is born already stays who it is.
    assert born(home, fresh=born(tmp_path / "elsewhere")) == record


@pytest.mark.parametrize(
    "wrong", [{"wanted_cluster": "mine"}, {"wanted_partitions": 128}, {"hash": "md5"}], ids=str
)
def test_a_cluster_that_is_not_what_was_asked_for_is_not_joined(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    """A wrong seed list must not make a node of another cluster in silence."""
    with pytest.raises(WrongFormat, match="cannot join"):
        join(tmp_path, **wrong)


def test_a_node_that_was_away_beyond_the_horizon_is_refused_and_told_what_to_do() -> None:
    """M3: deletes are forgotten by then, and it would bring the deleted back."""
    day_ms = 24 * 3_600_000
    check_absence(10 * day_ms, 10 * day_ms, "/data")
    with pytest.raises(WrongFormat, match="empty directory: move /data away") as caught:
        check_absence(10 * day_ms + 1, 10 * day_ms, "/data")
    assert "--horizon-ms 264h" in str(caught.value)
