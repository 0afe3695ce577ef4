"""Calls and sends of one partition's turns: how a turn speaks to other objects.

Laws
- A call leaves when the turn's own command and all the turn has seen are durable and an append sent after that
  command arrived has been acknowledged in its place (`synced`; once per turn, nothing new is seen without it).
- A call has the key `call:{partition}:{offset}:{n}`; the turn that runs again asks under the same key and is given
  the stored answer. So an append whose outcome is unknown is made again, until the deadline.
- The deadline is what is left of the caller's. Past it: `Expired` if the callee says so, the last reason if nothing
  was appended, else `OutcomeUnknown`.
- A turn that called an object which waits for it fails with `Deadlock`: at once if the chain of callers names it;
  after `PROBE_S` if calls cross. Of a ring one call is taken out of the mailbox it stands in, so it never runs.
- A key that was spent on another call fails the whole turn, whatever its handler makes of it.
- A send is a record in the entry's outbox, under the key `send:{partition}:{offset}:{n}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from typing import Any

from msgspec.structs import replace

from perdure.objects.turn import Outcome
from perdure.schemas.calls import CALL_KEY, PRINCIPAL, SEND_KEY, CallKey, key_of_link, link
from perdure.schemas.commands import NOBODY, Command, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.errors import (
    AskAgain,
    Deadlock,
    Expired,
    Fenced,
    NonDeterministic,
    OperatorError,
    OutcomeUnknown,
    Overloaded,
    PerdureError,
    TurnEnded,
    Unavailable,
)
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import FAILED, UNAVAILABLE, Reply, error_reply
from perdure.streams.exchange import Call
from perdure.streams.journal import Journal
from perdure.streams.log import Record, Topic
from perdure.streams.mailbox import Resident, Turn
from perdure.streams.owning import Ports
from perdure.streams.turns import Turns

CALL_MS = 30_000  # of a call whose caller has no deadline itself
GRACE_S = 2.0  # the callee's own word on an expired call is waited for so long
RETRY_S = (0.05, 1.0)  # first and longest pause before a call is let out again; doubling, with jitter
PROBE_S = 0.2


class Calling:
    """What one turn has called and sent so far; made when it first does."""

    __slots__ = ("calls", "failure", "ids", "proof", "sends", "waiting")

    def __init__(self) -> None:
        self.calls = self.sends = self.ids = 0
        self.waiting: dict[Call, None] = {}
        self.proof: asyncio.Future[None] | None = None
        self.failure: PerdureError | None = None


class Calls:
    """Of one owner. `low_mark` tells its partition's; `check_room` is what its doors ask."""

    def __init__(
        self,
        ports: Ports,
        partition: int,
        journal: Journal,
        turns: Turns,
        low_mark: Callable[[], int],
        check_room: Callable[[str], None],
    ) -> None:
        self._ports = ports
        self._log = ports.log
        self._partition = partition
        self._journal = journal
        self._turns = turns
        self._low_mark = low_mark
        self.check_room = check_room
        self._exchange = ports.exchange
        self._loop = asyncio.get_running_loop()
        ports.exchange.join(ports.log, ports.node, partition, self)

    def resident(self, key: str) -> Resident | None:
        """See `Peer`."""
        return self._turns.residents.get(key)

    # What a turn may ask; see `perdure.objects.ports.Caller`

    def call(self, turn: Turn, asked: Command) -> Coroutine[Any, Any, Reply]:
        tracing = self._ports.tracing
        return self._call(turn, asked) if tracing is None else tracing.calling(turn, asked, self._call)

    async def _call(self, turn: Turn, asked: Command) -> Reply:
        calling = self._of(turn, f"called {asked.key}")
        calling.calls += 1
        key = CallKey(CALL_KEY, self._partition, turn.offset, calling.calls)
        own = turn.command
        chain = (*own.chain, link(own.key, self._partition, turn.offset))
        if any(key_of_link(each) == asked.key for each in chain):
            told = " -> ".join((*chain, asked.key))
            raise Deadlock(f"{own.key} called {asked.key}, which waits for it: {told}")
        until_s = turn.until_s if turn.until_s is not None else self._loop.time() + CALL_MS / 1000
        await self.synced(turn)
        partition = partition_of(asked.key, self._log.partitions)
        id_ = self._exchange.new_id(partition, self._ports.clock_ms())
        call = Call(turn, self._enveloped(asked, turn, key, id_, self._exchange.address, chain), partition)
        calling.waiting[call] = None
        try:
            reply = await self._reply(call, until_s)
        finally:
            del calling.waiting[call]
            self._exchange.forget(call)
        if reply.error is not None and reply.outcome != FAILED and reply.error.code == NonDeterministic.code:
            calling.failure = NonDeterministic(reply.error.message)
            raise calling.failure
        return reply

    def send(self, turn: Turn, asked: Command) -> None:
        calling = self._of(turn, f"sent to {asked.key}")
        calling.sends += 1
        key = CallKey(SEND_KEY, self._partition, turn.offset, calling.sends)
        partition = partition_of(asked.key, self._log.partitions)
        id_ = f"{partition}-{turn.time_ms:x}-{self._partition}-s{turn.offset:x}.{calling.sends:x}"
        sent = sealed_record(self._enveloped(asked, turn, key, id_, NOBODY, ()), self._ports.seal)
        assert turn.overlay is not None
        turn.overlay.effect().outbox.append(Out(Topic.COMMANDS.value, partition, *sent))

    async def synced(self, turn: Turn) -> None:
        calling = self._of(turn, "asked whether it is durable")
        if calling.proof is None:
            calling.proof = self._loop.create_future()
            self._journal.prove(_resolving(calling.proof))
        if not calling.proof.done():
            await asyncio.shield(calling.proof)  # several calls of the turn may wait for it

    def new_id(self, turn: Turn) -> str:
        calling = self._of(turn, "asked for an id")
        calling.ids += 1
        place = f"{self._ports.app_uuid}:{self._partition}:{turn.offset}:{calling.ids}"
        return blake2b(place.encode(), digest_size=16).hexdigest()

    # How

    def _of(self, turn: Turn, what: str) -> Calling:
        if turn.over or turn.cut is not None:
            told = f"{turn.command.key} {what} outside its turn: await what you start inside the handler"
            raise TurnEnded(told)
        if turn.calling is None:
            turn.calling = Calling()
        return turn.calling

    def _enveloped(
        self, asked: Command, turn: Turn, key: CallKey, id_: str, reply_to: str, chain: tuple[str, ...]
    ) -> Command:
        own = turn.command
        return replace(
            asked,
            id=id_,
            reply_to=reply_to,
            client_key=str(key),
            principal=PRINCIPAL + own.key,
            traceparent=asked.traceparent or own.traceparent,
            chain=chain,
            mark=self._low_mark(),
            socket="",  # what a turn accepts is its own
        )

    async def _reply(self, call: Call, until_s: float) -> Reply:
        """The answer, asked for again while that is safe and there is time."""
        pause_s = RETRY_S[0]
        trouble: PerdureError | None = None
        try:
            while (left_ms := round((until_s - self._loop.time()) * 1000)) > 0:
                try:
                    reply = await self._attempt(call, left_ms)
                    if not _lost(reply):
                        return reply
                    trouble = AskAgain(f"{call.command.key}: its answer was lost with its owner")
                except OutcomeUnknown as error:
                    call.unknown = error
                except Unavailable as error:
                    trouble = error
                    call.no_room = type(error) is Overloaded
                    self._check_ring(call)
                await asyncio.sleep(min(pause_s * (0.5 + self._ports.random.random()), left_ms / 1000))
                pause_s = min(pause_s * 2, RETRY_S[1])
        except OperatorError as error:
            # of the callee's partition: it has stopped, or its log does not answer
            trouble = Unavailable(f"{call.command.key} cannot be called: {error.code}: {error}")
        if call.unknown is not None:
            raise call.unknown
        trouble = trouble or Expired(f"no time was left for a call to {call.command.key}")
        trouble.of_call = True
        raise trouble

    def _check_ring(self, call: Call) -> None:
        """A call that found no room waits for whoever fills it. Raises `Deadlock` if that is itself."""
        if not call.no_room or call.unknown is not None or isinstance(self._exchange.queued(call), Turn):
            return
        if ring := self._exchange.ring(call):
            raise Deadlock(_told(call, ring))

    async def _attempt(self, call: Call, left_ms: int) -> Reply:
        """Append it and wait. Raises `Unavailable` (not appended) or `OutcomeUnknown`."""
        self._of(call.turn, f"called {call.command.key}")
        call.no_room = False
        peer = self._exchange.peers.get(call.partition)
        if peer is not None:
            with contextlib.suppress(Fenced):  # another node has it: it reads the same log
                peer.check_room(call.command.key)
        await self._exchange.listen()
        call.command = command = replace(call.command, deadline_ms=left_ms, mark=self._low_mark())
        call.future = self._loop.create_future()
        self._exchange.expect(call)
        sealed = sealed_record(command, self._ports.seal)
        receipt = self._log.append(Topic.COMMANDS, call.partition, Record(*sealed), command)
        if not self._log.exclusive:
            receipt.when_durable(lambda error: None if error is None else call.failed(error))
        told = f"the call of {command.key} was not answered within {left_ms} ms: it may run or have run"
        timers = [
            self._loop.call_later(left_ms / 1000 + GRACE_S, call.failed, OutcomeUnknown(told)),
            self._loop.call_later(PROBE_S, self._probe, call, call.future),
        ]
        try:
            return await call.future
        finally:
            for timer in timers:
                timer.cancel()

    # Rings

    def _probe(self, call: Call, future: asyncio.Future[Reply]) -> None:
        """It waits for long: does it wait for itself?"""
        if future.done() or call.turn.over:
            return
        exchange = self._exchange
        queued = exchange.queued(call)
        ring = [] if queued is None else exchange.ring(call)
        if not ring:
            self._loop.call_later(PROBE_S, self._probe, call, future)
            return
        told = _told(call, ring)
        if isinstance(queued, Turn):
            reply = error_reply(FAILED, Deadlock.code, told)
            exchange.peers[call.partition].withdraw(queued, Outcome(reply, False, True, False))
        else:
            call.failed(Deadlock(told))  # it waits on the log, and may run later

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        """See `Peer`."""
        self._turns.withdraw(turn, outcome)


def _told(call: Call, ring: list[Turn]) -> str:
    names = [*(turn.command.key for turn in ring), call.turn.command.key]
    return f"{names[0]} called {call.command.key}, and they wait for each other: {' -> '.join(names)}"


def _lost(reply: Reply) -> bool:
    return reply.outcome == UNAVAILABLE and reply.error is not None and reply.error.code == AskAgain.code


def _resolving(future: asyncio.Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve
