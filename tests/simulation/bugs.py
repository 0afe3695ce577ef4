"""Bugs, put in on purpose: a suite is trusted only once its random runs have caught them.

Each is a context manager that makes one promise untrue, in the product's own code,
for as long as it is entered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import ANY

from msgspec.structs import replace

from perdure.api.sockets.registry import SocketRegistry
from perdure.objects import expiry_sweep
from perdure.objects import state as state_module
from perdure.objects.rpc import Method
from perdure.objects.state import State
from perdure.objects.turn import Outcome
from perdure.schemas.calls import CallKey, Root
from perdure.schemas.commands import ALARM, parse_admitted
from perdure.schemas.journal import NO_LINK, Claim, Entry, EntryRecord, NoOp
from perdure.schemas.replies import FAILED
from perdure.schemas.sockets import FRAME_KIND
from perdure.streams.journal import writer as writer_module
from perdure.streams.journal.reader import JournalReader, Position
from perdure.streams.journal.writer import Journal, JournalBatch
from perdure.streams.log.base import Topic
from perdure.streams.log.log_time import LogTime
from perdure.streams.owner import owner as owner_module
from perdure.streams.owner import recovery
from perdure.streams.owner.alarm_clock import AlarmClock
from perdure.streams.owner.forwarding import Forwarding
from perdure.streams.owner.output import OutputGate
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.state.alarm_rows import AlarmRows
from perdure.streams.state.link_rows import LinkRows
from perdure.streams.state.object_scan import objects_of
from perdure.streams.state.tables import Tables
from perdure.streams.transfer import import_objects
from perdure.streams.transfer.export_objects import ForeignObjects
from perdure.streams.turns import admission, alarm_turns, commit, runner
from perdure.streams.turns import calls as calls_module
from perdure.streams.turns.activation import Activation, Turn
from perdure.streams.turns.alarm_turns import AlarmTurns
from perdure.streams.turns.keys_in_flight import KeysInFlight
from perdure.streams.turns.reruns import Reruns
from perdure.streams.turns.run_queue import RunQueue
from perdure.streams.turns.runner import Turns
from perdure.streams.turns.socket_events import SocketEvents
from perdure.streams.turns.supervision.internal_faults import InternalFaults


@contextmanager
def _instead(place: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    true = getattr(place, name)
    setattr(place, name, made(true))
    try:
        yield
    finally:
        setattr(place, name, true)


def no_dedupe_on_replay() -> Any:
    """An owner that begins takes commands from the watermark on, and runs those done above it again."""

    def serve(true: Callable[[Owner], None]) -> Callable[[Owner], None]:
        def forgetful(self: Owner) -> None:
            self.tables.done.words.clear()
            true(self)

        return forgetful

    return _instead(Owner, "serve", serve)


def one_too_many_passed_over() -> Any:
    """A start that passes over a stretch of done commands passes over the command behind it too."""

    def not_done(true: Callable[[Owner], list[tuple[int, int]]]) -> Callable[[Owner], list[tuple[int, int]]]:
        def too_far(self: Owner) -> list[tuple[int, int]]:
            first, *others = true(self)
            return [first, *((start + 1, end) for start, end in others)]

        return too_far

    return _instead(Owner, "_not_done", not_done)


def offset_outside_the_batch() -> Any:
    """The applied offset is written on its own, before the rows that it stands for."""

    def write_memtable(true: Callable[[Tables], bool]) -> Callable[[Tables], bool]:
        def torn(self: Tables) -> bool:
            if self.memtables.frozen:
                memtable = self.memtables.frozen[0]
                self.store.write((), memtable.closing)
                memtable.closing = []
            return true(self)

        return torn

    return _instead(Tables, "write_memtable", write_memtable)


def reply_before_durability() -> Any:
    """A turn's answer leaves when its entry is handed to the journal."""

    def conclude(true: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: Turns, turn: Turn, outcome: Outcome) -> None:
            true(self, turn, outcome)
            if outcome.entry and outcome.reply.outcome != FAILED:
                command = turn.command
                self.transport.ingress.answer(
                    command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
                )

        return hasty

    return _instead(Turns, "conclude", conclude)


def fence_ignored() -> Any:
    """A claim in the gap before an owner's batch does not stop it: it goes on, and answers."""

    def read_gap(true: Callable[..., Any]) -> Callable[..., Any]:
        async def blind(*given: Any) -> None:
            await true(*given)

        return blind

    return _instead(owner_module, "read_gap", read_gap)


def claimed_again_by_itself() -> Any:
    """An owner that is unsure claims again behind whatever it finds, also behind a rival's claim."""

    def see_rivals(true: Callable[..., Any]) -> Callable[..., Any]:
        async def careless(owner: Owner) -> None:
            owner.follows = None
            await true(owner)

        return careless

    return _instead(recovery, "_see_rivals", see_rivals)


def claim_that_follows_nothing() -> Any:
    """A claim counts wherever it lands, also behind one that its node has not seen."""

    def claim(true: Any) -> Callable[..., Claim]:
        return lambda uuid, node, host, pid, after, *others: true(uuid, node, host, pid, None, *others)

    return _instead(recovery, "Claim", claim)


def read_without_proof() -> Any:
    """What changed nothing is answered at once, whether or not this owner still has the right to."""

    def conclude(true: Callable[..., None]) -> Callable[..., None]:
        def unproven(self: Turns, turn: Turn, outcome: Outcome) -> None:
            settled = turn.activation is None or not turn.activation.in_flight_writes
            true(self, turn, outcome)
            if not outcome.entry and settled and turn.reply is not None:
                assert self.journal._waiting.pop() is turn
                self.journal.add_answered(turn.offset)
                command = turn.command
                self.transport.ingress.answer(
                    command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
                )

        return unproven

    return _instead(Turns, "conclude", conclude)


def answered_without_trace() -> Any:
    """The offsets done without an entry are not journaled."""

    def encode(true: Callable[..., Any]) -> Callable[..., Any]:
        def traceless(self: Journal, items: list[Any]) -> Any:
            kept = [item for item in items if item.entry is not None]
            answered, self._answered = self._answered, []
            records = true(self, kept)
            assert isinstance(self._batch, JournalBatch)
            self._batch.completions = [item for item in items if item.entry is None]
            self._batch.answered = answered
            return records

        return traceless

    return _instead(Journal, "_encode", encode)


def error_reply_not_gated() -> Any:
    """What a handler raised is told at once; only its entry waits."""

    def conclude(true: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: Turns, turn: Turn, outcome: Outcome) -> None:
            true(self, turn, outcome)
            if outcome.entry and outcome.reply.outcome == FAILED:
                command = turn.command
                self.transport.ingress.answer(
                    command.reply_to, command.id, outcome.reply, self.tables.partition, turn.offset
                )

        return hasty

    return _instead(Turns, "conclude", conclude)


def not_done_told_at_once() -> Any:
    """What was not done is answered as what changed nothing is: before its done is durable."""
    return _instead(runner, "OK", lambda true: ANY)


def alarm_of_any_setting() -> Any:
    """An alarm command runs as long as there is an alarm of its name, whichever setting it is for."""

    def early(true: Callable[..., Any]) -> Callable[..., Any]:
        def trusting(self: AlarmTurns, turn: Turn) -> Any:
            outcome = true(self, turn)
            assert turn.activation is not None
            row = turn.activation.alarm(turn.command.method)
            if outcome is None or row is None or row.parked:
                return outcome
            turn.alarm = row
            return None

        return trusting

    return _instead(AlarmTurns, "early", early)


def alarm_forgotten_at_a_take_over() -> Any:
    """A clock that begins looks at what is set from then on only."""
    return _instead(AlarmClock, "start", lambda true: lambda self: setattr(self, "_on", True))


def alarm_rings_for_each_command() -> Any:
    """Whether an alarm still stands is asked of what is durable: a second command
    for it runs before the first is.
    """
    return _instead(
        Activation, "alarm", lambda true: lambda self, name: self.tables.alarms.get(self.key, name)
    )


def send_lost() -> Any:
    """An owner that begins does not let out again what its predecessor's turns sent."""

    def let_out_again(true: Callable[..., Any]) -> Callable[..., Any]:
        def kept(record: Any) -> Any:
            if not isinstance(record, EntryRecord):
                return record
            outbox = tuple(out for out in record.entry.outbox if out.topic != Topic.COMMANDS)
            return replace(record, entry=replace(record.entry, outbox=outbox))

        async def careless(owner: Owner, again: Any, end: int) -> None:
            await true(owner, [(at, kept(record)) for at, record in again], end)

        return careless

    return _instead(recovery, "_emit_again", let_out_again)


