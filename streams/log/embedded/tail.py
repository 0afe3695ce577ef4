"""The state in memory of one (topic, partition) of the embedded log, and the tails that read it.

A command that was appended becomes visible here: the tail of its partition's owner gets it in the same pass
of the event loop, before it is durable.

Laws
- start <= durable <= written <= held <= next. Offsets from `start` on are kept; those below `durable` are
  fsynced, below `written` in the database, below `held` no longer in memory, and below `next` given to
  records.
- A tail delivers each record from its start once, in order, one call at a time: a record appended from within
  `deliver` follows after that call has returned. [test_embedded_tail.py]
- A tail that is behind or paused holds no records: it reads them again from the database, a chunk per pass of
  the event loop, and from the open batch at the end. [test_embedded_tail.py]
- The open batch does not hold records that all live tails have, because memory that is free at once is in the
  CPU's cache for the next request. A tail that is too late requests a commit, and reads the records from the
  database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path

from rocksdict import Rdict

from perdure.schemas.errors import OperatorError
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.embedded.records import Rows

CHUNK = 256  # about 1 ms of the event loop


class EmbeddedStream(Rows):
    """One (topic, partition): its offsets, the records that are only in memory, and its tails.

    The arguments are those of `Rows`.
    """

    __slots__ = (
        "durable",
        "held",
        "last_time_ms",
        "late",
        "live",
        "next",
        "start",
        "tails",
        "unwritten",
        "watchers",
        "written",
    )

    def __init__(
        self, database: Rdict, path: Path, topic: Topic | str, partition: int, number: bytes = b""
    ) -> None:
        super().__init__(database, path, topic, partition, number)
        known = self.recover()
        self.start = known.start
        self.durable = self.written = self.held = self.next = known.next
        self.last_time_ms = known.last_time_ms
        self.unwritten: list[LogRecord] = []  # in the open batch: from offset `held` on
        self.live: tuple[EmbeddedTail, ...] = ()  # the tails that have every record
        self.late: list[EmbeddedTail] = []  # those that wait for records between `written` and `held`
        self.tails: set[EmbeddedTail] = set()
        self.watchers: set[Callable[[], None]] = set()  # called when `durable` has moved

    def wrote(self) -> None:
        """The open batch was written into the database."""
        self.written = self.held = self.next
        self.unwritten = []
        late, self.late = self.late, []
        for tail in late:
            tail.pump_soon()

    def hand_over(self) -> None:
        """Deliver new records to the live tails, and keep none that all of them have."""
        for tail in self.live:
            tail.take()
        if self.live:
            for tail in self.live:
                if tail.next != self.next:
                    return
            self.unwritten, self.held = [], self.next


class TailState(Enum):
    """The state of a tail."""

    BEHIND = "reading older records"
    LIVE = "given each record as it is appended"
    PAUSED = "paused"
    CLOSED = "closed"


_LIVE = TailState.LIVE  # looked up once: the members of an enum are slow to look up


class EmbeddedTail:
    """See `perdure.streams.log.base.Tail`.

    `stopped` is called if the stream cannot be read further; `request_commit` has the open batch written.
    """

    blocked = ""
    __slots__ = (
        "_busy",
        "_deliver",
        "_loop",
        "_pumping",
        "_request_commit",
        "_state",
        "_stopped",
        "_stream",
        "next",
    )

    def __init__(
        self,
        stream: EmbeddedStream,
        start: int,
        deliver: Callable[[LogRecord], None],
        loop: asyncio.AbstractEventLoop,
        stopped: Callable[[BaseException], None],
        request_commit: Callable[[], None],
    ) -> None:
        self._stream = stream
        self.next = start
        self._deliver = deliver
        self._loop = loop
        self._stopped = stopped
        self._request_commit = request_commit
        self._busy = False
        self._pumping = False
        self._state = TailState.PAUSED
        stream.tails.add(self)
        self.resume()

    def pause(self) -> None:
        if self._state is not TailState.CLOSED:
            self._leave(TailState.PAUSED)

    def resume(self) -> None:
        if self._state is not TailState.PAUSED:
            return
        if self.next == self._stream.next:
            self._join()
        else:
            self._state = TailState.BEHIND
            self.pump_soon()

    def close(self) -> None:
        self._leave(TailState.CLOSED)
        self._stream.tails.discard(self)

    def fall_behind(self) -> None:
        """Read from the database from now on, a chunk per pass of the event loop, until it has caught up."""
        if self._state is _LIVE:
            self._leave(TailState.BEHIND)
            self.pump_soon()

    def take(self) -> None:
        """Deliver what was appended since the last time."""
        if not self._busy:  # if it was appended from within a delivery, the loop that delivers goes on to it
            self._deliver_unwritten()

    def _deliver_all(self, records: Iterable[LogRecord]) -> None:
        """Deliver these records, until the tail's state changes."""
        self._busy = True
        state, deliver = self._state, self._deliver
        try:
            for record in records:
                self.next += 1
                deliver(record)
                if self._state is not state:
                    break
        except Exception as error:  # noqa: BLE001 - a receiver that raises is a programmer's error: stop loudly
            self.close()
            self._stopped(error)
        self._busy = False

    def _deliver_unwritten(self) -> None:
        stream = self._stream
        assert self._state is not _LIVE or self.next >= stream.held, (
            "a live tail has all that is not in memory"
        )
        while self._state is _LIVE and (more := stream.unwritten[self.next - stream.held :]):
            self._deliver_all(more)  # and then what was appended meanwhile

    def _join(self) -> None:
        self._state = TailState.LIVE
        self._stream.live = (*self._stream.live, self)

    def _leave(self, state: TailState) -> None:
        if self._state is TailState.LIVE:
            self._stream.live = tuple(tail for tail in self._stream.live if tail is not self)
        self._state = state

    def pump_soon(self) -> None:
        """Read further in a later pass of the event loop, if the tail is behind."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        stream = self._stream
        if self._state is not TailState.BEHIND:
            return
        try:
            if not stream.start <= self.next <= stream.next:
                kept = f"the log has {stream.start} up to {stream.next}"
                raise stream.missing(self.next, f"it was removed or never existed ({kept})")
            chunk = stream.scan(self.next, stream.written, CHUNK) if self.next < stream.written else []
        except OperatorError as error:
            self.close()
            self._stopped(error)
            return
        self._deliver_all(chunk)
        if self._state is not TailState.BEHIND:
            return
        if self.next < stream.written:
            self.pump_soon()
        elif self.next < stream.held:
            stream.late.append(self)
            self._request_commit()
        else:
            self._join()
            self._deliver_unwritten()


def hand_over(accepted: dict[EmbeddedStream, None]) -> None:
    """Deliver new records to the tails of these streams, also those appended
    meanwhile; empties `accepted`.
    """
    while accepted:
        stream, _ = accepted.popitem()
        stream.hand_over()


def sizes_of(database: Rdict, streams: Mapping[Topic, list[EmbeddedStream]]) -> dict[Topic, int]:
    """The size of tables and memtable, divided among the topics by number and mean size of their records."""
    weights = {
        topic: sum((s.durable - s.start) * s.mean_bytes(s.start, s.durable) for s in each)
        for topic, each in streams.items()
    }
    parts = ("total-sst-files-size", "cur-size-all-mem-tables")
    total = sum(database.property_int_value(f"rocksdb.{part}") or 0 for part in parts)
    share = total / (sum(weights.values()) or 1)
    return {topic: int(weight * share) for topic, weight in weights.items()}
