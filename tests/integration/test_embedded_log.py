"""What only the embedded log promises: one fsync for a command and its entry, and no damage unseen.

What every log promises is in tests/contract.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
import structlog
from rocksdict import Options, Rdict
from tests.acceptance.strace import or_skip
from tests.contract.logs import PATIENCE_S, Clock, Inbox, Source, add, contents, numbered, outcome
from tests.process import clean_environ

from perdure.schemas.errors import (
    ConfigError,
    DataDirError,
    LogCorrupt,
    OutcomeUnknown,
    PerdureError,
    StorageFailed,
    Unavailable,
)
from perdure.streams import failpoints
from perdure.streams.log.base import Bounds, LogRecord, Record, Topic
from perdure.streams.log.embedded import acked_page as acked
from perdure.streams.log.embedded import fsync
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.log.embedded.records import META_KEY, TOPIC_BYTE

CHILD = """
import asyncio, resource, signal, sys, time
from pathlib import Path
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.log.base import Record, Topic

class Source:
    def fill(self, max_bytes):
        self.given, waiting[:] = list(waiting), []
        return [Record(b"key", b"entry %d" % n) for n in self.given]
    def acked(self, first_offset):
        for n in self.given:
            print(n, flush=True)
    def failed(self, error):
        print("failed", type(error).__name__, flush=True)

def stopped(error):
    print("stopped", type(error).__name__, error, flush=True)
    over.set()

