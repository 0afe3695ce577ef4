"""The checked open: every damage to the log's files is refused by name, or a torn tail and nothing more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from rocksdict import Rdict, WriteBatch

from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.embedded.records import options
from perdure.streams.log.embedded.wal_check import BLOCK_BYTES, HEADER, Cut, check, open_database, scan

FLIPS = (0x01, 0x80, 0xFF)


class Image(NamedTuple):
    """A database as a power cut leaves it: what was synced, and how many commits that was."""

    path: Path
    commits: int

    @property
    def wal(self) -> Path:
        return max(self.path.glob("*.log"))

    @property
    def manifest(self) -> Path:
        return next(self.path.glob("MANIFEST-*"))


def commit(database: Rdict, number: int, size_bytes: int = 20) -> None:
    """One commit of two rows, as the log makes them."""
    write = WriteBatch(raw_mode=True)
    write.put(b"command%03d" % number, b"%03d" % number * (size_bytes // 3))
    write.put(b"journal%03d" % number, b"entry")
    database.write(write)
    database.flush_wal(True)


def image(path: Path, story: Callable[[Rdict], int], *, closed: bool = False) -> Image:
    """Run `story` on a new database, and take its files while it is open, or after it was closed."""
    made = options()
    made.create_if_missing(True)
    live = path.with_name(path.name + ".live")
    database = Rdict(str(live), made)
    commits = story(database)
    if not closed:
        shutil.copytree(live, path)
    database.close()
    if closed:
        shutil.copytree(live, path)
    return Image(path, commits)


def small(database: Rdict) -> int:
    for number in range(8):
        commit(database, number)
    return 8


def blocks(database: Rdict) -> int:
    """Records over several blocks of the file: before, in the middle, and the last one."""
    for number, size_bytes in enumerate((20, 50_000, 20, 90_000)):
        commit(database, number, size_bytes)
    return 4


def tables(database: Rdict) -> int:
    """Two flushed tables, and a WAL with the rest."""
    for number in range(12):
        commit(database, number)
        if number in (3, 7):
            database.flush()
    return 12


def starts(wal: Path) -> list[int]:
    """Where the records of a file start, and where the last one ends."""
    found: list[int] = []
    assert scan(wal, lambda position, payload: found.append(position)) is None
    return [*found, wal.stat().st_size]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def damaged(whole: Image, work: Path, file: Path, data: bytes) -> Path:
    """A fresh copy of the image in which one file holds `data`."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole.path, work)
    (work / file.name).write_bytes(data)
    return work


def commits_in(path: Path, torn: Path) -> tuple[int, Cut | None]:
    """Open for good: how many commits are there, none missing before the last?"""
    database, cut = open_database(path, options(), torn)
    present = [database.get(b"command%03d" % n) is not None for n in range(20)]
    entries = [database.get(b"journal%03d" % n) is not None for n in range(20)]
    database.close()
    assert present == entries == sorted(present, reverse=True), "something in the middle is gone"
    return sum(present), cut


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_a_whole_log_opens_with_everything(tmp_path: Path) -> None:
    """Nothing is cut off a log that was synced, whether it was closed or not, flushed or not."""
    for number, story in enumerate((small, blocks, tables)):
        for closed in (False, True):
            whole = image(tmp_path / f"{number}{closed}", story, closed=closed)
            assert commits_in(whole.path, tmp_path / "torn") == (whole.commits, None)


def test_any_flip_before_the_last_record_is_refused_by_position(tmp_path: Path, work: Path) -> None:
    """Each byte of header and body, each of three flips: `LogCorrupt` naming the file and the record."""
    whole = image(tmp_path / "whole", small)
    data, begin = whole.wal.read_bytes(), starts(whole.wal)
    damaged(whole, work, whole.wal, data)
    for start, end in pairwise(begin[:-1]):
        for position in range(start, end):
            for mask in FLIPS:
                (work / whole.wal.name).write_bytes(flipped(data, position, mask))
                with pytest.raises(
                    LogCorrupt, match=re.escape(f"{whole.wal.name} is damaged at byte {start}:")
                ):
                    check(work, tmp_path / "torn")
    assert not (tmp_path / "torn").exists()


def test_a_flip_in_the_last_record_costs_nothing_before_it(tmp_path: Path, work: Path) -> None:
    """It cannot be told from a torn tail: cut off with a copy kept, and all earlier commits are there."""
    whole = image(tmp_path / "whole", small)
    data, begin = whole.wal.read_bytes(), starts(whole.wal)
    for position in range(begin[-2], begin[-1]):
        path = damaged(whole, work, whole.wal, flipped(data, position, 0x01))
        kept, cut = commits_in(path, tmp_path / "torn")
        assert kept == whole.commits - 1
        assert cut is not None
        assert (cut.position, cut.size_bytes) == (begin[-2], begin[-1] - begin[-2])
        assert cut.copy.read_bytes() == flipped(data, position, 0x01)


def test_flips_in_large_records(tmp_path: Path, work: Path) -> None:
    """The same where a record spans blocks: all bytes of each piece's header, and samples of its body."""
    whole = image(tmp_path / "whole", blocks)
    data, begin = whole.wal.read_bytes(), starts(whole.wal)
    headers = [
        p
        for start in (*begin[:-1], *range(BLOCK_BYTES, len(data), BLOCK_BYTES))
        for p in range(start, start + 7)
    ]
    for position in sorted({*headers, *range(0, len(data), 997)}):
        path = damaged(whole, work, whole.wal, flipped(data, position, 0x04))
        if position < begin[-2]:
            with pytest.raises(LogCorrupt, match=whole.wal.name):
                check(path, tmp_path / "torn")
        else:
            assert check(path, tmp_path / "torn") is not None
            assert starts(path / whole.wal.name) == begin[:-1]


