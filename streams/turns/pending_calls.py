"""The pending calls of a node: which turn waits for the reply to which call, and
which turns wait for each other.

A call is registered here before it is appended, and is completed by its id when a reply arrives: directly
from an owner of this process, or over `{app}.replies` from an owner of another one.

Laws [test_calls.py, test_pending_calls.py]
- A call is expected here before it is appended, and answered at most once.
- The address for replies differs from the gateway's. Owners of this process hand replies over directly;
  others write to `{app}.replies`, which is read from the first call on.
- Turns wait in a ring if each of them waits for a call that is in a mailbox behind the running turn of the
  next one's object, or that finds no room there. A call that runs, or has ended and is not durable yet, does
  not count as waiting: the calls that it waits for count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Protocol

import msgspec

from perdure.objects.turn import Outcome
from perdure.schemas.calls import PRINCIPAL
from perdure.schemas.commands import Command
from perdure.schemas.errors import OutcomeUnknown
from perdure.schemas.journal import CallMade
from perdure.schemas.keys import partition_of, place_of
from perdure.schemas.replies import Reply, parse_reply
from perdure.streams.log.base import Log, LogRecord, Receipt, Tail, Topic
from perdure.streams.turns.activation import Activation, Turn
from perdure.streams.turns.keys_in_flight import Spending, spending_of

if TYPE_CHECKING:
    from perdure.streams.turns.known_calls import KnownCalls

SUMMARY_CHARS = 80  # of a call in its caller's entry
ON_THE_SPOT = "calls"  # the address on an exclusive log: all owners are in this process


class LongWait(msgspec.Struct, frozen=True, array_like=True):
    """A call that has waited for a while: an object waits for another one. `key`: the call's own."""

    caller: str
    callee: str
    key: str


class Call:
    """One call that waits for its reply: `command` as it is appended, `turn` is the caller."""

    __slots__ = ("command", "future", "long", "no_room", "partition", "receipt", "tried", "turn", "unknown")

    def __init__(self, turn: Turn, command: Command, partition: int) -> None:
        self.turn = turn
        self.command = command
        self.partition = partition
        self.future: asyncio.Future[Reply] | None = None
        self.long = False  # it has waited for a while
        self.tried = False  # an append was attempted
        self.no_room = False  # its object's mailbox is full: it was not appended, and is tried again
        self.unknown: OutcomeUnknown | None = None  # an earlier attempt may have run
        self.receipt: Receipt | None = None  # of its latest append

    def made(self) -> CallMade:
        """Return what the entry of the caller's turn says of it, once it was answered."""
        request, offset = self.command, None if self.receipt is None else self.receipt.offset
        summary = f"{request.kind} {request.method} {request.path}"[:SUMMARY_CHARS]
        return CallMade(request.key, summary, self.partition, -1 if offset is None else offset)

    def answered(self, reply: Reply) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(reply)

    def failed(self, error: BaseException) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Peer(Protocol):
    """An owner of this process, as other owners' calls see it."""

    def activation(self, key: str) -> Activation | None:
        """The object, if it is in memory."""

    @property
    def check_room(self) -> Callable[[str], None]:
        """A function that raises if the gateway would refuse a command for that object now."""

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        """Take a turn out of its object's mailbox and conclude it with this outcome."""

    def turn_of(self, spending: Spending) -> Turn | int | None:
        """Return the turn in flight under this key; its offset if only that is in memory."""

    # For turns that run again, see reruns.py

    def has_taken(self, end: int) -> bool:
        """True if all commands below that offset have been taken, or its partition has stopped for good."""

    def elsewhere(self) -> bool:
        """True if another node serves its partition."""

    @property
    def known(self) -> KnownCalls:
        """The calls that its partition knows of."""