async def main():
    global waiting, over
    waiting, over = [], asyncio.Event()
    log = EmbeddedLog(Path(sys.argv[1]), 2, clock_ms=lambda: time.time_ns() // 1_000_000)
    log.on_stopped = stopped
    await log.start()
    if len(sys.argv) > 3:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    writer = log.writer(1, Source())
    def deliver(record):
        waiting.append(record.offset)
        writer.request()
    log.tail(Topic.COMMANDS, 0, 0, deliver)
    for n in range(int(sys.argv[2])):
        receipt = log.append(Topic.COMMANDS, 0, Record(b"key", b"command %d" % n + b"x" * 2000))
        if n % 7 == 0:
            known = asyncio.get_running_loop().create_future()
            receipt.when_durable(known.set_result)
            error = await known
            if error is not None:
                await over.wait()
                error = await refused(log)
                print("later", type(error).__name__, flush=True)
                sys.exit(70)
    await log.close()

async def refused(log):
    known = asyncio.get_running_loop().create_future()
    log.append(Topic.COMMANDS, 0, Record(b"key", b"late")).when_durable(known.set_result)
    return await known

asyncio.run(main())
"""


def child(
    path: Path, records: int, *more: str, before: tuple[str, ...] = (), failpoint: str = ""
) -> list[str]:
    """Run the log in a process of its own, one entry per command; gives what it printed."""
    environ = clean_environ(**({failpoints.ENVIRONMENT: failpoint} if failpoint else {}))
    command = [*before, sys.executable, "-c", CHILD, str(path), str(records), *more]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode in (0, 70, -signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    return done.stdout.splitlines()


def run(story: Callable[[EmbeddedLog], object], path: Path, partitions: int = 2) -> EmbeddedLog:
    """Tell a story with a started log, which may stop in it."""

    async def main() -> EmbeddedLog:
        log = EmbeddedLog(path, partitions, clock_ms=Clock())
        await log.start()
        try:
            await story(log)  # type: ignore[misc] # stories are async functions
        finally:
            await log.close()
        return log

    return asyncio.run(main())


async def nothing(log: EmbeddedLog) -> None:
    """The story of a log that is opened and closed."""


async def everything(log: EmbeddedLog) -> dict[tuple[Topic, int], list[bytes | None]]:
    return {
        (topic, p): [r.value for r in await contents(log, topic, p)]
        for topic in Topic
        for p in range(log.partitions)
    }


class Passes:
    """A failpoint hook that counts, and can be waited on or made to raise."""

    def __init__(self, raises: dict[str, BaseException] | None = None) -> None:
        self.raises = raises or {}
        self.count: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._passed = asyncio.Event()
        failpoints.on_hit(self)

    def __call__(self, name: str) -> None:
        self.count[name] = self.count.get(name, 0) + 1
        self._loop.call_soon_threadsafe(self._passed.set)
        if name in self.raises:
            raise self.raises[name]

    async def has(self, name: str, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.count.get(name, 0) < count:
                self._passed.clear()
                await self._passed.wait()


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.on_hit(None)


def test_a_command_and_its_entry_share_one_commit(tmp_path: Path) -> None:
    """A command is delivered, its entry requested there: one write, and `shares_write` says so.

    Even if the commit was due already when the command was appended.
    """

    async def story(log: EmbeddedLog) -> None:
        source, shared, memo = Source(), [], object()
        writer = log.writer(1, source)

        def deliver(record: LogRecord) -> None:
            assert record.memo is memo
            shared.append(log.shares_write(record))
            source.add(b"entry")
            writer.request()

        log.tail(Topic.COMMANDS, 0, 0, deliver)
        passes = Passes()
        log.append(Topic.DEAD, 0, Record(b"key", b"hurries")).when_durable(lambda error: None)
        assert log.append(Topic.COMMANDS, 0, Record(b"key", b"command"), memo).offset == 0
        await source.has_acked(1)
        assert shared == [True]
        assert passes.count == {"log.before_write": 1, "log.after_write": 1, "log.after_sync": 1}
        assert await everything(log) == {
            **{(topic, p): [] for topic in Topic for p in range(2)},
            (Topic.DEAD, 0): [b"hurries"],
            (Topic.COMMANDS, 0): [b"command"],
            (Topic.JOURNAL, 1): [b"entry"],
        }

    run(story, tmp_path / "log")


def test_no_record_of_a_sealed_batch_shares_its_write(tmp_path: Path) -> None:
    """While the commit of a record is in flight, an entry requested now would come later."""

    async def story(log: EmbeddedLog) -> None:
        inbox = Inbox()
        log.tail(Topic.COMMANDS, 0, 0, inbox)
        shared: list[bool] = []
        failpoints.on_hit(lambda name: shared.append(log.shares_write(inbox.records[0])))
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"command"))
        assert shared == [False] * 3

    run(story, tmp_path / "log")


def test_only_what_is_synced_can_be_read(tmp_path: Path) -> None:
    """Written but not yet fsynced: delivered to the tail, outside the bounds, not told durable."""

    async def story(log: EmbeddedLog) -> None:
        written, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold(name: str) -> None:
            if name == "log.after_sync":
                loop.call_soon_threadsafe(written.set)
                assert go_on.wait(PATIENCE_S)

        failpoints.on_hit(hold)
        early, late = Inbox(), Inbox()
        told: list[BaseException | None] = []
        log.tail(Topic.COMMANDS, 0, 0, early)
        log.append(Topic.COMMANDS, 0, Record(b"key", b"v")).when_durable(told.append)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await written.wait()
            log.tail(Topic.COMMANDS, 0, 0, late)
            assert await late.has(1) == early.values == [b"v"]
            assert await log.bounds(Topic.COMMANDS, 0) == Bounds(0, 0)
            assert told == []
        finally:
            go_on.set()
        async for chunk in log.read(Topic.COMMANDS, 0, 0, 1):
            assert [r.value for r in chunk] == [b"v"]
        assert told == [None]

    run(story, tmp_path / "log")


@pytest.mark.parametrize(
    ("quick_s", "records", "on_the_loop"), [(inf, 2, True), (inf, 3, False), (0.0, 2, False)]
)
def test_only_a_small_commit_on_a_quick_disk_is_synced_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_s: float, records: int, on_the_loop: bool
) -> None:
    """All others leave the event loop free to fill the next batch."""
    monkeypatch.setattr(fsync, "QUICK_S", quick_s)

    async def story(log: EmbeddedLog) -> None:
        threads: list[bool] = []

        def note(name: str) -> None:
            if name == "log.after_sync":
                threads.append(threading.current_thread() is threading.main_thread())

        failpoints.on_hit(note)
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"first"))
        await add(log, Topic.COMMANDS, 0, *numbered(*range(records)))
        assert threads == [False, on_the_loop]  # nothing is known of the disk before the first
        assert await log.bounds(Topic.COMMANDS, 0) == Bounds(0, records + 1)

    run(story, tmp_path / "log")


@pytest.mark.parametrize("quick_s", [0.0, inf])
def test_who_is_told_may_append_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_s: float
) -> None:
    """Each record is appended by whoever hears that the one before is durable, on the loop or not."""
    monkeypatch.setattr(fsync, "QUICK_S", quick_s)

    async def story(log: EmbeddedLog) -> None:
        over = asyncio.get_running_loop().create_future()

        def another(number: int) -> None:
            if number == 100:
                over.set_result(None)
                return
            receipt = log.append(Topic.COMMANDS, 0, Record(b"key", b"%d" % number))
            receipt.when_durable(
                lambda error: another(number + 1) if error is None else over.set_exception(error)
            )

        another(0)
        async with asyncio.timeout(PATIENCE_S):
            await over
        values = [each.value for each in await contents(log, Topic.COMMANDS, 0)]
        assert values == [b"%d" % number for number in range(100)]

    run(story, tmp_path / "log")


def test_a_large_commit_is_not_synced_on_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One record may be a megabyte, and take longer than the last ones did."""
    monkeypatch.setattr(fsync, "QUICK_S", inf)

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"first"))
        threads: list[bool] = []
        failpoints.on_hit(lambda _: threads.append(threading.current_thread() is threading.main_thread()))
        await add(log, Topic.COMMANDS, 0, Record(b"key", bytes(70_000)))
        assert threads == [True, True, False]  # it is written on the loop

    run(story, tmp_path / "log")


