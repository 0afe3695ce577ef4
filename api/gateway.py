"""The gateway: turns requests of this process's doors into commands, and hands them their answers.

Laws
- Before a command is appended its object's partition is asked for room; from then on the answer is the
  owner's reply, `Unavailable` (not appended) or `OutcomeUnknown` (it may have happened). Nothing is sent twice.
- Where the log is exclusive, owner and door share the process and the reply is handed over. Otherwise every
  command carries the gateway's address in `{app}.replies`; an owner in this process hands over directly.
- Who waits is waiting no longer than the deadline and `GRACE_S`; one sweep a second serves all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from typing import NamedTuple, Protocol

from perdure.api.replies import PlacedReply, ReplyListener
from perdure.schemas.commands import ADMIN, LOCAL, NOBODY, Command, Headers, command_record, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.errors import OutcomeUnknown, TooLarge, Unavailable
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import Pairs, Reply, parse_reply
from perdure.schemas.seal import Seal
from perdure.streams.log.base import Log, LogRecord, Receipt, Record, Tail, Topic
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState
from perdure.streams.turns.supervision.internal_faults import report

_logger = logging.getLogger("perdure")
GRACE_S = 2.0  # the owner's own word on an expired command is waited for so long
SWEEP_S = 1.0
MARK_S = 0.05
_COMMANDS = Topic.COMMANDS  # found once: an enum's members are looked up slowly


class ClientEnvelope(NamedTuple):
    """Of a command: what its client said beside what is asked, and who that is."""

    client_key: str | None
    principal: str
    traceparent: str


class FrameReceiver(Protocol):
    """Who has this gateway's WebSockets (see api/sockets/registry.py)."""

    address: str

    @property
    def count(self) -> int:
        """How many there are."""

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """As `Ingress.frames`."""

    def ended(self, reply_to: str, id_: str) -> bool:
        """The event `id_` has had its turn; False if nobody here waits to hear that."""

    def receive(self, record: LogRecord) -> bool:
        """A record from `{app}.replies`; False if it is not about WebSockets."""


class RequestTracing(Protocol):
    """Whoever traces what doors ask (see api/telemetry/spans.py)."""

    def trace_request(
        self, asker: ReplyListener, key: str, kind: str, method: str, traceparent: str
    ) -> tuple[ReplyListener, str]:
        """Who is to be told in place of `asker`, and the command's `traceparent`."""


class Gateway:
    """The doors' way to the log. `node` names this start of the process, uniquely; `seal` vouches for principals."""

    def __init__(
        self,
        log: Log,
        *,
        node: str,
        deadline_s: float,
        clock_ms: Callable[[], int],
        seal: Seal | None = None,
    ) -> None:
        self._log = log
        self.tracing: RequestTracing | None = None
        self.seal = seal  # for upgrades to WebSockets, and principals
        self._node = node
        self._clock_ms = clock_ms
        self._deadline_ms = int(deadline_s * 1000)
        self._wait_s = deadline_s + GRACE_S
        self._numbers = count()
        self._marked_s = -inf  # when the part of an id that tells its time was made last
        self._mark = ""
        self._waiting: dict[str, tuple[ReplyListener, float]] = {}  # by command id, with when it is due (s)
        self._loop = asyncio.get_running_loop()
        self._owners: Sequence[Owner] = ()
        self._tail: Tail | None = None
        self.sockets: FrameReceiver | None = None
        self._place = partition_of(f"gateway/{node}", log.partitions)
        self.address = LOCAL if log.exclusive else f"{self._place}/gateway.{node}"
        self.closed: BaseException | None = None

    async def start(self, owners: Sequence[Owner]) -> None:
        """`owners` by partition; those of other nodes are not among them on a shared log."""
        self._owners = owners
        if not self._log.exclusive:
            end = (await self._log.bounds(Topic.REPLIES, self._place)).end
            self._tail = self._log.tail(Topic.REPLIES, self._place, end, self._replied)

    def close(self, error: BaseException) -> None:
        """Answer nothing more: who comes is told `error`, who waits that the outcome is unknown because of it."""
        self.closed = error
        if self._tail is not None:
            self._tail.close()
        waiting, self._waiting = self._waiting, {}
        for id_, (asker, _) in waiting.items():
            try:
                asker.failed(OutcomeUnknown(f"command {id_}: {error}: it may run or have run", id_))
            except Exception:  # the others are answered all the same
                _logger.exception("command %s: its client could not be answered", id_)

    def check_room(self, key: str) -> None:
        """Is there room for one more command of object `key`? Raises as `submit` does."""
        self._partition_with_room(key)

    def _partition_with_room(self, key: str) -> int:
        partition = self._partition_of(key)
        self._owners[partition].check_room(key)
        return partition

    def _partition_of(self, key: str) -> int:
        if self.closed is not None:
            raise Unavailable(f"this node is stopping: {self.closed}")
        return partition_of(key, self._log.partitions)

    def _new_id(self, partition: int) -> str:
        """`PARTITION-TIME-NODE-NUMBER`; the time is that of this node's clock in ms, to some `MARK_S`."""
        if not 0.0 <= (now_s := self._loop.time()) - self._marked_s < MARK_S:
            self._mark_time(now_s)
        return f"{partition}{self._mark}{next(self._numbers):x}"

    def _mark_time(self, now_s: float) -> None:
        self._marked_s, self._mark = now_s, f"-{self._clock_ms():x}-{self._node}-"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(
        self,
        asker: ReplyListener,
        key: str,
        kind: str,
        method: str,
        path: str = "",
        headers: Pairs = (),
        body: bytes = b"",
        client_key: str | None = None,
        traceparent: str = "",
        deadline_ms: int | None = None,
        principal: str = "",
        socket: str = "",
        hint: str = "",
    ) -> None:
        """Append a command for object `key` and tell `asker` what came of it; `deadline_ms` if it is not the usual.

        Raises `Overloaded`, `Unavailable` or the partition's own error, with nothing appended.
        """
        # each request comes by here, so what the other ways in share is written out
        if self.closed is not None:
            raise Unavailable(f"this node is stopping: {self.closed}")
        log = self._log
        partition = partition_of(key, log.partitions)
        if deadline_ms is None:
            deadline_ms = self._deadline_ms
        self._owners[partition].check_room(key, deadline_ms)
        if not 0.0 <= (now_s := self._loop.time()) - self._marked_s < MARK_S:
            self._mark_time(now_s)
        id_ = f"{partition}{self._mark}{next(self._numbers):x}"
        if self.tracing is not None:
            asker, traceparent = self.tracing.trace_request(asker, key, kind, method, traceparent)
        command = Command(
            key,
            kind,
            method,
            path,
            headers,
            body,
            id_,
            self.address,
            deadline_ms,
            client_key,
            principal,
            traceparent,
            socket=socket,
            hint=hint,
        )
        record = self._vouched(command) if principal or socket or hint else command_record(command)
        self._waiting[id_] = (asker, now_s + self._wait_s)
        try:
            receipt = log.append(_COMMANDS, partition, Record(*record), command)
        except TooLarge as error:
            self._waiting.pop(id_)
            asker.failed(error)
            return
        if not log.exclusive:
            receipt.when_durable(lambda error: self._appended(id_, error))

    def post(
        self,
        key: str,
        kind: str,
        method: str,
        path: str,
        headers: Pairs,
        body: bytes,
        client_key: str | None,
        traceparent: str,
        hint: str = "",
    ) -> Receipt:
        """Append a command whose answer nobody waits for; its receipt. Raises like `submit`."""
        partition = self._partition_with_room(key)
        id_ = self._new_id(partition)
        command = Command(
            key, kind, method, path, headers, body, id_, NOBODY, None, client_key, "", traceparent, hint=hint
        )
        return self._append(partition, command)

    def accept(
        self, key: str, kind: str, method: str, path: str, headers: Pairs, body: bytes, sent: ClientEnvelope
    ) -> tuple[str, Receipt]:
        """Append a command that nobody waits for and whose reply is kept; (its id, the receipt). Raises like `submit`.

        Its own id is its client key if it has none: what has a key leaves an entry, whatever it changed.
        """
        partition = self._partition_with_room(key)
        id_ = self._new_id(partition)
        client_key = sent.client_key or id_
        command = Command(
            key,
            kind,
            method,
            path,
            headers,
            body,
            id_,
            NOBODY,
            None,
            client_key,
            sent.principal,
            sent.traceparent,
        )
        return id_, self._append(partition, command)

    def administer(self, asker: ReplyListener, key: str, act: str, body: bytes, principal: str) -> None:
        """Append an act of administration, though its object has no room, and tell `asker`. Raises like `submit`."""
        partition = self._partition_of(key)
        owner = self._owners[partition]
        if owner.state is not OwnerState.SERVING:
            raise owner.not_serving
        command = Command(
            key,
            ADMIN,
            act,
            body=body,
            id=self._new_id(partition),
            reply_to=self.address,
            deadline_ms=self._deadline_ms,
            principal=principal,
        )
        id_ = command.id
        self._waiting[id_] = (asker, self._loop.time() + self._wait_s)
        try:
            receipt = self._append(partition, command)
        except TooLarge as error:
            self._waiting.pop(id_)
            asker.failed(error)
            return
        if not self._log.exclusive:
            receipt.when_durable(lambda error: self._appended(id_, error))

    def _append(self, partition: int, command: Command) -> Receipt:
        record = self._vouched(command) if command.internal else command_record(command)
        return self._log.append(_COMMANDS, partition, Record(*record), command)

    def _vouched(self, command: Command) -> tuple[bytes, bytes, Headers]:
        assert self.seal is not None, "a gateway without a seal knows no principals and no WebSockets"
        return sealed_record(command, self.seal)

    def _appended(self, id_: str, error: BaseException | None) -> None:
        if error is None:
            return
        waiting = self._waiting.pop(id_, None)
        if waiting is not None:
            if isinstance(error, OutcomeUnknown):
                error = OutcomeUnknown(f"command {id_}: {error}: it may run or have run", id_)
            waiting[0].failed(error)

    # What owners call

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        """Hand over a reply; False if `reply_to` is not this gateway."""
        if reply_to != self.address:
            return reply_to == NOBODY or (self.sockets is not None and self.sockets.ended(reply_to, id_))
        waiting = self._waiting.pop(id_, None)
        if waiting is not None:  # else it has its answer already
            try:
                waiting[0].answered(PlacedReply(reply, partition, offset))
            except Exception as error:  # noqa: BLE001 - what fails at a door is not the partition's
                report(error, f"the answer to command {id_} could not be sent")
                with suppress(Exception):
                    waiting[0].failed(
                        OutcomeUnknown(f"command {id_} was done, but its answer could not be sent", id_)
                    )
        return True

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """Hand over a frame; False if it goes by the log."""
        return self.sockets is not None and self.sockets.frames(out, partition, offset, n)

    def holds(self, gateway: str) -> bool:
        """Are the sockets of this address here?"""
        return self.sockets is not None and gateway == self.sockets.address

    def stopped(self, partition: int, error: BaseException) -> None:
        """Tell who waits for a partition that has stopped."""
        prefix = f"{partition}-"
        for id_ in [id_ for id_ in self._waiting if id_.startswith(prefix)]:
            asker, _ = self._waiting.pop(id_)
            asker.failed(OutcomeUnknown(f"command {id_} may run or have run: {error}", id_))

    def _replied(self, record: LogRecord) -> None:
        if self.sockets is not None and self.sockets.receive(record):
            return
        if record.key != self.address.partition("/")[2].encode():
            return  # for another gateway
        try:
            answered = parse_reply(record.value, record.headers)
            partition, offset = map(int, answered.command.split(":"))
        except ValueError:
            return  # anybody may write to the topic; what is no reply of ours is nothing to us
        self.answer(self.address, answered.correlation_id, answered.reply, partition, offset)

    async def sweep(self) -> None:
        """Tell those who have waited too long that the outcome is unknown; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._loop.time()
            for id_ in self._overdue(now_s):
                asker, _ = self._waiting.pop(id_)
                told = f"command {id_} was not answered within {self._wait_s:g} s: it may run or have run"
                asker.failed(OutcomeUnknown(told, id_))

    def _overdue(self, now_s: float) -> list[str]:
        found = []
        for id_, (_, due_s) in self._waiting.items():
            if due_s > now_s:
                break  # all wait equally long, so the first that is not due ends the search
            found.append(id_)
        return found
