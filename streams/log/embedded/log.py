"""The embedded log: one RocksDB for all topics and partitions, and one group commit for all that waits.

A command that is appended here reaches its owner's tail in the same pass of the event loop. The entry of its
turn goes into the same batch, and one fsync makes both durable; then the reply leaves.

Laws
- `append` places a record in the open batch: it is accepted, not durable. Tails get all records that were
  accepted in a pass of the event loop together, because turns that run in a row cost half.
- A commit seals the open batch, after the journal's writers have put their records behind the commands
  in it, so that a command and its entry share one fsync. One commit is in flight at a time.
- Receipts and writers are called back in log order, on the event loop, after the fsync.
- A write or fsync that failed is never tried again, and nothing after it is accepted: what was pending has an
  unknown outcome, later appends are `Unavailable`, and `on_stopped` is called.
- Records that nothing waits for are committed after `LINGERS` times `LINGER_S`.
- When the log falls silent a mark follows the last commit. Otherwise a flipped bit in that commit would look
  like a torn end (see wal_check.py).
- The open batch has no bound of its own: it holds what admission lets in during one fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from perdure.schemas.errors import OutcomeUnknown, Unavailable
from perdure.streams import failpoints
from perdure.streams.log.base import Bounds, Local, LogRecord, Receipt, Record, Topic, WriterSource
from perdure.streams.log.embedded.fsync import Ends, Sync
from perdure.streams.log.embedded.records import MARK_KEY, READ_CHUNK, Trimmed, encode, open_or_create
from perdure.streams.log.embedded.tail import EmbeddedStream, EmbeddedTail, hand_over, sizes_of
from perdure.streams.log.embedded.wal_check import Cut, operating_error
from perdure.streams.log.embedded.write_batch import Appended, CommitBatch, EmbeddedWriter, RefusedReceipt
from perdure.streams.log.log_time import log_time

LINGER_S = 0.010
LINGERS = 5
FILL_BYTES = 2**31  # all of it: what is requested before a batch is sealed must lie in it (`shares_write`)
PACKED_BYTES = 2048  # larger records are not kept in memory twice


def _raise(error: BaseException) -> None:
    raise error


class EmbeddedLog(Local):
    """See `perdure.streams.log.base.Log`. `path` is a directory of its own, made if it is not there.

    `partitions` is their number, `clock_ms` the clock. With `must_exist` a missing directory is `LogCorrupt`.
    After `start`, `torn` says what was cut off the log's end after a crash, if anything was.
    """

    ordered = True
    exclusive = True
    fsync_s = inf  # see `Sync`; set before `start`

    def __init__(
        self, path: Path, partitions: int, *, clock_ms: Callable[[], int], must_exist: bool = False
    ) -> None:
        assert 0 < partitions <= 2**16, "a partition is a u16"
        self.path, self.generation = path, path.name
        self.partitions = partitions
        self.on_stopped: Callable[[BaseException], None] = _raise
        self.torn: Cut | None = None
        self._clock_ms = clock_ms
        self._must_exist = must_exist
        self._refusal: Unavailable | None = Unavailable(f"the log in {path} is not started")
        self._streams: dict[Topic, list[EmbeddedStream]] = {}
        self._writers: dict[int, EmbeddedWriter] = {}
        self._accepted: dict[EmbeddedStream, None] = {}  # sets that keep their order: with records for tails,
        self._requested: dict[EmbeddedWriter, None] = {}  # and with records to append
        self._open_batch = CommitBatch(self._request_commit)
        self._shared: CommitBatch | None = self._open_batch  # a journal record requested now goes into it
        self._in_flight: CommitBatch | None = None
        self._urgent = False
        self._passing = False  # a pass is due, or hands over at the moment
        self._lingered = 0  # how often the timer has rung since the last batch was sealed
        self._timer: asyncio.TimerHandle | None = None
        self._commits = self._commits_seen = 0
        self._unmarked = False
        self._waiting: list[asyncio.Future[None]] = []  # until the commit in flight is over

    # --- opening and closing

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        opening = asyncio.ensure_future(
            asyncio.to_thread(open_or_create, self.path, self.partitions, self._must_exist)
        )
        try:
            self._database, self.torn = await asyncio.shield(opening)
        except asyncio.CancelledError:  # the thread goes on, and what it opens must not stay open
            with suppress(Exception):
                (await opening)[0].close()
            raise
        try:
            self._streams = {
                topic: [EmbeddedStream(self._database, self.path, topic, p) for p in range(self.partitions)]
                for topic in Topic
            }
            self._sync = Sync(self._database, self.path, self._loop, self._synced, self.fsync_s)
        except BaseException:
            self._streams = {}
            self._database.close()
            raise
        self._refusal = None

    async def close(self) -> None:
        """Commit what was accepted, then close. Later appends are `Unavailable`. Raises `StorageFailed`."""
        if not self._streams:
            return
        while self._refusal is None and (self._open_batch.count or self._requested or self._in_flight):
            self._request_commit()
            await self._commit_over()
        if self._refusal is None:
            self._refusal = Unavailable(f"the log in {self.path} is closed")
        if self._timer is not None:
            self._timer.cancel()
        streams, self._streams = self._streams, {}
        with ExitStack() as closing:  # each of them even if others fail, the last one first
            closing.callback(self._close_database)
            closing.callback(self._sync.close)
            for tail in [tail for topic in streams.values() for each in topic for tail in each.tails]:
                closing.callback(tail.close)

    def _close_database(self) -> None:
        try:
            self._database.close()
        except Exception as error:  # rocksdict raises nothing finer
            raise operating_error(error, self.path, "close") from error

    # --- appending

    def append(self, topic: Topic, partition: int, record: Record, memo: Any = None) -> Receipt:
        """See `Log.append`."""
        assert topic is not Topic.JOURNAL, "the journal has its writer"
        if self._refusal is not None:
            return RefusedReceipt(self._refusal)
        if self._timer is None:
            self._timer = self._loop.call_later(LINGER_S, self._tick)
        return self._place(self._streams[topic][partition], self._open_batch, record, memo)

    def writer(self, partition: int, source: WriterSource) -> EmbeddedWriter:
        earlier = self._writers.get(partition)
        if earlier is not None:
            earlier.close()
        writer = EmbeddedWriter(self._streams[Topic.JOURNAL][partition], source)
        writer.request = partial(self._request, writer)
        self._writers[partition] = writer
        return writer

    def shares_write(self, record: LogRecord) -> bool:
        return record.write is self._shared

    def _place(self, stream: EmbeddedStream, batch: CommitBatch, record: Record, memo: Any) -> Appended:
        key, value, headers, clock_ms = record.key, record.value, record.headers, self._clock_ms
        if (time_ms := clock_ms()) < stream.last_time_ms:
            time_ms = log_time(stream.last_time_ms, time_ms, time_ms)
        stream.last_time_ms = time_ms
        offset = stream.next
        packed = encode((time_ms, key, value, headers))
        batch.write.put(stream.prefix + offset.to_bytes(8, "big"), packed)
        kept = packed if len(packed) <= PACKED_BYTES else b""
        placed = Appended(offset, time_ms, key, value, headers, memo, batch, kept, batch.count)
        batch.count += 1
        if offset == stream.written:
            batch.touched.append(stream)
        stream.next = offset + 1
        stream.unwritten.append(placed)
        if stream.live:
            self._accepted[stream] = None
            if not self._passing:
                self._pass_soon()
        return placed

    def _request(self, writer: EmbeddedWriter, *, urgent: bool = True) -> None:
        """See `perdure.streams.log.base.Writer.request`."""
        if writer.closed or self._refusal is not None:
            return
        self._requested[writer] = None
        if urgent and not self._urgent:
            self._request_commit()
        if self._timer is None:  # for the mark behind it, if nothing follows
            self._timer = self._loop.call_later(LINGER_S, self._tick)

    # --- committing

    def _request_commit(self) -> None:
        """Seal the open batch as soon as no commit is in flight: something waits for it."""
        if self._urgent:
            return
        self._urgent = True
        if self._in_flight is None:
            self._pass_soon()

    def _pass_soon(self) -> None:
        if not self._passing:
            self._passing = True
            self._loop.call_soon(self._pass)

    def _tick(self) -> None:
        """Commit what nothing waits for; write a mark behind the last commit before a silence."""
        self._timer = None
        if self._refusal is not None:
            return
        if self._open_batch.count or self._requested:
            self._lingered += 1
            if self._lingered >= LINGERS:
                self._request_commit()
        elif self._in_flight is None and self._commits == self._commits_seen:
            if not self._unmarked:
                return
            self._open_batch.write.put(MARK_KEY, b"")
            self._open_batch.count += 1
            self._request_commit()
        self._commits_seen = self._commits
        self._timer = self._loop.call_later(LINGER_S, self._tick)

    def _pass(self) -> None:
        """Deliver accepted records to the tails; then seal the open batch if something waits for it."""
        try:
            hand_over(self._accepted)
        finally:
            self._passing = False  # only now: a commit requested by a receiver is served below
        if self._urgent and self._refusal is None and self._in_flight is None:
            self._seal()

    def _seal(self) -> None:
        self._urgent, self._lingered = False, 0
        batch = self._open_batch
        try:
            self._fill(batch)
            if self._accepted:
                hand_over(self._accepted)  # while the records are in memory
        except Exception as error:  # noqa: BLE001 - a source that raises is a bug: stop loudly
            self._stop(error)
            return
        if not batch.count:
            self._shared = batch
            self._wake()
            return
        self._in_flight = batch
        self._open_batch = self._shared = CommitBatch(self._request_commit)
        batch.request_commit = None
        size_bytes = batch.write.size_in_bytes()  # it is empty once it is written
        try:
            if failpoints.armed:
                failpoints.hit("log.before_write")
            # Into the WAL file and the memtable: quick, but it holds the GIL, so a thread would not help.
            self._database.write(batch.write)
            if failpoints.armed:
                failpoints.hit("log.after_write")
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing finer
            self._stop(operating_error(error, self.path, "write"))
            return
        del batch.write  # its records may be kept for long
        for stream in batch.touched:
            stream.wrote()
        self._sync.sync(batch, [(stream, stream.next) for stream in batch.touched], size_bytes)

    def _fill(self, batch: CommitBatch) -> None:
        """Put the journal's records behind the commands. A request from now on is for the next batch."""
        self._shared = None
        requested, self._requested = self._requested, {}
        for writer in requested:
            records = () if writer.closed else writer.source.fill(FILL_BYTES)
            if not records:
                continue
            stream = writer.stream
            first = stream.next
            if stream.live:
                for record in records:
                    self._place(stream, batch, record, None)
            else:
                self._place_unseen(stream, batch, records)
            batch.waiters.append((batch.count, partial(writer.finished, first)))

    def _place_unseen(self, stream: EmbeddedStream, batch: CommitBatch, records: Sequence[Record]) -> None:
        """As `_place`, but cheaper: nothing reads the records before they are in the database."""
        if (time_ms := self._clock_ms()) < stream.last_time_ms:
            time_ms = log_time(stream.last_time_ms, time_ms, time_ms)
        stream.last_time_ms = time_ms
        offset, prefix, put = stream.next, stream.prefix, batch.write.put
        if offset == stream.written:
            batch.touched.append(stream)
        for each in records:
            put(prefix + offset.to_bytes(8, "big"), encode((time_ms, each.key, each.value, each.headers)))
            offset += 1
        batch.count += len(records)
        stream.next = offset

    def _synced(self, batch: CommitBatch, ends: Ends, error: BaseException | None) -> None:
        if self._refusal is not None:
            return
        if error is not None:
            self._stop(operating_error(error, self.path, "sync"))
            return
        for stream, end in ends:
            stream.durable = end
            for moved in stream.watchers:
                moved()
        self._unmarked = bool(ends)
        self._commits += 1
        raised = batch.finish(None)
        self._in_flight = None
        if raised is not None:
            self._stop(raised)
            return
        self._wake()
        if self._urgent:
            self._pass_soon()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _commit_over(self) -> None:
        over = self._loop.create_future()
        self._waiting.append(over)
        await over

    def _stop(self, error: BaseException) -> None:
        """Fail all that is pending, accept nothing more, call `on_stopped`."""
        if self._refusal is not None:
            return
        self._refusal = Unavailable(f"the log in {self.path} has stopped: {error}")
        unknown = OutcomeUnknown(f"the log in {self.path} stopped before this was known: {error}")
        last = self._open_batch
        last.waiters += ((last.count + 1, partial(writer.finished, -1)) for writer in self._writers.values())
        for batch in (self._in_flight, last):
            if batch is not None and (raised := batch.finish(unknown)) is not None:
                self._loop.call_exception_handler({"message": "a log's callback failed", "exception": raised})
        self._in_flight = None
        self._wake()
        self.on_stopped(error)

    # --- reading

    def tail(
        self, topic: Topic, partition: int, start: int, deliver: Callable[[LogRecord], None]
    ) -> EmbeddedTail:
        """See `Log.tail`."""
        stream = self._streams[topic][partition]
        return EmbeddedTail(stream, start, deliver, self._loop, self._stop, self._request_commit)

    async def read(
        self, topic: Topic, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[LogRecord]]:
        """See `Log.read`. Waits for records below `end` that are not durable yet.

        Raises `LogCorrupt`, naming topic, partition and offset, `StorageFailed`, or `Unavailable` if the
        log is closed or stops before the last record is durable.
        """
        while start < end:
            if not self._streams:
                raise Unavailable(f"the log in {self.path} is not open")
            stream = self._streams[topic][partition]
            if start < stream.start:
                raise stream.missing(start, f"it was removed, the log starts at {stream.start}")
            if start < stream.durable:
                chunk = stream.scan(start, min(end, stream.durable), READ_CHUNK)
                start += len(chunk)
                yield chunk
                await asyncio.sleep(0)  # so that a long read does not delay the event loop
                continue
            if self._refusal is not None:
                raise self._refusal
            if stream.written <= start < stream.next:
                self._request_commit()
            await self._commit_over()

    async def bounds(self, topic: Topic, partition: int) -> Bounds:
        stream = self._streams[topic][partition]
        return Bounds(stream.start, stream.durable)

    async def trim(self, topic: Topic, partition: int, before: int) -> None:
        """See `Log.trim`. Only what is durable is removed. Raises `OutcomeUnknown` or `Unavailable`."""
        if self._refusal is not None:
            raise self._refusal
        stream, batch = self._streams[topic][partition], self._open_batch
        before = min(before, stream.durable)
        if before <= stream.start:
            return
        stream.trim(batch.write, stream.start, Trimmed(before, stream.next, stream.last_time_ms))
        batch.count += 1
        stream.start = before
        trimmed = self._loop.create_future()
        batch.when_over(batch.count, lambda error: None if trimmed.done() else trimmed.set_result(error))
        if (error := await trimmed) is not None:
            raise error

    async def sizes(self) -> dict[Topic, int]:
        """See `Log.sizes`: of tables and memtable, divided among the topics."""
        return sizes_of(self._database, self._streams)
