"""What is particular to the engine over LMDB: its map, its errors, its checks, and who may open what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from sadik.errors import CorruptRecord, StorageError, StorageFull, WrongFormat
from sadik.storage.engine import ERROR, Entry
from sadik.storage.lmdb_engine import LmdbEngine

LAST = b"\xff" * 16


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_map_grows_while_a_batch_is_written(directory: str) -> None:
    """The batch that hits the limit is done again in a larger map; nobody notices."""
    engine = LmdbEngine.open(directory, map_bytes_first=1 << 16)
    for start in range(0, 400, 100):
        engine.put_many([(digest(i), b"n", b"x" * 3000) for i in range(start, start + 100)], 1)
    assert engine.statistics().details["map_bytes"] >= 400 * 3000  # type: ignore[operator]
    assert (engine.count(1), len(engine.scan(b"", LAST, 1000))) == (400, 400)
    engine.close()


def test_map_at_its_limit_refuses_the_batch_whole_and_recovers(directory: str) -> None:
    """Reads go on, counts are those of what is stored, and room that is given back is used."""
    engine = LmdbEngine.open(directory, map_bytes_first=1 << 16, map_bytes_max=1 << 18)
    engine.put_many([(digest(i), b"n", b"x" * 2000) for i in range(40)], 1)
    with pytest.raises(StorageFull):
        engine.put_many([(digest(i), b"n", b"y" * 2000) for i in range(20, 300)], 1)
    assert engine.get_many([digest(20), digest(50)]) == [b"x" * 2000, None]
    assert engine.count(1) == 40
    for i in range(30):
        engine.remove(digest(i))
    engine.put_many([(digest(i), b"n", b"z" * 2000) for i in range(100, 120)], 1)
    assert engine.count(1) == 30
    engine.close()


@pytest.mark.parametrize(
    ("free_bytes", "answers"),
    [(0, ["StorageFull", "StorageFull", "stored"]), (1 << 40, ["StorageFailed"] * 3)],
    ids=["full disk", "failing disk"],
)
def test_write_cut_short_is_a_full_disk_when_there_is_no_room_and_a_failure_otherwise(
    directory: str, free_bytes: int, answers: list[str]
) -> None:
    """LMDB says "Input/output error" to both. Reads go on; after a failure writes wait for a reopen.

    The short write is made by a limit on the file's size, which is lifted before the last write.
    """
    script = f"""
import resource
from sadik.env.files import SystemFiles
from sadik.errors import StorageError
from sadik.storage.lmdb_engine import LmdbEngine

class Files(SystemFiles):
    def free_bytes(self, directory): return {free_bytes}

def put(size):
    try:
        engine.put(bytes(16), b"n", bytes(size))
    except StorageError as error:
        assert engine.get(bytes(16)) == b"small"
        return type(error).__name__
    return "stored"

engine = LmdbEngine.open({directory!r}, files=Files())
engine.put(bytes(16), b"n", b"small")
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, limit[1]))
print(put(1 << 20), put(1 << 18))
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
print(put(1 << 20))
engine.close()
engine = LmdbEngine.open({directory!r})
print(len(engine.get(bytes(16))), put(1000))
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    stored = 1 << 20 if answers[-1] == "stored" else len(b"small")
    assert ended.stdout.split() == [*answers, str(stored), "stored"], ended.stderr


@pytest.fixture
def rotten(directory: str) -> LmdbEngine:
    """Keys 0 to 2; a bit of the value of key 1 is flipped behind the engine's back."""
    engine = LmdbEngine.open(directory)
    engine.put_many([(digest(i), b"n", b"value-to-find-%d" % i) for i in range(3)], 1)
    engine.close()
    path = Path(directory) / "data.mdb"
    raw = bytearray(path.read_bytes())
    assert raw.count(b"value-to-find-1") == 1
    raw[raw.index(b"value-to-find-1")] ^= 4
    path.write_bytes(raw)
    return LmdbEngine.open(directory)


