"""The turns of one partition: which objects are in memory, what runs in them, what it comes to.

Laws
- One turn at a time per object, in log order; a slow object delays only itself.
- A turn ends once: by its handler, at its deadline, or with the reign. What ends a turn is all that is heard of it.
- A client key is in flight from the arrival of its command until what its turn came to is durable. A copy of a call
  from a turn, whose key is in flight, is answered then as the first one was.
- A handler that ignores its cancellation is left behind after `ABANDON_AFTER_S`, and its instance with it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from perdure.objects.state import Overlay, current_turn
from perdure.objects.turn import Outcome, conclude, not_done, too_large_outcome
from perdure.schemas.calls import call_key
from perdure.schemas.commands import Command, parse_command
from perdure.schemas.errors import Expired, KeyConflict, TooLarge
from perdure.schemas.journal import encode_entry
from perdure.schemas.keys import namespace_of
from perdure.streams import failpoints
from perdure.streams.entries import entry_of
from perdure.streams.intake import early_outcome
from perdure.streams.journal import Journal
from perdure.streams.log import LogRecord, Topic
from perdure.streams.mailbox import Resident, Turn, evict_idle
from perdure.streams.owning import Bounds, Counts, Ports
from perdure.streams.stepping import leave_all, run_inline
from perdure.streams.tables import Tables

if TYPE_CHECKING:  # it stands on this file
    from perdure.streams.calls import Calls

Spending = tuple[str, str, str]  # object key, principal, client key
ABANDON_AFTER_S = 1.0  # a handler that ignores its cancellation for so long is left behind


class Turns:
    """Of one partition. `take` is given commands in log order; what they come to goes to the journal."""

    def __init__(
        self,
        ports: Ports,
        tables: Tables,
        bounds: Bounds,
        counts: Counts,
        journal: Journal,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.ports = ports
        self.log = ports.log
        self.tables = tables
        self.bounds = bounds
        self.counts = counts
        self.journal = journal
        self.residents: OrderedDict[str, Resident] = OrderedDict()
        self.keys_in_flight: set[Spending] = set()
        self._joined: dict[Spending, list[Turn]] = {}  # copies of calls that are in flight
        self.calls: Calls | None = None  # set by the owner
        self._spawn = spawn
        self._lock_is_proof = ports.log.ordered and ports.log.exclusive
        self._cancelled: WeakSet[Turn] = WeakSet()  # some of them may ignore it
        self._loop = asyncio.get_running_loop()
        self._turn_context = Context()

    def drop_all(self) -> None:
        """The reign is over: instances and overlays go, nothing that still runs is heard of again."""
        for resident in self.residents.values():
            if (turn := resident.running) is not None:
                self._over(turn)
                self._cancelled.add(turn)
                turn.cancel()
            resident.state.end()
        self._loop.call_later(ABANDON_AFTER_S, leave_all, self._cancelled)
        self.residents.clear()
        self.keys_in_flight.clear()
        self._joined.clear()

    def take(self, record: LogRecord, command: Command) -> None:
        """The next command: it runs now, or waits for those before it in its object's mailbox."""
        if command.client_key is not None:
            spending = (command.key, command.principal, command.client_key)
            if spending in self.keys_in_flight:
                if call_key(command.principal, command.client_key) is not None:
                    self._joined.setdefault(spending, []).append(Turn(record, command, None))
                    return
                told = f"a command with the idempotency key {command.client_key!r} is in flight"
                self.conclude(Turn(record, command, None), not_done(KeyConflict(told)))
                return
            self.keys_in_flight.add(spending)
        resident = self.resident(command.key)
        if resident.running is None and not resident.mailbox:
            self.run(Turn(record, command, resident))
            return
        if resident.mailbox is None:
            resident.mailbox = deque()
        full = len(resident.mailbox) >= self.bounds.mailbox
        resident.mailbox.append(record.offset if full else Turn(record, command, resident))

    def resident(self, key: str) -> Resident:
        residents = self.residents
        resident = residents.get(key)
        if resident is not None:
            residents.move_to_end(key)
            return resident
        kind = self.ports.registry.kinds[namespace_of(key)]
        resident = residents[key] = Resident(key, kind, self.tables, self.bounds.limits)
        resident.calls = self.calls
        if len(residents) > self.bounds.residents:
            evict_idle(residents, resident)
        return resident

    # Running

    def run(self, turn: Turn) -> None:
        command, resident = turn.command, turn.resident
        assert resident is not None
        failpoints.hit("owner.before_turn")
        if early := early_outcome(turn, self.tables, self.ports.clock_ms):
            self.conclude(turn, early)
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
        if turn.calling is not None and turn.calling.failure is not None:
            error = turn.calling.failure
        self.conclude(turn, conclude(turn.command, result, error, overlay))
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
            self.run(turn)

    async def _read_again(self, resident: Resident, offset: int) -> None:
        """A command that waited as its offset only."""
        async for chunk in self.log.read(Topic.COMMANDS, self.tables.partition, offset, offset + 1):
            for record in chunk:
                assert resident.mailbox is not None
                resident.mailbox.popleft()
                command = parse_command(record.key, record.value, record.headers, self.ports.seal)
                self.run(Turn(record, command, resident))

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        """A turn that waits in its object's mailbox is not to run: this is what it comes to, or it has been answered."""
        resident = turn.resident
        assert resident is not None
        assert resident.mailbox is not None
        resident.mailbox.remove(turn)
        turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
        self.conclude(turn, early_outcome(turn, self.tables, self.ports.clock_ms) or outcome)

    # What a turn comes to

    def conclude(self, turn: Turn, outcome: Outcome) -> None:
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
            self.ports.doors.answer(
                command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
            )

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

    def forget_key(self, turn: Turn) -> None:
        command = turn.command
        if command.client_key is not None and turn.resident is not None:  # one without it was told 409
            spending = (command.key, command.principal, command.client_key)
            self.keys_in_flight.discard(spending)
            for copy in self._joined.pop(spending, ()):
                # answered as the first was; if that was not done at all, the next copy is the one that runs
                if early := early_outcome(copy, self.tables, self.ports.clock_ms):
                    self.conclude(copy, early)
                else:
                    self.take(copy.record, copy.command)
