"""The owner of one partition: runs its commands, journals what they did, and emits their answers.

A command arrives from the log's tail (`deliver`), goes to the turns, and comes back in a durable journal
batch (`_acknowledged`): then its answers are emitted and its changes folded. States: new -> beginning
(`recovery.py`) -> serving -> beginning (claim again) | fenced | stopped.

Laws
- Each command below the watermark of the tables is done, and does not run again. [test_owner.py]
- A turn that has ended leaves a trace (an entry or a done offset) in the journal, and its answer is emitted
  when the trace is durable under this owner's epoch. Where the log is ordered and its lock excludes other
  writers, a done offset in the write of its command need not wait: both survive or neither does.
  [test_output.py, tests/simulation]
- An owner that is fenced, or unsure of its claim, drops every instance and overlay and answers nothing more.
  [test_fencing.py]
- A partition that fails stops alone, and is named. [tests/simulation]
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

from perdure.schemas.commands import ADMIN, Command
from perdure.schemas.errors import (
    Fenced,
    LogUnreachable,
    OutcomeUnknown,
    Unavailable,
)
from perdure.schemas.journal import each_run
from perdure.streams import failpoints
from perdure.streams.journal.writer import Journal, JournalBatch
from perdure.streams.log.base import LogRecord, Tail, Topic
from perdure.streams.log.log_time import LogTime
from perdure.streams.owner.administration import Administration
from perdure.streams.owner.alarm_clock import AlarmClock
from perdure.streams.owner.fence_check import read_gap
from perdure.streams.owner.intake import Intake
from perdure.streams.owner.log_lines import log_state
from perdure.streams.owner.output import OutputGate
from perdure.streams.owner.socket_watch import close_lost
from perdure.streams.owner.whereabouts import Whereabouts, check_mailbox
from perdure.streams.state.tables import Tables
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.alarm_turns import AlarmTurns
from perdure.streams.turns.calls import Calls
from perdure.streams.turns.ports import Counts, OwnerState, PartitionBounds, Ports
from perdure.streams.turns.runner import Turns
from perdure.streams.turns.supervision.internal_faults import broken

PASSING = (OutcomeUnknown, LogUnreachable, Unavailable)  # after these a partition begins again by itself
CLAIMS_REMEMBERED = 1_000
AWAY = (OwnerState.FENCED, OwnerState.STOPPED, OwnerState.ELSEWHERE)
_SERVING = OwnerState.SERVING  # looked up once: members of an enum are slow to look up


class Owner:
    """The owner of one partition; `state`, `error` and `counts` report how it does."""

    def __init__(self, ports: Ports, tables: Tables, bounds: PartitionBounds | None = None) -> None:
        self.ports = ports
        transport = ports.transport
        self.log = log = transport.log
        self.tables = tables
        self.partition = tables.partition
        self.newest_entry = tables.links.newest  # for the journal, which links the next one to it
        self.bounds = bounds or PartitionBounds()
        self.counts = Counts()
        self.state = OwnerState.NEW
        self.error: BaseException | None = None
        self.whereabouts = Whereabouts()
        self.output = OutputGate(transport, self.partition)
        self.journal = Journal(log, self.partition, self, self._acknowledged, self.lost)
        self.restart: asyncio.Event = asyncio.Event()
        self.follows: int | None = None  # the epoch our next claim follows; None: whichever is the newest
        self.claims: deque[str] = deque(maxlen=CLAIMS_REMEMBERED)  # their uuids: one may land late
        self.time = LogTime(
            self.partition,
            transport.clock_ms,
            ports.identity.node,
            stamped_here=log.ordered and log.exclusive,
        )
        self.alarms = AlarmClock(transport, ports.turns.registry, tables, self.counts, self.lost)
        self.time.on_step_back = self.alarms.stepped_back
        alarm_turns = AlarmTurns(self.counts, self.alarms)
        shared = self.bounds, self.counts, self.journal, self.spawn, alarm_turns, self.time
        self.turns = Turns(ports.turns, transport, tables, *shared)
        self.turns.calls = Calls(
            transport,
            ports.identity,
            ports.turns.tracing,
            self.partition,
            self.journal,
            self.turns,
            lambda: self.output.commands.mark,
            self.check_room,
            self._has_taken,
            lambda: not self.log.exclusive and self.state in AWAY,
        )
        self.admin = Administration(
            transport, tables, self.turns, lambda: self.output.commands.mark, self.spawn
        )
        self.intake = Intake(self)
        self.tail: Tail | None = None
        self.next_command = 0
        self._first_new = 0  # no command from here on was done when this epoch began
        self.backlog = 0
        self._paused = False
        self._tasks: set[asyncio.Task[None]] = set()  # re-reads and gap checks; cancelled when the epoch ends
        self._loop = asyncio.get_running_loop()

    # The epoch

    def end_epoch(self) -> None:
        """Drop everything computed under the epoch so far: instances, overlays, what waits to be appended.

        If one step fails, the others are still taken; then it raises.
        """
        tail, self.tail = self.tail, None
        tasks, self._tasks = self._tasks, set()
        self.backlog, self._paused = 0, False
        with ExitStack() as ending:  # runs the last one first
            for task in tasks:
                ending.callback(task.cancel)
            ending.callback(self.admin.end)
            ending.callback(self.intake.forwarding.end)
            ending.callback(self.alarms.end)
            if self.ports.turns.object_quotas is not None:
                ending.callback(self.ports.turns.object_quotas.end, self.partition)
            if self.ports.remote_gateways is not None:
                ending.callback(self.ports.remote_gateways.end, self.partition)
            ending.callback(self.turns.drop_all)
            ending.callback(self.journal.close)
            if tail is not None:
                ending.callback(tail.close)

    def enter(self, state: OwnerState, why: BaseException | None = None) -> None:
        """Enter a state, because of the error `why` if there is one; log the change."""
        before, self.state, self.error = self.state, state, why
        if state is not before:
            log_state(self, before, state, why)
            self.whereabouts.changed()

    def lost(self, error: BaseException) -> None:
        """Begin again, or stop if the error says so: an append's outcome is unknown, or the epoch is over."""
        if self.state is not OwnerState.SERVING:
            return
        if isinstance(error, PASSING):
            self.enter(OwnerState.BEGINNING, error)
        else:  # `live` decides whether it ends in fenced or stopped
            self.state, self.error = OwnerState.BEGINNING, broken(self.partition, error)
            self.whereabouts.remote = self.whereabouts.placed and isinstance(error, Fenced)
        try:
            self.end_epoch()
        except Exception as failure:
            self.error = failure  # remains of this epoch would run beside the next one: the node stops
            raise
        finally:
            self.restart.set()

    def serve(self) -> None:
        """Take commands from the watermark on: the claim was read back, and all before it is folded."""
        self.enter(OwnerState.SERVING)
        self.whereabouts.remote = False
        if self.ports.turns.object_quotas is not None:
            self.ports.turns.object_quotas.begin(self.partition, self.tables.creators)
        self._first_new = self.tables.done.end
        self.time.begin(self.tables.meta.latest, self.tables.meta.clock_ms)
        *behind, rest = self._not_done()
        if behind:
            self.next_command = behind[0][0]
            self.spawn(self._take_behind(behind, rest[0]))
        else:
            self._take_from(rest[0])
        self.alarms.start()
        transport, registry = self.ports.transport, self.ports.turns.registry
        self.spawn(close_lost(transport, registry, self.tables, self.turns.socket_events))
        if self.ports.remote_gateways is not None and not self.log.exclusive:
            self.ports.remote_gateways.begin(transport, registry, self.tables, self.turns.socket_events)

    def _take_from(self, offset: int) -> None:
        self.next_command = offset
        self.tail = self.log.tail(Topic.COMMANDS, self.partition, offset, self.deliver)

    def _not_done(self) -> list[tuple[int, int]]:
        """Spans of offsets in which commands may have to run, without long done stretches.

        The last is open.
        """
        done, spans = self.tables.done, []
        start = done.mark
        for first, end in done.runs():
            if end - first >= self.bounds.stretch:
                spans.append((start, first))
                start = end
        return [*spans, (start, -1)]

    async def _take_behind(self, spans: list[tuple[int, int]], rest: int) -> None:
        """Take the commands in `spans`, which later ones have overtaken, then those from `rest` on."""
        for start, end in spans:
            self.next_command = start
            async for chunk in self.log.read(Topic.COMMANDS, self.partition, start, end):
                for record in chunk:
                    self.deliver(record)
                    if self.state is not _SERVING or self.whereabouts.remote:
                        return  # the delivery ended the epoch, or the partition is handed over
            self._skipped(self.next_command, end)
        self._take_from(rest)

    def stop_taking(self) -> None:
        """Take no further commands in this epoch, neither from the log nor of alarms."""
        self.alarms.end()
        if self.tail is not None:
            self.tail.close()

    def marks(self) -> tuple[int, int]:
        """(low watermark, output watermark) for the batch that is about to be written."""
        return self.output.commands.mark, self.tables.out_at(self.output.journal.mark)

    @property
    def idle(self) -> bool:
        """True if nothing is under way, and commands wait for paused objects only."""
        return self.journal.idle and self.backlog == (self.admin.held if self.tables.admin.paused else 0)

    def check_room(self, key: str, deadline_ms: int | None = None) -> None:
        """Check, before a door appends, that the partition takes a command for object `key`.

        `deadline_ms`: the command's deadline; None: it waits as long as necessary. Raises `Overloaded`,
        `ObjectPaused`, or, if the partition does not serve, its error.
        """
        if self.state is not _SERVING:
            self.whereabouts.check(self)
            return
        if self.tail is not None and self.tail.blocked:
            raise Unavailable(f"{self.tail.blocked}; nothing was appended: ask again")
        activation = self.turns.activations.get(key)
        if activation is not None and activation.mailbox:
            check_mailbox(self, activation, activation.mailbox, deadline_ms)

    @property
    def not_serving(self) -> BaseException:
        """The error with which doors answer for a partition that does not serve."""
        return self.whereabouts.error(self)

    def _has_taken(self, end: int) -> bool:
        """See `Peer`."""
        if self.state in AWAY:
            return True
        return self.state is _SERVING and self.next_command >= end

    # Commands in

    def deliver(self, record: LogRecord) -> None:
        """The next accepted command, from the log's tail."""
        # every command passes here: the usual path is written out
        try:
            offset = record.offset
            if offset != self.next_command:
                self._skipped(self.next_command, offset)
            self.next_command = offset + 1
            if offset < self._first_new and offset in self.tables.done:
                return
            self.backlog += 1
            if self.backlog >= self.bounds.backlog:
                self._pause()
            self.counts.commands += 1
            record = self.time.read(record)
            command: Command | None = record.memo
            if command is None and (command := self.intake.command_in(record)) is None:
                return
            if command.kind == ADMIN:
                self.admin.take(record, command)
            else:
                self.turns.take(record, command)
        except Exception as error:  # noqa: BLE001 - a fault of perdure's own is this partition's, not the log's
            self.lost(error)

    def _skipped(self, first: int, until: int) -> None:
        """Count offsets that hold no record as done, and journal that."""
        for offset in range(first, until):
            if offset not in self.tables.done:
                self.backlog += 1
                self.journal.add_answered(offset)

    def _pause(self) -> None:
        if not self._paused and self.tail is not None:
            self._paused = True
            self.tail.pause()

    # Durable batches

    def _acknowledged(self, batch: JournalBatch, first_offset: int) -> bool:
        try:
            return self._acknowledged_in_order(batch, first_offset)
        except Exception as error:  # noqa: BLE001 - a fault of perdure's own is this partition's, not the log's
            self.lost(error)
            return False

    def _acknowledged_in_order(self, batch: JournalBatch, first_offset: int) -> bool:
        expected = self.tables.reader.offset
        if first_offset == expected:
            self._settle(batch, first_offset)
            return True
        if first_offset < expected:
            self.lost(OutcomeUnknown(f"the journal acknowledged offset {first_offset}, {expected} was due"))
            return False
        self.spawn(self._read_gap(batch, first_offset))
        return False

    async def _read_gap(self, batch: JournalBatch, first_offset: int) -> None:
        """Fold what other owners wrote before our batch: void records change nothing, a claim fences us."""
        fenced = await read_gap(self.log, self.tables, self.output, first_offset)
        if fenced is not None:
            self.lost(fenced)
            return
        self._settle(batch, first_offset)
        self.journal.proceed()

    def _settle(self, batch: JournalBatch, first_offset: int) -> None:
        """The batch is durable and counts: emit its answers, then fold it, in one step of the loop."""
        if failpoints.armed:
            failpoints.hit("owner.before_reply")
        end = first_offset + batch.count
        self._emit(batch, first_offset, end)
        if failpoints.armed:
            failpoints.hit("owner.before_store")
        self.tables.applied(batch.folded, batch.marks, batch.position._replace(offset=end), batch.base)
        if batch.answered:
            for first, count in each_run(batch.answered):
                self.output.commands.add_run(first, count)
                self.backlog -= count
        turn: Any
        for turn in (*batch.completions, *batch.entries):
            if turn.entry is not None and turn.activation is not None:
                turn.activation.acked()
            if turn.command.client_key is not None:
                self.turns.forget_key(turn)
        for barrier in batch.barriers:
            barrier.passed()
        self.backlog -= len(batch.entries) + len(batch.completions)
        if self._paused and self.backlog < self.bounds.backlog // 2 and self.tail is not None:
            self._paused = False
            self.tail.resume()

    def _emit(self, batch: JournalBatch, first_offset: int, end: int) -> None:
        """Emit the output of a batch whose records lie at journal offsets `first_offset` up to `end`.

        On a log that delivers at once, in memory, a turn may run in here: it sees the batch by its
        activation's `in_flight_writes` and by the keys in flight, as all turns do before the fold.
        """
        output = self.output
        for turn in batch.completions:
            assert isinstance(turn, Turn)
            assert turn.reply is not None
            command = turn.command
            output.done(command.reply_to, command.key, command.id, turn.reply, turn.offset, end - 1)
        at = output.entries(batch.folded, first_offset)
        for each in range(at, end):  # the no-op at the batch's end, and a base before it
            output.passed(each)

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.lost(error)