@pytest.mark.parametrize("quick_s", [0.0, inf])
def test_an_fsync_that_hangs_is_said_while_it_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_s: float
) -> None:
    """On the loop, where nothing else could say so, or in its thread; which of both, and when it is over."""
    monkeypatch.setattr(fsync, "QUICK_S", quick_s)
    monkeypatch.setattr(fsync, "HUNG_S", 0.02)
    monkeypatch.setattr(fsync, "LOOKS_EVERY_S", 0.005)
    said, over = threading.Event(), threading.Event()
    told: list[dict[str, Any]] = []

    def note(logger: object, method: str, event: dict[str, Any]) -> Any:
        told.append({**event, "level": method})
        (over if "over" in event["event"] else said).set()
        raise structlog.DropEvent

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"first"))
        failpoints.on_hit(lambda name: said.wait(PATIENCE_S) if name == "log.after_sync" else None)
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"second"))
        assert over.wait(PATIENCE_S)

    structlog.configure(processors=[note])
    try:
        run(story, tmp_path / "log")
    finally:
        structlog.reset_defaults()
        failpoints.on_hit(None)
    assert (told[0]["level"], told[0]["log"]) == ("critical", str(tmp_path / "log"))
    assert ("/livez" in told[0]["loop"]) == (quick_s == inf)


