"""The exchange of a node: who of its turns waits for the answer of which call, and who of them wait for each other.

Laws
- A call is expected here before it is appended, and answered at most once, by its id.
- The exchange has an address of its own, apart from the doors': owners of this process hand over directly, others
  write to `{app}.replies`, which is read from the first call on.
- Turns wait in a ring if each of them waits for a call that stands in a mailbox behind the next one's object's
  running turn, or finds no room there. A call that runs, or has ended and is not durable yet, is no such wait: what
  it waits for counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Protocol

from perdure.objects.turn import Outcome
from perdure.schemas.commands import Command
from perdure.schemas.errors import OutcomeUnknown
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import Reply, parse_reply
from perdure.streams.log.base import Log, LogRecord, Tail, Topic
from perdure.streams.turns.activation import Resident, Turn
from perdure.streams.turns.keys_in_flight import Spending, spending_of

if TYPE_CHECKING:
    from perdure.streams.turns.known_calls import KnownCalls

ON_THE_SPOT = "calls"  # the address on an exclusive log: all owners are in this process


class Call:
    """One call under way: `command` as it is appended, `turn` whose call it is."""

    __slots__ = ("command", "future", "no_room", "partition", "tried", "turn", "unknown")

    def __init__(self, turn: Turn, command: Command, partition: int) -> None:
        self.turn = turn
        self.command = command
        self.partition = partition
        self.future: asyncio.Future[Reply] | None = None
        self.tried = False  # whether or not it was appended
        self.no_room = False  # its object's mailbox is full: it was not appended, and is tried again
        self.unknown: OutcomeUnknown | None = None  # it may have happened, whatever is tried next

    def answered(self, reply: Reply) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(reply)

    def failed(self, error: BaseException) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Peer(Protocol):
    """An owner of this process, as the exchange sees it."""

    def resident(self, key: str) -> Resident | None:
        """The object, if it is in memory."""

    @property
    def check_room(self) -> Callable[[str], None]:
        """Raises what a door would be told before it appends to an object's mailbox."""

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        """Take a turn out of its object's mailbox: this is what it came to."""

    def turn_of(self, spending: Spending) -> Turn | int | None:
        """The turn that is in flight under this key; its offset, if it waits on the log only."""

    # What is asked for a turn that runs again, see reruns.py

    def has_taken(self, end: int) -> bool:
        """True if all commands below that offset have been taken, or its partition has stopped for good."""

    def elsewhere(self) -> bool:
        """True if another node serves its partition."""

    @property
    def known(self) -> KnownCalls:
        """The calls that its partition knows of."""


class PendingCalls:
    """Of one process. Owners `join` it; it starts to listen with the first call."""

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

    def join(self, log: Log, node: str, partition: int, peer: Peer) -> None:
        """An owner of this process is there to be called, and to call."""
        self.peers[partition] = peer
        self._log, self._node = log, node
        if not log.exclusive:
            self._place = partition_of(f"calls/{node}", log.partitions)
            self.address = f"{self._place}/calls.{node}"

    async def listen(self) -> None:
        """Hear the answers that owners of other processes give. Raises what reading the log raises."""
        log = self._log
        assert log is not None, "somebody calls whose owner has not joined"
        if log.exclusive or self._tail is not None:
            return
        if self._listening is None:
            self._listening = asyncio.Lock()
        async with self._listening:
            if self._tail is None:
                end = (await log.bounds(Topic.REPLIES, self._place)).end
                self._tail = log.tail(Topic.REPLIES, self._place, end, self._replied)

    def close(self) -> None:
        """Hear nothing more."""
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
        if call is not None:  # else its caller has gone, or has its answer
            call.answered(reply)
        return True

    def stopped(self, partition: int, error: BaseException) -> None:
        """Tell the calls to a partition that has stopped for good."""
        for call in [call for call in self._expected.values() if call.partition == partition]:
            self.forget(call)
            call.failed(OutcomeUnknown(f"the call of {call.command.key} may run or have run: {error}"))

    def _replied(self, record: LogRecord) -> None:
        if record.key != self.address.partition("/")[2].encode():
            return  # for somebody else
        try:
            answered = parse_reply(record.value, record.headers)
        except ValueError:
            return  # anybody may write to the topic; what is no reply of ours is nothing to us
        self.answer(self.address, answered.correlation_id, answered.reply)

    # Who waits for whom

    def ring(self, call: Call) -> list[Turn]:
        """The turns that wait for each other because of this call, its own first; none if there is no such ring."""
        path = [call.turn]
        seen: set[Turn] = set()
        under_way = [iter((call,))]  # what each turn of the path waits for, as far as it was not looked at
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
        """The turn that must end before this call does: its own, or the one that it stands behind."""
        peer = self.peers.get(call.partition)
        resident = None if peer is None else peer.resident(call.command.key)
        running = None if resident is None else resident.running
        if running is None or peer is None or call.no_room:
            return running
        own = peer.turn_of(spending_of(call.command))
        return running if own is running or _waits(own) else None

    def queued(self, call: Call) -> Turn | int | None:
        """The call's turn in its object's mailbox (or that of an earlier copy); its offset if it waits on the log only."""
        peer = self.peers.get(call.partition)
        own = None if peer is None else peer.turn_of(spending_of(call.command))
        return own if _waits(own) else None


def _waits(own: Turn | int | None) -> bool:
    """True if it stands in a mailbox: it does not run, and has not ended."""
    if own is None or isinstance(own, int):
        return own is not None
    resident = own.resident
    assert resident is not None
    return not own.over and own.entry is None and own.reply is None and resident.running is not own
