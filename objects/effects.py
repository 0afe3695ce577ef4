"""What a turn does besides writing values: alarms, sockets, and what it sends.

Laws
- Effects belong to the turn's overlay: they count if it commits, and are forgotten with it.
- A turn that has none has no `Effects`: most turns pay nothing for them.
"""

from __future__ import annotations

from perdure.schemas.effects import AlarmChange, Out, SocketChange


class Effects:
    """Of one turn so far. By name or id the last change counts; the outbox keeps its order."""

    __slots__ = ("alarms", "outbox", "sockets")

    def __init__(self) -> None:
        self.alarms: dict[str, AlarmChange] = {}
        self.sockets: dict[str, SocketChange] = {}
        self.outbox: list[Out] = []

    def copy(self) -> Effects:
        """As they stand now, to come back to."""
        same = Effects()
        same.alarms, same.sockets, same.outbox = dict(self.alarms), dict(self.sockets), list(self.outbox)
        return same
