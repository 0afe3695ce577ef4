"""The mailbox: the commands that wait for one object, and how those that wait as offsets are read again.

An object that runs a turn gets a mailbox with the next command (`Turns.take`), and loses it when it is empty.

Laws [test_owner.py]
- Commands leave it in the order of the log. One that waits as its offset stays at the head until it has been
  read, so that nothing overtakes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from perdure.schemas.commands import Command, parse_admitted
from perdure.schemas.foreign import RecordRules
from perdure.schemas.forwards import received
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.log_time import LogTime
from perdure.streams.turns.activation import Turn

if TYPE_CHECKING:  # it imports this file
    from perdure.streams.turns.activation import Activation
    from perdure.streams.turns.keys_in_flight import KeysInFlight
    from perdure.streams.turns.ports import Transport

PACE_OF = 9  # the number of turns from which the waiting time is estimated


class Mailbox(deque["Turn | int"]):
    """The commands that wait for one object, oldest first; those beyond a bound as their offsets only."""

    __slots__ = ("_moved_s",)

    def __init__(self, waiting: Iterable[Turn | int] = ()) -> None:
        super().__init__(waiting)
        self._moved_s: list[float] = []  # when it moved up the last times

    def moved(self, now_s: float) -> None:
        """The object is free for the next one that waits."""
        times = self._moved_s
        if len(times) >= PACE_OF:
            del times[0]
        times.append(now_s)

    def wait_s(self) -> float:
        """Return about how long a command that arrives now will wait; 0.0 while that is unknown.

        It uses the median of the last times between two turns, so one slow turn
        does not have later commands refused.
        """
        times = self._moved_s
        if len(times) < PACE_OF:
            return 0.0
        return len(self) * sorted(after - before for before, after in pairwise(times))[PACE_OF // 2]


def again(record: LogRecord, time: LogTime, rules: RecordRules) -> tuple[LogRecord, Command]:
    """A command that waited as its offset only, as it runs: its record, and itself.

    The deadline of a forward still counts from where it was read first.
    """
    read = time.read_again(record)
    command = parse_admitted(record.key, record.value, record.headers, rules)
    return read, received(command, read.time_ms) if command.forwarded else command


async def read_waiting(
    transport: Transport,
    partition: int,
    activation: Activation,
    offset: int,
    time: LogTime,
    keys_in_flight: KeysInFlight,
    run_soon: Callable[[Turn, Activation], None],
) -> None:
    """Read the command at the head of a mailbox, which waited as its offset only, and let it run.

    transport, partition: where it lies, and how it is read.
    activation: its object.
    offset: its offset.
    time: the log time of the partition.
    keys_in_flight: where its key is noted, if it has one.
    run_soon: called with its turn, unless the object was paused meanwhile, or the mailbox was dropped.
    """
    async for chunk in transport.log.read(Topic.COMMANDS, partition, offset, offset + 1):
        for record in chunk:
            mailbox = activation.mailbox
            if activation.running is not None or not mailbox or mailbox[0] != offset:
                return
            mailbox.popleft()
            read, command = again(record, time, transport.rules)
            turn = Turn(read, command, activation, offset, time.until_s(command))
            if command.client_key is not None:
                keys_in_flight.enter(command, turn)
            run_soon(turn, activation)
