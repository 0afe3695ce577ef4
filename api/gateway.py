"""The gateway: appends the requests of this process's doors to the log as commands, and returns the replies.

A door calls `submit` with a `ReplyListener`. The command's owner runs it, and its reply reaches the listener
by `answer`: called by an owner in this process, or read from the topic `{app}.replies`.

Laws
- The partition is checked for room before a command is appended. After that the answer is the owner's reply,
  `Unavailable` (not appended) or `OutcomeUnknown` (it may run or have run). Nothing is appended twice.
- On an exclusive log the owner is in this process and calls `answer`. On a shared log each command carries
  the gateway's address in `{app}.replies`; an owner in this process still calls `answer`.
- A listener waits for the deadline and `GRACE_S` at most; one sweep a second serves all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from typing import NamedTuple

from perdure.api.replies import FrameReceiver, PlacedReply, ReplyListener, RequestTracing
from perdure.schemas.commands import ADMIN, LOCAL, NOBODY, Command, Headers, command_record, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.errors import OutcomeUnknown, TooLarge, Unavailable
from perdure.schemas.keys import key_hashes, place_of
from perdure.schemas.replies import Pairs, Reply, parse_reply
from perdure.schemas.seal import Seal
from perdure.streams.log.base import Log, LogRecord, Receipt, Record, Tail, Topic
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState
from perdure.streams.turns.supervision.internal_faults import report

_logger = logging.getLogger("perdure")
GRACE_S = 2.0  # beyond the deadline, for the owner's own reply to an expired command
SWEEP_S = 1.0
MARK_S = 0.05  # how long ids share the time that is part of them
_COMMANDS = Topic.COMMANDS  # looked up once: access to a member of an enum is slow


class ClientEnvelope(NamedTuple):
    """The client's part of a command: idempotency key, principal, trace context."""

    client_key: str | None
    principal: str
    traceparent: str


