"""One WebSocket connection without a network, a door or a log: what it writes, and the events it appends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from websockets.frames import Frame, Opcode

from perdure.api.http1.heads import RequestHead
from perdure.api.pages import Refused
from perdure.api.problems import problem
from perdure.api.protocol.websocket import SocketProtocol
from perdure.api.replies import PlacedReply
from perdure.schemas.replies import Reply
from perdure.schemas.sockets import CLOSED
from perdure.streams.turns.run_queue import RunQueue
from perdure.streams.virtual_time import VirtualLoop

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 §1.3
HEAD = ((b"host", b"x"), (b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY))
ACCEPTED = Reply("ok", 101)


class Transport:
    """What was written; `unsent` bytes of it wait for the client."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.closed = self.aborted = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Door:
    """A door whose only path is /objects/Room/a; pages of `evil` are refused. It keeps what is submitted."""

    body_bytes = 1 << 20
    closed = False

    def __init__(self) -> None:
        self.submitted: list[Any] = []
        self.counted: list[int] = []
        self.origins = SimpleNamespace(check=self._check)

    def _check(self, method: str, path: bytes, headers: Any, *, socket: bool) -> None:
        if (b"origin", b"evil") in headers:
            raise Refused(problem("forbidden", "another site", status=403))

    def key_of(self, path: bytes) -> str:
        return "Room/a"

    def submit(self, *command: Any) -> None:
        self.submitted.append(command[1:])

    def count(self, status: int) -> None:
        self.counted.append(status)

    def response_to(self, answer: PlacedReply) -> Any:
        return answer.reply.status, [], answer.reply.body


class Sockets:
    """A registry that keeps events; `room` raises if the object has none."""

    address = "0/gateway"

    def __init__(self) -> None:
        self.run_queue = RunQueue()
        self.events: list[tuple[str, bytes, tuple[tuple[str, str], ...]]] = []
        self.numbers: list[int] = []
        self.open: set[int] = set()
        self.gateway = SimpleNamespace(check_room=lambda key: self.room())
        self.room: Callable[[], None] = lambda: None

    def new_id(self) -> tuple[int, str]:
        return 7, "n.7"

    def opened(self, number: int, id_: str, connection: Any) -> None:
        self.open.add(number)

    def closed(self, number: int) -> None:
        self.open.discard(number)

    def event(
        self,
        connection: Any,
        key: str,
        id_: str,
        number: int,
        method: str,
        body: bytes,
        *facts: tuple[str, str],
    ) -> None:
        self.numbers.append(number)
        self.events.append((method, body, facts))


class Client:
    """The far end of one connection."""

    def __init__(self) -> None:
        self.door, self.sockets, self.transport = Door(), Sockets(), Transport()
        state = SimpleNamespace(connections=set())
        protocol = SocketProtocol.to(self.door, self.sockets)  # type: ignore[arg-type]  # as far as they are used
        self.socket = protocol(None, state, None)
        self.socket.connection_made(self.transport)  # type: ignore[arg-type]  # as far as it is used

    def asks(self, *headers: tuple[bytes, bytes], method: bytes = b"GET", rest: bytes = b"") -> bytes:
        """Send the request for a WebSocket; what is answered at once."""
        head = RequestHead(method, b"/objects/Room/a", "1.1", list(headers or HEAD), 0, True, False, True)
        self.socket.open(head, rest)
        return self.transport.written

    def answered(self, reply: Reply = ACCEPTED) -> bytes:
        """The object answers; what the client is sent."""
        self.socket.answered(PlacedReply(reply, 3, 9))
        return self.transport.written

    def opens(self) -> None:
        self.asks()
        self.answered()
        self.transport.written = b""

    def sends(self, opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> None:
        self.socket.data_received(framed(opcode, data, fin=fin))

    @property
    def bodies(self) -> list[bytes]:
        """The events of messages."""
        return [body for method, body, _ in self.sockets.events if method != CLOSED]

    @property
    def ends(self) -> list[dict[str, str]]:
        """The events of its end."""
        return [dict(facts) for method, _, facts in self.sockets.events if method == CLOSED]


def framed(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame of a client, which masks it."""
    return Frame(opcode, data, fin).serialize(mask=True)


def connected(run: Callable[[Client], Any]) -> None:
    """Run a test on virtual time, with a connection that is not open yet."""

    async def main() -> None:
        outcome = run(Client())
        if outcome is not None:
            await outcome

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