def test_an_fsync_on_the_loop_leaves_the_signals_that_were_blocked_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app may have blocked the alarm itself."""
    monkeypatch.setattr(fsync, "QUICK_S", inf)
    masks = []

    async def story(log: EmbeddedLog) -> None:
        for _ in range(2):
            await add(log, Topic.COMMANDS, 0, Record(b"key", b"value"))
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGALRM,))
    try:
        run(story, tmp_path / "log")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert all(signal.SIGALRM in mask for mask in masks)


@pytest.mark.parametrize("quick_s", [0.0, inf])
def test_an_fsync_that_fails_stops_the_log_on_either_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_s: float
) -> None:
    """Its outcome is unknown, nothing comes after it, and whoever runs the log is told."""
    monkeypatch.setattr(fsync, "QUICK_S", quick_s)

    async def story(log: EmbeddedLog) -> None:
        stopped: list[BaseException] = []
        log.on_stopped = stopped.append
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"first"))
        Passes({"log.after_sync": OSError("on purpose")})
        assert isinstance(await outcome(log.append(Topic.COMMANDS, 0, Record(b"key", b"v"))), OutcomeUnknown)
        assert isinstance(await outcome(log.append(Topic.COMMANDS, 0, Record(b"key", b"w"))), Unavailable)
        (error,) = stopped
        assert isinstance(error, StorageFailed)
        assert "on purpose" in str(error)

    run(story, tmp_path / "log")


def test_outcomes_are_told_in_log_order(tmp_path: Path) -> None:
    """In whatever order they were asked for, receipts answer in log order, and the entries behind them."""

    async def story(log: EmbeddedLog) -> None:
        told: list[object] = []
        source = Source()
        source.on_acked = lambda: told.append("entry")
        source.add(b"entry")
        log.writer(0, source).request()
        receipts = [log.append(Topic.COMMANDS, n % 2, record) for n, record in enumerate(numbered(*range(6)))]
        for n in (4, 0, 5, 2, 1, 3):
            receipts[n].when_durable(lambda error, n=n: told.append(n))  # type: ignore[misc]
        await source.has_acked(1)
        assert told == [0, 1, 2, 3, 4, 5, "entry"]

    run(story, tmp_path / "log")


def test_what_nobody_waits_for_is_committed_soon(tmp_path: Path) -> None:
    """Without anybody asking, an accepted record becomes durable after the linger, and a mark behind it."""

    async def story(log: EmbeddedLog) -> None:
        passes = Passes()
        log.append(Topic.COMMANDS, 0, Record(b"key", b"v"))
        await passes.has("log.after_sync", 2)
        assert await log.bounds(Topic.COMMANDS, 0) == Bounds(0, 1)

    run(story, tmp_path / "log")


def test_appends_from_within_a_delivery_come_after_it(tmp_path: Path) -> None:
    """A receiver that appends to its own stream is not called again before it returns; two tails agree."""

    async def story(log: EmbeddedLog) -> None:
        one, two, inside = Inbox(), Inbox(), [0]

        def deliver(record: LogRecord) -> None:
            assert inside[0] == 0, "called while it runs"
            inside[0] += 1
            one(record)
            if record.offset < 5:
                log.append(Topic.COMMANDS, 0, Record(b"key", b"%d" % (record.offset + 1)))
            inside[0] -= 1

        log.tail(Topic.COMMANDS, 0, 0, deliver)
        log.tail(Topic.COMMANDS, 0, 0, two)
        await add(log, Topic.COMMANDS, 0, Record(b"key", b"0"))
        assert one.values == two.values == [b"%d" % n for n in range(6)]

    run(story, tmp_path / "log")


def test_a_long_backlog_does_not_hold_the_event_loop(tmp_path: Path) -> None:
    """While a tail reads 5,000 old records, other callbacks run in between."""

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.COMMANDS, 0, *numbered(*range(5_000)))
        inbox, seen = Inbox(), set()
        loop = asyncio.get_running_loop()

        def other() -> None:
            seen.add(len(inbox.records))
            if len(inbox.records) < 5_000:
                loop.call_soon(other)

        log.tail(Topic.COMMANDS, 0, 0, inbox)
        other()
        assert await inbox.has(5_000) == [b"%d" % n for n in range(5_000)]
        assert len(seen) > 10

    run(story, tmp_path / "log")


@pytest.mark.parametrize("step", ["log.before_write", "log.after_write", "log.after_sync"])
def test_a_failed_step_stops_the_log(tmp_path: Path, step: str) -> None:
    """Nothing is acknowledged, all pending has an unknown outcome, later appends are refused, once told."""

    async def story(log: EmbeddedLog) -> None:
        stopped: list[BaseException] = []
        log.on_stopped = stopped.append
        source = Source()
        source.add(b"entry")
        log.writer(0, source).request()
        passes = Passes({step: OSError(5, "Input/output error")})
        error = await outcome(log.append(Topic.COMMANDS, 0, Record(b"key", b"v")))
        await source.has_acked(1)
        later = log.append(Topic.COMMANDS, 0, Record(b"key", b"w"))
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(source.failure, OutcomeUnknown)
        assert isinstance(await outcome(later), Unavailable)
        assert later.offset is None
        assert [type(e) for e in stopped] == [StorageFailed]
        assert str(tmp_path) in str(stopped[0])
        assert passes.count[step] == 1, "tried again"

    run(story, tmp_path / "log")


def test_a_source_a_receiver_or_a_listener_that_raises_stops_the_log(tmp_path: Path) -> None:
    """Each is a programmer's error: told as it is, and the others still hear the truth."""

    async def tell(log: EmbeddedLog, fault: Callable[[EmbeddedLog], None]) -> list[BaseException | None]:
        stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        log.on_stopped = stopped.set_result
        others: list[BaseException | None] = []
        fault(log)
        receipt = log.append(Topic.COMMANDS, 0, Record(b"key", b"v"))
        receipt.when_durable(others.append)
        assert isinstance(await stopped, ZeroDivisionError)
        assert isinstance(await outcome(log.append(Topic.DEAD, 0, Record(b"k", b"v"))), Unavailable)
        return others

    def raises(whatever: object) -> None:
        raise ZeroDivisionError

    def bad_source(log: EmbeddedLog) -> None:
        class Bad(Source):
            def fill(self, max_bytes: int) -> list[Record]:
                raise ZeroDivisionError

        log.writer(0, Bad()).request()

    def bad_receiver(log: EmbeddedLog) -> None:
        log.tail(Topic.COMMANDS, 0, 0, raises)

    def bad_listener(log: EmbeddedLog) -> None:
        log.append(Topic.COMMANDS, 0, Record(b"k", b"v")).when_durable(raises)

    for number, (fault, expected) in enumerate(
        [(bad_source, OutcomeUnknown), (bad_receiver, OutcomeUnknown), (bad_listener, type(None))]
    ):

        async def story(log: EmbeddedLog) -> None:
            others = await tell(log, fault)  # noqa: B023 - told before the next round
            assert [type(error) for error in others] == [expected]  # noqa: B023 - as above

        run(story, tmp_path / f"log{number}")


