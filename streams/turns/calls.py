"""Calls and sends: how the turns of one partition reach other objects.

A call appends a command to the log, as a client's request does, and waits for its reply through
`PendingCalls`. A send is part of the turn's entry and leaves once that is durable.

Laws [test_calls.py, test_calls_again.py, test_sends.py]
- A call leaves when the turn's own command and all that the turn has read are durable, and an append sent
  after that command arrived has been acknowledged (`synced`; once a turn, since nothing new is read without
  it).
- The key of a call is made of the turn's root, the request, and the number of equal requests in flight or
  answered (schemas/calls.py). The same key gets the stored reply again. So an append whose outcome is unknown
  is repeated until the deadline, and a call that ended without a reply is the same call when it is repeated.
- The deadline is what is left of the caller's. Past it: `Expired` if the callee reports that, the last reason
  if nothing was appended, `OutcomeUnknown` otherwise.
- A turn that called an object which waits for it fails with `Deadlock`: at once if the chain of callers names
  it, after `PROBE_S` if calls cross. One call of a ring is withdrawn from its mailbox, so it never runs.
- A send is a record in the entry's outbox, under the key `send:{partition}:{offset}:{n}`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from random import Random
from typing import Any

from msgspec.structs import replace

from perdure.objects.turn import Outcome
from perdure.schemas.calls import (
    NOWHERE,
    PRINCIPAL,
    SEND_KEY,
    CallKey,
    content_of,
    free_number,
    key_of_link,
    link,
    root_of,
)
from perdure.schemas.commands import NOBODY, Command, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.errors import (
    AskAgain,
    Deadlock,
    Expired,
    Fenced,
    OperatorError,
    OutcomeUnknown,
    Overloaded,
    PerdureError,
    TurnEnded,
    Unavailable,
)
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import FAILED, UNAVAILABLE, Reply, error_reply
from perdure.streams.journal.writer import Journal
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns.activation import Activation, Turn
from perdure.streams.turns.keys_in_flight import Spending, spending_of
from perdure.streams.turns.known_calls import KnownCalls, made_of
from perdure.streams.turns.pending_calls import Call
from perdure.streams.turns.ports import Identity, Transport
from perdure.streams.turns.runner import Turns
from perdure.streams.turns.tracing import Tracing
from perdure.streams.turns.turn_calls import TurnCalls

CALL_MS = 30_000  # of a call whose caller has no deadline itself
GRACE_S = 2.0  # how long the callee's own `Expired` is awaited
RETRY_S = (0.05, 1.0)  # first and longest pause before a call is repeated; doubling, with jitter
PROBE_S, PROBE_MOST_S = 0.2, 3.2  # first and longest time until a waiting call is checked for a ring


class Calls:
    """Makes the calls and sends of one owner's turns, and is the `Peer` that other owners call.

    transport: the log, the seal and the clocks; `identity` names the node.
    tracing: receives calls; None if the process does not trace.
    partition, journal, turns: those of the owner.
    low_mark: returns the partition's low watermark.
    check_room: `check_room(key)` raises if the gateway would refuse a command.
    has_taken, elsewhere: see `Peer`.
    """

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        tracing: Tracing | None,
        partition: int,
        journal: Journal,
        turns: Turns,
        low_mark: Callable[[], int],
        check_room: Callable[[str], None],
        has_taken: Callable[[int], bool],
        elsewhere: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._app_uuid = identity.app_uuid
        self._tracing = tracing
        self._log = transport.log
        self._partition = partition
        self._journal = journal
        self._turns = turns
        self._low_mark = low_mark
        self.check_room = check_room
        self.has_taken, self.elsewhere = has_taken, elsewhere
        self.known = KnownCalls(turns.tables, turns.keys_in_flight)
        self._pending_calls = transport.pending_calls
        self._loop = asyncio.get_running_loop()
        transport.pending_calls.join(transport.log, identity.node, partition, self)

    def activation(self, key: str) -> Activation | None:
        """See `Peer`."""
        return self._turns.activations.get(key)

    # What a turn may do; see `perdure.objects.ports.Caller`

    def call(self, turn: Turn, request: Command) -> Coroutine[Any, Any, Reply]:
        tracing = self._tracing
        return self._call(turn, request) if tracing is None else tracing.calling(turn, request, self._call)

    async def _call(self, turn: Turn, request: Command) -> Reply:
        calling = self._of(turn, f"called {request.key}")
        own = turn.command
        chain = (*own.chain, link(own.key, self._partition, turn.offset))
        if any(key_of_link(each) == request.key for each in chain):
            text = " -> ".join((*chain, request.key))
            raise Deadlock(f"{own.key} called {request.key}, which waits for it: {text}")
        until_s = turn.until_s if turn.until_s is not None else self._loop.time() + CALL_MS / 1000
        key = calling.take(content_of(request))
        if self._turns.reruns.may_have_run(turn):
            calling.requests[key] = made_of(request)
        reply = call = None
        try:
            await self.synced(turn)
            partition = partition_of(request.key, self._log.partitions)
            id_ = self._pending_calls.new_id(partition, self._transport.clock_ms())
            left_ms = max(int((until_s - self._loop.time()) * 1000), 0)
            command = self._enveloped(request, turn, key, id_, self._pending_calls.address, chain, left_ms)
            call = Call(turn, command, partition)
            calling.waiting[call] = None
            if key in calling.requests:
                reply = await self._reply_of_then(calling, call, key)
            if reply is None:
                reply = await self._reply(call, until_s)
            calling.made.append(call.made())
        finally:
            if call is not None:
                del calling.waiting[call]
                self._pending_calls.forget(call)
            if reply is None or reply.outcome == UNAVAILABLE:
                free_number(calling.taken, key.content, key.n)
        return reply

    def send(self, turn: Turn, request: Command) -> None:
        calling = self._of(turn, f"sent to {request.key}")
        calling.sends += 1
        key = CallKey(SEND_KEY, self._partition, turn.offset, calling.sends)
        partition = partition_of(request.key, self._log.partitions)
        id_ = f"{partition}-{turn.time_ms:x}-{self._partition}-s{turn.offset:x}.{calling.sends:x}"
        sent = sealed_record(self._enveloped(request, turn, key, id_, NOBODY, ()), self._transport.seal)
        assert turn.overlay is not None
        turn.overlay.effect().outbox.append(Out(Topic.COMMANDS.value, partition, *sent))

    async def synced(self, turn: Turn) -> None:
        calling = self._of(turn, "asked whether it is durable")
        if calling.proof is None:
            calling.proof = self._loop.create_future()
            self._journal.add_barrier(_resolving(calling.proof))
        if not calling.proof.done():
            await asyncio.shield(calling.proof)  # several calls of the turn may wait for it

    def new_id(self, turn: Turn) -> str:
        calling = self._of(turn, "asked for an id")
        calling.ids += 1
        return blake2b(f"{self._named(calling)}:{calling.ids}".encode(), digest_size=16).hexdigest()

    def random(self, turn: Turn) -> Random:
        calling = self._of(turn, "asked for a random number")
        if calling.random is None:
            calling.random = Random(f"{self._named(calling)}:random")
        return calling.random

    # How

    def _of(self, turn: Turn, what: str) -> TurnCalls:
        if turn.over or turn.cut is not None:
            text = f"{turn.command.key} {what} outside its turn: await what you start inside the handler"
            raise TurnEnded(text)
        if turn.calling is None:
            turn.calling = TurnCalls(root_of(turn.command, self._partition, turn.offset))
        return turn.calling

    def _named(self, calling: TurnCalls) -> str:
        """Return a name of the turn that is the same when it runs again, and when
        it is repeated under its key.
        """
        root = calling.root
        return f"{self._app_uuid}:{root.parent or f'{root.partition}:{root.offset}'}"

    def _enveloped(
        self,
        request: Command,
        turn: Turn,
        key: CallKey,
        id_: str,
        reply_to: str,
        chain: tuple[str, ...],
        deadline_ms: int | None = None,
    ) -> Command:
        own = turn.command
        return replace(
            request,
            id=id_,
            reply_to=reply_to,
            deadline_ms=deadline_ms,
            client_key=str(key),
            principal=PRINCIPAL + own.key,
            traceparent=request.traceparent or own.traceparent,
            chain=chain,
            mark=self._mark(key, own),
            socket="",  # a socket that a turn accepts is its own
        )

    async def _reply_of_then(self, calling: TurnCalls, call: Call, key: CallKey) -> Reply | None:
        """Return the reply to this call from the previous run, if its partition is here and has it."""
        peer = self._pending_calls.peers.get(call.partition)
        if peer is None or peer.elsewhere():
            if not await self._turns.reruns.made_elsewhere(call.turn, call.partition, key):
                calling.fresh.append(calling.requests[key])
            return None
        reply = peer.known.reply_to(key)
        if reply is None and peer.turn_of(spending_of(call.command)) is None:
            calling.fresh.append(calling.requests[key])
        return reply

    def _mark(self, key: CallKey, caller: Command) -> int:
        """Return the low watermark of the partition that the key names: the caller's root, or this one."""
        if key.partition == NOWHERE:
            return 0
        return caller.mark if key.parent else self._low_mark()

    async def _reply(self, call: Call, until_s: float) -> Reply:
        """Return the reply; repeat the call while that is safe and there is time."""
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
                await asyncio.sleep(min(pause_s * (0.5 + self._transport.random.random()), left_ms / 1000))
                pause_s = min(pause_s * 2, RETRY_S[1])
        except OperatorError as error:
            # of the callee's partition: it has stopped, or its log does not answer
            trouble = Unavailable(f"{call.command.key} cannot be called: {error.code}: {error}")
        if call.unknown is not None:
            call.unknown.of_call = True
            raise call.unknown
        trouble = trouble or Expired(f"no time was left for a call to {call.command.key}")
        trouble.of_call = True
        raise trouble

    def _check_ring(self, call: Call) -> None:
        """Raises `Deadlock` if a call that found no room waits for its own turn.

        If an earlier run of the turn made it, and it waits in the full mailbox itself, it is withdrawn there.
        """
        if not call.no_room or call.unknown is not None:
            return
        if (ring := self._pending_calls.ring(call)) and not self._withdrew(call, ring):
            raise Deadlock(_ring_text(call, ring))

    async def _attempt(self, call: Call, left_ms: int) -> Reply:
        """Append it and wait. Raises `Unavailable` (not appended) or `OutcomeUnknown`."""
        self._of(call.turn, f"called {call.command.key}")
        tried, call.tried = call.tried, True
        call.no_room = False
        peer = self._pending_calls.peers.get(call.partition)
        if peer is not None:
            with contextlib.suppress(Fenced):  # another node has it: it reads the same log
                peer.check_room(call.command.key)
        await self._pending_calls.listen()
        if tried:
            call.command = replace(call.command, deadline_ms=left_ms)
        command = call.command
        call.future = self._loop.create_future()
        self._pending_calls.expect(call)
        sealed = sealed_record(command, self._transport.seal)
        try:
            call.receipt = receipt = self._log.append(
                Topic.COMMANDS, call.partition, Record(*sealed), command
            )
        except BaseException:
            self._pending_calls.forget(call)
            raise
        if not self._log.exclusive:
            receipt.when_durable(lambda error: None if error is None else call.failed(error))
        due_s = self._loop.time() + left_ms / 1000 + GRACE_S
        timer = self._loop.call_later(PROBE_S, self._look, call, call.future, due_s, PROBE_S)
        try:
            return await call.future
        finally:
            timer.cancel()

    def _look(self, call: Call, future: asyncio.Future[Reply], due_s: float, waited_s: float) -> None:
        """Fail a waiting call that is past its deadline, or part of a ring.

        The newest call closes a ring, so each call may be checked less and less often.
        """
        if future.done() or call.turn.over:
            return
        left_s = due_s - self._loop.time()
        if left_s <= 0:
            text = f"the call of {call.command.key} was not answered within {call.command.deadline_ms} ms"
            call.failed(OutcomeUnknown(f"{text}: it may run or have run"))
            return
        if not self._broke_ring(call):
            call.long = True
            self._pending_calls.on_long_wait()
            again_s = min(waited_s, left_s)
            self._loop.call_later(again_s, self._look, call, future, due_s, min(waited_s * 2, PROBE_MOST_S))

    # Rings

    def _broke_ring(self, call: Call) -> bool:
        """True if the call was part of a ring, which is broken now."""
        pending = self._pending_calls
        ring = [] if pending.queued(call) is None else pending.ring(call)
        if not ring:
            return False
        if not self._withdrew(call, ring):
            call.failed(Deadlock(_ring_text(call, ring)))  # it waits on the log, and may run later
        return True

    def _withdrew(self, call: Call, ring: list[Turn]) -> bool:
        """True if the call waited in a mailbox of this process: it never runs, and is answered `Deadlock`."""
        queued = self._pending_calls.queued(call)
        if not isinstance(queued, Turn):
            return False
        reply = error_reply(FAILED, Deadlock.code, _ring_text(call, ring))
        self._pending_calls.peers[call.partition].withdraw(queued, Outcome(reply, False, True, False))
        return True

    # As a `Peer`

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        self._turns.withdraw(turn, outcome)

    def turn_of(self, spending: Spending) -> Turn | int | None:
        return self._turns.keys_in_flight.turn_of(spending)


def _ring_text(call: Call, ring: list[Turn]) -> str:
    names = [*(turn.command.key for turn in ring), call.turn.command.key]
    return f"{names[0]} called {call.command.key}, and they wait for each other: {' -> '.join(names)}"


def _lost(reply: Reply) -> bool:
    return reply.outcome == UNAVAILABLE and reply.error is not None and reply.error.code == AskAgain.code


def _resolving(future: asyncio.Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve
