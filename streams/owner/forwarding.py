"""Forwarding: commands in this partition whose home is another, and those from others.

The owner calls `send_home` for a command whose key belongs elsewhere: it journals an entry whose outbox
holds the forward, so the command is done here and leaves once that entry is durable, as a `send` does. The
home's owner calls `is_copy` for each forward that it reads, and runs the first of each.

Laws [test_forwards.py, tests/simulation]
- A forward is recognized by its origin (`schemas/forwards.py`). Its entry at home keeps the origin until the
  low watermark of the partition that it is from has passed it, so a copy that is sent again after a crash is
  never run, and no second answer leaves. So each forward has an entry, also one that changed nothing or was
  not done.
- What one partition forwards for one object arrives in the order of that partition.
- At most `UNDER_WAY` forwards (`UNDER_WAY_BYTES` bytes) are under way to each home. Those behind them wait
  on the log, as offsets, like commands behind a full mailbox. Commands that are not misplaced do not wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.schemas.calls import FORWARD_KEY, CallKey
from perdure.schemas.commands import NOBODY, Command, parse_admitted, record_hash, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.errors import MalformedCommand, PerdureError
from perdure.schemas.forwards import Origin, forward, may_forward, origin_in
from perdure.schemas.journal import Entry, encode_entry
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import FORWARDED, Reply
from perdure.streams import failpoints
from perdure.streams.log.base import LogRecord, Record, Topic, size_bytes
from perdure.streams.turns.activation import NO_COMMAND, Turn
from perdure.streams.turns.entries import WHOLE_BYTES

if TYPE_CHECKING:  # it imports this file
    from perdure.streams.owner.owner import Owner

UNDER_WAY = 500  # forwards to one home that have not arrived
UNDER_WAY_BYTES = 8 << 20
READ_AGAIN = 1_000  # offsets at a time, of what waits on the log
_REPLY = Reply(FORWARDED)


class Forwarding:
    """The forwards of one owner: out of its partition, and into it."""

    def __init__(self, owner: Owner, dead: Callable[[LogRecord, PerdureError, Command], None]) -> None:
        self._owner = owner
        self._dead = dead
        self._waiting: dict[int, deque[int]] = {}  # by home: the offsets that wait on the log
        self._reading = False
        self._running: dict[tuple[int, int], int] = {}  # origin -> offset here, until that is folded
        owner.output.forwarded = self._arrived

    def end(self) -> None:
        """The epoch is over."""
        self._waiting.clear()
        self._running.clear()
        self._reading = False

    # Out

    def send_home(self, record: LogRecord, command: Command, home: int) -> None:
        """Forward a command that belongs to partition `home`.

        Raises `MalformedCommand` for one that must not be.
        """
        partition = self._owner.partition
        if not may_forward(command):
            raise MalformedCommand(
                f"{command.key} belongs to partition {home}, not {partition}: perdure's own commands are not forwarded"
            )
        if (waiting := self._waiting.get(home)) is not None:
            waiting.append(record.offset)
        elif not self._has_room(home):
            self._waiting[home] = deque((record.offset,))
        else:
            self._forward(record, command, home)

    def _has_room(self, home: int) -> bool:
        count, size = self._owner.output.under_way.get(home, (0, 0))
        return count < UNDER_WAY and size < UNDER_WAY_BYTES

    def _forward(self, record: LogRecord, command: Command, home: int) -> None:
        owner = self._owner
        origin = Origin(owner.partition, record.offset, record.time_ms)
        moved = forward(command, origin, owner.output.commands.mark, owner.log.partitions)
        out = Out(Topic.COMMANDS.value, home, *sealed_record(moved, owner.ports.transport.seal))
        if (size := size_bytes(Record(out.key, out.value, out.headers))) > WHOLE_BYTES:
            raise MalformedCommand(
                f"{command.key} belongs to partition {home}, not {owner.partition}, and the record is too large to be "
                f"forwarded ({size} bytes): produce with a partitioner that hashes keys as Java does (murmur2)"
            )
        failpoints.hit("forward.before_entry")
        owner.counts.forwarded += 1
        owner.output.take_forward(home, record.offset, size)
        turn = Turn(record, NO_COMMAND, None, record.offset)
        turn.entry = Entry(
            record.offset,
            command.key,
            record.time_ms,
            FORWARDED,
            _REPLY,
            command_hash=record_hash(record.key, record.value, record.headers),
            id=command.id,
            reply_to=NOBODY,
            summary=f"forwarded to partition {home}",
            principal=command.principal,
            outbox=(out,),
        )
        turn.encoded = encode_entry(turn.entry)
        owner.journal.add(turn)

    def _arrived(self, home: int) -> None:
        if self._waiting and not self._reading and self._has_room(home) and home in self._waiting:
            self._reading = True
            self._owner.spawn(self._read_again(home))

    async def _read_again(self, home: int) -> None:
        """Forward what waits on the log for `home`, as far as there is room."""
        owner, waiting = self._owner, self._waiting[home]
        try:
            while waiting and self._has_room(home):
                end = min(waiting[-1], waiting[0] + READ_AGAIN) + 1
                async for chunk in owner.log.read(Topic.COMMANDS, owner.partition, waiting[0], end):
                    for record in chunk:
                        if waiting and record.offset == waiting[0] and self._has_room(home):
                            waiting.popleft()
                            self._forward_again(record, home)
        finally:
            self._reading = False
        if not waiting:
            del self._waiting[home]
        for each in self._waiting:
            self._arrived(each)

    def _forward_again(self, record: LogRecord, home: int) -> None:
        record = self._owner.time.read_again(record)
        command = parse_admitted(record.key, record.value, record.headers, self._owner.ports.transport.rules)
        try:
            self._forward(record, command, home)
        except MalformedCommand as error:
            self._dead(record, error, command)

    # In

    def is_copy(self, record: LogRecord, command: Command) -> bool:
        """True if `command` is a forward that was read before; then it is done. Raises `MalformedCommand`."""
        origin = origin_in(command.forwarded)
        owner, place = self._owner, origin[:2]
        answered = owner.tables.answered_calls
        if (
            place in self._running
            or origin.offset < answered.passed(origin.partition).floor
            or answered.get(CallKey(FORWARD_KEY, *place, 0)) is not None
        ):
            owner.journal.add_answered(record.offset)
            return True
        done = owner.tables.done.mark
        while self._running and next(iter(self._running.values())) < done:  # they have rows by now
            del self._running[next(iter(self._running))]
        if partition_of(command.key, owner.log.partitions) == owner.partition:
            self._running[place] = record.offset
        return False
