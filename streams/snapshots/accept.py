"""Which snapshots a partition may start from: those of this app and this journal, and of no other.

Laws [test_snapshots.py]
- A snapshot of another app, another number of partitions, other topics, or of a place that the journal does
  not have is refused, and the error says why.
- The journal vouches for a snapshot: the record before its offset carries its chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.schemas.errors import LogCorrupt, SnapshotDamaged
from perdure.schemas.journal import CHAIN_BYTES, HASH_FUNCTION, Claim, Header, decode_record
from perdure.schemas.seal import fingerprint
from perdure.streams.journal.reader import JournalReader, Position
from perdure.streams.log.base import Bounds, LogRecord, Readable, Topic
from perdure.streams.snapshots.manifest import (
    Manifest,
    SnapshotIdentity,
    StoredSnapshot,
    decode_manifest,
    folder_of,
    manifest_path,
    manifests_in,
    name_in,
    offset_in,
    verified_in,
)
from perdure.streams.snapshots.places import SnapshotPlace
from perdure.streams.state.rows import FORMAT as ROWS_FORMAT

BACK = 1_000  # records that are read at once, backwards
TRIES = 100  # records that are taken for the last one that counted; void ones are rare


def names_of(place: SnapshotPlace, app: str, partition: int) -> list[str]:
    """The names of a partition's snapshots, the newest first. Raises `StorageFailed`."""
    paths = place.names(manifests_in(folder_of(app, partition)))
    names = [name for path in paths if offset_in(name := name_in(path)) >= 0]
    return sorted(names, key=offset_in, reverse=True)


def verified_names(place: SnapshotPlace, app: str, partition: int) -> set[str]:
    """The names of those snapshots that were compared with a replay. Raises `StorageFailed`."""
    return {name_in(path) for path in place.names(verified_in(folder_of(app, partition)))}


def load(place: SnapshotPlace, app: str, partition: int, name: str) -> StoredSnapshot:
    """The snapshot of this name. Raises `SnapshotDamaged` or `StorageFailed`.

    place: where snapshots are.
    app, partition: whose snapshot it is.
    name: that of its manifest.
    """
    data = place.get(manifest_path(folder_of(app, partition), name))
    if data is None:
        raise SnapshotDamaged(f"there is no snapshot {name} of partition {partition}")
    return StoredSnapshot(name, decode_manifest(name, data))


def stored_in(place: SnapshotPlace, app: str, partition: int) -> Iterator[StoredSnapshot | SnapshotDamaged]:
    """The snapshots of a partition, the newest first; in place of one that cannot be read the error."""
    for name in names_of(place, app, partition):
        try:
            yield load(place, app, partition, name)
        except SnapshotDamaged as error:
            yield error


def check_identity(stored: StoredSnapshot, identity: SnapshotIdentity, partition: int) -> None:
    """Raises `SnapshotDamaged` if it is not a snapshot of this partition of this app."""
    manifest = stored.manifest
    for what, theirs, ours in (
        ("app", manifest.app, identity.app),
        ("app uuid", fingerprint(manifest.app_uuid), fingerprint(identity.app_uuid)),
        ("partition", manifest.partition, partition),
        ("number of partitions", manifest.partitions, identity.partitions),
        ("hash function", manifest.hash_function, HASH_FUNCTION),
        ("format of rows", manifest.rows_format, ROWS_FORMAT),
    ):
        if theirs != ours:
            raise _refused(stored, partition, f"its {what} is {theirs}, here it is {ours}: it is foreign")
    for topic, id_ in manifest.topics.items():
        if identity.topics.get(topic, id_) != id_:
            raise _refused(
                stored,
                partition,
                f"it belongs to the {topic} with the topic id {id_}, the topic now has {identity.topics[topic]}: "
                "the topic was deleted and created again, or these are other brokers",
            )


def check_bounds(stored: StoredSnapshot, partition: int, journal: Bounds, commands: Bounds) -> None:
    """Raises `SnapshotDamaged` if the logs lack the place of the snapshot, or what follows it."""
    manifest = stored.manifest
    for what, at, end in (
        ("journal", manifest.offset, journal.end),
        ("commands", manifest.watermark, commands.end),
    ):
        if at > end:
            raise _refused(
                stored, partition, f"it is ahead of the log: {what} at {at}, the log ends at {end}"
            )
    if manifest.out < journal.start:
        raise _refused(
            stored, partition, f"it needs the journal from {manifest.out} on, which begins at {journal.start}"
        )


async def check_chain(stored: StoredSnapshot, partition: int, log: Readable, start: int) -> None:
    """Check that the journal, which begins at `start`, leads to the snapshot's place.

    It is read backwards from there to a record that counts and leads there, usually the first one. Where the
    journal begins behind that record nothing is left to compare: what follows is chained to it.

    Raises `SnapshotDamaged`, or `LogUnreachable`.
    """
    behind: list[LogRecord] = []
    end, tries = stored.manifest.offset, 0
    while end > start and tries < TRIES:
        first = max(start, end - BACK)
        behind[:0] = [
            each async for chunk in log.read(Topic.JOURNAL, partition, first, end) for each in chunk
        ]
        for at in range(end - first - 1, -1, -1):
            position = _after(behind[at])
            if position is None:
                continue
            if _leads_to(position, behind[at + 1 :], stored.manifest):
                return
            tries += 1
            if tries == TRIES:
                break
        end = first
    if tries or start == 0:
        raise _refused(
            stored,
            partition,
            f"the journal does not lead to record {stored.manifest.seq} of epoch {stored.manifest.epoch} with the "
            f"chain {stored.manifest.chain.hex()} at offset {stored.manifest.offset}: it is of another history",
        )


def _after(record: LogRecord) -> Position | None:
    """The place behind a record, if it counts. None for a claim, whose chain hangs on the one before it."""
    decoded = decode_record(record.value)
    if isinstance(decoded, Header):
        return Position(offset=record.offset + 1)
    if isinstance(decoded, Claim):
        return None
    assert record.value is not None  # decode_record refuses it
    return Position(record.offset + 1, decoded.epoch, decoded.seq + 1, record.value[-CHAIN_BYTES:])


def _leads_to(position: Position, records: Sequence[LogRecord], manifest: Manifest) -> bool:
    reader = JournalReader("the journal", position)
    try:
        for each in records:
            reader.step(each.offset, each.value)
    except LogCorrupt:
        return False  # the record that it began with is void
    return reader.position == manifest.position


def _refused(stored: StoredSnapshot, partition: int, why: str) -> SnapshotDamaged:
    return SnapshotDamaged(f"the snapshot {stored.name} of partition {partition} is refused: {why}")