@pytest.mark.parametrize("step", ["log.before_write", "log.after_write", "log.after_sync"])
@pytest.mark.parametrize("passes", [1, 2, 9])
def test_killed_at_any_step_nothing_acknowledged_is_lost(tmp_path: Path, step: str, passes: int) -> None:
    """SIGKILL at the N-th pass: what was acknowledged is there, and no entry without its command."""
    acked = child(tmp_path / "log", 200, failpoint=f"{step}:{passes}")

    async def story(log: EmbeddedLog) -> None:
        found = await everything(log)
        commands, entries = len(found[Topic.COMMANDS, 0]), len(found[Topic.JOURNAL, 1])
        assert [int(line) for line in acked] == list(range(len(acked)))
        assert len(acked) <= entries == commands < 200

    run(story, tmp_path / "log")


def test_a_write_that_the_disk_refuses_stops_the_log(tmp_path: Path) -> None:
    """A file system that takes no more: no ack, the error is told, and all acknowledged is there again."""
    printed = child(tmp_path / "log", 5_000, "300000")
    acked = [line for line in printed if line.isdecimal()]
    assert printed[len(acked) :][0] == "failed OutcomeUnknown"
    assert printed[len(acked) + 1].startswith("stopped StorageFailed cannot write the log in")
    assert printed[-1] == "later Unavailable"

    async def story(log: EmbeddedLog) -> None:
        found = await everything(log)
        assert 0 < len(acked) <= len(found[Topic.JOURNAL, 1]) == len(found[Topic.COMMANDS, 0])

    run(story, tmp_path / "log")


@pytest.mark.strace
def test_a_failed_fsync_is_never_retried(tmp_path: Path) -> None:
    """fdatasync returns EIO: no ack, the log stops, and does not call it again for the WAL."""
    run(nothing, tmp_path / "log")
    trace = tmp_path / "trace"
    strace = (or_skip(), "-f", "-o", str(trace), "-y", "-e", "trace=fdatasync")
    printed = child(tmp_path / "log", 200, before=(*strace, "-e", "inject=fdatasync:error=EIO:when=12+"))
    assert [line for line in printed if line.startswith("stopped StorageFailed cannot sync the log in")]
    assert printed[-1] == "later Unavailable"
    refused = [line for line in trace.read_text().splitlines() if ".log>" in line and "INJECTED" in line]
    assert len(refused) == 1

    async def story(log: EmbeddedLog) -> None:
        acked = [line for line in printed if line.isdecimal()]
        assert 0 < len(acked) <= len((await everything(log))[Topic.JOURNAL, 1])

    run(story, tmp_path / "log")


def test_a_torn_tail_is_cut_and_told(tmp_path: Path) -> None:
    """A WAL that ends within its last record: opened without it, a copy kept, all before it there.

    That the record was acknowledged is not known here: the page that says so (test_acked.py) was not copied.
    """

    async def story(log: EmbeddedLog) -> None:
        for n in range(5):
            await add(log, Topic.COMMANDS, 0, Record(b"key", b"%d" % n))
        shutil.copytree(tmp_path / "log", tmp_path / "copy" / "log")

    run(story, tmp_path / "log")
    (tmp_path / "copy" / "log" / acked.NAME).unlink()
    wal = next((tmp_path / "copy" / "log").glob("*.log"))
    os.truncate(wal, wal.stat().st_size - 5)

    async def reopened(log: EmbeddedLog) -> None:
        assert [r.value for r in await contents(log, Topic.COMMANDS, 0)] == [b"0", b"1", b"2", b"3"]
        assert await add(log, Topic.COMMANDS, 0, Record(b"key", b"again")) == [4]

    log = run(reopened, tmp_path / "copy" / "log")
    assert log.torn is not None
    assert log.torn.file == wal
    assert log.torn.copy.parent == tmp_path / "copy" / "torn"