class Gateway:
    """The doors' access to the log.

    Args:
        log: the log that commands are appended to.
        node: names this start of the process, uniquely.
        deadline_s: the deadline of commands that have none of their own, in seconds.
        clock_ms: the wall clock, in milliseconds since 1970.
        seal: signs commands that name a principal or a WebSocket; without it there can be none of either.
    """

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
        self._partitions, self._exclusive = log.partitions, log.exclusive
        self.tracing: RequestTracing | None = None
        self.seal = seal
        self._node = node
        self._clock_ms = clock_ms
        self._deadline_ms = int(deadline_s * 1000)
        self._wait_s = deadline_s + GRACE_S
        self._numbers = count()
        self._marked_s = -inf  # when `_mark` was made, by the loop's clock
        self._mark = ""  # the time and the node, as an id has them
        # by command id, with the time when it is overdue (s)
        self._waiting: dict[str, tuple[ReplyListener, float]] = {}
        self._loop = asyncio.get_running_loop()
        self._owners: Sequence[Owner] = ()
        self._tail: Tail | None = None
        self.sockets: FrameReceiver | None = None
        self._place = place_of(f"gateway/{node}", log.partitions)
        self.address = LOCAL if log.exclusive else f"{self._place}/gateway.{node}"
        self.closed: BaseException | None = None

    async def start(self, owners: Sequence[Owner]) -> None:
        """Begin to accept commands. `owners`: this node's owner of each partition, in order."""
        self._owners = owners
        if not self._log.exclusive:
            end = (await self._log.bounds(Topic.REPLIES, self._place)).end
            self._tail = self._log.tail(Topic.REPLIES, self._place, end, self._replied)

    def close(self, error: BaseException) -> None:
        """Stop, for the reason `error`: new commands raise `Unavailable`, waiting
        ones get `OutcomeUnknown`.
        """
        self.closed = error
        if self._tail is not None:
            self._tail.close()
        waiting, self._waiting = self._waiting, {}
        for id_, (listener, _) in waiting.items():
            try:
                listener.failed(OutcomeUnknown(f"command {id_}: {error}: it may run or have run", id_))
            except Exception:  # the others are still answered
                _logger.exception("command %s: its client could not be answered", id_)

    def check_room(self, key: str) -> int:
        """The partition of object `key`; raises as `submit` does if it has no room for one more command."""
        partition = self._partition_of(key)
        self._owners[partition].check_room(key)
        return partition

    def _partition_of(self, key: str) -> int:
        if self.closed is not None:
            raise Unavailable(f"this node is stopping: {self.closed}")
        return key_hashes[key] % self._partitions

    def _new_id(self, partition: int) -> str:
        """`PARTITION-TIME-NODE-NUMBER`; the time is this node's clock in ms, up to `MARK_S` old."""
        if not 0.0 <= (now_s := self._loop.time()) - self._marked_s < MARK_S:
            self._mark_time(now_s)
        return f"{partition}{self._mark}{next(self._numbers):x}"

    def _mark_time(self, now_s: float) -> None:
        self._marked_s, self._mark = now_s, f"-{self._clock_ms():x}-{self._node}-"

    @property
    def waiting(self) -> int:
        """The number of commands that have no answer yet."""
        return len(self._waiting)

    def submit(
        self,
        listener: ReplyListener,
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
        """Append a command for object `key`; its answer goes to `listener`.

        Args:
            listener: called once, with the answer or the failure, possibly before this returns.
            key: the object, as NAMESPACE/NAME.
            kind: what the command is: `schemas.commands.FETCH`, `CALL`, …
            method: the HTTP method of a fetch, the method's name of a call.
            path: path and query of a fetch, as the object sees them.
            headers: headers of a fetch, without credentials.
            body: the body of a fetch, the arguments of a call.
            client_key: the client's idempotency key; None if it sent none.
            traceparent: the client's trace context (W3C); empty if it sent none.
            deadline_ms: milliseconds that the command may wait for its turn; None for the configured
                deadline.
            principal: the authenticated client; empty without access control. Needs the seal.
            socket: id and gateway of the WebSocket that the request opens; empty if it is not an upgrade.
            hint: the caller's location hint, where to place an object that does not exist yet; empty for
                none.

        Raises `Overloaded`, `Unavailable` or the partition's own error; then nothing is appended.
        """
        # the hot path: what `post` and `accept` share by helper methods is written out here
        if self.closed is not None:
            raise Unavailable(f"this node is stopping: {self.closed}")
        partition = key_hashes[key] % self._partitions
        if deadline_ms is None:
            deadline_ms = self._deadline_ms
        self._owners[partition].check_room(key, deadline_ms)
        if not 0.0 <= (now_s := self._loop.time()) - self._marked_s < MARK_S:
            self._mark_time(now_s)
        id_ = f"{partition}{self._mark}{next(self._numbers):x}"
        if self.tracing is not None:
            listener, traceparent = self.tracing.trace_request(listener, key, kind, method, traceparent)
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
            (),
            0,
            socket,
            hint,
        )
        to, value, fields = self._sealed(command) if principal or socket or hint else command_record(command)
        self._waiting[id_] = (listener, now_s + self._wait_s)
        try:
            receipt = self._log.append(_COMMANDS, partition, Record(to, value, fields), command)
        except TooLarge as error:
            self._waiting.pop(id_)
            listener.failed(error)
            return
        if not self._exclusive:
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
        """Append a command without a reply; returns its receipt.

        Arguments and errors are those of `submit`. The command has no deadline.
        """
        partition = self.check_room(key)
        id_ = self._new_id(partition)
        command = Command(
            key, kind, method, path, headers, body, id_, NOBODY, None, client_key, "", traceparent, hint=hint
        )
        return self._append(partition, command)

    def accept(
        self,
        key: str,
        kind: str,
        method: str,
        path: str,
        headers: Pairs,
        body: bytes,
        envelope: ClientEnvelope,
    ) -> tuple[str, Receipt]:
        """Append a command whose reply is kept to be read later; returns its id and its receipt.

        The first arguments and the errors are those of `submit`; `envelope` is the client's part of the
        command. Without a client key the command's own id becomes its key: a command with a key leaves an
        entry, even if it changes nothing.
        """
        partition = self.check_room(key)
        id_ = self._new_id(partition)
        client_key, principal, traceparent = envelope
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
            client_key or id_,
            principal,
            traceparent,
        )
        return id_, self._append(partition, command)

    def administer(self, listener: ReplyListener, key: str, act: str, body: bytes, principal: str) -> None:
        """Append an act of administration, even if its object has no room. Raises like `submit`.

        Args:
            listener: as of `submit`.
            key: the object that is acted on, as NAMESPACE/NAME.
            act: one of the acts of `schemas.admin`, such as `PAUSE`.
            body: the act's arguments, a `schemas.admin.Asked` as JSON.
            principal: the operator; empty without access control.
        """
        partition = self._partition_of(key)
        owner = self._owners[partition]
        if owner.state is not OwnerState.SERVING:
            owner.whereabouts.check(owner)
        id_ = self._new_id(partition)
        deadline_ms = self._deadline_ms
        command = Command(key, ADMIN, act, "", (), body, id_, self.address, deadline_ms, None, principal)
        self._waiting[id_] = (listener, self._loop.time() + self._wait_s)
        try:
            receipt = self._append(partition, command)
        except TooLarge as error:
            self._waiting.pop(id_)
            listener.failed(error)
            return
        if not self._log.exclusive:
            receipt.when_durable(lambda error: self._appended(id_, error))

    def _append(self, partition: int, command: Command) -> Receipt:
        record = self._sealed(command) if command.internal else command_record(command)
        return self._log.append(_COMMANDS, partition, Record(*record), command)

    def _sealed(self, command: Command) -> tuple[bytes, bytes, Headers]:
        assert self.seal is not None, "principals and WebSockets need a gateway with a seal"
        return sealed_record(command, self.seal)

    def _appended(self, id_: str, error: BaseException | None) -> None:
        if error is not None and (waiting := self._waiting.pop(id_, None)) is not None:
            if isinstance(error, OutcomeUnknown):
                error = OutcomeUnknown(f"command {id_}: {error}: it may run or have run", id_)
            waiting[0].failed(error)

    # Called by owners

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        """Deliver a reply to its listener; False if `reply_to` is not this gateway.

        Args:
            reply_to: the command's reply address.
            id_: the command's id.
            reply: the owner's reply.
            partition: the partition of the command.
            offset: the offset of the command on the log.
        """
        if reply_to != self.address:
            return reply_to == NOBODY or (self.sockets is not None and self.sockets.ended(reply_to, id_))
        waiting = self._waiting.pop(id_, None)
        if waiting is not None:  # otherwise it has its answer already
            try:
                waiting[0].answered(PlacedReply(reply, partition, offset))
            except Exception as error:  # noqa: BLE001 - a failure of a door must not stop the partition
                report(error, f"the answer to command {id_} could not be sent")
                with suppress(Exception):
                    waiting[0].failed(
                        OutcomeUnknown(f"command {id_} was done, but its answer could not be sent", id_)
                    )
        return True

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """See `Ingress.frames`."""
        return self.sockets is not None and self.sockets.frames(out, partition, offset, n)

    def holds(self, gateway: str) -> bool:
        """True if the sockets of the gateway at this address are here."""
        return self.sockets is not None and gateway == self.sockets.address

    def stopped(self, partition: int, error: BaseException) -> None:
        """Fail all waiting commands of a partition that has stopped."""
        prefix = f"{partition}-"
        for id_ in [id_ for id_ in self._waiting if id_.startswith(prefix)]:
            listener, _ = self._waiting.pop(id_)
            listener.failed(OutcomeUnknown(f"command {id_} may run or have run: {error}", id_))

    def _replied(self, record: LogRecord) -> None:
        if self.sockets is not None and self.sockets.receive(record):
            return
        if record.key != self.address.partition("/")[2].encode():
            return  # for another gateway
        try:
            reply = parse_reply(record.value, record.headers)
            partition, offset = map(int, reply.command.split(":"))
        except ValueError:
            return  # others may write to the topic: ignore what is not a reply
        self.answer(self.address, reply.correlation_id, reply.reply, partition, offset)

    async def sweep(self) -> None:
        """Fail overdue commands as `OutcomeUnknown`, once a second, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._loop.time()
            for id_ in self._overdue(now_s):
                listener, _ = self._waiting.pop(id_)
                message = f"command {id_} was not answered within {self._wait_s:g} s: it may run or have run"
                listener.failed(OutcomeUnknown(message, id_))

    def _overdue(self, now_s: float) -> list[str]:
        overdue = []
        for id_, (_, due_s) in self._waiting.items():
            if due_s > now_s:
                break  # all wait equally long: the first that is not due ends the search
            overdue.append(id_)
        return overdue
