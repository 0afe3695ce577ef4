"""The records that gateways and objects exchange about WebSockets: ids, frames, upgrades.

Laws
- A socket's id is `{node}.{number}`: `node` names one start of a gateway, so no id is ever used twice, and
  the ids of one gateway sort in the order in which the sockets were opened.
- A frame for many sockets of one gateway is one record. It names its object, so that an object reaches only
  sockets of its own, and its sockets by number (u32, big endian).
- A fetch that is a WebSocket upgrade says so under the app's seal: `socket`, its id, space, its gateway.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from perdure.schemas.commands import Command
from perdure.schemas.effects import Out

TEXT, BINARY, CLOSE, AUTO = "text", "binary", "close", "auto"  # types of frames
MESSAGE, CLOSED, ERROR, GONE = "message", "close", "error", "gone"  # methods of socket commands
ABNORMAL, SERVICE_RESTART = 1006, 1012
FRAME_KIND = ("kind", b"frame")
HEARTBEAT_KIND = ("kind", b"heartbeat")  # of a gateway with open sockets, on a log that others share
ENDED_KIND = ("kind", b"ended")  # to a gateway, from an owner that has received none: it is considered ended
PASSED_ON = "passed on"  # `socket` of a command whose caller fills it: it requests the WebSocket of the request itself
SETTINGS = ""  # the id of the row that holds an object's auto-response
_NUMBER_DIGITS = 8

Headers = tuple[tuple[str, bytes], ...]


class Frame(msgspec.Struct, gc=False, frozen=True):
    """A frame for `sockets` (numbers) of one gateway.

    `data` of a close is its reason, of an auto-response the pair.
    """

    key: str
    type: str
    data: bytes
    sockets: tuple[int, ...]
    code: int = 0


def socket_id(node: str, number: int) -> str:
    return f"{node}.{number:0{_NUMBER_DIGITS}x}"


def number_of(id_: str) -> int:
    """The number in a socket's id. Raises ValueError if there is none."""
    return int(id_[-_NUMBER_DIGITS:], 16)


def frame_out(gateway: str, key: str, type_: str, data: bytes, sockets: Sequence[int], code: int = 0) -> Out:
    """The record that brings a frame to a gateway.

    gateway: its address, `{partition}/{name}` in `{app}.replies`.
    key: the object that sends, as `Namespace/name`.
    type_: what kind of frame it is.
    data: its content, or the reason of a close.
    sockets: the numbers of the sockets that get it.
    code: the close code of a close; 0 otherwise.
    """
    place, _, name = gateway.partition("/")
    headers: Headers = (
        FRAME_KIND,
        ("object", key.encode()),
        ("type", type_.encode()),
        ("sockets", _packed(sockets)),
    )
    if code:
        headers += (("code", b"%d" % code),)
    return Out("replies", int(place), name.encode(), data, headers)


def _packed(sockets: Sequence[int]) -> bytes:
    return struct.pack(f">{len(sockets)}I", *sockets)


def parse_frame(value: bytes | None, headers: Headers) -> Frame:
    """The frame in a record. Raises ValueError for a record that is not a frame."""
    named = dict(headers)
    try:
        return Frame(
            named["object"].decode(),
            named["type"].decode(),
            value or b"",
            _unpacked(named["sockets"]),
            int(named.get("code", b"0")),
        )
    except (KeyError, UnicodeDecodeError, struct.error) as wrong:
        raise ValueError(f"not a frame: {wrong!r}") from wrong


@lru_cache(64)
def _unpacked(sockets: bytes) -> tuple[int, ...]:
    """A room's frames go to much the same sockets each time."""
    return struct.unpack(f">{len(sockets) // 4}I", sockets)


def upgrade_of(command: Command) -> tuple[str, str] | None:
    """(socket id, gateway) if the command is a WebSocket upgrade."""
    id_, _, gateway = command.socket.partition(" ")
    return (id_, gateway) if id_ else None
