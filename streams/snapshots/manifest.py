"""The manifest of a snapshot: which partition at which place of which journal, and the files of its rows.

    {app}/{partition}/files/{sha256}                      row files, shared by the snapshots of a partition
    {app}/{partition}/manifests/{offset}-{sha256}.json    written when all files are there
    {app}/{partition}/verified/{offset}-{sha256}.json     written when the snapshot was compared with a replay

Laws
- A manifest's name carries its own hash, so one that was changed is known as damaged.
- A format that is not known is refused.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from perdure.schemas.errors import SnapshotDamaged
from perdure.schemas.journal import HASH_FUNCTION
from perdure.streams.journal.reader import Position
from perdure.streams.state.rows import FORMAT as ROWS_FORMAT

FORMAT = 1
_HASH_CHARS = 32
_MANIFESTS, _VERIFIED, _FILES = "manifests", "verified", "files"


class SnapshotIdentity(NamedTuple):
    """Whose snapshots these are: the app, its uuid, its number of partitions, and the ids of its topics."""

    app: str
    app_uuid: str
    partitions: int
    topics: dict[str, str]


class FileEntry(msgspec.Struct, frozen=True):
    """A row file in a manifest: its hash, which names it, its size and its number of rows."""

    sha256: str
    bytes: int
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a partition.

    `offset`, `epoch`, `seq` and `chain`: the place in the journal that its rows are the fold of. `out`: the
    journal offset from which a node that starts with it has to read. `watermark`: below this command offset
    all is done. `rows_format`: the format of the rows. `topics`: the ids of the app's topics on Kafka.
    `time_ms`: when it was taken. `log`: the kind of log.
    """

    format: int = FORMAT
    app: str
    app_uuid: str
    partition: int
    partitions: int
    hash_function: str = HASH_FUNCTION
    rows_format: int = ROWS_FORMAT
    topics: dict[str, str]
    offset: int
    epoch: int
    seq: int
    chain: bytes
    out: int
    watermark: int
    time_ms: int
    version: str
    rows: int
    files: tuple[FileEntry, ...]

    @property
    def position(self) -> Position:
        """The journal reader's position behind it."""
        return Position(self.offset, self.epoch, self.seq, self.chain)

    @property
    def size_bytes(self) -> int:
        """The size of its files."""
        return sum(each.bytes for each in self.files)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Manifest).decode


class StoredSnapshot(msgspec.Struct, frozen=True):
    """A manifest under its name, such as `00000000000000000042-9f86d081…`."""

    name: str
    manifest: Manifest


def folder_of(app: str, partition: int) -> str:
    """Where everything of a partition's snapshots lies."""
    return f"{app}/{partition:05d}"


def file_name(folder: str, hash_: str) -> str:
    """The name of a row file."""
    return f"{folder}/{_FILES}/{hash_}"


def manifests_in(folder: str) -> str:
    """What the names of manifests begin with, without the `/` behind it."""
    return f"{folder}/{_MANIFESTS}"


def files_in(folder: str) -> str:
    """What the names of row files begin with, without the `/` behind it."""
    return f"{folder}/{_FILES}"


def verified_in(folder: str) -> str:
    """What the names of the marks of verified snapshots begin with, without the `/` behind it."""
    return f"{folder}/{_VERIFIED}"


def manifest_path(folder: str, name: str) -> str:
    """The object that holds the manifest `name`."""
    return f"{manifests_in(folder)}/{name}.json"


def verified_path(folder: str, name: str) -> str:
    """The object that marks the snapshot `name` as verified."""
    return f"{verified_in(folder)}/{name}.json"


def encode_manifest(manifest: Manifest) -> tuple[str, bytes]:
    """(name, content) of a manifest."""
    data = msgspec.json.format(_encode(manifest)) + b"\n"
    return f"{manifest.offset:020d}-{sha256(data).hexdigest()[:_HASH_CHARS]}", data


def decode_manifest(name: str, data: bytes) -> Manifest:
    """The manifest of this name. Raises `SnapshotDamaged` if it was changed, or its format is not known."""
    if sha256(data).hexdigest()[:_HASH_CHARS] != name.rpartition("-")[2]:
        raise SnapshotDamaged(f"the manifest {name} does not have the SHA-256 in its name: it was changed")
    try:
        if (format_ := msgspec.json.decode(data).get("format")) != FORMAT:
            raise SnapshotDamaged(
                f"the manifest {name} has format {format_}, this version of perdure knows {FORMAT}: use a newer perdure"
            )
        return _decode(data)
    except (msgspec.MsgspecError, AttributeError) as error:
        raise SnapshotDamaged(f"the manifest {name} is not one of perdure: {error}") from error


def name_in(path: str) -> str:
    """The name of the snapshot whose manifest or mark has this path."""
    return path.rpartition("/")[2].removesuffix(".json")


def offset_in(name: str) -> int:
    """The journal offset of the snapshot `name`; -1 if it is not the name of one."""
    offset, _, hash_ = name.partition("-")
    return int(offset) if offset.isdecimal() and hash_ else -1
