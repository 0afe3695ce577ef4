"""Intake: what becomes of a record of the commands that this process did not append.

The owner hands each record over that it does not know as a command already. It is a command of this
partition, which the owner then runs; a command of another partition, which is forwarded; the copy of a
forward, which is done; or not a command: a dead letter.

Law: whatever a record holds, the partition goes on. [test_owner_nonsense.py]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.schemas.commands import Command, reply_address
from perdure.schemas.errors import CallerError, FailedInside, PerdureError
from perdure.schemas.forwards import received
from perdure.schemas.journal import encode_entry
from perdure.schemas.keys import namespace_of, partition_of
from perdure.streams.log.base import LogRecord
from perdure.streams.owner.forwarding import Forwarding
from perdure.streams.turns.activation import NO_COMMAND, Turn
from perdure.streams.turns.admission import admitted
from perdure.streams.turns.entries import dead_letter
from perdure.streams.turns.supervision.internal_faults import report

if TYPE_CHECKING:  # it imports this file
    from perdure.streams.owner.owner import Owner


class Intake:
    """Reads the records of one owner's partition as commands."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.forwarding = Forwarding(owner, self.dead)

    def command_in(self, record: LogRecord) -> Command | None:
        """The command in a record; None if it is not to be run here."""
        command, owner = None, self._owner
        transport = owner.ports.transport
        try:
            command = admitted(record, transport.seal, owner.tables.meta.sealed_from, transport.rules)
            if command.forwarded:
                if self.forwarding.is_copy(record, command):
                    return None
                command = received(command, record.time_ms)
            owner.ports.turns.registry.type_of(namespace_of(command.key))
            home = partition_of(command.key, owner.log.partitions)
            if home == owner.partition:
                return command
            self.forwarding.send_home(record, command, home)
        except CallerError as error:
            self.dead(record, error, command)
        except Exception as error:  # noqa: BLE001 - a fault of perdure's own
            report(error, f"the record at {owner.partition}:{record.offset} is a dead letter")
            text = "perdure failed inside while it read this record: its log has it"
            self.dead(record, FailedInside(text), command)
        return None

    def _reply_to(self, record: LogRecord) -> str:
        """Where a record that is not a command asks for its reply; empty if that makes no sense."""
        try:
            return reply_address(dict(record.headers), self._owner.ports.transport.rules)
        except CallerError:
            return ""

    def dead(self, record: LogRecord, error: PerdureError, command: Command | None = None) -> None:
        """Answer a record that is not a command with an error, and journal it as a dead letter.

        `command`: what it says, if that could be read.
        """
        self._owner.counts.dead += 1
        forward = command if command is not None and command.forwarded else None
        turn = Turn(record, NO_COMMAND, None, record.offset)
        turn.entry = dead_letter(record, error, self._owner.partition, self._reply_to(record), forward)
        turn.encoded = encode_entry(turn.entry)
        self._owner.journal.add(turn)
