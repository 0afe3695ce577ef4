"""One WebSocket connection: messages in, frames out, and its end; api/protocol/handshake.py has its beginning.

    connecting --101--> open --close seen or sent--> closing --> closed
        `--any other answer--> closed

api/protocol/fast_path.py hands over the connection with its request; what comes then is parsed by the `websockets` package, without
ASGI, tasks and queues in between: a broadcast is one write per socket of bytes that were made once.

Laws
- An object is told of the end of its sockets once, after all that was read before; not of a close that it asked for.
- What a client sends is read no faster than its object takes it: at most `IN_FLIGHT` events have not had their turn.
- What was read is parsed a piece at a time, and no more of it than its object takes; all sockets and all turns share the
  time for that (streams/turns/run_queue.py), so that those who send at full speed delay themselves only.
- A reader that is slower than its frames is closed with 1013 once `UNSENT_BYTES` wait for it.
- What a client does wrong closes its own socket and no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import State

from perdure.api.protocol.handshake import Handshake
from perdure.api.sockets.registry import wire
from perdure.schemas.errors import PerdureError, Unavailable
from perdure.schemas.sockets import BINARY, CLOSED, ERROR, MESSAGE, TEXT

IN_FLIGHT = 64
UNSENT_BYTES = 1 << 20
CLOSE_TIMEOUT_S = 10.0
ASK_ROOM_S = 0.05
PIECE_BYTES = 1024  # of the smallest frames about 1 ms to parse
WITHIN_A_FRAME = 16  # times as much
PING = wire(Opcode.PING, b"")


class SocketProtocol(Handshake):
    """Make a subclass with the door and the sockets of the server at hand (see `to`)."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        super().__init__()
        self._connections: set[Any] = server_state.connections
        self.position = -1
        self.auto: tuple[str, bytes] | None = None
        self._open = False
        self._draining = False
        self._events = 0
        self._in_flight = 0
        self._inbox: deque[tuple[str, bytes, str]] = (
            deque()
        )  # method, body, type: parsed, and not appended yet
        self._unparsed = b""  # read; what is parsed of it ends at `_at`
        self._at = 0
        self._piece_bytes = PIECE_BYTES
        self._parsing = False  # at it, or in the run queue for it
        self._broke = False  # the connection is gone
        self._reading = True
        self._choked = False  # frames wait for the client to read
        self._fragments: list[bytes] = []
        self._type = TEXT
        self._heard = True
        self._timer: asyncio.TimerHandle | None = None

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._lost.set_result(None)
        self._broke = True
        self._inbox_done()
        if not self._parsing:
            self._parse_on()  # what was read before, and then its end

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if not self.switched:
            self._transport.abort()  # RFC 6455 §4.1: it is to wait for the answer
            return
        self._unparsed = self._unparsed[self._at :] + data if self._unparsed else data
        self._at = 0
        if not self._parsing:
            self._parse_on()

    def _parse_on(self) -> None:
        """Parse what was read, as long as the object takes what it says and this pass of the loop has time."""
        self._parsing, run_queue = True, self.sockets.run_queue
        while self._unparsed and not self._full:
            if not run_queue.run(self._parse_piece, None):
                self._parse_later()
                return
        self._parsed()

    def _parse_later(self) -> None:
        self._parsing = True
        self._pause()
        self.sockets.run_queue.put(self._parse_in_turn, None)

    def _parse_in_turn(self, _: None) -> None:
        if self._unparsed and not self._full:
            self._parse_piece(None)
        if self._unparsed and not self._full:
            self._parse_later()  # behind all others that wait
        else:
            self._parsed()

    def _parsed(self) -> None:
        """All that was read, or as much as the object takes."""
        self._parsing = False
        if self._unparsed:
            self._pause()
        elif self._broke:
            self._end(1006, "the connection broke", clean=False)
        elif not self._asked and not self._full:
            self._resume()

    @property
    def _full(self) -> bool:
        """True if the object has to take what was parsed before more is."""
        return self._open and not self._broke and (bool(self._inbox) or self._in_flight >= IN_FLIGHT)

    def _parse_piece(self, _: None) -> None:
        data, at = self._unparsed, self._at
        if len(data) - at <= self._piece_bytes:
            self._unparsed, self._at = b"", 0
            self._parse(data[at:] if at else data)
        else:
            self._at = at + self._piece_bytes
            self._parse(data[at : self._at])

    def _parse(self, data: bytes) -> None:
        conn = self._conn
        conn.receive_data(data)
        events = conn.events_received()
        self._piece_bytes = PIECE_BYTES if events else WITHIN_A_FRAME * PIECE_BYTES
        for event in events:
            self._frame(cast("Frame", event))
        if unsent := conn.data_to_send():
            self._send(b"".join(unsent))
        if self._open:
            if conn.parser_exc is not None:
                self._broke_protocol(conn.parser_exc)
            elif self._broke:
                self._inbox_done()
            elif self._inbox:
                self._pump()

    def eof_received(self) -> bool:
        return False

    def shutdown(self) -> None:
        """The server drains: 1012, service restart (what uvicorn calls)."""
        self._draining = True
        if self._open:
            self.fail(1012, "the server restarts")
        if not self._asked:  # else its object's answer comes first
            self._transport.close()

    def _opened(self) -> None:
        self._open = True
        self.sockets.opened(self._number, self.id, self)
        self._resume()
        if self._draining:
            self.shutdown()

    # What the client sends

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.CLOSE:
            received = self._conn.close_rcvd
            assert received is not None
            self._flush_and_close()
            self._end(received.code, received.reason, clean=True)
        elif not self._open or opcode in (Opcode.PING, Opcode.PONG):
            return  # a pong has been made already; and nobody listens while it closes
        else:
            if opcode is not Opcode.CONT:
                self._type = TEXT if opcode is Opcode.TEXT else BINARY
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                data = b"".join(self._fragments)
                self._fragments.clear()
                self._message(data)

    def _message(self, data: bytes) -> None:
        if self._type == TEXT:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self._inbox.append((ERROR, b"a text message is not UTF-8", TEXT))
                self.fail(1007, "a text message is not UTF-8")
                return
            if self.auto is not None and text == self.auto[0]:
                self.write(self.auto[1])
                return
        self._inbox.append((MESSAGE, data, self._type))

    def _broke_protocol(self, error: Exception) -> None:
        """The parser has answered it with a close already, and throws away what comes after."""
        if self._timer is not None:
            self._timer.cancel()
        self._unparsed = b""
        sent = self._conn.close_sent
        self._inbox.append((ERROR, str(error).encode()[:1000], TEXT))
        if self._transport.can_write_eof():
            self._transport.write_eof()  # not closed: what the client still sends would make it lose our close
        self._timer = self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)
        self._resume()
        code, reason = (1006, "") if sent is None else (sent.code, sent.reason)
        self._end(code, reason, clean=False)

    def _pump(self) -> None:
        """Append what was read, as far as the object takes it; read on only if that is all."""
        inbox = self._inbox
        try:
            while inbox and self._in_flight < IN_FLIGHT:
                self._check_room(len(inbox[0][1]))
                self._append(*inbox.popleft())
        except Unavailable:
            if self._timer is None:
                self._timer = self._loop.call_later(ASK_ROOM_S, self._pump_again)
        except PerdureError as error:
            self.fail(1011, f"the object cannot be reached: {error.code}")
            return
        if self._open and not inbox and self._in_flight < IN_FLIGHT:
            self._resume()
        else:
            self._pause()

    def _check_room(self, size_bytes: int) -> None:
        """Is there room for one more message? Raises as `Gateway.check_room`."""
        self.sockets.gateway.check_room(self.key)

    def _pump_again(self) -> None:
        self._timer = None
        if self._open:
            self._pump()

    def _append(self, method: str, body: bytes, type_: str) -> None:
        self._events += 1
        self._in_flight += 1
        self.sockets.event(self, self.key, self.id, self._events, method, body, ("type", type_))

    def ended(self) -> None:
        self._in_flight -= 1
        if not self._reading and self._open and self._in_flight <= IN_FLIGHT // 2 and self._timer is None:
            self._pump()

    def lost(self, error: BaseException) -> None:
        self.fail(1011, "a message may not have been taken")

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._unparsed:  # that comes first
            if not self._parsing:
                self._parse_later()
        elif not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # What the object sends

    def write(self, data: bytes) -> None:
        if self._choked and self._transport.get_write_buffer_size() > UNSENT_BYTES:
            self.fail(1013, "frames are not read as fast as they are sent")
        elif self._open:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if not self._broke:
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False

    def close(self, code: int, reason: str) -> None:
        self._over = True  # its object said so
        self.sockets.closed(self._number)
        self._send_close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Close it for a reason of our own, and tell the object."""
        if self._open:
            self._send_close(code, reason)
            self._end(code, reason, clean=False)

    def ping(self) -> None:
        if self._reading and not self._heard:
            self._transport.abort()
            self._end(1006, "no answer to a ping", clean=False)
        else:
            self._heard = False
            self.write(PING)

    # Its end

    def _send_close(self, code: int, reason: str) -> None:
        self._open = False
        self._inbox_done()
        if self._conn.state is State.OPEN:
            self._conn.send_close(code, reason)
        self._send(b"".join(self._conn.data_to_send()))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)
        self._resume()  # for the client's own close

    def _inbox_done(self) -> None:
        """What was read before the end is told before the end, however full the mailbox is."""
        while self._inbox and not self._over:
            self._append(*self._inbox.popleft())
        self._inbox.clear()

    def _flush_and_close(self) -> None:
        if unsent := self._conn.data_to_send():
            self._send(b"".join(unsent))
        self._transport.close()

    def _end(self, code: int, reason: str, *, clean: bool) -> None:
        """Tell the object, once, that the socket is gone."""
        if self._asked or not self.key:
            return  # its answer tells whether there is anything to end
        self._inbox_done()
        self._open = False
        self.sockets.closed(self._number)
        if not self._over:
            self._over = True
            self._events += 1
            facts = ("code", str(code)), ("clean", "1" if clean else "0")
            self.sockets.event(None, self.key, self.id, self._events, CLOSED, reason.encode(), *facts)
