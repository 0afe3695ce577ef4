"""One stream of the embedded log as it stands in memory, and its tails.

Laws
- start <= durable <= written <= next: kept, fsynced, in the database, promised.
- A tail hands over each record from its start once, in order, one call at a time: a record appended
  from within `deliver` comes after that call has returned.
- A tail that is behind or paused holds no records: it reads them again from the database, a chunk per
  pass of the event loop, and from the open batch at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path

from rocksdict import Rdict

from perdure.schemas.errors import OperatorError
from perdure.streams.embedded_files import Rows
from perdure.streams.log import LogRecord, Topic

CHUNK = 256  # about 1 ms of the event loop


class Stream(Rows):
    """One (topic, partition)."""

    __slots__ = ("durable", "last_time_ms", "live", "next", "start", "tails", "unwritten", "written")

    def __init__(self, database: Rdict, path: Path, topic: Topic, partition: int) -> None:
        super().__init__(database, path, topic, partition)
        known = self.recover()
        self.start = known.start
        self.durable = self.written = self.next = known.next
        self.last_time_ms = known.last_time_ms
        self.unwritten: list[LogRecord] = []  # in the open batch: from offset `written` up to `next`
        self.live: tuple[EmbeddedTail, ...] = ()  # the tails that have all there is
        self.tails: set[EmbeddedTail] = set()


class State(Enum):
    BEHIND = "reading what is there"
    LIVE = "given each record as it is appended"
    PAUSED = "paused"
    CLOSED = "closed"


_LIVE = State.LIVE  # found once: an enum's members are looked up slowly


class EmbeddedTail:
    """See `perdure.streams.log.Tail`. `stopped` is told of a stream that cannot be read on."""

    __slots__ = ("_busy", "_deliver", "_loop", "_next", "_pumping", "_state", "_stopped", "_stream")

    def __init__(
        self,
        stream: Stream,
        start: int,
        deliver: Callable[[LogRecord], None],
        loop: asyncio.AbstractEventLoop,
        stopped: Callable[[BaseException], None],
    ) -> None:
        self._stream = stream
        self._next = start
        self._deliver = deliver
        self._loop = loop
        self._stopped = stopped
        self._busy = False
        self._pumping = False
        self._state = State.PAUSED
        stream.tails.add(self)
        self.resume()

    def pause(self) -> None:
        if self._state is not State.CLOSED:
            self._leave(State.PAUSED)

    def resume(self) -> None:
        if self._state is not State.PAUSED:
            return
        if self._next == self._stream.next:
            self._join()
        else:
            self._state = State.BEHIND
            self._pump_soon()

    def close(self) -> None:
        self._leave(State.CLOSED)
        self._stream.tails.discard(self)

    def take(self) -> None:
        """Take what was appended since the last time."""
        if not self._busy:  # else appended from within a delivery: whoever delivers goes on to it
            self._hand_unwritten()

    def _hand(self, records: Iterable[LogRecord]) -> None:
        """Hand over what follows, until the tail is told otherwise."""
        self._busy = True
        state, deliver = self._state, self._deliver
        try:
            for record in records:
                self._next += 1
                deliver(record)
                if self._state is not state:
                    break
        except Exception as error:  # noqa: BLE001 - a receiver that raises is a programmer's error: stop loudly
            self.close()
            self._stopped(error)
        self._busy = False

    def _hand_unwritten(self) -> None:
        stream = self._stream
        assert self._state is not _LIVE or self._next >= stream.written, "a live tail has all that is written"
        while self._state is _LIVE and (more := stream.unwritten[self._next - stream.written :]):
            self._hand(more)  # and then what was appended meanwhile

    def _join(self) -> None:
        self._state = State.LIVE
        self._stream.live = (*self._stream.live, self)

    def _leave(self, state: State) -> None:
        if self._state is State.LIVE:
            self._stream.live = tuple(tail for tail in self._stream.live if tail is not self)
        self._state = state

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        stream = self._stream
        if self._state is not State.BEHIND:
            return
        try:
            if not stream.start <= self._next <= stream.next:
                kept = f"the log has {stream.start} up to {stream.next}"
                raise stream.missing(self._next, f"it was removed or never existed ({kept})")
            chunk = stream.scan(self._next, stream.written, CHUNK) if self._next < stream.written else []
        except OperatorError as error:
            self.close()
            self._stopped(error)
            return
        self._hand(chunk)
        if self._state is not State.BEHIND:
            return
        if self._next < stream.written:
            self._pump_soon()
        else:
            self._join()
            self._hand_unwritten()


def hand_over(accepted: dict[Stream, None]) -> None:
    """Give the tails of these streams what they have not seen yet, what is appended meanwhile too; empties it."""
    while accepted:
        stream, _ = accepted.popitem()
        for tail in stream.live:
            tail.take()