def sends_of_a_turn_rolled_back() -> Any:
    """What a turn sent leaves, though its handler raised."""

    def entry_of(true: Callable[..., Entry]) -> Callable[..., Entry]:
        def careless(turn: Turn, outcome: Outcome, overlay: Any) -> Entry:
            entry, left = true(turn, outcome, overlay), turn.overlay
            if overlay is None and left is not None and left.effects is not None:
                return replace(entry, outbox=left.effects.outs(entry.key))
            return entry

        return careless

    return _instead(commit, "entry_of", entry_of)


def call_ids_collide() -> Any:
    """All calls and sends of one turn have the same key."""

    def made(true: Any) -> Callable[..., CallKey]:
        return lambda kind, partition, offset, n, *rest: CallKey(kind, partition, offset, 1, *rest)

    return _instead(calls_module, "CallKey", made)


def calls_known_by_order() -> Any:
    """A call is known by its number among all the turn's calls, whatever it asks."""
    return _instead(calls_module, "content_of", lambda true: lambda asked: "of any content, here")


def keyed_calls_die_with_their_command() -> Any:
    """What a turn calls hangs on the place of its command, though a client's key brought it."""
    return _instead(calls_module, "root_of", lambda true: lambda command, *place: Root(*place))


def nested_calls_hang_on_their_own_place() -> Any:
    """What a called turn calls hangs on the place of its own command, not on the call."""

    def root_of(true: Callable[..., Root]) -> Callable[..., Root]:
        def short(command: Any, *place: Any) -> Root:
            return Root(*place) if command.principal.startswith("@") else true(command, *place)

        return short

    return _instead(calls_module, "root_of", root_of)


def rings_of_earlier_copies_stay() -> Any:
    """A call without room is left alone if an earlier run's copy of it waits in the full mailbox."""

    def check(true: Callable[..., None]) -> Callable[..., None]:
        def left(self: Any, call: Any) -> None:
            if not isinstance(self._pending_calls.queued(call), Turn):
                true(self, call)

        return left

    return _instead(calls_module.Calls, "_check_ring", check)


def alarms_that_were_not_done_begin_afresh() -> Any:
    """A run of an alarm that called and was not done is a failure like any other:
    the next one makes its own calls.
    """

    def concluded(true: Callable[..., Any]) -> Callable[..., Any]:
        return lambda name, row, now_ms, *, goes_on: replace(
            true(name, row, now_ms, goes_on=goes_on), since=-1
        )

    return _instead(alarm_turns, "after_failure", concluded)


def calls_of_an_alarm_hang_on_its_command() -> Any:
    """What an alarm calls hangs on the place of its command, not on the setting for which it rings."""

    def root_of(true: Callable[..., Root]) -> Callable[..., Root]:
        def by_place(command: Any, *place: Any) -> Root:
            return Root(*place) if command.kind == ALARM else true(command, *place)

        return by_place

    return _instead(calls_module, "root_of", root_of)


def reruns_not_compared() -> Any:
    """A turn that runs again may ask for what it likes."""
    return _instead(Reruns, "must_compare", lambda true: lambda self, turn, error: False)


def copy_of_a_call_runs_again() -> Any:
    """A call whose caller asks again, since the answer or the caller was lost, is a call like any other."""
    return _instead(admission, "_outcome_of_copy", lambda true: lambda turn, key, tables: None)


def arguments_as_they_look() -> Any:
    """A method is given what the JSON of its arguments holds, whatever its annotations say."""
    return _instead(Method, "bind", lambda true: lambda self, args, kwargs: (tuple(args), kwargs))


def seal_not_looked_at() -> Any:
    """A record that says it is of perdure's own is taken for that."""

    def parse(true: Any) -> Any:
        return lambda key, value, headers, seal=None, **others: parse_admitted(key, value, headers)

    return _instead(admission, "parse_command", parse)


