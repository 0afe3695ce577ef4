"""The owner of one partition: runs its commands, journals what they did, lets out their answers.

States: new -> beginning -> serving -> beginning (re-claim) | fenced | stopped. One way to begin owning
(streams/beginning.py), from a start, a take-over and an unknown outcome alike.

Laws
- Each command below the watermark of the tables is done; none of those runs again.
- A turn that has ended leaves a trace (an entry or a done offset) in the journal, and its answer leaves when the
  trace is durable under this owner's epoch. Where the log is ordered and the lock is proof, a done that shares
  its command's write need not wait: both survive or neither does.
- Fenced or unsure, an owner drops every instance and overlay and answers nothing more.
- One partition's failure stops that partition and is named; the others go on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Coroutine
from contextvars import Context
from typing import Any
from weakref import WeakSet

from perdure.objects.state import Overlay, current_turn
from perdure.objects.turn import Outcome, conclude, not_done, too_large_outcome
from perdure.schemas.commands import Command, parse_command
from perdure.schemas.errors import (
    CallerError,
    Expired,
    KeyConflict,
    OutcomeUnknown,
    Overloaded,
    TooLarge,
    Unavailable,
)
from perdure.schemas.journal import encode_entry
from perdure.schemas.keys import namespace_of
from perdure.streams import failpoints
from perdure.streams.entries import dead_letter, entry_of
from perdure.streams.gap import read_gap
from perdure.streams.intake import admitted, early_outcome
from perdure.streams.journal import Batch, Journal
from perdure.streams.log import LogRecord, Tail, Topic
from perdure.streams.mailbox import NO_COMMAND, Resident, Turn, evict_idle
from perdure.streams.owning import Bounds, Counts, OwnerState, Ports
from perdure.streams.release import Release
from perdure.streams.stepping import leave_all, run_inline
from perdure.streams.tables import Tables

ABANDON_AFTER_S = 1.0  # a handler that ignores its cancellation for so long is left behind


class Owner:
    """One partition. `deliver` takes commands from the log's tail; `state`, `error` and `counts` tell."""

    def __init__(self, ports: Ports, tables: Tables, bounds: Bounds | None = None) -> None:
        self.ports = ports
        self.log = ports.log
        self.tables = tables
        self.partition = tables.partition
        self.bounds = bounds or Bounds()
        self.counts = Counts()
        self.state = OwnerState.NEW
        self.error: BaseException | None = None
        self.release = Release(ports.log, ports.doors, self.partition)
        self.journal = Journal(ports.log, self.partition, self, self._settled, self.lost)
        self.restart: asyncio.Event = asyncio.Event()
        self.residents: OrderedDict[str, Resident] = OrderedDict()
        self.keys_in_flight: set[tuple[str, str, str]] = set()
        self.tail: Tail | None = None
        self.next_command = 0
        self.undone = 0
        self._paused = False
        self._lock_is_proof = ports.log.ordered and ports.log.exclusive
        self._tasks: set[asyncio.Task[None]] = set()  # re-reads and gap checks; cancelled when the reign ends
        self._cancelled: WeakSet[Turn] = WeakSet()  # some of them may ignore it
        self._loop = asyncio.get_running_loop()
        self._turn_context = Context()

    # The reign

    def end_reign(self) -> None:
        """Drop everything computed under the epoch so far: instances, overlays, what waits to be appended."""
        if self.tail is not None:
            self.tail.close()
            self.tail = None
        self.journal.close()
        for resident in self.residents.values():
            if (turn := resident.running) is not None:
                self._over(turn)
                self._cancelled.add(turn)
                turn.cancel()
            resident.state.end()
        self._loop.call_later(ABANDON_AFTER_S, leave_all, self._cancelled)
        self.residents.clear()
        self.keys_in_flight.clear()
        self.undone, self._paused = 0, False
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    def lost(self, error: BaseException) -> None:
        """An append's outcome is unknown, or the reign is over: begin again (or stop, if it says so)."""
        if self.state is not OwnerState.SERVING:
            return
        self.state = OwnerState.BEGINNING
        self.error = error
        self.end_reign()
        self.restart.set()

    def serve(self) -> None:
        """The claim was read back and all before it folded: take commands from the watermark on."""
        self.state, self.error = OwnerState.SERVING, None
        self.next_command = self.tables.done.mark
        self.tail = self.log.tail(Topic.COMMANDS, self.partition, self.next_command, self.deliver)

    def marks(self) -> tuple[int, int]:
        """(low mark, out mark) for the batch that is about to be written."""
        return self.release.commands.mark, self.tables.out_at(self.release.journal.mark)

    @property
    def idle(self) -> bool:
        return self.undone == 0 and self.journal.idle

    def check_room(self, key: str) -> None:
        """For doors, before they append. Raises `Overloaded` or, if the partition does not serve, its error."""
        if self.state is not OwnerState.SERVING:
            if self.state in (OwnerState.STOPPED, OwnerState.FENCED) and self.error is not None:
                raise self.error
            raise Unavailable(f"partition {self.partition} is {self.state}: ask again")
        resident = self.residents.get(key)
        if resident is not None and resident.mailbox and len(resident.mailbox) >= self.bounds.mailbox:
            raise Overloaded(f"{key} has {len(resident.mailbox)} commands waiting: ask again later")

    # Commands in

    def deliver(self, record: LogRecord) -> None:
        """The next accepted command, from the log's tail."""
        offset = record.offset
        if offset != self.next_command:
            self._skipped(self.next_command, offset)
        self.next_command = offset + 1
        if offset in self.tables.done:
            return
        self.undone += 1
        if self.undone >= self.bounds.undone:
            self._pause()
        self.counts.commands += 1
        command: Command | None = record.memo
        if command is None:
            try:
                command = admitted(record, self.partition, self.log.partitions, self.ports.registry)
            except CallerError as error:
                self._dead(record, error)
                return
        if command.client_key is not None:
            spending = (command.key, command.principal, command.client_key)
            if spending in self.keys_in_flight:
                told = f"a command with the idempotency key {command.client_key!r} is in flight"
                self._conclude(Turn(record, command, None, offset), not_done(KeyConflict(told)))
                return
            self.keys_in_flight.add(spending)
        resident = self._resident(command.key)
        if resident.running is None and not resident.mailbox:
            self._run(Turn(record, command, resident, offset))
            return
        if resident.mailbox is None:
            resident.mailbox = deque()
        full = len(resident.mailbox) >= self.bounds.mailbox
        resident.mailbox.append(offset if full else Turn(record, command, resident, offset))

    def _skipped(self, first: int, until: int) -> None:
        """Offsets the log has no record for count as done; that is journaled too."""
        for offset in range(first, until):
            if offset not in self.tables.done:
                self.undone += 1
                turn = Turn(LogRecord(offset, 0, None, None), NO_COMMAND, None, offset)
                turn.answered = True
                self.journal.add(turn, urgent=False)

    def _dead(self, record: LogRecord, error: CallerError) -> None:
        """A record that is no command: an error reply, a dead letter, and the partition goes on."""
        self.counts.dead += 1
        turn = Turn(record, NO_COMMAND, None, record.offset)
        turn.entry = dead_letter(record, error, self.partition)
        turn.encoded = encode_entry(turn.entry)
        self.journal.add(turn, urgent=True)

    def _pause(self) -> None:
        if not self._paused and self.tail is not None:
            self._paused = True
            self.tail.pause()

    def _resident(self, key: str) -> Resident:
        residents = self.residents
        resident = residents.get(key)
        if resident is not None:
            residents.move_to_end(key)
            return resident
        kind = self.ports.registry.kinds[namespace_of(key)]
        resident = residents[key] = Resident(key, kind, self.tables, self.bounds.limits)
        if len(residents) > self.bounds.residents:
            evict_idle(residents, resident)
        return resident

    # Turns

    def _run(self, turn: Turn) -> None:
        command, resident = turn.command, turn.resident
        assert resident is not None
        failpoints.hit("owner.before_turn")
        if early := early_outcome(turn, self.tables, self.ports.clock_ms):
            self._conclude(turn, early)
            self._next(resident)
            return
        resident.running = turn
        turn.time_ms = turn.record.time_ms
        turn.overlay = overlay = Overlay()
        resident.state.begin(turn, overlay, turn.time_ms)
        context = self._turn_context.copy()
        context.run(current_turn.set, turn)
        run_inline(self._loop, context, resident.handler(command, self.ports.registry.env), turn, self._ended)
        if not turn.over and turn.task is not None and command.deadline_ms is not None:
            left_ms = turn.record.time_ms + command.deadline_ms - self.ports.clock_ms()
            turn.timer = self._loop.call_later(max(left_ms, 0) / 1000, self._expire, turn)

    def _expire(self, turn: Turn) -> None:
        turn.expired = True
        self._cancelled.add(turn)
        turn.cancel()
        turn.timer = self._loop.call_later(ABANDON_AFTER_S, self._ended, turn, None, asyncio.CancelledError())

    def _over(self, turn: Turn) -> None:
        turn.over = True
        if turn.timer is not None:
            turn.timer.cancel()  # type: ignore[attr-defined]  # a TimerHandle, which uvloop types as its own
            turn.timer = None

    def _ended(self, turn: Turn, result: Any, error: BaseException | None) -> None:
        if turn.over:
            return  # of a reign that is over, or left behind
        self._over(turn)
        resident, overlay = turn.resident, turn.overlay
        assert resident is not None
        assert overlay is not None
        resident.state.end()
        resident.running = None
        if turn.expired:
            told = (
                f"its deadline of {turn.command.deadline_ms} ms passed while {turn.command.key} worked on it"
            )
            error = Expired(f"{told}: rolled back")
        self._conclude(turn, conclude(turn.command, result, error, overlay))
        self._next(resident)

    def _next(self, resident: Resident) -> None:
        mailbox = resident.mailbox
        if not mailbox:
            resident.mailbox = None
            return
        waiting = mailbox[0]
        if isinstance(waiting, int):
            # it stays at the head until it has been read, so that nothing overtakes it
            self._spawn(self._read_again(resident, waiting))
            return
        mailbox.popleft()
        resident.running = waiting  # so that a command that arrives meanwhile queues behind it
        # a fresh callback, so that a long mailbox cannot grow the stack
        self._loop.call_soon(self._run_if_reigning, waiting)

    def _run_if_reigning(self, turn: Turn) -> None:
        resident = turn.resident
        assert resident is not None
        if not turn.over and self.residents.get(resident.key) is resident:
            resident.running = None
            self._run(turn)

    async def _read_again(self, resident: Resident, offset: int) -> None:
        """A command that waited as its offset only."""
        async for chunk in self.log.read(Topic.COMMANDS, self.partition, offset, offset + 1):
            for record in chunk:
                assert resident.mailbox is not None
                resident.mailbox.popleft()
                command = parse_command(record.key, record.value, record.headers)
                self._run(Turn(record, command, resident, offset))

    # What a turn comes to

    def _conclude(self, turn: Turn, outcome: Outcome) -> None:
        command, resident = turn.command, turn.resident
        if outcome.drop_instance and resident is not None:
            resident.instance = None
        if outcome.entry:
            assert resident is not None
            if not self._make_entry(turn, outcome):
                resident.instance = None
            resident.unsettled += 1
            self.counts.entries += 1
            self.journal.add(turn, urgent=True)
            return
        turn.reply = outcome.reply
        self.counts.dones += 1
        settled = resident is None or not resident.unsettled
        at_once = (
            self._lock_is_proof
            and settled
            and command.client_key is None
            and self.log.shares_write(turn.record)
        )
        self.journal.add(turn, urgent=not at_once)
        if at_once:
            turn.answered = True
            self.ports.doors.answer(command.reply_to, command.id, outcome.reply, self.partition, turn.offset)

    def _make_entry(self, turn: Turn, outcome: Outcome) -> bool:
        """Set the turn's entry and commit its overlay; False if it was too large and became a failure."""
        overlay, resident = turn.overlay, turn.resident
        assert overlay is not None
        assert resident is not None
        commit = outcome.commit and not overlay.empty
        entry = turn.entry = entry_of(turn, outcome, overlay if commit else None)
        turn.encoded = encode_entry(entry)
        fits = len(turn.encoded) <= self.bounds.entry_bytes
        if not fits:
            told = f"the turn's journal entry has {len(turn.encoded)} bytes, over {self.bounds.entry_bytes}"
            turn.entry = entry_of(turn, too_large_outcome(turn.command, TooLarge(told)), None)
            turn.encoded = encode_entry(turn.entry)
        elif commit:
            resident.commit(overlay)
        turn.overlay = None
        return fits

    # What became of a batch

    def _settled(self, batch: Batch, first_offset: int) -> bool:
        expected = self.tables.reader.offset
        if first_offset == expected:
            self._settle(batch, first_offset)
            return True
        if first_offset < expected:
            self.lost(OutcomeUnknown(f"the journal acknowledged offset {first_offset}, {expected} was due"))
            return False
        self._spawn(self._read_gap(batch, first_offset))
        return False

    async def _read_gap(self, batch: Batch, first_offset: int) -> None:
        """Somebody wrote in between: void records are a predecessor's last breath, a claim fences us."""
        fenced = await read_gap(self.log, self.tables, self.release, first_offset)
        if fenced is not None:
            self.lost(fenced)
            return
        self._settle(batch, first_offset)
        self.journal.proceed()

    def _settle(self, batch: Batch, first_offset: int) -> None:
        """The batch is durable and counts: fold it, let out its answers."""
        failpoints.hit("owner.before_store")
        tables, release = self.tables, self.release
        offset = first_offset + batch.count
        tables.applied(batch.folded, batch.marks, batch.position._replace(offset=offset))
        failpoints.hit("owner.before_reply")
        for turn in batch.dones:
            assert isinstance(turn, Turn)
            self._forget_key(turn)
            if turn.answered:
                release.commands.add(turn.offset)
            else:
                command = turn.command
                assert turn.reply is not None
                release.done(command.reply_to, command.key, command.id, turn.reply, turn.offset, offset - 1)
        at = first_offset
        for turn in batch.entries:
            assert isinstance(turn, Turn)
            assert turn.entry is not None
            if turn.resident is not None:
                turn.resident.settled()
            self._forget_key(turn)
            release.entry(turn.entry, at)
            at += 1
        if at < offset:
            release.passed(at)  # the no-op at the batch's end
        self.undone -= len(batch.entries) + len(batch.dones)
        if self._paused and self.undone < self.bounds.undone // 2 and self.tail is not None:
            self._paused = False
            self.tail.resume()

    def _forget_key(self, turn: Turn) -> None:
        command = turn.command
        if command.client_key is not None and turn.resident is not None:  # one without it was told 409
            self.keys_in_flight.discard((command.key, command.principal, command.client_key))

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.lost(error)
