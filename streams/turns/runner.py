"""The runner: runs the turns of one partition, one at a time for each object.

The owner calls `take` for each command. It runs at once, or waits in its object's mailbox or in the run
queue. Its handler runs in `inline_task.py`; `conclude` gives its outcome to the journal.

Laws [test_turn.py, test_owner.py]
- One turn at a time for each object, in log order. A slow or busy object delays no other (run_queue.py).
- A turn ends once: with its handler, at its deadline, or with the epoch. What happens after that is ignored.
- A handler that ignores its cancellation is abandoned after `ABANDON_AFTER_S`, and its instance with it.
- A turn that was cut short (by its deadline, or by the watchdog) commits nothing, whatever it returned.
- A command in which the process died `bounds.charges` times is parked, not run. After such a death, alarms
  and calls run only once they are durable, so that a crash can be counted. [test_crash_marker.py]
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from perdure.objects.location import note_hint
from perdure.objects.outgoing import outside
from perdure.objects.overlay import Overlay, current_turn
from perdure.objects.turn import Outcome, conclude, given_up, not_done, sender_never_retries
from perdure.schemas.commands import ADMIN, ALARM, Command
from perdure.schemas.errors import Expired, PerdureError, Runaway, Unavailable
from perdure.schemas.keys import namespace_of
from perdure.schemas.replies import FAILED, OK, UNAVAILABLE
from perdure.schemas.sockets import GONE
from perdure.streams import failpoints
from perdure.streams.journal.writer import Journal
from perdure.streams.log.base import LogRecord
from perdure.streams.log.log_time import LogTime
from perdure.streams.state.tables import Tables
from perdure.streams.turns.activation import Activation, Hold, Turn
from perdure.streams.turns.admission import early_outcome
from perdure.streams.turns.alarm_turns import AlarmTurns
from perdure.streams.turns.commit import Committer, note_forward
from perdure.streams.turns.eviction import oldest_idle
from perdure.streams.turns.inline_task import abandon_all, run_inline
from perdure.streams.turns.keys_in_flight import KeysInFlight
from perdure.streams.turns.mailbox import Mailbox, read_waiting
from perdure.streams.turns.parking import parking
from perdure.streams.turns.ports import Counts, PartitionBounds, Transport, TurnServices
from perdure.streams.turns.reruns import Reruns
from perdure.streams.turns.run_queue import LOOKS_AFTER_S, SLICE_S
from perdure.streams.turns.socket_events import SocketEvents, is_from_ended_gateway
from perdure.streams.turns.supervision.crash_marker import word_of
from perdure.streams.turns.supervision.failure_log import FailureLog
from perdure.streams.turns.supervision.internal_faults import InternalFaults
from perdure.streams.turns.supervision.unawaited import error_of_cut

if TYPE_CHECKING:  # it imports this file
    from perdure.streams.turns.calls import Calls

TRIES = 6  # more, of a command that its sender does not repeat, while it cannot be completed
FIRST_TRY_AGAIN_S = 0.5  # doubling
ABANDON_AFTER_S = 1.0  # a handler that ignores its cancellation for so long is left behind


class Turns:
    """Runs the commands of one partition. `take` receives them in log order; outcomes go to the journal.

    services, transport: what all turns of the node share.
    tables, journal, bounds, counts: of the partition.
    spawn: starts a task that ends with the epoch.
    alarm_turns, time: what decides of alarms, and the partition's log time.
    """

    def __init__(
        self,
        services: TurnServices,
        transport: Transport,
        tables: Tables,
        bounds: PartitionBounds,
        counts: Counts,
        journal: Journal,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        alarm_turns: AlarmTurns,
        time: LogTime,
    ) -> None:
        self.transport = transport
        self.log = log = transport.log
        self._types, self._env = services.registry.types, services.registry.env
        self._object_quotas, self._tracing = services.object_quotas, services.tracing
        self._answer, self._queue = transport.ingress.answer, services.run_queue
        self._clock = self._queue.clock
        self.tables = tables
        self.bounds, self.counts = bounds, counts
        self.journal, self.alarm_turns, self.time = journal, alarm_turns, time
        self.activations: OrderedDict[str, Activation] = OrderedDict()
        self.resident_bytes = 0  # estimated
        self._loop = asyncio.get_running_loop()
        self.keys_in_flight = KeysInFlight(tables, self.conclude, self._loop.time)
        self.calls: Calls | None = None  # set by the owner
        self.reruns = Reruns(transport, tables, spawn)
        self.socket_events = SocketEvents(transport, tables.partition)
        self._spawn = spawn
        self._lock_is_proof = log.ordered and log.exclusive
        self._after_crash = services.after_crash and self._lock_is_proof
        self._cancelled: WeakSet[Turn] = WeakSet()  # some of them may ignore it
        self.charged: Mapping[int, int] = {}  # command offset -> how often the process died while it ran
        self._word = word_of(tables.partition, 0)
        self._failures = FailureLog(self._loop.time)
        committing = bounds.entry_bytes, alarm_turns, self._failures, self.instance_gone
        self._committer = Committer(self._object_quotas, *committing)
        self.internal_faults = InternalFaults(self)
        self._turn_context = Context()
        if services.outside is not None:
            self._turn_context.run(outside.set, services.outside)

    def drop_all(self) -> None:
        """Drop all instances and overlays: the epoch is over. What still runs has no effect any more."""
        for activation in self.activations.values():
            if (turn := activation.running) is not None:
                self._over(turn)
                self._cancelled.add(turn)
                turn.cancel()
                if turn.calling is not None and turn.calling.proof is not None:
                    turn.calling.proof.cancel()  # Tasks of the handler may wait for it
            activation.state.end()
        self._loop.call_later(ABANDON_AFTER_S, abandon_all, self._cancelled)
        self.socket_events.end()
        self.activations.clear()
        self.keys_in_flight.clear()

    def take(self, record: LogRecord, command: Command) -> None:
        """Take the next command: it runs now, or waits behind earlier ones in its object's mailbox."""
        fresh = record.memo is not None and self._lock_is_proof  # it was appended in this pass
        ms = command.deadline_ms
        until_s = self._loop.time() + ms / 1000 if fresh and ms is not None else self.time.until_s(command)
        turn = Turn(record, command, None, record.offset, until_s)
        try:
            keyed = command.client_key is not None
            if keyed and self.keys_in_flight.is_copy(turn):
                return
            if keyed and record.offset < self.reruns.backlog_end:
                self.reruns.prefetch(turn)
            activation = turn.activation = self.activation(command.key)
            if activation.running is None and not activation.mailbox:
                if keyed:
                    self.keys_in_flight.enter(command, turn)
                queue, clock = self._queue, self._clock
                if queue.spent_s >= SLICE_S:
                    self._run_soon(turn, activation)
                    return
                began_s = clock()
                self.run(turn, fresh and not keyed)
                queue.spent_s += clock() - began_s
                if queue.spent_s >= LOOKS_AFTER_S:
                    queue.look()
                return
            if activation.mailbox is None:
                activation.mailbox = Mailbox()
            waiting = turn if len(activation.mailbox) < self.bounds.mailbox else record.offset
            if keyed:
                self.keys_in_flight.enter(command, waiting)
            activation.mailbox.append(waiting)
        except Exception as error:  # noqa: BLE001 - any fault of perdure's own
            self.internal_faults.failed(turn, error)

    def activation(self, key: str) -> Activation:
        activations = self.activations
        activation = activations.get(key)
        if activation is not None:
            activations.move_to_end(key)
            return activation
        kind = self._types[namespace_of(key)]
        activation = activations[key] = Activation(key, kind, self.tables, self.bounds.limits)
        activation.calls = self.calls
        if key in self.tables.admin.paused:
            activation.running = Hold.of(activation)
        if len(activations) > self.bounds.activations:
            idle = oldest_idle(activations, activation)
            if idle is not None:
                self.evict(idle)
        return activation

    def evict(self, activation: Activation) -> None:
        """Remove an idle object from memory; its next command activates it again."""
        assert activation.idle, f"{activation.key} is at work"
        del self.activations[activation.key]
        self.instance_gone(activation)
        self.counts.evictions += 1

    # Running

    def run(self, turn: Turn, fresh: bool = False) -> None:
        """Run a turn. `fresh`: its command has just been appended, and has no key."""
        command, activation = turn.command, turn.activation
        assert activation is not None
        if failpoints.armed:
            failpoints.hit("owner.before_turn")
        alarm = command.kind == ALARM
        early = self.alarm_turns.early(turn) if alarm else None
        if not alarm and (not fresh or command.kind == ADMIN):
            early = early_outcome(turn, self.tables, self._loop.time, self.keys_in_flight.outcome_of_first)
        if command.socket and not early and is_from_ended_gateway(self.transport, command):
            early = not_done(Unavailable("the gateway that asked for this WebSocket has ended"))
        if early:
            self.conclude(turn, early)
            self._next(activation)
            return
        if self.charged and self.charged.get(turn.offset, 0) >= self.bounds.charges:
            self.counts.parked += 1
            self.conclude(turn, parking(turn, self.charged[turn.offset], self.alarm_turns))
            self._next(activation)
            return
        activation.running = turn
        if self._after_crash and not turn.on_log and sender_never_retries(command):
            turn.on_log = True
            self.journal.add_barrier(lambda: self._run_if_current(turn))
            return
        turn.time_ms = turn.record.time_ms
        turn.overlay = overlay = Overlay()
        activation.state.begin(turn, overlay, turn.time_ms)
        if self._tracing is not None:
            self._tracing.began(turn)
            command = turn.command
        context = self._turn_context.copy()  # one for each: its Tasks may outlive it
        context.run(current_turn.set, turn)
        handler = (
            self.alarm_turns.handler(turn, self._env) if alarm else activation.handler(command, self._env)
        )
        run_inline(self._loop, context, handler, turn, self._ended, self._word + turn.offset)
        if not turn.over and turn.task is not None and turn.until_s is not None:
            turn.timer = self._loop.call_at(turn.until_s, self._expire, turn)

    def _expire(self, turn: Turn) -> None:
        deadline, key = f"its deadline of {turn.command.deadline_ms} ms", turn.command.key
        self.cut_short(turn, Expired(f"{deadline} passed while {key} worked on it: rolled back"))

    def cut_short(self, turn: Turn, error: PerdureError) -> None:
        """End a running turn from outside, with this error."""
        if turn.timer is not None:
            turn.timer.cancel()  # type: ignore[attr-defined]  # as in `_over`
        turn.cut = error
        self._cancelled.add(turn)
        turn.cancel()
        turn.timer = self._loop.call_later(ABANDON_AFTER_S, self._ended, turn, None, asyncio.CancelledError())

    def _over(self, turn: Turn) -> None:
        turn.over = True
        if turn.timer is not None:
            turn.timer.cancel()  # type: ignore[attr-defined]  # a TimerHandle, which uvloop types as its own
            turn.timer = None

    def _ended(self, turn: Turn, result: Any, error: BaseException | None, compared: bool = False) -> None:
        """Its handler has ended. `compared`: with the calls of an earlier run, if there may have been one."""
        if turn.over:  # of an epoch that is over, or abandoned
            return
        try:
            again = turn.offset < self.reruns.backlog_end or turn.again or turn.tries
            if again and not compared and self.reruns.must_compare(turn, error):
                self._spawn(
                    self.reruns.compare(turn, result, error, self._ended, self.internal_faults.failed)
                )
                return
            turn.over = True
            if turn.timer is not None:
                self._over(turn)
            command, activation, overlay = turn.command, turn.activation, turn.overlay
            assert activation is not None
            assert overlay is not None
            activation.state.end()
            activation.running = None
            if turn.cut is not None:
                self.counts.runaways += type(turn.cut) is Runaway
                error = error_of_cut(turn.cut, error)
            if command.hint and error is None:
                note_hint(command.hint, activation, overlay)
            outcome = conclude(command, result, error, overlay)
            if outcome.reply.outcome == FAILED:
                self._failures.failed(turn, error or outcome.reply)
            if self._object_quotas is not None:
                outcome = self._object_quotas.check_quota(turn, outcome)
            if self._tracing is not None:
                self._tracing.ended(turn, outcome)
            if command.kind == ALARM:
                outcome = self.alarm_turns.concluded(turn, outcome)
            elif outcome.reply.outcome == UNAVAILABLE and sender_never_retries(command):
                if turn.tries < TRIES:
                    self._run_later(turn, activation)
                    return
                outcome = given_up(outcome)
            self.conclude(turn, outcome)
            if activation.mailbox is not None:
                self._next(activation)
        except Exception as fault:  # noqa: BLE001 - any fault of perdure's own
            self.internal_faults.failed(turn, fault)

    def _run_later(self, turn: Turn, activation: Activation) -> None:
        """Repeat a turn whose sender would not; the other commands of its object wait behind it."""
        self.instance_gone(activation)
        rerun = Turn(turn.record, turn.command, activation, turn.offset, turn.until_s, tries=turn.tries + 1)
        activation.running = rerun
        self._loop.call_later(FIRST_TRY_AGAIN_S * 2**turn.tries, self._run_if_current, rerun)

    def _next(self, activation: Activation) -> None:
        mailbox = activation.mailbox
        if not mailbox:
            activation.mailbox = None
            return
        mailbox.moved(self._queue.clock())
        waiting = mailbox[0]
        if isinstance(waiting, int):  # it stays at the head until it has been read: nothing overtakes it
            place, keys = self.tables.partition, self.keys_in_flight
            self._spawn(
                read_waiting(self.transport, place, activation, waiting, self.time, keys, self._run_soon)
            )
            return
        mailbox.popleft()
        self._run_soon(waiting, activation)

    def _run_soon(self, turn: Turn, activation: Activation) -> None:
        activation.running = turn  # what arrives meanwhile queues behind it
        self._queue.put(self._run_if_current, turn)

    def free(self, activation: Activation) -> None:
        """Let the next turn begin: nothing runs in the object, though no turn has ended normally."""
        activation.running = None
        self._next(activation)

    def _run_if_current(self, turn: Turn) -> None:
        activation = turn.activation
        assert activation is not None
        if not turn.over and self.activations.get(activation.key) is activation:
            activation.running = None
            try:
                self.run(turn)
            except Exception as error:  # noqa: BLE001 - any fault of perdure's own
                self.internal_faults.failed(turn, error)

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        """Take a waiting turn out of its mailbox and conclude it, with its early outcome if it has one."""
        activation = turn.activation
        assert activation is not None
        assert activation.mailbox is not None
        activation.mailbox.remove(turn)
        turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
        self.conclude(turn, early_outcome(turn, self.tables, self._loop.time) or outcome)

    # Outcomes

    def conclude(self, turn: Turn, outcome: Outcome) -> None:
        command, activation = turn.command, turn.activation
        if command.client_key is not None and not outcome.entry and activation is not None:
            outcome = self.reruns.kept(turn, outcome)
        if outcome.drop_instance:
            self.instance_gone(activation)
        if outcome.entry:
            self._committer.entry(turn, outcome)
            turn.concluded = True
            self.counts.entries += 1
            self.journal.add(turn)
            if command.client_key is not None:
                self.keys_in_flight.answer_copies(turn)
            return
        self.counts.dones += 1
        turn.concluded = True
        if (
            self._lock_is_proof
            and (activation is None or not activation.in_flight_writes)
            and command.client_key is None
            and not command.forwarded
            and outcome.reply.outcome == OK  # a command that was not done may still run, if this epoch breaks
            and self.log.shares_write(turn.record)
        ):
            self.journal.add_answered(turn.offset)
            answer = self._answer  # in two steps: a call of an attribute that is not a method is slow
            answer(command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset)
        else:
            turn.reply = outcome.reply
            if command.forwarded:
                note_forward(turn, outcome.reply)
            self.journal.add(turn)
            if command.client_key is not None and activation is not None:
                self.keys_in_flight.answer_copies(turn)

    def instance_gone(self, activation: Activation | None) -> None:
        """Drop an instance after an eviction or a failure, and close the sockets that it listened to."""
        if activation is not None:
            activation.instance = None
            for id_ in activation.state.instance_gone():
                self.socket_events.notify(activation.key, id_, GONE)

    def forget_key(self, turn: Turn) -> None:
        """Free the key of a turn whose outcome is durable."""
        if turn.activation is not None:  # one without it was answered with 409
            self.keys_in_flight.forget(turn)