@pytest.mark.parametrize("topic", [Topic.COMMANDS, Topic.JOURNAL], ids=str)
def test_after_a_silence_a_flip_in_the_last_record_is_refused(tmp_path: Path, topic: Topic) -> None:
    """The mark behind the last acknowledged commit proves that it is not a torn tail; also behind a journal's
    append that came alone: a claim, or an entry long after its command.
    """

    async def story(log: EmbeddedLog) -> None:
        passes = Passes()
        if topic is Topic.COMMANDS:
            await add(log, Topic.COMMANDS, 0, Record(b"key", b"acknowledged"))
        else:
            source = Source()
            source.add(b"acknowledged")
            log.writer(0, source).request()
            await source.has_acked(1)
        await passes.has("log.after_sync", 2)
        shutil.copytree(tmp_path / "log", tmp_path / "copy")

    run(story, tmp_path / "log")
    wal = next((tmp_path / "copy").glob("*.log"))
    data = wal.read_bytes()
    at = data.index(b"acknowledged")
    wal.write_bytes(data[:at] + b"A" + data[at + 1 :])
    with pytest.raises(LogCorrupt, match=f"{wal.name} is damaged at byte"):
        run(nothing, tmp_path / "copy")


def test_a_flip_in_a_table_is_never_read_over(tmp_path: Path) -> None:
    """A byte anywhere in a table flipped: open or read name the file, or every record is as it was."""

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.COMMANDS, 0, *(Record(b"key", os.urandom(1000)) for _ in range(300)))

    run(story, tmp_path / "log")
    table = next((tmp_path / "log").glob("*.sst"))
    data = table.read_bytes()
    step = len(data) // 80  # through many blocks: opening reads only the last one
    whole: list[bytes | None] = []
    refused = 0

    async def read(log: EmbeddedLog) -> None:
        found = (await everything(log))[Topic.COMMANDS, 0]
        assert not whole or found == whole
        whole[:] = found

    shutil.copytree(tmp_path / "log", tmp_path / "damaged")
    run(read, tmp_path / "damaged")
    for position in range(0, len(data), step):
        shutil.rmtree(tmp_path / "damaged")
        shutil.copytree(tmp_path / "log", tmp_path / "damaged")
        flip = bytes([data[position] ^ 0x10])
        (tmp_path / "damaged" / table.name).write_bytes(data[:position] + flip + data[position + 1 :])
        try:
            run(read, tmp_path / "damaged")
        except LogCorrupt as error:
            refused += table.name in str(error)
    assert refused > 80 * 0.9


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    """A gap in a stream stops read and tail: topic, partition and offset are named, nothing is skipped."""

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.COMMANDS, 1, *numbered(*range(10)))

    run(story, tmp_path / "log")
    database = Rdict(str(tmp_path / "log"), Options(raw_mode=True))
    database.delete(TOPIC_BYTE[Topic.COMMANDS] + (1).to_bytes(2, "big") + (6).to_bytes(8, "big"))
    database.close()

    async def read(log: EmbeddedLog) -> None:
        stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        log.on_stopped = stopped.set_result
        with pytest.raises(LogCorrupt, match="topic commands, partition 1, offset 6"):
            await contents(log, Topic.COMMANDS, 1)
        inbox = Inbox()
        log.tail(Topic.COMMANDS, 1, 0, inbox)
        assert "topic commands, partition 1, offset 6" in str(await stopped)

    run(read, tmp_path / "log")
    run(nothing, tmp_path / "log")  # the error left nothing behind that holds the lock


def test_reading_below_the_start_is_refused(tmp_path: Path) -> None:
    """`read` of trimmed offsets names them instead of beginning later."""

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.REPLIES, 0, *numbered(*range(10)))
        await log.trim(Topic.REPLIES, 0, 4)
        with pytest.raises(LogCorrupt, match="topic replies, partition 0, offset 3"):
            await contents(log, Topic.REPLIES, 0, start=3)

    run(story, tmp_path / "log")


