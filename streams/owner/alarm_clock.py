"""The alarm clock of one partition: appends a command for each alarm that has become due.

Alarms are rows of the tables, ordered by due time. The clock looks at the earliest ones, appends a command
for each that is due, and sets one timer for the next; the command then takes its turn like any other. It runs
for one epoch.

Laws
- Nothing is appended before its time by the wall clock or by the log time seen so far, whichever is later;
  timers are checked against both when they fire, however the wall clock jumped. [test_clock_jumps.py]
- One setting of an alarm is appended once in an epoch, unless the append failed or was too early by log time.
  A second command, in this epoch or another, does no harm: the turn sees that the alarm has changed.
  [test_alarms.py]
- At most `WAITING` of the appended commands wait for their turn (one that is stuck in a mailbox for `STUCK_S`
  no longer counts): alarms that become due together do not starve other commands.
- The clock looks from a lower bound on; alarms below it are under way. So rows that are gone are passed once.
- When log time steps back, each alarm that perdure timed itself under the wrong clock gets a command that
  times it again, before the clock reaches the new time. [test_alarms_retimed.py]
- The end of an epoch forgets all of it: the alarms are in the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.objects.alarms import retimed
from perdure.objects.registry import Registry
from perdure.schemas.alarms import RETIME, alarm_command
from perdure.schemas.backoff import Backoff
from perdure.schemas.commands import Command, sealed_record
from perdure.schemas.effects import AlarmRow
from perdure.schemas.keys import namespace_of
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.log_time import log_time
from perdure.streams.state.alarm_rows import Due
from perdure.streams.state.tables import Tables
from perdure.streams.turns.ports import Counts, Transport

WAITING = 200
BATCH = 50  # appended in one step of the event loop
LOOKED_AT = 100  # alarms in one step, after log time has stepped back
STUCK_S = 5.0
RECHECK_S = 5.0  # a jump of the wall clock is noticed within this time
RETRY_S = (0.5, 5.0)  # first and longest pause after an append that failed
_FOREVER_MS = 1 << 60
_Named = tuple[str, str]


class AlarmClock:
    """The clock of one partition. `start` and `end` bound an epoch; `changed` takes each folded alarm row."""

    def __init__(
        self,
        transport: Transport,
        registry: Registry,
        tables: Tables,
        counts: Counts,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._transport = transport
        self._types = registry.types
        self._tables = tables
        self._counts = counts
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(*RETRY_S, transport.random)
        self._again_s = 0.0  # when the appends that failed last are made again
        self._epoch = 0
        self._on = False
        self._timer: asyncio.TimerHandle | None = None
        self._sent: dict[_Named, Due] = {}  # appended, and their row is unchanged
        self._waiting: dict[
            _Named, float
        ] = {}  # those of them whose turn has not begun, with the loop's time
        self._first: Due = (0, "", "")  # everything below is sent or gone
        self._next_ms = 0  # nothing from `_first` on is due earlier
        self._set_ms = 0  # the latest log time at which an alarm may have been set
        self._late: Due | None = None  # from here on, alarms may be due too late: log time has stepped back
        self._stepped_back = False  # in this epoch; a turn that began earlier may still set such an alarm
        tables.alarms.on_change = self.changed

    def start(self) -> None:
        """Begin: the partition is owned, and its tables are up to date."""
        self.end()
        self._on = True
        self._first, self._next_ms = (0, "", ""), 0
        self._set_ms, self._stepped_back = self._tables.meta.clock_ms, False
        self._wake()

    def end(self) -> None:
        self._on = False
        self._epoch += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._late = None
        self._sent.clear()
        self._waiting.clear()

    @property
    def log_ms(self) -> int:
        """The least log time that a command appended now would get, as far as this node can know."""
        clock_ms = self._transport.clock_ms()
        return log_time(self._tables.meta.clock_ms, clock_ms, clock_ms)

    # Notifications

    def changed(self, key: str, name: str, row: AlarmRow | None) -> None:
        """An alarm was set, postponed, parked or removed, durably."""
        if not self._on:
            return
        self._sent.pop((key, name), None)
        self.begun(key, name)
        self._set_ms = max(self._set_ms, self._tables.meta.clock_ms)
        if row is not None and not row.parked:
            self._look_from((row.due_ms, key, name))
            if self._stepped_back and retimed(name, row, self.log_ms) is not None:
                self._time_again((row.due_ms, key, name))

    def stepped_back(self) -> None:
        """Log time has stepped back."""
        self._stepped_back = True
        self._notice_step_back()

    def _notice_step_back(self) -> None:
        """Look for alarms that are due too late, if one may have been set at a later log time than now."""
        if self._on and (now_ms := self.log_ms) < self._set_ms:
            self._set_ms, self._stepped_back = now_ms, True
            self._time_again((now_ms, "", ""))

    def _time_again(self, first: Due) -> None:
        self._late = first if self._late is None else min(self._late, first)
        self._wake(0.0)

    def begun(self, key: str, name: str) -> None:
        """A command of this clock no longer waits."""
        if self._waiting.pop((key, name), None) is not None and len(self._waiting) == WAITING // 2:
            self._wake()  # for alarms that had to wait

    def again(self, key: str, name: str, wait_s: float) -> None:
        """A command had no effect though its alarm is unchanged: send another one later."""
        sent = self._sent.get((key, name))
        if sent is not None:
            self._loop.call_later(wait_s, self._in_epoch, self._epoch, self._forget, sent)

    def _in_epoch(self, epoch: int, then: Callable[[Due], None], due: Due) -> None:
        if epoch == self._epoch:
            then(due)

    def _forget(self, sent: Due) -> None:
        _, key, name = sent
        if self._sent.get((key, name)) == sent:
            del self._sent[key, name]
            self._waiting.pop((key, name), None)
            self._look_from(sent)

    def _look_from(self, due: Due) -> None:
        self._first = min(self._first, due)
        if due[0] < self._next_ms or self._timer is None:
            self._next_ms = min(self._next_ms, due[0])
            self._wake()

    # The time

    def _wake(self, wait_s: float | None = None) -> None:
        """Look again when the next one is due, at most `RECHECK_S` from now."""
        if not self._on:
            return
        if self._timer is not None:
            self._timer.cancel()
        if wait_s is None:
            left_ms = self._next_ms - self.log_ms
            wait_s = 0.0 if left_ms <= 0 else min(max(left_ms, 1) / 1000, RECHECK_S)
        if self._late is not None:
            wait_s = min(wait_s, 0.0 if self._room() else STUCK_S)
        self._timer = self._loop.call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            log_ms = self.log_ms
            self._notice_step_back()
            if self._late is not None:
                self._look_for_late(self._late)
            if self._next_ms <= log_ms:
                self._look()
            elif self._next_ms < _FOREVER_MS or self._late is not None:
                self._wake()
        except Exception as error:  # noqa: BLE001 - the store cannot be read: the partition says so
            self._failed(error)

    def _look(self) -> None:
        """Append what is due, as far as there is room, and decide when to look again."""
        now_ms, room = self.log_ms, min(self._room(), BATCH)
        ready: list[Due] = []
        following = None
        for due in self._tables.alarms.due(self._first, now_ms + 1):
            if due[1:] in self._sent:
                continue
            if len(ready) == room:
                self._first = following = due
                break
            ready.append(due)
        else:
            self._first = max(self._first, (now_ms + 1, "", ""))
            following = next(self._tables.alarms.due(self._first, _FOREVER_MS), None)
        self._next_ms = _FOREVER_MS if following is None else following[0]
        for due in ready:
            self._append(due)
        if self._next_ms == _FOREVER_MS and self._late is None:
            return  # the next alarm that is set wakes it
        # without room, due alarms wait until others have begun, which wakes the clock too
        self._wake(STUCK_S if self._next_ms <= now_ms and len(self._waiting) >= WAITING else None)

    def _look_for_late(self, first: Due) -> None:
        """Append a command for each alarm from `first` on that is due too late, as far as there is room."""
        now_ms, room = self.log_ms, min(self._room(), BATCH)
        for looked_at, due in enumerate(self._tables.alarms.due(first, _FOREVER_MS)):
            if looked_at == LOOKED_AT or not room:
                self._late = due
                return
            _, key, name = due
            row = self._tables.alarms.get(key, name)
            if row is not None and self._of_app(key) and retimed(name, row, now_ms) is not None:
                self._append_of(due, alarm_command(key, name, row, RETIME), self._time_again)
                room -= 1
        self._late = None

    def _room(self) -> int:
        waiting = self._waiting
        stuck_s = self._loop.time() - STUCK_S
        for named in [named for named, since_s in waiting.items() if since_s <= stuck_s]:
            del waiting[named]
        return WAITING - len(waiting)

    # Appending

    def _append(self, due: Due) -> None:
        _, key, name = due
        row = self._tables.alarms.get(key, name)
        assert row is not None, f"{key} has a time for its alarm {name!r} and no alarm"
        self._sent[key, name] = due
        if self._of_app(key):
            self._counts.alarms_due += 1
            self._append_of(due, alarm_command(key, name, row), self._forget)

    def _of_app(self, key: str) -> bool:
        """True if its class is part of the app; if it has left, its alarms wait for it to come back."""
        return namespace_of(key) in self._types

    def _append_of(self, due: Due, command: Command, failed: Callable[[Due], None]) -> None:
        """Append a command for an alarm.

        `failed(due)` is called, after a pause, if that fails in this epoch.
        """
        self._waiting[due[1:]] = self._loop.time()
        epoch = self._epoch

        def appended(error: BaseException | None) -> None:
            if error is not None:  # not written, or unknown: another command does no harm
                now_s = self._loop.time()
                if now_s >= self._again_s:  # earlier: others failed with it, and they are sent again together
                    self._again_s = now_s + self._backoff.failed()
                self._loop.call_at(self._again_s, self._in_epoch, epoch, failed, due)
            else:
                self._backoff.reset()

        log = self._transport.log
        record = Record(*sealed_record(command, self._transport.seal))
        receipt = log.append(Topic.COMMANDS, self._tables.partition, record, command)
        if not log.exclusive:  # on an exclusive log, the log's failure is the node's
            receipt.when_durable(appended)
