"""Acts of administration: the commands that request them, and how the journal records them.

An operator pauses, resumes or deletes an object, skips the command at its head, and retries or drops what is
parked. Each act is a command to the object, so it is ordered with the object's turns.

Laws
- An act is a command of kind `admin` on the log, under the app's seal; only perdure's own doors send one.
- It names its target (the command to skip, the place of what is parked), so a second one does no harm.
  [test_admin.py]
- What it changed is in its entry as `Change`s: folding them needs nothing else.
"""

from __future__ import annotations

import msgspec

from perdure.schemas.commands import Headers
from perdure.schemas.errors import MalformedCommand, NotParked

DELETE, PAUSE, RESUME, SKIP, REDRIVE, DROP = "delete", "pause", "resume", "skip", "redrive", "drop"
CALLS_OF = "calls"  # not an act: requests the calls of some roots [streams/turns/known_calls.py]
VIEW = "view"  # not an act: another node requests what its administration is to show
MADE = "made"  # of a `Change`
OF_COMMAND, OF_ALARM = b"c", b"a"  # what is parked


class Act(msgspec.Struct, gc=False, frozen=True):
    """The body of an act, JSON. `at`: the offset of the command to skip, or the place of what is parked."""

    at: str = ""


class ViewRequest(msgspec.Struct, gc=False, frozen=True):
    """The body of a `VIEW`, JSON: which view of the partition, of which object, and its query's fields."""

    view: str
    key: str = ""
    query: dict[str, str] = {}


class Place(msgspec.Struct, gc=False, frozen=True):
    """The place of a parked item: a command's offset, or the journal offset of the entry that parked an
    alarm."""

    kind: bytes
    offset: int

    def __str__(self) -> str:
        return f"{'a' if self.kind == OF_ALARM else ''}{self.offset}"


class Change(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A change that an entry made besides its object's values, alarms and sockets.

    `what`: `paused` or `resumed`, its object; `parked`, its own command, whose record is `record`;
    `settled`, the parked command at `offset`; `made`, its object, by the entry's principal; `forwarded`,
    its own command, whose origin is `record` (schemas/forwards.py).
    """

    what: str
    offset: int = 0
    record: bytes = b""


class ParkedItem(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A command (`record`) or the alarm `alarm` of object `key` that failed and waits for an operator."""

    key: str
    alarm: str
    time_ms: int
    summary: str
    code: str
    message: str
    record: bytes = b""


class Paused(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A paused object: it runs no turns. `command` paused it, at `since_ms`, for `principal`."""

    since_ms: int
    principal: str
    command: int


_decode = msgspec.json.Decoder(Act).decode
_decode_view = msgspec.json.Decoder(ViewRequest).decode
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


def view_in(body: bytes) -> ViewRequest:
    """The body of a `VIEW`. Raises `MalformedCommand`."""
    try:
        return _decode_view(body)
    except msgspec.DecodeError as error:
        raise MalformedCommand(f"the body of a request for a view: {error}") from error


def decode_record(data: bytes) -> tuple[bytes | None, bytes | None, Headers]:
    """(key, value, headers) of a parked command's record."""
    return _decode_record(data)


def place_of(text: str) -> Place:
    """The place that `str` wrote as `text`. Raises `MalformedCommand`."""
    digits = text.removeprefix("a")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise MalformedCommand(
            f"{text[:40]!r} is not the place of a parked command or alarm, such as 17 or a17"
        )
    return Place(OF_ALARM if text.startswith("a") else OF_COMMAND, int(digits))


def nothing_parked(shown: str) -> NotParked:
    """The error of a request to settle something that is not parked."""
    return NotParked(
        f"nothing is parked at {shown}: it was settled already, or never parked; /admin/parked lists what is"
    )
