"""Messages between a node and the process beside it (`worker.py`): one job as JSON, then the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from perdure.schemas.config import Config
from perdure.schemas.kafka import Kafka
from perdure.schemas.snapshots import SnapshotConfig
from perdure.streams.snapshots.manifest import SnapshotIdentity

Work = Literal["take", "restore", "compare"]


class SnapshotPart(msgspec.Struct, frozen=True):
    """A partition in a job. `name`: of the snapshot that is restored or compared."""

    partition: int
    name: str = ""


class SnapshotJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job: what to do with which partitions' snapshots.

    `state` is the folder of the store; `folder` is for the files that are made, and may be removed.
    """

    work: Work
    parts: list[SnapshotPart]
    app: str
    app_uuid: str
    partitions: int
    topics: dict[str, str]
    log: str
    kafka: dict[str, Any] = {}  # as `Kafka.revealed` has it
    data_dir: str
    to: str
    endpoint: str | None
    state: str = ""
    folder: str = ""

    @property
    def identity(self) -> SnapshotIdentity:
        """Whose snapshots these are."""
        return SnapshotIdentity(self.app, self.app_uuid, self.partitions, self.topics)

    @property
    def config(self) -> Config:
        """The part of the app's configuration that names the log."""
        kafka, data_dir = Kafka.from_revealed(self.kafka), Path(self.data_dir)
        return Config(name=self.app, log=self.log, kafka=kafka, data_dir=data_dir, partitions=self.partitions)


class Took(msgspec.Struct, tag=True, frozen=True):
    """A snapshot was taken, in `seconds`. Its `name` is empty if the partition has no rows."""

    partition: int
    name: str
    offset: int = 0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    files_sent: int = 0
    bytes_sent: int = 0
    time_ms: int = 0
    seconds: float = 0.0


class SnapshotRestored(msgspec.Struct, tag=True, frozen=True):
    """The rows of a snapshot are in `files`, which a store can ingest."""

    partition: int
    files: list[str]


class Compared(msgspec.Struct, tag=True, frozen=True):
    """A snapshot is what a replay gives: so many rows are equal, and so many records were replayed."""

    partition: int
    name: str
    rows: int
    records: int


class SnapshotRefused(msgspec.Struct, tag=True, frozen=True):
    """The report that a job failed for one partition; `code` and `reason` are those of the error."""

    partition: int
    code: str
    reason: str


JobMessage = Took | SnapshotRestored | Compared | SnapshotRefused


def job_for(
    work: Work,
    parts: list[SnapshotPart],
    identity: SnapshotIdentity,
    config: Config,
    snapshots: SnapshotConfig,
    *,
    state: Path | None = None,
    folder: Path | None = None,
) -> SnapshotJob:
    """The job of this kind for an app. `state`: the store's folder; `folder`: for files that are made."""
    return SnapshotJob(
        work=work,
        parts=parts,
        app=identity.app,
        app_uuid=identity.app_uuid,
        partitions=identity.partitions,
        topics=identity.topics,
        log=config.log,
        kafka=dict(config.kafka.revealed()),
        data_dir=str(config.data_dir),
        to=snapshots.to,
        endpoint=snapshots.endpoint,
        state="" if state is None else str(state),
        folder="" if folder is None else str(folder),
    )
