"""Log time: the time that a turn sees, and that its entry carries. One law, the same on every log.

A record is stamped when it is appended: on the embedded log with this machine's clock, on Kafka with the
broker's. Any of these clocks can be wrong for a while, and a wrong stamp must not decide for longer than
that. So the owner of a partition decides log time when it reads a command, and the entry of the turn carries
what it decided: a fold of the journal takes it from there and never looks at a clock.

Laws
- Log time = max(log time before, min(stamp, owner's clock + `SKEW_MS`)): it never falls within a partition,
  and never runs further ahead of the owner's clock than the skew.
- Log time that is further ahead than that was decided under a wrong clock. It steps back to the stamp, once,
  and a warning says so. [both: test_logtime.py]
- The log time of a partition is that of the command with the highest offset that has an entry. So a fold
  needs no mark for a step back, and the entry of a turn that took long does not undo one. [test_tables.py]
- How long a command has waited is measured by one clock: that of this node, if its own ingress made the
  command; otherwise by this node's clock and the stamp, less how far the clock that stamps is known to be
  behind. Once the command is read, time passes as the event loop counts it, however the wall clock jumps.
  [test_clock_jumps.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from perdure.schemas.commands import Command
from perdure.streams.log.base import LogRecord

SKEW_MS = 60_000  # clocks that differ by more are not right, one of them
SAY_AGAIN_S = 60.0  # a partition says the same of its clocks once in so long
_DOUBT_MS = 1_000  # what seems to have waited for longer may bear the stamp of a clock that is behind
_NEVER = 1 << 62
_logger = structlog.get_logger(__name__)


def log_time(before_ms: int, stamp_ms: int, clock_ms: int) -> int:
    """Log time of a record stamped `stamp_ms` that follows log time `before_ms`,
    where the clock says `clock_ms`.
    """
    bound_ms = clock_ms + SKEW_MS
    time_ms = min(stamp_ms, bound_ms)
    return time_ms if before_ms > bound_ms else max(before_ms, time_ms)


class LogTime:
    """The log time of one `partition`, decided by its owner.

    `node` is the name in the ids of the commands that this node's door makes. `stamped_here`: the log stamps
    with the same clock as `clock_ms`; what it has just appended needs no other look at it. `corrected` counts
    the stamps that were ahead of their bound, and the steps back. `on_step_back` is called at each of these.
    """

    def __init__(
        self, partition: int, clock_ms: Callable[[], int], node: str, *, stamped_here: bool = False
    ) -> None:
        self.now_ms = 0  # of the command read last
        self.corrected = 0
        self.on_step_back: Callable[[], None] = _ignore
        self._partition = partition
        self._clock_ms = clock_ms
        self._stamped_here = stamped_here
        self._maker = f"-{node}-"
        self._folded, self._folded_ms = _NEVER, 0
        self._stamp_ms = self._read_ms = 0  # of the command read last, and when it was read
        self._behind_ms = 0  # how far the clock that stamps is behind this one, if that is more than the skew
        self._said_s: dict[str, float] = {}
        self._loop_s = asyncio.get_running_loop().time

    def begin(self, offset: int, time_ms: int) -> None:
        """An epoch begins: the latest command that has an entry lies at `offset`,
        and ran at log time `time_ms`.
        """
        self._folded, self._folded_ms = offset, time_ms
        self.now_ms = 0  # what runs again, below `offset`, has the time of its stamp, as it had before

    def read(self, record: LogRecord) -> LogRecord:
        """The record of the next command, with its log time in place of its stamp.
        Commands are read in order.
        """
        if record.offset > self._folded:
            self.now_ms, self._folded = max(self.now_ms, self._folded_ms), _NEVER
        stamp_ms = self._stamp_ms = record.time_ms
        if record.memo is not None and self._stamped_here and stamp_ms >= self.now_ms:
            self.now_ms = self._read_ms = stamp_ms
            return record
        clock_ms = self._read_ms = self._clock_ms()
        if self.now_ms <= stamp_ms <= clock_ms + SKEW_MS:
            self.now_ms = stamp_ms
            return record
        before_ms, self.now_ms = self.now_ms, log_time(self.now_ms, stamp_ms, clock_ms)
        if stamp_ms > clock_ms + SKEW_MS:
            self._correct("a record is stamped far ahead of this node's clock: log time is bounded", record)
        if self.now_ms < before_ms:
            self._correct("log time was far ahead of this node's clock: it steps back", record, before_ms)
            self.on_step_back()
        return _at(record, self.now_ms)

    def read_again(self, record: LogRecord) -> LogRecord:
        """As `read`, of a command that waited as its offset only: later ones have been read."""
        self._stamp_ms, self._read_ms = record.time_ms, self._clock_ms()
        time_ms = log_time(0, record.time_ms, self._read_ms)
        return record if time_ms == record.time_ms else _at(record, time_ms)

    def until_s(self, command: Command) -> float | None:
        """The deadline of the command read last, as the event loop counts time; None: it has none."""
        deadline_ms = command.deadline_ms
        if deadline_ms is None:
            return None
        waited_ms = self._read_ms - self._stamp_ms
        if waited_ms > _DOUBT_MS:
            waited_ms = self._doubted_ms(command, waited_ms)
        return self._loop_s() + ((deadline_ms - waited_ms if waited_ms > 0 else deadline_ms) / 1000)

    def _doubted_ms(self, command: Command, waited_ms: int) -> int:
        """How long it has waited, where the stamp says so long that it may be wrong."""
        made_ms = _made_ms(command.id, self._maker)
        if made_ms is None:
            waited_ms -= self._behind_ms
        else:
            waited_ms = self._read_ms - made_ms
            behind_ms = made_ms - self._stamp_ms
            self._behind_ms = behind_ms if behind_ms > SKEW_MS else 0
            if self._behind_ms:
                self._say(
                    "the clock that stamps commands is behind this node's: synchronize both",
                    behind_ms=behind_ms,
                    stamp_ms=self._stamp_ms,
                    clock_ms=made_ms,
                )
        if command.deadline_ms is not None and waited_ms > command.deadline_ms:
            self._say(
                "a command is read after its deadline: it waited on the log, or the clocks differ",
                waited_ms=waited_ms,
                deadline_ms=command.deadline_ms,
                stamp_ms=self._stamp_ms,
                clock_ms=self._read_ms,
            )
        return waited_ms

    def _correct(self, event: str, record: LogRecord, before_ms: int | None = None) -> None:
        self.corrected += 1
        known = {} if before_ms is None else {"log_time_ms": before_ms}
        self._say(
            event,
            offset=record.offset,
            stamp_ms=record.time_ms,
            clock_ms=self._read_ms,
            bound_ms=self._read_ms + SKEW_MS,
            **known,
        )

    def _say(self, event: str, **known: int) -> None:
        now_s = self._loop_s()
        if now_s - self._said_s.get(event, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said_s[event] = now_s
            _logger.warning(event, partition=self._partition, **known)


def _ignore() -> None:
    """Nothing depends on log time yet."""


def _at(record: LogRecord, time_ms: int) -> LogRecord:
    return LogRecord(
        record.offset, time_ms, record.key, record.value, record.headers, record.memo, record.write
    )


def _made_ms(id_: str, maker: str) -> int | None:
    """When the door with this name made a command, by its node's clock; None: another one made it."""
    if maker not in id_:
        return None
    try:
        return int(id_.split("-", 2)[1], 16)
    except (IndexError, ValueError):
        return None
