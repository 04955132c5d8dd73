"""What lies on the disks of nodes, looked at and damaged from outside."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from sadik.errors import SadikError
from sadik.kernels import digest
from sadik.sim.history import StoredSet
from sadik.sim.witness import address_of
from sadik.storage import LogEngine
from tests.system.cluster_harness import ClusterNode

BUCKET = b"0"
_LAST = b"\xff" * 16
_TRIES = 5


def held(node: ClusterNode, keys: Collection[bytes]) -> list[StoredSet]:
    """What a node, whether it runs or not, has of some keys, by key: a copy of its log is opened.

    Raises:
        SadikError, OSError: The copy is none of a log that can be opened.
    """
    for attempt in range(_TRIES):
        with tempfile.TemporaryDirectory(dir=node.directory.parent) as place:
            try:
                copy = Path(place) / "log"
                shutil.copytree(node.directory / "log", copy)
                return _scan(copy, keys)
            except (SadikError, OSError, shutil.Error):
                # A node that runs may remove a file meanwhile.
                if not node.running or attempt == _TRIES - 1:
                    raise
    raise AssertionError


def _scan(directory: Path, keys: Collection[bytes]) -> list[StoredSet]:
    places = {digest.address_digest(BUCKET, key): key for key in keys}
    engine = LogEngine.open(str(directory))
    try:
        found: dict[bytes, StoredSet] = {}
        after = b""
        while page := engine.scan(after, _LAST, 1000):
            after = page[-1].digest
            for entry in page:
                key = places.get(bytes(entry.digest))
                if key is None:
                    continue
                if entry.value is not None and address_of(bytes(entry.name)) != (BUCKET, key):
                    raise AssertionError(f"{bytes(entry.name)!r} lies where {key!r} belongs")
                value = None if entry.value is None else bytes(entry.value)
                found[key] = StoredSet.decode(key, value)
        return [found[key] for key in sorted(found)]
    finally:
        engine.close()


def differences(
    sets: Mapping[str, Iterable[StoredSet]], owners: Mapping[bytes, tuple[str, ...]], now_ms: float
) -> list[bytes]:
    """Keys that not all their primaries hold alike; what has expired goes at each node in its own time."""
    by_node = {node: {one.key: one for one in some} for node, some in sets.items()}
    return [
        key
        for key, primaries in owners.items()
        if len({_lasting(by_node[node].get(key), now_ms) for node in primaries}) > 1
    ]


def _lasting(stored: StoredSet | None, now_ms: float) -> tuple[object, ...]:
    if stored is None:
        return ()
    lasting = stored.lasting(now_ms)
    return (stored.readable, *lasting) if lasting or not stored.readable else ()


def flip(directory: Path, rng: random.Random) -> str | None:
    """Flip one to three bits in one file of records of a closed data directory; which file, None if there is
    none with anything in it.
    """
    return _damage(directory, "*.segment", rng, rng.choice((1, 1, 3)))


def spoil_derived(directory: Path, rng: random.Random) -> str | None:
    """Damage or remove one of the files that can be made anew; which, or None."""
    return _damage(directory, "*.keydir", rng, rng.choice((0, 1)))


def _damage(directory: Path, pattern: str, rng: random.Random, flips: int) -> str | None:
    paths = sorted(path for path in directory.rglob(pattern) if path.stat().st_size)
    if not paths:
        return None
    path = rng.choice(paths)
    if not flips:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        for _ in range(flips):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    return str(path.relative_to(directory))