class PendingCalls:
    """The pending calls of one process. Owners `join` it; it reads `{app}.replies` from the first call on."""

    def __init__(self) -> None:
        self.address = ON_THE_SPOT
        self.peers: dict[int, Peer] = {}
        self._log: Log | None = None
        self._node = ""
        self._place = 0
        self._expected: dict[str, Call] = {}
        self._numbers = count()
        self._tail: Tail | None = None
        self._listening: asyncio.Lock | None = None
        self.on_long_wait: Callable[[], object] = int  # where nodes share the log: they compare what waits

    def join(self, log: Log, node: str, partition: int, peer: Peer) -> None:
        """Register an owner of this process, which can be called and can call."""
        self.peers[partition] = peer
        self._log, self._node = log, node
        if not log.exclusive:
            self._place = place_of(f"calls/{node}", log.partitions)
            self.address = f"{self._place}/calls.{node}"

    async def listen(self) -> None:
        """Read the replies that owners of other processes write. Raises what reading the log raises."""
        log = self._log
        assert log is not None, "a call was made before its owner joined"
        if log.exclusive or self._tail is not None:
            return
        if self._listening is None:
            self._listening = asyncio.Lock()
        async with self._listening:
            if self._tail is None:
                end = (await log.bounds(Topic.REPLIES, self._place)).end
                self._tail = log.tail(Topic.REPLIES, self._place, end, self._replied)

    def close(self) -> None:
        """Stop reading replies."""
        if self._tail is not None:
            self._tail.close()

    def new_id(self, partition: int, clock_ms: int) -> str:
        """The id of a command for that partition."""
        return f"{partition}-{clock_ms:x}-{self._node}-c{next(self._numbers):x}"

    def expect(self, call: Call) -> None:
        self._expected[call.command.id] = call

    def forget(self, call: Call) -> None:
        self._expected.pop(call.command.id, None)

    # What owners call

    def answer(self, reply_to: str, id_: str, reply: Reply) -> bool:
        """Hand over a reply; False if `reply_to` is not this exchange."""
        if reply_to != self.address:
            return False
        call = self._expected.pop(id_, None)
        if call is not None:  # otherwise its caller is gone, or has its reply
            call.answered(reply)
        return True

    def stopped(self, partition: int, error: BaseException) -> None:
        """Fail the calls to a partition that has stopped for good."""
        for call in [call for call in self._expected.values() if call.partition == partition]:
            self.forget(call)
            call.failed(OutcomeUnknown(f"the call of {call.command.key} may run or have run: {error}"))

    def _replied(self, record: LogRecord) -> None:
        if record.key != self.address.partition("/")[2].encode():
            return  # for another node or a gateway
        try:
            message = parse_reply(record.value, record.headers)
        except ValueError:
            return  # other programs may write to the topic: ignore what is not a reply
        self.answer(self.address, message.correlation_id, message.reply)

    # Rings of turns that wait for each other

    def long_waits(self, most: int) -> list[LongWait]:
        """The calls that have waited for a while, `most` of them at most."""
        waits = []
        for call in self._expected.values():
            if call.long and not call.turn.over:
                command = call.command
                waits.append(LongWait(call.turn.command.key, command.key, command.client_key or ""))
                if len(waits) == most:
                    break
        return waits

    def waiting_here(self, wait: LongWait) -> tuple[Peer, Turn] | None:
        """The turn of a call that waits in a mailbox of this process, and its owner; None if it does not."""
        if self._log is None:
            return None
        peer = self.peers.get(partition_of(wait.callee, self._log.partitions))
        turn = None if peer is None else peer.turn_of((wait.callee, PRINCIPAL + wait.caller, wait.key))
        return (peer, turn) if peer is not None and isinstance(turn, Turn) and _waits(turn) else None

    def ring(self, call: Call) -> list[Turn]:
        """Return the turns that wait for each other because of this call, its own
        first; empty if there is no ring.
        """
        path = [call.turn]
        seen: set[Turn] = set()
        under_way = [iter((call,))]  # for each turn of the path, the calls that are still to be examined
        while under_way:
            blocker = None
            for each in under_way[-1]:
                blocker = self.blocker(each)
                if blocker is not None and (blocker is path[0] or blocker not in seen):
                    break
                blocker = None
            if blocker is None:
                under_way.pop()
                if under_way:
                    path.pop()
            elif blocker is path[0]:
                return path
            elif blocker.calling is not None:
                seen.add(blocker)
                path.append(blocker)
                under_way.append(iter(blocker.calling.waiting))
        return []

    def blocker(self, call: Call) -> Turn | None:
        """Return the turn that must end before this call does: its own, or the one it waits behind."""
        peer = self.peers.get(call.partition)
        activation = None if peer is None else peer.activation(call.command.key)
        running = None if activation is None else activation.running
        if running is None or peer is None or call.no_room:
            return running
        waiting = peer.turn_of(spending_of(call.command))
        return running if waiting is running or _waits(waiting) else None

    def queued(self, call: Call) -> Turn | int | None:
        """The call's turn in its object's mailbox (or that of an earlier copy); its
        offset if it waits on the log only.
        """
        peer = self.peers.get(call.partition)
        waiting = None if peer is None else peer.turn_of(spending_of(call.command))
        return waiting if _waits(waiting) else None


def _waits(waiting: Turn | int | None) -> bool:
    """True if it waits in a mailbox: it does not run, and has not ended."""
    if waiting is None or isinstance(waiting, int):
        return waiting is not None
    activation = waiting.activation
    assert activation is not None
    return (
        not waiting.over
        and waiting.entry is None
        and waiting.reply is None
        and activation.running is not waiting
    )
