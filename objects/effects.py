"""Effects: what a turn does besides writing values, which is setting alarms, using sockets, and sending.

Laws
- Effects belong to the turn's overlay: they count if it commits, and are forgotten with it.
- A turn that has none has no `Effects`: most turns pay nothing for them.
- The same data sent to one socket after the other is one frame with many receivers.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from perdure.schemas.effects import AlarmChange, Out, SocketChange
from perdure.schemas.sockets import frame_out


class AtOnce:
    """The result of a method that is already done, so that it may be awaited too."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


AT_ONCE = AtOnce()


class SentFrame:
    """A frame that the turn sends: `gateways` → numbers of its sockets there."""

    __slots__ = ("code", "data", "gateways", "numbers", "type")

    def __init__(self, type_: str, data: bytes | str, code: int = 0) -> None:
        self.type = type_
        self.data = data
        self.code = code
        self.gateways: dict[str, list[int]] = {}
        self.numbers: set[tuple[str, int]] = set()

    def to(self, gateway: str, number: int) -> bool:
        """Add a receiver; False if it is one already."""
        if (gateway, number) in self.numbers:
            return False
        self.numbers.add((gateway, number))
        self.gateways.setdefault(gateway, []).append(number)
        return True

    def outs(self, key: str) -> list[Out]:
        data = self.data.encode() if isinstance(self.data, str) else self.data
        return [
            frame_out(gateway, key, self.type, data, numbers, self.code)
            for gateway, numbers in self.gateways.items()
        ]

    def copy(self) -> SentFrame:
        same = SentFrame(self.type, self.data, self.code)
        same.gateways = {gateway: [*numbers] for gateway, numbers in self.gateways.items()}
        same.numbers = set(self.numbers)
        return same


class Effects:
    """The effects of one turn. By name or id the last change counts; outbox and frames keep their order.

    `accepted` is the id of the socket that the turn accepted; `listeners` → the socket with its listeners.
    """

    __slots__ = ("accepted", "alarms", "frames", "listeners", "outbox", "sockets")

    def __init__(self) -> None:
        self.alarms: dict[str, AlarmChange] = {}
        self.sockets: dict[str, SocketChange] = {}
        self.outbox: list[Out] = []
        self.frames: list[SentFrame] | None = None
        self.accepted = ""
        self.listeners: dict[str, Any] | None = None

    def send(self, type_: str, data: bytes | str, gateway: str, number: int) -> None:
        """Send a frame to one socket, joined with the previous frame if that has the same data.

        type_: what kind of frame it is, as `schemas.sockets` names it.
        data: the text or the bytes.
        gateway: the address of the gateway that holds the socket.
        number: the socket's number at that gateway.
        """
        if self.frames is None:
            self.frames = []
        if self.frames:
            last = self.frames[-1]
            if type_ == last.type and (data is last.data or data == last.data) and last.to(gateway, number):
                return
        self.send_all(SentFrame(type_, data)).to(gateway, number)

    def send_all(self, frame: SentFrame) -> SentFrame:
        """Send a frame whose receivers are added to the object returned."""
        if self.frames is None:
            self.frames = []
        self.frames.append(frame)
        return frame

    def outs(self, key: str) -> tuple[Out, ...]:
        """Everything that object `key` emits with this turn besides its reply."""
        if self.frames is None:
            return tuple(self.outbox)
        return (*self.outbox, *(out for frame in self.frames for out in frame.outs(key)))

    def copy(self) -> Effects:
        """A copy of the effects so far, for a rollback."""
        same = Effects()
        same.alarms, same.sockets, same.outbox = dict(self.alarms), dict(self.sockets), list(self.outbox)
        same.frames = None if self.frames is None else [frame.copy() for frame in self.frames]
        same.accepted = self.accepted
        same.listeners = None if self.listeners is None else dict(self.listeners)
        return same
