"""Verification beside a running server: the journal against its chain, its links, its commands and the state.

`perdure verify --online` uses it. It takes no lock: it reads the log and the flushed state as they were when
they were opened. The first difference ends it, and is named.

Laws [test_verifying.py]
- Each record continues the chain, is filed under its object, and links to its object's previous entry.
- Each entry's command, if it is still kept, is the one that the entry was made of.
- The rows of the state are those of a replay up to where the state stands.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from perdure.schemas.commands import record_hash
from perdure.schemas.config_model import Config
from perdure.schemas.errors import LogCorrupt
from perdure.schemas.journal import EntryRecord, JournalRecord, in_history
from perdure.streams.datadir import state_in
from perdure.streams.journal.reader import START, JournalReader, Position
from perdure.streams.log.base import LogRecord, Progress, Readable, Topic, silent
from perdure.streams.opening import open_reading
from perdure.streams.rebuild.verify import compare_rows
from perdure.streams.snapshots.accept import load, names_of, verified_names
from perdure.streams.snapshots.manifest import offset_in
from perdure.streams.snapshots.offline import place_of
from perdure.streams.snapshots.restore import write_files
from perdure.streams.state.fold import fold, recall_ends
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksReading, RocksStore, write_rows

_NEAR = 10_000  # commands that are read together for a chunk of entries


class JournalCheck:
    """Checks the records of one journal, in order.

    log, partition: what is checked.
    position: where it begins; from 0 on links are checked too.
    commands: False to leave out the entries' commands.
    """

    def __init__(
        self, log: Readable, partition: int, position: Position = START, *, commands: bool = True
    ) -> None:
        name = f"journal of partition {partition}"
        self.reader = JournalReader(name, position, exclusive=log.exclusive)
        self._log, self._partition = log, partition
        self._newest: dict[str, int] | None = {} if position.offset == 0 else None
        self._commands = commands
        self.entries = self.commands = 0

    async def run(self, end: int, progress: Progress = silent) -> None:
        """Check the records up to `end`. Raises `LogCorrupt` for the first that is wrong."""
        start = self.reader.offset
        kept = (await self._log.bounds(Topic.COMMANDS, self._partition)).start if self._commands else 0
        async for chunk in self._log.read(Topic.JOURNAL, self._partition, start, end):
            due: dict[int, tuple[int, bytes]] = {}
            for each in chunk:
                record = self.step(each)
                if type(record) is EntryRecord:
                    entry = record.entry
                    if self._commands and entry.command >= kept and entry.command_hash:
                        due[entry.command] = (each.offset, entry.command_hash)
            if due:
                await self._check_commands(due)
            progress(self._partition, self.reader.offset - start, end - start)

    def step(self, each: LogRecord) -> JournalRecord | None:
        """Check the next record; the record if it counts."""
        record = self.reader.step(each.offset, each.value)
        if type(record) is not EntryRecord:
            if each.key is not None and record is not None:
                raise self._wrong(
                    each.offset, f"it has the key {each.key[:60]!r}, and no such record has one"
                )
            return record
        self.entries += 1
        key = record.entry.key
        if each.key is not None and each.key != key.encode():
            raise self._wrong(each.offset, f"it is filed under {each.key[:60]!r}, and is of {key[:60]!r}")
        newest = self._newest
        if newest is not None and record.link is not None and in_history(record.entry):
            if record.previous(each.offset) != newest.get(key):
                raise self._wrong(
                    each.offset,
                    f"it links to offset {record.previous(each.offset)}, and the previous entry of {key} is at "
                    f"{newest.get(key)}",
                )
            newest[key] = each.offset
        return record

    async def _check_commands(self, due: dict[int, tuple[int, bytes]]) -> None:
        offsets = sorted(due)
        while offsets:
            first = offsets[0]
            last = max(each for each in offsets if each < first + _NEAR)
            seen: set[int] = set()
            async for chunk in self._log.read(Topic.COMMANDS, self._partition, first, last + 1):
                for each in chunk:
                    if each.offset in due:
                        self._check_command(each, *due[each.offset])
                        seen.add(each.offset)
            missing = [each for each in offsets if each <= last and each not in seen]
            if missing:
                raise self._wrong(due[missing[0]][0], f"its command, at offset {missing[0]}, is missing")
            self.commands += len(seen)
            offsets = [each for each in offsets if each > last]

    def _check_command(self, command: LogRecord, at: int, hashed: bytes) -> None:
        if record_hash(command.key, command.value, command.headers) != hashed:
            raise self._wrong(
                at,
                f"its command, at offset {command.offset} of the commands, is not the one that it was made of",
            )

    def _wrong(self, offset: int, why: str) -> LogCorrupt:
        return LogCorrupt(f"{self.reader.name} at offset {offset}: {why}: the log was changed")


async def verify_online(
    config: Config, progress: Progress = silent, *, from_snapshot: bool = False
) -> dict[str, Any]:
    """Check the log and the state of an app beside its server, or without one.

    config: of the app.
    progress: of the replay.
    from_snapshot: begin with the newest verified snapshots instead of the first record.

    Returns counts as `perdure verify` does, and `commands`: how many were compared with their entries. Raises
    `LogCorrupt` or `StoreCorrupt` for the first difference.
    """
    counts = {"partitions": 0, "journal_records": 0, "entries": 0, "commands": 0, "rows": 0}
    chains: list[str] = []
    with ExitStack() as opened:
        live = None
        if (state := state_in(config.data_dir)) is not None:  # opened first: it is not ahead of the log
            live = RocksReading(state)
            opened.callback(live.close)
        log = await open_reading(config)
        folder = Path(tempfile.mkdtemp(prefix="perdure-verify-"))
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            for partition in range(log.partitions):
                counts["partitions"] += 1
                part = folder / str(partition)
                part.mkdir()
                chains.append(
                    await _partition(config, log, live, part, partition, counts, progress, from_snapshot)
                )
        finally:
            await log.close()
    return {**counts, "differences": 0, "chain": chains}


async def _partition(
    config: Config,
    log: Readable,
    live: RocksReading | None,
    folder: Path,
    partition: int,
    counts: dict[str, int],
    progress: Progress,
    from_snapshot: bool,
) -> str:
    end = (await log.bounds(Topic.JOURNAL, partition)).end
    mine = None if live is None else Tables(live, partition, exclusive=log.exclusive)
    if mine is not None and mine.reader.offset > end:
        raise LogCorrupt(
            f"the state of partition {partition} has applied the journal up to {mine.reader.offset - 1}, the log ends "
            f"before {end}: records were lost"
        )
    store = RocksStore(folder / "store")
    try:
        start = _begin(config, store, folder, partition, mine) if from_snapshot else None
        tables = Tables(store, partition, exclusive=log.exclusive)
        check = JournalCheck(log, partition, tables.reader.position if start else START)
        await check.run(end, progress)
        if mine is not None and mine.reader.offset:
            if start:
                await recall_ends(log, tables)
            await fold(log, tables, mine.reader.offset, progress)
            tables.write_all()
            assert live is not None
            counts["rows"] += compare_rows(live, store, partition, mine.reader.offset)
    finally:
        store.close()
    counts["journal_records"] += check.reader.offset
    counts["entries"] += check.entries
    counts["commands"] += check.commands
    return check.reader.chain.hex()


def _begin(
    config: Config, store: RocksStore, folder: Path, partition: int, mine: Tables | None
) -> str | None:
    """Load the newest verified snapshot that is not ahead of the state; its name, None if there is none."""
    if config.snapshots is None:
        return None
    place = place_of(config)
    most = None if mine is None else mine.reader.offset
    verified = verified_names(place, config.name, partition)
    for name in names_of(place, config.name, partition):
        if name in verified and (most is None or offset_in(name) <= most):
            stored = load(place, config.name, partition, name)
            store.take_in(Path(file) for file in write_files(place, stored, partition, folder, write_rows))
            return name
    return None
