"""Alarm commands: an alarm has come due, or one is to be timed again.

Laws
- A command names the setting of the alarm that it is for (the journal offset that set it). It means nothing
  once the alarm was set again, put off or removed, so a second command for one setting does no harm.
- A name that begins with NUL is perdure's own: no user can give it.
"""

from __future__ import annotations

import msgspec

from perdure.schemas.commands import ALARM, NOBODY, Command
from perdure.schemas.effects import AlarmRow
from perdure.schemas.errors import MalformedCommand

TTL = "\0ttl"  # the alarm that removes values which have expired
RETIME = "retime"  # log time has stepped back: the alarm may be due too late


class Ring(msgspec.Struct, gc=False, frozen=True):
    """The body of an alarm command, JSON. `act`: empty for an alarm that has come due, RETIME for one to be
    timed again.

    `since`: the setting that the turn's calls hang on, see `AlarmRow.series`; None in commands of versions
    before it.
    """

    set_at: int
    due: int
    attempt: int = 0
    act: str = ""
    since: int | None = None


_decode = msgspec.json.Decoder(Ring).decode


def alarm_command(key: str, name: str, row: AlarmRow, act: str = "") -> Command:
    """The command for an alarm; no caller waits for its answer.

    key: the object, as `Namespace/name`.
    name: the alarm.
    row: the alarm as it stands: the command counts for this setting of it only.
    act: what to do in place of running it, for an act of administration; empty to run it.
    """
    body = msgspec.json.encode(Ring(row.set_at, row.due_ms, row.attempt, act, row.series))
    return Command(key, ALARM, name, body=body, reply_to=NOBODY)


def parse_ring(body: bytes) -> Ring:
    """The body of an alarm command. Raises `MalformedCommand`."""
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise MalformedCommand(f"the body of an alarm says which setting came due: {error}") from error
