"""The output gate of one partition: everything that a turn sends passes here and is counted.

The owner calls `entries` and `done` once a journal batch is durable. Answers and frames for gateways of this
process are handed over at once; everything else is appended to its topic. Two watermarks record progress:
below the low watermark (`commands`) every command is done and its output delivered, below the output
watermark (`journal`) the output of every journal record is.

Laws
- Nothing is emitted before everything that it was computed from is durable. [tests/simulation]
- An entry counts as emitted when its reply and every record of its outbox have been handed to a door of this
  process or are durable on their topic. Neither watermark passes one that does not.
- What is emitted again after a crash carries the same message id (a send: the same key), by which receivers
  drop duplicates. [test_no_two_answers_have_one_message_id]
- Messages of one object to another arrive in order, also when one of them must be emitted again. So do its
  frames at a gateway, behind the answer that accepts the socket: a gateway would mistake an overtaken frame
  for a duplicate. [test_frames_follow_the_answer_that_accepts_their_socket]
- However many messages wait to be emitted again, they share one timer, which backs off, and go in bounded
  batches. [test_what_does_not_arrive_is_sent_again_through_one_gate]
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from perdure.objects.turn import SWITCHING
from perdure.schemas.backoff import Backoff
from perdure.schemas.commands import LOCAL
from perdure.schemas.effects import Out
from perdure.schemas.errors import PerdureError, Unavailable
from perdure.schemas.foreign import TOPIC, ReplyTopic, reply_topic_in
from perdure.schemas.journal import Entry
from perdure.schemas.replies import FORWARDED, Reply, reply_record
from perdure.streams import failpoints
from perdure.streams.log.base import Record, Topic
from perdure.streams.state.offsets import Watermark
from perdure.streams.turns.ports import Transport

RETRY_S = (0.5, 5.0)  # first and longest pause before what did not arrive is sent again
RESENT_AT_ONCE = 500  # messages in one step of the loop

_logger = structlog.get_logger(__name__)


class _Message:
    """Counter of the records that must still arrive on their topics before a command counts as delivered."""

    __slots__ = ("command", "journal", "left")

    def __init__(self, command: int, journal: int, left: int) -> None:
        self.command = command
        self.journal = journal
        self.left = left


class _Sent(NamedTuple):
    """A message of an object, in the order in which it was sent."""

    message: _Message
    topic: Topic
    partition: int
    record: Record


_Lane = tuple[str, Topic, bytes | None]  # from an object to another, or to a gateway


class OutputGate:
    """Emits replies and outboxes.

    Keeps the low watermark (`commands`) and the output watermark (`journal`).
    """

    def __init__(self, transport: Transport, partition: int) -> None:
        self._seal = transport.seal
        self._log = transport.log
        self._ingress = transport.ingress
        self._partition = partition
        self._pending_calls = transport.pending_calls
        self._epoch = 0
        self._held: dict[int, int] = {}  # journal offset -> messages of that record still under way
        self._lanes: dict[_Lane, deque[_Sent]] = {}
        self._unsent: deque[tuple[_Sent, _Lane | None]] = deque()  # did not arrive, and go again
        self._again: asyncio.Handle | None = None  # when they do
        self._backoff = Backoff(*RETRY_S, transport.random)
        self.commands = Watermark()
        self.journal = Watermark()
        self._forwards: dict[int, tuple[int, int]] = {}  # by command: its home, and how many bytes
        self.under_way: dict[int, tuple[int, int]] = {}  # by home: how many forwards, of how many bytes
        self.forwarded: Callable[[int], None] = lambda home: None  # called when one has arrived at its home

    @property
    def idle(self) -> bool:
        """True if all that was emitted has arrived."""
        return not self._held

    def begin(self, low: int, out: int) -> None:
        """Begin an epoch: what earlier ones still have under way no longer counts here."""
        self._epoch += 1
        self._held.clear()
        self._lanes.clear()
        self._unsent.clear()
        self._forwards.clear()
        self.under_way.clear()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.commands = Watermark(low)
        self.journal = Watermark(out)

    def entries(self, entries: Iterable[Entry], first: int) -> int:
        """Emit the output of entries that lie at journal offsets from `first` on.

        Returns the offset behind them.
        """
        answer, partition, done, held = self._ingress.answer, self._partition, self.commands.add, self._held
        at = run = first  # the journal's records from `run` up to `at` are emitted
        for entry in entries:
            local = answer(entry.reply_to, entry.id, entry.reply, partition, entry.command)
            if local and not entry.outbox and at not in held:
                done(entry.command)
            else:
                self.journal.add_run(run, at - run)
                self._entry(entry, at, local)
                run = at + 1
            at += 1
        self.journal.add_run(run, at - run)
        return at

    def _entry(self, entry: Entry, offset: int, local: bool) -> None:
        """Emit the entry at journal `offset`. `local`: a door of this process has its answer."""
        local = local or self._pending_calls.answer(entry.reply_to, entry.id, entry.reply)
        outbox = self._not_handed_over(entry.outbox, offset) if entry.outbox else []
        if entry.outcome == FORWARDED:
            failpoints.hit("forward.before_send")
            if entry.command not in self._forwards:  # emitted again
                self.take_forward(outbox[0][1].partition, entry.command, len(outbox[0][1].value or b""))
        if local and not outbox:
            self.commands.add(entry.command)
            self.passed(offset)
            return
        message = self._held_message(entry.command, offset, len(outbox) + (not local))
        if not local:
            self._reply(message, entry.reply_to, entry.key, entry.id, entry.reply, f"{offset}/0")
        for n, out in outbox:
            headers = out.headers
            if out.topic != Topic.COMMANDS:
                headers = (*headers, ("message-id", f"{self._partition}:{offset}/{n}".encode()))
            else:  # its receiver knows it by its key, and its signature covers its headers
                headers = self._seal.renewed(out.key, out.value, headers)
            sent = _Sent(message, Topic(out.topic), out.partition, Record(out.key, out.value, headers))
            self._in_order(entry.key, sent)

    def _not_handed_over(self, outbox: Sequence[Out], offset: int) -> list[tuple[int, Out]]:
        """The numbered messages that go through the log.

        All but the frames that a gateway of this process took.
        """
        frames, partition = self._ingress.frames, self._partition
        return [
            (n, out)
            for n, out in enumerate(outbox, 1)
            if out.topic != Topic.REPLIES or not frames(out, partition, offset, n)
        ]

    def done(self, reply_to: str, key: str, id_: str, reply: Reply, command: int, offset: int) -> None:
        """Answer a command that ended without an entry; `offset` is that of the
        journal record that reports it.

        Call it before `entries` or `passed` for the record at `offset`.
        """
        if self._ingress.answer(reply_to, id_, reply, self._partition, command) or self._pending_calls.answer(
            reply_to, id_, reply
        ):
            self.commands.add(command)
            return
        message = self._held_message(command, offset, 1)
        # "c" keeps it apart from what an entry at that offset emits: its reply is 0, its outbox 1 and on
        self._reply(message, reply_to, key, id_, reply, f"{offset}/c{command}")

    def passed(self, offset: int) -> None:
        """The record at journal `offset` emits nothing beyond what is already held for it."""
        if offset not in self._held:
            self.journal.add(offset)

    def _held_message(self, command: int, offset: int, left: int) -> _Message:
        self._held[offset] = self._held.get(offset, 0) + 1
        return _Message(command, offset, left)

    def _reply(self, message: _Message, reply_to: str, key: str, id_: str, reply: Reply, name: str) -> None:
        if reply_to.startswith(TOPIC):
            self._reply_in_topic(message, reply_topic_in(reply_to), key, id_, reply, name)
            return
        partition, to = self._address(reply_to, key)
        place = f"{self._partition}:{message.command}"
        record = Record(*reply_record(reply, to, f"{self._partition}:{name}", id_ or place, place))
        if reply.status == SWITCHING:
            self._in_order(key, _Sent(message, Topic.REPLIES, partition, record))
        else:
            self._send(message, Topic.REPLIES, partition, record)

    def _reply_in_topic(
        self, message: _Message, to: ReplyTopic, key: str, id_: str, reply: Reply, name: str
    ) -> None:
        """Reply to the topic that the sender named; what cannot get there goes to `replies`."""
        place = f"{self._partition}:{message.command}"
        record = Record(*reply_record(reply, key.encode(), f"{self._partition}:{name}", id_ or place, place))
        if to.header:
            record = replace(record, headers=(*record.headers, (to.header, to.value)))
        named = to.partition if not to.topic else None
        partition = named if named is not None and named < self._log.partitions else self._partition
        topics, epoch = self._log.reply_topics, self._epoch
        if not to.topic:
            self._send(message, Topic.REPLIES, partition, record)
            return

        def appended(error: BaseException | None) -> None:
            if epoch != self._epoch:
                return  # the new epoch emits it again
            if error is None:
                self._arrived(message)
                return
            _logger.warning(
                "a reply does not get to its topic: it is in the app's replies",
                partition=self._partition,
                topic=to.topic,
                reason=repr(error),
            )
            undelivered = "undelivered", f"{to.topic}: {error!r}"[:1000].encode()
            diverted = replace(record, headers=(*record.headers, undelivered))
            self._send(message, Topic.REPLIES, self._partition, diverted)

        if topics is None:
            appended(Unavailable("this log has no topics of clients"))
        else:
            topics.append(to.topic, to.partition, record, appended)

    def _address(self, reply_to: str, key: str) -> tuple[int, bytes | None]:
        """(partition of `replies`, key): `PARTITION/KEY` names a gateway's.

        Any other text belongs to this partition.
        """
        number, slash, to = reply_to.partition("/")
        if slash and number.isascii() and number.isdigit() and int(number) < self._log.partitions:
            return int(number), to.encode()
        return self._partition, (reply_to if reply_to and reply_to != LOCAL else key).encode() or None

    def _in_order(self, key: str, sent: _Sent) -> None:
        """Send a message of object `key`.

        The next one to the same receiver goes when this one has arrived.
        """
        lane = key, sent.topic, sent.record.key
        if self._log.ordered:  # it keeps what it accepts in order, all or nothing
            self._send(*sent)
        elif (waiting := self._lanes.get(lane)) is not None:
            waiting.append(sent)
        else:
            self._lanes[lane] = deque()
            self._send(*sent, lane)

    def _next_in(self, lane: _Lane) -> None:
        if waiting := self._lanes[lane]:
            self._send(*waiting.popleft(), lane)
        else:
            del self._lanes[lane]

    def _send(
        self, message: _Message, topic: Topic, partition: int, record: Record, lane: _Lane | None = None
    ) -> None:
        epoch = self._epoch

        def appended(error: BaseException | None) -> None:
            if epoch != self._epoch:
                return  # the new epoch emits it again
            if error is None:
                self._arrived(message)
                if lane is not None:
                    self._next_in(lane)
                if self._backoff.attempts or self._unsent:
                    self._goes_again()
            elif isinstance(error, PerdureError):
                # known not to be there, or unknown: send it again, receivers drop a second one by its id
                self._failed(_Sent(message, topic, partition, record), lane, error)
            else:
                raise error

        self._log.append(topic, partition, record).when_durable(appended)

    def _failed(self, sent: _Sent, lane: _Lane | None, error: PerdureError) -> None:
        self._unsent.append((sent, lane))
        if self._again is not None:
            return
        pause_s = self._backoff.failed()
        if self._backoff.worth_logging:
            _logger.warning(
                "output of a partition does not arrive, and is sent again",
                partition=self._partition,
                topic=sent.topic.value,
                attempts=self._backoff.attempts,
                reason=str(error),
            )
        self._again = asyncio.get_running_loop().call_later(pause_s, self._resend)

    def _goes_again(self) -> None:
        """Send waiting messages now: something arrived, so they need not sit out their pause."""
        self._backoff.reset()
        if self._unsent and self._again is None:
            self._again = asyncio.get_running_loop().call_soon(self._resend)

    def _resend(self) -> None:
        self._again = None
        for _ in range(min(len(self._unsent), RESENT_AT_ONCE)):
            sent, lane = self._unsent.popleft()
            self._send(*sent, lane)

    def _arrived(self, message: _Message) -> None:
        message.left -= 1
        if message.left:
            return
        self.commands.add(message.command)
        if message.command in self._forwards:
            self._forward_arrived(message.command)
        self._held[message.journal] -= 1
        if not self._held[message.journal]:
            del self._held[message.journal]
            self.journal.add(message.journal)

    # Forwards

    def take_forward(self, home: int, command: int, size: int) -> None:
        """Count a forward, of the command at that offset, as under way until it has arrived."""
        self._forwards[command] = home, size
        count, total = self.under_way.get(home, (0, 0))
        self.under_way[home] = count + 1, total + size

    def _forward_arrived(self, command: int) -> None:
        failpoints.hit("forward.arrived")
        home, size = self._forwards.pop(command)
        count, total = self.under_way[home]
        self.under_way[home] = count - 1, total - size
        self.forwarded(home)
