"""The last acknowledged commit: damage to it after the death of the process is
refused, an unacknowledged one is cut.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs
from tests.contract.logs import PATIENCE_S
from tests.contract.test_log import contents
from tests.integration.test_embedded_log import child, nothing, run
from tests.process import clean_environ

from perdure.schemas.errors import DataDirError, LogCorrupt
from perdure.streams.log.base import Topic
from perdure.streams.log.embedded.acked_page import NAME, Acked, acked_in
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.log.embedded.wal_check import BLOCK_BYTES, CHANGES, HEADER, check, scan
from perdure.streams.mapped_page import FILE_BYTES


class Dead(NamedTuple):
    """A log whose process was killed, and the records of its newest WAL: where they
    start, and their last changes.
    """

    path: Path
    wal: Path
    data: bytes
    starts: list[int]
    last: list[int]


DIES_AT_AN_ANSWER = """
import asyncio, os, signal, sys, time
from pathlib import Path
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.embedded.acked_page import Acked
from perdure.streams.log.embedded.log import EmbeddedLog

async def main():
    log = EmbeddedLog(Path(sys.argv[1]), 2, clock_ms=lambda: time.time_ns() // 1_000_000)
    await log.start()
    for n in range(5):
        known = asyncio.get_running_loop().create_future()
        receipt = log.append(Topic.COMMANDS, 0, Record(b"key", b"command %d" % n))
        receipt.when_durable((lambda error: os.kill(os.getpid(), signal.SIGKILL)) if n == 4 else known.set_result)
        assert await known is None

"""


def dead(path: Path, failpoint: str) -> Dead:
    """Run a log until it is killed at a step."""
    child(path, 500, failpoint=failpoint)
    return remains(path)


def dead_at_an_answer(path: Path, fault: str = "") -> Dead:
    """Run a log until it is killed in the very step in which a fifth record is told
    to be durable; `fault`: code before it.
    """
    program = f"{DIES_AT_AN_ANSWER}{fault}\nasyncio.run(main())\n"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return remains(path)


def remains(path: Path) -> Dead:
    """What a process that was killed has left."""
    wal, starts, last = max(path.glob("*.log")), [], []

    def visit(position: int, payload: bytes) -> None:
        first, count = CHANGES.unpack_from(payload)
        starts.append(position)
        last.append(first + count - 1)

    assert scan(wal, visit) is None
    return Dead(path, wal, wal.read_bytes(), starts, last)


def acknowledged(path: Path) -> Dead:
    """Its last commit was acknowledged: it died before it wrote the next one."""
    return dead(path, "log.before_write:20")


def unacknowledged(path: Path) -> Dead:
    """Its last commit was written and fsynced, and it died before anybody heard of it."""
    return dead(path, "log.after_sync:20")


def test_the_page_says_what_was_acknowledged(tmp_path: Path) -> None:
    """After SIGKILL: the last commit if it was told, else the one before."""
    found = acknowledged(tmp_path / "a")
    assert acked_in(found.path) == found.last[-1]
    found = unacknowledged(tmp_path / "b")
    assert acked_in(found.path) == found.last[-2]


def test_the_page_is_written_before_the_answer(tmp_path: Path) -> None:
    """A process that dies as it answers: what it answered for is in the page."""
    found = dead_at_an_answer(tmp_path / "log")
    assert acked_in(found.path) == found.last[-1]
    os.truncate(found.wal, found.starts[-1] + 3)
    with pytest.raises(LogCorrupt, match="were acknowledged"):
        run(nothing, found.path)


def refuses(found: Dead, places: Iterable[int], torn: Path) -> None:
    """A bit flipped, and a cut, at each of these bytes is named with file and
    byte, and nothing is changed.
    """
    acked, start = acked_in(found.path), found.starts[-1]
    told = f"{found.wal} is damaged at byte {start}: .* up to {acked} were acknowledged"
    for at in places:
        for damaged in (
            found.data[:at] + bytes([found.data[at] ^ 0x04]) + found.data[at + 1 :],
            found.data[:at],
        ):
            found.wal.write_bytes(damaged)
            with pytest.raises(LogCorrupt, match=told):
                check(found.path, torn, acked)
            assert found.wal.read_bytes() == damaged
    assert not torn.exists()
    with pytest.raises(LogCorrupt, match="were acknowledged"):
        run(nothing, found.path)


def test_any_damage_to_the_last_acknowledged_commit_is_refused(tmp_path: Path) -> None:
    """At each byte of one with a single command, header and body."""
    found = dead(tmp_path / "log", "log.before_write:2")
    (start,) = found.starts
    refuses(found, range(start, len(found.data)), tmp_path / "torn")


def test_damage_to_a_commit_in_two_pieces_is_refused(tmp_path: Path) -> None:
    """One over the border of a block: at each byte of its heads and ends, and at every 61st between.

    One checksum covers a whole piece, so the bytes between differ in nothing but their place.
    """
    found = acknowledged(tmp_path / "log")
    start, end = found.starts[-1], len(found.data)
    border = end // BLOCK_BYTES * BLOCK_BYTES
    assert start < border < end
    head = HEADER.size + CHANGES.size
    edges = [range(start, start + head + 16), range(border - 16, border + head + 16), range(end - 16, end)]
    refuses(found, sorted({*range(start, end, 61), *chain(*edges)}), tmp_path / "torn")


def test_damage_to_an_unacknowledged_commit_is_cut_and_said(tmp_path: Path) -> None:
    """Cut anywhere, or a byte flipped: all that was acknowledged is there, a line
    says what was cut, a copy is kept.
    """
    found = unacknowledged(tmp_path / "log")
    start, end = found.starts[-1], len(found.data)
    count = found.last[-1] - found.last[-2]
    for number, at in enumerate(range(start + 1, end, 97)):
        folder = tmp_path / str(number)
        shutil.copytree(found.path, folder / "log")
        wal = folder / "log" / found.wal.name
        os.truncate(wal, at)
        with capture_logs() as lines:
            log = run(nothing, folder / "log")
        (line,) = lines
        assert log.torn is not None
        assert (line["log_level"], line["file"], line["byte"]) == ("warning", str(wal), start)
        assert line["bytes"] == at - start
        assert line["records"] == (count if at - start >= 19 else 0)
        assert Path(line["copy"]).read_bytes() == found.data[:at]


def test_an_acknowledged_commit_outlives_a_flip_behind_it(tmp_path: Path) -> None:
    """What is there after the cut is what was acknowledged, and the log goes on from it."""
    found = unacknowledged(tmp_path / "log")
    os.truncate(found.wal, found.starts[-1] + 3)
    seen: list[int] = []

    async def count(log: EmbeddedLog) -> None:
        seen.append(len(await contents(log, Topic.COMMANDS, 0)))

    run(count, found.path)
    run(count, found.path)
    assert seen[0] == seen[1] > 0


def test_a_log_without_a_page_is_as_before(tmp_path: Path) -> None:
    """An older one, or a copy without it: what looks like a torn end is cut; the
    next commit is in a page again.
    """
    found = acknowledged(tmp_path / "log")
    (found.path / NAME).unlink()
    os.truncate(found.wal, len(found.data) - 5)
    log = run(nothing, found.path)
    assert log.torn is not None
    assert acked_in(found.path) == 0
    again = dead(found.path, "log.before_write:3")
    assert acked_in(again.path) == again.last[-1]


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * FILE_BYTES, bytes(FILE_BYTES)])
def test_a_damaged_page_says_nothing_more_than_is_certain(tmp_path: Path, content: bytes) -> None:
    """Of two numbers that do not agree the lower one counts; a page that is too short says nothing."""
    found = acknowledged(tmp_path / "log")
    (found.path / NAME).write_bytes(content)
    assert acked_in(found.path) == 0
    run(nothing, found.path)
    Acked(found.path).close()


def test_a_flipped_bit_in_the_page_refuses_nothing_that_is_there(tmp_path: Path) -> None:
    """Each of its 128 bits."""
    found = acknowledged(tmp_path / "log")
    page = (found.path / NAME).read_bytes()
    for bit in range(128):
        flipped = bytearray(page)
        flipped[bit // 8] ^= 1 << bit % 8
        (found.path / NAME).write_bytes(flipped)
        assert acked_in(found.path) <= found.last[-1]


def test_an_orderly_stop_and_a_backup_of_the_folder_open(tmp_path: Path) -> None:
    """Also one that is put back in place of a newer log: the page comes with it."""
    log, backup = tmp_path / "log", tmp_path / "backup"
    child(log, 50)
    shutil.copytree(log, backup)
    child(log, 50)
    run(nothing, log)
    shutil.rmtree(log)
    shutil.copytree(backup, log)
    run(nothing, log)
    assert acked_in(log) > 0


def test_a_page_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """With its path."""
    run(nothing, tmp_path / "log")
    (tmp_path / "log" / NAME).unlink()
    (tmp_path / "log" / NAME).mkdir()
    with pytest.raises(DataDirError, match=re.escape(str(tmp_path / "log" / NAME))):
        run(nothing, tmp_path / "log")
    (tmp_path / "log" / NAME).rmdir()
    run(nothing, tmp_path / "log")
