"""Forwards: commands that are not in their key's home partition, on their way there.

A producer places a record by its own partitioner, and only some partitioners hash a key as perdure does. An
owner that reads a command whose home is another partition sends it there (streams/owner/forwarding.py), as
the record that is made here: the same command, written as perdure writes commands, with the place of the
original.

Laws [test_forwards.py]
- A forward keeps what its sender wrote: id, reply address, principal, deadline, idempotency key, trace
  context, body. Without an id, the answer has the place of the sender's own record as its correlation id;
  without a reply address, it goes to that partition of `{app}.replies`. The sender knows both from its
  delivery report.
- It bears the app's seal, and is written from the parsed command: a header that meant nothing in the original
  cannot mean anything under the seal.
- A forward is never forwarded again. Commands of perdure's own (alarms, sockets, calls and sends of turns)
  are not forwarded: perdure places them itself, so one in another partition is a copy by another program.
- Its deadline is counted from the log time of the original.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from perdure.schemas.calls import PRINCIPAL
from perdure.schemas.commands import CALL, FETCH, LOCAL, NOBODY, Command
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.foreign import TOPIC, reply_topic_in

MOVED = "forwarded"  # of a `Change`: the entry is of a forward, and `record` names its origin


class Origin(NamedTuple):
    """The place that a forward was read at first, and the log time there."""

    partition: int
    offset: int
    time_ms: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}:{self.time_ms}"


def origin_in(text: str) -> Origin:
    """The origin that `str` wrote as `text`. Raises `MalformedCommand`."""
    parts = text.split(":")
    if len(parts) != 3 or not all(each.isascii() and each.isdigit() and len(each) < 19 for each in parts):
        raise MalformedCommand(f"{text[:60]!r} is not the origin of a forwarded command")
    return Origin(*map(int, parts))


def may_forward(command: Command) -> bool:
    """True if the command is a client's, and was not forwarded before."""
    own = command.chain or command.mark or command.socket or command.forwarded
    client = command.kind in (FETCH, CALL) and not command.principal.startswith(PRINCIPAL)
    return client and not own


def forward(command: Command, origin: Origin, mark: int, partitions: int) -> Command:
    """The command that is sent home.

    Args:
        command: as it was read.
        origin: where it was read.
        mark: the low watermark of that partition.
        partitions: how many the app has.
    """
    reply_to = command.reply_to
    if reply_to.startswith(TOPIC):
        address = reply_topic_in(reply_to)
        if not address.topic and address.partition is None:
            reply_to = str(address._replace(partition=origin.partition))
    elif reply_to != NOBODY and partition_in(reply_to, partitions) is None:
        reply_to = f"{origin.partition}/{reply_to if reply_to not in ('', LOCAL) else command.key}"
    id_ = command.id or f"{origin.partition}:{origin.offset}"
    return replace(command, id=id_, reply_to=reply_to, mark=mark, forwarded=str(origin))


def partition_in(reply_to: str, partitions: int) -> int | None:
    """The partition that a reply address names, as `PARTITION/KEY`; None if it names none that there is."""
    number, slash, _ = reply_to.partition("/")
    named = slash and number.isascii() and number.isdigit() and int(number) < partitions
    return int(number) if named else None


def received(command: Command, time_ms: int) -> Command:
    """A forward as it runs, read at log time `time_ms`: what is left of its deadline.

    Raises `MalformedCommand`.
    """
    passed_ms = max(time_ms - origin_in(command.forwarded).time_ms, 0)
    if command.deadline_ms is None or not passed_ms:
        return command
    return replace(command, deadline_ms=max(command.deadline_ms - passed_ms, 0))