def expired_value_seen() -> Any:
    """A value is there until it has been swept."""
    return _instead(state_module, "is_due", lambda true: lambda encoded, now_ms: False)


def swept_though_put_again() -> Any:
    """What was noted to expire goes, whatever was put since."""
    return _instead(expiry_sweep, "expiry_of", lambda true: lambda encoded: ANY)


def sweep_forgotten() -> Any:
    """Only the first of the values that wait to expire has an alarm."""

    def sweep(true: Callable[..., Any]) -> Callable[..., Any]:
        def once(self: Any, *given: Any) -> None:
            true(self, *given)

        return once

    return _instead(State, "sweep", sweep)


def frame_taken_twice() -> Any:
    """A gateway sends on whatever arrives."""

    def deliver(true: Callable[..., None]) -> Callable[..., None]:
        def trusting(self: SocketRegistry, frame: Any, offset: int, n: int) -> None:
            for number in frame.sockets:
                if number in self._open:
                    self._open[number].position = -1
            true(self, frame, offset, n)

        return trusting

    return _instead(SocketRegistry, "_deliver", deliver)


def frame_named_by_its_reign() -> Any:
    """What is let out again carries a message id of the reign that does so."""

    def send(true: Callable[..., None]) -> Callable[..., None]:
        def renamed(
            self: OutputGate, message: Any, topic: Any, partition: int, record: Any, *lane: Any
        ) -> None:
            if record.headers[:1] == (FRAME_KIND,):  # a dead letter may have none
                *others, (_, name) = record.headers
                place, _, n = name.decode().partition("/")
                renumbered = f"{place}/{int(n) + 100 * (self._epoch - 1)}".encode()
                record = replace(record, headers=(*others, ("message-id", renumbered)))
            true(self, message, topic, partition, record, *lane)

        return renamed

    return _instead(OutputGate, "_send", send)


def frames_overtake() -> Any:
    """A frame on its way to a gateway does not wait for the one before."""

    def in_order(true: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: OutputGate, key: str, sent: Any) -> None:
            if sent.topic is Topic.REPLIES:
                self._send(*sent)
            else:
                true(self, key, sent)

        return hasty

    return _instead(OutputGate, "_in_order", in_order)


def evicted_with_writes_under_way() -> Any:
    """An object may leave memory as soon as no turn of it runs or waits."""

    def idle(true: Any) -> Any:
        return property(lambda self: self.running is None and not self.mailbox)

    return _instead(Activation, "idle", idle)


def namespace_deleted_by_name_only() -> Any:
    """The step is journaled, and what the namespace held stays."""

    def removed(true: Any) -> Any:
        def by_name(self: Tables, step: Any) -> Iterator[None]:
            yield
            self._fold_step(step)
            self._deletion = None

        return by_name

    return _instead(Tables, "_remove", removed)


def step_done_with_the_first_piece_of_a_deletion() -> Any:
    """The meta row has the position behind the step before all that the namespace held is removed."""

    def freeze(true: Callable[[Tables], None]) -> Callable[[Tables], None]:
        def early(self: Tables) -> None:
            deletion, self._deletion = self._deletion, None
            true(self)
            self._deletion = deletion

        return early

    return _instead(Tables, "freeze", freeze)


def alarms_of_a_deleted_namespace_stay() -> Any:
    """Its rows go, but for those of its alarms by the time they are due."""

    def removed(true: Any) -> Any:
        return lambda self, namespace: iter(())

    return _instead(AlarmRows, "remove_by_time", removed)


def step_journaled_at_each_start() -> Any:
    """An owner that begins appends the last step of the configuration, whether or not it is there."""
    return _instead(recovery, "missing", lambda true: lambda done, steps: true(done, steps) or steps[-1:])


def what_a_cut_copy_left_stays() -> Any:
    """What moved in before a crash is not emptied before all moves in once more."""
    return _instead(import_objects, "objects_of", lambda true: lambda *place: iter(()))


def cut_copy_taken_for_whole() -> Any:
    """An owner that finds objects of the namespace takes them for all that were to come."""

    def move_in(true: Any) -> Any:
        async def content(
            to: import_objects.Destination, step: Any, namespace: str
        ) -> import_objects.MovedIn:
            if any(objects_of(to.tables, namespace, "", None)):
                return import_objects.MovedIn(to.tables.reader.offset, whole=True, available=True)
            come: import_objects.MovedIn = await true(to, step, namespace)
            return come

        return content

    return _instead(recovery, "move_in", move_in)