def test_a_tail_from_beyond_the_end_stops_by_name(tmp_path: Path) -> None:
    """A tail whose start never existed waits for nothing: a store ahead of its log is corruption."""

    async def story(log: EmbeddedLog) -> None:
        stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        log.on_stopped = stopped.set_result
        await add(log, Topic.COMMANDS, 1, *numbered(0, 1))
        log.tail(Topic.COMMANDS, 1, 3, Inbox())
        async with asyncio.timeout(PATIENCE_S):
            error = await stopped
        assert isinstance(error, LogCorrupt)
        assert "topic commands, partition 1, offset 3" in str(error)

    run(story, tmp_path / "log")


def test_another_partition_count_is_refused(tmp_path: Path) -> None:
    """Both counts are named, and that the number is fixed at creation."""
    run(nothing, tmp_path / "log", partitions=3)
    with pytest.raises(ConfigError, match=r"has 3 partitions, 5 are configured.*fixed at creation"):
        run(nothing, tmp_path / "log", partitions=5)
    run(nothing, tmp_path / "log", partitions=3)


def test_what_is_no_log_or_too_new_is_refused(tmp_path: Path) -> None:
    """A RocksDB of something else, an empty directory, and a newer format: refused, named, left alone."""
    Rdict(str(tmp_path / "foreign"), Options(raw_mode=True)).close()
    with pytest.raises(DataDirError, match="not a log of perdure"):
        run(nothing, tmp_path / "foreign")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogCorrupt, match="CURRENT"):
        run(nothing, tmp_path / "empty")
    run(nothing, tmp_path / "log")
    database = Rdict(str(tmp_path / "log"), Options(raw_mode=True))
    meta = database.get(META_KEY)
    assert meta is not None
    database.put(META_KEY, meta.replace(b"format\x01", b"format\x02"))
    database.close()
    with pytest.raises(DataDirError, match="use a newer perdure"):
        run(nothing, tmp_path / "log")


def test_a_lost_log_is_not_made_anew(tmp_path: Path) -> None:
    """With `must_exist` a log that is gone is `LogCorrupt`; half-made ones of a
    dead process are no obstacle.
    """
    with pytest.raises(LogCorrupt, match="is gone"):
        asyncio.run(EmbeddedLog(tmp_path / "log", 2, clock_ms=Clock(), must_exist=True).start())
    (tmp_path / "log.new").mkdir()
    (tmp_path / "log.new" / "CURRENT").write_bytes(b"")
    run(nothing, tmp_path / "log")
    assert not (tmp_path / "log.new").exists()


def test_a_log_in_use_is_refused(tmp_path: Path) -> None:
    """A second log on the same directory is told that it is in use."""

    async def story(log: EmbeddedLog) -> None:
        with pytest.raises(DataDirError, match="in use"):
            await EmbeddedLog(tmp_path / "log", 2, clock_ms=Clock()).start()

    run(story, tmp_path / "log")


def test_close_commits_what_was_accepted(tmp_path: Path) -> None:
    """Nobody waited and the linger is not over: `close` makes it durable; afterwards appends are refused."""

    async def story(log: EmbeddedLog) -> None:
        source = Source()
        source.add(b"entry")
        log.writer(0, source).request(urgent=False)
        receipt = log.append(Topic.DEAD, 1, Record(b"key", b"last"))
        await log.close()
        assert await outcome(receipt) is None
        assert len(source.batches) == 1
        refused: PerdureError | BaseException | None = await outcome(
            log.append(Topic.DEAD, 1, Record(None, None))
        )
        assert isinstance(refused, Unavailable)

    run(story, tmp_path / "log")

    async def reopened(log: EmbeddedLog) -> None:
        assert [r.value for r in await contents(log, Topic.DEAD, 1)] == [b"last"]

    run(reopened, tmp_path / "log")


def test_sizes_tell_the_topics_apart(tmp_path: Path) -> None:
    """A topic with most of the bytes gets most of the size; an empty one none."""

    async def story(log: EmbeddedLog) -> None:
        await add(log, Topic.COMMANDS, 0, *(Record(b"key", os.urandom(1000)) for _ in range(200)))
        await add(log, Topic.REPLIES, 1, *(Record(b"key", os.urandom(100)) for _ in range(200)))

    async def look(log: EmbeddedLog) -> None:
        sizes = await log.sizes()
        assert sizes[Topic.JOURNAL] == sizes[Topic.DEAD] == 0
        assert 150_000 < sizes[Topic.COMMANDS] < 300_000
        assert 10_000 < sizes[Topic.REPLIES] < 40_000

    run(story, tmp_path / "log")
    run(look, tmp_path / "log")
