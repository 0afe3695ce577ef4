"""What whoever runs an app may have done to an object: the commands that ask for it, and how the journal says it.

Laws
- An act is a command of kind `admin` on the log, under the app's seal; only perdure's own doors send one.
- It names what it is about (the command that is given up, what was parked), so that a second one does no harm.
- What it changed stands in its entry as `Change`s: folding them needs to know nothing else.
"""

from __future__ import annotations

import msgspec

from perdure.schemas.commands import Headers
from perdure.schemas.errors import MalformedCommand, NotParked

DELETE, PAUSE, RESUME, SKIP, REDRIVE, DROP = "delete", "pause", "resume", "skip", "redrive", "drop"
CALLS_OF = "calls"  # no act: which calls hang on these roots? [streams/turns/known_calls.py]
MADE = "made"  # of a `Change`
OF_COMMAND, OF_ALARM = b"c", b"a"  # what is parked


class Act(msgspec.Struct, gc=False, frozen=True):
    """The body of an act, JSON. `at`: the offset of the command to give up, or the place of what is parked."""

    at: str = ""


class Place(msgspec.Struct, gc=False, frozen=True):
    """Where something is parked: a command by its offset, an alarm by the journal offset of the entry that parked it."""

    kind: bytes
    offset: int

    def __str__(self) -> str:
        return f"{'a' if self.kind == OF_ALARM else ''}{self.offset}"


class Change(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Something that an entry changed beside its object's values, alarms and sockets.

    `what`: `paused` or `resumed`, its object; `parked`, its own command, whose record is `record`; `settled`, the parked
    command at `offset`; `made`, its object, by the entry's principal.
    """

    what: str
    offset: int = 0
    record: bytes = b""


class ParkedItem(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A command (`record` is it) or the alarm `alarm` of object `key` that waits for somebody to look at it."""

    key: str
    alarm: str
    time_ms: int
    summary: str
    code: str
    message: str
    record: bytes = b""


class Paused(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An object of which no turn begins. `command` paused it, at `since_ms`, for `principal`."""

    since_ms: int
    principal: str
    command: int


_decode = msgspec.json.Decoder(Act).decode
_decode_record = msgspec.msgpack.Decoder(tuple[bytes | None, bytes | None, Headers]).decode
encode_record = msgspec.msgpack.Encoder().encode
decode_parked = msgspec.msgpack.Decoder(ParkedItem).decode
decode_paused = msgspec.msgpack.Decoder(Paused).decode


def act_of(body: bytes) -> Act:
    """The body of an act. Raises `MalformedCommand`."""
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise MalformedCommand(f"the body of an act of administration: {error}") from error


def decode_record(data: bytes) -> tuple[bytes | None, bytes | None, Headers]:
    """(key, value, headers) of the record that a parked command is."""
    return _decode_record(data)


def place_of(text: str) -> Place:
    """The place in what `str` made of it. Raises `MalformedCommand`."""
    digits = text.removeprefix("a")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise MalformedCommand(
            f"{text[:40]!r} is not the place of a parked command or alarm, such as 17 or a17"
        )
    return Place(OF_ALARM if text.startswith("a") else OF_COMMAND, int(digits))


def nothing_parked(shown: str) -> NotParked:
    """What whoever would settle something is told that is not there."""
    return NotParked(
        f"nothing is parked at {shown}: it was settled, or never there; look at what is (/admin/parked)"
    )
