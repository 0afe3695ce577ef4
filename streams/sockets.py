"""Events of WebSockets that no gateway sends, and what is left of a socket that has closed.

Laws
- A row goes with the turn of its close, whatever the handler makes of it.
- An event that finds no row of its socket does nothing, so one that is sent twice does no harm.
"""

from __future__ import annotations

from perdure.objects.overlay import Overlay
from perdure.schemas.commands import NOBODY, SOCKET, Command, sealed_record
from perdure.schemas.effects import SocketChange
from perdure.schemas.replies import Pairs
from perdure.schemas.sockets import CLOSED, upgrade_of
from perdure.streams.log import Record, Topic
from perdure.streams.owning import Ports


def asked_by_the_dead(ports: Ports, command: Command) -> bool:
    """An upgrade that is run after its gateway has ended, where that is known: nobody would close what it accepts."""
    asked = upgrade_of(command)
    return asked is not None and ports.log.exclusive and not ports.doors.holds(asked[1])


def removal(command: Command) -> Overlay | None:
    """What a turn commits although its handler failed: the row of a socket that has closed; None: nothing."""
    if command.method != CLOSED:
        return None
    overlay = Overlay()
    overlay.effect().sockets[command.path] = SocketChange(command.path, "")
    return overlay


def tell_object(
    ports: Ports, partition: int, key: str, method: str, id_: str, headers: Pairs = (), body: bytes = b""
) -> None:
    """Append a socket event that no gateway sends. One that is lost is sent again when the partition begins anew."""
    command = Command(key, SOCKET, method, id_, headers, body, f"{method}:{id_}", NOBODY)
    ports.log.append(Topic.COMMANDS, partition, Record(*sealed_record(command, ports.seal)), command)
