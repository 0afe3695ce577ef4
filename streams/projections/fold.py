"""Folds journal records into the rows of projections: the inner loop of a projection process.

A `FoldGroup` holds the projections of one partition that stand at the same place of its journal, so that each
record is read and checked once for all of them. A projection that stands elsewhere (a new version, one that
met an entry it cannot fold) is in a group of its own until it has caught up.

Laws [test_projections.py]
- Which records count is decided by `JournalReader`, as for owners: a gap, a break of the chain or a record
  of another format stops the group, and is never skipped.
- Rows and the position that they are made from are written in one batch.
- If a function raises, nothing of that entry is kept: unwritten rows are dropped and made again up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.objects.projection import Projection, Table, TurnEntry
from perdure.schemas.errors import ConfigError, LogCorrupt
from perdure.schemas.journal import EntryRecord, Migration
from perdure.schemas.replies import FORWARDED
from perdure.streams.journal.reader import JournalReader, Position
from perdure.streams.log.base import LogRecord
from perdure.streams.projections.rows import (
    Progress,
    RowKeys,
    SkippedEntry,
    after,
    encode_progress,
    progress_in,
)
from perdure.streams.store.base import Range, Store

CACHED_ROWS = 100_000  # decoded rows that a projection keeps for each partition
SKIPS_KEPT = 20
ERROR_CHARS = 500
_ABSENT: Any = object()
_encode = msgspec.msgpack.Encoder().encode


class FoldTable(Table[Any]):
    """The rows of one projection in one partition: those that were written, and over them those that are
    not written yet.
    """

    __slots__ = ("_changed", "_cleared", "_decode", "_default", "_keys", "_rows", "_store")

    def __init__(self, projection: Projection[Any], store: Store, keys: RowKeys) -> None:
        self._store = store
        self._keys = keys
        self._decode = msgspec.msgpack.Decoder(projection.row_type).decode
        self._default = projection.default
        self._rows: dict[str, Any] = {}  # None: there is no such row
        self._changed: set[str] = set()
        self._cleared: list[Range] = []

    def __getitem__(self, key: str) -> Any:
        row = self._rows.get(key, _ABSENT)
        if row is _ABSENT:
            row = self._load(key)
        if row is None:
            row = self._default()
        self._rows[key] = row
        self._changed.add(key)
        return row

    def __setitem__(self, key: str, row: Any) -> None:
        self._rows[key] = row
        self._changed.add(key)

    def __delitem__(self, key: str) -> None:
        self._rows[key] = None
        self._changed.add(key)

    def get(self, key: str) -> Any:
        """See `Table.get`."""
        row = self._rows.get(key, _ABSENT)
        if row is _ABSENT:
            row = self._rows[key] = self._load(key)
        return row

    def keys(self, prefix: str) -> list[str]:
        """See `Table.keys`."""
        low, name_in = self._keys.of(prefix), self._keys.name_in
        stored = (key for key, _ in self._store.scan(low, after(low)))
        there = {name_in(key) for key in stored if not self._is_cleared(key)}
        for key in self._changed:
            if key.startswith(prefix):
                (there.discard if self._rows[key] is None else there.add)(key)
        return sorted(there)

    def clear(self, prefix: str) -> None:
        """See `Table.clear`."""
        for key in [each for each in self._rows if each.startswith(prefix)]:
            del self._rows[key]
            self._changed.discard(key)
        start = self._keys.of(prefix)
        self._cleared.append((start, after(start)))

    def _load(self, key: str) -> Any:
        stored = self._keys.of(key)
        if self._cleared and self._is_cleared(stored):
            return None
        row = self._store.get(stored)
        return None if row is None else self._decode(row)

    def _is_cleared(self, stored: bytes) -> bool:
        return any(start <= stored < end for start, end in self._cleared)

    def unwritten(self) -> tuple[list[Range], list[tuple[bytes, bytes | None]]]:
        """The ranges to remove and the rows to put, since the last `written` or `drop`."""
        of, rows = self._keys.of, self._rows
        changed = [(of(key), None if (row := rows[key]) is None else _encode(row)) for key in self._changed]
        return self._cleared, changed

    def written(self) -> None:
        """What `unwritten` returned is in the store."""
        self._changed.clear()
        self._cleared = []
        if len(self._rows) > CACHED_ROWS:
            self._rows.clear()

    def drop(self) -> None:
        """Forget what is not written."""
        self._rows.clear()
        self._changed.clear()
        self._cleared = []


class Fold:
    """One projection in one partition: its table, and how far it is.

    `poison` is the offset of an entry for which its function raised, -1 if there is none.
    """

    def __init__(self, projection: Projection[Any], store: Store) -> None:
        self.projection = projection
        self.keys = RowKeys(projection.name, projection.version)
        self.table = FoldTable(projection, store, self.keys)
        self.progress = progress_in(store, self.keys) or Progress(fingerprint=projection.fingerprint)  # type: ignore[arg-type]  # a RowStore
        self.progress.live = False
        self.progress.error = ""  # what stopped it may have been corrected; otherwise it meets it again
        self.poison = -1
        self.failure = ""
        if self.progress.fingerprint != projection.fingerprint:
            raise ConfigError(
                f"the projection {projection.name}, version {projection.version}, was made with rows of another type "
                f"than {projection.row_type!r}: raise its version, or restore the type"
            )

    @property
    def stopped(self) -> bool:
        """True if it folds nothing until the process is started again."""
        return bool(self.progress.error)

    def stop(self, error: str) -> None:
        """Fold nothing more; `error` says why."""
        self.progress.error = error[:ERROR_CHARS]
        self.progress.live = False

    def leave_out(self, offset: int) -> None:
        """Count the entry at `offset` as one that was skipped."""
        progress = self.progress
        progress.skipped += 1
        progress.skips = (*progress.skips, SkippedEntry(offset, self.failure))[-SKIPS_KEPT:]


class FoldGroup:
    """The folds of one partition that stand at the same place of its journal.

    partition: its number.
    folds: at least one, all of them with the same position.
    store: the partition's database.
    exclusive: see `Log.exclusive`.
    """

    def __init__(self, partition: int, folds: Sequence[Fold], store: Store, *, exclusive: bool) -> None:
        self.partition = partition
        self.folds = list(folds)
        self._store = store
        position = folds[0].progress.position
        self.reader = JournalReader(f"journal partition {partition}", position, exclusive=exclusive)
        self._written = position
        self._entries = 0
        self._time_ms = 0

    @property
    def position(self) -> Position:
        """Where it goes on reading."""
        return self.reader.position

    def take(self, records: Iterable[LogRecord]) -> list[Fold]:
        """Fold records; returns the folds whose function raised. These have left the group, and stand where
        they were written last.

        Raises `LogCorrupt` if a record cannot be read; what lies before it has been folded.
        """
        step, partition, folds = self.reader.step, self.partition, self.folds
        poison = folds[0].poison if len(folds) == 1 else -1
        left: list[Fold] = []
        for record in records:
            offset = record.offset
            if offset == poison and folds[0].projection.on_error == "stop":
                folds[0].stop(f"its function raised at offset {offset}: {folds[0].failure}")
                return left
            counted = step(offset, record.value)
            if offset == poison:
                folds[0].leave_out(offset)
                folds[0].poison = poison = -1
            elif type(counted) is EntryRecord:
                entry = counted.entry
                if entry.key and entry.outcome != FORWARDED:
                    turn = TurnEntry(entry, partition, offset)
                    for fold in folds:
                        try:
                            fold.projection.function(turn, fold.table)
                        except Exception as error:  # noqa: BLE001 - the user's code
                            left.append(self._part(fold, offset, error))
                            folds = self.folds
                    self._entries += 1
                    self._time_ms = entry.time_ms
            elif type(counted) is Migration and counted.step.deleted:
                for fold in list(folds):
                    try:
                        _forget(fold, counted.step.deleted)
                    except Exception as error:  # noqa: BLE001 - the user's code
                        left.append(self._part(fold, offset, error))
                        folds = self.folds
        return left

    def _part(self, fold: Fold, offset: int, error: Exception) -> Fold:
        """Take a fold out of the group, back to where it was written last."""
        self.folds = [each for each in self.folds if each is not fold]
        fold.table.drop()
        fold.poison = offset
        fold.failure = f"{type(error).__name__}: {error}"[:ERROR_CHARS]
        return fold

    def write(self) -> None:
        """Write the rows and the position of each fold, in one batch."""
        position, live = self.reader.position, False
        removed: list[Range] = []
        rows: list[tuple[bytes, bytes | None]] = []
        for fold in self.folds:
            progress = fold.progress
            progress.offset, progress.epoch, progress.seq, progress.chain = position
            progress.entries += self._entries
            progress.time_ms = max(progress.time_ms, self._time_ms)
            live = live or progress.live
            ranges, changed = fold.table.unwritten()
            removed += ranges
            rows += changed
            rows.append((fold.keys.progress, encode_progress(progress)))
        self._store.write(removed, rows)
        for fold in self.folds:
            fold.table.written()
        self._entries = 0
        self._written = position

    @property
    def unwritten(self) -> bool:
        """True if it stands behind what it has written."""
        return self.reader.position != self._written

    def joins(self, other: FoldGroup) -> bool:
        """True if this group and `other` may be one: both stand at the same place, and are written."""
        free = all(each.poison < 0 and not each.stopped for each in (*self.folds, *other.folds))
        return free and self.position == other.position and not (self.unwritten or other.unwritten)


def _forget(fold: Fold, namespaces: Iterable[str]) -> None:
    if fold.projection.on_deleted is not None:
        for namespace in namespaces:
            fold.projection.on_deleted(namespace, fold.table)


def behind_the_log(start: int, end: int, position: Position, partition: int) -> LogCorrupt | None:
    """Why a fold at `position` cannot go on with a journal of these bounds; None: it can."""
    if position.offset > end:
        return LogCorrupt(
            f"the rows of projections of partition {partition} are made from journal offset {position.offset}, and the "
            f"journal ends at {end}: it was restored from a backup, or is another one. Stop the processes that fold, "
            "and remove the folder `projections` of the data directory: the rows are made again"
        )
    if position.offset < start:
        return LogCorrupt(
            f"the journal of partition {partition} begins at offset {start}, and the projection needs it from offset "
            f"{position.offset} on: it was trimmed (keep_journal). A new projection or version needs the whole journal"
        )
    return None