def moved_into_each_partition() -> Any:
    """Each partition takes all objects that move in, as if it were the only one."""

    def entries(true: Any) -> Any:
        return lambda self, partition, own: [each for p in range(len(self._names)) for each in true(self, p)]

    return _instead(ForeignObjects, "entries", entries)


def refused_event_of_a_lost_socket_forgotten() -> Any:
    """What the log refuses to append of sockets that are gone is left to the next reign."""

    def pause(true: Any) -> Any:
        def forgetful(self: SocketEvents, error: Any) -> None:
            self._waiting.clear()
            self._known.clear()

        return forgetful

    return _instead(SocketEvents, "_pause", pause)


def gateways_watched_for_one_partition() -> Any:
    """The watch of a node tells the objects of its first partition only that a gateway has fallen silent."""

    def begin(true: Any) -> Any:
        def first_only(self: GatewayWatch, transport: Any, registry: Any, tables: Tables, gone: Any) -> None:
            if tables.partition == 0:
                true(self, transport, registry, tables, gone)

        return first_only

    return _instead(GatewayWatch, "begin", begin)


def all_that_is_accepted_runs_at_once() -> Any:
    """The turns of a pass of the event loop have no bound."""

    def look(true: Any) -> Any:
        def unbounded(self: RunQueue) -> None:
            self.spent_s = 0.0

        return unbounded

    return _instead(RunQueue, "look", look)


def stamps_taken_for_log_time() -> Any:
    """What a broker stamps is log time, however far ahead it is."""
    return _instead(LogTime, "read", lambda true: lambda self, record: record)


def alarms_stay_as_a_wrong_clock_timed_them() -> Any:
    """That log time has stepped back makes no difference to alarms that are set."""
    return _instead(AlarmClock, "_notice_step_back", lambda true: lambda self: None)


def age_by_a_local_clock() -> Any:
    """The fold lets no more time pass than the clock of the process that folds says."""

    def grow_older(true: Any) -> Any:
        def local(self: Tables, time_ms: int) -> None:
            local_ms = 1_700_000_000_000 + int(asyncio.get_running_loop().time() * 1000)
            true(self, min(time_ms, local_ms))

        return local

    return _instead(Tables, "_grow_older", grow_older)


def fault_inside_keeps_what_was_written() -> Any:
    """A turn that met a fault inside fails, and what its handler had written until then stays."""

    def of_alarm(true: Callable[..., Outcome]) -> Callable[..., Outcome]:
        def careless(self: InternalFaults, turn: Turn, outcome: Outcome) -> Outcome:
            left = turn.overlay
            outcome = true(self, turn, outcome)
            if left is not None:
                turn.overlay = left
            return replace(outcome, commit=outcome.entry)

        return careless

    return _instead(InternalFaults, "_of_alarm", of_alarm)


def fault_inside_told_at_once() -> Any:
    """The failure of a turn that met a fault inside is told before it is journaled."""

    def of_alarm(true: Callable[..., Outcome]) -> Callable[..., Outcome]:
        def hasty(self: InternalFaults, turn: Turn, outcome: Outcome) -> Outcome:
            command, turns = turn.command, self._turns
            partition = turns.tables.partition
            turns.transport.ingress.answer(
                command.reply_to, command.id, outcome.reply, partition, turn.offset
            )
            return true(self, turn, outcome)

        return hasty

    return _instead(InternalFaults, "_of_alarm", of_alarm)


def forward_run_again() -> Any:
    """A home runs each forward that it reads, also one that was sent again after a crash."""
    return _instead(Forwarding, "is_copy", lambda true: lambda self, record, command: False)


def forward_that_changed_nothing_left_untraced() -> Any:
    """A forward that needs no entry leaves none: another copy of it is not known."""
    return _instead(runner, "note_forward", lambda true: lambda turn, reply: None)


