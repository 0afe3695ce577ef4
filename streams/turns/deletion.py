"""The deletion of an object: its turn, which runs no code of the user's."""

from __future__ import annotations

import msgspec

from perdure.objects.effects import SentFrame
from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome
from perdure.schemas.effects import SocketChange
from perdure.schemas.replies import OK, Reply
from perdure.schemas.sockets import CLOSE, SETTINGS, number_of
from perdure.streams.turns.activation import Turn

GOING_AWAY = 1001
_REASON = "the object was deleted"


def admin_reply(**what: object) -> Reply:
    """Return the reply to an act of administration that was carried out."""
    return Reply(OK, 200, (("content-type", "application/json"),), msgspec.json.encode(what))


def deletion(turn: Turn) -> Outcome:
    """Remove all values and alarms, and close all sockets. It is journaled even if
    there was nothing to remove.
    """
    activation = turn.activation
    assert activation is not None
    turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
    turn.overlay.clear()
    sockets = activation.sockets()
    if sockets:
        effects = turn.overlay.effect()
        frame = SentFrame(CLOSE, _REASON, GOING_AWAY)
        for id_, row in sockets.items():
            effects.sockets[id_] = SocketChange(id_, "")
            if id_ != SETTINGS:
                frame.to(row.gateway, number_of(id_))
        effects.send_all(frame)
    closed = sum(id_ != SETTINGS for id_ in sockets)
    return Outcome(admin_reply(deleted=turn.command.key, sockets=closed), True, True, True)
