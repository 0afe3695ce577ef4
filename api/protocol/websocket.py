"""One WebSocket connection after its handshake (handshake.py): messages in, frames out, and its end.

    connecting --101--> open --close seen or sent--> closing --> closed
        `--any other answer--> closed

fast_path.py hands over the connection with its request. From then on the `websockets` package parses its
bytes, without ASGI, tasks or queues in between. Each message becomes an event on the log, which is a turn of
the object. A broadcast is one write per socket, of bytes that were made once.

Laws [test_websockets.py, test_gateway_sockets.py]
- An object learns of the end of a socket once, after all messages that were read before. It does not learn of
  a close that it asked for itself.
- A client is read no faster than its object runs: at most `IN_FLIGHT` events wait for their turn.
- Bytes are parsed in pieces, and only as far as the object can take them. All sockets and all turns share the
  time for it (streams/turns/run_queue.py): clients that send at full speed delay only themselves.
- A client that reads more slowly than it is sent frames is closed with 1013 once `UNSENT_BYTES` wait for it.
- An error of a client closes its own socket and no other.
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
PIECE_BYTES = 1024  # about 1 ms of parsing if the frames are as small as possible
WITHIN_A_FRAME = 16  # times `PIECE_BYTES`, inside a large frame
PING = wire(Opcode.PING, b"")


class SocketProtocol(Handshake):
    """One WebSocket connection. `to` returns a subclass for the door and the sockets of a node."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        """As `HttpProtocol`: of these only the connections in `server_state` are used."""
        super().__init__()
        self._connections: set[Any] = server_state.connections
        self.position = -1
        self.auto: tuple[str, bytes] | None = None
        self._open = False
        self._draining = False
        self._events = 0
        self._in_flight = 0
        # parsed and not appended yet: method, body, type
        self._inbox: deque[tuple[str, bytes, str]] = deque()
        self._unparsed = b""  # bytes that were read; those before `_at` are parsed
        self._at = 0
        self._piece_bytes = PIECE_BYTES
        self._parsing = False  # True while it parses, or waits in the run queue to parse
        self._broke = False  # True once the connection is lost
        self._reading = True
        self._choked = False  # True while the transport's buffer is full
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
            self._parse_on()  # the bytes that were read before; then the object learns of the end

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if not self.switched:
            self._transport.abort()  # RFC 6455 §4.1: the client must wait for the answer
            return
        self._unparsed = self._unparsed[self._at :] + data if self._unparsed else data
        self._at = 0
        if not self._parsing:
            self._parse_on()

    def _parse_on(self) -> None:
        """Parse as long as the object can take messages and this pass of the loop has time."""
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
            self._parse_later()  # after all others that wait
        else:
            self._parsed()

    def _parsed(self) -> None:
        """All bytes are parsed, or as many as the object can take."""
        self._parsing = False
        if self._unparsed:
            self._pause()
        elif self._broke:
            self._end(1006, "the connection broke", clean=False)
        elif not self._answer_pending and not self._full:
            self._resume()

    @property
    def _full(self) -> bool:
        """True if nothing more may be parsed until the object has taken messages."""
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
        """Called by uvicorn when the server drains: close with 1012, service restart."""
        self._draining = True
        if self._open:
            self.fail(1012, "the server restarts")
        if not self._answer_pending:  # otherwise the object's answer comes first
            self._transport.close()

    def _opened(self) -> None:
        self._open = True
        self.sockets.opened(self._number, self.id, self)
        self._resume()
        if self._draining:
            self.shutdown()

    # From the client

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.CLOSE:
            received = self._conn.close_rcvd
            assert received is not None
            self._flush_and_close()
            self._end(received.code, received.reason, clean=True)
        elif not self._open or opcode in (Opcode.PING, Opcode.PONG):
            return  # `websockets` has made the pong already; messages are ignored while the socket closes
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
        """An error in the client's frames: the parser has made a close already, and discards later bytes."""
        if self._timer is not None:
            self._timer.cancel()
        self._unparsed = b""
        sent = self._conn.close_sent
        self._inbox.append((ERROR, str(error).encode()[:1000], TEXT))
        if self._transport.can_write_eof():
            self._transport.write_eof()  # closing now could cause a reset, and lose our close frame
        self._timer = self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)
        self._resume()
        code, reason = (1006, "") if sent is None else (sent.code, sent.reason)
        self._end(code, reason, clean=False)

    def _pump(self) -> None:
        """Append parsed messages as far as the object can take them; read on only if none are left."""
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
        """Raises as `Gateway.check_room` if there is no room for one more message."""
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
        self.fail(1011, "a message may have been lost")

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._unparsed:  # parsed first
            if not self._parsing:
                self._parse_later()
        elif not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # From the object

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
        self._over = True  # the object closed it
        self.sockets.closed(self._number)
        self._send_close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Close the socket for a reason of this server; the object learns of it."""
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
        self._resume()  # to read the client's own close

    def _inbox_done(self) -> None:
        """Append the messages that were read before the end, even if the mailbox is full."""
        while self._inbox and not self._over:
            self._append(*self._inbox.popleft())
        self._inbox.clear()

    def _flush_and_close(self) -> None:
        if unsent := self._conn.data_to_send():
            self._send(b"".join(unsent))
        self._transport.close()

    def _end(self, code: int, reason: str, *, clean: bool) -> None:
        """Append the event that the socket has ended, once."""
        if self._answer_pending or not self.key:
            return  # its answer decides if there is a socket to end
        self._inbox_done()
        self._open = False
        self.sockets.closed(self._number)
        if not self._over:
            self._over = True
            self._events += 1
            facts = ("code", str(code)), ("clean", "1" if clean else "0")
            self.sockets.event(None, self.key, self.id, self._events, CLOSED, reason.encode(), *facts)
