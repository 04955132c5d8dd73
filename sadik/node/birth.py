"""The birth record: what a data directory is, written once, checked at every start.

A node must not start on another cluster's or another node's directory, nor with another partition count or
hash: its records would be unreachable or, worse, would be taken for its own.
"""

from __future__ import annotations

import msgspec

from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.env.files import Files
from sadik.errors import InvalidRequest, StorageFailed, WrongFormat

FORMAT = 1
FILE_NAME = "BIRTH"
HASH = "blake3-128"


class BirthRecord(msgspec.Struct, frozen=True):
    """Facts that never change in the life of a data directory.

    Attributes:
        cluster_id: 32 hex digits, drawn when the cluster was founded.
        partitions: Q, a power of two (DESIGN 4).
        hash: Name of the digest function of addresses.
    """

    format: int
    cluster_id: str
    cluster: str
    node_id: str
    partitions: int
    hash: str
    engine: str
    created_ms: int


def read_or_found(
    files: Files,
    directory: str,
    *,
    cluster: str | None,
    node_id: str | None,
    partitions: int | None,
    engine: str,
    clock: Clock,
    entropy: Entropy,
) -> BirthRecord:
    """The directory's birth record, founding a one-node cluster in an empty directory.

    Arguments that are None take what the record says; others must agree with it.

    Raises:
        WrongFormat: A newer format, a directory that is not Sadik's, or a fact that does not match.
    """
    path = f"{directory}/{FILE_NAME}"
    if not files.exists(path):
        strangers = [name for name in files.names(directory) if not name.startswith((FILE_NAME, "LOCK"))]
        if strangers:
            raise WrongFormat(
                f"{directory} is not empty and has no {FILE_NAME} file: not a Sadik data directory"
            )
        record = found(
            cluster=cluster,
            node_id=node_id,
            partitions=partitions,
            engine=engine,
            clock=clock,
            entropy=entropy,
        )
        _write(files, directory, record)
        return record
    record = _read(files, path)
    for fact, wanted, actual in (
        ("cluster", cluster, record.cluster),
        ("node-id", node_id, record.node_id),
        ("partitions", partitions, record.partitions),
        ("engine", engine, record.engine),
        ("hash", HASH, record.hash),
    ):
        if wanted is not None and wanted != actual:
            raise WrongFormat(
                f"{directory} was born with {fact} {actual!r}; it cannot be started with {wanted!r}"
            )
    return record


def found(
    *,
    cluster: str | None,
    node_id: str | None,
    partitions: int | None,
    engine: str,
    clock: Clock,
    entropy: Entropy,
) -> BirthRecord:
    """A new record with defaults filled in."""
    return BirthRecord(
        format=FORMAT,
        cluster_id=entropy.random_bytes(16).hex(),
        cluster=cluster or "sadik",
        node_id=node_id or f"node-{entropy.random_bytes(4).hex()}",
        partitions=partitions or 1024,
        hash=HASH,
        engine=engine,
        created_ms=clock.wall_ms(),
    )


def _read(files: Files, path: str) -> BirthRecord:
    file = files.open(path)
    try:
        data = file.read_at(file.size(), 0)
    finally:
        file.close()
    try:
        number = msgspec.json.decode(data, type=dict[str, object]).get("format")
        if isinstance(number, int) and number > FORMAT:
            raise WrongFormat(
                f"{path} has format {number}; this Sadik reads up to {FORMAT}. Nothing was changed"
            )
        record = msgspec.json.decode(data, type=BirthRecord)
    except msgspec.MsgspecError as error:
        raise WrongFormat(f"{path} cannot be read: {error}") from error
    check_partitions(record.partitions)
    return record


def check_partitions(partitions: int) -> None:
    """Raise ``InvalidRequest`` unless Q is a power of two, 1 to 16384."""
    if not 1 <= partitions <= 16384 or partitions & (partitions - 1):
        raise InvalidRequest(f"partitions must be a power of two, 1 to 16384, not {partitions}")


def _write(files: Files, directory: str, record: BirthRecord) -> None:
    data = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    temporary = f"{directory}/{FILE_NAME}.new"
    if files.exists(temporary):
        files.remove(temporary)
    file = files.open(temporary, create=True)
    try:
        if file.write_at(data, 0) != len(data):
            raise StorageFailed(f"short write of {temporary}")
        file.sync()
    finally:
        file.close()
    files.rename(temporary, f"{directory}/{FILE_NAME}")
    files.sync_directory(directory)
