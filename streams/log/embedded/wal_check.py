"""Opens the embedded log's RocksDB, and refuses to if an acknowledged write was lost.

Before RocksDB opens its files, `check` reads the MANIFEST and the write-ahead logs. It tells the torn end
that a crash may leave, which is cut off, from damage, which is an error.

Laws
- One commit is one record of RocksDB's write-ahead log (WAL), and it is written only after the commit
  before it was fsynced. So a crash can tear the last record of the newest WAL and nothing else.
- Torn means that in the newest WAL no record *starts* behind the first invalid byte. The torn end is cut off,
  a copy is kept, and the caller gets a `Cut`. Anything else invalid is `LogCorrupt`, naming file and byte.
- What is known to have been acknowledged (acked_page.py) is never cut: a log that ends before it is
  `LogCorrupt`, even if it ends like a torn one, or between two records.
- RocksDB numbers every change; the numbers must run without a gap from the last one in tables, according to
  the MANIFEST, to the end of the newest WAL. So a lost file is noticed, not only a damaged one.
- An existing directory is never created again, whatever is missing from it.

RocksDB alone does not hold these: by default it drops what lies behind a flipped bit; its lenient mode takes
a flipped length for a torn end; and its strict mode, which is used here as the second check, cannot open a
log with a torn end and does not notice a lost WAL. Format:
github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format (the MANIFEST has the same one).
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from google_crc32c import value as crc32c
from rocksdict import DBRecoveryMode, Options, Rdict

from perdure.schemas.errors import DataDirError, LogCorrupt, OperatorError, StorageFailed

BLOCK_BYTES = 32 * 1024
HEADER = struct.Struct("<IHB")  # masked crc32c, length, kind
CHANGES = struct.Struct("<QI")  # a WAL record begins with its first sequence number and how many it has
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
RECYCLABLE = range(5, 9)  # the same four with the WAL's number behind the header
LOG_NUMBER, LAST_SEQUENCE, NEW_TABLE = 2, 4, 103  # tags of the MANIFEST's fields
REMEDY = "nothing was changed; restore this directory from a backup, or mend the disk and try again"


class Cut(NamedTuple):
    """A torn end that was cut off: from which file, at which byte, how many bytes, and where the copy is.

    `records`: the number of changes in the torn commit according to its head; 0 if the head is torn too.
    """

    file: Path
    position: int
    size_bytes: int
    copy: Path
    records: int = 0


class Damage(NamedTuple):
    """An invalid record: `position` is its first invalid byte, `start` where it begins."""

    position: int
    start: int
    reason: str


def open_database(path: Path, options: Options, torn: Path, acked: int = 0) -> tuple[Rdict, Cut | None]:
    """Open the existing RocksDB in `path`, after checking it; `torn` is where a torn end is copied to.

    `acked`: the last change that is known to have been acknowledged.

    Raises `LogCorrupt`, `DataDirError` (another process has it) or `StorageFailed`.
    """
    cut = check(path, torn, acked)
    options.create_if_missing(False)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())
    try:
        return Rdict(str(path), options), cut
    except Exception as error:  # rocksdict raises nothing finer
        raise operating_error(error, path, "open") from error


def operating_error(error: BaseException, path: Path, doing: str) -> OperatorError:
    """The error that an operator sees for an exception of RocksDB, by its text: it has no finer type."""
    text = str(error)
    if "lock hold by current process" in text or "/LOCK: Resource temporarily unavailable" in text:
        return DataDirError(f"the log in {path} is in use by another process: stop that one first ({text})")
    # After the open, a file that is missing or ends early is corruption like a wrong checksum.
    if text.startswith(("Corruption", "Invalid argument")) or "No such file" in text:
        return LogCorrupt(f"cannot {doing} the log in {path}: {text}; {REMEDY}")
    return StorageFailed(f"cannot {doing} the log in {path}: {text}; check the disk, then start again")


def check(path: Path, torn: Path, acked: int = 0) -> Cut | None:
    """Check the MANIFEST and WALs of `path`; cut off a torn end, unless it was
    acknowledged. Raises `LogCorrupt`.
    """
    manifest = _current_manifest(path)
    live_from, last_sequence, in_tables, manifest_damage = _read_manifest(manifest)
    wals = sorted((int(wal.stem), wal) for wal in path.glob("*.log"))
    live = [wal for number, wal in wals if number >= live_from]
    if not live:
        raise LogCorrupt(f"the log in {path} has lost its newest write-ahead log file (*.log); {REMEDY}")
    expected: int | None = None
    for wal in live:
        follows = _Sequence(wal, expected, last_sequence)
        damage = scan(wal, follows.next)
        if damage is not None and (wal is not live[-1] or starts_after(wal, damage.position)):
            raise corrupt(wal, damage.position, damage.reason)
        expected = follows.expected
    if manifest_damage is not None and expected is None:
        # Torn by a crash it would be harmless: what it was about to list would still be in a WAL. But the
        # WALs are empty, so it may have listed the only copy.
        raise corrupt(manifest, manifest_damage.position, manifest_damage.reason)
    tables = last_sequence if damage is None else in_tables
    last = tables if expected is None else expected - 1
    if last < acked:
        raise _lost(live[-1], damage, last, acked)
    return None if damage is None else _cut(live[-1], damage, torn)


def _lost(wal: Path, damage: Damage | None, last: int, acked: int) -> LogCorrupt:
    """The error for a log that ends before an acknowledged change."""
    position, reason = (
        (wal.stat().st_size, "it ends here") if damage is None else (damage.start, damage.reason)
    )
    return corrupt(
        wal,
        position,
        f"{reason}, after change {last}, but changes up to {acked} were acknowledged: what is missing is not a torn end",
    )


class _Sequence:
    """A check that the numbers of the changes in the WALs have no gap."""

    def __init__(self, wal: Path, expected: int | None, last_in_tables: int) -> None:
        self.wal = wal
        self.expected = expected  # None until the first record of the oldest WAL
        self.last_in_tables = last_in_tables

    def next(self, position: int, payload: bytes) -> None:
        if len(payload) < CHANGES.size:
            raise corrupt(self.wal, position, "a record too short to be one")
        first, count = CHANGES.unpack_from(payload)
        lost = first > self.last_in_tables + 1 if self.expected is None else first != self.expected
        if lost:
            due = self.last_in_tables + 1 if self.expected is None else self.expected
            raise corrupt(
                self.wal, position, f"change {due} should be here but it is {first}: some were lost"
            )
        self.expected = first + count


def corrupt(file: Path, position: int, reason: str) -> LogCorrupt:
    return LogCorrupt(f"{file} is damaged at byte {position}: {reason}; {REMEDY}")


def scan(file: Path, visit: Callable[[int, bytes], None]) -> Damage | None:
    """Call `visit(position, payload)` for each valid record; returns the first invalid one."""
    start: int | None = None  # of a record whose last piece has not come yet
    parts: list[bytes] = []
    position = 0
    with file.open("rb") as source:
        while block := source.read(BLOCK_BYTES):
            at = 0
            while at < len(block):
                if BLOCK_BYTES - at < HEADER.size:
                    break  # too little room for a header: the writer went on in the next block
                here = position + at
                piece = _piece(block, at)
                if piece is None:
                    return Damage(here, here if start is None else start, "an invalid or incomplete record")
                kind, payload, at = piece
                if kind in (FULL, FIRST) and start is not None:
                    return Damage(here, start, "the record before it is incomplete")
                if kind in (MIDDLE, LAST) and start is None:
                    return Damage(here, here, "a piece of a record without its beginning")
                if kind == FULL:
                    visit(here, payload)
                elif kind in (FIRST, MIDDLE):
                    start = here if start is None else start
                    parts.append(payload)
                elif kind == LAST and start is not None:
                    visit(start, b"".join([*parts, payload]))
                    start, parts = None, []
            position += len(block)
    return None if start is None else Damage(start, start, "an incomplete record")


def starts_after(file: Path, position: int) -> bool:
    """True if a valid record starts anywhere behind `position`. Every byte is tried.

    Only beginnings count: the later pieces of a large record can have reached the disk before its
    first one, without the record ever having been acknowledged.
    """
    with file.open("rb") as source:
        source.seek(position + 1)
        data = source.read()
    for kind in (FULL, FIRST, FULL + 4, FIRST + 4):
        match_at = data.find(kind, HEADER.size - 1)
        while match_at >= 0:
            at = match_at - HEADER.size + 1
            in_block = (position + 1 + at) % BLOCK_BYTES
            if _piece(data[at : at + BLOCK_BYTES - in_block], 0) is not None:
                return True
            match_at = data.find(kind, match_at + 1)
    return False


def _piece(block: bytes, at: int) -> tuple[int, bytes, int] | None:
    """The piece of a record at `at`: its kind, its payload and where it ends; None if it is invalid."""
    if len(block) - at < HEADER.size:
        return None
    masked, length, kind = HEADER.unpack_from(block, at)
    begin = at + HEADER.size + (4 if kind in RECYCLABLE else 0)
    end = begin + length
    if kind == 0 or end > len(block):
        return None
    crc = crc32c(block[at + HEADER.size - 1 : end])
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != masked:
        return None
    return kind - 4 if kind in RECYCLABLE else kind, block[begin:end], end


def _current_manifest(path: Path) -> Path:
    current = path / "CURRENT"
    try:
        name = current.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LogCorrupt(
            f"{current} cannot be read ({error}), but {path} is not a new log; {REMEDY}"
        ) from error
    manifest = path / name
    if not name.startswith("MANIFEST-") or not manifest.is_file():
        raise LogCorrupt(f"{current} names {name!r}, which is not there; {REMEDY}")
    return manifest


def _read_manifest(manifest: Path) -> tuple[int, int, int, Damage | None]:
    """The number of the oldest WAL still needed, the last change there was, the
    last one in tables, and its torn end.

    A table is listed while changes go on, so the last change there was may lie in a WAL.
    """
    newest: dict[int, int] = {}
    in_tables = 0

    def visit(position: int, edit: bytes) -> None:
        nonlocal in_tables
        try:
            fields = _edit_fields(edit)
            if LAST_SEQUENCE in fields and LAST_SEQUENCE not in newest:
                in_tables = fields[LAST_SEQUENCE]  # written when it was opened: nothing went on then
            in_tables = max(in_tables, fields.pop(NEW_TABLE, 0))
            newest.update(fields)
        except IndexError as error:  # whole, but not as this RocksDB writes it
            raise corrupt(manifest, position, "a record that cannot be understood") from error

    damage = scan(manifest, visit)
    if damage is not None and (not newest or starts_after(manifest, damage.position)):
        raise corrupt(manifest, damage.position, damage.reason)
    if not newest:
        raise corrupt(manifest, 0, "it is empty")
    return newest.get(LOG_NUMBER, 0), newest.get(LAST_SEQUENCE, 0), in_tables, damage


def _edit_fields(edit: bytes) -> dict[int, int]:
    """The plain numbers at the head of a MANIFEST record (a VersionEdit), and the
    last change in the first new table.
    """
    fields: dict[int, int] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        result = shift = 0
        while True:
            byte = edit[at]
            at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    while at < len(edit):
        tag = varint()
        if tag in (LOG_NUMBER, 3, LAST_SEQUENCE, 9, 10, 200, 203):
            fields[tag] = varint()
        elif tag in (1, 201) or tag >= 1 << 13:  # a text, or a field that old readers may skip
            length = varint()
            at += length
        elif tag == 6:  # a table that goes: level, number
            varint(), varint()
        elif tag == NEW_TABLE:
            # level, number, size, first and last key, first and last change; then what may vary
            varint(), varint(), varint()
            for _ in range(2):
                length = varint()
                at += length
            varint()
            fields[tag] = varint()
            break
        else:
            break
    return fields


def _cut(wal: Path, damage: Damage, torn: Path) -> Cut:
    """Keep a copy of the whole file, then shorten it to its last valid record."""
    torn.mkdir(exist_ok=True)
    copy = torn / f"{wal.name}.at-{damage.start}"
    number = 1
    while copy.exists():
        number += 1
        copy = torn / f"{wal.name}.at-{damage.start}.{number}"
    size_bytes = wal.stat().st_size - damage.start
    try:
        shutil.copyfile(wal, copy)
        for name in (copy, torn, torn.parent):
            fsync_path(name)
        os.truncate(wal, damage.start)
        fsync_path(wal)
    except OSError as error:
        raise StorageFailed(f"cannot cut the torn end of {wal} off, copying it to {copy}: {error}") from error
    return Cut(wal, damage.start, size_bytes, copy, _records_at(copy, damage.start))


def _records_at(file: Path, position: int) -> int:
    """The number of changes in the commit that begins at `position`, according to
    its head; 0 if that is missing.
    """
    with file.open("rb") as source:
        source.seek(position)
        head = source.read(HEADER.size + CHANGES.size)
    if len(head) < HEADER.size + CHANGES.size or HEADER.unpack_from(head)[2] not in (FULL, FIRST):
        return 0
    return int(CHANGES.unpack_from(head, HEADER.size)[1])


def fsync_path(path: Path) -> None:
    """fsync a file or a directory by its name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
