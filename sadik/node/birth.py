"""The birth record: what a data directory is, written once, checked at every start.

A node must not start on another cluster's or another node's directory, nor with another partition count or
hash: its records would be unreachable or, worse, would be taken for its own.
"""

from __future__ import annotations

import re

import msgspec

from sadik.env.clock import Clock
from sadik.env.entropy import Entropy, random_uint64
from sadik.env.files import Files
from sadik.errors import InvalidRequest, StorageFailed, WrongFormat
from sadik.hashing.digest import BLAKE3

FORMAT = 1
FILE_NAME = "BIRTH"
HASH = "blake3-128"


class BirthRecord(msgspec.Struct, frozen=True):
    """Facts that never change in the life of a data directory.

    Attributes:
        cluster_id: 32 hex digits, drawn when the cluster was founded.
        partitions: Q, a power of two (DESIGN 4).
        hash: Name of the digest function of addresses.
        directory: 16 hex digits, drawn with the record: tells this directory from any other of the same node.
        founder: The cluster was founded here, so its first layout is this node alone.
    """

    format: int
    cluster_id: str
    cluster: str
    node_id: str
    partitions: int
    hash: str
    engine: str
    created_ms: int
    directory: str = ""
    founder: bool = True

    @property
    def directory_id(self) -> int:
        """``directory`` as a uint64. Records of before there was one have the digest of what names them."""
        if self.directory:
            return int(self.directory, 16)
        facts = f"{self.cluster_id} {self.node_id} {self.created_ms}"
        return int.from_bytes(BLAKE3.digest(facts.encode())[:8], "big")


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
    fresh: BirthRecord | None = None,
) -> BirthRecord:
    """The directory's birth record, founding a one-node cluster in an empty directory.

    Arguments that are None take what the record says; others must agree with it.

    Args:
        fresh: The record for an empty directory, in place of founding a cluster.
    Raises:
        WrongFormat: A newer format, a directory that is not Sadik's, or a fact that does not match.
    """
    record = read(files, directory, cluster=cluster, node_id=node_id, partitions=partitions, engine=engine)
    if record is None:
        record = fresh or found(
            cluster=cluster,
            node_id=node_id,
            partitions=partitions,
            engine=engine,
            clock=clock,
            entropy=entropy,
        )
        write(files, directory, record)
    return record


def read(
    files: Files,
    directory: str,
    *,
    cluster: str | None,
    node_id: str | None,
    partitions: int | None,
    engine: str,
) -> BirthRecord | None:
    """The directory's birth record, None where it is empty. Arguments and errors as ``read_or_found``."""
    path = f"{directory}/{FILE_NAME}"
    if not files.exists(path):
        strangers = [name for name in files.names(directory) if not name.startswith((FILE_NAME, "LOCK"))]
        if strangers:
            raise WrongFormat(
                f"{directory} is not empty and has no {FILE_NAME} file: not a Sadik data directory"
            )
        return None
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
    """A new record with defaults filled in, of a node that founds its cluster."""
    return BirthRecord(
        format=FORMAT,
        cluster_id=entropy.random_bytes(16).hex(),
        cluster=cluster or "sadik",
        node_id=node_id or f"node-{entropy.random_bytes(4).hex()}",
        partitions=partitions or 1024,
        hash=HASH,
        engine=engine,
        created_ms=clock.wall_ms(),
        directory=f"{random_uint64(entropy):016x}",
    )


def joined(
    record: BirthRecord,
    *,
    cluster: str,
    cluster_id: str,
    partitions: int,
    hash: str,
    wanted_cluster: str | None,
    wanted_partitions: int | None,
) -> BirthRecord:
    """``record``, made by ``found`` and not written yet, as that of a node of the cluster a seed told of.

    Args:
        wanted_cluster, wanted_partitions: What the operator asked for, None for nothing.
    Raises:
        WrongFormat: The cluster is not what was asked for, or has another hash than this version's.
    """
    for fact, wanted, actual in (
        ("name", wanted_cluster, cluster),
        ("partitions", wanted_partitions, partitions),
        ("hash", HASH, hash),
    ):
        if wanted is not None and wanted != actual:
            raise WrongFormat(
                f"the cluster of the seeds has {fact} {actual!r}; a node cannot join it with {wanted!r}"
            )
    check_partitions(partitions)
    return msgspec.structs.replace(
        record, cluster=cluster, cluster_id=cluster_id, partitions=partitions, founder=False
    )


def check_absence(away_ms: int, horizon_ms: int, directory: str) -> None:
    """Refuse a node that was away longer than deletes are remembered: it would bring back what was deleted.

    Args:
        away_ms: How long it was not running while other nodes may have been (``members.bootstrap.away_ms``).
    Raises:
        WrongFormat: It was away longer than ``horizon_ms``. Nothing was changed.
    """
    if away_ms > horizon_ms:
        away_h, horizon_h = away_ms // 3_600_000, horizon_ms // 3_600_000
        raise WrongFormat(
            f"this node was away for {away_h} hours; deletes are remembered for {horizon_h}, so it would "
            f"bring deleted data back. Rejoin on an empty directory: move {directory} away and start with a "
            f"seed node. If the whole cluster stood still meanwhile, nothing was forgotten: start every node "
            f"with --horizon-ms {away_h + 24}h"
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
    if record.directory and not re.fullmatch("[0-9a-f]{16}", record.directory):
        raise WrongFormat(f"{path} cannot be read: directory is {record.directory!r}, not 16 hex digits")
    check_partitions(record.partitions)
    return record


def check_partitions(partitions: int) -> None:
    """Raise ``InvalidRequest`` unless Q is a power of two, 1 to 16384."""
    if not 1 <= partitions <= 16384 or partitions & (partitions - 1):
        raise InvalidRequest(f"partitions must be a power of two, 1 to 16384, not {partitions}")


def write(files: Files, directory: str, record: BirthRecord) -> None:
    """Write the record into a directory that has none, durably. Raises StorageFailed, OSError."""
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
