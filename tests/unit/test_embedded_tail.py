"""Tails of the embedded log and the callbacks of its batches, over a real RocksDB,
without the log around them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Rdict, WriteBatch

from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.embedded import tail
from perdure.streams.log.embedded.records import encode, options
from perdure.streams.log.embedded.tail import EmbeddedStream, EmbeddedTail, hand_over
from perdure.streams.log.embedded.write_batch import CommitBatch
from perdure.streams.virtual_time import VirtualLoop

PLAIN, PAUSES, APPENDS = b"plain", b"pauses its receiver", b"has its receiver append another"


class OneStream:
    """A stream with what the log does to it: append, deliver, commit."""

    def __init__(self, folder: Path) -> None:
        made = options()
        made.create_if_missing(True)
        self.database = Rdict(str(folder), made)
        self.stream = EmbeddedStream(self.database, folder, Topic.COMMANDS, 0)
        self.readers: list[Reader] = []
        self.stopped: list[BaseException] = []
        self._accepted: dict[EmbeddedStream, None] = {}
        self._write = WriteBatch(raw_mode=True)
        self._wanted = False

    def append(self, value: bytes) -> None:
        stream = self.stream
        self._write.put(stream.key(stream.next), encode((0, None, value, ())))
        stream.unwritten.append(LogRecord(stream.next, 0, None, value))
        stream.next += 1
        if stream.live:
            self._accepted[stream] = None

    def deliver(self) -> None:
        hand_over(self._accepted)

    def commit(self) -> None:
        self.deliver()
        self._wanted = False
        self.database.write(self._write)
        self._write = WriteBatch(raw_mode=True)
        self.stream.wrote()

    def request_commit(self) -> None:
        self._wanted = True

    async def turn(self) -> None:
        """One pass of the event loop, with the commit that a tail has requested."""
        if self._wanted:
            self.commit()
        self.deliver()
        await asyncio.sleep(0)

    def open(self, start: int) -> None:
        self.readers.append(Reader(self, start))

    async def settle(self) -> None:
        """Let every tail read to the end."""
        for reader in self.readers:
            reader.may_pause = False
            reader.resume()
        for _ in range(self.stream.next + 5):
            await self.turn()


class Reader:
    """A tail with its receiver."""

    def __init__(self, one: OneStream, start: int) -> None:
        self.one, self.start = one, start
        self.offsets: list[int] = []
        self.may_pause = True
        self._paused = False
        self._delivering = False
        self.tail = EmbeddedTail(
            one.stream,
            start,
            self.receive,
            asyncio.get_running_loop(),
            one.stopped.append,
            one.request_commit,
        )

    def pause(self) -> None:
        self._paused = True
        self.tail.pause()

    def resume(self) -> None:
        self._paused = False
        self.tail.resume()

    def close(self) -> None:
        self.tail.close()

    def receive(self, record: LogRecord) -> None:
        assert not self._delivering, "a delivery within a delivery"
        assert not self._paused, "a delivery to a paused tail"
        self._delivering = True
        self.offsets.append(record.offset)
        if record.value == PAUSES and self.may_pause:
            self.pause()
        elif record.value == APPENDS:
            self.one.append(PLAIN)
            self.one.deliver()
        self._delivering = False


def run(test: Callable[[OneStream], object], folder: Path) -> None:
    """Run a test over an empty stream, on virtual time; an async one is awaited."""

    async def main() -> None:
        one = OneStream(folder / "log")
        try:
            running = test(one)
            if asyncio.iscoroutine(running):
                await running
        finally:
            for reader in one.readers:
                reader.close()
            one.database.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


numbers = st.integers(0, 9)
steps = st.lists(
    st.tuples(st.just("append"), st.sampled_from([PLAIN, PLAIN, PAUSES, APPENDS]))
    | st.tuples(st.sampled_from(["open", "pause", "resume", "close"]), numbers)
    | st.tuples(st.sampled_from(["commit", "turn"]), st.just(0)),
    max_size=40,
)


@settings(deadline=None)
@given(steps)
def test_each_tail_delivers_each_record_once_and_in_order(todo: list[tuple[str, bytes | int]]) -> None:
    """However tails pause, resume and come late, and whatever their receivers append meanwhile."""

    async def test(one: OneStream) -> None:
        before, tail.CHUNK = tail.CHUNK, 2  # so that a tail that is behind needs several passes
        try:
            for what, detail in todo:
                if what == "append":
                    assert isinstance(detail, bytes)
                    one.append(detail)
                elif what == "commit":
                    one.commit()
                elif what == "turn":
                    await one.turn()
                elif what == "open":
                    one.open(int(detail) % (one.stream.next + 1))
                elif one.readers:
                    reader = one.readers[int(detail) % len(one.readers)]
                    getattr(reader, what)()
                    if what == "close":
                        one.readers.remove(reader)
                stream = one.stream
                assert stream.start <= stream.durable <= stream.written <= stream.held <= stream.next
            await one.settle()
        finally:
            tail.CHUNK = before
        assert one.stopped == []
        for reader in one.readers:
            assert reader.offsets == list(range(reader.start, one.stream.next))

    with tempfile.TemporaryDirectory() as folder:
        run(test, Path(folder))


def test_a_tail_that_its_receiver_pauses_delivers_nothing_more(tmp_path: Path) -> None:
    """Neither live, in the middle of what was appended together, nor behind, in the middle of a chunk."""

    async def test(one: OneStream) -> None:
        one.open(0)
        for value in (PLAIN, PAUSES, PLAIN):
            one.append(value)
        one.commit()
        one.open(0)
        await one.turn()
        assert [reader.offsets for reader in one.readers] == [[0, 1], [0, 1]]
        await one.settle()
        assert [reader.offsets for reader in one.readers] == [[0, 1, 2], [0, 1, 2]]

    run(test, tmp_path)


def test_what_all_live_tails_have_is_not_kept_in_memory(tmp_path: Path) -> None:
    """A tail that is opened too late for it has the open batch written, and reads it from the database."""

    async def test(one: OneStream) -> None:
        one.open(0)
        one.append(PLAIN)
        one.append(PLAIN)
        one.deliver()
        assert one.stream.unwritten == []
        one.open(0)
        await one.settle()
        assert one.stream.written == 2
        assert [reader.offsets for reader in one.readers] == [[0, 1], [0, 1]]

    run(test, tmp_path)


@pytest.mark.parametrize("start", [-1, 3])
def test_an_offset_that_is_not_there_stops_the_tail(tmp_path: Path, start: int) -> None:
    """One below the first or above the next is an error that names it, not a gap."""

    async def test(one: OneStream) -> None:
        one.append(PLAIN)
        one.commit()
        one.open(start)
        await one.turn()
        await one.turn()
        (error,) = one.stopped
        assert isinstance(error, LogCorrupt)
        assert f"offset {start}" in str(error)

    run(test, tmp_path)


def test_a_receiver_that_raises_stops_the_log(tmp_path: Path) -> None:
    """Its tail delivers nothing more: going on would skip a record."""

    async def test(one: OneStream) -> None:
        one.open(0)
        reader = one.readers[0]
        problem = ValueError("a bug")

        def fail(record: LogRecord) -> None:
            reader.offsets.append(record.offset)
            raise problem

        reader.tail._deliver = fail
        one.append(PLAIN)
        one.append(PLAIN)
        await one.turn()
        assert (one.stopped, reader.offsets) == ([problem], [0])

    run(test, tmp_path)


def test_the_callbacks_of_a_batch_are_called_in_log_order() -> None:
    """In the order of their records, not of their requests; one that raises does not prevent the others."""
    commits: list[str] = []
    batch = CommitBatch(lambda: commits.append("requested"))
    called: list[tuple[str, BaseException | None]] = []
    problem = ValueError("a bug")

    def fail(error: BaseException | None) -> None:
        called.append(("first", error))
        raise problem

    batch.when_over(2, lambda error: called.append(("second", error)))
    batch.when_over(1, fail)
    assert commits == ["requested", "requested"]
    assert batch.finish(None) is problem
    batch.when_over(3, lambda error: called.append(("late", error)))
    assert called == [("first", None), ("second", None), ("late", None)]
    assert batch.finish(None) is None