def test_a_tail_torn_at_any_byte_is_cut(tmp_path: Path, work: Path) -> None:
    """Truncated anywhere in the last record: the commits before it are kept, what is cut is told."""
    for name, story, step in (("small", small, 1), ("blocks", blocks, 1499)):
        whole = image(tmp_path / name, story)
        data, begin = whole.wal.read_bytes(), starts(whole.wal)
        for end in range(begin[-2], begin[-1], step):
            path = damaged(whole, work, whole.wal, data[:end])
            cut = check(path, tmp_path / "torn")
            assert starts(path / whole.wal.name) == begin[:-1]
            assert cut is None if end == begin[-2] else cut is not None and cut.size_bytes == end - begin[-2]


def test_a_hole_in_the_last_record_is_torn(tmp_path: Path, work: Path) -> None:
    """Blocks of one unacknowledged record reach the disk in any order: later pieces prove nothing."""
    whole = image(tmp_path / "whole", blocks)
    data, begin = whole.wal.read_bytes(), starts(whole.wal)
    for hole in range(begin[-2], len(data) - 4096, 4096):
        lost = data[:hole] + bytes(4096) + data[hole + 4096 :]
        kept, cut = commits_in(damaged(whole, work, whole.wal, lost), tmp_path / "torn")
        assert kept == whole.commits - 1
        assert cut is not None


def test_zeros_in_the_middle_are_refused(tmp_path: Path, work: Path) -> None:
    """A stretch of zeros, as a lost sector leaves it, is damage and no end of the log."""
    whole = image(tmp_path / "whole", small)
    data, begin = whole.wal.read_bytes(), starts(whole.wal)
    for size_bytes in (HEADER.size, 16, 64):
        for start in begin[: -2 - size_bytes // 32]:
            lost = data[:start] + bytes(size_bytes) + data[start + size_bytes :]
            with pytest.raises(LogCorrupt, match=f"byte {start}:"):
                check(damaged(whole, work, whole.wal, lost), tmp_path / "torn")


def test_a_record_taken_out_whole_is_missed(tmp_path: Path, work: Path) -> None:
    """What is left is valid, but its numbers have a gap: `LogCorrupt` says which change is gone."""
    whole = image(tmp_path / "whole", small)
    data, begin = whole.wal.read_bytes(), starts(whole.wal)
    for start, end in pairwise(begin[:-1]):
        with pytest.raises(LogCorrupt, match=f"damaged at byte {start}: change \\d+ should be here"):
            check(damaged(whole, work, whole.wal, data[:start] + data[end:]), tmp_path / "torn")


def test_a_lost_wal_is_missed(tmp_path: Path) -> None:
    """Without its newest WAL file the log is refused; it is not taken for one with nothing in it."""
    whole = image(tmp_path / "whole", tables)
    whole.wal.unlink()
    with pytest.raises(LogCorrupt, match="newest write-ahead log"):
        open_database(whole.path, options(), tmp_path / "torn")


@pytest.mark.parametrize("closed", [False, True])
def test_any_flip_in_the_manifest_loses_nothing(tmp_path: Path, work: Path, closed: bool) -> None:
    """Each byte of the list of tables flipped, or the list cut inside a record: refused, or all is there."""
    whole = image(tmp_path / "whole", tables, closed=closed)
    data, begin = whole.manifest.read_bytes(), starts(whole.manifest)
    cases = [flipped(data, position, mask) for position in range(len(data)) for mask in (0x01, 0xFF)]
    cases += [data[:end] for end in range(1, len(data)) if end not in begin]
    refused = 0
    damaged(whole, work, whole.manifest, data)
    for case in cases:
        (work / whole.manifest.name).write_bytes(case)
        try:
            check(work, tmp_path / "torn")
        except LogCorrupt:
            refused += 1
            continue
        try:
            kept, _ = commits_in(damaged(whole, work, whole.manifest, case), tmp_path / "torn")
        except LogCorrupt:
            refused += 1
        else:
            assert kept == whole.commits
        damaged(whole, work, whole.manifest, data)
    assert refused > len(cases) * 0.9


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST"])
@pytest.mark.parametrize("how", ["missing", "empty", "garbage"])
def test_a_damaged_directory_is_never_new(tmp_path: Path, name: str, how: str) -> None:
    """CURRENT or MANIFEST missing, empty or garbage: refused by name, and left as it is."""
    whole = image(tmp_path / "whole", tables)
    file = next(whole.path.glob(name + "*"))
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if how == "empty" else b"\xff\x00garbage" * 9)
    before = sorted((p.name, p.stat().st_size) for p in whole.path.iterdir())
    with pytest.raises(LogCorrupt, match=name):
        open_database(whole.path, options(), tmp_path / "torn")
    assert sorted((p.name, p.stat().st_size) for p in whole.path.iterdir()) == before


def test_a_lost_table_is_refused(tmp_path: Path) -> None:
    """A table file that is gone is named."""
    whole = image(tmp_path / "whole", tables)
    table = next(whole.path.glob("*.sst"))
    table.unlink()
    with pytest.raises(LogCorrupt, match=table.name):
        open_database(whole.path, options(), tmp_path / "torn")


def test_copies_of_torn_tails_do_not_replace_each_other(tmp_path: Path, work: Path) -> None:
    """The same tear twice leaves two copies."""
    whole = image(tmp_path / "whole", small)
    data = whole.wal.read_bytes()
    copies = set()
    for _ in range(2):
        cut = check(damaged(whole, work, whole.wal, data[:-3]), tmp_path / "torn")
        assert cut is not None
        copies.add(cut.copy)
    assert len(copies) == 2
    assert all(copy.read_bytes() == data[:-3] for copy in copies)