def forward_lost() -> Any:
    """A forward counts as delivered when it is sent: one that is lost in a crash is not sent again."""

    def send(true: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: OutputGate, key: str, sent: Any) -> None:
            true(self, key, sent)
            if sent.message.command in self._forwards:
                self.commands.add(sent.message.command)
                self.journal.add(sent.message.journal)

        return hasty

    return _instead(OutputGate, "_in_order", send)


def forwards_overtake() -> Any:
    """A forward does not wait until the one before it has arrived."""

    def in_order(true: Callable[..., None]) -> Callable[..., None]:
        def at_once(self: OutputGate, key: str, sent: Any) -> None:
            if sent.message.command in self._forwards:
                self._send(*sent)
            else:
                true(self, key, sent)

        return at_once

    return _instead(OutputGate, "_in_order", in_order)


def run_where_it_was_misplaced() -> Any:
    """The owner that reads a misplaced command runs it."""

    def send_home(true: Callable[..., None]) -> Callable[..., None]:
        def here(self: Forwarding, record: Any, command: Any, home: int) -> None:
            self._owner.turns.take(record, command)

        return here

    return _instead(Forwarding, "send_home", send_home)


def copy_of_a_key_does_not_wait() -> Any:
    """A command that waited behind another one with its key runs as if the key were free."""
    return _instead(KeysInFlight, "outcome_of_first", lambda true: lambda self, turn: None)


def link_within_a_batch_misses_one() -> Any:
    """An entry that follows another of its object in one batch links to the record before that one."""

    def encode(true: Callable[..., Any]) -> Callable[..., Any]:
        def skewed(*given: Any, link: int = NO_LINK) -> Any:
            return true(*given[:7], link=(given[7:] or (link,))[0] - ((given[7:] or (link,))[0] < 0))

        return skewed

    return _instead(writer_module, "encode_raw_entry", encode)


def link_remembered_too_long() -> Any:
    """The newest entry of an object that is in memory is not moved by what is folded."""

    def remember(true: Callable[..., None]) -> Callable[..., None]:
        def stale(self: LinkRows, links: dict[str, int]) -> None:
            for key, offset in links.items():
                self._recent.setdefault(key, offset)

        return stale

    return _instead(LinkRows, "remember", remember)


BUGS = (
    link_within_a_batch_misses_one,
    link_remembered_too_long,
    copy_of_a_key_does_not_wait,
    forward_run_again,
    forward_that_changed_nothing_left_untraced,
    forward_lost,
    forwards_overtake,
    run_where_it_was_misplaced,
    refused_event_of_a_lost_socket_forgotten,
    gateways_watched_for_one_partition,
    fault_inside_keeps_what_was_written,
    fault_inside_told_at_once,
    all_that_is_accepted_runs_at_once,
    no_dedupe_on_replay,
    one_too_many_passed_over,
    offset_outside_the_batch,
    reply_before_durability,
    fence_ignored,
    claimed_again_by_itself,
    claim_that_follows_nothing,
    read_without_proof,
    answered_without_trace,
    error_reply_not_gated,
    not_done_told_at_once,
    alarm_of_any_setting,
    alarm_forgotten_at_a_take_over,
    alarm_rings_for_each_command,
    send_lost,
    sends_of_a_turn_rolled_back,
    call_ids_collide,
    copy_of_a_call_runs_again,
    calls_known_by_order,
    keyed_calls_die_with_their_command,
    nested_calls_hang_on_their_own_place,
    alarms_that_were_not_done_begin_afresh,
    calls_of_an_alarm_hang_on_its_command,
    reruns_not_compared,
    arguments_as_they_look,
    seal_not_looked_at,
    expired_value_seen,
    swept_though_put_again,
    sweep_forgotten,
    frame_taken_twice,
    frame_named_by_its_reign,
    frames_overtake,
    evicted_with_writes_under_way,
    namespace_deleted_by_name_only,
    alarms_of_a_deleted_namespace_stay,
    step_done_with_the_first_piece_of_a_deletion,
    step_journaled_at_each_start,
    what_a_cut_copy_left_stays,
    cut_copy_taken_for_whole,
    moved_into_each_partition,
    stamps_taken_for_log_time,
    age_by_a_local_clock,
    alarms_stay_as_a_wrong_clock_timed_them,
)

__all__ = ["BUGS", "Claim", "EntryRecord", "JournalReader", "NoOp", "Position", "recovery"]
