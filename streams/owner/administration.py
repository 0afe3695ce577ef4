"""Administration of one partition: pause, resume, skip, delete, and parked items driven again or dropped.

An operator's act is a command on the log like any other, sealed and of kind ADMIN; the owner passes it here
when it is read.

Laws
- An act is taken when it is read from the log. It does not wait in its object's mailbox, so that a stuck
  object can be dealt with; only a deletion takes its turn there. A deletion of a paused object waits for no
  more than the turn that runs. [test_a_deletion_of_a_paused_object_waits_for_no_more_than_the_turn_that_runs]
- Each act that changes something is an entry of its object; one that has nothing to do is a mere `done`, and
  its reply reports that.
- A paused object has a `Hold` where its turn would run: the running turn ends normally, and none begins after
  it. A row records the pause, so that the next owner of the partition holds the object too.
  [test_a_paused_object_holds_its_commands_over_a_restart_and_one_is_given_up]
- An act names its target. If the target is gone, the act changes nothing else: repeating an act does no harm.
- A view is read by the partition's owner, which confirms that it is; nothing changes. Its request is consumed
  where it lies, so it travels once. [test_views_elsewhere.py]
- A command that is driven again is a new one, sent by the act's entry under a key of its own: it arrives
  once. [test_a_parked_command_is_driven_again_once]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import takewhile
from typing import Any

from msgspec.structs import replace

from perdure.objects.alarms import redriven
from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, not_done
from perdure.schemas.admin import (
    CALLS_OF,
    DELETE,
    DROP,
    OF_ALARM,
    PAUSE,
    REDRIVE,
    RESUME,
    SKIP,
    VIEW,
    Change,
    ParkedItem,
    Place,
    ViewRequest,
    act_of,
    decode_record,
    nothing_parked,
    place_of,
    view_in,
)
from perdure.schemas.calls import PRINCIPAL, SEND_KEY, CallKey
from perdure.schemas.commands import ADMIN, ALARM, NOBODY, Command, parse_admitted, sealed_record
from perdure.schemas.effects import AlarmChange, Out
from perdure.schemas.errors import (
    CallerError,
    FailedInside,
    MalformedCommand,
    NotAtHead,
    PerdureError,
    Skipped,
    TooLarge,
)
from perdure.schemas.replies import FAILED, OK, Reply, error_reply
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.state.tables import Tables
from perdure.streams.turns.activation import Activation, Hold, Turn, is_deletion
from perdure.streams.turns.admission import early_outcome
from perdure.streams.turns.deletion import admin_reply
from perdure.streams.turns.mailbox import Mailbox, again
from perdure.streams.turns.ports import Transport
from perdure.streams.turns.runner import Turns
from perdure.streams.turns.supervision.internal_faults import report

VIEWS_AT_ONCE = 4
Spawn = Callable[[Coroutine[Any, Any, None]], None]


async def _nothing_to_show(request: ViewRequest) -> bytes:
    raise MalformedCommand(f"this node has no administration that could show {request.view[:40]!r}")


class Administration:
    """The acts of administration on one partition. `take` receives their commands as they are read."""

    def __init__(
        self, transport: Transport, tables: Tables, turns: Turns, low_mark: Callable[[], int], spawn: Spawn
    ) -> None:
        self._transport = transport
        self._tables = tables
        self._turns = turns
        self._low_mark = low_mark
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self.show: Callable[[ViewRequest], Awaitable[bytes]] = _nothing_to_show  # the node sets it
        self._views = asyncio.Semaphore(VIEWS_AT_ONCE)
        self._settled = set[int]()  # parked commands, in this epoch: their entries may not be durable yet

    def end(self) -> None:
        """The epoch is over."""
        self._settled.clear()

    @property
    def held(self) -> int:
        """The number of commands that wait for paused objects."""
        waiting = 0
        for key in self._tables.admin.paused:
            activation = self._turns.activations.get(key)
            if activation is not None and type(activation.running) is Hold:
                waiting += len(activation.mailbox or ())
        return waiting

    def take(self, record: LogRecord, command: Command) -> None:
        """Perform a command of administration, or queue it as a turn of its object."""
        if command.method == CALLS_OF:
            self._report_calls(Turn(record, command, None, record.offset))
            return
        if command.method == VIEW:
            until_s = self._turns.time.until_s(command)
            self._spawn(self._answer_view(Turn(record, command, None, record.offset, until_s)))
            return
        activation = self._turns.activation(command.key)
        turn = Turn(record, command, activation, record.offset, self._turns.time.until_s(command))
        try:
            self._take(turn, activation)
        except Exception as error:  # noqa: BLE001 - any fault of perdure's own
            self._turns.internal_faults.failed(turn, error)

    def _report_calls(self, turn: Turn) -> None:
        """Answer another node's question which calls this partition knows of."""
        try:
            assert self._turns.calls is not None
            outcome = Outcome(self._turns.calls.known.answer(turn.command.body), False, False, False)
        except CallerError as error:
            outcome = not_done(error)
        self._turns.conclude(turn, outcome)

    async def _answer_view(self, turn: Turn) -> None:
        """Answer what another node's administration is to show of this partition, a few at a time."""
        async with self._views:
            outcome = early_outcome(turn, self._tables, self._loop.time)
            if outcome is None:
                try:
                    reply = Reply(OK, 200, (), await self.show(view_in(turn.command.body)))
                    outcome = Outcome(reply, False, False, False)
                except PerdureError as error:
                    outcome = not_done(error)
                except Exception as error:  # noqa: BLE001 - any fault of perdure's own
                    report(error, f"a view of partition {self._tables.partition} failed")
                    outcome = not_done(
                        FailedInside("perdure failed inside while it made this view: its log has it")
                    )
        self._turns.conclude(turn, outcome)

    def _take(self, turn: Turn, activation: Activation) -> None:
        act = turn.command.method
        if act == DELETE and type(activation.running) is not Hold:
            if activation.paused:
                assert activation.mailbox is not None
                activation.mailbox.appendleft(turn)  # the next one to run, before the hold
            else:
                self._turns.take(turn.record, turn.command)
            return
        if early := early_outcome(turn, self._tables, self._loop.time):
            self._turns.conclude(turn, early)  # a deletion, or too late
            return
        try:
            if act == PAUSE:
                self._pause(turn, activation)
            elif act == RESUME:
                self._resume(turn, activation)
            elif act == SKIP:
                self._skip(turn, activation)
            elif act in (REDRIVE, DROP):
                self._settle(turn, drop=act == DROP)
            else:
                raise MalformedCommand(f"no act of administration is called {act[:40]!r}")
        except CallerError as error:
            self._turns.conclude(turn, not_done(error))

    def _done(self, turn: Turn, reply: Reply, *changes: Change) -> None:
        """Conclude the act with an entry; its changes of alarms and its sends are in its overlay already."""
        turn.time_ms, turn.changes = turn.record.time_ms, changes
        turn.overlay = turn.overlay or Overlay()
        self._turns.conclude(turn, Outcome(reply, True, True, False))

    # Pause and resume

    def _pause(self, turn: Turn, activation: Activation) -> None:
        reply = admin_reply(paused=activation.key)
        if activation.paused:
            self._turns.conclude(turn, Outcome(reply, False, False, False))
            return
        self._done(turn, reply, Change("paused"))
        hold = Hold.of(activation)
        if activation.running is None:
            activation.running = hold
        elif activation.mailbox:
            # deletions that are next are not held
            first = sum(1 for _ in takewhile(is_deletion, activation.mailbox))
            activation.mailbox.insert(first, hold)
        else:
            activation.mailbox = Mailbox((hold,))

    def _resume(self, turn: Turn, activation: Activation) -> None:
        reply = admin_reply(resumed=activation.key)
        hold = activation.hold
        if hold is None:
            self._turns.conclude(turn, Outcome(reply, False, False, False))
            return
        self._done(turn, reply, Change("resumed"))
        if activation.running is hold:
            self._turns.free(activation)
        else:
            assert activation.mailbox is not None
            activation.mailbox.remove(hold)

    # Giving up a command

    def _skip(self, turn: Turn, activation: Activation) -> None:
        place = place_of(act_of(turn.command.body).at)
        running, reply = activation.running, admin_reply(skipped=f"{self._tables.partition}:{place}")
        if running is not None and type(running) is not Hold:
            if running.offset != place.offset or running.cut is not None:
                raise _not_at_head(activation, place)
            self._give_up_running(running, activation, turn)
            self._done(turn, reply)
            return
        mailbox = activation.mailbox
        head = mailbox[0] if mailbox else None
        if mailbox and isinstance(head, Turn) and head.offset == place.offset:
            mailbox.popleft()
            self._give_up(head, turn)
            self._done(turn, reply)
        elif head == place.offset:
            self._spawn(self._read_and_skip(turn, activation, place, reply))
        else:
            raise _not_at_head(activation, place)

    async def _read_and_skip(self, turn: Turn, activation: Activation, place: Place, reply: Reply) -> None:
        """As `_skip`, for a command of which the mailbox holds the offset only."""
        record = None
        log, offset = self._transport.log, place.offset
        async for chunk in log.read(Topic.COMMANDS, self._tables.partition, offset, offset + 1):
            record = chunk[0]
        mailbox = activation.mailbox
        if record is None or not mailbox or mailbox[0] != offset:
            self._turns.conclude(turn, not_done(_not_at_head(activation, place)))
            return
        mailbox.popleft()
        record, command = again(record, self._turns.time, self._transport.rules)
        until_s = self._turns.time.until_s(command)
        self._give_up(Turn(record, command, activation, offset, until_s), turn)
        self._done(turn, reply)
        if activation.running is None:
            self._turns.free(activation)

    def _give_up_running(self, running: Turn, activation: Activation, act: Turn) -> None:
        if running.overlay is not None:  # it has begun
            self._turns.cut_short(running, _skipped(running.command, act))
            return
        running.over = True  # it is about to begin, or to be tried again
        self._give_up(Turn(running.record, running.command, activation, running.offset, running.until_s), act)
        self._turns.free(activation)

    def _give_up(self, turn: Turn, act: Turn) -> None:
        """Conclude a turn that has not begun as given up."""
        turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
        error = _skipped(turn.command, act)
        outcome = Outcome(error_reply(FAILED, error.code, str(error)), False, True, False)
        if turn.command.kind == ALARM:
            alarm_turns = self._turns.alarm_turns
            outcome = alarm_turns.early(turn) or alarm_turns.parked(turn, outcome)
        elif turn.command.kind != ADMIN:
            outcome = early_outcome(turn, self._tables, self._loop.time) or outcome
        self._turns.conclude(turn, outcome)

    # What is parked

    def _settle(self, turn: Turn, *, drop: bool) -> None:
        place = place_of(act_of(turn.command.body).at)
        parked, key = self._tables.admin.parked(place), turn.command.key
        shown = f"{self._tables.partition}:{place}"
        if parked is None or parked.key != key or self._settled_already(turn, place, parked):
            raise nothing_parked(shown)
        turn.overlay = overlay = Overlay()
        if place.kind == OF_ALARM:
            row = self._tables.alarms.get(key, parked.alarm)
            assert row is not None, f"{key} has a parked alarm {parked.alarm!r} and no row of it"
            now_ms = turn.record.time_ms
            change = AlarmChange(parked.alarm, None) if drop else redriven(parked.alarm, row, now_ms)
            overlay.effect().alarms[parked.alarm] = change
            self._done(turn, _settlement(shown, drop))
            return
        if not drop and not parked.record:
            raise TooLarge(
                f"the command parked at {shown} was too large to be kept: drop it, and send it again"
            )
        self._settled.add(place.offset)
        if not drop:
            overlay.effect().outbox.append(self._sent_again(turn, parked))
        self._done(turn, _settlement(shown, drop), Change("settled", place.offset))

    def _settled_already(self, turn: Turn, place: Place, parked: ParkedItem) -> bool:
        """True if an entry that is not durable yet has settled it."""
        activation = turn.activation
        assert activation is not None
        if place.kind == OF_ALARM:
            row = activation.alarm(parked.alarm)
            return row is None or row.set_at != place.offset
        return place.offset in self._settled

    def _sent_again(self, turn: Turn, parked: ParkedItem) -> Out:
        """The command as a new one.

        No caller waits for it any more, and its key was spent when it was parked.
        """
        old = parse_admitted(*decode_record(parked.record), self._transport.rules)
        partition = self._tables.partition
        command = replace(
            old,
            id=f"{partition}-{turn.record.time_ms:x}-{partition}-r{turn.offset:x}",
            reply_to=NOBODY,
            deadline_ms=None,
            client_key=str(CallKey(SEND_KEY, partition, turn.offset, 1)),
            principal=PRINCIPAL + old.key,
            chain=(),
            mark=self._low_mark(),
        )
        return Out(Topic.COMMANDS.value, partition, *sealed_record(command, self._transport.seal))


def _settlement(shown: str, drop: bool) -> Reply:
    return admin_reply(dropped=shown) if drop else admin_reply(redriven=shown)


def _skipped(command: Command, act: Turn) -> Skipped:
    operator = f" ({act.command.principal})" if act.command.principal else ""
    return Skipped(f"an operator of the app{operator} gave up this command of {command.key}")


def _not_at_head(activation: Activation, place: Place) -> NotAtHead:
    return NotAtHead(
        f"the command at {place} is not at the head of {activation.key} (any more): nothing was given up; "
        "look at the object again"
    )