def test_rotten_record_is_an_error_everywhere_and_never_absent(rotten: LmdbEngine) -> None:
    assert rotten.losses == 0
    with pytest.raises(CorruptRecord, match=digest(1).hex()):
        rotten.get(digest(1))
    with pytest.raises(CorruptRecord):
        rotten.get_many([digest(0), digest(1)])
    assert list(rotten.read_batch(3, digest(0) + digest(1) + digest(2)).status) == [0, ERROR, 0]
    assert rotten.scan(b"", LAST, 9)[1] == Entry(digest(1), 0, 0, b"", None)
    assert (rotten.losses, rotten.statistics().corrupt_records) == (1, 1)
    rotten.retire(0)
    rotten.retire(1)
    assert [rotten.maintain(1 << 20) for _ in range(2)][-1] is False, "the sweep ends all the same"
    assert rotten.scan(b"", LAST, 9) == [Entry(digest(1), 0, 0, b"", None)]
    with pytest.raises(CorruptRecord):
        rotten.get(digest(1))
    rotten.close()


def test_rotten_record_is_healed_by_a_write(rotten: LmdbEngine) -> None:
    """Counts stay right, since the header that was counted by is whole."""
    with pytest.raises(CorruptRecord):
        rotten.get(digest(1))
    rotten.put(digest(1), b"n", b"repaired", 1)
    assert (rotten.get(digest(1)), rotten.count(1)) == (b"repaired", 3)
    assert (rotten.losses, rotten.statistics().corrupt_records) == (1, 0)
    rotten.close()


def test_record_of_another_key_is_not_taken_for_it(directory: str) -> None:
    """The check covers the digest: a record that lands under a wrong key is rot, too."""
    LmdbEngine.open(directory).close()
    engine = LmdbEngine.open(directory)
    engine.put(digest(1), b"n", b"v")
    engine.close()
    with lmdb.open(directory, max_dbs=3) as environment:
        records = environment.open_db(b"records")
        with environment.begin(write=True, db=records) as transaction:
            raw = transaction.get(digest(1))
            transaction.put(digest(2), raw)
            transaction.put(digest(3), raw[:12])
    engine = LmdbEngine.open(directory)
    assert list(engine.read_batch(3, digest(1) + digest(2) + digest(3)).status) == [0, ERROR, ERROR]
    engine.close()


def test_newer_format_is_refused_and_left_alone(directory: str) -> None:
    LmdbEngine.open(directory).close()
    with lmdb.open(directory, max_dbs=3) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"format", b"2")
    before = (Path(directory) / "data.mdb").read_bytes()
    for _ in range(2):
        with pytest.raises(WrongFormat, match="format 2"):
            LmdbEngine.open(directory)
    assert (Path(directory) / "data.mdb").read_bytes() == before


def test_database_of_another_program_is_refused_and_left_alone(directory: str) -> None:
    Path(directory).mkdir()
    with lmdb.open(directory) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"theirs", b"1")
    before = (Path(directory) / "data.mdb").read_bytes()
    with pytest.raises(WrongFormat, match="another program"):
        LmdbEngine.open(directory)
    assert (Path(directory) / "data.mdb").read_bytes() == before


def test_file_that_is_no_database_is_refused_and_left_alone(directory: str) -> None:
    Path(directory).mkdir()
    (Path(directory) / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(WrongFormat):
        LmdbEngine.open(directory)
    assert (Path(directory) / "data.mdb").read_bytes() == b"not a database" * 1000


def test_missing_package_is_named_with_the_command_that_installs_it(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(StorageError, match=r"pip install 'sadik\[lmdb\]'"):
        LmdbEngine.open(directory)
    assert not Path(directory).exists()


def test_importing_the_engine_does_not_import_lmdb() -> None:
    """Who does not use it need not have it."""
    script = "import sys, sadik.storage.lmdb_engine; sys.exit('lmdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
