"""What owners do for WebSockets: tell an object of sockets that are gone, and see that their rows go.

Laws
- A row goes with the turn of its close, whatever the handler makes of it.
- Sockets whose gateway ended are closed by an event in their object's mailbox, 1006, once: the event finds the row or
  does nothing. So are, 1012, those of listener style whose instance is gone.
- On an exclusive log every gateway but this process's own has ended. On a shared log nobody can tell yet, and their rows
  stay until their gateway says so.
"""

from __future__ import annotations

from perdure.objects.overlay import Overlay
from perdure.schemas.commands import NOBODY, SOCKET, Command, sealed_record
from perdure.schemas.effects import SocketChange
from perdure.schemas.replies import Pairs
from perdure.schemas.sockets import ABNORMAL, CLOSED, GONE, SETTINGS
from perdure.streams.log import Record, Topic
from perdure.streams.owning import Ports
from perdure.streams.tables import Tables


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


def close_lost(ports: Ports, tables: Tables) -> None:
    """The owner begins to serve: no instance is in memory, and some gateways are no more."""
    lost: Pairs = (("code", str(ABNORMAL)), ("clean", "0"))
    for key, id_, row in list(tables.all_sockets()):
        if id_ == SETTINGS:
            continue
        if ports.log.exclusive and not ports.doors.holds(row.gateway):
            tell_object(ports, tables.partition, key, CLOSED, id_, lost, b"the gateway is gone")
        elif row.listener:
            tell_object(ports, tables.partition, key, GONE, id_)
